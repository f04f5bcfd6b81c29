//! Finding a generation in the request log after the response to its create request was lost.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, ErrorKind, EventKind, Operation, Route};

use crate::helpers::clients::{no_retry_client, request, sandbox, short_idle_timeout, test_client};

/// Adds entries of other requests to the log, as its newest.
fn add_other_entries(sandbox: &Sandbox, count: usize) {
    for n in 0..count {
        sandbox.add_log_entry(&format!("other-{n}"), &format!("{n}"), "succeeded");
    }
}

fn found(client: &Client, client_request_id: &str) -> Option<String> {
    client.find(client_request_id).unwrap().map(|id| id.to_string())
}

#[test]
fn lost_create_is_found_by_request_id_of_error() {
    for caller_id in [None, Some("order-4711"), Some("a.b_c:d-E")] {
        let sandbox = sandbox();
        let client = short_idle_timeout(&sandbox).build().unwrap();
        sandbox.fault(Endpoint::Create, Fault::no_response().after_accepting(), 1);
        let request = caller_id.map_or_else(request, |id| request().client_request_id(id));
        let error = client.create(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        let client_request_id = error.client_request_id().unwrap();
        assert!(caller_id.is_none_or(|id| id == client_request_id));
        let id = client.find(client_request_id).unwrap().unwrap();
        assert_eq!(id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(client.wait(&id).unwrap().id, id);
        assert_eq!(sandbox.request_count(Endpoint::Create), 1);
    }
}

#[test]
fn unlisted_request_id_is_not_found() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    assert_eq!(found(&client, "order-1"), None);
    add_other_entries(&sandbox, 3);
    for similar in ["other", "other-", "other-11", "OTHER-1", "0"] {
        assert_eq!(found(&client, similar), None);
    }
    assert_eq!(found(&client, "other-1").as_deref(), Some("1"));
}

#[test]
fn invalid_request_id_is_rejected_without_request() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    for id in ["", "a b", "a\n", "ä", "a/b", "a&limit=1", &"x".repeat(129)] {
        let error = client.find(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{id:?}");
        assert_eq!(error.operation(), Operation::Find);
        assert_eq!(error.field(), Some("client_request_id"));
    }
    assert!(sandbox.requests().is_empty());
    assert_eq!(found(&client, &"x".repeat(128)), None);
}

#[test]
fn generation_is_found_once_log_lists_it() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = client.create(&request().client_request_id("mine")).unwrap().id.to_string();
    sandbox.set_log_delay(Duration::MAX);
    assert_eq!(found(&client, "mine"), None);
    sandbox.set_log_delay(Duration::ZERO);
    assert_eq!(found(&client, "mine"), Some(id));
}

#[test]
fn log_is_searched_for_longest_period() {
    let sandbox = sandbox();
    test_client(&sandbox).find("mine").unwrap();
    let universal = sandbox.client_builder().route(Route::Universal).build().unwrap();
    universal.find("mine").unwrap();
    assert_eq!(sandbox.requests().len(), 2);
    for request in sandbox.requests() {
        assert_eq!(request.target, "/v2/logs?period=92d&limit=100&offset=0");
        assert_eq!(request.header("authorization"), Some("Bearer sandbox-key"));
    }
}

#[test]
fn log_entry_is_found_on_every_page() {
    for newer in [0, 1, 89, 90, 99, 100, 101, 179, 180, 190, 250] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        add_other_entries(&sandbox, 30);
        sandbox.add_log_entry("mine", "789", "succeeded");
        add_other_entries(&sandbox, newer);
        assert_eq!(found(&client, "mine").as_deref(), Some("789"), "{newer} newer entries");
        assert_eq!(found(&client, "not-there"), None);
    }
}

#[test]
fn log_pages_are_read_only_as_needed() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    add_other_entries(&sandbox, 250);
    sandbox.add_log_entry("mine", "789", "succeeded");
    found(&client, "mine");
    assert_eq!(sandbox.request_count(Endpoint::Logs), 1);
    found(&client, "not-there");
    // 251 entries at 100 per page.
    assert!((3..=4).contains(&(sandbox.request_count(Endpoint::Logs) - 1)));
}

#[test]
fn log_pages_smaller_than_requested_are_read_to_end() {
    for (page_limit, newer) in [(50, 60), (10, 12), (2, 3)] {
        let sandbox = sandbox();
        sandbox.set_log_page_limit(page_limit);
        let client = test_client(&sandbox);
        add_other_entries(&sandbox, 5);
        sandbox.add_log_entry("mine", "789", "succeeded");
        add_other_entries(&sandbox, newer);
        let found = found(&client, "mine");
        assert_eq!(found.as_deref(), Some("789"), "{page_limit} per page, {newer} newer entries");
    }
}

