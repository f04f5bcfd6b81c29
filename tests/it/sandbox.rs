//! What programs that embed this crate may count on when they test themselves with the sandbox.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kling_video::{Client, Endpoint, ErrorKind, Fault, RetryPolicy, Sandbox, Status, WaitOptions};
use serde_json::{Value, json};

use crate::common::{once, png, request, sandbox, without_hanging};

const ROUTE: &str = "/v2/generate/video/kling/generation";
const KEY: &str = "Authorization: Bearer sandbox-key\r\n";
const JSON: &str = "Content-Type: application/json\r\n";

/// Sends these bytes and reads up to the end.
fn exchange(sandbox: &Sandbox, bytes: &[u8]) -> String {
    let address = sandbox.url().strip_prefix("http://").unwrap().to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream.write_all(bytes).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap()
    }

    /// The vendor's words, where it is one of the vendor's errors.
    fn message(&self) -> String {
        match &self.json()["message"] {
            Value::String(message) => message.clone(),
            list => list.to_string(),
        }
    }
}

fn answer_to(sandbox: &Sandbox, bytes: &[u8]) -> Answer {
    let answer = exchange(sandbox, bytes);
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let status = head.split(' ').nth(1).unwrap().parse().unwrap();
    Answer { status, head: head.to_owned(), body: body.to_owned() }
}

/// A request without a body.
fn ask(sandbox: &Sandbox, method: &str, target: &str, headers: &str) -> Answer {
    let head =
        format!("{method} {target} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\r\n");
    answer_to(sandbox, head.as_bytes())
}

/// A create with this body.
fn post(sandbox: &Sandbox, headers: &str, body: &str) -> Answer {
    let length = body.len();
    let head = format!(
        "POST {ROUTE} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{headers}\
         Content-Length: {length}\r\n\r\n{body}"
    );
    answer_to(sandbox, head.as_bytes())
}

fn post_json(sandbox: &Sandbox, body: &Value) -> Answer {
    post(sandbox, &format!("{KEY}{JSON}"), &body.to_string())
}

fn minimal() -> Value {
    json!({ "model": kling_video::MODEL, "image_url": "https://example.com/cat.jpg" })
}

fn statuses_seen(client: &Client, polls: usize) -> Vec<Status> {
    let created = client.create(&request()).unwrap();
    (0..polls).map(|_| client.retrieve(&created.id).unwrap().status).collect()
}

// ---------------------------------------------------------------- strictness

#[test]
fn a_valid_request_by_hand_is_accepted() {
    let sandbox = sandbox();
    let answer = post_json(&sandbox, &minimal());
    assert_eq!(answer.status, 200, "{}", answer.body);
    let generation = &sandbox.generations()[0];
    assert_eq!(answer.json()["id"], generation.id.as_str());
    assert_eq!(answer.json()["status"], "queued");
    assert!(answer.head.contains(&format!("x-inference-id: {}", generation.id)), "{}", answer.head);
    assert_eq!(generation.request, minimal());
}

#[test]
fn a_wrong_path_is_404() {
    let sandbox = sandbox();
    for target in ["/", "/v2", "/v1/generate/video/kling/generation", "/v2/logs/", "/V2/logs"] {
        let answer = ask(&sandbox, "GET", target, KEY);
        assert_eq!(answer.status, 404, "{target}");
        assert!(answer.message().contains(target), "{}", answer.body);
    }
}

#[test]
fn a_wrong_method_is_405() {
    let sandbox = sandbox();
    for (method, target) in [
        ("DELETE", ROUTE),
        ("PUT", ROUTE),
        ("HEAD", "/v2/billing"),
        ("POST", "/v2/billing"),
        ("POST", "/v2/logs"),
    ] {
        assert_eq!(ask(&sandbox, method, target, KEY).status, 405, "{method} {target}");
    }
}

#[test]
fn no_key_or_another_one_is_401() {
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
            let answer = ask(&sandbox, "GET", target, headers);
            assert_eq!(answer.status, 401, "{headers}");
            assert!(answer.json()["requestId"].is_string(), "{}", answer.body);
        }
        let created = post(&sandbox, &format!("{headers}{JSON}"), &minimal().to_string());
        assert_eq!(created.status, 401);
    }
    assert!(sandbox.generations().is_empty());
}

