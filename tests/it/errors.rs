//! What an error tells: its kind to branch on, its text to read, its causes to follow.

use std::error::Error as _;
use std::time::Duration;

use kling_video::{
    CancelToken, Client, Endpoint, Error, ErrorKind, Fault, Image, ImageToVideo, RetryPolicy,
    Sandbox, Status, WaitOptions,
};

use crate::common::{chain, id, once, request, sandbox};

fn of_billing(fault: Fault) -> Error {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, fault, 1);
    once(&sandbox).balance().unwrap_err()
}

fn of_silence() -> Error {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::stall(), 1);
    let client = sandbox.client_builder().retry(RetryPolicy::none());
    client.idle_timeout(Duration::from_millis(50)).build().unwrap().balance().unwrap_err()
}

fn of_create(fault: Fault) -> Error {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, fault, 1);
    once(&sandbox).create(&request().client_request_id("order-4711")).unwrap_err()
}

fn of_wait(script: impl FnOnce(&Sandbox), options: &WaitOptions) -> Error {
    let sandbox = sandbox();
    script(&sandbox);
    let client = once(&sandbox);
    let created = client.create(&request()).unwrap();
    client.wait_with(&created.id, options).unwrap_err()
}

fn at_once() -> WaitOptions {
    WaitOptions::new().first_poll_after(Duration::ZERO).timeout(Duration::ZERO)
}

fn of_no_server() -> Error {
    // A port that nobody has: a free one might be another test's the next moment.
    let client = Client::builder("key").base_url("http://127.0.0.1:1").no_proxy();
    client.retry(RetryPolicy::none()).build().unwrap().balance().unwrap_err()
}

fn of_cancelling() -> Error {
    let token = CancelToken::new();
    token.cancel();
    of_wait(|_| {}, &WaitOptions::new().cancel(token))
}

fn of_a_journal() -> Error {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("cat.mp4.kling.jsonl"), "no JSON\n{}\n").unwrap();
    let sandbox = sandbox();
    let error = once(&sandbox).generate_to(&request(), folder.path().join("cat.mp4")).unwrap_err();
    assert_eq!(sandbox.count(Endpoint::Create), 0);
    error
}

/// One error of every kind.
fn each_kind() -> Vec<(ErrorKind, Error)> {
    let limited = |sandbox: &Sandbox| sandbox.client_builder().max_creates(0).build().unwrap();
    let missing = ImageToVideo::new(Image::file("no/such/cat.jpg"));
    vec![
        (ErrorKind::Config, Client::new("").unwrap_err()),
        (ErrorKind::InvalidRequest, request().cfg_scale(2.0).validate().unwrap_err()),
        (ErrorKind::CreateLimit, limited(&sandbox()).create(&request()).unwrap_err()),
        (ErrorKind::Connect, of_no_server()),
        (ErrorKind::Transport, of_billing(Fault::close())),
        (ErrorKind::Timeout, of_silence()),
        (ErrorKind::Api, of_billing(Fault::status(401))),
        (ErrorKind::Decode, of_billing(Fault::reply(200, "<html>"))),
        (ErrorKind::CreateUnknown, of_create(Fault::close().acted())),
        (ErrorKind::GenerationFailed, of_wait(|s| s.statuses(["error"]), &at_once())),
        (ErrorKind::WaitTimeout, of_wait(|_| {}, &at_once())),
        (ErrorKind::Cancelled, of_cancelling()),
        (ErrorKind::Journal, of_a_journal()),
        (ErrorKind::Io, missing.validate().unwrap_err()),
    ]
}

// ---------------------------------------------------------------- the text

