//! HTTP/1.1 without I/O: parses request heads and encodes response heads.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

pub(super) const MAX_BODY: u64 = 32 * 1024 * 1024;
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// The request line and headers of a request.
#[derive(Debug, Default)]
pub(super) struct RequestHead {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) http_1_0: bool,
    /// The length of the body that follows.
    pub(super) content_length: u64,
}

impl RequestHead {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    pub(super) fn path(&self) -> &str {
        self.split_target().0
    }

    /// The query as it was sent, without the question mark.
    pub(super) fn raw_query(&self) -> &str {
        self.split_target().1
    }

    fn split_target(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }

    pub(super) fn wants_close(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default();
        let keep_alive = connection.eq_ignore_ascii_case("keep-alive");
        has_connection_close(&self.headers) || (self.http_1_0 && !keep_alive)
    }
}

/// Finds the first header with this name, compared case-insensitively.
pub(super) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let matches = |(other, _): &&(String, String)| other.eq_ignore_ascii_case(name);
    headers.iter().find(matches).map(|(_, value)| value.as_str())
}

/// Parses digits only: `parse` alone would accept a sign.
pub(super) fn parse_decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn has_connection_close(headers: &[(String, String)]) -> bool {
    let connection = find_header(headers, "connection").unwrap_or_default();
    connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
}

// ---------------------------------------------------------------- requests

pub(super) enum ParsedHead {
    /// The head and its length in bytes.
    Complete(RequestHead, usize),
    Incomplete,
    /// Not valid HTTP, or not supported: the status to reject it with, and what was parsed of it.
    Invalid(u16, RequestHead),
}

pub(super) fn parse_head(bytes: &[u8]) -> ParsedHead {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(head_len)) if head_len <= MAX_HEAD => {
            let head = to_owned_head(&request);
            match content_length(&head) {
                Ok(content_length) => {
                    ParsedHead::Complete(RequestHead { content_length, ..head }, head_len)
                }
                Err(status) => ParsedHead::Invalid(status, head),
            }
        }
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => ParsedHead::Incomplete,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => {
            ParsedHead::Invalid(431, RequestHead::default())
        }
        Err(_) => ParsedHead::Invalid(400, RequestHead::default()),
    }
}

fn to_owned_head(request: &httparse::Request<'_, '_>) -> RequestHead {
    let headers = request.headers.iter().map(|header| {
        let value = String::from_utf8_lossy(header.value);
        (header.name.to_owned(), value.into_owned())
    });
    RequestHead {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: headers.collect(),
        http_1_0: request.version == Some(0),
        content_length: 0,
    }
}

/// Returns the length of the body, or the error status to reject the request with.
fn content_length(head: &RequestHead) -> Result<u64, u16> {
    if head.header("transfer-encoding").is_some() {
        return Err(411);
    }
    if head.header("host").is_none() && !head.http_1_0 {
        return Err(400);
    }
    let is_content_length =
        |(name, _): &&(String, String)| name.eq_ignore_ascii_case("content-length");
    let mut lengths = head.headers.iter().filter(is_content_length);
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(0),
        (Some((_, length)), None) => parse_decimal(length).ok_or(400),
        (Some(_), Some(_)) => Err(400),
    }
}

// ---------------------------------------------------------------- responses

/// A slice of bytes that responses share, so that a large video is never copied.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Body {
    pub(super) fn slice_of(bytes: &Arc<Vec<u8>>, range: Range<usize>) -> Body {
        Body { bytes: Arc::clone(bytes), range }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body { range: 0..bytes.len(), bytes: Arc::new(bytes) }
    }
}

impl From<String> for Body {
    fn from(text: String) -> Body {
        text.into_bytes().into()
    }
}