#[test]
fn another_content_type_is_415() {
    let sandbox = sandbox();
    for headers in ["", "Content-Type: text/plain\r\n", "Content-Type: multipart/form-data\r\n"] {
        let answer = post(&sandbox, &format!("{KEY}{headers}"), &minimal().to_string());
        assert_eq!(answer.status, 415, "{headers}");
    }
    let with_charset = format!("{KEY}Content-Type: application/json; charset=utf-8\r\n");
    assert_eq!(post(&sandbox, &with_charset, &minimal().to_string()).status, 200);
}

#[test]
fn a_body_without_a_length_is_411() {
    let sandbox = sandbox();
    assert_eq!(ask(&sandbox, "POST", ROUTE, &format!("{KEY}{JSON}")).status, 411);
    let chunked = format!("{KEY}{JSON}Transfer-Encoding: chunked\r\n");
    assert_eq!(ask(&sandbox, "POST", ROUTE, &chunked).status, 411);
}

#[test]
fn a_body_that_is_no_json_object_is_400() {
    let sandbox = sandbox();
    for body in ["", "{", "[]", "null", "\"text\"", "model=kling"] {
        let answer = post(&sandbox, &format!("{KEY}{JSON}"), body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.message().contains("Body validation error"), "{}", answer.body);
    }
}

#[test]
fn a_missing_field_is_400_and_named() {
    let sandbox = sandbox();
    for field in ["model", "image_url"] {
        let mut body = minimal();
        body.as_object_mut().unwrap().remove(field);
        let answer = post_json(&sandbox, &body);
        assert_eq!(answer.status, 400);
        assert!(answer.message().contains(field), "{}", answer.body);
    }
}

#[test]
fn a_wrong_type_or_range_is_400_and_named() {
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
        let mut body = minimal();
        body[field] = value;
        let answer = post_json(&sandbox, &body);
        assert_eq!(answer.status, 400, "{body}");
        assert!(answer.message().contains(field), "{}", answer.body);
    }
    assert!(sandbox.generations().is_empty());
}

#[test]
fn an_id_that_nobody_has_is_404() {
    let sandbox = sandbox();
    let answer = ask(&sandbox, "GET", &format!("{ROUTE}?generation_id=1"), KEY);
    assert_eq!((answer.status, answer.message().as_str()), (404, "Inference not found"));
}

#[test]
fn no_id_at_all_is_400() {
    let sandbox = sandbox();
    for target in [ROUTE.to_owned(), format!("{ROUTE}?generation_id="), format!("{ROUTE}?id=1")] {
        assert_eq!(ask(&sandbox, "GET", &target, KEY).status, 400, "{target}");
    }
}

#[test]
fn what_is_no_http_is_400() {
    let sandbox = sandbox();
    assert_eq!(answer_to(&sandbox, b"\x16\x03\x01\0\x05hello\r\n\r\n").status, 400);
    assert_eq!(answer_to(&sandbox, b"GET /v2/billing HTTP/1.1\r\n\r\n").status, 400);
}

#[test]
fn a_video_takes_no_key_and_only_its_own_link() {
    let sandbox = sandbox();
    sandbox.finish_after(0);
    let video = once(&sandbox).generate(&request()).unwrap();
    let target = video.url.strip_prefix(&sandbox.url()).unwrap();
    assert_eq!(ask(&sandbox, "GET", target, "").status, 200);
    assert_eq!(ask(&sandbox, "GET", target, KEY).status, 400);
    assert_eq!(ask(&sandbox, "GET", &target.replace("sig=", "sig=0"), "").status, 403);
    assert_eq!(ask(&sandbox, "GET", target.split('?').next().unwrap(), "").status, 403);
    assert_eq!(ask(&sandbox, "GET", "/videos/1.mp4", "").status, 404);
}

#[test]
fn a_part_of_a_video_can_be_asked_for() {
    let sandbox = sandbox();
    sandbox.serve_video(b"0123456789".to_vec());
    sandbox.finish_after(0);
    let video = once(&sandbox).generate(&request()).unwrap();
    let target = video.url.strip_prefix(&sandbox.url()).unwrap();
    let part = ask(&sandbox, "GET", target, "Range: bytes=3-5\r\n");
    assert_eq!((part.status, part.body.as_str()), (206, "345"));
    assert!(part.head.contains("Content-Range: bytes 3-5/10"), "{}", part.head);
    assert_eq!(ask(&sandbox, "GET", target, "Range: bytes=10-\r\n").status, 416);
    let changed = ask(&sandbox, "GET", target, "Range: bytes=3-\r\nIf-Range: \"old\"\r\n");
    assert_eq!((changed.status, changed.body.as_str()), (200, "0123456789"));
}

