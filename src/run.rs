//! Durable runs, which may be killed anywhere, continue when they are called again, and pay once.
//!
//! [`next_action`] decides what happens next; this file carries it out. Each action records what it
//! has done, and the next one follows from the record. A run has three parts, so that a batch can
//! carry out those of many runs at once: [`start`](DurableRun::start) leads to a generation to wait
//! for, [`settle`](DurableRun::settle) records how the wait ended, and
//! [`save`](DurableRun::save) downloads the video.

mod file_journal;
mod fingerprint;
mod journal;
mod next;
mod proof;
mod record;
mod recover;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::context::RequestContext;
use crate::create::{CreateObserver, CreateQuota, generate_client_request_id, submit};
use crate::download::{self, Replace, Target, download, probe_partial_file};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::hash::hash_reader;
use crate::model::body::RequestBody;
use crate::model::generation::{Generation, GenerationId, Usage, Video};
use crate::model::request::ImageToVideo;
use crate::operation::Operation;
use crate::poll::Known;
use crate::wait_options::WaitOptions;

pub use self::file_journal::FileJournal;
pub use self::fingerprint::RequestFingerprint;
pub use self::journal::{BoxError, Journal, JournalEntry};

use self::file_journal::{journal_name, journal_path};
use self::journal::now;
use self::next::{Action, Blocker, TargetState, next_action};
use self::record::Record;

const OPERATION: Operation = Operation::GenerateTo;

/// A video in a file, the result of [`Client::generate_to`](crate::Client::generate_to).
///
/// ```no_run
/// # use kling_video::{Client, Error, ImageToVideo};
/// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
/// let saved = client.generate_to(&request, "cat.mp4")?;
/// println!("{} bytes in {}, generation {}", saved.bytes, saved.path.display(), saved.id);
/// if let Some(usd) = saved.usage.and_then(|usage| usage.usd_spent) {
///     println!("{usd} USD");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
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
    /// What the generation cost, if the API said so when it was completed.
    pub usage: Option<Usage>,
}

/// What the runs of one call have in common.
pub(crate) struct DurableRun<'a> {
    pub(crate) context: &'a RequestContext<'a>,
    pub(crate) request: &'a ImageToVideo,
    pub(crate) options: &'a WaitOptions,
    pub(crate) quota: &'a CreateQuota,
    pub(crate) base_url: String,
    /// Whether a finished video may be replaced by one of another request.
    pub(crate) replace_videos: bool,
}

/// Where a run has come to before its wait.
enum Started {
    /// The video is at the target.
    Saved { id: GenerationId, length: u64 },
    /// The generation exists.
    Pending(Pending),
}

/// A generation to wait for.
struct Pending {
    id: GenerationId,
    /// The response of this run's create.
    created: Option<Generation>,
    /// Whether it is recorded as completed.
    completed: bool,
    replaces: Option<GenerationId>,
    /// Why the id of an accepted create could not be recorded.
    unrecorded: Option<Error>,
}

impl Pending {
    fn known(&self) -> Known<'_> {
        match &self.created {
            _ if self.completed => Known::Completed,
            Some(generation) => Known::Response(generation),
            None => Known::Created,
        }
    }

    /// If its id could not be recorded, the caller must learn first why the next run will not know
    /// it.
    fn explain(self, error: Error) -> Error {
        match self.unrecorded {
            Some(unrecorded) if error.kind() != ErrorKind::GenerationFailed => {
                unrecorded.with_id(&self.id)
            }
            _ => error,
        }
    }
}

