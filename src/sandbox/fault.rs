//! Faults: how a request is read, what replaces the API's response, and how the response is
//! delivered. The three are independent, so that they can be combined.

use std::time::Duration;

use super::http::reason_phrase;

/// A failure to inject into the handling of a request, queued with
/// [`Sandbox::fault`](super::Sandbox::fault).
///
/// A create request whose response is replaced by a fault is *not* accepted: no generation is
/// created. With [`after_accepting`](Fault::after_accepting) the generation is created, and only
/// the response is lost.
///
/// [`Fault::default`] leaves its request unaffected.
///
/// ```
/// use kling_video::sandbox::{Endpoint, Fault, Sandbox};
///
/// # fn main() -> kling_video::Result<()> {
/// let sandbox = Sandbox::start()?;
/// sandbox.fault(Endpoint::Retrieve, Fault::status(503).header("Retry-After", "1"), 2);
/// sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Fault {
    pub(super) request_read: RequestRead,
    pub(super) response: ResponseOverride,
    pub(super) delivery: ResponseDelivery,
    pub(super) headers: Vec<(String, String)>,
    pub(super) include_inference_id: bool,
    pub(super) after_accepting: bool,
    pub(super) video: VideoOptions,
}

/// How the request is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum RequestRead {
    #[default]
    Complete,
    /// Reads the head and this many bytes of the body. With 0, no `100 Continue` is sent.
    Partial(u64),
    /// Ignores `Expect: 100-continue`.
    IgnoreExpect,
    /// Sends a `100 Continue` that carries a header.
    ContinueWithHeader,
    /// Reads the body slowly.
    Throttled(Throttle),
}

/// A transfer of so many bytes at a time, with a pause after each part.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Throttle {
    pub(super) bytes: usize,
    pub(super) interval: Duration,
}

impl Throttle {
    fn bandwidth(bytes_per_second: u32) -> Throttle {
        let bytes_per_second = bytes_per_second.max(1);
        let bytes = (bytes_per_second / 100).max(1);
        let interval = Duration::from_secs(bytes.into()) / bytes_per_second;
        Throttle { bytes: bytes as usize, interval }
    }
}

/// What is sent instead of the API's response.
#[derive(Clone, Debug, Default)]
pub(super) enum ResponseOverride {
    /// The API's response is sent.
    #[default]
    None,
    /// This status with the body that the vendor documents for it.
    Status(u16),
    Response {
        status: u16,
        body: Vec<u8>,
    },
    /// `prefix`, then `total` bytes of repeated `chunk`s; then the connection is closed.
    Raw {
        prefix: Vec<u8>,
        chunk: Vec<u8>,
        total: u64,
    },
    /// The connection is kept open without a response.
    NoResponse,
    /// The connection is closed with a RST.
    Reset,
}

/// How an HTTP response is delivered to the client.
#[derive(Clone, Debug, Default)]
pub(super) struct ResponseDelivery {
    pub(super) delay: Duration,
    pub(super) truncate_after: Option<usize>,
    pub(super) throttle: Option<Throttle>,
    /// How many bytes are sent at once before throttling starts.
    pub(super) unthrottled_bytes: usize,
    /// The difference between the announced `Content-Length` and the actual length.
    pub(super) content_length_offset: i64,
    pub(super) close_after: bool,
}

/// How the video host deviates from its usual behavior.
#[derive(Clone, Debug, Default)]
pub(super) struct VideoOptions {
    pub(super) ignore_range: bool,
    pub(super) etag: Option<String>,
}

impl Fault {
    /// Responds with this status and the body that the vendor documents for it.
    ///
    /// For example, 403 means "out of credits", 401 an invalid key, and 524 returns a gateway's
    /// HTML page. [`Endpoint::Video`] responds with XML, as a storage service does.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let out_of_credits = Fault::status(403);
    /// ```
    ///
    /// [`Endpoint::Video`]: super::Endpoint::Video
    #[must_use]
    pub fn status(status: u16) -> Fault {
        Fault::with_override(ResponseOverride::Status(status))
    }

