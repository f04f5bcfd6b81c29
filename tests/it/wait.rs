//! `wait` and `wait_all`: what ends a wait, what does not, and the details of its errors.

use std::sync::{Arc, Condvar, Mutex};
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    Client, Error, ErrorKind, EventKind, GenerationId, Operation, RetryPolicy, Status, Video,
    WaitOptions,
};

use crate::common::{error_chain, id, request, sandbox, with_event_log, with_timeout};

const MILLISECOND: Duration = Duration::from_millis(1);

/// Polls every millisecond until the timeout.
fn wait_options(timeout: Duration) -> WaitOptions {
    WaitOptions::new().initial_delay(MILLISECOND).interval(MILLISECOND).timeout(timeout)
}

fn long_wait() -> WaitOptions {
    wait_options(Duration::from_secs(30))
}

fn short_wait() -> WaitOptions {
    wait_options(Duration::from_millis(30))
}

fn client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().wait_options(long_wait()).build().unwrap()
}

/// A client, and the id of a generation that it created.
fn created(sandbox: &Sandbox) -> (Client, GenerationId) {
    let client = client(sandbox);
    let id = client.create(&request()).unwrap().id;
    (client, id)
}

fn polls(sandbox: &Sandbox) -> usize {
    sandbox.request_count(Endpoint::Retrieve)
}

/// Waits for a generation while each of the faults affects one poll.
fn wait_with_faults(faults: impl IntoIterator<Item = Fault>) -> Result<Video, Error> {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    for fault in faults {
        sandbox.fault(Endpoint::Retrieve, fault, 1);
    }
    client.wait(&id)
}

// ---------------------------------------------------------------- end of a wait

#[test]
fn wait_returns_the_completed_video() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let video = client.wait(&id).unwrap();
    assert_eq!(video.id, id);
    assert!(video.url.starts_with(&sandbox.url()));
    assert_eq!(video.duration, Some(5.0));
    assert_eq!(video.file_size, Some(sandbox.default_video().len() as u64));
    assert_eq!(video.usage.unwrap().credits_used, Some(120_000.0));
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn events_are_emitted_in_order() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["queued", "waiting", "active", "generating", "completed"]);
    let (client, log) = with_event_log(sandbox.client_builder());
    client.generate(&request()).unwrap();
    assert_eq!(
        log.names(),
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
fn polled_event_reports_the_elapsed_time() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(5);
    let waits: Arc<Mutex<Vec<Duration>>> = Arc::default();
    let recorded = Arc::clone(&waits);
    let client = sandbox.client_builder().event_handler(move |event| {
        if let EventKind::Polled { elapsed, .. } = event.kind {
            recorded.lock().unwrap().push(elapsed);
        }
    });
    client.build().unwrap().generate(&request()).unwrap();
    let waits = waits.lock().unwrap();
    assert_eq!(waits.len(), 6);
    assert!(waits.is_sorted() && waits[0] >= 2 * MILLISECOND, "{waits:?}");
}

#[test]
fn initial_delay_and_interval_are_respected() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let started = std::time::Instant::now();
    let options = long_wait().initial_delay(20 * MILLISECOND).interval(10 * MILLISECOND);
    client.with_wait_options(options).wait(&id).unwrap();
    assert!(started.elapsed() >= 40 * MILLISECOND, "{:?}", started.elapsed());
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn unknown_status_is_pending() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["", "unknown", "Completed", "paused", "succeeded"]);
    let (client, id) = created(&sandbox);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 5);
}

#[test]
fn error_with_a_pending_status_does_not_end_the_wait() {
    let body = r#"{"id":"1","status":"generating","error":{"name":"Slow","message":"be patient"}}"#;
    wait_with_faults([Fault::response(200, body)]).unwrap();
}

#[test]
fn error_with_a_completed_video_is_not_a_failure() {
    let body = r#"{"id":"1","status":"completed","video":{"url":"https://a/b.mp4"},"error":"odd"}"#;
    assert_eq!(wait_with_faults([Fault::response(200, body)]).unwrap().url, "https://a/b.mp4");
}

