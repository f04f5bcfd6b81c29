//! The same for many generations at once: each on a schedule of its own, the earliest due first.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::generation::{GenerationId, Video};
use crate::poll::{Driver, Turn, WaitOptions};
use crate::retry::RetryPolicy;

/// Waits for all of them, from one loop or from as many as the options say; in input order.
pub(crate) fn wait_all(
    ids: &[GenerationId],
    options: &WaitOptions,
    retry: &RetryPolicy,
    driver: &Driver<'_>,
) -> Vec<Result<Video>> {
    let schedule = Schedule::new(ids, options);
    let work = || schedule.work(options, retry, driver);
    thread::scope(|scope| {
        let helpers = options.threads.clamp(1, ids.len().max(1)) - 1;
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(work)).collect();
        work();
        for helper in helpers {
            // A caller's event callback has panicked there: the panic is the caller's.
            helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    schedule.into_results()
}

struct Schedule<'a>(Mutex<State<'a>>);

struct State<'a> {
    waiting: BinaryHeap<Reverse<Entry<'a>>>,
    /// No look before this: a server that is asked too often wants all of them to slow down.
    not_before: Duration,
    ends: Vec<(usize, Result<Video>)>,
}

struct Entry<'a> {
    index: usize,
    turn: Turn<'a>,
}

impl Entry<'_> {
    fn key(&self) -> (Duration, usize) {
        (self.turn.due, self.index)
    }
}

impl PartialEq for Entry<'_> {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Entry<'_> {}

impl PartialOrd for Entry<'_> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry<'_> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}

impl<'a> Schedule<'a> {
    fn new(ids: &'a [GenerationId], options: &WaitOptions) -> Self {
        let entry = |(index, id)| Reverse(Entry { index, turn: Turn::new(id, options) });
        Self(Mutex::new(State {
            waiting: ids.iter().enumerate().map(entry).collect(),
            not_before: Duration::ZERO,
            ends: Vec::with_capacity(ids.len()),
        }))
    }

    /// Takes the earliest, sees to it, and puts it back, until none is left. One that finds none
    /// may go: whoever holds the rest takes them back up themselves, so none is ever late for want
    /// of a hand.
    fn work(&self, options: &WaitOptions, retry: &RetryPolicy, driver: &Driver<'_>) {
        let _guard = StopOnPanic(self);
        while let Some(Reverse(mut entry)) = self.next() {
            let end = self.see_to(&mut entry.turn, options, retry, driver);
            let mut state = self.lock();
            match end {
                Some(end) => state.ends.push((entry.index, end)),
                None => state.waiting.push(Reverse(entry)),
            }
        }
    }

    fn next(&self) -> Option<Reverse<Entry<'a>>> {
        self.lock().waiting.pop()
    }

    fn see_to(
        &self,
        turn: &mut Turn<'a>,
        options: &WaitOptions,
        retry: &RetryPolicy,
        driver: &Driver<'_>,
    ) -> Option<Result<Video>> {
        loop {
            let at = self.due(turn);
            if !(driver.sleep)(at.min(options.timeout).saturating_sub((driver.now)())) {
                return Some(Err(turn.cancelled()));
            }
            let now = (driver.now)();
            if now > options.timeout || (now == options.timeout && at > now) {
                return Some(Err(turn.timed_out(now)));
            }
            // Asked again: another look may have been throttled meanwhile.
            if self.due(turn) <= now {
                break;
            }
        }
        let looked = (driver.fetch)(turn.id());
        let now = (driver.now)();
        let throttled = matches!(&looked, Err(error) if error.status() == Some(429));
        let end = turn.take(looked, now, options, retry, driver.watch);
        if throttled {
            let mut state = self.lock();
            state.not_before = state.not_before.max(turn.due);
        }
        end
    }

    fn due(&self, turn: &Turn<'_>) -> Duration {
        turn.due.max(self.lock().not_before)
    }

    fn into_results(self) -> Vec<Result<Video>> {
        let mut ends = self.0.into_inner().unwrap_or_else(PoisonError::into_inner).ends;
        ends.sort_unstable_by_key(|(index, _)| *index);
        ends.into_iter().map(|(_, end)| end).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Sends the other threads home when one panics, so that the panic does not wait for them.
struct StopOnPanic<'s, 'a>(&'s Schedule<'a>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().waiting.clear();
        }
    }
}
