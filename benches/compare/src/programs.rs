//! The programs that are measured: building them, running them, reading what they print.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::report::{Measured, both};
use crate::tools::{self, cargo, output};

/// 10 MB, nearly the largest image that the API accepts.
const IMAGE_LEN: usize = 10_000_000;

/// Everything is under `benches/compare`, or under its `target`.
pub fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// A target directory for Cargo.
pub fn target(name: &str) -> PathBuf {
    directory().join("target").join(name)
}

pub fn manifest(package: &str) -> PathBuf {
    directory().join("implementations").join(package).join("Cargo.toml")
}

/// A file that a job reads or writes.
pub fn file(name: &str) -> String {
    directory().join("target/files").join(name).display().to_string()
}

/// Builds a package in release mode. `arguments` can override settings of its profile.
pub fn build(manifest: &Path, target: &Path, arguments: &[&str]) -> Result<()> {
    let mut command = cargo();
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest);
    output(command.arg("--target-dir").arg(target).args(arguments))?;
    Ok(())
}

/// A built program.
pub fn binary(target: &Path, name: &str) -> PathBuf {
    target.join("release").join(format!("{name}{}", std::env::consts::EXE_SUFFIX))
}

/// A program that does jobs: `kling-video`, the same with a counting allocator, and `ureq`.
pub struct Program(PathBuf);

pub struct Programs {
    pub kling_video: Program,
    pub counted: Program,
    pub ureq: Program,
    /// The path of a 10 MB image.
    pub image: String,
}

impl Programs {
    pub fn build() -> Result<Programs> {
        let target = target("jobs");
        build(&manifest("jobs"), &target, &[])?;
        let image = file("large.png");
        fs::create_dir_all(file(""))?;
        fs::write(&image, png(IMAGE_LEN))?;
        let program = |name| Program(binary(&target, name));
        Ok(Programs {
            kling_video: program("kling-video"),
            counted: program("kling-video-counted"),
            ureq: program("ureq"),
            image,
        })
    }

    /// The versions of the measured libraries.
    pub fn versions(&self) -> Result<String> {
        let lock = fs::read_to_string(manifest("jobs").with_file_name("Cargo.lock"))?;
        let version = |library: &str| {
            let entry = format!("name = \"{library}\"\nversion = \"");
            let (_, rest) = lock.split_once(&entry)?;
            Some(format!("{library} {}", rest.split('"').next()?))
        };
        let versions: Vec<String> = ["kling-video", "ureq"].into_iter().flat_map(version).collect();
        Ok(versions.join(", "))
    }
}

impl Program {
    /// Runs the program and returns the measurements that it prints.
    pub fn run(&self, url: &str, job: &str, times: u32, arguments: &[&str]) -> Result<String> {
        let mut command = Command::new(&self.0);
        command.args([url, job, &times.to_string()]).args(arguments);
        Ok(String::from_utf8(output(&mut command)?.stdout)?)
    }

    /// The instructions of a complete run.
    fn total_instructions(
        &self,
        url: &str,
        job: &str,
        times: u32,
        rest: &[&str],
    ) -> Result<Measured> {
        let times = times.to_string();
        tools::instructions(&self.0, &[&[url, job, &times], rest].concat())
    }

    /// The instructions of one more job: the difference between `1 + more` jobs and one, ÷ `more`.
    pub fn instructions(&self, url: &str, job: &str, more: u32, rest: &[&str]) -> Result<Measured> {
        let one = self.total_instructions(url, job, 1, rest)?;
        let all = self.total_instructions(url, job, 1 + more, rest)?;
        Ok(both(&all, &one, |all, one| (all - one) / f64::from(more)))
    }

    /// The instructions of one job without its setup, for jobs that repeat by an argument.
    pub fn instructions_once(&self, url: &str, job: &str, rest: &[&str]) -> Result<Measured> {
        self.total_instructions(url, job, 1, rest)
    }

    /// The system calls of one more job.
    pub fn system_calls(&self, url: &str, job: &str, more: u32, rest: &[&str]) -> Result<Measured> {
        let count = |times: u32| {
            let times = times.to_string();
            let arguments = [&[url, job, &times], rest].concat();
            tools::system_calls(&self.0, &arguments, file("strace.log").as_ref())
        };
        Ok(both(&count(1 + more)?, &count(1)?, |all, one| (all - one) / f64::from(more)))
    }
}

/// One of the measurements that a program prints.
pub fn measurement(printed: &str, name: &str) -> Result<f64> {
    let line = printed.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    Ok(line.with_context(|| format!("the program did not print `{name}`"))?.parse()?)
}

/// A valid PNG header, then filler.
fn png(len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(640_u32.to_be_bytes());
    data.extend(360_u32.to_be_bytes());
    data.extend((data.len()..len).map(|i| (i * 7 + i / 251) as u8));
    data
}
