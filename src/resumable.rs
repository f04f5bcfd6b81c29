//! `generate_to`: a run that can be killed anywhere and started again, and pays once.
//!
//! The journal's last line says how far the run came; each state has one way on.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::body::Body;
use crate::call::Call;
use crate::download::download;
use crate::error::{Error, ErrorKind, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::{Generation, GenerationId};
use crate::journal::{self, Journal, Step};
use crate::part::check_target;
use crate::poll::WaitOptions;
use crate::request::ImageToVideo;
use crate::submit::{Budget, Ledger, make_client_request_id, submit};

/// What [`Client::generate_to`](crate::Client::generate_to) has brought.
///
/// ```no_run
/// # use kling_video::{Client, Error, ImageToVideo};
/// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
/// let saved = client.generate_to(&request, "cat.mp4")?;
/// println!("{} bytes in {}, paid for as {}", saved.bytes, saved.path.display(), saved.id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Saved {
    /// Where the video is.
    pub path: PathBuf,
    /// How many bytes it has.
    pub bytes: u64,
    /// The generation it came from.
    pub id: GenerationId,
    /// Whether it was there already, whole, so that nothing was asked of the API.
    pub reused: bool,
}

/// What a run needs besides its [`Call`].
pub(crate) struct Run<'a> {
    pub(crate) call: &'a Call<'a>,
    pub(crate) request: &'a ImageToVideo,
    pub(crate) target: &'a Path,
    pub(crate) options: &'a WaitOptions,
    pub(crate) budget: &'a Budget,
    /// The address that creates go to.
    pub(crate) address: &'a str,
}

/// How a run goes on.
enum Next {
    Done { id: GenerationId, bytes: u64 },
    Fetch(GenerationId),
    LookUp { client_request_id: String, id: Option<GenerationId>, days: u64 },
    Create,
}

