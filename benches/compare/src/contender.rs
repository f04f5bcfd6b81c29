//! The contenders: how they are built and run, and what their runs tell.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::tools::{Run, Tools, output};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Who {
    Ours,
    /// Bare ureq with the body in memory: what others are compared with.
    UreqMemory,
    UreqStreaming,
    Reqwest,
    RawScalar,
    /// The floor.
    RawSimd,
    Python,
}

pub struct Contender {
    pub who: Who,
    pub name: &'static str,
    /// The program, or why there is none.
    program: Result<PathBuf, String>,
    /// The same with an allocator that counts.
    counted: Option<PathBuf>,
    /// What stands before the job on its command line.
    script: Option<PathBuf>,
}

pub struct Contenders(Vec<Contender>);

/// `who`, its name in tables, its package and its program.
const PROGRAMS: [(Who, &str, &str, &str); 6] = [
    (Who::Ours, "kling-video", "ours", "ours"),
    (Who::UreqMemory, "ureq, in memory", "ureq-memory", "ureq-memory"),
    (Who::UreqStreaming, "ureq, streaming", "ureq-streaming", "ureq-streaming"),
    (Who::Reqwest, "reqwest::blocking", "reqwest", "reqwest-blocking"),
    (Who::RawScalar, "socket, scalar base64", "raw", "raw-scalar"),
    (Who::RawSimd, "socket, SIMD base64", "raw", "raw-simd"),
];

impl Contenders {
    /// Builds all of them. One that cannot be built here is missing from then on; ours and bare
    /// ureq have to be there.
    pub fn build(paths: &Paths, tools: &Tools) -> Result<Contenders> {
        let target = paths.target("contenders");
        let mut contenders = Vec::new();
        for (who, name, package, program) in PROGRAMS {
            let built = cargo_build(&paths.manifest(package), &target, &[]);
            let built = match (built, who) {
                (Err(error), Who::Ours | Who::UreqMemory) => return Err(error),
                (Err(error), _) => {
                    eprintln!("{error:#}");
                    Err("cannot be built here".to_owned())
                }
                (Ok(()), _) => Ok(()),
            };
            let binary = |name: String| target.join("release").join(with_suffix(&name));
            let counted = built.is_ok().then(|| binary(format!("{program}-counted")));
            let program = built.map(|()| binary(program.to_owned()));
            contenders.push(Contender { who, name, program, counted, script: None });
        }
        contenders.push(Contender {
            who: Who::Python,
            name: "Python, requests",
            program: match tools.python {
                true => Ok("python3".into()),
                false => Err("python3 with requests is missing".to_owned()),
            },
            counted: None,
            script: Some(paths.contender("python").join("sample.py")),
        });
        Ok(Contenders(contenders))
    }

    pub fn all(&self) -> impl Iterator<Item = &Contender> {
        self.0.iter()
    }

    /// Those that can be run here.
    pub fn present(&self) -> Vec<&Contender> {
        self.0.iter().filter(|contender| contender.program.is_ok()).collect()
    }

    /// Those that are programs of machine code: instructions of an interpreter tell little.
    pub fn compiled(&self) -> Vec<&Contender> {
        let mut present = self.present();
        present.retain(|contender| contender.script.is_none());
        present
    }

    pub fn get(&self, who: Who) -> Result<&Contender> {
        let found = self.0.iter().find(|contender| contender.who == who);
        found.with_context(|| format!("no contender {who:?}"))
    }

    /// Of the libraries that matter, as the contenders' lock files have them.
    pub fn versions(&self, paths: &Paths) -> Result<String> {
        let mut versions = Vec::new();
        for (package, library) in [
            ("ours", "kling-video"),
            ("ours", "ureq"),
            ("ureq-memory", "ureq"),
            ("reqwest", "reqwest"),
            ("raw", "base64"),
        ] {
            let lock = fs::read_to_string(paths.contender(package).join("Cargo.lock"))?;
            let entry = format!("name = \"{library}\"\nversion = \"");
            let version = lock.split_once(&entry).and_then(|(_, rest)| rest.split('"').next());
            let version = version.unwrap_or("unknown");
            versions.push(match (package, library) {
                ("ours", "ureq") => format!("below it ureq {version}"),
                _ => format!("{library} {version}"),
            });
        }
        Ok(format!("Versions: {}.", versions.join(", ")))
    }
}

/// Program files are named otherwise on Windows.
pub fn with_suffix(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

/// Builds a package's programs in release mode, with settings that replace its profile's.
pub fn cargo_build(manifest: &Path, target: &Path, settings: &[&str]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    // Neither may spoil what is counted: a cache of compiled crates, and flags of the caller's.
    command.env_remove("RUSTC_WRAPPER").env_remove("CARGO_BUILD_RUSTC_WRAPPER");
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(target);
    for setting in settings {
        command.args(["--config", setting]);
    }
    output(&mut command)?;
    Ok(())
}

impl Contender {
    /// Why it cannot be run here.
    pub fn missing(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// A run of its program: a job, how often, and the job's arguments.
    pub fn job(&self, base: &str, job: &str, times: u32, more: &[&str]) -> Result<Run<'_>> {
        let program =
            self.program.as_ref().map_err(|why| anyhow::anyhow!("{}: {why}", self.name))?;
        Ok(self.run(program, base, job, times, more))
    }

    /// The same with the allocator that counts, for those that have it.
    pub fn counted(&self, base: &str, job: &str, times: u32, more: &[&str]) -> Option<Run<'_>> {
        Some(self.run(self.counted.as_deref()?, base, job, times, more))
    }

    fn run<'a>(
        &self,
        program: &'a Path,
        base: &str,
        job: &str,
        times: u32,
        more: &[&str],
    ) -> Run<'a> {
        let script = self.script.iter().map(|path| path.display().to_string());
        let job = [base.to_owned(), job.to_owned(), times.to_string()];
        let more = more.iter().map(|&argument| argument.to_owned());
        Run { program, arguments: script.chain(job).chain(more).collect() }
    }
}

impl Run<'_> {
    /// What the program tells at its end.
    pub fn tell(&self) -> Result<Told> {
        let output = output(Command::new(self.program).args(&self.arguments))?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        Ok(Told(lines.collect()))
    }
}

/// Numbers with names.
pub struct Told(HashMap<String, f64>);

impl Told {
    pub fn get(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().with_context(|| format!("the program has not told its {name}"))
    }
}
