//! The programs that measure, where the machine has them, and what machine it is.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

pub struct Tools {
    pub valgrind: bool,
    pub strace: bool,
    /// With the library `requests`.
    pub python: bool,
}

/// A program with its arguments.
pub struct Run<'a> {
    pub program: &'a Path,
    pub arguments: Vec<String>,
}

impl Tools {
    pub fn find() -> Tools {
        let answers = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        Tools {
            valgrind: answers("valgrind", &["--version"]),
            strace: answers("strace", &["-o", "/dev/null", "true"]),
            python: answers("python3", &["-c", "import requests"]),
        }
    }

    /// The instructions that a program executes in user space, in all its threads; none where
    /// valgrind is missing.
    pub fn instructions(&self, run: &Run<'_>) -> Result<Option<f64>> {
        if !self.valgrind {
            return Ok(None);
        }
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let output = output(command.arg(run.program).args(&run.arguments))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let collected = text.lines().find_map(|line| line.split_once("Collected : "));
        let (_, number) = collected.context("callgrind has not said what it collected")?;
        Ok(Some(number.trim().parse()?))
    }

    /// The system calls that a program makes, in all its threads; none where strace is missing.
    pub fn system_calls(&self, run: &Run<'_>, log: &Path) -> Result<Option<f64>> {
        if !self.strace {
            return Ok(None);
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(log);
        output(command.arg(run.program).args(&run.arguments))?;
        // A call that was interrupted by another thread's stands there twice.
        let log = fs::read_to_string(log)?;
        let calls = log.lines().filter(|line| !line.contains(" resumed>") && line.contains('('));
        Ok(Some(calls.count() as f64))
    }

    /// The shape of the machine, and whether something else keeps it busy.
    pub fn machine(&self) -> String {
        let version = |program: &str, argument: &str| {
            let output = Command::new(program).arg(argument).output().ok()?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let date = version("date", "+%F").unwrap_or_default();
        let rustc = version("rustc", "--version").unwrap_or_default();
        let cores = std::thread::available_parallelism().map_or(0, usize::from);
        let load = load().map_or("unknown".to_owned(), |load| format!("{load:.2}"));
        let (os, cpu) = (std::env::consts::OS, std::env::consts::ARCH);
        let has = |name: &str, there: bool| match there {
            true => name.to_owned(),
            false => format!("{name} (missing)"),
        };
        let tools = [
            has("valgrind", self.valgrind),
            has("strace", self.strace),
            has("Python with requests", self.python),
        ];
        let tools = tools.join(", ");
        format!(
            "{date}; {cores} cores, {cpu}, {os}; load before the run {load}; {rustc}. \
             Tools: {tools}."
        )
    }
}

/// Runnable tasks in the last minute.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// What a program says that has to succeed.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("{command:?} cannot be run"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} has failed: {error}");
    }
    Ok(output)
}

/// Seconds of CPU that this process's ended children have taken, and theirs; Linux only.
pub fn children_cpu() -> Option<f64> {
    /// What every Linux counts in.
    const TICKS: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field is in parentheses and can hold anything.
    let (_, fields) = stat.rsplit_once(") ")?;
    let times: Vec<f64> =
        fields.split(' ').skip(13).take(2).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(times.iter().sum::<f64>() / TICKS)
}
