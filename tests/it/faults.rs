//! What the tests of faults and of resuming share.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::{
    CancelToken, Client, ClientBuilder, Endpoint, ErrorKind, Event, ImageToVideo, RetryPolicy,
    Sandbox, WaitOptions,
};
use serde_json::Value;

/// Silence that long is tested; nothing else comes near it.
pub(crate) const IDLE: Duration = Duration::from_millis(600);

/// A client that gives up on a silent server soon.
pub(crate) fn impatient(sandbox: &Sandbox) -> ClientBuilder {
    sandbox.client_builder().idle_timeout(IDLE)
}

/// The waits of the sandbox's own clients, to be changed.
pub(crate) fn quick_wait() -> WaitOptions {
    WaitOptions::new()
        .first_poll_after(Duration::from_millis(1))
        .interval(Duration::from_millis(2))
        .timeout(Duration::from_secs(30))
}

/// Retries as the sandbox's own clients', to be changed.
pub(crate) fn quick_retry() -> RetryPolicy {
    RetryPolicy::new().base_delay(Duration::from_millis(1)).max_delay(Duration::from_millis(20))
}

/// The header of a PNG of 400 × 300 px, and then whatever follows up to `length`.
pub(crate) fn picture(length: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x90\0\0\x01\x2c".to_vec();
    data.extend((data.len()..length).map(|at| (at * 7 + at / 251) as u8));
    data
}

/// The smallest file whose boxes are those of a video.
pub(crate) const TINY_MP4: &[u8] = b"\0\0\0\x0cftypisom\0\0\0\x08moov";

/// A file of `length` whose boxes are those of a video.
pub(crate) fn mp4(length: usize) -> Vec<u8> {
    let mut data = TINY_MP4.to_vec();
    let rest = u32::try_from(length - data.len()).unwrap();
    data.extend(rest.to_be_bytes());
    data.extend(b"mdat");
    data.extend((data.len()..length).map(|at| (at * 13 + at / 251) as u8));
    data
}

/// A port on the loopback that nobody listens to, nor will while the guard lives: it is the near
/// end of a connection.
pub(crate) fn closed_port() -> (u16, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
    (stream.local_addr().unwrap().port(), stream)
}

/// Waits for something that another thread or process does.
pub(crate) fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !condition() {
        assert!(begun.elapsed() < Duration::from_secs(20), "never came: {what}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// A folder of its own with a target in it.
pub(crate) struct Place {
    pub(crate) folder: tempfile::TempDir,
    pub(crate) target: PathBuf,
}

impl Place {
    pub(crate) fn new() -> Place {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("cat.mp4");
        Place { folder, target }
    }

    pub(crate) fn journal(&self) -> PathBuf {
        beside(&self.target, ".kling.jsonl")
    }

    pub(crate) fn part(&self) -> PathBuf {
        beside(&self.target, ".part")
    }

    pub(crate) fn journal_text(&self) -> String {
        std::fs::read_to_string(self.journal()).unwrap_or_default()
    }

    pub(crate) fn write_journal(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.journal(), text).unwrap();
    }

    /// The lines of the journal; each has to be JSON.
    pub(crate) fn lines(&self) -> Vec<Value> {
        self.journal_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The names of the journal's steps.
    pub(crate) fn steps(&self) -> Vec<String> {
        self.lines().iter().map(|line| line["step"].as_str().unwrap().to_owned()).collect()
    }

    pub(crate) fn last_step(&self) -> Option<String> {
        self.steps().pop()
    }

    /// What lies in the folder.
    pub(crate) fn files(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder.path()).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

pub(crate) fn beside(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// The `intent` line that a run of this request writes, as if it had begun at `at` (seconds since
/// 1970; `None`: now). Nothing is sent for it.
pub(crate) fn intent(client: &Client, request: &ImageToVideo, at: Option<u64>) -> String {
    let place = Place::new();
    let token = CancelToken::new();
    token.cancel();
    let options = quick_wait().cancel(token);
    let error = client.generate_to_with(request, &place.target, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(place.steps(), ["intent"]);
    let mut line = place.lines().remove(0);
    if let Some(at) = at {
        line["at"] = at.into();
    }
    line.to_string()
}

pub(crate) fn sending(client_request_id: &str) -> String {
    serde_json::json!({ "step": "sending", "client_request_id": client_request_id, "at": now() })
        .to_string()
}

pub(crate) fn created(id: &str) -> String {
    serde_json::json!({ "step": "created", "id": id }).to_string()
}

pub(crate) fn saved(id: &str, bytes: usize) -> String {
    serde_json::json!({ "step": "saved", "id": id, "bytes": bytes }).to_string()
}

pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs()
}

/// How often an endpoint was asked, beside the API's side of it: (requests, paid for).
pub(crate) fn creates(sandbox: &Sandbox) -> (usize, usize) {
    (sandbox.count(Endpoint::Create), sandbox.generations().len())
}

/// An event in a few words, to be compared.
pub(crate) fn name_of(event: &Event<'_>) -> &'static str {
    match event {
        Event::Uploading { .. } => "uploading",
        Event::Created { .. } => "created",
        Event::Polled { .. } => "polled",
        Event::Retrying { .. } => "retrying",
        Event::Downloading { .. } => "downloading",
        _ => "other",
    }
}

/// A server of so few manners that the sandbox cannot play it.
pub(crate) struct Canned {
    pub(crate) url: String,
    heads: Arc<Mutex<Vec<String>>>,
}

impl Canned {
    /// `answer` gets each connection in turn, once its request's head was read.
    pub(crate) fn start(answer: impl Fn(&mut TcpStream) + Send + 'static) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/cat.mp4", listener.local_addr().unwrap());
        let heads = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&heads);
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = Vec::new();
                let mut byte = [0];
                while !head.ends_with(b"\r\n\r\n") && stream.read_exact(&mut byte).is_ok() {
                    head.push(byte[0]);
                }
                seen.lock().unwrap().push(String::from_utf8(head).unwrap());
                answer(&mut stream);
            }
        });
        Canned { url, heads }
    }

    /// The heads of the requests so far.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}
