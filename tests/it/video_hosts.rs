//! Hosts of videos as they are: odd URLs, partial content, videos that are not there yet, pages
//! instead of videos, and hosts that no video is fetched from.

use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, Error, ErrorKind, Operation, RetryPolicy, Video};

use crate::download::{
    LENGTH, assert_fails_cleanly, assert_saved, finished, range_start, video_requests,
};
use crate::helpers::clients::{no_retry_client, request, sandbox, test_client, video_at};
use crate::helpers::error_output::full_message;
use crate::helpers::files::TestDir;
use crate::helpers::media::{TINY_MP4, mp4};
use crate::helpers::tcp_server::RawServer;
use crate::helpers::tls_server::{CertificateAuthority, TlsServer};

fn respond(mut stream: &TcpStream, head: &str, body: &[u8]) {
    let head =
        format!("HTTP/1.1 {head}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all(&[head.as_bytes(), body].concat());
}

/// The targets of the requests that a server has received.
fn targets(server: &RawServer) -> Vec<String> {
    let target = |head: &String| head.split(' ').nth(1).unwrap().to_owned();
    server.heads().iter().map(target).collect()
}

// ---------------------------------------------------------------- URLs

#[test]
fn url_is_trimmed_and_percent_encoded_where_a_uri_may_not_hold_what_it_holds() {
    let server = RawServer::start(|stream| respond(stream, "200 OK", TINY_MP4));
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let url = server.url();
    for (url, target) in [
        (format!("{url}/my video (1).mp4"), "/my%20video%20(1).mp4"),
        (
            format!("{url}/a?response-content-disposition=attachment; filename=\"cat.mp4\""),
            "/a?response-content-disposition=attachment;%20filename=%22cat.mp4%22",
        ),
        (format!(" {url}/cat.mp4"), "/cat.mp4"),
        (format!("{url}/cat.mp4\n"), "/cat.mp4"),
        (format!("\t{url}/cat.mp4\r\n "), "/cat.mp4"),
        (format!("{url}/vidéo.mp4?q=é"), "/vid%C3%A9o.mp4?q=%C3%A9"),
        (format!("{url}/a|b{{c}}\\d^e`f<g>.mp4"), "/a%7Cb%7Bc%7D%5Cd%5Ee%60f%3Cg%3E.mp4"),
        (format!("{url}/a?x=a|b&y={{1}}"), "/a?x=a%7Cb&y=%7B1%7D"),
        (format!("{url}/a\tb\x01.mp4"), "/a%09b%01.mp4"),
        // What a URI may hold stays as it is, since the query may be signed.
        (format!("{url}/%7e%zz%/[a]'!*.mp4?s=%2F%2f+~&x="), "/%7e%zz%/[a]'!*.mp4?s=%2F%2f+~&x="),
        (format!("{url}/cat.mp4#t=1"), "/cat.mp4"),
    ] {
        let dir = TestDir::new();
        let result = client.download(&video_at(&url), &dir.target);
        assert!(result.is_ok(), "{url:?}: {result:?}");
        assert_eq!(targets(&server).pop().unwrap(), target);
        assert_saved(&dir, TINY_MP4);
    }
}

#[test]
fn location_is_percent_encoded_as_well() {
    for (location, target) in [
        ("/vidéo.mp4".as_bytes(), "/vid%C3%A9o.mp4"),
        (b"/vid\xE9o.mp4", "/vid%E9o.mp4"),
        (b"/my video.mp4", "/my%20video.mp4"),
        (b"my \"video\".mp4?a=<b>", "/dir/my%20%22video%22.mp4?a=%3Cb%3E"),
        (b"?a b", "/dir/start?a%20b"),
    ] {
        let server = RawServer::start(move |mut stream| {
            static REQUESTS: AtomicUsize = AtomicUsize::new(0);
            if REQUESTS.fetch_add(1, Ordering::SeqCst).is_multiple_of(2) {
                let head = b"HTTP/1.1 302 Found\r\nContent-Length: 0\r\nConnection: close\r\n";
                let location = [b"Location: ", location, b"\r\n\r\n"].concat();
                stream.write_all(&[head.as_slice(), &location].concat()).unwrap();
            } else {
                respond(stream, "200 OK", TINY_MP4);
            }
        });
        let sandbox = sandbox();
        let dir = TestDir::new();
        let video = video_at(&format!("{}/dir/start", server.url()));
        no_retry_client(&sandbox).download(&video, &dir.target).unwrap();
        assert_eq!(targets(&server), ["/dir/start", target]);
        assert_saved(&dir, TINY_MP4);
    }
}

#[test]
fn video_with_an_odd_file_name_is_generated_to_a_file() {
    let sandbox = sandbox();
    for name in ["my vidéo (1).mp4", "\"a\".mp4", "100%.mp4"] {
        sandbox.set_video_file_name(name);
        let dir = TestDir::new();
        test_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
        assert_eq!(fs::read(&dir.target).unwrap(), sandbox.default_video());
        let video = test_client(&sandbox).generate(&request()).unwrap();
        assert!(video.url.contains(name), "{}", video.url);
        sandbox.expire_video_urls();
        test_client(&sandbox).download(&video, TestDir::new().target).unwrap();
    }
}

#[test]
fn error_about_a_url_carries_it() {
    let (sandbox, _, mut video) = finished();
    let client = no_retry_client(&sandbox);
    for (url, shown) in [
        ("http://example.com/my cat.mp4?sig=1", "http://example.com/my%20cat.mp4?sig=1"),
        ("file:///etc/hostname", "file:///etc/hostname"),
        ("cat.mp4", "cat.mp4"),
        ("https://exämple.com/a.mp4", "https://ex%C3%A4mple.com/a.mp4"),
    ] {
        url.clone_into(&mut video.url);
        let error = assert_fails_cleanly(&client, &video);
        assert!(error.to_string().contains(shown), "{error}");
        assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
    }
    let (sandbox, _, video) = finished();
    let secret = sandbox.key();
    let location = format!("ftp://example.com/{secret}/cat.mp4");
    sandbox.fault(Endpoint::Video, Fault::redirect(302, location), 1);
    let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    assert!(error.to_string().contains("ftp://example.com/[key]/cat.mp4"), "{error}");
}

#[test]
fn upper_case_https_is_not_redirected_to_http() {
    let (sandbox, _, mut video) = finished();
    let ca = CertificateAuthority::new("test CA");
    let address = sandbox.url().trim_start_matches("http://").parse().unwrap();
    let server = TlsServer::start(&ca.issue_certificate("localhost"), address);
    let client =
        sandbox.client_builder().root_certificates_pem(ca.pem().as_bytes()).build().unwrap();
    let http_url = video.url.clone();
    let https_url = video.url.replace(&sandbox.url(), &server.url("localhost"));
    for scheme in ["HTTPS://", "Https://"] {
        video.url = https_url.replace("https://", scheme);
        sandbox.fault(Endpoint::Video, Fault::redirect(302, &http_url), 1);
        let error = assert_fails_cleanly(&client, &video);
        assert!(error.to_string().contains("must start with https://"), "{error}");
        client.download(&video, TestDir::new().target).unwrap();
    }
}

#[test]
fn url_of_this_machine_or_its_link_is_rejected_unless_the_api_is_on_it() {
    let server = RawServer::start(|stream| respond(stream, "200 OK", TINY_MP4));
    let port = server.url().rsplit(':').next().unwrap().to_owned();
    let client = |base_url: &str| {
        let builder = Client::builder("key").no_proxy().base_url(base_url);
        builder.retry_policy(RetryPolicy::none()).build().unwrap()
    };
    let remote = client("https://api.example.com");
    for host in [
        "http://127.0.0.1",
        "https://127.0.0.1",
        "https://127.8.9.10",
        "https://[::1]",
        "https://[::ffff:127.0.0.1]",
        "https://localhost",
        "https://LOCALHOST.",
        "https://169.254.169.254",
        "https://[fe80::1]",
        "https://[fe80::1%25eth0]",
        "https://[febf::1]",
        "https://0.0.0.0",
        "https://[::]",
        // Other spellings of 127.0.0.1, which system resolvers accept.
        "https://127.1",
        "https://2130706433",
        "https://0x7f000001",
        "https://0177.0.0.1",
        "https://me@127.0.0.1",
    ] {
        let video = video_at(&format!("{host}:{port}/cat.mp4"));
        let error = assert_fails_cleanly(&remote, &video);
        assert_eq!(error.kind(), ErrorKind::Decode, "{host}: {error:?}");
        assert!(error.to_string().contains("loopback or link-local"), "{host}: {error}");
        assert!(!error.is_retryable());
    }
    assert_eq!(server.heads(), [""; 0]);

    let sandbox = sandbox();
    let local = client(&sandbox.url());
    local.download(&video_at(&format!("{}/cat.mp4", server.url())), TestDir::new().target).unwrap();
}

// ---------------------------------------------------------------- partial content

#[test]
fn partial_content_of_the_whole_file_is_the_file() {
    let (sandbox, client, video) = finished();
    let last = LENGTH - 1;
    for range in [format!("bytes 0-{last}/{LENGTH}"), format!("bytes 0-{last}/*")] {
        let before = video_requests(&sandbox).len();
        let whole = Fault::response(206, mp4(LENGTH)).header("Content-Range", range);
        sandbox.fault(Endpoint::Video, whole, 1);
        let dir = TestDir::new();
        assert_eq!(client.download(&video, &dir.target).unwrap(), LENGTH as u64);
        assert_saved(&dir, &mp4(LENGTH));
        assert_eq!(video_requests(&sandbox).len() - before, 1);
    }
}

#[test]
fn partial_content_is_continued_where_it_ends() {
    for validator in [Some("\"1\""), None] {
        let (sandbox, client, video) = finished();
        let content_range = format!("bytes 0-8999/{LENGTH}");
        let mut part =
            Fault::response(206, &mp4(LENGTH)[..9_000]).header("Content-Range", content_range);
        if let Some(validator) = validator {
            part = part.header("ETag", validator);
        }
        sandbox.fault(Endpoint::Video, part, 1);
        sandbox.fault(Endpoint::Video, Fault::etag("\"1\""), 1);
        let dir = TestDir::new();
        assert_eq!(client.download(&video, &dir.target).unwrap(), LENGTH as u64);
        assert_saved(&dir, &mp4(LENGTH));
        let requests = video_requests(&sandbox);
        assert_eq!(requests.iter().map(range_start).collect::<Vec<_>>(), [None, Some(9_000)]);
        assert_eq!(requests[1].header("if-range"), validator);
    }
}

/// A host that sends at most 50,000 bytes at once.
#[test]
fn partial_content_is_continued_as_often_as_necessary_and_without_delay() {
    let server = RawServer::start(|stream| {
        static SENT: AtomicUsize = AtomicUsize::new(0);
        let from = SENT.fetch_add(50_000, Ordering::SeqCst);
        let to = LENGTH.min(from + 50_000);
        let head =
            format!("206 Partial Content\r\nContent-Range: bytes {from}-{}/{LENGTH}", to - 1);
        respond(stream, &head, &mp4(LENGTH)[from..to]);
    });
    let sandbox = sandbox();
    // Without retries: they are not errors.
    let client = no_retry_client(&sandbox);
    let dir = TestDir::new();
    client.download(&video_at(&format!("{}/cat.mp4", server.url())), &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
    let heads = server.heads();
    assert_eq!(heads.len(), LENGTH / 50_000);
    assert!(heads[5].to_lowercase().contains("range: bytes=250000-\r\n"), "{}", heads[5]);
}

#[test]
fn partial_content_that_is_not_what_was_requested_is_retried_and_rejected() {
    let part = |content_range: &str| {
        Fault::response(206, &mp4(LENGTH)[..9_000]).header("Content-Range", content_range)
    };
    for fault in [
        part(&format!("bytes 9000-17999/{LENGTH}")),
        part("bytes */300000"),
        part("nonsense"),
        // The same part whatever is requested.
        part(&format!("bytes 0-8999/{LENGTH}")),
        // Parts without progress.
        Fault::response(206, "").header("Content-Range", format!("bytes 0-0/{LENGTH}")),
        Fault::response(206, mp4(LENGTH)),
    ] {
        let (sandbox, client, video) = finished();
        sandbox.fault(Endpoint::Video, fault.clone(), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_saved(&dir, &mp4(LENGTH));

        sandbox.fault(Endpoint::Video, fault.clone(), 99);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!(error.kind(), ErrorKind::Decode, "{fault:?}: {error:?}");
        assert!(video_requests(&sandbox).len() < 20, "{fault:?}");
    }
}

// ---------------------------------------------------------------- statuses

#[test]
fn video_that_is_not_there_yet_is_waited_for() {
    let sandbox = sandbox();
    // More often than a request is retried.
    sandbox.fault(Endpoint::Video, Fault::status(404), 9);
    let policy = RetryPolicy::new().base_delay(Duration::ZERO).max_delay(Duration::from_secs(20));
    let client = sandbox.client_builder().retry_policy(policy).build().unwrap();
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(fs::read(&dir.target).unwrap(), sandbox.default_video());
    assert_eq!(video_requests(&sandbox).len(), 10);
    assert_eq!(sandbox.request_count(Endpoint::Create), 1);
}

#[test]
fn video_that_stays_not_found_is_an_error() {
    let (sandbox, _, video) = finished();
    sandbox.fault(Endpoint::Video, Fault::status(404), u32::MAX);
    // It is waited for three times the policy's `max_delay`: 60 ms.
    let started = Instant::now();
    let error = assert_fails_cleanly(&test_client(&sandbox), &video);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(404)));

    // Without retries, only a fresh URL is tried.
    let before = video_requests(&sandbox).len();
    assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    assert_eq!(video_requests(&sandbox).len() - before, 2);
}

#[test]
fn client_error_of_the_video_host_asks_for_a_fresh_url_once() {
    for status in [400, 401, 403, 410] {
        let (sandbox, client, video) = finished();
        let polls = sandbox.request_count(Endpoint::Retrieve);
        sandbox.fault(Endpoint::Video, Fault::status(status), 1);
        let dir = TestDir::new();
        client.download(&video, &dir.target).unwrap();
        assert_saved(&dir, &mp4(LENGTH));
        assert_eq!(sandbox.request_count(Endpoint::Retrieve) - polls, 1, "{status}");

        sandbox.fault(Endpoint::Video, Fault::status(status), 2);
        let before = video_requests(&sandbox).len();
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!(video_requests(&sandbox).len() - before, 2, "{status}");
        assert_eq!(sandbox.request_count(Endpoint::Retrieve) - polls, 2, "{status}");
        assert!(!error.to_string().contains("API key"), "{error}");
    }
}

#[test]
fn failed_url_refresh_says_why_it_was_needed() {
    let (sandbox, client, video) = finished();
    let without_video = format!(r#"{{"id":"{}","status":"completed","video":null}}"#, video.id);
    for (fault, kind, reason) in [
        (Fault::status(401), ErrorKind::Api, "HTTP 401: Invalid API key provided"),
        (Fault::close_connection(), ErrorKind::Transport, "connection lost"),
        (Fault::response(200, without_video), ErrorKind::Decode, "no video URL anymore"),
    ] {
        let is_401 = kind == ErrorKind::Api;
        sandbox.fault(Endpoint::Video, Fault::status(410), 1);
        sandbox.fault(Endpoint::Retrieve, fault, 99);
        let error = assert_fails_cleanly(&client, &video);
        assert_eq!(error.kind(), kind, "{error:?}");
        let message = error.to_string();
        assert!(message.contains("HTTP 410") && message.contains(reason), "{message}");
        // This one is about the API.
        assert_eq!(message.contains("check the API key"), is_401, "{message}");
        sandbox.clear_faults();
    }
    // As well if the API cannot be reached.
    let host = RawServer::start(|stream| respond(stream, "403 Forbidden", b""));
    let unreachable = Client::builder("key").no_proxy().base_url("http://127.0.0.1:1");
    let client = unreachable.retry_policy(RetryPolicy::none()).build().unwrap();
    let error = assert_fails_cleanly(&client, &video_at(&format!("{}/a.mp4", host.url())));
    assert_eq!(error.kind(), ErrorKind::Connect);
    let message = error.to_string();
    assert!(message.contains("HTTP 403") && message.contains("127.0.0.1:1"), "{message}");
}

// ---------------------------------------------------------------- no video

/// Downloads with the default number of retries; there must be one at most.
#[track_caller]
fn assert_is_no_video(sandbox: &Sandbox, client: &Client, video: &Video) -> Error {
    let before = video_requests(sandbox).len();
    let error = assert_fails_cleanly(client, video);
    assert_eq!(video_requests(sandbox).len() - before, 2, "{error:?}");
    assert_eq!((error.kind(), error.status()), (ErrorKind::Decode, Some(200)), "{error:?}");
    assert!(!error.is_retryable());
    sandbox.clear_faults();
    error
}

#[test]
fn response_that_is_no_video_is_requested_twice_and_described() {
    let (sandbox, client, video) = finished();
    let page = b"<!DOCTYPE html>\n<html><body>Please log in</body></html>";
    let html = Fault::response(200, page).header("Content-Type", "text/html; charset=utf-8");
    sandbox.fault(Endpoint::Video, html, 99);
    let error = assert_is_no_video(&sandbox, &client, &video);
    let message = error.to_string();
    assert!(message.contains("the URL served HTML, not a video"), "{message}");
    assert!(
        message.contains("Content-Type: text/html; charset=utf-8, Content-Encoding: none"),
        "{message}"
    );
    assert!(error.body().unwrap().contains("Please log in"), "{error:?}");

    sandbox.fault(Endpoint::Video, Fault::response(200, ""), 99);
    let message = assert_is_no_video(&sandbox, &client, &video).to_string();
    assert!(message.contains("empty response body"), "{message}");

    // A stored block, as gzip writes what cannot be compressed.
    let gzip = [&b"\x1f\x8b\x08\0\0\0\0\0\0\x03\x01\x14\0\xeb\xff"[..], TINY_MP4].concat();
    let encoded = Fault::response(200, gzip).header("Content-Type", "video/mp4");
    sandbox.fault(Endpoint::Video, encoded.header("Content-Encoding", "gzip"), 99);
    let error = assert_is_no_video(&sandbox, &client, &video);
    let message = error.to_string();
    assert!(message.contains("Content-Type: video/mp4, Content-Encoding: gzip"), "{message}");
    assert!(!error.body().unwrap().is_empty(), "{error:?}");

    // A complete response of what is no complete MP4.
    sandbox.set_video(mp4(LENGTH)[..LENGTH / 2].to_vec());
    let message = assert_is_no_video(&sandbox, &client, &video).to_string();
    assert!(message.contains("not a complete MP4: truncated box"), "{message}");

    // A page that is there once, as an overloaded host sends it.
    sandbox.set_video(mp4(LENGTH));
    sandbox.fault(Endpoint::Video, Fault::response(200, page), 1);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
}

#[test]
fn response_that_echoes_the_key_is_redacted() {
    let (sandbox, _, video) = finished();
    let page = format!("<html>{}</html>", sandbox.key());
    sandbox.fault(Endpoint::Video, Fault::response(200, page), 9);
    let error = assert_fails_cleanly(&no_retry_client(&sandbox), &video);
    assert_eq!(error.body(), Some("<html>[key]</html>"));
    assert!(!full_message(&error).contains(sandbox.key()));
}

#[test]
fn truncated_response_without_a_length_is_retried_as_an_interruption() {
    let (sandbox, client, video) = finished();
    let head = b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let raw = [&head[..], &mp4(LENGTH)[..LENGTH - 1]].concat();
    sandbox.fault(Endpoint::Video, Fault::raw(raw), 4);
    let dir = TestDir::new();
    client.download(&video, &dir.target).unwrap();
    assert_saved(&dir, &mp4(LENGTH));
    assert_eq!(video_requests(&sandbox).len(), 5);
}

// ---------------------------------------------------------------- the target

/// A file that is bind-mounted, as into a container, cannot be replaced by a rename (`EBUSY`).
#[cfg(target_os = "linux")]
#[test]
fn checked_video_is_kept_and_named_if_the_target_is_bind_mounted() {
    use crate::helpers::subprocess::Subprocess;
    use std::process::Command;

    let unshare = ["--user", "--map-root-user", "--mount"];
    let dir = TestDir::new();
    let other = dir.path().join("other");
    fs::write(&dir.target, "an older video").unwrap();
    fs::write(&other, "an older video").unwrap();
    let mount = format!("mount --bind '{}' '{}'", other.display(), dir.target.display());
    let probe = Command::new("unshare").args(unshare).args(["sh", "-c", &mount]).output();
    if !probe.is_ok_and(|output| output.status.success()) {
        eprintln!("skipped: mounting is not permitted here");
        return;
    }
    let script = format!("{mount} && exec \"$0\" \"$@\"");
    let mut command = Command::new("unshare");
    command.args(unshare).args(["sh", "-c", &script]).arg(std::env::current_exe().unwrap());
    command.env("TEST_TARGET", &dir.target);
    let message = Subprocess::start(command, "video_hosts::bind_mount_subprocess").wait();
    assert!(message.contains(dir.partial_file().to_str().unwrap()), "{message}");
    assert_eq!(fs::read(dir.partial_file()).unwrap(), mp4(LENGTH));
    assert_eq!(fs::read(&dir.target).unwrap(), b"an older video");
}

#[cfg(target_os = "linux")]
#[test]
fn bind_mount_subprocess() {
    let Some(target) = std::env::var_os("TEST_TARGET").map(std::path::PathBuf::from) else {
        return;
    };
    let (_sandbox, client, video) = finished();
    let error = client.download(&video, &target).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Io, Operation::Download));
    assert_eq!(error.generation_id(), Some(&video.id));
    assert_eq!(fs::read(&target).unwrap(), b"an older video");
    crate::helpers::subprocess::emit_result(&full_message(&error));
}
