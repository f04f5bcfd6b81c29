//! Downloads to a file: the target is either complete or untouched, and no other file remains.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, Error, ErrorKind, EventKind, Operation, RetryPolicy, Video};

use crate::common::{no_retry_client, request, sandbox, video_at, with_event_log};

/// More than any number of retries, but finite, so that a download that never gives up fails its
/// test instead of hanging.
const MANY: u32 = 100;

/// A completed video and the client that waited for it.
fn finished(sandbox: &Sandbox) -> (Client, Video) {
    finished_with(sandbox, sandbox.client_builder().build().unwrap())
}

fn finished_with(sandbox: &Sandbox, client: Client) -> (Client, Video) {
    sandbox.complete_after_polls(0);
    let video = client.generate(&request()).unwrap();
    (client, video)
}

fn file_names(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Asserts that a download to an empty directory fails and leaves it empty.
#[track_caller]
fn assert_fails_cleanly(client: &Client, video: &Video) -> Error {
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    let error = client.download(video, &target).unwrap_err();
    assert_eq!(file_names(dir.path()), [""; 0], "{error}");
    error
}

fn mp4_box(kind: &[u8; 4], len: usize) -> Vec<u8> {
    let size = u32::try_from(len + 8).unwrap().to_be_bytes();
    [&size[..], kind, &vec![7; len]].concat()
}

/// An MP4 with valid boxes and filler for media data.
fn mp4(len: usize) -> Vec<u8> {
    let start = [mp4_box(b"ftyp", 16), mp4_box(b"moov", 100)].concat();
    let media_len = len - start.len() - 8;
    [start, mp4_box(b"mdat", media_len)].concat()
}

// ---------------------------------------------------------------- success

#[test]
fn file_matches_the_served_bytes() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    let bytes = client.download(&video, &target).unwrap();
    assert_eq!(bytes, sandbox.default_video().len() as u64);
    assert!(fs::read(&target).unwrap() == sandbox.default_video());
    assert_eq!(file_names(dir.path()), ["cat.mp4"]);
}

#[test]
fn url_is_requested_verbatim_and_without_the_api_key() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    client.download(&video, dir.path().join("cat.mp4")).unwrap();
    let seen = sandbox.requests().pop().unwrap();
    assert_eq!(format!("{}{}", sandbox.url(), seen.target), video.url);
    assert_eq!(seen.header("authorization"), None);
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(sandbox.key())));
}

#[test]
fn events_report_progress_up_to_the_complete_length() {
    let sandbox = sandbox();
    let served = mp4(3_000_000);
    sandbox.set_video(served.clone());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let handler_seen = Arc::clone(&seen);
    let client = sandbox.client_builder().event_handler(move |event| {
        if let EventKind::Downloading { received, total, .. } = event.kind {
            handler_seen.lock().unwrap().push((received, total));
        }
    });
    let (client, video) = finished_with(&sandbox, client.build().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == served);
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 3, "progress is reported more than once: {seen:?}");
    assert!(seen.is_sorted_by(|previous, next| previous.0 < next.0), "{seen:?}");
    assert!(seen.iter().all(|(_, total)| *total == Some(3_000_000)), "{seen:?}");
    assert_eq!(seen.last().unwrap().0, 3_000_000);
}

#[test]
fn events_carry_the_generation_id() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let expected = video.id.clone();
    let builder = sandbox.client_builder().event_handler(move |event| {
        if let EventKind::Downloading { .. } = event.kind {
            assert_eq!(event.generation_id, Some(&expected));
        }
    });
    let dir = tempfile::tempdir().unwrap();
    builder.build().unwrap().download(&video, dir.path().join("cat.mp4")).unwrap();
}

#[test]
fn video_without_content_length_is_read_to_eof() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let raw = [head, sandbox.default_video()].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), 1);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.default_video());
}

#[test]
fn video_deserialized_from_json_can_be_downloaded() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let stored = serde_json::to_string(&video).unwrap();
    let video: Video = serde_json::from_str(&stored).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let bytes = no_retry_client(&sandbox).download(&video, dir.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.default_video().len() as u64);
}

#[test]
fn file_size_of_the_video_is_not_enforced() {
    let sandbox = sandbox();
    let (client, mut video) = finished(&sandbox);
    video.file_size = Some(1);
    let dir = tempfile::tempdir().unwrap();
    let bytes = client.download(&video, dir.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.default_video().len() as u64);
}

#[test]
fn redirect_is_followed_to_a_relative_or_absolute_location() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let path = video.url.strip_prefix(&sandbox.url()).unwrap();
    for location in [&video.url, path] {
        for status in [301, 302, 303, 307, 308] {
            sandbox.fault(Endpoint::Video, Fault::redirect(status, location), 1);
            let dir = tempfile::tempdir().unwrap();
            client.download(&video, dir.path().join("cat.mp4")).unwrap();
        }
    }
}

