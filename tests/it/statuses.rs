//! The words of responses: statuses and videos in every form seen, and what the server says of an
//! error, in the messages.

use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{Error, ErrorKind, Generation, Result, Status, Video};
use serde_json::{Value, json};

use crate::helpers::clients::{create_counts, id, no_retry_client, quick_wait, request, sandbox};
use crate::helpers::error_output::full_message;

const URL: &str = "https://cdn.example/a.mp4";
const INVALID_PIXEL: &str = r#"{"error":{"message":"Image pixel is invalid"}}"#;

fn retrieve_with(fault: Fault) -> Result<Generation> {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, fault, 1);
    no_retry_client(&sandbox).retrieve(&id("1"))
}

/// Waits for generation `1`, of which every poll reports the same.
fn wait_with(response: &Value) -> Result<Video> {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, response.to_string()), u32::MAX);
    let options = quick_wait().timeout(Duration::from_millis(60));
    sandbox.client_builder().wait_options(options).build().unwrap().wait(&id("1"))
}

// ---------------------------------------------------------------- video

#[test]
fn video_may_be_a_url_or_an_array_of_urls() {
    for (video, rest) in [
        (json!(URL), None),
        (json!([URL]), Some(json!([]))),
        (json!([URL, "https://cdn.example/b.mp4"]), Some(json!(["https://cdn.example/b.mp4"]))),
    ] {
        let response = json!({ "id": "1", "status": "SUCCESS", "video": video, "duration": 5 });
        let waited = wait_with(&response).unwrap();
        assert_eq!((waited.url.as_str(), waited.id.as_str()), (URL, "1"), "{video}");
        assert_eq!(waited.duration, Some(5.0), "{video}");

        let generation: Generation = serde_json::from_value(response).unwrap();
        assert_eq!(generation.extra.get("video"), rest.as_ref(), "{video}");
        let json = serde_json::to_value(&generation).unwrap();
        assert_eq!(serde_json::from_value::<Generation>(json).unwrap(), generation, "{video}");
    }
}

#[test]
fn video_that_is_no_url_is_preserved() {
    for video in [json!(""), json!([""]), json!([]), json!([7]), json!(false), json!({ "url": "" })]
    {
        let response = json!({ "id": "1", "status": "completed", "video": video });
        let generation: Generation = serde_json::from_value(response).unwrap();
        assert_eq!((generation.video, &generation.extra["video"]), (None, &video));
    }
}

// ---------------------------------------------------------------- status words

#[test]
fn rejection_that_named_a_generation_is_disproved_by_a_status_in_any_case() {
    for (status, adopted) in [
        ("QUEUED", true),
        ("Generating", true),
        ("WAITING", true),
        ("Active", true),
        ("SUCCESS", true),
        ("unknown", false),
        ("Failed", false),
        ("CANCELED", false),
    ] {
        let sandbox = sandbox();
        let rejection = Fault::status(429).header("x-inference-id", "named");
        sandbox.fault(Endpoint::Create, rejection, 1);
        let response = json!({ "id": "named", "status": status }).to_string();
        sandbox.fault(Endpoint::Retrieve, Fault::response(200, response), 1);
        let created = sandbox.client_builder().build().unwrap().create(&request()).unwrap();
        assert_eq!(created.id.as_str() == "named", adopted, "{status}");
        assert_eq!(create_counts(&sandbox).1, usize::from(!adopted), "{status}");
    }
}

// ---------------------------------------------------------------- words of an error

#[test]
fn success_with_an_error_is_reported_with_its_words() {
    let error = retrieve_with(Fault::response(200, INVALID_PIXEL)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Decode, Some(200)));
    assert!(error.to_string().contains("Image pixel is invalid"), "{error}");
    assert_eq!(error.server_message(), Some("Image pixel is invalid"));

    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::response(200, INVALID_PIXEL), 1);
    let error = no_retry_client(&sandbox).create(&request()).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::CreateUnknown, Some(200)));
    assert!(error.to_string().contains("Image pixel is invalid"), "{error}");
    assert_eq!(error.server_message(), Some("Image pixel is invalid"));

    let error = wait_with(&serde_json::from_str(INVALID_PIXEL).unwrap()).unwrap_err();
    assert_timeout_says(&error, "Image pixel is invalid");
}

