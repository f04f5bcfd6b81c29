//! `GET /v2/logs`: the API key's requests, newest first. It is the only way to find a generation
//! whose create request got no response.

use std::time::{Duration, SystemTime};

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

/// `period` is a number of hours or days, as `24h` or `7d`.
pub(crate) fn target(period: &str, offset: u64) -> String {
    format!("/v2/logs?period={period}&limit={PAGE_SIZE}&offset={offset}")
}

pub(crate) struct Page {
    pub(crate) entries: Vec<LoggedRequest>,
    pub(crate) has_more: bool,
}

/// A request in the API's log, with what it was charged.
///
/// Returned by [`Client::list`](crate::Client::list). A field that the log does not have, or has in
/// a form that is not documented, is empty.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// # client.create(&kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg")))?;
/// let requests = client.list(std::time::Duration::from_secs(86_400), 1_000)?;
/// let spent: f64 = requests.iter().filter_map(|request| request.usd).sum();
/// println!("{} requests for {spent:.2} USD", requests.len());
/// # assert_eq!(spent, 0.06);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct LoggedRequest {
    /// When the request was made, to the second.
    pub created: Option<SystemTime>,
    /// `succeeded` or `failed`. That a generation failed is proved only by
    /// [`wait`](crate::Client::wait).
    pub status: String,
    /// The model. The key's requests to all models are logged.
    pub model: String,
    /// For a video, the generation's id.
    pub inference_id: Option<GenerationId>,
    /// The `X-Client-Request-Id` that the request was sent with.
    pub client_request_id: Option<String>,
    /// The server's id of the request, for the vendor's support.
    pub request_id: Option<String>,
    /// What was charged, in US dollars.
    pub usd: Option<f64>,
    /// What was charged, in credits.
    pub credits: Option<f64>,
}

/// The generation of a logged request.
#[derive(Debug, PartialEq)]
pub(crate) struct FoundRequest {
    pub(crate) id: GenerationId,
    pub(crate) quality: Match,
    /// In seconds since 1970, if the log says.
    pub(crate) created: Option<u64>,
}

/// How well an entry matches, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Match {
    Exact,
    /// Of another attempt of the same create.
    Attempt,
    /// The log says so, in exactly its word for that, and lists no cost. All others may be alive.
    Failed,
}

impl LoggedRequest {
    fn from_value(entry: &Value) -> Self {
        let string = |field| entry.get(field).and_then(Value::as_str).map(str::to_owned);
        let cost = |field| entry.get("cost")?.get(field)?.as_f64();
        let created = entry.get("created").and_then(Value::as_str).and_then(parse_timestamp);
        Self {
            created: created.map(|time| SystemTime::UNIX_EPOCH + Duration::from_secs(time)),
            status: string("status").unwrap_or_default(),
            model: string("model").unwrap_or_default(),
            inference_id: entry.get("inference_id").and_then(GenerationId::from_value),
            client_request_id: string("client_request_id"),
            request_id: string("request_id"),
            usd: cost("usd"),
            credits: cost("credits"),
        }
    }

    /// Whether the two are one request, read twice. Its status and its cost may have changed.
    pub(crate) fn is_same_request(&self, other: &Self) -> bool {
        self.created == other.created
            && self.inference_id == other.inference_id
            && self.client_request_id == other.client_request_id
            && self.request_id == other.request_id
    }

    /// Whether the entry is of the create with this client request id; with `any_attempt`, also of
    /// one of its retries.
    pub(crate) fn matches(
        &self,
        client_request_id: &str,
        any_attempt: bool,
    ) -> Option<FoundRequest> {
        let own = self.client_request_id.as_deref()?;
        let is_exact = own == client_request_id;
        let is_retry = any_attempt && is_attempt_of(own, client_request_id);
        if !is_exact && !is_retry {
            return None;
        }
        // Failed requests are never charged.
        let is_charged = [self.usd, self.credits].into_iter().flatten().any(|cost| cost > 0.0);
        let quality = match self.status.as_str() {
            "failed" if !is_charged => Match::Failed,
            _ if is_exact => Match::Exact,
            _ => Match::Attempt,
        };
        let since_1970 = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).ok();
        let created = self.created.and_then(since_1970).map(|time| time.as_secs());
        Some(FoundRequest { id: self.inference_id.clone()?, quality, created })
    }
}

pub(crate) fn parse_response(mut response: Response) -> Result<Page> {
    let (data, fields) = response.parse_list()?;
    let has_more = fields.get("pagination").and_then(|p| p.get("has_more")?.as_bool());
    Ok(Page {
        // If the server does not say, assume that a full page is followed by another.
        has_more: has_more.unwrap_or(data.len() as u64 >= PAGE_SIZE),
        entries: data.iter().map(LoggedRequest::from_value).collect(),
    })
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
                        let Some(found) = entry.matches("ours", true) else {
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
                        prop_assert_eq!(found.quality == Match::Failed, failed);
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
