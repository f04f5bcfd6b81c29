//! `POST …/kling/generation`: the one request that costs money, so its answers are told apart with
//! care.

use crate::body::Progress;
use crate::error::Error;
use crate::generation::{Generation, GenerationFields, GenerationId, Status};
use crate::http::{Failure, FailureKind, Reply};

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

fn accepted(mut reply: Reply) -> Result<Generation, Error> {
    let header_id = inference_id(&reply);
    let generation = match (reply.object::<GenerationFields>(OPERATION), header_id) {
        (Ok(fields), id) => fields.into_generation(id.as_ref()).ok_or_else(|| {
            reply.unreadable(OPERATION, "the server's answer names no generation")
        })?,
        (Err(_), Some(id)) => bare(id),
        (Err(error), None) => return Err(error),
    };
    Ok(Generation { trace: reply.headers.into_trace(), ..generation })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::arbitrary::{Parts, Seed, cases, failure, is_presentable, reply};
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::Value;

    fn progress() -> impl Strategy<Value = Progress> {
        use Progress::{Begun, Committed, NotBegun};
        select(vec![NotBegun, Begun, Committed, Committed])
    }

    fn is_id(text: &str) -> bool {
        !text.is_empty() && !text.contains(char::is_control)
    }

    /// The id that a successful reply names: in its whole body, else in its header.
    fn named(parts: &Parts) -> Option<String> {
        let of = |value: &Value| match value {
            Value::String(text) => is_id(text).then(|| text.clone()),
            value => (value.is_u64() || value.is_i64()).then(|| value.to_string()),
        };
        let fields = parts.json().filter(|_| parts.end.is_none()).unwrap_or_default();
        let in_body = ["id", "generation_id"].iter().find_map(|name| of(fields.get(*name)?));
        in_body.or_else(|| {
            let (_, id) = parts.headers.iter().find(|(name, _)| *name == "x-inference-id")?;
            is_id(id).then(|| id.clone())
        })
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn no_answer_is_taken_for_a_generation_without_its_id(
            parts in reply(Seed::body),
            progress in progress(),
        ) {
            let committed = progress == Progress::Committed;
            let expected = named(&parts).filter(|_| (200..300).contains(&parts.status));
            match (outcome(Ok(parts.reply()), progress), expected) {
                (Outcome::Accepted(generation), Some(id)) => {
                    prop_assert_eq!(generation.id.as_ref(), id);
                }
                (Outcome::Refused { error, .. }, None) => {
                    prop_assert!(!committed || matches!(parts.status, 0..=199 | 300..));
                    prop_assert!(!error.may_have_been_billed());
                    prop_assert!(error.body().is_none_or(is_presentable));
                }
                (Outcome::Unknown(error), None) => {
                    prop_assert!(committed);
                    prop_assert_eq!(error.kind(), ErrorKind::CreateUnknown);
                    prop_assert!(!error.is_retryable() && error.may_have_been_billed());
                    prop_assert!(error.body().is_none_or(is_presentable));
                }
                (_, expected) => prop_assert!(false, "{:?} expected", expected),
            }
        }

        #[test]
        fn no_answer_at_all_is_unknown_from_the_commit_point_on(
            kind in failure(),
            progress in progress(),
        ) {
            let is_final = matches!(kind, FailureKind::Cancelled | FailureKind::Unusable);
            match outcome(Err(Failure::new(kind, "cut")), progress) {
                Outcome::Accepted(_) => prop_assert!(false, "accepted"),
                Outcome::Refused { try_again, .. } => {
                    prop_assert!(progress != Progress::Committed && try_again != is_final);
                }
                Outcome::Unknown(_) => prop_assert!(progress == Progress::Committed),
            }
        }
    }
}
