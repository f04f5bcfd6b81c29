//! How errors are made: one constructor for each cause, and what callers add on the way up.

use std::borrow::Cow;
use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::model::generation::{Generation, GenerationId};
use crate::operation::Operation;

use super::display::{DisplayDuration, DisplayErrorResponse};
use super::{Error, ErrorKind, ErrorResponse, Inner, Source};

impl Error {
    #[cold]
    fn new(kind: ErrorKind, operation: Operation, message: impl Into<Cow<'static, str>>) -> Self {
        Self(Arc::new(Inner {
            kind,
            operation,
            reason: None,
            message: message.into(),
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

    #[cold]
    pub(crate) fn with_source(self, source: impl Into<Source>) -> Self {
        let source = source.into();
        self.with(|error| error.source = Some(source))
    }

    fn with_response(self, response: ErrorResponse) -> Self {
        self.with(|error| error.response = Some(Box::new(response)))
    }

    pub(crate) fn config(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Config, Operation::Build, message)
    }

    pub(crate) fn config_with_source(message: &'static str, source: impl Into<Source>) -> Self {
        Self::config(message).with_source(source)
    }

    /// `message` is a complete sentence: it names the thing, what is wrong, and what is allowed.
    pub(crate) fn invalid_request(field: &str, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::InvalidRequest, Operation::Validate, message)
            .with(|error| error.field = Some(field.to_owned()))
    }

    pub(crate) fn generation_limit(limit: u32) -> Self {
        let message =
            format!("max_generations({limit}) is reached for this client; nothing was sent");
        Self::new(ErrorKind::GenerationLimit, Operation::Create, message)
    }

    pub(crate) fn connect(operation: Operation, peer: impl fmt::Display, source: Source) -> Self {
        let message = format!("cannot connect to {peer}");
        Self::new(ErrorKind::Connect, operation, message).with_source(source)
    }

    /// Says what to change about a connection that cannot be established otherwise, so that retrying
    /// is pointless.
    pub(crate) fn with_hint(self, hint: Option<&'static str>) -> Self {
        self.with(|error| error.hint = hint)
    }

    pub(crate) fn transport(operation: Operation, source: Source) -> Self {
        Self::new(ErrorKind::Transport, operation, "connection lost").with_source(source)
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
        Self::new(ErrorKind::Timeout, operation, message).with_source(source)
    }

    pub(crate) fn api(operation: Operation, response: ErrorResponse) -> Self {
        let message = DisplayErrorResponse(&response).to_string();
        Self::new(ErrorKind::Api, operation, message).with_response(response)
    }

    pub(crate) fn decode(operation: Operation, message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorKind::Decode, operation, message)
    }

    /// A response that cannot be used, with what the server says in it and the start of its body.
    pub(crate) fn invalid_response(
        operation: Operation,
        message: &str,
        server_message: Option<String>,
        status: Option<u16>,
        body: String,
    ) -> Self {
        let words = server_message.as_ref().map(|words| format!(": {words}"));
        let message = [message, words.as_deref().unwrap_or_default()].concat();
        let response =
            ErrorResponse { status, message: server_message, body, ..ErrorResponse::default() };
        Self::decode(operation, message).with_response(response)
    }

    pub(crate) fn create_unknown(source: Error) -> Self {
        let message = "no usable response was received; the generation may exist and be billed";
        let error = Self::new(ErrorKind::CreateUnknown, Operation::Create, message);
        error.with_source(source).not_idempotent()
    }

    pub(crate) fn generation_failed(operation: Operation, reason: String) -> Self {
        let message = format!("the generation failed and is not charged: {reason}");
        let response = ErrorResponse { message: Some(reason), ..ErrorResponse::default() };
        Self::new(ErrorKind::GenerationFailed, operation, message).with_response(response)
    }

    /// Canceled, expired, moderated, or failed after it was completed: not documented as free.
    pub(crate) fn generation_ended(operation: Operation, reason: String) -> Self {
        let message =
            format!("the generation ended without a video and may have been charged: {reason}");
        Self::generation_failed(operation, reason)
            .may_be_billed()
            .with(|error| error.message = message.into())
    }

    pub(crate) fn wait_timeout(elapsed: Duration, source: Option<Error>) -> Self {
        let message = format!("timed out after {}", DisplayDuration(elapsed));
        Self::new(ErrorKind::WaitTimeout, Operation::Wait, message)
            .with(|error| error.source = source.map(Source::from))
    }

    pub(crate) fn cancelled(operation: Operation) -> Self {
        Self::new(ErrorKind::Cancelled, operation, "cancelled")
    }

    /// `journal` is what the message calls it.
    pub(crate) fn journal(journal: &str, message: impl AsRef<str>) -> Self {
        let message = format!("{journal}: {}", message.as_ref());
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

    /// `message` says what could not be done; the operating system's reason is the source.
    pub(crate) fn io(
        operation: Operation,
        path: Option<PathBuf>,
        message: impl Into<Cow<'static, str>>,
        source: io::Error,
    ) -> Self {
        let message = message.into();
        let message = match path {
            Some(path) => format!("{}: {message}", path.display()).into(),
            None => message,
        };
        Self::new(ErrorKind::Io, operation, message).with_source(source)
    }

    pub(crate) fn not_attempted(reason: &str) -> Self {
        let message = format!("not attempted: {reason}");
        Self::new(ErrorKind::NotAttempted, Operation::GenerateAllTo, message)
    }

    pub(crate) fn with_operation(self, operation: Operation) -> Self {
        self.with(|error| error.operation = operation)
    }

    pub(crate) fn with_id(self, id: &GenerationId) -> Self {
        self.with(|error| error.id = Some(id.clone()))
    }

    pub(crate) fn with_generation(self, generation: Box<Generation>) -> Self {
        self.with(|error| {
            error.id.get_or_insert_with(|| generation.id.clone());
            error.generation = Some(generation);
        })
    }

    pub(crate) fn with_client_request_id(self, id: &str) -> Self {
        self.with(|error| error.client_request_id = Some(id.to_owned()))
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
