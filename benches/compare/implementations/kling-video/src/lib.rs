//! This crate, configured as a typical program would: default retries and an event handler.
//! Response metadata and typed errors cannot be turned off.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use harness::{Implementation, Result};
use kling_video::{
    Client, ClientBuilder, Event, EventKind, GenerationId, Image, ImageToVideo, Video, WaitOptions,
};

pub struct KlingVideo {
    client: Client,
    base_url: String,
    progress: Arc<Progress>,
}

/// What the event handler records: no more than a progress bar would.
#[derive(Default)]
struct Progress {
    bytes: AtomicU64,
    polls: AtomicUsize,
    /// The number of polls after which `live_bytes` is taken.
    snapshot_at: AtomicUsize,
    live_bytes: AtomicUsize,
}

impl Progress {
    fn record(&self, event: &Event<'_>) {
        match event.kind {
            EventKind::Uploading { sent, .. } => self.bytes.store(sent, Relaxed),
            EventKind::Downloading { received, .. } => self.bytes.store(received, Relaxed),
            EventKind::Polled { .. } => self.record_poll(),
            _ => {}
        }
    }

    fn record_poll(&self) {
        if self.polls.fetch_add(1, Relaxed) + 1 == self.snapshot_at.load(Relaxed) {
            self.live_bytes.store(harness::live_bytes(), Relaxed);
        }
    }
}

fn builder(base_url: &str, progress: &Arc<Progress>) -> ClientBuilder {
    let progress = Arc::clone(progress);
    Client::builder("sandbox-key")
        .base_url(base_url)
        .no_proxy()
        .user_agent("kling-video-compare")
        .event_handler(move |event| progress.record(event))
}

fn request(image: Image) -> ImageToVideo {
    ImageToVideo::new(image).prompt("the cat yawns")
}

fn url_request() -> ImageToVideo {
    request(Image::url("https://example.com/cat.jpg"))
}

impl KlingVideo {
    fn create_and_poll(&self, request: &ImageToVideo) -> Result {
        let created = self.client.create(request)?;
        let generation = self.client.retrieve(&created.id)?;
        std::hint::black_box(&generation.metadata);
        Ok(())
    }

    /// Creates a generation and waits for it. If the first poll returns the video, the requests
    /// are those of `create_and_poll_url`.
    fn wait(&self, interval: Duration) -> Result {
        let created = self.client.create(&url_request())?;
        let options = WaitOptions::new().initial_delay(Duration::ZERO).interval(interval);
        self.client.with_wait_options(options).wait(&created.id)?;
        Ok(())
    }

    /// Waits for existing generations and prints how much heap that takes.
    fn wait_all(&self, ids: &Path, interval: Duration, threads: usize) -> Result {
        let ids = std::fs::read_to_string(ids)?;
        let ids = ids.lines().map(str::parse).collect::<Result<Vec<GenerationId>, _>>()?;
        let options =
            WaitOptions::new().initial_delay(Duration::ZERO).interval(interval).threads(threads);
        let client = self.client.with_wait_options(options);
        self.progress.snapshot_at.store(ids.len(), Relaxed);
        harness::reset_peak();
        let before = harness::live_bytes();
        let results = client.wait_all(&ids);
        let (after, peak) = (harness::live_bytes(), harness::peak_since_reset());
        for result in &results {
            result.as_ref().map_err(ToString::to_string)?;
        }
        let waiting = self.progress.live_bytes.load(Relaxed);
        println!("generations {}\npolls {}", results.len(), self.progress.polls.load(Relaxed));
        println!("waiting_bytes {}", waiting.saturating_sub(before));
        println!("result_bytes {}", after.saturating_sub(before));
        println!("peak_bytes {}", peak.saturating_sub(before));
        Ok(())
    }

    /// Runs `generate` over TLS, trusting only the given root certificate.
    fn generate(&self, times: u32, root_certificate: &Path) -> Result {
        let interval = Duration::from_millis(2);
        let client = builder(&self.base_url, &self.progress)
            .root_certificates_pem(&std::fs::read(root_certificate)?)
            .wait_options(WaitOptions::new().initial_delay(interval).interval(interval))
            .build()?;
        for _ in 0..times {
            client.generate(&url_request())?;
        }
        Ok(())
    }
}

impl Implementation for KlingVideo {
    fn new(base_url: &str) -> Result<Self> {
        let progress = Arc::new(Progress::default());
        // The job `generate` builds a client of its own, since it needs a root certificate.
        let client = builder(base_url, &progress).build()?;
        Ok(Self { client, base_url: base_url.to_owned(), progress })
    }

    fn create_and_poll_url(&mut self) -> Result {
        self.create_and_poll(&url_request())
    }

    fn create_and_poll_file(&mut self, image: &Path) -> Result {
        self.create_and_poll(&request(Image::file(image)))
    }

    fn upload(&mut self, image: &Path) -> Result {
        self.client.create(&request(Image::file(image)))?;
        Ok(())
    }

    /// Ignores `sync`: `Client::download` always syncs the file.
    fn download(&mut self, url: &str, path: &Path, _sync: bool) -> Result {
        let video: Video = serde_json::from_value(serde_json::json!({ "id": "1", "url": url }))?;
        self.client.download(&video, path)?;
        Ok(())
    }

    fn run_extra(&mut self, job: &str, times: u32, arguments: &[String]) -> Result {
        let milliseconds = |argument: &String| argument.parse().map(Duration::from_millis);
        match (job, arguments) {
            ("wait", [interval]) => {
                let interval = milliseconds(interval)?;
                (0..times).try_for_each(|_| self.wait(interval))
            }
            ("wait-all", [ids, interval, threads]) => {
                self.wait_all(ids.as_ref(), milliseconds(interval)?, threads.parse()?)
            }
            ("generate", [root_certificate]) => self.generate(times, root_certificate.as_ref()),
            _ => Err(format!("unknown job `{job}`").into()),
        }
    }
}
