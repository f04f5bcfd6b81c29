//! `wait` and `wait_all`: what ends a wait, what does not, and the details of its errors.

use std::sync::{Condvar, Mutex};
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    Client, Error, ErrorKind, EventKind, GenerationId, Operation, RetryPolicy, Status, Video,
    WaitOptions,
};

use crate::helpers::clients::{
    client_with_generation, id, quick_wait, request, sandbox, short_idle_timeout, test_client,
};
use crate::helpers::error_output::error_chain;
use crate::helpers::events::{record_event_names, record_events};
use crate::helpers::timing::with_timeout;

const MILLISECOND: Duration = Duration::from_millis(1);

fn short_wait() -> WaitOptions {
    quick_wait().timeout(Duration::from_millis(30))
}

fn polls(sandbox: &Sandbox) -> usize {
    sandbox.request_count(Endpoint::Retrieve)
}

/// Waits for a generation while each of the bodies is the response to one poll. `ID` stands for its id.
fn wait_with_bodies<const N: usize>(bodies: [&str; N]) -> Result<Video, Error> {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    for body in bodies {
        let body = body.replace("ID", id.as_str());
        sandbox.fault(Endpoint::Retrieve, Fault::response(200, body), 1);
    }
    client.wait(&id)
}

// ---------------------------------------------------------------- end of a wait

#[test]
fn wait_returns_the_completed_video() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let video = client.wait(&id).unwrap();
    assert_eq!(video.id, id);
    assert!(video.url.starts_with(&sandbox.url()));
    assert_eq!(video.duration, Some(5.0));
    assert_eq!(video.file_size, Some(sandbox.default_video().len() as u64));
    assert_eq!(video.usage.unwrap().credits_used, Some(120_000.0));
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn polled_event_reports_the_elapsed_time() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(5);
    let (client, recording) = record_events(sandbox.client_builder(), |event| match event.kind {
        EventKind::Polled { elapsed, .. } => Some(elapsed),
        _ => None,
    });
    client.generate(&request()).unwrap();
    let waits = recording.take();
    assert_eq!(waits.len(), 6);
    assert!(waits.is_sorted() && waits[0] >= 2 * MILLISECOND, "{waits:?}");
}

#[test]
fn initial_delay_and_interval_are_respected() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let started = std::time::Instant::now();
    let options = quick_wait().initial_delay(20 * MILLISECOND).interval(10 * MILLISECOND);
    client.with_wait_options(options).wait(&id).unwrap();
    assert!(started.elapsed() >= 40 * MILLISECOND, "{:?}", started.elapsed());
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn unknown_status_is_pending() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["", "unknown", "Complete", "paused", "succeeded"]);
    let (client, id) = client_with_generation(&sandbox);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 5);
}

#[test]
fn error_with_a_pending_status_does_not_end_the_wait() {
    let body =
        r#"{"id":"ID","status":"generating","error":{"name":"Slow","message":"be patient"}}"#;
    wait_with_bodies([body]).unwrap();
}

#[test]
fn error_with_a_completed_video_is_not_a_failure() {
    let body =
        r#"{"id":"ID","status":"completed","video":{"url":"https://a/b.mp4"},"error":"odd"}"#;
    assert_eq!(wait_with_bodies([body]).unwrap().url, "https://a/b.mp4");
}