    /// Responds with this status and body.
    ///
    /// The only header is `Content-Length`; [`header`](Fault::header) adds others.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let bad_gateway =
    ///     Fault::response(502, "<html>Bad Gateway</html>").header("Content-Type", "text/html");
    /// ```
    #[must_use]
    pub fn response(status: u16, body: impl Into<Vec<u8>>) -> Fault {
        Fault::with_override(ResponseOverride::Response { status, body: body.into() })
    }

    /// Reads the complete request and never responds.
    ///
    /// The connection stays open until the client closes it or the sandbox is dropped.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let unresponsive = Fault::no_response();
    /// ```
    #[must_use]
    pub fn no_response() -> Fault {
        Fault::with_override(ResponseOverride::NoResponse)
    }

    /// Reads the complete request, then closes the connection without a response.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let lost_response = Fault::close_connection().after_accepting();
    /// ```
    #[must_use]
    pub fn close_connection() -> Fault {
        Fault::raw("")
    }

    /// Rejects the request as many gateways do: responds right after the headers, without
    /// `100 Continue` and without reading the body, then closes the connection. A client that is
    /// still sending may then lose the response.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let rejected_by_gateway = Fault::respond_before_body(403);
    /// ```
    #[must_use]
    pub fn respond_before_body(status: u16) -> Fault {
        let fault = Fault { request_read: RequestRead::Partial(0), ..Fault::status(status) };
        fault.header("Connection", "close")
    }

