//! The `.part` file that a video is written to before it takes its target's name: the target is
//! either whole or untouched.

use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::mp4;

/// A locked, empty file beside the target.
pub(crate) struct Part {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl Part {
    /// Opens it without touching what another process may be writing there, and empties it only
    /// once it is this call's own.
    pub(crate) fn open(target: &Path) -> Result<Self> {
        check_target(target)?;
        let path = with_suffix(target, ".part");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| failed(&path, "the file cannot be created", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let e = io::Error::from(io::ErrorKind::WouldBlock);
                return Err(failed(&path, "another download of this target is under way", e));
            }
            Err(TryLockError::Error(e)) => {
                return Err(failed(&path, "the file cannot be locked", e));
            }
        }
        if !is_file_at(&file, &path) {
            let e = io::Error::from(io::ErrorKind::WouldBlock);
            return Err(failed(&path, "another download of this target has just ended", e));
        }
        let mut part = Self { file, path, target: target.to_owned() };
        part.clear()?;
        Ok(part)
    }

    pub(crate) fn clear(&mut self) -> Result<()> {
        let cleared = self.file.set_len(0).and_then(|()| self.file.rewind());
        cleared.map_err(|e| failed(&self.path, "the file cannot be emptied", e))
    }

    pub(crate) fn append(&mut self, data: &[u8]) -> Result<()> {
        self.file.write_all(data).map_err(|e| failed(&self.path, "the file cannot be written", e))
    }

    /// What keeps the file from being a whole MP4, if anything.
    pub(crate) fn flaw(&mut self, length: u64) -> Result<Option<&'static str>> {
        let checked = mp4::check(&mut self.file, length)
            .and_then(|flaw| self.file.seek(SeekFrom::Start(length)).map(|_| flaw));
        checked.map_err(|e| failed(&self.path, "the file cannot be read back", e))
    }

    /// Gives the file its target's name, once it is sure to be on disk.
    pub(crate) fn publish(self) -> Result<()> {
        let target = self.target.clone();
        self.rename()?;
        sync_folder_of(&target).map_err(|e| failed(&target, "the folder cannot be synced", e))
    }

    fn rename(self) -> Result<()> {
        let synced = self.file.sync_all();
        let renamed = synced.and_then(|()| fs::rename(&self.path, &self.target));
        renamed.map_err(|e| {
            let error = failed(&self.target, "the video cannot be put in its place", e);
            self.discard();
            error
        })
    }

    /// Leaves nothing behind. The lock is still held, so that nobody else's file is removed.
    pub(crate) fn discard(self) {
        // What went wrong before is worth more than what may go wrong here.
        let _ = fs::remove_file(&self.path);
    }
}

/// Asked before anything is paid for a video that could not be put there.
pub(crate) fn check_target(target: &Path) -> Result<()> {
    if target.file_name().is_none() || target.is_dir() {
        let e = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(failed(target, "the video's target is no file name", e));
    }
    Ok(())
}

fn failed(path: &Path, problem: &'static str, e: io::Error) -> Error {
    Error::io("download", Some(path.to_owned()), problem, e)
}

/// A file name with something appended: `cat.mp4` becomes `cat.mp4.part`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Has the system write down which files a folder holds; elsewhere than on Unix that is its own
/// affair.
pub(crate) fn sync_folder_of(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
    }
    Ok(())
}

/// Whether the open file still is the one at this path, and not one that was removed or renamed
/// while its lock was waited for.
#[cfg(unix)]
pub(crate) fn is_file_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), fs::metadata(path)) {
        (Ok(open), Ok(there)) => (open.dev(), open.ino()) == (there.dev(), there.ino()),
        _ => false,
    }
}

/// Elsewhere a file that is open keeps its place.
#[cfg(not(unix))]
pub(crate) fn is_file_at(_file: &File, path: &Path) -> bool {
    path.exists()
}
