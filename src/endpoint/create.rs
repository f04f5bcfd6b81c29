//! `POST …/kling/generation` or its universal equivalent: the only request that costs money, so
//! every possible outcome is classified.

use crate::error::{Error, Result};
use crate::model::body::UploadState;
use crate::model::generation::json::Fields;
use crate::model::generation::{Generation, GenerationId, Status};
use crate::model::response::Response;

/// The outcome of a create request.
pub(crate) enum Outcome {
    /// The API accepted it.
    Accepted(Box<Generation>),
    /// It certainly was not accepted, although its response may name a generation. `retryable` says
    /// whether another attempt may succeed.
    Rejected { error: Error, retryable: bool },
    /// It was sent completely, but no usable response was received. It may have been accepted and
    /// must not be repeated blindly.
    Indeterminate(Error),
}

/// Classifies the result of a create request, given how far its body was sent.
pub(crate) fn outcome(result: Result<Response>, upload: UploadState) -> Outcome {
    match (result, upload) {
        (Ok(response), _) => classify_response(response, upload == UploadState::Committed),
        (Err(error), UploadState::Committed) => {
            Outcome::Indeterminate(Error::create_unknown(error))
        }
        (Err(error), _) => Outcome::Rejected {
            retryable: error.is_transient(),
            error: match upload {
                UploadState::InProgress | UploadState::Cut => error.during_upload(),
                _ => error,
            },
        },
    }
}

fn classify_response(response: Response, committed: bool) -> Outcome {
    if response.is_success() {
        return match parse_generation(response) {
            Ok(generation) => Outcome::Accepted(Box::new(generation)),
            Err(error) if committed => Outcome::Indeterminate(Error::create_unknown(error)),
            Err(error) => Outcome::Rejected { error, retryable: false },
        };
    }
    // The API names a generation in every response, rejections included.
    let id = response.headers.generation_id();
    let error = response.api_error();
    if committed && !is_rejection(response.status, &error) {
        return Outcome::Indeterminate(Error::create_unknown(error).with_id(&id));
    }
    let retryable = response.status == 429 || (!committed && response.status >= 500);
    Outcome::Rejected { error: error.with_id(&id), retryable }
}

/// Whether this status proves that a request whose body was sent completely was not accepted.
fn is_rejection(status: u16, error: &Error) -> bool {
    match status {
        // Sent by services and gateways alike while, or after, the request is acted on: timeout,
        // conflict, locked, failed dependency, too early.
        408 | 409 | 423 | 424 | 425 => false,
        // The others that are registered.
        400..=417 | 421 | 422 | 426 | 428 | 429 | 431 | 451 => true,
        // The sender has not acted on the request: it asks to repeat it elsewhere.
        301 | 307 | 308 => true,
        // According to its documentation, the API never charges for a failed request. A gateway's
        // error says nothing about what happens behind it.
        500 | 503 => error.has_vendor_marks(),
        // Other redirects are followed with a GET, other 5xx come from gateways, and the rest is
        // either not registered or not the status of a final response.
        _ => false,
    }
}

fn parse_generation(mut response: Response) -> Result<Generation> {
    let parsed = response.ensure_success().and_then(|()| response.parse_json());
    let mut fields = match parsed {
        // Accepted and paid for: the id in the header is enough to wait for it.
        Err(_) if response.headers.generation_id().is_some() => {
            Fields(vec![("status".into(), Status::Queued.as_str().into())])
        }
        result => result?,
    };
    let id = GenerationId::take_from(&mut fields).or_else(|| response.headers.generation_id());
    let id = id.ok_or_else(|| response.invalid_response("response has no generation id"))?;
    let mut generation = Generation::from_fields(fields, id);
    generation.metadata = response.headers.into_metadata();
    Ok(generation)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::arbitrary::{
        ResponseParts, Seed, cases, is_sanitized, response, transport_error, transport_error_kind,
    };
    use proptest::prelude::*;
    use proptest::sample::select;
    use serde_json::Value;

    fn upload_state() -> impl Strategy<Value = UploadState> {
        use UploadState::{Committed, Cut, InProgress, NotStarted};
        // Half of the cases are committed.
        select(vec![NotStarted, InProgress, Cut, Committed, Committed, Committed])
    }

    fn is_valid_id(text: &str) -> bool {
        !text.is_empty() && !text.contains(char::is_control)
    }

    /// The id in a successful response's body, if that is complete, or else in its header.
    fn id_in(parts: &ResponseParts) -> Option<String> {
        let parse_id = |value: &Value| match value {
            Value::String(text) => is_valid_id(text).then(|| text.clone()),
            value => (value.is_u64() || value.is_i64()).then(|| value.to_string()),
        };
        let fields = parts.json().filter(|_| parts.body_error.is_none()).unwrap_or_default();
        let in_body = ["id", "generation_id"].iter().find_map(|name| parse_id(fields.get(*name)?));
        in_body.or_else(|| header_id(parts))
    }

    fn header_id(parts: &ResponseParts) -> Option<String> {
        let (_, id) = parts.headers.iter().find(|(name, _)| *name == "x-inference-id")?;
        is_valid_id(id).then(|| id.clone())
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn response_is_accepted_only_with_a_generation_id(
            parts in response(Seed::body),
            upload in upload_state(),
        ) {
            let committed = upload == UploadState::Committed;
            let expected = id_in(&parts).filter(|_| (200..300).contains(&parts.status));
            match (outcome(Ok(parts.response()), upload), expected) {
                (Outcome::Accepted(generation), Some(id)) => {
                    prop_assert_eq!(generation.id.as_str(), id);
                }
                (Outcome::Rejected { error, retryable }, None) => {
                    let is_server_error = matches!(parts.status, 500 | 503);
                    let proves = matches!(parts.status, 301 | 307 | 308 | 400..=451)
                        && !matches!(parts.status, 408 | 409 | 423..=425);
                    let is_marked = error.has_vendor_marks();
                    prop_assert!(!committed || proves || is_server_error && is_marked);
                    prop_assert!(!committed || !retryable || parts.status == 429);
                    prop_assert_eq!(error.generation_id().is_some(), header_id(&parts).is_some());
                    prop_assert!(error.body().is_none_or(is_sanitized));
                    prop_assert!(!error.not_created().may_have_been_billed());
                }
                (Outcome::Indeterminate(error), None) => {
                    prop_assert!(committed);
                    prop_assert_eq!(error.kind(), ErrorKind::CreateUnknown);
                    prop_assert!(!error.is_retryable() && error.may_have_been_billed());
                    let is_success = (200..300).contains(&parts.status);
                    let id = header_id(&parts).filter(|_| !is_success);
                    prop_assert_eq!(error.generation_id().is_some(), id.is_some());
                    prop_assert!(error.body().is_none_or(is_sanitized));
                }
                (_, expected) => prop_assert!(false, "{:?} expected", expected),
            }
        }

        #[test]
        fn transport_error_is_indeterminate_from_the_commit_point_on(
            kind in transport_error_kind(),
            upload in upload_state(),
        ) {
            let is_permanent = matches!(kind, ErrorKind::Cancelled | ErrorKind::Decode);
            match outcome(Err(transport_error(kind)), upload) {
                Outcome::Accepted(_) => prop_assert!(false, "accepted"),
                Outcome::Rejected { retryable, .. } => {
                    prop_assert!(upload != UploadState::Committed && retryable != is_permanent);
                }
                Outcome::Indeterminate(_) => prop_assert!(upload == UploadState::Committed),
            }
        }
    }
}
