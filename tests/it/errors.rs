//! Errors: kind, message, source chain and accessors.

use std::error::Error as _;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, Client, Error, ErrorKind, Image, ImageToVideo, RetryPolicy, Status, WaitOptions,
};

use crate::helpers::clients::{no_retry_client, request, sandbox};
use crate::helpers::error_output::error_chain;

fn billing_error(fault: Fault) -> Error {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, fault, 1);
    no_retry_client(&sandbox).balance().unwrap_err()
}

fn idle_timeout_error() -> Error {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, Fault::no_response(), 1);
    let client = sandbox.client_builder().retry_policy(RetryPolicy::none());
    client.idle_timeout(Duration::from_millis(50)).build().unwrap().balance().unwrap_err()
}

fn create_error(fault: Fault) -> Error {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, fault, 1);
    no_retry_client(&sandbox).create(&request().client_request_id("order-4711")).unwrap_err()
}

fn wait_error(setup: impl FnOnce(&Sandbox), options: WaitOptions) -> Error {
    let sandbox = sandbox();
    setup(&sandbox);
    let client = no_retry_client(&sandbox);
    let created = client.create(&request()).unwrap();
    client.with_wait_options(options).wait(&created.id).unwrap_err()
}

fn zero_timeout() -> WaitOptions {
    WaitOptions::new()
        .initial_delay(Duration::ZERO)
        .interval(Duration::from_millis(1))
        .timeout(Duration::ZERO)
}

fn connect_error() -> Error {
    // Port 1 has no listener. A free port could be taken by another test in the meantime.
    let client = Client::builder("key").base_url("http://127.0.0.1:1").no_proxy();
    client.retry_policy(RetryPolicy::none()).build().unwrap().balance().unwrap_err()
}

fn cancelled_error() -> Error {
    let token = CancelToken::new();
    token.cancel();
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let created = client.create(&request()).unwrap();
    client.with_cancel_token(token).wait(&created.id).unwrap_err()
}

fn journal_error() -> Error {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("cat.mp4.kling.jsonl"), "not JSON\n{}\n").unwrap();
    let sandbox = sandbox();
    let error =
        no_retry_client(&sandbox).generate_to(&request(), dir.path().join("cat.mp4")).unwrap_err();
    assert_eq!(sandbox.request_count(Endpoint::Create), 0);
    error
}

/// One error of every kind.
fn one_error_per_kind() -> Vec<(ErrorKind, Error)> {
    let with_zero_quota =
        |sandbox: &Sandbox| sandbox.client_builder().max_generations(0).build().unwrap();
    let missing = ImageToVideo::new(Image::file("no/such/cat.jpg"));
    vec![
        (ErrorKind::Config, Client::new("").unwrap_err()),
        (ErrorKind::InvalidRequest, request().cfg_scale(2.0).validate().unwrap_err()),
        (ErrorKind::GenerationLimit, with_zero_quota(&sandbox()).create(&request()).unwrap_err()),
        (ErrorKind::Connect, connect_error()),
        (ErrorKind::Transport, billing_error(Fault::close_connection())),
        (ErrorKind::Timeout, idle_timeout_error()),
        (ErrorKind::Api, billing_error(Fault::status(401))),
        (ErrorKind::Decode, billing_error(Fault::response(200, "<html>"))),
        (ErrorKind::CreateUnknown, create_error(Fault::close_connection().after_accepting())),
        (
            ErrorKind::GenerationFailed,
            wait_error(|s| s.set_status_sequence(["error"]), zero_timeout()),
        ),
        (ErrorKind::WaitTimeout, wait_error(|_| {}, zero_timeout())),
        (ErrorKind::Cancelled, cancelled_error()),
        (ErrorKind::Journal, journal_error()),
        (ErrorKind::Io, missing.validate().unwrap_err()),
    ]
}

// ---------------------------------------------------------------- messages

