//! The poll loop that waits for generations: a queue of polls, the one due first in front. I/O and
//! time are injected, so that its tests need neither sockets nor sleeps.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::model::generation::{Generation, GenerationId, Status, Video};
use crate::operation::Operation;
use crate::random::random;
use crate::redact::sanitize;
use crate::retry::RetryPolicy;
use crate::wait_options::WaitOptions;

/// For how long a 404 may mean that the generation is not visible yet: seen after a create.
const NOT_FOUND_GRACE: Duration = Duration::from_secs(60);

/// How long a completed generation may lack its URL.
const MISSING_URL_GRACE: Duration = Duration::from_secs(60);

/// A second response is requested no later than this when the first one says that the generation has
/// failed.
const MAX_CONFIRM_DELAY: Duration = Duration::from_secs(10);

/// One of several workers sleeps no longer than this before it checks whether another one has been
/// throttled, has panicked, or has added a generation.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// The I/O and the time that a wait needs.
pub(crate) trait Poller: Sync {
    fn retrieve(&self, id: &GenerationId) -> Result<Generation>;

    /// Returns false if the wait was cancelled before the time was up.
    fn sleep(&self, duration: Duration) -> bool;

    /// The time since the wait started.
    fn now(&self) -> Duration;

    /// Reports an event about the generation with this index.
    fn emit(&self, index: usize, id: &GenerationId, kind: EventKind<'_>);
}

/// What is known of a generation before it is polled.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Known<'a> {
    /// Nothing: the API may not know its id.
    Nothing,
    /// This call or its record created it.
    Created,
    /// This call created it, with this response.
    Response(&'a Generation),
    /// It was completed, and so it may have been charged, whatever the API says of it now.
    Completed,
}

/// Waits for all generations; the results are in input order.
pub(crate) fn wait_all(
    ids: &[GenerationId],
    known: Known<'_>,
    options: &WaitOptions,
    retry_policy: &RetryPolicy,
    poller: &dyn Poller,
) -> Vec<Result<Video>> {
    let queue = PollQueue::new(options, retry_policy, poller);
    for (index, id) in ids.iter().enumerate() {
        queue.push(index, Cow::Borrowed(id), known, options.initial_delay);
    }
    let results = Mutex::new(ids.iter().map(|_| None).collect::<Vec<_>>());
    // A single worker has nobody to watch.
    let max_sleep = if options.threads > 1 { MAX_SLEEP } else { Duration::MAX };
    // The polls that are in progress when the queue is empty return to the workers that make them.
    run_workers(options.threads.min(ids.len()), &|| {
        let _guard = queue.abort_on_panic();
        loop {
            match queue.step() {
                Step::Empty => return,
                Step::Polled => {}
                Step::Idle(delay) => queue.sleep(delay.min(max_sleep)),
                Step::Done(index, result) => {
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(slot) = results.get_mut(index) {
                        *slot = Some(result);
                    }
                }
            }
        }
    });
    results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
}

/// Runs `work` on this thread and on as many more as can be started, up to `count` in all.
pub(crate) fn run_workers(count: usize, work: &(dyn Fn() + Sync)) {
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, work).ok();
        let workers: Vec<_> = (1..count).filter_map(spawn).collect();
        work();
        for worker in workers {
            // The caller's event handler panicked: its panic belongs to the caller.
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
}

/// The generations that are being waited for. Workers share it, and each calls
/// [`step`](Self::step) in a loop.
pub(crate) struct PollQueue<'a> {
    options: &'a WaitOptions,
    retry_policy: &'a RetryPolicy,
    poller: &'a dyn Poller,
    /// The delay before a failure is confirmed.
    confirm_delay: Duration,
    state: Mutex<QueueState<'a>>,
}

#[derive(Default)]
struct QueueState<'a> {
    /// By index; those that are being polled are taken out.
    waiting: Vec<Option<Entry<'a>>>,
    /// When each waiting entry is due, and its index.
    due: BinaryHeap<Reverse<(Duration, usize)>>,
    /// No polls before this time: a 429 slows down all generations.
    throttled_until: Duration,
    cancelled: bool,
    /// A worker has panicked; the others exit, so that the panic is propagated at once.
    aborted: bool,
}

