//! The behavior of the sandbox that programs rely on in their own tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, RecordedRequest, Sandbox};
use kling_video::{Client, ErrorKind, RetryPolicy, Status, WaitOptions};
use serde_json::{Value, json};

use crate::helpers::clients::{no_retry_client, request, sandbox, sandbox_addr, test_client};
use crate::helpers::timing::with_timeout;

const ROUTE: &str = "/v2/generate/video/kling/generation";
const KEY: &str = "Authorization: Bearer sandbox-key\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// Sends these bytes and reads the response until the connection is closed.
fn send_bytes(sandbox: &Sandbox, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(sandbox_addr(sandbox)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    String::from_utf8_lossy(&response).into_owned()
}

struct Response {
    status: u16,
    head: String,
    body: String,
}

impl Response {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The message of an error response.
    fn message(&self) -> String {
        match &self.json()["message"] {
            Value::String(message) => message.clone(),
            list => list.to_string(),
        }
    }
}

fn response_to(sandbox: &Sandbox, bytes: &[u8]) -> Response {
    let response = send_bytes(sandbox, bytes);
    let (head, body) = response.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Response { status, head: head.to_owned(), body: body.to_owned() }
}

/// Sends a request without a body.
fn send(sandbox: &Sandbox, method: &str, target: &str, headers: &str) -> Response {
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
    response_to(sandbox, head.as_bytes())
}

/// Sends a create request with this body.
fn post(sandbox: &Sandbox, headers: &str, body: &str) -> Response {
    let length = body.len();
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    response_to(sandbox, head.as_bytes())
}

fn post_json(sandbox: &Sandbox, body: &Value) -> Response {
    post(sandbox, &format!("{KEY}{JSON}"), &body.to_string())
}

fn minimal_body() -> Value {
    json!({ "model": kling_video::MODEL, "image_url": "https://example.com/cat.jpg" })
}

fn polled_statuses(client: &Client, polls: usize) -> Vec<Status> {
    let created = client.create(&request()).unwrap();
    (0..polls).map(|_| client.retrieve(&created.id).unwrap().status).collect()
}

// ---------------------------------------------------------------- request validation

#[test]
fn valid_raw_request_is_accepted() {
    let sandbox = sandbox();
    let response = post_json(&sandbox, &minimal_body());
    assert_eq!(response.status, 200, "{}", response.body);
    let generation = &sandbox.generations()[0];
    assert_eq!(response.json()["id"], generation.id.as_str());
    assert_eq!(response.json()["status"], "queued");
    assert!(
        response.head.contains(&format!("x-inference-id: {}", generation.id)),
        "{}",
        response.head
    );
    assert_eq!(generation.request, minimal_body());
}

#[test]
fn unknown_path_is_404() {
    let sandbox = sandbox();
    for target in ["/", "/v2", "/v1/generate/video/kling/generation", "/v2/logs/", "/V2/logs"] {
        let response = send(&sandbox, "GET", target, KEY);
        assert_eq!(response.status, 404, "{target}");
        assert!(response.message().contains(target), "{}", response.body);
    }
}

#[test]
fn unsupported_method_is_405() {
    let sandbox = sandbox();
    for (method, target) in [
        ("DELETE", ROUTE),
        ("PUT", ROUTE),
        ("HEAD", "/v2/billing"),
        ("POST", "/v2/billing"),
        ("POST", "/v2/logs"),
    ] {
        assert_eq!(send(&sandbox, method, target, KEY).status, 405, "{method} {target}");
    }
}

#[test]
fn missing_or_wrong_key_is_401() {
    let sandbox = sandbox();
    let target = format!("{ROUTE}?generation_id=1");
    for headers in [
        "",
        "Authorization: Bearer another-key\r\n",
        "Authorization: sandbox-key\r\n",
        "Authorization: Basic sandbox-key\r\n",
        "X-Api-Key: sandbox-key\r\n",
    ] {
        for target in [&target, "/v2/billing", "/v2/logs?period=1h"] {
            let response = send(&sandbox, "GET", target, headers);
            assert_eq!(response.status, 401, "{headers}");
            assert!(response.json()["requestId"].is_string(), "{}", response.body);
        }
        let created = post(&sandbox, &format!("{headers}{JSON}"), &minimal_body().to_string());
        assert_eq!(created.status, 401);
    }
    assert!(sandbox.generations().is_empty());
}

#[test]
fn content_type_other_than_json_is_415() {
    let sandbox = sandbox();
    for headers in ["", "Content-Type: text/plain\r\n", "Content-Type: multipart/form-data\r\n"] {
        let response = post(&sandbox, &format!("{KEY}{headers}"), &minimal_body().to_string());
        assert_eq!(response.status, 415, "{headers}");
    }
    let with_charset = format!("{KEY}Content-Type: application/json; charset=utf-8\r\n");
    assert_eq!(post(&sandbox, &with_charset, &minimal_body().to_string()).status, 200);
}

#[test]
fn body_without_content_length_is_411() {
    let sandbox = sandbox();
    assert_eq!(send(&sandbox, "POST", ROUTE, &format!("{KEY}{JSON}")).status, 411);
    let chunked = format!("{KEY}{JSON}Transfer-Encoding: chunked\r\n");
    assert_eq!(send(&sandbox, "POST", ROUTE, &chunked).status, 411);
}

#[test]
fn body_that_is_not_a_json_object_is_400() {
    let sandbox = sandbox();
    for body in ["", "{", "[]", "null", "\"text\"", "model=kling"] {
        let response = post(&sandbox, &format!("{KEY}{JSON}"), body);
        assert_eq!(response.status, 400, "{body}");
        assert!(response.message().contains("Body validation error"), "{}", response.body);
    }
}

#[test]
fn missing_field_is_400_and_named() {
    let sandbox = sandbox();
    for field in ["model", "image_url"] {
        let mut body = minimal_body();
        body.as_object_mut().unwrap().remove(field);
        let response = post_json(&sandbox, &body);
        assert_eq!(response.status, 400);
        assert!(response.message().contains(field), "{}", response.body);
    }
}

#[test]
fn invalid_field_is_400_and_named() {
    let sandbox = sandbox();
    for (field, value) in [
        ("duration", json!("5")),
        ("duration", json!(5.0)),
        ("duration", json!(7)),
        ("cfg_scale", json!(1.1)),
        ("cfg_scale", json!("0.5")),
        ("prompt", json!(null)),
        ("prompt", json!("x".repeat(2_501))),
        ("type", json!("text-to-video")),
        ("model", json!("gpt")),
        ("image_url", json!("cat.jpg")),
        ("image_url", json!("data:image/png;base64,@")),
        ("dynamic_masks", json!({})),
        ("camera_control", json!("zoom")),
        ("no_such_field", json!(1)),
    ] {
        let mut body = minimal_body();
        body[field] = value;
        let response = post_json(&sandbox, &body);
        assert_eq!(response.status, 400, "{body}");
        assert!(response.message().contains(field), "{}", response.body);
    }
    assert!(sandbox.generations().is_empty());
}

#[test]
fn unknown_generation_id_is_404() {
    let sandbox = sandbox();
    let response = send(&sandbox, "GET", &format!("{ROUTE}?generation_id=1"), KEY);
    assert_eq!((response.status, response.message().as_str()), (404, "Inference not found"));
}

#[test]
fn missing_generation_id_is_400() {
    let sandbox = sandbox();
    for target in [ROUTE.to_owned(), format!("{ROUTE}?generation_id="), format!("{ROUTE}?id=1")] {
        assert_eq!(send(&sandbox, "GET", &target, KEY).status, 400, "{target}");
    }
}

#[test]
fn invalid_http_is_400() {
    let sandbox = sandbox();
    assert_eq!(response_to(&sandbox, b"\x16\x03\x01\0\x05hello\r\n\r\n").status, 400);
    assert_eq!(response_to(&sandbox, b"GET /v2/billing HTTP/1.1\r\n\r\n").status, 400);
}

#[test]
fn video_url_requires_its_signature_and_rejects_the_key() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(0);
    let video = no_retry_client(&sandbox).generate(&request()).unwrap();
    let target = video.url.strip_prefix(&sandbox.url()).unwrap();
    assert_eq!(send(&sandbox, "GET", target, "").status, 200);
    assert_eq!(send(&sandbox, "GET", target, KEY).status, 400);
    assert_eq!(send(&sandbox, "GET", &target.replace("sig=", "sig=0"), "").status, 403);
    assert_eq!(send(&sandbox, "GET", target.split('?').next().unwrap(), "").status, 403);
    assert_eq!(send(&sandbox, "GET", "/videos/1.mp4", "").status, 404);
}

