//! HTTP/1.1 as plain values: a request's head out of bytes, a reply's head into bytes. No sockets.

use std::ops::Range;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

pub(super) const MAX_BODY: u64 = 32 * 1024 * 1024;
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;

/// The head of a request.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) http_1_0: bool,
    /// Of the body that follows.
    pub(super) length: u64,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    pub(super) fn path(&self) -> &str {
        self.split_target().0
    }

    /// As it was sent, without the question mark.
    pub(super) fn raw_query(&self) -> &str {
        self.split_target().1
    }

    fn split_target(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }

    pub(super) fn wants_close(&self) -> bool {
        let connection = self.header("connection").unwrap_or_default();
        let keeps = connection.eq_ignore_ascii_case("keep-alive");
        says_close(&self.headers) || (self.http_1_0 && !keeps)
    }
}

/// The first header of that name, in whatever case it was written.
pub(super) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    let is_named = |(known, _): &&(String, String)| known.eq_ignore_ascii_case(name);
    headers.iter().find(is_named).map(|(_, value)| value.as_str())
}

/// Digits only: `parse` would take a sign.
pub(super) fn decimal<T: FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn says_close(headers: &[(String, String)]) -> bool {
    let connection = find_header(headers, "connection").unwrap_or_default();
    connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
}

// ---------------------------------------------------------------- reading

pub(super) enum Parsed {
    /// With the number of its bytes.
    Whole(Head, usize),
    Partial,
    /// No HTTP, or not of a kind that is understood: the status that says so, and what was read.
    Refused(u16, Head),
}

pub(super) fn parse_head(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) if used <= MAX_HEAD => {
            let head = owned_head(&request);
            match body_length(&head) {
                Ok(length) => Parsed::Whole(Head { length, ..head }, used),
                Err(status) => Parsed::Refused(status, head),
            }
        }
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Parsed::Refused(431, Head::default()),
        Err(_) => Parsed::Refused(400, Head::default()),
    }
}

fn owned_head(request: &httparse::Request<'_, '_>) -> Head {
    let headers = request.headers.iter().map(|header| {
        let value = String::from_utf8_lossy(header.value);
        (header.name.to_owned(), value.into_owned())
    });
    Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: headers.collect(),
        http_1_0: request.version == Some(0),
        length: 0,
    }
}

/// The length of the body that follows; else the status that refuses the request.
fn body_length(head: &Head) -> Result<u64, u16> {
    if head.header("transfer-encoding").is_some() {
        return Err(411);
    }
    if head.header("host").is_none() && !head.http_1_0 {
        return Err(400);
    }
    let is_length = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("content-length");
    let mut lengths = head.headers.iter().filter(is_length);
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(0),
        (Some((_, length)), None) => decimal(length).ok_or(400),
        (Some(_), Some(_)) => Err(400),
    }
}

// ---------------------------------------------------------------- answering

/// A part of bytes that many replies share: a large video is never copied.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: Arc<Vec<u8>>,
    range: Range<usize>,
}

impl Body {
    pub(super) fn part(bytes: &Arc<Vec<u8>>, range: Range<usize>) -> Body {
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
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Body>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    pub(super) fn json(status: u16, body: &Value) -> Reply {
        Reply::new(status, body.to_string())
            .header("Content-Type", "application/json; charset=utf-8")
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// These headers take the place of the reply's own of that name.
    pub(super) fn with_headers(mut self, headers: &[(String, String)]) -> Reply {
        self.headers.retain(|(own, _)| find_header(headers, own).is_none());
        self.headers.extend_from_slice(headers);
        self
    }

    pub(super) fn says_close(&self) -> bool {
        says_close(&self.headers)
    }

    /// Status line and headers. What the reply says itself is not made up again.
    pub(super) fn encode_head(&self, closes: bool, length_error: i64) -> Vec<u8> {
        let status = self.status;
        let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
        let mut line = |name: &str, value: &str| head.extend([name, ": ", value, "\r\n"]);
        for (name, value) in &self.headers {
            line(name, value);
        }
        let has = |name| find_header(&self.headers, name).is_some();
        let is_bodiless = matches!(status, 100..=199 | 204 | 304);
        if !is_bodiless && !has("content-length") && !has("transfer-encoding") {
            let length = self.body.as_slice().len() as u64;
            line("Content-Length", &length.saturating_add_signed(length_error).to_string());
        }
        if closes && !has("connection") {
            line("Connection", "close");
        }
        head.push_str("\r\n");
        head.into_bytes()
    }
}

/// What a status means, as far as a sandbox has to do with it.
pub(super) fn reason(status: u16) -> &'static str {
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

    /// What `body_length` says of a whole head.
    fn length(head: &str) -> Result<u64, u16> {
        match parse_head(head.as_bytes()) {
            Parsed::Whole(parsed, used) if used == head.len() => Ok(parsed.length),
            Parsed::Refused(status, _) => Err(status),
            _ => panic!("not a whole head: {head:?}"),
        }
    }

    #[test]
    fn a_body_has_one_plain_length_or_none() {
        let post = |lines: &str| length(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n"));
        assert_eq!(post(""), Ok(0));
        assert_eq!(post("content-length: 12\r\n"), Ok(12));
        assert_eq!(post("Content-Length: +12\r\n"), Err(400));
        assert_eq!(post("Content-Length: \r\n"), Err(400));
        assert_eq!(post("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400));
        assert_eq!(post("Transfer-Encoding: chunked\r\n"), Err(411));
        assert_eq!(length("GET / HTTP/1.1\r\n\r\n"), Err(400));
    }

    #[test]
    fn heads_are_bounded() {
        let endless_line = "a".repeat(MAX_HEAD);
        let endless = format!("GET / HTTP/1.1\r\nA: {endless_line}");
        assert!(matches!(parse_head(endless.as_bytes()), Parsed::Refused(431, _)));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(parse_head(many.as_bytes()), Parsed::Refused(431, _)));
        assert!(matches!(parse_head(b"\0\x01\x02"), Parsed::Refused(400, _)));
        assert!(matches!(parse_head(b"GET / HT"), Parsed::Partial));
    }

    #[test]
    fn a_fault_has_the_last_word_on_headers() {
        let text = |reply: &Reply, closes, length_error| {
            String::from_utf8(reply.encode_head(closes, length_error)).expect("ASCII")
        };
        let reply = Reply::new(200, b"abc".to_vec()).header("ETag", "mine");
        let plain = text(&reply, true, -1);
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\nETag: mine\r\n"), "{plain}");
        assert!(plain.ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n"), "{plain}");
        let own = [("etag", "its"), ("content-length", "9")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let spoilt = text(&reply.with_headers(&own), false, 0);
        assert_eq!(spoilt, "HTTP/1.1 200 OK\r\netag: its\r\ncontent-length: 9\r\n\r\n");
    }
}