impl<'a> QueueState<'a> {
    fn put(&mut self, entry: Entry<'a>) {
        self.due.push(Reverse((entry.next_poll_at, entry.index)));
        if self.waiting.len() <= entry.index {
            self.waiting.resize_with(entry.index + 1, || None);
        }
        if let Some(slot) = self.waiting.get_mut(entry.index) {
            *slot = Some(entry);
        }
    }

    /// Takes the entry that is due first.
    fn take(&mut self) -> Option<Entry<'a>> {
        let Reverse((_, index)) = self.due.pop()?;
        self.waiting.get_mut(index)?.take()
    }
}

/// What a worker has done, or may do next.
pub(crate) enum Step {
    /// The wait of the generation with this index has ended.
    Done(usize, Result<Video>),
    Polled,
    /// Nothing is due before this time has passed.
    Idle(Duration),
    Empty,
}

impl<'a> PollQueue<'a> {
    pub(crate) fn new(
        options: &'a WaitOptions,
        retry_policy: &'a RetryPolicy,
        poller: &'a dyn Poller,
    ) -> Self {
        // No sooner than a retry: two responses at almost the same time prove no more than one.
        let confirm_delay = options.interval.max(retry_policy.base_delay).min(MAX_CONFIRM_DELAY);
        Self { options, retry_policy, poller, confirm_delay, state: Mutex::default() }
    }

    /// Adds a generation. Its timeout starts now.
    pub(crate) fn push(
        &self,
        index: usize,
        id: Cow<'a, GenerationId>,
        known: Known<'_>,
        initial_delay: Duration,
    ) {
        let now = self.poller.now();
        let mut entry = Entry::new(index, id, now);
        entry.next_poll_at = now.saturating_add(initial_delay);
        entry.deadline = now.saturating_add(self.options.timeout);
        entry.is_known_to_exist = !matches!(known, Known::Nothing);
        entry.may_be_charged = matches!(known, Known::Completed);
        if let Known::Response(generation) = known {
            entry.evaluate(generation, now, self.confirm_delay);
        }
        self.lock().put(entry);
    }

    /// Polls the generation that is due first, if one is.
    pub(crate) fn step(&self) -> Step {
        let mut state = self.lock();
        let (cancelled, throttled_until) = (state.cancelled, state.throttled_until);
        let Some(mut entry) = state.take().filter(|_| !state.aborted) else {
            return Step::Empty;
        };
        let due = entry.next_poll_at.max(throttled_until).min(entry.deadline);
        let delay = due.saturating_sub(self.poller.now());
        if !delay.is_zero() && !cancelled {
            state.put(entry);
            return Step::Idle(delay);
        }
        drop(state);
        let outcome = if cancelled { Some(Err(entry.cancelled())) } else { self.poll(&mut entry) };
        match outcome {
            Some(result) => Step::Done(entry.index, result),
            None => {
                self.lock().put(entry);
                Step::Polled
            }
        }
    }

    /// Sleeps before the next step.
    pub(crate) fn sleep(&self, delay: Duration) {
        if !self.poller.sleep(delay) {
            self.lock().cancelled = true;
        }
    }

    pub(crate) fn is_aborted(&self) -> bool {
        self.lock().aborted
    }

    /// Makes the other workers exit if this one panics.
    pub(crate) fn abort_on_panic(&self) -> impl Drop + use<'_, 'a> {
        AbortOnPanic(self)
    }

    /// The outcome of the entry's wait, or `None` to go on.
    fn poll(&self, entry: &mut Entry<'a>) -> Option<Result<Video>> {
        // Each generation is polled once at the deadline, but a long queue of slow polls must not
        // delay the return for much longer.
        let now = self.poller.now();
        if now > entry.deadline.saturating_add(self.options.interval.max(MAX_SLEEP)) {
            return Some(Err(entry.timed_out(now)));
        }
        let result = self.poller.retrieve(&entry.id);
        let now = self.poller.now();
        let throttled = matches!(&result, Err(error) if error.status() == Some(429));
        let outcome = self.on_result(entry, result, now);
        if throttled {
            let mut state = self.lock();
            state.throttled_until = state.throttled_until.max(entry.next_poll_at);
        }
        outcome.or_else(|| (now >= entry.deadline).then(|| Err(entry.timed_out(now))))
    }