impl Run<'_> {
    pub(crate) fn run(&self) -> Result<Saved> {
        // What this run paid for is on record, so that the same call can always be made again.
        self.run_locked().map_err(Error::resumable)
    }

    fn run_locked(&self) -> Result<Saved> {
        let fingerprint = Fingerprint::of(self.request, self.address)?;
        let path = journal::path_for(self.target);
        check_target(self.target).map_err(|error| error.during("generate_to"))?;
        // Asked before a journal is made, so that what cannot be done leaves nothing behind.
        if !path.exists() {
            self.check_not_there(&path)?;
            self.request.validate()?;
        }
        let mut journal = self.open_journal(path)?;
        if journal.steps().is_empty() {
            self.check_not_there(journal.path())?;
        }
        let next = self.next(&journal, &fingerprint)?;
        match next {
            Next::Done { id, bytes } => Ok(self.saved(id, bytes, true)),
            Next::Fetch(id) => self.fetch(&mut journal, &id, Duration::ZERO, None),
            Next::LookUp { client_request_id, id, days } => {
                self.look_up(&mut journal, &client_request_id, id.as_ref(), days)
            }
            Next::Create => self.create(&mut journal, fingerprint),
        }
    }

    fn check_not_there(&self, journal: &Path) -> Result<()> {
        match self.target.symlink_metadata() {
            Ok(_) => Err(Error::journal(
                journal,
                format!(
                    "is missing although {} exists: move that away, so that it is not overwritten",
                    self.target.display()
                ),
            )),
            Err(_) => Ok(()),
        }
    }

    /// Waits for another process on the same target, as long as for a generation.
    fn open_journal(&self, path: PathBuf) -> Result<Journal> {
        let begun = Instant::now();
        let shown = path.clone();
        Journal::open(path, |pause| {
            let left = self.options.timeout.saturating_sub(begun.elapsed());
            if left.is_zero() {
                let busy = Error::journal(&shown, "is in use by another process");
                let late = Error::wait_timeout(begun.elapsed(), None, Some(busy));
                return Err(late.during("generate_to"));
            }
            match self.call.sleep(pause.min(left)) {
                true => Ok(()),
                false => Err(Error::cancelled("generate_to")),
            }
        })
    }

    fn next(&self, journal: &Journal, fingerprint: &Fingerprint) -> Result<Next> {
        let steps = journal.steps();
        let begun = steps.iter().rev().find_map(|step| match step {
            Step::Intent { fingerprint, at } => Some((fingerprint, *at)),
            _ => None,
        });
        let (Some((theirs, at)), Some(last)) = (begun, steps.last()) else {
            return match steps {
                [] => Ok(Next::Create),
                _ => Err(Error::journal(journal.path(), "does not begin with a run's intent")),
            };
        };
        let same = fingerprint.is_same(theirs);
        match last {
            Step::Created { id } if same => Ok(Next::Fetch(id.clone())),
            Step::Created { id } => {
                let unfinished = format!(
                    "belongs to another request, whose generation `{id}` is not fetched yet: \
                     finish that, or delete the file to abandon it"
                );
                Err(Error::journal(journal.path(), unfinished).with_id(id))
            }
            Step::Sending { client_request_id, id, .. } if same => {
                let days = days_back_to(at, journal::now());
                let client_request_id = client_request_id.clone();
                Ok(Next::LookUp { client_request_id, id: id.clone(), days })
            }
            Step::Sending { client_request_id, .. } => {
                let unfinished = format!(
                    "belongs to another request, whose create `{client_request_id}` may have been \
                     accepted: finish that, or delete the file to abandon it"
                );
                Err(Error::journal(journal.path(), unfinished)
                    .with_client_request_id(client_request_id))
            }
            Step::Saved { id, bytes } if same => match self.target.metadata() {
                Ok(there) if there.is_file() && there.len() == *bytes => {
                    Ok(Next::Done { id: id.clone(), bytes: *bytes })
                }
                _ => Ok(Next::Fetch(id.clone())),
            },
            Step::Intent { .. }
            | Step::Refused { .. }
            | Step::Failed { .. }
            | Step::Saved { .. } => Ok(Next::Create),
        }
    }

    fn create(&self, journal: &mut Journal, fingerprint: Fingerprint) -> Result<Saved> {
        // Checked before anything is written down or sent.
        let mut body = Body::new(self.request.check()?);
        let fingerprint = match body.picture() {
            // Of the very file that is sent, in case another was put in its place meanwhile.
            Some(picture) => fingerprint.with_picture(picture)?,
            None => fingerprint,
        };
        journal.append(Step::Intent { fingerprint, at: journal::now() })?;
        let mut ledger =
            JournalLedger { journal, own: self.request.own_client_request_id(), unrecorded: None };
        let generation = submit(self.call, body, self.budget, &mut ledger)?;
        let unrecorded = ledger.unrecorded;
        self.fetch(journal, &generation.id, self.options.first_poll_after, unrecorded)
    }

    /// Finds the generation of a create whose answer was lost: in the log, which may not list it
    /// yet, or else by the id that the answer may have named.
    fn look_up(
        &self,
        journal: &mut Journal,
        client_request_id: &str,
        id: Option<&GenerationId>,
        days: u64,
    ) -> Result<Saved> {
        let dress = |error: Error| error.with_client_request_id(client_request_id);
        let named = || id.filter(|id| self.call.retrieve(id).is_ok()).cloned();
        let found = self.call.find(client_request_id, days).map_err(dress)?;
        match found.or_else(|| Some((named()?, true))) {
            Some((id, true)) => {
                journal.append(Step::Created { id: id.clone() }).map_err(|e| e.with_id(&id))?;
                self.fetch(journal, &id, Duration::ZERO, None)
            }
            Some((id, false)) => {
                let why = "the API's log has it as failed".to_owned();
                journal.append(Step::Failed { id: id.clone(), why: why.clone() })?;
                Err(dress(Error::generation_failed("generate_to", why).with_id(&id)))
            }
            None => {
                let unlisted = Error::journal(
                    journal.path(),
                    "ends with a create whose answer never came, and the API's log does not list \
                     it (yet): run again later, or delete the file to pay for a new one",
                );
                let unknown = dress(Error::create_unknown(unlisted));
                Err(match id {
                    Some(id) => unknown.with_id(id),
                    None => unknown,
                })
            }
        }
    }

    /// Waits for the generation and downloads its video. `unrecorded` is why its id is not in the
    /// journal, if it is not: that does not stop a run that has paid.
    fn fetch(
        &self,
        journal: &mut Journal,
        id: &GenerationId,
        first_poll_after: Duration,
        unrecorded: Option<Error>,
    ) -> Result<Saved> {
        let fetched = self.fetch_video(journal, id, first_poll_after);
        match (fetched, unrecorded) {
            (Ok(saved), _) => Ok(saved),
            (Err(error), None) => Err(error),
            // Both went wrong: what would make the next run look the create up comes first.
            (Err(error), Some(unrecorded)) => Err(match error.kind() {
                ErrorKind::GenerationFailed => error,
                _ => unrecorded.with_id(id),
            }),
        }
    }

    fn fetch_video(
        &self,
        journal: &mut Journal,
        id: &GenerationId,
        first_poll_after: Duration,
    ) -> Result<Saved> {
        let options = self.options.clone().first_poll_after(first_poll_after);
        let video = match self.call.wait(id, &options) {
            Ok(video) => video,
            Err(error) if error.kind() == ErrorKind::GenerationFailed => {
                let why = error.api_message().unwrap_or_default().to_owned();
                journal.append(Step::Failed { id: id.clone(), why }).map_err(|e| e.with_id(id))?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let bytes = download(self.call, &video, self.target)?;
        journal.append(Step::Saved { id: id.clone(), bytes }).map_err(|e| e.with_id(id))?;
        Ok(self.saved(id.clone(), bytes, false))
    }

    fn saved(&self, id: GenerationId, bytes: u64, reused: bool) -> Saved {
        Saved { path: self.target.to_owned(), bytes, id, reused }
    }
}

/// How many days of the log a run that was begun then may be found in, and one more; all of them
/// where the clock was set back since.
fn days_back_to(begun: u64, now: u64) -> u64 {
    match now.checked_sub(begun) {
        Some(age) => age.div_ceil(86_400).saturating_add(1),
        None => u64::MAX,
    }
}

/// Writes a create down while it happens.
struct JournalLedger<'a> {
    journal: &'a mut Journal,
    own: Option<&'a str>,
    unrecorded: Option<Error>,
}

