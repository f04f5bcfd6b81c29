//! Finds out whether a create was accepted whose outcome the record does not know.

use crate::context::TimeLimit;
use crate::endpoint::logs::Match;
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::model::generation::{Generation, GenerationId};

use super::journal::{JournalEntry, now};
use super::next::RejectedId;
use super::proof::{Proof, judge_logged_failure, judge_rejection};
use super::record::Record;
use super::{DurableRun, OPERATION};

impl DurableRun<'_> {
    /// Asks once about every id that a rejected create named. One that is a generation is adopted;
    /// what cannot be known prevents another create.
    pub(super) fn adopt(&self, rejected: &[RejectedId]) -> Result<Option<GenerationId>> {
        for RejectedId { id, marked, time } in rejected {
            let retrieved = self.ask(id)?;
            match judge_rejection(&retrieved, *marked, now().saturating_sub(*time)) {
                Proof::Exists => return Ok(Some(id.clone())),
                Proof::Gone => {}
                Proof::Unknown => {
                    let message = "a rejected create named this generation, whose state cannot be \
                                   known; try again later";
                    let unknown = Error::decode(OPERATION, message);
                    return Err(retrieved.err().unwrap_or(unknown).with_id(id).may_be_billed());
                }
            }
        }
        Ok(None)
    }

    /// Finds the generation of a create whose response was lost: by the id that the response may
    /// have named, or in the request log. Records what it proves.
    pub(super) fn recover(
        &self,
        record: &mut Record<'_>,
        client_request_id: &str,
        named: Option<GenerationId>,
        time: u64,
    ) -> Result<()> {
        let limit = TimeLimit::new(self.context.wait_options.timeout);
        let id = match named {
            Some(id) if self.ask(&id)?.is_ok() => id,
            _ => self.find_in_log(record, client_request_id, time, &limit)?,
        };
        record.append(JournalEntry::Created { id: id.clone() })?;
        self.context.emit_with(Some(&id), Some(client_request_id), EventKind::Recovered);
        Ok(())
    }

    fn find_in_log(
        &self,
        record: &mut Record<'_>,
        client_request_id: &str,
        time: u64,
        limit: &TimeLimit,
    ) -> Result<GenerationId> {
        let name = record.name();
        let unknown = |message| Error::create_unknown(Error::journal(&name, message));
        let days = days_since(time, now());
        let Some(found) = self.context.find(client_request_id, false, days, Some(limit))? else {
            let message = "the last create received no response, and the API's log does not list \
                           it (yet)";
            return Err(unknown(message));
        };
        if found.quality != Match::Failed {
            return Ok(found.id);
        }
        // By the server's clock or by this one, whichever is less.
        let age = now().saturating_sub(found.created.unwrap_or(u64::MAX).max(time));
        match judge_logged_failure(&self.ask(&found.id)?, age) {
            Proof::Exists => Ok(found.id),
            Proof::Unknown => {
                let message = "the API's log lists the last create as failed, which the \
                               generation itself does not confirm (yet)";
                Err(unknown(message).with_id(&found.id))
            }
            Proof::Gone => {
                let reason = "the API's log and the generation itself say so".to_owned();
                let id = found.id.clone();
                record.append(JournalEntry::Failed { id, reason: reason.clone() })?;
                let error = Error::generation_failed(OPERATION, reason, false).with_id(&found.id);
                Err(error.with_client_request_id(client_request_id))
            }
        }
    }

    /// What the API says about a generation, unless the call is cancelled.
    fn ask(&self, id: &GenerationId) -> Result<Result<Generation>> {
        match self.context.retrieve(id) {
            Err(error) if error.kind() == ErrorKind::Cancelled => Err(error),
            retrieved => Ok(retrieved),
        }
    }
}

/// How many days of the log to search for a create that was sent then, with one to spare; all of
/// them if the clock was set back since.
fn days_since(time: u64, now: u64) -> u64 {
    match now.checked_sub(time) {
        Some(age) => age.div_ceil(86_400).saturating_add(1),
        None => u64::MAX,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_period_covers_the_run_even_if_the_clock_was_set_back() {
        const DAY: u64 = 86_400;
        for (time, now, days) in
            [(0, 0, 1), (0, 1, 2), (0, 2 * DAY, 3), (DAY, 3 * DAY + 1, 4), (1, 0, u64::MAX)]
        {
            assert_eq!(days_since(time, now), days, "{time} {now}");
        }
    }
}
