//! `GET /v2/logs`: the API key's requests, newest first. It is the only way to find a generation
//! whose create request got no response.

use serde_json::Value;

use crate::error::Result;
use crate::model::generation::GenerationId;
use crate::model::request::is_attempt_of;
use crate::model::response::Response;
use crate::model::retry_after::parse_timestamp;

/// The maximum number of entries per page.
pub(crate) const PAGE_SIZE: u64 = 100;

/// How far back the log can be queried.
pub(crate) const MAX_DAYS: u64 = 92;

pub(crate) fn target(days: u64, offset: u64) -> String {
    format!("/v2/logs?period={days}d&limit={PAGE_SIZE}&offset={offset}")
}

/// One page of the log.
pub(crate) struct Page {
    pub(crate) entries: Vec<LogEntry>,
    pub(crate) has_more: bool,
}

/// The fields of a logged request that are needed to recover its generation.
#[derive(Debug, PartialEq)]
pub(crate) struct LogEntry {
    /// In seconds since 1970.
    created: Option<u64>,
    failed: bool,
    inference_id: Option<GenerationId>,
    client_request_id: Option<String>,
}

/// The generation of a logged request.
#[derive(Debug, PartialEq)]
pub(crate) struct FoundRequest {
    pub(crate) id: GenerationId,
    /// Whether the log says so, in exactly its word for that, and lists no cost. Everything else may
    /// be alive.
    pub(crate) failed: bool,
    /// In seconds since 1970, if the log says.
    pub(crate) created: Option<u64>,
}

/// How well an entry matches, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    Exact,
    /// Of another attempt of the same create.
    Attempt,
    Failed,
}

impl LogEntry {
    fn from_value(entry: &Value) -> Self {
        let string = |field| entry.get(field).and_then(Value::as_str);
        // Failed requests are never charged.
        let is_charged = ["/cost/usd", "/cost/credits"]
            .iter()
            .any(|cost| entry.pointer(cost).and_then(Value::as_f64).is_some_and(|cost| cost > 0.0));
        Self {
            created: string("created").and_then(parse_timestamp),
            failed: string("status") == Some("failed") && !is_charged,
            inference_id: entry.get("inference_id").and_then(GenerationId::from_value),
            client_request_id: string("client_request_id").map(str::to_owned),
        }
    }

    /// Whether the entry is of the create with this client request id; with `any_attempt`, also of
    /// one of its retries.
    pub(crate) fn matches(
        &self,
        client_request_id: &str,
        any_attempt: bool,
    ) -> Option<(Match, FoundRequest)> {
        let own = self.client_request_id.as_deref()?;
        let quality = match own == client_request_id {
            true => Match::Exact,
            false if any_attempt && is_attempt_of(own, client_request_id) => Match::Attempt,
            false => return None,
        };
        let quality = if self.failed { Match::Failed } else { quality };
        let Self { created, failed, inference_id, .. } = self;
        let id = inference_id.clone()?;
        Some((quality, FoundRequest { id, failed: *failed, created: *created }))
    }
}

pub(crate) fn parse_response(mut response: Response) -> Result<Page> {
    let mut fields = response.parse_json()?;
    let Some(Value::Array(data)) = fields.remove("data") else {
        return Err(response.invalid_response("response has no `data` array"));
    };
    let has_more = fields
        .get("pagination")
        .and_then(|pagination| pagination.get("has_more"))
        .and_then(Value::as_bool)
        // If the server does not say, assume that a full page is followed by another.
        .unwrap_or(data.len() as u64 >= PAGE_SIZE);
    Ok(Page { entries: data.iter().map(LogEntry::from_value).collect(), has_more })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_sanitized, response};
    use proptest::prelude::*;

    /// A JSON value that resembles an entry of the log.
    fn entry(seed: &mut Seed) -> Value {
        if seed.below(6) == 0 {
            return seed.json();
        }
        let mut entry = serde_json::Map::new();
        let retry = "ours.0123456789abcdef";
        for (name, usual) in [
            ("client_request_id", seed.pick(&["ours", retry])),
            ("inference_id", "42"),
            ("status", seed.pick(&["succeeded", "failed", "processing"])),
            ("created", "2026-07-02T03:04:05.000Z"),
        ] {
            match seed.below(5) {
                0 => {}
                1 => drop(entry.insert(name.into(), seed.json())),
                2 => drop(entry.insert(name.into(), seed.string().into())),
                _ => drop(entry.insert(name.into(), usual.into())),
            }
        }
        entry.into()
    }

    fn body(seed: &mut Seed) -> Vec<u8> {
        if seed.below(5) == 0 {
            return seed.body();
        }
        let mut entries = Vec::new();
        while seed.chance(70) {
            entries.push(entry(seed));
        }
        let page = serde_json::json!({"data": entries, "pagination": seed.json()});
        page.to_string().into_bytes()
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn log_entry_matches_only_by_client_request_id(parts in response(body)) {
            let fields = parts.json().filter(|_| parts.is_complete_success());
            let data = fields.and_then(|fields| fields.get("data")?.as_array().cloned());
            match (parse_response(parts.response()), data) {
                (Ok(page), Some(data)) => {
                    prop_assert_eq!(page.entries.len(), data.len());
                    for (entry, value) in page.entries.iter().zip(&data) {
                        let own = value.get("client_request_id").and_then(Value::as_str);
                        let Some((quality, found)) = entry.matches("ours", true) else {
                            prop_assert!(entry.inference_id.is_none() || own != Some("ours"));
                            continue;
                        };
                        prop_assert!(own.is_some_and(|own| own.starts_with("ours")));
                        let id = match &value["inference_id"] {
                            Value::String(id) => id.clone(),
                            id => id.to_string(),
                        };
                        prop_assert_eq!(found.id.as_str(), id);
                        let failed = value.get("status") == Some(&"failed".into());
                        prop_assert_eq!(found.failed, failed);
                        prop_assert_eq!(quality == Match::Failed, failed);
                        let is_exact = entry.matches("ours", false).is_some();
                        prop_assert_eq!(is_exact, own == Some("ours"));
                        prop_assert!(found.created.is_none() || value.get("created").is_some());
                    }
                }
                (Err(error), None) => prop_assert!(error.body().is_none_or(is_sanitized)),
                (_, data) => prop_assert!(false, "{:?}", data),
            }
        }
    }
}
