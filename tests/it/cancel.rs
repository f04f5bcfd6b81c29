//! A call ends when another thread cancels it, wherever it is; what was paid for is not lost by it.

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::{
    CancelToken, Client, Endpoint, Error, ErrorKind, Event, Fault, Image, ImageToVideo, Sandbox,
    WaitOptions,
};

use crate::common::{request, sandbox};
use crate::faults::{Canned, Place, creates, picture, quick_retry, quick_wait, until};

/// What the design allows from the cancel to the end of the call.
const LIMIT: Duration = Duration::from_millis(50);

const HOUR: Duration = Duration::from_secs(3600);

fn quick(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().build().unwrap()
}

/// A picture over the size from which the server is asked first.
fn large() -> ImageToVideo {
    ImageToVideo::new(Image::bytes(picture(1_000_000)))
}

/// How long the call goes on after this thread has cancelled it, once it is ready for that.
fn lag(
    token: &CancelToken,
    ready: impl FnMut() -> bool,
    call: impl FnOnce() -> Result<(), Error> + Send,
) -> (Error, Duration) {
    thread::scope(|scope| {
        let call = scope.spawn(|| (call(), Instant::now()));
        until("the moment to cancel", ready);
        let cancelled = Instant::now();
        token.cancel();
        let (result, ended) = call.join().unwrap();
        (result.expect_err("it was to be cancelled"), ended.saturating_duration_since(cancelled))
    })
}

/// The quickest of some tries: what is measured is the call, not how busy the machine is.
#[track_caller]
fn assert_quick(mut attempt: impl FnMut() -> (Error, Duration)) {
    let mut lags = Vec::new();
    for _ in 0..3 {
        let (error, lag) = attempt();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        assert!(!error.is_retryable());
        if lag <= LIMIT {
            return;
        }
        lags.push(lag);
    }
    panic!("it took longer than {LIMIT:?}: {lags:?}");
}

// ---------------------------------------------------------------- how soon

#[test]
fn a_sleep_ends() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = client.create(&request()).unwrap().id;
    assert_quick(|| {
        let (token, polls) = (CancelToken::new(), sandbox.count(Endpoint::Retrieve));
        let options = quick_wait().interval(HOUR).timeout(2 * HOUR).cancel(token.clone());
        let (error, lag) = lag(
            &token,
            || sandbox.count(Endpoint::Retrieve) > polls,
            || client.wait_with(&id, &options).map(drop),
        );
        assert_eq!(error.generation_id(), Some(&id));
        assert!(error.to_string().contains("goes on and may be billed"), "{error}");
        assert!(error.to_string().contains(&format!("wait for `{id}`")), "{error}");
        (error, lag)
    });
}

#[test]
fn a_sleep_before_a_retry_ends() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().retry(quick_retry().max_delay(2 * HOUR)).build().unwrap();
    let patience = Fault::status(429).header("Retry-After", "3600");
    let id = client.create(&request()).unwrap().id;
    for endpoint in [Endpoint::Create, Endpoint::Retrieve] {
        assert_quick(|| {
            let (token, asked) = (CancelToken::new(), sandbox.count(endpoint));
            sandbox.fault(endpoint, patience.clone(), 1);
            let options = quick_wait().timeout(2 * HOUR).cancel(token.clone());
            lag(
                &token,
                || {
                    let answered = |r: &&kling_video::SandboxRequest| {
                        r.endpoint == Some(endpoint) && r.answered.is_some()
                    };
                    sandbox.requests().iter().filter(answered).count() > asked
                },
                || match endpoint {
                    Endpoint::Create => client.generate_with(&request(), &options).map(drop),
                    _ => client.wait_with(&id, &options).map(drop),
                },
            )
        });
    }
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn a_read_that_gets_no_answer_ends() {
    for fault in [Fault::stall(), Fault::trickle(Duration::from_millis(20))] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let id = client.create(&request()).unwrap().id;
        sandbox.fault(Endpoint::Retrieve, fault, 99);
        assert_quick(|| {
            let (token, polls) = (CancelToken::new(), sandbox.count(Endpoint::Retrieve));
            let options = quick_wait().cancel(token.clone());
            let (error, lag) = lag(
                &token,
                || sandbox.count(Endpoint::Retrieve) > polls,
                || client.wait_with(&id, &options).map(drop),
            );
            assert_eq!(error.generation_id(), Some(&id));
            (error, lag)
        });
    }
}

