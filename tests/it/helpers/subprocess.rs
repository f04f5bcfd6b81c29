//! Tests that run in their own process: to be killed there, or because environment variables and
//! the counts of threads and open files are process-wide.

use std::env;
use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Write};
#[cfg(unix)]
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use crate::helpers::timing::wait_until;

const RESULT_PREFIX: &str = "subprocess result: ";

/// Prints a result for the process that started this one, on its own line: the test harness writes
/// to stdout as well.
pub fn emit_result(result: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\n{RESULT_PREFIX}{}", result.replace('\n', " ")).unwrap();
    out.flush().unwrap();
}

/// A command that starts this binary. If it is for another processor, `KLING_TEST_RUNNER` has the
/// program that runs it, and that program's arguments.
pub fn this_binary() -> Command {
    // Without /proc, the path that it was started with.
    let binary = env::current_exe().unwrap_or_else(|_| env::args().next().unwrap().into());
    let runner = env::var("KLING_TEST_RUNNER").unwrap_or_default();
    let mut words = runner.split_whitespace();
    let Some(program) = words.next() else { return Command::new(binary) };
    let mut command = Command::new(program);
    command.args(words).arg(binary);
    command
}

/// Prints why a test cannot run here. The harness does not capture it, as it does with `println!`.
pub fn report_skipped(test: &str, reason: impl std::fmt::Display) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "SKIPPED: {test}: {reason}").unwrap();
}

/// Runs one test of this binary with `variables`, and without any other variable that the crate
/// reads. Returns what the test passed to [`emit_result`].
pub fn run_in_subprocess(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = this_binary();
    command.envs(variables.iter().copied());
    Subprocess::start(command, test).wait()
}

/// Runs one test as a user to whom the permissions of `dir` apply, which are `mode` meanwhile.
/// Returns false if that user may not run this binary.
#[cfg(unix)]
pub fn run_unprivileged(test: &str, dir: &Path, mode: u32, variable: (&str, &Path)) -> bool {
    use std::fs::{Permissions, set_permissions};
    use std::io::ErrorKind;
    use std::os::unix::fs::{PermissionsExt as _, chown};
    use std::os::unix::process::CommandExt as _;

    const NOBODY: u32 = 65_534;
    let set_mode = |mode| set_permissions(dir, Permissions::from_mode(mode)).unwrap();
    let mut command = this_binary();
    // They do not apply to root.
    if chown(dir, Some(NOBODY), None).is_ok() {
        command.uid(NOBODY);
    }
    set_mode(mode);
    let output =
        command.args([test, "--exact", "--nocapture"]).env(variable.0, variable.1).output();
    set_mode(0o700);
    match output {
        // The binary is below a directory that only root may enter.
        Err(error) if error.kind() == ErrorKind::PermissionDenied => false,
        output => {
            let output = output.unwrap();
            let has_run = String::from_utf8_lossy(&output.stdout).contains("1 passed");
            assert!(output.status.success() && has_run, "{output:?}");
            true
        }
    }
}

/// Removes the variables that the crate reads, except those that the command sets itself.
pub fn remove_crate_variables(command: &mut Command) {
    let keys = ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"].map(str::to_owned);
    let proxies = ["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "NO_PROXY"];
    let lowercase = proxies.map(str::to_ascii_lowercase);
    for name in keys.into_iter().chain(proxies.map(str::to_owned)).chain(lowercase) {
        // Windows ignores the case of a variable's name.
        let is_name = |set: &OsStr| match cfg!(windows) {
            true => set.eq_ignore_ascii_case(&name),
            false => *set == *name,
        };
        if !command.get_envs().any(|(set, _)| is_name(set)) {
            command.env_remove(name);
        }
    }
}

/// A running subprocess.
pub struct Subprocess {
    process: Child,
    out: BufReader<ChildStdout>,
    /// What the process has printed so far.
    printed: String,
}

impl Subprocess {
    /// Runs one test with a command that starts this binary.
    pub fn start(mut command: Command, test: &str) -> Subprocess {
        remove_crate_variables(&mut command);
        command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
        let mut process = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Subprocess { process, out, printed: String::new() }
    }

    /// The next result that the process prints, or `None` once it has ended.
    pub fn next_result(&mut self) -> Option<String> {
        loop {
            let start = self.printed.len();
            if self.out.read_line(&mut self.printed).unwrap() == 0 {
                return None;
            }
            if let Some(result) = self.printed[start..].strip_prefix(RESULT_PREFIX) {
                return Some(result.trim_end().to_owned());
            }
        }
    }

    /// Waits for the process to end and returns its result.
    pub fn wait(mut self) -> String {
        let result = self.next_result();
        while self.next_result().is_some() {}
        let status = self.process.wait().unwrap();
        match result {
            Some(result) if status.success() => result,
            _ => panic!("the subprocess failed: {status}\n{}", self.printed),
        }
    }

    /// Waits until the condition holds or the process has ended.
    pub fn wait_until(&mut self, condition: impl Fn() -> bool) {
        wait_until("the condition or the end of the process", || {
            condition() || self.process.try_wait().unwrap().is_some()
        });
    }

    /// Sends SIGKILL. If the process had ended before, its result is the error.
    pub fn kill(mut self) -> Result<(), String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.next_result().filter(|result| result != "paused").map_or(Ok(()), Err)
    }
}

/// A failing test leaves no process behind.
impl Drop for Subprocess {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