#[test]
fn log_entries_that_move_between_pages_are_not_missed() {
    for new_entries in [1, 30, 150] {
        let sandbox = Arc::new(sandbox());
        sandbox.add_log_entry("mine", "789", "succeeded");
        add_other_entries(&sandbox, 120);
        // The second page fails once, and entries are added before it is retried.
        sandbox.fault(Endpoint::Logs, Fault::default(), 1);
        sandbox.fault(Endpoint::Logs, Fault::status(503), 1);
        let added = Arc::new(AtomicBool::new(false));
        let client = sandbox
            .client_builder()
            .event_handler({
                let (sandbox, added) = (Arc::clone(&sandbox), Arc::clone(&added));
                move |event| {
                    if let EventKind::Retrying { operation: Operation::Find, .. } = event.kind {
                        add_other_entries(&sandbox, new_entries);
                        added.store(true, Ordering::Relaxed);
                    }
                }
            })
            .build()
            .unwrap();
        assert_eq!(found(&client, "mine").as_deref(), Some("789"), "{new_entries}");
        assert!(added.load(Ordering::Relaxed));
    }
}

#[test]
fn succeeded_log_entry_is_preferred_in_every_position() {
    for (entries, between) in [
        ([("failed", "1"), ("succeeded", "2")], 0),
        ([("succeeded", "2"), ("failed", "1")], 0),
        ([("failed", "1"), ("succeeded", "2")], 150),
        ([("succeeded", "2"), ("failed", "1")], 150),
    ] {
        let sandbox = sandbox();
        for (status, id) in entries {
            sandbox.add_log_entry("mine", id, status);
            add_other_entries(&sandbox, between);
        }
        assert_eq!(
            found(&test_client(&sandbox), "mine").as_deref(),
            Some("2"),
            "{entries:?} {between}"
        );
    }
    let sandbox = sandbox();
    sandbox.add_log_entry("mine", "1", "failed");
    add_other_entries(&sandbox, 120);
    assert_eq!(found(&test_client(&sandbox), "mine").as_deref(), Some("1"));
}

#[test]
fn invalid_log_entries_are_skipped() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let log = r#"{"data":[
        null, 7, "x", [], {}, {"status":"failed","client_request_id":"mine","inference_id":"1"},
        {"status":"succeeded","client_request_id":"mine","inference_id":null},
        {"status":"succeeded","client_request_id":"mine","inference_id":""},
        {"status":"succeeded","client_request_id":7,"inference_id":"2"},
        {"status":null,"client_request_id":"mine","inference_id":"3","more":{}}
    ]}"#;
    sandbox.fault(Endpoint::Logs, Fault::response(200, log), 1);
    assert_eq!(found(&client, "mine").as_deref(), Some("3"));
    assert_eq!(sandbox.request_count(Endpoint::Logs), 1);
}

#[test]
fn log_search_ends_at_empty_page_despite_has_more() {
    let sandbox = sandbox();
    let log = r#"{"data":[],"pagination":{"has_more":true}}"#;
    sandbox.fault(Endpoint::Logs, Fault::response(200, log), 99);
    assert_eq!(found(&test_client(&sandbox), "mine"), None);
    assert_eq!(sandbox.request_count(Endpoint::Logs), 1);
}

#[test]
fn invalid_log_response_is_error_not_none() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for (fault, kind) in [
        (Fault::response(200, "<html>"), ErrorKind::Decode),
        (Fault::response(200, ""), ErrorKind::Decode),
        (Fault::response(200, "{}"), ErrorKind::Decode),
        (Fault::response(200, r#"{"data":null}"#), ErrorKind::Decode),
        (Fault::status(401), ErrorKind::Api),
        (Fault::status(503), ErrorKind::Api),
        (Fault::close_connection(), ErrorKind::Transport),
    ] {
        sandbox.fault(Endpoint::Logs, fault.clone(), 1);
        let error = client.find("mine").unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        assert_eq!(error.operation(), Operation::Find);
    }
    // Also when it fails after the first page.
    add_other_entries(&sandbox, 150);
    sandbox.fault(Endpoint::Logs, Fault::default(), 1);
    sandbox.fault(Endpoint::Logs, Fault::status(401), 1);
    assert_eq!(client.find("mine").unwrap_err().status(), Some(401));
}
