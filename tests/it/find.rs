//! A generation whose create was never answered, found in the log; and what is left to spend.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kling_video::{Client, Endpoint, ErrorKind, Event, Fault, RetryPolicy, Route, Sandbox};

use crate::common::{request, sandbox};
use crate::faults::impatient;

fn quick(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().build().unwrap()
}

/// Rows of other requests, on top of the log.
fn add_others(sandbox: &Sandbox, rows: usize) {
    for row in 0..rows {
        sandbox.add_log_row(&format!("other-{row}"), &format!("{row}"), "succeeded");
    }
}

fn found(client: &Client, client_request_id: &str) -> Option<String> {
    client.find(client_request_id).unwrap().map(|id| id.to_string())
}

#[test]
fn a_lost_create_is_found_by_the_id_in_its_error() {
    for own in [None, Some("order-4711"), Some("a.b_c:d-E")] {
        let sandbox = sandbox();
        let client = impatient(&sandbox).build().unwrap();
        sandbox.fault(Endpoint::Create, Fault::stall().acted(), 1);
        let request = own.map_or_else(request, |own| request().client_request_id(own));
        let error = client.create(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        let client_request_id = error.client_request_id().unwrap();
        assert!(own.is_none_or(|own| own == client_request_id));
        let id = client.find(client_request_id).unwrap().unwrap();
        assert_eq!(id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(client.wait(&id).unwrap().id, id);
        assert_eq!(sandbox.count(Endpoint::Create), 1);
    }
}

#[test]
fn what_is_not_listed_is_none() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    assert_eq!(found(&client, "order-1"), None);
    add_others(&sandbox, 3);
    for not_quite in ["other", "other-", "other-11", "OTHER-1", "0"] {
        assert_eq!(found(&client, not_quite), None);
    }
    assert_eq!(found(&client, "other-1").as_deref(), Some("1"));
}

#[test]
fn an_id_that_cannot_have_been_sent_is_not_looked_for() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    for id in ["", "a b", "a\n", "ä", "a/b", "a&limit=1", &"x".repeat(129)] {
        let error = client.find(id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{id:?}");
        assert_eq!(error.operation(), "find");
        assert_eq!(error.field(), Some("client_request_id"));
    }
    assert!(sandbox.requests().is_empty());
    assert_eq!(found(&client, &"x".repeat(128)), None);
}

#[test]
fn the_log_lags() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = client.create(&request().client_request_id("mine")).unwrap().id.to_string();
    sandbox.log_delay(Duration::MAX);
    assert_eq!(found(&client, "mine"), None);
    sandbox.log_delay(Duration::ZERO);
    assert_eq!(found(&client, "mine"), Some(id));
}

#[test]
fn it_is_searched_as_far_back_as_it_goes() {
    let sandbox = sandbox();
    quick(&sandbox).find("mine").unwrap();
    let universal = sandbox.client_builder().route(Route::Universal).build().unwrap();
    universal.find("mine").unwrap();
    for request in sandbox.requests() {
        assert_eq!(request.target, "/v2/logs?period=92d&limit=100&offset=0");
        assert_eq!(request.header("authorization"), Some("Bearer sandbox-key"));
    }
}

#[test]
fn a_row_is_found_on_whatever_page_it_is() {
    for above in [0, 1, 89, 90, 99, 100, 101, 179, 180, 190, 250] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        add_others(&sandbox, 30);
        sandbox.add_log_row("mine", "789", "succeeded");
        add_others(&sandbox, above);
        assert_eq!(found(&client, "mine").as_deref(), Some("789"), "{above} above it");
        assert_eq!(found(&client, "not-there"), None);
    }
}

#[test]
fn no_more_pages_are_read_than_needed() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    add_others(&sandbox, 250);
    sandbox.add_log_row("mine", "789", "succeeded");
    found(&client, "mine");
    assert_eq!(sandbox.count(Endpoint::Logs), 1);
    found(&client, "not-there");
    // 251 rows, of which a page has 100.
    assert!((3..=4).contains(&(sandbox.count(Endpoint::Logs) - 1)));
}

#[test]
fn a_server_whose_pages_are_smaller_than_asked_is_read_to_the_end_all_the_same() {
    for (page_limit, above) in [(50, 60), (10, 12), (2, 3)] {
        let sandbox = sandbox();
        sandbox.log_page_limit(page_limit);
        let client = quick(&sandbox);
        add_others(&sandbox, 5);
        sandbox.add_log_row("mine", "789", "succeeded");
        add_others(&sandbox, above);
        let found = found(&client, "mine");
        assert_eq!(found.as_deref(), Some("789"), "{page_limit} a page, {above} above it");
    }
}