impl Ledger for JournalLedger<'_> {
    /// Each attempt has its own, so that the log tells them apart.
    fn client_request_id(&mut self) -> String {
        make_client_request_id(self.own)
    }

    fn sending(&mut self, client_request_id: &str) -> Result<()> {
        let client_request_id = client_request_id.to_owned();
        self.journal.append(Step::Sending { client_request_id, at: journal::now(), id: None })
    }

    fn unknown(&mut self, error: &Error) {
        if let (Some(request), Some(id)) = (error.client_request_id(), error.generation_id()) {
            // The error carries the id as well: one that cannot be written down is not lost.
            let _ = self.journal.append(Step::Sending {
                client_request_id: request.to_owned(),
                at: journal::now(),
                id: Some(id.clone()),
            });
        }
    }

    fn refused(&mut self, why: &Error) -> Result<()> {
        self.journal.append(Step::Refused { why: why.to_string() })
    }

    fn created(&mut self, generation: &Generation) {
        self.unrecorded = self.journal.append(Step::Created { id: generation.id.clone() }).err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_is_read_back_to_the_runs_beginning_whatever_the_clock_does() {
        const DAY: u64 = 86_400;
        for (begun, now, days) in
            [(0, 0, 1), (0, 1, 2), (0, 2 * DAY, 3), (DAY, 3 * DAY + 1, 4), (1, 0, u64::MAX)]
        {
            assert_eq!(days_back_to(begun, now), days, "{begun} {now}");
        }
    }
}
