//! `GET /v1/models`: the models with their prices, which need no API key.

use serde_json::Value;

use crate::error::Result;
use crate::model::pricing::Pricing;
use crate::model::response::{Response, encode_query};

pub(crate) fn target(model: &str) -> String {
    format!("/v1/models?id={}&include=pricing", encode_query(model))
}

/// The price of the model with this id, or else of one with this alias.
pub(crate) fn parse_response(mut response: Response, model: &str) -> Result<Option<Pricing>> {
    let (data, _) = response.parse_list()?;
    let has_id = |entry: &Value| entry.get("id").is_some_and(|id| id == model);
    let models = data.iter().map(|entry| (names(entry), entry));
    let named = models.filter(|(names, _)| names.iter().any(|name| name == model));
    Ok(named.min_by_key(|(_, entry)| !has_id(entry)).and_then(|(names, entry)| {
        Some(Pricing::from_fields(entry.get("pricing")?.as_object()?.clone(), names))
    }))
}

/// The id and the aliases of a model.
fn names(entry: &Value) -> Vec<String> {
    let aliases = entry.get("aliases").and_then(Value::as_array).into_iter().flatten();
    let names = entry.get("id").into_iter().chain(aliases);
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}
