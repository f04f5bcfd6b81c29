//! Sends a create: its attempts and its commit point.

use crate::cancel::CancelRegistration;
use crate::context::RequestContext;
use crate::endpoint::create::{Outcome, outcome};
use crate::endpoint::retrieve::adopts;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::model::body::{RequestBody, UploadState};
use crate::model::generation::{Generation, GenerationId};
use crate::model::request::{ImageToVideo, attempt_id};
use crate::operation::Operation;
use crate::random::random;

/// A step of an attempt that the caller may record. An error ends the create.
pub(crate) enum CreateStep<'a> {
    /// The attempt with this client request id is about to be committed, which an error prevents.
    /// Or, with an id: it was committed, and its unusable response named this generation.
    Sending(&'a str, Option<&'a GenerationId>),
    /// It was committed and certainly not accepted. Its response may name a generation.
    Rejected(&'a Error),
}

/// Generates a client request id for one attempt, starting with the caller's id if there is one.
pub(crate) fn generate_client_request_id(caller_id: Option<&str>) -> String {
    let unique = || u128::from(random()) << 64 | u128::from(random());
    caller_id.map_or_else(|| format!("kling-video-{:032x}", unique()), attempt_id)
}

/// Creates a generation. The first attempt has the caller's id, if there is one.
pub(crate) fn create(context: &RequestContext<'_>, request: &ImageToVideo) -> Result<Generation> {
    let body = request.body()?;
    let id = request.client_request_id.clone();
    let id = id.unwrap_or_else(|| generate_client_request_id(None));
    // Only retries append to it.
    let id_of = |attempt| if attempt == 1 { id.clone() } else { attempt_id(&id) };
    let (generation, sent) = submit(context, body, &id_of, &mut |_| Ok(()))?;
    let kind = EventKind::Created { generation: &generation };
    context.emit_with(Some(&generation.id), Some(&sent), kind);
    Ok(generation)
}

/// Sends a create until it is accepted, rejected for good, or its outcome is unknown. `id_of` makes
/// the client request id of the attempt with this number, from 1. Returns the generation, and that
/// id of the attempt that created it.
pub(crate) fn submit(
    context: &RequestContext<'_>,
    body: RequestBody,
    id_of: &dyn Fn(u32) -> String,
    on_step: &mut dyn FnMut(CreateStep<'_>) -> Result<()>,
) -> Result<(Generation, String)> {
    let mut named = None;
    let submitted = submit_attempts(context, body, id_of, on_step, &mut named);
    submitted.map_err(|error| match named {
        // An unknown outcome is that of an attempt of its own, which an earlier id would hide.
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
    id_of: &dyn Fn(u32) -> String,
    on_step: &mut dyn FnMut(CreateStep<'_>) -> Result<()>,
    named: &mut Option<GenerationId>,
) -> Result<(Generation, String)> {
    let reservation = context.client.quota.acquire()?;
    let retry_policy = context.client.retry_policy.for_create();
    let mut attempts = 0;
    // Whether to send `Expect: 100-continue`, once an upload has been interrupted.
    let mut expectation = None;
    let mut ever_committed = false;
    loop {
        attempts += 1;
        let request_id = id_of(attempts);
        let with_context =
            |error: Error| error.with_client_request_id(&*request_id).with_attempts(attempts);
        let not_created = |error| with_context(error).not_created();
        let cancelled = || not_created(Error::cancelled(Operation::Create));
        if context.is_cancelled() {
            return Err(cancelled());
        }
        let expects = expectation == Some(true);
        let (outcome, state) =
            attempt(context, &mut body, &request_id, expects, on_step).map_err(not_created)?;
        let (error, retryable) = match outcome {
            Outcome::Accepted(generation) => {
                reservation.spend();
                return Ok((*generation, request_id));
            }
            Outcome::Indeterminate(error) => {
                reservation.spend();
                if let Some(id) = error.generation_id() {
                    // If this fails, the id is still in the error.
                    let _ = on_step(CreateStep::Sending(&request_id, Some(id)));
                }
                return Err(with_context(error));
            }
            Outcome::Rejected { error, retryable } => (not_created(error), retryable),
        };
        if let Some(id) = error.generation_id() {
            *named = Some(id.clone());
        }
        if matches!(state, UploadState::Committed | UploadState::Cut) {
            ever_committed = true;
            on_step(CreateStep::Rejected(&error))?;
        }
        let error = if ever_committed { error.not_idempotent() } else { error };
        if let Some(changed) = change_expectation(expectation, &error, state) {
            expectation = Some(changed);
        } else {
            // The server may not support `Expect`.
            let may_help = error.kind() != ErrorKind::Timeout || state != UploadState::NotStarted;
            expectation = expectation.map(|expects| expects && may_help);
            let delay = retry_policy.next_delay(attempts, &error, random());
            let Some(delay) = delay.filter(|_| retryable) else { return Err(error) };
            let operation = Operation::Create;
            let kind = EventKind::Retrying { operation, attempt: attempts, delay, error: &error };
            context.emit_with(None, Some(&request_id), kind);
            if !context.sleep(delay) {
                return Err(cancelled());
            }
        }
        // Retrieved once before the next attempt. Any other response changes nothing.
        let generation = error.generation_id().and_then(|id| context.retrieve_once(id).ok());
        if let Some(generation) = generation.filter(adopts) {
            reservation.spend();
            return Ok((generation, request_id));
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

/// Sends one attempt. An error means that this side aborted the body before the commit.
fn attempt(
    context: &RequestContext<'_>,
    body: &mut RequestBody,
    request_id: &str,
    expect_continue: bool,
    on_step: &mut dyn FnMut(CreateStep<'_>) -> Result<()>,
) -> Result<(Outcome, UploadState)> {
    let (agent, cancel_registration) = context.session.create_agent();
    let mut on_progress = |sent: u64, total: u64| {
        context.emit_with(None, Some(request_id), EventKind::Uploading { sent, total });
        if sent < total {
            return Ok(());
        }
        // The commit point. Unregistered first, so that what is recorded as being sent is sent, even
        // if the token is cancelled now.
        if !cancel_registration.as_ref().is_none_or(CancelRegistration::unregister) {
            return Err(Error::cancelled(Operation::Create));
        }
        on_step(CreateStep::Sending(request_id, None))
    };
    let mut reader = body.reader(&mut on_progress)?;
    let path = context.client.route.path();
    let response = context.session.post(&agent, path, request_id, &mut reader, expect_continue);
    match reader.error.take() {
        Some(error) => Err(error),
        None => Ok((outcome(response, reader.state()), reader.state())),
    }
}
