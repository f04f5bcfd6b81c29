//! Every fault: how it is produced, and what it means according to HTTP and the API documentation.

mod bodies;
mod framing;
mod statuses;

use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault};

use super::checks::FaultEffect::{self, *};

/// The response that the endpoint under test would send without the fault.
pub(crate) struct ValidResponse {
    pub endpoint: Endpoint,
    pub body: Vec<u8>,
    /// The generation that the body is about.
    pub id: String,
    /// The sandbox's URL.
    pub url: String,
    pub video_path: String,
}

impl ValidResponse {
    pub(crate) fn is_video(&self) -> bool {
        self.endpoint == Endpoint::Video
    }

    /// The complete response, with additional headers.
    fn encode(&self, headers: &str) -> Vec<u8> {
        self.encode_body("200 OK", headers, &self.body)
    }

    fn encode_body(&self, status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        self.encode_exact(status, &format!("Content-Length: {length}\r\n{headers}"), body)
    }

    /// A response with exactly these headers, so without `Content-Length` unless given.
    fn encode_exact(&self, status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes(), body].concat()
    }

    /// The valid body with these headers instead of its `Content-Length`.
    fn encode_with_headers(&self, headers: &str) -> Vec<u8> {
        self.encode_exact("200 OK", headers, &self.body)
    }

    fn chunked(&self, size: usize, extension: &str, end: &str) -> Vec<u8> {
        let mut encoded = Vec::new();
        for chunk in self.body.chunks(size) {
            encoded.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
            encoded.extend_from_slice(chunk);
            encoded.extend(b"\r\n");
        }
        encoded.extend(end.bytes());
        self.encode_exact("200 OK", "Transfer-Encoding: chunked\r\n", &encoded)
    }

    /// The valid JSON body with a field inserted at its start.
    fn with_field(&self, field: &str) -> Vec<u8> {
        match self.is_video() {
            true => self.body.clone(),
            false => [b"{", field.as_bytes(), b",", &self.body[1..]].concat(),
        }
    }

    /// How much data an endless response sends: 1 GiB, but less for a video, which is written to
    /// disk.
    fn endless_len(&self) -> u64 {
        if self.is_video() { 8 << 20 } else { 1 << 30 }
    }

    /// The first bytes of the response, then no more data.
    fn stall_after(&self, bytes: usize) -> Fault {
        self.to_fault().throttle_after(bytes, Duration::from_secs(3600))
    }

    /// One byte every 10 ms after the first bytes.
    fn slow_after(&self, bytes: usize) -> Fault {
        self.to_fault().throttle_after(bytes, Duration::from_millis(10))
    }

    fn to_fault(&self) -> Fault {
        Fault::response(200, self.body.clone())
    }

    /// The length of the status line and headers of [`to_fault`](Self::to_fault).
    fn head_len(&self) -> usize {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.body.len()).len()
    }
}

type MakeFault = Box<dyn Fn(&ValidResponse) -> Fault + Send + Sync>;

pub(crate) struct FaultCase {
    pub name: String,
    pub make: MakeFault,
    pub effect: FaultEffect,
    /// The effect on a download, if it is another.
    pub download_effect: Option<FaultEffect>,
    /// The number of requests that get the fault.
    pub times: u32,
    /// How many requests a download makes, not counting those after a refreshed URL.
    pub download_requests: usize,
    /// The fault happens before the server has read a large body.
    pub before_body_read: bool,
    /// A small request may be sent completely before the fault reaches the client.
    pub races_small_request: bool,
    /// The response has the generation id in a header.
    pub has_id_header: bool,
    /// The call takes until the idle timeout.
    pub slow: bool,
    /// `Retry-After` is longer than every timeout in this test.
    pub long_retry_after: bool,
}

fn case(
    name: impl Into<String>,
    effect: FaultEffect,
    make: impl Fn(&ValidResponse) -> Fault + Send + Sync + 'static,
) -> FaultCase {
    FaultCase {
        name: name.into(),
        make: Box::new(make),
        effect,
        download_effect: None,
        times: u32::MAX,
        download_requests: 1,
        before_body_read: false,
        races_small_request: false,
        has_id_header: false,
        slow: matches!(effect, Timeout | EndlessHead),
        long_retry_after: false,
    }
}

