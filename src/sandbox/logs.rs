//! `GET /v2/logs`: the requests made with the key, newest first and paginated.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::generation::usd;
use super::http::parse_decimal;
use super::query::Query;
use super::time::{DAY, HOUR, format_iso, parse_iso};

const MAX_WINDOW: i64 = 92 * DAY;

pub(super) struct ApiLog {
    pub(super) delay: Duration,
    pub(super) page_limit: usize,
    entries: Vec<LogEntry>,
}

pub(super) struct LogEntry {
    /// In milliseconds since 1970.
    pub(super) created: i64,
    /// When the generation was created: the entry is listed once the log delay has passed since
    /// then. `None` for an entry without delay.
    pub(super) accepted: Option<Instant>,
    pub(super) status: String,
    pub(super) model: String,
    pub(super) request_id: Option<String>,
    pub(super) inference_id: String,
    pub(super) client_request_id: Option<String>,
    pub(super) credits: u64,
}

impl ApiLog {
    pub(super) fn new() -> ApiLog {
        ApiLog { delay: Duration::ZERO, page_limit: 100, entries: Vec::new() }
    }

    /// Adds an entry, which becomes the first of the list.
    pub(super) fn add(&mut self, entry: LogEntry) {
        self.entries.push(entry);
    }

    /// Returns the page that the query selects, or an error message if the query is invalid.
    pub(super) fn page(&self, query: &Query, now: i64) -> Result<Value, String> {
        let window = window(query, now)?;
        let limit = parse_integer(query, "limit", 50, 1..=100)?.min(self.page_limit);
        let offset = parse_integer(query, "offset", 0, 0..=usize::MAX)?;
        if query.values("status").any(|status| !["succeeded", "failed"].contains(&status)) {
            return Err(query_error("status", "Expected 'succeeded' | 'failed'"));
        }
        let is_match = |entry: &&LogEntry| {
            entry.accepted.is_none_or(|accepted| accepted.elapsed() >= self.delay)
                && window.contains(&entry.created)
                && query.matches("model", &entry.model)
                && query.matches("status", &entry.status)
        };
        let matches: Vec<&LogEntry> = self.entries.iter().rev().filter(is_match).collect();
        let page: Vec<Value> =
            matches.iter().skip(offset).take(limit).map(|entry| entry.to_json()).collect();
        let has_more = offset.saturating_add(page.len()) < matches.len();
        Ok(json!({
            "data": page,
            "pagination": {
                "limit": limit, "offset": offset, "total": matches.len(), "has_more": has_more,
            },
        }))
    }
}

impl LogEntry {
    fn to_json(&self) -> Value {
        json!({
            "created": format_iso(self.created),
            "status": self.status,
            "origin": "api",
            "model": self.model,
            "cost": { "usd": usd(self.credits), "credits": self.credits },
            "tokens": { "input": 0, "output": 0, "total": 0 },
            "request_id": self.request_id,
            "inference_id": self.inference_id,
            "client_request_id": self.client_request_id,
        })
    }
}

fn query_error(field: &str, message: impl Display) -> String {
    format!("Query validation error at \"{field}\": {message}")
}

fn parse_integer(
    query: &Query,
    field: &str,
    default: usize,
    allowed: RangeInclusive<usize>,
) -> Result<usize, String> {
    let Some(text) = query.value(field) else {
        return Ok(default);
    };
    let (min, max) = (allowed.start(), allowed.end());
    parse_decimal(text)
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| query_error(field, format_args!("Expected {min}..{max}")))
}

