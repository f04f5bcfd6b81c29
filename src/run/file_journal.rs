//! The journal in a file: one entry per line, each on disk before the next thing happens. It never
//! contains the API key.

use std::fs::{File, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::download::Target;
use crate::error::{Error, Result};
use crate::fs::{fsync_parent_dir, is_same_file, open_options, read_up_to};
use crate::operation::Operation;

use super::journal::{BoxError, InvalidEntry, Journal, JournalEntry};

/// A larger file is not a journal: a run adds a few lines.
const MAX_LEN: u64 = 16 * 1024 * 1024;

/// The journals that callers hold open. A run on one would wait for its own process; runs release
/// theirs, so that concurrent ones wait for each other.
static OPEN_JOURNALS: Mutex<Vec<PathBuf>> = Mutex::new(Vec::new());

/// The path of a target's journal: `cat.mp4.kling.jsonl` for `cat.mp4`.
pub(crate) fn journal_path(target: &Target) -> PathBuf {
    target.sibling("", ".kling.jsonl")
}

/// What error messages call the journal at this path.
pub(crate) fn journal_name(path: &Path) -> String {
    format!("journal {}", path.display())
}

/// The journal of [`generate_to`](crate::Client::generate_to), in the file `<path>.kling.jsonl`.
///
/// It is locked while it is open, so that no other process continues the same run. Most programs
/// never open it: `generate_to` does. Open it to [`abandon`](Self::abandon) a run, or to read its
/// [`entries`](Journal::entries).
///
/// ```no_run
/// use kling_video::FileJournal;
///
/// // After a `CreateUnknown` that the API's log never lists, or a generation that has expired:
/// FileJournal::for_target("cat.mp4")?.abandon()?;
/// // The next call of `generate_to` pays for a new generation.
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Debug)]
pub struct FileJournal {
    file: File,
    path: PathBuf,
    /// Its path in [`OPEN_JOURNALS`], if it is there.
    listed: Option<PathBuf>,
    /// Opened for reading only, since the file or its directory cannot be written.
    read_only: bool,
    content: Parsed,
}