#[test]
fn every_kind_can_be_told_from_the_others() {
    for (kind, error) in each_kind() {
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn every_message_begins_with_what_was_being_done() {
    for (kind, error) in each_kind() {
        let message = error.to_string();
        assert!(message.starts_with(error.operation()), "{kind:?}: {message}");
        assert!(!error.operation().is_empty());
    }
}

#[test]
fn every_message_is_lower_case_and_one_line_without_a_full_stop() {
    for (kind, error) in each_kind() {
        let message = error.to_string();
        assert!(message.starts_with(|c: char| c.is_ascii_lowercase()), "{kind:?}: {message}");
        let after = message.split(": ").nth(1).unwrap();
        // What comes after the operation is the crate's own text, a path or a field's name.
        assert!(!after.starts_with(|c: char| c.is_uppercase()), "{kind:?}: {message}");
        assert!(!message.ends_with('.') && !message.contains('\n'), "{kind:?}: {message}");
    }
}

#[test]
fn the_id_is_quoted() {
    for (kind, error) in each_kind() {
        let Some(id) = error.generation_id() else { continue };
        assert!(error.to_string().contains(&format!("`{id}`")), "{kind:?}: {error}");
    }
}

#[test]
fn the_servers_request_id_is_quoted() {
    let body = r#"{"message":"no","requestId":"V1StGXR8"}"#;
    let error = of_billing(Fault::reply(400, body));
    assert!(error.to_string().contains("`V1StGXR8`"), "{error}");
}

#[test]
fn debug_tells_the_kind_and_the_message() {
    for (kind, error) in each_kind() {
        let shown = format!("{error:?}");
        assert!(shown.starts_with(&format!("Error {{ kind: {kind:?}, message: ")), "{shown}");
    }
}

#[test]
fn debug_tells_the_id_to_look_a_lost_create_up_by() {
    let error = of_create(Fault::close().acted());
    assert!(format!("{error:?}").contains("order-4711"), "{error:?}");
}

// ---------------------------------------------------------------- the causes

#[test]
fn a_source_is_not_told_again_in_the_text() {
    for (kind, error) in each_kind() {
        let chain = chain(&error);
        for pair in chain.windows(2) {
            assert!(!pair[0].contains(&pair[1]), "{kind:?}: {chain:?}");
        }
    }
}

#[test]
fn what_has_a_cause_tells_it() {
    let with_cause = [
        ErrorKind::Connect,
        ErrorKind::Transport,
        ErrorKind::Timeout,
        ErrorKind::Decode,
        ErrorKind::CreateUnknown,
        ErrorKind::Io,
    ];
    for (kind, error) in each_kind() {
        if with_cause.contains(&kind) {
            assert!(error.source().is_some(), "{kind:?}: {error:?}");
        }
    }
}

#[test]
fn a_lost_create_leads_to_the_reason_why() {
    let error = of_create(Fault::close().acted());
    let cause = error.source().unwrap().downcast_ref::<Error>().unwrap();
    assert_eq!(cause.kind(), ErrorKind::Transport);
}

#[test]
fn a_refused_connection_leads_to_the_systems_error() {
    let error = of_no_server();
    let cause = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn a_file_error_leads_to_the_systems_error() {
    let error = ImageToVideo::new(Image::file("no/such/cat.jpg")).validate().unwrap_err();
    let cause = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::NotFound);
    assert!(error.to_string().contains("no/such/cat.jpg"), "{error}");
}

#[test]
fn an_unreadable_answer_leads_to_the_parsers_error() {
    let error = of_billing(Fault::reply(200, "<html>"));
    assert!(error.source().unwrap().is::<serde_json::Error>(), "{error:?}");
}

// ---------------------------------------------------------------- the accessors

#[test]
fn what_an_error_does_not_have_is_none() {
    let error = Client::new("").unwrap_err();
    assert_eq!((error.generation_id(), error.client_request_id()), (None, None));
    assert_eq!((error.status(), error.api_message(), error.request_id()), (None, None, None));
    assert_eq!((error.retry_after(), error.field(), error.body()), (None, None, None));
    assert!(error.generation().is_none());
    assert_eq!(error.attempts(), 1);
    assert!(!error.is_retryable() && !error.is_out_of_credits() && !error.may_have_been_billed());
}

#[test]
fn only_an_invalid_request_has_a_field() {
    for (kind, error) in each_kind() {
        assert_eq!(error.field().is_some(), kind == ErrorKind::InvalidRequest, "{error}");
    }
}

#[test]
fn only_what_came_after_a_create_may_have_been_billed() {
    let billed = [ErrorKind::CreateUnknown, ErrorKind::WaitTimeout, ErrorKind::Cancelled];
    for (kind, error) in each_kind() {
        assert_eq!(error.may_have_been_billed(), billed.contains(&kind), "{error:?}");
    }
}

#[test]
fn only_what_may_pass_is_retryable() {
    let passing =
        [ErrorKind::Connect, ErrorKind::Transport, ErrorKind::Timeout, ErrorKind::WaitTimeout];
    for (kind, error) in each_kind() {
        assert_eq!(error.is_retryable(), passing.contains(&kind), "{error:?}");
    }
}

#[test]
fn which_refusals_are_retryable_follows_their_status() {
    for status in [408, 425, 429, 500, 502, 503, 504, 524] {
        assert!(of_billing(Fault::status(status)).is_retryable(), "{status}");
    }
    for status in [302, 400, 401, 403, 404, 405, 409, 411, 413, 418] {
        let error = of_billing(Fault::status(status));
        assert!(error.kind() == ErrorKind::Api && !error.is_retryable(), "{status}");
    }
}

#[test]
fn a_lost_create_tells_how_to_find_it() {
    let error = of_create(Fault::close().acted());
    assert_eq!(error.client_request_id(), Some("order-4711"));
    assert_eq!(error.generation_id(), None);
    let message = error.to_string();
    assert!(message.contains("may be billed"), "{message}");
    assert!(message.contains(r#"find("order-4711")"#), "{message}");
}

#[test]
fn a_lost_create_whose_header_came_through_tells_its_id() {
    let error = of_create(Fault::reply(504, "<html>").acted().with_inference_id());
    assert_eq!((error.kind(), error.status()), (ErrorKind::CreateUnknown, Some(504)));
    let id = error.generation_id().unwrap();
    assert!(error.to_string().contains(&format!("wait for `{id}`")), "{error}");
}

#[test]
fn a_lost_create_has_the_accessors_of_its_answer() {
    let body = r#"{"message":"Generation timeout","requestId":"V1St"}"#;
    let error = of_create(Fault::reply(504, body));
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    assert_eq!(error.api_message(), Some("Generation timeout"));
    assert_eq!((error.request_id(), error.body()), (Some("V1St"), Some(body)));
}

#[test]
fn a_refused_create_tells_its_client_request_id() {
    let error = of_create(Fault::status(400));
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
    assert_eq!(error.client_request_id(), Some("order-4711"));
    assert!(!error.may_have_been_billed());
}

#[test]
fn a_cancelled_wait_tells_that_the_generation_goes_on() {
    let error = of_cancelling();
    let id = error.generation_id().unwrap();
    let message = error.to_string();
    assert!(message.contains(&format!("wait for `{id}` to resume")), "{message}");
}

#[test]
fn attempts_are_counted_and_told() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 3);
    let retry = RetryPolicy::new().max_retries(2).base_delay(Duration::from_millis(1));
    let client = sandbox.client_builder().retry(retry).build().unwrap();
    let error = client.retrieve(&id("1")).unwrap_err();
    assert_eq!((error.attempts(), sandbox.count(Endpoint::Retrieve)), (3, 3));
    assert!(error.to_string().contains("after 3 attempts"), "{error}");
}

#[test]
fn the_last_state_seen_is_there_to_look_at() {
    let error = of_wait(|sandbox| sandbox.statuses(["waiting"]), &at_once());
    let generation = error.generation().unwrap();
    assert_eq!(generation.status, Status::Other("waiting".into()));
    assert_eq!(Some(&generation.id), error.generation_id());
}

#[test]
fn a_kind_can_be_a_key() {
    let kinds: std::collections::HashSet<ErrorKind> =
        each_kind().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.len(), 14);
}
