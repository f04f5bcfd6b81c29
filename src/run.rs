//! Durable runs, which may be killed anywhere, continue when they are called again, and pay once.
//!
//! [`next_action`] decides what happens next; this file carries it out. Each action records what it
//! has done, and the next one follows from the record. A run has three parts, so that a batch can
//! carry out those of many runs at once: [`start`](DurableRun::start) leads to a generation to wait
//! for, [`settle`](DurableRun::settle) records how the wait ended, and a run to a file then
//! downloads its video.

mod batch;
mod file_journal;
mod file_run;
mod fingerprint;
mod journal;
mod next;
mod proof;
mod record;
mod recover;

use std::time::Duration;

use crate::context::RequestContext;
use crate::create::{CreateQuota, CreateStep, generate_client_request_id, submit};
use crate::download::{Target, probe_partial_file};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::hash::hash_reader;
use crate::model::body::RequestBody;
use crate::model::generation::{Generation, GenerationId, Video};
use crate::model::request::ImageToVideo;
use crate::operation::Operation;
use crate::poll::Known;
use crate::wait_options::WaitOptions;

pub use self::batch::BatchOptions;
pub(crate) use self::batch::generate_all_to;
pub use self::file_journal::FileJournal;
pub use self::file_run::SavedVideo;
pub use self::fingerprint::RequestFingerprint;
pub use self::journal::{BoxError, Journal, JournalEntry};

use self::batch::Stops;
use self::journal::now;
use self::next::{Action, Blocker, TargetState, next_action};
use self::record::Record;

const OPERATION: Operation = Operation::GenerateTo;

/// What a run works with. In a batch, all runs share all but the context and the request.
pub(crate) struct DurableRun<'a> {
    pub(crate) context: &'a RequestContext<'a>,
    pub(crate) request: &'a ImageToVideo,
    pub(crate) options: &'a WaitOptions,
    pub(crate) quota: &'a CreateQuota,
    /// Whether a finished video may be replaced by one of another request.
    pub(crate) replace_videos: bool,
    /// Why a batch creates no more generations.
    pub(crate) stops: Option<&'a Stops>,
}

/// Where a run has come to before its wait.
pub(crate) enum Started<P> {
    /// The video is at the target.
    Saved(SavedVideo),
    /// The generation exists: what waits for it.
    Pending(Box<P>),
}

/// A generation to wait for.
pub(crate) struct Pending {
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
    fn explain(&mut self, error: Error) -> Error {
        match self.unrecorded.take() {
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
        let mut record = self.record(journal, &request)?;
        let started = self.start(&mut record, body, None, &TargetState::Absent);
        match started.map_err(|error| record.explain(error))? {
            Started::Pending(mut pending) => {
                let waited = self.wait(&pending);
                self.settle(&mut record, &pending, waited).map_err(|e| pending.explain(e))
            }
            Started::Saved(_) => Err(Error::journal(&record.name(), "has no target")),
        }
    }

    /// What tells the request from others, and its body, opened once: what is hashed is what is
    /// sent. The image may be missing when a run only has to fetch its video, so an error of the
    /// body matters only to a create.
    fn prepare(&self) -> Result<(RequestFingerprint, Result<RequestBody>)> {
        let mut body = self.request.body();
        let image = body.as_mut().ok().and_then(|body| body.image.as_mut()).map(|image| {
            hash_reader(&mut image.data).map_err(|e| image.read_error(e).with_operation(OPERATION))
        });
        let (image, body) = match image.transpose() {
            Ok(hash) => (hash, body),
            Err(error) => (None, Err(error)),
        };
        let (base_url, route) =
            (self.context.session.recorded_base_url(), self.context.route.path());
        Ok((RequestFingerprint::new(self.request, image, &base_url, route)?, body))
    }

    fn record<'r>(
        &self,
        journal: &'r mut dyn Journal,
        request: &'r RequestFingerprint,
    ) -> Result<Record<'r>> {
        Record::open(journal, request, self.request.image.journal_name())
    }

    /// Carries out one action after the other, up to a generation to wait for.
    fn start(
        &self,
        record: &mut Record<'_>,
        body: Result<RequestBody>,
        target: Option<&Target>,
        state: &TargetState,
    ) -> Result<Started<Pending>> {
        loop {
            let action =
                next_action(record.entries(), record.request(), state, self.replace_videos);
            match action {
                Action::Reuse { id, length: bytes } => {
                    self.context.emit(&id, EventKind::Reused);
                    let path = target.map(|target| target.path.clone()).unwrap_or_default();
                    let usage = record.usage(&id);
                    let saved = SavedVideo { path, bytes, id, reused: true, usage };
                    return Ok(Started::Saved(saved));
                }
                Action::RecordSaved { id, length } => {
                    // Removes what the killed run may have left next to the video.
                    let _ = target.map_or(Ok(()), probe_partial_file);
                    let usage = record.usage(&id);
                    record.append(JournalEntry::Saved { id, length, usage })?;
                }
                Action::Fetch { id, replaces } => {
                    let completed = record.is_completed(&id);
                    let pending =
                        Pending { id, created: None, completed, replaces, unrecorded: None };
                    return Ok(Started::Pending(Box::new(pending)));
                }
                Action::Recover { client_request_id, id, time } => {
                    self.recover(record, &client_request_id, id, time)?;
                }
                Action::Create { rejected, replaces } => {
                    let Some(id) = self.adopt(&rejected)? else {
                        self.may_create()?;
                        let body = body?;
                        target.map_or(Ok(()), probe_partial_file)?;
                        let pending = self.create(record, body, replaces)?;
                        return Ok(Started::Pending(Box::new(pending)));
                    };
                    record.append(JournalEntry::Created { id: id.clone() })?;
                    self.context.emit(&id, EventKind::Recovered);
                }
                Action::Block(blocker) => {
                    let (name, difference) = (record.name(), record.difference());
                    return Err(blocked_error(&name, target, blocker, difference));
                }
            }
        }
    }

    /// An error prevents a create, and nothing else.
    fn may_create(&self) -> Result<()> {
        self.stops.map_or(Ok(()), |stops| stops.check(self.request))
    }

    fn create(
        &self,
        record: &mut Record<'_>,
        body: RequestBody,
        replaces: Option<GenerationId>,
    ) -> Result<Pending> {
        record.begin(record.request().clone(), replaces.clone())?;
        // Every attempt has its own id, so that the log distinguishes them.
        let id_of = |_| generate_client_request_id(self.request.client_request_id.as_deref());
        let mut on_step = |step: CreateStep<'_>| {
            record.append(match step {
                CreateStep::Commit(client_request_id) => sending(client_request_id, None),
                CreateStep::Rejected(error) => JournalEntry::Rejected {
                    status: error.status(),
                    marked: error.has_vendor_marks(),
                    id: error.generation_id().cloned(),
                    time: now(),
                },
                CreateStep::Unknown(error) => {
                    match (error.client_request_id(), error.generation_id()) {
                        (Some(sent), Some(id)) => sending(sent, Some(id)),
                        _ => return Ok(()),
                    }
                }
            })
        };
        let (generation, sent) = submit(self.context, body, self.quota, &id_of, &mut on_step)?;
        let id = generation.id.clone();
        // Not an error of the run: a generation that is paid for must be fetched.
        let unrecorded = record.append(JournalEntry::Created { id: id.clone() }).err();
        let kind = EventKind::Created { generation: &generation };
        self.context.emit_with(Some(&id), Some(&sent), kind);
        Ok(Pending { id, created: Some(generation), completed: false, replaces, unrecorded })
    }

    fn wait(&self, pending: &Pending) -> Result<Video> {
        let options = self.options.clone().initial_delay(self.initial_delay(pending));
        self.context.wait(&pending.id, pending.known(), &options)
    }

    /// Only a generation that has just been created is not polled at once.
    fn initial_delay(&self, pending: &Pending) -> Duration {
        match pending.created {
            Some(_) => self.options.initial_delay,
            None => Duration::ZERO,
        }
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
                record.append(match error.may_have_been_billed() {
                    true => JournalEntry::Ended { id, reason },
                    false => JournalEntry::Failed { id, reason },
                })?;
            }
            // A generation that was completed before is not running: its URL was needed to download
            // it.
            Err(error)
                if pending.completed
                    && matches!(error.kind(), ErrorKind::WaitTimeout | ErrorKind::Cancelled) =>
            {
                return waited.map_err(|error| error.with_operation(Operation::Download));
            }
            _ => {}
        }
        waited
    }
}

