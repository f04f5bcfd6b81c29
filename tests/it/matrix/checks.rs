//! The outcomes that are allowed for each fault and client call.
//!
//! They are derived from the crate's guarantees, not from what the code happens to do.

use std::ops::RangeInclusive;

use kling_video::sandbox::Endpoint;
use kling_video::{Error, ErrorKind, Operation};

use super::fault_cases::FaultCase;

/// What a fault amounts to for the client that receives it instead of a valid response.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum FaultEffect {
    /// A valid response in an unusual encoding.
    Valid,
    /// A status other than success, with a complete or truncated body. `from_api` is false for a
    /// response that a gateway sent in place of the API.
    ErrorStatus {
        status: u16,
        from_api: bool,
    },
    /// A success status with an invalid body.
    InvalidBody,
    /// The connection is lost, or the data is not HTTP.
    ConnectionLost,
    /// No data arrives, or it arrives too slowly.
    Timeout,
    /// A body larger than any response, or any video, may be.
    TooLarge,
    /// Endless data before the body: reading it ends at a size limit or a timeout.
    EndlessHead,
    /// HTTP allows the client to accept or to reject it.
    ValidOrConnectionLost,
    UnexpectedSuccess,
    /// A status that HTTP does not allow as the final response.
    NotFinal,
    /// A redirect that the client must not follow.
    ForbiddenRedirect,
}

/// The client call that the fault happens to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ClientCall {
    /// `create` with a small body, which is sent before any response can arrive.
    Create,
    /// `create` with a large body, which is sent with `Expect: 100-continue`.
    CreateLarge,
    Retrieve,
    /// `wait` with the fault in every poll.
    Wait,
    /// `wait` with the fault in the first poll only.
    WaitOneFault,
    Download,
    Find,
    /// `generate_to` with the fault in its create request, then again without the fault.
    GenerateToCreate,
    /// The same with the fault in its polls.
    GenerateToPoll,
    /// The same with the fault in its download.
    GenerateToDownload,
}

pub(crate) const ALL_CALLS: [ClientCall; 10] = [
    ClientCall::Create,
    ClientCall::CreateLarge,
    ClientCall::Retrieve,
    ClientCall::Wait,
    ClientCall::WaitOneFault,
    ClientCall::Download,
    ClientCall::Find,
    ClientCall::GenerateToCreate,
    ClientCall::GenerateToPoll,
    ClientCall::GenerateToDownload,
];

impl ClientCall {
    pub(crate) fn endpoint(self) -> Endpoint {
        match self {
            ClientCall::Create | ClientCall::CreateLarge | ClientCall::GenerateToCreate => {
                Endpoint::Create
            }
            ClientCall::Retrieve
            | ClientCall::Wait
            | ClientCall::WaitOneFault
            | ClientCall::GenerateToPoll => Endpoint::Retrieve,
            ClientCall::Find => Endpoint::Logs,
            ClientCall::Download | ClientCall::GenerateToDownload => Endpoint::Video,
        }
    }

    pub(crate) fn is_generate_to(self) -> bool {
        matches!(
            self,
            ClientCall::GenerateToCreate
                | ClientCall::GenerateToPoll
                | ClientCall::GenerateToDownload
        )
    }

    /// Every error after a create request, and no other error, names the generation.
    fn errors_have_id(self) -> bool {
        !matches!(self.endpoint(), Endpoint::Create | Endpoint::Logs)
    }
}

/// The outcomes that are allowed: success, and kinds of errors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Expected {
    pub may_succeed: bool,
    pub error_kinds: Vec<ErrorKind>,
}

