//! Failing downloads: in the end, the target is either complete or untouched.

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, RecordedRequest, Sandbox};
use kling_video::{Client, Error, ErrorKind, EventKind, Operation, RetryPolicy, Video};

use crate::common::{error_chain, request, sandbox};
use crate::faults::{
    IDLE_TIMEOUT, RawServer, TINY_MP4, TestDir, mp4, quick_retry, short_idle_timeout, wait_until,
};

/// Large enough for several interruptions.
const LENGTH: usize = 300_000;

/// A sandbox with a completed video of [`LENGTH`] bytes, and a client with a short idle timeout.
fn finished() -> (Sandbox, Client, Video) {
    let sandbox = sandbox();
    sandbox.set_video(mp4(LENGTH));
    let video = sandbox.client_builder().build().unwrap().generate(&request()).unwrap();
    let client = short_idle_timeout(&sandbox).build().unwrap();
    (sandbox, client, video)
}

fn no_retry_client(sandbox: &Sandbox) -> Client {
    short_idle_timeout(sandbox).retry_policy(RetryPolicy::none()).build().unwrap()
}

fn video_requests(sandbox: &Sandbox) -> Vec<RecordedRequest> {
    let requests = sandbox.requests().into_iter();
    requests.filter(|request| request.endpoint == Some(Endpoint::Video)).collect()
}

/// The first byte that a request asks for, if it has a `Range`.
fn range_start(request: &RecordedRequest) -> Option<usize> {
    let range = request.header("range")?;
    Some(range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap())
}

#[track_caller]
fn assert_saved(dir: &TestDir, video: &[u8]) {
    assert!(fs::read(&dir.target).unwrap() == video, "the file differs from the video");
    assert_eq!(dir.files(), ["cat.mp4"]);
}

/// Asserts that a download to an empty directory fails with the generation id and leaves no file.
#[track_caller]
fn assert_fails_cleanly(client: &Client, video: &Video) -> Error {
    let dir = TestDir::new();
    let error = client.download(video, &dir.target).unwrap_err();
    assert_eq!(dir.files(), Vec::<String>::new(), "{error:?}");
    assert_eq!(error.operation(), Operation::Download);
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.may_have_been_billed());
    error
}

// ---------------------------------------------------------------- interruptions

#[test]
fn interrupted_download_resumes_at_the_first_missing_byte() {
    let (sandbox, _, video) = finished();
    let received = Arc::new(Mutex::new(Vec::new()));
    let client = sandbox
        .client_builder()
        .event_handler({
            let received = Arc::clone(&received);
            move |event| {
                if let EventKind::Downloading { received: bytes, total, .. } = event.kind {
                    assert_eq!(total, Some(LENGTH as u64));
                    received.lock().unwrap().push(bytes);
                }
            }
        })
        .build()
        .unwrap();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 2);
    let dir = TestDir::new();
    assert_eq!(client.download(&video, &dir.target).unwrap(), LENGTH as u64);
    assert_saved(&dir, &mp4(LENGTH));

    let requests = video_requests(&sandbox);
    let ranges: Vec<_> = requests.iter().map(range_start).collect();
    let [None, Some(second), Some(third)] = ranges[..] else { panic!("{ranges:?}") };
    // The fault truncates the response to 100,000 bytes, including its head.
    assert!((99_000..100_000).contains(&second), "{ranges:?}");
    assert!((198_000..200_000).contains(&third), "{ranges:?}");
    let validators: Vec<_> = requests.iter().map(|request| request.header("if-range")).collect();
    assert!(validators[0].is_none() && validators[1].unwrap().starts_with('"'), "{validators:?}");
    let received = received.lock().unwrap();
    assert!(received.is_sorted(), "no byte is received twice: {received:?}");
    assert_eq!(received.last(), Some(&(LENGTH as u64)));
}

#[test]
fn retries_are_not_exhausted_while_the_download_makes_progress() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(10_000), 25);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
    assert_eq!(video_requests(&sandbox).len(), 26);
}