impl DurableRun<'_> {
    /// Runs until the generation is completed, on any journal.
    pub(crate) fn generate_recorded(&self, journal: &mut dyn Journal) -> Result<Video> {
        let (request, body) = self.prepare()?;
        let mut record = Record::open(journal, request, self.request.image().journal_name())?;
        match self.start(&mut record, body, None, &TargetState::Absent)? {
            Started::Pending(pending) => {
                let waited = self.wait(&pending);
                self.settle(&mut record, &pending, waited).map_err(|e| pending.explain(e))
            }
            Started::Saved { .. } => Err(Error::journal(record.name(), "has no target")),
        }
    }

    /// Runs until the video is at the path, on the journal next to it.
    pub(crate) fn generate_to(&self, path: &Path) -> Result<SavedVideo> {
        let target = Target::resolve(path, OPERATION)?;
        let (request, body) = self.prepare()?;
        let (mut journal, body) = self.open_journal(&target, body)?;
        let mut record = Record::open(&mut journal, request, self.request.image().journal_name())?;
        let state = target_state(&target, record.entries())?;
        match self.start(&mut record, body, Some(&target), &state)? {
            Started::Saved { id, length } => Ok(self.saved(&record, &target, id, length, true)),
            Started::Pending(pending) => {
                let waited = self.wait(&pending);
                self.settle(&mut record, &pending, waited)
                    .and_then(|video| self.save(&mut record, &target, &state, &pending, &video))
                    .map_err(|e| pending.explain(e))
            }
        }
    }

    /// What tells the request from others, and its body, opened once: what is hashed is what is
    /// sent. The image may be missing when a run only has to fetch its video, so an error of the
    /// body matters only to a create.
    fn prepare(&self) -> Result<(RequestFingerprint, Result<RequestBody>)> {
        let mut body = RequestBody::new(self.request);
        let image = body.as_mut().ok().and_then(RequestBody::image).map(|image| {
            let name = image.display_name().into();
            hash_reader(image)
                .map_err(|e| Error::io(OPERATION, Some(name), "failed to read the image", e))
        });
        let (image, body) = match image {
            Some(Err(error)) => (None, Err(error)),
            Some(Ok(hash)) => (Some(hash), body),
            None => (None, body),
        };
        let route = self.context.route.path();
        Ok((RequestFingerprint::new(self.request, image, &self.base_url, route)?, body))
    }

    /// Opens the target's journal. Waits for another process with the same target, as long as for a
    /// generation. An invalid call leaves no new file behind.
    fn open_journal(
        &self,
        target: &Target,
        body: Result<RequestBody>,
    ) -> Result<(FileJournal, Result<RequestBody>)> {
        let path = journal_path(target);
        let body = match path.symlink_metadata() {
            Ok(_) => body,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if target.state()? != download::TargetState::Absent {
                    let blocker = Blocker::UnknownFile { own: None };
                    return Err(blocked_error(journal_name(&path), Some(target), blocker));
                }
                Ok(body?)
            }
            // What cannot be known is an error, never "no".
            Err(e) => return Err(Error::io(OPERATION, Some(path), "failed to read", e)),
        };
        let started = Instant::now();
        let name = journal_name(&path);
        let journal = FileJournal::open_or_wait(path, |delay| {
            let remaining = self.options.timeout.saturating_sub(started.elapsed());
            if remaining.is_zero() {
                let busy = Error::journal(&name, "in use by another process");
                let timed_out = Error::wait_timeout(started.elapsed(), None, Some(busy));
                return Err(timed_out.with_operation(OPERATION));
            }
            match self.context.sleep(delay.min(remaining)) {
                true => Ok(()),
                false => Err(Error::cancelled(OPERATION)),
            }
        })?;
        Ok((journal, body))
    }

    /// Carries out one action after the other, up to a generation to wait for.
    fn start(
        &self,
        record: &mut Record<'_>,
        body: Result<RequestBody>,
        target: Option<&Target>,
        state: &TargetState,
    ) -> Result<Started> {
        let started = self.advance(record, body, target, state);
        started.map_err(|error| record.explain(error))
    }

    fn advance(
        &self,
        record: &mut Record<'_>,
        body: Result<RequestBody>,
        target: Option<&Target>,
        state: &TargetState,
    ) -> Result<Started> {
        loop {
            let action =
                next_action(record.entries(), record.request(), state, self.replace_videos);
            match action {
                Action::Reuse { id, length } => {
                    self.context.emit(&id, EventKind::Reused);
                    return Ok(Started::Saved { id, length });
                }
                Action::RecordSaved { id, length } => {
                    // Removes what the killed run may have left next to the video.
                    let _ = target.map(probe_partial_file);
                    self.context.emit(&id, EventKind::Reused);
                    let usage = record.usage(&id);
                    record.append(JournalEntry::Saved { id: id.clone(), length, usage })?;
                    return Ok(Started::Saved { id, length });
                }
                Action::Fetch { id, replaces } => {
                    let completed = record.is_completed(&id);
                    let (created, unrecorded) = (None, None);
                    let pending = Pending { id, created, completed, replaces, unrecorded };
                    return Ok(Started::Pending(pending));
                }
                Action::Recover { client_request_id, id, time } => {
                    self.recover(record, &client_request_id, id, time)?;
                }
                Action::Create { rejected, replaces } => match self.adopt(&rejected)? {
                    Some(id) => {
                        record.append(JournalEntry::Created { id: id.clone() })?;
                        self.context.emit(&id, EventKind::Recovered);
                    }
                    None => {
                        let body = body?;
                        target.map_or(Ok(()), probe_partial_file)?;
                        return self.create(record, body, replaces).map(Started::Pending);
                    }
                },
                Action::Block(blocker) => {
                    return Err(blocked_error(record.name(), target, blocker));
                }
            }
        }
    }

    fn create(
        &self,
        record: &mut Record<'_>,
        body: RequestBody,
        replaces: Option<GenerationId>,
    ) -> Result<Pending> {
        record.begin(replaces.clone())?;
        let mut recorder = Recorder { record, request: self.request, error: None };
        let generation = submit(self.context, body, self.quota, &mut recorder)?;
        let (id, unrecorded) = (generation.id.clone(), recorder.error);
        Ok(Pending { id, created: Some(generation), completed: false, replaces, unrecorded })
    }

    fn wait(&self, pending: &Pending) -> Result<Video> {
        let initial_delay = match pending.created {
            Some(_) => self.options.initial_delay,
            None => Duration::ZERO,
        };
        let options = self.options.clone().initial_delay(initial_delay);
        self.context.wait(&pending.id, pending.known(), &options)
    }

    /// Records how the wait ended.
    fn settle(
        &self,
        record: &mut Record<'_>,
        pending: &Pending,
        waited: Result<Video>,
    ) -> Result<Video> {
        let id = pending.id.clone();
        match &waited {
            Ok(video) if !pending.completed => {
                // The video counts, not the note that it is there.
                let _ = record.append(JournalEntry::Completed { id, usage: video.usage });
            }
            Err(error) if error.kind() == ErrorKind::GenerationFailed => {
                let reason = error.server_message().unwrap_or_default().to_owned();
                record.append(match error.is_generation_ended() {
                    true => JournalEntry::Ended { id, reason },
                    false => JournalEntry::Failed { id, reason },
                })?;
            }
            _ => {}
        }
        waited
    }

    /// Downloads the video to the target.
    fn save(
        &self,
        record: &mut Record<'_>,
        target: &Target,
        state: &TargetState,
        pending: &Pending,
        video: &Video,
    ) -> Result<SavedVideo> {
        let id = &pending.id;
        let recorded = replaceable_file(record.entries(), pending.replaces.as_ref(), state);
        let replace = match &recorded {
            Some((len, hash)) => Replace::Recorded { len: *len, hash: hash.as_deref() },
            None => Replace::Nothing,
        };
        let mut before_publish = |length: u64, hash: &str| {
            let hash = hash.to_owned();
            record.append(JournalEntry::Publishing { id: id.clone(), length, hash })
        };
        let length = download(self.context, video, target, replace, Some(&mut before_publish))?;
        let usage = video.usage.or_else(|| record.usage(id));
        record.append(JournalEntry::Saved { id: id.clone(), length, usage })?;
        self.context.emit(id, EventKind::Saved { bytes: length });
        Ok(self.saved(record, target, id.clone(), length, false))
    }

    fn saved(
        &self,
        record: &Record<'_>,
        target: &Target,
        id: GenerationId,
        bytes: u64,
        reused: bool,
    ) -> SavedVideo {
        let usage = record.usage(&id);
        SavedVideo { path: target.path().to_owned(), bytes, id, reused, usage }
    }
}

