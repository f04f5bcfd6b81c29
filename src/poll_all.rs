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

/// A sleep is cut into naps of this length, to see whether it still makes sense: another thread may
/// have been asked to slow down, or have panicked.
const LONGEST_NAP: Duration = Duration::from_secs(1);

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
    /// A thread has panicked: the others are to go home, so that the panic need not wait for them.
    stopped: bool,
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
            stopped: false,
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
        let mut state = self.lock();
        if state.stopped { None } else { state.waiting.pop() }
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
            let left = at.min(options.timeout).saturating_sub((driver.now)());
            if !(driver.sleep)(left.min(LONGEST_NAP)) || self.lock().stopped {
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

struct StopOnPanic<'s, 'a>(&'s Schedule<'a>);

impl Drop for StopOnPanic<'_, '_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.lock().stopped = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use crate::generation::Generation;
    use crate::poll::tests::{VirtualClock, done, generation, id, pending, refused, secs};
    use std::collections::HashMap;

    type Looks = Mutex<HashMap<String, Vec<Duration>>>;

    /// Waits in virtual time, in which a look takes `cost`; with when each was looked at.
    fn wait_virtually(
        ids: &[GenerationId],
        options: &WaitOptions,
        cost: Duration,
        look: impl Fn(&GenerationId, Duration) -> Result<Generation> + Sync,
    ) -> (Vec<Result<Video>>, HashMap<String, Vec<Duration>>) {
        let clock = VirtualClock::default();
        let looks = Looks::default();
        let driver = Driver {
            fetch: &|id| {
                let now = clock.now();
                looks.lock().unwrap().entry(id.to_string()).or_default().push(now);
                clock.advance(cost);
                look(id, now)
            },
            sleep: &|d| {
                clock.advance(d);
                true
            },
            now: &|| clock.now(),
            watch: &|_| {},
        };
        let retry = RetryPolicy::new().base_delay(Duration::ZERO);
        let ends = wait_all(ids, options, &retry, &driver);
        (ends, looks.into_inner().unwrap())
    }

    fn ids(n: usize) -> Vec<GenerationId> {
        (0..n).map(|i| id(&format!("g{i}"))).collect()
    }

    fn number(id: &GenerationId) -> u64 {
        id.as_ref().trim_start_matches('g').parse().unwrap()
    }

    #[test]
    fn a_thousand_are_each_polled_on_their_own_schedule_and_none_is_starved() {
        let ids = ids(1_000);
        let options = WaitOptions::new();
        // Each is ready after its own time; 5 ms a look are 5 s of the 10 s for all of them.
        let ready = |id: &GenerationId| secs(60 + number(id) % 240);
        let (ends, looks) = wait_virtually(&ids, &options, Duration::from_millis(5), |id, now| {
            match (now >= ready(id), number(id) % 100) {
                (true, 7) => generation(r#"{"id":"a","status":"error","error":"no"}"#),
                (true, _) => generation(&format!(
                    r#"{{"id":"{id}","status":"completed","video":{{"url":"https://x/{id}.mp4"}}}}"#
                )),
                _ => pending(),
            }
        });
        assert_eq!(ends.len(), 1_000);
        for (id, end) in ids.iter().zip(&ends) {
            match end {
                Ok(video) => assert_eq!(video.url, format!("https://x/{id}.mp4")),
                Err(error) => {
                    assert_eq!(number(id) % 100, 7);
                    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
                    assert_eq!(error.generation_id(), Some(id));
                }
            }
            let times = &looks[id.as_ref()];
            assert!(times[0] < secs(10) + options.interval);
            for pair in times.windows(2) {
                assert!(pair[1] - pair[0] < options.interval * 2, "{id}: {pair:?}");
            }
            let seen = times[times.len() - 1];
            assert!(seen >= ready(id) && seen < ready(id) + options.interval * 2);
        }
    }

    #[test]
    fn one_that_fails_leaves_the_others_alone() {
        let ids = ids(3);
        let (ends, _) = wait_virtually(&ids, &WaitOptions::new(), Duration::ZERO, |id, _| {
            if number(id) == 1 { refused(403, None) } else { done() }
        });
        let kinds: Vec<_> = ends.iter().map(|end| end.as_ref().err().map(|e| e.kind())).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::Api), None]);
    }

    #[test]
    fn the_deadline_holds_for_all_of_them() {
        let ids = ids(50);
        let options = WaitOptions::new().timeout(secs(35));
        let (ends, looks) = wait_virtually(&ids, &options, secs(1), |_, _| pending());
        assert!(ends.iter().all(|end| end.as_ref().unwrap_err().kind() == ErrorKind::WaitTimeout));
        assert!(looks.values().flatten().all(|&at| at <= secs(35)));
        // A last look for each of them would take long past the deadline.
        let (ends, looks) =
            wait_virtually(&ids, &options.timeout(Duration::ZERO), secs(1), |_, _| pending());
        assert_eq!((ends.len(), looks.len()), (50, 0));
    }

    #[test]
    fn a_429_cools_all_of_them_down() {
        let ids = ids(20);
        let (ends, looks) = wait_virtually(&ids, &WaitOptions::new(), Duration::ZERO, |id, now| {
            match (number(id), now < secs(100)) {
                (5, true) => refused(429, Some(secs(90))),
                _ => done(),
            }
        });
        assert!(ends.iter().all(Result::is_ok));
        for id in &ids {
            let at = if number(id) <= 5 { 10 } else { 100 };
            assert_eq!(looks[id.as_ref()][0], secs(at), "{id}");
        }
    }

    #[test]
    fn threads_share_one_schedule() {
        let ids = ids(40);
        let options = WaitOptions::new().threads(8).first_poll_after(Duration::ZERO);
        let threads = Mutex::new(std::collections::HashSet::new());
        let together = std::sync::Barrier::new(8);
        let driver = Driver {
            fetch: &|_| {
                threads.lock().unwrap().insert(thread::current().id());
                // Passes only if eight looks are under way at the same time.
                together.wait();
                done()
            },
            sleep: &|_| true,
            now: &|| Duration::ZERO,
            watch: &|_| {},
        };
        let ends = wait_all(&ids, &options, &RetryPolicy::new(), &driver);
        assert_eq!(ends.iter().filter(|end| end.is_ok()).count(), 40);
        assert_eq!(threads.lock().unwrap().len(), 8);
    }

    #[test]
    fn a_panic_of_a_callback_reaches_the_caller_and_ends_the_other_threads() {
        let ids = ids(100);
        let options = WaitOptions::new().threads(4).timeout(Duration::MAX);
        let panicked = std::panic::catch_unwind(|| {
            let clock = VirtualClock::default();
            let driver = Driver {
                fetch: &|id| if number(id) == 13 { panic!("a callback's") } else { pending() },
                sleep: &|d| {
                    clock.advance(d);
                    true
                },
                now: &|| clock.now(),
                watch: &|_| {},
            };
            wait_all(&ids, &options, &RetryPolicy::new(), &driver)
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"a callback's"));
    }

    #[test]
    fn none_is_nothing_to_wait_for() {
        let (ends, looks) = wait_virtually(&[], &WaitOptions::new(), secs(1), |_, _| done());
        assert!(ends.is_empty() && looks.is_empty());
    }
}