#[test]
fn download_without_progress_fails_after_the_retries() {
    let (sandbox, client, video) = finished();
    for (fault, kind) in [
        (Fault::close_connection(), ErrorKind::Transport),
        (Fault::reset_before_response(), ErrorKind::Transport),
        (Fault::truncate(20), ErrorKind::Transport),
        (Fault::no_response(), ErrorKind::Timeout),
        (Fault::status(500), ErrorKind::Api),
        (Fault::status(503), ErrorKind::Api),
        (Fault::status(429), ErrorKind::Api),
    ] {
        let before = video_requests(&sandbox).len();
        sandbox.fault(Endpoint::Video, fault.clone(), 99);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        assert_eq!(error.attempts(), 6, "{fault:?}");
        assert_eq!(video_requests(&sandbox).len() - before, 6, "{fault:?}");
        assert!(error.is_retryable(), "a download can be repeated at no cost");
        sandbox.clear_faults();
    }
}

#[test]
fn transient_failures_are_retried() {
    for fault in [
        Fault::close_connection(),
        Fault::reset_before_response(),
        Fault::status(429),
        Fault::status(500),
        Fault::status(503).header("Retry-After", "0"),
        Fault::status(408),
        Fault::no_response(),
        Fault::raw("what?\r\n\r\n"),
    ] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, fault, 2);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_saved(&dir, &mp4(LENGTH));
        assert_eq!(video_requests(&sandbox).len(), 3);
    }
}

#[test]
fn permanent_error_response_is_returned_at_once() {
    let (sandbox, client, video) = finished();
    for (index, status) in [400, 401, 409, 451].into_iter().enumerate() {
        sandbox.fault(Endpoint::Video, Fault::status(status), 1);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(video_requests(&sandbox).len(), index + 1);
    }
}

// ---------------------------------------------------------------- responses to range requests

#[test]
fn ignored_range_restarts_the_download() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
    sandbox.fault(Endpoint::Video, Fault::ignore_range(), 1);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert!(range_start(&video_requests(&sandbox)[1]).is_some());
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn changed_video_is_never_mixed_with_the_old_one() {
    let (sandbox, _, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
    let other = mp4(LENGTH).iter().map(|byte| byte ^ 0xFF).collect::<Vec<_>>();
    let other = [&TINY_MP4[..12], &mp4(LENGTH)[12..24], &other[24..]].concat();
    assert_ne!(other, mp4(LENGTH));
    let sandbox = Arc::new(sandbox);
    let client = sandbox
        .client_builder()
        .event_handler({
            let (sandbox, other) = (Arc::clone(&sandbox), other.clone());
            // The video changes between the interruption and the resumed request.
            move |event| {
                if let EventKind::Retrying { .. } = event.kind {
                    sandbox.set_video(other.clone());
                }
            }
        })
        .build()
        .unwrap();
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert!(range_start(&video_requests(&sandbox)[1]).is_some());
    assert_saved(&dir, &other);
}

#[test]
fn weak_validator_prevents_resuming() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::etag("W/\"1\"").truncate_after(100_000), 1);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_eq!(range_start(&video_requests(&sandbox)[1]), None);
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn last_modified_is_the_validator_without_a_strong_etag() {
    let (sandbox, client, video) = finished();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let dated = Fault::etag("W/\"1\"").header("Last-Modified", date).truncate_after(100_000);
    sandbox.fault(Endpoint::Video, dated, 1);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_eq!(video_requests(&sandbox)[1].header("if-range"), Some(date));
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn unsatisfiable_or_mismatched_range_restarts_the_download() {
    for fault in [
        Fault::status(416),
        Fault::response(206, mp4(LENGTH)),
        Fault::response(206, "x").header("Content-Range", "bytes 0-0/300000"),
        Fault::response(206, "x").header("Content-Range", "bytes 0-0/*"),
        Fault::response(206, "x").header("Content-Range", "nonsense"),
    ] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
        sandbox.fault(Endpoint::Video, fault.clone(), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        let ranges: Vec<_> = video_requests(&sandbox).iter().map(range_start).collect();
        assert!(matches!(ranges[..], [None, Some(_), None]), "{fault:?}: {ranges:?}");
        assert_saved(&dir, &mp4(LENGTH));
    }
}

#[test]
fn content_range_of_another_length_restarts_the_download() {
    let (sandbox, client, video) = finished();
    // The first response announces 10 bytes too many, so the Content-Range of the second one does
    // not match it.
    sandbox.fault(Endpoint::Video, Fault::wrong_content_length(10).truncate_after(100_000), 1);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    let ranges: Vec<_> = video_requests(&sandbox).iter().map(range_start).collect();
    assert!(matches!(ranges[..], [None, Some(_), None]), "{ranges:?}");
    assert_saved(&dir, &mp4(LENGTH));
}

// ---------------------------------------------------------------- invalid videos

#[test]
fn content_length_mismatch_is_detected_in_both_directions() {
    for amount in [-1, -1000, 1, 1000] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, Fault::wrong_content_length(amount), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_saved(&dir, &mp4(LENGTH));
        assert!(video_requests(&sandbox).len() > 1, "{amount}: the first response was accepted");

        sandbox.fault(Endpoint::Video, Fault::wrong_content_length(amount), 99);
        let error = assert_fails_cleanly(&client, &video);
        let kinds = [ErrorKind::Decode, ErrorKind::Transport];
        // The last attempt may have asked for bytes past the end of the file.
        let past_the_end = amount > 0 && error.status() == Some(416);
        assert!(kinds.contains(&error.kind()) || past_the_end, "{amount}: {error:?}");
    }
}

