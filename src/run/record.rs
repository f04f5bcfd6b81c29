//! A journal during a run, and what is known to be in it.

use crate::error::{Error, Result};
use crate::model::generation::{GenerationId, Usage};

use super::fingerprint::RequestFingerprint;
use super::journal::{Journal, JournalEntry, now};
use super::next::newest_of;

/// A run's request, as its intent records it.
pub(crate) struct RecordedRequest {
    pub(crate) fingerprint: RequestFingerprint,
    /// The image's path or URL, for people.
    pub(crate) source: Option<String>,
}

/// The durable entries of a journal, for a run of one request.
pub(crate) struct Record<'a> {
    journal: &'a mut dyn Journal,
    entries: Vec<JournalEntry>,
    request: &'a RecordedRequest,
}

impl<'a> Record<'a> {
    pub(crate) fn open(journal: &'a mut dyn Journal, request: &'a RecordedRequest) -> Result<Self> {
        let entries = journal.entries();
        let entries = entries
            .map_err(|e| Error::journal_with_source(&journal.name(), "failed to read", e))?;
        Ok(Self { journal, entries, request })
    }

    pub(crate) fn name(&self) -> String {
        self.journal.name()
    }

    pub(crate) fn entries(&self) -> &[JournalEntry] {
        &self.entries
    }

    pub(crate) fn request(&self) -> &'a RequestFingerprint {
        &self.request.fingerprint
    }

    /// The part of the request that differs from the last other one's in the record, if there is one.
    pub(crate) fn difference(&self) -> Option<&'static str> {
        self.entries.iter().rev().find_map(|entry| match entry {
            JournalEntry::Intent { request, .. } => self.request().difference(request),
            _ => None,
        })
    }

    /// Records that a request is about to be carried out.
    pub(crate) fn begin(
        &mut self,
        request: RequestFingerprint,
        replaces: Option<GenerationId>,
    ) -> Result<()> {
        let source = self.request.source.clone();
        self.write(JournalEntry::Intent { request, source, time: now(), replaces })
    }

    /// Records a step of this request: after an intent of it, since entries are of the request of
    /// the last one.
    pub(crate) fn append(&mut self, entry: JournalEntry) -> Result<()> {
        let id = entry.id().cloned();
        let (mut last, mut named) = (None, None);
        for recorded in &self.entries {
            match recorded {
                JournalEntry::Intent { request, .. } => last = Some(request),
                recorded if id.is_some() && recorded.id() == id.as_ref() => named = last,
                _ => {}
            }
        }
        // A generation stays with the request that it is recorded for: that of a run whose image is
        // missing would match those with any other image.
        let request = named.filter(|named| self.request().matches(named)).unwrap_or(self.request());
        let is_last = last.is_some_and(|last| request.matches(last));
        let started = if is_last { Ok(()) } else { self.begin(request.clone(), None) };
        let written = started.and_then(|()| self.write(entry));
        written.map_err(|error| error.with_id(&id))
    }

    fn write(&mut self, entry: JournalEntry) -> Result<()> {
        let written = self.journal.append(self.entries.len() as u64, &entry);
        written.map_err(|e| Error::journal_with_source(&self.name(), "failed to write", e))?;
        self.entries.push(entry);
        Ok(())
    }

    fn entries_about(&self, id: &GenerationId) -> impl Iterator<Item = &JournalEntry> {
        self.entries.iter().rev().filter(move |entry| entry.id() == Some(id))
    }

    /// Whether the generation is recorded as having a video.
    pub(crate) fn is_completed(&self, id: &GenerationId) -> bool {
        use JournalEntry::{Completed, Publishing, Saved};
        let is = |entry| matches!(entry, &(Completed { .. } | Publishing { .. } | Saved { .. }));
        self.entries_about(id).any(is)
    }

    pub(crate) fn usage(&self, id: &GenerationId) -> Option<Usage> {
        self.entries_about(id).find_map(|entry| match entry {
            JournalEntry::Completed { usage, .. } | JournalEntry::Saved { usage, .. } => *usage,
            _ => None,
        })
    }

    /// Adds to an error what the record knows: the ids of a create that may have been accepted.
    pub(crate) fn explain(&self, error: Error) -> Error {
        let Some(newest) = newest_of(&self.entries, self.request()) else { return error };
        let id = newest.id().filter(|_| error.generation_id().is_none());
        let sent = newest.client_request_id().filter(|_| error.client_request_id().is_none());
        error.may_be_billed().with_id(id).with_client_request_id(sent)
    }
}
