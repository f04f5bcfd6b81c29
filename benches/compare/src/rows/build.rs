//! What the crate costs whoever depends on it: crates, time to build them, size of the program.
//! Measured with the ten-line program of the README and what stands for it elsewhere.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Bench;
use crate::contender::{cargo_build, with_suffix};
use crate::stats::ratio;
use crate::table::{Section, Table};
use crate::tools::{children_cpu, output};

const OURS: &str = "ten-lines-ours";
const UREQ: &str = "ten-lines-ureq";
const REQWEST: &str = "ten-lines-reqwest";

const STRIP: &str = "profile.release.strip=true";
const SMALL: [&str; 5] = [
    STRIP,
    "profile.release.opt-level=\"z\"",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
];

/// kB are 1,000 bytes here.
const MORE: f64 = 150e3;
const MORE_SMALL: f64 = 80e3;
const CRATES: usize = 35;
const CPU_UREQ: f64 = 1.10;
const CPU_REQWEST: f64 = 0.45;

/// What one program costs.
struct Costs {
    crates: usize,
    /// Built from nothing.
    cpu: Option<f64>,
    size: f64,
    small_size: Option<f64>,
}

pub fn run(bench: &Bench) -> Result<Section> {
    let ours = costs(bench, OURS, true)?;
    let ureq = costs(bench, UREQ, true)?;
    // A machine without a C compiler cannot build it.
    let reqwest = costs(bench, REQWEST, false).ok();

    let mut section = Section::new("Size, cold build, crates");
    section.text(
        "The ten-line program of the README; the same with ureq, serde and thiserror; the same \
         with reqwest. Size: stripped. Small profile: `opt-level = \"z\"`, LTO, one codegen unit, \
         `panic = \"abort\"`. Cold build: user and system time of `cargo build --release` from an \
         empty folder, sources fetched. Crates: all that go into the program (`cargo tree --edges \
         normal`), itself left out.",
    );
    let mut table = Table::new([
        "program with",
        "crates",
        "cold build, cpu s",
        "× ureq",
        "size, kB",
        "over ureq",
        "small profile, kB",
        "over ureq",
    ]);
    let kilobytes = |bytes: f64| format!("{:.0}", bytes / 1e3);
    let programs =
        [("kling-video", Some(&ours)), ("ureq", Some(&ureq)), ("reqwest", reqwest.as_ref())];
    for (name, costs) in programs {
        let Some(costs) = costs else {
            let mut cells = vec!["cannot be built here".to_owned()];
            cells.resize(7, "–".to_owned());
            let [a, b, c, d, e, f, g] = cells.try_into().unwrap_or_default();
            table.row([name.to_owned(), a, b, c, d, e, f, g]);
            continue;
        };
        let unknown = || "–".to_owned();
        table.row([
            name.to_owned(),
            costs.crates.to_string(),
            costs.cpu.map_or_else(unknown, |cpu| format!("{cpu:.1}")),
            ratio(costs.cpu, ureq.cpu),
            kilobytes(costs.size),
            kilobytes(costs.size - ureq.size),
            costs.small_size.map_or_else(unknown, kilobytes),
            costs.small_size.zip(ureq.small_size).map_or_else(unknown, |(a, b)| kilobytes(a - b)),
        ]);
    }
    section.table(table);
    check(&mut section, &ours, &ureq, reqwest.as_ref());
    Ok(section)
}

fn check(section: &mut Section, ours: &Costs, ureq: &Costs, reqwest: Option<&Costs>) {
    const SKIPPED: &str = "skipped (`--quick`), or this system does not tell";
    let more = ours.size - ureq.size;
    let measured = format!("+ {:.0} kB", more / 1e3);
    section.at_most("size of the ten-line program", "≤ ureq's + 150 kB", measured, more <= MORE);

    let (figure, target) = ("the same, small profile", "≤ ureq's + 80 kB");
    match ours.small_size.zip(ureq.small_size).map(|(ours, ureq)| ours - ureq) {
        Some(more) => {
            let measured = format!("+ {:.0} kB", more / 1e3);
            section.at_most(figure, target, measured, more <= MORE_SMALL);
        }
        None => section.missing(figure, target, SKIPPED),
    }
    for (figure, target, other, most) in [
        ("cold build, cpu", "≤ 1.10 × ureq with serde and thiserror", Some(ureq), CPU_UREQ),
        ("cold build, cpu", "≤ 0.45 × reqwest", reqwest, CPU_REQWEST),
    ] {
        match ours.cpu.zip(other.and_then(|other| other.cpu)) {
            Some((ours, other)) => {
                let measured = format!("{:.2} × {other:.1} s", ours / other);
                section.at_most(figure, target, measured, ours / other <= most);
            }
            None => section.missing(figure, target, SKIPPED),
        }
    }
    let measured = ours.crates.to_string();
    section.at_most("crates, ours included", "≤ 35", measured, ours.crates <= CRATES);
}

fn costs(bench: &Bench, package: &str, build_small: bool) -> Result<Costs> {
    let manifest = bench.paths.manifest(package);
    let crates = crates(&manifest)?;
    let size_in = |target: &Path| -> Result<f64> {
        let program = target.join("release").join(with_suffix(package));
        let metadata = fs::metadata(program).context("the program is not where it should be")?;
        Ok(metadata.len() as f64)
    };
    if bench.quick {
        let target = bench.paths.target("stripped");
        cargo_build(&manifest, &target, &[STRIP])?;
        return Ok(Costs { crates, cpu: None, size: size_in(&target)?, small_size: None });
    }
    let target = bench.paths.target("cold");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let before = children_cpu();
    cargo_build(&manifest, &target, &[STRIP])?;
    let cpu = children_cpu().zip(before).map(|(after, before)| after - before);
    let size = size_in(&target)?;
    let small_size = match build_small {
        true => {
            let target = bench.paths.target("small");
            cargo_build(&manifest, &target, &SMALL)?;
            Some(size_in(&target)?)
        }
        false => None,
    };
    Ok(Costs { crates, cpu, size, small_size })
}

/// All packages that are compiled into a program on this machine, or expand its macros, without
/// itself. What only ring's C code is built with is not among them.
fn crates(manifest: &Path) -> Result<usize> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["tree", "--edges", "normal", "--prefix", "none", "--manifest-path"]);
    let tree = output(command.arg(manifest))?;
    let tree = String::from_utf8(tree.stdout)?;
    // Name and version; what follows says where it was shown before, or what kind it is.
    let package = |line: &str| -> Option<(String, String)> {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    let packages: BTreeSet<_> = tree.lines().filter_map(package).collect();
    Ok(packages.len() - 1)
}
