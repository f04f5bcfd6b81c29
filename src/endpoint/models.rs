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
    let models = data.iter().map(|entry| (names(entry), entry));
    let positions = models.filter_map(|(names, entry)| {
        Some((names.iter().position(|name| name == model)?, names, entry))
    });
    // An id is its first name.
    let best = positions.min_by_key(|(position, ..)| *position);
    Ok(best.and_then(|(_, names, entry)| {
        Some(Pricing::from_fields(entry.get("pricing")?.as_object()?.clone(), names))
    }))
}

/// The id and the aliases of a model.
fn names(entry: &Value) -> Vec<String> {
    let aliases = entry.get("aliases").and_then(Value::as_array).into_iter().flatten();
    let names = entry.get("id").into_iter().chain(aliases);
    names.filter_map(Value::as_str).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_sanitized, response};
    use crate::{Image, ImageToVideo, MODEL, Rate};
    use proptest::prelude::*;
    use serde_json::{Map, json};

    /// A JSON object with these fields, some of which are missing or of another type.
    fn object(seed: &mut Seed, fields: &[(&str, Value)]) -> Value {
        let mut object = Map::new();
        for (name, usual) in fields {
            match seed.below(16) {
                0 => {}
                1 => drop(object.insert((*name).to_owned(), seed.json())),
                _ => drop(object.insert((*name).to_owned(), usual.clone())),
            }
        }
        if seed.below(16) == 0 {
            object.insert(seed.string(), seed.json());
        }
        object.into()
    }

    fn rate(seed: &mut Seed) -> Value {
        let unit = seed.pick(&["second", "video", "token", "generation"]);
        let when = object(seed, &[("duration", json!(5))]);
        let per = seed.pick(&[1, 1, 5, 60]);
        let name = seed.pick(&["unit", "name"]);
        object(
            seed,
            &[(name, unit.into()), ("when", when), ("price", 0.5.into()), ("per", per.into())],
        )
    }

    fn body(seed: &mut Seed) -> Vec<u8> {
        if seed.below(8) == 0 {
            return seed.body();
        }
        let kind = seed.pick(&["fixed", "variants", "variable"]);
        let mut rates = vec![rate(seed)];
        while seed.chance(30) {
            rates.push(rate(seed));
        }
        let rates = Value::from(rates);
        let fields = [("kind", kind.into()), ("units", rates.clone()), ("variants", rates)];
        let pricing = object(seed, &fields);
        let entry = object(seed, &[("id", MODEL.into()), ("pricing", pricing)]);
        object(seed, &[("data", json!([entry]))]).to_string().into_bytes()
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn price_is_parsed_without_loss_and_quoted_only_from_one_plain_rate(parts in response(body)) {
            let fields = parts.json().filter(|_| parts.is_complete_success());
            let data = fields.and_then(|fields| fields.get("data")?.as_array().cloned());
            let is_model = |entry: &&Value| entry.get("id") == Some(&MODEL.into());
            match (parse_response(parts.response(), MODEL), data) {
                (Ok(pricing), Some(data)) => {
                    let listed = data.iter().find(is_model).and_then(|entry| entry.get("pricing"));
                    prop_assert_eq!(pricing.is_some(), listed.is_some_and(Value::is_object));
                    let (Some(pricing), Some(listed)) = (pricing, listed) else { return Ok(()) };
                    for (name, value) in &pricing.extra {
                        prop_assert_eq!(Some(value), listed.get(name));
                    }
                    let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
                    let Some(cost) = pricing.estimate(&request) else { return Ok(()) };
                    let rates = match pricing.kind.as_str() {
                        "fixed" => &pricing.units,
                        _ => &pricing.variants,
                    };
                    let is_cost = |rate: &Rate| {
                        let quantity = if rate.unit == "second" { 5.0 } else { 1.0 };
                        rate.unit != "token" && cost == quantity / rate.per * rate.price
                    };
                    prop_assert!(rates.iter().any(is_cost), "{} for {}", cost, listed);
                    prop_assert!(pricing.extra.is_empty() && pricing.kind != "variable");
                }
                (Err(error), None) => prop_assert!(error.body().is_none_or(is_sanitized)),
                (_, data) => prop_assert!(false, "{:?}", data),
            }
        }
    }
}