impl FileJournal {
    /// Opens an existing journal.
    ///
    /// # Errors
    /// [`Journal`](crate::ErrorKind::Journal) if there is none, if it is in use or cannot be locked
    /// or written, if a line is invalid, or if it was written by another version of this crate.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        let failed =
            |e| Error::journal_with_source(&journal_name(path.as_ref()), "failed to open", e);
        let path = std::path::absolute(path.as_ref()).map_err(failed)?;
        path.symlink_metadata().map_err(failed)?;
        // A child that another thread is starting holds the lock of a run that has just ended, from
        // its fork to its exec. Nothing else is waited for.
        let mut patience = Duration::from_millis(150);
        let name = journal_name(&path);
        let mut journal = Self::open_or_wait(path, |delay| {
            let Some(left) = patience.checked_sub(delay) else {
                return Err(Error::journal(&name, "in use by another process; try again later"));
            };
            patience = left;
            std::thread::sleep(delay);
            Ok(())
        })?;
        let mut open = OPEN_JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
        open.push(canonical(&journal.path));
        journal.listed = open.last().cloned();
        Ok(journal)
    }

    /// Opens the journal of the video at `path`.
    ///
    /// # Errors
    /// As [`open`](Self::open), and [`Io`](crate::ErrorKind::Io) for a path that cannot be a file's.
    pub fn for_target(path: impl AsRef<Path>) -> Result<Self> {
        let target = Target::resolve(path.as_ref(), Operation::GenerateTo)?;
        Self::open(journal_path(&target))
    }

    /// Gives up what the journal's runs may have paid for, as [`Journal::abandon`] does.
    ///
    /// # Errors
    /// [`Journal`](crate::ErrorKind::Journal) if the file cannot be written.
    pub fn abandon(&mut self) -> Result<()> {
        Journal::abandon(self)
            .map_err(|e| Error::journal_with_source(&self.name(), "failed to write", e))
    }

    /// Opens the journal, creating it if necessary. Calls `wait` with how long to sleep while
    /// another process has it, with growing delays; an error ends the wait.
    pub(crate) fn open_or_wait(
        path: PathBuf,
        mut wait: impl FnMut(Duration) -> Result<()>,
    ) -> Result<Self> {
        let name = || journal_name(&path);
        let io_error =
            |message: &str, e: io::Error| Error::journal_with_source(&name(), message, e);
        let mut delay = Duration::from_millis(5);
        let (file, read_only) = loop {
            match path.metadata() {
                Ok(metadata) if !metadata.is_file() => {
                    return Err(Error::journal(&name(), "not a regular file"));
                }
                Err(e) if e.kind() != io::ErrorKind::NotFound => {
                    return Err(io_error("failed to read", e));
                }
                _ => {}
            }
            let (file, read_only) = match open_options().create(true).truncate(false).open(&path) {
                Ok(file) => (file, false),
                // A finished run can be reused from a directory that cannot be written.
                Err(e) => match open_options().write(false).open(&path) {
                    Ok(file) => (file, true),
                    Err(_) => return Err(io_error("failed to open for writing", e)),
                },
            };
            let canonical = canonical(&path);
            if OPEN_JOURNALS.lock().unwrap_or_else(PoisonError::into_inner).contains(&canonical) {
                return Err(Error::journal(&name(), "already open in this process"));
            }
            // The system releases the lock when its process ends in any way.
            while let Err(e) = file.try_lock() {
                if let TryLockError::Error(e) = e {
                    let message = "failed to lock; unlocked, two runs could pay for the same video";
                    return Err(io_error(message, e));
                }
                wait(delay)?;
                delay = (delay * 2).min(Duration::from_millis(500));
            }
            // The file may have been deleted or replaced while this call waited.
            if is_same_file(&file, &path) {
                break (file, read_only);
            }
        };
        let text = read(&file).map_err(|e| io_error("failed to read", e))?;
        if text.is_empty() && !read_only {
            // The file is new, or its creator was killed before this point. Its directory entry
            // must be durable as well.
            fsync_parent_dir(&path).map_err(|e| io_error("failed to sync the directory", e))?;
        }
        let content = parse(&text).map_err(|error| error.into_error(&path))?;
        Ok(Self { file, path, listed: None, read_only, content })
    }

    fn write(&mut self, entry: &JournalEntry) -> io::Result<()> {
        if self.read_only {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        // An editor or a checkout may have replaced the file: an entry in the old one is lost.
        if !is_same_file(&self.file, &self.path) {
            return Err(io::Error::other("the file was replaced or deleted during the run"));
        }
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if self.content.missing_newline {
            line.insert(0, b'\n');
        }
        // Remove what a killed process or a full disk left of a line, so that it does not become
        // part of this one.
        if self.file.metadata()?.len() > self.content.valid_len {
            self.file.set_len(self.content.valid_len)?;
        }
        self.file.seek(SeekFrom::Start(self.content.valid_len))?;
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.content.missing_newline = false;
        self.content.valid_len += line.len() as u64;
        Ok(())
    }
}

impl Journal for FileJournal {
    fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
        Ok(self.content.entries.clone())
    }

    /// An entry that could not be made durable is taken back.
    fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
        if position != self.content.entries.len() as u64 {
            return Err("another writer has appended to it".into());
        }
        if let Err(e) = self.write(entry) {
            // If this fails too, the line stays. Its run has reported that nothing was sent.
            let _ = self.file.set_len(self.content.valid_len).and_then(|()| self.file.sync_data());
            return Err(e.into());
        }
        self.content.entries.push(entry.clone());
        Ok(())
    }

    fn name(&self) -> String {
        journal_name(&self.path)
    }
}

impl Drop for FileJournal {
    fn drop(&mut self) {
        let mut open = OPEN_JOURNALS.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|path| Some(path) != self.listed.as_ref());
    }
}

/// The path by which one file is recognized, however it is spelled.
fn canonical(path: &Path) -> PathBuf {
    path.canonicalize().unwrap_or_else(|_| path.to_owned())
}

fn read(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    read_up_to(&mut file, MAX_LEN + 1, &mut text)?;
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "file exceeds the 16 MiB limit"));
    }
    Ok(text)
}

/// The content of a journal's file.
#[derive(Debug)]
pub(crate) struct Parsed {
    pub(crate) entries: Vec<JournalEntry>,
    /// The end of the last complete line. What follows is torn.
    pub(crate) valid_len: u64,
    /// The last line is complete except for its newline.
    pub(crate) missing_newline: bool,
}

/// A line that cannot be parsed, and the entries of the other lines.
#[derive(Debug)]
pub(crate) struct ParseError {
    pub(crate) line: usize,
    error: InvalidEntry,
    entries: Vec<JournalEntry>,
}