    fn on_result(
        &self,
        entry: &mut Entry<'a>,
        result: Result<Generation>,
        now: Duration,
    ) -> Option<Result<Video>> {
        entry.poll_count = entry.poll_count.saturating_add(1);
        match result {
            Ok(generation) => self.on_generation(entry, generation, now),
            Err(error) if error.kind() == ErrorKind::Cancelled => Some(Err(entry.cancelled())),
            Err(error) if entry.is_permanent(&error, now) => {
                let is_gone = error.status() == Some(404) && entry.may_be_charged;
                let error = match is_gone {
                    true => {
                        let reason = "the API does not know it any more".to_owned();
                        Error::generation_ended(Operation::Wait, reason)
                    }
                    false => error.with_operation(Operation::Wait),
                };
                Some(Err(entry.with_context(error)))
            }
            Err(error) => {
                entry.consecutive_failures = entry.consecutive_failures.saturating_add(1);
                let attempt = entry.consecutive_failures;
                let delay = self.retry_policy.next_delay(attempt, &error, random());
                let delay = delay.unwrap_or_else(|| {
                    self.options.interval.max(error.retry_after().unwrap_or_default())
                });
                let operation = Operation::Wait;
                let kind = EventKind::Retrying { operation, attempt, delay, error: &error };
                self.poller.emit(entry.index, &entry.id, kind);
                entry.next_poll_at = now.saturating_add(delay);
                entry.last_error = Some(error);
                None
            }
        }
    }

    fn on_generation(
        &self,
        entry: &mut Entry<'a>,
        mut generation: Generation,
        now: Duration,
    ) -> Option<Result<Video>> {
        let Self { options, poller, .. } = self;
        entry.consecutive_failures = 0;
        entry.not_found_since = None;
        // Not an error yet, but if there is no other end, it says why.
        entry.last_error = reason(&generation).map(|reason| {
            let status = sanitize(generation.status.as_str());
            let message = format!("status `{status}` with an error");
            let (operation, body) = (Operation::Retrieve, String::new());
            Error::invalid_response(operation, &message, Some(reason), None, body, None)
                .with_id(&entry.id)
        });
        entry.next_poll_at = entry.next_poll_at.saturating_add(options.interval).max(now);
        let verdict = entry.evaluate(&generation, now, self.confirm_delay);
        let is_last = !matches!(verdict, Verdict::Pending) || now >= entry.deadline;
        let next_poll =
            (!is_last).then(|| entry.next_poll_at.min(entry.deadline).saturating_sub(now));
        let elapsed = now.saturating_sub(entry.started_at);
        let kind = EventKind::Polled { generation: &generation, elapsed, next_poll };
        poller.emit(entry.index, &entry.id, kind);
        if let Verdict::Ready = verdict {
            return generation.video.take().map(Ok);
        }
        entry.last = Some(Box::new(generation));
        match verdict {
            Verdict::Failed(error) => Some(Err(entry.with_context(error))),
            _ => None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, QueueState<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct AbortOnPanic<'s, 'a>(&'s PollQueue<'a>);

impl Drop for AbortOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().aborted = true;
        }
    }
}

/// A generation that is being waited for: what is known of it, and when to poll it next.
struct Entry<'a> {
    index: usize,
    id: Cow<'a, GenerationId>,
    started_at: Duration,
    next_poll_at: Duration,
    /// The timeout, or later, if a failure is to be confirmed then.
    deadline: Duration,
    poll_count: u32,
    consecutive_failures: u32,
    is_known_to_exist: bool,
    not_found_since: Option<Duration>,
    url_missing_since: Option<Duration>,
    /// The last readable response says that the generation has failed.
    is_reported_as_failed: bool,
    /// Some response says that it has ended in a way that is not documented as free.
    may_be_charged: bool,
    last: Option<Box<Generation>>,
    last_error: Option<Error>,
}

/// What a state means for the wait.
enum Verdict {
    Pending,
    Ready,
    Failed(Error),
}

impl<'a> Entry<'a> {
    fn new(index: usize, id: Cow<'a, GenerationId>, now: Duration) -> Self {
        Self {
            index,
            id,
            started_at: now,
            next_poll_at: now,
            deadline: now,
            poll_count: 0,
            consecutive_failures: 0,
            is_known_to_exist: false,
            not_found_since: None,
            url_missing_since: None,
            is_reported_as_failed: false,
            may_be_charged: false,
            last: None,
            last_error: None,
        }
    }

