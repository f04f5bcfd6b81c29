//! The poll loop that waits for generations: a queue of polls, the one due first in front. I/O and
//! time are injected, so that its tests need neither sockets nor sleeps.

mod entry;

use std::collections::VecDeque;
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::{Error, ErrorResponse, Result};
use crate::event::EventKind;
use crate::model::generation::{Generation, GenerationId, Video};
use crate::operation::Operation;
use crate::random::random;
use crate::redact::sanitize;
use crate::retry::RetryPolicy;
use crate::wait_options::WaitOptions;

use self::entry::{Entry, reason};

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
#[derive(Debug)]
pub(crate) enum Known {
    /// Nothing: the API may not know its id.
    Nothing,
    /// This call has just created it, with this response.
    Response(Box<Generation>),
    /// It was created earlier, so it is polled at once.
    Created,
    /// It was completed earlier, and so it may have been charged, whatever the API says of it now.
    /// It is polled at once, too.
    Completed,
}

/// Repeats `work` until it returns false, on this thread and on as many more as can be started, up
/// to `count` in all. If it panics, all stop, so that the panic is propagated at once.
pub(crate) fn run_workers(count: usize, work: &(dyn Fn() -> bool + Sync)) {
    let panicked = AtomicBool::new(false);
    let worker = || {
        let work = || !panicked.load(Ordering::Relaxed) && work();
        if let Err(panic) = catch_unwind(AssertUnwindSafe(|| while work() {})) {
            panicked.store(true, Ordering::Relaxed);
            // The caller's event handler panicked: its panic belongs to the caller.
            resume_unwind(panic);
        }
    };
    thread::scope(|scope| {
        let spawn = |_| thread::Builder::new().spawn_scoped(scope, worker).ok();
        let workers: Vec<_> = (1..count).filter_map(spawn).collect();
        worker();
        for worker in workers {
            worker.join().unwrap_or_else(|panic| resume_unwind(panic));
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
    state: Mutex<QueueState>,
}

#[derive(Default)]
struct QueueState {
    /// In the order in which they are due; those that are being polled are taken out.
    waiting: VecDeque<Box<Entry>>,
    /// No polls before this time: a 429 slows down all generations.
    throttled_until: Duration,
    cancelled: bool,
}

impl QueueState {
    fn put(&mut self, mut entry: Box<Entry>) {
        entry.next_poll_at = entry.next_poll_at.max(self.throttled_until);
        let due = (entry.due_at(), entry.index);
        let at = self.waiting.partition_point(|other| (other.due_at(), other.index) < due);
        self.waiting.insert(at, entry);
    }

    /// Delays all polls until this time.
    fn throttle(&mut self, until: Duration) {
        self.throttled_until = self.throttled_until.max(until);
        mem::take(&mut self.waiting).into_iter().for_each(|entry| self.put(entry));
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

    /// Waits for one generation, on this thread.
    pub(crate) fn wait(&self, id: &GenerationId, known: &Known) -> Result<Video> {
        self.push(0, id, known);
        loop {
            match self.step() {
                Step::Done(_, result) => return result,
                Step::Idle(delay) => self.sleep(delay),
                // Never empty: the generation is waited for until it is done.
                Step::Polled | Step::Empty => {}
            }
        }
    }

    /// Waits for all generations; the results are in input order.
    pub(crate) fn wait_all(&self, ids: &[GenerationId]) -> Vec<Result<Video>> {
        for (index, id) in ids.iter().enumerate() {
            self.push(index, id, &Known::Nothing);
        }
        let results = Mutex::new(ids.iter().map(|_| None).collect::<Vec<_>>());
        let threads = self.options.threads;
        // A single worker has nobody to watch.
        let max_sleep = if threads > 1 { MAX_SLEEP } else { Duration::MAX };
        run_workers(threads.min(ids.len()), &|| {
            match self.step() {
                // The polls that are in progress return to the workers that make them.
                Step::Empty => return false,
                Step::Polled => {}
                Step::Idle(delay) => self.sleep(delay.min(max_sleep)),
                Step::Done(index, result) => {
                    let mut results = results.lock().unwrap_or_else(PoisonError::into_inner);
                    if let Some(slot) = results.get_mut(index) {
                        *slot = Some(result);
                    }
                }
            }
            true
        });
        results.into_inner().unwrap_or_else(PoisonError::into_inner).into_iter().flatten().collect()
    }

    /// Adds a generation. Its timeout starts now.
    pub(crate) fn push(&self, index: usize, id: &GenerationId, known: &Known) {
        let now = self.poller.now();
        let initial_delay = match known {
            Known::Nothing | Known::Response(_) => self.options.initial_delay,
            Known::Created | Known::Completed => Duration::ZERO,
        };
        let mut entry = Box::new(Entry {
            index,
            id: id.clone(),
            started_at: now,
            next_poll_at: now.saturating_add(initial_delay),
            deadline: now.saturating_add(self.options.timeout),
            poll_count: 0,
            consecutive_failures: 0,
            is_known_to_exist: !matches!(known, Known::Nothing),
            not_found_since: None,
            url_missing_since: None,
            is_reported_as_failed: false,
            may_be_charged: matches!(known, Known::Completed),
            last: None,
            last_error: None,
        });
        if let Known::Response(generation) = known {
            entry.evaluate(generation, now, self.confirm_delay);
        }
        self.lock().put(entry);
    }

    /// Polls the generation that is due first, if one is.
    pub(crate) fn step(&self) -> Step {
        let mut state = self.lock();
        let cancelled = state.cancelled;
        let Some(mut entry) = state.waiting.pop_front() else { return Step::Empty };
        let delay = entry.due_at().saturating_sub(self.poller.now());
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

    /// The outcome of the entry's wait, or `None` to go on.
    fn poll(&self, entry: &mut Entry) -> Option<Result<Video>> {
        // Each generation is polled once at the deadline, but a long queue of slow polls must not
        // delay the return for much longer.
        let now = self.poller.now();
        if now > entry.deadline.saturating_add(self.options.interval.max(MAX_SLEEP)) {
            return Some(Err(entry.timed_out(now)));
        }
        let result = self.poller.retrieve(&entry.id);
        let now = self.poller.now();
        let outcome = self.on_result(entry, result, now);
        outcome.or_else(|| (now >= entry.deadline).then(|| Err(entry.timed_out(now))))
    }

    fn on_result(
        &self,
        entry: &mut Entry,
        result: Result<Generation>,
        now: Duration,
    ) -> Option<Result<Video>> {
        entry.poll_count = entry.poll_count.saturating_add(1);
        match result {
            Ok(generation) => self.on_generation(entry, generation, now),
            Err(error) if entry.is_permanent(&error, now) => {
                let error = match error.status() {
                    Some(404) if entry.may_be_charged => {
                        let reason = "the API does not know it any more".to_owned();
                        Error::generation_failed(Operation::Wait, reason, true)
                    }
                    _ => error.with_operation(Operation::Wait),
                };
                Some(Err(entry.with_context(error)))
            }
            Err(error) => {
                entry.consecutive_failures = entry.consecutive_failures.saturating_add(1);
                let attempt = entry.consecutive_failures;
                let later = self.options.interval.max(error.retry_after().unwrap_or_default());
                let delay =
                    self.retry_policy.next_delay(attempt, &error, random()).unwrap_or(later);
                let operation = Operation::Wait;
                let kind = EventKind::Retrying { operation, attempt, delay, error: &error };
                self.poller.emit(entry.index, &entry.id, kind);
                entry.next_poll_at = now.saturating_add(delay);
                if error.status() == Some(429) {
                    self.lock().throttle(entry.next_poll_at);
                }
                entry.last_error = Some(error);
                None
            }
        }
    }

    fn on_generation(
        &self,
        entry: &mut Entry,
        mut generation: Generation,
        now: Duration,
    ) -> Option<Result<Video>> {
        entry.consecutive_failures = 0;
        entry.not_found_since = None;
        // Not an error yet, but if there is no other end, it says why.
        entry.last_error = reason(&generation).map(|reason| {
            let status = sanitize(generation.status.as_str());
            let message = format!("status `{status}` with an error");
            let response = ErrorResponse { message: Some(reason), ..ErrorResponse::default() };
            Error::decode(Operation::Retrieve, message).with_response(response).with_id(&entry.id)
        });
        entry.next_poll_at = entry.next_poll_at.saturating_add(self.options.interval).max(now);
        let verdict = entry.evaluate(&generation, now, self.confirm_delay);
        let is_last = verdict.is_some() || now >= entry.deadline;
        let next_poll = (!is_last).then(|| entry.due_at().saturating_sub(now));
        let elapsed = now.saturating_sub(entry.started_at);
        let kind = EventKind::Polled { generation: &generation, elapsed, next_poll };
        self.poller.emit(entry.index, &entry.id, kind);
        if let Some(Ok(())) = verdict {
            return generation.video.take().map(Ok);
        }
        entry.last = Some(Box::new(generation));
        Some(Err(entry.with_context(verdict?.err()?)))
    }

    fn lock(&self) -> MutexGuard<'_, QueueState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
