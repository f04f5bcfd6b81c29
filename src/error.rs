//! The crate's error: opaque, with a kind to branch on and accessors for the details.

mod display;

use std::borrow::Cow;
use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::model::generation::{Generation, GenerationId, Status};
use crate::operation::Operation;

use self::display::{DisplayApiError, DisplayDuration, DisplayPath};

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
    /// The journal next to the output file cannot be used as it is.
    Journal,
    /// A file could not be read or written.
    Io,
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
pub struct Error(Box<Inner>);

struct Inner {
    repr: ErrorRepr,
    operation: Operation,
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
    /// The call keeps a journal, so repeating it continues the same run.
    resumable: bool,
}

#[derive(Debug, thiserror::Error)]
enum ErrorRepr {
    #[error("{message}")]
    Config { message: String, source: Option<Source> },
    #[error("{message}")]
    InvalidRequest { field: String, message: String },
    #[error("max_generations({limit}) is reached for this client; nothing was sent")]
    GenerationLimit { limit: u32 },
    #[error("cannot connect to {peer}")]
    Connect { peer: String, hint: Option<&'static str>, source: Source },
    #[error("{message}")]
    Transport { message: &'static str, source: Source },
    #[error("timed out waiting for the server")]
    Timeout { source: Source },
    #[error("{}", DisplayApiError(.0))]
    Api(Box<ApiError>),
    #[error("{message}")]
    Decode { message: String, status: Option<u16>, body: String, source: Option<Source> },
    #[error("no usable response was received; the generation may exist and be billed")]
    CreateUnknown { source: Error },
    #[error("the generation failed and is not charged: {message}")]
    GenerationFailed { message: String },
    #[error("the generation ended without a video and may have been charged: {message}")]
    GenerationEnded { message: String },
    #[error("timed out after {}", DisplayDuration(*.elapsed))]
    WaitTimeout { elapsed: Duration, status: Option<Status>, source: Option<Error> },
    #[error("cancelled")]
    Cancelled,
    #[error("journal {}: {message}", .path.display())]
    Journal { path: PathBuf, message: String, source: Option<Source> },
    #[error("{}{message}", DisplayPath(.path))]
    Io { path: Option<PathBuf>, message: Cow<'static, str>, source: io::Error },
}

/// An error response: its status and what its body and headers say.
#[derive(Debug, Default)]
pub(crate) struct ApiError {
    pub(crate) status: u16,
    pub(crate) message: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    /// Whether the body has the vendor's marks: it comes from the API and not from a gateway.
    pub(crate) marked: bool,
    pub(crate) body: String,
}

impl ApiError {
    /// A 403 has several meanings; the vendor's kind (in its spelling) or name identifies this one.
    fn is_out_of_credits(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind.starts_with("err_insuff"))
            || self.name.as_deref() == Some("OutOfFundsException")
    }
}

impl Error {
    #[cold]
    fn new(operation: Operation, repr: ErrorRepr) -> Self {
        Self(Box::new(Inner {
            repr,
            operation,
            id: None,
            generation: None,
            client_request_id: None,
            attempts: 1,
            not_idempotent: false,
            not_created: false,
            may_be_billed: false,
            resumable: false,
        }))
    }

    pub(crate) fn config(message: impl Into<String>) -> Self {
        Self::new(Operation::Build, ErrorRepr::Config { message: message.into(), source: None })
    }

    pub(crate) fn config_with_source(
        message: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        let source = Some(source.into());
        Self::new(Operation::Build, ErrorRepr::Config { message: message.into(), source })
    }

    /// `message` is a complete sentence: it names the thing, what is wrong, and what is allowed.
    pub(crate) fn invalid_request(field: impl Into<String>, message: impl Into<String>) -> Self {
        let (field, message) = (field.into(), message.into());
        Self::new(Operation::Validate, ErrorRepr::InvalidRequest { field, message })
    }

    pub(crate) fn generation_limit(limit: u32) -> Self {
        Self::new(Operation::Create, ErrorRepr::GenerationLimit { limit })
    }

    pub(crate) fn connect(operation: Operation, peer: impl Into<String>, source: Source) -> Self {
        Self::new(operation, ErrorRepr::Connect { peer: peer.into(), hint: None, source })
    }

    /// Says what to change about a connection that cannot be established otherwise, so that retrying
    /// is pointless.
    pub(crate) fn with_hint(mut self, new: Option<&'static str>) -> Self {
        if let ErrorRepr::Connect { hint, .. } = &mut self.0.repr {
            *hint = new;
        }
        self
    }

    pub(crate) fn transport(operation: Operation, source: Source) -> Self {
        Self::new(operation, ErrorRepr::Transport { message: "connection lost", source })
    }

    /// A server that rejects a large upload often just closes the connection, and its response is
    /// lost.
    pub(crate) fn during_upload(mut self) -> Self {
        if let ErrorRepr::Transport { message, .. } = &mut self.0.repr {
            *message = "connection lost during the upload; the server may have rejected it";
        }
        self
    }

    pub(crate) fn timeout(operation: Operation, source: Source) -> Self {
        Self::new(operation, ErrorRepr::Timeout { source })
    }

    pub(crate) fn api(operation: Operation, error: ApiError) -> Self {
        Self::new(operation, ErrorRepr::Api(Box::new(error)))
    }

    pub(crate) fn decode(operation: Operation, message: impl Into<String>) -> Self {
        let message = message.into();
        Self::new(
            operation,
            ErrorRepr::Decode { message, status: None, body: String::new(), source: None },
        )
    }

    /// A response that cannot be used, with the start of its body.
    pub(crate) fn invalid_response(
        operation: Operation,
        message: impl Into<String>,
        status: u16,
        body: String,
        source: Option<serde_json::Error>,
    ) -> Self {
        let source = source.map(Source::from);
        let (message, status) = (message.into(), Some(status));
        Self::new(operation, ErrorRepr::Decode { message, status, body, source })
    }

    pub(crate) fn create_unknown(source: Error) -> Self {
        Self::new(Operation::Create, ErrorRepr::CreateUnknown { source }).not_idempotent()
    }

    pub(crate) fn generation_failed(operation: Operation, message: String) -> Self {
        Self::new(operation, ErrorRepr::GenerationFailed { message })
    }

    /// Canceled, expired, moderated, or failed after it was completed: not documented as free.
    pub(crate) fn generation_ended(operation: Operation, message: String) -> Self {
        Self::new(operation, ErrorRepr::GenerationEnded { message })
    }

    pub(crate) fn wait_timeout(
        elapsed: Duration,
        status: Option<Status>,
        source: Option<Error>,
    ) -> Self {
        Self::new(Operation::Wait, ErrorRepr::WaitTimeout { elapsed, status, source })
    }

    pub(crate) fn cancelled(operation: Operation) -> Self {
        Self::new(operation, ErrorRepr::Cancelled)
    }

    pub(crate) fn journal(path: impl Into<PathBuf>, message: impl Into<String>) -> Self {
        let (path, message) = (path.into(), message.into());
        Self::new(Operation::GenerateTo, ErrorRepr::Journal { path, message, source: None })
    }

    pub(crate) fn journal_with_source(
        path: impl Into<PathBuf>,
        message: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        let (path, message, source) = (path.into(), message.into(), Some(source.into()));
        Self::new(Operation::GenerateTo, ErrorRepr::Journal { path, message, source })
    }

    /// `message` says what could not be done; the operating system's reason is the source.
    pub(crate) fn io(
        operation: Operation,
        path: Option<PathBuf>,
        message: impl Into<Cow<'static, str>>,
        source: io::Error,
    ) -> Self {
        let message = message.into();
        Self::new(operation, ErrorRepr::Io { path, message, source })
    }

    pub(crate) fn with_operation(mut self, operation: Operation) -> Self {
        self.0.operation = operation;
        self
    }

    pub(crate) fn with_id(mut self, id: &GenerationId) -> Self {
        self.0.id = Some(id.clone());
        self
    }

    pub(crate) fn with_generation(mut self, generation: Box<Generation>) -> Self {
        self.0.id.get_or_insert_with(|| generation.id.clone());
        self.0.generation = Some(generation);
        self
    }

    pub(crate) fn with_client_request_id(mut self, id: &str) -> Self {
        self.0.client_request_id = Some(id.to_owned());
        self
    }

    pub(crate) fn with_attempts(mut self, attempts: u32) -> Self {
        self.0.attempts = attempts;
        self
    }

    /// Repeating the call would pay again, so it must never be retried blindly.
    pub(crate) fn not_idempotent(mut self) -> Self {
        self.0.not_idempotent = true;
        self
    }

    /// No generation was created, which the message then says.
    pub(crate) fn not_created(mut self) -> Self {
        self.0.not_created = true;
        self
    }

    /// The run's record says that a create may have been accepted.
    pub(crate) fn may_be_billed(mut self) -> Self {
        self.0.may_be_billed = true;
        self
    }

    /// Whether a failed generation may have been charged.
    pub(crate) fn is_generation_ended(&self) -> bool {
        matches!(self.0.repr, ErrorRepr::GenerationEnded { .. })
    }

    /// Repeating the call is safe: its journal has recorded what was paid for.
    pub(crate) fn resumable(mut self) -> Self {
        self.0.not_idempotent = false;
        self.0.resumable = true;
        self
    }

    /// Whether this is an error response of the API itself, and not of a gateway in front of it.
    pub(crate) fn has_vendor_marks(&self) -> bool {
        matches!(&self.0.repr, ErrorRepr::Api(error) if error.marked)
    }

    /// Whether the failure is transient: a network error, or a status that may succeed later.
    pub(crate) fn is_transient(&self) -> bool {
        match &self.0.repr {
            ErrorRepr::Connect { hint, .. } => hint.is_none(),
            ErrorRepr::Transport { .. } | ErrorRepr::Timeout { .. } => true,
            ErrorRepr::Api(error) => is_transient_status(error.status),
            _ => false,
        }
    }
}

/// Statuses after which a repeated read may succeed (HTTP, and 524 from the vendor's gateway).
fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// The public accessors.
impl Error {
    /// The category of the error, to branch on.
    pub fn kind(&self) -> ErrorKind {
        match &self.0.repr {
            ErrorRepr::Config { .. } => ErrorKind::Config,
            ErrorRepr::InvalidRequest { .. } => ErrorKind::InvalidRequest,
            ErrorRepr::GenerationLimit { .. } => ErrorKind::GenerationLimit,
            ErrorRepr::Connect { .. } => ErrorKind::Connect,
            ErrorRepr::Transport { .. } => ErrorKind::Transport,
            ErrorRepr::Timeout { .. } => ErrorKind::Timeout,
            ErrorRepr::Api(_) => ErrorKind::Api,
            ErrorRepr::Decode { .. } => ErrorKind::Decode,
            ErrorRepr::CreateUnknown { .. } => ErrorKind::CreateUnknown,
            ErrorRepr::GenerationFailed { .. } | ErrorRepr::GenerationEnded { .. } => {
                ErrorKind::GenerationFailed
            }
            ErrorRepr::WaitTimeout { .. } => ErrorKind::WaitTimeout,
            ErrorRepr::Cancelled => ErrorKind::Cancelled,
            ErrorRepr::Journal { .. } => ErrorKind::Journal,
            ErrorRepr::Io { .. } => ErrorKind::Io,
        }
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
        match self.response() {
            Some(ErrorRepr::Api(error)) => Some(error.status),
            Some(ErrorRepr::Decode { status, .. }) => *status,
            _ => None,
        }
    }

    /// The server's message, or the reason it gives for a failed generation.
    pub fn server_message(&self) -> Option<&str> {
        match self.response() {
            Some(ErrorRepr::Api(error)) => error.message.as_deref(),
            Some(
                ErrorRepr::GenerationFailed { message } | ErrorRepr::GenerationEnded { message },
            ) => Some(message),
            _ => None,
        }
    }

    /// The server's id of the request, to quote to the vendor's support.
    pub fn request_id(&self) -> Option<&str> {
        let from_response = match self.response() {
            Some(ErrorRepr::Api(error)) => error.request_id.as_deref(),
            _ => None,
        };
        from_response.or_else(|| self.generation()?.metadata.request_id.as_deref())
    }

    /// The delay that the server asks for before the next attempt (`Retry-After`).
    pub fn retry_after(&self) -> Option<Duration> {
        match self.response() {
            Some(ErrorRepr::Api(error)) => error.retry_after,
            _ => None,
        }
    }

    /// The name of the request's invalid field, with [`ErrorKind::InvalidRequest`].
    pub fn field(&self) -> Option<&str> {
        match &self.0.repr {
            ErrorRepr::InvalidRequest { field, .. } => Some(field),
            _ => None,
        }
    }

    /// The start of the body of an error response, or of a response that could not be parsed.
    pub fn body(&self) -> Option<&str> {
        match self.response() {
            Some(ErrorRepr::Api(error)) => Some(error.body.as_str()),
            Some(ErrorRepr::Decode { body, status: Some(_), .. }) => Some(body.as_str()),
            _ => None,
        }
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
    /// `generate_to` never pays twice and can be called again after any error; there this says
    /// whether calling it again at once may help. After `CreateUnknown` it usually takes a while
    /// until the API's log lists the request.
    pub fn is_retryable(&self) -> bool {
        !self.0.not_idempotent && (self.is_transient() || self.kind() == ErrorKind::WaitTimeout)
    }

    /// Whether the account's credits are too low for this request.
    pub fn is_out_of_credits(&self) -> bool {
        matches!(self.response(), Some(ErrorRepr::Api(error)) if error.is_out_of_credits())
    }

    /// Whether money may have been spent.
    ///
    /// True for [`ErrorKind::CreateUnknown`], for every error of a generation that was created and
    /// not proved failed, and for every error of a run of `generate_to` whose journal says that a
    /// create may have been accepted. False for a rejected create, even if it names an id.
    pub fn may_have_been_billed(&self) -> bool {
        match &self.0.repr {
            ErrorRepr::CreateUnknown { .. } | ErrorRepr::GenerationEnded { .. } => true,
            ErrorRepr::GenerationFailed { .. } => false,
            _ => self.0.may_be_billed || (self.0.id.is_some() && !self.0.not_created),
        }
    }

    /// The response behind the error, also if all it did was leave a create unknown.
    fn response(&self) -> Option<&ErrorRepr> {
        match &self.0.repr {
            ErrorRepr::CreateUnknown { source } => source.response(),
            repr => Some(repr),
        }
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
        self.0.repr.source()
    }
}
