//! `generate_to`: a durable run, which may be killed anywhere, continues when it is called again,
//! and pays once.
//!
//! The journal's last entry says how far the run got; every state has one next action.

mod fingerprint;
pub(crate) mod journal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::context::RequestContext;
use crate::create::{CreateObserver, CreateQuota, generate_client_request_id, submit};
use crate::download::{download, validate_target};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::hash::hash_reader;
use crate::model::body::RequestBody;
use crate::model::generation::{Generation, GenerationId};
use crate::model::request::ImageToVideo;
use crate::operation::Operation;
use crate::wait_options::WaitOptions;

use self::fingerprint::Fingerprint;
use self::journal::{Entry, Journal};

/// A video in a file, the result of [`Client::generate_to`](crate::Client::generate_to).
///
/// ```no_run
/// # use kling_video::{Client, Error, ImageToVideo};
/// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
/// let saved = client.generate_to(&request, "cat.mp4")?;
/// println!("{} bytes in {}, generation {}", saved.bytes, saved.path.display(), saved.id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SavedVideo {
    /// The path of the file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The generation that the video belongs to.
    pub id: GenerationId,
    /// Whether the file was already complete, so that no request was made.
    pub reused: bool,
}

/// One call of `generate_to`.
pub(crate) struct ResumableRun<'a> {
    pub(crate) context: &'a RequestContext<'a>,
    pub(crate) request: &'a ImageToVideo,
    pub(crate) target: &'a Path,
    pub(crate) options: &'a WaitOptions,
    pub(crate) quota: &'a CreateQuota,
    /// The URL that creates are sent to.
    pub(crate) endpoint_url: &'a str,
}

enum NextAction {
    Reuse { id: GenerationId, bytes: u64 },
    Fetch(GenerationId),
    Recover { client_request_id: String, id: Option<GenerationId>, days: u64 },
    Create,
}

