//! What goes wrong in a download: the target is whole in the end, or untouched.

use std::fs;
use std::io::Write;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::{
    Client, Endpoint, Error, ErrorKind, Event, Fault, RetryPolicy, Sandbox, SandboxRequest, Video,
};

use crate::common::{request, sandbox};
use crate::faults::{Canned, IDLE, Place, TINY_MP4, impatient, mp4, quick_retry, until};

/// Large enough to be cut anywhere.
const LENGTH: usize = 300_000;

/// A sandbox with a video of [`LENGTH`], which was paid for.
fn finished() -> (Sandbox, Client, Video) {
    let sandbox = sandbox();
    sandbox.serve_video(mp4(LENGTH));
    let video = sandbox.client_builder().build().unwrap().generate(&request()).unwrap();
    let client = impatient(&sandbox).build().unwrap();
    (sandbox, client, video)
}

fn without_retries(sandbox: &Sandbox) -> Client {
    impatient(sandbox).retry(RetryPolicy::none()).build().unwrap()
}

fn asked(sandbox: &Sandbox) -> Vec<SandboxRequest> {
    let requests = sandbox.requests().into_iter();
    requests.filter(|request| request.endpoint == Some(Endpoint::Video)).collect()
}

/// Where a resumed request goes on.
fn range_of(request: &SandboxRequest) -> Option<usize> {
    let range = request.header("range")?;
    Some(range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().unwrap())
}

#[track_caller]
fn assert_whole(place: &Place, video: &[u8]) {
    assert!(fs::read(&place.target).unwrap() == video, "the file is not the video");
    assert_eq!(place.files(), ["cat.mp4"]);
}

/// The download fails, tells of which generation, and leaves the target as it was: not there,
/// or with what was in it.
#[track_caller]
fn failure(client: &Client, video: &Video) -> Error {
    let place = Place::new();
    let error = client.download(video, &place.target).unwrap_err();
    assert_eq!(place.files(), Vec::<String>::new(), "{error:?}");
    assert_eq!(error.operation(), "download");
    assert_eq!(error.generation_id(), Some(&video.id));
    assert!(error.may_have_been_billed());
    error
}

fn chain(error: &Error) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(deeper) = cause {
        text = format!("{text}: {deeper}");
        cause = deeper.source();
    }
    text
}

// ---------------------------------------------------------------- breaks

#[test]
fn a_download_that_broke_off_goes_on_where_it_was() {
    let (sandbox, _, video) = finished();
    let received = Arc::new(Mutex::new(Vec::new()));
    let client = sandbox
        .client_builder()
        .on_event({
            let received = Arc::clone(&received);
            move |event| {
                if let Event::Downloading { received: so_far, total, .. } = event {
                    assert_eq!(*total, Some(LENGTH as u64));
                    received.lock().unwrap().push(*so_far);
                }
            }
        })
        .build()
        .unwrap();
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 2);
    let place = Place::new();
    assert_eq!(client.download(&video, &place.target).unwrap(), LENGTH as u64);
    assert_whole(&place, &mp4(LENGTH));

    let requests = asked(&sandbox);
    let ranges: Vec<_> = requests.iter().map(range_of).collect();
    let [None, Some(second), Some(third)] = ranges[..] else { panic!("{ranges:?}") };
    // What a cut leaves is 100,000 bytes less the head.
    assert!((99_000..100_000).contains(&second), "{ranges:?}");
    assert!((198_000..200_000).contains(&third), "{ranges:?}");
    let validators: Vec<_> = requests.iter().map(|request| request.header("if-range")).collect();
    assert!(validators[0].is_none() && validators[1].unwrap().starts_with('"'), "{validators:?}");
    let received = received.lock().unwrap();
    assert!(received.is_sorted(), "no byte came twice: {received:?}");
    assert_eq!(received.last(), Some(&(LENGTH as u64)));
}

