//! Many generations over one queue.

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::sync::Barrier;

    use super::super::*;

    #[test]
    fn thousand_generations_are_each_polled_on_time() {
        let ids = ids(1_000);
        let options = WaitOptions::new();
        // Each is ready at a different time. 5 ms a poll take 5 s of the interval for all of them.
        let ready = |id: &GenerationId| secs(60 + number(id) % 240);
        let poll = |id: &GenerationId, now| match (now >= ready(id), number(id) % 100) {
            (true, 7) => generation(r#"{"id":"a","status":"error","error":"no"}"#),
            (true, _) => generation(&format!(
                r#"{{"id":"{id}","status":"completed","video":{{"url":"https://x/{id}.mp4"}}}}"#
            )),
            _ => pending(),
        };
        let poller =
            VirtualPoller { poll_takes: Duration::from_millis(5), ..VirtualPoller::new(poll) };
        let results = poller.wait_all(&ids, &options);
        assert_eq!(results.len(), 1_000);
        let polls = poller.polls_by_id();
        for (id, result) in ids.iter().zip(&results) {
            match result {
                Ok(video) => assert_eq!(video.url, format!("https://x/{id}.mp4")),
                Err(error) => {
                    assert_eq!(number(id) % 100, 7);
                    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
                    assert_eq!(error.generation_id(), Some(id));
                }
            }
            let times = &polls[id];
            assert!(times[0] < secs(10) + options.interval);
            for pair in times.windows(2) {
                assert!(pair[1] - pair[0] < options.interval * 2, "{id}: {pair:?}");
            }
            let last = times[times.len() - 1];
            // A failure is confirmed by one more poll.
            let last = if result.is_err() { times[times.len() - 2] } else { last };
            assert!(last >= ready(id) && last < ready(id) + options.interval * 2);
        }
    }

    #[test]
    fn failure_of_one_generation_does_not_affect_the_others() {
        let poll = |id: &GenerationId, _| match number(id) {
            1 => api_error(403),
            _ => completed(),
        };
        let results = VirtualPoller::new(poll).wait_all(&ids(3), &WaitOptions::new());
        let kinds: Vec<_> =
            results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect();
        assert_eq!(kinds, [None, Some(ErrorKind::Api), None]);
    }

    #[test]
    fn every_generation_has_its_last_poll_at_the_deadline() {
        let ids = ids(50);
        let poller = VirtualPoller::new(|_: &_, _| pending());
        let results = poller.wait_all(&ids, &WaitOptions::new().timeout(secs(25)));
        for result in results {
            assert_eq!(result.unwrap_err().kind(), ErrorKind::WaitTimeout);
        }
        let polls = poller.polls_by_id();
        for id in &ids {
            assert_eq!(polls[id], [10, 20, 25].map(secs), "{id}");
        }
    }

    /// In a batch, deadlines differ.
    #[test]
    fn throttled_polls_of_others_do_not_delay_the_last_poll() {
        let options = WaitOptions::new().timeout(secs(60));
        let retry_policy = RetryPolicy::new();
        let poller = VirtualPoller::new(|polled: &_, _| match *polled == id("throttled") {
            true => error_response(429, Some(secs(3_600))),
            false => pending(),
        });
        let queue = PollQueue::new(&options, &retry_policy, &poller);
        for (index, name) in ["first", "throttled", "last"].into_iter().enumerate() {
            queue.push(index, &id(name), &Known::Created);
            if index == 0 {
                assert!(matches!(queue.step(), Step::Polled));
                poller.advance(secs(5));
            }
        }
        loop {
            match queue.step() {
                Step::Idle(delay) => queue.sleep(delay),
                Step::Empty => break,
                _ => {}
            }
        }
        let polls = poller.polls_by_id();
        assert_eq!(polls[&id("first")], [0, 60].map(secs));
        assert_eq!(polls[&id("throttled")], [5, 65].map(secs));
        assert_eq!(polls[&id("last")], [65].map(secs));
    }

    #[test]
    fn slow_polls_delay_the_return_by_no_more_than_an_interval() {
        let ids = ids(50);
        for (timeout, first_poll, last_poll) in [(35, 10, 45), (0, 0, 10)] {
            let options = WaitOptions::new().timeout(secs(timeout));
            let poller =
                VirtualPoller { poll_takes: secs(1), ..VirtualPoller::new(|_: &_, _| pending()) };
            let results = poller.wait_all(&ids, &options);
            assert_eq!(results.len(), 50);
            for result in results {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::WaitTimeout);
            }
            let times = poller.poll_times();
            assert_eq!((times.first(), times.last()), (Some(&first_poll), Some(&last_poll)));
        }
    }

    #[test]
    fn status_429_throttles_all_generations() {
        let ids = ids(20);
        let poller =
            VirtualPoller::new(|id: &GenerationId, now| match (number(id), now < secs(100)) {
                (5, true) => error_response(429, Some(secs(90))),
                _ => completed(),
            });
        let results = poller.wait_all(&ids, &WaitOptions::new());
        assert!(results.iter().all(Result::is_ok));
        let polls = poller.polls_by_id();
        for id in &ids {
            let at = if number(id) <= 5 { 10 } else { 100 };
            assert_eq!(polls[id][0], secs(at), "{id}");
        }
    }

    #[test]
    fn threads_share_one_queue() {
        let threads = Mutex::new(HashSet::new());
        let together = Barrier::new(8);
        let poller = VirtualPoller::new(|_: &_, _| {
            threads.lock().unwrap().insert(thread::current().id());
            // Passes only if eight polls are in progress at the same time.
            together.wait();
            completed()
        });
        let options = WaitOptions::new().threads(8).initial_delay(Duration::ZERO);
        let results = poller.wait_all(&ids(40), &options);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 40);
        assert_eq!(threads.lock().unwrap().len(), 8);
    }

    #[test]
    fn panic_in_a_callback_reaches_the_caller_and_ends_the_other_workers() {
        let options = WaitOptions::new().threads(4).timeout(Duration::MAX);
        let panicked = std::panic::catch_unwind(|| {
            let poller = VirtualPoller::new(|id: &GenerationId, _| match number(id) {
                13 => panic!("from a callback"),
                _ => pending(),
            });
            poller.wait_all(&ids(100), &options)
        });
        assert_eq!(panicked.unwrap_err().downcast_ref(), Some(&"from a callback"));
    }

    #[test]
    fn empty_list_returns_at_once() {
        let poller = VirtualPoller::new(|_: &_, _| completed());
        assert!(poller.wait_all(&[], &WaitOptions::new()).is_empty());
        assert_eq!((poller.poll_times(), poller.now()), (vec![], Duration::ZERO));
    }
}
