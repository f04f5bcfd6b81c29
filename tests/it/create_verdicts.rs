//! What counts as proof about a create request: only the vendor's own words end it, an id that any
//! response named is kept, and the request log finds the rest.

use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, Client, Error, ErrorKind, EventKind, Image, ImageToVideo, Operation, RetryPolicy,
};

use serde_json::{Value, json};

use crate::helpers::clients::{create_counts, no_retry_client, quick_wait, request, sandbox};
use crate::helpers::events::record_event_names;
use crate::helpers::files::TestDir;
use crate::helpers::media::png_of_len;
use crate::helpers::timing::wait_until;
use ErrorKind::{Api, CreateUnknown};

const ORDER: &str = "order-4711";

fn test_client(sandbox: &Sandbox) -> Client {
    sandbox.complete_after_polls(0);
    sandbox.client_builder().build().unwrap()
}

/// A JSON body with the vendor's marks.
fn marked(status: u16) -> String {
    format!(r#"{{"message":"no","statusCode":{status},"requestId":"r-1"}}"#)
}

/// The error of a create that the server accepts and responds to with this.
fn accepted_create_error(sandbox: &Sandbox, fault: Fault) -> Error {
    sandbox.fault(Endpoint::Create, fault.after_accepting(), 1);
    test_client(sandbox).create(&request()).unwrap_err()
}

/// The client request ids of all creates, in order.
fn client_request_ids(sandbox: &Sandbox) -> Vec<String> {
    let creates = sandbox.requests().into_iter().filter(|r| r.endpoint == Some(Endpoint::Create));
    creates.map(|r| r.header("x-client-request-id").unwrap().to_owned()).collect()
}

/// Whether `id` is `base` with `.` and 16 hexadecimal digits.
fn is_retry_of(base: &str, id: &str) -> bool {
    let digits = id.strip_prefix(base).and_then(|rest| rest.strip_prefix('.'));
    digits.is_some_and(|d| d.len() == 16 && d.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn found(client: &Client, client_request_id: &str) -> Option<String> {
    client.find(client_request_id).unwrap().map(String::from)
}

// ---------------------------------------------------------------- statuses and marks

/// Gateways' own error bodies, which say nothing about what happened behind them.
const GATEWAY_ERRORS: [(u16, &str); 13] = [
    (503, r#"{"message":"Service Unavailable"}"#),
    (500, r#"{"message":"Internal server error"}"#),
    (500, r#"{"error":"timeout"}"#),
    (500, r#"{"message":"An unexpected error occurred"}"#),
    (503, r#"{"error":"upstream request timeout"}"#),
    (503, r#"{"message":"no","requestId":"r-1"}"#),
    (
        500,
        r#"{"timestamp":"2026-08-21T10:00:00.000+00:00","status":500,"error":"Internal Server Error","message":"no","path":"/v2/generate/video/kling/generation","requestId":"a1b2c3-1"}"#,
    ),
    (500, r#"{"error":{"code":500,"message":"Internal error","status":"INTERNAL"}}"#),
    // The marks of another status.
    (503, r#"{"message":"no","statusCode":500,"requestId":"r-1"}"#),
    (500, r#"{"status":502,"error":{"name":"BadGateway","message":"no"}}"#),
    (500, r#"{"statusCode":500,"requestId":null}"#),
    (500, r#"[{"statusCode":500,"requestId":"r-1"}]"#),
    (500, r#"{"status":500,"error":{"name":null,"data":{"kind":7}}}"#),
];

#[test]
fn gateway_error_is_no_rejection_and_is_never_paid_for_again() {
    for (status, body) in GATEWAY_ERRORS {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = test_client(&sandbox);
        sandbox.fault(Endpoint::Create, Fault::response(status, body).after_accepting(), 99);
        let mut error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), CreateUnknown, "{status} {body}: {error:?}");
        assert_eq!(error.status(), Some(status), "{body}");
        assert!(error.may_have_been_billed(), "{body}");
        for _ in 0..5 {
            if !error.is_retryable() {
                break;
            }
            match client.generate_to(&request(), &dir.target) {
                Err(next) => error = next,
                Ok(_) => break,
            }
        }
        assert_eq!(create_counts(&sandbox), (1, 1), "{status} {body}");
        let saved = client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(saved.id.as_str(), sandbox.generations()[0].id, "{status} {body}");
        assert_eq!(create_counts(&sandbox), (1, 1), "{status} {body}");
    }
}

#[test]
fn status_that_proves_nothing_is_no_rejection_even_with_the_vendors_marks() {
    let statuses = [
        300, 302, 303, 304, 408, 409, 418, 419, 420, 423, 424, 425, 430, 444, 460, 499, 501, 502,
        504, 505, 507, 511, 520, 524, 599, 600, 999,
    ];
    for status in statuses {
        for body in [marked(status), "<html>".to_owned(), String::new()] {
            let sandbox = sandbox();
            let error = accepted_create_error(&sandbox, Fault::response(status, body.clone()));
            assert_eq!(error.kind(), CreateUnknown, "{status} {body}: {error:?}");
            assert!(error.may_have_been_billed() && !error.is_retryable(), "{status} {body}");
            assert_eq!(create_counts(&sandbox), (1, 1), "{status} {body}");
        }
    }
}

#[test]
fn registered_status_is_a_rejection_whoever_sends_it() {
    let statuses = (400..=417).filter(|s| ![408, 409].contains(s));
    for status in statuses.chain([421, 422, 426, 428, 429, 431, 451, 301, 307, 308]) {
        for body in [marked(status), "<html>".to_owned(), String::new()] {
            let sandbox = sandbox();
            sandbox.fault(Endpoint::Create, Fault::response(status, body.clone()), 1);
            let error = no_retry_client(&sandbox).create(&request()).unwrap_err();
            assert_eq!((error.kind(), error.status()), (Api, Some(status)), "{body}: {error:?}");
            assert!(!error.may_have_been_billed() && !error.is_retryable(), "{status} {body}");
        }
    }
}

#[test]
fn server_error_with_the_vendors_marks_is_a_rejection() {
    for body in [
        r#"{"message":"no","path":"/v2/x","requestId":"r-1","statusCode":"500","timestamp":"x"}"#,
        r#"{"message":"under maintenance","statusCode":500,"requestId":"r-1"}"#,
        r#"{"title":"x","status":500,"error":{"name":"InternalException","message":"no"}}"#,
        r#"{"status":500,"error":{"data":{"kind":"err_internal"}}}"#,
    ] {
        for status in [500, 503] {
            let body = body.replace("500", &status.to_string());
            let sandbox = sandbox();
            sandbox.fault(Endpoint::Create, Fault::response(status, body.clone()), 1);
            let error = test_client(&sandbox).create(&request()).unwrap_err();
            assert_eq!((error.kind(), error.status()), (Api, Some(status)), "{body}: {error:?}");
            assert!(!error.may_have_been_billed() && !error.is_retryable(), "{body}");
            assert_eq!(create_counts(&sandbox), (1, 0), "{body}");
        }
    }
}

#[test]
fn server_error_that_is_cut_short_is_no_rejection() {
    let sandbox = sandbox();
    let fault = Fault::response(500, marked(500))
        .header("Content-Length", "200")
        .header("Connection", "close");
    let error = accepted_create_error(&sandbox, fault);
    assert_eq!(error.kind(), CreateUnknown, "{error:?}");
}

#[test]
fn sandbox_error_bodies_have_the_vendors_marks() {
    for status in [500, 503] {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, Fault::status(status), 1);
        let error = test_client(&sandbox).create(&request()).unwrap_err();
        assert_eq!(error.kind(), Api, "{status}: {error:?}");
    }
    // Out of credits: its marks are `status` and the error's name, and it has no request id.
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(403), 1);
    let error = test_client(&sandbox).create(&request()).unwrap_err();
    let body: Value = serde_json::from_str(error.body().unwrap()).unwrap();
    assert_eq!((&body["status"], body.get("requestId")), (&403.into(), None));
    assert_eq!(body["error"]["data"]["kind"], "err_insufficent_credits");
}

// ---------------------------------------------------------------- ids that a rejection named

#[test]
fn rejection_keeps_the_id_that_its_response_named() {
    for status in [400, 401, 403, 422, 429, 500, 503] {
        let sandbox = sandbox();
        let fault = Fault::response(status, marked(status)).after_accepting().with_inference_id();
        sandbox.fault(Endpoint::Create, fault, 1);
        let error = no_retry_client(&sandbox).create(&request()).unwrap_err();
        let id = sandbox.generations()[0].id.clone();
        assert_eq!(error.kind(), Api, "{status}: {error:?}");
        let named = error.generation_id().map(|id| id.as_str());
        assert_eq!(named, Some(id.as_str()), "{status}: {error:?}");
        assert!(!error.may_have_been_billed(), "{status}");
        assert!(!error.is_retryable(), "{status}");
    }
}

#[test]
fn rate_limited_create_that_named_a_running_generation_adopts_it() {
    for status in ["queued", "generating", "waiting", "Active", "completed", "SUCCEEDED", "succeed"]
    {
        for body in [marked(429), "<html>".to_owned()] {
            let sandbox = sandbox();
            sandbox.set_status_sequence([status]);
            let fault = Fault::response(429, body).after_accepting().with_inference_id();
            sandbox.fault(Endpoint::Create, fault, 1);
            let (client, events) = record_event_names(sandbox.client_builder().max_generations(1));
            let generation = client.create(&request()).unwrap();
            assert_eq!(generation.id.as_str(), sandbox.generations()[0].id, "{status}");
            assert_eq!(create_counts(&sandbox), (1, 1), "{status}");
            assert_eq!(sandbox.request_count(Endpoint::Retrieve), 1, "{status}");
            assert_eq!(events.names(), ["uploading", "retrying create", "created"], "{status}");
            // It counts as created.
            let error = client.create(&request()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::GenerationLimit, "{status}");
        }
    }
}

#[test]
fn rate_limited_create_is_retried_unless_the_id_it_named_is_adopted() {
    let about = |id: &str, status: &str| format!(r#"{{"id":"{id}","status":"{status}"}}"#);
    let mut polls: Vec<(String, Fault)> = vec![
        ("not found".into(), Fault::status(404)),
        ("gateway".into(), Fault::response(502, "<html>")),
        ("connection lost".into(), Fault::close_connection()),
        ("another generation".into(), Fault::response(200, about("another", "completed"))),
        ("no status".into(), Fault::response(200, r#"{"id":"named"}"#)),
    ];
    for status in ["unknown", "error", "failed", "canceled", "expired", "preparing", ""] {
        polls.push((status.to_owned(), Fault::response(200, about("named", status))));
    }
    for (name, poll) in polls {
        let sandbox = sandbox();
        let fault = Fault::response(429, marked(429)).header("x-inference-id", "named");
        sandbox.fault(Endpoint::Create, fault, 1);
        sandbox.fault(Endpoint::Retrieve, poll, 1);
        let generation = test_client(&sandbox).create(&request()).unwrap();
        assert_eq!(generation.id.as_str(), sandbox.generations()[0].id, "{name}");
        assert_eq!(create_counts(&sandbox), (2, 1), "{name}");
        let polls =
            sandbox.requests().into_iter().filter(|r| r.endpoint == Some(Endpoint::Retrieve));
        let targets: Vec<String> = polls.map(|request| request.target).collect();
        assert_eq!(targets.len(), 1, "{name}: {targets:?}");
        assert!(targets[0].ends_with("generation_id=named"), "{name}: {targets:?}");
    }
}

#[test]
fn create_that_is_cancelled_before_its_retry_keeps_the_id_that_was_named() {
    let sandbox = sandbox();
    let fault = Fault::response(429, marked(429)).header("x-inference-id", "named");
    sandbox.fault(Endpoint::Create, fault.header("Retry-After", "0"), 1);
    let token = CancelToken::new();
    let cancelling = token.clone();
    let client = test_client(&sandbox).with_cancel_token(token).with_event_handler(move |event| {
        if let EventKind::Retrying { .. } = event.kind {
            cancelling.cancel();
        }
    });
    let error = client.create(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(error.generation_id().map(|id| id.as_str()), Some("named"));
    let expected = "cancelled; nothing was created, although a response named generation `named`";
    assert_eq!(error.to_string(), expected);
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    assert_eq!(create_counts(&sandbox), (1, 0));
}

// ---------------------------------------------------------------- responses that are hard to read

#[test]
fn response_is_read_despite_many_kilobytes_of_headers() {
    for length in [12_000, 30_000, 60_000] {
        let sandbox = sandbox();
        let headers = Fault::default().header("X-Policy", "a".repeat(length));
        if length == 12_000 {
            sandbox.fault(Endpoint::Create, headers.clone(), 1);
        }
        sandbox.fault(Endpoint::Retrieve, headers, 1);
        let client = test_client(&sandbox);
        let video = client.generate(&request()).unwrap_or_else(|e| panic!("{length}: {e:?}"));
        assert_eq!(video.id.as_str(), sandbox.generations()[0].id, "{length}");
        assert_eq!(create_counts(&sandbox), (1, 1), "{length}");
    }
}

/// The first exceeds the buffer of a create. ureq reads none of the others, and its versioned API
/// has no setting for them.
#[test]
fn response_that_ureq_cannot_read_is_recovered_by_the_next_run() {
    let large = ImageToVideo::new(Image::bytes(png_of_len(800_000)));
    let response = "HTTP/1.1 200 OK\r\nx-inference-id: 1\r\nContent-Length: 2\r\n\r\n{}";
    let unasked = format!("HTTP/1.1 100 Continue\r\nX-A: b\r\n\r\n{response}");
    let many = format!("HTTP/1.1 200 OK\r\n{}\r\n{{}}", "X-A: b\r\n".repeat(200));
    for (name, fault, request) in [
        ("20 kB of headers", Fault::default().header("X-A", "a".repeat(20_000)), request()),
        ("70 kB of headers", Fault::default().header("X-A", "a".repeat(70_000)), request()),
        ("200 headers", Fault::raw(many).after_accepting(), request()),
        ("unasked 100 with a header", Fault::raw(unasked.clone()).after_accepting(), request()),
        ("second 100 with a header", Fault::raw(unasked).after_accepting(), large),
    ] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = test_client(&sandbox);
        sandbox.fault(Endpoint::Create, fault, 1);
        let error = client.generate_to(&request, &dir.target).expect_err(name);
        assert_eq!(error.kind(), CreateUnknown, "{name}: {error:?}");
        assert!(!error.is_retryable(), "{name}");
        let saved = client.generate_to(&request, &dir.target).expect(name);
        assert_eq!(saved.id.as_str(), sandbox.generations()[0].id, "{name}");
        assert_eq!(create_counts(&sandbox), (1, 1), "{name}");
    }
}

#[test]
fn id_in_a_header_counts_if_another_with_control_characters_precedes_it() {
    for invalid in ["a\tb", "a\u{9b}b"] {
        let response = format!(
            "HTTP/1.1 200 OK\r\nX-Inference-Id: {invalid}\r\nX-Inference-Id: paid\r\n\
             Content-Length: 2\r\n\r\n{{}}"
        );
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, Fault::raw(response).after_accepting(), 1);
        let generation = test_client(&sandbox).create(&request()).expect(invalid);
        assert_eq!(generation.id.as_str(), "paid");
        assert_eq!(generation.metadata.inference_id.as_deref(), Some("paid"));
    }
}

// ---------------------------------------------------------------- the request log

#[test]
fn log_entry_is_failed_only_if_its_status_is_exactly_failed() {
    for status in
        ["processing", "pending", "completed", "SUCCEEDED", "generating", "", "FAILED", "error"]
    {
        let sandbox = sandbox();
        sandbox.add_log_entry("mine", "alive", status);
        sandbox.add_log_entry("mine", "dead", "failed");
        assert_eq!(found(&test_client(&sandbox), "mine").as_deref(), Some("alive"), "{status:?}");
    }
}

#[test]
fn running_request_in_the_log_is_recovered_and_not_paid_for_again() {
    for status in ["processing", "pending", "completed", "SUCCEEDED", "generating", "", "weird"] {
        let sandbox = sandbox();
        let dir = TestDir::new();
        let client = test_client(&sandbox);
        sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), CreateUnknown);
        let id = sandbox.generations()[0].id.clone();
        let row = json!({
            "created": "2026-08-21T10:00:00.000Z", "status": status, "inference_id": id,
            "client_request_id": error.client_request_id(),
        });
        let log = json!({ "data": [row] }).to_string();
        sandbox.fault(Endpoint::Logs, Fault::response(200, log), 1);
        let saved = client.generate_to(&request(), &dir.target);
        let saved = saved.unwrap_or_else(|error| panic!("{status:?}: {error:?}"));
        assert_eq!(saved.id.as_str(), id, "{status:?}");
        assert_eq!(create_counts(&sandbox), (1, 1), "{status:?}");
    }
}

#[test]
fn charged_request_in_the_log_did_not_fail() {
    for cost in [json!({ "usd": 0.42, "credits": 0 }), json!({ "usd": 0, "credits": 840_000 })] {
        let sandbox = sandbox();
        let rows = json!([
            { "status": "failed", "inference_id": "dead", "client_request_id": "mine",
              "cost": { "usd": 0, "credits": 0 } },
            { "status": "failed", "inference_id": "paid", "client_request_id": "mine",
              "cost": cost },
        ]);
        let log = json!({ "data": rows }).to_string();
        sandbox.fault(Endpoint::Logs, Fault::response(200, log), 1);
        assert_eq!(found(&test_client(&sandbox), "mine").as_deref(), Some("paid"), "{cost}");
    }
}

#[test]
fn find_prefers_what_did_not_fail_then_the_exact_id_then_the_newest() {
    let retry = |digits: &str| format!("{ORDER}.{digits:0>16}");
    let (one, two) = (retry("1"), retry("2"));
    let exact = ORDER.to_owned();
    // Oldest first.
    type Rows<'a> = &'a [(&'a String, &'a str, &'a str)];
    let cases: [(Rows<'_>, Option<&str>); 9] = [
        (&[(&exact, "1", "failed"), (&one, "2", "processing")], Some("2")),
        (&[(&one, "2", "processing"), (&exact, "1", "failed")], Some("2")),
        (&[(&exact, "1", "succeeded"), (&one, "2", "succeeded")], Some("1")),
        (&[(&exact, "1", "succeeded"), (&exact, "2", "succeeded")], Some("2")),
        (&[(&one, "1", "succeeded"), (&two, "2", "succeeded")], Some("2")),
        (&[(&one, "1", "succeeded"), (&two, "2", "failed")], Some("1")),
        (&[(&exact, "1", "failed"), (&one, "2", "failed")], Some("2")),
        (&[(&one, "1", "failed")], Some("1")),
        (&[], None),
    ];
    for between in [0, 120] {
        for (rows, expected) in cases {
            let sandbox = sandbox();
            for (client_request_id, id, status) in rows {
                sandbox.add_log_entry(client_request_id, id, status);
                for n in 0..between {
                    sandbox.add_log_entry(&format!("other-{n}"), "3", "succeeded");
                }
            }
            let client = test_client(&sandbox);
            assert_eq!(found(&client, ORDER).as_deref(), expected, "{rows:?} {between}");
        }
    }
}

#[test]
fn find_does_not_take_a_longer_id_of_the_caller_for_a_retry() {
    let sandbox = sandbox();
    for similar in [
        "order-47110",
        "order-4711.2",
        "order-4711-1",
        "order-4711.000000000000000g",
        "order-4711.",
    ] {
        sandbox.add_log_entry(similar, "7", "succeeded");
    }
    sandbox.add_log_entry("order-4711.0000000000000001.0000000000000001", "7", "succeeded");
    assert_eq!(found(&test_client(&sandbox), ORDER), None);
}

#[test]
fn log_search_ends_with_the_timeout_and_says_so() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
    let client = test_client(&sandbox);
    client.generate_to(&request(), &dir.target).unwrap_err();
    endless_log(&sandbox);
    let options = quick_wait().timeout(Duration::from_millis(100));
    let started = Instant::now();
    let error = client.with_wait_options(options).generate_to(&request(), &dir.target).unwrap_err();
    let pages = sandbox.request_count(Endpoint::Logs);
    assert!(pages < 100, "{pages} pages in {:?}: {error:?}", started.elapsed());
    assert_eq!((error.kind(), error.operation()), (ErrorKind::WaitTimeout, Operation::Find));
    assert!(error.to_string().starts_with("searching the request log: timed out"), "{error}");
    assert!(error.client_request_id().is_some());
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn log_search_does_not_sleep_past_the_timeout() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
    let retry = RetryPolicy::new().max_delay(Duration::from_secs(60));
    let client = sandbox.client_builder().retry_policy(retry).build().unwrap();
    client.generate_to(&request(), &dir.target).unwrap_err();
    sandbox.fault(Endpoint::Logs, Fault::status(503).header("Retry-After", "7"), 1);
    let options = quick_wait().timeout(Duration::from_millis(100));
    let started = Instant::now();
    let error = client.with_wait_options(options).generate_to(&request(), &dir.target).unwrap_err();
    assert!(started.elapsed() < Duration::from_secs(5), "{error:?}");
    assert_eq!(error.kind(), ErrorKind::WaitTimeout, "{error:?}");
    assert_eq!(sandbox.request_count(Endpoint::Logs), 1);
}

#[test]
fn log_search_ends_when_it_is_cancelled() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    endless_log(&sandbox);
    let token = CancelToken::new();
    let error = std::thread::scope(|scope| {
        let client = client.with_cancel_token(token.clone());
        let search = scope.spawn(move || client.find("mine").unwrap_err());
        wait_until("the third page", || sandbox.request_count(Endpoint::Logs) >= 3);
        token.cancel();
        search.join().unwrap()
    });
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Cancelled, Operation::Find));
    assert!(sandbox.request_count(Endpoint::Logs) < 100);
}

/// A log without end, 5 ms per page.
fn endless_log(sandbox: &Sandbox) {
    let row = r#"{"status":"succeeded","inference_id":"1","client_request_id":"other"}"#;
    let page = format!(r#"{{"data":[{row},{row}],"pagination":{{"has_more":true}}}}"#);
    sandbox.fault(Endpoint::Logs, Fault::response(200, page), 400);
    sandbox.set_response_delay(Endpoint::Logs, Duration::from_millis(5));
}

// ---------------------------------------------------------------- client request ids

#[test]
fn every_attempt_of_a_create_has_its_own_client_request_id() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(429), 2);
    let client = test_client(&sandbox);
    client.create(&request().client_request_id(ORDER)).unwrap();
    let ids = client_request_ids(&sandbox);
    assert_eq!(ids[0], ORDER);
    assert!(ids[1..].iter().all(|id| is_retry_of(ORDER, id)) && ids[1] != ids[2], "{ids:?}");

    // Also without an id of the caller.
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    client.create(&request()).unwrap();
    let ids = client_request_ids(&sandbox);
    assert!(ids[3].starts_with("kling-video-") && is_retry_of(&ids[3], &ids[4]), "{ids:?}");
}

#[test]
fn create_that_is_lost_after_a_rejected_attempt_is_not_taken_for_that_attempt() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
    let client = test_client(&sandbox);
    let error = client.create(&request().client_request_id(ORDER)).unwrap_err();
    assert_eq!((error.kind(), error.attempts()), (CreateUnknown, 2));
    let lost = error.client_request_id().unwrap();
    let ids = client_request_ids(&sandbox);
    let id = sandbox.generations()[0].id.clone();
    let row = |status: &str, id: &str, client_request_id: &str| json!({ "status": status, "inference_id": id, "client_request_id": client_request_id });
    let log = |rows: &[Value]| Fault::response(200, json!({ "data": rows }).to_string());
    let rejected = row("failed", "rejected", &ids[0]);
    // The log lags.
    sandbox.fault(Endpoint::Logs, log(std::slice::from_ref(&rejected)), 1);
    assert_eq!(found(&client, lost), None);
    assert_eq!(lost, ids[1], "the error names the attempt that was lost");
    sandbox.fault(Endpoint::Logs, log(&[row("processing", &id, &ids[1]), rejected]), 2);
    for client_request_id in [lost, ORDER] {
        assert_eq!(found(&client, client_request_id).as_ref(), Some(&id), "{client_request_id}");
    }
}

#[test]
fn generation_of_a_run_is_found_by_the_callers_id() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = test_client(&sandbox);
    let saved = client.generate_to(&request().client_request_id(ORDER), &dir.target).unwrap();
    let ids = client_request_ids(&sandbox);
    assert!(is_retry_of(ORDER, &ids[0]), "{ids:?}");
    assert_eq!(found(&client, ORDER), Some(saved.id.to_string()));
}

#[test]
fn client_request_id_must_leave_room_for_what_retries_add() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = test_client(&sandbox);
    let longest = request().client_request_id("a".repeat(111));
    client.generate_to(&longest, &dir.target).unwrap();
    assert_eq!(client_request_ids(&sandbox)[0].len(), 128);

    let too_long = request().client_request_id("a".repeat(112));
    let elsewhere = dir.path().join("other.mp4");
    let results = [
        too_long.validate().unwrap_err(),
        client.create(&too_long).unwrap_err(),
        client.generate_to(&too_long, elsewhere).unwrap_err(),
    ];
    for error in results {
        assert_eq!(
            (error.kind(), error.field()),
            (ErrorKind::InvalidRequest, Some("client_request_id"))
        );
        let message = error.to_string();
        assert!(message.contains("must be 1 to 111 characters"), "{message}");
        assert!(message.contains("retries append 17"), "{message}");
    }
    assert_eq!(create_counts(&sandbox), (1, 1));
    // The id of a retry has up to 128.
    assert_eq!(found(&client, &"a".repeat(128)), None);
    assert_eq!(client.find(&"a".repeat(129)).unwrap_err().kind(), ErrorKind::InvalidRequest);
}