fn target_state(target: &Target, entries: &[JournalEntry]) -> Result<TargetState> {
    let download::TargetState::File { len } = target.state()? else {
        return Ok(TargetState::Absent);
    };
    if len == 0 {
        return Ok(TargetState::Empty);
    }
    for entry in entries.iter().rev() {
        if let JournalEntry::Publishing { id, length, hash } = entry
            && *length == len
            && target.is_file_with(len, Some(hash))?
        {
            return Ok(TargetState::Video(id.clone()));
        }
    }
    Ok(TargetState::Other)
}

/// The file that the run may replace: its length and hash.
fn replaceable_file(
    entries: &[JournalEntry],
    replaces: Option<&GenerationId>,
    state: &TargetState,
) -> Option<(u64, Option<String>)> {
    if *state == TargetState::Empty {
        return Some((0, None));
    }
    entries.iter().rev().find_map(|entry| match entry {
        JournalEntry::Publishing { id, length, hash } if Some(id) == replaces => {
            Some((*length, Some(hash.clone())))
        }
        _ => None,
    })
}

fn blocked_error(journal: String, target: Option<&Target>, blocker: Blocker) -> Error {
    let abandon = if target.is_some() { "FileJournal::abandon" } else { "Journal::abandon" };
    let with_id = |error: Error, id: Option<GenerationId>| id.iter().fold(error, Error::with_id);
    let target = || target.map(|target| target.path().display().to_string()).unwrap_or_default();
    match blocker {
        Blocker::Ended { id, reason } => Error::generation_ended(OPERATION, reason).with_id(&id),
        Blocker::OtherUnfinished { id, client_request_id } => {
            // The error's own message names the generation.
            let create = client_request_id.iter().filter(|_| id.is_none());
            let create: String = create.map(|id| format!(" (create `{id}`)")).collect();
            let message = format!(
                "belongs to another request, which may have been paid for and is not \
                 finished{create}; repeat that request to finish it, or abandon it with {abandon}"
            );
            let error = with_id(Error::journal(journal, message).may_be_billed(), id);
            client_request_id.iter().fold(error, |error, id| error.with_client_request_id(id))
        }
        // Only an id of this request is the error's: another one would lead to another video.
        Blocker::OtherVideo { video, own } => {
            let message = format!(
                "{} is the video of another request, generation `{video}`; use another path, or \
                 allow to replace it with replace_videos(true)",
                target()
            );
            with_id(Error::journal(journal, message), own)
        }
        Blocker::UnknownFile { own } => {
            let message =
                format!("{} is not a video that this journal recorded; move it away", target());
            with_id(Error::journal(journal, message), own)
        }
        Blocker::NoIntent { id } => {
            let message = "the first entry is not `intent`; repair it, or move it away if you no \
                           longer need what its entries name";
            with_id(Error::journal(journal, message).may_be_billed(), id)
        }
    }
}

