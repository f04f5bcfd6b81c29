//! What `std::fs` lacks: names next to a file, and durable directory entries.

use std::ffi::OsString;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

/// Appends to a path's file name: `cat.mp4` becomes `cat.mp4.part`.
pub(crate) fn with_suffix(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    name.into()
}

/// Syncs the directory that contains `path`, so that a new or renamed entry survives a crash. Does
/// nothing on systems other than Unix, which offer no such call.
pub(crate) fn fsync_parent_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        File::open(parent_dir(path))?.sync_all()?;
    }
    Ok(())
}

/// Whether the open file is still the one at this path: another process may have removed or renamed
/// it before the lock was acquired.
#[cfg(unix)]
pub(crate) fn is_same_file(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    match (file.metadata(), std::fs::metadata(path)) {
        (Ok(open), Ok(at_path)) => (open.dev(), open.ino()) == (at_path.dev(), at_path.ino()),
        _ => false,
    }
}

/// Other systems do not let an open file be renamed or replaced.
#[cfg(not(unix))]
pub(crate) fn is_same_file(_file: &File, path: &Path) -> bool {
    path.exists()
}

pub(crate) fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}
