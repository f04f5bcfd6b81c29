//! `GET /v2/logs`: the API key's requests, newest first. It is the only way to find a generation
//! whose create request got no response.

use serde_json::Value;

use crate::error::Result;
use crate::model::generation::GenerationId;
use crate::model::response::Response;

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
    succeeded: bool,
    inference_id: Option<GenerationId>,
    client_request_id: Option<String>,
}

impl LogEntry {
    fn from_value(entry: &Value) -> Self {
        let string = |field| entry.get(field).and_then(Value::as_str);
        Self {
            succeeded: string("status") == Some("succeeded"),
            inference_id: entry.get("inference_id").and_then(GenerationId::from_value),
            client_request_id: string("client_request_id").map(str::to_owned),
        }
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

/// The generation created with this client request id, and whether its request succeeded.
///
/// A successful request takes precedence over others, since a failed one has no video to fetch.
pub(crate) fn find_match(
    entries: &[LogEntry],
    client_request_id: &str,
) -> Option<(GenerationId, bool)> {
    let mut matches = entries.iter().filter(|entry| {
        entry.client_request_id.as_deref() == Some(client_request_id)
            && entry.inference_id.is_some()
    });
    let first = matches.next()?;
    let best = std::iter::once(first).chain(matches).find(|entry| entry.succeeded).unwrap_or(first);
    Some((best.inference_id.clone()?, best.succeeded))
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
        for (name, usual) in
            [("client_request_id", "ours"), ("inference_id", "42"), ("status", "succeeded")]
        {
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
                    let is_ours =
                        |entry: &&Value| entry.get("client_request_id") == Some(&"ours".into());
                    let id_of = |entry: &Value| match entry.get("inference_id")? {
                        Value::String(id) => Some(id.clone()),
                        Value::Number(id) => Some(id.to_string()),
                        _ => None,
                    };
                    let ids: Vec<_> = data.iter().filter(is_ours).filter_map(id_of).collect();
                    if let Some((id, _)) = find_match(&page.entries, "ours") {
                        prop_assert!(ids.iter().any(|ours| ours == id.as_str()));
                    }
                }
                (Err(error), None) => prop_assert!(error.body().is_none_or(is_sanitized)),
                (_, data) => prop_assert!(false, "{:?}", data),
            }
        }
    }
}
