//! Request and reply as plain values, and what a reply's status means.

use std::time::{Duration, SystemTime};

use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;

use crate::error::{Error, Refusal, Result, Source};
use crate::generation::Trace;
use crate::retry::parse_retry_after;
use crate::text::{shorten, snippet};

/// The response headers that mean something to this crate.
pub(crate) const HEADERS: [&str; 10] = [
    "x-inference-id",
    "x-client-request-id",
    "x-request-id",
    "x-aimlapi-credits-used",
    "x-aimlapi-usd-spent",
    "retry-after",
    "location",
    "content-range",
    "etag",
    "last-modified",
];

/// Those of [`HEADERS`] that a reply has.
#[derive(Debug, Default)]
pub(crate) struct Headers(pub(crate) Vec<(&'static str, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(own, _)| *own == name).map(|(_, value)| value.as_str())
    }

    fn take(&mut self, name: &str) -> Option<String> {
        self.0.iter_mut().find(|(own, _)| *own == name).map(|(_, value)| std::mem::take(value))
    }

    fn number(&self, name: &str) -> Option<f64> {
        // JSON's numbers are finite, and their parser is in the program already.
        serde_json::from_str(self.get(name)?.trim()).ok()
    }

    pub(crate) fn into_trace(mut self) -> Trace {
        Trace {
            credits_used: self.number("x-aimlapi-credits-used"),
            usd_spent: self.number("x-aimlapi-usd-spent"),
            client_request_id: self.take("x-client-request-id"),
            inference_id: self.take("x-inference-id"),
            request_id: self.take("x-request-id"),
        }
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        parse_retry_after(self.get("retry-after")?, SystemTime::now())
    }
}

/// An answer whose status line and headers arrived. Its body may be cut short: then `end` says why.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    pub(crate) body: Vec<u8>,
    pub(crate) end: Result<(), Failure>,
}

impl Reply {
    pub(crate) fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    /// The JSON object of a successful reply.
    pub(crate) fn object<T: DeserializeOwned>(&mut self, operation: &'static str) -> Result<T> {
        if !self.is_success() {
            return Err(self.refusal(operation));
        }
        if let Err(failure) = std::mem::replace(&mut self.end, Ok(())) {
            return Err(failure.into_error(operation));
        }
        self.json().map_err(|e| self.not_the_object(operation, e))
    }

    fn json<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        // Checked as a whole, which is cheaper than each string by itself.
        serde_json::from_str(std::str::from_utf8(&self.body).map_err(serde_json::Error::custom)?)
    }

    fn not_the_object(&self, operation: &'static str, e: serde_json::Error) -> Error {
        let problem = match self.body.is_empty() {
            true => "the server answered nothing",
            false => "the server's answer is not the JSON object it should be",
        };
        Error::unreadable(operation, problem, self.status, snippet(&self.body), Some(e))
    }

    /// The error that a successful reply is which lacks what matters.
    pub(crate) fn unreadable(&self, operation: &'static str, problem: &str) -> Error {
        Error::unreadable(operation, problem, self.status, snippet(&self.body), None)
    }

    /// The error that a status other than success is.
    pub(crate) fn refusal(&self, operation: &'static str) -> Error {
        Error::api(operation, self.read_refusal())
    }

    /// Whether the vendor's own service refused, and not a gateway before it.
    pub(crate) fn has_vendor_body(&self) -> bool {
        let refusal = self.read_refusal();
        refusal.message.is_some() || refusal.kind.is_some() || refusal.name.is_some()
    }

    /// Reads every error body of the API's that was seen: `message` as a text or a list, at the
    /// top or in `error`, with `requestId` and the kind of what happened.
    fn read_refusal(&self) -> Refusal {
        let body: Value = self.json().unwrap_or_default();
        let error = body.get("error").unwrap_or(&Value::Null);
        let text = |value: Option<&Value>| value.and_then(Value::as_str).map(shorten);
        let message = body
            .get("message")
            .and_then(message_text)
            .or_else(|| error.get("message").and_then(message_text))
            .or_else(|| text(Some(error)));
        Refusal {
            status: self.status,
            message,
            name: text(error.get("name")),
            kind: text(error.get("data").and_then(|data| data.get("kind"))),
            request_id: text(body.get("requestId"))
                .or_else(|| self.headers.get("x-request-id").map(shorten)),
            retry_after: self.headers.retry_after(),
            body: snippet(&self.body),
        }
    }
}

