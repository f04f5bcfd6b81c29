//! What responses prove about a create whose outcome the record does not know.

use crate::endpoint::retrieve::adopts;
use crate::error::{Error, Result};
use crate::model::generation::{Generation, Status};

/// How long, in seconds, a generation may take to become visible: until then a 404 proves nothing.
const VISIBILITY_GRACE: u64 = 60;

/// What a response says about a generation that another source says does not exist or has failed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Proof {
    /// It exists, and polling judges it.
    Exists,
    /// There is none that is charged: the other source is right.
    Gone,
    Unknown,
}

/// Judges a rejection that named an id. `marked`: it was the vendor's own; `age`: the seconds since.
pub(crate) fn judge_rejection(retrieved: &Result<Generation>, marked: bool, age: u64) -> Proof {
    match retrieved {
        Ok(generation) if adopts(generation) => Proof::Exists,
        // Failed generations are not charged.
        Ok(generation) if generation.status == Status::Error => Proof::Gone,
        Err(error) if denies_generation(error) => match marked || age >= VISIBILITY_GRACE {
            true => Proof::Gone,
            false => Proof::Unknown,
        },
        _ => Proof::Unknown,
    }
}

/// Judges a log row that says failed. `age`: the seconds since the create.
pub(crate) fn judge_logged_failure(retrieved: &Result<Generation>, age: u64) -> Proof {
    match retrieved {
        Ok(generation) if generation.status == Status::Error => Proof::Gone,
        Ok(_) => Proof::Exists,
        Err(error)
            if error.has_vendor_marks()
                && error.status() == Some(404)
                && age >= VISIBILITY_GRACE =>
        {
            Proof::Gone
        }
        Err(_) => Proof::Unknown,
    }
}