#[test]
fn generation_failure_has_its_reason_and_is_not_billed() {
    let sandbox = sandbox();
    sandbox.set_failure("ContentPolicyViolation", "The image was rejected");
    let (client, id) = created(&sandbox);
    let error = client.wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert_eq!(error.operation(), Operation::Wait);
    assert_eq!(error.generation_id(), Some(&id));
    assert_eq!(error.server_message(), Some("ContentPolicyViolation: The image was rejected"));
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    let generation = error.generation().unwrap();
    assert_eq!(generation.status, Status::Error);
    let reason = generation.error.as_ref().unwrap();
    assert_eq!(reason.name.as_deref(), Some("ContentPolicyViolation"));
    assert_eq!(reason.message, "The image was rejected");
}

#[test]
fn status_failed_is_a_failure_like_error() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["queued", "failed"]);
    let (client, id) = created(&sandbox);
    assert_eq!(client.wait(&id).unwrap_err().kind(), ErrorKind::GenerationFailed);
    assert_eq!(polls(&sandbox), 2);
}

#[test]
fn generation_failure_needs_no_reason() {
    let failed = Fault::response(200, r#"{"status":"error"}"#);
    let error = wait_with_faults([failed]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert!(error.to_string().contains("no reason given"), "{error}");
}

#[test]
fn completed_without_a_url_is_polled_again() {
    for body in [
        r#"{"status":"completed"}"#,
        r#"{"status":"completed","video":null}"#,
        r#"{"status":"completed","video":{"url":""}}"#,
        r#"{"status":"succeeded","video":[]}"#,
    ] {
        let without_url = || Fault::response(200, body);
        wait_with_faults([without_url(), without_url(), without_url()]).unwrap();
    }
}

// ---------------------------------------------------------------- failed polls

#[test]
fn transient_poll_failures_do_not_end_the_wait() {
    wait_with_faults([
        Fault::status(500),
        Fault::status(408),
        Fault::status(425),
        Fault::status(429),
        Fault::status(524),
        Fault::close_connection(),
        Fault::reset_before_response(),
        Fault::raw("not HTTP\r\n\r\n"),
        Fault::truncate(100),
        Fault::response(200, "<html>maintenance</html>"),
        Fault::response(200, ""),
        Fault::response(200, "{}"),
    ])
    .unwrap();
}

#[test]
fn poll_failures_are_not_limited_by_max_retries() {
    let sandbox = sandbox();
    let builder =
        sandbox.client_builder().retry_policy(RetryPolicy::none()).wait_options(long_wait());
    let (client, log) = with_event_log(builder);
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 20);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 23);
    assert!(log.names().contains(&"retrying wait".to_owned()));
}

#[test]
fn idle_timeout_of_a_poll_does_not_end_the_wait() {
    let sandbox = sandbox();
    let builder = sandbox.client_builder().idle_timeout(Duration::from_millis(600));
    let client = builder.wait_options(long_wait()).build().unwrap();
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::no_response(), 1);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 4);
}

#[test]
fn rejected_key_ends_the_wait_immediately() {
    for status in [401, 403] {
        let sandbox = sandbox();
        let (client, id) = created(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::status(status), 1);
        let error = client.wait(&id).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!((error.operation(), error.generation_id()), (Operation::Wait, Some(&id)));
        assert!(error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(polls(&sandbox), 1);
    }
}

#[test]
fn bad_request_ends_the_wait_immediately() {
    let error = wait_with_faults([Fault::status(400)]).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
}

#[test]
fn permanent_failure_has_the_last_state_received() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::delay(Duration::ZERO), 2);
    sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1);
    let error = client.wait(&id).unwrap_err();
    assert_eq!(error.generation().unwrap().status, Status::Generating);
    assert_eq!(error.attempts(), 3);
}

#[test]
fn not_found_after_the_create_is_polled_again() {
    let sandbox = sandbox();
    sandbox.set_not_found_polls(10);
    let (client, id) = created(&sandbox);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 13);
}

// ---------------------------------------------------------------- timeouts

