//! The record beside an output file that makes a run resumable: one JSON line per step, each on
//! disk before the next thing happens. The API key is never in it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::fingerprint::Fingerprint;
use crate::generation::GenerationId;
use crate::part::{is_file_at, sync_folder_of, with_suffix};

/// A larger file is no journal: a run adds a few lines.
const MOST_BYTES: u64 = 16 * 1024 * 1024;

/// One step of a run.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub(crate) enum Step {
    /// A run was begun; nothing was sent.
    Intent {
        #[serde(flatten)]
        fingerprint: Fingerprint,
        at: u64,
    },
    /// A create is about to be committed; or was, and its unreadable answer named this generation.
    Sending {
        client_request_id: String,
        at: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        id: Option<GenerationId>,
    },
    /// The create was certainly not accepted.
    Refused { why: String },
    /// The create was accepted.
    Created { id: GenerationId },
    /// The generation ended with an error and is not charged.
    Failed { id: GenerationId, why: String },
    /// The video is in place, with so many bytes.
    Saved { id: GenerationId, bytes: u64 },
}

/// Seconds since 1970; only differences of days matter.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The journal's path for a target: `cat.mp4` has `cat.mp4.kling.jsonl`.
pub(crate) fn path_for(target: &Path) -> PathBuf {
    with_suffix(target, ".kling.jsonl")
}

/// An open journal that is this process's alone.
pub(crate) struct Journal {
    file: File,
    path: PathBuf,
    /// Where the last whole line ends: what follows is torn.
    end: u64,
    /// The last line is whole but for its line end.
    unended: bool,
    steps: Vec<Step>,
}

impl Journal {
    /// Opens the journal, or makes it, and has it locked. `wait` is called with how long to sleep
    /// while another process has it, and says what to do about that.
    pub(crate) fn open(path: PathBuf, wait: impl FnMut(Duration) -> Result<()>) -> Result<Self> {
        let mut wait = wait;
        let failed = |problem: &str, e: io::Error| Error::journal_from(&path, problem, e);
        let file = loop {
            if path.exists() && !path.is_file() {
                return Err(Error::journal(&path, "is no regular file"));
            }
            let file = OpenOptions::new()
                .read(true)
                .append(true)
                .create(true)
                .open(&path)
                .map_err(|e| failed("cannot be opened for writing", e))?;
            lock(&file, &path, &mut wait)?;
            // It may have been deleted, to abandon its run, while it was waited for.
            if is_file_at(&file, &path) {
                break file;
            }
        };
        let text = read(&file).map_err(|e| failed("cannot be read", e))?;
        if text.is_empty() {
            // New, or left so by a process that was killed before this: the name must last too.
            sync_folder_of(&path).map_err(|e| failed("its folder cannot be synced", e))?;
        }
        let parsed = parse(&text).map_err(|line| {
            let problem =
                format!("line {line} is damaged: mend it, or delete the file to abandon its run");
            Error::journal(&path, problem)
        })?;
        let Parsed { steps, end, unended } = parsed;
        Ok(Self { file, path, end, unended, steps })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The steps so far.
    pub(crate) fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// Writes a step down, for good.
    pub(crate) fn append(&mut self, step: Step) -> Result<()> {
        let written = self.write(&step);
        self.steps.push(step);
        written.map_err(|e| Error::journal_from(&self.path, "cannot be written", e))
    }

    fn write(&mut self, step: &Step) -> io::Result<()> {
        let mut line = serde_json::to_vec(step)?;
        line.push(b'\n');
        if std::mem::take(&mut self.unended) {
            line.insert(0, b'\n');
        }
        // What a killed process or a full disk left of a line must not become a part of this one.
        if self.file.metadata()?.len() > self.end {
            self.file.set_len(self.end)?;
        }
        self.file.write_all(&line)?;
        self.file.sync_data()?;
        self.end += line.len() as u64;
        Ok(())
    }
}

/// Waits for the lock in growing steps. It is freed by the system when its process ends, however.
fn lock(file: &File, path: &Path, wait: &mut impl FnMut(Duration) -> Result<()>) -> Result<()> {
    let mut pause = Duration::from_millis(5);
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) => wait(pause)?,
            Err(TryLockError::Error(e)) => {
                let problem = "cannot be locked, so that two runs could pay for one video";
                return Err(Error::journal_from(path, problem, e));
            }
        }
        pause = (pause * 2).min(Duration::from_millis(500));
    }
}

fn read(mut file: &File) -> io::Result<Vec<u8>> {
    let mut text = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.take(MOST_BYTES + 1).read_to_end(&mut text)?;
    if text.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it is larger than any journal"));
    }
    Ok(text)
}

struct Parsed {
    steps: Vec<Step>,
    end: u64,
    unended: bool,
}

