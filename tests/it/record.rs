//! What the record of a durable run proves: an id that is known is fetched and never paid for again,
//! and what is not known is paid for again only once it is abandoned.

use std::fs;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{CancelToken, Client, Error, ErrorKind, FileJournal, ImageToVideo, RetryPolicy};
use serde_json::json;

use crate::helpers::clients::{create_counts, request, sandbox, test_client};
use crate::helpers::files::TestDir;

pub fn another_request() -> ImageToVideo {
    request().prompt("the dog barks")
}

/// A client that may replace videos and makes a single attempt at every request.
pub fn replacing_client(sandbox: &Sandbox) -> Client {
    let builder = sandbox.client_builder().retry_policy(RetryPolicy::none());
    builder.replace_videos(true).build().unwrap()
}

/// A JSON body with the vendor's marks.
pub fn marked(status: u16) -> String {
    format!(r#"{{"message":"no","statusCode":{status},"requestId":"r-1"}}"#)
}

/// A log that lists one request.
pub fn log(client_request_id: &str, id: &str, status: &str, created: &str) -> Fault {
    let row = json!({
        "client_request_id": client_request_id, "inference_id": id, "status": status,
        "created": created,
    });
    Fault::response(200, json!({ "data": [row] }).to_string())
}

/// Runs `generate_to`, which the server accepts, but which receives this response.
pub fn lost_create(sandbox: &Sandbox, dir: &TestDir, fault: Fault) -> Error {
    sandbox.fault(Endpoint::Create, fault.after_accepting(), 1);
    let client = sandbox.client_builder().retry_policy(RetryPolicy::none()).build().unwrap();
    client.generate_to(&request(), &dir.target).unwrap_err()
}

pub fn paid_id(sandbox: &Sandbox) -> String {
    sandbox.generations()[0].id.clone()
}

pub fn abandon(dir: &TestDir) {
    FileJournal::for_target(&dir.target).unwrap().abandon().unwrap();
}

#[track_caller]
pub fn assert_saved_as(sandbox: &Sandbox, client: &Client, dir: &TestDir, id: &str) {
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

// ---------------------------------------------------------------- several requests, one target

/// Makes the next run end, given a client that may replace videos.
type End = fn(&Sandbox, Client) -> Client;

/// The ways in which a run ends without a video. Those named after a status are create responses.
fn ends() -> [(&'static str, End); 10] {
    [
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
    ]
}

#[test]
fn finished_video_survives_every_end_of_another_request() {
    for (name, end) in ends() {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = replacing_client(&sandbox);
        let first = client.generate_to(&request(), &dir.target).unwrap();
        if let Ok(status) = name.parse() {
            sandbox.fault(Endpoint::Create, Fault::response(status, marked(status)), 1);
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
