//! What `std` lacks for files: bounded reading, durable directory entries, the identity of files, and
//! Windows' rules.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::path::Path;

/// Appends up to `limit` bytes to `data`, fewer only at EOF, and returns their number.
pub(crate) fn read_up_to(
    reader: &mut impl Read,
    limit: u64,
    data: &mut Vec<u8>,
) -> io::Result<usize> {
    ReadFn(&mut |buf| reader.read(buf)).take(limit).read_to_end(data)
}

/// A reader of any type, because `read_to_end` would be compiled anew for each of them. A
/// `dyn Read` would not prevent that: its table of methods has this one, too.
struct ReadFn<'a>(&'a mut dyn FnMut(&mut [u8]) -> io::Result<usize>);

impl Read for ReadFn<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        (self.0)(buf)
    }
}

/// Syncs the directory that contains `path`, so that a new or renamed entry survives a crash. Does
/// nothing where this is not supported: by systems other than Unix, by some network file systems,
/// and for a directory without read permission.
pub(crate) fn fsync_parent_dir(path: &Path) -> io::Result<()> {
    match File::open(parent_dir(path)).and_then(|dir| dir.sync_all()) {
        Err(e) if cfg!(unix) && !is_fsync_unsupported(&e) => Err(e),
        _ => Ok(()),
    }
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

/// The standard library does not identify files on other systems. On Windows, a file opened with
/// [`open_options`] keeps its path until it is closed.
#[cfg(not(unix))]
pub(crate) fn is_same_file(_file: &File, path: &Path) -> bool {
    path.exists()
}

pub(crate) fn parent_dir(path: &Path) -> &Path {
    path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Options for a file that is locked and written. Windows does not let others delete or rename it
/// until it is closed, this process included.
///
/// Not for appending: Windows then does not allow to truncate the file.
pub(crate) fn open_options() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    // `FILE_SHARE_READ | FILE_SHARE_WRITE`, without `FILE_SHARE_DELETE`.
    #[cfg(windows)]
    std::os::windows::fs::OpenOptionsExt::share_mode(&mut options, 0x1 | 0x2);
    options
}

/// Whether Windows has no file of this name: it is a device (`NUL`, `com1.mp4`), has a stream
/// (`12:30.mp4`) or another character that it reserves, or loses its last character (`cat.mp4.`).
///
/// From Microsoft's "Naming Files, Paths, and Namespaces".
pub(crate) fn is_reserved_on_windows(name: &[u8]) -> bool {
    let name = String::from_utf8_lossy(name).to_ascii_uppercase();
    let stem = name.split('.').next().unwrap_or_default().trim_end_matches(' ');
    let port = stem.strip_suffix(|c| matches!(c, '1'..='9' | '\u{b9}' | '\u{b2}' | '\u{b3}'));
    name.ends_with(['.', ' '])
        || name.contains(|c: char| c < ' ' || r#"<>:"/\|?*"#.contains(c))
        || matches!(stem, "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$")
        || matches!(port, Some("COM" | "LPT"))
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

    #[test]
    fn names_reserved_on_windows_are_recognized() {
        let is_reserved = |name: &str| is_reserved_on_windows(name.as_bytes());
        let reserved = "12:30.mp4;cat.mp4:stream;a?.mp4;a*.mp4;<a.mp4;a>.mp4;a|b.mp4;\"a\".mp4;\
            a\\b.mp4;a/b.mp4;a\nb.mp4;a\0.mp4;cat.mp4.;cat.mp4 ;cat.; ;...;NUL;nul;Nul.mp4;\
            CON.mp4;con.tar.mp4;con .mp4;prn.mp4;AUX;COM1;com9.mp4;LPT1.mp4;lpt\u{b2}.mp4;CONIN$;conout$";
        assert_eq!(reserved.split(';').find(|name| !is_reserved(name)), None);
        let free = "cat.mp4;12.30.mp4;.cat.mp4;a b.mp4;a..mp4;nul-and-void.mp4;null.mp4;\
            context.mp4;cat.con;cat.nul.mp4;COM;COM0;COM10.mp4;LPTX.mp4;c1.mp4;\
            \u{e4}\u{732b}.mp4;(1)+~#$%&'!@,=[]{}^`";
        assert_eq!(free.split(';').find(|name| is_reserved(name)), None);
        assert!(!is_reserved_on_windows(b"\xff.mp4"));
    }

    /// Whether the file can be truncated is seen in the options only: wine allows it for a
    /// file that is open for appending, as Windows does.
    #[test]
    fn locked_file_is_open_for_writing_and_keeps_its_place_on_windows() {
        let options = format!("{:?}", open_options());
        assert!(options.contains("read: true, write: true, append: false"), "{options}");
        assert_eq!(options.contains("share_mode: 3"), cfg!(windows), "{options}");
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("cat.mp4");
        let file = open_options().create_new(true).open(&path).unwrap();
        assert!(is_same_file(&file, &path));
        // Another process of this crate can open it too, to wait for the lock.
        open_options().open(&path).unwrap();
        let others = [std::fs::rename(&path, &path), std::fs::remove_file(&path)];
        assert_eq!(others.map(|other| other.is_err()), [cfg!(windows); 2]);
    }
}
