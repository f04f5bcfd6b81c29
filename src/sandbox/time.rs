//! Time stamps as the API writes and reads them: ISO 8601, in milliseconds since 1970.

use std::time::{SystemTime, UNIX_EPOCH};

use super::http::decimal;

const MINUTE: i64 = 60_000;
pub(super) const HOUR: i64 = 60 * MINUTE;
pub(super) const DAY: i64 = 24 * HOUR;

pub(super) fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn format_iso(millis: i64) -> String {
    let (year, month, day) = civil_date(millis.div_euclid(DAY));
    let of_day = millis.rem_euclid(DAY);
    let (hour, minute) = (of_day / HOUR, of_day / MINUTE % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Reads `2026-07-01`, `2026-07-01T00:00:00.5Z`, `2026-07-01T00:00+02:00`; without an offset it
/// is UTC.
pub(super) fn parse_iso(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00Z"));
    let mut parts = date.splitn(3, '-');
    let year = number(parts.next()?, 1, 9999)?;
    let month = number(parts.next()?, 1, 12)?;
    let day = number(parts.next()?, 1, 31)?;
    let offset_at = time.find(['Z', '+', '-']).unwrap_or(time.len());
    let (clock, offset) = time.split_at_checked(offset_at)?;
    Some(day_number(year, month, day) * DAY + clock_millis(clock)? - offset_millis(offset)?)
}

/// `hh:mm`, `hh:mm:ss`, `hh:mm:ss.fraction`.
fn clock_millis(clock: &str) -> Option<i64> {
    let mut parts = clock.splitn(3, ':');
    let hour = number(parts.next()?, 0, 23)?;
    let minute = number(parts.next()?, 0, 59)?;
    let seconds: f64 = parts.next().unwrap_or("0").parse().ok()?;
    let in_range = (0.0..61.0).contains(&seconds);
    in_range.then_some(hour * HOUR + minute * MINUTE + (seconds * 1000.0) as i64)
}

/// `Z`, `+hh:mm`, `-hh:mm` or nothing.
fn offset_millis(offset: &str) -> Option<i64> {
    match offset.split_at_checked(1) {
        None | Some(("Z", "")) => Some(0),
        Some(("+", clock)) => clock_millis(clock),
        Some(("-", clock)) => clock_millis(clock).map(|millis| -millis),
        Some(_) => None,
    }
}

fn number(text: &str, least: i64, most: i64) -> Option<i64> {
    decimal(text).filter(|number| (least..=most).contains(number))
}

/// The days from 1970-01-01 to a date. Howard Hinnant's algorithm: years run from March, so that
/// the leap day is their last.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468
}

/// The way back, from 1970 on: the last year and the last month that begin by then.
fn civil_date(day: i64) -> (i64, i64, i64) {
    let year = (1970..).take_while(|&year| day_number(year, 1, 1) <= day).last().unwrap_or(1970);
    let month = (2..=12).take_while(|&month| day_number(year, month, 1) <= day).last().unwrap_or(1);
    (year, month, day - day_number(year, month, 1) + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_goes_there_and_back() {
        assert_eq!(format_iso(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(format_iso(951_782_400_007), "2000-02-29T00:00:00.007Z");
        assert_eq!(parse_iso("2000-02-29T00:00:00.007Z"), Some(951_782_400_007));
        assert_eq!(parse_iso("2000-02-29"), Some(951_782_400_000));
        assert_eq!(parse_iso("2000-02-29 00:00"), Some(951_782_400_000));
        assert_eq!(parse_iso("2000-02-29T02:00+02:00"), Some(951_782_400_000));
        for day in (0..1_000_000).step_by(997) {
            let (year, month, day_of_month) = civil_date(day);
            assert_eq!(day_number(year, month, day_of_month), day);
        }
        for wrong in ["", "2000", "2000-13-01", "2000-01-01T25:00", "2000-01-01T00:00:0x", "é"] {
            assert_eq!(parse_iso(wrong), None, "{wrong}");
        }
    }
}
