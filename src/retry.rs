//! When to try again, and after how long: pure arithmetic.

use std::time::{Duration, SystemTime};

use crate::error::Error;

/// How often and after how long a failed request is tried again.
///
/// Reads are tried again after connection failures, time-outs and the statuses 408, 425, 429 and
/// 5xx; a create only where it certainly was not accepted, and at most 3 times. Between the tries
/// lies a random time of up to 0.5 s, 1 s, 2 s, … (full jitter), or what `Retry-After` asks for.
///
/// ```
/// use kling_video::RetryPolicy;
/// use std::time::Duration;
///
/// let patient = RetryPolicy::new().max_retries(8).max_delay(Duration::from_secs(60));
/// # let _ = patient;
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[must_use = "a policy does nothing until a client gets it"]
pub struct RetryPolicy {
    max_retries: u32,
    base_delay: Duration,
    max_delay: Duration,
}

/// What a create is tried again at most, whatever the policy says.
const MAX_CREATE_RETRIES: u32 = 3;

impl RetryPolicy {
    /// 5 retries (a create: 3), the first after up to 0.5 s, none after more than 20 s.
    pub fn new() -> Self {
        Self {
            max_retries: 5,
            base_delay: Duration::from_millis(500),
            max_delay: Duration::from_secs(20),
        }
    }

    /// No retries.
    pub fn none() -> Self {
        Self::new().max_retries(0)
    }

    /// How many retries follow a failed request. Default: 5; a create has at most 3 of them.
    pub fn max_retries(self, n: u32) -> Self {
        Self { max_retries: n, ..self }
    }

    /// The longest wait before the first retry; it doubles with each. Default: 0.5 s.
    pub fn base_delay(self, delay: Duration) -> Self {
        Self { base_delay: delay, ..self }
    }

    /// The longest wait before any retry. A server that asks for more with `Retry-After` gets no
    /// retry: the error is returned, with [`retry_after`](crate::Error::retry_after). (A waiting
    /// call looks again when the server asks for it instead.) Default: 20 s.
    pub fn max_delay(self, delay: Duration) -> Self {
        Self { max_delay: delay, ..self }
    }

    /// The policy for creates.
    pub(crate) fn for_create(&self) -> Self {
        self.clone().max_retries(self.max_retries.min(MAX_CREATE_RETRIES))
    }

    /// After how long to try again once `failures` tries (at least 1) have failed, if at all.
    pub(crate) fn delay(&self, failures: u32, error: &Error, random: u64) -> Option<Duration> {
        if failures > self.max_retries {
            return None;
        }
        match error.retry_after() {
            Some(asked) => (asked <= self.max_delay).then_some(asked),
            None => Some(self.backoff(failures, random)),
        }
    }

    fn backoff(&self, failures: u32, random: u64) -> Duration {
        let doubled = 2u32.saturating_pow(failures.saturating_sub(1));
        let longest = self.base_delay.saturating_mul(doubled).min(self.max_delay);
        let share = random as f64 / u64::MAX as f64;
        Duration::try_from_secs_f64(longest.as_secs_f64() * share).unwrap_or(longest)
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self::new()
    }
}

/// `Retry-After` as HTTP defines it: whole seconds or a date. Anything else is as good as none.
pub(crate) fn parse_retry_after(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // More digits than fit mean "not in this lifetime".
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    let date = parse_http_date(value)?;
    let now = now.duration_since(SystemTime::UNIX_EPOCH).ok()?;
    Some(Duration::from_secs(date).saturating_sub(now))
}

/// Seconds since 1970 of one of HTTP's three date forms, of which only the first is in use:
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
    let day = number(day, 1, 31)?;
    let year = match number(year, 0, 9999)? {
        two_digits @ 0..70 => 2000 + two_digits,
        two_digits @ 70..100 => 1900 + two_digits,
        full => full,
    };
    let mut clock = time.split(':');
    let (hour, minute) = (number(clock.next()?, 0, 23)?, number(clock.next()?, 0, 59)?);
    let second = number(clock.next()?, 0, 60)?;
    if clock.next().is_some() {
        return None;
    }
    Some(days_since_1970(year, month, day)? * 86_400 + hour * 3_600 + minute * 60 + second)
}

fn number(text: &str, min: u64, max: u64) -> Option<u64> {
    let digits = text.bytes().all(|b| b.is_ascii_digit());
    let value = text.parse().ok().filter(|_| digits)?;
    (min..=max).contains(&value).then_some(value)
}

