//! The journal next to an output file, which makes a run resumable: one JSON line per entry, each
//! synced to disk before the run continues. It never contains the API key.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fs::{fsync_parent_dir, is_same_file, with_suffix};
use crate::model::generation::GenerationId;
use crate::run::fingerprint::Fingerprint;

/// A run appends a few lines, so a larger file is not a journal.
const MAX_LEN: u64 = 16 * 1024 * 1024;

/// One line of the journal: a step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Entry {
    /// A run was started. Nothing has been sent.
    Intent {
        #[serde(flatten)]
        fingerprint: Fingerprint,
        at: u64,
    },
    /// A create request is about to be committed. With an `id`, it was committed, and its unusable
    /// response named that generation.
    Sending {
        client_request_id: String,
        at: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<GenerationId>,
    },
    /// The create request was definitely not accepted.
    Rejected { reason: String },
    /// The create request was accepted.
    Created { id: GenerationId },
    /// The generation failed and is not charged.
    Failed { id: GenerationId, reason: String },
    /// The video is complete at its target and has this length.
    Saved { id: GenerationId, bytes: u64 },
}

/// The current Unix time in seconds. It is only used to tell how many days ago a run started.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The path of a target's journal: `cat.mp4.kling.jsonl` for `cat.mp4`.
pub(crate) fn path_for(target: &Path) -> PathBuf {
    with_suffix(target, ".kling.jsonl")
}

/// An open journal, locked by this process.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// The length up to the end of the last complete entry. Any bytes after it are a torn write.
    valid_len: u64,
    /// Whether the last entry is complete except for its newline.
    missing_newline: bool,
    entries: Vec<Entry>,
}

impl Journal {
    /// Opens or creates the journal and locks it. While another process holds the lock, `wait` is
    /// called with the time to sleep before the next attempt; its error ends the waiting.
    pub(crate) fn open(
        path: PathBuf,
        mut wait: impl FnMut(Duration) -> Result<()>,
    ) -> Result<Self> {
        let io_error = |message: &str, e: io::Error| Error::journal_with_source(&path, message, e);
        let file = loop {
            if path.exists() && !path.is_file() {
                return Err(Error::journal(&path, "not a regular file"));
            }
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)
                .map_err(|e| io_error("failed to open for writing", e))?;
            lock(&file, &path, &mut wait)?;
            // The user may have deleted the file, to abandon its run, while this call waited.
            if is_same_file(&file, &path) {
                break file;
            }
        };
        let text = read(&file).map_err(|e| io_error("failed to read", e))?;
        if text.is_empty() {
            // The file is new, or its creator was killed before this point. Its directory entry
            // must be durable as well.
            fsync_parent_dir(&path).map_err(|e| io_error("failed to sync the directory", e))?;
        }
        let parsed = parse(&text).map_err(|line| {
            let message = format!(
                "invalid entry at line {line}: repair it, or delete the file to abandon its run"
            );
            Error::journal(&path, message)
        })?;
        let Parsed { entries, valid_len, missing_newline } = parsed;
        Ok(Self { file, path, valid_len, missing_newline, entries })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The entries, oldest first.
    pub(crate) fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Appends an entry, which is durable when this returns.
    pub(crate) fn append(&mut self, entry: Entry) -> Result<()> {
        let written = self.write(&entry);
        self.entries.push(entry);
        written.map_err(|e| Error::journal_with_source(&self.path, "failed to write", e))
    }

    fn write(&mut self, entry: &Entry) -> io::Result<()> {
        let mut line = serde_json::to_vec(entry)?;
        line.push(b'\n');
        if std::mem::take(&mut self.missing_newline) {
            line.insert(0, b'\n');
        }
        // A killed process or a full disk may have left part of a line behind, which must not run
        // into this one.
        if self.file.metadata()?.len() > self.valid_len {
            self.file.set_len(self.valid_len)?;
        }
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.valid_len += line.len() as u64;
        Ok(())
    }
}

/// Waits for the lock with growing delays. The system releases it when the process that holds it
/// ends, even if that process is killed.
fn lock(file: &File, path: &Path, wait: &mut impl FnMut(Duration) -> Result<()>) -> Result<()> {
    let mut delay = Duration::from_millis(5);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => wait(delay)?,
            Err(TryLockError::Error(e)) => {
                let message = "failed to lock; unlocked, two runs could pay for the same video";
                return Err(Error::journal_with_source(path, message, e));
            }
        }
        delay = (delay * 2).min(Duration::from_millis(500));
    }
}

fn read(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MAX_LEN + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MAX_LEN {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "file exceeds the 16 MiB limit"));
    }
    Ok(text)
}

struct Parsed {
    entries: Vec<Entry>,
    valid_len: u64,
    missing_newline: bool,
}