#[test]
fn rows_that_shift_between_two_pages_are_not_missed() {
    for new_rows in [1, 30, 150] {
        let sandbox = Arc::new(sandbox());
        sandbox.add_log_row("mine", "789", "succeeded");
        add_others(&sandbox, 120);
        // Between the first page and the second.
        sandbox.fault(Endpoint::Logs, Fault::default(), 1);
        sandbox.fault(Endpoint::Logs, Fault::status(503), 1);
        let shifted = Arc::new(AtomicBool::new(false));
        let client = sandbox
            .client_builder()
            .on_event({
                let (sandbox, shifted) = (Arc::clone(&sandbox), Arc::clone(&shifted));
                move |event| {
                    if let Event::Retrying { operation: "find", .. } = event {
                        add_others(&sandbox, new_rows);
                        shifted.store(true, Ordering::Relaxed);
                    }
                }
            })
            .build()
            .unwrap();
        assert_eq!(found(&client, "mine").as_deref(), Some("789"), "{new_rows}");
        assert!(shifted.load(Ordering::Relaxed));
    }
}

#[test]
fn a_row_that_succeeded_is_preferred_wherever_it_is() {
    for (rows, between) in [
        ([("failed", "1"), ("succeeded", "2")], 0),
        ([("succeeded", "2"), ("failed", "1")], 0),
        ([("failed", "1"), ("succeeded", "2")], 150),
        ([("succeeded", "2"), ("failed", "1")], 150),
    ] {
        let sandbox = sandbox();
        for (status, id) in rows {
            sandbox.add_log_row("mine", id, status);
            add_others(&sandbox, between);
        }
        assert_eq!(found(&quick(&sandbox), "mine").as_deref(), Some("2"), "{rows:?} {between}");
    }
    let sandbox = sandbox();
    sandbox.add_log_row("mine", "1", "failed");
    add_others(&sandbox, 120);
    assert_eq!(found(&quick(&sandbox), "mine").as_deref(), Some("1"));
}

#[test]
fn rows_that_cannot_be_read_are_passed_over() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let log = r#"{"data":[
        null, 7, "x", [], {}, {"status":null,"client_request_id":"mine","inference_id":"1"},
        {"status":"succeeded","client_request_id":"mine","inference_id":null},
        {"status":"succeeded","client_request_id":"mine","inference_id":""},
        {"status":"succeeded","client_request_id":7,"inference_id":"2"},
        {"status":"succeeded","client_request_id":"mine","inference_id":"3","more":{}}
    ]}"#;
    sandbox.fault(Endpoint::Logs, Fault::reply(200, log), 1);
    assert_eq!(found(&client, "mine").as_deref(), Some("3"));
    assert_eq!(sandbox.count(Endpoint::Logs), 1);
}

#[test]
fn a_log_that_promises_more_and_has_none_ends() {
    let sandbox = sandbox();
    let log = r#"{"data":[],"pagination":{"has_more":true}}"#;
    sandbox.fault(Endpoint::Logs, Fault::reply(200, log), 99);
    assert_eq!(found(&quick(&sandbox), "mine"), None);
    assert_eq!(sandbox.count(Endpoint::Logs), 1);
}

#[test]
fn a_log_that_cannot_be_read_is_an_error_and_not_none() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().retry(RetryPolicy::none()).build().unwrap();
    for (fault, kind) in [
        (Fault::reply(200, "<html>"), ErrorKind::Decode),
        (Fault::reply(200, ""), ErrorKind::Decode),
        (Fault::reply(200, "{}"), ErrorKind::Decode),
        (Fault::reply(200, r#"{"data":null}"#), ErrorKind::Decode),
        (Fault::status(401), ErrorKind::Api),
        (Fault::status(503), ErrorKind::Api),
        (Fault::close(), ErrorKind::Transport),
    ] {
        sandbox.fault(Endpoint::Logs, fault.clone(), 1);
        let error = client.find("mine").unwrap_err();
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        assert_eq!(error.operation(), "find");
    }
    // Also when it breaks off between two pages.
    add_others(&sandbox, 150);
    sandbox.fault(Endpoint::Logs, Fault::default(), 1);
    sandbox.fault(Endpoint::Logs, Fault::status(401), 1);
    assert_eq!(client.find("mine").unwrap_err().status(), Some(401));
}

#[test]
fn the_balance_is_told() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    for amount in [0.25, 0.0, 12_345.678] {
        sandbox.balance(amount);
        let balance = client.balance().unwrap();
        assert_eq!((balance.amount, &*balance.currency), (amount, "USD"));
    }
    assert_eq!(sandbox.requests()[0].target, "/v2/billing");
}

#[test]
fn a_balance_that_cannot_be_read_is_an_error() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    for reply in ["", "<html>", "[]", "{}", r#"{"current_balance":"much"}"#] {
        sandbox.fault(Endpoint::Billing, Fault::reply(200, reply), 1);
        let error = client.balance().unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Decode, "balance"), "{reply}");
    }
    sandbox.fault(Endpoint::Billing, Fault::status(401), 1);
    assert_eq!(client.balance().unwrap_err().status(), Some(401));
}
