//! What `std::fs` lacks: durable directory entries, and the identity of files.

use std::fs::File;
use std::io;
use std::path::Path;

/// Syncs the directory that contains `path`, so that a new or renamed entry survives a crash. Does
/// nothing where this is not supported: by systems other than Unix, by some network file systems,
/// and for a directory without read permission.
pub(crate) fn fsync_parent_dir(path: &Path) -> io::Result<()> {
    if cfg!(unix) {
        let synced = File::open(parent_dir(path)).and_then(|dir| dir.sync_all());
        return synced.or_else(|e| if is_fsync_unsupported(&e) { Ok(()) } else { Err(e) });
    }
    Ok(())
}

/// Whether a directory cannot be synced at all, as opposed to a failure to sync it.
fn is_fsync_unsupported(e: &io::Error) -> bool {
    // EINVAL; ENOTSUP and ENOSYS; EACCES and EPERM.
    use io::ErrorKind::{InvalidInput, PermissionDenied, Unsupported};
    // Without an `ErrorKind`: EBADF, and ENOTSUP of macOS and the BSDs.
    matches!(e.kind(), InvalidInput | Unsupported | PermissionDenied)
        || matches!(e.raw_os_error(), Some(9 | 45))
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

/// The standard library does not identify files on other systems.
#[cfg(not(unix))]
pub(crate) fn is_same_file(_file: &File, path: &Path) -> bool {
    path.exists()
}

pub(crate) fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn directory_sync_that_is_unsupported_is_told_from_one_that_failed() {
        let is_unsupported = |code| is_fsync_unsupported(&io::Error::from_raw_os_error(code));
        // EPERM, EBADF, EACCES, EINVAL, ENOSYS, ENOTSUP.
        assert_eq!([1, 9, 13, 22, 38, 95].map(is_unsupported), [true; 6]);
        // ENOENT, EIO, ENOTDIR, EMFILE, ENOSPC, EROFS, ESTALE, EDQUOT.
        assert_eq!([2, 5, 20, 24, 28, 30, 116, 122].map(is_unsupported), [false; 8]);
    }
}
