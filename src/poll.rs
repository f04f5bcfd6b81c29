//! The poll loop that waits for a generation. I/O and time are injected, so that its tests need
//! neither sockets nor sleeps.

use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::generation::{Generation, GenerationError, GenerationId, Status, Video};
use crate::operation::Operation;
use crate::random::random;
use crate::request::VideoDuration;
use crate::retry::RetryPolicy;
use crate::text::sanitize;

/// A 404 within this time may mean that the generation is not visible yet: seen after a create.
const NOT_FOUND_GRACE: Duration = Duration::from_secs(60);

/// How long a completed generation may lack its URL.
const MISSING_URL_GRACE: Duration = Duration::from_secs(60);

/// When to poll a generation, and for how long.
///
/// ```
/// use kling_video::{VideoDuration, WaitOptions};
/// use std::time::Duration;
///
/// let long_wait = WaitOptions::new().timeout(Duration::from_secs(40 * 60));
/// let fewer_polls = WaitOptions::for_duration(VideoDuration::FiveSeconds);
/// # let _ = (long_wait, fewer_polls);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "options have no effect until they are given to a client"]
pub struct WaitOptions {
    pub(crate) initial_delay: Duration,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) threads: usize,
}

impl WaitOptions {
    /// The default options: a poll every 10 s, for at most 20 minutes.
    pub fn new() -> Self {
        Self {
            initial_delay: Duration::from_secs(10),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20 * 60),
            threads: 1,
        }
    }

    /// Options for a video of this duration: no polls before it can be ready, then one every 4 s.
    ///
    /// The initial delay is 3 minutes for 5 seconds of video and 6 minutes for 10, the shortest
    /// times that the API's docs give. A generation that ends earlier is noticed at the first poll.
    pub fn for_duration(duration: VideoDuration) -> Self {
        let minutes = match duration {
            VideoDuration::FiveSeconds => 3,
            VideoDuration::TenSeconds => 6,
        };
        Self::new()
            .initial_delay(Duration::from_secs(minutes * 60))
            .interval(Duration::from_secs(4))
    }

    /// Sets the delay before the first poll. Defaults to 10 s.
    pub fn initial_delay(self, delay: Duration) -> Self {
        Self { initial_delay: delay, ..self }
    }

    /// Sets the time between polls. Defaults to 10 s.
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Sets the maximum time to wait. Defaults to 20 minutes.
    ///
    /// [`wait`](crate::Client::wait) makes a last poll at the deadline.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the number of threads that [`wait_all`](crate::Client::wait_all) polls from. Defaults
    /// to 1, the calling thread; 0 means 1.
    ///
    /// One thread is enough while a poll takes less time than the interval divided by the number of
    /// generations.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// The I/O and the time that a wait needs.
pub(crate) struct Poller<'a> {
    pub(crate) retrieve: &'a (dyn Fn(&GenerationId) -> Result<Generation> + Sync),
    /// Returns false if the wait was cancelled before the time was up.
    pub(crate) sleep: &'a (dyn Fn(Duration) -> bool + Sync),
    /// The time since the wait started.
    pub(crate) now: &'a (dyn Fn() -> Duration + Sync),
    pub(crate) emit: &'a (dyn Fn(&GenerationId, EventKind<'_>) + Sync),
}

pub(crate) fn wait(
    id: &GenerationId,
    options: &WaitOptions,
    retry_policy: &RetryPolicy,
    poller: &Poller<'_>,
) -> Result<Video> {
    let mut state = PollState::new(id, options);
    loop {
        // The last poll is made exactly at the deadline.
        let poll_at = state.next_poll_at.min(options.timeout);
        if !(poller.sleep)(poll_at.saturating_sub((poller.now)())) {
            return Err(state.cancelled());
        }
        let result = (poller.retrieve)(id);
        let now = (poller.now)();
        if let Some(outcome) = state.on_result(result, now, options, retry_policy, poller.emit) {
            return outcome;
        }
        if now >= options.timeout {
            return Err(state.timed_out(now));
        }
    }
}

/// A generation that is being waited for: what is known of it, and when to poll it next.
pub(crate) struct PollState<'a> {
    id: &'a GenerationId,
    pub(crate) next_poll_at: Duration,
    poll_count: u32,
    consecutive_failures: u32,
    url_missing_since: Option<Duration>,
    last: Option<Box<Generation>>,
    last_error: Option<Error>,
}

/// What a state means for the wait.
enum Verdict {
    Pending,
    Ready,
    Failed(Error),
}

