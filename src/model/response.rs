//! An HTTP response as a plain value, and its classification as a result or an error.

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde::de::Error as _;
use serde_json::Value;

use crate::error::{Error, ErrorResponse, Result};
use crate::model::generation::{GenerationId, JsonObject, ResponseMetadata};
use crate::model::retry_after::{parse_http_date, parse_retry_after};
use crate::operation::Operation;
use crate::redact::{sanitize, snippet};

/// The response headers that this crate reads.
pub(crate) const RESPONSE_HEADERS: [&str; 12] = [
    "x-inference-id",
    "x-client-request-id",
    "x-request-id",
    "x-aimlapi-credits-used",
    "x-aimlapi-usd-spent",
    "retry-after",
    "content-type",
    "content-encoding",
    "date",
    "content-range",
    "etag",
    "last-modified",
];

/// The headers of a response, limited to [`RESPONSE_HEADERS`].
#[derive(Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(&'static str, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(header, _)| *header == name).map(|(_, value)| value.as_str())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        let (_, value) = self.0.iter_mut().find(|(header, _)| *header == name)?;
        Some(std::mem::take(value))
    }

    fn number(&self, name: &str) -> Option<f64> {
        // As JSON, which has no infinities and no NaN, and whose parser is linked in anyway.
        serde_json::from_str::<Value>(self.get(name)?).ok()?.as_f64()
    }

    pub(crate) fn into_metadata(mut self) -> ResponseMetadata {
        ResponseMetadata {
            credits_used: self.number("x-aimlapi-credits-used"),
            usd_spent: self.number("x-aimlapi-usd-spent"),
            client_request_id: self.take("x-client-request-id"),
            inference_id: self.take("x-inference-id"),
            request_id: self.take("x-request-id"),
        }
    }

    /// The generation's id, which the API calls inference id in its headers.
    pub(crate) fn generation_id(&self) -> Option<GenerationId> {
        self.get("x-inference-id")?.parse().ok()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let retry_after = self.get("retry-after")?;
        // A date is one of the server's clock.
        let date = self.get("date").and_then(parse_http_date).map(Duration::from_secs);
        let own = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        parse_retry_after(retry_after, date.unwrap_or_else(own))
    }
}

/// A response whose status line and headers arrived. If its body is incomplete, `body_result` says
/// why.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) operation: Operation,
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) body_result: Result<()>,
}

impl Response {
    pub(crate) fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// An error, unless the response is a success and complete.
    pub(crate) fn ensure_success(&mut self) -> Result<()> {
        if !self.is_success() {
            return Err(self.api_error());
        }
        std::mem::replace(&mut self.body_result, Ok(()))
    }

    /// The JSON object in the body of a response that is a success.
    pub(crate) fn parse_json<'a, T: Deserialize<'a>>(&'a self) -> Result<T> {
        self.json().map_err(|_| self.not_an_object())
    }

    fn not_an_object(&self) -> Error {
        let error = |message| self.invalid_response(message);
        match self.json::<Value>() {
            Err(_) if self.body.is_empty() => error("empty response body"),
            Err(e) => error("response is not a JSON object").with_source(e.into()),
            // Without the error of its type, which would quote all of a string.
            Ok(_) => error("response is not a JSON object"),
        }
    }

    /// The `data` array of a successful response that lists things, and the other fields.
    pub(crate) fn parse_list(&mut self) -> Result<(Vec<Value>, JsonObject)> {
        self.ensure_success()?;
        let mut fields: JsonObject = self.parse_json()?;
        match fields.get_mut("data").map(Value::take) {
            Some(Value::Array(data)) => Ok((data, fields)),
            _ => Err(self.invalid_response("response has no `data` array")),
        }
    }

    fn json<'a, T: Deserialize<'a>>(&'a self) -> Result<T, serde_json::Error> {
        // Validating UTF-8 once for the complete body is cheaper than for each string in it.
        serde_json::from_str(std::str::from_utf8(&self.body).map_err(serde_json::Error::custom)?)
    }

    /// The error for a successful response that is not as expected. Some errors come with a status of
    /// success.
    pub(crate) fn invalid_response(&self, message: &str) -> Error {
        Error::decode(self.operation, message.to_owned()).with_response(self.error_response())
    }

