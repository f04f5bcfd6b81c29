//! Cancellation: another thread can end a call at any point, and nothing that was paid for is lost.

use std::io::Write;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{CancelToken, Client, Error, ErrorKind, EventKind, Image, ImageToVideo};

use crate::helpers::clients::{
    create_counts, quick_retry, quick_wait, request, sandbox, test_client,
};
use crate::helpers::events::record_events;
use crate::helpers::files::TestDir;
use crate::helpers::journal::{intent, sending};
use crate::helpers::media::png_of_len;
use crate::helpers::tcp_server::RawServer;
use crate::helpers::timing::wait_until;

/// The maximum time from `cancel` to the end of the call.
const MAX_LATENCY: Duration = Duration::from_millis(50);

const HOUR: Duration = Duration::from_secs(3600);

/// A request whose body takes several writes.
fn large_request() -> ImageToVideo {
    ImageToVideo::new(Image::bytes(png_of_len(1_000_000)))
}

/// Runs `call`, cancels it once `ready` returns true, and measures how long it takes to end.
fn cancel_latency(
    token: &CancelToken,
    ready: impl FnMut() -> bool,
    call: impl FnOnce() -> Result<(), Error> + Send,
) -> (Error, Duration) {
    thread::scope(|scope| {
        let call = scope.spawn(|| (call(), Instant::now()));
        wait_until("the moment to cancel", ready);
        let cancelled = Instant::now();
        token.cancel();
        let (result, ended) = call.join().unwrap();
        (result.expect_err("a cancelled call"), ended.saturating_duration_since(cancelled))
    })
}

#[track_caller]
fn assert_cancelled_promptly(attempt: impl FnMut() -> (Error, Duration)) {
    assert_cancelled_within(MAX_LATENCY, attempt);
}

/// Takes the best of three attempts, since on a busy machine any single one may be slow.
#[track_caller]
fn assert_cancelled_within(max_latency: Duration, mut attempt: impl FnMut() -> (Error, Duration)) {
    let mut latencies = Vec::new();
    for _ in 0..3 {
        let (error, latency) = attempt();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        assert!(!error.is_retryable());
        if latency <= max_latency {
            return;
        }
        latencies.push(latency);
    }
    panic!("took longer than {max_latency:?}: {latencies:?}");
}

// ---------------------------------------------------------------- latency

#[test]
fn sleep_between_polls_ends_on_cancel() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = client.create(&request()).unwrap().id;
    assert_cancelled_promptly(|| {
        let (token, polls) = (CancelToken::new(), sandbox.request_count(Endpoint::Retrieve));
        let options = quick_wait().interval(HOUR).timeout(2 * HOUR);
        let client = client.with_cancel_token(token.clone()).with_wait_options(options);
        let (error, latency) = cancel_latency(
            &token,
            || sandbox.request_count(Endpoint::Retrieve) > polls,
            || client.wait(&id).map(drop),
        );
        assert_eq!(error.generation_id(), Some(&id));
        let expected =
            format!("generation `{id}` may still be running and be billed: call wait again");
        assert!(error.to_string().ends_with(&expected), "{error}");
        (error, latency)
    });
}

#[test]
fn sleep_before_retry_ends_on_cancel() {
    let sandbox = sandbox();
    let client =
        sandbox.client_builder().retry_policy(quick_retry().max_delay(2 * HOUR)).build().unwrap();
    let retry_in_an_hour = Fault::status(429).header("Retry-After", "3600");
    let id = client.create(&request()).unwrap().id;
    for endpoint in [Endpoint::Create, Endpoint::Retrieve] {
        assert_cancelled_promptly(|| {
            let (token, before) = (CancelToken::new(), sandbox.request_count(endpoint));
            sandbox.fault(endpoint, retry_in_an_hour.clone(), 1);
            let options = quick_wait().timeout(2 * HOUR);
            let client = client.with_cancel_token(token.clone()).with_wait_options(options);
            cancel_latency(
                &token,
                || {
                    let has_response = |r: &&kling_video::sandbox::RecordedRequest| {
                        r.endpoint == Some(endpoint) && r.response_status.is_some()
                    };
                    sandbox.requests().iter().filter(has_response).count() > before
                },
                || match endpoint {
                    Endpoint::Create => client.generate(&request()).map(drop),
                    _ => client.wait(&id).map(drop),
                },
            )
        });
    }
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn poll_without_response_ends_on_cancel() {
    for fault in [Fault::no_response(), Fault::throttle(Duration::from_millis(20))] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let id = client.create(&request()).unwrap().id;
        sandbox.fault(Endpoint::Retrieve, fault, 99);
        assert_cancelled_promptly(|| {
            let (token, polls) = (CancelToken::new(), sandbox.request_count(Endpoint::Retrieve));
            let client = client.with_cancel_token(token.clone());
            let (error, latency) = cancel_latency(
                &token,
                || sandbox.request_count(Endpoint::Retrieve) > polls,
                || client.wait(&id).map(drop),
            );
            assert_eq!(error.generation_id(), Some(&id));
            (error, latency)
        });
    }
}

