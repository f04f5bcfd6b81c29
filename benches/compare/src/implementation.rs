//! The implementations: building them, running their programs, reading what those measured.

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::Paths;
use crate::tools::{Run, Tools, output};

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Id {
    KlingVideo,
    /// ureq with the body in memory: the baseline.
    UreqInMemory,
    UreqStreaming,
    Reqwest,
    SocketScalar,
    /// The lower bound.
    SocketSimd,
    Python,
}

pub struct Implementation {
    pub id: Id,
    pub name: &'static str,
    /// The program, or why it is not available.
    program: Result<PathBuf, String>,
    /// The same program with a counting allocator.
    counted: Option<PathBuf>,
    /// The script, if `program` is an interpreter.
    script: Option<PathBuf>,
}

pub struct Implementations(Vec<Implementation>);

/// Each compiled implementation: its id, its name in tables, its directory and its program.
const PROGRAMS: [(Id, &str, &str, &str); 6] = [
    (Id::KlingVideo, "kling-video", "kling-video", "kling-video-bench"),
    (Id::UreqInMemory, "ureq, in memory", "ureq-memory", "ureq-memory"),
    (Id::UreqStreaming, "ureq, streaming", "ureq-streaming", "ureq-streaming"),
    (Id::Reqwest, "reqwest::blocking", "reqwest", "reqwest-blocking"),
    (Id::SocketScalar, "socket, scalar base64", "socket", "socket-scalar"),
    (Id::SocketSimd, "socket, SIMD base64", "socket", "socket-simd"),
];

impl Implementations {
    /// Builds all implementations. kling-video and ureq in memory are required; any other one
    /// whose build fails is marked as missing.
    pub fn build(paths: &Paths, tools: &Tools) -> Result<Implementations> {
        let target = paths.target("implementations");
        let mut implementations = Vec::new();
        for (id, name, directory, program) in PROGRAMS {
            let built = cargo_build(&paths.manifest(directory), &target, &[]);
            let built = match (built, id) {
                (Err(error), Id::KlingVideo | Id::UreqInMemory) => return Err(error),
                (Err(error), _) => {
                    eprintln!("{error:#}");
                    Err("build failed".to_owned())
                }
                (Ok(()), _) => Ok(()),
            };
            let binary = |name: String| target.join("release").join(with_suffix(&name));
            let counted = built.is_ok().then(|| binary(format!("{program}-counted")));
            let program = built.map(|()| binary(program.to_owned()));
            implementations.push(Implementation { id, name, program, counted, script: None });
        }
        implementations.push(Implementation {
            id: Id::Python,
            name: "Python, requests",
            program: match tools.python {
                true => Ok("python3".into()),
                false => Err("needs python3 with requests".to_owned()),
            },
            counted: None,
            script: Some(paths.implementation("python").join("sample.py")),
        });
        Ok(Implementations(implementations))
    }

    pub fn all(&self) -> impl Iterator<Item = &Implementation> {
        self.0.iter()
    }

    /// Those that can run on this machine.
    pub fn available(&self) -> Vec<&Implementation> {
        self.0.iter().filter(|implementation| implementation.program.is_ok()).collect()
    }

    /// Those that are native programs. Counting an interpreter's instructions says little.
    pub fn compiled(&self) -> Vec<&Implementation> {
        let mut available = self.available();
        available.retain(|implementation| implementation.script.is_none());
        available
    }

    pub fn get(&self, id: Id) -> Result<&Implementation> {
        let found = self.0.iter().find(|implementation| implementation.id == id);
        found.with_context(|| format!("unknown implementation {id:?}"))
    }

    /// The versions of the measured libraries, from the implementations' lock files.
    pub fn versions(&self, paths: &Paths) -> Result<String> {
        let mut versions = Vec::new();
        for (directory, library) in [
            ("kling-video", "kling-video"),
            ("kling-video", "ureq"),
            ("ureq-memory", "ureq"),
            ("reqwest", "reqwest"),
            ("socket", "base64"),
        ] {
            let lock = fs::read_to_string(paths.implementation(directory).join("Cargo.lock"))?;
            let entry = format!("name = \"{library}\"\nversion = \"");
            let version = lock.split_once(&entry).and_then(|(_, rest)| rest.split('"').next());
            let version = version.unwrap_or("unknown");
            versions.push(match (directory, library) {
                ("kling-video", "ureq") => format!("kling-video's ureq {version}"),
                _ => format!("{library} {version}"),
            });
        }
        Ok(format!("Versions: {}.", versions.join(", ")))
    }
}

/// The file name of a program: on Windows it has a suffix.
pub fn with_suffix(name: &str) -> String {
    format!("{name}{}", std::env::consts::EXE_SUFFIX)
}

/// Builds a package's programs in release mode. `config` overrides settings of its profile.
pub fn cargo_build(manifest: &Path, target: &Path, config: &[&str]) -> Result<()> {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let mut command = Command::new(cargo);
    // A compiler cache would make a cold build meaningless.
    command.env_remove("RUSTC_WRAPPER").env_remove("CARGO_BUILD_RUSTC_WRAPPER");
    command.args(["build", "--release", "--quiet", "--manifest-path"]).arg(manifest);
    command.arg("--target-dir").arg(target);
    for setting in config {
        command.args(["--config", setting]);
    }
    output(&mut command)?;
    Ok(())
}

impl Implementation {
    /// Why it cannot run on this machine, if it cannot.
    pub fn missing_reason(&self) -> Option<&str> {
        self.program.as_ref().err().map(String::as_str)
    }

    /// A run of its program that does `job` a number of times.
    pub fn job(
        &self,
        base_url: &str,
        job: &str,
        times: u32,
        arguments: &[&str],
    ) -> Result<Run<'_>> {
        let program =
            self.program.as_ref().map_err(|reason| anyhow::anyhow!("{}: {reason}", self.name))?;
        Ok(self.run(program, base_url, job, times, arguments))
    }

    /// Like [`job`](Self::job), with the counting allocator, where there is such a program.
    pub fn counted(
        &self,
        base_url: &str,
        job: &str,
        times: u32,
        arguments: &[&str],
    ) -> Option<Run<'_>> {
        Some(self.run(self.counted.as_deref()?, base_url, job, times, arguments))
    }

    fn run<'a>(
        &self,
        program: &'a Path,
        base_url: &str,
        job: &str,
        times: u32,
        arguments: &[&str],
    ) -> Run<'a> {
        let script = self.script.iter().map(|path| path.display().to_string());
        let job = [base_url.to_owned(), job.to_owned(), times.to_string()];
        let arguments = arguments.iter().map(|&argument| argument.to_owned());
        Run { program, arguments: script.chain(job).chain(arguments).collect() }
    }
}

impl Run<'_> {
    /// Runs the program and reads the measurements that it prints.
    pub fn execute(&self) -> Result<Measurements> {
        let output = output(Command::new(self.program).args(&self.arguments))?;
        let text = String::from_utf8(output.stdout)?;
        let lines = text.lines().filter_map(|line| {
            let (name, number) = line.split_once(' ')?;
            Some((name.to_owned(), number.parse().ok()?))
        });
        Ok(Measurements(lines.collect()))
    }
}

/// Numbers by name, as a program prints them.
pub struct Measurements(HashMap<String, f64>);

impl Measurements {
    pub fn get(&self, name: &str) -> Result<f64> {
        self.0.get(name).copied().with_context(|| format!("the program did not print `{name}`"))
    }
}
