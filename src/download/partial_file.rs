//! The `.part` file that a video is downloaded to and that is then renamed to the target, which is
//! therefore always either complete or untouched.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::fs::{fsync_parent_dir, is_same_file, parent_dir, with_suffix};
use crate::operation::Operation;

use super::mp4;

/// A locked file next to the target.
pub(crate) struct PartialFile {
    file: File,
    path: PathBuf,
    target: PathBuf,
}

impl PartialFile {
    /// Opens and locks the file. It is truncated only once it is locked, since another process may
    /// be writing to it until then.
    pub(crate) fn open(target: &Path) -> Result<Self> {
        validate_target(target)?;
        let path = with_suffix(target, ".part");
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|e| io_error(&path, "failed to create the partial file", e))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let e = io::Error::from(io::ErrorKind::WouldBlock);
                return Err(io_error(&path, "another download to this target is in progress", e));
            }
            Err(TryLockError::Error(e)) => {
                return Err(io_error(&path, "failed to lock the partial file", e));
            }
        }
        if !is_same_file(&file, &path) {
            let e = io::Error::from(io::ErrorKind::WouldBlock);
            return Err(io_error(&path, "another download to this target has just finished", e));
        }
        let mut partial_file = Self { file, path, target: target.to_owned() };
        partial_file.truncate()?;
        Ok(partial_file)
    }

    pub(crate) fn truncate(&mut self) -> Result<()> {
        let truncated = self.file.set_len(0).and_then(|()| self.file.rewind());
        truncated.map_err(|e| io_error(&self.path, "failed to truncate the partial file", e))
    }

    pub(crate) fn append(&mut self, data: &[u8]) -> Result<()> {
        self.file
            .write_all(data)
            .map_err(|e| io_error(&self.path, "failed to write the partial file", e))
    }

    /// Returns why the file is not a complete MP4 of this length, or `None` if it is one.
    pub(crate) fn validate(&mut self, length: u64) -> Result<Option<&'static str>> {
        let problem = mp4::validate(&mut self.file, length)
            .and_then(|problem| self.file.seek(SeekFrom::Start(length)).map(|_| problem));
        problem.map_err(|e| io_error(&self.path, "failed to read back the partial file", e))
    }

    /// Whether the file starts like an HTML page, which servers send with status 200 in place of a
    /// video, for example to ask for a login.
    pub(crate) fn is_html(&mut self) -> Result<bool> {
        let mut start = Vec::new();
        let read = self.file.rewind().and_then(|()| (&self.file).take(512).read_to_end(&mut start));
        read.map_err(|e| io_error(&self.path, "failed to read back the partial file", e))?;
        Ok(starts_like_html(&start))
    }

    /// Syncs the file to disk and renames it to the target.
    pub(crate) fn persist(self) -> Result<()> {
        let target = self.target.clone();
        self.rename()?;
        fsync_parent_dir(&target).map_err(|e| io_error(&target, "failed to sync the directory", e))
    }

    fn rename(self) -> Result<()> {
        let synced = self.file.sync_all();
        let renamed = synced.and_then(|()| fs::rename(&self.path, &self.target));
        renamed.map_err(|e| {
            let error = io_error(&self.target, "failed to rename the partial file", e);
            self.discard();
            error
        })
    }

    /// Removes the file. The lock is still held, so it cannot be another download's file.
    pub(crate) fn discard(self) {
        // The caller has an earlier error to report, which matters more than this one.
        let _ = fs::remove_file(&self.path);
    }
}

/// Rejects targets that no file can be written to. Called before anything is sent, so that nobody
/// pays for a video that has nowhere to go.
pub(crate) fn validate_target(target: &Path) -> Result<()> {
    if target.as_os_str().is_empty() {
        let e = io::Error::from(io::ErrorKind::InvalidInput);
        return Err(Error::io(Operation::Download, None, "the target path is empty", e));
    }
    if target.file_name().is_none() || target.is_dir() {
        let e = io::Error::from(io::ErrorKind::IsADirectory);
        return Err(io_error(target, "target is not a file path", e));
    }
    match parent_dir(target).metadata() {
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let message = format!("directory {} does not exist", parent_dir(target).display());
            Err(Error::io(Operation::Download, None, message, e))
        }
        // Opening a file there reports any other problem.
        _ => Ok(()),
    }
}

fn starts_like_html(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html", b"<head", b"<body"]
        .iter()
        .any(|tag| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag)))
}

fn io_error(path: &Path, message: &'static str, e: io::Error) -> Error {
    Error::io(Operation::Download, Some(path.to_owned()), message, e)
}
