//! What the record of a durable run proves: an id that is known is fetched and never paid for again,
//! and what is not known is paid for again only once it is abandoned.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, Client, Error, ErrorKind, EventKind, FileJournal, Image, ImageToVideo, RetryPolicy,
};
use serde_json::json;

use crate::helpers::clients::{create_counts, quick_wait, request, sandbox, test_client};
use crate::helpers::files::TestDir;
use crate::helpers::journal::{created, intent, rejected, sending};
use crate::helpers::media::png_of_len;
use crate::helpers::timing::with_timeout;

fn another_request() -> ImageToVideo {
    request().prompt("the dog barks")
}

/// A client that may replace videos and makes a single attempt at every request.
fn replacing_client(sandbox: &Sandbox) -> Client {
    let builder = sandbox.client_builder().retry_policy(RetryPolicy::none());
    builder.replace_videos(true).build().unwrap()
}

/// A JSON body with the vendor's marks.
fn marked(status: u16) -> String {
    format!(r#"{{"message":"no","statusCode":{status},"requestId":"r-1"}}"#)
}

/// A log that lists one request.
fn log(client_request_id: &str, id: &str, status: &str, created: &str) -> Fault {
    let row = json!({
        "client_request_id": client_request_id, "inference_id": id, "status": status,
        "created": created,
    });
    Fault::response(200, json!({ "data": [row] }).to_string())
}

/// Runs `generate_to`, which the server accepts, but which receives this response.
fn lost_create(sandbox: &Sandbox, dir: &TestDir, fault: Fault) -> Error {
    sandbox.fault(Endpoint::Create, fault.after_accepting(), 1);
    let client = sandbox.client_builder().retry_policy(RetryPolicy::none()).build().unwrap();
    client.generate_to(&request(), &dir.target).unwrap_err()
}

fn paid_id(sandbox: &Sandbox) -> String {
    sandbox.generations()[0].id.clone()
}

fn abandon(dir: &TestDir) {
    FileJournal::for_target(&dir.target).unwrap().abandon().unwrap();
}

#[track_caller]
fn assert_saved_as(sandbox: &Sandbox, client: &Client, dir: &TestDir, id: &str) {
    let saved = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(saved.id.as_str(), id);
    assert!(fs::read(&dir.target).unwrap() == sandbox.default_video());
    assert_eq!(dir.last_step().as_deref(), Some("saved"));
}

// ---------------------------------------------------------------- generations that have ended

#[test]
fn saved_video_that_was_deleted_and_has_expired_is_paid_for_again_only_after_it_is_abandoned() {
    for status in ["expired", "error", "failed", "canceled"] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        let id = client.generate_to(&request(), &dir.target).unwrap().id;
        fs::remove_file(&dir.target).unwrap();
        let body = json!({ "id": id, "status": status, "error": { "message": "it is gone" } });
        sandbox.fault(Endpoint::Retrieve, Fault::response(200, body.to_string()), 99);
        for _ in 0..2 {
            let error = client.generate_to(&request(), &dir.target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{status}: {error:?}");
            assert_eq!(error.generation_id(), Some(&id), "{status}");
            assert!(error.may_have_been_billed() && !error.is_retryable(), "{status}");
            assert!(error.to_string().contains("it is gone"), "{status}: {error}");
            assert!(error.to_string().contains("FileJournal::abandon"), "{status}: {error}");
            assert_eq!(dir.last_step().as_deref(), Some("ended"), "{status}");
        }
        assert_eq!(create_counts(&sandbox), (1, 1), "{status}");
        sandbox.clear_faults();
        abandon(&dir);
        assert_ne!(client.generate_to(&request(), &dir.target).unwrap().id, id, "{status}");
        assert_eq!(create_counts(&sandbox), (2, 2), "{status}");
    }
}

// ---------------------------------------------------------------- ids that an error response named

#[test]
fn unusable_response_that_named_the_id_is_recovered_without_the_log() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let error = lost_create(&sandbox, &dir, Fault::status(504).with_inference_id());
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    let id = paid_id(&sandbox);
    sandbox.fault(Endpoint::Logs, Fault::response(403, marked(403)), 99);
    // As long as neither source responds, the error names what is known.
    sandbox.fault(Endpoint::Retrieve, Fault::response(403, marked(403)), 1);
    let client = test_client(&sandbox);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.generation_id().map(|id| id.as_str()), Some(&*id), "{error:?}");
    assert!(error.may_have_been_billed());
    let searches = sandbox.request_count(Endpoint::Logs);
    assert_saved_as(&sandbox, &client, &dir, &id);
    assert_eq!(sandbox.request_count(Endpoint::Logs), searches);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn rejection_that_named_a_generation_is_adopted_before_the_next_create() {
    for status in [400, 401, 429, 500, 503] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let fault = Fault::response(status, marked(status)).with_inference_id();
        // The question that follows a 429 at once gets no response.
        sandbox.fault(Endpoint::Retrieve, Fault::response(502, "<html>"), u32::from(status == 429));
        let error = lost_create(&sandbox, &dir, fault);
        let id = paid_id(&sandbox);
        assert_eq!(error.kind(), ErrorKind::Api, "{status}: {error:?}");
        let line = dir.journal_lines().pop().unwrap();
        assert_eq!((line["step"].as_str(), line["id"].as_str()), (Some("rejected"), Some(&*id)));
        // Another request does not adopt it, nor ask about it.
        let polls = sandbox.request_count(Endpoint::Retrieve);
        let client = sandbox.client_builder().max_generations(0).build().unwrap();
        let error = client.generate_to(&another_request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationLimit, "{status}: {error:?}");
        assert_eq!(sandbox.request_count(Endpoint::Retrieve), polls, "{status}");
        assert_saved_as(&sandbox, &client, &dir, &id);
        assert_eq!(create_counts(&sandbox), (1, 1), "{status}");
        assert_eq!(sandbox.request_count(Endpoint::Logs), 0, "{status}");
    }
}