/// Parses the lines. The error is the number of an invalid one. A last line without its newline was
/// torn when its process was killed: it counts if it is complete, and is ignored otherwise.
fn parse(text: &[u8]) -> Result<Parsed, usize> {
    let mut parsed = Parsed { entries: Vec::new(), valid_len: 0, missing_newline: false };
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let has_newline = line.ends_with(b"\n");
        match serde_json::from_slice(line) {
            Ok(entry) => parsed.entries.push(entry),
            Err(_) if !has_newline => break,
            Err(_) => return Err(index + 1),
        }
        parsed.valid_len += line.len() as u64;
        parsed.missing_newline = !has_newline;
    }
    Ok(parsed)
}

/// Parses arbitrary bytes and panics if the result is inconsistent.
#[cfg(any(fuzzing, test))]
pub(crate) fn check_parse(text: &[u8]) {
    let length = text.len() as u64;
    match parse(text) {
        Ok(Parsed { entries, valid_len, missing_newline }) => {
            assert!(valid_len <= length && (!missing_newline || valid_len == length));
            // Any bytes after the valid part belong to one torn line, and make no difference.
            let (valid, torn) = text.split_at(usize::try_from(valid_len).unwrap_or(text.len()));
            assert!(!torn.contains(&b'\n'));
            let reparsed = parse(valid).ok();
            assert!(reparsed.is_some_and(|reparsed| {
                (reparsed.entries, reparsed.missing_newline) == (entries, missing_newline)
            }));
        }
        Err(line) => {
            let lines = text.iter().filter(|&&byte| byte == b'\n').count();
            assert!((1..=lines).contains(&line));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, from_seed};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const CREATED: &str = "{\"step\":\"created\",\"id\":\"a:b/c\"}\n";

    #[test]
    fn torn_last_line_is_ignored_unless_complete() {
        let line = CREATED.as_bytes();
        for cut in 1..line.len() {
            let text = [line, &line[..cut]].concat();
            let parsed = parse(&text).unwrap();
            let complete = cut == line.len() - 1;
            assert_eq!(parsed.entries.len(), if complete { 2 } else { 1 });
            assert_eq!(parsed.valid_len, if complete { text.len() } else { line.len() } as u64);
            assert_eq!(parsed.missing_newline, complete);
        }
    }

    #[test]
    fn invalid_line_before_the_last_is_reported_by_number() {
        assert_eq!(parse(format!("{CREATED}garbage\n{CREATED}").as_bytes()).err(), Some(2));
        assert_eq!(parse(b"\0\0\0\n").err(), Some(1));
        assert_eq!(parse(b"{\"step\":\"created\",\"id\":\"\"}\n").err(), Some(1));
        assert!(parse(b"\0\0\0").unwrap().entries.is_empty());
        assert!(parse(b"").unwrap().entries.is_empty());
    }

    fn text() -> impl Strategy<Value = String> {
        from_seed(Seed::string)
    }

    fn entry() -> impl Strategy<Value = Entry> {
        let id = || any::<u64>().prop_map(|id| id.to_string().parse::<GenerationId>().unwrap());
        prop_oneof![
            (text(), proptest::option::of(text()), any::<u64>()).prop_map(
                |(request, image, at)| {
                    let fields = serde_json::json!({"request": request, "image": image});
                    Entry::Intent { fingerprint: serde_json::from_value(fields).unwrap(), at }
                }
            ),
            (text(), any::<u64>()).prop_map(|(client_request_id, at)| {
                Entry::Sending { client_request_id, at, id: None }
            }),
            text().prop_map(|reason| Entry::Rejected { reason }),
            id().prop_map(|id| Entry::Created { id }),
            (id(), text()).prop_map(|(id, reason)| Entry::Failed { id, reason }),
            (id(), any::<u64>()).prop_map(|(id, bytes)| Entry::Saved { id, bytes }),
        ]
    }

    fn write(entries: &[Entry]) -> Vec<u8> {
        let line = |entry| [serde_json::to_vec(entry).unwrap(), b"\n".to_vec()].concat();
        entries.iter().flat_map(line).collect()
    }

    proptest! {
        #![proptest_config(cases(10_000))]

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
            check_parse(&text);
        }

        #[test]
        fn truncated_journal_loses_only_the_cut_entry(
            entries in vec(entry(), 1..4),
            cut in any::<prop::sample::Index>(),
            zeros in 0usize..4,
        ) {
            let full = write(&entries);
            let cut = cut.index(full.len() + 1);
            let newlines =
                full.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
            let mut text = full[..cut].to_vec();
            // Some file systems leave zeros where a write was cut short.
            text.extend(vec![0; zeros]);
            let parsed = parse(&text).unwrap();
            // An entry is complete once its closing brace is written, unless zeros follow it.
            let complete = newlines.filter(|at| *at < cut || (*at == cut && zeros == 0)).count();
            prop_assert_eq!(&parsed.entries, &entries[..complete]);
        }
    }
}
