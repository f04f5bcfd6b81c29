//! The sleep loop that waits for a generation, over closures: it sees neither sockets nor clocks,
//! so that its tests need no time.

use std::time::Duration;

use crate::cancel::CancelToken;
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::generation::{Generation, GenerationError, GenerationId, Status, Video};
use crate::random::random;
use crate::request::VideoLength;
use crate::retry::RetryPolicy;

/// For so long a "not found" may mean "not visible yet": it is seen right after a create.
const NOT_VISIBLE_YET: Duration = Duration::from_secs(60);

/// For so long a finished generation may have no link yet.
const NO_LINK_YET: Duration = Duration::from_secs(60);

/// How to wait for a generation.
///
/// ```
/// use kling_video::{VideoLength, WaitOptions};
/// use std::time::Duration;
///
/// let patient = WaitOptions::new().timeout(Duration::from_secs(40 * 60));
/// let precise = WaitOptions::for_length(VideoLength::FiveSeconds);
/// # let _ = (patient, precise);
/// ```
#[derive(Clone, Debug)]
#[must_use = "options do nothing until a call gets them"]
pub struct WaitOptions {
    pub(crate) first_poll_after: Duration,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) threads: usize,
    pub(crate) cancel: Option<CancelToken>,
}

impl WaitOptions {
    /// Looks after 10 s and then every 10 s, for at most 20 minutes.
    pub fn new() -> Self {
        Self {
            first_poll_after: Duration::from_secs(10),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20 * 60),
            threads: 1,
            cancel: None,
        }
    }

    /// Looks later first and then oftener: from the documented 3 to 4 minutes for 5 seconds of
    /// video and 6 to 8 for 10, every 4 s. A generation that ends earlier is only seen at the
    /// first look. At most 20 minutes, as [`new`](Self::new).
    pub fn for_length(length: VideoLength) -> Self {
        let minutes = match length {
            VideoLength::FiveSeconds => 3,
            VideoLength::TenSeconds => 6,
        };
        Self::new()
            .first_poll_after(Duration::from_secs(minutes * 60))
            .interval(Duration::from_secs(4))
    }

    /// After how long to look for the first time. Default: 10 s.
    pub fn first_poll_after(self, d: Duration) -> Self {
        Self { first_poll_after: d, ..self }
    }

    /// How long to wait between looks. Default: 10 s.
    pub fn interval(self, d: Duration) -> Self {
        Self { interval: d, ..self }
    }

    /// How long to wait in all; one last look is taken at the end. Default: 20 minutes.
    pub fn timeout(self, d: Duration) -> Self {
        Self { timeout: d, ..self }
    }

    /// How many threads [`wait_all`](crate::Client::wait_all) polls from. Default: 1, the calling
    /// one; 0 is taken as 1. One is enough while a poll takes less than the interval divided by
    /// the number of generations.
    pub fn threads(self, n: usize) -> Self {
        Self { threads: n, ..self }
    }

    /// A token that ends the wait from another thread. Default: none.
    pub fn cancel(self, token: CancelToken) -> Self {
        Self { cancel: Some(token), ..self }
    }
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// What a wait needs from outside.
pub(crate) struct Driver<'a> {
    /// Looks at a generation once.
    pub(crate) fetch: &'a (dyn Fn(&GenerationId) -> Result<Generation> + Sync),
    /// Sleeps, and says whether it slept to the end.
    pub(crate) sleep: &'a (dyn Fn(Duration) -> bool + Sync),
    /// The time since the wait began.
    pub(crate) now: &'a (dyn Fn() -> Duration + Sync),
    pub(crate) watch: &'a (dyn Fn(&Event<'_>) + Sync),
}

/// Waits for one generation.
pub(crate) fn wait(
    id: &GenerationId,
    options: &WaitOptions,
    retry: &RetryPolicy,
    driver: &Driver<'_>,
) -> Result<Video> {
    let mut turn = Turn::new(id, options);
    loop {
        // Clamped to the deadline, so that the last look is taken right there.
        let at = turn.due.min(options.timeout);
        if !(driver.sleep)(at.saturating_sub((driver.now)())) {
            return Err(turn.cancelled());
        }
        let looked = (driver.fetch)(id);
        let now = (driver.now)();
        if let Some(end) = turn.take(looked, now, options, retry, driver.watch) {
            return end;
        }
        if now >= options.timeout {
            return Err(turn.timed_out(now));
        }
    }
}