    /// Sets a header of the response, whether that is the API's or the fault's.
    ///
    /// It replaces headers of the same name that the response would have without the fault.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let rate_limited = Fault::status(429).header("Retry-After", "2");
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Fault {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Responds with this status and an HTML page, as a gateway, proxy or CDN in front of the API does.
    ///
    /// Like [`gateway_json`](Fault::gateway_json), it lacks what only the API writes into its error
    /// responses, so that it proves nothing about what happened behind the gateway.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let maybe_created = Fault::gateway(502).after_accepting();
    /// ```
    #[must_use]
    pub fn gateway(status: u16) -> Fault {
        let reason = reason_phrase(status);
        let page = format!(
            "<html>\r\n<head><title>{status} {reason}</title></head>\r\n<body>\r\n\
             <center><h1>{status} {reason}</h1></center>\r\n</body>\r\n</html>\r\n"
        );
        Fault::response(status, page).header("Content-Type", "text/html")
    }

    /// Responds with this status and a JSON object with a `message`, as API gateways do.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let maybe_created = Fault::gateway_json(503).after_accepting();
    /// ```
    #[must_use]
    pub fn gateway_json(status: u16) -> Fault {
        let body = format!("{{\"message\":\"{}\"}}", reason_phrase(status));
        Fault::response(status, body).header("Content-Type", "application/json")
    }

    /// Sends the first `n` bytes of the API's response at once, head included, then closes the
    /// connection.
    ///
    /// An interrupted download is resumed, so it gets further with each such fault and completes. A
    /// download that never completes is [`close_connection`](Fault::close_connection), or
    /// [`Sandbox::set_video`](crate::sandbox::Sandbox::set_video) with a part of a video.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let interrupted_download = Fault::truncate(10_000);
    /// ```
    #[must_use]
    pub fn truncate(n: usize) -> Fault {
        Fault::default().truncate_after(n)
    }

    /// Like [`truncate`](Fault::truncate), for any response.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let interrupted_error = Fault::status(500).truncate_after(40);
    /// ```
    #[must_use]
    pub fn truncate_after(mut self, n: usize) -> Fault {
        self.delivery.truncate_after = Some(n);
        self
    }

    /// Sends the API's response one byte at a time, at this interval.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    /// use std::time::Duration;
    ///
    /// let drip = Fault::throttle(Duration::from_millis(100));
    /// ```
    #[must_use]
    pub fn throttle(interval: Duration) -> Fault {
        Fault::default().throttle_after(0, interval)
    }

    /// Like [`throttle`](Fault::throttle), for any response and only after its first `n` bytes,
    /// head included.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    /// use std::time::Duration;
    ///
    /// let stalled_download = Fault::default().throttle_after(10_000, Duration::from_secs(60));
    /// ```
    #[must_use]
    pub fn throttle_after(mut self, n: usize, interval: Duration) -> Fault {
        self.delivery.unthrottled_bytes = n;
        self.delivery.throttle = Some(Throttle { bytes: 1, interval });
        self
    }

    /// Sends the response steadily at this rate, whether that is the API's or the fault's.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let slow_download = Fault::default().bandwidth(50_000);
    /// ```
    #[must_use]
    pub fn bandwidth(mut self, bytes_per_second: u32) -> Fault {
        self.delivery.throttle = Some(Throttle::bandwidth(bytes_per_second));
        self
    }

    /// Reads the body of the request at this rate.
    ///
    /// The client's and the server's kernel buffer up to a few megabytes, which the client can send
    /// at once.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let slow_upload = Fault::default().upload_bandwidth(500_000);
    /// ```
    #[must_use]
    pub fn upload_bandwidth(mut self, bytes_per_second: u32) -> Fault {
        self.request_read = RequestRead::Throttled(Throttle::bandwidth(bytes_per_second));
        self
    }

    /// Accepts a valid create request first, so that the fault replaces only its response.
    ///
    /// The generation then exists, although the client may not learn of it. A create request that
    /// is invalid or was not read completely is not accepted. Has no effect on other endpoints.
    ///
    /// Defaults to off: a create request whose response is replaced creates no generation.
    ///
    /// ```
    /// use kling_video::sandbox::Fault;
    ///
    /// let accepted_without_response = Fault::status(504).after_accepting();
    /// ```
    #[must_use]
    pub fn after_accepting(mut self) -> Fault {
        self.after_accepting = true;
        self
    }
}

/// For this crate's own tests.
#[doc(hidden)]
impl Fault {
    /// Sends these bytes instead of an HTTP response, then closes the connection.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Fault {
        Fault::repeat_body(bytes, "", 0)
    }

    /// Sends a RST before reading the body, as the kernel of a server does that closes a connection
    /// with unread data. The head is read all the same, because it determines the endpoint.
    #[must_use]
    pub fn close_before_reading() -> Fault {
        Fault::reset_after_body(0)
    }

    /// Reads the head, then closes the connection.
    #[must_use]
    pub fn close_after_head() -> Fault {
        Fault { request_read: RequestRead::Partial(0), ..Fault::close_connection() }
    }

    /// Reads `n` bytes of the body, or all of a shorter one, then sends a RST.
    #[must_use]
    pub fn reset_after_body(n: u64) -> Fault {
        Fault { request_read: RequestRead::Partial(n), ..Fault::reset_before_response() }
    }

    /// Reads the complete request, then sends a RST.
    #[must_use]
    pub fn reset_before_response() -> Fault {
        Fault::with_override(ResponseOverride::Reset)
    }

    /// Sends `head`, then repeats `chunk` up to `total` bytes of body, then closes the connection.
    #[must_use]
    pub fn repeat_body(head: impl Into<Vec<u8>>, chunk: impl Into<Vec<u8>>, total: u64) -> Fault {
        let (prefix, chunk) = (head.into(), chunk.into());
        Fault::with_override(ResponseOverride::Raw { prefix, chunk, total })
    }

    /// Sends no `100 Continue`; the request is processed as usual.
    #[must_use]
    pub fn ignore_expect() -> Fault {
        Fault::with_request_read(RequestRead::IgnoreExpect)
    }

