//! `GET /v2/logs`: the key's requests, newest first. The only way to a generation whose create was
//! never answered.

use serde::Deserialize;
use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation::GenerationId;
use crate::http::{Reply, snippet};

/// The API's limits: rows a page, and days back.
pub(crate) const PAGE: u64 = 100;
pub(crate) const MAX_DAYS: u64 = 92;

pub(crate) fn target(days: u64, offset: u64) -> String {
    format!("/v2/logs?period={days}d&limit={PAGE}&offset={offset}")
}

/// A page of the log.
pub(crate) struct Page {
    pub(crate) rows: Vec<Row>,
    pub(crate) has_more: bool,
}

/// A request of the log, as far as it matters here.
#[derive(Debug, Default, Deserialize, PartialEq)]
#[serde(default)]
pub(crate) struct Row {
    pub(crate) status: String,
    pub(crate) inference_id: Option<GenerationId>,
    pub(crate) client_request_id: Option<String>,
}

pub(crate) fn read(reply: Reply) -> Result<Page> {
    const OPERATION: &str = "find";
    let (status, shown) = (reply.status, snippet(&reply.body));
    let mut fields = reply.into_object(OPERATION)?;
    let Some(Value::Array(data)) = fields.remove("data") else {
        let problem = "the server's answer lists no requests";
        return Err(Error::unreadable(OPERATION, problem, status, shown, None));
    };
    let has_more = fields
        .get("pagination")
        .and_then(|pagination| pagination.get("has_more"))
        .and_then(Value::as_bool)
        // Where the server does not tell, a full page may have a next one.
        .unwrap_or(data.len() as u64 >= PAGE);
    // A row that cannot be read is one of another kind of request, and not the one looked for.
    let rows = data.into_iter().filter_map(|row| serde_json::from_value(row).ok()).collect();
    Ok(Page { rows, has_more })
}

/// The generation of the rows with this client request id: one that succeeded before one that did
/// not, since a failed one has nothing to fetch.
pub(crate) fn pick(rows: &[Row], client_request_id: &str) -> Option<(GenerationId, bool)> {
    let own =
        || rows.iter().filter(|row| row.client_request_id.as_deref() == Some(client_request_id));
    let succeeded = own().find(|row| row.status == "succeeded" && row.inference_id.is_some());
    let row = succeeded.or_else(|| own().find(|row| row.inference_id.is_some()))?;
    Some((row.inference_id.clone()?, row.status == "succeeded"))
}
