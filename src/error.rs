//! What can go wrong: one opaque error with a kind to branch on and accessors for the rest.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::generation::{Generation, GenerationId, Status};
use crate::text::shorten;

/// A `Result` with this crate's [`Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The cause as another library or layer of this crate gave it.
pub(crate) type Source = Box<dyn StdError + Send + Sync + 'static>;

/// What kind of failure an [`Error`] is: the thing to branch on.
///
/// ```
/// use kling_video::{Client, ErrorKind};
///
/// let refused = Client::new("a key\nin two lines").unwrap_err();
/// assert_eq!(refused.kind(), ErrorKind::Config);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The client cannot be built like this: the message names the setting.
    Config,
    /// The request breaks a documented rule: [`Error::field`] names the field. Nothing was sent.
    InvalidRequest,
    /// [`max_creates`](crate::ClientBuilder::max_creates) is used up. Nothing was sent.
    CreateLimit,
    /// No connection could be made: name look-up, TCP, proxy or TLS.
    Connect,
    /// The connection broke.
    Transport,
    /// The other side was silent, or too slow, for the idle time-out.
    Timeout,
    /// The server refused, with [`Error::status`].
    Api,
    /// The server answered something that cannot be used.
    Decode,
    /// A create was sent but its answer never came or cannot be read: a generation may exist and
    /// may be billed. Look it up by [`Error::client_request_id`] before creating again.
    CreateUnknown,
    /// The API ended the generation with an error. It is not charged.
    GenerationFailed,
    /// The generation was not finished in the time allowed. It goes on.
    WaitTimeout,
    /// The call was cancelled by its [`CancelToken`](crate::CancelToken).
    Cancelled,
    /// The journal beside the output file cannot be used as it is.
    Journal,
    /// A file could not be read or written.
    Io,
}

/// Why a call failed.
///
/// One word in size. Branch on [`kind`](Self::kind); the accessors tell the rest, and
/// [`source`](StdError::source) leads to the cause. After a create, every error carries the
/// [`generation_id`](Self::generation_id), so that what was paid for can be fetched later.
///
/// Server text in it is cut at 2 KiB, and the API key and pictures never are in it.
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
    cause: Cause,
    operation: &'static str,
    id: Option<GenerationId>,
    generation: Option<Box<Generation>>,
    client_request_id: Option<String>,
    attempts: u32,
    /// A create is behind this call, so that the same call would pay again.
    paid: bool,
}

#[derive(Debug, thiserror::Error)]
enum Cause {
    #[error("{problem}")]
    Config { problem: String, source: Option<Source> },
    #[error("`{field}` {problem}")]
    InvalidRequest { field: String, problem: String },
    #[error("the limit of {limit} creates for this client is used up; nothing was sent")]
    CreateLimit { limit: u32 },
    #[error("no connection could be made")]
    Connect { source: Source },
    #[error("{problem}")]
    Transport { problem: &'static str, source: Source },
    #[error("the server was silent or too slow for too long")]
    Timeout { source: Source },
    #[error("{}", Refused(.0))]
    Api(Box<Refusal>),
    #[error("{problem}")]
    Decode { problem: String, status: Option<u16>, body: String, source: Option<Source> },
    #[error(
        "the request was sent but its answer is not known, so a generation may exist and may be billed"
    )]
    CreateUnknown { source: Error },
    #[error("the generation failed and is not charged: {message}")]
    GenerationFailed { message: String },
    #[error("not finished after {}{}", Seconds(*.waited), LastSeen(.status))]
    WaitTimeout { waited: Duration, status: Option<Status>, source: Option<Error> },
    #[error("cancelled")]
    Cancelled,
    #[error("journal {}: {problem}", .path.display())]
    Journal { path: PathBuf, problem: String, source: Option<Source> },
    #[error("{}{problem}", At(.path))]
    Io { path: Option<PathBuf>, problem: &'static str, source: io::Error },
}

/// A status other than success, with what the server said about it.
#[derive(Debug, Default)]
pub(crate) struct Refusal {
    pub(crate) status: u16,
    pub(crate) message: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) kind: Option<String>,
    pub(crate) request_id: Option<String>,
    pub(crate) retry_after: Option<Duration>,
    pub(crate) body: String,
}