/// Raw bytes instead of the response, then the end of the connection.
fn raw(
    name: impl Into<String>,
    effect: FaultEffect,
    make: impl Fn(&ValidResponse) -> Vec<u8> + Send + Sync + 'static,
) -> FaultCase {
    case(name, effect, move |valid| Fault::raw(make(valid)))
}

/// A complete response with another body.
fn body(
    name: &str,
    effect: FaultEffect,
    make: impl Fn(&ValidResponse) -> Vec<u8> + Send + Sync + 'static,
) -> FaultCase {
    raw(name, effect, move |valid| valid.encode_body("200 OK", "", &make(valid)))
}

impl FaultCase {
    fn for_download(self, effect: FaultEffect) -> FaultCase {
        FaultCase { download_effect: Some(effect), ..self }
    }

    fn once(self) -> FaultCase {
        FaultCase { times: 1, ..self }
    }

    fn download_requests(self, download_requests: usize) -> FaultCase {
        FaultCase { download_requests, ..self }
    }

    fn before_body_read(self) -> FaultCase {
        FaultCase { before_body_read: true, ..self }
    }

    fn races_small_request(self) -> FaultCase {
        FaultCase { races_small_request: true, ..self }
    }

    fn slow(self) -> FaultCase {
        FaultCase { slow: true, ..self }
    }

    fn long_retry_after(self) -> FaultCase {
        FaultCase { long_retry_after: true, ..self }
    }

    fn has_id_header(self) -> FaultCase {
        FaultCase { has_id_header: true, ..self }
    }
}

/// Error statuses, each with the body that the API sends.
const API_STATUSES: [u16; 26] = [
    300, 302, 307, 400, 401, 402, 403, 404, 408, 409, 410, 413, 416, 417, 422, 425, 429, 500, 501,
    502, 503, 504, 524, 599, 600, 999,
];
/// Error statuses, each with the page that a gateway in front of the API sends.
const GATEWAY_STATUSES: [u16; 16] =
    [301, 303, 304, 308, 401, 404, 417, 429, 500, 502, 503, 504, 520, 524, 599, 600];

pub(crate) fn fault_cases() -> Vec<FaultCase> {
    let mut cases = Vec::new();
    for status in API_STATUSES {
        let effect = ErrorStatus { status, from_api: true };
        cases.push(case(format!("{status} of the API"), effect, move |_| {
            let body = format!(
                r#"{{"message":"no","statusCode":{status},"requestId":"r-1","path":"/v2/x"}}"#
            );
            Fault::response(status, body).header("Content-Type", "application/json")
        }));
    }
    for status in GATEWAY_STATUSES {
        let effect = ErrorStatus { status, from_api: false };
        cases.push(case(format!("{status} of a gateway"), effect, move |_| {
            Fault::response(status, "<html>no</html>").header("Content-Type", "text/html")
        }));
    }
    cases.extend(statuses::statuses());
    cases.extend(statuses::successes());
    cases.extend(connections());
    cases.extend(not_http());
    cases.extend(truncations());
    cases.extend(timeouts());
    cases.extend(framing::lengths());
    cases.extend(framing::chunks());
    cases.extend(framing::headers());
    cases.extend(framing::endless_heads());
    cases.extend(bodies::bodies());
    cases.extend(bodies::large_bodies());
    cases.extend(statuses::redirects());
    cases
}

fn connections() -> Vec<FaultCase> {
    vec![
        case("no fault", Valid, |_| Fault::default()),
        case("closed before reading", ConnectionLost, |_| Fault::close_before_reading())
            .before_body_read(),
        case("closed after the headers", ConnectionLost, |_| Fault::close_after_head())
            .before_body_read(),
        case("reset in the body", ConnectionLost, |_| Fault::reset_after_body(100_000))
            .before_body_read(),
        case("closed after reading", ConnectionLost, |_| Fault::close_connection()),
        case("reset after reading", ConnectionLost, |_| Fault::reset_before_response()),
        case("closed after each response", Valid, |_| Fault::close_after_response()),
        case("closed after one response", Valid, |_| Fault::close_after_response()).once(),
        case("early 413", ErrorStatus { status: 413, from_api: true }, |_| {
            Fault::respond_before_body(413)
        })
        .before_body_read()
        .races_small_request(),
        case("early 401", ErrorStatus { status: 401, from_api: true }, |_| {
            Fault::respond_before_body(401)
        })
        .before_body_read()
        .races_small_request(),
        case("early 503", ErrorStatus { status: 503, from_api: true }, |_| {
            Fault::respond_before_body(503)
        })
        .before_body_read()
        .races_small_request(),
        case("early 502", ErrorStatus { status: 502, from_api: false }, |_| {
            Fault::respond_before_body(502)
        })
        .before_body_read()
        .races_small_request(),
        case("100 Continue withheld", Valid, |_| Fault::ignore_expect()).slow(),
        case("100 Continue with a header", Valid, |_| Fault::continue_with_header()),
        case("delayed response", Valid, |_| Fault::delay(Duration::from_millis(20))),
        raw("Connection: close", Valid, |valid| valid.encode("Connection: close\r\n")),
        raw("second, unsolicited response", Valid, |valid| {
            [valid.encode(""), valid.encode_body("500 no", "", b"{}")].concat()
        }),
    ]
}

