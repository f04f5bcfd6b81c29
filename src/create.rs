//! Sends a create: its attempts, its commit point, and who records them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::cancel::CancelRegistration;
use crate::context::RequestContext;
use crate::endpoint::create::{Outcome, outcome};
use crate::endpoint::retrieve::adopts;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::model::body::{RequestBody, UploadState};
use crate::model::generation::{Generation, GenerationId};
use crate::model::request::attempt_id;
use crate::operation::Operation;
use crate::random::random;

/// Observes the attempts of a create, to record them.
pub(crate) trait CreateObserver {
    /// The client request id of the next attempt.
    fn client_request_id(&mut self) -> String;

    /// The attempt is about to be committed; an error prevents that.
    fn before_commit(&mut self, _client_request_id: &str) -> Result<()> {
        Ok(())
    }

    /// The attempt was committed and certainly not accepted. Its response may name a generation.
    fn rejected(&mut self, _error: &Error) -> Result<()> {
        Ok(())
    }

    /// The attempt was committed and its response is unusable, although it may name a generation.
    fn indeterminate(&mut self, _error: &Error) {}

    /// The attempt was accepted. Cannot fail: a generation that is paid for must be fetched.
    fn accepted(&mut self, _generation: &Generation) {}
}

/// Generates a client request id for one attempt, starting with the caller's id if there is one.
pub(crate) fn generate_client_request_id(caller_id: Option<&str>) -> String {
    caller_id.map_or_else(|| format!("kling-video-{:016x}{:016x}", random(), random()), attempt_id)
}

/// How many creates a client, its clones and its views may commit.
#[derive(Debug)]
pub(crate) struct CreateQuota {
    limit: Option<u32>,
    used: Mutex<u32>,
}

impl CreateQuota {
    pub(crate) fn new(limit: Option<u32>) -> Self {
        Self { limit, used: Mutex::new(0) }
    }

    fn acquire(&self) -> Result<Reservation<'_>> {
        let mut used = self.used();
        match self.limit {
            Some(limit) if *used >= limit => return Err(Error::generation_limit(limit)),
            _ => *used = used.saturating_add(1),
        }
        Ok(Reservation { quota: self, spent: false })
    }

    fn used(&self) -> MutexGuard<'_, u32> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One create of the quota, returned to it on drop unless spent.
struct Reservation<'a> {
    quota: &'a CreateQuota,
    spent: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.spent {
            let mut used = self.quota.used();
            *used = used.saturating_sub(1);
        }
    }
}

/// Sends a create until it is accepted, rejected for good, or its outcome is unknown.
pub(crate) fn submit(
    context: &RequestContext<'_>,
    body: RequestBody,
    quota: &CreateQuota,
    observer: &mut dyn CreateObserver,
) -> Result<Generation> {
    let mut named = None;
    submit_attempts(context, body, quota, observer, &mut named).map_err(|error| match named {
        // An unknown outcome is that of an attempt of its own, which the earlier id would hide.
        Some(id) if error.generation_id().is_none() && error.kind() != ErrorKind::CreateUnknown => {
            error.with_id(&id)
        }
        _ => error,
    })
}

