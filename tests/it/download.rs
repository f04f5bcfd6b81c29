//! From a link to a file: the target is either whole or untouched, and nothing is left beside it.

use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::{Client, Endpoint, Error, ErrorKind, Event, Fault, RetryPolicy, Sandbox, Video};

use crate::common::{once, request, sandbox, video_at, watched};

/// More than any retry, and not without an end: a download that does not give up shall fail, not
/// hang.
const MANY: u32 = 100;

/// A finished video, and the client that has waited for it.
fn finished(sandbox: &Sandbox) -> (Client, Video) {
    finish_with(sandbox, sandbox.client_builder().build().unwrap())
}

fn finish_with(sandbox: &Sandbox, client: Client) -> (Client, Video) {
    sandbox.finish_after(0);
    let video = client.generate(&request()).unwrap();
    (client, video)
}

fn names_in(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Downloads into an empty folder, fails, and leaves it empty.
fn fails_without_a_trace(client: &Client, video: &Video) -> Error {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    let error = client.download(video, &target).unwrap_err();
    assert_eq!(names_in(folder.path()), [""; 0], "{error}");
    error
}

fn whole_box(kind: &[u8; 4], len: usize) -> Vec<u8> {
    let size = u32::try_from(len + 8).unwrap().to_be_bytes();
    [&size[..], kind, &vec![7; len]].concat()
}

/// An MP4 as far as its boxes go.
fn mp4(len: usize) -> Vec<u8> {
    let start = [whole_box(b"ftyp", 16), whole_box(b"moov", 100)].concat();
    let rest = len - start.len() - 8;
    [start, whole_box(b"mdat", rest)].concat()
}

// ---------------------------------------------------------------- success

#[test]
fn the_file_is_what_was_served() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    let bytes = client.download(&video, &target).unwrap();
    assert_eq!(bytes, sandbox.video().len() as u64);
    assert!(fs::read(&target).unwrap() == sandbox.video());
    assert_eq!(names_in(folder.path()), ["cat.mp4"]);
}

#[test]
fn the_link_is_used_byte_for_byte_and_without_the_key() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    client.download(&video, folder.path().join("cat.mp4")).unwrap();
    let seen = sandbox.requests().pop().unwrap();
    assert_eq!(format!("{}{}", sandbox.url(), seen.target), video.url);
    assert_eq!(seen.header("authorization"), None);
    assert!(seen.headers.iter().all(|(_, value)| !value.contains(sandbox.key())));
}

#[test]
fn events_count_the_bytes_up_to_all_of_them() {
    let sandbox = sandbox();
    let served = mp4(3_000_000);
    sandbox.serve_video(served.clone());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let client = sandbox.client_builder().on_event(move |event| {
        if let Event::Downloading { received, total, .. } = event {
            noted.lock().unwrap().push((*received, *total));
        }
    });
    let (client, video) = finish_with(&sandbox, client.build().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == served);
    let seen = seen.lock().unwrap();
    assert!(seen.len() > 3, "it comes in pieces: {seen:?}");
    assert!(seen.is_sorted_by(|one, next| one.0 < next.0), "{seen:?}");
    assert!(seen.iter().all(|(_, total)| *total == Some(3_000_000)), "{seen:?}");
    assert_eq!(seen.last().unwrap().0, 3_000_000);
}

#[test]
fn events_name_the_generation() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let expected = video.id.clone();
    let watching = sandbox.client_builder().on_event(move |event| {
        if let Event::Downloading { id, .. } = event {
            assert_eq!(*id, &expected);
        }
    });
    let folder = tempfile::tempdir().unwrap();
    watching.build().unwrap().download(&video, folder.path().join("cat.mp4")).unwrap();
}

#[test]
fn a_video_without_a_length_is_taken_to_its_end() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let raw = [head, sandbox.video()].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), 1);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.video());
}

#[test]
fn a_video_that_was_kept_as_json_can_be_downloaded_elsewhere() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let kept = serde_json::to_string(&video).unwrap();
    let video: Video = serde_json::from_str(&kept).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let bytes = once(&sandbox).download(&video, folder.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.video().len() as u64);
}

#[test]
fn the_size_in_the_reply_only_informs() {
    let sandbox = sandbox();
    let (client, mut video) = finished(&sandbox);
    video.file_size = Some(1);
    let folder = tempfile::tempdir().unwrap();
    let bytes = client.download(&video, folder.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.video().len() as u64);
}

#[test]
fn a_redirect_is_followed_with_its_target_relative_or_whole() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let path = video.url.strip_prefix(&sandbox.url()).unwrap();
    for location in [&video.url, path] {
        for status in [301, 302, 303, 307, 308] {
            sandbox.fault(Endpoint::Video, Fault::redirect(status, location), 1);
            let folder = tempfile::tempdir().unwrap();
            client.download(&video, folder.path().join("cat.mp4")).unwrap();
        }
    }
}