#[test]
fn id_that_a_rejection_named_costs_one_question_and_what_is_unknown_prevents_the_create() {
    let named = |status: &str| json!({ "id": "named", "status": status }).to_string();
    for (marked_rejection, response, creates) in [
        (true, Fault::response(404, marked(404)), true),
        (true, Fault::response(200, named("error")), true),
        // An unmarked rejection stands only after the grace.
        (false, Fault::response(404, marked(404)), false),
        (true, Fault::response(404, "<html>"), false),
        (true, Fault::response(429, marked(429)), false),
        (true, Fault::response(200, named("unknown")), false),
        (true, Fault::close_connection(), false),
    ] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = replacing_client(&sandbox);
        let body = if marked_rejection { marked(400) } else { "<html>".to_owned() };
        let fault = Fault::response(400, body).header("x-inference-id", "named");
        sandbox.fault(Endpoint::Create, fault, 1);
        client.generate_to(&request(), &dir.target).unwrap_err();
        sandbox.fault(Endpoint::Retrieve, response.clone(), 1);
        let result = client.generate_to(&request(), &dir.target);
        let asked = |request: &kling_video::sandbox::RecordedRequest| {
            request.target.ends_with("generation_id=named")
        };
        assert_eq!(sandbox.requests().iter().filter(|r| asked(r)).count(), 1, "{response:?}");
        assert_eq!(create_counts(&sandbox), (1 + usize::from(creates), usize::from(creates)));
        if let Err(error) = result {
            assert!(!creates, "{response:?}: {error:?}");
            assert_eq!(error.generation_id().map(|id| id.as_str()), Some("named"), "{response:?}");
            assert!(error.may_have_been_billed(), "{response:?}");
            assert_eq!(dir.last_step().as_deref(), Some("rejected"), "{response:?}");
            abandon(&dir);
            client.generate_to(&request(), &dir.target).unwrap();
            assert_eq!(sandbox.requests().iter().filter(|r| asked(r)).count(), 1, "{response:?}");
        }
    }
}

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

// ---------------------------------------------------------------- several requests, one target

#[test]
fn finished_video_survives_every_end_of_another_request() {
    type End = fn(&Sandbox, Client) -> Client;
    let reject = |sandbox: &Sandbox, status| {
        sandbox.fault(Endpoint::Create, Fault::response(status, marked(status)), 1);
    };
    let ends: [(&str, End); 10] = [
        ("400", |_, client| client),
        ("401", |_, client| client),
        ("403", |_, client| client),
        ("503", |_, client| client),
        ("limit", |sandbox, _| {
            sandbox.client_builder().replace_videos(true).max_generations(0).build().unwrap()
        }),
        ("no network", |sandbox, _| {
            let builder = sandbox.client_builder().retry_policy(RetryPolicy::none());
            builder.replace_videos(true).base_url("http://127.0.0.1:1").build().unwrap()
        }),
        ("cancelled", |_, client| {
            let token = CancelToken::new();
            token.cancel();
            client.with_cancel_token(token)
        }),
        ("failed", |sandbox, client| {
            sandbox.set_status_sequence(["failed"]);
            client
        }),
        ("unknown", |sandbox, client| {
            sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
            client
        }),
        ("not fetched", |sandbox, client| {
            sandbox.fault(Endpoint::Video, Fault::status(500), 9);
            client
        }),
    ];
    for (name, end) in ends {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = replacing_client(&sandbox);
        let first = client.generate_to(&request(), &dir.target).unwrap();
        if let Ok(status) = name.parse() {
            reject(&sandbox, status);
        }
        let other = end(&sandbox, client.clone());
        other.generate_to(&another_request(), &dir.target).unwrap_err();
        assert!(fs::read(&dir.target).unwrap() == sandbox.default_video(), "{name}");
        let requests = sandbox.requests().len();
        for client in [&client, &test_client(&sandbox)] {
            let again = client.generate_to(&request(), &dir.target).unwrap();
            assert_eq!((again.reused, &again.id), (true, &first.id), "{name}");
        }
        assert_eq!(sandbox.requests().len(), requests, "{name}");
    }
}

