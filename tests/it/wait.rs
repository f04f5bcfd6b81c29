//! Waiting: what ends it, what does not, and what its errors tell.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kling_video::{
    Client, Endpoint, Error, ErrorKind, Event, Fault, GenerationId, RetryPolicy, Sandbox, Status,
    Video, WaitOptions,
};

use crate::common::{chain, id, request, sandbox, watched, without_hanging};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Looks every millisecond, for so long.
fn for_at_most(timeout: Duration) -> WaitOptions {
    WaitOptions::new().first_poll_after(MILLISECOND).interval(MILLISECOND).timeout(timeout)
}

fn patient() -> WaitOptions {
    for_at_most(Duration::from_secs(30))
}

fn impatient() -> WaitOptions {
    for_at_most(Duration::from_millis(30))
}

fn client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().wait(patient()).build().unwrap()
}

/// A client and a generation that it has created.
fn created(sandbox: &Sandbox) -> (Client, GenerationId) {
    let client = client(sandbox);
    let id = client.create(&request()).unwrap().id;
    (client, id)
}

fn polls(sandbox: &Sandbox) -> usize {
    sandbox.count(Endpoint::Retrieve)
}

/// A wait under these faults, each for one poll.
fn wait_with_faults(faults: impl IntoIterator<Item = Fault>) -> Result<Video, Error> {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    for fault in faults {
        sandbox.fault(Endpoint::Retrieve, fault, 1);
    }
    client.wait(&id)
}

// ---------------------------------------------------------------- the end of a wait

#[test]
fn a_wait_ends_with_the_video() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let video = client.wait(&id).unwrap();
    assert_eq!(video.id, id);
    assert!(video.url.starts_with(&sandbox.url()));
    assert_eq!(video.duration, Some(5.0));
    assert_eq!(video.file_size, Some(sandbox.video().len() as u64));
    assert_eq!(video.usage.unwrap().credits_used, Some(120_000.0));
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn events_come_in_order() {
    let sandbox = sandbox();
    sandbox.statuses(["queued", "waiting", "active", "generating", "completed"]);
    let (client, seen) = watched(sandbox.client_builder());
    client.generate(&request()).unwrap();
    assert_eq!(
        seen.words(),
        [
            "uploading",
            "created",
            "polled queued",
            "polled waiting",
            "polled active",
            "polled generating",
            "polled completed",
        ]
    );
}

#[test]
fn every_poll_tells_how_long_it_has_been_waited() {
    let sandbox = sandbox();
    sandbox.finish_after(5);
    let waits: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let noted = Arc::clone(&waits);
    let client = sandbox.client_builder().on_event(move |event| {
        if let Event::Polled { waited, .. } = event {
            noted.lock().unwrap().push(*waited);
        }
    });
    client.build().unwrap().generate(&request()).unwrap();
    let waits = waits.lock().unwrap();
    assert_eq!(waits.len(), 6);
    assert!(waits.is_sorted() && waits[0] >= 2 * MILLISECOND, "{waits:?}");
}

#[test]
fn the_first_poll_and_the_interval_are_kept() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let begun = std::time::Instant::now();
    let options = patient().first_poll_after(20 * MILLISECOND).interval(10 * MILLISECOND);
    client.wait_with(&id, &options).unwrap();
    assert!(begun.elapsed() >= 40 * MILLISECOND, "{:?}", begun.elapsed());
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn any_unknown_status_is_pending() {
    let sandbox = sandbox();
    sandbox.statuses(["", "unknown", "Completed", "paused", "succeeded"]);
    let (client, id) = created(&sandbox);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 5);
}

#[test]
fn an_error_beside_a_pending_status_ends_nothing() {
    let warned =
        r#"{"id":"1","status":"generating","error":{"name":"Slow","message":"be patient"}}"#;
    wait_with_faults([Fault::reply(200, warned)]).unwrap();
}

#[test]
fn an_error_beside_a_finished_video_is_no_failure() {
    let both = r#"{"id":"1","status":"completed","video":{"url":"https://a/b.mp4"},"error":"odd"}"#;
    assert_eq!(wait_with_faults([Fault::reply(200, both)]).unwrap().url, "https://a/b.mp4");
}

