//! `GET /v1/models`: the catalogue of models with their prices.

use serde_json::{Value, json};

use super::query::Query;

/// Returns the entries of these models that the query selects.
pub(super) fn catalogue<'a>(
    models: impl Iterator<Item = &'a str>,
    pricing: &Value,
    query: &Query,
) -> Value {
    // Values may be repeated or separated by commas.
    let values = |name| query.values(name).flat_map(|value| value.split(','));
    let is_selected = |model: &&str| {
        let mut ids = values("id").peekable();
        ids.peek().is_none() || ids.any(|id| id == *model)
    };
    let with_pricing = values("include").any(|section| ["pricing", "all"].contains(&section))
        || values("details").any(|details| ["true", "1"].contains(&details));
    let entry = |model| {
        let mut entry = json!({
            "id": model, "aliases": [], "type": "video/generations", "tags": [],
            "info": { "name": model, "developer": "Kling AI" },
        });
        if let Some(fields) = entry.as_object_mut().filter(|_| with_pricing) {
            fields.insert("pricing".to_owned(), pricing.clone());
        }
        entry
    };
    json!({ "object": "list", "data": models.filter(is_selected).map(entry).collect::<Vec<_>>() })
}

/// Returns a fixed price per second of video.
pub(super) fn fixed_price(usd_per_second: f64) -> Value {
    json!({
        "kind": "fixed", "currency": "USD",
        "units": [
            { "name": "second", "measure": "output", "price": usd_per_second, "per": 1 },
        ],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn catalogue_is_filtered_by_id_and_lists_prices_on_request() {
        let pricing = fixed_price(0.5);
        let catalogue = |query| {
            let catalogue = catalogue(["a/1", "b/2"].into_iter(), &pricing, &Query::parse(query));
            let data = catalogue["data"].as_array().cloned().unwrap_or_default();
            let ids = data.iter().filter_map(|entry| entry["id"].as_str()).collect::<String>();
            (ids, data.iter().any(|entry| entry["pricing"] == pricing))
        };
        let all = "a/1b/2".to_owned();
        assert_eq!(catalogue(""), (all.clone(), false));
        assert_eq!(catalogue("details=1"), (all.clone(), true));
        assert_eq!(catalogue("id=c,a%2F1&include=modalities,pricing"), ("a/1".to_owned(), true));
        assert_eq!(catalogue("id=a/1&id=b/2&include=all"), (all, true));
        assert_eq!(catalogue("id=c&include=pricing"), (String::new(), false));
    }
}
