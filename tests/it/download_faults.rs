//! Downloads that fail or are interrupted: in the end, the target is either complete or untouched.

use std::fs;
use std::io::Write;
use std::sync::Arc;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{ErrorKind, EventKind, Operation, RetryPolicy};

use crate::download::{
    LENGTH, assert_fails_cleanly, assert_saved, finished, range_start, video_requests,
};
use crate::helpers::clients::{
    IDLE_TIMEOUT, no_retry_client, quick_retry, short_idle_timeout, test_client,
};
use crate::helpers::events::record_events;
use crate::helpers::files::TestDir;
use crate::helpers::media::{MP4_START, mp4};
use crate::helpers::tcp_server::{RawServer, idle_for};

// ---------------------------------------------------------------- interruptions

#[test]
fn interrupted_download_resumes_at_the_first_missing_byte() {
    let (sandbox, _, video) = finished();
    // Progress, or `None` for a retry.
    let (client, recording) = record_events(sandbox.client_builder(), |event| match event.kind {
        EventKind::Downloading { received, total, .. } => Some(Some((received, total))),
        EventKind::Retrying { operation: Operation::Download, .. } => Some(None),
        _ => None,
    });
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
    assert_eq!(requests[2].response_status, Some(206));
    let events = recording.take();
    assert_eq!(events.iter().filter(|event| event.is_none()).count(), 2, "{events:?}");
    let progress: Vec<_> = events.into_iter().flatten().collect();
    assert!(progress.is_sorted(), "no byte is received twice: {progress:?}");
    assert!(progress.iter().all(|(_, total)| *total == Some(LENGTH as u64)), "{progress:?}");
    assert_eq!(progress.last().unwrap().0, LENGTH as u64);
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
    for (fault, kind, status) in [
        (Fault::close_connection(), ErrorKind::Transport, None),
        (Fault::reset_before_response(), ErrorKind::Transport, None),
        (Fault::truncate(20), ErrorKind::Transport, None),
        (Fault::no_response(), ErrorKind::Timeout, None),
        (Fault::status(500), ErrorKind::Api, Some(500)),
        (Fault::status(503), ErrorKind::Api, Some(503)),
        (Fault::status(429), ErrorKind::Api, Some(429)),
    ] {
        let before = video_requests(&sandbox).len();
        sandbox.fault(Endpoint::Video, fault.clone(), 99);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!((error.kind(), error.status()), (kind, status), "{fault:?}: {error:?}");
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
    for (index, status) in [402, 405, 409, 451].into_iter().enumerate() {
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
    let boxes = MP4_START.len() + 8;
    let other = mp4(LENGTH)[boxes..].iter().map(|byte| byte ^ 0xFF).collect::<Vec<_>>();
    let other = [&mp4(LENGTH)[..boxes], &other].concat();
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
        let kind = if amount < 0 { ErrorKind::Decode } else { ErrorKind::Transport };
        // The last attempt may have asked for bytes past the end of the file.
        let past_the_end =
            amount > 0 && (error.kind() == ErrorKind::Decode || error.status() == Some(416));
        assert!(error.kind() == kind || past_the_end, "{amount}: {error:?}");
        let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
        assert_eq!(error.kind(), kind, "{amount}: {error:?}");
    }
}

#[test]
fn content_length_over_1_gib_is_rejected_before_reading() {
    let (sandbox, client, video) = finished();
    for amount in [1_000_000_000_000_000, 1024 * 1024 * 1024 + 1 - LENGTH as i64] {
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
    let (sandbox, _, video) = finished();
    let client =
        sandbox.client_builder().retry_policy(quick_retry().max_retries(1)).build().unwrap();
    for (name, bytes, message) in [
        ("empty", Vec::new(), ""),
        ("HTML", b"<html>Please log in</html>".to_vec(), "the URL served HTML, not a video"),
        ("last byte missing", complete[..4_999].to_vec(), ""),
        ("no moov box", [&complete[..12], &complete[20..]].concat(), ""),
        ("zeros", vec![0; 5_000], ""),
    ] {
        sandbox.set_video(bytes);
        let dir = TestDir::new();
        fs::write(&dir.target, b"an older video").unwrap();
        let before = video_requests(&sandbox).len();
        let error = client.download(&video, &dir.target).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Decode, "{name}: {error:?}");
        assert_eq!(error.operation(), Operation::Download);
        assert_eq!(error.generation_id(), Some(&video.id));
        assert!(error.to_string().contains(message), "{name}: {error}");
        assert_saved(&dir, b"an older video");
        assert_eq!(video_requests(&sandbox).len() - before, 2, "{name}: it is retried once");
    }
    sandbox.set_video(complete.clone());
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &complete);
}

#[test]
fn mp4_truncated_without_content_length_is_rejected() {
    let (sandbox, _, video) = finished();
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let raw = [&head[..], &mp4(LENGTH)[..LENGTH - 1]].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), 100);
    let error = assert_fails_cleanly(&test_client(&sandbox), &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
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

#[test]
fn video_without_an_end_fails_at_1_gib() {
    const CHUNK: usize = 4 * 1024 * 1024;
    let (sandbox, _, video) = finished();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n";
    let endless = Fault::repeat_body(head, vec![0; CHUNK], u64::MAX);
    sandbox.fault(Endpoint::Video, endless, 9);
    let before = video_requests(&sandbox).len();
    let error = assert_fails_cleanly(&test_client(&sandbox), &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
    assert!(error.to_string().contains("1 GiB"), "{error}");
    assert_eq!(video_requests(&sandbox).len() - before, 1);
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
    let without_video = format!(r#"{{"id":"{}","status":"completed","video":null}}"#, video.id);
    for (fault, kind) in [
        (Fault::status(401), ErrorKind::Api),
        (Fault::status(404), ErrorKind::Api),
        (Fault::response(200, without_video), ErrorKind::Decode),
    ] {
        sandbox.expire_video_urls();
        sandbox.fault(Endpoint::Retrieve, fault.clone(), 1);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        assert!(!error.is_retryable(), "{fault:?}: {error:?}");
        assert_eq!(error.generation().is_some(), kind == ErrorKind::Decode, "{fault:?}: {error:?}");
    }
}

// ---------------------------------------------------------------- slow servers

/// A server that sends a video in chunks of `chunk_len` bytes, one per `interval`.
fn slow_server(chunk_len: usize, interval: Duration) -> RawServer {
    RawServer::start(move |mut stream| {
        let video = mp4(40_000);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", video.len());
        let _ = stream.write_all(head.as_bytes());
        for chunk in video.chunks(chunk_len) {
            if stream.write_all(chunk).is_err() || !idle_for(interval, stream) {
                return;
            }
        }
    })
}

#[test]
fn throughput_below_the_minimum_times_out() {
    let (sandbox, _, mut video) = finished();
    let client = short_idle_timeout(&sandbox).retry_policy(RetryPolicy::none()).build().unwrap();
    let server = slow_server(1, Duration::from_millis(10));
    video.url = format!("{}/cat.mp4", server.url());
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
    let client = short_idle_timeout(&sandbox).retry_policy(RetryPolicy::none()).build().unwrap();
    let server = slow_server(10_000, Duration::from_secs(3));
    video.url = format!("{}/cat.mp4", server.url());
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
    video.url = format!("{}/cat.mp4", server.url());
    let dir = TestDir::new();
    let started = Instant::now();
    client.download(&video, &dir.target).unwrap();
    assert!(started.elapsed() > 2 * IDLE_TIMEOUT);
    assert_saved(&dir, &mp4(40_000));
}
