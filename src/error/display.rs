//! The text of errors: what was being done, what is wrong, and the next step.

use std::fmt;
use std::time::Duration;

use crate::operation::Operation;
use crate::redact::sanitize;

use super::{Error, ErrorKind, ErrorResponse};

impl Error {
    /// Says in front of the message why the request was made.
    pub(crate) fn with_reason(self, reason: String) -> Self {
        self.with(|error| error.reason = Some(reason))
    }

    /// What was being done, where the rest of the message does not imply it.
    fn write_activity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind as K;
        match self.0.kind {
            K::Config | K::InvalidRequest | K::GenerationLimit | K::NotAttempted => Ok(()),
            K::Connect | K::Cancelled | K::Journal | K::Io => Ok(()),
            _ => match (self.0.operation, &self.0.id) {
                (Operation::Create, id) if id.is_none() || self.0.not_created => {
                    f.write_str("creating a generation: ")
                }
                (Operation::Create, Some(id)) => write!(f, "creating generation `{id}`: "),
                (Operation::Retrieve, Some(id)) => write!(f, "retrieving generation `{id}`: "),
                (Operation::Wait, Some(id)) => write!(f, "waiting for generation `{id}`: "),
                (Operation::Download, Some(id)) => write!(f, "downloading generation `{id}`: "),
                (Operation::Find, _) => f.write_str("searching the request log: "),
                (Operation::List, _) => f.write_str("reading the request log: "),
                (Operation::Pricing, _) => f.write_str("reading the price: "),
                (Operation::Balance, _) => f.write_str("reading the balance: "),
                (operation, Some(id)) => write!(f, "{operation}, generation `{id}`: "),
                (operation, None) => write!(f, "{operation}: "),
            },
        }
    }

    fn write_attempts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.0.attempts;
        match (self.0.kind, &self.0.id) {
            // Those of a failed generation are polls, not attempts to generate it.
            (ErrorKind::Cancelled | ErrorKind::GenerationFailed, _) => Ok(()),
            (ErrorKind::WaitTimeout, Some(_)) => {
                match self.generation().map(|generation| generation.status.as_str()) {
                    Some(status) => write!(f, " (last status: {}", sanitize(status))?,
                    None => f.write_str(" (no status received")?,
                }
                write!(f, ", {attempts} {})", if attempts == 1 { "poll" } else { "polls" })
            }
            _ if attempts > 1 => write!(f, " (after {attempts} attempts)"),
            _ => Ok(()),
        }
    }

    fn write_api_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The host of the video never sees the key; only the API gives a fresh URL.
        let is_from_api = self.0.operation != Operation::Download || self.0.reason.is_some();
        if self.status() == Some(401) && is_from_api {
            f.write_str("; check the API key")?;
        } else if self.is_out_of_credits() {
            f.write_str("; check the account's balance() and the spending limit of its API key")?;
        } else if self.status() == Some(404) && self.0.operation == Operation::Wait {
            f.write_str("; the API does not know this generation id")?;
        } else if self.0.not_created && matches!(self.status(), Some(300..400)) {
            f.write_str("; redirects are not followed: check base_url")?;
        } else if self.0.not_created
            && !self.has_vendor_marks()
            && matches!(self.status(), Some(403 | 404))
        {
            f.write_str("; a gateway or proxy may have sent this: check base_url and the body")?;
        }
        match self.retry_after() {
            Some(delay) => write!(f, "; try again in {}", DisplayDuration(delay)),
            None => Ok(()),
        }
    }

    /// A download that failed loses nothing, which its reason alone does not say.
    fn write_download_advice(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_permanent = self.0.kind == ErrorKind::Decode && self.status().is_none();
        if self.0.operation != Operation::Download || self.0.id.is_none() || is_permanent {
            return Ok(());
        }
        let again = self.0.resumable.unwrap_or(Operation::Download);
        write!(f, "; the generation is complete: call {again} again")
    }

    fn write_next_step(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumable = self.0.resumable.is_some();
        let again = format!("call {} again", self.0.resumable.unwrap_or(Operation::Wait));
        let journal = match self.0.resumable {
            Some(Operation::GenerateRecorded) => "Journal",
            _ => "FileJournal",
        };
        match (self.0.kind, &self.0.id) {
            (ErrorKind::Connect, _) => self.0.hint.map_or(Ok(()), |hint| write!(f, "; {hint}")),
            (ErrorKind::Api, _) => {
                self.write_api_advice(f)?;
                self.write_download_advice(f)
            }
            (ErrorKind::Decode | ErrorKind::Transport | ErrorKind::Timeout, _) => {
                self.write_download_advice(f)
            }
            (ErrorKind::CreateUnknown, Some(id)) if !resumable => {
                write!(f, "; wait for generation `{id}`")
            }
            (ErrorKind::CreateUnknown, Some(_)) => write!(f, "; {again}"),
            (ErrorKind::CreateUnknown, None) if resumable => write!(
                f,
                "; {again} later to search for it, or abandon it with {journal}::abandon to pay \
                 for a new generation",
            ),
            (ErrorKind::CreateUnknown, None) => match &self.0.client_request_id {
                Some(id) => write!(f, "; search for it with find(\"{id}\") before creating again"),
                None => Ok(()),
            },
            (ErrorKind::GenerationFailed, _) if resumable && self.0.may_be_billed => {
                write!(f, "; abandon it with {journal}::abandon to pay for a new generation")
            }
            (ErrorKind::WaitTimeout, Some(_)) if self.0.operation == Operation::Download => {
                self.write_download_advice(f)
            }
            (ErrorKind::WaitTimeout, Some(_)) => {
                write!(f, "; it may still be running and be billed; {again}")
            }
            (ErrorKind::WaitTimeout, None) => write!(f, "; {again}"),
            (ErrorKind::Cancelled, Some(id)) if self.0.operation == Operation::Download => {
                let again = if resumable { &again } else { "call download again" };
                write!(f, "; generation `{id}` is complete: {again}")
            }
            (ErrorKind::Cancelled, Some(id)) if !self.0.not_created => {
                write!(f, "; generation `{id}` may still be running and be billed: {again}")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_activity(f)?;
        if let Some(reason) = &self.0.reason {
            write!(f, "{reason}: ")?;
        }
        let message = &self.0.message;
        f.write_str(message)?;
        self.write_attempts(f)?;
        if let (ErrorKind::CreateUnknown | ErrorKind::WaitTimeout, Some(words)) =
            (self.kind(), self.server_message())
        {
            write!(f, "; the server says: {words}")?;
        }
        if let (ErrorKind::Connect | ErrorKind::Journal | ErrorKind::Io, Some(id)) =
            (self.kind(), &self.0.id)
            && !self.0.not_created
            && !message.contains(id.as_str())
        {
            write!(f, " (generation `{id}`)")?;
        }
        if self.0.not_created {
            f.write_str("; nothing was created")?;
            if let Some(id) = &self.0.id {
                write!(f, ", although a response named generation `{id}`")?;
            }
        }
        self.write_next_step(f)
    }
}

pub(super) struct DisplayErrorResponse<'a>(pub(super) &'a ErrorResponse);

impl fmt::Display for DisplayErrorResponse<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let response = self.0;
        write!(f, "server returned HTTP {}", response.status.unwrap_or_default())?;
        if let Some(message) = &response.message {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &response.request_id {
            write!(f, " (request id `{id}`)")?;
        }
        Ok(())
    }
}

pub(super) struct DisplayDuration(pub(super) Duration);

impl fmt::Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0..10 => write!(f, "{} ms", self.0.as_millis() as u64),
            secs if secs.is_multiple_of(3600) => write!(f, "{} h", secs / 3600),
            secs if secs.is_multiple_of(60) => write!(f, "{} min", secs / 60),
            secs => write!(f, "{secs} s"),
        }
    }
}
