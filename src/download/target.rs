//! The file that a video is saved to: where its path leads, what is there, and what may be replaced.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{is_reserved_on_windows, parent_dir};
use crate::hash::hash_reader;
use crate::operation::Operation;

/// A target path that was resolved once, so that it means the same file for the rest of the call.
#[derive(Debug)]
pub(crate) struct Target {
    /// The absolute path as the caller spelled it.
    pub(crate) path: PathBuf,
    /// The path that is written: where symlinks lead, although nothing may be there yet.
    pub(crate) destination: PathBuf,
    operation: Operation,
}

/// What may be at the destination when a video is published, besides nothing: any regular file, or
/// the one that was recorded with this length and hash, if any was.
#[derive(Clone, Debug)]
pub(crate) enum Replace {
    RegularFile,
    Recorded(Option<(u64, Option<String>)>),
}

impl Target {
    /// Makes the path absolute, follows symlinks, and rejects whatever no video can be saved to.
    /// Called before anything is sent, so that nobody pays for a video that has nowhere to go.
    pub(crate) fn resolve(path: &Path, operation: Operation) -> Result<Self> {
        /// As on Linux.
        const MAX_SYMLINKS: u32 = 40;
        if path.as_os_str().is_empty() {
            let e = io::Error::from(io::ErrorKind::InvalidInput);
            return Err(Error::io(operation, "the target path is empty".to_owned(), e));
        }
        let mut target = Self { path: path.to_owned(), destination: path.to_owned(), operation };
        target.validate_name()?;
        target.path = std::path::absolute(path)
            .map_err(|e| target.error("failed to read the current directory", e))?;
        target.destination.clone_from(&target.path);
        // By hand, since the last link may lead to a file that does not exist yet. `read_link` fails
        // for everything but a symlink; any other error occurs again when the state is read.
        let mut symlinks = 0;
        while let Ok(link) = fs::read_link(&target.destination) {
            symlinks += 1;
            if symlinks > MAX_SYMLINKS {
                let e = io::ErrorKind::InvalidInput;
                return Err(target.error("too many levels of symlinks", e));
            }
            target.destination.pop();
            target.destination.push(link);
            target.validate_name()?;
        }
        if target.file_len()?.is_none() {
            let dir = parent_dir(&target.destination);
            dir.metadata().map_err(|e| {
                let message = format!("directory {} does not exist", dir.display());
                Error::io(operation, message, e)
            })?;
        }
        Ok(target)
    }

    /// The destination must end with a file name, not with `/`, `/.` or `..`, and not with one that
    /// could belong to the partial file or the journal of another target, or to no file at all.
    fn validate_name(&self) -> Result<()> {
        let path = self.destination.as_os_str().as_encoded_bytes();
        let name = self.destination.file_name().map_or(&b"/"[..], OsStr::as_encoded_bytes);
        if !path.ends_with(name) || name == b"/" {
            return Err(self.error("target is not a file path", io::ErrorKind::IsADirectory));
        }
        // In any case, since some file systems ignore it.
        let name = name.to_ascii_lowercase();
        if name.ends_with(b".kling.part")
            || name.ends_with(b".kling.jsonl")
            || cfg!(windows) && is_reserved_on_windows(&name)
        {
            return Err(self.error("target name is reserved", io::ErrorKind::InvalidInput));
        }
        Ok(())
    }

    /// A path next to the destination: its name with this prefix and suffix.
    pub(crate) fn sibling(&self, prefix: &str, suffix: &str) -> PathBuf {
        let mut name = OsString::from(prefix);
        name.push(self.destination.file_name().unwrap_or_default());
        name.push(suffix);
        self.destination.with_file_name(name)
    }

    /// The length of the file at the destination, or `None` if there is nothing. Anything but a
    /// regular file is an error.
    pub(crate) fn file_len(&self) -> Result<Option<u64>> {
        match self.destination.symlink_metadata() {
            Ok(file) if file.is_file() => Ok(Some(file.len())),
            Ok(file) if file.is_dir() => {
                Err(self.error("target is not a file path", io::ErrorKind::IsADirectory))
            }
            Ok(_) => Err(self.error("target is not a regular file", io::ErrorKind::InvalidInput)),
            Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(self.error("failed to read the target's metadata", e)),
        }
    }