#[test]
fn a_connection_that_keeps_breaking_is_put_up_with_while_it_brings_something() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::cut(10_000), 25);
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert_whole(&place, &mp4(LENGTH));
    assert_eq!(asked(&sandbox).len(), 26);
}

#[test]
fn a_connection_that_brings_nothing_is_given_up() {
    let (sandbox, client, video) = finished();
    for (fault, kind) in [
        (Fault::close(), ErrorKind::Transport),
        (Fault::reset_before_reply(), ErrorKind::Transport),
        (Fault::cut(20), ErrorKind::Transport),
        (Fault::stall(), ErrorKind::Timeout),
        (Fault::status(500), ErrorKind::Api),
        (Fault::status(503), ErrorKind::Api),
        (Fault::status(429), ErrorKind::Api),
    ] {
        let before = asked(&sandbox).len();
        sandbox.fault(Endpoint::Video, fault.clone(), 99);
        let error = failure(&client, &video);
        assert_eq!(error.kind(), kind, "{fault:?}: {error:?}");
        assert_eq!(error.attempts(), 6, "{fault:?}");
        assert_eq!(asked(&sandbox).len() - before, 6, "{fault:?}");
        assert!(error.is_retryable(), "a download costs nothing");
        sandbox.clear_faults();
    }
}

#[test]
fn passing_failures_are_got_over() {
    for fault in [
        Fault::close(),
        Fault::reset_before_reply(),
        Fault::status(429),
        Fault::status(500),
        Fault::status(503).header("Retry-After", "0"),
        Fault::status(408),
        Fault::stall(),
        Fault::raw("what?\r\n\r\n"),
    ] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, fault, 2);
        let place = Place::new();
        client.download(&video, &place.target).unwrap();
        assert_whole(&place, &mp4(LENGTH));
        assert_eq!(asked(&sandbox).len(), 3);
    }
}

#[test]
fn a_final_refusal_is_returned_at_once() {
    let (sandbox, client, video) = finished();
    for (index, status) in [400, 401, 409, 451].into_iter().enumerate() {
        sandbox.fault(Endpoint::Video, Fault::status(status), 1);
        let error = failure(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(asked(&sandbox).len(), index + 1);
    }
}

// ---------------------------------------------------------------- odd answers to a resumption

#[test]
fn a_server_that_ignores_ranges_is_read_from_the_start() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 1);
    sandbox.fault(Endpoint::Video, Fault::no_range(), 1);
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert!(range_of(&asked(&sandbox)[1]).is_some());
    assert_whole(&place, &mp4(LENGTH));
}

#[test]
fn two_videos_are_never_mixed() {
    let (sandbox, _, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 1);
    let other = mp4(LENGTH).iter().map(|byte| byte ^ 0xFF).collect::<Vec<_>>();
    let other = [&TINY_MP4[..12], &mp4(LENGTH)[12..24], &other[24..]].concat();
    assert_ne!(other, mp4(LENGTH));
    let sandbox = Arc::new(sandbox);
    let client = sandbox
        .client_builder()
        .on_event({
            let (sandbox, other) = (Arc::clone(&sandbox), other.clone());
            // The video changes between the break and the resumption.
            move |event| {
                if let Event::Retrying { .. } = event {
                    sandbox.serve_video(other.clone());
                }
            }
        })
        .build()
        .unwrap();
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert!(range_of(&asked(&sandbox)[1]).is_some());
    assert_whole(&place, &other);
}

#[test]
fn a_weak_validator_resumes_nothing() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::etag("W/\"1\"").cut_after(100_000), 1);
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert_eq!(range_of(&asked(&sandbox)[1]), None);
    assert_whole(&place, &mp4(LENGTH));
}

#[test]
fn the_date_stands_in_for_an_etag() {
    let (sandbox, client, video) = finished();
    let date = "Sun, 06 Nov 1994 08:49:37 GMT";
    let dated = Fault::etag("W/\"1\"").header("Last-Modified", date).cut_after(100_000);
    sandbox.fault(Endpoint::Video, dated, 1);
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert_eq!(asked(&sandbox)[1].header("if-range"), Some(date));
    assert_whole(&place, &mp4(LENGTH));
}

