//! Helpers for the tests of faults, resumed runs and cancellation.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{
    CancelToken, Client, ClientBuilder, ErrorKind, Event, EventKind, ImageToVideo, RetryPolicy,
    WaitOptions,
};
use serde_json::Value;

/// The idle timeout of these tests. No healthy response comes anywhere near it.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_millis(600);

/// A client builder whose client gives up on an idle connection after [`IDLE_TIMEOUT`].
pub(crate) fn short_idle_timeout(sandbox: &Sandbox) -> ClientBuilder {
    sandbox.client_builder().idle_timeout(IDLE_TIMEOUT)
}

/// Wait options as fast as those of [`Sandbox::client_builder`], to be adjusted by the test.
pub(crate) fn quick_wait() -> WaitOptions {
    WaitOptions::new()
        .initial_delay(Duration::from_millis(1))
        .interval(Duration::from_millis(2))
        .timeout(Duration::from_secs(30))
}

/// A retry policy as fast as that of [`Sandbox::client_builder`], to be adjusted by the test.
pub(crate) fn quick_retry() -> RetryPolicy {
    RetryPolicy::new().base_delay(Duration::from_millis(1)).max_delay(Duration::from_millis(20))
}

/// The header of a 400 × 300 px PNG, padded with filler to `length` bytes.
pub(crate) fn png_with_len(length: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x90\0\0\x01\x2c".to_vec();
    data.extend((data.len()..length).map(|at| (at * 7 + at / 251) as u8));
    data
}

/// The smallest file that passes for a complete MP4.
pub(crate) const TINY_MP4: &[u8] = b"\0\0\0\x0cftypisom\0\0\0\x08moov";

/// A file of `length` bytes that passes for a complete MP4.
pub(crate) fn mp4(length: usize) -> Vec<u8> {
    let mut data = TINY_MP4.to_vec();
    let rest = u32::try_from(length - data.len()).unwrap();
    data.extend(rest.to_be_bytes());
    data.extend(b"mdat");
    data.extend((data.len()..length).map(|at| (at * 13 + at / 251) as u8));
    data
}

/// A loopback port with no listener. Nothing can bind to it while the returned stream lives, since
/// it is that connection's local port.
pub(crate) fn closed_port() -> (u16, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (stream.local_addr().unwrap().port(), stream)
}

/// Waits for a condition that another thread or process brings about.
pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while !condition() {
        assert!(started.elapsed() < Duration::from_secs(20), "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A temporary directory with the path of a video, the target, in it.
pub(crate) struct TestDir {
    dir: tempfile::TempDir,
    pub(crate) target: PathBuf,
}

impl TestDir {
    pub(crate) fn new() -> TestDir {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cat.mp4");
        TestDir { dir, target }
    }

    pub(crate) fn path(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn journal(&self) -> PathBuf {
        with_suffix(&self.target, ".kling.jsonl")
    }

    pub(crate) fn partial_file(&self) -> PathBuf {
        with_suffix(&self.target, ".part")
    }

    pub(crate) fn journal_text(&self) -> String {
        std::fs::read_to_string(self.journal()).unwrap_or_default()
    }

    pub(crate) fn write_journal(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.journal(), text).unwrap();
    }

    /// The journal's lines, each parsed as JSON.
    pub(crate) fn journal_lines(&self) -> Vec<Value> {
        self.journal_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The `step` of each journal line.
    pub(crate) fn journal_steps(&self) -> Vec<String> {
        self.journal_lines().iter().map(|line| line["step"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn last_step(&self) -> Option<String> {
        self.journal_steps().pop()
    }

    /// The sorted names of the files in the directory.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn with_suffix(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The `intent` line that a run of this request writes, as if it had started at `at` (a Unix time;
/// `None` is now). Nothing is sent for it.
pub(crate) fn intent(client: &Client, request: &ImageToVideo, at: Option<u64>) -> String {
    let dir = TestDir::new();
    let token = CancelToken::new();
    token.cancel();
    let client = client.with_cancel_token(token);
    let error = client.generate_to(request, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(dir.journal_steps(), ["intent"]);
    let mut line = dir.journal_lines().remove(0);
    if let Some(at) = at {
        line["at"] = at.into();
    }
    line.to_string()
}

/// A journal's `sending` line: a create request with this id may have been accepted.
pub(crate) fn sending(client_request_id: &str) -> String {
    serde_json::json!({ "step": "sending", "client_request_id": client_request_id, "at": now() })
        .to_string()
}

/// A journal's `created` line: the generation is paid for.
pub(crate) fn created(id: &str) -> String {
    serde_json::json!({ "step": "created", "id": id }).to_string()
}

/// A journal's `saved` line: the video is complete.
pub(crate) fn saved(id: &str, bytes: usize) -> String {
    serde_json::json!({ "step": "saved", "id": id, "bytes": bytes }).to_string()
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// The numbers of create requests received and of generations accepted, which are paid for.
pub(crate) fn create_counts(sandbox: &Sandbox) -> (usize, usize) {
    (sandbox.request_count(Endpoint::Create), sandbox.generations().len())
}

/// An event's kind as a short string, for comparisons.
pub(crate) fn event_name(event: &Event<'_>) -> &'static str {
    match event.kind {
        EventKind::Uploading { .. } => "uploading",
        EventKind::Created { .. } => "created",
        EventKind::Polled { .. } => "polled",
        EventKind::Retrying { .. } => "retrying",
        EventKind::Downloading { .. } => "downloading",
        EventKind::Recovered => "recovered",
        EventKind::Reused => "reused",
        EventKind::Saved { .. } => "saved",
        _ => "other",
    }
}

/// A server that misbehaves in ways that the sandbox does not offer.
pub(crate) struct RawServer {
    pub(crate) url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawServer {
    /// Calls `respond` for one connection after the other, after reading its request's head.
    pub(crate) fn start(respond: impl Fn(&mut TcpStream) + Send + 'static) -> RawServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/cat.mp4", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&heads);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                received.lock().unwrap().push(String::from_utf8(head).unwrap());
                respond(&mut stream);
            }
        });
        RawServer { url, heads }
    }

    /// The request heads received so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}
