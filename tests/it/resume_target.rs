//! `generate_to` with a target that is missing, changed or not its own.

use std::fs;
use std::time::Duration;

use kling_video::ErrorKind;
use kling_video::sandbox::{Endpoint, Fault};

use crate::helpers::clients::{create_counts, quick_wait, request, sandbox, test_client};
use crate::helpers::files::TestDir;
use crate::helpers::journal::{created, sending};
use crate::helpers::media::mp4;
use crate::resume::{assert_saved, create_generation, journal_with};

// ---------------------------------------------------------------- the target

#[test]
fn missing_target_is_fetched_again_without_a_create() {
    for damage in [(|dir: &TestDir| fs::remove_file(&dir.target).unwrap()) as fn(&TestDir), |dir| {
        fs::remove_file(&dir.target).unwrap();
        fs::write(dir.partial_file(), b"left by a killed run").unwrap();
    }] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        let first = client.generate_to(&request(), &dir.target).unwrap();
        damage(&dir);
        let again = client.generate_to(&request(), &dir.target).unwrap();
        assert!(!again.reused);
        assert_eq!(again.id, first.id);
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert_saved(&sandbox, &dir);
        assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    }
}

#[test]
fn completed_generation_that_cannot_be_reached_is_not_said_to_be_running() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    test_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    fs::remove_file(&dir.target).unwrap();
    sandbox.fault(Endpoint::Retrieve, Fault::close_connection(), u32::MAX);
    let wait = quick_wait().timeout(Duration::from_millis(20));
    let client = test_client(&sandbox).with_wait_options(wait);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    let message = error.to_string();
    assert!(message.ends_with("the generation is complete: call generate_to again"), "{message}");
    assert!(error.is_retryable());
}

#[test]
fn target_with_other_bytes_than_recorded_is_left_alone() {
    let length = sandbox().default_video().len();
    // Cut short, longer, of the same length, and emptied.
    for bytes in [b"truncated".to_vec(), mp4(100_000), mp4(length), Vec::new()] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        let first = client.generate_to(&request(), &dir.target).unwrap();
        fs::write(&dir.target, &bytes).unwrap();
        let (requests, journal) = (sandbox.requests().len(), dir.journal_text());
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
        assert_eq!(error.generation_id(), Some(&first.id));
        assert!(error.to_string().contains("cat.mp4"), "{error}");
        assert_eq!(sandbox.requests().len(), requests);
        assert_eq!(dir.journal_text(), journal);
        assert_eq!(fs::read(&dir.target).unwrap(), bytes);
        // Once it is out of the way, the video is fetched again.
        fs::remove_file(&dir.target).unwrap();
        assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id, first.id);
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert_saved(&sandbox, &dir);
    }
}

#[test]
fn target_without_a_journal_is_rejected_before_sending() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    for journal in [None, Some(""), Some("{\"step\":\"inte")] {
        let dir = TestDir::new();
        fs::write(&dir.target, b"somebody's own video").unwrap();
        if let Some(text) = journal {
            fs::write(dir.journal(), text).unwrap();
        }
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
        assert!(error.to_string().contains("cat.mp4"), "{error}");
        assert!(!error.is_retryable() && !error.may_have_been_billed());
        assert_eq!(fs::read(&dir.target).unwrap(), b"somebody's own video");
        assert_eq!(dir.journal().exists(), journal.is_some(), "no journal is created");
        assert!(sandbox.requests().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn dangling_symlink_means_the_file_that_it_leads_to() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let link = dir.path().join("link.mp4");
    std::os::unix::fs::symlink(&dir.target, &link).unwrap();
    assert_eq!(test_client(&sandbox).generate_to(&request(), &link).unwrap().path, link);
    assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.kling.jsonl", "link.mp4"]);
    assert_saved(&sandbox, &dir);
}

#[test]
fn video_that_the_record_does_not_describe_is_left_alone() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    // It has the generation's bytes, but no `publishing` entry says so.
    fs::write(&dir.target, sandbox.default_video()).unwrap();
    let (requests, journal) = (sandbox.requests().len(), dir.journal_text());
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert_eq!(error.generation_id().unwrap().as_ref(), id);
    assert!(error.may_have_been_billed());
    assert_eq!((sandbox.requests().len(), dir.journal_text()), (requests, journal));
}
