//! A create on its way: attempts, commit point, and what is kept on record of them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::body::{Body, Hooks, Progress};
use crate::call::Call;
use crate::endpoint::create::{Outcome, outcome};
use crate::error::{Error, ErrorKind, Result};
use crate::event::Event;
use crate::generation::Generation;
use crate::random::random;
use crate::transport::{ASK_FIRST, CreateInterrupt};

/// Who keeps a record of a create while it happens.
pub(crate) trait Ledger {
    /// The client request id of the next attempt.
    fn client_request_id(&mut self) -> String;

    /// The attempt is about to be committed; an error keeps it from that.
    fn sending(&mut self, _client_request_id: &str) -> Result<()> {
        Ok(())
    }

    /// The attempt was committed but certainly not accepted.
    fn refused(&mut self, _why: &Error) -> Result<()> {
        Ok(())
    }

    /// The attempt was committed and its answer cannot be read, which may yet name a generation.
    fn unknown(&mut self, _error: &Error) {}

    /// The attempt was accepted. Nothing may stop a run from here on.
    fn created(&mut self, _generation: &Generation) {}
}

/// A made-up client request id; an own one is its beginning.
pub(crate) fn make_client_request_id(own: Option<&str>) -> String {
    // The API takes at most 128 characters.
    const MOST_OF_OWN: usize = 128 - 1 - 16;
    match own {
        // Checked before: it is ASCII.
        Some(own) => format!("{}-{:016x}", own.get(..MOST_OF_OWN).unwrap_or(own), random()),
        None => format!("kling-video-{:016x}{:016x}", random(), random()),
    }
}

/// How many creates a client and its clones may commit.
#[derive(Debug)]
pub(crate) struct Budget {
    limit: Option<u32>,
    used: Mutex<u32>,
}

impl Budget {
    pub(crate) fn new(limit: Option<u32>) -> Self {
        Self { limit, used: Mutex::new(0) }
    }

    fn reserve(&self) -> Result<Reservation<'_>> {
        let mut used = self.used();
        match self.limit {
            Some(limit) if *used >= limit => return Err(Error::create_limit(limit)),
            _ => *used = used.saturating_add(1),
        }
        Ok(Reservation { budget: self, spent: false })
    }

    fn used(&self) -> MutexGuard<'_, u32> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One create of a budget, given back unless it was spent.
struct Reservation<'a> {
    budget: &'a Budget,
    spent: bool,
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        if !self.spent {
            let mut used = self.budget.used();
            *used = used.saturating_sub(1);
        }
    }
}

/// Sends a create until it is accepted, certainly refused for good, or unknown.
pub(crate) fn submit(
    call: &Call<'_>,
    mut body: Body,
    budget: &Budget,
    ledger: &mut dyn Ledger,
) -> Result<Generation> {
    let mut reservation = budget.reserve()?;
    let retry = call.retry.for_create();
    let mut attempts = 0;
    let mut ask_first = body.len() > ASK_FIRST;
    let mut ever_committed = false;
    loop {
        attempts += 1;
        let id = ledger.client_request_id();
        let dress = |error: Error| error.with_client_request_id(&id).with_attempts(attempts);
        if call.is_cancelled() {
            return Err(dress(Error::cancelled("create")));
        }
        let (outcome, progress) =
            attempt(call, &mut body, &id, ask_first, ledger).map_err(dress)?;
        let committed = progress == Progress::Committed;
        ever_committed |= committed;
        let (error, try_again) = match outcome {
            Outcome::Accepted(generation) => {
                reservation.spent = true;
                ledger.created(&generation);
                call.report(&Event::Created { generation: &generation });
                return Ok(*generation);
            }
            Outcome::Unknown(error) => {
                reservation.spent = true;
                let error = dress(error);
                ledger.unknown(&error);
                return Err(error);
            }
            Outcome::Refused { error, try_again } => (dress(error), try_again),
        };
        if committed {
            ledger.refused(&error)?;
        }
        let error = if ever_committed { error.paid() } else { error };
        if ask_first && error.status() == Some(417) {
            // HTTP has such a server asked again without an expectation, at once.
            ask_first = false;
            continue;
        }
        if error.kind() == ErrorKind::Timeout && progress == Progress::NotBegun {
            // It may be the question that was not understood.
            ask_first = false;
        }
        let again = try_again.then(|| retry.delay(attempts, &error, random())).flatten();
        let Some(after) = again else { return Err(error) };
        call.report(&Event::Retrying {
            operation: "create",
            id: None,
            client_request_id: Some(&id),
            attempt: attempts,
            after,
            error: &error,
        });
        if !call.sleep(after) {
            return Err(dress(Error::cancelled("create")));
        }
    }
}

/// Sends it once. An error is this side's own: the body was stopped and nothing was committed.
fn attempt(
    call: &Call<'_>,
    body: &mut Body,
    client_request_id: &str,
    ask_first: bool,
    ledger: &mut dyn Ledger,
) -> Result<(Outcome, Progress)> {
    let interrupt = call.session.interrupt_create();
    let mut gate = Gate { call, interrupt: &interrupt, client_request_id, ledger };
    let mut reader = body.reader(&mut gate)?;
    let answer = call.session.post(call.route.path(), client_request_id, &mut reader, ask_first);
    match reader.take_stop() {
        Some(stop) => Err(stop),
        None => Ok((outcome(answer, reader.progress()), reader.progress())),
    }
}

/// What stands between a body and its commit point.
struct Gate<'a> {
    call: &'a Call<'a>,
    interrupt: &'a CreateInterrupt,
    client_request_id: &'a str,
    ledger: &'a mut dyn Ledger,
}

impl Hooks for Gate<'_> {
    fn sending(&mut self, sent: u64, total: u64) {
        let client_request_id = self.client_request_id;
        self.call.report(&Event::Uploading { client_request_id, sent, total });
    }

    fn before_commit(&mut self) -> Result<()> {
        // First, so that what is on record as being sent is sent, whatever happens to the token.
        if !self.interrupt.disarm() {
            return Err(Error::cancelled("create"));
        }
        self.ledger.sending(self.client_request_id)
    }
}