    /// What the readable responses so far prove. A failure needs two in a row that report it: a
    /// single one may come from a stale or confused server, and giving up on it pays twice.
    fn evaluate(
        &mut self,
        generation: &Generation,
        now: Duration,
        confirm_delay: Duration,
    ) -> Verdict {
        let is_second = std::mem::take(&mut self.is_reported_as_failed);
        let url_missing_since = self.url_missing_since.take();
        let reason = reason(generation);
        match &generation.status {
            // Completed with a video is success, whatever `error` says.
            Status::Completed if generation.video.is_some() => return Verdict::Ready,
            Status::Completed => {
                self.may_be_charged = true;
                if reason.is_none() {
                    let since = *self.url_missing_since.insert(url_missing_since.unwrap_or(now));
                    if now.saturating_sub(since) < MISSING_URL_GRACE {
                        return Verdict::Pending;
                    }
                    let message = "the generation is completed but has no video URL";
                    return Verdict::Failed(Error::decode(Operation::Wait, message));
                }
            }
            Status::Error => {}
            status if status.is_terminal() => self.may_be_charged = true,
            _ => return Verdict::Pending,
        }
        if !is_second {
            self.is_reported_as_failed = true;
            self.next_poll_at = now.saturating_add(confirm_delay);
            self.deadline = self.deadline.max(self.next_poll_at);
            return Verdict::Pending;
        }
        let reason = reason.unwrap_or_else(|| match &generation.status {
            Status::Other(status) => sanitize(status),
            _ => "no reason given".to_owned(),
        });
        Verdict::Failed(match self.may_be_charged {
            true => Error::generation_ended(Operation::Wait, reason),
            false => Error::generation_failed(Operation::Wait, reason),
        })
    }