#[test]
fn redirects_without_an_end_are_given_up() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, &video.url), MANY);
    let before = sandbox.count(Endpoint::Video);
    let error = fails_without_a_trace(&once(&sandbox), &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert_eq!(sandbox.count(Endpoint::Video) - before, 6);
}

// ---------------------------------------------------------------- the target

#[test]
fn an_older_file_is_replaced_only_at_the_end() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    fs::write(&target, "an older video").unwrap();
    let looked_at = target.clone();
    let watching = sandbox.client_builder().on_event(move |_| {
        assert_eq!(fs::read_to_string(&looked_at).unwrap(), "an older video");
    });
    watching.build().unwrap().download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.video());
    assert_eq!(names_in(folder.path()), ["cat.mp4"]);
}

#[test]
fn an_older_file_stays_when_the_download_fails() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    fs::write(&target, "an older video").unwrap();
    for fault in [Fault::status(500), Fault::close(), Fault::cut(5_000), Fault::reply(200, "<p>")] {
        sandbox.fault(Endpoint::Video, fault, 1);
        once(&sandbox).download(&video, &target).unwrap_err();
        assert_eq!(fs::read_to_string(&target).unwrap(), "an older video");
        assert_eq!(names_in(folder.path()), ["cat.mp4"]);
    }
}

#[test]
fn a_missing_folder_is_an_io_error_with_the_path() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let before = sandbox.requests().len();
    let folder = tempfile::tempdir().unwrap();
    let error = client.download(&video, folder.path().join("no/such/cat.mp4")).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, "download"));
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.to_string().contains("no/such/cat.mp4"), "{error}");
    assert_eq!(sandbox.requests().len(), before, "nothing is asked for that cannot be kept");
}

#[test]
fn a_directory_is_no_target() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    for target in [folder.path(), Path::new("/"), Path::new(".."), Path::new("")] {
        let error = client.download(&video, target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error}");
    }
    assert_eq!(names_in(folder.path()), [""; 0]);
}

#[test]
fn a_target_that_cannot_be_replaced_leaves_nothing_beside_it() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    let made = target.clone();
    let meddling = sandbox.client_builder().on_event(move |_| {
        let _ = fs::create_dir(&made);
    });
    let error = meddling.build().unwrap().download(&video, &target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("cat.mp4"), "{error}");
    assert_eq!(names_in(folder.path()), ["cat.mp4"]);
}

#[test]
fn what_an_earlier_run_left_half_done_is_written_over() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    fs::write(folder.path().join("cat.mp4.part"), vec![7; 100_000]).unwrap();
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.video());
    assert_eq!(names_in(folder.path()), ["cat.mp4"]);
}

#[test]
fn a_second_download_of_the_same_target_is_refused_at_once() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    let (same_video, same_target) = (video.clone(), target.clone());
    let refusals: Arc<Mutex<Vec<Error>>> = Arc::default();
    let noted = Arc::clone(&refusals);
    let first = sandbox.client_builder().on_event(move |_| {
        noted.lock().unwrap().extend(client.download(&same_video, &same_target).err());
    });
    first.build().unwrap().download(&video, &target).unwrap();
    let refusals = refusals.lock().unwrap();
    assert!(!refusals.is_empty());
    assert!(refusals.iter().all(|error| error.kind() == ErrorKind::Io), "{refusals:?}");
    assert!(fs::read(&target).unwrap() == sandbox.video());
}

// ---------------------------------------------------------------- what is no video

#[test]
fn a_page_instead_of_the_video_is_refused() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.serve_video(b"<html><body>Please sign in</body></html>".to_vec());
    let error = fails_without_a_trace(&client, &video);
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Decode, "download"));
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.to_string().contains("no whole MP4"), "{error}");
}

#[test]
fn an_empty_video_is_refused() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.serve_video(Vec::new());
    let error = fails_without_a_trace(&client, &video);
    assert_eq!(error.kind(), ErrorKind::Decode);
}

#[test]
fn an_mp4_without_an_index_is_refused() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.serve_video([whole_box(b"ftyp", 16), whole_box(b"mdat", 5_000)].concat());
    assert_eq!(fails_without_a_trace(&client, &video).kind(), ErrorKind::Decode);
}

#[test]
fn an_mp4_that_ends_early_without_a_length_is_refused() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let served = sandbox.video();
    let raw = [head, &served[..served.len() - 1]].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), MANY);
    assert_eq!(fails_without_a_trace(&client, &video).kind(), ErrorKind::Decode);
}

#[test]
fn a_length_that_promises_too_much_is_a_failure() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::wrong_length(5), MANY);
    let error = fails_without_a_trace(&once(&sandbox), &video);
    assert_eq!(error.kind(), ErrorKind::Transport, "{error}");
    fails_without_a_trace(&client, &video);
}

#[test]
fn a_length_that_promises_too_little_is_a_failure() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::wrong_length(-5), MANY);
    assert_eq!(fails_without_a_trace(&client, &video).kind(), ErrorKind::Decode);
}

