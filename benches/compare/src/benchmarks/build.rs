//! What a dependency on this crate costs: number of crates, build time, binary size. Measured with
//! the README's ten-line program and its equivalents without this crate.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use super::Environment;
use crate::implementation::{cargo_build, with_suffix};
use crate::stats::ratio;
use crate::table::{Section, Table};
use crate::tools::{children_cpu, output};

const KLING_VIDEO: &str = "ten-lines-kling-video";
const UREQ: &str = "ten-lines-ureq";
const REQWEST: &str = "ten-lines-reqwest";

const STRIP: &str = "profile.release.strip=true";
const SMALL_PROFILE: [&str; 5] = [
    STRIP,
    "profile.release.opt-level=\"z\"",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
];

/// Bytes over the program with ureq; 1 kB is 1,000 bytes.
const MAX_EXTRA_SIZE: f64 = 150e3;
const MAX_EXTRA_SMALL_SIZE: f64 = 80e3;
const MAX_CRATES: usize = 35;
/// Ratios of CPU time.
const MAX_CPU_TO_UREQ: f64 = 1.10;
const MAX_CPU_TO_REQWEST: f64 = 0.45;

/// What one program costs.
struct Costs {
    crates: usize,
    /// CPU seconds of a cold build.
    cpu: Option<f64>,
    size: f64,
    small_size: Option<f64>,
}

pub fn run(env: &Environment) -> Result<Section> {
    let kling_video = costs(env, KLING_VIDEO, true)?;
    let ureq = costs(env, UREQ, true)?;
    // It does not build on a machine without a C compiler.
    let reqwest = costs(env, REQWEST, false).ok();

    let mut section = Section::new("Binary size, cold build, crates");
    section.text(
        "The README's ten-line program, and its equivalents with ureq, serde and thiserror, and \
         with reqwest. Size: of the stripped binary. Small profile: `opt-level = \"z\"`, LTO, one \
         codegen unit, `panic = \"abort\"`. Cold build: user and system time of `cargo build \
         --release` with an empty target directory and all sources downloaded. Crates: all that \
         `cargo tree --edges normal` lists, without the program itself.",
    );
    let mut table = Table::new([
        "program with",
        "crates",
        "cold build, CPU s",
        "× ureq",
        "size, kB",
        "over ureq",
        "small profile, kB",
        "over ureq",
    ]);
    let kilobytes = |bytes: f64| format!("{:.0}", bytes / 1e3);
    let programs =
        [("kling-video", Some(&kling_video)), ("ureq", Some(&ureq)), ("reqwest", reqwest.as_ref())];
    for (name, costs) in programs {
        let Some(costs) = costs else {
            let mut cells = vec!["build failed".to_owned()];
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
    add_targets(&mut section, &kling_video, &ureq, reqwest.as_ref());
    Ok(section)
}

fn add_targets(section: &mut Section, kling_video: &Costs, ureq: &Costs, reqwest: Option<&Costs>) {
    const SKIPPED: &str = "skipped by `--quick`, or not available on this system";
    let extra = kling_video.size - ureq.size;
    let measured = format!("+ {:.0} kB", extra / 1e3);
    let (metric, target) = ("size of the ten-line program", "≤ ureq's + 150 kB");
    section.target(metric, target, measured, extra <= MAX_EXTRA_SIZE);

    let (metric, target) = ("size of the ten-line program, small profile", "≤ ureq's + 80 kB");
    match kling_video.small_size.zip(ureq.small_size).map(|(size, ureq)| size - ureq) {
        Some(extra) => {
            let measured = format!("+ {:.0} kB", extra / 1e3);
            section.target(metric, target, measured, extra <= MAX_EXTRA_SMALL_SIZE);
        }
        None => section.not_measured(metric, target, SKIPPED),
    }
    for (target, other, max_ratio) in [
        ("≤ 1.10 × ureq with serde and thiserror", Some(ureq), MAX_CPU_TO_UREQ),
        ("≤ 0.45 × reqwest", reqwest, MAX_CPU_TO_REQWEST),
    ] {
        let metric = "cold build, CPU time";
        match kling_video.cpu.zip(other.and_then(|other| other.cpu)) {
            Some((cpu, other)) => {
                let measured = format!("{:.2} × {other:.1} s", cpu / other);
                section.target(metric, target, measured, cpu / other <= max_ratio);
            }
            None => section.not_measured(metric, target, SKIPPED),
        }
    }
    let (crates, met) = (kling_video.crates, kling_video.crates <= MAX_CRATES);
    section.target("crates, kling-video included", "≤ 35", crates.to_string(), met);
}

fn costs(env: &Environment, package: &str, build_small: bool) -> Result<Costs> {
    let manifest = env.paths.manifest(package);
    let crates = crates(&manifest)?;
    let size_in = |target: &Path| -> Result<f64> {
        let program = target.join("release").join(with_suffix(package));
        let metadata = fs::metadata(program).context("cannot find the built program")?;
        Ok(metadata.len() as f64)
    };
    if env.quick {
        let target = env.paths.target("stripped");
        cargo_build(&manifest, &target, &[STRIP])?;
        return Ok(Costs { crates, cpu: None, size: size_in(&target)?, small_size: None });
    }
    let target = env.paths.target("cold");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let before = children_cpu();
    cargo_build(&manifest, &target, &[STRIP])?;
    let cpu = children_cpu().zip(before).map(|(after, before)| after - before);
    let size = size_in(&target)?;
    let small_size = match build_small {
        true => {
            let target = env.paths.target("small");
            cargo_build(&manifest, &target, &SMALL_PROFILE)?;
            Some(size_in(&target)?)
        }
        false => None,
    };
    Ok(Costs { crates, cpu, size, small_size })
}

/// The number of packages that are compiled into a program on this machine or expand its macros,
/// without the program itself. Build dependencies, such as those for ring's C code, do not count.
fn crates(manifest: &Path) -> Result<usize> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    command.args(["tree", "--edges", "normal", "--prefix", "none", "--manifest-path"]);
    let tree = output(command.arg(manifest))?;
    let tree = String::from_utf8(tree.stdout)?;
    // Name and version. The rest of a line is its source, its kind, or the mark of a repetition.
    let package = |line: &str| -> Option<(String, String)> {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    let packages: BTreeSet<_> = tree.lines().filter_map(package).collect();
    Ok(packages.len() - 1)
}
