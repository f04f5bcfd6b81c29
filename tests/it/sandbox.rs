//! The behavior of the sandbox that programs rely on in their own tests.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{Client, Status};
use serde_json::{Value, json};

use crate::helpers::clients::{no_retry_client, request, sandbox, sandbox_addr};

const ROUTE: &str = "/v2/generate/video/kling/generation";
pub const KEY: &str = "Authorization: Bearer sandbox-key\r\n";
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

pub struct Response {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Response {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The message of an error response.
    pub fn message(&self) -> String {
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
pub fn send(sandbox: &Sandbox, method: &str, target: &str, headers: &str) -> Response {
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

pub fn post_json(sandbox: &Sandbox, body: &Value) -> Response {
    post(sandbox, &format!("{KEY}{JSON}"), &body.to_string())
}

fn minimal_body() -> Value {
    json!({ "model": kling_video::MODEL, "image_url": "https://example.com/cat.jpg" })
}

pub fn polled_statuses(client: &Client, polls: usize) -> Vec<Status> {
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