#[test]
fn a_length_beyond_reason_is_refused_at_once() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    let huge = "HTTP/1.1 200 OK\r\nContent-Length: 1073741825\r\n\r\n";
    sandbox.fault(Endpoint::Video, Fault::raw(huge), MANY);
    let before = sandbox.count(Endpoint::Video);
    let error = fails_without_a_trace(&client, &video);
    assert_eq!(error.kind(), ErrorKind::Decode);
    assert!(error.to_string().contains("1 GiB"), "{error}");
    assert_eq!(sandbox.count(Endpoint::Video) - before, 1);
}

// ---------------------------------------------------------------- what goes wrong on the way

#[test]
fn a_break_is_resumed_where_it_was() {
    let sandbox = sandbox();
    let (client, seen) = watched(sandbox.client_builder());
    let (client, video) = finish_with(&sandbox, client);
    sandbox.fault(Endpoint::Video, Fault::cut(9_000), 1);
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert!(fs::read(&target).unwrap() == sandbox.video());
    assert!(seen.words().contains(&"retrying download".to_owned()));
    let resumed = sandbox.requests().pop().unwrap();
    let from = resumed.header("range").unwrap();
    let from: u64 =
        from.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap();
    assert!((1..9_000).contains(&from), "{from}");
    assert!(resumed.header("if-range").is_some());
    assert_eq!(resumed.answered, Some(206));
}

#[test]
fn a_storage_that_fails_for_a_while_is_asked_again() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::status(503), 2);
    sandbox.fault(Endpoint::Video, Fault::close(), 2);
    let folder = tempfile::tempdir().unwrap();
    client.download(&video, folder.path().join("cat.mp4")).unwrap();
}

#[test]
fn a_storage_that_keeps_failing_is_given_up_with_its_status() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let retry = RetryPolicy::new().max_retries(2).base_delay(Duration::from_millis(1));
    let client = sandbox.client_builder().retry(retry).build().unwrap();
    sandbox.fault(Endpoint::Video, Fault::status(503), MANY);
    let error = fails_without_a_trace(&client, &video);
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(503)));
    assert_eq!((error.attempts(), sandbox.count(Endpoint::Video)), (3, 3));
    assert!(error.may_have_been_billed() && error.is_retryable());
}

#[test]
fn an_expired_link_is_renewed_once() {
    let sandbox = sandbox();
    let (client, video) = finished(&sandbox);
    sandbox.expire_links();
    let folder = tempfile::tempdir().unwrap();
    let bytes = client.download(&video, folder.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.video().len() as u64);
}

#[test]
fn a_link_that_stays_refused_is_given_up() {
    for status in [403, 404, 410] {
        let sandbox = sandbox();
        let (client, video) = finished(&sandbox);
        sandbox.fault(Endpoint::Video, Fault::status(status), MANY);
        let error = fails_without_a_trace(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(sandbox.count(Endpoint::Video), 2);
    }
}

#[test]
fn a_link_without_tls_is_not_followed() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    for link in ["http://192.0.2.1/cat.mp4", "ftp://127.0.0.1/cat.mp4", "cat.mp4", "http://a b/"] {
        let target = folder.path().join("cat.mp4");
        let error = once(&sandbox).download(&video_at(link), target).unwrap_err();
        assert_eq!(error.operation(), "download");
        assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
        assert!(error.to_string().contains("the video's link"), "{error}");
        assert_eq!(names_in(folder.path()), [""; 0]);
    }
}

#[test]
fn a_link_that_can_never_be_followed_is_not_tried_again() {
    let sandbox = sandbox();
    let (client, seen) = watched(sandbox.client_builder());
    let folder = tempfile::tempdir().unwrap();
    let link = video_at("http://192.0.2.1/cat.mp4");
    let error = client.download(&link, folder.path().join("cat.mp4")).unwrap_err();
    assert_eq!(seen.words(), [""; 0], "{error}");
    assert!(!error.is_retryable(), "{error}");
}

#[test]
fn an_expired_link_without_another_is_told_with_the_generation() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    sandbox.expire_links();
    let bare = r#"{"status":"completed","video":null}"#;
    sandbox.fault(Endpoint::Retrieve, Fault::reply(200, bare), 1);
    let error = fails_without_a_trace(&once(&sandbox), &video);
    assert_eq!((error.kind(), error.generation_id()), (ErrorKind::Decode, Some(&video.id)));
    assert!(error.generation().is_some());
}

#[test]
fn a_redirect_to_a_host_without_tls_is_not_followed() {
    let sandbox = sandbox();
    let (_, video) = finished(&sandbox);
    let elsewhere = Fault::redirect(302, "http://192.0.2.1/cat.mp4");
    sandbox.fault(Endpoint::Video, elsewhere, 1);
    let error = fails_without_a_trace(&once(&sandbox), &video);
    let causes = crate::common::chain(&error).join(" ");
    assert!(causes.contains("not https"), "{causes}");
}