#[test]
fn a_generation_that_failed_is_told_with_its_reason_and_is_not_billed() {
    let sandbox = sandbox();
    sandbox.fail_with("ContentPolicyViolation", "The picture was refused");
    let (client, id) = created(&sandbox);
    let error = client.wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert_eq!(error.operation(), "wait");
    assert_eq!(error.generation_id(), Some(&id));
    assert_eq!(error.api_message(), Some("ContentPolicyViolation: The picture was refused"));
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    let generation = error.generation().unwrap();
    assert_eq!(generation.status, Status::Error);
    let reason = generation.error.as_ref().unwrap();
    assert_eq!(reason.name.as_deref(), Some("ContentPolicyViolation"));
    assert_eq!(reason.message, "The picture was refused");
}

#[test]
fn failed_is_a_failure_like_error() {
    let sandbox = sandbox();
    sandbox.statuses(["queued", "failed"]);
    let (client, id) = created(&sandbox);
    assert_eq!(client.wait(&id).unwrap_err().kind(), ErrorKind::GenerationFailed);
    assert_eq!(polls(&sandbox), 2);
}

#[test]
fn a_failure_without_a_reason_is_one() {
    let bare = Fault::reply(200, r#"{"status":"error"}"#);
    let error = wait_with_faults([bare]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert!(error.to_string().contains("no reason given"), "{error}");
}

#[test]
fn completed_without_a_link_is_asked_again() {
    for body in [
        r#"{"status":"completed"}"#,
        r#"{"status":"completed","video":null}"#,
        r#"{"status":"completed","video":{"url":""}}"#,
        r#"{"status":"succeeded","video":[]}"#,
    ] {
        let bare = || Fault::reply(200, body);
        wait_with_faults([bare(), bare(), bare()]).unwrap();
    }
}

// ---------------------------------------------------------------- failed polls

#[test]
fn a_poll_that_fails_for_a_while_does_not_end_the_wait() {
    wait_with_faults([
        Fault::status(500),
        Fault::status(408),
        Fault::status(425),
        Fault::status(429),
        Fault::status(524),
        Fault::close(),
        Fault::reset_before_reply(),
        Fault::raw("no HTTP\r\n\r\n"),
        Fault::cut(100),
        Fault::reply(200, "<html>maintenance</html>"),
        Fault::reply(200, ""),
        Fault::reply(200, "{}"),
    ])
    .unwrap();
}

#[test]
fn more_failures_than_retries_do_not_end_the_wait() {
    let sandbox = sandbox();
    let builder = sandbox.client_builder().retry(RetryPolicy::none()).wait(patient());
    let (client, seen) = watched(builder);
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 20);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 23);
    assert!(seen.words().contains(&"retrying wait".to_owned()));
}

#[test]
fn a_silent_poll_does_not_end_the_wait() {
    let sandbox = sandbox();
    let builder = sandbox.client_builder().idle_timeout(Duration::from_millis(600));
    let client = builder.wait(patient()).build().unwrap();
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::stall(), 1);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 4);
}

#[test]
fn a_key_that_is_refused_ends_the_wait_at_once() {
    for status in [401, 403] {
        let sandbox = sandbox();
        let (client, id) = created(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::status(status), 1);
        let error = client.wait(&id).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!((error.operation(), error.generation_id()), ("wait", Some(&id)));
        assert!(error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(polls(&sandbox), 1);
    }
}

#[test]
fn a_bad_request_ends_the_wait_at_once() {
    let error = wait_with_faults([Fault::status(400)]).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
}

#[test]
fn a_final_failure_tells_the_last_state_seen() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::delayed(Duration::ZERO), 2);
    sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1);
    let error = client.wait(&id).unwrap_err();
    assert_eq!(error.generation().unwrap().status, Status::Generating);
    assert_eq!(error.attempts(), 3);
}

#[test]
fn not_found_right_after_the_create_is_waited_out() {
    let sandbox = sandbox();
    sandbox.hidden_polls(10);
    let (client, id) = created(&sandbox);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 13);
}

// ---------------------------------------------------------------- time-outs

