//! Downloads to a file: what is requested, and what is written where.

use std::fs;
use std::io::{Read, Write};
use std::path::Path;
use std::thread;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, RecordedRequest, Sandbox};
use kling_video::{Client, Error, ErrorKind, EventKind, Operation, Video};

use crate::helpers::clients::{no_retry_client, request, sandbox, short_idle_timeout, test_client};
use crate::helpers::error_output::full_message;
use crate::helpers::events::{record_event_names, record_events};
use crate::helpers::files::{TestDir, file_names, unwritable_dir};
use crate::helpers::media::{TINY_MP4, mp4};
use crate::helpers::tcp_server::RawServer;
use crate::helpers::timing::wait_until;

/// Large enough for several interruptions.
pub const LENGTH: usize = 300_000;

/// A sandbox with a completed video of [`LENGTH`] bytes, and a client with a short idle timeout.
pub fn finished() -> (Sandbox, Client, Video) {
    let sandbox = sandbox();
    sandbox.set_video(mp4(LENGTH));
    let video = test_client(&sandbox).generate(&request()).unwrap();
    let client = short_idle_timeout(&sandbox).build().unwrap();
    (sandbox, client, video)
}

pub fn video_requests(sandbox: &Sandbox) -> Vec<RecordedRequest> {
    let requests = sandbox.requests().into_iter();
    requests.filter(|request| request.endpoint == Some(Endpoint::Video)).collect()
}

/// The first byte that a request asks for, if it has a `Range`.
pub fn range_start(request: &RecordedRequest) -> Option<usize> {
    let range = request.header("range")?;
    Some(range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap())
}

#[track_caller]
pub fn assert_saved(dir: &TestDir, video: &[u8]) {
    assert!(fs::read(&dir.target).unwrap() == video, "the file differs from the video");
    assert_eq!(dir.files(), ["cat.mp4"]);
}

/// Asserts that a download to an empty directory fails with the generation id and leaves no file.
#[track_caller]
pub fn assert_fails_cleanly(client: &Client, video: &Video) -> Error {
    let dir = TestDir::new();
    let error = client.download(video, &dir.target).unwrap_err();
    assert_eq!(dir.files(), [""; 0], "{error:?}");
    assert_eq!(error.operation(), Operation::Download);
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.may_have_been_billed());
    error
}

// ---------------------------------------------------------------- the video

#[test]
fn events_report_progress_up_to_the_complete_length() {
    let (sandbox, _, video) = finished();
    let served = mp4(3_000_000);
    sandbox.set_video(served.clone());
    let (client, recording) = record_events(sandbox.client_builder(), |event| match event.kind {
        EventKind::Downloading { received, total, .. } => {
            Some((received, total, event.generation_id.cloned()))
        }
        _ => None,
    });
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &served);
    let seen = recording.take();
    assert!(seen.len() > 3, "progress is reported more than once: {seen:?}");
    assert!(seen.is_sorted_by(|previous, next| previous.0 < next.0), "{seen:?}");
    assert_eq!(seen.last().unwrap().0, 3_000_000);
    for (_, total, id) in seen {
        assert_eq!((total, id.as_ref()), (Some(3_000_000), Some(&video.id)));
    }
}

#[test]
fn video_without_content_length_is_read_to_eof() {
    let (sandbox, client, video) = finished();
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let raw = [&head[..], &mp4(LENGTH)].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), 1);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
    assert_eq!(video_requests(&sandbox).len(), 1);
}

#[test]
fn video_deserialized_from_json_can_be_downloaded() {
    let (_sandbox, client, video) = finished();
    let stored = serde_json::to_string(&video).unwrap();
    let video: Video = serde_json::from_str(&stored).unwrap();
    let bytes = client.download(&video, TestDir::new().target).unwrap();
    assert_eq!(bytes, LENGTH as u64);
}

