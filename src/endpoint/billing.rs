//! `GET /v2/billing`: what is left on the account.

use serde_json::Value;

use crate::error::{Error, Result};
use crate::generation::Balance;
use crate::http::Reply;
use crate::text::snippet;

pub(crate) const TARGET: &str = "/v2/billing";

pub(crate) fn read(reply: Reply) -> Result<Balance> {
    const OPERATION: &str = "balance";
    let (status, shown) = (reply.status, snippet(&reply.body));
    let fields = reply.into_object(OPERATION)?;
    let amount = fields.get("current_balance").and_then(Value::as_f64);
    let currency = fields.get("currency").and_then(Value::as_str).unwrap_or("USD");
    match amount {
        Some(amount) => Ok(Balance { amount, currency: currency.to_owned() }),
        None => {
            let problem = "the server's answer tells no balance";
            Err(Error::unreadable(OPERATION, problem, status, shown, None))
        }
    }
}