impl<'a> PollState<'a> {
    pub(crate) fn new(id: &'a GenerationId, options: &WaitOptions) -> Self {
        Self {
            id,
            next_poll_at: options.initial_delay,
            poll_count: 0,
            consecutive_failures: 0,
            url_missing_since: None,
            last: None,
            last_error: None,
        }
    }

    pub(crate) fn id(&self) -> &'a GenerationId {
        self.id
    }

    /// Processes a poll's result: the outcome of the wait, or `None` and a new `next_poll_at`.
    pub(crate) fn on_result(
        &mut self,
        result: Result<Generation>,
        now: Duration,
        options: &WaitOptions,
        retry_policy: &RetryPolicy,
        emit: &dyn Fn(&GenerationId, EventKind<'_>),
    ) -> Option<Result<Video>> {
        self.poll_count = self.poll_count.saturating_add(1);
        match result {
            Ok(generation) => self.on_generation(generation, now, options, emit),
            Err(error) if error.kind() == ErrorKind::Cancelled => Some(Err(self.cancelled())),
            Err(error) if is_permanent(&error, now) => {
                Some(Err(self.with_context(error.with_operation(Operation::Wait))))
            }
            Err(error) => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                let attempt = self.consecutive_failures;
                let delay =
                    retry_policy.next_delay(attempt, &error, random()).unwrap_or_else(|| {
                        options.interval.max(error.retry_after().unwrap_or_default())
                    });
                let operation = Operation::Wait;
                emit(self.id, EventKind::Retrying { operation, attempt, delay, error: &error });
                self.next_poll_at = now.saturating_add(delay);
                self.last_error = Some(error);
                None
            }
        }
    }

    fn on_generation(
        &mut self,
        mut generation: Generation,
        now: Duration,
        options: &WaitOptions,
        emit: &dyn Fn(&GenerationId, EventKind<'_>),
    ) -> Option<Result<Video>> {
        self.consecutive_failures = 0;
        self.last_error = None;
        self.next_poll_at = self.next_poll_at.saturating_add(options.interval).max(now);
        let verdict = self.evaluate(&generation, now);
        let is_last = !matches!(verdict, Verdict::Pending) || now >= options.timeout;
        let next_poll =
            (!is_last).then(|| self.next_poll_at.min(options.timeout).saturating_sub(now));
        emit(self.id, EventKind::Polled { generation: &generation, elapsed: now, next_poll });
        if let Verdict::Ready = verdict {
            return generation.video.take().map(Ok);
        }
        self.last = Some(Box::new(generation));
        match verdict {
            Verdict::Failed(error) => Some(Err(self.with_context(error))),
            _ => None,
        }
    }

    fn evaluate(&mut self, generation: &Generation, now: Duration) -> Verdict {
        match &generation.status {
            // Completed with a video is success, whatever `error` says.
            Status::Completed if generation.video.is_some() => Verdict::Ready,
            Status::Completed => {
                let since = *self.url_missing_since.get_or_insert(now);
                if now.saturating_sub(since) < MISSING_URL_GRACE {
                    return Verdict::Pending;
                }
                let message = "the generation is completed but has no video URL";
                Verdict::Failed(Error::decode(Operation::Wait, message))
            }
            Status::Error => {
                let reason = generation.error.as_ref().map_or("no reason given".into(), reason);
                Verdict::Failed(Error::generation_failed(Operation::Wait, reason))
            }
            _ => Verdict::Pending,
        }
    }

    pub(crate) fn timed_out(&mut self, now: Duration) -> Error {
        let status = self.last.as_ref().map(|generation| generation.status.clone());
        let error = Error::wait_timeout(now, status, self.last_error.take());
        self.with_context(error)
    }

    pub(crate) fn cancelled(&mut self) -> Error {
        self.with_context(Error::cancelled(Operation::Wait))
    }

    /// Every error of a wait carries the generation's id and last state.
    fn with_context(&mut self, error: Error) -> Error {
        let error = error.with_id(self.id).with_attempts(self.poll_count.max(1));
        match self.last.take() {
            Some(generation) => error.with_generation(generation),
            None => error,
        }
    }
}

fn reason(error: &GenerationError) -> String {
    match &error.name {
        Some(name) => format!("{}: {}", sanitize(name), sanitize(&error.message)),
        None => sanitize(&error.message),
    }
}

