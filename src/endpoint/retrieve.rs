//! `GET …/kling/generation?generation_id=…`: the state of a generation.

use super::Route;
use crate::error::Result;
use crate::model::generation::json::Fields;
use crate::model::generation::{Generation, GenerationId, Status};
use crate::model::response::{Response, encode_query};
use crate::redact::{sanitize, snippet};

pub(crate) fn target(route: Route, id: &GenerationId) -> String {
    [route.path(), "?generation_id=", &encode_query(id.as_str())].concat()
}

/// Only a response that names the generation says anything about it. Any other may be a gateway's,
/// or about another generation, so that neither its status nor its video may be taken for this one's.
pub(crate) fn parse_response(mut response: Response, id: &GenerationId) -> Result<Generation> {
    response.ensure_success()?;
    let mut fields: Fields<'_> = response.parse_json()?;
    if fields.get_mut("status").is_none() {
        return Err(response.invalid_response("response has no `status`"));
    }
    let in_body = GenerationId::take_from(&mut fields);
    let also_in_body = fields.get_mut("generation_id").and_then(|id| GenerationId::from_value(id));
    let named = [in_body, also_in_body, response.headers.generation_id()];
    let mut named = named.iter().flatten();
    if !named.clone().any(|named| named == id) {
        let problem = match named.next() {
            Some(other) => format!("is about generation `{}`", sanitize(other.as_str())),
            None => "has no generation id".to_owned(),
        };
        let message = format!("response {problem}");
        let error = response.invalid_response(&message);
        // With its words, or else its URL, which a wait that times out then reports.
        return Err(match error.server_message() {
            Some(_) => error,
            None => response.invalid_response(&format!("{message}: {}", snippet(&response.body))),
        });
    }
    // With the id of the request: it is the one that is known to work.
    let mut generation = Generation::from_fields(fields, id.clone());
    generation.metadata = response.headers.into_metadata();
    Ok(generation)
}

/// Whether the API knows the generation as pending or done, in a word that it documents: proof that
/// the create whose rejection named it was accepted all the same.
pub(crate) fn adopts(generation: &Generation) -> bool {
    match &generation.status {
        Status::Queued | Status::Generating | Status::Completed => true,
        Status::Error => false,
        Status::Other(word) => {
            ["waiting", "active"].iter().any(|known| word.eq_ignore_ascii_case(known))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_sanitized, response};
    use crate::model::generation::Video;
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::Value;
    use std::error::Error;

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn generation_is_parsed_only_from_a_complete_success_with_a_status_and_the_id(
            parts in response(Seed::body),
            // The generator's id and its header's text, among others.
            requested in select(&["789392067490349060", "asked-for", "60"][..]),
            is_named in any::<bool>(),
        ) {
            let requested: GenerationId = requested.parse().unwrap();
            let mut parts = parts;
            let mut fields = parts.json();
            if let Some(fields) = fields.as_mut().filter(|_| is_named) {
                fields.insert("generation_id".into(), requested.as_str().into());
                parts.body = serde_json::to_vec(fields).unwrap();
            }
            let is_requested = |value: &Value| match value {
                Value::Number(number) => number.to_string() == requested.as_str(),
                value => *value == *requested.as_str(),
            };
            let mut headers = parts.headers.iter().filter(|(name, _)| *name == "x-inference-id");
            let in_header = headers.next().is_some_and(|(_, id)| id == requested.as_str());
            let expected = parts.is_complete_success() && fields.is_some_and(|fields| {
                let in_body = ["id", "generation_id"].map(|name| fields.get(name));
                fields.contains_key("status")
                    && (in_header || in_body.into_iter().flatten().any(is_requested))
            });
            match parse_response(parts.response(), &requested) {
                Ok(generation) => {
                    prop_assert!(expected);
                    prop_assert_eq!(&generation.id, &requested);
                    let is_valid = |video: Video| video.id == requested && !video.url.is_empty();
                    prop_assert!(generation.video.is_none_or(is_valid));
                }
                Err(error) => {
                    prop_assert!(!expected);
                    prop_assert!(error.body().is_none_or(is_sanitized));
                    prop_assert!(error.source().is_none_or(|e| is_sanitized(&e.to_string())));
                }
            }
        }
    }
}
