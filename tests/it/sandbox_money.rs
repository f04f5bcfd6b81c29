//! What the sandbox charges, how its results are scripted, and its transfers and port.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox, Script};
use kling_video::{ErrorKind, Image, ImageToVideo, MODEL, Status};

use crate::helpers::clients::{no_retry_client, request, sandbox, sandbox_addr, test_client};
use crate::helpers::media::png_of_len;
use crate::helpers::timing::with_timeout;

// ---------------------------------------------------------------- money

#[test]
fn completed_generation_reduces_the_balance_once() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(1);
    let client = no_retry_client(&sandbox);
    let balance = || client.balance().unwrap().amount;
    let id = client.create(&request()).unwrap().id;
    client.retrieve(&id).unwrap();
    assert_eq!(balance(), 100.0);
    for _ in 0..3 {
        assert_eq!(client.retrieve(&id).unwrap().status, Status::Completed);
        assert_eq!(balance(), 99.94);
    }
    sandbox.set_price(0.1);
    client.generate(&request()).unwrap();
    assert_eq!(balance(), 99.44);
    sandbox.set_balance(7.0);
    assert_eq!(balance(), 7.0);
}

#[test]
fn failed_generation_costs_nothing() {
    let sandbox = sandbox();
    sandbox.set_failure("GenerationError", "out of memory");
    let client = no_retry_client(&sandbox);
    client.generate(&request()).unwrap_err();
    assert_eq!(client.balance().unwrap().amount, 100.0);
    sandbox.clear_failure();
    client.generate(&request()).unwrap();
    assert_eq!(client.balance().unwrap().amount, 99.94);
}

#[test]
fn models_are_listed_without_a_key() {
    let sandbox = sandbox();
    let mut stream = TcpStream::connect(sandbox_addr(&sandbox)).unwrap();
    let head = "GET /v1/models?include=pricing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    assert!(response.starts_with("HTTP/1.1 200 "), "{response}");
    assert!(response.contains(MODEL) && response.contains("\"pricing\""), "{response}");
}

// ---------------------------------------------------------------- scripts and undo

#[test]
fn script_gives_concurrent_jobs_different_ends() {
    let sandbox = sandbox();
    sandbox.set_script(|generation| {
        let job: u32 =
            generation.client_request_id.as_deref()?.strip_prefix("job-")?.parse().ok()?;
        Some(match job % 3 {
            0 => Script::new().complete_after_polls(job).not_found_polls(1),
            1 => Script::new().failure("Policy", format!("job {job}")),
            _ => Script::new().status_sequence(["active", "canceled"]),
        })
    });
    let client = test_client(&sandbox);
    thread::scope(|scope| {
        let client = &client;
        let jobs = (0..12).map(|job| {
            scope.spawn(move || {
                (job, client.generate(&request().client_request_id(format!("job-{job}"))))
            })
        });
        for job in jobs.collect::<Vec<_>>() {
            let (job, result) = job.join().unwrap();
            match (job % 3, result) {
                (0, result) => drop(result.unwrap()),
                (1, result) => {
                    let error = result.unwrap_err();
                    assert!(error.to_string().contains(&format!("job {job}")), "{error}");
                }
                (_, result) => assert!(result.unwrap_err().may_have_been_billed()),
            }
        }
    });
    // Without a script of its own, a generation follows the settings.
    sandbox.set_failure("Policy", "as all others");
    let error = client.generate(&request().client_request_id("other")).unwrap_err();
    assert!(error.to_string().contains("as all others"), "{error}");
}

#[test]
fn script_may_use_the_sandbox_and_is_undone() {
    let sandbox = Arc::new(sandbox());
    sandbox.set_script({
        let sandbox = Arc::downgrade(&sandbox);
        move |generation| {
            let sandbox = sandbox.upgrade()?;
            assert!(sandbox.generations().iter().all(|other| other.id != generation.id));
            assert_eq!(generation.request["prompt"], "the cat yawns");
            Some(Script::new().failure("Policy", "no"))
        }
    });
    let client = test_client(&sandbox);
    assert_eq!(client.generate(&request()).unwrap_err().kind(), ErrorKind::GenerationFailed);
    sandbox.clear_script();
    client.generate(&request()).unwrap();
}