/// Whether further polls cannot help: network failures are transient, most error responses are not.
fn is_permanent(error: &Error, now: Duration) -> bool {
    match error.kind() {
        ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout | ErrorKind::Decode => false,
        ErrorKind::Api if error.status() == Some(404) => now >= NOT_FOUND_GRACE,
        ErrorKind::Api => !error.is_transient(),
        _ => true,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::ApiError;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// A clock that advances only when a test sleeps or a poll takes time.
    #[derive(Default)]
    pub(crate) struct VirtualClock(Mutex<Duration>);

    impl VirtualClock {
        pub(crate) fn now(&self) -> Duration {
            *self.0.lock().unwrap()
        }

        pub(crate) fn advance(&self, by: Duration) {
            let mut now = self.0.lock().unwrap();
            *now = now.saturating_add(by);
        }
    }

    pub(crate) fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    pub(crate) fn id(text: &str) -> GenerationId {
        text.parse().unwrap()
    }

    pub(crate) fn generation(json: &str) -> Result<Generation> {
        Ok(serde_json::from_str(json).unwrap())
    }

    pub(crate) fn pending() -> Result<Generation> {
        generation(r#"{"id":"a","status":"generating"}"#)
    }

    pub(crate) fn completed() -> Result<Generation> {
        generation(
            r#"{"id":"a","status":"completed","video":{"url":"https://x/a.mp4"},"error":"?"}"#,
        )
    }

    pub(crate) fn error_response(status: u16, retry_after: Option<Duration>) -> Result<Generation> {
        Err(Error::api(
            Operation::Retrieve,
            ApiError { status, retry_after, ..ApiError::default() },
        ))
    }

    /// Waits in virtual time. `poll` gets the time of each poll; all of them are returned, in s.
    fn wait_virtually(
        options: &WaitOptions,
        poll: impl Fn(Duration) -> Result<Generation> + Sync,
    ) -> (Result<Video>, Vec<u64>) {
        let clock = VirtualClock::default();
        let polls = Mutex::new(Vec::new());
        let poller = Poller {
            retrieve: &|_| {
                polls.lock().unwrap().push(clock.now().as_secs());
                poll(clock.now())
            },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            emit: &|_, _| {},
        };
        let retry_policy = RetryPolicy::new().base_delay(Duration::ZERO);
        let outcome = wait(&id("a"), options, &retry_policy, &poller);
        (outcome, polls.into_inner().unwrap())
    }

    fn after(
        time: u64,
        outcome: fn() -> Result<Generation>,
    ) -> impl Fn(Duration) -> Result<Generation> {
        move |now| if now >= secs(time) { outcome() } else { pending() }
    }

    #[test]
    fn polls_are_evenly_spaced_until_the_video_is_ready() {
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), after(35, completed));
        assert_eq!(outcome.unwrap().url, "https://x/a.mp4");
        assert_eq!(polls, [10, 20, 30, 40]);
    }

    #[test]
    fn wait_options_for_duration_start_late_and_poll_often() {
        let five = WaitOptions::for_duration(VideoDuration::FiveSeconds);
        assert_eq!(wait_virtually(&five, after(190, completed)).1, [180, 184, 188, 192]);
        let ten = WaitOptions::for_duration(VideoDuration::TenSeconds);
        assert_eq!(wait_virtually(&ten, after(10, completed)).1, [360]);
    }

    #[test]
    fn last_poll_is_at_the_deadline_and_the_error_says_how_to_continue() {
        let options = WaitOptions::new().timeout(secs(25));
        let (outcome, polls) = wait_virtually(&options, |_| pending());
        assert_eq!(polls, [10, 20, 25]);
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WaitTimeout);
        assert_eq!(error.generation().unwrap().status, Status::Generating);
        assert!(error.is_retryable() && error.may_have_been_billed());
        let message = error.to_string();
        assert!(
            message.contains(
                "generation `a`: timed out after 25 s (last status: generating, 3 polls)"
            ),
            "{message}"
        );
        assert!(message.ends_with("call wait again"), "{message}");
        let in_time = wait_virtually(&options, after(25, completed));
        assert!(in_time.0.is_ok());
    }

    #[test]
    fn poll_that_ends_after_the_deadline_is_the_last() {
        let clock = VirtualClock::default();
        let poll_count = Mutex::new(0);
        let poller = Poller {
            retrieve: &|_| {
                *poll_count.lock().unwrap() += 1;
                clock.advance(secs(60));
                pending()
            },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            emit: &|_, _| {},
        };
        let options = WaitOptions::new().timeout(secs(11));
        assert!(wait(&id("a"), &options, &RetryPolicy::new(), &poller).is_err());
        assert_eq!((*poll_count.lock().unwrap(), clock.now()), (1, secs(70)));
    }

    #[test]
    fn zero_and_maximum_durations_are_accepted() {
        let zero = WaitOptions::new().timeout(Duration::ZERO);
        assert_eq!(wait_virtually(&zero, |_| pending()).1, [0]);
        let maximal = WaitOptions::new()
            .initial_delay(Duration::MAX)
            .interval(Duration::MAX)
            .timeout(Duration::MAX);
        let (outcome, polls) = wait_virtually(&maximal, |_| pending());
        assert_eq!((outcome.is_err(), polls), (true, vec![u64::MAX]));
    }

    #[test]
    fn transient_errors_do_not_end_the_wait_and_permanent_ones_do() {
        for status in [408, 425, 429, 500, 502, 503, 504, 524] {
            let poll =
                |now| if now < secs(20) { error_response(status, None) } else { completed() };
            assert!(wait_virtually(&WaitOptions::new(), poll).0.is_ok(), "{status}");
        }
        for status in [301, 400, 401, 403, 410, 422] {
            let (outcome, polls) =
                wait_virtually(&WaitOptions::new(), |_| error_response(status, None));
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
            assert_eq!((error.operation(), polls.len()), (Operation::Wait, 1));
            assert_eq!(error.generation_id(), Some(&id("a")));
        }
        let unreadable = |now| match now < secs(20) {
            true => Err(Error::decode(Operation::Retrieve, "not JSON")),
            false => completed(),
        };
        assert!(wait_virtually(&WaitOptions::new(), unreadable).0.is_ok());
    }

    #[test]
    fn not_found_is_retried_for_a_minute() {
        let hidden = |now| if now < secs(50) { error_response(404, None) } else { completed() };
        assert!(wait_virtually(&WaitOptions::new(), hidden).0.is_ok());
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), |_| error_response(404, None));
        assert_eq!(outcome.unwrap_err().status(), Some(404));
        assert_eq!(polls.last(), Some(&60));
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_deadline() {
        let options = WaitOptions::new();
        let busy = |now| match now < secs(20) {
            true => error_response(429, Some(secs(300))),
            false => completed(),
        };
        let (outcome, polls) = wait_virtually(&options, busy);
        assert!(outcome.is_ok());
        assert_eq!(polls, [10, 310]);
        let (outcome, polls) =
            wait_virtually(&options, |_| error_response(429, Some(Duration::MAX)));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::WaitTimeout);
        assert_eq!(polls, [10, 1200]);
    }

    #[test]
    fn missing_video_url_is_retried_for_a_minute() {
        let without_url = || generation(r#"{"id":"a","status":"completed"}"#);
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), |_| without_url());
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Decode, true));
        assert_eq!(polls.last(), Some(&70));
        let late = |now| if now < secs(60) { without_url() } else { completed() };
        assert!(wait_virtually(&WaitOptions::new(), late).0.is_ok());
    }

    #[test]
    fn failed_generation_is_not_billed() {
        let failed = |_| {
            generation(
                r#"{"id":"a","status":"failed","error":{"name":"Nsfw","message":"rejected"}}"#,
            )
        };
        let error = wait_virtually(&WaitOptions::new(), failed).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert_eq!(error.server_message(), Some("Nsfw: rejected"));
        assert!(!error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(error.generation().unwrap().status, Status::Error);
    }

    #[test]
    fn polled_events_announce_the_next_poll() {
        let clock = VirtualClock::default();
        let next_polls = Mutex::new(Vec::new());
        let poller = Poller {
            retrieve: &|_| if clock.now() < secs(20) { pending() } else { completed() },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            emit: &|_, kind| {
                if let EventKind::Polled { elapsed, next_poll, .. } = kind {
                    next_polls.lock().unwrap().push((elapsed, next_poll));
                }
            },
        };
        let wait = |options| wait(&id("a"), &options, &RetryPolicy::new(), &poller);
        wait(WaitOptions::new().interval(secs(7))).unwrap();
        wait(WaitOptions::new().timeout(secs(20))).unwrap();
        let expected = [(10, Some(7)), (17, Some(7)), (24, None), (24, None)];
        let expected = expected.map(|(elapsed, next)| (secs(elapsed), next.map(secs)));
        assert_eq!(*next_polls.lock().unwrap(), expected);
    }

    #[test]
    fn cancelled_wait_reports_the_last_state() {
        let sleeps = AtomicU32::new(0);
        let poller = Poller {
            retrieve: &|_| pending(),
            sleep: &|_| sleeps.fetch_add(1, Ordering::Relaxed) < 2,
            now: &|| Duration::ZERO,
            emit: &|_, _| {},
        };
        let outcome = wait(&id("a"), &WaitOptions::new(), &RetryPolicy::new(), &poller);
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 2));
        assert_eq!(error.generation().unwrap().status, Status::Generating);
    }
}
