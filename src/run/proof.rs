//! What responses prove about a create whose outcome the record does not know.

use crate::endpoint::retrieve::adopts;
use crate::error::Result;
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
        Err(error) if error.has_vendor_marks() && is_final_4xx(error.status()) => {
            match marked || age >= VISIBILITY_GRACE {
                true => Rejection::Confirmed,
                false => Rejection::Unknown,
            }
        }
        _ => Rejection::Unknown,
    }
}

/// Whether a create that the log lists as failed has failed. `age`: the seconds since it was logged.
pub(crate) fn is_logged_failure_confirmed(retrieved: &Result<Generation>, age: u64) -> bool {
    match retrieved {
        Ok(generation) => generation.status == Status::Error,
        Err(error) => {
            error.status() == Some(404) && error.has_vendor_marks() && age >= VISIBILITY_GRACE
        }
    }
}

fn is_final_4xx(status: Option<u16>) -> bool {
    matches!(status, Some(400..=499)) && status != Some(429)
}