#[test]
fn content_length_over_1_gib_is_rejected_before_reading() {
    let (sandbox, client, video) = finished();
    for amount in [1_000_000_000_000_000, 1024 * 1024 * 1024] {
        let before = video_requests(&sandbox).len();
        sandbox.fault(Endpoint::Video, Fault::wrong_content_length(amount), 99);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
        assert!(error.to_string().contains("exceeds the 1 GiB limit"), "{error}");
        assert_eq!(video_requests(&sandbox).len() - before, 1, "a retry cannot help");
        sandbox.clear_faults();
    }
}

#[test]
fn incomplete_mp4_never_replaces_the_target() {
    let complete = mp4(5_000);
    for (name, bytes) in [
        ("empty", Vec::new()),
        ("HTML", b"<html>Please log in</html>".to_vec()),
        ("last byte missing", complete[..4_999].to_vec()),
        ("byte appended", [&complete[..], b"x"].concat()),
        ("no moov box", [&complete[..12], &complete[20..]].concat()),
        ("zeros", vec![0; 5_000]),
    ] {
        let (sandbox, _, video) = finished();
        let client =
            sandbox.client_builder().retry_policy(quick_retry().max_retries(1)).build().unwrap();
        sandbox.set_video(bytes);
        let dir = TestDir::new();
        fs::write(&dir.target, b"an older video").unwrap();
        let error = client.download(&video, &dir.target).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Decode, "{name}: {error:?}");
        assert_eq!(fs::read(&dir.target).unwrap(), b"an older video", "{name}");
        assert_eq!(dir.files(), ["cat.mp4"], "{name}");
        assert_eq!(video_requests(&sandbox).len(), 2, "{name}: it is retried once");
    }
}

