//! What can go wrong with one request: how it is read, what is answered in place of the API's own
//! reply, and how that answer is delivered. The three are independent, so that they combine.

use std::time::Duration;

/// Something that goes wrong with a request, queued with [`Sandbox::fault`](super::Sandbox::fault).
///
/// A fault on a create means that the API did *not* act on the request: no generation comes of
/// it. [`acted`](Fault::acted) makes it the worse kind, where the generation exists and only its
/// answer is lost.
///
/// ```
/// use kling_video::{Endpoint, Fault, Sandbox};
///
/// # fn main() -> kling_video::Result<()> {
/// let sandbox = Sandbox::start()?;
/// sandbox.fault(Endpoint::Retrieve, Fault::status(503).header("Retry-After", "1"), 2);
/// sandbox.fault(Endpoint::Create, Fault::close().acted(), 1);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default)]
pub struct Fault {
    pub(super) intake: Intake,
    pub(super) answer: Answer,
    pub(super) delivery: Delivery,
    pub(super) headers: Vec<(String, String)>,
    pub(super) keeps_inference_id: bool,
    pub(super) acted: bool,
    pub(super) video: VideoOptions,
}

/// How the request is read.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) enum Intake {
    #[default]
    Whole,
    /// Only its head and so many bytes of its body; without any, the client is not invited to
    /// send it.
    UpTo(u64),
    /// `Expect: 100-continue` is not heard.
    IgnoreExpect,
    /// `100 Continue` comes with a header of its own.
    ContinueWithHeader,
}

/// What is answered once the request was read.
#[derive(Clone, Debug, Default)]
pub(super) enum Answer {
    #[default]
    Normal,
    /// The vendor's documented body for this status.
    Status(u16),
    Reply {
        status: u16,
        body: Vec<u8>,
    },
    /// `start`, then `chunk` over and over, up to `total` bytes of chunks; then closed.
    Raw {
        start: Vec<u8>,
        chunk: Vec<u8>,
        total: u64,
    },
    Stall,
    /// RST.
    Reset,
}

/// How an HTTP answer gets to the client.
#[derive(Clone, Debug, Default)]
pub(super) struct Delivery {
    pub(super) delay: Duration,
    pub(super) cut_after: Option<usize>,
    pub(super) trickle: Option<Duration>,
    pub(super) at_once: usize,
    pub(super) length_error: i64,
    pub(super) close_after: bool,
}

/// What the video's host does otherwise than usual.
#[derive(Clone, Debug, Default)]
pub(super) struct VideoOptions {
    pub(super) ranges_ignored: bool,
    pub(super) etag: Option<String>,
}

impl Fault {
    /// Answers `status` with the body that the vendor documents for it: 403 is "out of credits",
    /// 401 a bad key, 524 a gateway's HTML page, and so on. [`Endpoint::Video`] answers as a
    /// storage service does, with XML.
    ///
    /// ```
    /// let out_of_credits = kling_video::Fault::status(403);
    /// ```
    ///
    /// [`Endpoint::Video`]: super::Endpoint::Video
    #[must_use]
    pub fn status(status: u16) -> Fault {
        Fault::answering(Answer::Status(status))
    }

    /// Answers `status` with this body, and with no header but its length (see
    /// [`header`](Fault::header)).
    ///
    /// ```
    /// let gateway = kling_video::Fault::reply(502, "<html>Bad Gateway</html>")
    ///     .header("Content-Type", "text/html");
    /// ```
    #[must_use]
    pub fn reply(status: u16, body: impl Into<Vec<u8>>) -> Fault {
        Fault::answering(Answer::Reply { status, body: body.into() })
    }

    /// Reads the whole request and never answers. The connection stays open until the client
    /// gives up or the sandbox is dropped.
    ///
    /// ```
    /// let stall = kling_video::Fault::stall();
    /// ```
    #[must_use]
    pub fn stall() -> Fault {
        Fault::answering(Answer::Stall)
    }

    /// Reads the whole request, then closes the connection without an answer.
    ///
    /// ```
    /// let lost_reply = kling_video::Fault::close().acted();
    /// ```
    #[must_use]
    pub fn close() -> Fault {
        Fault::raw("")
    }

    /// Adds a header to the answer, the API's own or the fault's.
    ///
    /// ```
    /// let slow_down = kling_video::Fault::status(429).header("Retry-After", "2");
    /// ```
    #[must_use]
    pub fn header(mut self, name: impl Into<String>, value: impl Into<String>) -> Fault {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// A create that arrived whole and is valid is accepted first, and only its answer is
    /// replaced by the fault. By default a fault leaves no generation behind. Means nothing to
    /// the other endpoints.
    ///
    /// ```
    /// let accepted_but_unanswered = kling_video::Fault::status(504).acted();
    /// ```
    #[must_use]
    pub fn acted(mut self) -> Fault {
        self.acted = true;
        self
    }
}

/// For this crate's own tests.
#[doc(hidden)]
impl Fault {
    /// These bytes instead of an HTTP reply, then the connection is closed.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Fault {
        Fault::endless(bytes, "", 0)
    }

    /// As a server that closes without reading: the unread request makes its kernel send a RST.
    /// The head is looked at all the same, for only it tells the endpoint.
    #[must_use]
    pub fn close_before_reading() -> Fault {
        Fault::reset_after_body(0)
    }

    /// Reads the head, then closes.
    #[must_use]
    pub fn close_after_head() -> Fault {
        Fault { intake: Intake::UpTo(0), ..Fault::close() }
    }

