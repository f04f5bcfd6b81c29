//! Helpers for all tests.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::sandbox::Sandbox;
use kling_video::{
    Client, ClientBuilder, Error, EventKind, GenerationId, Image, ImageToVideo, RetryPolicy, Video,
};

/// The path of a file in `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A small, valid request with an image URL.
pub fn request() -> ImageToVideo {
    ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("the cat yawns")
}

pub fn sandbox() -> Sandbox {
    Sandbox::start().unwrap()
}

/// A client of the sandbox that makes a single attempt at every request.
pub fn no_retry_client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().retry_policy(RetryPolicy::none()).build().unwrap()
}

pub fn id(text: &str) -> GenerationId {
    text.parse().unwrap()
}

/// A video that the sandbox does not know, deserialized as a caller would from its own storage.
pub fn video_at(url: &str) -> Video {
    serde_json::from_value(serde_json::json!({ "id": "1", "url": url })).unwrap()
}

/// The header of a PNG with these dimensions, padded with filler to `len` bytes.
pub fn png(width: u32, height: u32, len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(width.to_be_bytes());
    data.extend(height.to_be_bytes());
    let filler = len.saturating_sub(data.len());
    data.extend((0..filler).map(|i| (i * 7 + i / 251) as u8));
    data
}

/// The messages of an error and of all its sources.
pub fn error_chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

/// Everything that can be printed of an error.
pub fn full_error_output(error: &Error) -> String {
    format!("{error} {error:?} {error:#?} {:?} {:?}", error_chain(error), error.body())
}

/// Runs `work` in another thread and panics if it takes longer than 10 s.
pub fn with_timeout<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || sender.send(work()));
    receiver.recv_timeout(Duration::from_secs(10)).expect("a result within 10 s")
}

/// The names of the events that a client emitted. Repetitions are collapsed, except of polls.
#[derive(Clone, Default)]
pub struct EventLog(Arc<Mutex<Vec<String>>>);

impl EventLog {
    pub fn names(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn push(&self, name: String) {
        let mut names = self.0.lock().unwrap();
        if names.last() != Some(&name) || name.starts_with("polled") {
            names.push(name);
        }
    }
}

/// Builds the client with an event handler that records events in the returned log.
pub fn with_event_log(builder: ClientBuilder) -> (Client, EventLog) {
    let log = EventLog::default();
    let handler_log = log.clone();
    let builder = builder.event_handler(move |event| {
        handler_log.push(match event.kind {
            EventKind::Uploading { .. } => "uploading".to_owned(),
            EventKind::Created { .. } => "created".to_owned(),
            EventKind::Polled { generation, .. } => format!("polled {}", generation.status),
            EventKind::Retrying { operation, .. } => format!("retrying {operation}"),
            EventKind::Downloading { .. } => "downloading".to_owned(),
            EventKind::Recovered => "recovered".to_owned(),
            EventKind::Reused => "reused".to_owned(),
            EventKind::Saved { .. } => "saved".to_owned(),
            other => format!("{other:?}"),
        });
    });
    (builder.build().unwrap(), log)
}