#[test]
fn video_supports_range_requests() {
    let sandbox = sandbox();
    sandbox.set_video(b"0123456789".to_vec());
    sandbox.complete_after_polls(0);
    let video = no_retry_client(&sandbox).generate(&request()).unwrap();
    let target = video.url.strip_prefix(&sandbox.url()).unwrap();
    let part = send(&sandbox, "GET", target, "Range: bytes=3-5\r\n");
    assert_eq!((part.status, part.body.as_str()), (206, "345"));
    assert!(part.head.contains("Content-Range: bytes 3-5/10"), "{}", part.head);
    assert_eq!(send(&sandbox, "GET", target, "Range: bytes=10-\r\n").status, 416);
    let changed = send(&sandbox, "GET", target, "Range: bytes=3-\r\nIf-Range: \"old\"\r\n");
    assert_eq!((changed.status, changed.body.as_str()), (200, "0123456789"));
}

// ---------------------------------------------------------------- records

#[test]
fn requests_are_recorded_including_rejected_ones() {
    let sandbox = sandbox();
    send(&sandbox, "GET", "/v2/billing", KEY);
    send(&sandbox, "GET", "/nowhere?a=b", "X-Test: 1\r\n");
    post_json(&sandbox, &json!({ "wrong": true }));
    let requests = sandbox.requests();
    assert_eq!(requests.len(), 3);
    assert_eq!(
        (requests[0].endpoint, requests[0].response_status),
        (Some(Endpoint::Billing), Some(200))
    );
    assert_eq!((requests[1].endpoint, requests[1].response_status), (None, Some(404)));
    assert_eq!((requests[1].method.as_str(), requests[1].target.as_str()), ("GET", "/nowhere?a=b"));
    assert_eq!(requests[1].header("x-test"), Some("1"));
    assert_eq!(
        (requests[2].endpoint, requests[2].response_status),
        (Some(Endpoint::Create), Some(400))
    );
    assert_eq!((requests[2].body_bytes, requests[2].body_complete), (14, true));
    assert_eq!(sandbox.request_count(Endpoint::Create), 1);
    assert_eq!(sandbox.connection_count(), 3);
}

