//! How long the crate takes to compile: LLVM lines, which do not depend on the machine, and times,
//! which need an idle one.

use std::fs;

use anyhow::Result;

use super::{Environment, SKIPPED};
use crate::programs::{build, directory, manifest, target};
use crate::report::{Measured, Section, Target, Unit, median};
use crate::tools::{self, cargo, cpu_of, output};

const LLVM_LINES: Target = Target {
    metric: "LLVM lines of the crate, default features",
    unit: Unit::Count,
    max: 170e3,
    aim: Some(120e3),
};
const OWN_TIME: Target = Target {
    metric: "the crate's own compile time, user seconds",
    unit: Unit::Seconds,
    max: 7.0,
    aim: Some(5.0),
};
const COLD_BUILD: Target = Target {
    metric: "cold build, CPU time, over bare ureq with serde and thiserror",
    unit: Unit::Ratio,
    max: 1.06,
    aim: Some(1.05),
};

/// Samples of the own compile time, and of each cold build.
const OWN_ROUNDS: usize = 5;
const COLD_ROUNDS: usize = 3;

pub fn llvm_lines(_: &Environment) -> Result<Section> {
    let mut section = Section::new("LLVM lines");
    section.text("By `cargo llvm-lines --release`, before optimization.");
    let manifest = directory().join("../../Cargo.toml");
    section.target(&LLVM_LINES, tools::llvm_lines(&manifest, &target("own"))?);
    Ok(section)
}

pub fn times(env: &Environment) -> Result<Section> {
    let mut section = Section::new("Build times");
    if env.quick {
        section.target(&OWN_TIME, Err(SKIPPED.to_owned()));
        section.target(&COLD_BUILD, Err(SKIPPED.to_owned()));
        return Ok(section);
    }
    section.target(&OWN_TIME, own_time()?);
    let (mut ureq, mut kling_video) = (Vec::new(), Vec::new());
    for _ in 0..COLD_ROUNDS {
        ureq.push(cold_build("ten-lines-ureq")?);
        kling_video.push(cold_build("ten-lines-kling-video")?);
    }
    let [ureq, kling_video] = [ureq, kling_video]
        .map(|samples| samples.into_iter().collect::<Option<Vec<f64>>>().map(median));
    let cold = ureq.zip(kling_video).ok_or_else(|| LINUX_ONLY.to_owned());
    section.text(format!(
        "Own compile time: median of {OWN_ROUNDS} release builds of the crate alone, without the \
         time of `cargo build` that has nothing to do. Cold build: user and system time of a \
         release build with an empty target directory and all sources downloaded, medians of \
         {COLD_ROUNDS} alternating builds{}.",
        match &cold {
            Ok((ureq, kling_video)) => format!(": {kling_video:.1} s, bare ureq {ureq:.1} s"),
            Err(_) => String::new(),
        }
    ));
    section.target(&COLD_BUILD, cold.map(|(ureq, kling_video)| kling_video / ureq));
    Ok(section)
}

const LINUX_ONLY: &str = "Linux only";

fn own_time() -> Result<Measured> {
    let manifest = directory().join("../../Cargo.toml");
    let target = target("own");
    let build = || build(&manifest, &target, &["--lib", "--package", "kling-video"]);
    build()?;
    let mut samples = Vec::new();
    for _ in 0..OWN_ROUNDS {
        let mut clean = cargo();
        clean.args(["clean", "--release", "--package", "kling-video", "--manifest-path"]);
        output(clean.arg(&manifest).arg("--target-dir").arg(&target))?;
        let (Some(full), Some(idle)) = (cpu_of(build)?, cpu_of(build)?) else {
            return Ok(Err(LINUX_ONLY.to_owned()));
        };
        samples.push(full.user - idle.user);
    }
    Ok(Ok(median(samples)))
}

/// The CPU seconds of building a package's main program with all its dependencies.
fn cold_build(package: &str) -> Result<Option<f64>> {
    let target = target("cold");
    if target.exists() {
        fs::remove_dir_all(&target)?;
    }
    let cpu = cpu_of(|| build(&manifest(package), &target, &["--bin", package]))?;
    Ok(cpu.map(|cpu| cpu.user + cpu.system))
}