pub(crate) fn expected(case: &FaultCase, call: ClientCall) -> Expected {
    let effect = effect(case, call);
    match call {
        ClientCall::Create | ClientCall::CreateLarge | ClientCall::GenerateToCreate => {
            expected_of_create(case, call, effect)
        }
        ClientCall::Retrieve | ClientCall::Find => expected_of_read(effect),
        ClientCall::Wait | ClientCall::GenerateToPoll if case.times > 1 => expected_of_wait(effect),
        ClientCall::Wait | ClientCall::GenerateToPoll | ClientCall::WaitOneFault => {
            let mut expected = expected_of_wait(effect);
            if !case.long_retry_after && expected.error_kinds.contains(&ErrorKind::WaitTimeout) {
                expected.may_succeed = true;
                expected.error_kinds.retain(|kind| *kind != ErrorKind::WaitTimeout);
            }
            expected
        }
        ClientCall::Download | ClientCall::GenerateToDownload => expected_of_read(effect),
    }
}

pub(crate) fn effect(case: &FaultCase, call: ClientCall) -> FaultEffect {
    match call.endpoint() {
        Endpoint::Video => case.download_effect.unwrap_or(case.effect),
        _ => case.effect,
    }
}

fn fails_with(kind: ErrorKind) -> Expected {
    Expected { may_succeed: false, error_kinds: vec![kind] }
}

/// The outcome of a read that is not retried.
fn expected_of_read(effect: FaultEffect) -> Expected {
    use ErrorKind::{Api, Decode, Timeout, Transport};
    let any =
        |may_succeed, kinds: &[ErrorKind]| Expected { may_succeed, error_kinds: kinds.to_vec() };
    match effect {
        FaultEffect::Valid => any(true, &[]),
        FaultEffect::ErrorStatus { .. } => fails_with(Api),
        FaultEffect::InvalidBody | FaultEffect::TooLarge => fails_with(Decode),
        FaultEffect::ConnectionLost => fails_with(Transport),
        FaultEffect::Timeout => fails_with(Timeout),
        FaultEffect::EndlessHead => any(false, &[Decode, Transport, Timeout]),
        FaultEffect::ValidOrConnectionLost => any(true, &[Transport]),
        FaultEffect::UnexpectedSuccess => any(false, &[Api, Decode]),
        FaultEffect::NotFinal | FaultEffect::ForbiddenRedirect => {
            any(false, &[Api, Decode, Transport])
        }
    }
}

/// A failed poll ends a wait only if the error is permanent, which only the API itself can say. For
/// the first minute, 404 is not.
fn expected_of_wait(effect: FaultEffect) -> Expected {
    let is_polled_again = |kind: ErrorKind| match (kind, effect) {
        (ErrorKind::Api, FaultEffect::ErrorStatus { status, from_api: true }) => {
            status == 404 || is_transient(status)
        }
        _ => true,
    };
    let mut expected = expected_of_read(effect);
    for kind in &mut expected.error_kinds {
        if is_polled_again(*kind) {
            *kind = ErrorKind::WaitTimeout;
        }
    }
    expected
}

/// Past the commit point, a create request is accepted, provably rejected, or else unknown.
fn expected_of_create(case: &FaultCase, call: ClientCall, effect: FaultEffect) -> Expected {
    if !is_committed(case, call) {
        return expected_of_read(effect);
    }
    match effect {
        // The system decides whether the body is sent before the connection is lost.
        FaultEffect::ConnectionLost if case.before_body_read => Expected {
            may_succeed: false,
            error_kinds: vec![ErrorKind::CreateUnknown, ErrorKind::Transport],
        },
        FaultEffect::Valid => Expected { may_succeed: true, error_kinds: Vec::new() },
        FaultEffect::ValidOrConnectionLost => {
            Expected { may_succeed: true, error_kinds: vec![ErrorKind::CreateUnknown] }
        }
        FaultEffect::ErrorStatus { status, from_api } if is_rejection(status, from_api) => {
            fails_with(ErrorKind::Api)
        }
        // The id in the header is enough.
        FaultEffect::InvalidBody | FaultEffect::ConnectionLost if case.has_id_header => {
            Expected { may_succeed: true, error_kinds: Vec::new() }
        }
        _ => fails_with(ErrorKind::CreateUnknown),
    }
}

fn is_committed(case: &FaultCase, call: ClientCall) -> bool {
    !(case.before_body_read && call == ClientCall::CreateLarge)
}