#[test]
fn one_wait_for_many_ends_for_all() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let ids: Vec<_> = (0..5).map(|_| client.create(&request()).unwrap().id).collect();
    sandbox.fault(Endpoint::Retrieve, Fault::stall(), 999);
    for threads in [1, 3] {
        assert_quick(|| {
            let (token, polls) = (CancelToken::new(), sandbox.count(Endpoint::Retrieve));
            let options = quick_wait().threads(threads).cancel(token.clone());
            lag(
                &token,
                || sandbox.count(Endpoint::Retrieve) >= polls + threads,
                || {
                    let results = client.wait_all(&ids, &options);
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
fn a_download_ends() {
    let cut = Fault::endless(
        "HTTP/1.1 200 OK\r\nContent-Length: 9000000\r\nETag: \"a\"\r\n\r\n",
        "\0\0\0\x0cftypisom",
        12,
    );
    for (name, fault) in [
        ("no answer", Fault::stall()),
        ("trickling", Fault::trickle(Duration::from_millis(20))),
        ("broken off", cut),
    ] {
        let sandbox = sandbox();
        let client =
            sandbox.client_builder().retry(quick_retry().max_retries(1_000_000)).build().unwrap();
        sandbox.fault(Endpoint::Video, fault, 1_000_000);
        assert_quick(|| {
            let (token, place) = (CancelToken::new(), Place::new());
            let asked = sandbox.count(Endpoint::Video);
            let options = quick_wait().cancel(token.clone());
            let (error, lag) = lag(
                &token,
                || sandbox.count(Endpoint::Video) > asked,
                || client.generate_to_with(&request(), &place.target, &options).map(drop),
            );
            assert!(error.generation_id().is_some(), "{name}: {error:?}");
            assert_eq!(place.last_step().as_deref(), Some("created"), "{name}");
            assert_eq!(place.files(), ["cat.mp4.kling.jsonl"], "{name}");
            (error, lag)
        });
    }
}

#[test]
fn waiting_for_the_lock_of_a_target_ends() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    assert_quick(|| {
        let (token, place) = (CancelToken::new(), Place::new());
        let held = std::fs::File::create(place.journal()).unwrap();
        held.lock().unwrap();
        let options = quick_wait().cancel(token.clone());
        let begun = Instant::now();
        lag(
            &token,
            // Nothing tells from outside that it waits; its pauses grow to half a second.
            || begun.elapsed() > Duration::from_millis(100),
            || client.generate_to_with(&request(), &place.target, &options).map(drop),
        )
    });
    assert!(sandbox.requests().is_empty());
}

#[test]
fn a_create_that_waits_for_leave_to_upload_ends() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    assert_quick(|| {
        let (token, asked) = (CancelToken::new(), sandbox.count(Endpoint::Create));
        sandbox.fault(Endpoint::Create, Fault::ignore_expect(), 1);
        let options = quick_wait().cancel(token.clone());
        lag(
            &token,
            || sandbox.count(Endpoint::Create) > asked,
            || client.generate_with(&large(), &options).map(drop),
        )
    });
    assert_eq!(sandbox.generations().len(), 0);
}

#[test]
fn so_does_its_second_attempt() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    assert_quick(|| {
        let (token, asked) = (CancelToken::new(), sandbox.count(Endpoint::Create));
        // The first attempt is sent whole, and certainly refused.
        sandbox.fault(Endpoint::Create, Fault::status(429), 1);
        sandbox.fault(Endpoint::Create, Fault::ignore_expect(), 1);
        let options = quick_wait().cancel(token.clone());
        let result = lag(
            &token,
            || sandbox.count(Endpoint::Create) > asked + 1,
            || client.generate_with(&large(), &options).map(drop),
        );
        sandbox.clear_faults();
        result
    });
    assert_eq!(sandbox.generations().len(), 0);
}

#[test]
fn an_upload_that_nobody_takes_ends() {
    let place = Place::new();
    let path = place.folder.path().join("cat.png");
    std::fs::write(&path, picture(8_000_000)).unwrap();
    let request = ImageToVideo::new(Image::file(path));
    assert_quick(|| {
        // It lets the upload begin, and reads none of it.
        let server = Canned::start(|stream| {
            stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n").unwrap();
            thread::sleep(Duration::from_secs(5));
        });
        let base = server.url.trim_end_matches("/cat.mp4").to_owned();
        let client = Client::builder("key").base_url(base).no_proxy().build().unwrap();
        let token = CancelToken::new();
        let options = quick_wait().cancel(token.clone());
        let begun = Instant::now();
        lag(
            &token,
            || server.heads().len() == 1 && begun.elapsed() > Duration::from_millis(100),
            || client.generate_with(&request, &options).map(drop),
        )
    });
}

#[test]
fn a_look_up_in_the_log_ends() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    sandbox.fault(Endpoint::Logs, Fault::stall(), 99);
    assert_quick(|| {
        let (token, place) = (CancelToken::new(), Place::new());
        place.write_journal(&[
            crate::faults::intent(&client, &request(), None),
            crate::faults::sending("lost"),
        ]);
        let asked = sandbox.count(Endpoint::Logs);
        let options = quick_wait().cancel(token.clone());
        let (error, lag) = lag(
            &token,
            || sandbox.count(Endpoint::Logs) > asked,
            || client.generate_to_with(&request(), &place.target, &options).map(drop),
        );
        assert_eq!(error.client_request_id(), Some("lost"));
        assert_eq!(place.last_step().as_deref(), Some("sending"));
        (error, lag)
    });
    assert!(sandbox.generations().is_empty());
}

// ---------------------------------------------------------------- whom

#[test]
fn only_the_calls_with_the_token_end() {
    let sandbox = sandbox();
    sandbox.delay(Endpoint::Retrieve, Duration::from_millis(40));
    let client = quick(&sandbox);
    let ids: Vec<_> = (0..3).map(|_| client.create(&request()).unwrap().id).collect();
    let (stopped, other) = (CancelToken::new(), CancelToken::new());
    let with = |token: &CancelToken| quick_wait().cancel(token.clone());
    thread::scope(|scope| {
        let first = scope.spawn(|| client.wait_with(&ids[0], &with(&stopped)));
        let second = scope.spawn(|| client.wait_with(&ids[1], &with(&other)));
        let third = scope.spawn(|| client.clone().wait(&ids[2]));
        until("a poll of each", || sandbox.count(Endpoint::Retrieve) >= 3);
        stopped.cancel();
        assert_eq!(first.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
        assert_eq!(second.join().unwrap().unwrap().id, ids[1]);
        assert_eq!(third.join().unwrap().unwrap().id, ids[2]);
    });
    // The client is as good as before.
    assert_eq!(client.wait(&ids[0]).unwrap().id, ids[0]);
}

#[test]
fn one_token_ends_all_its_calls_now_and_later() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let ids: Vec<_> = (0..3).map(|_| client.create(&request()).unwrap().id).collect();
    sandbox.fault(Endpoint::Retrieve, Fault::stall(), 3);
    let token = CancelToken::new();
    let options = quick_wait().cancel(token.clone());
    thread::scope(|scope| {
        let calls: Vec<_> = ids
            .iter()
            .map(|id| scope.spawn(|| client.wait_with(id, &options).unwrap_err().kind()))
            .collect();
        until("a poll of each", || sandbox.count(Endpoint::Retrieve) == 3);
        token.cancel();
        for call in calls {
            assert_eq!(call.join().unwrap(), ErrorKind::Cancelled);
        }
    });
    let requests = sandbox.requests().len();
    let late = client.wait_with(&ids[0], &options).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Cancelled);
    let late = client.generate_with(&request(), &options).unwrap_err();
    assert_eq!(late.kind(), ErrorKind::Cancelled);
    assert_eq!(late.generation_id(), None);
    assert!(!late.may_have_been_billed());
    assert_eq!(sandbox.requests().len(), requests, "nothing is sent once it is cancelled");
}

