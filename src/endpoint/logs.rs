//! `GET /v2/logs`: the key's requests, newest first. The only way to a generation whose create was
//! never answered.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation::GenerationId;
use crate::http::Reply;
use crate::text::snippet;

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
#[derive(Debug, PartialEq)]
pub(crate) struct Row {
    succeeded: bool,
    inference_id: Option<GenerationId>,
    client_request_id: Option<String>,
}

impl Row {
    fn from_value(row: &Value) -> Self {
        let text = |field| row.get(field).and_then(Value::as_str);
        Self {
            succeeded: text("status") == Some("succeeded"),
            inference_id: row.get("inference_id").and_then(GenerationId::from_value),
            client_request_id: text("client_request_id").map(str::to_owned),
        }
    }
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
    Ok(Page { rows: data.iter().map(Row::from_value).collect(), has_more })
}

/// The generation of the rows with this client request id, and whether it succeeded: one that did
/// before one that did not, since a failed one has nothing to fetch.
pub(crate) fn pick(rows: &[Row], client_request_id: &str) -> Option<(GenerationId, bool)> {
    let mut own = rows.iter().filter(|row| {
        row.client_request_id.as_deref() == Some(client_request_id) && row.inference_id.is_some()
    });
    let first = own.next()?;
    let best = std::iter::once(first).chain(own).find(|row| row.succeeded).unwrap_or(first);
    Some((best.inference_id.clone()?, best.succeeded))
}
