//! How a run recovers a create whose outcome its record does not know.

use std::fs;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{CancelToken, ErrorKind, FileJournal};

use crate::helpers::clients::{create_counts, quick_wait, request, sandbox, test_client};
use crate::helpers::files::TestDir;
use crate::record::{
    abandon, another_request, assert_saved_as, log, lost_create, marked, paid_id, replacing_client,
};

// ---------------------------------------------------------------- recovery

#[test]
fn failed_log_row_of_a_generation_that_is_not_failed_is_recovered() {
    for status in ["generating", "queued", "completed"] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        sandbox.set_status_sequence([status, "completed"]);
        let error = lost_create(&sandbox, &dir, Fault::close_connection());
        let id = paid_id(&sandbox);
        let client_request_id = error.client_request_id().unwrap();
        let long_ago = "2026-01-01T00:00:00.000Z";
        sandbox.fault(Endpoint::Logs, log(client_request_id, &id, "failed", long_ago), 1);
        assert_saved_as(&sandbox, &test_client(&sandbox), &dir, &id);
        assert_eq!(create_counts(&sandbox), (1, 1), "{status}");
    }
}

#[test]
fn failed_log_row_is_a_failure_only_if_the_generation_has_failed_or_is_long_unknown() {
    let (recent, long_ago) = ("2999-01-01T00:00:00.000Z", "2026-01-01T00:00:00.000Z");
    // By the server's clock, or by this one.
    for (created, sent_recently, response, fails) in [
        (long_ago, true, Fault::response(404, marked(404)), false),
        (long_ago, false, Fault::response(404, marked(404)), true),
        (long_ago, false, Fault::response(200, r#"{"id":"dead","status":"error"}"#), true),
        (recent, false, Fault::response(404, marked(404)), false),
        ("", false, Fault::response(404, marked(404)), false),
        (long_ago, false, Fault::response(404, "<html>"), false),
        (long_ago, false, Fault::response(403, marked(403)), false),
        (long_ago, false, Fault::response(200, r#"{"id":"dead","status":"expired"}"#), false),
        (long_ago, false, Fault::response(200, r#"{"id":"other","status":"error"}"#), false),
    ] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
        // What is not a failure is waited for until the timeout; a new generation needs its time.
        let timeout = Duration::from_millis(if fails { 30_000 } else { 20 });
        let client = test_client(&sandbox).with_wait_options(quick_wait().timeout(timeout));
        let lost = client.generate_to(&request(), &dir.target).unwrap_err();
        let lost = lost.client_request_id().unwrap();
        if !sent_recently {
            let backdate = |mut line: serde_json::Value| {
                line["time"] = 1.into();
                line.to_string()
            };
            dir.write_journal(&dir.journal_lines().into_iter().map(backdate).collect::<Vec<_>>());
        }
        sandbox.fault(Endpoint::Logs, log(lost, "dead", "failed", created), 99);
        sandbox.fault(Endpoint::Retrieve, response.clone(), 1_000);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.generation_id().map(|id| id.as_str()), Some("dead"), "{response:?}");
        assert_eq!(!error.may_have_been_billed(), fails, "{created} {response:?}: {error:?}");
        let failed = dir.journal_steps().contains(&"failed".to_owned());
        assert_eq!(failed, fails, "{created} {response:?}");
        sandbox.clear_faults();
        let paid = client.generate_to(&request(), &dir.target).is_ok();
        assert_eq!(paid, fails, "{created} {response:?}");
        assert_eq!(create_counts(&sandbox), (1 + usize::from(fails), usize::from(fails)));
    }
}

#[test]
fn error_about_a_create_that_may_have_been_accepted_says_that_it_may_be_billed() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    lost_create(&sandbox, &dir, Fault::close_connection());
    let client = replacing_client(&sandbox);
    for fault in [
        Fault::response(401, marked(401)),
        Fault::response(403, marked(403)),
        Fault::response(500, "<html>"),
        Fault::response(200, "{}"),
        Fault::close_connection(),
    ] {
        sandbox.fault(Endpoint::Logs, fault.clone(), 1);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert!(error.may_have_been_billed(), "{fault:?}: {error:?}");
        assert!(error.client_request_id().is_some(), "{fault:?}");
    }
    let token = CancelToken::new();
    token.cancel();
    let cancelled = client.with_cancel_token(token).generate_to(&request(), &dir.target);
    let error = cancelled.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(error.may_have_been_billed(), "{error:?}");
    let error = client.generate_to(&another_request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.may_have_been_billed(), "{error:?}");
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn unknown_create_can_be_abandoned_and_then_a_new_one_is_paid_for() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
    client.generate_to(&request(), &dir.target).unwrap_err();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    assert!(error.to_string().contains("FileJournal::abandon"), "{error}");
    // It stands in the way of other requests, and abandoning it helps them as well.
    client.generate_to(&another_request(), &dir.target).unwrap_err();
    let mut journal = FileJournal::for_target(&dir.target).unwrap();
    journal.abandon().unwrap();
    journal.abandon().unwrap();
    // The journal is locked while it is open.
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    drop(journal);
    assert_eq!(dir.journal_steps(), ["intent", "sending", "abandoned"]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 1));
}

#[test]
fn finished_video_cannot_be_abandoned() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let error = FileJournal::for_target(&dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(!dir.journal().exists());
    client.generate_to(&request(), &dir.target).unwrap();
    abandon(&dir);
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    fs::remove_file(&dir.target).unwrap();
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (1, 1));
}