// ---------------------------------------------------------------- what was paid for

#[test]
fn a_create_past_its_commit_point_is_finished_first() {
    let sandbox = sandbox();
    sandbox.delay(Endpoint::Create, Duration::from_millis(150));
    let client = quick(&sandbox);
    for run in [
        |client: &Client, options: &WaitOptions, _: &Place| {
            client.generate_with(&request(), options).map(drop)
        },
        |client: &Client, options: &WaitOptions, place: &Place| {
            client.generate_to_with(&request(), &place.target, options).map(drop)
        },
    ] as [fn(&Client, &WaitOptions, &Place) -> Result<(), Error>; 2]
    {
        let (token, place) = (CancelToken::new(), Place::new());
        let accepted = sandbox.generations().len();
        let options = quick_wait().cancel(token.clone());
        let (error, lag) = lag(
            &token,
            || sandbox.generations().len() > accepted,
            || run(&client, &options, &place),
        );
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
        let id = error.generation_id().expect("the id is not lost");
        assert_eq!(id.as_ref(), sandbox.generations()[accepted].id);
        assert!(error.may_have_been_billed());
        assert!(lag < Duration::from_secs(2), "{lag:?}");
        if place.journal().exists() {
            assert_eq!(place.steps(), ["intent", "sending", "created"]);
            assert_eq!(place.lines()[2]["id"], id.as_ref());
            client.generate_to(&request(), &place.target).unwrap();
            assert_eq!(creates(&sandbox), (accepted + 1, accepted + 1));
        }
    }
    assert_eq!(sandbox.generations().len(), 2);
}

