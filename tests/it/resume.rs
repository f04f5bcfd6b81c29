//! `generate_to` in every state that the journal and the target can be in.

use std::fs;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, ErrorKind, Image, ImageToVideo};

use crate::helpers::clients::{
    create_counts, quick_wait, request, sandbox, short_idle_timeout, test_client,
};
use crate::helpers::error_output::error_chain;
use crate::helpers::files::TestDir;
use crate::helpers::journal::{created, failed, intent, now, rejected, sending, sending_at};
use crate::helpers::media::png_of_len;

const DAY: u64 = 86_400;

/// The entries of a run that went through without a break.
pub const DONE: [&str; 6] = ["intent", "sending", "created", "completed", "publishing", "saved"];

/// A directory with a journal of this request: its `intent` entry, then `lines`.
pub fn journal_with(client: &Client, request: &ImageToVideo, lines: &[String]) -> TestDir {
    let dir = TestDir::new();
    let mut all = vec![intent(client, request, None)];
    all.extend_from_slice(lines);
    dir.write_journal(&all);
    dir
}

/// Creates a generation with the client request id `paid-before` and returns its id.
pub fn create_generation(client: &Client) -> String {
    client.create(&request().client_request_id("paid-before")).unwrap().id.to_string()
}

#[track_caller]
pub fn assert_saved(sandbox: &Sandbox, dir: &TestDir) {
    assert!(fs::read(&dir.target).unwrap() == sandbox.default_video(), "the file is not complete");
    assert_eq!(dir.last_step().as_deref(), Some("saved"));
    assert!(!dir.partial_file().exists());
}

// ---------------------------------------------------------------- the last entry

#[test]
fn created_entry_leads_to_wait_and_download() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    // A client that may not create anything: with it, a run can be finished after the credits have
    // run out.
    let client = sandbox.client_builder().max_generations(0).build().unwrap();
    let result = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(result.id.as_ref(), id);
    let error = client.generate_to(&request(), TestDir::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_eq!(sandbox.request_count(Endpoint::Logs), 0);
    assert_eq!(dir.journal_steps(), DONE);
    assert_saved(&sandbox, &dir);
}

#[test]
fn intent_rejected_and_failed_entries_lead_to_a_create() {
    for lines in [
        vec![],
        vec![sending("a"), rejected()],
        vec![sending("a"), rejected(), sending("b"), created("1"), failed("1")],
    ] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = journal_with(&client, &request(), &lines);
        let result = client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(create_counts(&sandbox), (1, 1), "{lines:?}");
        assert_eq!(result.id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(sandbox.request_count(Endpoint::Logs), 0);
        assert_saved(&sandbox, &dir);
    }
}

#[test]
fn sending_entry_without_a_log_entry_creates_nothing() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = journal_with(&client, &request(), &[sending("lost")]);
    let journal = dir.journal_text();
    for _ in 0..3 {
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        assert_eq!(error.client_request_id(), Some("lost"));
        assert!(error.may_have_been_billed());
        assert!(!error.is_retryable());
        let texts = error_chain(&error);
        assert!(texts.iter().any(|text| text.contains("FileJournal::abandon")), "{texts:?}");
        assert_eq!(dir.journal_text(), journal);
    }
    assert_eq!(create_counts(&sandbox), (0, 0));
    // The run continues once the log lists the create.
    let id = create_generation(&client);
    sandbox.add_log_entry("lost", &id, "succeeded");
    assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_ref(), id);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
}

#[test]
fn api_log_that_cannot_be_read_creates_nothing() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    for fault in [
        Fault::status(500),
        Fault::status(401),
        Fault::response(200, "{}"),
        Fault::close_connection(),
    ] {
        sandbox.fault(Endpoint::Logs, fault, 99);
        let dir = journal_with(&client, &request(), &[sending("lost")]);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.client_request_id(), Some("lost"), "{error:?}");
        assert_eq!(dir.last_step().as_deref(), Some("sending"));
        sandbox.clear_faults();
    }
    assert_eq!(create_counts(&sandbox), (0, 0));
}

#[test]
fn succeeded_log_entry_is_preferred_to_a_failed_one() {
    for statuses in [["failed", "succeeded"], ["succeeded", "failed"]] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let id = create_generation(&client);
        for status in statuses {
            let id = if status == "succeeded" { &*id } else { "789000000000000001" };
            sandbox.add_log_entry("lost", id, status);
        }
        let dir = journal_with(&client, &request(), &[sending("lost")]);
        let result = client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(result.id.as_ref(), id, "{statuses:?}");
        assert_eq!(create_counts(&sandbox), (1, 1));
    }
}

#[test]
fn failed_log_entry_that_the_generation_confirms_is_reported_once_before_a_new_create() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    sandbox.set_status_sequence(["failed"]);
    let id = create_generation(&client);
    sandbox.add_log_entry("lost", &id, "failed");
    let dir = journal_with(&client, &request(), &[sending("lost")]);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{error:?}");
    assert_eq!(error.generation_id().unwrap().as_ref(), id);
    assert!(!error.may_have_been_billed());
    assert_eq!(dir.last_step().as_deref(), Some("failed"));
    assert_eq!(create_counts(&sandbox), (1, 1));
    sandbox.complete_after_polls(0);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
    assert_saved(&sandbox, &dir);
}