#[test]
fn a_range_that_cannot_be_had_or_is_another_is_begun_again() {
    for fault in [
        Fault::status(416),
        Fault::reply(206, mp4(LENGTH)),
        Fault::reply(206, "x").header("Content-Range", "bytes 0-0/300000"),
        Fault::reply(206, "x").header("Content-Range", "bytes 0-0/*"),
        Fault::reply(206, "x").header("Content-Range", "nonsense"),
    ] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, Fault::cut(100_000), 1);
        sandbox.fault(Endpoint::Video, fault.clone(), 1);
        let place = Place::new();
        client.download(&video, &place.target).unwrap();
        let ranges: Vec<_> = asked(&sandbox).iter().map(range_of).collect();
        assert!(matches!(ranges[..], [None, Some(_), None]), "{fault:?}: {ranges:?}");
        assert_whole(&place, &mp4(LENGTH));
    }
}

#[test]
fn a_range_of_another_length_than_the_file_had_is_begun_again() {
    let (sandbox, client, video) = finished();
    // Announced longer than it is, and cut: the length of the rest does not fit.
    sandbox.fault(Endpoint::Video, Fault::wrong_length(10).cut_after(100_000), 1);
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    let ranges: Vec<_> = asked(&sandbox).iter().map(range_of).collect();
    assert!(matches!(ranges[..], [None, Some(_), None]), "{ranges:?}");
    assert_whole(&place, &mp4(LENGTH));
}

// ---------------------------------------------------------------- what is no video

#[test]
fn a_wrong_length_is_noticed_both_ways() {
    for by in [-1, -1000, 1, 1000] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, Fault::wrong_length(by), 1);
        let place = Place::new();
        client.download(&video, &place.target).unwrap();
        assert_whole(&place, &mp4(LENGTH));
        assert!(asked(&sandbox).len() > 1, "{by}: the first answer was not good enough");

        sandbox.fault(Endpoint::Video, Fault::wrong_length(by), 99);
        let error = failure(&client, &video);
        let kinds = [ErrorKind::Decode, ErrorKind::Transport];
        // What lies behind the end cannot be had, and that may be the last thing that is seen.
        let past_the_end = by > 0 && error.status() == Some(416);
        assert!(kinds.contains(&error.kind()) || past_the_end, "{by}: {error:?}");
    }
}

#[test]
fn a_length_that_no_video_has_is_refused_before_it_is_read() {
    let (sandbox, client, video) = finished();
    for by in [1_000_000_000_000_000, 1024 * 1024 * 1024] {
        let before = asked(&sandbox).len();
        sandbox.fault(Endpoint::Video, Fault::wrong_length(by), 99);
        let error = failure(&client, &video);
        assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
        assert!(error.to_string().contains("larger than 1 GiB"), "{error}");
        assert_eq!(asked(&sandbox).len() - before, 1, "asking again cannot help");
        sandbox.clear_faults();
    }
}

#[test]
fn what_is_no_whole_mp4_is_never_put_in_place() {
    let whole = mp4(5_000);
    for (name, bytes) in [
        ("nothing", Vec::new()),
        ("HTML", b"<html>Please log in</html>".to_vec()),
        ("an end cut off", whole[..4_999].to_vec()),
        ("something appended", [&whole[..], b"x"].concat()),
        ("no index", [&whole[..12], &whole[20..]].concat()),
        ("zeros", vec![0; 5_000]),
    ] {
        let (sandbox, _, video) = finished();
        let client = sandbox.client_builder().retry(quick_retry().max_retries(1)).build().unwrap();
        sandbox.serve_video(bytes);
        let place = Place::new();
        fs::write(&place.target, b"an older film").unwrap();
        let error = client.download(&video, &place.target).expect_err(name);
        assert_eq!(error.kind(), ErrorKind::Decode, "{name}: {error:?}");
        assert_eq!(fs::read(&place.target).unwrap(), b"an older film", "{name}");
        assert_eq!(place.files(), ["cat.mp4"], "{name}");
        assert_eq!(asked(&sandbox).len(), 2, "{name}: it might have been an accident");
    }
}