#[test]
fn polls_are_counted_per_generation() {
    let sandbox = sandbox();
    polled_statuses(&no_retry_client(&sandbox), 3);
    polled_statuses(&no_retry_client(&sandbox), 1);
    polled_statuses(&no_retry_client(&sandbox), 0);
    let polls: Vec<u32> = sandbox.generations().iter().map(|generation| generation.polls).collect();
    assert_eq!(polls, [3, 1, 0]);
}

#[test]
fn generation_ids_are_unique_across_sandboxes() {
    let (one, other) = (sandbox(), sandbox());
    let created =
        [&one, &other].map(|sandbox| no_retry_client(sandbox).create(&request()).unwrap().id);
    assert_ne!(created[0], created[1]);
    assert_ne!(one.url(), other.url());
    assert_eq!(no_retry_client(&other).retrieve(&created[0]).unwrap_err().status(), Some(404));
}

// ---------------------------------------------------------------- settings

#[test]
fn generation_is_queued_then_generating_then_completed() {
    let sandbox = sandbox();
    let statuses = polled_statuses(&no_retry_client(&sandbox), 4);
    let expected = [Status::Queued, Status::Generating, Status::Completed, Status::Completed];
    assert_eq!(statuses, expected);
}

#[test]
fn complete_after_polls_sets_the_pending_polls() {
    let sandbox = sandbox();
    for pending in [0, 1, 5] {
        sandbox.complete_after_polls(pending);
        let statuses = polled_statuses(&no_retry_client(&sandbox), pending as usize + 1);
        let completed_at = statuses.iter().position(|status| *status == Status::Completed);
        assert_eq!(completed_at, Some(pending as usize));
    }
}

#[test]
fn status_sequence_advances_per_poll_and_repeats_the_last_status() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["waiting", "queued", "active"]);
    let statuses = polled_statuses(&no_retry_client(&sandbox), 4);
    let statuses: Vec<&str> = statuses.iter().map(Status::as_str).collect();
    assert_eq!(statuses, ["waiting", "queued", "active", "active"]);
}