impl Refusal {
    /// 403 has several meanings; the vendor's kind (with its spelling) and name tell this one.
    fn is_out_of_credits(&self) -> bool {
        self.kind.as_deref().is_some_and(|kind| kind.starts_with("err_insuff"))
            || self.name.as_deref() == Some("OutOfFundsException")
    }
}

struct Refused<'a>(&'a Refusal);

impl fmt::Display for Refused<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let refusal = self.0;
        write!(f, "the server answered {}", refusal.status)?;
        if let Some(message) = &refusal.message {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &refusal.request_id {
            write!(f, " (request id `{id}`)")?;
        }
        match refusal.status {
            401 => f.write_str("; check the API key"),
            _ if refusal.is_out_of_credits() => f.write_str("; top up the account"),
            _ => Ok(()),
        }
    }
}

struct LastSeen<'a>(&'a Option<Status>);

impl fmt::Display for LastSeen<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(status) => write!(f, " (last status: {})", shorten(status.as_str())),
            None => f.write_str(" (no status seen)"),
        }
    }
}

struct Seconds(Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            seconds @ 0..10 => {
                write!(f, "{} ms", seconds * 1000 + u64::from(self.0.subsec_millis()))
            }
            seconds => write!(f, "{seconds} s"),
        }
    }
}

struct At<'a>(&'a Option<PathBuf>);

impl fmt::Display for At<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, "{}: ", path.display()),
            None => Ok(()),
        }
    }
}

/// Where errors are made.
impl Error {
    #[cold]
    fn new(operation: &'static str, cause: Cause) -> Self {
        Self(Box::new(Inner {
            cause,
            operation,
            id: None,
            generation: None,
            client_request_id: None,
            attempts: 1,
            paid: false,
        }))
    }

    pub(crate) fn config(problem: impl Into<String>) -> Self {
        Self::new("build", Cause::Config { problem: problem.into(), source: None })
    }

    pub(crate) fn config_from(problem: impl Into<String>, source: impl Into<Source>) -> Self {
        let source = Some(source.into());
        Self::new("build", Cause::Config { problem: problem.into(), source })
    }

    /// `problem` reads on from the field's name: what was given, and what is allowed.
    pub(crate) fn invalid(field: impl Into<String>, problem: impl Into<String>) -> Self {
        let (field, problem) = (field.into(), problem.into());
        Self::new("validate", Cause::InvalidRequest { field, problem })
    }

    pub(crate) fn create_limit(limit: u32) -> Self {
        Self::new("create", Cause::CreateLimit { limit })
    }

    pub(crate) fn connect(operation: &'static str, source: Source) -> Self {
        Self::new(operation, Cause::Connect { source })
    }

    pub(crate) fn transport(operation: &'static str, source: Source) -> Self {
        Self::new(operation, Cause::Transport { problem: "the connection broke", source })
    }

    /// A server that refuses a large body often just closes, and its answer is lost.
    pub(crate) fn upload_broken(operation: &'static str, source: Source) -> Self {
        let problem = "the connection broke during the upload, which the server may have refused; \
                       nothing was created";
        Self::new(operation, Cause::Transport { problem, source })
    }

    pub(crate) fn timeout(operation: &'static str, source: Source) -> Self {
        Self::new(operation, Cause::Timeout { source })
    }

    pub(crate) fn api(operation: &'static str, refusal: Refusal) -> Self {
        Self::new(operation, Cause::Api(Box::new(refusal)))
    }

    pub(crate) fn decode(operation: &'static str, problem: impl Into<String>) -> Self {
        let problem = problem.into();
        Self::new(
            operation,
            Cause::Decode { problem, status: None, body: String::new(), source: None },
        )
    }

    /// An answer that cannot be read, with the start of its body.
    pub(crate) fn unreadable(
        operation: &'static str,
        problem: impl Into<String>,
        status: u16,
        body: String,
        source: Option<serde_json::Error>,
    ) -> Self {
        let source = source.map(Source::from);
        let (problem, status) = (problem.into(), Some(status));
        Self::new(operation, Cause::Decode { problem, status, body, source })
    }

    pub(crate) fn create_unknown(source: Error) -> Self {
        Self::new("create", Cause::CreateUnknown { source }).paid()
    }

    pub(crate) fn generation_failed(operation: &'static str, message: String) -> Self {
        Self::new(operation, Cause::GenerationFailed { message })
    }

