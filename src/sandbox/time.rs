//! The API's ISO 8601 timestamps, converted to and from milliseconds since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

use super::http::parse_decimal;

const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn format_iso(millis: i64) -> String {
    let (year, month, day) = civil_from_days(millis.div_euclid(DAY));
    let millis_of_day = millis.rem_euclid(DAY);
    let (hour, minute) = (millis_of_day / HOUR, millis_of_day / MINUTE % 60);
    let (second, milli) = (millis_of_day / 1000 % 60, millis_of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Parses `2026-07-01`, `2026-07-01T00:00:00.5Z` or `2026-07-01T00:00+02:00`.
///
/// A time without an offset is UTC.
pub(super) fn parse_iso(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00Z"));
    let mut parts = date.splitn(3, '-');
    let year = parse_in_range(parts.next()?, 1, 9999)?;
    let month = parse_in_range(parts.next()?, 1, 12)?;
    let day = parse_in_range(parts.next()?, 1, 31)?;
    let offset_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, offset) = time.split_at_checked(offset_at)?;
    Some(days_from_civil(year, month, day) * DAY + clock_millis(clock)? - offset_millis(offset)?)
}

/// Parses `hh:mm`, `hh:mm:ss` or `hh:mm:ss.fraction`.
fn clock_millis(clock: &str) -> Option<i64> {
    let mut parts = clock.splitn(3, ':');
    let hour = parse_in_range(parts.next()?, 0, 23)?;
    let minute = parse_in_range(parts.next()?, 0, 59)?;
    let seconds: f64 = parts.next().unwrap_or("0").parse().ok()?;
    let in_range = (0.0..61.0).contains(&seconds);
    in_range.then_some(hour * HOUR + minute * MINUTE + (seconds * 1000.0) as i64)
}

/// Parses `Z`, `+hh:mm`, `-hh:mm` or an empty string.
fn offset_millis(offset: &str) -> Option<i64> {
    match offset.split_at_checked(1) {
        None | Some(("Z", "")) => Some(0),
        Some(("+", clock)) => clock_millis(clock),
        Some(("-", clock)) => clock_millis(clock).map(|millis| -millis),
        Some(_) => None,
    }
}

fn parse_in_range(text: &str, min: i64, max: i64) -> Option<i64> {
    parse_decimal(text).filter(|number| (min..=max).contains(number))
}

/// Returns the number of days from 1970-01-01 to a date.
///
/// This is Howard Hinnant's algorithm: years start in March, so that a leap day is their last day.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

/// Returns the date of a day since 1970: the last year and month that start no later than it.
fn civil_from_days(day: i64) -> (i64, i64, i64) {
    let year =
        (1970..).take_while(|&year| days_from_civil(year, 1, 1) <= day).last().unwrap_or(1970);
    let month =
        (2..=12).take_while(|&month| days_from_civil(year, month, 1) <= day).last().unwrap_or(1);
    (year, month, day - days_from_civil(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timestamp_round_trips() {
        assert_eq!(format_iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_iso(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(parse_iso("2000-02-29T00:00:00.007Z"), Some(951_782_400_007));
        assert_eq!(parse_iso("2000-02-29"), Some(951_782_400_000));
        assert_eq!(parse_iso("2000-02-29 00:00"), Some(951_782_400_000));
        assert_eq!(parse_iso("2000-02-29T02:00+02:00"), Some(951_782_400_000));
        for day in (0..1_000_000).step_by(997) {
            let (year, month, day_of_month) = civil_from_days(day);
            assert_eq!(days_from_civil(year, month, day_of_month), day);
        }
        for wrong in ["", "2000", "2000-13-01", "2000-01-01T25:00", "2000-01-01T00:00:0x", "é"] {
            assert_eq!(parse_iso(wrong), None, "{wrong}");
        }
    }
}