    /// Whether further polls cannot help. An error response does so only with the vendor's marks:
    /// without them a gateway or a login page may have sent it.
    fn is_permanent(&mut self, error: &Error, now: Duration) -> bool {
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

    fn timed_out(&mut self, now: Duration) -> Error {
        let elapsed = now.saturating_sub(self.started_at);
        let error = Error::wait_timeout(elapsed, self.last_error.take());
        self.with_context(error)
    }

    fn cancelled(&mut self) -> Error {
        self.with_context(Error::cancelled(Operation::Wait))
    }

    /// Every error of a wait carries the generation's id and last state.
    fn with_context(&mut self, error: Error) -> Error {
        let error = error.with_id(&self.id).with_attempts(self.poll_count.max(1));
        match self.last.take() {
            Some(generation) => error.with_generation(generation),
            None => error,
        }
    }
}

/// The server's reason for a failure, if it gives one.
fn reason(generation: &Generation) -> Option<String> {
    let error = generation.error.as_ref().filter(|error| !error.is_empty())?;
    Some(match &error.name {
        Some(name) => format!("{}: {}", sanitize(name), sanitize(&error.message)),
        None => sanitize(&error.message),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorResponse;
    use crate::model::request::VideoDuration;
    use std::collections::{HashMap, HashSet};
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// Polls in virtual time, which advances only when the wait sleeps and when a poll takes time.
    struct VirtualPoller<P> {
        now: Mutex<Duration>,
        poll_takes: Duration,
        poll: P,
        polls: Mutex<Vec<(GenerationId, Duration)>>,
        next_polls: Mutex<Vec<(Duration, Option<Duration>)>>,
        /// The number of sleeps until the wait is cancelled.
        sleeps: AtomicU32,
    }

    impl<P: Fn(&GenerationId, Duration) -> Result<Generation> + Sync> VirtualPoller<P> {
        fn new(poll: P) -> Self {
            Self {
                now: Mutex::default(),
                poll_takes: Duration::ZERO,
                poll,
                polls: Mutex::default(),
                next_polls: Mutex::default(),
                sleeps: AtomicU32::new(u32::MAX),
            }
        }

        fn wait_all(&self, ids: &[GenerationId], options: &WaitOptions) -> Vec<Result<Video>> {
            let retry_policy = RetryPolicy::new().base_delay(Duration::ZERO);
            wait_all(ids, Known::Nothing, options, &retry_policy, self)
        }

        fn wait(&self, options: &WaitOptions) -> Result<Video> {
            self.wait_for(Known::Nothing, options)
        }

        fn wait_for(&self, known: Known<'_>, options: &WaitOptions) -> Result<Video> {
            let retry_policy = RetryPolicy::new().base_delay(Duration::ZERO);
            wait_all(&[id("a")], known, options, &retry_policy, self).pop().unwrap()
        }

        /// The times of all polls, in seconds.
        fn poll_times(&self) -> Vec<u64> {
            self.polls.lock().unwrap().iter().map(|(_, at)| at.as_secs()).collect()
        }

        fn polls_by_id(&self) -> HashMap<GenerationId, Vec<Duration>> {
            let mut by_id: HashMap<_, Vec<_>> = HashMap::new();
            for (id, at) in &*self.polls.lock().unwrap() {
                by_id.entry(id.clone()).or_default().push(*at);
            }
            by_id
        }

        fn advance(&self, duration: Duration) {
            let mut now = self.now.lock().unwrap();
            *now = now.saturating_add(duration);
        }
    }

    impl<P: Fn(&GenerationId, Duration) -> Result<Generation> + Sync> Poller for VirtualPoller<P> {
        fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
            let now = self.now();
            self.polls.lock().unwrap().push((id.clone(), now));
            self.advance(self.poll_takes);
            (self.poll)(id, now)
        }

        fn sleep(&self, duration: Duration) -> bool {
            self.advance(duration);
            self.sleeps.fetch_sub(1, Ordering::Relaxed) > 0
        }

        fn now(&self) -> Duration {
            *self.now.lock().unwrap()
        }

        fn emit(&self, _index: usize, _id: &GenerationId, kind: EventKind<'_>) {
            if let EventKind::Polled { elapsed, next_poll, .. } = kind {
                self.next_polls.lock().unwrap().push((elapsed, next_poll));
            }
        }
    }

    /// Waits for one generation. `poll` gets the time of each poll; all of them are returned, in s.
    fn wait_virtually(
        options: &WaitOptions,
        poll: impl Fn(Duration) -> Result<Generation> + Sync,
    ) -> (Result<Video>, Vec<u64>) {
        let poller = VirtualPoller::new(|_: &_, now| poll(now));
        (poller.wait(options), poller.poll_times())
    }

    fn secs(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn id(text: &str) -> GenerationId {
        text.parse().unwrap()
    }

    fn generation(json: &str) -> Result<Generation> {
        Ok(serde_json::from_str(json).unwrap())
    }

    fn pending() -> Result<Generation> {
        generation(r#"{"id":"a","status":"generating"}"#)
    }

    fn completed() -> Result<Generation> {
        generation(
            r#"{"id":"a","status":"completed","video":{"url":"https://x/a.mp4"},"error":"?"}"#,
        )
    }

    fn status(word: &str) -> Result<Generation> {
        generation(&format!(r#"{{"id":"a","status":"{word}"}}"#))
    }

    /// An error response with the vendor's marks.
    fn api_error(status: u16) -> Result<Generation> {
        let error =
            ErrorResponse { status: Some(status), marked: true, ..ErrorResponse::default() };
        Err(Error::api(Operation::Retrieve, error))
    }

    fn completed_without_url() -> Result<Generation> {
        status("completed")
    }

    /// An error response that anyone may have sent.
    fn error_response(status: u16, retry_after: Option<Duration>) -> Result<Generation> {
        Err(Error::api(
            Operation::Retrieve,
            ErrorResponse { status: Some(status), retry_after, ..ErrorResponse::default() },
        ))
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
        for status in [301, 400, 401, 403, 404, 410, 422] {
            let poll =
                |now| if now < secs(900) { error_response(status, None) } else { completed() };
            assert!(wait_virtually(&WaitOptions::new(), poll).0.is_ok(), "{status}");
        }
        for status in [301, 400, 401, 403, 410, 422] {
            let (outcome, polls) = wait_virtually(&WaitOptions::new(), |_| api_error(status));
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
    fn not_found_for_a_minute_means_that_the_api_does_not_know_the_id() {
        let hidden = |now| if now < secs(60) { api_error(404) } else { completed() };
        assert!(wait_virtually(&WaitOptions::new(), hidden).0.is_ok());
        for options in [WaitOptions::new(), WaitOptions::new().initial_delay(secs(180))] {
            let (outcome, polls) = wait_virtually(&options, |_| api_error(404));
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(404)));
            assert_eq!(polls.last().unwrap() - polls.first().unwrap(), 60);
            assert!(!error.is_retryable());
            assert!(error.to_string().contains("the API does not know this generation id"));
        }
        // A minute without a response that says otherwise.
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), |now| match now {
            now if now < secs(55) => api_error(404),
            now if now < secs(65) => pending(),
            _ => api_error(404),
        });
        assert_eq!((outcome.unwrap_err().status(), polls.last()), (Some(404), Some(&130)));
    }

    #[test]
    fn not_found_is_retried_until_the_deadline_if_the_generation_was_created() {
        let created = generation(r#"{"id":"a","status":"queued"}"#).unwrap();
        for known in [Known::Created, Known::Response(&created)] {
            let poller = VirtualPoller::new(|_: &_, _| api_error(404));
            let error = poller.wait_for(known, &WaitOptions::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WaitTimeout);
            assert_eq!(poller.poll_times().last(), Some(&1200));
            assert!(!error.to_string().contains("does not know"), "{error}");
        }
    }

    #[test]
    fn completed_generation_that_stays_not_found_has_ended_and_may_have_been_charged() {
        let poller = VirtualPoller::new(|_: &_, _| api_error(404));
        let error = poller.wait_for(Known::Completed, &WaitOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert!(error.may_have_been_billed());
        assert_eq!(poller.poll_times().last(), Some(&70));
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
        let without_url = completed_without_url;
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), |_| without_url());
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Decode, true));
        assert_eq!(polls.last(), Some(&70));
        let late = |now| if now < secs(60) { without_url() } else { completed() };
        assert!(wait_virtually(&WaitOptions::new(), late).0.is_ok());
        // Not a minute without a URL.
        let flapping = |now| if now == secs(60) { pending() } else { without_url() };
        assert_eq!(wait_virtually(&WaitOptions::new(), flapping).1.last(), Some(&130));
    }

    #[test]
    fn failed_generation_is_not_billed() {
        let failed = |_| {
            generation(
                r#"{"id":"a","status":"failed","error":{"name":"Nsfw","message":"rejected"}}"#,
            )
        };
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), failed);
        let error = outcome.unwrap_err();
        assert_eq!(polls, [10, 20]);
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert_eq!(error.server_message(), Some("Nsfw: rejected"));
        assert!(!error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(error.generation().unwrap().status, Status::Error);
    }

    #[test]
    fn failure_is_confirmed_one_interval_later_and_after_at_most_10_s() {
        for (interval, second) in [(0, 10), (4, 14), (10, 20), (60, 20), (u64::MAX, 20)] {
            let options = WaitOptions::new().interval(secs(interval)).timeout(Duration::MAX);
            for word in ["error", "canceled"] {
                let (outcome, polls) = wait_virtually(&options, |_| status(word));
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::GenerationFailed);
                assert_eq!(polls, [10, second], "{interval}");
            }
        }
        // With a shorter interval, as long after it as a retry.
        let retry_policy = RetryPolicy::new();
        for (interval, second) in [(0, 10_500), (4_000, 14_000)] {
            let options = WaitOptions::new().interval(Duration::from_millis(interval));
            let poller = VirtualPoller::new(|_: &_, _| status("error"));
            let ids = [id("a")];
            let results = wait_all(&ids, Known::Nothing, &options, &retry_policy, &poller);
            assert!(results[0].is_err());
            let polls = poller.polls.into_inner().unwrap();
            assert_eq!(polls.last().unwrap().1, Duration::from_millis(second));
        }
        // The interval is in effect again when the second response says something else.
        let options = WaitOptions::new().interval(secs(60));
        let once = |now| match now {
            now if now < secs(20) => status("error"),
            now if now < secs(80) => pending(),
            _ => completed(),
        };
        assert_eq!(wait_virtually(&options, once).1, [10, 20, 80]);
    }