/// Reads the lines; the error is the number of a damaged one. A last line without its end was torn
/// when its process was killed: whole, it counts; in part, it never happened.
fn parse(text: &[u8]) -> Result<Parsed, usize> {
    let mut parsed = Parsed { steps: Vec::new(), end: 0, unended: false };
    for (index, line) in text.split_inclusive(|&byte| byte == b'\n').enumerate() {
        let ended = line.ends_with(b"\n");
        match serde_json::from_slice(line) {
            Ok(step) => parsed.steps.push(step),
            Err(_) if !ended => break,
            Err(_) => return Err(index + 1),
        }
        parsed.end += line.len() as u64;
        parsed.unended = !ended;
    }
    Ok(parsed)
}

/// Parses any bytes, and panics where what comes out contradicts itself.
#[cfg(any(fuzzing, test))]
pub(crate) fn check_parse(text: &[u8]) {
    let length = text.len() as u64;
    match parse(text) {
        Ok(Parsed { steps, end, unended }) => {
            assert!(end <= length && (!unended || end == length));
            // What follows the end is what a torn line left; the rest is the same without it.
            let (whole, torn) = text.split_at(usize::try_from(end).unwrap_or(text.len()));
            assert!(!torn.contains(&b'\n'));
            let again = parse(whole).ok();
            assert!(again.is_some_and(|again| (again.steps, again.unended) == (steps, unended)));
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
    use crate::arbitrary::{Seed, cases, grown};
    use proptest::collection::vec;
    use proptest::prelude::*;

    const CREATED: &str = "{\"step\":\"created\",\"id\":\"a:b/c\"}\n";

    #[test]
    fn a_torn_last_line_never_happened_and_a_whole_one_did() {
        let line = CREATED.as_bytes();
        for cut in 1..line.len() {
            let text = [line, &line[..cut]].concat();
            let parsed = parse(&text).unwrap();
            let whole = cut == line.len() - 1;
            assert_eq!(parsed.steps.len(), if whole { 2 } else { 1 });
            assert_eq!(parsed.end, if whole { text.len() } else { line.len() } as u64);
            assert_eq!(parsed.unended, whole);
        }
    }

    #[test]
    fn a_damaged_line_elsewhere_is_named() {
        assert_eq!(parse(format!("{CREATED}garbage\n{CREATED}").as_bytes()).err(), Some(2));
        assert_eq!(parse(b"\0\0\0\n").err(), Some(1));
        assert_eq!(parse(b"{\"step\":\"created\",\"id\":\"\"}\n").err(), Some(1));
        assert!(parse(b"\0\0\0").unwrap().steps.is_empty());
        assert!(parse(b"").unwrap().steps.is_empty());
    }

    fn text() -> impl Strategy<Value = String> {
        grown(Seed::text)
    }

    fn step() -> impl Strategy<Value = Step> {
        let id = || any::<u64>().prop_map(|id| id.to_string().parse::<GenerationId>().unwrap());
        prop_oneof![
            (text(), proptest::option::of(text()), any::<u64>()).prop_map(
                |(request, picture, at)| {
                    let fields = serde_json::json!({"request": request, "picture": picture});
                    Step::Intent { fingerprint: serde_json::from_value(fields).unwrap(), at }
                }
            ),
            (text(), any::<u64>()).prop_map(|(client_request_id, at)| {
                Step::Sending { client_request_id, at, id: None }
            }),
            text().prop_map(|why| Step::Refused { why }),
            id().prop_map(|id| Step::Created { id }),
            (id(), text()).prop_map(|(id, why)| Step::Failed { id, why }),
            (id(), any::<u64>()).prop_map(|(id, bytes)| Step::Saved { id, bytes }),
        ]
    }

    fn write(steps: &[Step]) -> Vec<u8> {
        let line = |step| [serde_json::to_vec(step).unwrap(), b"\n".to_vec()].concat();
        steps.iter().flat_map(line).collect()
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn any_bytes_can_be_parsed(
            steps in vec(step(), 0..3),
            garbage in vec(prop_oneof![any::<u8>(), Just(b'\n'), Just(b'{'), Just(b'"')], 0..12),
            at in any::<prop::sample::Index>(),
            over: bool,
        ) {
            let mut text = write(&steps);
            let at = at.index(text.len() + 1);
            let until = if over { text.len().min(at + garbage.len()) } else { at };
            text.splice(at..until, garbage);
            check_parse(&text);
        }

        #[test]
        fn cut_anywhere_only_the_cut_step_is_missing(
            steps in vec(step(), 1..4),
            cut in any::<prop::sample::Index>(),
            zeros in 0usize..4,
        ) {
            let whole = write(&steps);
            let cut = cut.index(whole.len() + 1);
            let ends = whole.iter().enumerate().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at);
            let mut text = whole[..cut].to_vec();
            // Some file systems leave zeros where a write was cut short.
            text.extend(vec![0; zeros]);
            let parsed = parse(&text).unwrap();
            // A line counts from its last brace on, if nothing was left behind it.
            let counted = ends.filter(|end| *end < cut || (*end == cut && zeros == 0)).count();
            prop_assert_eq!(&parsed.steps, &steps[..counted]);
        }
    }
}