    /// The error for a response with an error status.
    pub(crate) fn api_error(&self) -> Error {
        Error::api(self.operation, self.error_response())
    }

    /// What the server says in a response that is an error or cannot be used.
    fn error_response(&self) -> ErrorResponse {
        let body: Value = self.json().unwrap_or_default();
        let error = body.get("error").unwrap_or(&Value::Null);
        let string = |value: Option<&Value>| value.and_then(Value::as_str).map(sanitize);
        ErrorResponse {
            status: Some(self.status),
            message: error_message(&body).as_deref().map(sanitize),
            // A 403 has several meanings; the vendor's kind (in its spelling) or name identifies this.
            out_of_credits: string(kind(error)).is_some_and(|kind| kind.starts_with("err_insuff"))
                || string(error.get("name")).as_deref() == Some("OutOfFundsException"),
            request_id: string(body.get("requestId"))
                .or_else(|| self.headers.get("x-request-id").map(sanitize)),
            retry_after: self.headers.retry_after(),
            marked: self.has_vendor_marks(&body),
            body: snippet(&self.body),
        }
    }

    /// Whether the body of an error response has the vendor's marks: `statusCode` with `requestId`,
    /// or `status` with an `error` that has `name` or `data.kind`.
    ///
    /// Gateways in front of the API write all other fields, and other pairs of these, as well.
    fn has_vendor_marks(&self, body: &Value) -> bool {
        let is_status = |field| match body.get(field) {
            Some(Value::Number(number)) => number.as_u64() == Some(self.status.into()),
            Some(Value::String(text)) => *text == self.status.to_string(),
            _ => false,
        };
        let is_text = |value: Option<&Value>| {
            value.and_then(Value::as_str).is_some_and(|text| !text.is_empty())
        };
        let error = body.get("error").unwrap_or(&Value::Null);
        self.body_result.is_ok()
            && (is_status("statusCode") && is_text(body.get("requestId"))
                || is_status("status") && (is_text(error.get("name")) || is_text(kind(error))))
    }
}

/// The vendor's kind of an error.
fn kind(error: &Value) -> Option<&Value> {
    error.get("data")?.get("kind")
}

/// What the JSON of an error says, in any form seen: a string, a list of problems, or an object with
/// one of them, which may have its location in the request.
pub(crate) fn error_message(error: &Value) -> Option<String> {
    let message = match error {
        Value::String(text) => text.clone(),
        Value::Array(items) => {
            items.iter().filter_map(error_message).collect::<Vec<_>>().join("; ")
        }
        Value::Object(fields) => {
            let mut names = ["message", "error", "detail", "msg"].iter();
            let message = names.find_map(|name| error_message(fields.get(*name)?))?;
            match fields.get("loc") {
                Some(Value::Array(path)) => {
                    let part = |part: &Value| match part.as_u64() {
                        Some(index) => Some(index.to_string()),
                        None => part.as_str().map(str::to_owned),
                    };
                    let path = path.iter().filter_map(part).reduce(|path, part| path + "." + &part);
                    format!("{}: {message}", path.unwrap_or_default())
                }
                _ => message,
            }
        }
        _ => return None,
    };
    Some(message).filter(|message| !message.is_empty())
}

/// Percent-encodes a query value (RFC 3986). Ids with `:` and `/` are in use.
pub(crate) fn encode_query(value: &str) -> String {
    percent_encode(value.as_bytes(), &mut |byte, _| matches!(byte, b'-' | b'.' | b'_' | b'~'))
}

/// Percent-encodes what a URI must not contain (RFC 3986) in the part of a URL after its host, as
/// browsers do. All else stays as it is, to the byte.
pub(crate) fn encode_uri(text: &str) -> String {
    let mut has_fragment = false;
    percent_encode(text.as_bytes(), &mut |byte, rest| match (byte, rest) {
        (b'%', [a, b, ..]) => a.is_ascii_hexdigit() && b.is_ascii_hexdigit(),
        (b'#', _) => !std::mem::replace(&mut has_fragment, true),
        _ => b"-._~:/?@!$&'()*+,;=".contains(&byte),
    })
}

