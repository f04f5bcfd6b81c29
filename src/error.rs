//! The crate's error: opaque, with a kind to branch on and accessors for the details.

mod constructors;
mod display;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::model::generation::{Generation, GenerationId};
use crate::operation::Operation;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The underlying error, from another library or from a lower layer of this crate.
pub(crate) type Source = Box<dyn StdError + Send + Sync + 'static>;

/// The category of an [`Error`], to branch on.
///
/// ```
/// use kling_video::{Client, ErrorKind};
///
/// let error = Client::new("a key\nin two lines").unwrap_err();
/// assert_eq!(error.kind(), ErrorKind::Config);
/// assert_eq!(ErrorKind::Config.to_string(), "invalid configuration");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// A client setting is invalid; the message names it. Nothing was sent.
    Config,
    /// The request violates a documented rule; [`Error::field`] names the field. Nothing was sent.
    InvalidRequest,
    /// The limit set by [`max_generations`](crate::ClientBuilder::max_generations) is reached.
    /// Nothing was sent.
    GenerationLimit,
    /// No connection could be established: DNS lookup, TCP, proxy or TLS failed.
    Connect,
    /// The connection was lost.
    Transport,
    /// No data, or too little, was received within the idle timeout.
    Timeout,
    /// The server returned an error response, with [`Error::status`].
    Api,
    /// The response, or the downloaded file, is not what the API documents.
    Decode,
    /// A create was sent, but no usable response was received: a generation may exist and be
    /// billed. Search for it with [`Client::find`](crate::Client::find) and
    /// [`Error::client_request_id`] before creating again.
    CreateUnknown,
    /// The API reports that the generation ended without a video. A failed generation is not
    /// charged; any other end may have been, as [`Error::may_have_been_billed`] says.
    GenerationFailed,
    /// The generation did not finish within the wait's timeout. It is still running.
    WaitTimeout,
    /// The call was cancelled by its [`CancelToken`](crate::CancelToken).
    Cancelled,
    /// The journal of a durable run cannot be read, written or used as it is, or the file at the
    /// path is not its video.
    Journal,
    /// A file could not be read or written.
    Io,
    /// A job of [`generate_all_to`](crate::Client::generate_all_to) that was not carried out, for
    /// the reason that the message gives: the account has no more credits, say, or the call was
    /// cancelled. Nothing was sent for it.
    NotAttempted,
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Config => "invalid configuration",
            Self::InvalidRequest => "invalid request",
            Self::GenerationLimit => "generation limit reached",
            Self::Connect => "connection failed",
            Self::Transport => "connection lost",
            Self::Timeout => "timeout",
            Self::Api => "error response",
            Self::Decode => "invalid response",
            Self::CreateUnknown => "create outcome unknown",
            Self::GenerationFailed => "generation failed",
            Self::WaitTimeout => "wait timed out",
            Self::Cancelled => "cancelled",
            Self::Journal => "journal unusable",
            Self::Io => "file error",
            Self::NotAttempted => "not attempted",
        })
    }
}

/// The error type of this crate.
///
/// It is one word in size. Branch on [`kind`](Self::kind); the accessors have the details, and
/// [`source`](StdError::source) leads to the cause. Every error that occurs after a create carries
/// the [`generation_id`](Self::generation_id), so that what was paid for can be fetched later.
///
/// Server text is limited to 2 KiB and never contains the API key or image data.
///
/// ```
/// use kling_video::{Image, ImageToVideo};
///
/// let request = ImageToVideo::new(Image::url("ftp://example.com/cat.jpg"));
/// let error = request.validate().unwrap_err();
/// assert_eq!(error.field(), Some("image_url"));
/// assert!(!error.is_retryable());
/// ```
// An `Arc`, although it is never shared: dropping it is a call, while a box's drop glue would be
// compiled into every part of the crate that drops an error.
pub struct Error(Arc<Inner>);

struct Inner {
    kind: ErrorKind,
    operation: Operation,
    /// Why the request was made, if it was only needed to continue another step.
    reason: Option<String>,
    message: Cow<'static, str>,
    /// What to change, if retrying is pointless.
    hint: Option<&'static str>,
    source: Option<Source>,
    response: Option<Box<ErrorResponse>>,
    /// The request's invalid field.
    field: Option<String>,
    id: Option<GenerationId>,
    generation: Option<Box<Generation>>,
    client_request_id: Option<String>,
    attempts: u32,
    /// The call has committed a create, so repeating it would pay again.
    not_idempotent: bool,
    /// The create was rejected or never completed.
    not_created: bool,
    /// A create of this run or of its record may have been accepted.
    may_be_billed: bool,
    /// The call that keeps a journal, so that repeating it continues the same run.
    resumable: Option<Operation>,
}

/// A response that is an error or cannot be used: what its body and headers say.
#[derive(Debug, Default)]
pub(crate) struct ErrorResponse {
    pub(crate) status: Option<u16>,
    pub(crate) message: Option<String>,
    /// Whether the account's credits are too low for the request.
    pub(crate) out_of_credits: bool,
    pub(crate) request_id: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// Whether the body has the vendor's marks: it comes from the API and not from a gateway.
    pub(crate) marked: bool,
    pub(crate) body: String,
}

