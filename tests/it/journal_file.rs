//! The journal as a file: damaged, of another kind, or in use.

use std::fs;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{CancelToken, Client, ErrorKind};

use crate::helpers::clients::{
    client_cancelling_at_retry, create_counts, quick_retry, quick_wait, request, sandbox,
    test_client,
};
use crate::helpers::files::{TestDir, unwritable_dir};
use crate::helpers::journal::{created, intent, sending};
use crate::resume::{DONE, assert_saved, create_generation, journal_with};

// ---------------------------------------------------------------- damaged journals

#[test]
fn journal_drops_a_torn_last_line() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    for torn in ["{", "{\"step\":\"saved\",\"id\":\"12", "\0\0\0\0", "{\"step\":\"cre"] {
        let dir = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
        fs::write(dir.journal(), format!("{}{torn}", dir.journal_text())).unwrap();
        assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_ref(), id);
        assert_eq!(dir.journal_steps(), DONE, "{torn:?}");
        assert_saved(&sandbox, &dir);
    }
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn run_killed_during_its_first_entry_starts_over() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    for torn in ["", "{\"step\":\"intent\",\"requ"] {
        let dir = TestDir::new();
        fs::write(dir.journal(), torn).unwrap();
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(dir.journal_steps(), DONE);
        assert_saved(&sandbox, &dir);
    }
}

#[test]
fn journal_keeps_a_complete_last_line_without_newline() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    fs::write(dir.journal(), dir.journal_text().trim_end()).unwrap();
    assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_ref(), id);
    assert_eq!(dir.journal_steps(), DONE);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn journal_with_an_invalid_line_fails_before_sending() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let first = intent(&client, &request(), None);
    for (lines, number, id) in [
        (vec!["garbage".to_owned(), first.clone()], 1, None),
        (vec![first.clone(), "{\"step\":\"sen".to_owned(), created("1")], 2, Some("1")),
        (vec![first.clone(), "# a comment".to_owned(), created("1")], 2, Some("1")),
        (vec![first.clone(), created("1"), "{}".to_owned()], 3, Some("1")),
        (vec![first.clone(), created("")], 2, None),
        (vec![first.clone(), created("1"), "\0\0\0".to_owned()], 3, Some("1")),
    ] {
        let dir = TestDir::new();
        dir.write_journal(&lines);
        let text = dir.journal_text();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{lines:?}: {error:?}");
        assert!(error.to_string().contains(&format!("invalid entry at line {number};")), "{error}");
        assert_eq!(error.generation_id().map(|id| id.as_ref()), id, "{lines:?}");
        assert!(error.may_have_been_billed() && !error.is_retryable(), "{lines:?}");
        assert!(error.to_string().contains("cat.mp4.kling.jsonl"), "{error}");
        assert_eq!(dir.journal_text(), text, "the journal is left unchanged");
        assert!(!dir.target.exists());
    }
    // A journal must start with `intent`.
    let dir = TestDir::new();
    dir.write_journal(&[created("1")]);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn target_or_journal_that_cannot_be_opened_fails_before_sending() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let within = |name: &str| dir.path().join(name);
    fs::create_dir(dir.journal()).unwrap();
    fs::create_dir(within("directory.mp4")).unwrap();
    fs::write(within("file"), "").unwrap();
    let missing = within("missing");
    let is_missing = format!("directory {} does not exist", missing.display());
    let (not_opened, not_a_file) = ("failed to open for writing", "target is not a file path");
    let not_read = "failed to read the target's metadata";
    // Windows reports a parent that is a file, and a name that is too long, as missing, and ignores a
    // directory's permissions.
    let on_unix = [
        (unwritable_dir(dir.path()).join("cat.mp4"), ErrorKind::Journal, not_opened, true),
        (within("file").join("cat.mp4"), ErrorKind::Io, not_read, true),
        (within(&"x".repeat(300)), ErrorKind::Io, not_read, true),
    ];
    let cases = [
        (dir.target.clone(), ErrorKind::Journal, "not a regular file", false),
        (missing.join("cat.mp4"), ErrorKind::Io, &is_missing, true),
        (within("directory.mp4"), ErrorKind::Io, not_a_file, true),
        (within("..").join(".."), ErrorKind::Io, not_a_file, true),
        (PathBuf::new(), ErrorKind::Io, "the target path is empty", true),
    ];
    let on_unix = on_unix.into_iter().filter(|_| cfg!(unix));
    for (target, kind, message, has_cause) in cases.into_iter().chain(on_unix) {
        let error = client.generate_to(&request(), &target).unwrap_err();
        assert_eq!(error.kind(), kind, "{target:?}: {error:?}");
        assert!(error.to_string().contains(message), "{target:?}: {error}");
        // A missing directory is reported instead of the target in it.
        let reported = if target.starts_with(&missing) { &missing } else { &target };
        assert!(error.to_string().contains(reported.to_str().unwrap()), "{error}");
        assert_eq!(std::error::Error::source(&error).is_some(), has_cause, "{error:?}");
        assert!(!error.may_have_been_billed(), "{target:?}");
    }
    assert!(sandbox.requests().is_empty());
    assert!(!Path::new(".kling.jsonl").exists());
}

