//! The file that a video is downloaded to and that is then moved to the target, which is therefore
//! always either complete or untouched.

use std::fs::{self, File, TryLockError};
use std::io::{self, Seek, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{fsync_parent_dir, is_same_file, open_options, read_up_to};
use crate::hash::hash_reader;
use crate::operation::Operation;

use super::mp4;
use super::target::{Replace, Target};

const READ_BACK: &str = "failed to read back the partial file";

/// A locked file next to the target, `.cat.mp4.kling.part` for `cat.mp4`.
#[derive(Debug)]
pub(crate) struct PartialFile {
    file: File,
    path: PathBuf,
    /// Whether the file is removed when this is dropped. One with content is not ours until it is
    /// truncated: it may be a complete video that could not be moved to the target.
    disposable: bool,
}

impl PartialFile {
    /// Opens and locks the file, and checks that writing to it writes to no other file. It is not
    /// truncated yet.
    pub(crate) fn open(target: &Target) -> Result<Self> {
        Self::open_with(target, File::try_lock)
    }

    fn open_with(target: &Target, try_lock: fn(&File) -> Result<(), TryLockError>) -> Result<Self> {
        let path = target.sibling(".", ".kling.part");
        let options = open_options();
        // This follows no symlink, not even a dangling one.
        let created = options.clone().create_new(true).open(&path);
        let disposable = created.is_ok();
        let opened = match created {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {
                // Checked before as well: opening a FIFO or a device may have effects.
                require_regular_file(&path)?;
                options.open(&path)
            }
            created => created,
        };
        let file = opened.map_err(|e| io_error(&path, "failed to create the partial file", e))?;
        let mut partial_file = Self { file, path, disposable };
        let (file, path) = (&partial_file.file, &partial_file.path);
        let locked = try_lock(file);
        if let Err(TryLockError::Error(e)) = locked {
            return Err(io_error(path, "failed to lock the partial file", e));
        }
        // Another download may have locked the file, or just renamed it.
        if locked.is_err() || !partial_file.is_in_place() {
            partial_file.disposable = false;
            let e = io::ErrorKind::WouldBlock;
            return Err(io_error(path, "another download to this target is in progress", e));
        }
        let metadata = partial_file.io("failed to read the metadata", file.metadata())?;
        #[cfg(unix)]
        let links = std::os::unix::fs::MetadataExt::nlink(&metadata);
        #[cfg(not(unix))]
        let links = 1;
        match links {
            0 | 1 => {}
            // A process was killed between linking the video to the target and removing this name.
            2 if is_same_file(file, &target.destination) => {
                partial_file.io("failed to remove the partial file", fs::remove_file(path))?;
                return Self::open_with(target, try_lock);
            }
            _ => {
                let message = "partial file is a hard link to another file; move it away";
                return Err(io_error(path, message, io::ErrorKind::AlreadyExists));
            }
        }
        partial_file.disposable = metadata.len() == 0;
        Ok(partial_file)
    }

    pub(crate) fn truncate(&mut self) -> Result<()> {
        let truncated = self.file.set_len(0).and_then(|()| self.file.rewind());
        self.io("failed to truncate the partial file", truncated)?;
        self.disposable = true;
        Ok(())
    }

    pub(crate) fn append(&mut self, data: &[u8]) -> Result<()> {
        let written = self.file.write_all(data);
        self.io("failed to write the partial file", written)
    }

    /// Returns why the file, of this length, which the server announced or not, is not a complete
    /// MP4, or `None` if it is one.
    pub(crate) fn validate(&mut self, len: u64, announced: bool) -> Result<Option<&'static str>> {
        let problem = mp4::validate(&mut self.file, len, announced);
        self.io(READ_BACK, problem)
    }

    /// The start of the file, enough for an error message.
    pub(crate) fn start(&mut self) -> Result<Vec<u8>> {
        let mut start = Vec::new();
        let read = self.file.rewind();
        let read = read.and_then(|()| read_up_to(&mut self.file, 16 * 1024, &mut start));
        self.io(READ_BACK, read).map(|_| start)
    }

    pub(crate) fn sync(&self) -> Result<()> {
        self.io("failed to sync the partial file", self.file.sync_all())
    }

    pub(crate) fn hash(&mut self) -> Result<String> {
        let hash = self.file.rewind().and_then(|()| hash_reader(&mut self.file));
        self.io(READ_BACK, hash)
    }

    fn io<T>(&self, message: &'static str, result: io::Result<T>) -> Result<T> {
        result.map_err(|e| io_error(&self.path, message, e))
    }

    /// Moves the complete file to the target. If that fails, the file is kept and the error names
    /// it: it may not be possible to download the video again.
    pub(crate) fn publish(mut self, target: &Target, replace: &Replace) -> Result<()> {
        if !self.is_in_place() {
            let e = io::ErrorKind::NotFound;
            return Err(io_error(&self.path, "the partial file was removed or replaced", e));
        }
        self.disposable = false;
        self.release();
        // As late as possible: nothing can be done about a file that appears after this check.
        let moved = replace.check(target).and_then(|replaces| {
            let (from, to) = (&self.path, &target.destination);
            let moved =
                if replaces { fs::rename(from, to) } else { move_to_new(from, to, hard_link) };
            moved.map_err(|e| target.error("failed to move the video to the target", e))
        });
        moved.map_err(|error| {
            let path = self.path.display();
            let message = format!("{error}; the complete video was kept as {path}");
            Error::io(Operation::Download, message, io::Error::other(error))
        })?;
        fsync_parent_dir(&target.destination)
            .map_err(|e| target.error("saved, but failed to sync the directory", e))
    }

    /// Reopens the file on Windows, which neither moves nor removes one that is opened with
    /// `open_options`. This gives up the lock: another download to this target that starts now makes
    /// the move fail, and downloads the video again.
    fn release(&mut self) {
        if cfg!(windows)
            && let Ok(file) = File::open(&self.path)
        {
            self.file = file;
        }
    }

    /// Whether the file is still the one at its path, which must not be a symlink to it.
    fn is_in_place(&self) -> bool {
        require_regular_file(&self.path).is_ok() && is_same_file(&self.file, &self.path)
    }
}

