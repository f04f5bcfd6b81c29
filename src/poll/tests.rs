//! Tests of waits, in virtual time.

#[cfg(test)]
mod many_generations;
#[cfg(test)]
mod one_generation;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};

use super::*;
use crate::error::ErrorKind;

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
        PollQueue::new(options, &retry_policy, self).wait_all(ids)
    }

    fn wait(&self, options: &WaitOptions) -> Result<Video> {
        self.wait_for(&Known::Nothing, options)
    }

    fn wait_for(&self, known: &Known, options: &WaitOptions) -> Result<Video> {
        let retry_policy = RetryPolicy::new().base_delay(Duration::ZERO);
        PollQueue::new(options, &retry_policy, self).wait(&id("a"), known)
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
    generation(r#"{"id":"a","status":"completed","video":{"url":"https://x/a.mp4"},"error":"?"}"#)
}

fn status(word: &str) -> Result<Generation> {
    generation(&format!(r#"{{"id":"a","status":"{word}"}}"#))
}

/// An error response with the vendor's marks.
fn api_error(status: u16) -> Result<Generation> {
    let error = ErrorResponse { status: Some(status), marked: true, ..ErrorResponse::default() };
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

fn ids(n: usize) -> Vec<GenerationId> {
    (0..n).map(|i| id(&format!("g{i}"))).collect()
}

fn number(id: &GenerationId) -> u64 {
    id.as_str().trim_start_matches('g').parse().unwrap()
}