// ---------------------------------------------------------------- what it was asked

#[test]
fn every_request_is_on_record_the_refused_ones_too() {
    let sandbox = sandbox();
    ask(&sandbox, "GET", "/v2/billing", KEY);
    ask(&sandbox, "GET", "/nowhere?a=b", "X-Own: 1\r\n");
    post_json(&sandbox, &json!({ "wrong": true }));
    let seen = sandbox.requests();
    assert_eq!(seen.len(), 3);
    assert_eq!((seen[0].endpoint, seen[0].answered), (Some(Endpoint::Billing), Some(200)));
    assert_eq!((seen[1].endpoint, seen[1].answered), (None, Some(404)));
    assert_eq!((seen[1].method.as_str(), seen[1].target.as_str()), ("GET", "/nowhere?a=b"));
    assert_eq!(seen[1].header("x-own"), Some("1"));
    assert_eq!((seen[2].endpoint, seen[2].answered), (Some(Endpoint::Create), Some(400)));
    assert_eq!((seen[2].body_bytes, seen[2].complete), (14, true));
    assert_eq!(sandbox.count(Endpoint::Create), 1);
    assert_eq!(sandbox.connections(), 3);
}

#[test]
fn the_picture_and_the_request_are_kept_apart() {
    let sandbox = sandbox();
    let data = png(400, 300, 5_000);
    let image = kling_video::Image::bytes(data.clone());
    once(&sandbox).create(&kling_video::ImageToVideo::new(image)).unwrap();
    let kept = &sandbox.generations()[0];
    assert_eq!(kept.request["image_url"], "data:image/png;base64,");
    assert_eq!(kept.picture, Some(data));
    assert_eq!(kept.polls, 0);
}

#[test]
fn polls_are_counted_for_each_generation() {
    let sandbox = sandbox();
    statuses_seen(&once(&sandbox), 3);
    statuses_seen(&once(&sandbox), 1);
    let polls: Vec<u32> = sandbox.generations().iter().map(|kept| kept.polls).collect();
    assert_eq!(polls, [3, 1]);
}

#[test]
fn no_two_sandboxes_share_an_id() {
    let (one, other) = (sandbox(), sandbox());
    let created = [&one, &other].map(|sandbox| once(sandbox).create(&request()).unwrap().id);
    assert_ne!(created[0], created[1]);
    assert_ne!(one.url(), other.url());
    assert_eq!(once(&other).retrieve(&created[0]).unwrap_err().status(), Some(404));
}

// ---------------------------------------------------------------- what can be scripted

#[test]
fn a_generation_is_queued_then_generating_then_completed() {
    let sandbox = sandbox();
    let seen = statuses_seen(&once(&sandbox), 4);
    let expected = [Status::Queued, Status::Generating, Status::Completed, Status::Completed];
    assert_eq!(seen, expected);
}

#[test]
fn finish_after_counts_the_pending_polls() {
    let sandbox = sandbox();
    for pending in [0, 1, 5] {
        sandbox.finish_after(pending);
        let seen = statuses_seen(&once(&sandbox), pending as usize + 1);
        let finished = seen.iter().position(|status| *status == Status::Completed);
        assert_eq!(finished, Some(pending as usize));
    }
}

#[test]
fn statuses_are_told_one_a_poll_and_the_last_for_good() {
    let sandbox = sandbox();
    sandbox.statuses(["waiting", "queued", "active"]);
    let seen = statuses_seen(&once(&sandbox), 4);
    let seen: Vec<&str> = seen.iter().map(Status::as_str).collect();
    assert_eq!(seen, ["waiting", "queued", "active", "active"]);
}

#[test]
fn a_script_is_for_the_generations_that_come_after_it() {
    let sandbox = sandbox();
    let client = once(&sandbox);
    let before = client.create(&request()).unwrap().id;
    sandbox.statuses(["failed"]);
    let after = client.create(&request()).unwrap().id;
    assert_eq!(client.retrieve(&before).unwrap().status, Status::Queued);
    assert_eq!(client.retrieve(&after).unwrap().status, Status::Error);
}

#[test]
fn fail_with_is_the_error_that_is_told() {
    let sandbox = sandbox();
    sandbox.finish_after(1);
    sandbox.fail_with("ContentPolicyViolation", "The picture was refused");
    let client = once(&sandbox);
    let id = client.create(&request()).unwrap().id;
    assert_eq!(client.retrieve(&id).unwrap().error, None);
    let failed = client.retrieve(&id).unwrap();
    let error = failed.error.unwrap();
    assert_eq!((failed.status, failed.video), (Status::Error, None));
    assert_eq!(error.name.as_deref(), Some("ContentPolicyViolation"));
    assert_eq!(error.message, "The picture was refused");
}