#[test]
fn status_sequence_applies_to_later_generations() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let before = client.create(&request()).unwrap().id;
    sandbox.set_status_sequence(["failed"]);
    let after = client.create(&request()).unwrap().id;
    assert_eq!(client.retrieve(&before).unwrap().status, Status::Queued);
    assert_eq!(client.retrieve(&after).unwrap().status, Status::Error);
}

#[test]
fn failure_sets_the_error_of_the_generation() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(1);
    sandbox.set_failure("ContentPolicyViolation", "The image was rejected");
    let client = no_retry_client(&sandbox);
    let id = client.create(&request()).unwrap().id;
    assert_eq!(client.retrieve(&id).unwrap().error, None);
    let failed = client.retrieve(&id).unwrap();
    let error = failed.error.unwrap();
    assert_eq!((failed.status, failed.video), (Status::Error, None));
    assert_eq!(error.name.as_deref(), Some("ContentPolicyViolation"));
    assert_eq!(error.message, "The image was rejected");
}

#[test]
fn not_found_polls_are_404_and_do_not_count() {
    let sandbox = sandbox();
    sandbox.set_not_found_polls(2);
    sandbox.complete_after_polls(1);
    let client = no_retry_client(&sandbox);
    let id = client.create(&request()).unwrap().id;
    for _ in 0..2 {
        assert_eq!(client.retrieve(&id).unwrap_err().status(), Some(404));
    }
    assert_eq!(client.retrieve(&id).unwrap().status, Status::Queued);
    assert_eq!(client.retrieve(&id).unwrap().status, Status::Completed);
}

#[test]
fn expired_video_url_is_403_and_retrieve_issues_a_new_one() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(0);
    let client = no_retry_client(&sandbox);
    let video = client.generate(&request()).unwrap();
    sandbox.expire_video_urls();
    let target = |url: &str| url.strip_prefix(&sandbox.url()).unwrap().to_owned();
    assert_eq!(send(&sandbox, "GET", &target(&video.url), "").status, 403);
    let fresh = client.retrieve(&video.id).unwrap().video.unwrap();
    assert_ne!(fresh.url, video.url);
    assert_eq!(send(&sandbox, "GET", &target(&fresh.url), "").status, 200);
}

#[test]
fn usage_of_a_completed_generation_depends_on_its_duration() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(0);
    for (duration, credits) in [
        (kling_video::VideoDuration::FiveSeconds, 120_000.0),
        (kling_video::VideoDuration::TenSeconds, 240_000.0),
    ] {
        let client = no_retry_client(&sandbox);
        let id = client.create(&request().duration(duration)).unwrap().id;
        let generation = client.retrieve(&id).unwrap();
        assert_eq!(generation.usage.unwrap().credits_used, Some(credits));
        assert_eq!(generation.metadata.credits_used, Some(credits));
        assert_eq!(generation.metadata.usd_spent, Some(credits / 2_000_000.0));
    }
}

#[test]
fn response_delay_applies_to_every_response_of_its_endpoint() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let delay = Duration::from_millis(30);
    sandbox.set_response_delay(Endpoint::Billing, delay);
    let started = Instant::now();
    client.balance().unwrap();
    client.balance().unwrap();
    assert!(started.elapsed() >= 2 * delay);
}

#[test]
fn default_video_is_an_mp4() {
    let sandbox = sandbox();
    assert_eq!(&sandbox.default_video()[4..8], b"ftyp");
    assert!(sandbox.default_video().windows(4).any(|part| part == b"moov"));
}

#[test]
fn client_builder_sets_the_key_and_short_delays() {
    let sandbox = sandbox();
    let started = Instant::now();
    test_client(&sandbox).generate(&request()).unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
    let key = format!("Bearer {}", sandbox.key());
    let has_key = |request: &RecordedRequest| request.header("authorization") == Some(&key);
    assert!(sandbox.requests().iter().all(has_key));
}

// ---------------------------------------------------------------- faults

#[test]
fn faults_are_used_in_order_and_the_given_number_of_times() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(500), 2);
    sandbox.fault(Endpoint::Billing, Fault::status(404), 0);
    sandbox.fault(Endpoint::Billing, Fault::status(403), 1);
    let status = || send(&sandbox, "GET", "/v2/billing", KEY).status;
    assert_eq!([status(), status(), status(), status()], [500, 500, 403, 200]);
}

