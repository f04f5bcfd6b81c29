//! Runs a test in its own process: environment variables and the counts of threads and open files
//! are process-wide, and the other tests share this process.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::process::Command;

const RESULT_PREFIX: &str = "subprocess result: ";

/// Prints the result of a test that runs in a subprocess, for [`run_in_subprocess`].
pub fn emit_result(text: &str) {
    println!("{RESULT_PREFIX}{}", text.replace('\n', " "));
}

/// Runs one test of this binary with `variables`, and without any other variable that the crate
/// reads. Returns what the test passed to [`emit_result`].
pub fn run_in_subprocess(test: &str, variables: &[(&str, &str)]) -> String {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    for name in ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"] {
        command.env_remove(name);
    }
    for name in ["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        command.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    let output = command.envs(variables.iter().copied()).output().unwrap();
    let stdout = String::from_utf8_lossy(&output.stdout);
    let result = stdout.split(RESULT_PREFIX).nth(1).and_then(|rest| rest.lines().next());
    match result {
        Some(result) if output.status.success() => result.to_owned(),
        _ => panic!("{test} failed in a subprocess: {stdout}{output:?}"),
    }
}
