//! Reads are tried again where that may help, and what was paid for is never lost sight of.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use kling_video::{
    CancelToken, Client, Endpoint, Error, ErrorKind, Event, Fault, GenerationId, RetryPolicy,
    Sandbox,
};

use crate::common::{request, sandbox};
use crate::faults::{Place, creates, impatient, intent, quick_retry, quick_wait, sending};

type Read<'a> = &'a dyn Fn() -> Result<(), Error>;

/// Operation and delay of each retry.
type Retries = Arc<Mutex<Vec<(String, Duration)>>>;

fn accepted(sandbox: &Sandbox) -> (Client, GenerationId) {
    let id = sandbox.client_builder().build().unwrap().create(&request()).unwrap().id;
    (impatient(sandbox).build().unwrap(), id)
}

#[test]
fn a_read_is_repeated_where_that_may_help() {
    for (fault, helps) in [
        (Fault::status(408), true),
        (Fault::status(425), true),
        (Fault::status(429), true),
        (Fault::status(500), true),
        (Fault::status(502), true),
        (Fault::status(503), true),
        (Fault::status(504), true),
        (Fault::status(524), true),
        (Fault::reply(502, "<html>"), true),
        (Fault::close(), true),
        (Fault::reset_before_reply(), true),
        (Fault::close_before_reading(), true),
        (Fault::close_after_head(), true),
        (Fault::cut(20), true),
        (Fault::cut(100), true),
        (Fault::stall(), true),
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
        (Fault::reply(200, "<html>"), false),
    ] {
        let sandbox = sandbox();
        let (client, id) = accepted(&sandbox);
        let reads: [(Endpoint, Read<'_>); 3] = [
            (Endpoint::Retrieve, &|| client.retrieve(&id).map(drop)),
            (Endpoint::Billing, &|| client.balance().map(drop)),
            (Endpoint::Logs, &|| client.find("anything").map(drop)),
        ];
        for (endpoint, read) in reads {
            sandbox.fault(endpoint, fault.clone(), 1);
            let result = read();
            let asked = sandbox.count(endpoint);
            match helps {
                true => assert!(result.is_ok() && asked == 2, "{fault:?}: {asked} {result:?}"),
                false => assert!(result.is_err() && asked == 1, "{fault:?}: {asked} {result:?}"),
            }
        }
    }
}

#[test]
fn a_read_is_repeated_as_often_as_the_policy_says() {
    for (policy, times) in
        [(quick_retry(), 6), (quick_retry().max_retries(2), 3), (RetryPolicy::none(), 1)]
    {
        let sandbox = sandbox();
        let client = sandbox.client_builder().retry(policy).build().unwrap();
        sandbox.fault(Endpoint::Billing, Fault::status(503), 99);
        let error = client.balance().unwrap_err();
        assert_eq!(sandbox.count(Endpoint::Billing), times);
        assert_eq!(error.attempts() as usize, times);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(503)));
        assert!(error.is_retryable());
    }
}

#[test]
fn a_server_that_asks_for_more_patience_than_allowed_gets_the_error_returned() {
    for (header, at_least) in [
        ("1", 1),
        ("86400", 86_400),
        ("Thu, 31 Dec 2099 23:59:59 GMT", 86_400),
        ("99999999999999999999999999", 86_400),
    ] {
        let sandbox = sandbox();
        let (client, id) = accepted(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::status(429).header("Retry-After", header), 9);
        let error = client.retrieve(&id).unwrap_err();
        assert_eq!(sandbox.count(Endpoint::Retrieve), 1, "{header}");
        assert!(error.retry_after().unwrap() >= Duration::from_secs(at_least), "{error:?}");
        assert_eq!(error.generation_id(), Some(&id));
        assert!(error.is_retryable());
    }
}

/// What a client's retries were, with the time each would wait; the first cancels the token.
fn cancelling_at_first_retry(
    sandbox: &Sandbox,
    max_delay: Duration,
) -> (Client, CancelToken, Retries) {
    let (token, retries) = (CancelToken::new(), Retries::default());
    let client = sandbox
        .client_builder()
        .retry(quick_retry().max_delay(max_delay))
        .on_event({
            let (token, retries) = (token.clone(), Arc::clone(&retries));
            move |event| {
                if let Event::Retrying { operation, after, .. } = event {
                    retries.lock().unwrap().push(((*operation).to_owned(), *after));
                    token.cancel();
                }
            }
        })
        .build()
        .unwrap();
    (client, token, retries)
}