impl ParseError {
    /// An error with the newest ids that can still be read.
    fn into_error(self, path: &Path) -> Error {
        let line = self.line;
        let message = match self.error {
            InvalidEntry::Invalid => format!(
                "invalid entry at line {line}; repair it, or move the file away if you no longer \
                 need what its other lines name"
            ),
            InvalidEntry::OtherVersion => format!(
                "line {line} was written by another version of kling-video; use that version to \
                 finish the run"
            ),
        };
        let newest = || self.entries.iter().rev();
        Error::journal(&journal_name(path), message)
            .may_be_billed()
            .with_id(newest().find_map(JournalEntry::id))
            .with_client_request_id(newest().find_map(JournalEntry::client_request_id))
    }
}

/// Parses the lines. Blank ones are skipped.
///
/// A last line without a newline was torn when its process was killed. If what is there is complete,
/// some entries count: see [`counts_unterminated`].
pub(crate) fn parse(text: &[u8]) -> Result<Parsed, ParseError> {
    let mut parsed = Parsed { entries: Vec::new(), valid_len: 0, missing_newline: false };
    let mut failed = None;
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let has_newline = line.ends_with(b"\n");
        if has_newline && line.trim_ascii().is_empty() {
            parsed.valid_len += line.len() as u64;
            continue;
        }
        let json = std::str::from_utf8(line).ok().and_then(|line| serde_json::from_str(line).ok());
        match JournalEntry::from_value(&json.unwrap_or_default()) {
            Ok(entry) if has_newline || counts_unterminated(&entry) => parsed.entries.push(entry),
            Ok(_) => break,
            Err(InvalidEntry::Invalid) if !has_newline => break,
            Err(error) => {
                failed.get_or_insert((index + 1, error));
                continue;
            }
        }
        parsed.valid_len += line.len() as u64;
        parsed.missing_newline = !has_newline;
    }
    match failed {
        Some((line, error)) => Err(ParseError { line, error, entries: parsed.entries }),
        None => Ok(parsed),
    }
}

/// Whether the entry counts even if its line lacks the newline, and so may not be durable. What
/// allows to send, or gives something up, does not: a create is sent only once its entry is durable.
fn counts_unterminated(entry: &JournalEntry) -> bool {
    matches!(
        entry,
        JournalEntry::Created { .. }
            | JournalEntry::Completed { .. }
            | JournalEntry::Publishing { .. }
            | JournalEntry::Saved { .. }
    )
}

#[cfg(test)]
mod tests {
    use super::super::fingerprint::RequestFingerprint;
    use super::*;
    use crate::GenerationId;
    use crate::arbitrary::{Seed, cases, from_seed};
    use proptest::collection::vec;
    use proptest::option;
    use proptest::prelude::*;

    const CREATED: &str = "{\"step\":\"created\",\"id\":\"a:b/c\"}\n";
    const SENDING: &str = "{\"step\":\"sending\",\"client_request_id\":\"r\",\"time\":1}\n";

    #[test]
    fn torn_last_line_counts_if_it_is_complete_and_allows_nothing() {
        for (line, counts) in [(CREATED, true), (SENDING, false)] {
            let line = line.as_bytes();
            for cut in 1..line.len() {
                let text = [line, &line[..cut]].concat();
                let parsed = parse(&text).unwrap();
                let complete = counts && cut == line.len() - 1;
                assert_eq!(parsed.entries.len(), if complete { 2 } else { 1 });
                assert_eq!(parsed.valid_len, if complete { text.len() } else { line.len() } as u64);
                assert_eq!(parsed.missing_newline, complete);
            }
        }
    }

    #[test]
    fn blank_lines_are_skipped() {
        let parsed = parse(format!("\n{CREATED}  \r\n\n{CREATED}\n").as_bytes()).unwrap();
        assert_eq!(parsed.entries.len(), 2);
    }

