//! When one generation is polled, and what its responses prove.

#[cfg(test)]
mod tests {
    use super::super::*;
    use crate::model::generation::Status;
    use crate::model::request::VideoDuration;

    #[test]
    fn polls_are_evenly_spaced_until_the_video_is_ready() {
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), after(35, completed));
        assert_eq!(outcome.unwrap().url, "https://x/a.mp4");
        assert_eq!(polls, [10, 20, 30, 40]);
    }

    #[test]
    fn wait_options_for_duration_start_late_and_poll_often() {
        let five = WaitOptions::for_duration(VideoDuration::FiveSeconds);
        assert_eq!(wait_virtually(&five, after(190, completed)).1, [180, 184, 188, 192]);
        let ten = WaitOptions::for_duration(VideoDuration::TenSeconds);
        assert_eq!(wait_virtually(&ten, after(10, completed)).1, [360]);
    }

    #[test]
    fn last_poll_is_at_the_deadline_and_the_error_says_how_to_continue() {
        let options = WaitOptions::new().timeout(secs(25));
        let (outcome, polls) = wait_virtually(&options, |_| pending());
        assert_eq!(polls, [10, 20, 25]);
        let error = outcome.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::WaitTimeout);
        assert_eq!(error.generation().unwrap().status, Status::Generating);
        assert!(error.is_retryable() && error.may_have_been_billed());
        let message = error.to_string();
        assert!(
            message.contains(
                "generation `a`: timed out after 25 s (last status: generating, 3 polls)"
            ),
            "{message}"
        );
        assert!(message.ends_with("call wait again"), "{message}");
        let in_time = wait_virtually(&options, after(25, completed));
        assert!(in_time.0.is_ok());
    }

    #[test]
    fn zero_and_maximum_durations_are_accepted() {
        let zero = WaitOptions::new().timeout(Duration::ZERO);
        assert_eq!(wait_virtually(&zero, |_| pending()).1, [0]);
        let maximal = WaitOptions::new()
            .initial_delay(Duration::MAX)
            .interval(Duration::MAX)
            .timeout(Duration::MAX);
        let (outcome, polls) = wait_virtually(&maximal, |_| pending());
        assert_eq!((outcome.is_err(), polls), (true, vec![u64::MAX]));
    }

    #[test]
    fn transient_errors_do_not_end_the_wait_and_permanent_ones_do() {
        for status in [408, 425, 429, 500, 502, 503, 504, 524] {
            let poll =
                |now| if now < secs(20) { error_response(status, None) } else { completed() };
            assert!(wait_virtually(&WaitOptions::new(), poll).0.is_ok(), "{status}");
        }
        for status in [301, 400, 401, 403, 404, 410, 422] {
            let poll =
                |now| if now < secs(900) { error_response(status, None) } else { completed() };
            assert!(wait_virtually(&WaitOptions::new(), poll).0.is_ok(), "{status}");
        }
        for status in [301, 400, 401, 403, 410, 422] {
            let (outcome, polls) = wait_virtually(&WaitOptions::new(), |_| api_error(status));
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
            assert_eq!((error.operation(), polls.len()), (Operation::Wait, 1));
            assert_eq!(error.generation_id(), Some(&id("a")));
        }
        let unreadable = |now| match now < secs(20) {
            true => Err(Error::decode(Operation::Retrieve, "not JSON")),
            false => completed(),
        };
        assert!(wait_virtually(&WaitOptions::new(), unreadable).0.is_ok());
    }

    #[test]
    fn not_found_for_a_minute_means_that_the_api_does_not_know_the_id() {
        let hidden = |now| if now < secs(60) { api_error(404) } else { completed() };
        assert!(wait_virtually(&WaitOptions::new(), hidden).0.is_ok());
        for options in [WaitOptions::new(), WaitOptions::new().initial_delay(secs(180))] {
            let (outcome, polls) = wait_virtually(&options, |_| api_error(404));
            let error = outcome.unwrap_err();
            assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(404)));
            assert_eq!(polls.last().unwrap() - polls.first().unwrap(), 60);
            assert!(!error.is_retryable());
            assert!(error.to_string().contains("the API does not know this generation id"));
        }
        // A minute without a response that says otherwise.
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), |now| match now {
            now if now < secs(55) => api_error(404),
            now if now < secs(65) => pending(),
            _ => api_error(404),
        });
        assert_eq!((outcome.unwrap_err().status(), polls.last()), (Some(404), Some(&130)));
    }

    #[test]
    fn not_found_is_retried_until_the_deadline_if_the_generation_was_created() {
        let created = generation(r#"{"id":"a","status":"queued"}"#).unwrap();
        for known in [Known::Created, Known::Response(Box::new(created))] {
            let poller = VirtualPoller::new(|_: &_, _| api_error(404));
            let error = poller.wait_for(&known, &WaitOptions::new()).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::WaitTimeout);
            assert_eq!(poller.poll_times().last(), Some(&1200));
            assert!(!error.to_string().contains("does not know"), "{error}");
        }
    }

    #[test]
    fn completed_generation_that_stays_not_found_has_ended_and_may_have_been_charged() {
        let poller = VirtualPoller::new(|_: &_, _| api_error(404));
        let error = poller.wait_for(&Known::Completed, &WaitOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert!(error.may_have_been_billed());
        let polls = poller.poll_times();
        assert_eq!((polls.first(), polls.last()), (Some(&0), Some(&60)));
    }

    #[test]
    fn retry_after_is_honoured_up_to_the_deadline() {
        let options = WaitOptions::new();
        let busy = |now| match now < secs(20) {
            true => error_response(429, Some(secs(300))),
            false => completed(),
        };
        let (outcome, polls) = wait_virtually(&options, busy);
        assert!(outcome.is_ok());
        assert_eq!(polls, [10, 310]);
        let (outcome, polls) =
            wait_virtually(&options, |_| error_response(429, Some(Duration::MAX)));
        assert_eq!(outcome.unwrap_err().kind(), ErrorKind::WaitTimeout);
        assert_eq!(polls, [10, 1200]);
    }

    #[test]
    fn missing_video_url_is_retried_for_a_minute() {
        let without_url = completed_without_url;
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), |_| without_url());
        let error = outcome.unwrap_err();
        assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Decode, true));
        assert_eq!(polls.last(), Some(&70));
        let late = |now| if now < secs(60) { without_url() } else { completed() };
        assert!(wait_virtually(&WaitOptions::new(), late).0.is_ok());
        // Not a minute without a URL.
        let flapping = |now| if now == secs(60) { pending() } else { without_url() };
        assert_eq!(wait_virtually(&WaitOptions::new(), flapping).1.last(), Some(&130));
    }

    #[test]
    fn failed_generation_is_not_billed() {
        let failed = |_| {
            generation(
                r#"{"id":"a","status":"failed","error":{"name":"Nsfw","message":"rejected"}}"#,
            )
        };
        let (outcome, polls) = wait_virtually(&WaitOptions::new(), failed);
        let error = outcome.unwrap_err();
        assert_eq!(polls, [10, 20]);
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert_eq!(error.server_message(), Some("Nsfw: rejected"));
        assert!(!error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(error.generation().unwrap().status, Status::Error);
    }

    #[test]
    fn failure_is_confirmed_one_interval_later_and_after_at_most_10_s() {
        for (interval, second) in [(0, 10), (4, 14), (10, 20), (60, 20), (u64::MAX, 20)] {
            let options = WaitOptions::new().interval(secs(interval)).timeout(Duration::MAX);
            for word in ["error", "canceled"] {
                let (outcome, polls) = wait_virtually(&options, |_| status(word));
                assert_eq!(outcome.unwrap_err().kind(), ErrorKind::GenerationFailed);
                assert_eq!(polls, [10, second], "{interval}");
            }
        }
        // With a shorter interval, as long after it as a retry.
        let retry_policy = RetryPolicy::new();
        for (interval, second) in [(0, 10_500), (4_000, 14_000)] {
            let options = WaitOptions::new().interval(Duration::from_millis(interval));
            let poller = VirtualPoller::new(|_: &_, _| status("error"));
            let ids = [id("a")];
            let results = PollQueue::new(&options, &retry_policy, &poller).wait_all(&ids);
            assert!(results[0].is_err());
            let polls = poller.polls.into_inner().unwrap();
            assert_eq!(polls.last().unwrap().1, Duration::from_millis(second));
        }
        // The interval is in effect again when the second response says something else.
        let options = WaitOptions::new().interval(secs(60));
        let once = |now| match now {
            now if now < secs(20) => status("error"),
            now if now < secs(80) => pending(),
            _ => completed(),
        };
        assert_eq!(wait_virtually(&options, once).1, [10, 20, 80]);
    }

    #[test]
    fn failure_is_confirmed_even_past_the_deadline() {
        let options = WaitOptions::new().timeout(secs(25));
        let poller = VirtualPoller::new(
            |_: &_, now| if now < secs(25) { pending() } else { status("error") },
        );
        let error = poller.wait(&options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationFailed);
        assert_eq!(poller.poll_times(), [10, 20, 25, 35]);
        let next_polls = poller.next_polls.into_inner().unwrap();
        assert_eq!(next_polls.last_chunk(), Some(&[(secs(25), Some(secs(10))), (secs(35), None)]));

        // Only the second response is: without another report the wait has timed out.
        for second in [pending, completed_without_url, || error_response(503, None)] {
            let (outcome, polls) = wait_virtually(&options, |now| match now.as_secs() {
                25 => status("error"),
                35 => second(),
                _ => pending(),
            });
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::WaitTimeout);
            assert_eq!(polls, [10, 20, 25, 35]);
        }
    }

    #[test]
    fn response_to_the_create_is_the_first_report() {
        let options = WaitOptions::for_duration(VideoDuration::FiveSeconds);
        for (first, second, billed) in
            [("error", "failed", false), ("canceled", "error", true), ("error", "expired", true)]
        {
            let first = Known::Response(Box::new(status(first).unwrap()));
            let poller = VirtualPoller::new(|_: &_, _| status(second));
            let error = poller.wait_for(&first, &options).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::GenerationFailed);
            assert_eq!(error.may_have_been_billed(), billed);
            assert_eq!(poller.poll_times(), [4]);
        }
        let first = Known::Response(Box::new(status("queued").unwrap()));
        let poller = VirtualPoller::new(|_: &_, _| status("error"));
        poller.wait_for(&first, &options).unwrap_err();
        assert_eq!(poller.poll_times(), [180, 184]);
    }

    #[test]
    fn failure_of_a_completed_generation_may_have_been_charged() {
        let poller = VirtualPoller::new(|_: &_, _| status("error"));
        let error = poller.wait_for(&Known::Completed, &WaitOptions::new()).unwrap_err();
        assert!(error.may_have_been_billed());
        let error = poller.wait_for(&Known::Created, &WaitOptions::new()).unwrap_err();
        assert!(!error.may_have_been_billed());
        let seen = wait_virtually(&WaitOptions::new(), |now| match now.as_secs() {
            10 => completed_without_url(),
            _ => status("error"),
        });
        assert!(seen.0.unwrap_err().may_have_been_billed());
    }

    #[test]
    fn poll_that_ends_after_the_deadline_is_the_last() {
        let poller =
            VirtualPoller { poll_takes: secs(60), ..VirtualPoller::new(|_: &_, _| pending()) };
        assert!(poller.wait(&WaitOptions::new().timeout(secs(11))).is_err());
        assert_eq!((poller.poll_times(), poller.now()), (vec![10], secs(70)));
    }

    #[test]
    fn polled_events_announce_the_next_poll() {
        let announced = |options| {
            let poll = |_: &_, now| if now < secs(20) { pending() } else { completed() };
            let poller = VirtualPoller::new(poll);
            poller.wait(&options).unwrap();
            let next_polls = poller.next_polls.into_inner().unwrap();
            let in_secs =
                next_polls.iter().map(|(at, next)| (at.as_secs(), next.map(|d| d.as_secs())));
            in_secs.collect::<Vec<_>>()
        };
        let options = WaitOptions::new().interval(secs(7));
        assert_eq!(announced(options.clone()), [(10, Some(7)), (17, Some(7)), (24, None)]);
        assert_eq!(
            announced(options.timeout(secs(20))),
            [(10, Some(7)), (17, Some(3)), (20, None)]
        );
    }

    #[test]
    fn cancelled_wait_reports_the_last_state() {
        let poller =
            VirtualPoller { sleeps: AtomicU32::new(2), ..VirtualPoller::new(|_: &_, _| pending()) };
        let error = poller.wait(&WaitOptions::new()).unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Cancelled, 2));
        assert_eq!(error.generation().unwrap().status, Status::Generating);
    }
}
