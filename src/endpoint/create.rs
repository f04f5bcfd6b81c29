//! `POST …/kling/generation`: the one request that costs money, so its answers are told apart with
//! care.

use crate::body::Progress;
use crate::error::Error;
use crate::generation::{Generation, GenerationId, Status};
use crate::http::{Failure, FailureKind, Reply};
use crate::text::snippet;

const OPERATION: &str = "create";

/// What became of a create.
pub(crate) enum Outcome {
    /// The API has accepted it.
    Accepted(Box<Generation>),
    /// It certainly was not accepted; whether trying again makes sense.
    Refused { error: Error, try_again: bool },
    /// It was handed over whole and no readable answer came: never to be sent again blindly.
    Unknown(Error),
}

/// Reads what came of a create whose body had come so far.
pub(crate) fn outcome(answer: Result<Reply, Failure>, progress: Progress) -> Outcome {
    match (answer, progress) {
        (Ok(reply), _) => read(reply, progress == Progress::Committed),
        (Err(failure), Progress::Committed) => unknown(failure.into_error(OPERATION), None),
        (Err(failure), _) => Outcome::Refused {
            try_again: !matches!(failure.kind, FailureKind::Cancelled | FailureKind::Unusable),
            error: match (failure.kind, progress) {
                (FailureKind::Broken, Progress::Begun) => {
                    Error::upload_broken(OPERATION, failure.source)
                }
                _ => failure.into_error(OPERATION),
            },
        },
    }
}

fn read(reply: Reply, committed: bool) -> Outcome {
    if reply.is_success() {
        return match accepted(reply) {
            Ok(generation) => Outcome::Accepted(Box::new(generation)),
            Err(error) if committed => unknown(error, None),
            Err(error) => Outcome::Refused { error, try_again: false },
        };
    }
    let error = reply.refusal(OPERATION);
    let refused = !committed
        || match reply.status {
            // Followed as a GET these would seem to succeed: who sends them may have acted.
            302 | 303 => false,
            // A gateway's: the service behind it may have acted.
            502 | 504 | 524 => false,
            // The API documents that a request it fails is never charged.
            500..=599 => reply.has_vendor_body(),
            300..=499 => true,
            // No status that HTTP has for an answer.
            _ => false,
        };
    if refused {
        let try_again = reply.status == 429 || (!committed && reply.status >= 500);
        return Outcome::Refused { error, try_again };
    }
    unknown(error, inference_id(&reply))
}

fn accepted(reply: Reply) -> Result<Generation, Error> {
    let trace = reply.headers.trace();
    let header_id = inference_id(&reply);
    let (status, shown) = (reply.status, snippet(&reply.body));
    let generation = match (reply.into_object(OPERATION), header_id) {
        (Ok(fields), id) => Generation::from_fields(fields, id.as_ref()).ok_or_else(|| {
            let problem = "the server's answer names no generation";
            Error::unreadable(OPERATION, problem, status, shown, None)
        })?,
        (Err(_), Some(id)) => bare(id),
        (Err(error), None) => return Err(error),
    };
    Ok(Generation { trace, ..generation })
}

fn unknown(cause: Error, id: Option<GenerationId>) -> Outcome {
    let error = Error::create_unknown(cause);
    Outcome::Unknown(match id {
        Some(id) => error.with_id(&id),
        None => error,
    })
}

fn inference_id(reply: &Reply) -> Option<GenerationId> {
    reply.headers.get("x-inference-id")?.parse().ok()
}

/// A generation of which only the id is known.
fn bare(id: GenerationId) -> Generation {
    Generation {
        id,
        status: Status::Queued,
        video: None,
        error: None,
        usage: None,
        trace: Default::default(),
        extra: Default::default(),
    }
}
