//! What the tests share.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::{
    Client, ClientBuilder, Error, Event, GenerationId, Image, ImageToVideo, RetryPolicy, Sandbox,
    Video,
};

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A request with a link, which is small and always valid.
pub fn request() -> ImageToVideo {
    ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("the cat yawns")
}

pub fn sandbox() -> Sandbox {
    Sandbox::start().unwrap()
}

// ---------------------------------------------------------------- the types and the whole job

/// A client of the sandbox that tries everything once.
pub fn once(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().retry(RetryPolicy::none()).build().unwrap()
}

pub fn id(text: &str) -> GenerationId {
    text.parse().unwrap()
}

/// A video that only this test knows of: what a caller would have kept as JSON.
pub fn video_at(url: &str) -> Video {
    serde_json::from_value(serde_json::json!({ "id": "1", "url": url })).unwrap()
}

/// The header of a PNG of this size, and then filler up to `len` bytes.
pub fn png(width: u32, height: u32, len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(width.to_be_bytes());
    data.extend(height.to_be_bytes());
    let filler = len.saturating_sub(data.len());
    data.extend((0..filler).map(|i| (i * 7 + i / 251) as u8));
    data
}

/// The texts of an error and of everything below it.
pub fn chain(error: &dyn std::error::Error) -> Vec<String> {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect()
}

/// All that an error can show.
pub fn everything_shown(error: &Error) -> String {
    format!("{error} {error:?} {error:#?} {:?} {:?}", chain(error), error.body())
}

/// Runs this in another thread, so that a hang is a failure.
pub fn without_hanging<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(work()));
    told.recv_timeout(Duration::from_secs(10)).expect("an end within 10 s")
}

/// What a client's watcher has seen, in words; runs of the same word are one.
#[derive(Clone, Default)]
pub struct Seen(Arc<Mutex<Vec<String>>>);

impl Seen {
    pub fn words(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }

    fn note(&self, word: String) {
        let mut words = self.0.lock().unwrap();
        if words.last() != Some(&word) || word.starts_with("polled") {
            words.push(word);
        }
    }
}

/// Has the client's events written down.
pub fn watched(builder: ClientBuilder) -> (Client, Seen) {
    let seen = Seen::default();
    let notes = seen.clone();
    let builder = builder.on_event(move |event| {
        notes.note(match event {
            Event::Uploading { .. } => "uploading".to_owned(),
            Event::Created { .. } => "created".to_owned(),
            Event::Polled { generation, .. } => format!("polled {}", generation.status),
            Event::Retrying { operation, .. } => format!("retrying {operation}"),
            Event::Downloading { .. } => "downloading".to_owned(),
            other => format!("{other:?}"),
        });
    });
    (builder.build().unwrap(), seen)
}
