//! A durable run whose video goes to a file, with a journal next to it.

use std::path::{Path, PathBuf};

use crate::context::TimeLimit;
use crate::download::{Replace, Target, download};
use crate::error::{Error, Result};
use crate::event::EventKind;
use crate::model::generation::{GenerationId, Usage, Video};

use super::file_journal::{FileJournal, journal_name, journal_path};
use super::journal::JournalEntry;
use super::next::{Blocker, TargetState};
use super::record::{Record, RecordedRequest};
use super::{DurableRun, OPERATION, Pending, Started, blocked_error};

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

/// A run that has to wait for its generation.
pub(crate) struct FileRun {
    target: Target,
    /// The file that the video may replace.
    replace: Replace,
    journal: FileJournal,
    request: RecordedRequest,
    pub(crate) pending: Pending,
}

impl DurableRun<'_> {
    /// Runs until the video is at the path.
    pub(crate) fn generate_to(&self, path: &Path) -> Result<SavedVideo> {
        match self.open(path)? {
            Started::Saved(saved) => Ok(saved),
            Started::Pending(run) => {
                let waited = self.context.wait(&run.pending.id, &run.pending.known);
                self.save(self.settle_file(*run, waited)?)
            }
        }
    }

    /// Opens the target and its journal, and runs up to a generation to wait for. An invalid call
    /// leaves no new file behind.
    pub(crate) fn open(&self, path: &Path) -> Result<Started<Box<FileRun>>> {
        let target = Target::resolve(path, OPERATION)?;
        let journal_path = journal_path(&target);
        // What cannot be known is an error, never "no".
        let is_new = !journal_path.try_exists().map_err(|e| {
            Error::io(OPERATION, format!("{}: failed to read", journal_path.display()), e)
        })?;
        if is_new {
            self.may_create()?;
            if target.file_len()?.is_some() {
                let blocker = Blocker::UnknownFile { own: None };
                let journal = journal_name(&journal_path);
                return Err(blocked_error(&journal, Some(&target), blocker, None));
            }
        }
        let (request, body) = self.prepare()?;
        let body = if is_new { Ok(body?) } else { body };
        let mut journal = self.open_journal(journal_path)?;
        let mut record = Record::open(&mut journal, &request)?;
        let (state, found) = target_state(&target, record.entries())?;
        let started = self.start(&mut record, body, Some(&target), &state);
        Ok(match started.map_err(|error| record.explain(error))? {
            Started::Saved(saved) => Started::Saved(saved),
            Started::Pending(pending) => {
                let may_replace = state == TargetState::Empty || pending.replaces.is_some();
                let replace = if may_replace { found } else { Replace::Recorded(None) };
                Started::Pending(Box::new(FileRun { target, replace, journal, request, pending }))
            }
        })
    }

    /// Waits for another process with the same target, as long as for a generation.
    fn open_journal(&self, path: PathBuf) -> Result<FileJournal> {
        let limit = TimeLimit::new(self.context.wait_options.timeout);
        let name = journal_name(&path);
        FileJournal::open_or_wait(path, |delay| {
            let remaining = limit.remaining();
            if remaining.is_zero() {
                let busy = Error::journal(&name, "in use by another process");
                return Err(limit.error(OPERATION, Some(busy)));
            }
            let slept = self.context.sleep(delay.min(remaining));
            if slept { Ok(()) } else { Err(Error::cancelled(OPERATION)) }
        })
    }

    /// Records how the wait ended.
    pub(crate) fn settle_file(
        &self,
        mut run: FileRun,
        waited: Result<Video>,
    ) -> Result<(FileRun, Video)> {
        let mut record = Record::open(&mut run.journal, &run.request)?;
        let video = self.settle(&mut record, &mut run.pending, waited)?;
        Ok((run, video))
    }

    /// Downloads the video to the target.
    pub(crate) fn save(&self, (mut run, video): (FileRun, Video)) -> Result<SavedVideo> {
        let saved = self.download(&mut run, &video);
        saved.map_err(|error| run.pending.explain(error))
    }

    fn download(&self, run: &mut FileRun, video: &Video) -> Result<SavedVideo> {
        let FileRun { target, replace, journal, request, pending } = run;
        let mut record = Record::open(journal, request)?;
        let id = &pending.id;
        let mut before_publish = |length: u64, hash: &str| {
            let hash = hash.to_owned();
            record.append(JournalEntry::Publishing { id: id.clone(), length, hash })
        };
        let length = download(&self.context, video, target, replace, Some(&mut before_publish))?;
        let usage = video.usage.or_else(|| record.usage(id));
        record.append(JournalEntry::Saved { id: id.clone(), length, usage })?;
        self.context.emit(id, EventKind::Saved { bytes: length });
        let (path, id) = (target.path.clone(), id.clone());
        Ok(SavedVideo { path, bytes: length, id, reused: false, usage })
    }
}

/// What is at the target, and which file of ours a video may replace there.
fn target_state(target: &Target, entries: &[JournalEntry]) -> Result<(TargetState, Replace)> {
    let len = match target.file_len()? {
        None => return Ok((TargetState::Absent, Replace::Recorded(None))),
        Some(0) => return Ok((TargetState::Empty, Replace::Recorded(Some((0, None))))),
        Some(len) => len,
    };
    for entry in entries.iter().rev() {
        if let JournalEntry::Publishing { id, length, hash } = entry
            && *length == len
            && target.is_file_with(len, Some(hash))?
        {
            let found = Replace::Recorded(Some((len, Some(hash.clone()))));
            return Ok((TargetState::Video(id.clone()), found));
        }
    }
    Ok((TargetState::Other, Replace::Recorded(None)))
}