#[test]
fn blocked_run_names_the_generation_of_its_own_request() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let replacing = sandbox.client_builder().replace_videos(true).build().unwrap();
    let first = replacing.generate_to(&request(), &dir.target).unwrap().id;
    replacing.generate_to(&another_request(), &dir.target).unwrap();

    // The target is the other request's video, and then nobody's.
    let client = test_client(&sandbox);
    let other_video = client.generate_to(&request(), &dir.target).unwrap_err();
    std::fs::write(&dir.target, "edited").unwrap();
    let unknown_file = client.generate_to(&request(), &dir.target).unwrap_err();
    for error in [other_video, unknown_file] {
        assert_eq!(error.generation_id(), Some(&first), "{error}");
        assert!(error.may_have_been_billed(), "{error}");
    }
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn two_requests_with_one_target_pay_once_each_at_most() {
    for (replace, paid) in [(false, 1), (true, 2)] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = sandbox.client_builder().replace_videos(replace).build().unwrap();
        for _ in 0..3 {
            let own = client.generate_to(&request(), &dir.target).unwrap();
            assert_eq!(own.id.as_str(), paid_id(&sandbox));
            match client.generate_to(&another_request(), &dir.target) {
                Ok(saved) => {
                    assert!(replace);
                    assert_eq!(saved.id.as_str(), sandbox.generations()[1].id);
                }
                Err(error) => {
                    assert!(!replace, "{error:?}");
                    assert_eq!(error.kind(), ErrorKind::Journal);
                    assert!(error.to_string().contains("replace_videos(true)"), "{error}");
                }
            }
        }
        assert_eq!(create_counts(&sandbox), (paid, paid));
    }
}

#[test]
fn video_fetched_again_is_not_taken_for_that_of_the_request_in_between() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = replacing_client(&sandbox);
    let first = client.generate_to(&request(), &dir.target).unwrap();
    sandbox.fault(Endpoint::Create, Fault::response(400, marked(400)), 1);
    client.generate_to(&another_request(), &dir.target).unwrap_err();
    fs::remove_file(&dir.target).unwrap();
    assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id, first.id);
    let second = client.generate_to(&another_request(), &dir.target).unwrap();
    assert_ne!(second.id, first.id);
    assert_eq!(create_counts(&sandbox), (3, 2));
}

// ---------------------------------------------------------------- which request it is

