//! `generate_to` in every state that the journal and the target can be in.

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{CancelToken, Client, ErrorKind, EventKind, Image, ImageToVideo, Route};

use crate::common::{error_chain, request, sandbox};
use crate::faults::{
    TINY_MP4, TestDir, create_counts, created, event_name, intent, mp4, now, png_with_len,
    quick_retry, quick_wait, saved, sending, short_idle_timeout,
};

const DAY: u64 = 86_400;

fn test_client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().build().unwrap()
}

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
fn journal_entry_is_written_before_the_run_continues() {
    let sandbox = sandbox();
    let dir = Arc::new(TestDir::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let client = sandbox
        .client_builder()
        .event_handler({
            let (dir, seen) = (Arc::clone(&dir), Arc::clone(&seen));
            move |event| {
                let steps = dir.journal_steps();
                let line = (event_name(event), steps.last().cloned().unwrap_or_default());
                let mut seen = seen.lock().unwrap();
                if seen.last() != Some(&line) {
                    seen.push(line);
                }
            }
        })
        .build()
        .unwrap();
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let result = client.generate_to(&request(), &dir.target).unwrap();
    let seen = seen.lock().unwrap();
    let seen: Vec<(&str, &str)> = seen.iter().map(|(event, step)| (*event, &**step)).collect();
    assert_eq!(
        seen,
        [
            ("uploading", "intent"),
            ("retrying", "rejected"), // the entry is written before the sleep
            ("uploading", "rejected"),
            ("created", "created"), // the entry is written before the event
            ("polled", "created"),
            ("downloading", "created"),
            ("saved", "saved"), // the entry is written before the event
        ]
    );
    let steps = ["intent", "sending", "rejected", "sending", "created", "saved"];
    assert_eq!(dir.journal_steps(), steps);
    let lines = dir.journal_lines();
    assert_eq!(lines[4]["id"], result.id.as_ref());
    assert_eq!(lines[5]["bytes"], result.bytes);
    assert!(!result.reused);
    assert_eq!(result.path, dir.target);
    assert_saved(&sandbox, &dir);
}

/// With such a client, a run can be finished after the credits have run out.
#[test]
fn client_with_max_generations_0_fetches_a_paid_generation() {
    let sandbox = sandbox();
    let first_client = test_client(&sandbox);
    let id = create_generation(&first_client);
    let dir = journal_with(&first_client, &request(), &[sending("paid-before"), created(&id)]);
    let client = sandbox.client_builder().max_generations(0).build().unwrap();
    client.generate_to(&request(), &dir.target).unwrap();
    assert_saved(&sandbox, &dir);

    let dir = TestDir::new();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn sending_entry_is_on_disk_before_the_request_is_complete() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = short_idle_timeout(&sandbox).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::no_response(), 1);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &dir.target));
        crate::faults::wait_until("the complete request", || {
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
fn target_missing_or_of_another_length_is_fetched_again_without_a_create() {
    for damage in [
        (|dir: &TestDir| fs::remove_file(&dir.target).unwrap()) as fn(&TestDir),
        |dir| fs::write(&dir.target, b"truncated").unwrap(),
        |dir| fs::write(&dir.target, mp4(100_000)).unwrap(),
        |dir| {
            fs::remove_file(&dir.target).unwrap();
            fs::write(dir.partial_file(), b"left by a killed run").unwrap();
        },
    ] {
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
fn dangling_symlink_counts_as_an_existing_target() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    std::os::unix::fs::symlink(dir.path().join("nowhere"), &dir.target).unwrap();
    let error = test_client(&sandbox).generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn video_without_a_saved_entry_is_fetched_again() {
    // As if the run had been killed after the rename and before the `saved` entry.
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    fs::write(&dir.target, sandbox.default_video()).unwrap();
    let result = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!((result.id.as_ref(), result.reused), (&*id, false));
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
}

// ---------------------------------------------------------------- the last entry

#[test]
fn created_entry_leads_to_wait_and_download() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    // A client that may not create anything.
    let client = sandbox.client_builder().max_generations(0).build().unwrap();
    let result = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(result.id.as_ref(), id);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_eq!(sandbox.request_count(Endpoint::Logs), 0);
    assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved"]);
    assert_saved(&sandbox, &dir);
}

#[test]
fn intent_rejected_and_failed_entries_lead_to_a_create() {
    let rejected = r#"{"step":"rejected","reason":"no"}"#.to_owned();
    let failed = r#"{"step":"failed","id":"1","reason":"no"}"#.to_owned();
    for lines in [
        vec![],
        vec![sending("a"), rejected.clone()],
        vec![sending("a"), rejected, sending("b"), created("1"), failed],
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
fn sending_entry_with_a_log_entry_recovers_the_generation() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = journal_with(&client, &request(), &[sending("paid-before")]);
    let result = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(result.id.as_ref(), id);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved"]);
    assert_saved(&sandbox, &dir);
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
        assert!(texts.iter().any(|text| text.contains("delete the journal")), "{texts:?}");
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
fn failed_log_entry_is_reported_once_before_a_new_create() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    sandbox.add_log_entry("lost", "789000000000000001", "failed");
    let dir = journal_with(&client, &request(), &[sending("lost")]);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{error:?}");
    assert_eq!(error.generation_id().unwrap().as_ref(), "789000000000000001");
    assert!(!error.may_have_been_billed());
    assert_eq!(dir.last_step().as_deref(), Some("failed"));
    assert_eq!(create_counts(&sandbox), (0, 0));
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (1, 1));
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
        let intent_line = intent(&client, &request(), Some(now() - age));
        dir.write_journal(&[intent_line, sending("lost")]);
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
    let sending_line =
        format!(r#"{{"step":"sending","client_request_id":"paid-before","at":{two_days_ago}}}"#);
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
fn intent_entry_in_the_future_does_not_prevent_recovery() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = create_generation(&client);
    let dir = TestDir::new();
    let intent_line = intent(&client, &request(), Some(now() + 9 * DAY));
    dir.write_journal(&[intent_line, sending("paid-before")]);
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
    let large = ImageToVideo::new(Image::bytes(png_with_len(1_000_000)));
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
        assert_saved(&sandbox, &dir);
    }
}

#[test]
fn failure_after_the_create_leaves_a_resumable_run() {
    type Setup = fn(&Sandbox);
    let setups: [Setup; 6] = [
        |sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1),
        |sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(500), 1_000),
        |sandbox| sandbox.fault(Endpoint::Video, Fault::status(500), 6),
        |sandbox| sandbox.fault(Endpoint::Video, Fault::close_connection(), 6),
        |sandbox| sandbox.fault(Endpoint::Video, Fault::status(403), 2),
        |sandbox| sandbox.set_video(b"<html>".to_vec()),
    ];
    for (index, setup) in setups.into_iter().enumerate() {
        let sandbox = sandbox();
        setup(&sandbox);
        let wait = quick_wait().timeout(Duration::from_millis(100));
        let client = sandbox.client_builder().wait_options(wait).build().unwrap();
        let dir = TestDir::new();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert!(error.generation_id().is_some(), "{index}: {error:?}");
        assert_eq!(dir.journal_steps(), ["intent", "sending", "created"], "{index}: {error:?}");
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
        assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved"], "{torn:?}");
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
        assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved"]);
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
    assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved"]);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn journal_with_an_invalid_line_fails_before_sending() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let first = intent(&client, &request(), None);
    for (lines, number) in [
        (vec!["garbage".to_owned(), first.clone()], 1),
        (vec![first.clone(), "{\"step\":\"sen".to_owned(), created("1")], 2),
        (vec![first.clone(), String::new(), created("1")], 2),
        (vec![first.clone(), r#"{"step":"paused"}"#.to_owned(), created("1")], 2),
        (vec![first.clone(), created("")], 2),
        (vec![first.clone(), created("1"), "\0\0\0".to_owned()], 3),
    ] {
        let dir = TestDir::new();
        dir.write_journal(&lines);
        let text = dir.journal_text();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{lines:?}: {error:?}");
        assert!(error.to_string().contains(&format!("invalid entry at line {number}:")), "{error}");
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
fn journal_that_cannot_be_opened_fails_before_sending() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);

    let dir = TestDir::new();
    fs::create_dir(dir.journal()).unwrap();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.to_string().contains("not a regular file"), "{error}");

    let missing_dir = dir.path().join("missing");
    let error = client.generate_to(&request(), missing_dir.join("cat.mp4")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    let message = format!("directory {} does not exist", missing_dir.display());
    assert!(error.to_string().contains(&message), "{error}");
    assert!(std::error::Error::source(&error).is_some());

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = client.generate_to(&request(), file.join("cat.mp4")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.to_string().contains("failed to open for writing"), "{error}");
    assert!(std::error::Error::source(&error).is_some());

    assert!(sandbox.requests().is_empty());
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
fn finished_run_of_another_request_is_replaced() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let first = client.generate_to(&another_request(), &dir.target).unwrap();
    sandbox.set_video(TINY_MP4.to_vec());
    let second = client.generate_to(&request(), &dir.target).unwrap();
    assert_ne!(first.id, second.id);
    assert!(!second.reused);
    assert_eq!(fs::read(&dir.target).unwrap(), TINY_MP4);
    assert_eq!(create_counts(&sandbox), (2, 2));
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    // The journal now belongs to `request()`, so the first request is the other one.
    client.generate_to(&another_request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (3, 3));
}

#[test]
fn unpaid_run_of_another_request_is_replaced() {
    let rejected = r#"{"step":"rejected","reason":"no"}"#.to_owned();
    let failed = r#"{"step":"failed","id":"1","reason":"no"}"#.to_owned();
    for lines in [vec![], vec![sending("a"), rejected], vec![sending("a"), created("1"), failed]] {
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
        assert!(error.to_string().contains("delete the file to abandon it"), "{error}");
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
        ("the image", &client, ImageToVideo::new(Image::bytes(png_with_len(30_000)))),
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
) -> (Client, std::path::PathBuf, ImageToVideo) {
    let path = dir.path().join("cat.png");
    fs::write(&path, png_with_len(30_000)).unwrap();
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
    fs::write(&path, png_with_len(40_000)).unwrap();
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
    for image in [Image::file(&moved), Image::bytes(png_with_len(30_000))] {
        client.generate_to(&ImageToVideo::new(image), &dir.target).unwrap();
    }
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
}

// ---------------------------------------------------------------- client request ids, API key

#[test]
fn client_request_id_of_each_attempt_is_unique_and_starts_with_the_callers() {
    let long = "x".repeat(128);
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
    assert!(!format!("{error} {error:?}").contains("sandbox-key"), "{error:?}");
    client.generate_to(&request(), &dir.target).unwrap();
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
    client.generate_to(&request(), &first.target).unwrap();
    let error = client.generate_to(&request(), &second.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_eq!(second.journal_steps(), ["intent"]);
    // Reusing a video and fetching it again create nothing.
    assert!(client.generate_to(&request(), &first.target).unwrap().reused);
    fs::remove_file(&first.target).unwrap();
    client.generate_to(&request(), &first.target).unwrap();
    // Another client has its own quota and resumes the run.
    test_client(&sandbox).generate_to(&request(), &second.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn quota_is_returned_by_a_rejected_create_but_not_by_an_unknown_one() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    let dir = TestDir::new();
    for fault in [Fault::status(400), Fault::status(403), Fault::status(500)] {
        sandbox.fault(Endpoint::Create, fault, 1);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Api);
    }
    sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    let error = client.generate_to(&request(), TestDir::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (4, 0));
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
fn lock_wait_honors_cancellation() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let _held = lock(&dir);
    let token = CancelToken::new();
    token.cancel();
    let client = test_client(&sandbox).with_cancel_token(token);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
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
    assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved"]);
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
    let id = create_generation(&client);
    let length = sandbox.default_video().len();
    let lines = [sending("paid-before"), created(&id), saved(&id, length + 1)];
    let dir = journal_with(&client, &request(), &lines);
    fs::write(&dir.target, sandbox.default_video()).unwrap();
    assert!(!client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(dir.journal_steps(), ["intent", "sending", "created", "saved", "saved"]);
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(create_counts(&sandbox), (1, 1));
}