#[test]
fn file_size_of_the_video_is_not_enforced() {
    let (_sandbox, client, mut video) = finished();
    video.file_size = Some(1);
    let dir = TestDir::new();
    assert_eq!(client.download(&video, &dir.target).unwrap(), LENGTH as u64);
    assert_saved(&dir, &mp4(LENGTH));
}

// ---------------------------------------------------------------- URLs, redirects and the API key

#[test]
fn url_is_requested_verbatim() {
    let (sandbox, client, video) = finished();
    client.download(&video, TestDir::new().target).unwrap();
    assert_eq!(video_requests(&sandbox)[0].target, video.url.strip_prefix(&sandbox.url()).unwrap());
}

#[test]
fn api_key_is_sent_to_the_api_only() {
    let (sandbox, client, _) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, "?again"), 1);
    sandbox.fault(Endpoint::Video, Fault::status(403), 1);
    client.generate_to(&request(), TestDir::new().target).unwrap();
    let (videos, api): (Vec<_>, Vec<_>) = sandbox
        .requests()
        .into_iter()
        .partition(|request| request.endpoint == Some(Endpoint::Video));
    assert!(videos.len() >= 4 && api.len() >= 2, "{} and {}", videos.len(), api.len());
    for request in videos {
        let leaked = request.headers.iter().any(|(_, value)| value.contains(sandbox.key()));
        assert!(!leaked && request.header("authorization").is_none(), "{request:?}");
        assert!(!request.target.contains(sandbox.key()));
    }
    assert!(api.iter().all(|request| request.header("authorization").is_some()));
}

#[test]
fn redirects_are_followed_without_the_api_key() {
    for status in [301, 302, 303, 307, 308] {
        let (sandbox, client, video) = finished();
        let other_host = RawServer::start(|mut stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", TINY_MP4.len());
            stream.write_all(&[head.as_bytes(), TINY_MP4].concat()).unwrap();
        });
        let location = format!("{}/cat.mp4", other_host.url());
        sandbox.fault(Endpoint::Video, Fault::redirect(status, location), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_saved(&dir, TINY_MP4);

        let [head] = &other_host.heads()[..] else { panic!("{status}: not one request") };
        assert!(head.starts_with("GET /cat.mp4 HTTP/1.1\r\n"), "{head}");
        assert!(!head.to_lowercase().contains("authorization"), "{head}");
        assert!(!head.contains(sandbox.key()), "{head}");
    }
}

#[test]
fn redirect_is_resolved_against_its_url() {
    let (sandbox, client, video) = finished();
    let path = video.url.strip_prefix(&sandbox.url()).unwrap().to_owned();
    let (path_only, query) = path.split_once('?').unwrap();
    let name = path_only.rsplit('/').next().unwrap();
    let relative = [path.clone(), format!("?{query}"), format!("{name}?{query}")];
    for location in relative.into_iter().chain([video.url.clone()]) {
        for status in [301, 302, 303, 307, 308] {
            sandbox.fault(Endpoint::Video, Fault::redirect(status, location.clone()), 1);
            let dir = TestDir::new();
            client.download(&video, &dir.target).unwrap();
            let target = &video_requests(&sandbox).pop().unwrap().target;
            assert_eq!(*target, path, "{status} {location}");
            assert_saved(&dir, &mp4(LENGTH));
        }
    }
}

#[test]
fn redirects_are_followed_five_times_at_most() {
    let (sandbox, _, video) = finished();
    let client = no_retry_client(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, video.url.clone()), 5);
    client.download(&video, TestDir::new().target).unwrap();
    assert_eq!(video_requests(&sandbox).len(), 6);

    sandbox.fault(Endpoint::Video, Fault::redirect(302, video.url.clone()), 1_000);
    let error = assert_fails_cleanly(&client, &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
    assert_eq!(video_requests(&sandbox).len(), 6 + 6);
    assert!(full_message(&error).contains("redirects"), "{error:?}");
}