#[test]
fn request_is_the_same_however_its_numbers_and_paths_are_written() {
    let sandbox = sandbox();
    sandbox.allow_field("seed");
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let mask = dir.path().join("mask.png");
    fs::write(&mask, png_of_len(20_000)).unwrap();
    let masked = |scale: f64, mask: PathBuf| {
        request().cfg_scale(scale).static_mask(Image::file(mask)).extra("seed", json!(1))
    };
    client.generate_to(&masked(0.0, mask.clone()), &dir.target).unwrap();
    let spelled = dir.path().join(".").join("mask.png");
    let moved = dir.path().join("moved.png");
    fs::copy(&mask, &moved).unwrap();
    for (name, same) in [
        ("-0.0", masked(-0.0, mask.clone())),
        ("path", masked(0.0, spelled)),
        ("copy", masked(0.0, moved)),
        ("1.0", masked(0.0, mask.clone()).extra("seed", json!(1.0))),
    ] {
        let again = client.generate_to(&same, &dir.target);
        assert!(again.unwrap_or_else(|error| panic!("{name}: {error:?}")).reused, "{name}");
    }
    // Another mask at the same path is another request.
    fs::write(&mask, png_of_len(20_001)).unwrap();
    let error = client.generate_to(&masked(0.0, mask), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert_eq!(create_counts(&sandbox), (1, 1));
}

// ---------------------------------------------------------------- torn and damaged records

#[test]
fn entry_that_allows_to_send_or_gives_up_counts_only_with_its_newline() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let first = intent(&client, &request(), None);
    let torn = |lines: &[String]| {
        let dir = TestDir::new();
        fs::write(dir.journal(), lines.join("\n")).unwrap();
        dir
    };
    // The create was not sent.
    let dir = torn(&[first.clone(), sending("unsent")]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!((create_counts(&sandbox), sandbox.request_count(Endpoint::Logs)), ((1, 1), 0));
    // It was, and the rejection may not be durable.
    let dir = torn(&[first.clone(), sending("lost"), rejected()]);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown, "{error:?}");
    abandon(&dir);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
    // An id counts in any case.
    let dir = torn(&[first, sending("sent"), created(&paid_id(&sandbox))]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[cfg(unix)]
#[test]
fn journal_that_is_deleted_or_replaced_before_the_commit_prevents_the_create() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("deleted", |journal| fs::remove_file(journal).unwrap()),
        ("moved", |journal| fs::rename(journal, journal.with_extension("old")).unwrap()),
        ("saved by an editor", |journal| {
            let copy = journal.with_extension("copy");
            fs::copy(journal, &copy).unwrap();
            fs::rename(copy, journal).unwrap();
        }),
    ];
    for (name, change) in changes {
        let sandbox = sandbox();
        let dir = Arc::new(TestDir::new());
        let changed = std::sync::Once::new();
        let journal = dir.journal();
        let client = sandbox.client_builder().retry_policy(RetryPolicy::none());
        let client = client.event_handler(move |event| {
            if let EventKind::Uploading { .. } = event.kind {
                changed.call_once(|| change(&journal));
            }
        });
        let client = client.build().unwrap();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{name}: {error:?}");
        assert!(!error.may_have_been_billed(), "{name}");
        assert_eq!(sandbox.generations().len(), 0, "{name}");
        assert!(sandbox.requests().iter().all(|request| !request.body_complete), "{name}");
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(sandbox.generations().len(), 1, "{name}");
    }
}

#[test]
fn blank_lines_are_skipped_and_foreign_lines_are_errors_with_the_id() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = client.create(&request()).unwrap().id.to_string();
    let first = intent(&client, &request(), None);
    let dir = TestDir::new();
    let blank = [String::new(), " \t".to_owned(), "\r".to_owned()];
    let lines = [std::slice::from_ref(&first), &blank, &[created(&id)], &blank].concat();
    dir.write_journal(&lines);
    assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_str(), id);

    let requests = sandbox.requests().len();
    let mut newer: serde_json::Value = serde_json::from_str(&first).unwrap();
    newer["version"] = 99.into();
    for (line, message) in [
        ("# moved here from the old machine".to_owned(), "invalid entry at line 3"),
        ("\0\0\0\0".to_owned(), "invalid entry at line 3"),
        (r#"{"step":"upscaled","id":"2"}"#.to_owned(), "another version of kling-video"),
        (newer.to_string(), "another version of kling-video"),
    ] {
        for follows in [None, Some(sending("later"))] {
            let dir = TestDir::new();
            let lines = [first.clone(), created(&id), line.clone()];
            dir.write_journal(&lines.into_iter().chain(follows).collect::<Vec<_>>());
            let text = dir.journal_text();
            let error = client.generate_to(&request(), &dir.target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Journal, "{line}: {error:?}");
            assert_eq!(error.generation_id().map(|id| id.as_str()), Some(&*id), "{line}");
            assert!(error.to_string().contains(message), "{line}: {error}");
            assert!(!error.to_string().contains("delete"), "{line}: {error}");
            assert!(error.may_have_been_billed(), "{line}");
            assert_eq!(dir.journal_text(), text, "{line}");
        }
    }
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn journal_of_before_this_version_is_not_paid_over() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    dir.write_journal(&[
        json!({ "step": "intent", "request": { "model": "m" }, "at": 1_755_000_000 }).to_string(),
        json!({ "step": "sending", "client_request_id": "lost", "at": 1_755_000_000 }).to_string(),
        created("789"),
    ]);
    let text = dir.journal_text();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert!(error.to_string().contains("another version of kling-video"), "{error}");
    assert_eq!(error.generation_id().map(|id| id.as_str()), Some("789"));
    assert_eq!(dir.journal_text(), text);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn journal_or_target_whose_state_cannot_be_known_is_an_error_at_once() {
    let sandbox = Arc::new(sandbox());
    let dir = Arc::new(TestDir::new());
    // The target's name can be used, its journal's is too long.
    #[cfg_attr(not(unix), expect(unused_mut, reason = "more targets on Unix"))]
    let mut targets = vec![dir.path().join("x".repeat(250))];
    #[cfg(unix)]
    {
        let (looping, loops) = (dir.path().join("a.mp4"), dir.path().join("b.mp4"));
        let journal = dir.path().join("a.mp4.kling.jsonl");
        std::os::unix::fs::symlink(&journal, &journal).unwrap();
        std::os::unix::fs::symlink(&loops, &loops).unwrap();
        targets.extend([looping, loops]);
    }
    for target in targets {
        let (client, path) = (test_client(&sandbox), target.clone());
        let started = Instant::now();
        let error = with_timeout(move || client.generate_to(&request(), path).unwrap_err());
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(
            matches!(error.kind(), ErrorKind::Journal | ErrorKind::Io),
            "{target:?}: {error:?}"
        );
        assert!(!error.may_have_been_billed(), "{target:?}");
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn journal_that_this_process_has_open_is_an_error_at_once() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    let _open = FileJournal::open(dir.journal()).unwrap();
    let second = FileJournal::for_target(&dir.target).unwrap_err();
    let run = client.generate_to(&request(), &dir.target).unwrap_err();
    for error in [second, run] {
        assert!(error.to_string().contains("already open in this process"), "{error}");
    }
}

// ---------------------------------------------------------------- read-only directories

#[cfg(unix)]
#[test]
fn finished_run_in_a_read_only_directory_is_reused() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::CommandExt as _;

    const NOBODY: u32 = 65_534;
    let sandbox = sandbox();
    let dir = TestDir::new();
    test_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    let mut command = crate::helpers::subprocess::this_binary();
    // The permissions do not apply to root.
    if std::os::unix::fs::chown(dir.path(), Some(NOBODY), None).is_ok() {
        command.uid(NOBODY);
    }
    fs::set_permissions(dir.journal(), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&dir.target, fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o500)).unwrap();
    let output = command
        .args(["record::read_only_directory_subprocess", "--exact", "--nocapture"])
        .env("READ_ONLY_TARGET", &dir.target)
        .output();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let output = match output {
        // The binary is below a directory that only root may enter.
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return,
        output => output.unwrap(),
    };
    assert!(output.status.success(), "{output:?}");
}

