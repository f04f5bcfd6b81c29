//! Listing the requests of the API key, with what they cost.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, ErrorKind, EventKind, LoggedRequest, Operation, VideoDuration};

use crate::helpers::clients::{id, no_retry_client, request, sandbox, test_client};

const DAY: Duration = Duration::from_secs(86_400);

/// Adds entries `first..end` to the log, each as its newest.
fn add_entries(sandbox: &Sandbox, entries: std::ops::Range<usize>) {
    for n in entries {
        sandbox.add_log_entry(&format!("job-{n}"), &n.to_string(), "succeeded");
    }
}

fn listed(client: &Client, limit: usize) -> Vec<usize> {
    let requests = client.list(DAY, limit).unwrap();
    let number = |request: &LoggedRequest| request.inference_id.as_ref()?.as_str().parse().ok();
    requests.iter().map(|request| number(request).unwrap()).collect()
}

#[test]
fn logged_request_has_its_ids_and_its_cost() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let request = request().client_request_id("order-4711");
    let before = SystemTime::now() - Duration::from_secs(1);
    let created = client.create(&request.duration(VideoDuration::TenSeconds)).unwrap();
    let [logged] = &client.list(DAY, 10).unwrap()[..] else { panic!("one request") };
    assert_eq!(logged.inference_id, Some(created.id));
    assert_eq!(logged.client_request_id.as_deref(), Some("order-4711"));
    assert_eq!((logged.status.as_str(), logged.model.as_str()), ("succeeded", kling_video::MODEL));
    assert_eq!((logged.usd, logged.credits), (Some(0.12), Some(240_000.0)));
    assert!(logged.request_id.is_some());
    assert!((before..=SystemTime::now()).contains(&logged.created.unwrap()));
}

#[test]
fn failed_generation_is_listed_without_a_cost() {
    let sandbox = sandbox();
    sandbox.set_failure("ContentPolicyViolation", "The image was rejected");
    let client = test_client(&sandbox);
    client.create(&request()).unwrap();
    let [logged] = &client.list(DAY, 10).unwrap()[..] else { panic!("one request") };
    assert_eq!((logged.status.as_str(), logged.usd), ("failed", Some(0.0)));
}

#[test]
fn requests_are_listed_newest_first_up_to_the_limit() {
    for total in [0, 1, 99, 100, 101, 190, 250] {
        let sandbox = sandbox();
        let client = no_retry_client(&sandbox);
        add_entries(&sandbox, 0..total);
        let newest_first: Vec<_> = (0..total).rev().collect();
        for limit in [0, 1, 99, 100, 101, 249, usize::MAX] {
            let expected = newest_first.get(..limit).unwrap_or(&newest_first);
            assert_eq!(listed(&client, limit), expected, "{limit} of {total}");
        }
    }
}

#[test]
fn log_pages_are_listed_only_as_needed() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    add_entries(&sandbox, 0..250);
    listed(&client, 100);
    assert_eq!(sandbox.request_count(Endpoint::Logs), 1);
    assert_eq!(sandbox.requests()[0].target, "/v2/logs?period=24h&limit=100&offset=0");
    listed(&client, 150);
    assert_eq!(sandbox.request_count(Endpoint::Logs), 3);
}

#[test]
fn requests_that_move_between_pages_are_listed_once() {
    for (page_limit, new_entries) in [(100, 1), (100, 30), (100, 150), (7, 1), (7, 40), (1, 2)] {
        let sandbox = Arc::new(sandbox());
        sandbox.set_log_page_limit(page_limit);
        add_entries(&sandbox, 0..120);
        // The second page fails once, and entries are added before it is retried.
        sandbox.fault(Endpoint::Logs, Fault::default(), 1);
        sandbox.fault(Endpoint::Logs, Fault::status(503), 1);
        let client = test_client(&sandbox).with_event_handler({
            let sandbox = Arc::clone(&sandbox);
            move |event| {
                if let EventKind::Retrying { operation: Operation::List, .. } = event.kind {
                    add_entries(&sandbox, 120..120 + new_entries);
                }
            }
        });
        let newest_first: Vec<_> = (0..120).rev().collect();
        let mut listed = listed(&client, 1_000);
        // What was added after the first page may be listed or not.
        listed.retain(|n| *n < 120);
        assert_eq!(listed, newest_first, "{page_limit} per page, {new_entries} new entries");
    }
}

#[test]
fn equal_entries_of_one_page_are_all_listed() {
    let sandbox = sandbox();
    let entry = r#"{"created":"2026-07-02T03:04:05.000Z","status":"succeeded","model":"chat"}"#;
    let log = format!(r#"{{"data":[{entry},{entry},{entry}]}}"#);
    sandbox.fault(Endpoint::Logs, Fault::response(200, log), 1);
    assert_eq!(no_retry_client(&sandbox).list(DAY, 10).unwrap().len(), 3);
}

#[test]
fn period_is_whole_hours_and_at_most_92_days() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for (period, expected) in [
        (Duration::ZERO, "1h"),
        (Duration::from_nanos(1), "1h"),
        (Duration::from_secs(3_600), "1h"),
        (Duration::new(3_600, 1), "2h"),
        (Duration::from_secs(3_601), "2h"),
        (7 * DAY, "168h"),
        (92 * DAY - Duration::from_nanos(1), "2208h"),
        (92 * DAY, "2208h"),
        (93 * DAY, "2208h"),
        (Duration::MAX, "2208h"),
    ] {
        client.list(period, 1).unwrap();
        let target = sandbox.requests().pop().unwrap().target;
        assert!(target.starts_with(&format!("/v2/logs?period={expected}&")), "{target}");
    }
}

#[test]
fn entries_of_unknown_forms_are_listed_with_what_can_be_read() {
    let sandbox = sandbox();
    let log = r#"{"data":[null, 7, [], {},
        {"created":"yesterday","status":null,"model":7,"cost":{"usd":"1"},"inference_id":"","more":1},
        {"created":"2026-07-02T03:04:05.000Z","status":"queued","cost":{"credits":7},"inference_id":12}
    ]}"#;
    sandbox.fault(Endpoint::Logs, Fault::response(200, log), 1);
    let requests = no_retry_client(&sandbox).list(DAY, 10).unwrap();
    assert_eq!(requests.len(), 6);
    assert!(requests[..5].iter().all(|request| *request == requests[0]));
    assert_eq!((requests[0].created, requests[0].usd), (None, None));
    let last = &requests[5];
    assert_eq!((last.status.as_str(), last.credits), ("queued", Some(7.0)));
    assert_eq!(last.inference_id, Some(id("12")));
    let since_1970 = last.created.unwrap().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(since_1970.as_secs(), 1_782_961_445);
}

#[test]
fn failure_of_any_page_is_an_error() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    add_entries(&sandbox, 0..150);
    sandbox.fault(Endpoint::Logs, Fault::default(), 1);
    sandbox.fault(Endpoint::Logs, Fault::status(401), 1);
    let error = client.list(DAY, 1_000).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Api, Operation::List));
    assert!(error.to_string().starts_with("reading the request log: "), "{error}");
    sandbox.fault(Endpoint::Logs, Fault::response(200, "{}"), 1);
    assert_eq!(client.list(DAY, 1_000).unwrap_err().kind(), ErrorKind::Decode);
}
