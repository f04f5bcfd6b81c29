//! `GET /v2/logs`: the key's requests, newest first. The only way to a generation whose create was
//! never answered.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::generation::GenerationId;
use crate::http::Reply;

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
            inference_id: row
                .get("inference_id")
                .cloned()
                .and_then(|id| GenerationId::from_value(id).ok()),
            client_request_id: text("client_request_id").map(str::to_owned),
        }
    }
}

pub(crate) fn read(mut reply: Reply) -> Result<Page> {
    const OPERATION: &str = "find";
    let mut fields: Map<String, Value> = reply.object(OPERATION)?;
    let Some(Value::Array(data)) = fields.remove("data") else {
        return Err(reply.unreadable(OPERATION, "the server's answer lists no requests"));
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_presentable, reply};
    use proptest::prelude::*;

    /// A row as the log has them, more or less.
    fn row(seed: &mut Seed) -> Value {
        if seed.below(6) == 0 {
            return seed.json();
        }
        let mut row = serde_json::Map::new();
        for (name, usual) in
            [("client_request_id", "own"), ("inference_id", "42"), ("status", "succeeded")]
        {
            match seed.below(5) {
                0 => {}
                1 => drop(row.insert(name.into(), seed.json())),
                2 => drop(row.insert(name.into(), seed.text().into())),
                _ => drop(row.insert(name.into(), usual.into())),
            }
        }
        row.into()
    }

    fn body(seed: &mut Seed) -> Vec<u8> {
        if seed.below(5) == 0 {
            return seed.body();
        }
        let mut rows = Vec::new();
        while seed.wants(70) {
            rows.push(row(seed));
        }
        let page = serde_json::json!({"data": rows, "pagination": seed.json()});
        page.to_string().into_bytes()
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn only_a_row_of_ones_own_is_picked(parts in reply(body)) {
            let fields = parts.json().filter(|_| parts.is_whole_success());
            let data = fields.and_then(|fields| fields.get("data")?.as_array().cloned());
            match (read(parts.reply()), data) {
                (Ok(page), Some(data)) => {
                    let own = |row: &&Value| row.get("client_request_id") == Some(&"own".into());
                    let id_of = |row: &Value| match row.get("inference_id")? {
                        Value::String(id) => Some(id.clone()),
                        Value::Number(id) => Some(id.to_string()),
                        _ => None,
                    };
                    let ids: Vec<_> = data.iter().filter(own).filter_map(id_of).collect();
                    if let Some((id, _)) = pick(&page.rows, "own") {
                        prop_assert!(ids.iter().any(|own| own == id.as_ref()));
                    }
                }
                (Err(error), None) => prop_assert!(error.body().is_none_or(is_presentable)),
                (_, data) => prop_assert!(false, "{:?}", data),
            }
        }
    }
}