/// Whether the API says that it has no such generation. Other rejections are about the request: the
/// key, its rights, the rate of requests.
fn denies_generation(error: &Error) -> bool {
    error.has_vendor_marks() && matches!(error.status(), Some(400 | 404 | 410 | 422))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::endpoint::retrieve;
    use crate::model::response::{Headers, Response};
    use crate::operation::Operation;

    /// The responses of `retrieve` to a question about an id.
    #[derive(Clone, Copy, Debug)]
    enum Retrieved {
        /// 200 with this status word.
        Status(&'static str),
        /// An error response, with or without the vendor's marks.
        Api {
            status: u16,
            marked: bool,
        },
        /// A response about another id, or one that cannot be read.
        Unreadable,
        ConnectionLost,
        Timeout,
        Connect,
        Cancelled,
    }

    /// The words of `wire.md`, and some that it does not list.
    const WORDS: [&str; 22] = [
        "queued",
        "generating",
        "completed",
        "error",
        "waiting",
        "active",
        "succeeded",
        "failed",
        "unknown",
        "succeed",
        "success",
        "SUCCESS",
        "COMPLETED",
        "canceled",
        "cancelled",
        "expired",
        "Failed",
        "ERROR",
        "Queued",
        "moderated",
        "not found",
        "",
    ];

    const STATUSES: [u16; 24] = [
        300, 302, 304, 400, 401, 402, 403, 404, 405, 408, 409, 410, 422, 423, 425, 429, 451, 499,
        500, 502, 503, 504, 524, 599,
    ];

    impl Retrieved {
        fn all() -> Vec<Self> {
            let mut all: Vec<_> = WORDS.map(Self::Status).into();
            for marked in [false, true] {
                all.extend(STATUSES.map(|status| Self::Api { status, marked }));
            }
            all.extend([
                Self::Unreadable,
                Self::ConnectionLost,
                Self::Timeout,
                Self::Connect,
                Self::Cancelled,
            ]);
            all
        }

        fn result(self) -> Result<Generation> {
            let operation = Operation::Retrieve;
            let lost = || "lost".into();
            let respond = |status, body: String| {
                let (headers, body) = (Headers::default(), body.into_bytes());
                let response = Response { operation, status, headers, body, body_result: Ok(()) };
                retrieve::parse_response(response, &"a1".parse().unwrap())
            };
            match self {
                Self::Status(word) => respond(200, format!(r#"{{"id":"a1","status":"{word}"}}"#)),
                Self::Api { status, marked: true } => respond(
                    status,
                    format!(r#"{{"statusCode":{status},"requestId":"r","message":"no"}}"#),
                ),
                Self::Api { status, marked: false } => {
                    respond(status, r#"{"message":"no"}"#.into())
                }
                Self::Unreadable => {
                    Err(Error::decode(operation, "response has another generation id"))
                }
                Self::ConnectionLost => Err(Error::transport(operation, lost())),
                Self::Timeout => Err(Error::timeout(operation, lost())),
                Self::Connect => Err(Error::connect(operation, "api", None, lost())),
                Self::Cancelled => Err(Error::cancelled(operation)),
            }
        }

        /// The API itself, and not a gateway, says of this generation, and not of the key or of
        /// the rate of requests, that there is none.
        fn is_final_rejection(self) -> bool {
            matches!(self, Self::Api { status: 400 | 404 | 410 | 422, marked: true })
        }

        /// Whether it says that the generation is pending or done. `None`: a word whose spelling
        /// may or may not be read as one.
        fn is_alive(self) -> Option<bool> {
            const ALIVE: [&str; 6] =
                ["queued", "generating", "completed", "waiting", "active", "succeeded"];
            const SPELLINGS: [&str; 5] = ["succeed", "success", "SUCCESS", "COMPLETED", "Queued"];
            match self {
                Self::Status(word) if ALIVE.contains(&word) => Some(true),
                Self::Status(word) if SPELLINGS.contains(&word) => None,
                _ => Some(false),
            }
        }

        /// Whether it says that the generation failed.
        fn is_failed(self) -> Option<bool> {
            match self {
                Self::Status("error" | "failed") => Some(true),
                Self::Status("ERROR" | "Failed") => None,
                _ => Some(false),
            }
        }
    }

    #[test]
    fn rejections_and_logged_failures_stand_only_on_proof() {
        let mut cases = 0;
        for response in Retrieved::all() {
            let retrieved = response.result();
            for age in [0, 1, 30, 59, 60, 61, 3600, u64::MAX] {
                // From then on the generation would be visible.
                let is_old = age >= 60;
                for marked in [false, true] {
                    let judged = judge_rejection(&retrieved, marked, age);
                    let adopts = response.is_alive();
                    // Design: only a marked 4xx lets a rejection stand. A generation that failed is
                    // two words for one thing, since the create was rejected as well.
                    let stands = match response.is_final_rejection() {
                        true => Some(marked || is_old),
                        false => response.is_failed(),
                    };
                    let says = |verdict, expected: Option<bool>| {
                        expected.is_none_or(|expected| expected == (judged == verdict))
                    };
                    let case = format!("{response:?}, marked {marked}, {age} s: {judged:?}");
                    assert!(says(Proof::Exists, adopts), "adopts: {case}");
                    assert!(says(Proof::Gone, stands), "rejection stands: {case}");
                    let is_nothing = adopts == Some(false) && stands == Some(false);
                    assert!(!is_nothing || judged == Proof::Unknown, "not known: {case}");
                    cases += 1;
                }
                let failed = judge_logged_failure(&retrieved, age) == Proof::Gone;
                let proved = match response {
                    Retrieved::Api { status: 404, marked: true } => Some(is_old),
                    response => response.is_failed(),
                };
                let as_proved = proved.is_none_or(|proved| proved == failed);
                assert!(as_proved, "logged failure: {response:?}, {age} s: {failed}");
                cases += 1;
            }
        }
        eprintln!("{cases} judgements of {} responses", Retrieved::all().len());
    }
}
