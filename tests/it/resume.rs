//! `generate_to` in every state that the journal and the target can be in.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{CancelToken, Client, ErrorKind, EventKind, Image, ImageToVideo, Route};

use crate::helpers::clients::{
    create_counts, quick_retry, quick_wait, request, sandbox, short_idle_timeout, test_client,
};
use crate::helpers::error_output::{error_chain, full_error_output};
use crate::helpers::events::{event_name, record_events};
use crate::helpers::files::{TestDir, unwritable_dir};
use crate::helpers::journal::{created, failed, intent, now, rejected, sending, sending_at};
use crate::helpers::media::{TINY_MP4, mp4, png_of_len};
use crate::helpers::timing::wait_until;

const DAY: u64 = 86_400;

/// The entries of a run that went through without a break.
const DONE: [&str; 6] = ["intent", "sending", "created", "completed", "publishing", "saved"];

/// A directory with a journal of this request: its `intent` entry, then `lines`.
fn journal_with(client: &Client, request: &ImageToVideo, lines: &[String]) -> TestDir {
    let dir = TestDir::new();
    let mut all = vec![intent(client, request, None)];
    all.extend_from_slice(lines);
    dir.write_journal(&all);
    dir
}

/// Creates a generation with the client request id `paid-before` and returns its id.
fn create_generation(client: &Client) -> String {
    client.create(&request().client_request_id("paid-before")).unwrap().id.to_string()
}

#[track_caller]
fn assert_saved(sandbox: &Sandbox, dir: &TestDir) {
    assert!(fs::read(&dir.target).unwrap() == sandbox.default_video(), "the file is not complete");
    assert_eq!(dir.last_step().as_deref(), Some("saved"));
    assert!(!dir.partial_file().exists());
}

// ---------------------------------------------------------------- the order of the entries

#[test]
#[cfg_attr(windows, ignore = "Windows lets nobody read a journal in use; wine does")]
fn journal_entry_is_written_before_the_run_continues() {
    let sandbox = sandbox();
    let dir = Arc::new(TestDir::new());
    let (client, recording) = record_events(sandbox.client_builder(), {
        let dir = Arc::clone(&dir);
        move |event| Some((event_name(event), dir.last_step().unwrap_or_default()))
    });
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let result = client.generate_to(&request(), &dir.target).unwrap();
    let mut seen = recording.take();
    seen.dedup();
    let seen: Vec<(&str, &str)> = seen.iter().map(|(event, step)| (*event, &**step)).collect();
    assert_eq!(
        seen,
        [
            ("uploading", "intent"),
            ("retrying", "rejected"), // the entry is written before the sleep
            ("uploading", "rejected"),
            ("created", "created"), // the entry is written before the event
            ("polled", "created"),
            ("downloading", "completed"),
            ("saved", "saved"), // the entry is written before the event
        ]
    );
    let steps =
        ["intent", "sending", "rejected", "sending", "created", "completed", "publishing", "saved"];
    assert_eq!(dir.journal_steps(), steps);
    let lines = dir.journal_lines();
    for line in &lines[4..] {
        assert_eq!(line["id"], result.id.as_ref());
    }
    for line in &lines[6..] {
        assert_eq!(line["length"], result.bytes);
    }
    assert!(!result.reused);
    assert_eq!(result.path, dir.target);
    assert_saved(&sandbox, &dir);
}

#[test]
#[cfg_attr(windows, ignore = "Windows lets nobody read a journal in use; wine does")]
fn sending_entry_is_on_disk_before_the_request_is_complete() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = short_idle_timeout(&sandbox).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::no_response(), 1);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &dir.target));
        wait_until("the complete request", || {
            let complete = sandbox.requests().iter().any(|request| request.body_complete);
            assert!(!complete || dir.last_step().as_deref() == Some("sending"));
            complete
        });
        let error = run.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        // The message suggests `generate_to` as the next step, not `find`.
        assert!(error.to_string().contains("call generate_to again later"), "{error}");
    });
    assert_eq!(dir.journal_steps(), ["intent", "sending"]);
}

#[test]
fn finished_video_is_reused_without_a_request() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    let dir = TestDir::new();
    let first = client.generate_to(&request(), &dir.target).unwrap();
    let (requests, journal) = (sandbox.requests().len(), dir.journal_text());
    let again = client.generate_to(&request(), &dir.target).unwrap();
    assert!(again.reused && !first.reused);
    assert_eq!((again.id, again.bytes, again.path), (first.id, first.bytes, first.path));
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(dir.journal_text(), journal);
    // The client request id is not part of the request's identity.
    let with_another_id = request().client_request_id("order-1");
    assert!(client.generate_to(&with_another_id, &dir.target).unwrap().reused);
}

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

// ---------------------------------------------------------------- journals of other requests

