//! The API's responses: JSON with the client request id echoed, and errors in the formats that
//! the real API was seen to send.

use serde_json::{Value, json};

use super::endpoint::VIDEOS;
use super::http::{RequestHead, Response, reason_phrase};
use super::time::{format_iso, now};

/// Creates a JSON response to this request.
pub(super) fn json_response(status: u16, body: &Value, head: &RequestHead) -> Response {
    let response = Response::json(status, body);
    match client_request_id(head) {
        Some(id) => response.header("x-client-request-id", id),
        None => response,
    }
}

/// Returns the client request id; an invalid one is silently ignored, as by the real API.
pub(super) fn client_request_id(head: &RequestHead) -> Option<&str> {
    head.header("x-client-request-id").filter(|id| is_client_request_id(id))
}

fn is_client_request_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}

/// An error that the API responds with.
pub(super) struct ApiError {
    status: u16,
    /// A string; for status 400, a list of strings.
    message: Value,
}

impl ApiError {
    pub(super) fn new(status: u16, message: impl Into<String>) -> ApiError {
        ApiError { status, message: Value::String(message.into()) }
    }

    /// An error 400 that lists what is wrong with a body or a query.
    pub(super) fn invalid(errors: Vec<String>) -> ApiError {
        ApiError { status: 400, message: errors.into() }
    }

    /// The error that the vendor documents for `status`.
    pub(super) fn documented(status: u16) -> ApiError {
        let message = match status {
            400 => {
                let message = "Body validation error at \"image_url\": \
                               Expected string, received null";
                return ApiError::invalid(vec![message.to_owned()]);
            }
            401 => "Invalid API key provided",
            403 => {
                "You've run out of credits. Please top up your balance or update your payment \
                 method"
            }
            404 => "Inference not found",
            413 => "Payload Too Large: request entity too large",
            500 => "Internal server error",
            503 => "Service Unavailable: the service is under maintenance",
            504 => "Generation timeout",
            524 => "A timeout occurred",
            _ => reason_phrase(status),
        };
        ApiError::new(status, message)
    }

    /// Formats the error as the API does for this status, with the fields that only the API writes,
    /// or as a storage service for a video URL.
    pub(super) fn into_response(self, head: &RequestHead, request_id: &str) -> Response {
        let ApiError { status, message } = self;
        let path = head.path();
        let text = message.as_str().unwrap_or_else(|| reason_phrase(status));
        if path.starts_with(VIDEOS) {
            return storage_error(status, text);
        }
        let body = match status {
            400 => json!({
                "message": message, "statusCode": 400, "requestId": request_id, "path": path,
            }),
            401 => json!({ "message": message, "statusCode": 401, "requestId": request_id }),
            403 => forbidden(path, text),
            524 => return gateway_page(status, text),
            _ => json!({
                "message": message, "path": path, "requestId": request_id,
                "statusCode": status.to_string(),
                "timestamp": format_iso(now()),
            }),
        };
        json_response(status, &body, head)
    }
}

/// The body for "out of credits". The spelling of `kind` is the vendor's.
fn forbidden(path: &str, message: &str) -> Value {
    json!({
        "title": "Forbidden", "status": 403, "message": message, "instance": path,
        "error": {
            "name": "ForbiddenException", "message": message,
            "data": { "kind": "err_insufficent_credits" },
        },
    })
}

fn gateway_page(status: u16, message: &str) -> Response {
    let page = format!(
        "<!DOCTYPE html>\n<html><head><title>{status}: {message}</title></head>\
         <body><h1>Error {status}</h1><p>{message}</p></body></html>\n"
    );
    Response::new(status, page).header("Content-Type", "text/html; charset=UTF-8")
}

/// Creates an error response of the video host, which is not part of the API.
pub(super) fn storage_error(status: u16, message: &str) -> Response {
    let code = match status {
        400 => "InvalidArgument",
        403 => "AccessDenied",
        404 => "NoSuchKey",
        405 => "MethodNotAllowed",
        416 => "InvalidRange",
        _ => "RequestFailed",
    };
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Response::new(status, body).header("Content-Type", "application/xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_request_id_is_validated() {
        assert!(is_client_request_id("a.B_1:-"));
        assert!(is_client_request_id(&"a".repeat(128)));
        for invalid in [String::new(), "a".repeat(129), "a b".to_owned(), "é".to_owned()] {
            assert!(!is_client_request_id(&invalid), "{invalid}");
        }
    }
}