fn not_http() -> Vec<FaultCase> {
    let bytes: [(&str, &[u8]); 14] = [
        ("TLS handshake", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("NULs", &[0; 512]),
        ("0xFF bytes", &[0xFF; 4096]),
        ("SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("SHOUTcast", b"ICY 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("HTTP/2", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0"),
        ("HTTP/3.0", b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("body without headers", b"{\"id\":\"1\",\"status\":\"completed\"}"),
        ("empty line", b"\r\n"),
        ("status of 4 digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("status 000", b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("header without a colon", b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n{}"),
        ("NUL in a header", b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{}"),
    ];
    bytes.map(|(name, bytes)| raw(name, ConnectionLost, move |_| bytes.to_vec())).into()
}

fn truncations() -> Vec<FaultCase> {
    let mut cases = Vec::new();
    // In the status line, after it, in the headers, and after them.
    for at in [1, 5, 9, 12, 15, 16, 17, 20, 33] {
        cases.push(raw(format!("truncated after {at} bytes"), ConnectionLost, move |valid| {
            valid.encode("")[..at].to_vec()
        }));
    }
    cases.push(raw("truncated in the empty line", ConnectionLost, |valid| {
        valid.encode("")[..valid.head_len() - 1].to_vec()
    }));
    // In the body.
    for at in [0, 1, 20] {
        cases.push(raw(
            format!("truncated after {at} bytes of the body"),
            ConnectionLost,
            move |valid| valid.encode("")[..valid.head_len() + at].to_vec(),
        ));
    }
    cases.push(raw("truncated before the last byte", ConnectionLost, |valid| {
        let complete = valid.encode("");
        complete[..complete.len() - 1].to_vec()
    }));
    cases.push(raw("no length, complete", Valid, |valid| valid.encode_with_headers("")));
    cases.push(raw("no length, truncated", InvalidBody, |valid| {
        let complete = valid.encode_with_headers("");
        complete[..complete.len() - 1].to_vec()
    }));
    cases.push(raw("HTTP/1.0", Valid, |valid| {
        [b"HTTP/1.0 200 OK\r\n\r\n", valid.body.as_slice()].concat()
    }));
    cases
}

fn timeouts() -> Vec<FaultCase> {
    vec![
        case("no data", Timeout, |_| Fault::no_response()),
        case("stalled in the status line", Timeout, |valid| valid.stall_after(11)),
        case("stalled in the headers", Timeout, |valid| valid.stall_after(25)),
        case("stalled before the body", Timeout, |valid| valid.stall_after(valid.head_len())),
        case("stalled in the body", Timeout, |valid| valid.stall_after(valid.head_len() + 9)),
        case("stalled before the last byte", Timeout, |valid| {
            valid.stall_after(valid.head_len() + valid.body.len() - 2)
        }),
        case("slow response", Timeout, |valid| valid.slow_after(0)),
        case("slow headers", Timeout, |valid| valid.slow_after(16)),
        case("slow body", Timeout, |valid| valid.slow_after(valid.head_len())),
        case("response byte by byte", Valid, |valid| match valid.is_video() {
            true => Fault::default(),
            false => Fault::throttle(Duration::ZERO),
        }),
        case("length too long, connection kept open", Timeout, |valid| {
            let length = valid.body.len() + 5;
            valid.to_fault().header("Content-Length", length.to_string())
        }),
    ]
}