    #[test]
    fn failure_is_confirmed_even_past_the_deadline() {
        let options = WaitOptions::new().timeout(secs(25));
        let poller = VirtualPoller::new(
            |_: &_, now| if now < secs(25) { pending() } else { status("error") },
        );
        let error = poller.wait(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert_eq!(poller.poll_times(), [10, 20, 25, 35]);
        let next_polls = poller.next_polls.into_inner().unwrap();
        assert_eq!(next_polls.last_chunk(), Some(&[(secs(25), Some(secs(10))), (secs(35), None)]));

        // Only the second response is: without another report the wait has timed out.
        for second in [pending, completed_without_url, || error_response(503, None)] {
            let (outcome, polls) = wait_virtually(&options, |now| match now.as_secs() {
                25 => status("error"),
                35 => second(),
                _ => pending(),
            });
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::WaitTimeout);
            assert_eq!(polls, [10, 20, 25, 35]);
        }
    }

    #[test]
    fn response_to_the_create_is_the_first_report() {
        let options = WaitOptions::for_duration(VideoDuration::FiveSeconds);
        for (first, second, billed) in
            [("error", "failed", false), ("canceled", "error", true), ("error", "expired", true)]
        {
            let first = status(first).unwrap();
            let poller = VirtualPoller::new(|_: &_, _| status(second));
            let error = poller.wait_for(Known::Response(&first), &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::GenerationFailed);
            assert_eq!(error.may_have_been_billed(), billed);
            assert_eq!(poller.poll_times(), [4]);
        }
        let first = status("queued").unwrap();
        let poller = VirtualPoller::new(|_: &_, _| status("error"));
        poller.wait_for(Known::Response(&first), &options).unwrap_err();
        assert_eq!(poller.poll_times(), [180, 184]);
    }