#[test]
fn error_has_the_expected_kind() {
    for (kind, error) in one_error_per_kind() {
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[test]
fn message_starts_with_what_was_being_done_or_what_is_wrong() {
    for (kind, error) in one_error_per_kind() {
        let start = match kind {
            ErrorKind::Config => "the API key is empty",
            ErrorKind::InvalidRequest => "`cfg_scale` is 2",
            ErrorKind::GenerationLimit => "max_generations(0) is reached",
            ErrorKind::Connect => "cannot connect to 127.0.0.1:1",
            ErrorKind::Transport | ErrorKind::Timeout => "reading the balance: ",
            ErrorKind::Api | ErrorKind::Decode => "reading the balance: ",
            ErrorKind::CreateUnknown => "creating a generation: ",
            ErrorKind::GenerationFailed | ErrorKind::WaitTimeout => "waiting for generation `",
            ErrorKind::Cancelled => "cancelled; generation `",
            ErrorKind::Journal => "journal ",
            ErrorKind::Io => "no/such/cat.jpg: ",
            _ => panic!("no expectation for {kind:?}"),
        };
        assert!(error.to_string().starts_with(start), "{kind:?}: {error}");
    }
}

#[test]
fn message_is_one_line_without_a_period() {
    for (kind, error) in one_error_per_kind() {
        let message = error.to_string();
        assert!(!message.starts_with(char::is_uppercase), "{kind:?}: {message}");
        assert!(!message.ends_with('.') && !message.contains('\n'), "{kind:?}: {message}");
    }
}

#[test]
fn message_quotes_the_generation_id() {
    let errors = one_error_per_kind();
    let with_id =
        errors.iter().filter_map(|(kind, error)| Some((kind, error.generation_id()?, error)));
    let mut kinds = Vec::new();
    for (kind, id, error) in with_id {
        assert!(error.to_string().contains(&format!("`{id}`")), "{kind:?}: {error}");
        kinds.push(*kind);
    }
    let expected = [ErrorKind::GenerationFailed, ErrorKind::WaitTimeout, ErrorKind::Cancelled];
    assert_eq!(kinds, expected);
}

#[test]
fn message_quotes_the_servers_request_id() {
    let body = r#"{"message":"no","requestId":"V1StGXR8"}"#;
    let error = billing_error(Fault::response(400, body));
    assert!(error.to_string().contains("`V1StGXR8`"), "{error}");
}

#[test]
fn debug_output_starts_with_kind_and_message() {
    for (kind, error) in one_error_per_kind() {
        let output = format!("{error:?}");
        assert!(output.starts_with(&format!("Error {{ kind: {kind:?}, message: ")), "{output}");
    }
}

#[test]
fn debug_output_contains_the_client_request_id_of_an_unknown_create() {
    let error = create_error(Fault::close_connection().after_accepting());
    assert!(format!("{error:?}").contains("order-4711"), "{error:?}");
}

// ---------------------------------------------------------------- sources

#[test]
fn source_message_is_not_repeated_in_the_message() {
    let mut pairs = 0;
    for (kind, error) in one_error_per_kind() {
        let chain = error_chain(&error);
        for pair in chain.windows(2) {
            assert!(!pair[0].contains(&pair[1]), "{kind:?}: {chain:?}");
            pairs += 1;
        }
    }
    assert!(pairs >= 6, "{pairs}");
}

#[test]
fn source_is_present_for_errors_with_a_cause() {
    let without_source = [
        ErrorKind::Config,
        ErrorKind::InvalidRequest,
        ErrorKind::GenerationLimit,
        ErrorKind::Api,
        ErrorKind::GenerationFailed,
        ErrorKind::WaitTimeout,
        ErrorKind::Cancelled,
        ErrorKind::Journal,
    ];
    for (kind, error) in one_error_per_kind() {
        let has_source = !without_source.contains(&kind);
        assert_eq!(error.source().is_some(), has_source, "{kind:?}: {error:?}");
    }
}

#[test]
fn source_of_an_unknown_create_is_the_transport_error() {
    let error = create_error(Fault::close_connection().after_accepting());
    let cause = error.source().unwrap().downcast_ref::<Error>().unwrap();
    assert_eq!(cause.kind(), ErrorKind::Transport);
}

#[test]
fn source_of_a_connect_error_is_the_io_error() {
    let error = connect_error();
    let cause = error.source().unwrap().downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::ConnectionRefused);
}

#[test]
fn source_of_a_decode_error_is_the_json_error() {
    let error = billing_error(Fault::response(200, "<html>"));
    assert!(error.source().unwrap().is::<serde_json::Error>(), "{error:?}");
}

// ---------------------------------------------------------------- accessors

#[test]
fn accessors_return_none_for_absent_details() {
    let error = Client::new("").unwrap_err();
    assert_eq!((error.generation_id(), error.client_request_id()), (None, None));
    assert_eq!((error.status(), error.server_message(), error.request_id()), (None, None, None));
    assert_eq!((error.retry_after(), error.field(), error.body()), (None, None, None));
    assert!(error.generation().is_none());
    assert_eq!(error.attempts(), 1);
    assert!(!error.is_retryable() && !error.is_out_of_credits() && !error.may_have_been_billed());
}

#[test]
fn field_is_present_only_for_invalid_requests() {
    for (kind, error) in one_error_per_kind() {
        assert_eq!(error.field().is_some(), kind == ErrorKind::InvalidRequest, "{error}");
    }
}

#[test]
fn may_have_been_billed_is_true_only_after_a_create() {
    // What a damaged journal says of its creates cannot be known.
    let billed = [
        ErrorKind::CreateUnknown,
        ErrorKind::WaitTimeout,
        ErrorKind::Cancelled,
        ErrorKind::Journal,
    ];
    for (kind, error) in one_error_per_kind() {
        assert_eq!(error.may_have_been_billed(), billed.contains(&kind), "{error:?}");
    }
}

#[test]
fn is_retryable_is_true_only_for_transient_errors() {
    let transient =
        [ErrorKind::Connect, ErrorKind::Transport, ErrorKind::Timeout, ErrorKind::WaitTimeout];
    for (kind, error) in one_error_per_kind() {
        assert_eq!(error.is_retryable(), transient.contains(&kind), "{error:?}");
    }
}

#[test]
fn is_retryable_of_an_api_error_depends_on_its_status() {
    for status in [408, 425, 429, 500, 502, 503, 504, 524] {
        assert!(billing_error(Fault::status(status)).is_retryable(), "{status}");
    }
    for status in [302, 400, 401, 403, 404, 405, 409, 411, 413, 418] {
        let error = billing_error(Fault::status(status));
        assert!(error.kind() == ErrorKind::Api && !error.is_retryable(), "{status}");
    }
}

#[test]
fn create_unknown_message_explains_how_to_find_the_generation() {
    let error = create_error(Fault::close_connection().after_accepting());
    assert_eq!(error.client_request_id(), Some("order-4711"));
    assert_eq!(error.generation_id(), None);
    let message = error.to_string();
    assert!(message.contains("the generation may exist and be billed"), "{message}");
    assert!(message.contains(r#"find("order-4711")"#), "{message}");
}

#[test]
fn rejection_by_a_gateway_says_what_to_check() {
    let advice = "check base_url";
    for fault in [Fault::gateway(403), Fault::gateway_json(404), Fault::response(301, "")] {
        let message = create_error(fault).to_string();
        assert!(message.contains(advice), "{message}");
    }
    for status in [400, 401, 403, 404, 429] {
        let message = create_error(Fault::status(status)).to_string();
        assert!(!message.contains(advice), "{message}");
    }
}

#[test]
fn failed_download_says_what_to_call_again() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let path = dir.path().join("cat.mp4");
    let video = client.generate(&request()).unwrap();
    for fault in [Fault::status(500), Fault::response(200, "<html>"), Fault::close_connection()] {
        sandbox.fault(Endpoint::Video, fault, 99);
        let saved = client.generate_to(&request(), &path).unwrap_err().to_string();
        assert!(saved.ends_with("the generation is complete: call generate_to again"), "{saved}");
        let downloaded = client.download(&video, &path).unwrap_err().to_string();
        assert!(downloaded.ends_with("complete: call download again"), "{downloaded}");
        sandbox.clear_faults();
    }
}

#[test]
fn polls_of_a_failed_generation_are_not_called_attempts() {
    let fail = |sandbox: &Sandbox| sandbox.set_failure("InternalError", "Crashed");
    let error = wait_error(fail, zero_timeout().timeout(Duration::from_secs(30)));
    assert!(
        error.attempts() > 1 && error.to_string().ends_with("InternalError: Crashed"),
        "{error}"
    );
}

#[test]
fn create_unknown_has_the_generation_id_from_the_header() {
    let error = create_error(Fault::response(504, "<html>").after_accepting().with_inference_id());
    assert_eq!((error.kind(), error.status()), (ErrorKind::CreateUnknown, Some(504)));
    let id = error.generation_id().unwrap();
    assert!(error.to_string().contains(&format!("wait for generation `{id}`")), "{error}");
}

#[test]
fn create_unknown_has_the_details_of_its_response() {
    let body = r#"{"message":"Generation timeout","requestId":"V1St"}"#;
    let error = create_error(Fault::response(504, body));
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    assert_eq!(error.server_message(), Some("Generation timeout"));
    assert_eq!((error.request_id(), error.body()), (Some("V1St"), Some(body)));
}

#[test]
fn generation_is_the_last_state_received() {
    let error = wait_error(|sandbox| sandbox.set_status_sequence(["waiting"]), zero_timeout());
    let generation = error.generation().unwrap();
    assert_eq!(generation.status, Status::Other("waiting".into()));
    assert_eq!(Some(&generation.id), error.generation_id());
}

#[test]
fn error_kind_can_be_a_hash_key() {
    let kinds: std::collections::HashSet<ErrorKind> =
        one_error_per_kind().into_iter().map(|(kind, _)| kind).collect();
    assert_eq!(kinds.len(), 14);
}
