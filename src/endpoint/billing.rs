//! `GET /v2/billing`: what is left on the account.

use serde_json::{Map, Value};

use crate::error::Result;
use crate::generation::Balance;
use crate::http::Reply;

pub(crate) const TARGET: &str = "/v2/billing";

pub(crate) fn read(mut reply: Reply) -> Result<Balance> {
    const OPERATION: &str = "balance";
    let fields: Map<String, Value> = reply.object(OPERATION)?;
    let amount = fields.get("current_balance").and_then(Value::as_f64);
    let currency = fields.get("currency").and_then(Value::as_str).unwrap_or("USD");
    match amount {
        Some(amount) => Ok(Balance { amount, currency: currency.to_owned() }),
        None => Err(reply.unreadable(OPERATION, "the server's answer tells no balance")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_presentable, reply};
    use proptest::prelude::*;

    fn balance(seed: &mut Seed) -> Vec<u8> {
        let mut fields = seed.generation();
        fields.insert("current_balance".into(), seed.scalar());
        fields.insert("currency".into(), seed.json());
        Value::from(fields).to_string().into_bytes()
    }

    fn body(seed: &mut Seed) -> Vec<u8> {
        if seed.below(3) == 0 { seed.body() } else { balance(seed) }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn only_a_number_is_a_balance(parts in reply(body)) {
            let fields = parts.json().filter(|_| parts.is_whole_success());
            let expected = fields.and_then(|fields| fields.get("current_balance")?.as_f64());
            match read(parts.reply()) {
                Ok(balance) => prop_assert_eq!(Some(balance.amount), expected),
                Err(error) => {
                    prop_assert_eq!(expected, None);
                    prop_assert!(error.body().is_none_or(is_presentable));
                }
            }
        }
    }
}