fn another_request() -> ImageToVideo {
    request().prompt("the dog barks")
}

#[test]
fn finished_run_of_another_request_is_replaced_only_on_demand() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let first = client.generate_to(&another_request(), &dir.target).unwrap();
    sandbox.set_video(TINY_MP4.to_vec());
    let (requests, journal) = (sandbox.requests().len(), dir.journal_text());
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert!(error.to_string().contains("replace_videos(true)"), "{error}");
    assert!(error.to_string().contains(first.id.as_ref()), "{error}");
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    assert_eq!((sandbox.requests().len(), dir.journal_text()), (requests, journal));
    assert_eq!(fs::read(&dir.target).unwrap(), sandbox.default_video());

    let replacing = sandbox.client_builder().replace_videos(true).build().unwrap();
    let second = replacing.generate_to(&request(), &dir.target).unwrap();
    assert_ne!(first.id, second.id);
    assert!(!second.reused);
    assert_eq!(fs::read(&dir.target).unwrap(), TINY_MP4);
    assert_eq!(create_counts(&sandbox), (2, 2));
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    // The first request's id is on record: its video is fetched, not paid for again.
    assert_eq!(replacing.generate_to(&another_request(), &dir.target).unwrap().id, first.id);
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn unpaid_run_of_another_request_is_replaced() {
    for lines in
        [vec![], vec![sending("a"), rejected()], vec![sending("a"), created("1"), failed("1")]]
    {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = journal_with(&client, &another_request(), &lines);
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    }
}

#[test]
fn unfinished_run_of_another_request_is_an_error_with_a_next_step() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = "789392067490349060";
    for (lines, expected_id) in
        [(vec![sending("lost")], "lost"), (vec![sending("lost"), created(id)], id)]
    {
        let dir = journal_with(&client, &another_request(), &lines);
        let text = dir.journal_text();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
        assert!(error.to_string().contains(&format!("`{expected_id}`")), "{error}");
        assert!(error.to_string().contains("FileJournal::abandon"), "{error}");
        assert!(error.may_have_been_billed());
        match expected_id == id {
            true => assert_eq!(error.generation_id().unwrap().as_ref(), id),
            false => assert_eq!(error.client_request_id(), Some("lost")),
        }
        assert_eq!(dir.journal_text(), text);
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn request_identity_covers_fields_image_and_route() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let universal = sandbox.client_builder().route(Route::Universal).build().unwrap();
    let dir = journal_with(&client, &request(), &[sending("lost"), created("1")]);
    for (name, client, other) in [
        ("the prompt", &client, request().prompt("x")),
        ("an option", &client, request().cfg_scale(0.5)),
        ("the duration", &client, request().duration(kling_video::VideoDuration::TenSeconds)),
        ("the URL", &client, ImageToVideo::new(Image::url("https://example.com/dog.jpg"))),
        ("the image", &client, ImageToVideo::new(Image::bytes(png_of_len(30_000)))),
        ("the route", &universal, request()),
    ] {
        let error = client.generate_to(&other, &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{name}: {error:?}");
    }
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- image files

/// Starts a run with an image file, and makes it fail after the create. Returns the client, the
/// image's path and the request.
fn run_interrupted_after_create(
    sandbox: &Sandbox,
    dir: &TestDir,
) -> (Client, PathBuf, ImageToVideo) {
    let path = dir.path().join("cat.png");
    fs::write(&path, png_of_len(30_000)).unwrap();
    let request = ImageToVideo::new(Image::file(&path));
    sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1);
    let client = test_client(sandbox);
    client.generate_to(&request, &dir.target).unwrap_err();
    assert_eq!(dir.last_step().as_deref(), Some("created"));
    (client, path, request)
}

#[test]
fn image_deleted_after_the_create_is_not_needed() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, request) = run_interrupted_after_create(&sandbox, &dir);
    fs::remove_file(&path).unwrap();
    client.generate_to(&request, &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
    assert!(client.generate_to(&request, &dir.target).unwrap().reused);
}

#[test]
fn image_missing_before_the_create_fails_the_run() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let request = ImageToVideo::new(Image::file(dir.path().join("cat.png")));
    let error = test_client(&sandbox).generate_to(&request, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(sandbox.requests().is_empty());
}

#[test]
fn image_replaced_at_the_same_path_is_another_request() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, request) = run_interrupted_after_create(&sandbox, &dir);
    fs::write(&path, png_of_len(40_000)).unwrap();
    let error = client.generate_to(&request, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(error.generation_id().unwrap().as_ref(), sandbox.generations()[0].id);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn image_with_the_same_bytes_is_the_same_request() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, _) = run_interrupted_after_create(&sandbox, &dir);
    let moved = dir.path().join("moved.png");
    fs::rename(&path, &moved).unwrap();
    for image in [Image::file(&moved), Image::bytes(png_of_len(30_000))] {
        client.generate_to(&ImageToVideo::new(image), &dir.target).unwrap();
    }
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
}