    /// Sends a `100 Continue` that carries a header; the request is processed as usual.
    #[must_use]
    pub fn continue_with_header() -> Fault {
        Fault::with_request_read(RequestRead::ContinueWithHeader)
    }

    /// Sends the API's response without `Connection: close`, then closes the socket nevertheless.
    /// The client's pool then holds a stale connection.
    #[must_use]
    pub fn close_after_response() -> Fault {
        Fault::with_delivery(ResponseDelivery { close_after: true, ..ResponseDelivery::default() })
    }

    /// Redirects to `location`.
    #[must_use]
    pub fn redirect(status: u16, location: impl Into<String>) -> Fault {
        Fault::response(status, "").header("Location", location)
    }

    /// Makes the video endpoint ignore `Range` and respond 200 with the complete video.
    #[must_use]
    pub fn ignore_range() -> Fault {
        let mut fault = Fault::default();
        fault.video.ignore_range = true;
        fault
    }

    /// Sets the `ETag` of the video endpoint's response, which `If-Range` is compared with.
    #[must_use]
    pub fn etag(value: impl Into<String>) -> Fault {
        let mut fault = Fault::default();
        fault.video.etag = Some(value.into());
        fault
    }

    /// Sends the API's response with a `Content-Length` that is off by `offset`, then closes the
    /// connection.
    #[must_use]
    pub fn wrong_content_length(offset: i64) -> Fault {
        Fault::with_delivery(ResponseDelivery {
            content_length_offset: offset,
            close_after: true,
            ..ResponseDelivery::default()
        })
    }

    /// Sends the API's response after this delay.
    #[must_use]
    pub fn delay(delay: Duration) -> Fault {
        Fault::with_delivery(ResponseDelivery { delay, ..ResponseDelivery::default() })
    }

    /// Adds the `x-inference-id` of the created generation to the fault's response. Only
    /// effective with [`after_accepting`](Fault::after_accepting).
    #[must_use]
    pub fn with_inference_id(mut self) -> Fault {
        self.include_inference_id = true;
        self
    }
}

impl Fault {
    /// Whether the API processes the request.
    pub(super) fn reaches_api(&self) -> bool {
        self.after_accepting || self.keeps_api_response()
    }

    /// Whether the API's response is sent, in whatever way it is delivered.
    pub(super) fn keeps_api_response(&self) -> bool {
        matches!(self.response, ResponseOverride::None)
    }

    fn with_override(response: ResponseOverride) -> Fault {
        Fault { response, ..Fault::default() }
    }

    fn with_request_read(request_read: RequestRead) -> Fault {
        Fault { request_read, ..Fault::default() }
    }

    fn with_delivery(delivery: ResponseDelivery) -> Fault {
        Fault { delivery, ..Fault::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fault_reaches_api_only_without_override_or_after_accepting() {
        let without_override = [
            Fault::truncate(3),
            Fault::throttle(Duration::ZERO),
            Fault::default().bandwidth(1).upload_bandwidth(1),
            Fault::close_after_response(),
            Fault::ignore_expect(),
            Fault::continue_with_header(),
            Fault::delay(Duration::ZERO),
            Fault::wrong_content_length(1),
        ];
        let with_override = [
            Fault::status(500),
            Fault::gateway(502),
            Fault::gateway_json(503),
            Fault::close_connection(),
            Fault::no_response(),
            Fault::raw("x"),
            Fault::reset_before_response(),
            Fault::reset_after_body(9),
            Fault::close_after_head(),
            Fault::close_before_reading(),
            Fault::respond_before_body(413),
            Fault::repeat_body("", "x", 1),
        ];
        assert!(without_override.iter().all(Fault::reaches_api));
        assert!(!with_override.iter().any(Fault::reaches_api));
        assert!(with_override.iter().all(|fault| fault.clone().after_accepting().reaches_api()));
    }
}
