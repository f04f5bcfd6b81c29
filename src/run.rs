//! Durable runs, which may be killed anywhere, continue when they are called again, and pay once.
//!
//! [`next_action`] decides what happens next; this file carries it out. Each action records what it
//! has done, and the next one follows from the record. A run has three parts, so that a batch can
//! carry out those of many runs at once: [`start`](DurableRun::start) leads to a generation to wait
//! for, [`settle`](DurableRun::settle) records how the wait ended, and a run to a file then
//! downloads its video.

mod batch;
pub(crate) mod file_journal;
mod file_run;
mod fingerprint;
mod journal;
mod next;
mod proof;
mod record;
mod recover;

use crate::context::RequestContext;
use crate::create::{CreateStep, generate_client_request_id, submit};
use crate::download::{Target, probe_partial_file};
use crate::error::{Error, ErrorKind, Result};
use crate::event::EventKind;
use crate::hash::hash_reader;
use crate::model::body::RequestBody;
use crate::model::generation::{GenerationId, Video};
use crate::model::request::ImageToVideo;
use crate::operation::Operation;
use crate::poll::Known;

pub use self::batch::BatchOptions;
pub(crate) use self::batch::generate_all_to;
pub use self::file_journal::FileJournal;
pub use self::file_run::SavedVideo;
pub use self::fingerprint::RequestFingerprint;
pub use self::journal::{BoxError, Journal, JournalEntry};

use self::batch::Stops;
use self::journal::now;
use self::next::{Action, Blocker, TargetState, next_action};
use self::record::{Record, RecordedRequest};

const OPERATION: Operation = Operation::GenerateTo;

/// What a run works with.
pub(crate) struct DurableRun<'a> {
    pub(crate) context: RequestContext<'a>,
    pub(crate) request: &'a ImageToVideo,
    /// In a batch, why it creates no more generations.
    pub(crate) stops: Option<&'a Stops>,
}

/// Where a run has come to before its wait.
pub(crate) enum Started<P> {
    /// The video is at the target.
    Saved(SavedVideo),
    /// The generation exists: what waits for it.
    Pending(P),
}

/// A generation to wait for.
pub(crate) struct Pending {
    id: GenerationId,
    known: Known,
    replaces: Option<GenerationId>,
    /// Why the id of an accepted create could not be recorded.
    unrecorded: Option<Error>,
}

impl Pending {
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
        let mut record = Record::open(journal, &request)?;
        let started = self.start(&mut record, body, None, &TargetState::Absent);
        match started.map_err(|error| record.explain(error))? {
            Started::Pending(mut pending) => {
                let waited = self.context.wait(&pending.id, &pending.known);
                self.settle(&mut record, &mut pending, waited)
            }
            Started::Saved(_) => Err(Error::journal(&record.name(), "has no target")),
        }
    }

    /// What tells the request from others, and its body, opened once: what is hashed is what is
    /// sent. The image may be missing when a run only has to fetch its video, so an error of the
    /// body matters only to a create.
    fn prepare(&self) -> Result<(RecordedRequest, Result<RequestBody>)> {
        let mut body = self.request.body();
        let image = body.as_mut().ok().and_then(|body| body.image.as_mut()).map(|image| {
            hash_reader(image).map_err(|e| image.read_error(e).with_operation(OPERATION))
        });
        let (image, body) = match image.transpose() {
            Ok(hash) => (hash, body),
            Err(error) => (None, Err(error)),
        };
        let (base_url, route) =
            (self.context.session.recorded_base_url(), self.context.client.route.path());
        let fingerprint = RequestFingerprint::new(self.request, image, &base_url, route)?;
        let source = self.request.image.journal_name();
        Ok((RecordedRequest { fingerprint, source }, body))
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
            let replace_videos = self.context.client.replace_videos;
            match next_action(record.entries(), record.request(), state, replace_videos) {
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
                    let is_completed = record.is_completed(&id);
                    let known = if is_completed { Known::Completed } else { Known::Created };
                    let pending = Pending { id, known, replaces, unrecorded: None };
                    return Ok(Started::Pending(pending));
                }
                Action::Recover { client_request_id, id, time } => {
                    self.recover(record, &client_request_id, id, time)?;
                }
                Action::Create { rejected, replaces } => {
                    let Some(id) = self.adopt(&rejected)? else {
                        self.may_create()?;
                        let body = body?;
                        target.map_or(Ok(()), probe_partial_file)?;
                        return self.create(record, body, replaces).map(Started::Pending);
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
                CreateStep::Sending(client_request_id, id) => JournalEntry::Sending {
                    client_request_id: client_request_id.to_owned(),
                    id: id.cloned(),
                    time: now(),
                },
                CreateStep::Rejected(error) => JournalEntry::Rejected {
                    status: error.status(),
                    marked: error.has_vendor_marks(),
                    id: error.generation_id().cloned(),
                    time: now(),
                },
            })
        };
        let (generation, sent) = submit(&self.context, body, &id_of, &mut on_step)?;
        let id = generation.id.clone();
        // Not an error of the run: a generation that is paid for must be fetched.
        let unrecorded = record.append(JournalEntry::Created { id: id.clone() }).err();
        let kind = EventKind::Created { generation: &generation };
        self.context.emit_with(Some(&id), Some(&sent), kind);
        let known = Known::Response(Box::new(generation));
        Ok(Pending { id, known, replaces, unrecorded })
    }

    /// Records how the wait ended.
    fn settle(
        &self,
        record: &mut Record<'_>,
        pending: &mut Pending,
        waited: Result<Video>,
    ) -> Result<Video> {
        let id = pending.id.clone();
        let was_completed = matches!(pending.known, Known::Completed);
        let error = match waited {
            Ok(video) if was_completed => return Ok(video),
            Ok(video) => {
                // The video counts, not the note that it is there.
                let _ = record.append(JournalEntry::Completed { id, usage: video.usage });
                return Ok(video);
            }
            Err(error) => error,
        };
        let error = match error.kind() {
            ErrorKind::GenerationFailed => {
                let reason = error.server_message().unwrap_or_default().to_owned();
                let recorded = record.append(match error.may_have_been_billed() {
                    true => JournalEntry::Ended { id, reason },
                    false => JournalEntry::Failed { id, reason },
                });
                recorded.err().unwrap_or(error)
            }
            // It is not running: its URL was needed to download it.
            ErrorKind::WaitTimeout | ErrorKind::Cancelled if was_completed => {
                error.with_operation(Operation::Download)
            }
            _ => error,
        };
        Err(pending.explain(error))
    }
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
            (error.with_client_request_id(client_request_id.as_deref()), id)
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
    error.with_id(&id)
}

#[cfg(test)]
mod model_test;