#[track_caller]
fn assert_timeout_says(error: &Error, words: &str) {
    assert_eq!(error.kind(), ErrorKind::WaitTimeout, "{error}");
    assert!(error.to_string().contains(words), "{error}");
    assert_eq!(error.server_message(), Some(words));
    assert!(full_message(error).matches(words).count() <= 2, "{}", full_message(error));
}

#[test]
fn timeout_says_why_a_generation_is_pending() {
    // Seen once, but without the id.
    let words = "invalid params, task_id cannot by empty";
    for id in ["", "1"] {
        let error = json!({ "name": "Error", "message": words });
        let response = json!({ "id": id, "status": "unknown", "error": error });
        let error = wait_with(&response).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WaitTimeout, "{error}");
        assert!(error.to_string().contains(words), "{error}");
    }
    let error = wait_with(&json!({ "id": "1", "status": "generating" })).unwrap_err();
    assert_eq!(error.server_message(), None);
    assert_eq!(error.generation().map(|g| &g.status), Some(&Status::Generating));
}

#[test]
fn error_details_are_reported_with_their_location() {
    let detail = json!([
        { "loc": ["body", "image_url"], "msg": "Image too small", "type": "image_too_small" },
        { "loc": ["body", "trajectories", 3], "msg": "Not a point" },
        { "msg": "Try another image" },
    ]);
    let words = "body.image_url: Image too small; body.trajectories.3: Not a point; \
                 Try another image";
    let failed = json!({ "id": "1", "status": "failed", "error": { "detail": detail } });
    let error = wait_with(&failed).unwrap_err();
    assert_eq!((error.kind(), error.server_message()), (ErrorKind::GenerationFailed, Some(words)));
    assert!(error.to_string().contains(words), "{error}");

    for body in [json!({ "detail": detail }), json!({ "error": { "detail": detail } })] {
        let error = retrieve_with(Fault::response(422, body.to_string())).unwrap_err();
        assert_eq!((error.status(), error.server_message()), (Some(422), Some(words)));
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[test]
fn error_words_are_found_in_every_form() {
    for (body, words) in [
        (json!({ "message": "one", "error": "two" }), Some("one")),
        (json!({ "message": "", "error": "two" }), Some("two")),
        (json!({ "message": ["one", "two"] }), Some("one; two")),
        (json!({ "error": { "message": "one", "detail": "two" } }), Some("one")),
        (json!({ "error": { "detail": { "msg": "one" } } }), Some("one")),
        (json!({ "detail": "one" }), Some("one")),
        (json!({ "message": 7, "error": { "code": 7 } }), None),
        (json!(["one"]), Some("one")),
        (json!(7), None),
    ] {
        let error = retrieve_with(Fault::response(400, body.to_string())).unwrap_err();
        assert_eq!(error.server_message(), words, "{body}");
    }
}

// ---------------------------------------------------------------- advice

#[test]
fn out_of_credits_points_to_the_balance_and_the_spending_limit() {
    let body = json!({ "status": 403, "error": { "name": "OutOfFundsException" } }).to_string();
    let error = retrieve_with(Fault::response(403, body)).unwrap_err();
    assert!(error.is_out_of_credits());
    let message = error.to_string();
    assert!(message.contains("balance()") && message.contains("spending limit"), "{message}");
}

#[test]
fn retry_after_date_is_read_against_the_date_of_the_response() {
    // By this server's clock, which is decades slow.
    for (date, retry_after, seconds) in [
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:44 GMT", 7),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "Sun, 06 Nov 1994 08:49:30 GMT", 0),
        ("Sun, 06 Nov 1994 08:49:37 GMT", "12", 12),
        ("yesterday", "Sun, 06 Nov 1994 08:49:44 GMT", 0),
    ] {
        let fault = Fault::status(429).header("Date", date).header("Retry-After", retry_after);
        let delay = retrieve_with(fault).unwrap_err().retry_after();
        assert_eq!(delay, Some(Duration::from_secs(seconds)), "{date} {retry_after}");
    }
}