#[test]
fn a_body_without_an_end_comes_to_one() {
    let (sandbox, _, video) = finished();
    let client = sandbox.client_builder().retry(quick_retry().max_retries(1)).build().unwrap();
    for (head, chunk) in [
        ("HTTP/1.1 200 OK\r\n\r\n", vec![b'x'; 65_536]),
        ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", {
            [&b"4000\r\n"[..], &[b'x'; 0x4000], b"\r\n"].concat()
        }),
        // As long as it says, and no video.
        ("HTTP/1.1 200 OK\r\nContent-Length: 2000000\r\n\r\n", vec![0; 65_536]),
    ] {
        sandbox.fault(Endpoint::Video, Fault::endless(head, chunk, 2_000_000), 2);
        let error = failure(&client, &video);
        let kinds = [ErrorKind::Decode, ErrorKind::Transport];
        assert!(kinds.contains(&error.kind()), "{error:?}");
    }
    assert_eq!(asked(&sandbox).len(), 6);
}

// ---------------------------------------------------------------- expired links

#[test]
fn an_expired_link_is_renewed_once() {
    let (sandbox, client, video) = finished();
    let polls = sandbox.count(Endpoint::Retrieve);
    sandbox.expire_links();
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert_whole(&place, &mp4(LENGTH));
    let answers: Vec<_> = asked(&sandbox).iter().map(|request| request.answered).collect();
    assert_eq!(answers, [Some(403), Some(200)]);
    assert_eq!(sandbox.count(Endpoint::Retrieve) - polls, 1);
    assert_eq!(sandbox.count(Endpoint::Create), 1);
}