impl Drop for PartialFile {
    /// The lock is still held, so another download cannot be using the file. On Windows, one that is
    /// using it by now does not let it be removed.
    fn drop(&mut self) {
        if self.disposable && self.is_in_place() {
            self.release();
            // The caller has an earlier error to report, which matters more than this one.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Only on Unix is a second link to the video recognized if the process is killed before it is
/// removed; elsewhere, the next download would truncate the video.
fn hard_link(from: &Path, to: &Path) -> io::Result<()> {
    if cfg!(unix) { fs::hard_link(from, to) } else { Err(io::ErrorKind::Unsupported.into()) }
}

/// Moves a file to a path where nothing may be. A hard link does that in one step; where it fails,
/// usually because the file system has no hard links, an empty file reserves the path.
fn move_to_new(
    from: &Path,
    to: &Path,
    hard_link: fn(&Path, &Path) -> io::Result<()>,
) -> io::Result<()> {
    match hard_link(from, to) {
        Ok(()) => {
            // If the second name stays, this does not matter: the next download removes it.
            let _ = fs::remove_file(from);
            return Ok(());
        }
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists => return Err(e),
        Err(_) => drop(File::create_new(to)?),
    }
    fs::rename(from, to).inspect_err(|_| {
        if to.symlink_metadata().is_ok_and(|file| file.is_file() && file.len() == 0) {
            let _ = fs::remove_file(to);
        }
    })
}

/// Fails if there is something else at the path. Symlinks are not followed.
fn require_regular_file(path: &Path) -> Result<()> {
    match path.symlink_metadata() {
        Ok(file) if !file.is_file() => {
            Err(io_error(path, "partial file is not a regular file", io::ErrorKind::InvalidInput))
        }
        _ => Ok(()),
    }
}

fn io_error(path: &Path, message: &'static str, e: impl Into<io::Error>) -> Error {
    Error::io(Operation::Download, format!("{}: {message}", path.display()), e.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_failure_leaves_a_partial_file_only_if_it_existed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(".cat.mp4.kling.part");
        let target = Target::resolve(&dir.path().join("cat.mp4"), Operation::Download).unwrap();
        let unsupported: fn(&File) -> _ =
            |_| Err(TryLockError::Error(io::ErrorKind::Unsupported.into()));
        let open = |try_lock| PartialFile::open_with(&target, try_lock);
        let error = |try_lock| open(try_lock).unwrap_err().to_string();
        assert!(error(unsupported).contains("failed to lock the partial file"));
        assert!(!path.exists());
        // Another process has locked the file that this one created.
        assert!(error(|_| Err(TryLockError::WouldBlock)).contains("is in progress"));
        assert!(path.exists());

        assert!(open(unsupported).is_err() && path.exists());
        let locked = open(File::try_lock).unwrap();
        assert!(error(File::try_lock).contains("is in progress"));
        drop(locked);
        assert!(!path.exists());
    }

    #[test]
    fn file_is_moved_only_to_a_free_path_with_and_without_hard_links() {
        let supported: fn(&Path, &Path) -> _ = |from, to| fs::hard_link(from, to);
        let unsupported: fn(&Path, &Path) -> _ = |_, _| Err(io::ErrorKind::Unsupported.into());
        for hard_link in [supported, unsupported] {
            let dir = tempfile::tempdir().unwrap();
            let (from, to) = (dir.path().join("from"), dir.path().join("to"));
            let count = || fs::read_dir(dir.path()).unwrap().count();
            fs::write(&from, "video").unwrap();
            fs::write(&to, "another").unwrap();
            let error = move_to_new(&from, &to, hard_link).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
            assert_eq!(fs::read(&from).unwrap(), b"video");
            assert_eq!(fs::read(&to).unwrap(), b"another");

            fs::remove_file(&to).unwrap();
            move_to_new(&from, &to, hard_link).unwrap();
            assert_eq!(fs::read(&to).unwrap(), b"video");
            assert_eq!(count(), 1);

            // Nothing to move: the path is not left reserved.
            let error = move_to_new(&from, &dir.path().join("new"), hard_link).unwrap_err();
            assert_eq!((error.kind(), count()), (io::ErrorKind::NotFound, 1));
        }
    }
}