/// Records the attempts of a create.
struct Recorder<'r, 'a> {
    record: &'r mut Record<'a>,
    request: &'r ImageToVideo,
    /// Why the id of an accepted create could not be recorded.
    error: Option<Error>,
}

impl CreateObserver for Recorder<'_, '_> {
    /// Every attempt has its own id, so that the log distinguishes them.
    fn client_request_id(&mut self) -> String {
        generate_client_request_id(self.request.caller_request_id())
    }

    fn before_commit(&mut self, client_request_id: &str) -> Result<()> {
        let client_request_id = client_request_id.to_owned();
        self.record.append(JournalEntry::Sending { client_request_id, id: None, time: now() })
    }

    fn indeterminate(&mut self, error: &Error) {
        if let (Some(sent), Some(id)) = (error.client_request_id(), error.generation_id()) {
            let (client_request_id, id) = (sent.to_owned(), Some(id.clone()));
            // If this fails, the id is still in the error.
            let _ =
                self.record.append(JournalEntry::Sending { client_request_id, id, time: now() });
        }
    }

    fn rejected(&mut self, error: &Error) -> Result<()> {
        self.record.append(JournalEntry::Rejected {
            status: error.status(),
            marked: error.has_vendor_marks(),
            id: error.generation_id().cloned(),
            time: now(),
        })
    }

    fn accepted(&mut self, generation: &Generation) {
        self.error = self.record.append(JournalEntry::Created { id: generation.id.clone() }).err();
    }
}

#[cfg(any(fuzzing, test))]
pub(crate) use self::file_journal::check_parse;

#[cfg(test)]
mod model_test;
