//! Retries of reads, and the generation id in every error after a create request.

use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, Client, Error, ErrorKind, EventKind, GenerationId, Operation, RetryPolicy,
};

use crate::helpers::clients::{
    create_counts, quick_retry, quick_wait, request, sandbox, short_idle_timeout, test_client,
};
use crate::helpers::events::{Recording, record_events};
use crate::helpers::files::TestDir;
use crate::helpers::journal::{intent, sending};

type Read<'a> = &'a dyn Fn() -> Result<(), Error>;

type Retries = Recording<(Operation, Duration)>;

fn client_with_generation(sandbox: &Sandbox) -> (Client, GenerationId) {
    let id = test_client(sandbox).create(&request()).unwrap().id;
    (short_idle_timeout(sandbox).build().unwrap(), id)
}

#[test]
fn read_is_retried_after_transient_failure() {
    for (fault, is_retried) in [
        (Fault::status(408), true),
        (Fault::status(425), true),
        (Fault::status(429), true),
        (Fault::status(500), true),
        (Fault::status(502), true),
        (Fault::status(503), true),
        (Fault::status(504), true),
        (Fault::status(524), true),
        (Fault::response(502, "<html>"), true),
        (Fault::close_connection(), true),
        (Fault::reset_before_response(), true),
        (Fault::close_before_reading(), true),
        (Fault::close_after_head(), true),
        (Fault::truncate(20), true),
        (Fault::truncate(100), true),
        (Fault::no_response(), true),
        (Fault::raw("what?\r\n\r\n"), true),
        (Fault::status(429).header("Retry-After", "0"), true),
        (Fault::status(503).header("Retry-After", "-1"), true),
        (Fault::status(503).header("Retry-After", "1"), false),
        (Fault::status(301).header("Location", "/v2/billing"), false),
        (Fault::status(302).header("Location", "/v2/billing"), false),
        (Fault::status(400), false),
        (Fault::status(401), false),
        (Fault::status(403), false),
        (Fault::status(404), false),
        (Fault::status(409), false),
        (Fault::response(200, "<html>"), false),
    ] {
        let sandbox = sandbox();
        let (client, id) = client_with_generation(&sandbox);
        let reads: [(Endpoint, Read<'_>); 3] = [
            (Endpoint::Retrieve, &|| client.retrieve(&id).map(drop)),
            (Endpoint::Billing, &|| client.balance().map(drop)),
            (Endpoint::Logs, &|| client.find("anything").map(drop)),
        ];
        for (endpoint, read) in reads {
            sandbox.fault(endpoint, fault.clone(), 1);
            let result = read();
            let requests = sandbox.request_count(endpoint);
            let expected = if is_retried { (true, 2) } else { (false, 1) };
            assert_eq!((result.is_ok(), requests), expected, "{fault:?}: {result:?}");
        }
    }
}

#[test]
fn read_is_retried_up_to_max_retries() {
    for (policy, requests) in
        [(quick_retry(), 6), (quick_retry().max_retries(2), 3), (RetryPolicy::none(), 1)]
    {
        let sandbox = sandbox();
        let client = sandbox.client_builder().retry_policy(policy).build().unwrap();
        sandbox.fault(Endpoint::Billing, Fault::status(503), 99);
        let error = client.balance().unwrap_err();
        assert_eq!(sandbox.request_count(Endpoint::Billing), requests);
        assert_eq!(error.attempts() as usize, requests);
        let attempts = format!("after {requests} attempts");
        assert_eq!(error.to_string().contains(&attempts), requests > 1, "{error}");
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(503)));
        assert!(error.is_retryable());
    }
}

#[test]
fn retry_after_over_max_delay_returns_error() {
    for (header, at_least) in [
        ("1", 1),
        ("86400", 86_400),
        ("Thu, 31 Dec 2099 23:59:59 GMT", 86_400),
        ("99999999999999999999999999", 86_400),
    ] {
        let sandbox = sandbox();
        let (client, id) = client_with_generation(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::status(429).header("Retry-After", header), 9);
        let error = client.retrieve(&id).unwrap_err();
        assert_eq!(sandbox.request_count(Endpoint::Retrieve), 1, "{header}");
        assert!(error.retry_after().unwrap() >= Duration::from_secs(at_least), "{error:?}");
        assert_eq!(error.generation_id(), Some(&id));
        assert!(error.is_retryable());
    }
}

/// A client that records operation and delay of each retry, and cancels the token at the first one.
fn cancel_at_first_retry(sandbox: &Sandbox, max_delay: Duration) -> (Client, CancelToken, Retries) {
    let token = CancelToken::new();
    let retry_policy = quick_retry().max_delay(max_delay);
    let (client, retries) = record_events(sandbox.client_builder().retry_policy(retry_policy), {
        let token = token.clone();
        move |event| match event.kind {
            EventKind::Retrying { operation, delay, .. } => {
                token.cancel();
                Some((operation, delay))
            }
            _ => None,
        }
    });
    (client, token, retries)
}