#[test]
fn generation_failure_has_its_reason_and_is_not_billed() {
    let sandbox = sandbox();
    sandbox.set_failure("ContentPolicyViolation", "The image was rejected");
    let (client, id) = client_with_generation(&sandbox);
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
    let (client, id) = client_with_generation(&sandbox);
    assert_eq!(client.wait(&id).unwrap_err().kind(), ErrorKind::GenerationFailed);
    // One more than statuses: a failure is confirmed.
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn generation_failure_needs_no_reason() {
    let failed = r#"{"id":"ID","status":"error"}"#;
    let error = wait_with_bodies([failed, failed]).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert!(error.to_string().contains("no reason given"), "{error}");
}

#[test]
fn completed_without_a_url_is_polled_again() {
    for body in [
        r#"{"id":"ID","status":"completed"}"#,
        r#"{"id":"ID","status":"completed","video":null}"#,
        r#"{"id":"ID","status":"completed","video":{"url":""}}"#,
        r#"{"id":"ID","status":"succeeded","video":[]}"#,
    ] {
        wait_with_bodies([body, body, body]).unwrap();
    }
}

// ---------------------------------------------------------------- failed polls

#[test]
fn transient_poll_failures_do_not_end_the_wait() {
    let sandbox = sandbox();
    let client = short_idle_timeout(&sandbox).build().unwrap();
    let id = client.create(&request()).unwrap().id;
    // More in a row than the retry policy allows for a single read.
    let faults = [
        Fault::status(408),
        Fault::status(425),
        Fault::status(429),
        Fault::status(500),
        Fault::status(502),
        Fault::status(503),
        Fault::status(504),
        Fault::status(524),
        Fault::status(500).truncate_after(25),
        Fault::close_connection(),
        Fault::reset_before_response(),
        Fault::raw("not HTTP\r\n\r\n"),
        Fault::raw("\0"),
        Fault::truncate(100),
        Fault::response(200, "<html>maintenance</html>"),
        Fault::response(200, ""),
        Fault::response(200, "{}"),
        Fault::no_response(),
    ];
    let count = faults.len();
    for fault in faults {
        sandbox.fault(Endpoint::Retrieve, fault, 1);
    }
    assert_eq!(client.wait(&id).unwrap().id, id);
    // The truncated response is one of the three in which the generation is completed.
    assert_eq!(polls(&sandbox), count + 2);
}

#[test]
fn poll_failures_are_not_limited_by_max_retries() {
    let sandbox = sandbox();
    let builder = sandbox.client_builder().retry_policy(RetryPolicy::none());
    let (client, recording) = record_event_names(builder);
    let id = client.create(&request()).unwrap().id;
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 20);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 23);
    assert!(recording.names().contains(&"retrying wait".to_owned()));
}

#[test]
fn permanent_error_response_ends_the_wait_immediately() {
    for status in [400, 401, 403, 409, 410, 422] {
        let sandbox = sandbox();
        let (client, id) = client_with_generation(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::status(status), 99);
        let error = client.wait(&id).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!((error.operation(), error.generation_id()), (Operation::Wait, Some(&id)));
        assert!(error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(polls(&sandbox), 1);
    }
}

#[test]
fn permanent_failure_has_the_last_state_received() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::delay(Duration::ZERO), 2);
    sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1);
    let error = client.wait(&id).unwrap_err();
    assert_eq!(error.generation().unwrap().status, Status::Generating);
    assert_eq!(error.attempts(), 3);
}

#[test]
fn not_found_after_the_create_is_polled_again() {
    let sandbox = sandbox();
    sandbox.set_not_found_polls(20);
    let video = test_client(&sandbox).generate(&request()).unwrap();
    assert_eq!(video.id.as_ref(), sandbox.generations()[0].id);
    assert_eq!((polls(&sandbox), sandbox.generations()[0].polls), (23, 23));
}

// ---------------------------------------------------------------- timeouts

#[test]
fn timeout_message_has_the_last_status_and_the_next_step() {
    let sandbox = sandbox();
    sandbox.set_status_sequence(["generating"]);
    let (client, id) = client_with_generation(&sandbox);
    let error = client.with_wait_options(short_wait()).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(error.generation_id(), Some(&id));
    assert_eq!(error.generation().unwrap().status, Status::Generating);
    assert!(error.is_retryable() && error.may_have_been_billed());
    let message = error.to_string();
    // As many as there was time for.
    let polls = match error.attempts() {
        1 => "1 poll".to_owned(),
        count => format!("{count} polls"),
    };
    for part in [
        format!("waiting for generation `{id}`: timed out after "),
        format!(
            " (last status: generating, {polls}); it may still be running and be billed; call wait \
             again"
        ),
    ] {
        assert!(message.contains(&part), "{part:?} is not in {message:?}");
    }
}

#[test]
fn timeout_can_be_followed_by_another_wait() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(1);
    let (client, id) = client_with_generation(&sandbox);
    let no_time = quick_wait().timeout(Duration::ZERO);
    assert_eq!(
        client.with_wait_options(no_time).wait(&id).unwrap_err().kind(),
        ErrorKind::WaitTimeout
    );
    client.wait(&id).unwrap();
}

#[test]
fn timeout_without_any_status_has_the_last_error_as_source() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
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
    let (client, id) = client_with_generation(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 1);
    let error = client
        .with_wait_options(quick_wait().timeout(Duration::from_millis(200)))
        .wait(&id)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert_eq!(error_chain(&error).len(), 1, "{error:?}");
}

#[test]
fn timeout_for_an_unknown_id_has_404_as_source() {
    let sandbox = sandbox();
    let error =
        test_client(&sandbox).with_wait_options(short_wait()).wait(&id("nobody's")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error_chain(&error)[1].contains("404"), "{error:?}");
}