#[test]
fn redirect_loop_fails() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, &video.url), MANY);
    let before = sandbox.request_count(Endpoint::Video);
    let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert_eq!(sandbox.request_count(Endpoint::Video) - before, 6);
}

// ---------------------------------------------------------------- the target

#[test]
fn existing_file_is_replaced_only_at_the_end() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    fs::write(&target, "an older video").unwrap();
    let handler_target = target.clone();
    let builder = sandbox.client_builder().event_handler(move |event| {
        if let EventKind::Downloading { .. } = event.kind {
            assert_eq!(fs::read_to_string(&handler_target).unwrap(), "an older video");
        }
    });
    builder.build().unwrap().download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.default_video());
    assert_eq!(file_names(dir.path()), ["cat.mp4"]);
}

#[test]
fn existing_file_survives_a_failed_download() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    fs::write(&target, "an older video").unwrap();
    for fault in [
        Fault::status(500),
        Fault::close_connection(),
        Fault::truncate(5_000),
        Fault::response(200, "<p>"),
    ] {
        sandbox.fault(Endpoint::Video, fault, 1);
        no_retry_client(&sandbox).download(&video, &target).unwrap_err();
        assert_eq!(fs::read_to_string(&target).unwrap(), "an older video");
        assert_eq!(file_names(dir.path()), ["cat.mp4"]);
    }
}

#[test]
fn missing_directory_is_an_io_error_with_its_path() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let before = sandbox.requests().len();
    let dir = tempfile::tempdir().unwrap();
    let error = client.download(&video, dir.path().join("no/such/cat.mp4")).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, Operation::Download));
    assert_eq!(error.generation_id(), Some(&video.id));
    let message = format!("directory {} does not exist", dir.path().join("no/such").display());
    assert!(error.to_string().contains(&message), "{error}");
    assert_eq!(sandbox.requests().len(), before, "nothing is requested without a place to save it");
}

#[test]
fn target_that_is_empty_or_a_directory_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let not_a_file = "target is not a file path";
    for (target, message) in [
        (dir.path(), not_a_file),
        (Path::new("/"), not_a_file),
        (Path::new(".."), not_a_file),
        (Path::new(""), "the target path is empty"),
    ] {
        let error = client.download(&video, target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error}");
        assert!(error.to_string().contains(message), "{target:?}: {error}");
    }
    assert_eq!(file_names(dir.path()), [""; 0]);
}

#[test]
fn rename_failure_leaves_no_partial_file() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    let handler_target = target.clone();
    let builder = sandbox.client_builder().event_handler(move |_| {
        let _ = fs::create_dir(&handler_target);
    });
    let error = builder.build().unwrap().download(&video, &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("cat.mp4"), "{error}");
    assert_eq!(file_names(dir.path()), ["cat.mp4"]);
}

#[test]
fn partial_file_of_an_earlier_run_is_overwritten() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    fs::write(dir.path().join("cat.mp4.part"), vec![7; 100_000]).unwrap();
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.default_video());
    assert_eq!(file_names(dir.path()), ["cat.mp4"]);
}

#[test]
fn second_download_to_the_same_target_fails_at_once() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    let (same_video, same_target) = (video.clone(), target.clone());
    let errors: Arc<Mutex<Vec<Error>>> = Arc::default();
    let handler_errors = Arc::clone(&errors);
    let first = sandbox.client_builder().event_handler(move |event| {
        if let EventKind::Downloading { .. } = event.kind {
            handler_errors.lock().unwrap().extend(client.download(&same_video, &same_target).err());
        }
    });
    first.build().unwrap().download(&video, &target).unwrap();
    let errors = errors.lock().unwrap();
    assert!(!errors.is_empty());
    assert!(errors.iter().all(|error| error.kind() == ErrorKind::Io), "{errors:?}");
    assert!(fs::read(&target).unwrap() == sandbox.default_video());
}

// ---------------------------------------------------------------- invalid videos

#[test]
fn html_page_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.set_video(b"<html><body>Please sign in</body></html>".to_vec());
    let error = assert_fails_cleanly(&client, &video);
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Decode, Operation::Download));
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.to_string().contains("the URL served HTML, not a video"), "{error}");
}

#[test]
fn empty_video_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.set_video(Vec::new());
    let error = assert_fails_cleanly(&client, &video);
    assert_eq!(error.kind(), ErrorKind::Decode);
}

#[test]
fn mp4_without_moov_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.set_video([mp4_box(b"ftyp", 16), mp4_box(b"mdat", 5_000)].concat());
    assert_eq!(assert_fails_cleanly(&client, &video).kind(), ErrorKind::Decode);
}

#[test]
fn mp4_truncated_without_content_length_is_rejected() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let served = sandbox.default_video();
    let raw = [head, &served[..served.len() - 1]].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), MANY);
    assert_eq!(assert_fails_cleanly(&client, &video).kind(), ErrorKind::Decode);
}