#[test]
fn redirect_away_from_https_is_rejected() {
    const NOT_HTTPS: &str = "video URL must start with https://";
    let (sandbox, _, video) = finished();
    let client = no_retry_client(&sandbox);
    for (index, (location, message)) in [
        ("http://example.com/cat.mp4", NOT_HTTPS),
        ("http://192.0.2.1/cat.mp4", NOT_HTTPS),
        ("HTTP://example.com/cat.mp4", NOT_HTTPS),
        ("//example.com/cat.mp4", NOT_HTTPS),
        ("file:///etc/hostname", "invalid video URL"),
        ("ftp://127.0.0.1/cat.mp4", NOT_HTTPS),
        ("data:video/mp4;base64,AAAA", "invalid video URL"),
        ("http://127.0.0.1.example.com/cat.mp4", NOT_HTTPS),
        ("http://localhost.example.com/cat.mp4", NOT_HTTPS),
    ]
    .into_iter()
    .enumerate()
    {
        sandbox.fault(Endpoint::Video, Fault::redirect(302, location), 1);
        let error = assert_fails_cleanly(&client, &video);
        let chain = full_message(&error);
        assert!(chain.contains(message), "{location}: {chain}");
        assert_eq!(video_requests(&sandbox).len(), index + 1);
    }
}

#[test]
fn video_url_without_https_is_rejected_and_not_retried() {
    let (sandbox, _, mut video) = finished();
    let (client, recording) = record_event_names(sandbox.client_builder());
    let valid = video.url.clone();
    for url in [
        "http://example.com/cat.mp4",
        "http://192.0.2.1/cat.mp4",
        "ftp://127.0.0.1/cat.mp4",
        "file:///etc/hostname",
        "http://a b/",
        "cat.mp4",
        "",
    ] {
        url.clone_into(&mut video.url);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!(error.kind(), ErrorKind::Decode, "{url}: {error:?}");
        assert!(!error.is_retryable(), "{url}: {error:?}");
        assert!(error.to_string().contains("video URL"), "{url}: {error:?}");
    }
    assert_eq!(recording.names(), [""; 0]);
    assert_eq!(video_requests(&sandbox).len(), 0);
    video.url = valid;
    client.download(&video, TestDir::new().target).unwrap();
    assert_eq!(recording.names(), ["downloading", "saved"]);
}

// ---------------------------------------------------------------- the target