impl Error {
    /// Whether this is an error response of the API itself, and not of a gateway in front of it.
    pub(crate) fn has_vendor_marks(&self) -> bool {
        self.0.response.as_ref().is_some_and(|response| response.marked)
    }

    /// Whether the failure is transient: a network error, or a status that may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match self.0.kind {
            ErrorKind::Connect => self.0.hint.is_none(),
            ErrorKind::Transport | ErrorKind::Timeout => true,
            // After these, a repeated read may succeed (HTTP, and 524 from the vendor's gateway).
            ErrorKind::Api => matches!(self.status(), Some(408 | 425 | 429 | 500..=599)),
            _ => false,
        }
    }
}

/// The public accessors.
impl Error {
    /// The category of the error, to branch on.
    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    /// The call, or the step of a longer call, that failed.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// The generation's id, on every error that occurs after its create was accepted. Also the one
    /// that the response to a rejected create named.
    pub fn generation_id(&self) -> Option<&GenerationId> {
        self.0.id.as_ref()
    }

    /// The last state of the generation that the API reported.
    pub fn generation(&self) -> Option<&Generation> {
        self.0.generation.as_deref()
    }

    /// The `X-Client-Request-Id` that the last attempt of the create was sent with, which
    /// [`Client::find`](crate::Client::find) takes.
    pub fn client_request_id(&self) -> Option<&str> {
        self.0.client_request_id.as_deref()
    }

    /// The HTTP status, if a response was received.
    pub fn status(&self) -> Option<u16> {
        self.response()?.status
    }

    /// The server's message, or the reason it gives for a failed generation. With
    /// [`WaitTimeout`](ErrorKind::WaitTimeout), what its last response says, if that is an error.
    pub fn server_message(&self) -> Option<&str> {
        let own = self.response().and_then(|response| response.message.as_deref());
        own.or_else(|| match self.0.kind {
            ErrorKind::WaitTimeout => self.source_error()?.server_message(),
            _ => None,
        })
    }

    /// The server's id of the request, to quote to the vendor's support.
    pub fn request_id(&self) -> Option<&str> {
        let from_response = self.response().and_then(|response| response.request_id.as_deref());
        from_response.or_else(|| self.generation()?.metadata.request_id.as_deref())
    }

    /// The delay that the server asks for before the next attempt (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        self.response()?.retry_after
    }

    /// The name of the request's invalid field, with [`ErrorKind::InvalidRequest`].
    pub fn field(&self) -> Option<&str> {
        self.0.field.as_deref()
    }

    /// The start of the body of an error response, or of a response that could not be parsed.
    pub fn body(&self) -> Option<&str> {
        self.response().filter(|response| response.status.is_some()).map(|response| &*response.body)
    }

    /// The number of requests made before giving up, at least 1.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether repeating the call may succeed and cannot pay twice.
    ///
    /// Always false from `create` and `generate` once the last byte of a create was sent, so
    /// `while error.is_retryable() { generate() }` never pays twice.
    ///
    /// Durable runs (`generate_to`, `generate_all_to`, `generate_recorded`) never pay twice and can be
    /// called again after any error; there this says whether calling again at once may help. After
    /// `CreateUnknown` it usually takes a while until the API's log lists the request. Whether an
    /// error of the caller's own [`Journal`](crate::Journal) may pass, only the caller knows: it is
    /// the [`source`](StdError::source).
    pub fn is_retryable(&self) -> bool {
        !self.0.not_idempotent && (self.is_transient() || self.kind() == ErrorKind::WaitTimeout)
    }

    /// Whether the account's credits are too low for this request.
    pub fn is_out_of_credits(&self) -> bool {
        self.response().is_some_and(|response| response.out_of_credits)
    }

    /// Whether money may have been spent.
    ///
    /// True for [`ErrorKind::CreateUnknown`], for every error of a generation that was created and
    /// not proved failed, and for every error of a run of `generate_to` whose journal says that a
    /// create may have been accepted. False for a rejected create, even if it names an id.
    pub fn may_have_been_billed(&self) -> bool {
        let exists = self.0.id.is_some() && !self.0.not_created;
        self.0.may_be_billed || (exists && self.0.kind != ErrorKind::GenerationFailed)
    }

    /// The response behind the error, also if all it did was leave a create unknown.
    fn response(&self) -> Option<&ErrorResponse> {
        match self.0.kind {
            ErrorKind::CreateUnknown => self.source_error()?.response(),
            _ => self.0.response.as_deref(),
        }
    }

    fn source_error(&self) -> Option<&Error> {
        self.0.source.as_ref()?.downcast_ref()
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut output = f.debug_struct("Error");
        output.field("kind", &self.kind()).field("message", &self.to_string());
        if let Some(id) = self.client_request_id() {
            output.field("client_request_id", &id);
        }
        if let Some(source) = self.source() {
            output.field("source", &source);
        }
        output.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.source.as_deref().map(|source| source as _)
    }
}