    #[test]
    fn failure_of_a_completed_generation_may_have_been_charged() {
        let poller = VirtualPoller::new(|_: &_, _| status("error"));
        let error = poller.wait_for(Known::Completed, &WaitOptions::new()).unwrap_err();
        assert!(error.may_have_been_billed());
        let error = poller.wait_for(Known::Created, &WaitOptions::new()).unwrap_err();
        assert!(!error.may_have_been_billed());
        let seen = wait_virtually(&WaitOptions::new(), |now| match now.as_secs() {
            10 => completed_without_url(),
            _ => status("error"),
        });
        assert!(seen.0.unwrap_err().may_have_been_billed());
    }

    #[test]
    fn poll_that_ends_after_the_deadline_is_the_last() {
        let poller =
            VirtualPoller { poll_takes: secs(60), ..VirtualPoller::new(|_: &_, _| pending()) };
        assert!(poller.wait(&WaitOptions::new().timeout(secs(11))).is_err());
        assert_eq!((poller.poll_times(), poller.now()), (vec![10], secs(70)));
    }

    #[test]
    fn polled_events_announce_the_next_poll() {
        let announced = |options| {
            let poll = |_: &_, now| if now < secs(20) { pending() } else { completed() };
            let poller = VirtualPoller::new(poll);
            poller.wait(&options).unwrap();
            let next_polls = poller.next_polls.into_inner().unwrap();
            let in_secs =
                next_polls.iter().map(|(at, next)| (at.as_secs(), next.map(|d| d.as_secs())));
            in_secs.collect::<Vec<_>>()
        };
        let options = WaitOptions::new().interval(secs(7));
        assert_eq!(announced(options.clone()), [(10, Some(7)), (17, Some(7)), (24, None)]);
        assert_eq!(
            announced(options.timeout(secs(20))),
            [(10, Some(7)), (17, Some(3)), (20, None)]
        );
    }

