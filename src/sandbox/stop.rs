//! Says to all threads at once that it is over, and wakes those that sleep.

use std::io::{self, ErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Default)]
pub(super) struct Stop {
    raised: Mutex<bool>,
    changed: Condvar,
}

impl Stop {
    pub(super) fn raise(&self) {
        *self.raised() = true;
        self.changed.notify_all();
    }

    pub(super) fn is_raised(&self) -> bool {
        *self.raised()
    }

    /// Sleeps so long; an error says that it is over.
    pub(super) fn sleep(&self, time: Duration) -> io::Result<()> {
        if time.is_zero() {
            return Ok(());
        }
        let (raised, _) = self
            .changed
            .wait_timeout_while(self.raised(), time, |raised| !*raised)
            .unwrap_or_else(PoisonError::into_inner);
        if *raised { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn raised(&self) -> MutexGuard<'_, bool> {
        self.raised.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