    #[test]
    fn invalid_line_is_reported_with_the_ids_of_the_others() {
        for (invalid, error) in [
            ("garbage", InvalidEntry::Invalid),
            ("# a comment", InvalidEntry::Invalid),
            ("\0\0\0", InvalidEntry::Invalid),
            (r#"{"step":"created","id":""}"#, InvalidEntry::Invalid),
            (r#"{"step":"created"}"#, InvalidEntry::Invalid),
            (r#"{"step":"refunded","id":"a"}"#, InvalidEntry::OtherVersion),
            (r#"{"step":"intent","request":"0","at":1}"#, InvalidEntry::OtherVersion),
            (r#"{"step":"intent","version":99}"#, InvalidEntry::OtherVersion),
        ] {
            let text = format!("{CREATED}{invalid}\n{SENDING}");
            let failed = parse(text.as_bytes()).err().unwrap();
            assert_eq!((failed.line, failed.error), (2, error), "{invalid}");
            let error = failed.into_error(Path::new("cat.mp4.kling.jsonl"));
            assert_eq!(error.generation_id().map(GenerationId::as_str), Some("a:b/c"));
            assert_eq!(error.client_request_id(), Some("r"));
            assert!(error.may_have_been_billed());
        }
        // A complete entry of a newer version may say anything, also without its newline.
        assert_eq!(
            parse(br#"{"step":"refunded"}"#).err().unwrap().error,
            InvalidEntry::OtherVersion
        );
        assert!(parse(b"\0\0\0").unwrap().entries.is_empty());
        assert!(parse(b"").unwrap().entries.is_empty());
    }

    fn text() -> impl Strategy<Value = String> {
        from_seed(Seed::string)
    }

    fn entry() -> impl Strategy<Value = JournalEntry> {
        let id = || any::<u64>().prop_map(|id| id.to_string().parse::<GenerationId>().unwrap());
        let usage = || option::of(Just(serde_json::from_str(r#"{"usd_spent":0.5}"#).unwrap()));
        prop_oneof![
            (
                text(),
                option::of(text()),
                vec(option::of(text()), 0..3),
                option::of(id()),
                any::<u64>()
            )
                .prop_map(|(fields, image, masks, replaces, time)| {
                    let text = || fields.clone();
                    let (base_url, route, model) = (text(), text(), text());
                    let source = image.clone();
                    let request =
                        RequestFingerprint { base_url, route, model, fields, image, masks };
                    JournalEntry::Intent { request, source, time, replaces }
                }),
            (text(), option::of(id()), any::<u64>()).prop_map(|(client_request_id, id, time)| {
                JournalEntry::Sending { client_request_id, id, time }
            }),
            (option::of(any::<u16>()), any::<bool>(), option::of(id()), any::<u64>()).prop_map(
                |(status, marked, id, time)| JournalEntry::Rejected { status, marked, id, time }
            ),
            id().prop_map(|id| JournalEntry::Created { id }),
            (id(), usage()).prop_map(|(id, usage)| JournalEntry::Completed { id, usage }),
            (id(), any::<u64>(), text()).prop_map(|(id, length, hash)| JournalEntry::Publishing {
                id,
                length,
                hash
            }),
            (id(), any::<u64>(), usage()).prop_map(|(id, length, usage)| JournalEntry::Saved {
                id,
                length,
                usage
            }),
            (id(), text()).prop_map(|(id, reason)| JournalEntry::Failed { id, reason }),
            (id(), text()).prop_map(|(id, reason)| JournalEntry::Ended { id, reason }),
            any::<u64>().prop_map(|time| JournalEntry::Abandoned { time }),
        ]
    }

    fn write(entries: &[JournalEntry]) -> Vec<u8> {
        let line =
            |entry: &JournalEntry| [serde_json::to_vec(entry).unwrap(), b"\n".to_vec()].concat();
        entries.iter().flat_map(line).collect()
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn entry_round_trips(entries in vec(entry(), 0..4)) {
            prop_assert_eq!(parse(&write(&entries)).unwrap().entries, entries);
        }

        #[test]
        fn arbitrary_bytes_are_parsed_consistently(
            entries in vec(entry(), 0..3),
            garbage in vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'{'), Just(b'"')], 0..12),
            at in any::<prop::sample::Index>(),
            overwrite: bool,
        ) {
            let mut text = write(&entries);
            let at = at.index(text.len() + 1);
            let until = if overwrite { text.len().min(at + garbage.len()) } else { at };
            text.splice(at..until, garbage);
            crate::fuzzing::journal(&text);
        }

        #[test]
        fn truncated_journal_loses_only_the_cut_entry(
            entries in vec(entry(), 1..4),
            cut in any::<prop::sample::Index>(),
            zeros in 0usize..4,
        ) {
            let full = write(&entries);
            let cut = cut.index(full.len() + 1);
            let mut text = full[..cut].to_vec();
            // Some file systems leave zeros where a write was cut short.
            text.extend(vec![0; zeros]);
            let parsed = parse(&text).unwrap();
            let newlines = full[..cut].iter().filter(|byte| **byte == b'\n').count();
            // An entry without its newline is complete once its closing brace is written.
            let torn = entries.get(newlines).filter(|entry| {
                zeros == 0 && full.get(cut) == Some(&b'\n') && counts_unterminated(entry)
            });
            prop_assert_eq!(parsed.entries.len(), newlines + usize::from(torn.is_some()));
            prop_assert_eq!(&parsed.entries[..], &entries[..parsed.entries.len()]);
        }
    }
}