impl ResumableRun<'_> {
    pub(crate) fn run(&self) -> Result<SavedVideo> {
        // Opened once: what is hashed is what is sent. The image may be missing when a run only
        // has to fetch its video, so an error matters only if something is to be created.
        let opened = self.open_request();
        let image = opened.as_ref().ok().and_then(|(_, image)| image.clone());
        let fingerprint = Fingerprint::new(self.request, image, self.endpoint_url)?;
        let path = journal::path_for(self.target);
        validate_target(self.target)
            .map_err(|error| error.with_operation(Operation::GenerateTo))?;
        // Checked before a journal is created, so that an invalid call leaves no file behind.
        let is_new = !path.exists();
        if is_new {
            self.ensure_target_absent(&path)?;
        }
        let opened = if is_new { Ok(opened?) } else { opened };
        let mut journal = self.open_journal(path)?;
        if journal.entries().is_empty() {
            self.ensure_target_absent(journal.path())?;
        }
        match self.next_action(&journal, &fingerprint)? {
            NextAction::Reuse { id, bytes } => {
                self.context.emit(&id, EventKind::Reused);
                Ok(self.saved(id, bytes, true))
            }
            NextAction::Fetch(id) => self.fetch(&mut journal, &id, Duration::ZERO, None),
            NextAction::Recover { client_request_id, id, days } => {
                self.recover(&mut journal, &client_request_id, id.as_ref(), days)
            }
            NextAction::Create => self.create(&mut journal, opened?.0, fingerprint),
        }
    }

    /// The request's body, and the hash of its image.
    fn open_request(&self) -> Result<(RequestBody, Option<String>)> {
        let mut body = RequestBody::new(self.request)?;
        let hash = match body.image() {
            Some(image) => Some(hash_reader(image).map_err(|e| {
                let path = Some(image.display_name().into());
                Error::io(Operation::GenerateTo, path, "failed to read the image", e)
            })?),
            None => None,
        };
        Ok((body, hash))
    }

    fn ensure_target_absent(&self, journal: &Path) -> Result<()> {
        match self.target.symlink_metadata() {
            Ok(_) => {
                let target = self.target.display();
                let message =
                    format!("missing but {target} exists; move that file to avoid overwriting it");
                Err(Error::journal(journal, message))
            }
            Err(_) => Ok(()),
        }
    }

    /// Waits for another process with the same target, as long as for a generation.
    fn open_journal(&self, path: PathBuf) -> Result<Journal> {
        let started = Instant::now();
        let journal_path = path.clone();
        Journal::open(path, |delay| {
            let remaining = self.options.timeout.saturating_sub(started.elapsed());
            if remaining.is_zero() {
                let busy = Error::journal(&journal_path, "in use by another process");
                let timed_out = Error::wait_timeout(started.elapsed(), None, Some(busy));
                return Err(timed_out.with_operation(Operation::GenerateTo));
            }
            match self.context.sleep(delay.min(remaining)) {
                true => Ok(()),
                false => Err(Error::cancelled(Operation::GenerateTo)),
            }
        })
    }

    fn next_action(&self, journal: &Journal, fingerprint: &Fingerprint) -> Result<NextAction> {
        let entries = journal.entries();
        let intent = entries.iter().rev().find_map(|entry| match entry {
            Entry::Intent { fingerprint, at } => Some((fingerprint, *at)),
            _ => None,
        });
        let (Some((recorded, started_at)), Some(last)) = (intent, entries.last()) else {
            return match entries {
                [] => Ok(NextAction::Create),
                _ => Err(Error::journal(journal.path(), "first entry is not `intent`")),
            };
        };
        let matches = fingerprint.matches(recorded);
        match last {
            Entry::Created { id } if matches => Ok(NextAction::Fetch(id.clone())),
            Entry::Created { id } => {
                let message = format!(
                    "belongs to another request, whose generation `{id}` is not fetched yet; \
                     complete that run, or delete the file to abandon it"
                );
                Err(Error::journal(journal.path(), message).with_id(id))
            }
            Entry::Sending { client_request_id, id, .. } if matches => {
                let days = days_since(started_at, journal::now());
                let client_request_id = client_request_id.clone();
                Ok(NextAction::Recover { client_request_id, id: id.clone(), days })
            }
            Entry::Sending { client_request_id, .. } => {
                let message = format!(
                    "belongs to another request, whose create `{client_request_id}` may have been \
                     accepted; complete that run, or delete the file to abandon it"
                );
                Err(Error::journal(journal.path(), message)
                    .with_client_request_id(client_request_id))
            }
            Entry::Saved { id, bytes } if matches => match self.target.metadata() {
                Ok(file) if file.is_file() && file.len() == *bytes => {
                    Ok(NextAction::Reuse { id: id.clone(), bytes: *bytes })
                }
                _ => Ok(NextAction::Fetch(id.clone())),
            },
            Entry::Intent { .. }
            | Entry::Rejected { .. }
            | Entry::Failed { .. }
            | Entry::Saved { .. } => Ok(NextAction::Create),
        }
    }

    fn create(
        &self,
        journal: &mut Journal,
        body: RequestBody,
        fingerprint: Fingerprint,
    ) -> Result<SavedVideo> {
        journal.append(Entry::Intent { fingerprint, at: journal::now() })?;
        let prefix = self.request.caller_request_id();
        let mut recorder = JournalRecorder { journal, prefix, journal_error: None };
        let generation = submit(self.context, body, self.quota, &mut recorder)?;
        let journal_error = recorder.journal_error;
        self.fetch(journal, &generation.id, self.options.initial_delay, journal_error)
    }

    /// Finds the generation of a create whose response was lost: in the request log, which may not
    /// list it yet, or by the id that the response may have named.
    fn recover(
        &self,
        journal: &mut Journal,
        client_request_id: &str,
        id: Option<&GenerationId>,
        days: u64,
    ) -> Result<SavedVideo> {
        let with_context = |error: Error| error.with_client_request_id(client_request_id);
        let named = || id.filter(|id| self.context.retrieve(id).is_ok()).cloned();
        let found = self.context.find(client_request_id, days).map_err(with_context)?;
        match found.or_else(|| Some((named()?, true))) {
            Some((id, true)) => {
                journal.append(Entry::Created { id: id.clone() }).map_err(|e| e.with_id(&id))?;
                self.context.emit_create(Some(&id), client_request_id, EventKind::Recovered);
                self.fetch(journal, &id, Duration::ZERO, None)
            }
            Some((id, false)) => {
                let reason = "the API's log lists it as failed".to_owned();
                journal.append(Entry::Failed { id: id.clone(), reason: reason.clone() })?;
                let error = Error::generation_failed(Operation::GenerateTo, reason);
                Err(with_context(error.with_id(&id)))
            }
            None => {
                let message = "the last create received no response, and the API's log does not \
                               list it (yet)";
                let unlisted = Error::journal(journal.path(), message);
                let unknown = with_context(Error::create_unknown(unlisted));
                Err(match id {
                    Some(id) => unknown.with_id(id),
                    None => unknown,
                })
            }
        }
    }

    /// Waits for the generation and downloads its video. `journal_error` is set if its id could not
    /// be recorded, which must not stop a run that has paid.
    fn fetch(
        &self,
        journal: &mut Journal,
        id: &GenerationId,
        initial_delay: Duration,
        journal_error: Option<Error>,
    ) -> Result<SavedVideo> {
        let result = self.fetch_video(journal, id, initial_delay);
        match (result, journal_error) {
            (Ok(saved), _) => Ok(saved),
            (Err(error), None) => Err(error),
            // Both failed: the caller must learn first why the next run will not know the id.
            (Err(error), Some(journal_error)) => Err(match error.kind() {
                ErrorKind::GenerationFailed => error,
                _ => journal_error.with_id(id),
            }),
        }
    }

    fn fetch_video(
        &self,
        journal: &mut Journal,
        id: &GenerationId,
        initial_delay: Duration,
    ) -> Result<SavedVideo> {
        let options = self.options.clone().initial_delay(initial_delay);
        let video = match self.context.wait(id, &options) {
            Ok(video) => video,
            Err(error) if error.kind() == ErrorKind::GenerationFailed => {
                let reason = error.server_message().unwrap_or_default().to_owned();
                journal
                    .append(Entry::Failed { id: id.clone(), reason })
                    .map_err(|e| e.with_id(id))?;
                return Err(error);
            }
            Err(error) => return Err(error),
        };
        let bytes = download(self.context, &video, self.target)?;
        journal.append(Entry::Saved { id: id.clone(), bytes }).map_err(|e| e.with_id(id))?;
        self.context.emit(id, EventKind::Saved { bytes });
        Ok(self.saved(id.clone(), bytes, false))
    }

    fn saved(&self, id: GenerationId, bytes: u64, reused: bool) -> SavedVideo {
        SavedVideo { path: self.target.to_owned(), bytes, id, reused }
    }
}

