//! The poll loop that waits for many generations: a queue of polls, the one due first in front.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::error::Result;
use crate::generation::{GenerationId, Video};
use crate::poll::{PollState, Poller, WaitOptions};
use crate::retry::RetryPolicy;

/// Sleeps are split into pieces of this length, after which a worker rechecks the queue: another
/// worker may have been throttled, or have panicked.
const MAX_SLEEP: Duration = Duration::from_secs(1);

/// Waits for all generations; the results are in input order.
pub(crate) fn wait_all(
    ids: &[GenerationId],
    options: &WaitOptions,
    retry_policy: &RetryPolicy,
    poller: &Poller<'_>,
) -> Vec<Result<Video>> {
    let queue = PollQueue::new(ids, options);
    let work = || queue.run_worker(options, retry_policy, poller);
    thread::scope(|scope| {
        let workers = options.threads.clamp(1, ids.len().max(1)) - 1;
        let workers: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        work();
        for worker in workers {
            // The caller's event handler panicked: its panic belongs to the caller.
            worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        }
    });
    queue.into_results()
}

struct PollQueue<'a>(Mutex<State<'a>>);

struct State<'a> {
    waiting: BinaryHeap<Reverse<Entry<'a>>>,
    /// No polls before this time: a 429 slows down all generations.
    throttled_until: Duration,
    /// A worker has panicked; the others exit, so that the panic is propagated at once.
    aborted: bool,
    results: Vec<(usize, Result<Video>)>,
}

struct Entry<'a> {
    index: usize,
    poll: PollState<'a>,
}