fn message_text(message: &Value) -> Option<String> {
    match message {
        Value::String(text) => Some(shorten(text)),
        Value::Array(items) => {
            let lines: Vec<&str> = items.iter().filter_map(Value::as_str).collect();
            (!lines.is_empty()).then(|| shorten(&lines.join("; ")))
        }
        _ => None,
    }
}

/// Why no whole answer came, as the transport saw it.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) kind: FailureKind,
    pub(crate) source: Source,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FailureKind {
    /// No connection was made: nothing was sent.
    Connect,
    /// The connection broke, or what came was no HTTP.
    Broken,
    /// Nothing, or too little, came for the idle time-out.
    Silent,
    /// What came, or where it leads, cannot be used; asking again would bring the same.
    Unusable,
    /// The caller's token stopped it.
    Cancelled,
}

impl Failure {
    pub(crate) fn new(kind: FailureKind, source: impl Into<Source>) -> Self {
        Self { kind, source: source.into() }
    }

    pub(crate) fn into_error(self, operation: &'static str) -> Error {
        match self.kind {
            FailureKind::Connect => Error::connect(operation, self.source),
            FailureKind::Broken => Error::transport(operation, self.source),
            FailureKind::Silent => Error::timeout(operation, self.source),
            FailureKind::Unusable => Error::decode(operation, self.source.to_string()),
            FailureKind::Cancelled => Error::cancelled(operation),
        }
    }
}

/// Percent-encodes what is not unreserved in a query (RFC 3986): ids with `:` and `/` are seen.
pub(crate) fn encode_query(value: &str, into: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in value.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            into.push(byte.into());
        } else {
            into.push('%');
            for digit in [byte >> 4, byte & 0xF] {
                into.extend(HEX.get(usize::from(digit)).map(|&digit| char::from(digit)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::arbitrary::{self, Seed, cases, is_presentable};
    use proptest::prelude::*;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, headers: Headers::default(), body: body.into(), end: Ok(()) }
    }

    #[test]
    fn only_json_with_the_vendors_fields_is_the_vendors() {
        assert!(
            reply(500, r#"{"message":"under maintenance","statusCode":500}"#).has_vendor_body()
        );
        for gateway in ["", "<html>524</html>", "{}", "[]", "\"x\"", r#"{"message":5}"#] {
            assert!(!reply(500, gateway).has_vendor_body(), "{gateway}");
        }
    }

    #[test]
    fn a_cut_success_is_a_transport_error_and_a_cut_refusal_stays_one() {
        let cut = |status| Reply {
            end: Err(Failure::new(FailureKind::Broken, "cut")),
            ..reply(status, r#"{"mess"#)
        };
        assert_eq!(cut(200).object::<Value>("retrieve").unwrap_err().kind(), ErrorKind::Transport);
        let refused = cut(401).object::<Value>("retrieve").unwrap_err();
        assert_eq!((refused.kind(), refused.status()), (ErrorKind::Api, Some(401)));
    }

    #[test]
    fn ids_are_encoded_for_a_query() {
        let mut encoded = String::new();
        encode_query("60ac7c34:kling/v2 é&=-._~", &mut encoded);
        assert_eq!(encoded, "60ac7c34%3Akling%2Fv2%20%C3%A9%26%3D-._~");
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn any_reply_can_be_a_refusal(parts in arbitrary::reply(Seed::body)) {
            let vendors = parts.reply().has_vendor_body();
            let error = parts.reply().refusal("retrieve");
            prop_assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(parts.status)));
            prop_assert!(error.body().is_some_and(is_presentable));
            prop_assert!(error.api_message().is_none_or(is_presentable));
            // Without a word of the vendor's there is nothing to show or to act on.
            prop_assert!(vendors || error.api_message().is_none() && !error.is_out_of_credits());
        }
    }
}