/// Encodes all bytes but letters, digits and those to `keep`, which also gets the bytes after it.
pub(crate) fn percent_encode(text: &[u8], keep: &mut dyn FnMut(u8, &[u8]) -> bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    let mut remaining = text;
    while let [byte, rest @ ..] = remaining {
        if byte.is_ascii_alphanumeric() || keep(*byte, rest) {
            encoded.push((*byte).into());
        } else {
            encoded += &format!("%{byte:02X}");
        }
        remaining = rest;
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::arbitrary::{self, Seed, cases, is_sanitized};
    use proptest::prelude::*;

    fn response(status: u16, body: &str) -> Response {
        Response {
            operation: Operation::Retrieve,
            status,
            headers: Headers::default(),
            body: body.into(),
            body_result: Ok(()),
        }
    }

    #[test]
    fn vendor_marks_are_two_pairs_of_fields_and_no_others() {
        let is_marked = |body: &str| response(500, body).api_error().has_vendor_marks();
        for body in [
            r#"{"statusCode":500,"requestId":"r"}"#,
            r#"{"statusCode":"500","requestId":"r","message":"no"}"#,
            r#"{"status":500,"error":{"name":"InternalException"}}"#,
            r#"{"status":500,"error":{"data":{"kind":"err_internal"}}}"#,
        ] {
            assert!(is_marked(body), "{body}");
            let truncated = Response {
                body_result: Err(Error::transport(Operation::Create, "truncated".into())),
                ..response(500, body)
            };
            assert!(!truncated.api_error().has_vendor_marks(), "{body}");
            assert!(!response(503, body).api_error().has_vendor_marks(), "{body}");
        }
        for body in [
            "",
            "<html>524</html>",
            "{}",
            r#"[{"statusCode":500,"requestId":"r"}]"#,
            r#"{"message":"no","path":"/v2","timestamp":"t"}"#,
            r#"{"statusCode":500,"message":"no"}"#,
            r#"{"statusCode":500,"requestId":""}"#,
            r#"{"statusCode":"+500","requestId":"r"}"#,
            r#"{"statusCode":500,"error":{"name":"InternalException"}}"#,
            r#"{"status":500,"requestId":"r","error":"Internal Server Error","path":"/v2"}"#,
            r#"{"status":500,"error":"InternalException"}"#,
            r#"{"status":500,"error":{"message":"no"}}"#,
            r#"{"requestId":"r","error":{"name":"InternalException"}}"#,
        ] {
            assert!(!is_marked(body), "{body}");
        }
    }

    #[test]
    fn truncated_success_is_a_transport_error_and_truncated_error_response_an_api_error() {
        let truncated = |status| Response {
            body_result: Err(Error::transport(Operation::Retrieve, "truncated".into())),
            ..response(status, r#"{"mess"#)
        };
        let parse = |status| truncated(status).ensure_success().unwrap_err();
        assert_eq!(parse(200).kind(), ErrorKind::Transport);
        let unauthorized = parse(401);
        assert_eq!((unauthorized.kind(), unauthorized.status()), (ErrorKind::Api, Some(401)));
    }

    #[test]
    fn json_of_another_type_is_not_quoted_in_the_source_of_the_error() {
        let source = |json: &str| {
            let error = response(200, json).parse_json::<JsonObject>().unwrap_err();
            std::error::Error::source(&error).map(ToString::to_string)
        };
        let image = format!("\"data:image/png;base64,{}\"", "iVBORw0KGgo".repeat(999));
        assert_eq!([&image, "[]", "1", ""].map(source), [const { None }; 4]);
        let truncated = source(&image[..image.len() - 1]).unwrap();
        assert!(is_sanitized(&truncated) && truncated.starts_with("EOF"), "{truncated}");
        assert!(source("{} {}").is_some_and(|source| source.starts_with("trailing")));
    }

    #[test]
    fn query_value_is_percent_encoded() {
        let encoded = encode_query("60ac7c34:kling/v2 é&=-._~");
        assert_eq!(encoded, "60ac7c34%3Akling%2Fv2%20%C3%A9%26%3D-._~");
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn api_error_is_made_from_any_response(parts in arbitrary::response(Seed::body)) {
            let error = parts.response().api_error();
            prop_assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(parts.status)));
            prop_assert!(error.body().is_some_and(is_sanitized));
            prop_assert!(error.server_message().is_none_or(is_sanitized));
            prop_assert!(!error.has_vendor_marks() || parts.body_error.is_none());
        }
    }
}
