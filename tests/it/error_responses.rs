//! Error responses and responses that cannot be used, and what becomes of the server's text.

use kling_video::sandbox::Fault;
use kling_video::{Error, ErrorKind, Status};
use serde_json::json;

use crate::helpers::clients::id;
use crate::helpers::error_output::{error_chain, full_error_output};
use crate::responses::{ID, REQUEST_ID, api_error, fixture_names, read, retrieve_with};

// ---------------------------------------------------------------- error responses

#[test]
fn error_responses_are_api_errors_of_their_status() {
    for name in fixture_names("error-") {
        let status = name.get(6..9).unwrap().parse().unwrap();
        let body = read(&name);
        let error = api_error(status, &name);
        let first_word = body.split_whitespace().next().unwrap_or_default();
        assert!(error.body().unwrap().starts_with(first_word), "{name}");
    }
}

#[test]
fn invalid_key_is_401_with_server_message() {
    let error = api_error(401, "error-401-key.json");
    assert_eq!(error.server_message(), Some("Invalid API key provided"));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
    assert!(!error.is_out_of_credits() && !error.is_retryable());
    assert!(error.to_string().contains("check the API key"), "{error}");
}

#[test]
fn error_message_list_is_joined() {
    let error = api_error(400, "error-400-list.json");
    assert_eq!(error.server_message(), Some("first problem; second problem"));
    assert_eq!(error.request_id(), None);
}

#[test]
fn validation_error_message_is_quoted() {
    let error = api_error(400, "error-400-body.json");
    let message = r#"Body validation error at "duration": Expected 5 | 10, received "5""#;
    assert_eq!(error.server_message(), Some(message));
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn out_of_credits_is_detected_by_error_kind() {
    let error = api_error(403, "error-403-credits.json");
    assert!(error.is_out_of_credits());
    assert_eq!(error.server_message(), Some("You've run out of credits"));
    assert!(error.to_string().contains("balance()"), "{error}");
}

#[test]
fn out_of_credits_is_detected_by_error_name() {
    let error = api_error(403, "error-403-funds.json");
    assert!(error.is_out_of_credits());
    assert_eq!(error.server_message(), Some("The account has no funds"));
}

#[test]
fn other_403_is_not_out_of_credits() {
    assert!(!api_error(403, "error-403-other.json").is_out_of_credits());
}

#[test]
fn status_code_in_error_body_may_be_string() {
    let error = api_error(429, "error-429.json");
    assert_eq!(error.server_message(), Some("Too Many Requests"));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
    assert!(error.is_retryable());
}

#[test]
fn not_found_is_not_retryable() {
    let error = api_error(404, "error-404.json");
    assert_eq!(error.server_message(), Some("Inference not found"));
    assert!(!error.is_retryable());
}

#[test]
fn gateway_page_is_kept_as_body() {
    for (status, name) in [(502, "error-502.html"), (524, "error-524.html")] {
        let error = api_error(status, name);
        assert_eq!((error.server_message(), error.request_id()), (None, None));
        assert!(error.body().unwrap().contains(&format!("<title>{status}")), "{error:?}");
        assert!(error.is_retryable());
    }
}

#[test]
fn error_response_without_body_is_api_error() {
    let error = api_error(503, "error-503-empty.txt");
    assert_eq!((error.server_message(), error.body()), (None, Some("")));
}

#[test]
fn request_id_may_come_from_header() {
    let fault =
        Fault::response(504, read("error-504.json")).header("X-Request-Id", "of-the-header");
    assert_eq!(retrieve_with(fault).unwrap_err().request_id(), Some("of-the-header"));
}

#[test]
fn retry_after_is_read_from_header() {
    let fault = Fault::response(429, read("error-429.json")).header("Retry-After", "7");
    let retry_after = retrieve_with(fault).unwrap_err().retry_after();
    assert_eq!(retry_after, Some(std::time::Duration::from_secs(7)));
}

// ---------------------------------------------------------------- invalid responses

fn decode_error(body: impl Into<Vec<u8>>) -> Error {
    let error = retrieve_with(Fault::response(200, body)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Decode, Some(200)), "{error}");
    assert_eq!(error.generation_id(), Some(&id(ID)));
    error
}

#[test]
fn html_instead_of_json_is_decode_error_with_body() {
    let error = decode_error(read("error-524.html"));
    assert!(error.body().unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(error_chain(&error).len(), 2, "the JSON error is the source: {error:?}");
}

#[test]
fn empty_success_body_is_decode_error() {
    let error = decode_error("");
    assert!(error.to_string().contains("empty response body"), "{error}");
}

#[test]
fn json_without_generation_is_decode_error() {
    for body in ["[]", "null", "\"completed\"", "7", "{}", r#"{"id":"1"}"#, "{\"id\":"] {
        assert_eq!(decode_error(body).body(), Some(body));
    }
}

#[test]
fn invalid_utf8_is_decode_error() {
    assert!(decode_error(b"\xFF\xFE{\0}\0".to_vec()).body().is_some());
}

#[test]
fn response_body_may_be_at_most_1_mib() {
    const MIB: usize = 1024 * 1024;
    let padded = |len: usize| {
        let mut body = read("generation-queued.json");
        body.extend(std::iter::repeat_n(' ', len - body.len()));
        body
    };
    assert_eq!(retrieve_with(Fault::response(200, padded(MIB))).unwrap().status, Status::Queued);
    let error = retrieve_with(Fault::response(200, padded(MIB + 1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.to_string().contains("1 MiB"), "{error}");
}

#[test]
fn error_response_over_1_mib_is_api_error() {
    let error = retrieve_with(Fault::response(500, "<html>".repeat(400_000))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(500)));
    assert!(error.body().unwrap().len() <= 2048);
}

// ---------------------------------------------------------------- server text in errors

#[test]
fn server_text_is_truncated_to_2_kib() {
    let body = json!({ "message": "é".repeat(5_000), "requestId": "x".repeat(5_000) });
    let error = retrieve_with(Fault::response(400, body.to_string())).unwrap_err();
    assert!(error.server_message().unwrap().starts_with("éé"));
    for text in [error.server_message(), error.request_id(), error.body()] {
        assert!(text.unwrap().len() <= 2048, "{}", text.unwrap().len());
    }
}

#[test]
fn image_in_error_response_is_redacted() {
    let message = format!("bad image data:image/png;base64,{} given", "iVBORw0KGgo".repeat(99));
    let body = json!({ "message": message }).to_string();
    let error = retrieve_with(Fault::response(400, body)).unwrap_err();
    let output = full_error_output(&error);
    assert!(!output.contains("iVBORw0KGgo"), "{output}");
    assert!(error.server_message().unwrap().ends_with(" given"), "{error}");
}

#[test]
fn control_characters_in_server_text_are_removed() {
    let body = json!({ "message": "bad\u{1b}[2J\r\nkey" }).to_string();
    let error = retrieve_with(Fault::response(400, body)).unwrap_err();
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}