#[test]
fn wait_all_ends_on_cancel_for_every_id() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let ids: Vec<_> = (0..5).map(|_| client.create(&request()).unwrap().id).collect();
    sandbox.fault(Endpoint::Retrieve, Fault::no_response(), 999);
    for threads in [1, 3] {
        assert_cancelled_promptly(|| {
            let (token, polls) = (CancelToken::new(), sandbox.request_count(Endpoint::Retrieve));
            let options = quick_wait().threads(threads);
            let client = client.with_cancel_token(token.clone()).with_wait_options(options);
            cancel_latency(
                &token,
                || sandbox.request_count(Endpoint::Retrieve) >= polls + threads,
                || {
                    let results = client.wait_all(&ids);
                    assert_eq!(results.len(), ids.len());
                    for (id, result) in ids.iter().zip(&results) {
                        let error = result.as_ref().unwrap_err();
                        assert_eq!(error.kind(), ErrorKind::Cancelled);
                        assert_eq!(error.generation_id(), Some(id));
                    }
                    results.into_iter().next().unwrap().map(drop)
                },
            )
        });
    }
}

#[test]
fn download_ends_on_cancel() {
    let truncated = Fault::repeat_body(
        "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nETag: \"a\"\r\n\r\n",
        "\0\0\0\x0cftypisom",
        12,
    );
    for (name, fault) in [
        ("no response", Fault::no_response()),
        ("throttled", Fault::throttle(Duration::from_millis(20))),
        ("truncated", truncated),
    ] {
        let sandbox = sandbox();
        let client = sandbox
            .client_builder()
            .retry_policy(quick_retry().max_retries(1_000_000))
            .build()
            .unwrap();
        sandbox.fault(Endpoint::Video, fault, 1_000_000);
        assert_cancelled_promptly(|| {
            let (token, dir) = (CancelToken::new(), TestDir::new());
            let before = sandbox.request_count(Endpoint::Video);
            let client = client.with_cancel_token(token.clone());
            let (error, latency) = cancel_latency(
                &token,
                || sandbox.request_count(Endpoint::Video) > before,
                || client.generate_to(&request(), &dir.target).map(drop),
            );
            assert!(error.generation_id().is_some(), "{name}: {error:?}");
            assert_eq!(dir.last_step().as_deref(), Some("completed"), "{name}");
            assert_eq!(dir.files(), ["cat.mp4.kling.jsonl"], "{name}");
            (error, latency)
        });
    }
}

#[test]
fn wait_for_journal_lock_ends_on_cancel() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    assert_cancelled_promptly(|| {
        let (token, dir) = (CancelToken::new(), TestDir::new());
        let lock_file = std::fs::File::create(dir.journal()).unwrap();
        lock_file.lock().unwrap();
        let client = client.with_cancel_token(token.clone());
        let started = Instant::now();
        cancel_latency(
            &token,
            // The wait cannot be observed from outside. Its sleeps grow up to half a second.
            || started.elapsed() > Duration::from_millis(100),
            || client.generate_to(&request(), &dir.target).map(drop),
        )
    });
    assert!(sandbox.requests().is_empty());
}

#[test]
fn wait_for_100_continue_ends_on_cancel() {
    let sandbox = sandbox();
    // More than the socket buffers hold.
    let huge = ImageToVideo::new(Image::bytes(png_of_len(7_000_000)));
    let client = test_client(&sandbox);
    assert_cancelled_promptly(|| {
        let (token, before) = (CancelToken::new(), sandbox.request_count(Endpoint::Create));
        // The next attempt expects `100 Continue`.
        sandbox.fault(Endpoint::Create, Fault::reset_after_body(100_000), 1);
        sandbox.fault(Endpoint::Create, Fault::ignore_expect(), 1);
        let client = client.with_cancel_token(token.clone());
        let result = cancel_latency(
            &token,
            || sandbox.request_count(Endpoint::Create) > before + 1,
            || client.generate(&huge).map(drop),
        );
        sandbox.clear_faults();
        result
    });
    assert_eq!(sandbox.generations().len(), 0);
}

