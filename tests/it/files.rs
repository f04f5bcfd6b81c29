//! Files that are not ours are never written, replaced or deleted, and a complete video is kept.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, Error, ErrorKind, Event, EventKind, Operation, Video};

use crate::helpers::clients::{create_counts, no_retry_client, request, sandbox};
use crate::helpers::files::TestDir;
#[cfg(unix)]
use crate::helpers::subprocess::run_unprivileged;
#[cfg(unix)]
use crate::target_path::make_fifo;

pub const NOT_OURS: &[u8] = b"somebody's file";

/// The name that partial files had in earlier versions, and have in browsers.
fn browser_partial_file(dir: &TestDir) -> PathBuf {
    dir.path().join("cat.mp4.part")
}

pub fn finished(sandbox: &Sandbox) -> (Client, Video) {
    let client = no_retry_client(sandbox);
    let video = client.generate(&request()).unwrap();
    (client, video)
}

#[track_caller]
pub fn assert_is_video(sandbox: &Sandbox, path: &Path) {
    assert!(fs::read(path).unwrap() == sandbox.default_video(), "{} differs", path.display());
}

/// Downloads to a target that must be rejected before anything is sent.
#[track_caller]
pub fn assert_rejected(sandbox: &Sandbox, client: &Client, video: &Video, target: &Path) -> Error {
    let before = sandbox.requests().len();
    let error = client.download(video, target).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, Operation::Download), "{error}");
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.to_string().contains("cat.mp4"), "{error}");
    assert_eq!(sandbox.requests().len(), before, "a request was sent");
    error
}

/// A client that may replace videos, and calls `act` once, at the first event that `at` accepts.
pub fn client_acting(
    sandbox: &Sandbox,
    at: fn(&Event<'_>) -> bool,
    act: impl FnOnce() + Send + 'static,
) -> Client {
    let act = Mutex::new(Some(act));
    let builder = sandbox.client_builder().replace_videos(true).event_handler(move |event| {
        if at(event)
            && let Some(act) = act.lock().unwrap().take()
        {
            act();
        }
    });
    builder.build().unwrap()
}

pub fn is_downloading(event: &Event<'_>) -> bool {
    matches!(event.kind, EventKind::Downloading { .. })
}

pub fn is_polled(event: &Event<'_>) -> bool {
    matches!(event.kind, EventKind::Polled { .. })
}

// ---------------------------------------------------------------- the partial file

#[test]
fn partial_file_of_a_browser_is_left_alone() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = TestDir::new();
    fs::write(browser_partial_file(&dir), NOT_OURS).unwrap();
    client.download(&video, &dir.target).unwrap();
    assert_is_video(&sandbox, &dir.target);
    assert_eq!(fs::read(browser_partial_file(&dir)).unwrap(), NOT_OURS);
    assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.part"]);
}

#[test]
fn video_named_like_a_partial_file_is_left_alone() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = TestDir::new();
    client.generate_to(&request(), browser_partial_file(&dir)).unwrap();
    client.download(&video, &dir.target).unwrap();
    assert_is_video(&sandbox, &browser_partial_file(&dir));
    assert_is_video(&sandbox, &dir.target);

    // The name that only this crate uses cannot be a target.
    let error = assert_rejected(&sandbox, &client, &video, &dir.partial_file());
    assert!(error.to_string().contains("reserved"), "{error}");
}

#[cfg(unix)]
#[test]
fn partial_file_that_is_a_symlink_is_not_followed() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    for exists in [true, false] {
        let dir = TestDir::new();
        let victim = dir.path().join("notes.txt");
        if exists {
            fs::write(&victim, NOT_OURS).unwrap();
        }
        let assert_untouched = || match exists {
            true => assert_eq!(fs::read(&victim).unwrap(), NOT_OURS),
            false => assert!(!victim.exists()),
        };
        std::os::unix::fs::symlink(&victim, browser_partial_file(&dir)).unwrap();
        client.download(&video, &dir.target).unwrap();
        assert_untouched();
        assert_is_video(&sandbox, &dir.target);
        assert!(dir.target.symlink_metadata().unwrap().is_file());
        fs::remove_file(&dir.target).unwrap();

        std::os::unix::fs::symlink(&victim, dir.partial_file()).unwrap();
        let error = assert_rejected(&sandbox, &client, &video, &dir.target);
        assert!(error.to_string().contains("not a regular file"), "{error}");
        assert_untouched();
        assert!(dir.partial_file().is_symlink() && !dir.target.exists());
    }
}

