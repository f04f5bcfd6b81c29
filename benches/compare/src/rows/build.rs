//! What a dependent pays: the size of its program, the time to build it from nothing, and how many
//! crates come along.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::Result;

use super::Bench;
use crate::contender::{cargo_build, with_suffix};
use crate::stats::{count, ratio};
use crate::table::{Section, Table};
use crate::tools::{children_cpu, output};

const OURS: usize = 0;
const UREQ: usize = 1;
const REQWEST: usize = 2;
/// The README's program, and the same job by hand.
const PROGRAMS: [(&str, &str); 3] = [
    ("kling-video", "ten-lines-ours"),
    ("bare ureq", "ten-lines-ureq"),
    ("reqwest::blocking", "ten-lines-reqwest"),
];

const STRIPPED: &[&str] = &["profile.release.strip=true"];
const SMALL: &[&str] = &[
    "profile.release.strip=true",
    "profile.release.opt-level=\"z\"",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
];

const MORE: f64 = 150e3;
const MORE_SMALL: f64 = 80e3;
const CPU_OF_UREQ: f64 = 1.10;
const CPU_OF_REQWEST: f64 = 0.45;
const CRATES: usize = 35;

struct Costs {
    size: f64,
    small: f64,
    /// None where it was not built from nothing.
    cpu: Option<f64>,
    crates: usize,
}

pub fn run(bench: &Bench) -> Result<Section> {
    let mut costs = Vec::new();
    for (_, package) in PROGRAMS {
        let (size, cpu) = build(bench, package, "stripped", STRIPPED, !bench.quick)?;
        let (small, _) = build(bench, package, "small", SMALL, false)?;
        costs.push(Costs { size, small, cpu, crates: crates(bench, package)? });
    }
    let mut section = Section::new("What a dependent pays");
    section.text(
        "A program that creates, waits and downloads; by hand where it is not ours. *Small*: \
         `opt-level = \"z\"`, LTO, one codegen unit, `panic = \"abort\"`. The build is the whole \
         program's in release mode from an empty folder, in seconds of CPU, once; downloads of \
         crates are not in it. Crates: all that are compiled in, the program's own not counted.",
    );
    let mut table = Table::new([
        "program",
        "bytes, stripped",
        "small",
        "build, CPU s",
        "× bare ureq",
        "crates",
    ]);
    for ((name, _), own) in PROGRAMS.iter().zip(&costs) {
        table.row([
            (*name).to_owned(),
            count(own.size),
            count(own.small),
            own.cpu.map_or("not measured".to_owned(), |cpu| format!("{cpu:.0}")),
            ratio(own.cpu, costs[UREQ].cpu),
            own.crates.to_string(),
        ]);
    }
    section.table(table);
    check(&mut section, &costs);
    Ok(section)
}

fn check(section: &mut Section, costs: &[Costs]) {
    let (ours, ureq, reqwest) = (&costs[OURS], &costs[UREQ], &costs[REQWEST]);
    for (figure, target, more, most) in [
        ("size of the program", "≤ bare ureq's + 150 kB", ours.size - ureq.size, MORE),
        ("size, small profile", "≤ bare ureq's + 80 kB", ours.small - ureq.small, MORE_SMALL),
    ] {
        section.at_most(figure, target, format!("+ {:.0} kB", more / 1e3), more <= most);
    }
    for (figure, target, other, most) in [
        ("cold build", "≤ 1.10 × bare ureq's", ureq.cpu, CPU_OF_UREQ),
        ("cold build", "≤ 0.45 × reqwest's", reqwest.cpu, CPU_OF_REQWEST),
    ] {
        match (ours.cpu, other) {
            (Some(own), Some(other)) => {
                let measured = format!("{:.2} × {other:.0} s", own / other);
                section.at_most(figure, target, measured, own / other <= most);
            }
            _ => section.missing(figure, target, "not measured: --quick, or not Linux"),
        }
    }
    let measured = ours.crates.to_string();
    section.at_most(
        "crates in the default tree",
        "35, ours included",
        measured,
        ours.crates <= CRATES,
    );
}

/// Builds a program; its size, and the CPU that it took from nothing.
fn build(
    bench: &Bench,
    package: &str,
    how: &str,
    settings: &[&str],
    cold: bool,
) -> Result<(f64, Option<f64>)> {
    let target = bench.paths.target(&format!("build/{package}-{how}"));
    let manifest = bench.paths.manifest(package);
    if cold {
        let _ = fs::remove_dir_all(&target);
        // Downloads are not what is measured.
        output(Command::new("cargo").args(["fetch", "--quiet", "--manifest-path"]).arg(&manifest))?;
    }
    let before = children_cpu();
    cargo_build(&manifest, &target, settings)?;
    let cpu = children_cpu().zip(before).map(|(after, before)| after - before);
    let size = fs::metadata(target.join("release").join(with_suffix(package)))?.len();
    Ok((size as f64, cpu.filter(|_| cold)))
}

fn crates(bench: &Bench, package: &str) -> Result<usize> {
    let mut tree = Command::new("cargo");
    tree.args(["tree", "--quiet", "--edges", "normal", "--prefix", "none", "--manifest-path"]);
    let tree = output(tree.arg(bench.paths.manifest(package)))?;
    let text = String::from_utf8_lossy(&tree.stdout);
    let names: BTreeSet<&str> = text.lines().filter_map(|line| line.split(' ').next()).collect();
    Ok(names.iter().filter(|name| !name.is_empty() && **name != package).count())
}
