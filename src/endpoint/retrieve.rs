//! `GET …/kling/generation?generation_id=…`: the state of a generation.

use super::Route;
use crate::error::Result;
use crate::generation::{Generation, GenerationFields, GenerationId};
use crate::http::{Reply, encode_query};

pub(crate) fn target(route: Route, id: &GenerationId) -> String {
    const QUERY: &str = "?generation_id=";
    let (path, id) = (route.path(), id.as_ref());
    let mut target = String::with_capacity(path.len() + QUERY.len() + 3 * id.len());
    target.push_str(path);
    target.push_str(QUERY);
    encode_query(id, &mut target);
    target
}

pub(crate) fn read(mut reply: Reply, id: &GenerationId) -> Result<Generation> {
    const OPERATION: &str = "retrieve";
    let fields: GenerationFields = reply.object(OPERATION)?;
    if !fields.has_status() {
        return Err(reply.unreadable(OPERATION, "the server's answer tells no status"));
    }
    let Some(mut generation) = fields.into_generation(Some(id)) else {
        return Err(reply.unreadable(OPERATION, "the server's answer names no generation"));
    };
    // The id that was asked for is the one that is known to work.
    generation.id = id.clone();
    if let Some(video) = &mut generation.video {
        video.id = id.clone();
    }
    generation.trace = reply.headers.into_trace();
    Ok(generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, is_presentable, reply};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn only_a_whole_success_with_a_status_is_a_state(parts in reply(Seed::body)) {
            let asked: GenerationId = "asked-for".parse().unwrap();
            let expected = parts.is_whole_success()
                && parts.json().is_some_and(|fields| fields.contains_key("status"));
            match read(parts.reply(), &asked) {
                Ok(generation) => {
                    prop_assert!(expected);
                    prop_assert_eq!(&generation.id, &asked);
                    prop_assert!(generation.video.is_none_or(|video| video.id == asked && !video.url.is_empty()));
                }
                Err(error) => {
                    prop_assert!(!expected);
                    prop_assert!(error.body().is_none_or(is_presentable));
                }
            }
        }
    }
}