#[cfg(unix)]
#[test]
fn partial_file_with_another_link_is_not_overwritten() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = TestDir::new();
    let victim = dir.path().join("notes.txt");
    fs::write(&victim, NOT_OURS).unwrap();
    fs::hard_link(&victim, browser_partial_file(&dir)).unwrap();
    client.download(&video, &dir.target).unwrap();
    assert_eq!(fs::read(&victim).unwrap(), NOT_OURS);

    fs::hard_link(&victim, dir.partial_file()).unwrap();
    let error = assert_rejected(&sandbox, &client, &video, &dir.target);
    assert!(error.to_string().contains("hard link"), "{error}");
    assert_eq!(fs::read(&victim).unwrap(), NOT_OURS);
    assert_is_video(&sandbox, &dir.target);
}

/// A process that is killed between `link` and `unlink` leaves the video with both names.
#[cfg(unix)]
#[test]
fn partial_file_linked_to_the_target_does_not_lead_to_it() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    for name in [browser_partial_file, TestDir::partial_file] {
        let dir = TestDir::new();
        fs::write(&dir.target, sandbox.default_video()).unwrap();
        fs::hard_link(&dir.target, name(&dir)).unwrap();
        sandbox.fault(Endpoint::Video, Fault::status(500), 1);
        client.download(&video, &dir.target).unwrap_err();
        assert_is_video(&sandbox, &dir.target);
    }
    let dir = TestDir::new();
    fs::write(&dir.target, NOT_OURS).unwrap();
    fs::hard_link(&dir.target, dir.partial_file()).unwrap();
    client.download(&video, &dir.target).unwrap();
    assert_is_video(&sandbox, &dir.target);
    assert_eq!(dir.files(), ["cat.mp4"]);
}

#[cfg(unix)]
#[test]
fn partial_file_that_is_not_a_regular_file_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    for name in [browser_partial_file, TestDir::partial_file] {
        let dir = TestDir::new();
        make_fifo(&name(&dir));
        if name(&dir) == dir.partial_file() {
            let error = assert_rejected(&sandbox, &client, &video, &dir.target);
            assert!(error.to_string().contains("not a regular file"), "{error}");
        } else {
            client.download(&video, &dir.target).unwrap();
        }
        assert!(name(&dir).symlink_metadata().is_ok_and(|file| !file.is_file()));
    }
}

#[test]
fn partial_file_of_an_earlier_run_is_kept_until_the_server_sends_the_video() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = TestDir::new();
    // It may be the only copy, if it is a complete video that could not be renamed.
    fs::write(dir.partial_file(), NOT_OURS).unwrap();
    sandbox.fault(Endpoint::Video, Fault::status(500), 1);
    client.download(&video, &dir.target).unwrap_err();
    assert_eq!(fs::read(dir.partial_file()).unwrap(), NOT_OURS);
    client.download(&video, &dir.target).unwrap();
    assert_eq!(dir.files(), ["cat.mp4"]);

    // There is nothing to keep in an empty one.
    fs::write(dir.partial_file(), "").unwrap();
    sandbox.fault(Endpoint::Video, Fault::status(500), 1);
    client.download(&video, &dir.target).unwrap_err();
    assert_eq!(dir.files(), ["cat.mp4"]);
}

#[test]
fn panic_of_the_event_handler_leaves_no_partial_file() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let dir = TestDir::new();
    let client = client_acting(&sandbox, is_downloading, || panic!("as the test expects"));
    let download = std::panic::AssertUnwindSafe(|| client.download(&video, &dir.target));
    std::panic::catch_unwind(download).unwrap_err();
    assert_eq!(dir.files(), [""; 0]);
}

// ---------------------------------------------------------------- the end of a download

#[test]
fn checked_video_is_kept_and_named_if_it_cannot_be_renamed() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let dir = Arc::new(TestDir::new());
    let client = client_acting(&sandbox, is_downloading, {
        let dir = Arc::clone(&dir);
        move || fs::create_dir(&dir.target).unwrap()
    });
    let error = client.download(&video, &dir.target).unwrap_err();
    assert_eq!((error.kind(), error.generation_id()), (ErrorKind::Io, Some(&video.id)));
    assert!(error.to_string().contains(dir.partial_file().to_str().unwrap()), "{error}");
    assert_is_video(&sandbox, &dir.partial_file());
    assert!(dir.target.is_dir());
}

#[test]
fn partial_file_replaced_during_the_download_is_not_renamed_or_deleted() {
    if cfg!(windows) {
        return;
    }
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    for name in [browser_partial_file, TestDir::partial_file] {
        let dir = Arc::new(TestDir::new());
        let client = client_acting(&sandbox, is_downloading, {
            let dir = Arc::clone(&dir);
            move || {
                let _ = fs::remove_file(name(&dir));
                fs::write(name(&dir), NOT_OURS).unwrap();
            }
        });
        let result = client.download(&video, &dir.target);
        assert_eq!(fs::read(name(&dir)).unwrap(), NOT_OURS);
        match result {
            Ok(_) => assert_is_video(&sandbox, &dir.target),
            Err(error) => {
                assert_eq!((error.kind(), dir.target.exists()), (ErrorKind::Io, false), "{error}");
            }
        }
    }
}