#[test]
fn hidden_polls_are_404_and_do_not_count() {
    let sandbox = sandbox();
    sandbox.hidden_polls(2);
    sandbox.finish_after(1);
    let client = once(&sandbox);
    let id = client.create(&request()).unwrap().id;
    for _ in 0..2 {
        assert_eq!(client.retrieve(&id).unwrap_err().status(), Some(404));
    }
    assert_eq!(client.retrieve(&id).unwrap().status, Status::Queued);
    assert_eq!(client.retrieve(&id).unwrap().status, Status::Completed);
}

#[test]
fn expired_links_are_403_until_a_retrieve_hands_out_another() {
    let sandbox = sandbox();
    sandbox.finish_after(0);
    let client = once(&sandbox);
    let video = client.generate(&request()).unwrap();
    sandbox.expire_links();
    let target = |url: &str| url.strip_prefix(&sandbox.url()).unwrap().to_owned();
    assert_eq!(ask(&sandbox, "GET", &target(&video.url), "").status, 403);
    let fresh = client.retrieve(&video.id).unwrap().video.unwrap();
    assert_ne!(fresh.url, video.url);
    assert_eq!(ask(&sandbox, "GET", &target(&fresh.url), "").status, 200);
}

#[test]
fn a_completed_generation_costs_what_its_length_does() {
    let sandbox = sandbox();
    sandbox.finish_after(0);
    for (length, credits) in [
        (kling_video::VideoLength::FiveSeconds, 120_000.0),
        (kling_video::VideoLength::TenSeconds, 240_000.0),
    ] {
        let client = once(&sandbox);
        let id = client.create(&request().duration(length)).unwrap().id;
        let generation = client.retrieve(&id).unwrap();
        assert_eq!(generation.usage.unwrap().credits_used, Some(credits));
        assert_eq!(generation.trace.credits_used, Some(credits));
        assert_eq!(generation.trace.usd_spent, Some(credits / 2_000_000.0));
    }
}

#[test]
fn a_generation_is_in_the_log_by_its_client_request_id() {
    let sandbox = sandbox();
    let client = once(&sandbox);
    let created = client.create(&request().client_request_id("order-4711")).unwrap();
    assert_eq!(client.find("order-4711").unwrap(), Some(created.id));
    assert_eq!(client.find("order-4712").unwrap(), None);
    sandbox.log_delay(Duration::MAX);
    assert_eq!(client.find("order-4711").unwrap(), None);
}

#[test]
fn a_delay_holds_every_reply_of_its_endpoint_back() {
    let sandbox = sandbox();
    let client = once(&sandbox);
    let delay = Duration::from_millis(30);
    sandbox.delay(Endpoint::Billing, delay);
    let begun = Instant::now();
    client.balance().unwrap();
    client.balance().unwrap();
    assert!(begun.elapsed() >= 2 * delay);
}

#[test]
fn the_default_video_is_an_mp4() {
    let sandbox = sandbox();
    assert_eq!(&sandbox.video()[4..8], b"ftyp");
    assert!(sandbox.video().windows(4).any(|part| part == b"moov"));
}

#[test]
fn the_builder_has_the_key_and_short_waits() {
    let sandbox = sandbox();
    let begun = Instant::now();
    sandbox.client_builder().build().unwrap().generate(&request()).unwrap();
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
    let seen = sandbox.requests();
    let key = format!("Bearer {}", sandbox.key());
    assert!(seen.iter().all(|seen| seen.header("authorization") == Some(&key)));
}

// ---------------------------------------------------------------- faults

#[test]
fn faults_are_used_in_order_and_as_often_as_asked() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(500), 2);
    sandbox.fault(Endpoint::Billing, Fault::status(404), 0);
    sandbox.fault(Endpoint::Billing, Fault::status(403), 1);
    let status = || ask(&sandbox, "GET", "/v2/billing", KEY).status;
    assert_eq!([status(), status(), status(), status()], [500, 500, 403, 200]);
}

#[test]
fn faults_of_one_endpoint_leave_the_others_alone() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(500), 1);
    assert_eq!(ask(&sandbox, "GET", "/v2/logs?period=1h", KEY).status, 200);
    assert_eq!(ask(&sandbox, "GET", "/v2/billing", KEY).status, 500);
}

