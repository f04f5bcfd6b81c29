//! This crate, with everything on that a program would have on: the default retries and an event
//! callback. Traces and typed errors cannot be turned off.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use harness::{Contender, Outcome};
use kling_video::{
    Client, ClientBuilder, Event, GenerationId, Image, ImageToVideo, Video, WaitOptions,
};

pub struct Ours {
    client: Client,
    base: String,
    seen: Arc<Seen>,
}

/// What the event callback keeps: as little as a progress bar does.
#[derive(Default)]
struct Seen {
    bytes: AtomicU64,
    polls: AtomicUsize,
    /// When so many polls have been seen, what is allocated is noted.
    note_at: AtomicUsize,
    live: AtomicUsize,
}

impl Seen {
    fn note(&self, event: &Event<'_>) {
        match event {
            Event::Uploading { sent, .. } => self.bytes.store(*sent, Relaxed),
            Event::Downloading { received, .. } => self.bytes.store(*received, Relaxed),
            Event::Polled { .. } => self.note_poll(),
            _ => {}
        }
    }

    fn note_poll(&self) {
        if self.polls.fetch_add(1, Relaxed) + 1 == self.note_at.load(Relaxed) {
            self.live.store(harness::live_bytes(), Relaxed);
        }
    }
}

fn builder(base: &str, seen: &Arc<Seen>) -> ClientBuilder {
    let seen = Arc::clone(seen);
    Client::builder("sandbox-key")
        .base_url(base)
        .no_proxy()
        .user_agent("kling-video-compare")
        .on_event(move |event| seen.note(event))
}

fn request(image: Image) -> ImageToVideo {
    ImageToVideo::new(image).prompt("the cat yawns")
}

fn link() -> ImageToVideo {
    request(Image::url("https://example.com/cat.jpg"))
}

impl Ours {
    fn create_and_look(&self, request: &ImageToVideo) -> Outcome {
        let created = self.client.create(request)?;
        let generation = self.client.retrieve(&created.id)?;
        std::hint::black_box(&generation.trace);
        Ok(())
    }

    /// Creates and waits: the same requests as `link`, if the first look finds the video.
    fn wait(&self, interval: Duration) -> Outcome {
        let created = self.client.create(&link())?;
        let options = WaitOptions::new().first_poll_after(Duration::ZERO).interval(interval);
        self.client.wait_with(&created.id, &options)?;
        Ok(())
    }

    /// Waits for generations that were created before, and tells what it took per generation.
    fn wait_all(&self, ids: &Path, interval: Duration, threads: usize) -> Outcome {
        let ids = std::fs::read_to_string(ids)?;
        let ids = ids.lines().map(str::parse).collect::<Result<Vec<GenerationId>, _>>()?;
        let options =
            WaitOptions::new().first_poll_after(Duration::ZERO).interval(interval).threads(threads);
        self.seen.note_at.store(ids.len(), Relaxed);
        harness::reset_peak();
        let before = harness::live_bytes();
        let results = self.client.wait_all(&ids, &options);
        let (after, peak) = (harness::live_bytes(), harness::peak_since_reset());
        for result in &results {
            result.as_ref().map_err(ToString::to_string)?;
        }
        let waiting = self.seen.live.load(Relaxed);
        println!("generations {}\npolls {}", results.len(), self.seen.polls.load(Relaxed));
        println!("waiting_bytes {}", waiting.saturating_sub(before));
        println!("result_bytes {}", after.saturating_sub(before));
        println!("peak_bytes {}", peak.saturating_sub(before));
        Ok(())
    }

    /// The whole job over TLS, which trusts the given authority only.
    fn generate(&self, times: u32, authority: &Path) -> Outcome {
        let wait = WaitOptions::new()
            .first_poll_after(Duration::from_millis(2))
            .interval(Duration::from_millis(2));
        let client = builder(&self.base, &self.seen)
            .root_certificates_pem(&std::fs::read(authority)?)
            .wait(wait)
            .build()?;
        for _ in 0..times {
            client.generate(&link())?;
        }
        Ok(())
    }
}

impl Contender for Ours {
    fn new(base: &str) -> Outcome<Self> {
        let seen = Arc::new(Seen::default());
        // Over TLS the job makes its own, which knows whom to trust.
        let client = builder(base, &seen).build()?;
        Ok(Self { client, base: base.to_owned(), seen })
    }

    fn link(&mut self) -> Outcome {
        self.create_and_look(&link())
    }

    fn file(&mut self, picture: &Path) -> Outcome {
        self.create_and_look(&request(Image::file(picture)))
    }

    fn upload(&mut self, picture: &Path) -> Outcome {
        self.client.create(&request(Image::file(picture)))?;
        Ok(())
    }

    /// Always synced: a video is only there when it is sure to stay.
    fn download(&mut self, url: &str, to: &Path, _sync: bool) -> Outcome {
        let video: Video = serde_json::from_value(serde_json::json!({ "id": "1", "url": url }))?;
        self.client.download(&video, to)?;
        Ok(())
    }

    fn extra(&mut self, job: &str, times: u32, arguments: &[String]) -> Outcome {
        let milliseconds = |text: &String| text.parse().map(Duration::from_millis);
        match (job, arguments) {
            ("wait", [interval]) => {
                let interval = milliseconds(interval)?;
                (0..times).try_for_each(|_| self.wait(interval))
            }
            ("wait-all", [ids, interval, threads]) => {
                self.wait_all(ids.as_ref(), milliseconds(interval)?, threads.parse()?)
            }
            ("generate", [authority]) => self.generate(times, authority.as_ref()),
            _ => Err(format!("no job {job}").into()),
        }
    }
}