/// Returns the time window of a query. The API includes the end, so the range ends 1 ms after it.
fn window(query: &Query, now: i64) -> Result<Range<i64>, String> {
    let time = |field, text| parse_iso(text).ok_or_else(|| query_error(field, "Expected ISO-8601"));
    let (first, last) = match (query.value("period"), query.value("start"), query.value("end")) {
        (Some(period), None, None) => {
            let length = period_millis(period)
                .ok_or_else(|| query_error("period", "Expected ^[1-9][0-9]*[hd]$"))?;
            (now.saturating_sub(length), now)
        }
        (None, Some(start), Some(end)) => (time("start", start)?, time("end", end)?),
        _ => {
            return Err(query_error("period", "Provide either `period` or both `start` and `end`"));
        }
    };
    match last.saturating_sub(first) {
        ..0 => Err(query_error("end", "Must not be earlier than `start`")),
        0..=MAX_WINDOW => Ok(first..last.saturating_add(1)),
        _ => Err(query_error("period", "At most 92 days")),
    }
}

fn period_millis(period: &str) -> Option<i64> {
    let (number, unit) = match period.strip_suffix('h') {
        Some(hours) => (hours, HOUR),
        None => (period.strip_suffix('d')?, DAY),
    };
    let number: i64 = parse_decimal(number).filter(|_| !number.starts_with('0'))?;
    Some(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::super::time::now;
    use super::*;

    #[test]
    fn log_query_is_validated() {
        let now = 200 * DAY;
        let page = |query: &str| ApiLog::new().page(&Query::parse(query), now);
        assert_eq!(window(&Query::parse("period=1h"), now), Ok(now - 3_600_000..now + 1));
        let hour = page("period=1h").expect("valid");
        assert_eq!(
            (&hour["pagination"]["limit"], &hour["pagination"]["offset"]),
            (&json!(50), &json!(0))
        );
        assert!(page("period=92d&limit=100&offset=3").is_ok());
        assert!(page("start=1970-01-01&end=1970-01-01T00:00:00%2B00:00").is_ok());
        for invalid in [
            "",
            "period=93d",
            "period=2209h",
            "period=0h",
            "period=01h",
            "period=h",
            "period=1w",
            "period=1hd",
            "period=+1h",
            "period=é",
            "period=99999999999999999999h",
            "period=1h&limit=0",
            "period=1h&limit=101",
            "period=1h&offset=-1",
            "period=1h&status=done",
            "period=1h&start=1970-01-01",
            "start=1970-01-01",
            "start=1970-01-02&end=1970-01-01",
            "start=1970-01-01&end=1970-04-04",
        ] {
            assert!(page(invalid).is_err(), "{invalid}");
        }
    }

    #[test]
    fn log_is_paginated_newest_first_after_its_delay() {
        let entry = |id: &str, accepted| LogEntry {
            created: now(),
            accepted,
            status: "succeeded".to_owned(),
            model: "model".to_owned(),
            request_id: None,
            inference_id: id.to_owned(),
            client_request_id: Some(id.to_owned()),
            credits: 0,
        };
        let mut log = ApiLog::new();
        for id in ["a", "b", "c"] {
            log.add(entry(id, None));
        }
        log.add(entry("d", Some(Instant::now())));
        let mut page = |delay, query: &str| {
            log.delay = delay;
            let page = log.page(&Query::parse(query), now()).expect("valid");
            let entries = page["data"].as_array().cloned().unwrap_or_default();
            let ids =
                entries.iter().map(|entry| entry["client_request_id"].as_str().unwrap_or("-"));
            (ids.collect::<String>(), page["pagination"]["has_more"] == true)
        };
        let no_delay = Duration::ZERO;
        assert_eq!(page(no_delay, "period=1h"), ("dcba".to_owned(), false));
        assert_eq!(page(no_delay, "period=1h&limit=2"), ("dc".to_owned(), true));
        assert_eq!(page(no_delay, "period=1h&limit=2&offset=2"), ("ba".to_owned(), false));
        assert_eq!(page(no_delay, "period=1h&offset=9"), (String::new(), false));
        assert_eq!(page(no_delay, "period=1h&model=x"), (String::new(), false));
        assert_eq!(page(Duration::MAX, "period=1h"), ("cba".to_owned(), false));
    }
}