#[test]
fn timeout_message_has_the_last_status_and_the_next_step() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["generating"]);
    let (client, id) = created(&sandbox);
    let error = client.with_wait_options(short_wait()).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(error.generation_id(), Some(&id));
    assert_eq!(error.generation().unwrap().status, Status::Generating);
    assert!(error.is_retryable() && error.may_have_been_billed());
    let message = error.to_string();
    for part in [
        &format!("waiting for generation `{id}`: timed out after "),
        "(last status: generating, ",
        "polls); it is still running and may be billed; call wait again",
    ] {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn timeout_can_be_followed_by_another_wait() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(1);
    let (client, id) = created(&sandbox);
    let no_time = long_wait().timeout(Duration::ZERO);
    assert_eq!(
        client.with_wait_options(no_time).wait(&id).unwrap_err().kind(),
        ErrorKind::WaitTimeout
    );
    client.wait(&id).unwrap();
}

#[test]
fn timeout_without_any_status_has_the_last_error_as_source() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), u32::MAX);
    let error = client.with_wait_options(short_wait()).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error.generation().is_none());
    let chain = error_chain(&error);
    assert!(chain[0].contains("no status received"), "{chain:?}");
    assert!(chain[1].contains("503"), "{chain:?}");
}

#[test]
fn timeout_has_no_source_if_a_later_poll_succeeded() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["queued"]);
    let (client, id) = created(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 1);
    let error =
        client.with_wait_options(wait_options(Duration::from_millis(200))).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(error_chain(&error).len(), 1, "{error:?}");
}

#[test]
fn timeout_for_an_unknown_id_has_404_as_source() {
    let sandbox = sandbox();
    let error = client(&sandbox).with_wait_options(short_wait()).wait(&id("nobody's")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error_chain(&error)[1].contains("404"), "{error:?}");
}

#[test]
fn last_poll_is_made_at_the_deadline() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(0);
    let (client, id) = created(&sandbox);
    let late = WaitOptions::new().initial_delay(Duration::MAX).timeout(20 * MILLISECOND);
    with_timeout(move || client.with_wait_options(late).wait(&id).unwrap());
    assert_eq!(polls(&sandbox), 1);
}

#[test]
fn interval_is_shortened_at_the_deadline() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let options = WaitOptions::new()
        .initial_delay(Duration::ZERO)
        .interval(Duration::MAX)
        .timeout(200 * MILLISECOND);
    let error = with_timeout(move || client.with_wait_options(options).wait(&id).unwrap_err());
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(polls(&sandbox), 2);
}

#[test]
fn timeout_of_zero_polls_once() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let zero = WaitOptions::new()
        .initial_delay(Duration::ZERO)
        .interval(Duration::ZERO)
        .timeout(Duration::ZERO);
    let error = client.with_wait_options(zero).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(polls(&sandbox), 1);
}

#[test]
fn interval_can_be_zero() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(20);
    let (client, id) = created(&sandbox);
    let no_delays = long_wait().initial_delay(Duration::ZERO).interval(Duration::ZERO);
    client.with_wait_options(no_delays).wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 21);
}

#[test]
fn timeout_can_be_infinite() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    client.with_wait_options(long_wait().timeout(Duration::MAX)).wait(&id).unwrap();
    let results = client.with_wait_options(long_wait().timeout(Duration::MAX)).wait_all(&[id]);
    assert!(results[0].is_ok());
}

#[test]
fn generate_uses_the_wait_options_of_the_view() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(u32::MAX);
    let error = client(&sandbox).with_wait_options(short_wait()).generate(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(!error.is_retryable(), "generating again would pay again");
    assert_eq!(error.generation_id().unwrap().as_ref(), sandbox.generations()[0].id);
}

// ---------------------------------------------------------------- wait_all

fn create_many(client: &Client, n: usize) -> Vec<GenerationId> {
    (0..n).map(|_| client.create(&request()).unwrap().id).collect()
}

#[test]
fn wait_all_returns_results_in_the_order_of_the_ids() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    let mut ids = Vec::new();
    for polls in [9, 0, 4, 1, 7] {
        sandbox.complete_after_polls(polls);
        ids.extend(create_many(&client, 1));
    }
    let results = client.wait_all(&ids);
    let found: Vec<GenerationId> = results.into_iter().map(|video| video.unwrap().id).collect();
    assert_eq!(found, ids);
}