#[test]
fn content_length_larger_than_the_body_fails() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::wrong_content_length(5), MANY);
    let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
    assert_fails_cleanly(&client, &video);
}

#[test]
fn content_length_smaller_than_the_video_fails() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::wrong_content_length(-5), MANY);
    assert_eq!(assert_fails_cleanly(&client, &video).kind(), ErrorKind::Decode);
}

#[test]
fn content_length_over_1_gib_fails_at_once() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let huge = "HTTP/1.1 200 OK\r\nContent-Length: 1073741825\r\n\r\n";
    sandbox.fault(Endpoint::Video, Fault::raw(huge), MANY);
    let before = sandbox.request_count(Endpoint::Video);
    let error = assert_fails_cleanly(&client, &video);
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("1 GiB"), "{error}");
    assert_eq!(sandbox.request_count(Endpoint::Video) - before, 1);
}

// ---------------------------------------------------------------- interruptions and URLs

#[test]
fn interrupted_download_resumes() {
    let sandbox = sandbox();
    let (client, seen) = with_event_log(sandbox.client_builder());
    let (client, video) = finished_with(&sandbox, client);
    sandbox.fault(Endpoint::Video, Fault::truncate(9_000), 1);
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.default_video());
    assert!(seen.names().contains(&"retrying download".to_owned()));
    let resumed = sandbox.requests().pop().unwrap();
    let from = resumed.header("range").unwrap();
    let from: u64 =
        from.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!((1..9_000).contains(&from), "{from}");
    assert!(resumed.header("if-range").is_some());
    assert_eq!(resumed.response_status, Some(206));
}

#[test]
fn transient_storage_failure_is_retried() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::status(503), 2);
    sandbox.fault(Endpoint::Video, Fault::close_connection(), 2);
    let dir = tempfile::tempdir().unwrap();
    client.download(&video, dir.path().join("cat.mp4")).unwrap();
}

#[test]
fn persistent_storage_failure_is_returned_with_its_status() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let retry = RetryPolicy::new().max_retries(2).base_delay(Duration::from_millis(1));
    let client = sandbox.client_builder().retry_policy(retry).build().unwrap();
    sandbox.fault(Endpoint::Video, Fault::status(503), MANY);
    let error = assert_fails_cleanly(&client, &video);
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(503)));
    assert_eq!((error.attempts(), sandbox.request_count(Endpoint::Video)), (3, 3));
    assert!(error.may_have_been_billed() && error.is_retryable());
}

#[test]
fn expired_url_is_refreshed() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.expire_video_urls();
    let dir = tempfile::tempdir().unwrap();
    let bytes = client.download(&video, dir.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.default_video().len() as u64);
}

#[test]
fn url_rejected_after_its_refresh_fails() {
    for status in [403, 404, 410] {
        let sandbox = sandbox();
        let (client, video) = finished(&sandbox);
        sandbox.fault(Endpoint::Video, Fault::status(status), MANY);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(sandbox.request_count(Endpoint::Video), 2);
    }
}

#[test]
fn url_without_https_is_rejected() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    for url in ["http://192.0.2.1/cat.mp4", "ftp://127.0.0.1/cat.mp4", "cat.mp4", "http://a b/"] {
        let target = dir.path().join("cat.mp4");
        let error = no_retry_client(&sandbox).download(&video_at(url), target).unwrap_err();
        assert_eq!(error.operation(), Operation::Download);
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
        assert!(error.to_string().contains("video URL"), "{error}");
        assert_eq!(file_names(dir.path()), [""; 0]);
    }
}

#[test]
fn unusable_url_is_not_retried() {
    let sandbox = sandbox();
    let (client, seen) = with_event_log(sandbox.client_builder());
    let dir = tempfile::tempdir().unwrap();
    let video = video_at("http://192.0.2.1/cat.mp4");
    let error = client.download(&video, dir.path().join("cat.mp4")).unwrap_err();
    assert_eq!(seen.names(), [""; 0], "{error}");
    assert!(!error.is_retryable(), "{error}");
}

#[test]
fn expired_url_without_a_replacement_fails_with_the_generation() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    sandbox.expire_video_urls();
    let without_video = r#"{"status":"completed","video":null}"#;
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, without_video), 1);
    let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    assert_eq!((error.kind(), error.generation_id()), (ErrorKind::Decode, Some(&video.id)));
    assert!(error.generation().is_some());
}

#[test]
fn redirect_to_a_url_without_https_is_rejected() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let redirect = Fault::redirect(302, "http://192.0.2.1/cat.mp4");
    sandbox.fault(Endpoint::Video, redirect, 1);
    let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    let causes = crate::common::error_chain(&error).join(" ");
    assert!(causes.contains("must start with https://"), "{causes}");
}
