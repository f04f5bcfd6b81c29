//! What responses prove about a create whose outcome the record does not know.

use crate::endpoint::retrieve::adopts;
use crate::error::{Error, Result};
use crate::model::generation::{Generation, Status};

/// How long, in seconds, a generation may take to become visible: until then a 404 proves nothing.
const VISIBILITY_GRACE: u64 = 60;

/// What a response says about the id that a rejected create named.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Rejection {
    /// The id is a generation: the create was accepted after all.
    Disproved,
    Confirmed,
    Unknown,
}

/// Judges a rejection that named an id. `marked`: it was the vendor's own; `age`: the seconds since.
pub(crate) fn judge_rejection(retrieved: &Result<Generation>, marked: bool, age: u64) -> Rejection {
    match retrieved {
        Ok(generation) if adopts(generation) => Rejection::Disproved,
        // Failed generations are not charged.
        Ok(generation) if generation.status == Status::Error => Rejection::Confirmed,
        Err(error) if denies_generation(error) => match marked || age >= VISIBILITY_GRACE {
            true => Rejection::Confirmed,
            false => Rejection::Unknown,
        },
        _ => Rejection::Unknown,
    }
}

/// What a response says about a generation that the log lists as failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Logged {
    /// The generation has another state, which polling judges.
    Exists,
    Failed,
    Unknown,
}

/// Judges a log row that says failed. `age`: the seconds since the create.
pub(crate) fn judge_logged_failure(retrieved: &Result<Generation>, age: u64) -> Logged {
    match retrieved {
        Ok(generation) if generation.status == Status::Error => Logged::Failed,
        Ok(_) => Logged::Exists,
        Err(error)
            if error.has_vendor_marks()
                && error.status() == Some(404)
                && age >= VISIBILITY_GRACE =>
        {
            Logged::Failed
        }
        Err(_) => Logged::Unknown,
    }
}

/// Whether the API says that it has no such generation. Other rejections are about the request: the
/// key, its rights, the rate of requests.
fn denies_generation(error: &Error) -> bool {
    error.has_vendor_marks() && matches!(error.status(), Some(400 | 404 | 410 | 422))
}