    /// RST once `n` bytes of the body were read (all of them, if there are fewer).
    #[must_use]
    pub fn reset_after_body(n: u64) -> Fault {
        Fault { intake: Intake::UpTo(n), ..Fault::reset_before_reply() }
    }

    /// Reads the whole request, then RST.
    #[must_use]
    pub fn reset_before_reply() -> Fault {
        Fault::answering(Answer::Reset)
    }

    /// The normal reply, cut after `n` bytes in total, head included; then the connection is
    /// closed.
    #[must_use]
    pub fn cut(n: usize) -> Fault {
        Fault::default().cut_after(n)
    }

    /// The same for a fault's own reply: `Fault::status(500).cut_after(40)`.
    #[must_use]
    pub fn cut_after(mut self, n: usize) -> Fault {
        self.delivery.cut_after = Some(n);
        self
    }

    /// The normal reply, one byte at a time, so long apart.
    #[must_use]
    pub fn trickle(every: Duration) -> Fault {
        Fault::delivered(Delivery { trickle: Some(every), ..Delivery::default() })
    }

    /// Any HTTP answer: its first `n` bytes at once, head included, the rest one byte at a time.
    #[must_use]
    pub fn trickle_after(mut self, n: usize, every: Duration) -> Fault {
        (self.delivery.at_once, self.delivery.trickle) = (n, Some(every));
        self
    }

    /// `head`, then `chunk` over and over, up to `total` bytes of chunks; then closed.
    #[must_use]
    pub fn endless(head: impl Into<Vec<u8>>, chunk: impl Into<Vec<u8>>, total: u64) -> Fault {
        Fault::answering(Answer::Raw { start: head.into(), chunk: chunk.into(), total })
    }

    /// Answers right after the head, without `100 Continue` and without reading the body, then
    /// closes. A client that is still sending gets a RST for it.
    #[must_use]
    pub fn early(status: u16) -> Fault {
        let fault = Fault { intake: Intake::UpTo(0), ..Fault::status(status) };
        fault.header("Connection", "close")
    }

    /// Sends no `100 Continue`; otherwise normal.
    #[must_use]
    pub fn ignore_expect() -> Fault {
        Fault::reading(Intake::IgnoreExpect)
    }

    /// Sends a `100 Continue` that carries a header; otherwise normal.
    #[must_use]
    pub fn continue_with_header() -> Fault {
        Fault::reading(Intake::ContinueWithHeader)
    }

    /// The normal keep-alive reply, then the socket is closed without a word: what a pool finds
    /// as a stale connection.
    #[must_use]
    pub fn close_after_reply() -> Fault {
        Fault::delivered(Delivery { close_after: true, ..Delivery::default() })
    }

    /// A redirect to `location`.
    #[must_use]
    pub fn redirect(status: u16, location: impl Into<String>) -> Fault {
        Fault::reply(status, "").header("Location", location)
    }

    /// The video endpoint ignores `Range` and answers 200 with the whole video.
    #[must_use]
    pub fn no_range() -> Fault {
        let mut fault = Fault::default();
        fault.video.ranges_ignored = true;
        fault
    }

    /// The video endpoint's reply has this `ETag`, and `If-Range` is held against it.
    #[must_use]
    pub fn etag(value: impl Into<String>) -> Fault {
        let mut fault = Fault::default();
        fault.video.etag = Some(value.into());
        fault
    }

    /// The normal reply with a `Content-Length` that is off by so much, then closed.
    #[must_use]
    pub fn wrong_length(by: i64) -> Fault {
        Fault::delivered(Delivery { length_error: by, close_after: true, ..Delivery::default() })
    }

    /// The normal reply, held back so long.
    #[must_use]
    pub fn delayed(delay: Duration) -> Fault {
        Fault::delivered(Delivery { delay, ..Delivery::default() })
    }

    /// Gives the fault's reply the `x-inference-id` of the generation that came of the request.
    /// Together with [`acted`](Fault::acted).
    #[must_use]
    pub fn with_inference_id(mut self) -> Fault {
        self.keeps_inference_id = true;
        self
    }
}

impl Fault {
    /// Whether the API gets to see the request.
    pub(super) fn acts(&self) -> bool {
        self.acted || self.keeps_answer()
    }

    /// Whether the API's own answer goes out, however mangled on its way.
    pub(super) fn keeps_answer(&self) -> bool {
        matches!(self.answer, Answer::Normal)
    }

    fn answering(answer: Answer) -> Fault {
        Fault { answer, ..Fault::default() }
    }

    fn reading(intake: Intake) -> Fault {
        Fault { intake, ..Fault::default() }
    }

    fn delivered(delivery: Delivery) -> Fault {
        Fault { delivery, ..Fault::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_fault_that_keeps_the_answer_or_says_so_lets_the_api_act() {
        let wrapping = [
            Fault::cut(3),
            Fault::trickle(Duration::ZERO),
            Fault::close_after_reply(),
            Fault::ignore_expect(),
            Fault::continue_with_header(),
            Fault::delayed(Duration::ZERO),
            Fault::wrong_length(1),
        ];
        let replacing = [
            Fault::status(500),
            Fault::close(),
            Fault::stall(),
            Fault::raw("x"),
            Fault::reset_before_reply(),
            Fault::reset_after_body(9),
            Fault::close_after_head(),
            Fault::close_before_reading(),
            Fault::early(413),
            Fault::endless("", "x", 1),
        ];
        assert!(wrapping.iter().all(Fault::acts));
        assert!(!replacing.iter().any(Fault::acts));
        assert!(replacing.iter().all(|fault| fault.clone().acted().acts()));
    }
}
