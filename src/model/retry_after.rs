//! The `Retry-After` header, and the points in time that the API's JSON contains.

use std::time::Duration;

/// Parses `Retry-After`, which is a number of seconds or a date. Other values are ignored. `now` is
/// the time since 1970.
pub(crate) fn parse_retry_after(value: &str, now: Duration) -> Option<Duration> {
    let value = value.trim();
    if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number that does not fit is clamped, since nobody waits that long either way.
        return Some(Duration::from_secs(value.parse().unwrap_or(u64::MAX)));
    }
    Some(Duration::from_secs(parse_http_date(value)?).saturating_sub(now))
}

/// Parses one of HTTP's three date formats, of which the last two are obsolete, as a Unix time:
/// `Sun, 06 Nov 1994 08:49:37 GMT`, `Sunday, 06-Nov-94 08:49:37 GMT`, `Sun Nov  6 08:49:37 1994`.
pub(crate) fn parse_http_date(text: &str) -> Option<u64> {
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
    Some(days_from_civil(year, month, day)? * 86_400 + parse_time_of_day(time)?)
}

/// Parses a time in the API's JSON, `2026-07-02T03:04:05.000Z`, as a Unix time. It is in UTC.
pub(crate) fn parse_timestamp(text: &str) -> Option<u64> {
    let text = text.strip_suffix('Z').or(text.strip_suffix("+00:00")).unwrap_or(text);
    let (date, time) = text.split_once(['T', ' '])?;
    let mut date = date.splitn(3, '-');
    let year = parse_number(date.next()?, 1970, 9999)?;
    let (month, day) = (parse_number(date.next()?, 1, 12)?, parse_number(date.next()?, 1, 31)?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    parse_number(fraction, 0, u64::MAX)?;
    Some(days_from_civil(year, month, day)? * 86_400 + parse_time_of_day(time)?)
}

/// Parses `03:04:05` as seconds.
fn parse_time_of_day(time: &str) -> Option<u64> {
    let mut time = time.splitn(3, ':');
    let (hour, minute) = (parse_number(time.next()?, 0, 23)?, parse_number(time.next()?, 0, 59)?);
    Some(hour * 3_600 + minute * 60 + parse_number(time.next()?, 0, 60)?)
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
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    #[test]
    fn retry_after_is_parsed_as_seconds_or_a_date() {
        let now = Duration::from_secs(784_111_777 - 30);
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
    fn timestamp_is_parsed_as_utc() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", Some(0)),
            ("2026-07-02T03:04:05.000Z", Some(20_636 * 86_400 + 11_045)),
            ("2026-07-02T03:04:05.123456789+00:00", Some(20_636 * 86_400 + 11_045)),
            ("2026-07-02 03:04:05", Some(20_636 * 86_400 + 11_045)),
            ("2026-07-02T03:04:05+02:00", None),
            ("2026-07-02T03:04:05.000-05:00", None),
            ("2026-07-02T03:04Z", None),
            ("2026-07-02T03:04:05:06Z", None),
            ("2026-13-02T03:04:05Z", None),
            ("2026-07-02", None),
            ("yesterday", None),
            ("", None),
        ] {
            assert_eq!(parse_timestamp(text), seconds, "{text:?}");
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
            let parsed = parse_retry_after(&value, Duration::from_secs(now.into()));
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
                prop_assert_eq!(parse_retry_after(&date, Duration::from_secs(now)), expected, "{}", date);
            }
        }
    }
}
