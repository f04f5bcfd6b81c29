//! Ctrl-C ends a run at once; the next one continues, and one generation is paid for.
#![cfg(unix)]

use std::path::Path;
use std::process::{Command, Stdio};
use std::thread::sleep;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};

#[test]
fn interrupted_run_is_continued_and_paid_once() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start().unwrap();
    sandbox.fault(Endpoint::Retrieve, Fault::no_response(), 1);
    let mut first = command(&sandbox, dir.path()).spawn().unwrap();
    while sandbox.request_count(Endpoint::Retrieve) == 0 {
        assert_eq!(first.try_wait().unwrap(), None, "ended before it was interrupted");
        sleep(Duration::from_millis(2));
    }
    let interrupt = Command::new("kill").args(["-INT", &first.id().to_string()]).status();
    assert!(interrupt.unwrap().success());
    let first = first.wait_with_output().unwrap();
    let error = String::from_utf8(first.stderr).unwrap();
    assert_eq!(first.status.code(), Some(130), "{error}");
    assert!(error.contains("call generate_to again"), "{error}");

    let second = command(&sandbox, dir.path()).output().unwrap();
    assert!(second.status.success(), "{second:?}");
    assert_eq!(std::fs::read(dir.path().join("cat.mp4")).unwrap(), sandbox.default_video());
    assert_eq!(sandbox.generations().len(), 1);
}

fn command(sandbox: &Sandbox, dir: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_interruptible"));
    command
        .args(["../../tests/fixtures/image.jpg".as_ref(), dir.join("cat.mp4").as_os_str()])
        .env("AIML_API_KEY", sandbox.key())
        .env("KLING_BASE_URL", sandbox.url())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    command
}
