//! Cancels calls from another thread.

use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Cancels calls from another thread: their sleeps end at once and their connections are closed.
///
/// Give it to calls with [`Client::with_cancel_token`](crate::Client::with_cancel_token). A token
/// cannot be reset. The generation itself continues, since the API cannot stop one; a create whose
/// last byte was sent is completed first, so that its id is not lost.
///
/// ```
/// use kling_video::{CancelToken, Client};
///
/// let token = CancelToken::new();
/// let client = Client::new("key")?.with_cancel_token(token.clone());
/// token.cancel(); // in a Ctrl-C handler or another thread
/// assert!(token.is_cancelled());
/// # let _ = client;
/// # Ok::<(), kling_video::Error>(())
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
    /// A list, since a call registers one or two.
    callbacks: Vec<(u64, CancelCallback)>,
}

type CancelCallback = Box<dyn FnOnce() + Send>;

impl CancelToken {
    /// Creates a token that is not cancelled.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels every call that uses this token or a clone of it, now and in the future.
    pub fn cancel(&self) {
        let callbacks = {
            let mut state = self.lock();
            state.cancelled = true;
            std::mem::take(&mut state.callbacks)
        };
        self.0.cancelled.notify_all();
        // Not under the lock, since a callback closes sockets.
        callbacks.into_iter().for_each(|(_, callback)| callback());
    }

    /// Whether [`cancel`](Self::cancel) was called.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.lock().cancelled
    }

    /// Calls `callback` when the token is cancelled, unless the registration is dropped first.
    pub(crate) fn register(&self, callback: CancelCallback) -> CancelRegistration {
        let mut state = self.lock();
        let key = state.next_key;
        state.next_key += 1;
        if state.cancelled {
            drop(state);
            callback();
        } else {
            state.callbacks.push((key, callback));
        }
        CancelRegistration { token: self.clone(), key }
    }

    /// Returns false if the token was cancelled before the time was up.
    pub(crate) fn sleep(&self, duration: Duration) -> bool {
        let goes_on = |state: &mut State| !state.cancelled;
        let woken = self.0.cancelled.wait_timeout_while(self.lock(), duration, goes_on);
        let (state, _) = woken.unwrap_or_else(PoisonError::into_inner);
        !state.cancelled
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

/// A registered callback, unregistered on drop.
pub(crate) struct CancelRegistration {
    token: CancelToken,
    key: u64,
}

impl CancelRegistration {
    /// Returns false if the token was cancelled before.
    pub(crate) fn unregister(&self) -> bool {
        let mut state = self.token.lock();
        state.callbacks.retain(|(key, _)| *key != self.key);
        !state.cancelled
    }
}

impl Drop for CancelRegistration {
    fn drop(&mut self) {
        self.unregister();
    }
}

pub(crate) fn is_cancelled(token: Option<&CancelToken>) -> bool {
    token.is_some_and(CancelToken::is_cancelled)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::thread;

    #[test]
    fn sleep_ends_when_another_thread_cancels() {
        let token = CancelToken::new();
        let sleeper = thread::spawn({
            let token = token.clone();
            move || token.sleep(Duration::MAX)
        });
        token.cancel();
        assert!(!sleeper.join().unwrap());
    }

    #[test]
    fn callback_runs_once_and_only_while_registered() {
        let runs = Arc::new(Mutex::new(0));
        let count = |runs: &Arc<Mutex<i32>>| -> CancelCallback {
            let runs = Arc::clone(runs);
            Box::new(move || *runs.lock().unwrap() += 1)
        };
        let token = CancelToken::new();
        let kept = token.register(count(&runs));
        let unregistered = token.register(count(&runs));
        assert!(unregistered.unregister());
        drop(token.register(count(&runs)));
        token.cancel();
        token.cancel();
        assert_eq!(*runs.lock().unwrap(), 1);
        assert!(!kept.unregister());
        let _late = token.register(count(&runs));
        assert_eq!(*runs.lock().unwrap(), 2);
    }
}