impl Entry<'_> {
    fn key(&self) -> (Duration, usize) {
        (self.poll.next_poll_at, self.index)
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

impl<'a> PollQueue<'a> {
    fn new(ids: &'a [GenerationId], options: &WaitOptions) -> Self {
        let entry = |(index, id)| Reverse(Entry { index, poll: PollState::new(id, options) });
        Self(Mutex::new(State {
            waiting: ids.iter().enumerate().map(entry).collect(),
            throttled_until: Duration::ZERO,
            aborted: false,
            results: Vec::with_capacity(ids.len()),
        }))
    }

    /// Pops the entry due first, polls it and pushes it back. A worker exits when the queue is
    /// empty; the entries that are being polled then return to the workers that hold them.
    fn run_worker(&self, options: &WaitOptions, retry_policy: &RetryPolicy, poller: &Poller<'_>) {
        let _guard = AbortOnPanic(self);
        while let Some(Reverse(mut entry)) = self.pop() {
            let result = self.poll_entry(&mut entry.poll, options, retry_policy, poller);
            let mut state = self.lock();
            match result {
                Some(result) => state.results.push((entry.index, result)),
                None => state.waiting.push(Reverse(entry)),
            }
        }
    }

    fn pop(&self) -> Option<Reverse<Entry<'a>>> {
        let mut state = self.lock();
        if state.aborted { None } else { state.waiting.pop() }
    }

    fn poll_entry(
        &self,
        poll: &mut PollState<'a>,
        options: &WaitOptions,
        retry_policy: &RetryPolicy,
        poller: &Poller<'_>,
    ) -> Option<Result<Video>> {
        loop {
            let poll_at = self.poll_at(poll);
            let remaining = poll_at.min(options.timeout).saturating_sub((poller.now)());
            if !(poller.sleep)(remaining.min(MAX_SLEEP)) || self.lock().aborted {
                return Some(Err(poll.cancelled()));
            }
            let now = (poller.now)();
            if now > options.timeout || (now == options.timeout && poll_at > now) {
                return Some(Err(poll.timed_out(now)));
            }
            // Checked again: another poll may have been throttled meanwhile.
            if self.poll_at(poll) <= now {
                break;
            }
        }
        let result = (poller.retrieve)(poll.id());
        let now = (poller.now)();
        let throttled = matches!(&result, Err(error) if error.status() == Some(429));
        let outcome = poll.on_result(result, now, options, retry_policy, poller.emit);
        if throttled {
            let mut state = self.lock();
            state.throttled_until = state.throttled_until.max(poll.next_poll_at);
        }
        outcome
    }

    fn poll_at(&self, poll: &PollState<'_>) -> Duration {
        poll.next_poll_at.max(self.lock().throttled_until)
    }

    fn into_results(self) -> Vec<Result<Video>> {
        let mut results = self.0.into_inner().unwrap_or_else(PoisonError::into_inner).results;
        results.sort_unstable_by_key(|(index, _)| *index);
        results.into_iter().map(|(_, result)| result).collect()
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::generation::Generation;
    use crate::poll::tests::{
        VirtualClock, completed, error_response, generation, id, pending, secs,
    };
    use std::collections::HashMap;

    type Polls = Mutex<HashMap<String, Vec<Duration>>>;

    /// Waits in virtual time, in which a poll takes `cost`. Also returns when each id was polled.
    fn wait_virtually(
        ids: &[GenerationId],
        options: &WaitOptions,
        cost: Duration,
        poll: impl Fn(&GenerationId, Duration) -> Result<Generation> + Sync,
    ) -> (Vec<Result<Video>>, HashMap<String, Vec<Duration>>) {
        let clock = VirtualClock::default();
        let polls = Polls::default();
        let poller = Poller {
            retrieve: &|id| {
                let now = clock.now();
                polls.lock().unwrap().entry(id.to_string()).or_default().push(now);
                clock.advance(cost);
                poll(id, now)
            },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            emit: &|_, _| {},
        };
        let retry_policy = RetryPolicy::new().base_delay(Duration::ZERO);
        let results = wait_all(ids, options, &retry_policy, &poller);
        (results, polls.into_inner().unwrap())
    }

    fn ids(n: usize) -> Vec<GenerationId> {
        (0..n).map(|i| id(&format!("g{i}"))).collect()
    }

    fn number(id: &GenerationId) -> u64 {
        id.as_ref().trim_start_matches('g').parse().unwrap()
    }

    #[test]
    fn thousand_generations_are_each_polled_on_time() {
        let ids = ids(1_000);
        let options = WaitOptions::new();
        // Each is ready at a different time. 5 ms a poll take 5 s of the interval for all of them.
        let ready = |id: &GenerationId| secs(60 + number(id) % 240);
        let (results, polls) = wait_virtually(
            &ids,
            &options,
            Duration::from_millis(5),
            |id, now| match (now >= ready(id), number(id) % 100) {
                (true, 7) => generation(r#"{"id":"a","status":"error","error":"no"}"#),
                (true, _) => generation(&format!(
                    r#"{{"id":"{id}","status":"completed","video":{{"url":"https://x/{id}.mp4"}}}}"#
                )),
                _ => pending(),
            },
        );
        assert_eq!(results.len(), 1_000);
        for (id, result) in ids.iter().zip(&results) {
            match result {
                Ok(video) => assert_eq!(video.url, format!("https://x/{id}.mp4")),
                Err(error) => {
                    assert_eq!(number(id) % 100, 7);
                    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
                    assert_eq!(error.generation_id(), Some(id));
                }
            }
            let times = &polls[id.as_ref()];
            assert!(times[0] < secs(10) + options.interval);
            for pair in times.windows(2) {
                assert!(pair[1] - pair[0] < options.interval * 2, "{id}: {pair:?}");
            }
            let last = times[times.len() - 1];
            assert!(last >= ready(id) && last < ready(id) + options.interval * 2);
        }
    }

    #[test]
    fn failure_of_one_generation_does_not_affect_the_others() {
        let ids = ids(3);
        let (results, _) = wait_virtually(&ids, &WaitOptions::new(), Duration::ZERO, |id, _| {
            if number(id) == 1 { error_response(403, None) } else { completed() }
        });
        let kinds: Vec<_> =
            results.iter().map(|result| result.as_ref().err().map(|e| e.kind())).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::Api), None]);
    }

    #[test]
    fn deadline_applies_to_all_generations() {
        let ids = ids(50);
        let options = WaitOptions::new().timeout(secs(35));
        let (results, polls) = wait_virtually(&ids, &options, secs(1), |_, _| pending());
        assert!(
            results
                .iter()
                .all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::WaitTimeout)
        );
        assert!(polls.values().flatten().all(|&at| at <= secs(35)));
        // A last poll of each would take until long after the deadline.
        let (results, polls) =
            wait_virtually(&ids, &options.timeout(Duration::ZERO), secs(1), |_, _| pending());
        assert_eq!((results.len(), polls.len()), (50, 0));
    }

    #[test]
    fn status_429_throttles_all_generations() {
        let ids = ids(20);
        let (results, polls) =
            wait_virtually(&ids, &WaitOptions::new(), Duration::ZERO, |id, now| {
                match (number(id), now < secs(100)) {
                    (5, true) => error_response(429, Some(secs(90))),
                    _ => completed(),
                }
            });
        assert!(results.iter().all(Result::is_ok));
        for id in &ids {
            let at = if number(id) <= 5 { 10 } else { 100 };
            assert_eq!(polls[id.as_ref()][0], secs(at), "{id}");
        }
    }

    #[test]
    fn threads_share_one_queue() {
        let ids = ids(40);
        let options = WaitOptions::new().threads(8).initial_delay(Duration::ZERO);
        let threads = Mutex::new(std::collections::HashSet::new());
        let together = std::sync::Barrier::new(8);
        let poller = Poller {
            retrieve: &|_| {
                threads.lock().unwrap().insert(thread::current().id());
                // Passes only if eight polls are in progress at the same time.
                together.wait();
                completed()
            },
            sleep: &|_| true,
            now: &|| Duration::ZERO,
            emit: &|_, _| {},
        };
        let results = wait_all(&ids, &options, &RetryPolicy::new(), &poller);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40);
        assert_eq!(threads.lock().unwrap().len(), 8);
    }

    #[test]
    fn panic_in_a_callback_reaches_the_caller_and_ends_the_other_workers() {
        let ids = ids(100);
        let options = WaitOptions::new().threads(4).timeout(Duration::MAX);
        let panicked = std::panic::catch_unwind(|| {
            let clock = VirtualClock::default();
            let poller = Poller {
                retrieve: &|id| {
                    if number(id) == 13 { panic!("from a callback") } else { pending() }
                },
                sleep: &|d| {
                    clock.advance(d);
                    true
                },
                now: &|| clock.now(),
                emit: &|_, _| {},
            };
            wait_all(&ids, &options, &RetryPolicy::new(), &poller)
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"from a callback"));
    }

    #[test]
    fn empty_list_returns_at_once() {
        let (results, polls) =
            wait_virtually(&[], &WaitOptions::new(), secs(1), |_, _| completed());
        assert!(results.is_empty() && polls.is_empty());
    }
}