#[test]
fn last_poll_is_made_at_the_deadline() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(0);
    let client = test_client(&sandbox);
    let ids = create_many(&client, 3);
    let late = WaitOptions::new().initial_delay(Duration::MAX).timeout(20 * MILLISECOND);
    let results = with_timeout(move || {
        let client = client.with_wait_options(late);
        let mut results = client.wait_all(&ids[1..]);
        results.push(client.wait(&ids[0]));
        results
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);
    assert_eq!(polls(&sandbox), 3);
}

#[test]
fn interval_is_shortened_at_the_deadline() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
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
    let (client, id) = client_with_generation(&sandbox);
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
    let (client, id) = client_with_generation(&sandbox);
    let no_delays = quick_wait().initial_delay(Duration::ZERO).interval(Duration::ZERO);
    client.with_wait_options(no_delays).wait(&id).unwrap();
    assert_eq!(polls(&sandbox), 21);
}

#[test]
fn timeout_can_be_infinite() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    client.with_wait_options(quick_wait().timeout(Duration::MAX)).wait(&id).unwrap();
    let results = client.with_wait_options(quick_wait().timeout(Duration::MAX)).wait_all(&[id]);
    assert!(results[0].is_ok());
}

#[test]
fn generate_uses_the_wait_options_of_the_view() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(u32::MAX);
    let error =
        test_client(&sandbox).with_wait_options(short_wait()).generate(&request()).unwrap_err();
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
    let client = test_client(&sandbox);
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
    let client = test_client(&sandbox);
    sandbox.complete_after_polls(0);
    let completed = create_many(&client, 1);
    sandbox.complete_after_polls(u32::MAX);
    let pending = create_many(&client, 1);
    sandbox.set_status_sequence(["error"]);
    let failed = create_many(&client, 1);
    let ids = [&pending[..], &failed, &completed, &[id("nobody's")]].concat();
    let results =
        client.with_wait_options(quick_wait().timeout(Duration::from_millis(300))).wait_all(&ids);
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
    let client = test_client(&sandbox);
    let ids = create_many(&client, 5);
    sandbox.fault(Endpoint::Retrieve, Fault::status(500), 7);
    sandbox.fault(Endpoint::Retrieve, Fault::close_connection(), 3);
    sandbox.fault(Endpoint::Retrieve, Fault::status(429), 2);
    assert_eq!(client.wait_all(&ids).into_iter().filter(Result::is_ok).count(), 5);
}

#[test]
fn wait_all_of_no_ids_sends_nothing() {
    let sandbox = sandbox();
    assert!(test_client(&sandbox).wait_all(&[]).is_empty());
    assert!(
        test_client(&sandbox).with_wait_options(quick_wait().threads(4)).wait_all(&[]).is_empty()
    );
    assert_eq!(sandbox.connection_count(), 0);
}

#[test]
fn wait_all_returns_two_results_for_a_repeated_id() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let results = client.wait_all(&[id.clone(), id.clone()]);
    assert_eq!(results.len(), 2);
    assert!(results.into_iter().all(|video| video.unwrap().id == id));
}

#[test]
fn wait_all_with_a_timeout_of_zero_times_out_for_each_id() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let ids = create_many(&client, 3);
    let results = client.with_wait_options(quick_wait().timeout(Duration::ZERO)).wait_all(&ids);
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
        let client = test_client(&sandbox);
        let ids = create_many(&client, 100);
        let results = client.with_wait_options(quick_wait().threads(threads)).wait_all(&ids);
        let found: Vec<GenerationId> = results.into_iter().map(|v| v.unwrap().id).collect();
        assert_eq!(found, ids, "{threads}");
    }
}

#[test]
fn wait_all_polls_concurrently_with_four_threads() {
    let sandbox = sandbox();
    let polling = (Mutex::new(0), Condvar::new());
    // Whether four threads were polling at once when the event was emitted.
    let (client, recording) =
        record_events(sandbox.client_builder(), move |event| match event.kind {
            EventKind::Polled { .. } => {
                let (count, changed) = &polling;
                let mut count = count.lock().unwrap();
                *count += 1;
                changed.notify_all();
                // Every thread blocks here until four have arrived.
                let limit = Duration::from_secs(5);
                let (_count, wait) =
                    changed.wait_timeout_while(count, limit, |count| *count < 4).unwrap();
                Some(!wait.timed_out())
            }
            _ => None,
        });
    let ids = create_many(&client, 8);
    let results = client.with_wait_options(quick_wait().threads(4)).wait_all(&ids);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 8);
    assert_eq!(recording.take(), [true; 24]);
}