#[test]
fn each_way_to_say_that_a_link_has_expired_is_understood() {
    for status in [403, 404, 410] {
        let (sandbox, client, video) = finished();
        let polls = sandbox.count(Endpoint::Retrieve);
        sandbox.fault(Endpoint::Video, Fault::status(status), 1);
        let place = Place::new();
        client.download(&video, &place.target).unwrap();
        assert_eq!(sandbox.count(Endpoint::Retrieve) - polls, 1, "{status}");

        // The renewed one has expired as well: that is the end of it.
        sandbox.fault(Endpoint::Video, Fault::status(status), 2);
        let before = asked(&sandbox).len();
        let error = failure(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(asked(&sandbox).len() - before, 2, "{status}");
        assert_eq!(sandbox.count(Endpoint::Retrieve) - polls, 2, "{status}");
    }
}

#[test]
fn a_link_that_expires_in_the_middle_is_renewed_and_gone_on_with() {
    let (sandbox, _, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 1);
    let sandbox = Arc::new(sandbox);
    let client = sandbox
        .client_builder()
        .on_event({
            let sandbox = Arc::clone(&sandbox);
            move |event| {
                if let Event::Retrying { .. } = event {
                    sandbox.expire_links();
                }
            }
        })
        .build()
        .unwrap();
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    let answers: Vec<_> = asked(&sandbox).iter().map(|request| request.answered).collect();
    assert_eq!(answers, [Some(200), Some(403), Some(206)]);
    assert_whole(&place, &mp4(LENGTH));
}

#[test]
fn a_link_that_cannot_be_renewed_ends_the_download() {
    let (sandbox, client, video) = finished();
    for fault in [
        Fault::status(401),
        Fault::status(404),
        Fault::reply(200, r#"{"status":"completed","video":null}"#),
    ] {
        sandbox.expire_links();
        sandbox.fault(Endpoint::Retrieve, fault.clone(), 1);
        let error = failure(&client, &video);
        assert!(!error.is_retryable(), "{fault:?}: {error:?}");
    }
}

// ---------------------------------------------------------------- slow servers

/// A server that sends the head of the video, and then pieces of it at an interval.
fn slow(piece: usize, every: Duration) -> Canned {
    Canned::start(move |stream| {
        let video = mp4(40_000);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", video.len());
        let _ = stream.write_all(head.as_bytes());
        for piece in video.chunks(piece) {
            if stream.write_all(piece).is_err() {
                return;
            }
            thread::sleep(every);
        }
    })
}

#[test]
fn a_server_that_trickles_fails_in_an_idle_period() {
    let (sandbox, _, mut video) = finished();
    let client = without_retries(&sandbox);
    let server = slow(1, Duration::from_millis(10));
    video.url.clone_from(&server.url);
    let begun = Instant::now();
    let error = failure(&client, &video);
    let took = begun.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    // In all it would have taken 400 s.
    assert!(took >= IDLE && took < 20 * IDLE, "{took:?}");
    assert_eq!(server.heads().len(), 1);
}

#[test]
fn a_server_that_falls_silent_fails_in_an_idle_period() {
    let (sandbox, _, mut video) = finished();
    let client = without_retries(&sandbox);
    let server = slow(10_000, Duration::from_secs(3));
    video.url.clone_from(&server.url);
    let begun = Instant::now();
    let error = failure(&client, &video);
    let took = begun.elapsed();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error:?}");
    assert!(took >= IDLE && took < 10 * IDLE, "{took:?}");
}

#[test]
fn a_server_that_is_only_slow_may_take_longer_than_an_idle_period() {
    let (sandbox, _, mut video) = finished();
    let client = sandbox.client_builder().idle_timeout(2 * IDLE).build().unwrap();
    let server = slow(4_500, Duration::from_millis(200));
    video.url.clone_from(&server.url);
    let place = Place::new();
    let begun = Instant::now();
    client.download(&video, &place.target).unwrap();
    assert!(begun.elapsed() > 2 * IDLE);
    assert_whole(&place, &mp4(40_000));
}

// ---------------------------------------------------------------- files

#[test]
fn a_target_that_cannot_be_written_is_an_io_error_with_its_path() {
    let (sandbox, client, video) = finished();
    let folder = tempfile::tempdir().unwrap();
    let is_folder = folder.path().join("folder.mp4");
    fs::create_dir(&is_folder).unwrap();
    let part_is_folder = folder.path().join("part.mp4");
    fs::create_dir(folder.path().join("part.mp4.part")).unwrap();
    let below_a_file = folder.path().join("file").join("cat.mp4");
    fs::write(folder.path().join("file"), "").unwrap();
    let mut targets =
        vec![folder.path().join("missing/cat.mp4"), is_folder, part_is_folder, below_a_file];
    if cfg!(target_os = "linux") {
        // Where not even the superuser may create a file.
        targets.push("/proc/cat.mp4".into());
    }
    for target in targets {
        let error = client.download(&video, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error:?}");
        assert!(error.to_string().contains(target.to_str().unwrap()), "{error}");
        assert!(std::error::Error::source(&error).is_some());
        assert_eq!(error.generation_id(), Some(&video.id));
        assert!(!target.is_file());
    }
    assert_eq!(asked(&sandbox).len(), 0, "it is tried before anything is fetched");
}

#[test]
fn of_two_downloads_to_one_target_one_fails_at_once() {
    let (sandbox, client, video) = finished();
    sandbox.delay(Endpoint::Video, Duration::from_millis(150));
    let place = Place::new();
    thread::scope(|scope| {
        let first = scope.spawn(|| client.download(&video, &place.target));
        until("the first one's request", || sandbox.count(Endpoint::Video) == 1);
        let error = client.download(&video, &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
        assert!(error.to_string().contains("under way"), "{error}");
        assert!(!first.is_finished(), "it did not wait for the other");
        assert_eq!(first.join().unwrap().unwrap(), LENGTH as u64);
    });
    assert_whole(&place, &mp4(LENGTH));
    assert_eq!(sandbox.count(Endpoint::Video), 1);
    client.download(&video, &place.target).unwrap();
}

#[test]
fn what_a_killed_download_left_is_no_hindrance() {
    let (_sandbox, client, video) = finished();
    let place = Place::new();
    fs::write(place.part(), vec![7; 2 * LENGTH]).unwrap();
    client.download(&video, &place.target).unwrap();
    assert_whole(&place, &mp4(LENGTH));
}

#[test]
fn an_older_file_stays_until_the_new_one_is_whole() {
    let (sandbox, _, video) = finished();
    let place = Arc::new(Place::new());
    fs::write(&place.target, b"an older film").unwrap();
    let looked = Arc::new(Mutex::new(0));
    let client = sandbox
        .client_builder()
        .on_event({
            let (place, looked) = (Arc::clone(&place), Arc::clone(&looked));
            move |event| {
                if let Event::Downloading { .. } = event {
                    assert_eq!(fs::read(&place.target).unwrap(), b"an older film");
                    *looked.lock().unwrap() += 1;
                }
            }
        })
        .build()
        .unwrap();
    client.download(&video, &place.target).unwrap();
    assert!(*looked.lock().unwrap() > 0);
    assert_whole(&place, &mp4(LENGTH));
}

// ---------------------------------------------------------------- redirects and the key

#[test]
fn redirects_are_followed_without_the_key() {
    for status in [301, 302, 303, 307, 308] {
        let (sandbox, client, video) = finished();
        let elsewhere = Canned::start(|stream| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", TINY_MP4.len());
            stream.write_all(&[head.as_bytes(), TINY_MP4].concat()).unwrap();
        });
        sandbox.fault(Endpoint::Video, Fault::redirect(status, elsewhere.url.clone()), 1);
        let place = Place::new();
        client.download(&video, &place.target).unwrap();
        assert_whole(&place, TINY_MP4);

        let heads = elsewhere.heads();
        assert_eq!(heads.len(), 1, "{status}");
        assert!(heads[0].starts_with("GET /cat.mp4 HTTP/1.1\r\n"), "{}", heads[0]);
        for head in heads {
            assert!(!head.to_lowercase().contains("authorization"), "{head}");
            assert!(!head.contains("sandbox-key"), "{head}");
        }
    }
}

#[test]
fn the_key_goes_to_the_api_and_to_nobody_else() {
    let (sandbox, client, _) = finished();
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 1);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, "?again"), 1);
    sandbox.fault(Endpoint::Video, Fault::status(403), 1);
    let place = Place::new();
    client.generate_to(&request(), &place.target).unwrap();
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
fn a_link_is_used_byte_for_byte() {
    let (sandbox, client, video) = finished();
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    assert_eq!(asked(&sandbox)[0].target, video.url.strip_prefix(&sandbox.url()).unwrap());
}