/// `named` is set to the last id that the response to a rejected attempt named.
fn submit_attempts(
    context: &RequestContext<'_>,
    mut body: RequestBody,
    quota: &CreateQuota,
    observer: &mut dyn CreateObserver,
    named: &mut Option<GenerationId>,
) -> Result<Generation> {
    let mut reservation = quota.acquire()?;
    let retry_policy = context.retry_policy.for_create();
    let mut attempts = 0;
    // Whether to send `Expect: 100-continue`, once an upload has been interrupted.
    let mut expectation = None;
    let mut ever_committed = false;
    loop {
        attempts += 1;
        let request_id = observer.client_request_id();
        let with_context =
            |error: Error| error.with_client_request_id(&request_id).with_attempts(attempts);
        let cancelled = || with_context(Error::cancelled(Operation::Create)).not_created();
        if context.is_cancelled() {
            return Err(cancelled());
        }
        let expects = expectation == Some(true);
        let (outcome, state) = attempt(context, &mut body, &request_id, expects, observer)
            .map_err(|error| with_context(error).not_created())?;
        let committed = matches!(state, UploadState::Committed | UploadState::Cut);
        ever_committed |= committed;
        let (error, retryable) = match outcome {
            Outcome::Accepted(generation) => {
                reservation.spent = true;
                return Ok(accepted(context, observer, &request_id, *generation));
            }
            Outcome::Indeterminate(error) => {
                reservation.spent = true;
                let error = with_context(error);
                observer.indeterminate(&error);
                return Err(error);
            }
            Outcome::Rejected { error, retryable } => {
                (with_context(error).not_created(), retryable)
            }
        };
        if let Some(id) = error.generation_id() {
            *named = Some(id.clone());
        }
        if committed {
            observer.rejected(&error)?;
        }
        let error = if ever_committed { error.not_idempotent() } else { error };
        let id = error.generation_id().cloned();
        if let Some(changed) = change_expectation(expectation, &error, state) {
            expectation = Some(changed);
        } else {
            // The server may not support `Expect`.
            let may_help = error.kind() != ErrorKind::Timeout || state != UploadState::NotStarted;
            expectation = expectation.map(|expects| expects && may_help);
            let delay = retryable.then(|| retry_policy.next_delay(attempts, &error, random()));
            let Some(delay) = delay.flatten() else { return Err(error) };
            let operation = Operation::Create;
            let kind = EventKind::Retrying { operation, attempt: attempts, delay, error: &error };
            context.emit_create(None, &request_id, kind);
            if !context.sleep(delay) {
                return Err(cancelled());
            }
        }
        // Retrieved once before the next attempt. Any other response changes nothing.
        let generation = id.as_ref().and_then(|id| context.retrieve_once(id).ok());
        if let Some(generation) = generation.filter(adopts) {
            reservation.spent = true;
            return Ok(accepted(context, observer, &request_id, generation));
        }
    }
}

/// Whether to repeat the attempt at once, with or without `Expect: 100-continue`. Each happens once
/// at most, or a server that interrupts uploads and rejects expectations would never be given up.
fn change_expectation(
    expectation: Option<bool>,
    error: &Error,
    state: UploadState,
) -> Option<bool> {
    let is_interrupted = error.kind() == ErrorKind::Transport
        && matches!(state, UploadState::InProgress | UploadState::Cut);
    match expectation {
        // RFC 9110: repeat the request without the expectation.
        Some(true) if error.status() == Some(417) => Some(false),
        // The server has probably rejected the request, and its response was lost. With the
        // expectation, it is received before the body is sent. Only then: ureq waits for the idle
        // timeout if a server that rejects a request with an expectation, such as nginx, keeps the
        // connection open.
        None if is_interrupted => Some(true),
        _ => None,
    }
}

/// Reports the generation that the attempt created.
fn accepted(
    context: &RequestContext<'_>,
    observer: &mut dyn CreateObserver,
    request_id: &str,
    generation: Generation,
) -> Generation {
    observer.accepted(&generation);
    let kind = EventKind::Created { generation: &generation };
    context.emit_create(Some(&generation.id), request_id, kind);
    generation
}

/// Sends one attempt. An error means that this side aborted the body before the commit.
fn attempt(
    context: &RequestContext<'_>,
    body: &mut RequestBody,
    request_id: &str,
    expect_continue: bool,
    observer: &mut dyn CreateObserver,
) -> Result<(Outcome, UploadState)> {
    let cancel_registration = context.session.cancel_creates();
    let mut on_progress = |sent: u64, total: u64| {
        context.emit_create(None, request_id, EventKind::Uploading { sent, total });
        if sent < total {
            return Ok(());
        }
        // The commit point. Unregistered first, so that what is recorded as being sent is sent, even
        // if the token is cancelled now.
        if !cancel_registration.as_ref().is_none_or(CancelRegistration::unregister) {
            return Err(Error::cancelled(Operation::Create));
        }
        observer.before_commit(request_id)
    };
    let mut reader = body.reader(&mut on_progress)?;
    let path = context.route.path();
    let response = context.session.post(path, request_id, &mut reader, expect_continue);
    match reader.error.take() {
        Some(error) => Err(error),
        None => Ok((outcome(response, reader.state()), reader.state())),
    }
}
