//! `GET /v2/billing`: the account's balance.

use serde_json::Value;

use crate::error::Result;
use crate::model::generation::{Balance, JsonObject};
use crate::model::response::Response;

pub(crate) const TARGET: &str = "/v2/billing";

pub(crate) fn parse_response(mut response: Response) -> Result<Balance> {
    response.ensure_success()?;
    let fields: JsonObject = response.parse_json()?;
    let amount = fields.get("current_balance").and_then(Value::as_f64);
    let currency = fields.get("currency").and_then(Value::as_str).unwrap_or("USD");
    match amount {
        Some(amount) => Ok(Balance { amount, currency: currency.to_owned() }),
        None => Err(response.invalid_response("response has no numeric `current_balance`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_sanitized, response};
    use proptest::prelude::*;

    fn balance_body(seed: &mut Seed) -> Vec<u8> {
        let mut fields = seed.generation();
        fields.insert("current_balance".into(), seed.scalar());
        fields.insert("currency".into(), seed.json());
        Value::from(fields).to_string().into_bytes()
    }

    fn body(seed: &mut Seed) -> Vec<u8> {
        if seed.below(3) == 0 { seed.body() } else { balance_body(seed) }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn balance_is_parsed_from_a_number_only(parts in response(body)) {
            let fields = parts.json().filter(|_| parts.is_complete_success());
            let expected = fields.and_then(|fields| fields.get("current_balance")?.as_f64());
            match parse_response(parts.response()) {
                Ok(balance) => prop_assert_eq!(Some(balance.amount), expected),
                Err(error) => {
                    prop_assert_eq!(expected, None);
                    prop_assert!(error.body().is_none_or(is_sanitized));
                }
            }
        }
    }
}
