//! Whether and when to retry, as pure arithmetic.

use std::time::Duration;

use crate::error::Error;

/// How many times, and with what delays, failed requests are retried.
///
/// Reads are retried after network failures, timeouts and the statuses 408, 425, 429 and 5xx.
/// Create requests are retried only if they certainly were not accepted, and at most 3 times; one
/// whose upload was interrupted is repeated at once, whatever the policy, to learn why. The
/// delay is what the server requests with `Retry-After`, or else random, up to 0.5 s before the
/// first retry, 1 s before the second, 2 s before the third, … (exponential backoff with full
/// jitter).
///
/// ```
/// use kling_video::RetryPolicy;
/// use std::time::Duration;
///
/// let patient = RetryPolicy::new().max_retries(8).max_delay(Duration::from_secs(60));
/// # let _ = patient;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a policy has no effect until it is passed to `ClientBuilder::retry_policy`"]
pub struct RetryPolicy {
    max_retries: u32,
    pub(crate) base_delay: Duration,
    max_delay: Duration,
}

/// The maximum number of retries of a create request, whatever the policy.
const MAX_CREATE_RETRIES: u32 = 3;

impl RetryPolicy {
    /// The default policy: 5 retries (3 for create requests), with delays of at most 0.5 s before
    /// the first and at most 20 s before any.
    pub fn new() -> Self {
        Self {
            max_retries: 5,
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(20),
        }
    }

    /// A policy without retries.
    pub fn none() -> Self {
        Self::new().max_retries(0)
    }

    /// Sets the maximum number of retries of a request. Defaults to 5. Create requests are retried at
    /// most 3 times, whatever is set here.
    pub fn max_retries(self, n: u32) -> Self {
        Self { max_retries: n, ..self }
    }

    /// Sets the maximum delay before the first retry, which doubles with each further retry.
    /// Defaults to 0.5 s.
    pub fn base_delay(self, delay: Duration) -> Self {
        Self { base_delay: delay, ..self }
    }

    /// Sets the maximum delay before any retry. Defaults to 20 s.
    ///
    /// If the server requests a longer delay with `Retry-After`, the request is not retried: the
    /// error is returned, with [`retry_after`](crate::Error::retry_after). Calls that wait for a
    /// generation do not fail then: they poll again after the requested delay.
    ///
    /// A download whose video host returns 404 is repeated for three times this delay, at most 60 s,
    /// however many retries that takes.
    pub fn max_delay(self, delay: Duration) -> Self {
        Self { max_delay: delay, ..self }
    }

    /// The policy for create requests.
    pub(crate) fn for_create(&self) -> Self {
        self.clone().max_retries(self.max_retries.min(MAX_CREATE_RETRIES))
    }

    /// The delay before the next attempt after `attempt` (counted from 1) failed with `error`, or
    /// `None` to give up.
    pub(crate) fn next_delay(&self, attempt: u32, error: &Error, random: u64) -> Option<Duration> {
        if attempt > self.max_retries {
            return None;
        }
        match error.retry_after() {
            Some(retry_after) => (retry_after <= self.max_delay).then_some(retry_after),
            None => Some(self.backoff(attempt, random)),
        }
    }

    /// Like [`next_delay`](Self::next_delay), for what will soon be there: however many attempts have
    /// failed, until three times `max_delay` has passed, which is a minute by default and at most.
    pub(crate) fn next_delay_in_grace(
        &self,
        elapsed: Duration,
        attempt: u32,
        error: &Error,
        random: u64,
    ) -> Option<Duration> {
        const MAX_GRACE: Duration = Duration::from_secs(60);
        let grace = self.max_delay.saturating_mul(3).min(MAX_GRACE);
        let attempt = attempt.min(self.max_retries.max(1));
        self.next_delay(attempt, error, random).filter(|_| elapsed < grace)
    }

    fn backoff(&self, attempt: u32, random: u64) -> Duration {
        let factor = 2u32.saturating_pow(attempt.saturating_sub(1));
        let cap = self.base_delay.saturating_mul(factor).min(self.max_delay);
        let jitter = random as f64 / u64::MAX as f64;
        Duration::try_from_secs_f64(cap.as_secs_f64() * jitter).unwrap_or(cap)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorResponse;
    use crate::operation::Operation;

    #[test]
    fn backoff_doubles_up_to_its_cap_with_full_jitter() {
        let policy = RetryPolicy::new();
        let max: Vec<u128> = (1..=8).map(|n| policy.backoff(n, u64::MAX).as_millis()).collect();
        assert_eq!(max, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
        assert_eq!(policy.backoff(4, 0), Duration::ZERO);
        assert_eq!(policy.backoff(u32::MAX, u64::MAX / 2).as_secs(), 10);
        let unbounded = RetryPolicy::new().base_delay(Duration::MAX).max_delay(Duration::MAX);
        assert_eq!(unbounded.backoff(3, u64::MAX), Duration::MAX);
    }

    #[test]
    fn grace_is_a_minute_unless_the_delays_are_short_or_there_are_no_retries() {
        let not_found = ErrorResponse { status: Some(404), ..ErrorResponse::default() };
        let error = Error::api(Operation::Download, not_found);
        let delay = |policy: RetryPolicy, elapsed, attempt| {
            policy.next_delay_in_grace(Duration::from_millis(elapsed), attempt, &error, u64::MAX)
        };
        let secs = |secs| Some(Duration::from_secs(secs));
        assert_eq!(delay(RetryPolicy::new(), 0, 3), secs(2));
        assert_eq!(delay(RetryPolicy::new(), 59_999, 99), secs(8));
        assert_eq!(delay(RetryPolicy::new(), 60_000, 1), None);
        let long = RetryPolicy::new().max_delay(Duration::MAX);
        assert_eq!(delay(long, 60_000, 1), None);
        let short = RetryPolicy::new().max_delay(Duration::from_millis(20));
        assert_eq!(delay(short.clone(), 59, 9), Some(Duration::from_millis(20)));
        assert_eq!(delay(short, 60, 9), None);
        assert_eq!(delay(RetryPolicy::none(), 0, 1), None);
    }

    #[test]
    fn retries_end_at_their_limit_or_a_retry_after_over_the_cap() {
        let error = |retry_after| {
            Error::api(
                Operation::Retrieve,
                ErrorResponse { status: Some(429), retry_after, ..ErrorResponse::default() },
            )
        };
        let policy = RetryPolicy::new().max_retries(2);
        let with_retry_after = |secs| error(Some(Duration::from_secs(secs)));
        assert_eq!(policy.next_delay(1, &with_retry_after(20), 0), Some(Duration::from_secs(20)));
        assert_eq!(policy.next_delay(1, &with_retry_after(0), u64::MAX), Some(Duration::ZERO));
        assert_eq!(policy.next_delay(1, &with_retry_after(21), 0), None);
        assert_eq!(policy.next_delay(2, &error(None), 0), Some(Duration::ZERO));
        assert_eq!(policy.next_delay(3, &error(None), 0), None);
        assert_eq!(RetryPolicy::none().next_delay(1, &error(None), 0), None);
        assert_eq!(RetryPolicy::new().for_create().next_delay(4, &error(None), 0), None);
    }
}