#[test]
fn a_time_out_tells_what_was_seen_last_and_what_to_do() {
    let sandbox = sandbox();
    sandbox.statuses(["generating"]);
    let (client, id) = created(&sandbox);
    let error = client.wait_with(&id, &impatient()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(error.generation_id(), Some(&id));
    assert_eq!(error.generation().unwrap().status, Status::Generating);
    assert!(error.is_retryable() && error.may_have_been_billed());
    let message = error.to_string();
    for part in [
        &format!("wait of `{id}`: not finished after "),
        "(last status: generating)",
        "the generation goes on and may be billed",
        &format!("wait for `{id}` to resume"),
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn a_wait_that_timed_out_can_be_resumed() {
    let sandbox = sandbox();
    sandbox.finish_after(1);
    let (client, id) = created(&sandbox);
    let hasty = patient().timeout(Duration::ZERO);
    assert_eq!(client.wait_with(&id, &hasty).unwrap_err().kind(), ErrorKind::WaitTimeout);
    client.wait(&id).unwrap();
}

#[test]
fn a_time_out_with_nothing_seen_says_so_and_why() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), u32::MAX);
    let error = client.wait_with(&id, &impatient()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error.generation().is_none());
    let chain = chain(&error);
    assert!(chain[0].contains("no status seen"), "{chain:?}");
    assert!(chain[1].contains("503"), "{chain:?}");
}

#[test]
fn a_failure_that_has_passed_is_no_reason_for_the_time_out() {
    let sandbox = sandbox();
    sandbox.statuses(["queued"]);
    let (client, id) = created(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 1);
    let error = client.wait_with(&id, &for_at_most(Duration::from_millis(200))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(chain(&error).len(), 1, "{error:?}");
}

#[test]
fn an_id_that_is_never_found_is_a_time_out_with_404_as_its_source() {
    let sandbox = sandbox();
    let error = client(&sandbox).wait_with(&id("nobody's"), &impatient()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(chain(&error)[1].contains("404"), "{error:?}");
}

#[test]
fn one_last_look_is_taken_at_the_deadline() {
    let sandbox = sandbox();
    sandbox.finish_after(0);
    let (client, id) = created(&sandbox);
    let late = WaitOptions::new().first_poll_after(Duration::MAX).timeout(20 * MILLISECOND);
    without_hanging(move || client.wait_with(&id, &late).unwrap());
    assert_eq!(polls(&sandbox), 1);
}

#[test]
fn a_long_interval_is_cut_at_the_deadline() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let options = WaitOptions::new()
        .first_poll_after(Duration::ZERO)
        .interval(Duration::MAX)
        .timeout(200 * MILLISECOND);
    let error = without_hanging(move || client.wait_with(&id, &options).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(polls(&sandbox), 2);
}

#[test]
fn no_time_at_all_is_one_look() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let at_once = WaitOptions::new()
        .first_poll_after(Duration::ZERO)
        .interval(Duration::ZERO)
        .timeout(Duration::ZERO);
    let error = client.wait_with(&id, &at_once).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(polls(&sandbox), 1);
}

#[test]
fn no_pause_between_looks_is_allowed() {
    let sandbox = sandbox();
    sandbox.finish_after(20);
    let (client, id) = created(&sandbox);
    let restless = patient().first_poll_after(Duration::ZERO).interval(Duration::ZERO);
    client.wait_with(&id, &restless).unwrap();
    assert_eq!(polls(&sandbox), 21);
}

#[test]
fn endless_patience_does_not_overflow() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    client.wait_with(&id, &patient().timeout(Duration::MAX)).unwrap();
    let results = client.wait_all(&[id], &patient().timeout(Duration::MAX));
    assert!(results[0].is_ok());
}

