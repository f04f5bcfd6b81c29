//! What the API answers with: JSON that echoes the caller's request id, and errors in the shapes
//! that were seen.

use serde_json::{Value, json};

use super::endpoint::VIDEOS;
use super::http::{Head, Reply, reason};
use super::time::{format_iso, now};

/// A JSON reply to this request.
pub(super) fn json_reply(status: u16, body: &Value, head: &Head) -> Reply {
    let reply = Reply::json(status, body);
    match client_request_id(head) {
        Some(id) => reply.header("x-client-request-id", id),
        None => reply,
    }
}

/// The server drops an invalid one without a word.
pub(super) fn client_request_id(head: &Head) -> Option<&str> {
    head.header("x-client-request-id").filter(|id| is_client_request_id(id))
}

fn is_client_request_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}

/// Why a request is not granted.
pub(super) struct Refusal {
    status: u16,
    /// A text; for status 400, a list of them.
    message: Value,
}

impl Refusal {
    pub(super) fn new(status: u16, message: impl Into<String>) -> Refusal {
        Refusal { status, message: Value::String(message.into()) }
    }

    /// All that is wrong with a body or a query.
    pub(super) fn invalid(problems: Vec<String>) -> Refusal {
        Refusal { status: 400, message: problems.into() }
    }

    /// What the vendor documents for `status`.
    pub(super) fn documented(status: u16) -> Refusal {
        let message = match status {
            400 => {
                let problem = "Body validation error at \"image_url\": \
                               Expected string, received null";
                return Refusal::invalid(vec![problem.to_owned()]);
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
            _ => reason(status),
        };
        Refusal::new(status, message)
    }

    /// In the shape that was seen for this status; for a link to a video, a storage service's.
    pub(super) fn into_reply(self, head: &Head, request_id: &str) -> Reply {
        let Refusal { status, message } = self;
        let path = head.path();
        let text = message.as_str().unwrap_or_else(|| reason(status));
        if path.starts_with(VIDEOS) {
            return storage_error(status, text);
        }
        let body = match status {
            400 => json!({
                "message": message, "statusCode": 400, "requestId": request_id, "path": path,
            }),
            401 => json!({ "message": message, "statusCode": 401, "requestId": request_id }),
            403 => forbidden(path, text, request_id),
            524 => return gateway_page(status, text),
            _ => json!({
                "message": message, "path": path, "requestId": request_id,
                "statusCode": status.to_string(),
                "timestamp": format_iso(now()),
            }),
        };
        json_reply(status, &body, head)
    }
}

/// Out of credits; the spelling of `kind` is the vendor's.
fn forbidden(path: &str, message: &str, request_id: &str) -> Value {
    json!({
        "title": "Forbidden", "status": 403, "message": message, "instance": path,
        "requestId": request_id,
        "error": {
            "name": "ForbiddenException", "message": message,
            "data": { "kind": "err_insufficent_credits" },
        },
    })
}

fn gateway_page(status: u16, message: &str) -> Reply {
    let page = format!(
        "<!DOCTYPE html>\n<html><head><title>{status}: {message}</title></head>\
         <body><h1>Error {status}</h1><p>{message}</p></body></html>\n"
    );
    Reply::new(status, page).header("Content-Type", "text/html; charset=UTF-8")
}

/// As the host of the videos answers, which is not the API.
pub(super) fn storage_error(status: u16, message: &str) -> Reply {
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
    Reply::new(status, body).header("Content-Type", "application/xml")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn client_request_ids() {
        assert!(is_client_request_id("a.B_1:-"));
        assert!(is_client_request_id(&"a".repeat(128)));
        for invalid in [String::new(), "a".repeat(129), "a b".to_owned(), "é".to_owned()] {
            assert!(!is_client_request_id(&invalid), "{invalid}");
        }
    }
}
