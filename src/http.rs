//! Request and reply as plain values, and what a reply's status means.

use std::time::{Duration, SystemTime};

use serde_json::{Map, Value};

use crate::error::{Error, Refusal, Result, Source};
use crate::generation::Trace;
use crate::retry::parse_retry_after;

/// What is kept of a server's text in an error.
const SNIPPET: usize = 2 * 1024;

/// The response headers that mean something to this crate.
pub(crate) const HEADERS: [&str; 11] = [
    "x-inference-id",
    "x-client-request-id",
    "x-request-id",
    "x-aimlapi-credits-used",
    "x-aimlapi-usd-spent",
    "retry-after",
    "location",
    "content-length",
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

    fn number(&self, name: &str) -> Option<f64> {
        self.get(name)?.parse().ok().filter(|number: &f64| number.is_finite())
    }

    fn text(&self, name: &str) -> Option<String> {
        self.get(name).map(str::to_owned)
    }

    pub(crate) fn trace(&self) -> Trace {
        Trace {
            client_request_id: self.text("x-client-request-id"),
            inference_id: self.text("x-inference-id"),
            request_id: self.text("x-request-id"),
            credits_used: self.number("x-aimlapi-credits-used"),
            usd_spent: self.number("x-aimlapi-usd-spent"),
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
    pub(crate) fn into_object(self, operation: &'static str) -> Result<Map<String, Value>> {
        if !self.is_success() {
            return Err(self.refusal(operation));
        }
        let (status, snippet) = (self.status, snippet(&self.body));
        self.end.map_err(|failure| failure.into_error(operation))?;
        serde_json::from_slice(&self.body).map_err(|e| {
            let problem = match self.body.is_empty() {
                true => "the server answered nothing",
                false => "the server's answer is not the JSON object it should be",
            };
            Error::unreadable(operation, problem, status, snippet, Some(e))
        })
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
        let body: Value = serde_json::from_slice(&self.body).unwrap_or_default();
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
            request_id: text(body.get("requestId")).or_else(|| self.headers.text("x-request-id")),
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

/// The start of a body, as it may be shown.
pub(crate) fn snippet(body: &[u8]) -> String {
    // Somewhat more than is kept, since what stands for a picture is dropped from it.
    let start = body.get(..8 * SNIPPET).unwrap_or(body);
    shorten(&String::from_utf8_lossy(start))
}

/// Server text as it may be shown: no control characters, no pictures, at most 2 KiB.
pub(crate) fn shorten(text: &str) -> String {
    let mut shown = String::new();
    for (index, part) in text.split("base64,").enumerate() {
        let part = if index == 0 {
            part
        } else {
            shown.push_str("base64,…");
            part.trim_start_matches(|c: char| c.is_ascii_alphanumeric() || "+/=\\".contains(c))
        };
        shown.extend(part.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    let ends = (0..=SNIPPET.min(shown.len())).rev();
    shown.truncate(ends.into_iter().find(|&end| shown.is_char_boundary(end)).unwrap_or_default());
    shown.trim().to_owned()
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
    /// The answer is larger than any that makes sense.
    TooLarge,
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
            FailureKind::TooLarge => Error::decode(operation, self.source.to_string()),
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
    use crate::arbitrary::{self, Seed, cases, grown, is_presentable};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn reply(status: u16, body: &str) -> Reply {
        Reply { status, headers: Headers::default(), body: body.into(), end: Ok(()) }
    }

    #[test]
    fn server_text_is_shortened_without_pictures() {
        let text = format!(
            "bad image data:image/png;base64,{}\" \r\n{}",
            "iVBOR".repeat(99),
            "é".repeat(2_000)
        );
        let shown = shorten(&text);
        assert!(shown.starts_with("bad image data:image/png;base64,…\"   é"));
        assert!(shown.len() <= SNIPPET && !shown.contains("iVBOR"));
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
        assert_eq!(cut(200).into_object("retrieve").unwrap_err().kind(), ErrorKind::Transport);
        let refused = cut(401).into_object("retrieve").unwrap_err();
        assert_eq!((refused.kind(), refused.status()), (ErrorKind::Api, Some(401)));
    }

    #[test]
    fn ids_are_encoded_for_a_query() {
        let mut encoded = String::new();
        encode_query("60ac7c34:kling/v2 é&=-._~", &mut encoded);
        assert_eq!(encoded, "60ac7c34%3Akling%2Fv2%20%C3%A9%26%3D-._~");
    }

    #[test]
    #[ignore = "not yet so: what follows an escaped character or a line end is shown"]
    fn an_escaped_picture_is_not_shown_either() {
        for escape in ["&#x2F;", "&#43;", "&#x3D;", "%2B", "\n", "\r\n  "] {
            let text =
                format!("not an image: data:image/png;base64,AAAA{escape}{}", "iVBOR".repeat(50));
            assert!(!shorten(&text).contains("iVBOR"), "{escape:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn any_server_text_can_be_shown(
            part in grown(|seed| [seed.text(), seed.text(), seed.text()].concat()),
            length in prop_oneof![4 => Just(1usize), 1 => 1usize..500],
            bytes in grown(Seed::bytes),
        ) {
            let words = part.repeat(length);
            prop_assert!(is_presentable(&shorten(&words)));
            let body = [words.as_bytes(), &bytes].concat();
            prop_assert!(is_presentable(&snippet(&body)));
        }

        #[test]
        fn no_part_of_a_picture_is_shown(
            before in grown(Seed::text),
            joints in vec(select(vec!["", "+", "/", "=", "\\/", "\\n", "\\u002b"]), 1..40),
            after in grown(Seed::text),
        ) {
            let data: String = joints.iter().flat_map(|joint| ["KGgo", *joint]).collect();
            let text = format!("{before}\"data:image/png;base64,{data}\" {after}");
            let shown = snippet(text.as_bytes());
            prop_assert!(!shown.contains("KGgo"), "{}", shown);
            prop_assert!(shown.contains("base64,…\""), "{}", shown);
        }

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