#[test]
fn allowed_model_and_field_are_undone() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let request = request().model("kling-video/v3").extra("tail_image_url", "x".into());
    sandbox.allow_model("kling-video/v3");
    sandbox.allow_field("tail_image_url");
    client.create(&request).unwrap();
    sandbox.disallow_field("tail_image_url");
    assert_eq!(client.create(&request).unwrap_err().status(), Some(400));
    sandbox.allow_field("tail_image_url");
    sandbox.disallow_model("kling-video/v3");
    assert_eq!(client.create(&request).unwrap_err().status(), Some(400));
}

#[test]
fn pricing_is_the_default_again_after_none_is_set() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let kind = || client.pricing(MODEL).unwrap().unwrap().kind;
    sandbox.set_pricing(Some(serde_json::json!({ "kind": "variable" })));
    assert_eq!(kind(), "variable");
    sandbox.set_pricing(None);
    assert_eq!(kind(), "fixed");
}

// ---------------------------------------------------------------- gateways

#[test]
fn gateway_response_proves_nothing_about_a_create() {
    for fault in [Fault::gateway(500), Fault::gateway(503), Fault::gateway_json(503)] {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, fault.after_accepting(), 1);
        let error = no_retry_client(&sandbox).create(&request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    }
    // The API's own response does.
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(503), 1);
    let error = no_retry_client(&sandbox).create(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Api);
}

// ---------------------------------------------------------------- transfers

/// The response to a request for the balance, until the connection is closed.
fn response(sandbox: &Sandbox) -> Vec<u8> {
    let mut stream = TcpStream::connect(sandbox_addr(sandbox)).unwrap();
    let head = "GET /v2/billing HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\
                Authorization: Bearer sandbox-key\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).unwrap();
    response
}

#[test]
fn truncated_response_ends_at_once_after_its_bytes() {
    with_timeout(|| {
        let sandbox = sandbox();
        let complete = response(&sandbox);
        for n in [0, 1, 30, complete.len() - 1] {
            sandbox.fault(Endpoint::Billing, Fault::truncate(n), 1);
            assert_eq!(response(&sandbox), &complete[..n]);
        }
    });
}

#[test]
fn bandwidth_limits_the_rate_of_a_response() {
    let sandbox = sandbox();
    let length = response(&sandbox).len();
    for (fault, expected) in [
        (Fault::default().bandwidth(length as u32 * 10), Duration::from_millis(80)),
        (Fault::default().bandwidth(length as u32 * 1_000), Duration::ZERO),
    ] {
        sandbox.fault(Endpoint::Billing, fault, 1);
        let started = Instant::now();
        assert_eq!(response(&sandbox).len(), length);
        let elapsed = started.elapsed();
        assert!(elapsed >= expected && elapsed < Duration::from_secs(5), "{elapsed:?}");
    }
}

#[test]
fn upload_bandwidth_limits_the_rate_of_a_request_body() {
    let sandbox = sandbox();
    let image = png_of_len(100_000);
    let length = image.len() as u32;
    sandbox.fault(Endpoint::Create, Fault::default().upload_bandwidth(length * 10), 1);
    let started = Instant::now();
    no_retry_client(&sandbox).create(&ImageToVideo::new(Image::bytes(image))).unwrap();
    let elapsed = started.elapsed();
    // The body is longer than the image.
    assert!(elapsed >= Duration::from_millis(80), "{elapsed:?}");
    assert!(elapsed < Duration::from_secs(5), "{elapsed:?}");
    assert_eq!(sandbox.generations()[0].image.as_ref().map(Vec::len), Some(length as usize));
}

// ---------------------------------------------------------------- port

#[test]
fn restarted_sandbox_keeps_its_port_but_not_its_ids() {
    let first = sandbox();
    let port = sandbox_addr(&first).port();
    assert!(Sandbox::start_on_port(port).is_err(), "the port is in use");
    let client = no_retry_client(&first);
    let id = client.create(&request()).unwrap().id;
    drop(first);
    // Another test may take the port in between.
    let Ok(second) = Sandbox::start_on_port(port) else { return };
    assert_eq!(sandbox_addr(&second).port(), port);
    assert_eq!(client.retrieve(&id).unwrap_err().status(), Some(404));
    assert_ne!(client.create(&request()).unwrap().id, id);
}