#[test]
fn faults_do_not_affect_other_endpoints() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(500), 1);
    assert_eq!(send(&sandbox, "GET", "/v2/logs?period=1h", KEY).status, 200);
    assert_eq!(send(&sandbox, "GET", "/v2/billing", KEY).status, 500);
}

#[test]
fn faults_can_be_cleared() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(500), 9);
    sandbox.clear_faults();
    assert_eq!(send(&sandbox, "GET", "/v2/billing", KEY).status, 200);
}

#[test]
fn fault_creates_no_generation_unless_after_accepting() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(500), 1);
    sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
    sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
    for generations in [0, 0, 1] {
        no_retry_client(&sandbox).create(&request()).unwrap_err();
        assert_eq!(sandbox.generations().len(), generations);
    }
}

#[test]
fn invalid_request_is_not_accepted_by_after_accepting() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(504).after_accepting(), 1);
    assert_eq!(post_json(&sandbox, &json!({})).status, 504);
    assert!(sandbox.generations().is_empty());
}

#[test]
fn fault_status_has_the_documented_body_and_added_headers() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(429).header("Retry-After", "2"), 1);
    let limited = send(&sandbox, "GET", "/v2/billing", KEY);
    assert_eq!((limited.status, limited.message().as_str()), (429, "Too Many Requests"));
    assert!(limited.head.contains("Retry-After: 2"), "{}", limited.head);
    sandbox.fault(Endpoint::Billing, Fault::status(403), 1);
    let error = no_retry_client(&sandbox).balance().unwrap_err();
    assert!(error.is_out_of_credits(), "{error}");
}

#[test]
fn unresponsive_fault_lasts_until_the_client_times_out() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::no_response(), 1);
    let builder = sandbox.client_builder().idle_timeout(Duration::from_millis(50));
    let client = builder.retry_policy(RetryPolicy::none()).build().unwrap();
    assert_eq!(client.balance().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(sandbox.requests()[0].response_status, None);
}

// ---------------------------------------------------------------- concurrency and shutdown

#[test]
fn stalled_client_does_not_block_others() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::no_response(), 1);
    let mut stalled = TcpStream::connect(sandbox_addr(&sandbox)).unwrap();
    let request = format!("GET /v2/billing HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
    stalled.write_all(request.as_bytes()).unwrap();
    while sandbox.request_count(Endpoint::Billing) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(no_retry_client(&sandbox).balance().unwrap().amount, 100.0);
}

#[test]
fn dropped_sandbox_closes_its_connections() {
    with_timeout(|| {
        let sandbox = sandbox();
        let address = sandbox_addr(&sandbox);
        sandbox.fault(Endpoint::Billing, Fault::no_response(), 1);
        let mut stalled = TcpStream::connect(address).unwrap();
        let request = format!("GET /v2/billing HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
        stalled.write_all(request.as_bytes()).unwrap();
        let mut idle = TcpStream::connect(address).unwrap();
        while sandbox.request_count(Endpoint::Billing) == 0 {
            std::thread::yield_now();
        }
        drop(sandbox);
        for stream in [&mut stalled, &mut idle] {
            let mut rest = Vec::new();
            let _ = stream.read_to_end(&mut rest);
            assert!(rest.is_empty());
        }
    });
}

#[test]
fn dropped_sandbox_closes_its_port() {
    // Several attempts, because the sandbox of another test may reuse the port right away.
    let is_closed = || {
        let sandbox = sandbox();
        let address = sandbox_addr(&sandbox);
        drop(sandbox);
        TcpStream::connect(address).is_err()
    };
    assert!((0..3).any(|_| is_closed()));
}

#[test]
fn client_of_a_dropped_sandbox_gets_an_error() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let created = client.create(&request()).unwrap().id;
    drop(sandbox);
    assert!(client.retrieve(&created).is_err());
    let no_waiting = WaitOptions::new().initial_delay(Duration::ZERO).timeout(Duration::ZERO);
    let error = client.with_wait_options(no_waiting).wait(&created).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
}

#[test]
fn debug_output_contains_the_url() {
    let sandbox = sandbox();
    assert!(format!("{sandbox:?}").contains(&sandbox.url()));
}
