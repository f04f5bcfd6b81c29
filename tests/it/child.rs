//! A test that runs in a process of its own: an environment, a number of threads and a number of
//! open files belong to a process, and other tests share this one.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::process::Command;

const CHILD_SAYS: &str = "the child says: ";

/// What a test says when it runs as the child of another.
pub fn say(text: &str) {
    println!("{CHILD_SAYS}{}", text.replace('\n', " "));
}

/// Runs one test of this binary with these variables and without any that this crate reads, and
/// returns what it [says](say).
pub fn rerun(test: &str, variables: &[(&str, &str)]) -> String {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([test, "--exact", "--nocapture", "--test-threads=1"]);
    for name in ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"] {
        child.env_remove(name);
    }
    for name in ["HTTPS_PROXY", "ALL_PROXY", "HTTP_PROXY", "NO_PROXY"] {
        child.env_remove(name).env_remove(name.to_ascii_lowercase());
    }
    let output = child.envs(variables.iter().copied()).output().unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    let said = printed.split(CHILD_SAYS).nth(1).and_then(|rest| rest.lines().next());
    match said {
        Some(said) if output.status.success() => said.to_owned(),
        _ => panic!("{test} failed as a child: {printed}{output:?}"),
    }
}