/// Whether this status proves that a create whose body was sent completely was not accepted.
fn is_rejection(status: u16, from_api: bool) -> bool {
    match status {
        301 | 307 | 308 => true,
        408 | 409 | 425 => false,
        400..=431 => true,
        500 | 503 => from_api,
        _ => false,
    }
}

fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// Checks the accessors of an error whose kind is given, and returns what is wrong with them.
pub(crate) fn check_error(
    case: &FaultCase,
    call: ClientCall,
    error: &Error,
    id: &str,
) -> Vec<String> {
    let mut failures = Vec::new();
    let mut check = |accessor: &str, actual: String, expected: String| {
        if actual != expected {
            failures.push(format!("{accessor} is {actual}, expected {expected}"));
        }
    };
    let kind = error.kind();
    let status = match effect(case, call) {
        FaultEffect::ErrorStatus { status, .. } => Some(status),
        _ => error.status(),
    };
    let transient = match kind {
        ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout => true,
        ErrorKind::WaitTimeout => true,
        ErrorKind::Api => status.is_some_and(is_transient),
        _ => false,
    };
    let may_pay_twice = matches!(call, ClientCall::Create | ClientCall::CreateLarge);
    let lost_before_commit = case.before_body_read && kind == ErrorKind::Transport;
    let committed = is_committed(case, call) && !lost_before_commit;
    let retryable = transient && !(may_pay_twice && committed);
    // Whether the commit point was passed depends on the system.
    if !(lost_before_commit && call == ClientCall::Create) {
        check("is_retryable", error.is_retryable().to_string(), retryable.to_string());
    }

    let id_in_header = case.has_id_header && kind == ErrorKind::CreateUnknown;
    let has_id = call.errors_have_id() || id_in_header;
    let actual_id = error.generation_id().map(|id| id.to_string());
    check("generation_id", format!("{actual_id:?}"), format!("{:?}", has_id.then_some(id)));
    let billed = kind == ErrorKind::CreateUnknown || has_id;
    check("may_have_been_billed", error.may_have_been_billed().to_string(), billed.to_string());

    if matches!(kind, ErrorKind::Api | ErrorKind::CreateUnknown) {
        check("status", format!("{:?}", error.status()), format!("{status:?}"));
    }
    if call.endpoint() == Endpoint::Create {
        let has_request_id = error.client_request_id().is_some();
        check("client_request_id().is_some()", has_request_id.to_string(), "true".to_owned());
    }
    check("operation", error.operation().to_string(), operation_of(call).to_string());
    failures
}

fn operation_of(call: ClientCall) -> Operation {
    match call {
        ClientCall::Create | ClientCall::CreateLarge | ClientCall::GenerateToCreate => {
            Operation::Create
        }
        ClientCall::Retrieve => Operation::Retrieve,
        ClientCall::Wait | ClientCall::WaitOneFault | ClientCall::GenerateToPoll => Operation::Wait,
        ClientCall::Find => Operation::Find,
        ClientCall::Download | ClientCall::GenerateToDownload => Operation::Download,
    }
}

/// How many create requests are sent: one, and another without `Expect` if that is rejected.
///
/// A create whose upload is interrupted is repeated with `Expect: 100-continue`. Whether a small one
/// is interrupted depends on the system.
pub(crate) fn expected_creates(case: &FaultCase, call: ClientCall) -> RangeInclusive<usize> {
    match call {
        ClientCall::CreateLarge if case.before_body_read => 2..=2,
        ClientCall::Create | ClientCall::GenerateToCreate if case.before_body_read => 1..=2,
        _ => 1..=1,
    }
}

/// How many requests a download makes: the URL is refreshed once if it has expired.
pub(crate) fn expected_downloads(case: &FaultCase) -> usize {
    match case.download_effect.unwrap_or(case.effect) {
        FaultEffect::ErrorStatus { status: 400 | 401 | 403 | 404 | 410, .. } => 2,
        _ => case.download_requests,
    }
}
