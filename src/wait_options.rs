//! When a wait polls, and for how long.

use std::time::Duration;

use crate::model::request::VideoDuration;

/// When to poll a generation, and for how long.
///
/// ```
/// use kling_video::{VideoDuration, WaitOptions};
/// use std::time::Duration;
///
/// let long_wait = WaitOptions::new().timeout(Duration::from_secs(40 * 60));
/// let fewer_polls = WaitOptions::for_duration(VideoDuration::FiveSeconds);
/// # let _ = (long_wait, fewer_polls);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "options have no effect until they are given to a client"]
pub struct WaitOptions {
    pub(crate) initial_delay: Duration,
    pub(crate) interval: Duration,
    pub(crate) timeout: Duration,
    pub(crate) threads: usize,
}

impl WaitOptions {
    /// The default options: a poll every 10 s, for at most 20 minutes.
    pub fn new() -> Self {
        Self {
            initial_delay: Duration::from_secs(10),
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(20 * 60),
            threads: 1,
        }
    }

    /// Options for a video of this duration: no polls before it can be ready, then one every 4 s.
    ///
    /// The initial delay is 3 minutes for 5 seconds of video and 6 minutes for 10, the shortest
    /// times that the API's docs give. A generation that ends earlier is noticed at the first poll.
    pub fn for_duration(duration: VideoDuration) -> Self {
        let minutes = match duration {
            VideoDuration::FiveSeconds => 3,
            VideoDuration::TenSeconds => 6,
        };
        Self::new()
            .initial_delay(Duration::from_secs(minutes * 60))
            .interval(Duration::from_secs(4))
    }

    /// Sets the delay before the first poll. Defaults to 10 s.
    pub fn initial_delay(self, delay: Duration) -> Self {
        Self { initial_delay: delay, ..self }
    }

    /// Sets the time between polls. Defaults to 10 s.
    pub fn interval(self, interval: Duration) -> Self {
        Self { interval, ..self }
    }

    /// Sets the maximum time to wait. Defaults to 20 minutes.
    ///
    /// The last poll is made exactly at the deadline. If that is the first one to report a failure,
    /// one more follows, at most 10 s later, to confirm it.
    pub fn timeout(self, timeout: Duration) -> Self {
        Self { timeout, ..self }
    }

    /// Sets the number of threads that [`wait_all`](crate::Client::wait_all) polls from. Defaults
    /// to 1, the calling thread; 0 means 1.
    ///
    /// One thread is enough while a poll takes less time than the interval divided by the number of
    /// generations.
    pub fn threads(self, threads: usize) -> Self {
        Self { threads, ..self }
    }
}

impl Default for WaitOptions {
    fn default() -> Self {
        Self::new()
    }
}