#[test]
fn existing_file_stays_until_the_new_one_is_complete() {
    let (sandbox, _, video) = finished();
    let dir = TestDir::new();
    fs::write(&dir.target, b"an older video").unwrap();
    let target = dir.target.clone();
    let (client, recording) =
        record_events(sandbox.client_builder(), move |event| match event.kind {
            EventKind::Downloading { .. } => Some(fs::read_to_string(&target).unwrap()),
            _ => None,
        });
    client.download(&video, &dir.target).unwrap();
    let mut contents = recording.take();
    contents.dedup();
    assert_eq!(contents, ["an older video"]);
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn existing_file_survives_a_failed_download() {
    let (sandbox, _, video) = finished();
    let dir = TestDir::new();
    fs::write(&dir.target, "an older video").unwrap();
    for fault in [
        Fault::status(500),
        Fault::close_connection(),
        Fault::truncate(5_000),
        Fault::response(200, "<p>"),
    ] {
        sandbox.fault(Endpoint::Video, fault, 1);
        no_retry_client(&sandbox).download(&video, &dir.target).unwrap_err();
        assert_saved(&dir, b"an older video");
    }
}

#[test]
fn unwritable_target_is_an_io_error_with_its_path() {
    let (sandbox, client, video) = finished();
    let parent = tempfile::tempdir().unwrap();
    let within = |name: &str| parent.path().join(name);
    fs::create_dir(within("dir.mp4")).unwrap();
    fs::create_dir(within(".part.mp4.kling.part")).unwrap();
    fs::write(within("file"), "").unwrap();
    let unwritable = unwritable_dir(parent.path());
    let cases = [
        (within("dir.mp4"), within("dir.mp4")),
        (within("part.mp4"), within(".part.mp4.kling.part")),
        (within("missing").join("cat.mp4"), within("missing")),
    ];
    // Windows reports a parent that is a file as a missing one, and ignores a directory's permissions.
    let on_unix = [
        (within("file").join("cat.mp4"), within("file").join("cat.mp4")),
        (unwritable.join("cat.mp4"), unwritable.join(".cat.mp4.kling.part")),
    ];
    let on_unix = on_unix.into_iter().filter(|_| cfg!(unix));
    for (target, reported) in cases.into_iter().chain(on_unix) {
        let error = client.download(&video, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error:?}");
        assert_eq!(error.operation(), Operation::Download);
        assert!(error.to_string().contains(reported.to_str().unwrap()), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(error.generation_id(), Some(&video.id));
        assert!(!target.is_file());
    }
    assert_eq!(video_requests(&sandbox).len(), 0, "the target is checked before sending");
}

#[test]
fn target_that_is_empty_or_a_directory_is_rejected() {
    let (sandbox, client, video) = finished();
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
        assert_eq!(error.generation_id(), Some(&video.id), "{target:?}");
        assert!(error.to_string().contains(message), "{target:?}: {error}");
    }
    assert_eq!(file_names(dir.path()), [""; 0]);
    assert_eq!(video_requests(&sandbox).len(), 0, "the target is checked before sending");
}

#[test]
fn rename_failure_keeps_the_partial_file() {
    let (sandbox, _, video) = finished();
    let dir = TestDir::new();
    let target = dir.target.clone();
    let builder = sandbox.client_builder().event_handler(move |_| {
        let _ = fs::create_dir(&target);
    });
    let error = builder.build().unwrap().download(&video, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains("cat.mp4"), "{error}");
    assert_eq!(dir.files(), [".cat.mp4.kling.part", "cat.mp4"]);
}

// ---------------------------------------------------------------- the partial file

#[test]
fn partial_file_of_a_killed_download_is_overwritten() {
    let (_sandbox, client, video) = finished();
    let dir = TestDir::new();
    fs::write(dir.partial_file(), vec![7; 2 * LENGTH]).unwrap();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn partial_file_locked_by_another_process_is_not_touched() {
    let (sandbox, client, video) = finished();
    let dir = TestDir::new();
    fs::write(dir.partial_file(), "half a video").unwrap();
    let mut file = fs::File::options().read(true).write(true).open(dir.partial_file()).unwrap();
    file.lock().unwrap();
    let error = client.download(&video, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    // Windows lets nobody else read it.
    let mut content = String::new();
    file.read_to_string(&mut content).unwrap();
    assert_eq!(content, "half a video");
    assert_eq!(video_requests(&sandbox).len(), 0);

    // A killed process releases its lock.
    drop(file);
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn concurrent_download_to_the_same_target_fails_at_once() {
    let (sandbox, client, video) = finished();
    sandbox.set_response_delay(Endpoint::Video, Duration::from_millis(150));
    let dir = TestDir::new();
    thread::scope(|scope| {
        let first = scope.spawn(|| client.download(&video, &dir.target));
        wait_until("the request of the first download", || {
            sandbox.request_count(Endpoint::Video) == 1
        });
        let error = client.download(&video, &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        assert!(error.to_string().contains("in progress"), "{error}");
        assert!(!first.is_finished(), "the second download must not wait for the first");
        assert_eq!(first.join().unwrap().unwrap(), LENGTH as u64);
    });
    assert_saved(&dir, &mp4(LENGTH));
    assert_eq!(sandbox.request_count(Endpoint::Video), 1);
    client.download(&video, &dir.target).unwrap();
}