#[test]
fn retry_after_is_honored_up_to_max_delay() {
    let unavailable = Fault::status(503).header("Retry-After", "40");

    // In `wait`.
    let sandbox = sandbox();
    let (client, token, retries) = cancel_at_first_retry(&sandbox, Duration::from_secs(60));
    sandbox.fault(Endpoint::Retrieve, unavailable.clone(), 1);
    let id = client.create(&request()).unwrap().id;
    let error =
        client.with_wait_options(quick_wait()).with_cancel_token(token).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(retries.take(), [(Operation::Wait, Duration::from_secs(40))]);

    // In the recovery of a lost create, which is a read like any other.
    let (client, token, retries) = cancel_at_first_retry(&sandbox, Duration::from_secs(60));
    sandbox.fault(Endpoint::Logs, unavailable.clone(), 1);
    let dir = TestDir::new();
    dir.write_journal(&[intent(&client, &request(), None), sending("lost")]);
    let client = client.with_cancel_token(token);
    let options = quick_wait().timeout(Duration::from_secs(60));
    let error =
        client.with_wait_options(options.clone()).generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(retries.take(), [(Operation::Find, Duration::from_secs(40))]);

    // In `create`.
    let (client, token, retries) = cancel_at_first_retry(&sandbox, Duration::from_secs(60));
    sandbox.fault(Endpoint::Create, Fault::status(429).header("Retry-After", "40"), 1);
    let client = client.with_cancel_token(token);
    let options = quick_wait();
    let error = client.with_wait_options(options.clone()).generate(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(retries.take(), [(Operation::Create, Duration::from_secs(40))]);
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn wait_honors_retry_after_over_max_delay() {
    let sandbox = sandbox();
    let (client, token, retries) = cancel_at_first_retry(&sandbox, Duration::from_secs(1));
    sandbox.fault(Endpoint::Retrieve, Fault::status(429).header("Retry-After", "50"), 1);
    let id = client.create(&request()).unwrap().id;
    let client = client.with_cancel_token(token);
    let options = quick_wait().timeout(Duration::from_secs(600));
    let error = client.with_wait_options(options.clone()).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(retries.take(), [(Operation::Wait, Duration::from_secs(50))]);
}

#[test]
fn wait_ends_at_deadline_despite_longer_retry_after() {
    let sandbox = sandbox();
    let client = sandbox
        .client_builder()
        .retry_policy(quick_retry().max_delay(Duration::MAX))
        .build()
        .unwrap();
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::status(503).header("Retry-After", "3600"), 99);
    let started = Instant::now();
    let options = quick_wait().timeout(Duration::from_millis(400));
    let error = client.with_wait_options(options.clone()).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(
        sandbox.request_count(Endpoint::Retrieve),
        2,
        "the last poll is made at the deadline"
    );
    assert_eq!(error.generation_id(), Some(&id));
    let message = error.to_string();
    assert!(message.starts_with(&format!("waiting for generation `{id}`: timed out")), "{message}");
    assert!(
        message.ends_with("it may still be running and be billed; call wait again"),
        "{message}"
    );
}

#[test]
fn error_after_create_always_has_id() {
    type Script = fn(&Sandbox);
    let scripts: [(ErrorKind, Script); 8] = [
        (ErrorKind::WaitTimeout, |sandbox| {
            sandbox.fault(Endpoint::Retrieve, Fault::no_response(), 99);
        }),
        (ErrorKind::Api, |sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(401), 9)),
        (ErrorKind::WaitTimeout, |sandbox| sandbox.complete_after_polls(1_000_000)),
        (ErrorKind::WaitTimeout, |sandbox| sandbox.set_not_found_polls(1_000_000)),
        (ErrorKind::GenerationFailed, |sandbox| sandbox.set_failure("Rejected", "not this one")),
        (ErrorKind::Api, |sandbox| sandbox.fault(Endpoint::Video, Fault::status(403), 99)),
        (ErrorKind::Transport, |sandbox| {
            sandbox.fault(Endpoint::Video, Fault::close_connection(), 99)
        }),
        (ErrorKind::Decode, |sandbox| sandbox.set_video(b"<html>".to_vec())),
    ];
    for (index, (kind, script)) in scripts.into_iter().enumerate() {
        let sandbox = sandbox();
        script(&sandbox);
        let timeout = if kind == ErrorKind::WaitTimeout { 80 } else { 30_000 };
        let wait = quick_wait().timeout(Duration::from_millis(timeout));
        // Only the first one sends no response.
        let builder =
            if index == 0 { short_idle_timeout(&sandbox) } else { sandbox.client_builder() };
        let client = builder.wait_options(wait).build().unwrap();
        let dir = TestDir::new();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        let id = error.generation_id().unwrap_or_else(|| panic!("no id: {error:?}"));
        assert_eq!(id.as_ref(), sandbox.generations()[0].id);
        assert!(error.to_string().contains(id.as_ref()), "{error}");
        assert_eq!(error.may_have_been_billed(), kind != ErrorKind::GenerationFailed);
        assert_eq!(create_counts(&sandbox), (1, 1));
    }
}

#[test]
fn stale_pooled_connection_is_replaced() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    for _ in 0..5 {
        sandbox.fault(Endpoint::Retrieve, Fault::close_after_response(), 1);
        client.retrieve(&id).unwrap();
        assert_eq!(client.balance().unwrap().currency, "USD");
    }
    assert_eq!(sandbox.request_count(Endpoint::Retrieve), 5);
    // One for the create, one for the first retrieve, and one for each balance.
    assert_eq!(sandbox.connection_count(), 7);
}