#[cfg(unix)]
#[test]
fn read_only_directory_subprocess() {
    let Some(target) = std::env::var_os("READ_ONLY_TARGET").map(PathBuf::from) else { return };
    assert!(fs::File::create(target.with_file_name("probe")).is_err(), "it must be read-only");
    let sandbox = sandbox();
    let client = sandbox.client_builder().replace_videos(true).build().unwrap();
    assert!(client.generate_to(&request(), &target).unwrap().reused);
    let error = client.generate_to(&another_request(), &target).unwrap_err();
    assert!(!error.may_have_been_billed(), "{error:?}");
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- publishing

/// A directory in which a run was killed after it had recorded `publishing`.
fn killed_while_publishing(client: &Client) -> TestDir {
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    let text = dir.journal_text();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (saved, before) = lines.split_last().unwrap();
    assert!(saved.contains(r#""saved""#), "{saved}");
    dir.write_journal(before);
    dir
}

#[test]
fn video_of_a_run_that_was_killed_before_saved_is_the_runs_own() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = killed_while_publishing(&client);
    // What a kill between `link` and `unlink` leaves.
    #[cfg(unix)]
    fs::hard_link(&dir.target, dir.partial_file()).unwrap();
    let requests = sandbox.requests().len();
    // Another request sees that it is not finished.
    let error = client.generate_to(&another_request(), &dir.target).unwrap_err();
    assert!(error.may_have_been_billed(), "{error:?}");
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.kling.jsonl"]);
    let lines = dir.journal_lines();
    let last = lines.last().unwrap();
    assert_eq!((last["step"].as_str(), last["length"].as_u64()), (Some("saved"), Some(18_218)));
    assert!(last["usage"].is_object(), "{last}");
}

#[test]
fn run_killed_while_publishing_fetches_its_video_again() {
    type Leave = fn(&TestDir);
    let leaves: [Leave; 2] = [
        |dir| fs::remove_file(&dir.target).unwrap(),
        // What was reserved for the video, where links are not offered.
        |dir| fs::write(&dir.target, "").unwrap(),
    ];
    for leave in leaves {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = killed_while_publishing(&client);
        leave(&dir);
        assert_saved_as(&sandbox, &client, &dir, &paid_id(&sandbox));
        assert_eq!(create_counts(&sandbox), (1, 1));
    }
}
