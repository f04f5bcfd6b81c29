//! The external measuring tools, where the machine has them, and a description of the machine.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

use crate::report::Measured;

/// glibc sets and copies a large block with one instruction that callgrind counts once per byte.
/// This makes it use vector instructions, which are counted as they are executed.
const VECTOR_INSTRUCTIONS: &str = "glibc.cpu.x86_rep_stosb_threshold=100000000:\
                                   glibc.cpu.x86_rep_movsb_threshold=100000000";

/// The number of instructions that a program executes in user space, in all its threads.
pub fn instructions(program: &Path, arguments: &[&str]) -> Result<Measured> {
    if version("valgrind", "--version").is_none() {
        return Ok(Err("needs valgrind".to_owned()));
    }
    let mut command = Command::new("valgrind");
    command.args(["--tool=callgrind", "--callgrind-out-file=/dev/null"]);
    command.env("GLIBC_TUNABLES", VECTOR_INSTRUCTIONS);
    let output = output(command.arg(program).args(arguments))?;
    let text = String::from_utf8_lossy(&output.stderr);
    let collected = text.lines().find_map(|line| line.split_once("Collected : "));
    let (_, number) = collected.context("callgrind printed no `Collected` line")?;
    Ok(Ok(number.trim().parse()?))
}

/// The number of system calls that a program makes, in all its threads.
pub fn system_calls(program: &Path, arguments: &[&str], log: &Path) -> Result<Measured> {
    if version("strace", "--version").is_none() {
        return Ok(Err("needs strace".to_owned()));
    }
    let mut command = Command::new("strace");
    command.args(["-f", "-qq", "-e", "signal=none", "-o"]).arg(log);
    output(command.arg(program).args(arguments))?;
    // The log has a call that was interrupted by another thread's on two lines.
    let log = fs::read_to_string(log)?;
    let calls = log.lines().filter(|line| !line.contains(" resumed>") && line.contains('('));
    Ok(Ok(calls.count() as f64))
}

/// The LLVM lines of the crate, as `cargo llvm-lines` counts them.
pub fn llvm_lines(manifest: &Path, target: &Path) -> Result<Measured> {
    if llvm_lines_version().is_none() {
        return Ok(Err("needs `cargo install cargo-llvm-lines`".to_owned()));
    }
    let mut command = cargo();
    command.args(["llvm-lines", "--release", "--lib", "--package", "kling-video"]);
    command.arg("--manifest-path").arg(manifest).arg("--target-dir").arg(target);
    let output = String::from_utf8(output(&mut command)?.stdout)?;
    let total = output.lines().find(|line| line.ends_with("(TOTAL)"));
    let lines = total.and_then(|line| line.split_whitespace().next());
    Ok(Ok(lines.context("cargo llvm-lines printed no total")?.parse()?))
}

fn llvm_lines_version() -> Option<String> {
    let output = cargo().args(["llvm-lines", "--version"]).output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

pub fn cargo() -> Command {
    let mut command = Command::new(std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned()));
    // A compiler cache would make a cold build meaningless.
    command.env_remove("RUSTC_WRAPPER").env_remove("CARGO_BUILD_RUSTC_WRAPPER");
    command
}

/// Describes the machine, its load and the tools in one paragraph.
pub fn machine() -> String {
    let date = version("date", "+%F").unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or("unknown").to_owned();
    let tool = |name: &str, found: Option<String>| {
        let found = found.and_then(|text| text.lines().next().map(str::to_owned));
        found.unwrap_or_else(|| format!("no {name}"))
    };
    format!(
        "{date}; {cores} cores, {}, {}; load before the run {load}; {}; {}; {}; {}.",
        std::env::consts::ARCH,
        std::env::consts::OS,
        tool("rustc", version("rustc", "--version")),
        tool("cargo-llvm-lines", llvm_lines_version()),
        tool("valgrind", version("valgrind", "--version")),
        tool("strace", version("strace", "--version")),
    )
}

/// What a program prints for an argument; `None` if it is not installed.
fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
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

/// CPU seconds in user and in kernel mode.
#[derive(Clone, Copy)]
pub struct Cpu {
    pub user: f64,
    pub system: f64,
}

/// What this process's finished children and their descendants used so far; Linux only.
fn children_cpu() -> Option<Cpu> {
    /// The kernel's `USER_HZ`, which is 100 on every Linux.
    const TICKS_PER_SECOND: f64 = 100.0;
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The second field, in parentheses, can contain spaces and parentheses itself.
    let (_, fields) = stat.rsplit_once(") ")?;
    let mut times = fields.split(' ').skip(13).map(|ticks| ticks.parse::<f64>());
    let mut next = || Some(times.next()?.ok()? / TICKS_PER_SECOND);
    Some(Cpu { user: next()?, system: next()? })
}

/// What the children that `run` starts use.
pub fn cpu_of(run: impl FnOnce() -> Result<()>) -> Result<Option<Cpu>> {
    let before = children_cpu();
    run()?;
    Ok(children_cpu().zip(before).map(|(after, before)| Cpu {
        user: after.user - before.user,
        system: after.system - before.system,
    }))
}