#[derive(Clone, Debug)]
pub(super) struct Response {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

impl Response {
    pub(super) fn new(status: u16, body: impl Into<Body>) -> Response {
        Response { status, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn json(status: u16, body: &Value) -> Response {
        Response::new(status, body.to_string())
            .header("Content-Type", "application/json; charset=utf-8")
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Response {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// Adds headers, replacing those with the same names.
    pub(super) fn with_headers(mut self, headers: &[(String, String)]) -> Response {
        self.headers.retain(|(name, _)| find_header(headers, name).is_none());
        self.headers.extend_from_slice(headers);
        self
    }

    pub(super) fn has_connection_close(&self) -> bool {
        has_connection_close(&self.headers)
    }

    /// Encodes status line and headers. `Content-Length` and `Connection` are generated unless the
    /// response already has them.
    pub(super) fn encode_head(&self, closes: bool, content_length_offset: i64) -> Vec<u8> {
        let status = self.status;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason_phrase(status));
        let mut line = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
        for (name, value) in &self.headers {
            line(name, value);
        }
        let has = |name| find_header(&self.headers, name).is_some();
        let is_bodiless = matches!(status, 100..=199 | 204 | 304);
        if !is_bodiless && !has("content-length") && !has("transfer-encoding") {
            let length = self.body.as_slice().len() as u64;
            line(
                "Content-Length",
                &length.saturating_add_signed(content_length_offset).to_string(),
            );
        }
        if closes && !has("connection") {
            line("Connection", "close");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// Returns the reason phrase of a status, for those that the sandbox sends.
pub(super) fn reason_phrase(status: u16) -> &'static str {
    match status {
        206 => "Partial Content",
        ..300 => "OK",
        300..400 => "Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        411 => "Length Required",
        413 => "Payload Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Request failed",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The `content_length` of a complete head.
    fn parsed_length(head: &str) -> Result<u64, u16> {
        match parse_head(head.as_bytes()) {
            ParsedHead::Complete(parsed, len) if len == head.len() => Ok(parsed.content_length),
            ParsedHead::Invalid(status, _) => Err(status),
            _ => panic!("not a complete head: {head:?}"),
        }
    }

    #[test]
    fn content_length_must_be_one_plain_number() {
        let post =
            |lines: &str| parsed_length(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        assert_eq!(post(""), Ok(0));
        assert_eq!(post("content-length: 12\r\n"), Ok(12));
        assert_eq!(post("Content-Length: +12\r\n"), Err(400));
        assert_eq!(post("Content-Length: \r\n"), Err(400));
        assert_eq!(post("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400));
        assert_eq!(post("Transfer-Encoding: chunked\r\n"), Err(411));
        assert_eq!(parsed_length("GET / HTTP/1.1\r\n\r\n"), Err(400));
    }

    #[test]
    fn request_head_size_is_limited() {
        let long_value = "a".repeat(MAX_HEAD);
        let long = format!("GET / HTTP/1.1\r\nA: {long_value}");
        assert!(matches!(parse_head(long.as_bytes()), ParsedHead::Invalid(431, _)));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(parse_head(many.as_bytes()), ParsedHead::Invalid(431, _)));
        assert!(matches!(parse_head(b"\0\x01\x02"), ParsedHead::Invalid(400, _)));
        assert!(matches!(parse_head(b"GET / HT"), ParsedHead::Incomplete));
    }

    #[test]
    fn response_headers_are_replaced_by_added_ones() {
        let encoded = |response: &Response, closes, content_length_offset| {
            String::from_utf8(response.encode_head(closes, content_length_offset)).expect("ASCII")
        };
        let response = Response::new(200, b"abc".to_vec()).header("ETag", "mine");
        let plain = encoded(&response, true, -1);
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\nETag: mine\r\n"), "{plain}");
        assert!(plain.ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n"), "{plain}");
        let added = [("etag", "its"), ("content-length", "9")];
        let added = added.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let replaced = encoded(&response.with_headers(&added), false, 0);
        assert_eq!(replaced, "HTTP/1.1 200 OK\r\netag: its\r\ncontent-length: 9\r\n\r\n");
    }
}
