//! How errors are made: one constructor for each cause, and what callers add on the way up.

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::model::generation::{Generation, GenerationId};
use crate::operation::Operation;

use super::display::display_duration;
use super::{Error, ErrorKind, ErrorResponse, Inner, Source};

impl Error {
    #[cold]
    fn new(kind: ErrorKind, operation: Operation, message: Cow<'static, str>) -> Self {
        Self(Arc::new(Inner {
            kind,
            operation,
            reason: None,
            message,
            hint: None,
            source: None,
            response: None,
            field: None,
            id: None,
            generation: None,
            client_request_id: None,
            attempts: 1,
            not_idempotent: false,
            not_created: false,
            may_be_billed: kind == ErrorKind::CreateUnknown,
            resumable: None,
        }))
    }

    pub(super) fn with(mut self, change: impl FnOnce(&mut Inner)) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.0) {
            change(inner);
        }
        self
    }

    pub(crate) fn with_source(self, source: Source) -> Self {
        self.with(|error| error.source = Some(source))
    }

    /// Adds a response that is an error or cannot be used. What the server says in it becomes part
    /// of the message.
    pub(crate) fn with_response(self, response: ErrorResponse) -> Self {
        self.with(|error| {
            if let Some(words) = &response.message {
                error.message.to_mut().push_str(&format!(": {words}"));
            }
            if let Some(id) = &response.request_id {
                error.message.to_mut().push_str(&format!(" (request id `{id}`)"));
            }
            error.response = Some(Box::new(response));
        })
    }

    pub(crate) fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, Operation::Build, message.into())
    }

    /// `message` is a complete sentence: it names the thing, what is wrong, and what is allowed.
    pub(crate) fn invalid_request(field: &str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidRequest, Operation::Validate, message.into())
            .with(|error| error.field = Some(field.to_owned()))
    }

    pub(crate) fn generation_limit(limit: u32) -> Self {
        let message =
            format!("max_generations({limit}) is reached for this client; nothing was sent");
        Self::new(ErrorKind::GenerationLimit, Operation::Create, message.into())
    }

    /// `hint` says what to change if retrying is pointless.
    pub(crate) fn connect(
        operation: Operation,
        peer: &str,
        hint: Option<&'static str>,
        source: Source,
    ) -> Self {
        let message = format!("cannot connect to {peer}").into();
        Self::new(ErrorKind::Connect, operation, message)
            .with_source(source)
            .with(|error| error.hint = hint)
    }

    pub(crate) fn transport(operation: Operation, source: Source) -> Self {
        Self::new(ErrorKind::Transport, operation, "connection lost".into()).with_source(source)
    }

    /// A server that rejects a large upload often just closes the connection, and its response is
    /// lost.
    pub(crate) fn during_upload(self) -> Self {
        let message = "connection lost during the upload; the server may have rejected it";
        match self.0.kind {
            ErrorKind::Transport => self.with(|error| error.message = message.into()),
            _ => self,
        }
    }

    pub(crate) fn timeout(operation: Operation, source: Source) -> Self {
        let message = "timed out waiting for the server";
        Self::new(ErrorKind::Timeout, operation, message.into()).with_source(source)
    }

    pub(crate) fn api(operation: Operation, response: ErrorResponse) -> Self {
        let message = format!("server returned HTTP {}", response.status.unwrap_or_default());
        Self::new(ErrorKind::Api, operation, message.into()).with_response(response)
    }

    pub(crate) fn decode(operation: Operation, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Decode, operation, message.into())
    }

    pub(crate) fn create_unknown(source: Error) -> Self {
        let message = "no usable response was received; the generation may exist and be billed";
        let error = Self::new(ErrorKind::CreateUnknown, Operation::Create, message.into());
        error.with_source(source.into()).not_idempotent()
    }

    /// Only a failure is documented as free: not an end as canceled or expired, by moderation, or
    /// after the generation was completed.
    pub(crate) fn generation_failed(
        operation: Operation,
        reason: String,
        may_be_billed: bool,
    ) -> Self {
        let message = match may_be_billed {
            true => "the generation ended without a video and may have been charged",
            false => "the generation failed and is not charged",
        };
        let response = ErrorResponse { message: Some(reason), ..ErrorResponse::default() };
        Self::new(ErrorKind::GenerationFailed, operation, message.into())
            .with_response(response)
            .with(|error| error.may_be_billed = may_be_billed)
    }

    pub(crate) fn wait_timeout(elapsed: Duration, source: Option<Error>) -> Self {
        let message = format!("timed out after {}", display_duration(elapsed)).into();
        Self::new(ErrorKind::WaitTimeout, Operation::Wait, message)
            .with(|error| error.source = source.map(Source::from))
    }

    pub(crate) fn cancelled(operation: Operation) -> Self {
        Self::new(ErrorKind::Cancelled, operation, "cancelled".into())
    }

    /// `journal` is what the message calls it.
    pub(crate) fn journal(journal: &str, message: impl AsRef<str>) -> Self {
        let message = format!("{journal}: {}", message.as_ref()).into();
        Self::new(ErrorKind::Journal, Operation::GenerateTo, message)
    }

    /// The source of a journal's error may be one of this crate already.
    pub(crate) fn journal_with_source(
        journal: &str,
        message: &str,
        source: impl Into<Source>,
    ) -> Self {
        match source.into().downcast::<Self>() {
            Ok(error) => *error,
            Err(source) => Self::journal(journal, message).with_source(source),
        }
    }

    /// `message` says what could not be done with which file; the operating system's reason is the
    /// source.
    pub(crate) fn io(operation: Operation, message: String, source: io::Error) -> Self {
        Self::new(ErrorKind::Io, operation, message.into()).with_source(source.into())
    }

    pub(crate) fn not_attempted(reason: &str) -> Self {
        let message = format!("not attempted: {reason}").into();
        Self::new(ErrorKind::NotAttempted, Operation::GenerateAllTo, message)
    }

    pub(crate) fn with_operation(self, operation: Operation) -> Self {
        self.with(|error| error.operation = operation)
    }

    /// Without an id, the error keeps what it has. So does [`Self::with_client_request_id`].
    pub(crate) fn with_id<'a>(self, id: impl Into<Option<&'a GenerationId>>) -> Self {
        let id = id.into().cloned();
        self.with(|error| error.id = id.or(error.id.take()))
    }

    pub(crate) fn with_generation(self, generation: Option<Box<Generation>>) -> Self {
        self.with(|error| error.generation = generation)
    }

    pub(crate) fn with_client_request_id<'a>(self, id: impl Into<Option<&'a str>>) -> Self {
        let id = id.into().map(str::to_owned);
        self.with(|error| error.client_request_id = id.or(error.client_request_id.take()))
    }

    pub(crate) fn with_attempts(self, attempts: u32) -> Self {
        self.with(|error| error.attempts = attempts)
    }

    /// Repeating the call would pay again, so it must never be retried blindly.
    pub(crate) fn not_idempotent(self) -> Self {
        self.with(|error| error.not_idempotent = true)
    }

    /// No generation was created, which the message then says.
    pub(crate) fn not_created(self) -> Self {
        self.with(|error| error.not_created = true)
    }

    /// The run's record says that a create may have been accepted.
    pub(crate) fn may_be_billed(self) -> Self {
        self.with(|error| error.may_be_billed = true)
    }

    /// Repeating the call is safe: its journal has recorded what was paid for.
    pub(crate) fn resumable(self, operation: Operation) -> Self {
        self.with(|error| {
            error.not_idempotent = false;
            error.resumable = Some(operation);
            if error.operation == Operation::GenerateTo {
                error.operation = operation;
            }
        })
    }
}