#[test]
fn body_without_an_end_is_not_read_forever() {
    let (sandbox, _, video) = finished();
    let client =
        sandbox.client_builder().retry_policy(quick_retry().max_retries(1)).build().unwrap();
    for (head, chunk) in [
        ("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 65_536]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", {
            [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n"].concat()
        }),
        // The length is as announced, but it is not a video.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", vec![0; 65_536]),
    ] {
        sandbox.fault(Endpoint::Video, Fault::repeat_body(head, chunk, 2_000_000), 2);
        let error = assert_fails_cleanly(&client, &video);
        let kinds = [ErrorKind::Decode, ErrorKind::Transport];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
    assert_eq!(video_requests(&sandbox).len(), 6);
}

// ---------------------------------------------------------------- expired URLs

#[test]
fn expired_url_is_refreshed_once() {
    let (sandbox, client, video) = finished();
    let polls = sandbox.request_count(Endpoint::Retrieve);
    sandbox.expire_video_urls();
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
    let statuses: Vec<_> =
        video_requests(&sandbox).iter().map(|request| request.response_status).collect();
    assert_eq!(statuses, [Some(403), Some(200)]);
    assert_eq!(sandbox.request_count(Endpoint::Retrieve) - polls, 1);
    assert_eq!(sandbox.request_count(Endpoint::Create), 1);
}

#[test]
fn expired_url_is_recognized_by_403_404_and_410() {
    for status in [403, 404, 410] {
        let (sandbox, client, video) = finished();
        let polls = sandbox.request_count(Endpoint::Retrieve);
        sandbox.fault(Endpoint::Video, Fault::status(status), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_eq!(sandbox.request_count(Endpoint::Retrieve) - polls, 1, "{status}");

        // If the new URL has expired as well, the download fails.
        sandbox.fault(Endpoint::Video, Fault::status(status), 2);
        let before = video_requests(&sandbox).len();
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(video_requests(&sandbox).len() - before, 2, "{status}");
        assert_eq!(sandbox.request_count(Endpoint::Retrieve) - polls, 2, "{status}");
    }
}

#[test]
fn url_that_expires_during_the_download_is_refreshed_and_the_download_resumes() {
    let (sandbox, _, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
    let sandbox = Arc::new(sandbox);
    let client = sandbox
        .client_builder()
        .event_handler({
            let sandbox = Arc::clone(&sandbox);
            move |event| {
                if let EventKind::Retrying { .. } = event.kind {
                    sandbox.expire_video_urls();
                }
            }
        })
        .build()
        .unwrap();
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    let statuses: Vec<_> =
        video_requests(&sandbox).iter().map(|request| request.response_status).collect();
    assert_eq!(statuses, [Some(200), Some(403), Some(206)]);
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn url_refresh_failure_fails_the_download() {
    let (sandbox, client, video) = finished();
    for fault in [
        Fault::status(401),
        Fault::status(404),
        Fault::response(200, r#"{"status":"completed","video":null}"#),
    ] {
        sandbox.expire_video_urls();
        sandbox.fault(Endpoint::Retrieve, fault.clone(), 1);
        let error = assert_fails_cleanly(&client, &video);
        assert!(!error.is_retryable(), "{fault:?}: {error:?}");
    }
}

// ---------------------------------------------------------------- slow servers

/// A server that sends a video in chunks of `chunk_len` bytes, one per `interval`.
fn slow_server(chunk_len: usize, interval: Duration) -> RawServer {
    RawServer::start(move |stream| {
        let video = mp4(40_000);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", video.len());
        let _ = stream.write_all(head.as_bytes());
        for chunk in video.chunks(chunk_len) {
            if stream.write_all(chunk).is_err() {
                return;
            }
            thread::sleep(interval);
        }
    })
}

#[test]
fn throughput_below_the_minimum_times_out() {
    let (sandbox, _, mut video) = finished();
    let client = no_retry_client(&sandbox);
    let server = slow_server(1, Duration::from_millis(10));
    video.url.clone_from(&server.url);
    let started = Instant::now();
    let error = assert_fails_cleanly(&client, &video);
    let took = started.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    // The complete video would take 400 s.
    assert!(took >= IDLE_TIMEOUT && took < 20 * IDLE_TIMEOUT, "{took:?}");
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn idle_server_times_out() {
    let (sandbox, _, mut video) = finished();
    let client = no_retry_client(&sandbox);
    let server = slow_server(10_000, Duration::from_secs(3));
    video.url.clone_from(&server.url);
    let started = Instant::now();
    let error = assert_fails_cleanly(&client, &video);
    let took = started.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(took >= IDLE_TIMEOUT && took < 10 * IDLE_TIMEOUT, "{took:?}");
}

#[test]
fn slow_server_may_take_longer_than_the_idle_timeout() {
    let (sandbox, _, mut video) = finished();
    let client = sandbox.client_builder().idle_timeout(2 * IDLE_TIMEOUT).build().unwrap();
    let server = slow_server(4_500, Duration::from_millis(200));
    video.url.clone_from(&server.url);
    let dir = TestDir::new();
    let started = Instant::now();
    client.download(&video, &dir.target).unwrap();
    assert!(started.elapsed() > 2 * IDLE_TIMEOUT);
    assert_saved(&dir, &mp4(40_000));
}

// ---------------------------------------------------------------- files

#[test]
fn unwritable_target_is_an_io_error_with_its_path() {
    let (sandbox, client, video) = finished();
    let parent = tempfile::tempdir().unwrap();
    let target_is_dir = parent.path().join("dir.mp4");
    fs::create_dir(&target_is_dir).unwrap();
    let part_is_dir = parent.path().join("part.mp4");
    fs::create_dir(parent.path().join("part.mp4.part")).unwrap();
    let below_a_file = parent.path().join("file").join("cat.mp4");
    fs::write(parent.path().join("file"), "").unwrap();
    let missing = parent.path().join("missing");
    let mut targets = vec![missing.join("cat.mp4"), target_is_dir, part_is_dir, below_a_file];
    if cfg!(target_os = "linux") {
        // Not even root may create a file there.
        targets.push("/proc/cat.mp4".into());
    }
    for target in targets {
        let error = client.download(&video, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error:?}");
        // A missing directory is reported instead of the target in it.
        let reported = if target.starts_with(&missing) { &missing } else { &target };
        assert!(error.to_string().contains(reported.to_str().unwrap()), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(error.generation_id(), Some(&video.id));
        assert!(!target.is_file());
    }
    assert_eq!(video_requests(&sandbox).len(), 0, "the target is checked before sending");
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

#[test]
fn partial_file_of_a_killed_download_is_overwritten() {
    let (_sandbox, client, video) = finished();
    let dir = TestDir::new();
    fs::write(dir.partial_file(), vec![7; 2 * LENGTH]).unwrap();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn existing_file_stays_until_the_new_one_is_complete() {
    let (sandbox, _, video) = finished();
    let dir = Arc::new(TestDir::new());
    fs::write(&dir.target, b"an older video").unwrap();
    let checks = Arc::new(Mutex::new(0));
    let client = sandbox
        .client_builder()
        .event_handler({
            let (dir, checks) = (Arc::clone(&dir), Arc::clone(&checks));
            move |event| {
                if let EventKind::Downloading { .. } = event.kind {
                    assert_eq!(fs::read(&dir.target).unwrap(), b"an older video");
                    *checks.lock().unwrap() += 1;
                }
            }
        })
        .build()
        .unwrap();
    client.download(&video, &dir.target).unwrap();
    assert!(*checks.lock().unwrap() > 0);
    assert_saved(&dir, &mp4(LENGTH));
}

// ---------------------------------------------------------------- redirects and the API key

#[test]
fn redirects_are_followed_without_the_api_key() {
    for status in [301, 302, 303, 307, 308] {
        let (sandbox, client, video) = finished();
        let other_host = RawServer::start(|stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", TINY_MP4.len());
            stream.write_all(&[head.as_bytes(), TINY_MP4].concat()).unwrap();
        });
        sandbox.fault(Endpoint::Video, Fault::redirect(status, other_host.url.clone()), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_saved(&dir, TINY_MP4);

        let heads = other_host.heads();
        assert_eq!(heads.len(), 1, "{status}");
        assert!(heads[0].starts_with("GET /cat.mp4 HTTP/1.1\r\n"), "{}", heads[0]);
        for head in heads {
            assert!(!head.to_lowercase().contains("authorization"), "{head}");
            assert!(!head.contains("sandbox-key"), "{head}");
        }
    }
}

#[test]
fn api_key_is_sent_to_the_api_only() {
    let (sandbox, client, _) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, "?again"), 1);
    sandbox.fault(Endpoint::Video, Fault::status(403), 1);
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    let (videos, api): (Vec<_>, Vec<_>) = sandbox
        .requests()
        .into_iter()
        .partition(|request| request.endpoint == Some(Endpoint::Video));
    assert!(videos.len() >= 4, "{}", videos.len());
    for request in videos {
        let leaked = request.headers.iter().any(|(_, value)| value.contains("sandbox-key"));
        assert!(!leaked && request.header("authorization").is_none(), "{request:?}");
        assert!(!request.target.contains("sandbox-key"));
    }
    assert!(api.iter().all(|request| request.header("authorization").is_some()));
}

#[test]
fn url_is_requested_verbatim() {
    let (sandbox, client, video) = finished();
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_eq!(video_requests(&sandbox)[0].target, video.url.strip_prefix(&sandbox.url()).unwrap());
}

#[test]
fn relative_redirect_is_resolved_against_its_url() {
    let (sandbox, client, video) = finished();
    let path = video.url.strip_prefix(&sandbox.url()).unwrap().to_owned();
    let (path_only, query) = path.split_once('?').unwrap();
    let name = path_only.rsplit('/').next().unwrap();
    for location in [path.clone(), format!("?{query}"), format!("{name}?{query}")] {
        sandbox.fault(Endpoint::Video, Fault::redirect(302, location.clone()), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_eq!(video_requests(&sandbox).last().unwrap().target, path, "{location}");
        assert_saved(&dir, &mp4(LENGTH));
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
    assert_eq!(video_requests(&sandbox).len(), 6 + 6);
    assert!(error_chain(&error).join(": ").contains("redirects"), "{error:?}");
}

#[test]
fn redirect_away_from_https_is_rejected() {
    let (sandbox, _, video) = finished();
    let client = no_retry_client(&sandbox);
    for (index, location) in [
        "http://example.com/cat.mp4",
        "HTTP://example.com/cat.mp4",
        "//example.com/cat.mp4",
        "file:///etc/hostname",
        "ftp://127.0.0.1/cat.mp4",
        "data:video/mp4;base64,AAAA",
        "http://127.0.0.1.example.com/cat.mp4",
        "http://localhost.example.com/cat.mp4",
    ]
    .into_iter()
    .enumerate()
    {
        sandbox.fault(Endpoint::Video, Fault::redirect(302, location), 1);
        let error = assert_fails_cleanly(&client, &video);
        let chain = error_chain(&error).join(": ");
        let messages = ["video URL must start with https://", "invalid video URL"];
        assert!(messages.iter().any(|message| chain.contains(message)), "{location}: {chain}");
        assert_eq!(video_requests(&sandbox).len(), index + 1);
    }
}

#[test]
fn video_url_without_https_is_rejected() {
    let (sandbox, _, mut video) = finished();
    let client = no_retry_client(&sandbox);
    for url in ["http://example.com/cat.mp4", "file:///etc/hostname", "cat.mp4", ""] {
        url.clone_into(&mut video.url);
        let error = assert_fails_cleanly(&client, &video);
        assert!(error_chain(&error).join(": ").contains("video URL"), "{url}: {error:?}");
    }
    assert_eq!(video_requests(&sandbox).len(), 0);
}

#[test]
fn file_size_of_the_video_is_not_enforced() {
    let (_sandbox, client, mut video) = finished();
    video.file_size = Some(1);
    let dir = TestDir::new();
    assert_eq!(client.download(&video, &dir.target).unwrap(), LENGTH as u64);
}

// ---------------------------------------------------------------- wrong ranges, locks, limits

#[test]
fn content_range_other_than_requested_is_rejected() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 2);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    let from = video_requests(&sandbox).iter().find_map(range_start).unwrap();

    // The right bytes with a Content-Range that was not requested.
    let remaining = mp4(LENGTH)[from..].to_vec();
    let wrong = format!("bytes 1-{}/{LENGTH}", LENGTH - 1);
    sandbox.fault(Endpoint::Video, Fault::truncate(100_000), 1);
    sandbox.fault(
        Endpoint::Video,
        Fault::response(206, remaining).header("Content-Range", &wrong),
        1,
    );
    let before = video_requests(&sandbox).len();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
    let ranges: Vec<_> = video_requests(&sandbox)[before..].iter().map(range_start).collect();
    assert_eq!(ranges, [None, Some(from), None], "the download must start over");
}

#[test]
fn partial_file_locked_by_another_process_is_not_touched() {
    let (sandbox, client, video) = finished();
    let dir = TestDir::new();
    let mut file = fs::File::create(dir.partial_file()).unwrap();
    file.write_all(b"half a video").unwrap();
    file.lock().unwrap();
    let before = video_requests(&sandbox).len();
    let error = client.download(&video, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert_eq!(fs::read(dir.partial_file()).unwrap(), b"half a video");
    assert_eq!(video_requests(&sandbox).len(), before);

    // A killed process releases its lock.
    drop(file);
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn video_without_an_end_fails_at_1_gib() {
    const CHUNK: usize = 4 * 1024 * 1024;
    let (sandbox, _, video) = finished();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n";
    let endless = Fault::repeat_body(head, vec![0; CHUNK], u64::MAX);
    sandbox.fault(Endpoint::Video, endless, 9);
    let before = video_requests(&sandbox).len();
    let error = assert_fails_cleanly(&sandbox.client_builder().build().unwrap(), &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
    assert!(error.to_string().contains("1 GiB"), "{error}");
    assert_eq!(video_requests(&sandbox).len() - before, 1);
}
