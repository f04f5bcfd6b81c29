//! The external measuring tools, where the machine has them, and a description of the machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

pub struct Tools {
    pub valgrind: bool,
    pub strace: bool,
    /// Whether there is Python with the library `requests`.
    pub python: bool,
}

/// A program with its arguments.
pub struct Run<'a> {
    pub program: &'a Path,
    pub arguments: Vec<String>,
}

impl Tools {
    pub fn find() -> Tools {
        let succeeds = |program: &str, arguments: &[&str]| {
            let output = Command::new(program).args(arguments).output();
            output.is_ok_and(|output| output.status.success())
        };
        Tools {
            valgrind: succeeds("valgrind", &["--version"]),
            strace: succeeds("strace", &["-o", "/dev/null", "true"]),
            python: succeeds("python3", &["-c", "import requests"]),
        }
    }

    /// The number of instructions that a program executes in user space, in all its threads.
    /// `None` without valgrind.
    pub fn instructions(&self, run: &Run<'_>) -> Result<Option<f64>> {
        if !self.valgrind {
            return Ok(None);
        }
        let mut command = Command::new("valgrind");
        command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
        let output = output(command.arg(run.program).args(&run.arguments))?;
        let text = String::from_utf8_lossy(&output.stderr);
        let collected = text.lines().find_map(|line| line.split_once("Collected : "));
        let (_, number) = collected.context("callgrind printed no `Collected` line")?;
        Ok(Some(number.trim().parse()?))
    }

    /// The number of system calls that a program makes, in all its threads. `None` without strace.
    pub fn system_calls(&self, run: &Run<'_>, log: &Path) -> Result<Option<f64>> {
        if !self.strace {
            return Ok(None);
        }
        let mut command = Command::new("strace");
        command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(log);
        output(command.arg(run.program).args(&run.arguments))?;
        // The log has a call that was interrupted by another thread's on two lines.
        let log = fs::read_to_string(log)?;
        let calls = log.lines().filter(|line| !line.contains(" resumed>") && line.contains('('));
        Ok(Some(calls.count() as f64))
    }

    /// Describes the machine, its load and the tools in one paragraph.
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
        let tool = |name: &str, found: bool| match found {
            true => name.to_owned(),
            false => format!("{name} (missing)"),
        };
        let tools = [
            tool("valgrind", self.valgrind),
            tool("strace", self.strace),
            tool("Python with requests", self.python),
        ];
        let tools = tools.join(", ");
        format!(
            "{date}; {cores} cores, {cpu}, {os}; load before the run {load}; {rustc}. \
             Tools: {tools}."
        )
    }
}

/// The load average of the last minute.
fn load() -> Option<f64> {
    fs::read_to_string("/proc/loadavg").ok()?.split(' ').next()?.parse().ok()
}

/// Runs a program and returns its output; a failure exit status is an error.
pub fn output(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        let error = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?} failed: {error}");
    }
    Ok(output)
}

/// CPU seconds used by this process's finished children and their descendants; Linux only.
pub fn children_cpu() -> Option<f64> {
    /// The kernel's `USER_HZ`, which is 100 on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, in parentheses, can contain spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    let times: Vec<f64> =
        fields.split(' ').skip(13).take(2).map(str::parse).collect::<Result<_, _>>().ok()?;
    Some(times.iter().sum::<f64>() / TICKS_PER_SECOND)
}
