//! The settings and faults of the sandbox, and how it ends.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, RecordedRequest};
use kling_video::{ErrorKind, RetryPolicy, Status, WaitOptions};
use serde_json::json;

use crate::helpers::clients::{no_retry_client, request, sandbox, sandbox_addr, test_client};
use crate::helpers::timing::with_timeout;
use crate::sandbox::{KEY, polled_statuses, post_json, send};

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