/// A create that is about to be sent or, with an id, whose unusable response named it.
fn sending(client_request_id: &str, id: Option<&GenerationId>) -> JournalEntry {
    let client_request_id = client_request_id.to_owned();
    JournalEntry::Sending { client_request_id, id: id.cloned(), time: now() }
}

/// `difference` is the part of the request that differs from the other one's.
fn blocked_error(
    journal: &str,
    target: Option<&Target>,
    blocker: Blocker,
    difference: Option<&str>,
) -> Error {
    let difference = difference.map(|part| format!(" (its {part} differs)")).unwrap_or_default();
    let path = target.map(|target| target.path.display().to_string()).unwrap_or_default();
    let (error, id) = match blocker {
        Blocker::Ended { id, reason } => {
            (Error::generation_failed(OPERATION, reason, true), Some(id))
        }
        Blocker::OtherUnfinished { id, client_request_id } => {
            // The error's own message names the generation.
            let create = client_request_id.iter().filter(|_| id.is_none());
            let create: String = create.map(|id| format!(" (create `{id}`)")).collect();
            let abandon = if target.is_some() { "FileJournal" } else { "Journal" };
            let message = format!(
                "belongs to another request{difference}, which may have been paid for and is not \
                 finished{create}; repeat that request to finish it, or abandon it with \
                 {abandon}::abandon"
            );
            let error = Error::journal(journal, message).may_be_billed();
            (client_request_id.iter().fold(error, |error, id| error.with_client_request_id(id)), id)
        }
        // Only an id of this request is the error's: another one would lead to another video.
        Blocker::OtherVideo { video, own } => {
            let message = format!(
                "{path} is the video of another request{difference}, generation `{video}`; use \
                 another path, or allow to replace it with replace_videos(true)"
            );
            (Error::journal(journal, message), own)
        }
        Blocker::UnknownFile { own } => {
            let message =
                format!("{path} is not a video that this journal recorded; move that file away");
            (Error::journal(journal, message), own)
        }
        Blocker::NoIntent { id } => {
            let message = "the first entry is not `intent`; repair it, or move it away if you no \
                           longer need what its entries name";
            (Error::journal(journal, message).may_be_billed(), id)
        }
    };
    id.iter().fold(error, Error::with_id)
}

#[cfg(any(fuzzing, test))]
pub(crate) use self::file_journal::check_parse;

#[cfg(test)]
mod model_test;