#[test]
fn faults_can_be_forgotten() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(500), 9);
    sandbox.clear_faults();
    assert_eq!(ask(&sandbox, "GET", "/v2/billing", KEY).status, 200);
}

#[test]
fn a_fault_leaves_no_generation_behind_unless_it_acted() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(500), 1);
    sandbox.fault(Endpoint::Create, Fault::close(), 1);
    sandbox.fault(Endpoint::Create, Fault::close().acted(), 1);
    for generations in [0, 0, 1] {
        once(&sandbox).create(&request()).unwrap_err();
        assert_eq!(sandbox.generations().len(), generations);
    }
}

#[test]
fn a_request_that_is_not_valid_does_not_act() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(504).acted(), 1);
    assert_eq!(post_json(&sandbox, &json!({})).status, 504);
    assert!(sandbox.generations().is_empty());
}

#[test]
fn a_status_comes_with_the_vendors_words_and_headers_can_be_added() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::status(429).header("Retry-After", "2"), 1);
    let slow = ask(&sandbox, "GET", "/v2/billing", KEY);
    assert_eq!((slow.status, slow.message().as_str()), (429, "Too Many Requests"));
    assert!(slow.head.contains("Retry-After: 2"), "{}", slow.head);
    sandbox.fault(Endpoint::Billing, Fault::status(403), 1);
    let error = once(&sandbox).balance().unwrap_err();
    assert!(error.is_out_of_credits(), "{error}");
}

#[test]
fn a_stall_lasts_until_the_client_gives_up() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::stall(), 1);
    let builder = sandbox.client_builder().idle_timeout(Duration::from_millis(50));
    let client = builder.retry(RetryPolicy::none()).build().unwrap();
    assert_eq!(client.balance().unwrap_err().kind(), ErrorKind::Timeout);
    assert_eq!(sandbox.requests()[0].answered, None);
}

// ---------------------------------------------------------------- many clients, and the end

#[test]
fn many_clients_are_served_at_once() {
    let sandbox = sandbox();
    std::thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let client = sandbox.client_builder().build().unwrap();
                client.generate(&request()).unwrap();
            });
        }
    });
    assert_eq!(sandbox.generations().len(), 100);
}

#[test]
fn one_stalled_client_does_not_hold_up_another() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::stall(), 1);
    let address = sandbox.url().strip_prefix("http://").unwrap().to_owned();
    let mut stalled = TcpStream::connect(address).unwrap();
    let ask = format!("GET /v2/billing HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
    stalled.write_all(ask.as_bytes()).unwrap();
    while sandbox.count(Endpoint::Billing) == 0 {
        std::thread::yield_now();
    }
    assert_eq!(once(&sandbox).balance().unwrap().amount, 100.0);
}

#[test]
fn a_sandbox_that_is_dropped_ends_its_connections() {
    without_hanging(|| {
        let sandbox = sandbox();
        let address = sandbox.url().strip_prefix("http://").unwrap().to_owned();
        sandbox.fault(Endpoint::Billing, Fault::stall(), 1);
        let mut stalled = TcpStream::connect(&address).unwrap();
        let ask = format!("GET /v2/billing HTTP/1.1\r\nHost: a\r\n{KEY}\r\n");
        stalled.write_all(ask.as_bytes()).unwrap();
        let mut idle = TcpStream::connect(&address).unwrap();
        while sandbox.count(Endpoint::Billing) == 0 {
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
fn a_sandbox_that_is_dropped_is_not_there_any_more() {
    // Several, for another test's sandbox may get such a port the next moment.
    let is_gone = || {
        let sandbox = sandbox();
        let address = sandbox.url().strip_prefix("http://").unwrap().to_owned();
        drop(sandbox);
        TcpStream::connect(address).is_err()
    };
    assert!((0..3).any(|_| is_gone()));
}

#[test]
fn a_client_whose_sandbox_is_gone_has_an_error() {
    let sandbox = sandbox();
    let client = once(&sandbox);
    let created = client.create(&request()).unwrap().id;
    drop(sandbox);
    assert!(client.retrieve(&created).is_err());
    let hasty = WaitOptions::new().first_poll_after(Duration::ZERO).timeout(Duration::ZERO);
    let error = client.wait_with(&created, &hasty).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
}

#[test]
fn debug_tells_where_it_is() {
    let sandbox = sandbox();
    assert!(format!("{sandbox:?}").contains(&sandbox.url()));
}