    #[test]
    fn cancelled_wait_reports_the_last_state() {
        let poller =
            VirtualPoller { sleeps: AtomicU32::new(2), ..VirtualPoller::new(|_: &_, _| pending()) };
        let error = poller.wait(&WaitOptions::new()).unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 2));
        assert_eq!(error.generation().unwrap().status, Status::Generating);
    }

    fn ids(n: usize) -> Vec<GenerationId> {
        (0..n).map(|i| id(&format!("g{i}"))).collect()
    }

    fn number(id: &GenerationId) -> u64 {
        id.as_str().trim_start_matches('g').parse().unwrap()
    }

    #[test]
    fn thousand_generations_are_each_polled_on_time() {
        let ids = ids(1_000);
        let options = WaitOptions::new();
        // Each is ready at a different time. 5 ms a poll take 5 s of the interval for all of them.
        let ready = |id: &GenerationId| secs(60 + number(id) % 240);
        let poll = |id: &GenerationId, now| match (now >= ready(id), number(id) % 100) {
            (true, 7) => generation(r#"{"id":"a","status":"error","error":"no"}"#),
            (true, _) => generation(&format!(
                r#"{{"id":"{id}","status":"completed","video":{{"url":"https://x/{id}.mp4"}}}}"#
            )),
            _ => pending(),
        };
        let poller =
            VirtualPoller { poll_takes: Duration::from_millis(5), ..VirtualPoller::new(poll) };
        let results = poller.wait_all(&ids, &options);
        assert_eq!(results.len(), 1_000);
        let polls = poller.polls_by_id();
        for (id, result) in ids.iter().zip(&results) {
            match result {
                Ok(video) => assert_eq!(video.url, format!("https://x/{id}.mp4")),
                Err(error) => {
                    assert_eq!(number(id) % 100, 7);
                    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
                    assert_eq!(error.generation_id(), Some(id));
                }
            }
            let times = &polls[id];
            assert!(times[0] < secs(10) + options.interval);
            for pair in times.windows(2) {
                assert!(pair[1] - pair[0] < options.interval * 2, "{id}: {pair:?}");
            }
            let last = times[times.len() - 1];
            // A failure is confirmed by one more poll.
            let last = if result.is_err() { times[times.len() - 2] } else { last };
            assert!(last >= ready(id) && last < ready(id) + options.interval * 2);
        }
    }

    #[test]
    fn failure_of_one_generation_does_not_affect_the_others() {
        let poll = |id: &GenerationId, _| match number(id) {
            1 => api_error(403),
            _ => completed(),
        };
        let results = VirtualPoller::new(poll).wait_all(&ids(3), &WaitOptions::new());
        let kinds: Vec<_> =
            results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::Api), None]);
    }

    #[test]
    fn every_generation_has_its_last_poll_at_the_deadline() {
        let ids = ids(50);
        let poller = VirtualPoller::new(|_: &_, _| pending());
        let results = poller.wait_all(&ids, &WaitOptions::new().timeout(secs(25)));
        for result in results {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::WaitTimeout);
        }
        let polls = poller.polls_by_id();
        for id in &ids {
            assert_eq!(polls[id], [10, 20, 25].map(secs), "{id}");
        }
    }

    #[test]
    fn slow_polls_delay_the_return_by_no_more_than_an_interval() {
        let ids = ids(50);
        for (timeout, first_poll, last_poll) in [(35, 10, 45), (0, 0, 10)] {
            let options = WaitOptions::new().timeout(secs(timeout));
            let poller =
                VirtualPoller { poll_takes: secs(1), ..VirtualPoller::new(|_: &_, _| pending()) };
            let results = poller.wait_all(&ids, &options);
            assert_eq!(results.len(), 50);
            for result in results {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::WaitTimeout);
            }
            let times = poller.poll_times();
            assert_eq!((times.first(), times.last()), (Some(&first_poll), Some(&last_poll)));
        }
    }

    #[test]
    fn status_429_throttles_all_generations() {
        let ids = ids(20);
        let poller =
            VirtualPoller::new(|id: &GenerationId, now| match (number(id), now < secs(100)) {
                (5, true) => error_response(429, Some(secs(90))),
                _ => completed(),
            });
        let results = poller.wait_all(&ids, &WaitOptions::new());
        assert!(results.iter().all(Result::is_ok));
        let polls = poller.polls_by_id();
        for id in &ids {
            let at = if number(id) <= 5 { 10 } else { 100 };
            assert_eq!(polls[id][0], secs(at), "{id}");
        }
    }

    #[test]
    fn threads_share_one_queue() {
        let threads = Mutex::new(HashSet::new());
        let together = Barrier::new(8);
        let poller = VirtualPoller::new(|_: &_, _| {
            threads.lock().unwrap().insert(thread::current().id());
            // Passes only if eight polls are in progress at the same time.
            together.wait();
            completed()
        });
        let options = WaitOptions::new().threads(8).initial_delay(Duration::ZERO);
        let results = poller.wait_all(&ids(40), &options);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40);
        assert_eq!(threads.lock().unwrap().len(), 8);
    }

    #[test]
    fn panic_in_a_callback_reaches_the_caller_and_ends_the_other_workers() {
        let options = WaitOptions::new().threads(4).timeout(Duration::MAX);
        let panicked = std::panic::catch_unwind(|| {
            let poller = VirtualPoller::new(|id: &GenerationId, _| match number(id) {
                13 => panic!("from a callback"),
                _ => pending(),
            });
            poller.wait_all(&ids(100), &options)
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"from a callback"));
    }

    #[test]
    fn empty_list_returns_at_once() {
        let poller = VirtualPoller::new(|_: &_, _| completed());
        assert!(poller.wait_all(&[], &WaitOptions::new()).is_empty());
        assert_eq!((poller.poll_times(), poller.now()), (vec![], Duration::ZERO));
    }
}
