//! `GET …/kling/generation?generation_id=…`: the state of a generation.

use super::Route;
use crate::error::{Error, Result};
use crate::generation::{Generation, GenerationId};
use crate::http::{Reply, encode_query};
use crate::text::snippet;

pub(crate) fn target(route: Route, id: &GenerationId) -> String {
    let mut target = format!("{}?generation_id=", route.path());
    encode_query(id.as_ref(), &mut target);
    target
}

pub(crate) fn read(reply: Reply, id: &GenerationId) -> Result<Generation> {
    const OPERATION: &str = "retrieve";
    let trace = reply.headers.trace();
    let (status, shown) = (reply.status, snippet(&reply.body));
    let fields = reply.into_object(OPERATION)?;
    if !fields.contains_key("status") {
        let problem = "the server's answer tells no status";
        return Err(Error::unreadable(OPERATION, problem, status, shown, None));
    }
    let generation = Generation::from_fields(fields, Some(id)).map(|mut generation| {
        // The id that was asked for is the one that is known to work.
        generation.id = id.clone();
        if let Some(video) = &mut generation.video {
            video.id = id.clone();
        }
        generation.trace = trace;
        generation
    });
    generation.ok_or_else(|| {
        Error::unreadable(OPERATION, "the server's answer names no generation", status, shown, None)
    })
}
