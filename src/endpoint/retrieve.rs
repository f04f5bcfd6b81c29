//! `GET …/kling/generation?generation_id=…`: the state of a generation.

use super::Route;
use crate::error::Result;
use crate::model::generation::{Generation, GenerationId};
use crate::model::response::{Response, encode_query};

pub(crate) fn target(route: Route, id: &GenerationId) -> String {
    format!("{}?generation_id={}", route.path(), encode_query(id.as_str()))
}

pub(crate) fn parse_response(mut response: Response, id: &GenerationId) -> Result<Generation> {
    let fields = response.parse_json()?;
    if !fields.contains_key("status") {
        return Err(response.invalid_response("response has no `status`"));
    }
    let Some(mut generation) = Generation::from_fields(fields, Some(id)) else {
        return Err(response.invalid_response("response has no generation id"));
    };
    // Keep the id of the request: it is the one that is known to work.
    generation.id = id.clone();
    if let Some(video) = &mut generation.video {
        video.id = id.clone();
    }
    generation.metadata = response.headers.into_metadata();
    Ok(generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_sanitized, response};
    use crate::model::generation::Video;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn generation_is_parsed_only_from_a_complete_success_with_a_status(
            parts in response(Seed::body),
        ) {
            let requested: GenerationId = "asked-for".parse().unwrap();
            let expected = parts.is_complete_success()
                && parts.json().is_some_and(|fields| fields.contains_key("status"));
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
                }
            }
        }
    }
}