#[test]
fn stalled_upload_ends_on_cancel() {
    let dir = TestDir::new();
    let path = dir.path().join("cat.png");
    std::fs::write(&path, png_of_len(8_000_000)).unwrap();
    let request = ImageToVideo::new(Image::file(path));
    // Under wine, a thread that waits for room in a send buffer takes up to 180 ms to notice that its
    // connection was shut down.
    let max_latency = if cfg!(windows) { Duration::from_millis(250) } else { MAX_LATENCY };
    assert_cancelled_within(max_latency, || {
        // The server asks for the body and then reads none of it.
        let open = Mutex::new(Vec::new());
        let server = RawServer::start(move |mut stream| {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            open.lock().unwrap().push(stream.try_clone().unwrap());
        });
        let client = Client::builder("key").base_url(server.url()).no_proxy().build().unwrap();
        let token = CancelToken::new();
        let client = client.with_cancel_token(token.clone());
        let started = Instant::now();
        cancel_latency(
            &token,
            || server.heads().len() == 1 && started.elapsed() > Duration::from_millis(100),
            || client.generate(&request).map(drop),
        )
    });
}

#[test]
fn recovery_from_the_log_ends_on_cancel() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    sandbox.fault(Endpoint::Logs, Fault::no_response(), 99);
    assert_cancelled_promptly(|| {
        let (token, dir) = (CancelToken::new(), TestDir::new());
        dir.write_journal(&[intent(&client, &request(), None), sending("lost")]);
        let before = sandbox.request_count(Endpoint::Logs);
        let client = client.with_cancel_token(token.clone());
        let (error, latency) = cancel_latency(
            &token,
            || sandbox.request_count(Endpoint::Logs) > before,
            || client.generate_to(&request(), &dir.target).map(drop),
        );
        assert_eq!(error.client_request_id(), Some("lost"));
        assert_eq!(dir.last_step().as_deref(), Some("sending"));
        (error, latency)
    });
    assert!(sandbox.generations().is_empty());
}

// ---------------------------------------------------------------- scope of a token

#[test]
fn token_ends_only_its_own_calls() {
    let sandbox = sandbox();
    sandbox.set_response_delay(Endpoint::Retrieve, Duration::from_millis(40));
    let client = test_client(&sandbox);
    let ids: Vec<_> = (0..3).map(|_| client.create(&request()).unwrap().id).collect();
    let (cancelled, other) = (CancelToken::new(), CancelToken::new());
    let with = |token: &CancelToken| client.with_cancel_token(token.clone());
    thread::scope(|scope| {
        let first = scope.spawn(|| with(&cancelled).wait(&ids[0]));
        let second = scope.spawn(|| with(&other).wait(&ids[1]));
        let third = scope.spawn(|| client.clone().wait(&ids[2]));
        wait_until("one poll of each", || sandbox.request_count(Endpoint::Retrieve) >= 3);
        cancelled.cancel();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(second.join().unwrap().unwrap().id, ids[1]);
        assert_eq!(third.join().unwrap().unwrap().id, ids[2]);
    });
    // The client itself remains usable.
    assert_eq!(client.wait(&ids[0]).unwrap().id, ids[0]);
}

#[test]
fn token_ends_all_its_current_and_later_calls() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let ids: Vec<_> = (0..3).map(|_| client.create(&request()).unwrap().id).collect();
    sandbox.fault(Endpoint::Retrieve, Fault::no_response(), 3);
    let token = CancelToken::new();
    let client = client.with_cancel_token(token.clone());
    thread::scope(|scope| {
        let calls: Vec<_> =
            ids.iter().map(|id| scope.spawn(|| client.wait(id).unwrap_err().kind())).collect();
        wait_until("one poll of each", || sandbox.request_count(Endpoint::Retrieve) == 3);
        token.cancel();
        for call in calls {
            assert_eq!(call.join().unwrap(), ErrorKind::Cancelled);
        }
    });
    let requests = sandbox.requests().len();
    let late = client.wait(&ids[0]).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Cancelled);
    let late = client.generate(&request()).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Cancelled);
    assert_eq!(late.generation_id(), None);
    assert!(!late.may_have_been_billed());
    assert_eq!(sandbox.requests().len(), requests, "nothing is sent after a cancel");
}

// ---------------------------------------------------------------- billing