#[cfg(unix)]
#[test]
fn journal_that_is_a_device_is_rejected() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    std::os::unix::fs::symlink("/dev/null", dir.journal()).unwrap();
    let error = test_client(&sandbox).generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- locking

#[test]
fn concurrent_runs_on_one_target_pay_once_and_all_succeed() {
    let sandbox = sandbox();
    sandbox.set_response_delay(Endpoint::Create, Duration::from_millis(30));
    let dir = TestDir::new();
    let mut reused: Vec<bool> = thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| test_client(&sandbox).generate_to(&request(), &dir.target)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap().unwrap().reused).collect()
    });
    reused.sort_unstable();
    assert_eq!(reused, [false, true, true, true]);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
}

/// Holds a journal's lock as another process would.
fn lock(dir: &TestDir) -> fs::File {
    let file = fs::File::options().append(true).create(true).open(dir.journal()).unwrap();
    file.lock().unwrap();
    file
}

/// Starts a run while the journal is locked, and frees it after `meanwhile`. The run succeeds.
fn run_during_lock(client: &Client, dir: &TestDir, meanwhile: impl FnOnce()) {
    let held = lock(dir);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &dir.target));
        thread::sleep(Duration::from_millis(30));
        meanwhile();
        drop(held);
        run.join().unwrap().unwrap();
    });
}

#[test]
fn lock_wait_honors_the_timeout() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let _held = lock(&dir);
    let options = quick_wait().timeout(Duration::from_millis(60));
    let client = test_client(&sandbox).with_wait_options(options);
    let started = Instant::now();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout, "{error:?}");
    assert!((60..5_000).contains(&started.elapsed().as_millis()));
    assert!(!error.may_have_been_billed());
    let cause = std::error::Error::source(&error).unwrap().to_string();
    assert!(cause.contains("in use by another process"), "{cause}");
    assert!(sandbox.requests().is_empty());
}

#[test]
fn run_continues_as_soon_as_the_lock_is_free() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    run_during_lock(&client, &dir, || assert!(sandbox.requests().is_empty()));
    assert_saved(&sandbox, &dir);
}

#[cfg(unix)]
#[test]
fn journal_deleted_during_the_lock_wait_is_recreated() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    run_during_lock(&client, &dir, || fs::remove_file(dir.journal()).unwrap());
    assert_eq!(dir.journal_steps(), DONE);
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
}

#[test]
fn run_cancelled_during_back_off_is_recorded_as_rejected() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let token = CancelToken::new();
    let retry_policy = quick_retry().max_delay(Duration::from_secs(60));
    let builder = sandbox.client_builder().retry_policy(retry_policy);
    let client = client_cancelling_at_retry(builder, &token);
    sandbox.fault(Endpoint::Create, Fault::status(429).header("Retry-After", "40"), 1);
    let error = client.with_cancel_token(token).generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_been_billed());
    assert_eq!(dir.journal_steps(), ["intent", "sending", "rejected"]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 1));
    assert_eq!(sandbox.request_count(Endpoint::Logs), 0);
}

#[test]
fn saved_entry_is_appended_after_fetching_again() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    fs::remove_file(&dir.target).unwrap();
    assert!(!client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(dir.journal_steps(), [&DONE[..], &["publishing", "saved"]].concat());
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(create_counts(&sandbox), (1, 1));
}
