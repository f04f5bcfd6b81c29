//! Whether and when to retry, as pure arithmetic.

use std::time::{Duration, SystemTime};

use crate::error::Error;

/// How many times, and with what delays, failed requests are retried.
///
/// Reads are retried after network failures, timeouts and the statuses 408, 425, 429 and 5xx.
/// Create requests are retried only if they certainly were not accepted, and at most 3 times. The
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
    base_delay: Duration,
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

/// Parses `Retry-After`, which is a number of seconds or a date. Other values are ignored.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number that does not fit is clamped, since nobody waits that long either way.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = parse_http_date(value)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(date).saturating_sub(now))
}

/// Parses one of HTTP's three date formats, of which the last two are obsolete, as a Unix time:
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
fn parse_http_date(text: &str) -> Option<u64> {
    let parts: Vec<&str> = text.split([' ', '-', ',']).filter(|part| !part.is_empty()).collect();
    let (day, month, year, time) = match parts.as_slice() {
        [_weekday, day, month, year, time, "GMT"] => (day, month, year, time),
        [_weekday, month, day, time, year] => (day, month, year, time),
        _ => return None,
    };
    const MONTHS: [&str; 12] =
        ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let month = MONTHS.iter().position(|name| name == month)? as u64 + 1;
    let day = parse_number(day, 1, 31)?;
    let year = match parse_number(year, 0, 9999)? {
        two_digits @ 0..70 => 2000 + two_digits,
        two_digits @ 70..100 => 1900 + two_digits,
        four_digits => four_digits,
    };
    let mut time = time.split(':');
    let (hour, minute) = (parse_number(time.next()?, 0, 23)?, parse_number(time.next()?, 0, 59)?);
    let second = parse_number(time.next()?, 0, 60)?;
    if time.next().is_some() {
        return None;
    }
    Some(days_from_civil(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn parse_number(text: &str, min: u64, max: u64) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let value = text.parse().ok().filter(|_| digits)?;
    (min..=max).contains(&value).then_some(value)
}

/// Days since 1970-01-01. In years that start in March, the leap day comes last and the lengths of
/// the months follow a regular pattern.
fn days_from_civil(year: u64, month: u64, day: u64) -> Option<u64> {
    let (year, month) =
        if month > 2 { (year, month - 3) } else { (year.checked_sub(1)?, month + 9) };
    let leap_days = year / 4 - year / 100 + year / 400;
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    (year * 365 + leap_days + day_of_year).checked_sub(719_468)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::cases;
    use crate::error::ApiError;
    use crate::operation::Operation;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn unix_time(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn retry_after_is_parsed_as_seconds_or_a_date() {
        let now = unix_time(784_111_777 - 30);
        for (value, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Sun, 06 Nov 1994 08:49:37 GMT", Some(30)),
            ("Sunday, 06-Nov-94 08:49:37 GMT", Some(30)),
            ("Sun Nov  6 08:49:37 1994", Some(30)),
            ("Sun, 06 Nov 1994 08:48:00 GMT", Some(0)),
            ("99999999999999999999999999", Some(u64::MAX)),
            ("-1", None),
            ("+1", None),
            ("1.5", None),
            ("", None),
            ("soon", None),
            ("Sun, 06 Nov 1994 08:49 GMT", None),
            ("Sun, 36 Nov 1994 08:49:37 GMT", None),
            ("Sun, 06 Xyz 1994 08:49:37 GMT", None),
            (
                "Sun, 06 Jan 0000 08:49:37 GMT",
                Some(946_684_800 + 5 * 86_400 + 31_777 - 784_111_747),
            ),
        ] {
            let parsed = parse_retry_after(value, now).map(|d| d.as_secs());
            assert_eq!(parsed, seconds, "{value:?}");
        }
    }

    #[test]
    fn days_from_civil_follow_the_calendar() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 22), 20_779),
        ] {
            assert_eq!(days_from_civil(date.0, date.1, date.2), Some(days));
        }
        assert_eq!(days_from_civil(1969, 12, 31), None);
    }

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
    fn retries_end_at_their_limit_or_a_retry_after_over_the_cap() {
        let error = |retry_after| {
            Error::api(
                Operation::Retrieve,
                ApiError { status: 429, retry_after, ..ApiError::default() },
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

    /// The year, month (from 0) and day (from 1) of a day since 1970, computed year by year.
    fn civil(mut day: u64) -> (u64, usize, u64) {
        let is_leap = |year: u64| {
            year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
        };
        let mut year = 1970;
        while day >= 365 + u64::from(is_leap(year)) {
            day -= 365 + u64::from(is_leap(year));
            year += 1;
        }
        let february = 28 + u64::from(is_leap(year));
        let lengths = [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        let mut month = 0;
        while day >= lengths[month] {
            day -= lengths[month];
            month += 1;
        }
        (year, month, day + 1)
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn retry_after_is_parsed_from_any_header_value(
            tokens in vec(
                prop_oneof![
                    4 => select(vec![
                        "Sun", ",", " ", "-", ":", "06", "Nov", "1994", "94", "08:49:37", "GMT", "0",
                        "99999999999999999999", "+", "é",
                    ]).prop_map(str::to_owned),
                    1 => any::<u32>().prop_map(|number| number.to_string()),
                    1 => any::<char>().prop_map(String::from),
                ],
                0..12,
            ),
            spaced: bool,
            now in any::<u32>(),
        ) {
            let value = tokens.join(if spaced { " " } else { "" });
            let parsed = parse_retry_after(&value, unix_time(now.into()));
            let trimmed = value.trim();
            if !trimmed.is_empty() && trimmed.chars().all(|c| c.is_ascii_digit()) {
                let seconds = trimmed.parse().unwrap_or(u64::MAX);
                prop_assert_eq!(parsed, Some(Duration::from_secs(seconds)));
            } else if let Some(delay) = parsed {
                // A date: it contains a time of day and lies before the year 10000.
                prop_assert!(trimmed.matches(':').count() == 2);
                prop_assert!(delay < Duration::from_secs(253_402_300_802));
            }
        }

        #[test]
        fn http_date_is_parsed_in_every_format(
            second in prop_oneof![0u64..3_155_760_000, 0u64..253_402_300_800],
            now in prop_oneof![Just(0u64), 0u64..3_155_760_000],
        ) {
            const MONTHS: [&str; 12] =
                ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let (year, month, day) = civil(second / 86_400);
            let month = MONTHS[month];
            let (h, m, s) = (second / 3600 % 24, second / 60 % 60, second % 60);
            let expected = Some(Duration::from_secs(second.saturating_sub(now)));
            let mut formats = vec![
                format!("Xyz, {day:02} {month} {year} {h:02}:{m:02}:{s:02} GMT"),
                format!("Xyz {month} {day:2} {h:02}:{m:02}:{s:02} {year}"),
            ];
            if (1970..2070).contains(&year) {
                let year = year % 100;
                formats.push(format!("Xyzday, {day:02}-{month}-{year:02} {h:02}:{m:02}:{s:02} GMT"));
            }
            for date in formats {
                prop_assert_eq!(parse_retry_after(&date, unix_time(now)), expected, "{}", date);
            }
        }
    }
}
