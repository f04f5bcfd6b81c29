//! The text of errors: what was being done, what is wrong, and the next step.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::operation::Operation;
use crate::redact::sanitize;

use super::{ApiError, Error, ErrorKind, ErrorRepr};

impl Error {
    /// What was being done, where the rest of the message does not imply it.
    fn write_activity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorRepr as E;
        match self.0.repr {
            E::Config { .. } | E::InvalidRequest { .. } | E::GenerationLimit { .. } => Ok(()),
            E::Connect { .. } | E::Cancelled | E::Journal { .. } | E::Io { .. } => Ok(()),
            _ => match (self.0.operation, &self.0.id) {
                (Operation::Create, id) if id.is_none() || self.0.not_created => {
                    f.write_str("creating a generation: ")
                }
                (Operation::Create, Some(id)) => write!(f, "creating generation `{id}`: "),
                (Operation::Retrieve, Some(id)) => write!(f, "retrieving generation `{id}`: "),
                (Operation::Wait, Some(id)) => write!(f, "waiting for generation `{id}`: "),
                (Operation::Download, Some(id)) => write!(f, "downloading generation `{id}`: "),
                (Operation::Find, _) => f.write_str("searching the request log: "),
                (Operation::Balance, _) => f.write_str("reading the balance: "),
                (operation, Some(id)) => write!(f, "{operation}, generation `{id}`: "),
                (operation, None) => write!(f, "{operation}: "),
            },
        }
    }

    fn write_attempts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.0.attempts;
        match (&self.0.repr, &self.0.id) {
            (ErrorRepr::Cancelled, _) => Ok(()),
            (ErrorRepr::WaitTimeout { status, .. }, Some(_)) => {
                match status {
                    Some(status) => write!(f, " (last status: {}", sanitize(status.as_str()))?,
                    None => f.write_str(" (no status received")?,
                }
                write!(f, ", {attempts} {})", if attempts == 1 { "poll" } else { "polls" })
            }
            _ if attempts > 1 => write!(f, " (after {attempts} attempts)"),
            _ => Ok(()),
        }
    }

    fn write_next_step(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let resumable = self.0.resumable;
        let again = if resumable { "call generate_to again" } else { "call wait again" };
        match (&self.0.repr, &self.0.id) {
            (ErrorRepr::Connect { hint: Some(hint), .. }, _) => write!(f, "; {hint}"),
            (ErrorRepr::Api(error), _) => {
                if error.status == 401 && self.0.operation != Operation::Download {
                    f.write_str("; check the API key")?;
                } else if error.is_out_of_credits() {
                    f.write_str("; top up the account")?;
                } else if error.status == 404 && self.0.operation == Operation::Wait {
                    f.write_str("; the API does not know this generation id")?;
                }
                match error.retry_after {
                    Some(delay) => write!(f, "; try again in {}", DisplayDuration(delay)),
                    None => Ok(()),
                }
            }
            (ErrorRepr::CreateUnknown { .. }, Some(id)) if !resumable => {
                write!(f, "; wait for generation `{id}`")
            }
            (ErrorRepr::CreateUnknown { .. }, Some(_)) => write!(f, "; {again}"),
            (ErrorRepr::CreateUnknown { .. }, None) if resumable => f.write_str(
                "; call generate_to again later to search for it, or abandon it with \
                 FileJournal::abandon to pay for a new generation",
            ),
            (ErrorRepr::CreateUnknown { .. }, None) => match &self.0.client_request_id {
                Some(id) => write!(f, "; search for it with find(\"{id}\") before creating again"),
                None => Ok(()),
            },
            (ErrorRepr::GenerationEnded { .. }, _) if resumable => {
                f.write_str("; abandon it with FileJournal::abandon to pay for a new generation")
            }
            (ErrorRepr::WaitTimeout { .. }, Some(_)) => {
                write!(f, "; it may still be running and be billed; {again}")
            }
            (ErrorRepr::WaitTimeout { .. }, None) => write!(f, "; {again}"),
            (ErrorRepr::Cancelled, Some(id)) if self.0.operation == Operation::Download => {
                let again = if resumable { again } else { "call download again" };
                write!(f, "; generation `{id}` is complete: {again}")
            }
            (ErrorRepr::Cancelled, Some(id)) if !self.0.not_created => {
                write!(f, "; generation `{id}` may still be running and be billed: {again}")
            }
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_activity(f)?;
        let message = self.0.repr.to_string();
        f.write_str(&message)?;
        self.write_attempts(f)?;
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

pub(super) struct DisplayApiError<'a>(pub(super) &'a ApiError);

impl fmt::Display for DisplayApiError<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let error = self.0;
        write!(f, "server returned HTTP {}", error.status)?;
        if let Some(message) = &error.message {
            write!(f, ": {message}")?;
        }
        if let Some(id) = &error.request_id {
            write!(f, " (request id `{id}`)")?;
        }
        Ok(())
    }
}

pub(super) struct DisplayDuration(pub(super) Duration);

impl fmt::Display for DisplayDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.as_secs() {
            0..10 => write!(f, "{} ms", self.0.as_millis()),
            secs if secs.is_multiple_of(3600) => write!(f, "{} h", secs / 3600),
            secs if secs.is_multiple_of(60) => write!(f, "{} min", secs / 60),
            secs => write!(f, "{secs} s"),
        }
    }
}

pub(super) struct DisplayPath<'a>(pub(super) &'a Option<PathBuf>);

impl fmt::Display for DisplayPath<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(path) => write!(f, "{}: ", path.display()),
            None => Ok(()),
        }
    }
}
