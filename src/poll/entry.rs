//! What the responses about one generation prove, poll by poll.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::model::generation::{Generation, GenerationId, Status};
use crate::operation::Operation;
use crate::redact::sanitize;

/// For how long a 404 may mean that the generation is not visible yet: seen after a create.
const NOT_FOUND_GRACE: Duration = Duration::from_secs(60);

/// How long a completed generation may lack its URL.
const MISSING_URL_GRACE: Duration = Duration::from_secs(60);

/// A generation that is being waited for: what is known of it, and when to poll it next.
pub(super) struct Entry {
    pub(super) index: usize,
    pub(super) id: GenerationId,
    pub(super) started_at: Duration,
    pub(super) next_poll_at: Duration,
    /// The timeout, or later, if a failure is to be confirmed then.
    pub(super) deadline: Duration,
    pub(super) poll_count: u32,
    pub(super) consecutive_failures: u32,
    pub(super) is_known_to_exist: bool,
    pub(super) not_found_since: Option<Duration>,
    pub(super) url_missing_since: Option<Duration>,
    /// The last readable response says that the generation has failed.
    pub(super) is_reported_as_failed: bool,
    /// Some response says that it has ended in a way that is not documented as free.
    pub(super) may_be_charged: bool,
    pub(super) last: Option<Box<Generation>>,
    pub(super) last_error: Option<Error>,
}

impl Entry {
    pub(super) fn due_at(&self) -> Duration {
        self.next_poll_at.min(self.deadline)
    }

    /// How the generation has ended, if the readable responses so far prove that: `Ok` is completed
    /// with a video. A failure needs two in a row that report it: a single one may come from a stale
    /// or confused server, and giving up on it pays twice.
    pub(super) fn evaluate(
        &mut self,
        generation: &Generation,
        now: Duration,
        confirm_delay: Duration,
    ) -> Option<Result<()>> {
        let is_second = std::mem::take(&mut self.is_reported_as_failed);
        let url_missing_since = self.url_missing_since.take();
        let reason = reason(generation);
        match &generation.status {
            // Completed with a video is success, whatever `error` says.
            Status::Completed if generation.video.is_some() => return Some(Ok(())),
            Status::Completed => {
                self.may_be_charged = true;
                if reason.is_none() {
                    let since = *self.url_missing_since.insert(url_missing_since.unwrap_or(now));
                    if now.saturating_sub(since) < MISSING_URL_GRACE {
                        return None;
                    }
                    let message = "the generation is completed but has no video URL";
                    return Some(Err(Error::decode(Operation::Wait, message)));
                }
            }
            Status::Error => {}
            status if status.is_terminal() => self.may_be_charged = true,
            _ => return None,
        }
        if !is_second {
            self.is_reported_as_failed = true;
            self.next_poll_at = now.saturating_add(confirm_delay);
            self.deadline = self.deadline.max(self.next_poll_at);
            return None;
        }
        let reason = reason.unwrap_or_else(|| match &generation.status {
            Status::Other(status) => sanitize(status),
            _ => "no reason given".to_owned(),
        });
        Some(Err(Error::generation_failed(Operation::Wait, reason, self.may_be_charged)))
    }

    /// Whether further polls cannot help. An error response does so only with the vendor's marks:
    /// without them a gateway or a login page may have sent it.
    pub(super) fn is_permanent(&mut self, error: &Error, now: Duration) -> bool {
        match error.kind() {
            ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout | ErrorKind::Decode => {
                false
            }
            ErrorKind::Api if error.is_transient() || !error.has_vendor_marks() => false,
            ErrorKind::Api if error.status() == Some(404) => {
                let since = *self.not_found_since.get_or_insert(now);
                // One that is known to exist may become visible, but one that was completed was.
                let may_appear = self.is_known_to_exist && !self.may_be_charged;
                !may_appear && now.saturating_sub(since) >= NOT_FOUND_GRACE
            }
            _ => true,
        }
    }

    pub(super) fn timed_out(&mut self, now: Duration) -> Error {
        let elapsed = now.saturating_sub(self.started_at);
        let error = Error::wait_timeout(elapsed, self.last_error.take());
        self.with_context(error)
    }

    pub(super) fn cancelled(&mut self) -> Error {
        self.with_context(Error::cancelled(Operation::Wait))
    }

    /// Every error of a wait carries the generation's id and last state.
    pub(super) fn with_context(&mut self, error: Error) -> Error {
        let error = error.with_id(&self.id).with_attempts(self.poll_count.max(1));
        error.with_generation(self.last.take())
    }
}

/// The server's reason for a failure, if it gives one.
pub(super) fn reason(generation: &Generation) -> Option<String> {
    let error = generation.error.as_ref().filter(|error| !error.is_empty())?;
    Some(match &error.name {
        Some(name) => format!("{}: {}", sanitize(name), sanitize(&error.message)),
        None => sanitize(&error.message),
    })
}