#[test]
fn a_redirect_relative_to_its_link_is_resolved() {
    let (sandbox, client, video) = finished();
    let path = video.url.strip_prefix(&sandbox.url()).unwrap().to_owned();
    let (folder_path, query) = path.split_once('?').unwrap();
    let name = folder_path.rsplit('/').next().unwrap();
    for location in [path.clone(), format!("?{query}"), format!("{name}?{query}")] {
        sandbox.fault(Endpoint::Video, Fault::redirect(302, location.clone()), 1);
        let place = Place::new();
        client.download(&video, &place.target).unwrap();
        assert_eq!(asked(&sandbox).last().unwrap().target, path, "{location}");
        assert_whole(&place, &mp4(LENGTH));
    }
}

#[test]
fn five_redirects_are_followed_and_a_loop_ends() {
    let (sandbox, _, video) = finished();
    let client = without_retries(&sandbox);
    sandbox.fault(Endpoint::Video, Fault::redirect(302, video.url.clone()), 5);
    client.download(&video, Place::new().target).unwrap();
    assert_eq!(asked(&sandbox).len(), 6);

    sandbox.fault(Endpoint::Video, Fault::redirect(302, video.url.clone()), 1_000);
    let error = failure(&client, &video);
    assert_eq!(asked(&sandbox).len(), 6 + 6);
    assert!(chain(&error).contains("redirects"), "{error:?}");
}