/// `fsync` of a directory needs read permission, which writing a file does not.
#[cfg(unix)]
#[test]
fn directory_that_cannot_be_read_is_no_error() {
    let dir = TestDir::new();
    let test = "files::unreadable_directory_subprocess";
    if run_unprivileged(test, dir.path(), 0o300, ("TEST_DIR", dir.path())) {
        assert_eq!(dir.files(), ["cat.mp4", "run.mp4", "run.mp4.kling.jsonl"]);
    }
}

#[cfg(unix)]
#[test]
fn unreadable_directory_subprocess() {
    let Some(dir) = std::env::var_os("TEST_DIR").map(PathBuf::from) else { return };
    assert!(fs::read_dir(&dir).is_err(), "the directory must not be readable");
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    client.download(&video, dir.join("cat.mp4")).unwrap();
    client.generate_to(&request(), dir.join("run.mp4")).unwrap();
    assert!(client.generate_to(&request(), dir.join("run.mp4")).unwrap().reused);
}

// ---------------------------------------------------------------- generate_to

/// Runs `generate_to`, which must fail without a request and leave the target alone.
#[track_caller]
fn assert_run_leaves_file(sandbox: &Sandbox, dir: &TestDir) -> Error {
    let (before, file) = (sandbox.requests().len(), fs::read(&dir.target).unwrap());
    let error = no_retry_client(sandbox).generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(fs::read(&dir.target).unwrap(), file, "the file was overwritten");
    assert_eq!(sandbox.requests().len(), before, "a request was sent: {error}");
    assert!(error.to_string().contains("cat.mp4"), "{error}");
    error
}

#[test]
fn file_put_at_the_target_after_a_rejected_run_is_kept() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    sandbox.fault(Endpoint::Create, Fault::status(400), 1);
    no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap_err();
    fs::write(&dir.target, NOT_OURS).unwrap();
    assert_run_leaves_file(&sandbox, &dir);
    assert_eq!(create_counts(&sandbox), (1, 0));

    fs::remove_file(&dir.target).unwrap();
    no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    assert_is_video(&sandbox, &dir.target);
}

#[test]
fn file_that_appears_at_the_target_during_a_run_is_kept() {
    for at in [is_polled as fn(&Event<'_>) -> bool, is_downloading] {
        let sandbox = sandbox();
        let dir = Arc::new(TestDir::new());
        let client = client_acting(&sandbox, at, {
            let dir = Arc::clone(&dir);
            move || fs::write(&dir.target, NOT_OURS).unwrap()
        });
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(fs::read(&dir.target).unwrap(), NOT_OURS);
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        let id = sandbox.generations().remove(0).id;
        assert_eq!(error.generation_id().map(ToString::to_string), Some(id.to_string()));
        if dir.partial_file().exists() {
            assert_is_video(&sandbox, &dir.partial_file());
            assert!(error.to_string().contains(".cat.mp4.kling.part"), "{error}");
        }

        assert_run_leaves_file(&sandbox, &dir);
        fs::remove_file(&dir.target).unwrap();
        no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
        assert_is_video(&sandbox, &dir.target);
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.kling.jsonl"]);
    }
}

#[test]
fn saved_video_that_was_edited_is_kept() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    let edited = [sandbox.default_video(), b"with subtitles"].concat();
    fs::write(&dir.target, edited).unwrap();
    assert_run_leaves_file(&sandbox, &dir);
}

#[test]
fn saved_video_that_is_edited_while_another_is_made_is_kept() {
    let sandbox = sandbox();
    let dir = Arc::new(TestDir::new());
    no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    let client = client_acting(&sandbox, is_downloading, {
        let dir = Arc::clone(&dir);
        // Of the same length: only the hash differs.
        let edited = vec![7; sandbox.default_video().len()];
        move || fs::write(&dir.target, edited).unwrap()
    });
    let error = client.generate_to(&request().prompt("another"), &dir.target).unwrap_err();
    assert!(error.to_string().contains("another file is at the target"), "{error}");
    assert_eq!(fs::read(&dir.target).unwrap(), vec![7; sandbox.default_video().len()]);
    assert_is_video(&sandbox, &dir.partial_file());
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn partial_file_that_cannot_be_used_fails_before_anything_is_paid() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    fs::create_dir(browser_partial_file(&dir)).unwrap();
    fs::create_dir(dir.partial_file()).unwrap();
    let error = no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert_eq!(create_counts(&sandbox), (0, 0));
    assert!(!error.may_have_been_billed());
    fs::remove_dir(dir.partial_file()).unwrap();
    no_retry_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    assert_is_video(&sandbox, &dir.target);
}