    /// Whether a file of this length is at the destination, with this hash if one is given.
    pub(crate) fn is_file_with(&self, len: u64, hash: Option<&str>) -> Result<bool> {
        let same_len = self.file_len()? == Some(len);
        let (true, Some(hash)) = (same_len, hash) else { return Ok(same_len) };
        let actual = File::open(&self.destination).and_then(|mut file| hash_reader(&mut file));
        Ok(actual.map_err(|e| self.error("failed to read the file at the target", e))? == hash)
    }

    pub(super) fn error(&self, message: &'static str, e: impl Into<io::Error>) -> Error {
        Error::io(self.operation, format!("{}: {message}", self.path.display()), e.into())
    }
}

impl Replace {
    /// Whether there is a file to replace. A file that must not be replaced is an error.
    pub(super) fn check(&self, target: &Target) -> Result<bool> {
        let may_replace = match (target.file_len()?, self) {
            (None, _) => return Ok(false),
            (_, Self::RegularFile) => true,
            (_, Self::Recorded(None)) => false,
            (_, Self::Recorded(Some((len, hash)))) => target.is_file_with(*len, hash.as_deref())?,
        };
        if may_replace {
            return Ok(true);
        }
        Err(target.error("another file is at the target", io::ErrorKind::AlreadyExists))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(dir: &tempfile::TempDir) -> Target {
        Target::resolve(&dir.path().join("cat.mp4"), Operation::Download).unwrap()
    }

    #[test]
    fn sibling_is_next_to_the_destination() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(&dir);
        assert_eq!(target.path, target.destination);
        assert_eq!(target.sibling("", ".kling.jsonl"), dir.path().join("cat.mp4.kling.jsonl"));
        assert_eq!(target.sibling(".", ".kling.part"), dir.path().join(".cat.mp4.kling.part"));
    }

    #[test]
    fn replace_permits_only_the_file_that_it_describes() {
        let dir = tempfile::tempdir().unwrap();
        let target = target(&dir);
        let hash = hash_reader(&mut &b"video"[..]).unwrap();
        let recorded =
            |len, hash: Option<&str>| Replace::Recorded(Some((len, hash.map(str::to_owned))));
        let replaces = |replace: Replace| match replace.check(&target) {
            Ok(replaces) => Some(replaces),
            Err(error) => {
                assert!(error.to_string().contains("another file is at the target"), "{error}");
                None
            }
        };
        let all = || [Replace::Recorded(None), Replace::RegularFile, recorded(5, Some(&hash))];
        assert_eq!(all().map(replaces), [Some(false); 3]);
        assert_eq!(target.file_len().unwrap(), None);

        fs::write(&target.destination, "video").unwrap();
        assert_eq!(all().map(replaces), [None, Some(true), Some(true)]);
        assert_eq!(target.file_len().unwrap(), Some(5));
        assert_eq!(replaces(recorded(5, None)), Some(true));
        assert_eq!(replaces(recorded(4, None)), None);
        assert_eq!(replaces(recorded(5, Some("another"))), None);
        // A file of another length is not read.
        assert!(!target.is_file_with(4, Some(&hash)).unwrap());
        assert!(target.is_file_with(5, Some(&hash)).unwrap());

        fs::remove_file(&target.destination).unwrap();
        fs::create_dir(&target.destination).unwrap();
        for replace in all() {
            let error = replace.check(&target).unwrap_err();
            assert!(error.to_string().contains("target is not a file path"), "{error}");
        }
        assert!(target.file_len().is_err() && target.is_file_with(0, None).is_err());
    }

    #[cfg(unix)]
    #[test]
    fn symlinks_are_followed_40_times() {
        let dir = tempfile::tempdir().unwrap();
        let link = |index: u32| dir.path().join(format!("{index}.mp4"));
        for index in 0..41 {
            std::os::unix::fs::symlink(link(index + 1), link(index)).unwrap();
        }
        let resolve = |path: PathBuf| Target::resolve(&path, Operation::Download);
        assert_eq!(resolve(link(1)).unwrap().destination, link(41));
        assert!(resolve(link(0)).is_err());
    }
}
