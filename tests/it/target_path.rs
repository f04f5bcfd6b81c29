//! The path of a target: symlinks, special files, relative paths.

use std::fs;
use std::path::{Path, PathBuf};

use kling_video::{BatchOptions, ErrorKind, Operation};

use crate::files::{
    NOT_OURS, assert_is_video, assert_rejected, client_acting, finished, is_downloading, is_polled,
};
use crate::helpers::clients::{create_counts, no_retry_client, request, sandbox};
use crate::helpers::files::TestDir;
use crate::helpers::subprocess::{emit_result, run_in_subprocess};

// ---------------------------------------------------------------- the target's path

#[cfg(unix)]
pub fn make_fifo(path: &Path) {
    assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
}

#[cfg(unix)]
#[test]
fn target_that_is_a_fifo_socket_or_device_is_rejected_before_sending() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    for create in [
        make_fifo as fn(&Path),
        |path| drop(std::os::unix::net::UnixListener::bind(path).unwrap()),
        |path| std::os::unix::fs::symlink("/dev/null", path).unwrap(),
    ] {
        let dir = TestDir::new();
        create(&dir.target);
        let before = dir.target.symlink_metadata().unwrap().file_type();
        let error = assert_rejected(&sandbox, &client, &video, &dir.target);
        assert!(error.to_string().contains("not a regular file"), "{error}");
        let creates = create_counts(&sandbox);
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, Operation::GenerateTo));
        assert_eq!(create_counts(&sandbox), creates);
        assert_eq!(dir.target.symlink_metadata().unwrap().file_type(), before);
        assert_eq!(dir.files(), ["cat.mp4"]);
    }
}

#[test]
fn target_with_a_trailing_separator_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = TestDir::new();
    for suffix in ["/", "/."] {
        let mut target = dir.target.clone().into_os_string();
        target.push(suffix);
        let error = assert_rejected(&sandbox, &client, &video, Path::new(&target));
        assert!(error.to_string().contains("target is not a file path"), "{error}");
    }
    assert_eq!(dir.files(), [""; 0]);
}

#[cfg(unix)]
#[test]
fn symlinked_target_is_written_where_it_leads() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let link = |original: &str, path: PathBuf| std::os::unix::fs::symlink(original, path).unwrap();
    for exists in [true, false] {
        let dir = TestDir::new();
        let (links, files) = (dir.path().join("links"), dir.path().join("files"));
        fs::create_dir(&links).unwrap();
        fs::create_dir(&files).unwrap();
        link("links/cat.mp4", dir.target.clone());
        link("../files/dog.mp4", links.join("cat.mp4"));
        if exists {
            fs::write(files.join("dog.mp4"), NOT_OURS).unwrap();
        }
        let partial_file = files.join(".dog.mp4.kling.part");
        let client = client_acting(&sandbox, is_downloading, {
            let partial_file = partial_file.clone();
            move || assert!(partial_file.exists())
        });
        client.download(&video, &dir.target).unwrap();
        assert!(dir.target.is_symlink() && links.join("cat.mp4").is_symlink());
        assert!(files.join("dog.mp4").symlink_metadata().unwrap().is_file());
        assert_is_video(&sandbox, &files.join("dog.mp4"));
        assert!(!partial_file.exists());
    }
    let dir = TestDir::new();
    link("cat.mp4", dir.target.clone());
    let error = assert_rejected(&sandbox, &no_retry_client(&sandbox), &video, &dir.target);
    assert!(error.to_string().contains("symlinks"), "{error}");
}

#[cfg(unix)]
#[test]
fn symlinked_and_direct_target_are_one_run() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let dir = TestDir::new();
    let link = dir.path().join("link.mp4");
    std::os::unix::fs::symlink("cat.mp4", &link).unwrap();
    assert!(!client.generate_to(&request(), &link).unwrap().reused);
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.kling.jsonl", "link.mp4"]);
    assert!(link.is_symlink());
}

#[test]
fn relative_target_stays_in_its_directory_when_the_process_changes_its_own() {
    for call in ["download", "generate_to", "generate_all_to"] {
        let dir = TestDir::new();
        for name in ["first", "second"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        fs::write(dir.path().join("second/cat.mp4"), NOT_OURS).unwrap();
        let variables = [("TEST_DIR", dir.path().to_str().unwrap()), ("TEST_CALL", call)];
        assert_eq!(
            run_in_subprocess("target_path::relative_target_subprocess", &variables),
            "done"
        );
    }
}

#[test]
fn relative_target_subprocess() {
    let Some(dir) = std::env::var_os("TEST_DIR").map(PathBuf::from) else { return };
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    std::env::set_current_dir(dir.join("first")).unwrap();
    let second = dir.join("second");
    let change_dir = move || std::env::set_current_dir(second).unwrap();
    match std::env::var("TEST_CALL").unwrap().as_str() {
        "download" => {
            let client = client_acting(&sandbox, is_downloading, change_dir);
            client.download(&video, "cat.mp4").unwrap();
        }
        "generate_to" => {
            let client = client_acting(&sandbox, is_polled, change_dir);
            client.generate_to(&request(), "cat.mp4").unwrap();
        }
        _ => {
            // The second job starts when the first one has ended.
            let client = client_acting(&sandbox, is_polled, change_dir);
            let options = BatchOptions::new().max_in_flight(1);
            let jobs = ["dog.mp4", "cat.mp4"].map(|path| (request(), path.into()));
            for result in client.generate_all_to(&jobs, &options) {
                result.unwrap();
            }
        }
    }
    assert_eq!(fs::read(dir.join("second/cat.mp4")).unwrap(), NOT_OURS);
    assert_is_video(&sandbox, &dir.join("first/cat.mp4"));
    assert_eq!(fs::read_dir(dir.join("second")).unwrap().count(), 1);
    emit_result("done");
}
