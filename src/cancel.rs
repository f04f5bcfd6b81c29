//! Stopping a call from another thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Cancels the calls that were given it: wakes their sleep at once and stops their requests.
///
/// Cancelling is for good. The generation itself goes on, since the API has no way to stop one.
/// A create whose last byte was handed over is finished first, so that its id is not lost.
///
/// ```
/// use kling_video::{CancelToken, WaitOptions};
///
/// let token = CancelToken::new();
/// let options = WaitOptions::new().cancel(token.clone());
/// token.cancel(); // from a Ctrl-C handler, another thread, …
/// assert!(token.is_cancelled());
/// # let _ = options;
/// ```
#[derive(Clone, Default)]
pub struct CancelToken(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    cancelled: Condvar,
}

#[derive(Default)]
struct State {
    cancelled: bool,
    next_key: u64,
    /// Few: one or two a call.
    interrupts: Vec<(u64, Interrupt)>,
}

type Interrupt = Box<dyn FnOnce() + Send>;

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every call that uses this token or a clone of it, now and later.
    pub fn cancel(&self) {
        let interrupts = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.interrupts)
        };
        self.0.cancelled.notify_all();
        // Outside the lock: an interrupt closes sockets.
        interrupts.into_iter().for_each(|(_, interrupt)| interrupt());
    }

    /// Whether [`cancel`](Self::cancel) was called.
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Has `interrupt` called when the token is cancelled, until the guard is dropped.
    pub(crate) fn on_cancel(&self, interrupt: Interrupt) -> Armed {
        let mut state = self.lock();
        let key = state.next_key;
        state.next_key += 1;
        if state.cancelled {
            drop(state);
            interrupt();
        } else {
            state.interrupts.push((key, interrupt));
        }
        Armed { token: self.clone(), key }
    }

    fn sleep(&self, duration: Duration) -> bool {
        // So that no deadline has to be added up, which a huge duration would overflow.
        const LONGEST: Duration = Duration::from_secs(3600);
        let begun = Instant::now();
        let mut state = self.lock();
        loop {
            if state.cancelled {
                return false;
            }
            let left = duration.saturating_sub(begun.elapsed());
            if left.is_zero() {
                return true;
            }
            let woken = self.0.cancelled.wait_timeout(state, left.min(LONGEST));
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for CancelToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CancelToken").field("cancelled", &self.is_cancelled()).finish()
    }
}

/// An interrupt that is in place.
pub(crate) struct Armed {
    token: CancelToken,
    key: u64,
}

impl Armed {
    /// Takes the interrupt away for good, or says that the token was cancelled before.
    pub(crate) fn disarm(&self) -> bool {
        let mut state = self.token.lock();
        state.interrupts.retain(|(key, _)| *key != self.key);
        !state.cancelled
    }
}

impl Drop for Armed {
    fn drop(&mut self) {
        self.disarm();
    }
}

/// Whether a call with this token, if it has one, is cancelled.
pub(crate) fn is_cancelled(token: Option<&CancelToken>) -> bool {
    token.is_some_and(CancelToken::is_cancelled)
}

/// Sleeps, and says whether it slept to the end.
pub(crate) fn sleep(token: Option<&CancelToken>, duration: Duration) -> bool {
    match token {
        Some(token) => token.sleep(duration),
        None => {
            thread::sleep(duration);
            true
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sleep_ends_when_another_thread_cancels() {
        let token = CancelToken::new();
        let sleeper = thread::spawn({
            let token = token.clone();
            move || token.sleep(Duration::MAX)
        });
        token.cancel();
        assert!(!sleeper.join().unwrap());
    }

    #[test]
    fn an_interrupt_runs_once_and_only_while_armed() {
        let runs = Arc::new(Mutex::new(0));
        let count = |runs: &Arc<Mutex<i32>>| -> Interrupt {
            let runs = Arc::clone(runs);
            Box::new(move || *runs.lock().unwrap() += 1)
        };
        let token = CancelToken::new();
        let kept = token.on_cancel(count(&runs));
        let disarmed = token.on_cancel(count(&runs));
        assert!(disarmed.disarm());
        drop(token.on_cancel(count(&runs)));
        token.cancel();
        token.cancel();
        assert_eq!(*runs.lock().unwrap(), 1);
        assert!(!kept.disarm());
        let _late = token.on_cancel(count(&runs));
        assert_eq!(*runs.lock().unwrap(), 2);
    }
}