    pub(crate) fn wait_timeout(
        waited: Duration,
        status: Option<Status>,
        source: Option<Error>,
    ) -> Self {
        Self::new("wait", Cause::WaitTimeout { waited, status, source })
    }

    pub(crate) fn cancelled(operation: &'static str) -> Self {
        Self::new(operation, Cause::Cancelled)
    }

    pub(crate) fn journal(path: impl Into<PathBuf>, problem: impl Into<String>) -> Self {
        let (path, problem) = (path.into(), problem.into());
        Self::new("generate_to", Cause::Journal { path, problem, source: None })
    }

    pub(crate) fn journal_from(
        path: impl Into<PathBuf>,
        problem: impl Into<String>,
        source: impl Into<Source>,
    ) -> Self {
        let (path, problem, source) = (path.into(), problem.into(), Some(source.into()));
        Self::new("generate_to", Cause::Journal { path, problem, source })
    }

    /// `problem` says what could not be done; the reason follows as the source.
    pub(crate) fn io(
        operation: &'static str,
        path: Option<PathBuf>,
        problem: &'static str,
        source: io::Error,
    ) -> Self {
        Self::new(operation, Cause::Io { path, problem, source })
    }

    pub(crate) fn during(mut self, operation: &'static str) -> Self {
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

    /// The same call would pay again, so it is never to be retried blindly.
    pub(crate) fn paid(mut self) -> Self {
        self.0.paid = true;
        self
    }

    /// The same call is safe once more: what was paid for is on record.
    pub(crate) fn resumable(mut self) -> Self {
        self.0.paid = false;
        self
    }

    /// Whether it lies in the way to the server, or on the server and may pass.
    pub(crate) fn is_transient(&self) -> bool {
        match &self.0.cause {
            Cause::Connect { .. } | Cause::Transport { .. } | Cause::Timeout { .. } => true,
            Cause::Api(refusal) => is_transient_status(refusal.status),
            _ => false,
        }
    }
}

/// The statuses after which the same read may succeed (HTTP, and 524 of the vendor's gateway).
fn is_transient_status(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// What a caller asks an error.
impl Error {
    /// What kind of failure this is.
    pub fn kind(&self) -> ErrorKind {
        match &self.0.cause {
            Cause::Config { .. } => ErrorKind::Config,
            Cause::InvalidRequest { .. } => ErrorKind::InvalidRequest,
            Cause::CreateLimit { .. } => ErrorKind::CreateLimit,
            Cause::Connect { .. } => ErrorKind::Connect,
            Cause::Transport { .. } => ErrorKind::Transport,
            Cause::Timeout { .. } => ErrorKind::Timeout,
            Cause::Api(_) => ErrorKind::Api,
            Cause::Decode { .. } => ErrorKind::Decode,
            Cause::CreateUnknown { .. } => ErrorKind::CreateUnknown,
            Cause::GenerationFailed { .. } => ErrorKind::GenerationFailed,
            Cause::WaitTimeout { .. } => ErrorKind::WaitTimeout,
            Cause::Cancelled => ErrorKind::Cancelled,
            Cause::Journal { .. } => ErrorKind::Journal,
            Cause::Io { .. } => ErrorKind::Io,
        }
    }

    /// What was being done: `"create"`, `"retrieve"`, `"wait"`, `"download"`, ….
    pub fn operation(&self) -> &'static str {
        self.0.operation
    }

    /// The generation, on every failure after its create: with it, nothing is lost.
    pub fn generation_id(&self) -> Option<&GenerationId> {
        self.0.id.as_ref()
    }

    /// The last state seen of the generation.
    pub fn generation(&self) -> Option<&Generation> {
        self.0.generation.as_deref()
    }

    /// The id that the create was sent with: what [`Client::find`](crate::Client::find) takes.
    pub fn client_request_id(&self) -> Option<&str> {
        self.0.client_request_id.as_deref()
    }

    /// The HTTP status, where an answer came.
    pub fn status(&self) -> Option<u16> {
        match self.answer() {
            Some(Cause::Api(refusal)) => Some(refusal.status),
            Some(Cause::Decode { status, .. }) => *status,
            _ => None,
        }
    }

    /// The server's own words, or why the generation failed.
    pub fn api_message(&self) -> Option<&str> {
        match self.answer() {
            Some(Cause::Api(refusal)) => refusal.message.as_deref(),
            Some(Cause::GenerationFailed { message }) => Some(message),
            _ => None,
        }
    }

    /// The server's id of the call, for its support.
    pub fn request_id(&self) -> Option<&str> {
        let of_refusal = match self.answer() {
            Some(Cause::Api(refusal)) => refusal.request_id.as_deref(),
            _ => None,
        };
        of_refusal.or_else(|| self.generation()?.trace.request_id.as_deref())
    }

    /// How long the server asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self.answer() {
            Some(Cause::Api(refusal)) => refusal.retry_after,
            _ => None,
        }
    }

    /// With [`ErrorKind::InvalidRequest`]: which field of the request it is.
    pub fn field(&self) -> Option<&str> {
        match &self.0.cause {
            Cause::InvalidRequest { field, .. } => Some(field),
            _ => None,
        }
    }

    /// The start of an unreadable or refusing reply.
    pub fn body(&self) -> Option<&str> {
        match self.answer() {
            Some(Cause::Api(refusal)) => Some(refusal.body.as_str()),
            Some(Cause::Decode { body, status: Some(_), .. }) => Some(body.as_str()),
            _ => None,
        }
    }

    /// How many requests were made before giving up, at least 1.
    pub fn attempts(&self) -> u32 {
        self.0.attempts
    }

    /// Whether the same call again may succeed and cannot pay twice.
    ///
    /// Always false from `create`, `generate` and `generate_with` once the last byte of a create
    /// was handed over, so that `while e.is_retryable() { generate() }` cannot pay twice.
    ///
    /// `generate_to` never pays twice, and can be called again after every error: this says whether
    /// that may help at once. After a `CreateUnknown` it may take the API's log some time.
    pub fn is_retryable(&self) -> bool {
        !self.0.paid && (self.is_transient() || self.kind() == ErrorKind::WaitTimeout)
    }

    /// Whether the account has too little credit for this request.
    pub fn is_out_of_credits(&self) -> bool {
        matches!(self.answer(), Some(Cause::Api(refusal)) if refusal.is_out_of_credits())
    }

    /// Whether money may have been spent although this is an error: always with
    /// [`ErrorKind::CreateUnknown`], and whenever there is a
    /// [`generation_id`](Self::generation_id), except with [`ErrorKind::GenerationFailed`].
    pub fn may_have_been_billed(&self) -> bool {
        match self.kind() {
            ErrorKind::CreateUnknown => true,
            ErrorKind::GenerationFailed => false,
            _ => self.0.id.is_some(),
        }
    }

    /// The server's answer that this is about, also where it only left a create unknown.
    fn answer(&self) -> Option<&Cause> {
        match &self.0.cause {
            Cause::CreateUnknown { source } => source.answer(),
            own => Some(own),
        }
    }

    /// What there is to do next, where the cause does not say it.
    fn advice(&self) -> Option<String> {
        let quoted = |id: &GenerationId| format!("`{id}`");
        match (&self.0.cause, &self.0.id) {
            (Cause::CreateUnknown { .. }, Some(id)) => {
                Some(format!("; wait for {} to get it", quoted(id)))
            }
            // Of a run with a journal, which looks it up by itself.
            (Cause::CreateUnknown { .. }, None) if !self.0.paid => Some(
                "; run the same again later to have it looked up, or delete its journal to pay \
                 for a new one"
                    .to_owned(),
            ),
            (Cause::CreateUnknown { .. }, None) => {
                let request = self.client_request_id()?;
                Some(format!("; look it up with find(\"{request}\") before creating again"))
            }
            (Cause::WaitTimeout { .. } | Cause::Cancelled, Some(id)) => Some(format!(
                "; the generation goes on and may be billed: wait for {} to resume",
                quoted(id)
            )),
            _ => None,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &*self.0;
        f.write_str(inner.operation)?;
        if let Some(id) = &inner.id {
            write!(f, " of `{id}`")?;
        }
        write!(f, ": {}", inner.cause)?;
        if let Some(advice) = self.advice() {
            f.write_str(&advice)?;
        }
        if inner.attempts > 1 {
            write!(f, " (after {} attempts)", inner.attempts)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("Error");
        shown.field("kind", &self.kind()).field("message", &self.to_string());
        if let Some(id) = self.client_request_id() {
            shown.field("client_request_id", &id);
        }
        if let Some(source) = self.source() {
            shown.field("source", &source);
        }
        shown.finish()
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.0.cause.source()
    }
}