/// In years that begin in March a leap day is the last one, and months have a regular pattern.
fn days_since_1970(year: u64, month: u64, day: u64) -> Option<u64> {
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
    use crate::error::Refusal;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = at(784_111_777 - 30);
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
            let read = parse_retry_after(value, now).map(|d| d.as_secs());
            assert_eq!(read, seconds, "{value:?}");
        }
    }

    #[test]
    fn days_follow_the_calendar() {
        for (date, days) in [
            ((1970, 1, 1), 0),
            ((2000, 2, 29), 11_016),
            ((2000, 3, 1), 11_017),
            ((2026, 11, 22), 20_779),
        ] {
            assert_eq!(days_since_1970(date.0, date.1, date.2), Some(days));
        }
        assert_eq!(days_since_1970(1969, 12, 31), None);
    }

    #[test]
    fn the_backoff_doubles_up_to_its_cap_with_full_jitter() {
        let policy = RetryPolicy::new();
        let longest: Vec<u128> = (1..=8).map(|n| policy.backoff(n, u64::MAX).as_millis()).collect();
        assert_eq!(longest, [500, 1_000, 2_000, 4_000, 8_000, 16_000, 20_000, 20_000]);
        assert_eq!(policy.backoff(4, 0), Duration::ZERO);
        assert_eq!(policy.backoff(u32::MAX, u64::MAX / 2).as_secs(), 10);
        let endless = RetryPolicy::new().base_delay(Duration::MAX).max_delay(Duration::MAX);
        assert_eq!(endless.backoff(3, u64::MAX), Duration::MAX);
    }

    #[test]
    fn retries_end_and_never_outwait_the_cap() {
        let refused = |retry_after| {
            Error::api("retrieve", Refusal { status: 429, retry_after, ..Refusal::default() })
        };
        let policy = RetryPolicy::new().max_retries(2);
        let asked = |secs| refused(Some(Duration::from_secs(secs)));
        assert_eq!(policy.delay(1, &asked(20), 0), Some(Duration::from_secs(20)));
        assert_eq!(policy.delay(1, &asked(0), u64::MAX), Some(Duration::ZERO));
        assert_eq!(policy.delay(1, &asked(21), 0), None);
        assert_eq!(policy.delay(2, &refused(None), 0), Some(Duration::ZERO));
        assert_eq!(policy.delay(3, &refused(None), 0), None);
        assert_eq!(RetryPolicy::none().delay(1, &refused(None), 0), None);
        assert_eq!(RetryPolicy::new().for_create().delay(4, &refused(None), 0), None);
    }

    /// The date of a day since 1970, by going through the years: year, month from 0, day from 1.
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
        fn any_header_text_can_be_a_retry_after(
            words in vec(
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
            let value = words.join(if spaced { " " } else { "" });
            let read = parse_retry_after(&value, at(now.into()));
            let bare = value.trim();
            if !bare.is_empty() && bare.chars().all(|c| c.is_ascii_digit()) {
                let seconds = bare.parse().unwrap_or(u64::MAX);
                prop_assert_eq!(read, Some(Duration::from_secs(seconds)));
            } else if let Some(read) = read {
                // A date: it has a clock in it, and lies before the year 10000.
                prop_assert!(bare.matches(':').count() == 2);
                prop_assert!(read < Duration::from_secs(253_402_300_802));
            }
        }

        #[test]
        fn any_date_is_read_in_each_form(
            second in prop_oneof![0u64..3_155_760_000, 0u64..253_402_300_800],
            now in prop_oneof![Just(0u64), 0u64..3_155_760_000],
        ) {
            const MONTHS: [&str; 12] =
                ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
            let (year, month, day) = civil(second / 86_400);
            let month = MONTHS[month];
            let (h, m, s) = (second / 3600 % 24, second / 60 % 60, second % 60);
            let expected = Some(Duration::from_secs(second.saturating_sub(now)));
            let mut forms = vec![
                format!("Xyz, {day:02} {month} {year} {h:02}:{m:02}:{s:02} GMT"),
                format!("Xyz {month} {day:2} {h:02}:{m:02}:{s:02} {year}"),
            ];
            if (1970..2070).contains(&year) {
                let year = year % 100;
                forms.push(format!("Xyzday, {day:02}-{month}-{year:02} {h:02}:{m:02}:{s:02} GMT"));
            }
            for form in forms {
                prop_assert_eq!(parse_retry_after(&form, at(now)), expected, "{}", form);
            }
        }
    }
}