#[test]
fn create_past_its_commit_point_is_finished_despite_cancel() {
    let sandbox = sandbox();
    sandbox.set_response_delay(Endpoint::Create, Duration::from_millis(150));
    let client = test_client(&sandbox);
    type Run = fn(&Client, &TestDir) -> Result<(), Error>;
    let runs: [(Run, bool); 2] = [
        (|client, _| client.generate(&request()).map(drop), false),
        (|client, dir| client.generate_to(&request(), &dir.target).map(drop), true),
    ];
    for (run, has_journal) in runs {
        let (token, dir) = (CancelToken::new(), TestDir::new());
        let accepted = sandbox.generations().len();
        let cancellable = client.with_cancel_token(token.clone());
        let (error, latency) = cancel_latency(
            &token,
            || sandbox.generations().len() > accepted,
            || run(&cancellable, &dir),
        );
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        let id = error.generation_id().expect("an error with the generation id");
        assert_eq!(id.as_ref(), sandbox.generations()[accepted].id);
        assert!(error.may_have_been_billed());
        assert!(latency < Duration::from_secs(2), "{latency:?}");
        assert_eq!(dir.journal().exists(), has_journal);
        if has_journal {
            assert_eq!(dir.journal_steps(), ["intent", "sending", "created"]);
            assert_eq!(dir.journal_lines()[2]["id"], id.as_ref());
            client.generate_to(&request(), &dir.target).unwrap();
            assert_eq!(create_counts(&sandbox), (accepted + 1, accepted + 1));
        }
    }
    assert_eq!(sandbox.generations().len(), 2);
}

#[test]
fn create_rejected_after_cancel_is_not_retried() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let (token, dir) = (CancelToken::new(), TestDir::new());
    sandbox.set_response_delay(Endpoint::Create, Duration::from_millis(60));
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let client = client.with_cancel_token(token.clone());
    let (error, _) = cancel_latency(
        &token,
        || sandbox.requests().iter().any(|request| request.body_complete),
        || client.generate_to(&request(), &dir.target).map(drop),
    );
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_been_billed());
    assert_eq!(dir.journal_steps(), ["intent", "sending", "rejected"]);
    assert_eq!(create_counts(&sandbox), (1, 0));
}

/// A client that cancels the token as soon as `when(sent, total)` holds during an upload.
fn client_cancelling_in_upload(
    sandbox: &Sandbox,
    when: fn(u64, u64) -> bool,
) -> (Client, CancelToken) {
    let token = CancelToken::new();
    let client = sandbox
        .client_builder()
        .event_handler({
            let token = token.clone();
            move |event| match event.kind {
                EventKind::Uploading { sent, total, .. } if when(sent, total) => token.cancel(),
                _ => {}
            }
        })
        .build()
        .unwrap();
    (client, token)
}

#[test]
fn cancel_before_the_commit_point_creates_nothing() {
    for when in [
        (|_, _| true) as fn(u64, u64) -> bool, // at the first chunk
        |sent, total| sent > total / 2,        // in the middle
        |sent, total| sent == total,           // right before the last chunk
    ] {
        for request in [request(), large_request()] {
            let sandbox = sandbox();
            let (client, token) = client_cancelling_in_upload(&sandbox, when);
            let client = client.with_cancel_token(token);
            let error = client.generate(&request).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
            assert_eq!(error.generation_id(), None);
            assert!(!error.may_have_been_billed());

            let dir = TestDir::new();
            let (client, token) = client_cancelling_in_upload(&sandbox, when);
            let client = client.with_cancel_token(token);
            let error = client.generate_to(&request, &dir.target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
            assert_eq!(
                dir.journal_steps(),
                ["intent"],
                "a create that was not sent is not recorded as sent"
            );

            assert!(sandbox.requests().iter().all(|request| !request.body_complete));
            assert_eq!(sandbox.generations().len(), 0);
            test_client(&sandbox).generate_to(&request, &dir.target).unwrap();
            assert_eq!(sandbox.generations().len(), 1);
            assert_eq!(sandbox.request_count(Endpoint::Logs), 0);
        }
    }
}

#[test]
fn cancel_from_event_handler_ends_the_call_with_the_last_known_state() {
    let sandbox = sandbox();
    let token = CancelToken::new();
    let (client, recording) = record_events(sandbox.client_builder(), {
        let token = token.clone();
        move |event| match event.kind {
            EventKind::Polled { .. } => {
                token.cancel();
                Some(())
            }
            _ => None,
        }
    });
    let error = client.with_cancel_token(token).generate(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(recording.take(), [()]);
    assert_eq!(error.generation().unwrap().id.as_ref(), sandbox.generations()[0].id);
}
