//! Signals all threads to stop, and wakes those that are sleeping.

use std::io::{self, ErrorKind};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

#[derive(Default)]
pub(super) struct ShutdownSignal {
    triggered: Mutex<bool>,
    changed: Condvar,
}

impl ShutdownSignal {
    pub(super) fn trigger(&self) {
        *self.triggered() = true;
        self.changed.notify_all();
    }

    pub(super) fn is_triggered(&self) -> bool {
        *self.triggered()
    }

    /// Sleeps for the given duration; fails as soon as the server shuts down.
    pub(super) fn sleep(&self, duration: Duration) -> io::Result<()> {
        if duration.is_zero() {
            return Ok(());
        }
        let (triggered, _) = self
            .changed
            .wait_timeout_while(self.triggered(), duration, |triggered| !*triggered)
            .unwrap_or_else(PoisonError::into_inner);
        if *triggered { Err(ErrorKind::ConnectionAborted.into()) } else { Ok(()) }
    }

    fn triggered(&self) -> MutexGuard<'_, bool> {
        self.triggered.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