#[test]
fn retry_after_is_honoured_up_to_the_longest_delay() {
    let asked = Fault::status(503).header("Retry-After", "40");

    // In a wait.
    let sandbox = sandbox();
    let (client, token, retries) = cancelling_at_first_retry(&sandbox, Duration::from_secs(60));
    sandbox.fault(Endpoint::Retrieve, asked.clone(), 1);
    let id = client.create(&request()).unwrap().id;
    let error = client.wait_with(&id, &quick_wait().cancel(token)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(*retries.lock().unwrap(), [("wait".to_owned(), Duration::from_secs(40))]);

    // In a look-up, which is a read like any other.
    let (client, token, retries) = cancelling_at_first_retry(&sandbox, Duration::from_secs(60));
    sandbox.fault(Endpoint::Logs, asked.clone(), 1);
    let place = Place::new();
    place.write_journal(&[intent(&client, &request(), None), sending("lost")]);
    let options = quick_wait().cancel(token);
    let error = client.generate_to_with(&request(), &place.target, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(*retries.lock().unwrap(), [("find".to_owned(), Duration::from_secs(40))]);

    // In a create.
    let (client, token, retries) = cancelling_at_first_retry(&sandbox, Duration::from_secs(60));
    sandbox.fault(Endpoint::Create, Fault::status(429).header("Retry-After", "40"), 1);
    let options = quick_wait().cancel(token);
    let error = client.generate_with(&request(), &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(*retries.lock().unwrap(), [("create".to_owned(), Duration::from_secs(40))]);
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn a_wait_is_put_off_where_a_single_read_would_fail() {
    let sandbox = sandbox();
    let (client, token, retries) = cancelling_at_first_retry(&sandbox, Duration::from_secs(1));
    sandbox.fault(Endpoint::Retrieve, Fault::status(429).header("Retry-After", "50"), 1);
    let id = client.create(&request()).unwrap().id;
    let options = quick_wait().timeout(Duration::from_secs(600)).cancel(token);
    let error = client.wait_with(&id, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(*retries.lock().unwrap(), [("wait".to_owned(), Duration::from_secs(50))]);
}

#[test]
fn a_wait_ends_at_its_deadline_whatever_retry_after_says() {
    let sandbox = sandbox();
    let client =
        sandbox.client_builder().retry(quick_retry().max_delay(Duration::MAX)).build().unwrap();
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::status(503).header("Retry-After", "3600"), 99);
    let begun = Instant::now();
    let options = quick_wait().timeout(Duration::from_millis(400));
    let error = client.wait_with(&id, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(sandbox.count(Endpoint::Retrieve), 2, "the last look is taken at the deadline");
    assert_eq!(error.generation_id(), Some(&id));
    assert!(error.to_string().contains("goes on and may be billed"), "{error}");
    assert!(error.to_string().contains(&format!("wait for `{id}`")), "{error}");
}

#[test]
fn transient_failures_do_not_end_a_wait() {
    let sandbox = sandbox();
    let (client, id) = accepted(&sandbox);
    for fault in [
        Fault::status(408),
        Fault::status(425),
        Fault::status(429),
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::status(524),
        Fault::status(500).cut_after(25),
        Fault::close(),
        Fault::reset_before_reply(),
        Fault::reply(200, "<html>"),
        Fault::reply(200, "{}"),
        Fault::raw("\0"),
        Fault::stall(),
    ] {
        sandbox.fault(Endpoint::Retrieve, fault, 1);
    }
    // More in a row than a single read would be tried.
    assert_eq!(client.wait(&id).unwrap().id, id);
    assert_eq!(sandbox.count(Endpoint::Retrieve), 15 + 3);
}

#[test]
fn final_failures_end_a_wait_at_once_and_carry_the_id() {
    for status in [400, 401, 403, 409, 410, 422] {
        let sandbox = sandbox();
        let (client, id) = accepted(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::status(status), 99);
        let error = client.wait(&id).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(sandbox.count(Endpoint::Retrieve), 1);
        assert_eq!(error.generation_id(), Some(&id));
        assert!(error.may_have_been_billed());
    }
}

#[test]
fn what_is_not_visible_yet_is_waited_out() {
    let sandbox = sandbox();
    sandbox.hidden_polls(20);
    let client = sandbox.client_builder().build().unwrap();
    let video = client.generate(&request()).unwrap();
    assert_eq!(video.id.as_ref(), sandbox.generations()[0].id);
    assert_eq!(sandbox.generations()[0].polls, 23);
}

#[test]
fn every_error_after_a_create_carries_its_id() {
    type Script = fn(&Sandbox);
    let scripts: [(ErrorKind, Script); 8] = [
        (ErrorKind::WaitTimeout, |sandbox| {
            sandbox.fault(Endpoint::Retrieve, Fault::stall(), 99);
        }),
        (ErrorKind::Api, |sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(401), 9)),
        (ErrorKind::WaitTimeout, |sandbox| sandbox.finish_after(1_000_000)),
        (ErrorKind::WaitTimeout, |sandbox| sandbox.hidden_polls(1_000_000)),
        (ErrorKind::GenerationFailed, |sandbox| sandbox.fail_with("Refused", "not this one")),
        (ErrorKind::Api, |sandbox| sandbox.fault(Endpoint::Video, Fault::status(403), 99)),
        (ErrorKind::Transport, |sandbox| sandbox.fault(Endpoint::Video, Fault::close(), 99)),
        (ErrorKind::Decode, |sandbox| sandbox.serve_video(b"<html>".to_vec())),
    ];
    for (index, (kind, script)) in scripts.into_iter().enumerate() {
        let sandbox = sandbox();
        script(&sandbox);
        let short = if kind == ErrorKind::WaitTimeout { 80 } else { 30_000 };
        let wait = quick_wait().timeout(Duration::from_millis(short));
        // Only the silent one needs a client that is impatient.
        let builder = if index == 0 { impatient(&sandbox) } else { sandbox.client_builder() };
        let client = builder.wait(wait).build().unwrap();
        let place = Place::new();
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), kind, "{error:?}");
        let id = error.generation_id().unwrap_or_else(|| panic!("no id: {error:?}"));
        assert_eq!(id.as_ref(), sandbox.generations()[0].id);
        assert!(error.to_string().contains(id.as_ref()), "{error}");
        assert_eq!(error.may_have_been_billed(), kind != ErrorKind::GenerationFailed);
        assert_eq!(creates(&sandbox), (1, 1));
    }
}

#[test]
fn a_connection_that_went_stale_in_the_pool_is_replaced() {
    let sandbox = sandbox();
    let (client, id) = accepted(&sandbox);
    for _ in 0..5 {
        sandbox.fault(Endpoint::Retrieve, Fault::close_after_reply(), 1);
        client.retrieve(&id).unwrap();
        assert_eq!(client.balance().unwrap().currency, "USD");
    }
    assert_eq!(sandbox.count(Endpoint::Retrieve), 5);
}
