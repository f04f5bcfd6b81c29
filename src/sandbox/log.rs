//! `GET /v2/logs`: the key's requests, newest first and page by page.

use std::fmt::Display;
use std::ops::{Range, RangeInclusive};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::generation::usd;
use super::http::decimal;
use super::query::Query;
use super::time::{DAY, HOUR, format_iso, parse_iso};

const LONGEST_WINDOW: i64 = 92 * DAY;

pub(super) struct Log {
    pub(super) delay: Duration,
    pub(super) page_limit: usize,
    rows: Vec<Row>,
}

pub(super) struct Row {
    /// Milliseconds since 1970.
    pub(super) created: i64,
    /// Of a generation: the row is shown only when the log's delay has passed since.
    pub(super) accepted: Option<Instant>,
    pub(super) status: String,
    pub(super) model: String,
    pub(super) request_id: Option<String>,
    pub(super) inference_id: String,
    pub(super) client_request_id: Option<String>,
    pub(super) credits: u64,
}

impl Log {
    pub(super) fn new() -> Log {
        Log { delay: Duration::ZERO, page_limit: 100, rows: Vec::new() }
    }

    /// Puts a row on top.
    pub(super) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    /// The page that a query asks for, or what is wrong with the query.
    pub(super) fn page(&self, query: &Query, now: i64) -> Result<Value, String> {
        let window = window(query, now)?;
        let limit = whole_number(query, "limit", 50, 1..=100)?.min(self.page_limit);
        let offset = whole_number(query, "offset", 0, 0..=usize::MAX)?;
        if query.values("status").any(|status| !["succeeded", "failed"].contains(&status)) {
            return Err(problem("status", "Expected 'succeeded' | 'failed'"));
        }
        let is_found = |row: &&Row| {
            row.accepted.is_none_or(|accepted| accepted.elapsed() >= self.delay)
                && window.contains(&row.created)
                && query.wants("model", &row.model)
                && query.wants("status", &row.status)
        };
        let found: Vec<&Row> = self.rows.iter().rev().filter(is_found).collect();
        let page: Vec<Value> =
            found.iter().skip(offset).take(limit).map(|row| row.to_json()).collect();
        let has_more = offset.saturating_add(page.len()) < found.len();
        Ok(json!({
            "data": page,
            "pagination": {
                "limit": limit, "offset": offset, "total": found.len(), "has_more": has_more,
            },
        }))
    }
}

impl Row {
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

fn problem(field: &str, problem: impl Display) -> String {
    format!("Query validation error at \"{field}\": {problem}")
}

fn whole_number(
    query: &Query,
    field: &str,
    default: usize,
    allowed: RangeInclusive<usize>,
) -> Result<usize, String> {
    let Some(text) = query.value(field) else {
        return Ok(default);
    };
    let (least, most) = (allowed.start(), allowed.end());
    decimal(text)
        .filter(|number| allowed.contains(number))
        .ok_or_else(|| problem(field, format_args!("Expected {least}..{most}")))
}

/// The time that a query asks for. Its end is open, and the millisecond before it belongs to it.
fn window(query: &Query, now: i64) -> Result<Range<i64>, String> {
    let time = |field, text| parse_iso(text).ok_or_else(|| problem(field, "Expected ISO-8601"));
    let (first, last) = match (query.value("period"), query.value("start"), query.value("end")) {
        (Some(period), None, None) => {
            let length = period_millis(period)
                .ok_or_else(|| problem("period", "Expected ^[1-9][0-9]*[hd]$"))?;
            (now.saturating_sub(length), now)
        }
        (None, Some(start), Some(end)) => (time("start", start)?, time("end", end)?),
        _ => return Err(problem("period", "Provide either `period` or both `start` and `end`")),
    };
    match last.saturating_sub(first) {
        ..0 => Err(problem("end", "Must not be earlier than `start`")),
        0..=LONGEST_WINDOW => Ok(first..last.saturating_add(1)),
        _ => Err(problem("period", "At most 92 days")),
    }
}

fn period_millis(period: &str) -> Option<i64> {
    let (number, unit) = match period.strip_suffix('h') {
        Some(hours) => (hours, HOUR),
        None => (period.strip_suffix('d')?, DAY),
    };
    let number: i64 = decimal(number).filter(|_| !number.starts_with('0'))?;
    Some(number.saturating_mul(unit))
}

#[cfg(test)]
mod tests {
    use super::super::time::now;
    use super::*;

    #[test]
    fn log_queries_are_checked() {
        let now = 200 * DAY;
        let read = |query: &str| Log::new().page(&Query::parse(query), now);
        assert_eq!(window(&Query::parse("period=1h"), now), Ok(now - 3_600_000..now + 1));
        let hour = read("period=1h").expect("valid");
        assert_eq!(
            (&hour["pagination"]["limit"], &hour["pagination"]["offset"]),
            (&json!(50), &json!(0))
        );
        assert!(read("period=92d&limit=100&offset=3").is_ok());
        assert!(read("start=1970-01-01&end=1970-01-01T00:00:00%2B00:00").is_ok());
        for refused in [
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
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_log_pages_newest_first_and_late() {
        let row = |id: &str, accepted| Row {
            created: now(),
            accepted,
            status: "succeeded".to_owned(),
            model: "model".to_owned(),
            request_id: None,
            inference_id: id.to_owned(),
            client_request_id: Some(id.to_owned()),
            credits: 0,
        };
        let mut log = Log::new();
        for id in ["a", "b", "c"] {
            log.add(row(id, None));
        }
        log.add(row("d", Some(Instant::now())));
        let mut page = |delay, query: &str| {
            log.delay = delay;
            let page = log.page(&Query::parse(query), now()).expect("valid");
            let rows = page["data"].as_array().cloned().unwrap_or_default();
            let ids = rows.iter().map(|row| row["client_request_id"].as_str().unwrap_or("-"));
            (ids.collect::<String>(), page["pagination"]["has_more"] == true)
        };
        let now = Duration::ZERO;
        assert_eq!(page(now, "period=1h"), ("dcba".to_owned(), false));
        assert_eq!(page(now, "period=1h&limit=2"), ("dc".to_owned(), true));
        assert_eq!(page(now, "period=1h&limit=2&offset=2"), ("ba".to_owned(), false));
        assert_eq!(page(now, "period=1h&offset=9"), (String::new(), false));
        assert_eq!(page(now, "period=1h&model=x"), (String::new(), false));
        assert_eq!(page(Duration::MAX, "period=1h"), ("cba".to_owned(), false));
    }
}