/// How many days of the log to search for a run that was started then, with one to spare; all of
/// them if the clock was set back since.
fn days_since(started_at: u64, now: u64) -> u64 {
    match now.checked_sub(started_at) {
        Some(age) => age.div_ceil(86_400).saturating_add(1),
        None => u64::MAX,
    }
}

/// Records the attempts of a create in the journal.
struct JournalRecorder<'a> {
    journal: &'a mut Journal,
    prefix: Option<&'a str>,
    journal_error: Option<Error>,
}

impl CreateObserver for JournalRecorder<'_> {
    /// Every attempt has its own id, so that the log distinguishes them.
    fn client_request_id(&mut self) -> String {
        generate_client_request_id(self.prefix)
    }

    fn before_commit(&mut self, client_request_id: &str) -> Result<()> {
        let client_request_id = client_request_id.to_owned();
        self.journal.append(Entry::Sending { client_request_id, at: journal::now(), id: None })
    }

    fn indeterminate(&mut self, error: &Error) {
        if let (Some(request), Some(id)) = (error.client_request_id(), error.generation_id()) {
            // If this fails, the id is still in the error.
            let _ = self.journal.append(Entry::Sending {
                client_request_id: request.to_owned(),
                at: journal::now(),
                id: Some(id.clone()),
            });
        }
    }

    fn rejected(&mut self, error: &Error) -> Result<()> {
        self.journal.append(Entry::Rejected { reason: error.to_string() })
    }

    fn accepted(&mut self, generation: &Generation) {
        self.journal_error =
            self.journal.append(Entry::Created { id: generation.id.clone() }).err();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_period_covers_the_run_even_if_the_clock_was_set_back() {
        const DAY: u64 = 86_400;
        for (started_at, now, days) in
            [(0, 0, 1), (0, 1, 2), (0, 2 * DAY, 3), (DAY, 3 * DAY + 1, 4), (1, 0, u64::MAX)]
        {
            assert_eq!(days_since(started_at, now), days, "{started_at} {now}");
        }
    }
}