/// One generation that is waited for: what was seen of it and when to look next.
pub(crate) struct Turn<'a> {
    id: &'a GenerationId,
    pub(crate) due: Duration,
    looks: u32,
    /// Failed looks in a row.
    failures: u32,
    without_link_since: Option<Duration>,
    last: Option<Box<Generation>>,
    last_failure: Option<Error>,
}

impl<'a> Turn<'a> {
    pub(crate) fn new(id: &'a GenerationId, options: &WaitOptions) -> Self {
        Self {
            id,
            due: options.first_poll_after,
            looks: 0,
            failures: 0,
            without_link_since: None,
            last: None,
            last_failure: None,
        }
    }

    pub(crate) fn id(&self) -> &'a GenerationId {
        self.id
    }

    /// Takes in what a look has brought: the end of the wait, or else when to look next.
    pub(crate) fn take(
        &mut self,
        looked: Result<Generation>,
        now: Duration,
        options: &WaitOptions,
        retry: &RetryPolicy,
        watch: &dyn Fn(&Event<'_>),
    ) -> Option<Result<Video>> {
        self.looks = self.looks.saturating_add(1);
        match looked {
            Ok(generation) => {
                watch(&Event::Polled { generation: &generation, waited: now });
                self.failures = 0;
                self.last_failure = None;
                self.due = self.due.saturating_add(options.interval).max(now);
                self.judge(generation, now)
            }
            Err(error) if error.kind() == ErrorKind::Cancelled => Some(Err(self.cancelled())),
            Err(error) if is_final(&error, now) => Some(Err(self.dress(error.during("wait")))),
            Err(error) => {
                self.failures = self.failures.saturating_add(1);
                let after = retry.delay(self.failures, &error, random()).unwrap_or_else(|| {
                    options.interval.max(error.retry_after().unwrap_or_default())
                });
                watch(&Event::Retrying {
                    operation: "wait",
                    id: Some(self.id),
                    client_request_id: None,
                    attempt: self.failures,
                    after,
                    error: &error,
                });
                self.due = now.saturating_add(after);
                self.last_failure = Some(error);
                None
            }
        }
    }

    fn judge(&mut self, mut generation: Generation, now: Duration) -> Option<Result<Video>> {
        let end = match &generation.status {
            // Done is done, whatever `error` says.
            Status::Completed => match generation.video.take() {
                Some(video) => return Some(Ok(video)),
                None => {
                    let since = *self.without_link_since.get_or_insert(now);
                    (now.saturating_sub(since) >= NO_LINK_YET).then(|| {
                        Error::decode("wait", "the generation is completed but has no link")
                    })
                }
            },
            Status::Error => {
                let why =
                    generation.error.as_ref().map_or_else(|| "no reason given".into(), reason);
                Some(Error::generation_failed("wait", why))
            }
            _ => None,
        };
        self.last = Some(Box::new(generation));
        end.map(|error| Err(self.dress(error)))
    }

    pub(crate) fn timed_out(&mut self, now: Duration) -> Error {
        let status = self.last.as_ref().map(|generation| generation.status.clone());
        let error = Error::wait_timeout(now, status, self.last_failure.take());
        self.dress(error)
    }

    pub(crate) fn cancelled(&mut self) -> Error {
        self.dress(Error::cancelled("wait"))
    }

    /// Every error of a wait carries the id and the last state.
    fn dress(&mut self, error: Error) -> Error {
        let error = error.with_id(self.id).with_attempts(self.looks.max(1));
        match self.last.take() {
            Some(generation) => error.with_generation(*generation),
            None => error,
        }
    }
}

fn reason(error: &GenerationError) -> String {
    let message = crate::http::shorten(&error.message);
    match &error.name {
        Some(name) => format!("{name}: {message}"),
        None => message,
    }
}

/// Whether looking again cannot help. The way to the server may mend, a refusal does not.
fn is_final(error: &Error, now: Duration) -> bool {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout | ErrorKind::Decode => false,
        ErrorKind::Api if error.status() == Some(404) => now >= NOT_VISIBLE_YET,
        ErrorKind::Api => !error.is_transient(),
        _ => true,
    }
}