#[test]
fn generate_with_uses_the_options_of_the_call() {
    let sandbox = sandbox();
    sandbox.finish_after(u32::MAX);
    let error = client(&sandbox).generate_with(&request(), &impatient()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(!error.is_retryable(), "generating again would pay again");
    assert_eq!(error.generation_id().unwrap().as_ref(), sandbox.generations()[0].id);
}

// ---------------------------------------------------------------- many at once

fn create_many(client: &Client, n: usize) -> Vec<GenerationId> {
    (0..n).map(|_| client.create(&request()).unwrap().id).collect()
}

#[test]
fn results_come_in_the_order_of_the_ids() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    let mut ids = Vec::new();
    for polls in [9, 0, 4, 1, 7] {
        sandbox.finish_after(polls);
        ids.extend(create_many(&client, 1));
    }
    let results = client.wait_all(&ids, &patient());
    let found: Vec<GenerationId> = results.into_iter().map(|video| video.unwrap().id).collect();
    assert_eq!(found, ids);
}

#[test]
fn each_generation_ends_on_its_own() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    sandbox.finish_after(0);
    let done = create_many(&client, 1);
    sandbox.finish_after(u32::MAX);
    let endless = create_many(&client, 1);
    sandbox.statuses(["error"]);
    let failing = create_many(&client, 1);
    let ids = [&endless[..], &failing, &done, &[id("nobody's")]].concat();
    let results = client.wait_all(&ids, &for_at_most(Duration::from_millis(300)));
    let kinds: Vec<Option<ErrorKind>> =
        results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect();
    let late = Some(ErrorKind::WaitTimeout);
    assert_eq!(kinds, [late, Some(ErrorKind::GenerationFailed), None, late]);
    for (id, result) in ids.iter().zip(&results) {
        let told = result.as_ref().map_or_else(Error::generation_id, |video| Some(&video.id));
        assert_eq!(told, Some(id));
    }
}

#[test]
fn transient_failures_end_none_of_them() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    let ids = create_many(&client, 5);
    sandbox.fault(Endpoint::Retrieve, Fault::status(500), 7);
    sandbox.fault(Endpoint::Retrieve, Fault::close(), 3);
    sandbox.fault(Endpoint::Retrieve, Fault::status(429), 2);
    assert!(client.wait_all(&ids, &patient()).iter().all(Result::is_ok));
}

#[test]
fn no_ids_are_no_results_and_no_requests() {
    let sandbox = sandbox();
    assert!(client(&sandbox).wait_all(&[], &patient()).is_empty());
    assert!(client(&sandbox).wait_all(&[], &patient().threads(4)).is_empty());
    assert_eq!(sandbox.connections(), 0);
}

#[test]
fn an_id_that_is_given_twice_has_two_results() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let results = client.wait_all(&[id.clone(), id.clone()], &patient());
    assert_eq!(results.len(), 2);
    assert!(results.into_iter().all(|video| video.unwrap().id == id));
}

#[test]
fn no_time_at_all_is_a_time_out_for_each() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    let ids = create_many(&client, 3);
    let results = client.wait_all(&ids, &patient().timeout(Duration::ZERO));
    assert_eq!(results.len(), 3);
    for (id, result) in ids.iter().zip(results) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WaitTimeout);
        assert_eq!(error.generation_id(), Some(id));
    }
}

#[test]
fn a_hundred_generations_are_waited_for_by_any_number_of_threads() {
    for threads in [0, 1, 4, 1_000] {
        let sandbox = sandbox();
        let client = client(&sandbox);
        let ids = create_many(&client, 100);
        let results = client.wait_all(&ids, &patient().threads(threads));
        let found: Vec<GenerationId> = results.into_iter().map(|v| v.unwrap().id).collect();
        assert_eq!(found, ids, "{threads}");
    }
}

#[test]
fn four_threads_poll_at_the_same_time() {
    let sandbox = sandbox();
    let looking = Arc::new((Mutex::new(0), Condvar::new()));
    let gate = Arc::clone(&looking);
    let builder = sandbox.client_builder().on_event(move |event| {
        if matches!(event, Event::Polled { .. }) {
            let (count, changed) = &*gate;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            // Nobody leaves before four have come.
            let limit = Duration::from_secs(5);
            let (_count, wait) =
                changed.wait_timeout_while(count, limit, |count| *count < 4).unwrap();
            assert!(!wait.timed_out(), "four threads at once");
        }
    });
    let client = builder.build().unwrap();
    let ids = create_many(&client, 8);
    let results = client.wait_all(&ids, &patient().threads(4));
    assert!(results.iter().all(Result::is_ok));
}
