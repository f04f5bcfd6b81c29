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
use crate::text::shorten;

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
            Some(generation) => error.with_generation(generation),
            None => error,
        }
    }
}

fn reason(error: &GenerationError) -> String {
    match &error.name {
        Some(name) => format!("{}: {}", shorten(name), shorten(&error.message)),
        None => shorten(&error.message),
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::error::Refusal;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Time that passes only when somebody sleeps or a look takes some.
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

    pub(crate) fn done() -> Result<Generation> {
        generation(
            r#"{"id":"a","status":"completed","video":{"url":"https://x/a.mp4"},"error":"?"}"#,
        )
    }

    pub(crate) fn refused(status: u16, retry_after: Option<Duration>) -> Result<Generation> {
        Err(Error::api("retrieve", Refusal { status, retry_after, ..Refusal::default() }))
    }

    /// Waits in virtual time. `look` is given the time of each look; the times are returned.
    fn wait_virtually(
        options: &WaitOptions,
        look: impl Fn(Duration) -> Result<Generation> + Sync,
    ) -> (Result<Video>, Vec<u64>) {
        let clock = VirtualClock::default();
        let looks = Mutex::new(Vec::new());
        let driver = Driver {
            fetch: &|_| {
                looks.lock().unwrap().push(clock.now().as_secs());
                look(clock.now())
            },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            watch: &|_| {},
        };
        let retry = RetryPolicy::new().base_delay(Duration::ZERO);
        let end = wait(&id("a"), options, &retry, &driver);
        (end, looks.into_inner().unwrap())
    }

    fn after(
        time: u64,
        end: fn() -> Result<Generation>,
    ) -> impl Fn(Duration) -> Result<Generation> {
        move |now| if now >= secs(time) { end() } else { pending() }
    }

    #[test]
    fn it_looks_on_a_flat_schedule_until_the_video_is_there() {
        let (end, looks) = wait_virtually(&WaitOptions::new(), after(35, done));
        assert_eq!(end.unwrap().url, "https://x/a.mp4");
        assert_eq!(looks, [10, 20, 30, 40]);
    }

    #[test]
    fn the_preset_looks_late_and_then_often() {
        let five = WaitOptions::for_length(VideoLength::FiveSeconds);
        assert_eq!(wait_virtually(&five, after(190, done)).1, [180, 184, 188, 192]);
        let ten = WaitOptions::for_length(VideoLength::TenSeconds);
        assert_eq!(wait_virtually(&ten, after(10, done)).1, [360]);
    }

    #[test]
    fn the_last_look_is_at_the_deadline_and_the_error_says_how_to_go_on() {
        let options = WaitOptions::new().timeout(secs(25));
        let (end, looks) = wait_virtually(&options, |_| pending());
        assert_eq!(looks, [10, 20, 25]);
        let error = end.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WaitTimeout);
        assert_eq!(error.generation().unwrap().status, Status::Generating);
        assert!(error.is_retryable() && error.may_have_been_billed());
        assert!(error.to_string().contains("wait for `a` to resume"), "{error}");
        let in_time = wait_virtually(&options, after(25, done));
        assert!(in_time.0.is_ok());
    }

    #[test]
    fn a_look_that_passes_the_deadline_is_the_last() {
        let clock = VirtualClock::default();
        let looks = Mutex::new(0);
        let driver = Driver {
            fetch: &|_| {
                *looks.lock().unwrap() += 1;
                clock.advance(secs(60));
                pending()
            },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            watch: &|_| {},
        };
        let options = WaitOptions::new().timeout(secs(11));
        assert!(wait(&id("a"), &options, &RetryPolicy::new(), &driver).is_err());
        assert_eq!((*looks.lock().unwrap(), clock.now()), (1, secs(70)));
    }

    #[test]
    fn zero_and_endless_durations_are_taken_at_their_word() {
        let zero = WaitOptions::new().timeout(Duration::ZERO);
        assert_eq!(wait_virtually(&zero, |_| pending()).1, [0]);
        let endless = WaitOptions::new()
            .first_poll_after(Duration::MAX)
            .interval(Duration::MAX)
            .timeout(Duration::MAX);
        let (end, looks) = wait_virtually(&endless, |_| pending());
        assert_eq!((end.is_err(), looks), (true, vec![u64::MAX]));
    }

    #[test]
    fn what_may_pass_does_not_end_it_and_what_cannot_does() {
        for status in [408, 425, 429, 500, 502, 503, 504, 524] {
            let look = |now| if now < secs(20) { refused(status, None) } else { done() };
            assert!(wait_virtually(&WaitOptions::new(), look).0.is_ok(), "{status}");
        }
        for status in [301, 400, 401, 403, 410, 422] {
            let (end, looks) = wait_virtually(&WaitOptions::new(), |_| refused(status, None));
            let error = end.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
            assert_eq!((error.operation(), looks.len()), ("wait", 1));
            assert_eq!(error.generation_id(), Some(&id("a")));
        }
        let unreadable = |now| match now < secs(20) {
            true => Err(Error::decode("retrieve", "not JSON")),
            false => done(),
        };
        assert!(wait_virtually(&WaitOptions::new(), unreadable).0.is_ok());
    }

    #[test]
    fn not_found_means_not_visible_yet_for_a_minute() {
        let hidden = |now| if now < secs(50) { refused(404, None) } else { done() };
        assert!(wait_virtually(&WaitOptions::new(), hidden).0.is_ok());
        let (end, looks) = wait_virtually(&WaitOptions::new(), |_| refused(404, None));
        assert_eq!(end.unwrap_err().status(), Some(404));
        assert_eq!(looks.last(), Some(&60));
    }

    #[test]
    fn a_server_that_asks_for_time_gets_it() {
        let options = WaitOptions::new();
        let busy = |now| match now < secs(20) {
            true => refused(429, Some(secs(300))),
            false => done(),
        };
        let (end, looks) = wait_virtually(&options, busy);
        assert!(end.is_ok());
        assert_eq!(looks, [10, 310]);
        // Never past the deadline.
        let (end, looks) = wait_virtually(&options, |_| refused(429, Some(Duration::MAX)));
        assert_eq!(end.unwrap_err().kind(), ErrorKind::WaitTimeout);
        assert_eq!(looks, [10, 1200]);
    }

    #[test]
    fn a_finished_generation_has_a_minute_to_get_its_link() {
        let bare = || generation(r#"{"id":"a","status":"completed"}"#);
        let (end, looks) = wait_virtually(&WaitOptions::new(), |_| bare());
        let error = end.unwrap_err();
        assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Decode, true));
        assert_eq!(looks.last(), Some(&70));
        let late = |now| if now < secs(60) { bare() } else { done() };
        assert!(wait_virtually(&WaitOptions::new(), late).0.is_ok());
    }

    #[test]
    fn a_failed_generation_is_not_billed() {
        let failed = |_| {
            generation(
                r#"{"id":"a","status":"failed","error":{"name":"Nsfw","message":"refused"}}"#,
            )
        };
        let error = wait_virtually(&WaitOptions::new(), failed).0.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert_eq!(error.api_message(), Some("Nsfw: refused"));
        assert!(!error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(error.generation().unwrap().status, Status::Error);
    }

    #[test]
    fn cancelling_ends_the_sleep_with_the_last_state() {
        let sleeps = AtomicU32::new(0);
        let driver = Driver {
            fetch: &|_| pending(),
            sleep: &|_| sleeps.fetch_add(1, Ordering::Relaxed) < 2,
            now: &|| Duration::ZERO,
            watch: &|_| {},
        };
        let end = wait(&id("a"), &WaitOptions::new(), &RetryPolicy::new(), &driver);
        let error = end.unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 2));
        assert_eq!(error.generation().unwrap().status, Status::Generating);
    }
}
