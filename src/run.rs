//! `generate_to`: a durable run, which may be killed anywhere, continues when it is called again,
//! and pays once.
//!
//! [`next_action`] decides what happens next; this file carries it out. Each action records what it
//! has done, and the next one follows from the record.

mod entry;
mod fingerprint;
pub(crate) mod journal;
mod next;
mod proof;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::context::RequestContext;
use crate::create::{CreateObserver, CreateQuota, generate_client_request_id, submit};
use crate::download::{Replace, Target, download, probe_partial_file};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::hash::hash_reader;
use crate::model::body::RequestBody;
use crate::model::generation::{Generation, GenerationId, Usage, Video};
use crate::model::request::ImageToVideo;
use crate::operation::Operation;
use crate::poll::Known;
use crate::wait_options::WaitOptions;

use self::entry::Entry;
use self::fingerprint::Fingerprint;
use self::journal::{FileJournal, journal_path, now};
use self::next::{Action, Blocker, RejectedId, TargetState, next_action};
use self::proof::{Rejection, is_logged_failure_confirmed, judge_rejection};

const OPERATION: Operation = Operation::GenerateTo;

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
    /// The absolute path of the file.
    pub path: PathBuf,
    /// The size of the file in bytes.
    pub bytes: u64,
    /// The generation that the video belongs to.
    pub id: GenerationId,
    /// Whether the complete file was there already, so that no request was made.
    pub reused: bool,
}

/// One call of `generate_to`.
pub(crate) struct DurableRun<'a> {
    pub(crate) context: &'a RequestContext<'a>,
    pub(crate) request: &'a ImageToVideo,
    pub(crate) path: &'a Path,
    pub(crate) options: &'a WaitOptions,
    pub(crate) quota: &'a CreateQuota,
    pub(crate) base_url: &'a str,
    /// Whether a finished video may be replaced by one of another request.
    pub(crate) replace_videos: bool,
}