#[test]
fn a_redirect_that_leaves_https_is_refused() {
    let (sandbox, _, video) = finished();
    let client = without_retries(&sandbox);
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
        let error = failure(&client, &video);
        let why = chain(&error);
        assert!(why.contains("not https") || why.contains("no link"), "{location}: {why}");
        assert_eq!(asked(&sandbox).len(), index + 1);
    }
}

#[test]
fn a_video_whose_link_is_not_https_is_not_fetched() {
    let (sandbox, _, mut video) = finished();
    let client = without_retries(&sandbox);
    for link in ["http://example.com/cat.mp4", "file:///etc/hostname", "cat.mp4", ""] {
        link.clone_into(&mut video.url);
        let error = failure(&client, &video);
        assert!(chain(&error).contains("link"), "{link}: {error:?}");
    }
    assert_eq!(asked(&sandbox).len(), 0);
}

#[test]
fn the_size_that_the_api_tells_only_informs() {
    let (_sandbox, client, mut video) = finished();
    video.file_size = Some(1);
    let place = Place::new();
    assert_eq!(client.download(&video, &place.target).unwrap(), LENGTH as u64);
}

// ---------------------------------------------------------------- what a server or a neighbour may not do

#[test]
fn another_part_than_the_one_asked_for_is_not_taken() {
    let (sandbox, client, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 2);
    let place = Place::new();
    client.download(&video, &place.target).unwrap();
    let from = asked(&sandbox).iter().find_map(range_of).unwrap();

    // The right bytes, under a range that is not the one asked for.
    let rest = mp4(LENGTH)[from..].to_vec();
    let wrong = format!("bytes 1-{}/{LENGTH}", LENGTH - 1);
    sandbox.fault(Endpoint::Video, Fault::cut(100_000), 1);
    sandbox.fault(Endpoint::Video, Fault::reply(206, rest).header("Content-Range", &wrong), 1);
    let before = asked(&sandbox).len();
    client.download(&video, &place.target).unwrap();
    assert_whole(&place, &mp4(LENGTH));
    let ranges: Vec<_> = asked(&sandbox)[before..].iter().map(range_of).collect();
    assert_eq!(ranges, [None, Some(from), None], "it did not begin again");
}

#[test]
fn what_another_process_is_writing_is_not_touched() {
    let (sandbox, client, video) = finished();
    let place = Place::new();
    let part = place.target.with_extension("mp4.part");
    let mut others = fs::File::create(&part).unwrap();
    others.write_all(b"half a video").unwrap();
    others.lock().unwrap();
    let before = asked(&sandbox).len();
    let error = client.download(&video, &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert_eq!(fs::read(&part).unwrap(), b"half a video");
    assert_eq!(asked(&sandbox).len(), before);

    // One that was killed leaves a file that nobody holds.
    drop(others);
    client.download(&video, &place.target).unwrap();
    assert_whole(&place, &mp4(LENGTH));
}

#[test]
fn a_video_without_an_end_is_cut_off_at_a_gibibyte() {
    const CHUNK: usize = 4 * 1024 * 1024;
    let (sandbox, _, video) = finished();
    let head = "HTTP/1.1 200 OK\r\nContent-Type: video/mp4\r\n\r\n";
    let endless = Fault::endless(head, vec![0; CHUNK], u64::MAX);
    sandbox.fault(Endpoint::Video, endless, 9);
    let before = asked(&sandbox).len();
    let error = failure(&sandbox.client_builder().build().unwrap(), &video);
    assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
    assert!(error.to_string().contains("1 GiB"), "{error}");
    assert_eq!(asked(&sandbox).len() - before, 1);
}
