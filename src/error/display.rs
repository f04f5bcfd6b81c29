//! The text of errors: what was being done, what is wrong, and the next step.

use std::fmt;
use std::time::Duration;

use crate::operation::Operation;
use crate::redact::sanitize;

use super::{Error, ErrorKind, Inner};

impl Error {
    /// Says in front of the message why the request was made.
    pub(crate) fn with_reason(self, reason: String) -> Self {
        self.with(|error| error.reason = Some(reason))
    }

    /// What was being done, where the rest of the message does not imply it.
    fn write_activity(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind as K;
        use Operation as O;
        let Inner { kind, operation, ref id, not_created, .. } = *self.0;
        // A generation that a rejection names is not the one that was to be created.
        let id = id.as_ref().filter(|_| operation != O::Create || !not_created);
        match (kind, operation, id) {
            (K::Config | K::InvalidRequest | K::GenerationLimit | K::NotAttempted, ..) => Ok(()),
            (K::Connect | K::Cancelled | K::Journal | K::Io, ..) => Ok(()),
            (_, O::Find, _) => f.write_str("searching the request log: "),
            (_, O::List, _) => f.write_str("reading the request log: "),
            (_, O::Pricing, _) => f.write_str("reading the price: "),
            (_, O::Balance, _) => f.write_str("reading the balance: "),
            (_, O::Create, None) => f.write_str("creating a generation: "),
            (_, O::Create, Some(id)) => write!(f, "creating generation `{id}`: "),
            (_, O::Retrieve, Some(id)) => write!(f, "retrieving generation `{id}`: "),
            (_, O::Wait, Some(id)) => write!(f, "waiting for generation `{id}`: "),
            (_, O::Download, Some(id)) => write!(f, "downloading generation `{id}`: "),
            (_, other, Some(id)) => write!(f, "{other}, generation `{id}`: "),
            (_, other, None) => write!(f, "{other}: "),
        }
    }

    fn write_attempts(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let attempts = self.0.attempts;
        match (self.0.kind, &self.0.id) {
            // Those of a failed generation are polls, not attempts to generate it.
            (ErrorKind::Cancelled | ErrorKind::GenerationFailed, _) => Ok(()),
            (ErrorKind::WaitTimeout, Some(_)) => {
                let status = match self.generation() {
                    Some(last) => format!("last status: {}", sanitize(last.status.as_str())),
                    None => "no status received".to_owned(),
                };
                let polls = if attempts == 1 { "poll" } else { "polls" };
                write!(f, " ({status}, {attempts} {polls})")
            }
            _ if attempts > 1 => write!(f, " (after {attempts} attempts)"),
            _ => Ok(()),
        }
    }

    /// What the status of an error response means.
    fn api_hint(&self) -> Option<&'static str> {
        let Inner { operation, not_created, .. } = *self.0;
        // The host of the video never sees the key; only the API gives a fresh URL.
        let is_from_api = operation != Operation::Download || self.0.reason.is_some();
        match self.status()? {
            401 if is_from_api => Some("check the API key"),
            _ if self.is_out_of_credits() => {
                Some("check the account's balance() and the spending limit of its API key")
            }
            404 if operation == Operation::Wait => Some("the API does not know this generation id"),
            300..=399 if not_created => Some("redirects are not followed: check base_url"),
            403 | 404 if not_created && !self.has_vendor_marks() => {
                Some("a gateway or proxy may have sent this: check base_url and the body")
            }
            _ => None,
        }
    }

    fn next_step(&self) -> Option<String> {
        use ErrorKind as K;
        let Inner { kind, operation, ref id, resumable, .. } = *self.0;
        let is_download = operation == Operation::Download && id.is_some();
        let call = if is_download { Operation::Download } else { Operation::Wait };
        let again = format!("call {} again", resumable.unwrap_or(call));
        let journal = match resumable {
            Some(Operation::GenerateRecorded) => "Journal",
            _ => "FileJournal",
        };
        let abandon = || format!("abandon it with {journal}::abandon to pay for a new generation");
        Some(match (kind, id, resumable) {
            // Not about a response: what was downloaded is not the video, for example.
            (K::Decode, ..) if self.status().is_none() => return None,
            // A download that failed loses nothing, which its reason alone does not say.
            (K::Api | K::Decode | K::Transport | K::Timeout | K::WaitTimeout, ..)
                if is_download =>
            {
                format!("the generation is complete: {again}")
            }
            (K::CreateUnknown, Some(id), None) => format!("wait for generation `{id}`"),
            (K::CreateUnknown, None, None) => {
                let id = self.client_request_id()?;
                format!("search for it with find(\"{id}\") before creating again")
            }
            (K::CreateUnknown, None, Some(_)) => {
                format!("{again} later to search for it, or {}", abandon())
            }
            (K::GenerationFailed, _, Some(_)) if self.0.may_be_billed => abandon(),
            (K::WaitTimeout, Some(_), _) => {
                format!("it may still be running and be billed; {again}")
            }
            (K::CreateUnknown | K::WaitTimeout, ..) => again,
            (K::Cancelled, Some(id), _) if is_download => {
                format!("generation `{id}` is complete: {again}")
            }
            (K::Cancelled, Some(id), _) if !self.0.not_created => {
                format!("generation `{id}` may still be running and be billed: {again}")
            }
            _ => return None,
        })
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use ErrorKind as K;
        let Inner { kind, ref reason, ref message, ref id, not_created, .. } = *self.0;
        self.write_activity(f)?;
        if let Some(reason) = reason {
            write!(f, "{reason}: ")?;
        }
        f.write_str(message)?;
        self.write_attempts(f)?;
        if let (K::CreateUnknown | K::WaitTimeout, Some(words)) = (kind, self.server_message()) {
            write!(f, "; the server says: {words}")?;
        }
        if not_created {
            f.write_str("; nothing was created")?;
        }
        match (kind, id) {
            (_, Some(id)) if not_created => {
                write!(f, ", although a response named generation `{id}`")?;
            }
            (K::Connect | K::Journal | K::Io, Some(id)) if !message.contains(id.as_str()) => {
                write!(f, " (generation `{id}`)")?;
            }
            _ => {}
        }
        let hint = match kind {
            K::Api => self.api_hint(),
            _ => self.0.hint,
        };
        let delay = self.retry_after().filter(|_| kind == K::Api);
        let delay = delay.map(|delay| format!("try again in {}", display_duration(delay)));
        let steps = [hint.map(str::to_owned), delay, self.next_step()];
        steps.iter().flatten().try_for_each(|step| write!(f, "; {step}"))
    }
}

pub(super) fn display_duration(duration: Duration) -> String {
    match duration.as_secs() {
        0..10 => format!("{} ms", duration.as_millis() as u64),
        secs if secs.is_multiple_of(3600) => format!("{} h", secs / 3600),
        secs if secs.is_multiple_of(60) => format!("{} min", secs / 60),
        secs => format!("{secs} s"),
    }
}