#[test]
fn wait_all_ends_each_generation_independently() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    sandbox.complete_after_polls(0);
    let completed = create_many(&client, 1);
    sandbox.complete_after_polls(u32::MAX);
    let pending = create_many(&client, 1);
    sandbox.set_status_sequence(["error"]);
    let failed = create_many(&client, 1);
    let ids = [&pending[..], &failed, &completed, &[id("nobody's")]].concat();
    let results = client.with_wait_options(wait_options(Duration::from_millis(300))).wait_all(&ids);
    let kinds: Vec<Option<ErrorKind>> =
        results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect();
    let timeout = Some(ErrorKind::WaitTimeout);
    assert_eq!(kinds, [timeout, Some(ErrorKind::GenerationFailed), None, timeout]);
    for (id, result) in ids.iter().zip(&results) {
        let result_id = result.as_ref().map_or_else(Error::generation_id, |video| Some(&video.id));
        assert_eq!(result_id, Some(id));
    }
}

#[test]
fn wait_all_survives_transient_poll_failures() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    let ids = create_many(&client, 5);
    sandbox.fault(Endpoint::Retrieve, Fault::status(500), 7);
    sandbox.fault(Endpoint::Retrieve, Fault::close_connection(), 3);
    sandbox.fault(Endpoint::Retrieve, Fault::status(429), 2);
    assert!(client.wait_all(&ids).iter().all(Result::is_ok));
}

#[test]
fn wait_all_of_no_ids_sends_nothing() {
    let sandbox = sandbox();
    assert!(client(&sandbox).wait_all(&[]).is_empty());
    assert!(client(&sandbox).with_wait_options(long_wait().threads(4)).wait_all(&[]).is_empty());
    assert_eq!(sandbox.connection_count(), 0);
}

#[test]
fn wait_all_returns_two_results_for_a_repeated_id() {
    let sandbox = sandbox();
    let (client, id) = created(&sandbox);
    let results = client.wait_all(&[id.clone(), id.clone()]);
    assert_eq!(results.len(), 2);
    assert!(results.into_iter().all(|video| video.unwrap().id == id));
}

#[test]
fn wait_all_with_a_timeout_of_zero_times_out_for_each_id() {
    let sandbox = sandbox();
    let client = client(&sandbox);
    let ids = create_many(&client, 3);
    let results = client.with_wait_options(long_wait().timeout(Duration::ZERO)).wait_all(&ids);
    assert_eq!(results.len(), 3);
    for (id, result) in ids.iter().zip(results) {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WaitTimeout);
        assert_eq!(error.generation_id(), Some(id));
    }
}

#[test]
fn wait_all_handles_100_generations_with_any_number_of_threads() {
    for threads in [0, 1, 4, 1_000] {
        let sandbox = sandbox();
        let client = client(&sandbox);
        let ids = create_many(&client, 100);
        let results = client.with_wait_options(long_wait().threads(threads)).wait_all(&ids);
        let found: Vec<GenerationId> = results.into_iter().map(|v| v.unwrap().id).collect();
        assert_eq!(found, ids, "{threads}");
    }
}

#[test]
fn wait_all_polls_concurrently_with_four_threads() {
    let sandbox = sandbox();
    let polling = Arc::new((Mutex::new(0), Condvar::new()));
    let gate = Arc::clone(&polling);
    let builder = sandbox.client_builder().event_handler(move |event| {
        if matches!(event.kind, EventKind::Polled { .. }) {
            let (count, changed) = &*gate;
            let mut count = count.lock().unwrap();
            *count += 1;
            changed.notify_all();
            // Every thread blocks here until four have arrived.
            let limit = Duration::from_secs(5);
            let (_count, wait) =
                changed.wait_timeout_while(count, limit, |count| *count < 4).unwrap();
            assert!(!wait.timed_out(), "four threads at once");
        }
    });
    let client = builder.build().unwrap();
    let ids = create_many(&client, 8);
    let results = client.with_wait_options(long_wait().threads(4)).wait_all(&ids);
    assert!(results.iter().all(Result::is_ok));
}