impl DurableRun<'_> {
    pub(crate) fn run(&self) -> Result<SavedVideo> {
        let target = Target::resolve(self.path, OPERATION)?;
        // Opened once: what is hashed is what is sent. The image may be missing when a run only
        // has to fetch its video, so an error matters only if something is to be created.
        let opened = self.open_request();
        let image = opened.as_ref().ok().and_then(|(_, image)| image.clone());
        let route = self.context.route.path();
        let fingerprint = Fingerprint::new(self.request, image, self.base_url, route)?;
        // Checked before a journal is created, so that an invalid call leaves no file behind.
        let is_new = !exists(&journal_path(&target))?;
        if is_new && target.file_len()?.is_some() {
            return Err(Error::journal(
                journal_path(&target),
                format!(
                    "missing but {} exists; move that file to avoid overwriting it",
                    target.path().display()
                ),
            ));
        }
        let mut body = if is_new { Some(Ok(opened?)) } else { Some(opened) };
        let mut journal = self.open_journal(journal_path(&target))?;
        let mut created = None;
        let mut journal_error = None;
        loop {
            let state = target_state(&target, journal.entries())?;
            match next_action(journal.entries(), &fingerprint, &state, self.replace_videos) {
                Action::Reuse { id, length } => {
                    self.context.emit(&id, EventKind::Reused);
                    return Ok(saved(&target, id, length, true));
                }
                Action::RecordSaved { id, length } => {
                    // Removes what the killed run may have left next to the video.
                    let _ = probe_partial_file(&target);
                    let usage = usage_of(journal.entries(), &id);
                    self.context.emit(&id, EventKind::Reused);
                    self.continue_request(&mut journal, &fingerprint, None)?;
                    journal.append(Entry::Saved { id: id.clone(), length, usage })?;
                    return Ok(saved(&target, id, length, true));
                }
                Action::Fetch { id, replaces } => {
                    let recorded = recorded_file(journal.entries(), replaces.as_ref(), &state);
                    self.continue_request(&mut journal, &fingerprint, replaces)
                        .map_err(|e| e.with_id(&id).may_be_billed())?;
                    let replace = match &recorded {
                        Some((len, hash)) => Replace::Recorded { len: *len, hash: hash.as_deref() },
                        None => Replace::Nothing,
                    };
                    let fetched = self.fetch(&mut journal, &target, &id, created.as_ref(), replace);
                    return match (fetched, journal_error) {
                        // Both failed: the caller must learn first why the next run will not know
                        // the id.
                        (Err(error), Some(unrecorded))
                            if error.kind() != ErrorKind::GenerationFailed =>
                        {
                            let unrecorded: Error = unrecorded;
                            Err(unrecorded.with_id(&id))
                        }
                        (fetched, _) => fetched,
                    };
                }
                Action::Recover { client_request_id, id, time } => {
                    self.continue_request(&mut journal, &fingerprint, None).map_err(|e| {
                        e.with_client_request_id(&client_request_id).may_be_billed()
                    })?;
                    self.recover(&mut journal, &client_request_id, id.as_ref(), time)?;
                }
                Action::Create { rejected, replaces } => {
                    if let Some(id) = self.adopt(&rejected)? {
                        self.continue_request(&mut journal, &fingerprint, None)
                            .map_err(|e| e.with_id(&id).may_be_billed())?;
                        journal.append(Entry::Created { id: id.clone() })?;
                        self.context.emit(&id, EventKind::Recovered);
                        continue;
                    }
                    probe_partial_file(&target)?;
                    let Some(body) = body.take() else {
                        // A create ends in a record that leads elsewhere, or in an error.
                        return Err(Error::journal(journal.path(), "the run does not progress"));
                    };
                    journal.append(self.intent(&fingerprint, replaces))?;
                    let mut recorder =
                        Recorder { journal: &mut journal, request: self.request, error: None };
                    let generation = submit(self.context, body?.0, self.quota, &mut recorder)?;
                    journal_error = recorder.error;
                    created = Some(generation);
                }
                Action::Block(blocker) => return Err(blocked_error(&journal, &target, blocker)),
            }
        }
    }

    fn intent(&self, fingerprint: &Fingerprint, replaces: Option<GenerationId>) -> Entry {
        Entry::Intent {
            request: fingerprint.clone(),
            source: self.request.image().journal_name(),
            time: now(),
            replaces,
        }
    }

    /// Entries are of the request of the last `intent`, so one of another request in between must
    /// not be the last.
    fn continue_request(
        &self,
        journal: &mut FileJournal,
        fingerprint: &Fingerprint,
        replaces: Option<GenerationId>,
    ) -> Result<()> {
        let last = journal.entries().iter().rev().find_map(|entry| match entry {
            Entry::Intent { request, .. } => Some(request),
            _ => None,
        });
        match last.is_some_and(|last| fingerprint.matches(last)) {
            true => Ok(()),
            false => journal.append(self.intent(fingerprint, replaces)),
        }
    }

    /// The request's body, and the hash of its image.
    fn open_request(&self) -> Result<(RequestBody, Option<String>)> {
        let mut body = RequestBody::new(self.request)?;
        let hash = match body.image() {
            Some(image) => Some(hash_reader(image).map_err(|e| {
                let path = Some(image.display_name().into());
                Error::io(OPERATION, path, "failed to read the image", e)
            })?),
            None => None,
        };
        Ok((body, hash))
    }

    /// Waits for another process with the same target, as long as for a generation.
    fn open_journal(&self, path: PathBuf) -> Result<FileJournal> {
        let started = Instant::now();
        let busy_path = path.clone();
        FileJournal::open_or_wait(path, |delay| {
            let remaining = self.options.timeout.saturating_sub(started.elapsed());
            if remaining.is_zero() {
                let busy = Error::journal(&busy_path, "in use by another process");
                let timed_out = Error::wait_timeout(started.elapsed(), None, Some(busy));
                return Err(timed_out.with_operation(OPERATION));
            }
            match self.context.sleep(delay.min(remaining)) {
                true => Ok(()),
                false => Err(Error::cancelled(OPERATION)),
            }
        })
    }

    /// Asks once about every id that a rejected create named. One that is a generation is adopted;
    /// what cannot be known prevents another create.
    fn adopt(&self, rejected: &[RejectedId]) -> Result<Option<GenerationId>> {
        for RejectedId { id, marked, time } in rejected {
            let retrieved = self.context.retrieve(id);
            match judge_rejection(&retrieved, *marked, now().saturating_sub(*time)) {
                Rejection::Disproved => return Ok(Some(id.clone())),
                Rejection::Confirmed => {}
                Rejection::Unknown => {
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
    fn recover(
        &self,
        journal: &mut FileJournal,
        client_request_id: &str,
        id: Option<&GenerationId>,
        time: u64,
    ) -> Result<()> {
        let with_context = |error: Error| {
            let error = error.with_client_request_id(client_request_id).may_be_billed();
            match id {
                Some(id) => error.with_id(id),
                None => error,
            }
        };
        let deadline = Instant::now().checked_add(self.options.timeout);
        let known = match id {
            Some(id) => match self.context.retrieve(id) {
                Ok(_) => Some(id.clone()),
                Err(error) if error.kind() == ErrorKind::Cancelled => {
                    return Err(with_context(error));
                }
                Err(_) => None,
            },
            None => None,
        };
        let id = match known {
            Some(id) => id,
            None => {
                let days = days_since(time, now());
                let found = self.context.find(client_request_id, days, deadline);
                let Some(found) = found.map_err(with_context)? else {
                    let message = "the last create received no response, and the API's log does \
                                   not list it (yet)";
                    let unlisted = Error::journal(journal.path(), message);
                    return Err(with_context(Error::create_unknown(unlisted)));
                };
                if found.failed
                    && is_logged_failure_confirmed(
                        &self.context.retrieve(&found.id),
                        found.created.map_or(0, |created| now().saturating_sub(created)),
                    )
                {
                    let reason = "the API's log and the generation itself say so".to_owned();
                    journal
                        .append(Entry::Failed { id: found.id.clone(), reason: reason.clone() })?;
                    let error = Error::generation_failed(OPERATION, reason).with_id(&found.id);
                    return Err(error.with_client_request_id(client_request_id));
                }
                found.id
            }
        };
        journal.append(Entry::Created { id: id.clone() }).map_err(|e| e.with_id(&id))?;
        self.context.emit_create(Some(&id), client_request_id, EventKind::Recovered);
        Ok(())
    }

    /// Waits for the generation and downloads its video, recording each step.
    fn fetch(
        &self,
        journal: &mut FileJournal,
        target: &Target,
        id: &GenerationId,
        created: Option<&Generation>,
        replace: Replace<'_>,
    ) -> Result<SavedVideo> {
        let video = self.wait(journal, id, created)?;
        let usage = video.usage;
        let bytes = {
            let mut before_publish = |length: u64, hash: &str| {
                let hash = hash.to_owned();
                journal.append(Entry::Publishing { id: id.clone(), length, hash })
            };
            download(self.context, &video, target, replace, Some(&mut before_publish))?
        };
        journal
            .append(Entry::Saved { id: id.clone(), length: bytes, usage })
            .map_err(|e| e.with_id(id))?;
        self.context.emit(id, EventKind::Saved { bytes });
        Ok(saved(target, id.clone(), bytes, false))
    }

    fn wait(
        &self,
        journal: &mut FileJournal,
        id: &GenerationId,
        created: Option<&Generation>,
    ) -> Result<Video> {
        let was_completed = journal.entries().iter().any(|entry| {
            let completed = matches!(
                entry,
                Entry::Completed { .. } | Entry::Publishing { .. } | Entry::Saved { .. }
            );
            completed && entry.id() == Some(id)
        });
        let (known, initial_delay) = match created {
            _ if was_completed => (Known::Completed, Duration::ZERO),
            Some(generation) => (Known::Response(generation), self.options.initial_delay),
            None => (Known::Created, Duration::ZERO),
        };
        let options = self.options.clone().initial_delay(initial_delay);
        let result = self.context.wait(id, known, &options);
        let entry = match &result {
            Ok(_) if was_completed => return result,
            Ok(video) => Entry::Completed { id: id.clone(), usage: video.usage },
            Err(error) if error.kind() == ErrorKind::GenerationFailed => {
                let (id, reason) = (id.clone(), error.server_message().unwrap_or_default().into());
                match error.is_generation_ended() {
                    true => Entry::Ended { id, reason },
                    false => Entry::Failed { id, reason },
                }
            }
            Err(_) => return result,
        };
        match journal.append(entry) {
            // The video counts, not the note that it is there.
            Err(error) if result.is_err() => Err(error.with_id(id)),
            _ => result,
        }
    }
}

/// Whether something is there. What cannot be known is an error, never "no".
fn exists(path: &Path) -> Result<bool> {
    match path.symlink_metadata() {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(false),
        Err(e) => Err(Error::io(OPERATION, Some(path.to_owned()), "failed to read", e)),
    }
}

fn target_state(target: &Target, entries: &[Entry]) -> Result<TargetState> {
    let Some(len) = target.file_len()? else {
        return Ok(TargetState::Absent);
    };
    if len == 0 {
        return Ok(TargetState::Empty);
    }
    for entry in entries.iter().rev() {
        if let Entry::Publishing { id, length, hash } = entry
            && *length == len
            && target.is_file_with(len, Some(hash))?
        {
            return Ok(TargetState::Video(id.clone()));
        }
    }
    Ok(TargetState::Other)
}

/// The file that the run may replace: its length and hash.
fn recorded_file(
    entries: &[Entry],
    replaces: Option<&GenerationId>,
    state: &TargetState,
) -> Option<(u64, Option<String>)> {
    if *state == TargetState::Empty {
        return Some((0, None));
    }
    entries.iter().rev().find_map(|entry| match entry {
        Entry::Publishing { id, length, hash } if Some(id) == replaces => {
            Some((*length, Some(hash.clone())))
        }
        _ => None,
    })
}

fn usage_of(entries: &[Entry], id: &GenerationId) -> Option<Usage> {
    entries.iter().rev().find_map(|entry| match entry {
        Entry::Completed { id: completed, usage } if completed == id => *usage,
        _ => None,
    })
}

fn saved(target: &Target, id: GenerationId, bytes: u64, reused: bool) -> SavedVideo {
    SavedVideo { path: target.path().to_owned(), bytes, id, reused }
}

fn blocked_error(journal: &FileJournal, target: &Target, blocker: Blocker) -> Error {
    let path = journal.path();
    let target = target.path().display();
    match blocker {
        Blocker::Ended { id, reason } => Error::generation_ended(OPERATION, reason).with_id(&id),
        Blocker::OtherUnfinished { id, client_request_id } => {
            // The error's own message names the generation.
            let create = client_request_id.iter().filter(|_| id.is_none());
            let create: String = create.map(|id| format!(" (create `{id}`)")).collect();
            let message = format!(
                "belongs to another request, which may have been paid for and is not \
                 finished{create}; repeat that request to finish it, or abandon it with \
                 FileJournal::abandon"
            );
            let error = Error::journal(path, message).may_be_billed();
            let error = id.iter().fold(error, Error::with_id);
            client_request_id.iter().fold(error, |error, id| error.with_client_request_id(id))
        }
        // Only an id of this request is the error's: another one would lead to another video.
        Blocker::OtherVideo { video, own } => {
            let message = format!(
                "{target} is the video of another request, generation `{video}`; use another path, \
                 or allow to replace it with replace_videos(true)"
            );
            own.iter().fold(Error::journal(path, message), Error::with_id)
        }
        Blocker::UnknownFile { own } => {
            let message =
                format!("{target} is not a video that this journal recorded; move it away");
            own.iter().fold(Error::journal(path, message), Error::with_id)
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

/// Records the attempts of a create in the journal.
struct Recorder<'a> {
    journal: &'a mut FileJournal,
    request: &'a ImageToVideo,
    /// Why the id of an accepted create could not be recorded.
    error: Option<Error>,
}

impl CreateObserver for Recorder<'_> {
    /// Every attempt has its own id, so that the log distinguishes them.
    fn client_request_id(&mut self) -> String {
        generate_client_request_id(self.request.caller_request_id())
    }

    fn before_commit(&mut self, client_request_id: &str) -> Result<()> {
        let client_request_id = client_request_id.to_owned();
        self.journal.append(Entry::Sending { client_request_id, id: None, time: now() })
    }

    fn indeterminate(&mut self, error: &Error) {
        if let (Some(request), Some(id)) = (error.client_request_id(), error.generation_id()) {
            // If this fails, the id is still in the error.
            let _ = self.journal.append(Entry::Sending {
                client_request_id: request.to_owned(),
                id: Some(id.clone()),
                time: now(),
            });
        }
    }

    fn rejected(&mut self, error: &Error) -> Result<()> {
        self.journal.append(Entry::Rejected {
            status: error.status(),
            marked: error.has_vendor_marks(),
            id: error.generation_id().cloned(),
            time: now(),
        })
    }

    fn accepted(&mut self, generation: &Generation) {
        self.error = self.journal.append(Entry::Created { id: generation.id.clone() }).err();
    }
}

#[cfg(test)]
mod model_test;

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