// ---------------------------------------------------------------- client request ids, API key

#[test]
fn client_request_id_of_each_attempt_is_unique_and_starts_with_the_callers() {
    let long = "x".repeat(111);
    for caller_id in [None, Some("order-4711"), Some(&*long)] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        let request = match caller_id {
            Some(id) => request().client_request_id(id),
            None => request(),
        };
        sandbox.fault(Endpoint::Create, Fault::status(429), 2);
        sandbox.fault(Endpoint::Create, Fault::status(400), 1);
        client.generate_to(&request, &dir.target).unwrap_err();
        client.generate_to(&request, &dir.target).unwrap();
        let lines = dir.journal_lines();
        let recorded: Vec<_> =
            lines.iter().filter_map(|line| line["client_request_id"].as_str()).collect();
        let sent: Vec<_> = sandbox
            .requests()
            .iter()
            .filter_map(|request| request.header("x-client-request-id").map(str::to_owned))
            .collect();
        assert_eq!(recorded, sent);
        assert_eq!(sent.len(), 4);
        let mut distinct = sent.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "{sent:?}");
        for id in &sent {
            assert!(id.len() <= 128, "{id}");
            let prefix = caller_id.unwrap_or("kling-video-");
            assert!(id.starts_with(&prefix[..prefix.len().min(100)]), "{id}");
        }
        // The server ignores invalid ids; it recorded this one.
        assert_eq!(sandbox.generations()[0].client_request_id.as_ref(), sent.last());
    }
}

#[test]
fn api_key_is_never_in_the_journal() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let echo = r#"{"message":"bad key sandbox-key","statusCode":400}"#;
    sandbox.fault(Endpoint::Create, Fault::response(400, echo), 1);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert!(!full_error_output(&error).contains("sandbox-key"), "{error:?}");
    assert!(full_error_output(&error).contains("bad key [key]"), "{error:?}");
    // The words of a rejection are not recorded, those of a failure are.
    assert!(!dir.journal_text().contains("bad key"), "{}", dir.journal_text());
    sandbox.set_failure("BadKey", "bad key sandbox-key");
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{error:?}");
    let text = dir.journal_text();
    assert!(text.contains("bad key [key]"), "{text}");
    assert!(!text.contains("sandbox-key"), "{text}");
}

// ---------------------------------------------------------------- max_generations

#[test]
fn max_generations_applies_to_runs_before_sending() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    let (first, second) = (TestDir::new(), TestDir::new());
    // A rejected create does not count.
    for fault in [Fault::status(400), Fault::status(403), Fault::status(500)] {
        sandbox.fault(Endpoint::Create, fault, 1);
        let error = client.generate_to(&request(), &first.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Api);
    }
    client.generate_to(&request(), &first.target).unwrap();
    let error = client.generate_to(&request(), &second.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (4, 1));
    assert_eq!(second.journal_steps(), ["intent"]);
    // Reusing a video and fetching it again create nothing.
    assert!(client.generate_to(&request(), &first.target).unwrap().reused);
    fs::remove_file(&first.target).unwrap();
    client.generate_to(&request(), &first.target).unwrap();
    // Another client has its own quota and resumes the run.
    test_client(&sandbox).generate_to(&request(), &second.target).unwrap();
    assert_eq!(create_counts(&sandbox), (5, 2));
    // An unknown create counts.
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
    let error = client.generate_to(&request(), TestDir::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    let error = client.generate_to(&request(), TestDir::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (6, 2));
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
    let held = lock(&dir);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &dir.target));
        thread::sleep(Duration::from_millis(30));
        assert!(sandbox.requests().is_empty());
        drop(held);
        run.join().unwrap().unwrap();
    });
    assert_saved(&sandbox, &dir);
}

#[cfg(unix)]
#[test]
fn journal_deleted_during_the_lock_wait_is_recreated() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let held = lock(&dir);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &dir.target));
        thread::sleep(Duration::from_millis(30));
        fs::remove_file(dir.journal()).unwrap();
        drop(held);
        run.join().unwrap().unwrap();
    });
    assert_eq!(dir.journal_steps(), DONE);
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
}

#[test]
fn run_cancelled_during_back_off_is_recorded_as_rejected() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let token = CancelToken::new();
    let client = sandbox
        .client_builder()
        .retry_policy(quick_retry().max_delay(Duration::from_secs(60)))
        .event_handler({
            let token = token.clone();
            move |event| {
                if let EventKind::Retrying { .. } = event.kind {
                    token.cancel();
                }
            }
        })
        .build()
        .unwrap();
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
