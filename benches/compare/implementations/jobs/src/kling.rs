//! This crate, configured as a typical program would: default retries and an event handler.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use kling_video::{
    Client, ClientBuilder, Event, EventKind, GenerationId, Image, ImageToVideo, Video, WaitOptions,
};

use crate::{IMAGE_URL, Implementation, PROMPT, Result, USER_AGENT, memory};

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
            self.live_bytes.store(memory::live_bytes(), Relaxed);
        }
    }
}

fn builder(base_url: &str, progress: &Arc<Progress>) -> ClientBuilder {
    let progress = Arc::clone(progress);
    Client::builder("sandbox-key")
        .base_url(base_url)
        .no_proxy()
        .user_agent(USER_AGENT)
        .event_handler(move |event| progress.record(event))
}

fn request(image: Image) -> ImageToVideo {
    ImageToVideo::new(image).prompt(PROMPT)
}

fn wait_options(interval: &str) -> Result<WaitOptions> {
    let interval = Duration::from_millis(interval.parse()?);
    Ok(WaitOptions::new().initial_delay(Duration::ZERO).interval(interval))
}

impl KlingVideo {
    fn create_and_poll(&self) -> Result {
        let created = self.client.create(&request(Image::url(IMAGE_URL)))?;
        let generation = self.client.retrieve(&created.id)?;
        std::hint::black_box(&generation.metadata);
        Ok(())
    }

    fn create_and_wait(&self, interval: &str) -> Result {
        let created = self.client.create(&request(Image::url(IMAGE_URL)))?;
        self.client.with_wait_options(wait_options(interval)?).wait(&created.id)?;
        Ok(())
    }

    /// The video does not exist yet: `path` differs for each round.
    fn generate_to(&self, round: u32, image: &str, directory: &Path) -> Result {
        let client = self.client.with_wait_options(wait_options("1")?);
        let path: PathBuf = directory.join(format!("{}-{round}.mp4", std::process::id()));
        client.generate_to(&request(Image::file(image)), path)?;
        Ok(())
    }

    /// Waits for existing generations and prints how much heap that takes.
    fn wait_all(&self, ids: &str, interval: &str, threads: &str) -> Result {
        let ids = std::fs::read_to_string(ids)?;
        let ids = ids.lines().map(str::parse).collect::<Result<Vec<GenerationId>, _>>()?;
        let options = wait_options(interval)?.threads(threads.parse()?);
        let client = self.client.with_wait_options(options);
        self.progress.snapshot_at.store(ids.len(), Relaxed);
        memory::reset_peak();
        let before = memory::live_bytes();
        let results = client.wait_all(&ids);
        let peak = memory::peak_bytes();
        for result in &results {
            result.as_ref().map_err(ToString::to_string)?;
        }
        let waiting = self.progress.live_bytes.load(Relaxed);
        println!("waiting_bytes {}", waiting.saturating_sub(before));
        println!("peak_bytes {}", peak.saturating_sub(before));
        Ok(())
    }

    /// Runs `generate` over TLS, trusting only the given root certificate.
    fn generate(&self, times: u32, root_certificate: &str) -> Result {
        let client = builder(&self.base_url, &self.progress)
            .root_certificates_pem(&std::fs::read(root_certificate)?)
            .wait_options(wait_options("1")?)
            .build()?;
        for _ in 0..times {
            client.generate(&request(Image::url(IMAGE_URL)))?;
        }
        Ok(())
    }
}

impl Implementation for KlingVideo {
    fn new(base_url: &str) -> Result<Self> {
        let progress = Arc::new(Progress::default());
        let client = builder(base_url, &progress).build()?;
        Ok(Self { client, base_url: base_url.to_owned(), progress })
    }

    fn run(&self, job: &str, round: u32, arguments: &[String]) -> Result {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        match (job, &arguments[..]) {
            ("create-poll", []) => self.create_and_poll(),
            ("create-wait", [interval]) => self.create_and_wait(interval),
            ("upload", [image]) => {
                self.client.create(&request(Image::file(*image)))?;
                Ok(())
            }
            ("download", [url, path]) => {
                self.client.download(&Video::new("1".parse()?, *url), path)?;
                Ok(())
            }
            ("generate-to", [image, directory]) => {
                self.generate_to(round, image, directory.as_ref())
            }
            ("wait-all", [ids, interval, threads]) => self.wait_all(ids, interval, threads),
            ("generate", [times, root_certificate]) => {
                self.generate(times.parse()?, root_certificate)
            }
            _ => Err(format!("unknown job `{job}`").into()),
        }
    }
}