#[test]
fn a_create_that_is_refused_after_a_cancel_is_not_sent_again() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let (token, place) = (CancelToken::new(), Place::new());
    sandbox.delay(Endpoint::Create, Duration::from_millis(60));
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let options = quick_wait().cancel(token.clone());
    let (error, _) = lag(
        &token,
        || sandbox.requests().iter().any(|request| request.complete),
        || client.generate_to_with(&request(), &place.target, &options).map(drop),
    );
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_been_billed());
    assert_eq!(place.steps(), ["intent", "sending", "refused"]);
    assert_eq!(creates(&sandbox), (1, 0));
}

/// A client whose token is cancelled when so much of the body is about to be sent.
fn cancelling_in_the_upload(
    sandbox: &Sandbox,
    when: fn(u64, u64) -> bool,
) -> (Client, CancelToken) {
    let token = CancelToken::new();
    let client = sandbox
        .client_builder()
        .on_event({
            let token = token.clone();
            move |event| match event {
                Event::Uploading { sent, total, .. } if when(*sent, *total) => token.cancel(),
                _ => {}
            }
        })
        .build()
        .unwrap();
    (client, token)
}

#[test]
fn cancelled_before_the_commit_point_nothing_is_accepted() {
    for when in [
        (|_, _| true) as fn(u64, u64) -> bool, // at the first piece
        |sent, total| sent > total / 2,        // in the middle
        |sent, total| sent == total,           // right before the last piece
    ] {
        for request in [request(), large()] {
            let sandbox = sandbox();
            let (client, token) = cancelling_in_the_upload(&sandbox, when);
            let options = quick_wait().cancel(token);
            let error = client.generate_with(&request, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
            assert_eq!(error.generation_id(), None);
            assert!(!error.may_have_been_billed());

            let place = Place::new();
            let (client, token) = cancelling_in_the_upload(&sandbox, when);
            let options = quick_wait().cancel(token);
            let error = client.generate_to_with(&request, &place.target, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{error:?}");
            assert_eq!(place.steps(), ["intent"], "nothing is said to be sent that is not");

            assert!(sandbox.requests().iter().all(|request| !request.complete));
            assert_eq!(sandbox.generations().len(), 0);
            quick(&sandbox).generate_to(&request, &place.target).unwrap();
            assert_eq!(sandbox.generations().len(), 1);
            assert_eq!(sandbox.count(Endpoint::Logs), 0);
        }
    }
}

#[test]
fn a_cancel_from_a_callback_ends_the_call_with_what_is_known() {
    let sandbox = sandbox();
    let token = CancelToken::new();
    let polls = Arc::new(Mutex::new(0));
    let client = sandbox
        .client_builder()
        .on_event({
            let (token, polls) = (token.clone(), Arc::clone(&polls));
            move |event| {
                if let Event::Polled { .. } = event {
                    *polls.lock().unwrap() += 1;
                    token.cancel();
                }
            }
        })
        .build()
        .unwrap();
    let error = client.generate_with(&request(), &quick_wait().cancel(token)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(*polls.lock().unwrap(), 1);
    assert_eq!(error.generation().unwrap().id.as_ref(), sandbox.generations()[0].id);
}