#[test]
fn log_search_covers_one_day_more_than_the_age_of_the_run() {
    for (age, period) in [
        (0, "1d"), // or 2d, see below
        (60, "2d"),
        (2 * DAY - 600, "3d"),
        (2 * DAY + 600, "4d"),
        (91 * DAY - 600, "92d"),
        (500 * DAY, "92d"),
        (now(), "92d"),
    ] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        let time = now() - age;
        let intent_line = intent(&client, &request(), Some(time));
        dir.write_journal(&[intent_line, sending_at("lost", time)]);
        client.generate_to(&request(), &dir.target).unwrap_err();
        let target = sandbox.requests().pop().unwrap().target;
        let has = |period: &str| target.starts_with(&format!("/v2/logs?period={period}&"));
        // The clock may have advanced by a second since the entry was written.
        assert!(has(period) || (age == 0 && has("2d")), "{age} s old: {target}");
    }
}

#[test]
fn run_resumed_two_days_later_continues() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let two_days_ago = now() - 2 * DAY;
    let intent_line = intent(&client, &request(), Some(two_days_ago));
    let sending_line = sending_at("paid-before", two_days_ago);
    for lines in [
        vec![intent_line.clone(), sending_line.clone()],
        vec![intent_line, sending_line, created(&id)],
    ] {
        let dir = TestDir::new();
        dir.write_journal(&lines);
        assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_ref(), id);
        assert_saved(&sandbox, &dir);
    }
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn entries_in_the_future_do_not_prevent_recovery() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = TestDir::new();
    let future = now() + 9 * DAY;
    let intent_line = intent(&client, &request(), Some(future));
    dir.write_journal(&[intent_line, sending_at("paid-before", future)]);
    assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_ref(), id);
}

#[test]
fn failed_generation_is_recorded_and_the_next_run_creates() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    sandbox.set_status_sequence(["queued", "failed"]);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "failed"]);
    assert_eq!(dir.journal_lines()[3]["id"], sandbox.generations()[0].id);
    sandbox.complete_after_polls(0);
    let result = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
    assert_eq!(result.id.as_ref(), sandbox.generations()[1].id);
    assert_saved(&sandbox, &dir);
}

#[test]
fn rejected_create_is_recorded_and_the_next_run_creates() {
    for (fault, requests) in [
        (Fault::status(400), 1),
        (Fault::status(401), 1),
        (Fault::status(403), 1),
        (Fault::status(429), 4),
        (Fault::status(429).header("Retry-After", "60"), 1),
        (Fault::status(500), 1),
        (Fault::redirect(301, "/"), 1),
    ] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        sandbox.fault(Endpoint::Create, fault.clone(), requests as u32);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Api, "{fault:?}");
        assert_eq!(dir.last_step().as_deref(), Some("rejected"), "{fault:?}");
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(create_counts(&sandbox), (requests + 1, 1), "{fault:?}");
        assert_eq!(sandbox.request_count(Endpoint::Logs), 0);
        assert_saved(&sandbox, &dir);
    }
}

#[test]
fn failure_before_the_commit_point_is_not_recorded() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let large = ImageToVideo::new(Image::bytes(png_of_len(1_000_000)));
    sandbox.fault(Endpoint::Create, Fault::close_after_head(), 4);
    let error = client.generate_to(&large, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.is_retryable());
    assert_eq!(dir.journal_steps(), ["intent"]);
    client.generate_to(&large, &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (5, 1));
    assert_saved(&sandbox, &dir);
}

#[test]
fn unknown_create_is_recovered_whatever_its_cause() {
    let faults = [
        Fault::close_connection(),
        Fault::reset_before_response(),
        Fault::truncate(10),
        Fault::response(200, "<html>"),
        Fault::response(200, "{}"),
        Fault::status(502),
        Fault::status(504),
        Fault::status(524),
        Fault::response(500, ""),
        Fault::redirect(302, "/"),
    ];
    // Only the fault without a response needs a short idle timeout.
    for (idle, fault) in
        faults.map(|fault| (false, fault)).into_iter().chain([(true, Fault::no_response())])
    {
        let sandbox = sandbox();
        let builder = if idle { short_idle_timeout(&sandbox) } else { sandbox.client_builder() };
        let client = builder.build().unwrap();
        let dir = TestDir::new();
        sandbox.fault(Endpoint::Create, fault.clone().after_accepting(), 1);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown, "{fault:?}");
        assert_eq!(dir.journal_steps(), ["intent", "sending"], "{fault:?}");
        let result = client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(result.id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(create_counts(&sandbox), (1, 1), "{fault:?}");
        assert_eq!(dir.journal_steps(), DONE, "{fault:?}");
        assert_saved(&sandbox, &dir);
    }
}

#[test]
fn failure_after_the_create_leaves_a_resumable_run() {
    type Setup = fn(&Sandbox);
    let setups: [(Setup, &str); 6] = [
        (|sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1), "created"),
        (|sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(500), 1_000), "created"),
        (|sandbox| sandbox.fault(Endpoint::Video, Fault::status(500), 6), "completed"),
        (|sandbox| sandbox.fault(Endpoint::Video, Fault::close_connection(), 6), "completed"),
        (|sandbox| sandbox.fault(Endpoint::Video, Fault::status(403), 2), "completed"),
        (|sandbox| sandbox.set_video(b"<html>".to_vec()), "completed"),
    ];
    for (index, (setup, last_step)) in setups.into_iter().enumerate() {
        let sandbox = sandbox();
        setup(&sandbox);
        let wait = quick_wait().timeout(Duration::from_millis(100));
        let client = sandbox.client_builder().wait_options(wait).build().unwrap();
        let dir = TestDir::new();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert!(error.generation_id().is_some(), "{index}: {error:?}");
        let until = DONE.iter().position(|step| *step == last_step).unwrap();
        assert_eq!(dir.journal_steps(), DONE[..=until], "{index}: {error:?}");
        assert!(!dir.target.exists() && !dir.partial_file().exists());
        sandbox.clear_faults();
        sandbox.set_video(sandbox.default_video().to_vec());
        test_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert_saved(&sandbox, &dir);
    }
}
