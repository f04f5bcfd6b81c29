//! Waiting for other threads and processes, with a time limit.

use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

/// Runs `work` in another thread and panics if it takes longer than 10 s.
pub fn with_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(10)).expect("a result within 10 s")
}

/// Waits for a condition that another thread or process brings about.
pub fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}
