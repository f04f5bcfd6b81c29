//! Turns every image in a directory into a video: a few concurrent creates, one wait for all of
//! them, then the downloads. It can be killed at any point and started again, and pays once per
//! image.
//!
//! `cargo run --example batch` needs neither an API key nor images: without a key it uses the
//! sandbox, a bundled mock server that runs in this process, and sample images.
//!
//! If one thread per video is acceptable, `Client::generate_to` is less code and just as safe. Here
//! one thread waits for all videos, of which there can be thousands. The program must then record
//! itself what a later run needs to continue: see [`Journal`].
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::str::FromStr;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    Client, ClientBuilder, Error, ErrorKind, Event, EventKind, GenerationId, Image, ImageToVideo,
    Video, WaitOptions,
};
use lexopt::prelude::*;
use serde::{Deserialize, Serialize};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const HELP: &str = "\
Turns every image in a directory into a video with Kling 2.1 Pro on AI/ML API.

Usage: cargo run --example batch -- [OPTIONS] [IMAGE_DIR]

Arguments:
  [IMAGE_DIR]  Directory with the images (.jpg, .jpeg, .png).
               Defaults to sample images with the sandbox; required with the API

Options:
  --prompt TEXT        What should happen in every video
  --out DIR            Directory for the videos and the journal of what is paid for (batch.jsonl).
                       A later run with the same directory continues where this one stopped.
                       Defaults to IMAGE_DIR/videos
  --concurrency N      Number of concurrent creates and downloads, from 1 to 16. Defaults to 3
  --interval SECONDS   Time between two polls of a generation. Defaults to 10
  --max-generations N  Pay for at most N videos in this run. Defaults to 20
  --sandbox            Use the sandbox even if an API key is set
  --credits N          Let the sandbox's credits run out after N videos
  -h, --help           Print this help

Exits with status 0 if every image has a video, else with 1. A table shows what failed, why, and
what to do.

The API key is read from AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY. Without one, the sandbox is
used: offline, free of charge, and with its videos in a temporary directory. KLING_BASE_URL sets
another URL for the API, for example that of your company's gateway.
";

fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(Some(args)) => args,
        Ok(None) => {
            print_line(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\nTry '--help' for more information.");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Returns whether every image has a video in the end.
fn run(args: &Args) -> Result<bool> {
    let Setup { builder, image_dir, out, _sandbox } = connect(args)?;
    fs::create_dir_all(&out).map_err(|e| format!("cannot create {}: {e}", out.display()))?;
    let journal = Journal::open(out.join("batch.jsonl"))?;
    let bars = Arc::new(Bars::default());
    let mut jobs = jobs(&image_dir, &out, &journal, &bars)?;
    let count = jobs.len();
    print_line(format_args!("{count} images; writing videos and journal to {}", out.display()));

    let client = builder.max_generations(args.max_generations).build()?.with_event_handler({
        let bars = Arc::clone(&bars);
        move |event| bars.on_event(event)
    });
    let batch = Batch { client, journal, bars, args, creates_stopped: OnceLock::new() };

    jobs.iter_mut().for_each(|job| batch.recover(job));
    in_parallel(args.concurrency, &mut jobs, |job| batch.create(job));
    batch.wait(&mut jobs);
    in_parallel(args.concurrency, &mut jobs, |job| batch.download(job));

    batch.bars.all.clear()?;
    print_table(&jobs);
    Ok(jobs.iter().all(|job| matches!(job.state, State::Saved { .. })))
}

const MORE_GENERATIONS: &str = "run again, or with a higher --max-generations";

/// An image to turn into a video.
struct Job {
    number: usize,
    /// The image's file name, which identifies it in the journal and in the table.
    name: String,
    image: PathBuf,
    /// The path of the video.
    target: PathBuf,
    state: State,
    /// The completed video, until it is downloaded.
    video: Option<Video>,
    /// What failed in this run, and the next step.
    failure: Option<String>,
    bar: ProgressBar,
}

/// The state of a job, across all runs. The journal records every change.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State {
    /// Nothing is paid for: no create was accepted, or the generation failed, which is not charged.
    NotCreated,
    /// A create with this client request id may have been accepted.
    Sending { client_request_id: String },
    /// The generation is paid for. With its id any process can download the video.
    Created { id: GenerationId },
    /// The video is downloaded.
    Saved { id: GenerationId, bytes: u64 },
}

struct Batch<'a> {
    client: Client,
    journal: Journal,
    bars: Arc<Bars>,
    args: &'a Args,
    /// The next step, once a create has failed for a reason that applies to all further ones.
    creates_stopped: OnceLock<&'static str>,
}

impl Batch<'_> {
    /// Searches the API's log for a generation, if an earlier run was killed during its create.
    fn recover(&self, job: &mut Job) {
        let State::Sending { client_request_id } = &job.state else { return };
        match self.client.find(client_request_id) {
            Ok(Some(id)) => self.set_state(job, State::Created { id }),
            Ok(None) => {
                job.failure = Some(format!(
                    "the API's log does not list the create `{client_request_id}` (yet), which may \
                     be paid for; run again later, or delete its line from the journal to pay for \
                     a new one"
                ));
            }
            Err(error) => job.fail(&error, "run again"),
        }
    }

    /// Creates a generation, which costs money, unless the job already has one.
    fn create(&self, job: &mut Job) {
        if !matches!(job.state, State::NotCreated) || job.failure.is_some() {
            return;
        }
        if let Some(next_step) = self.creates_stopped.get() {
            job.failure = Some(format!("not attempted after another create failed; {next_step}"));
            return;
        }
        // The journal has the client request id before the request is sent, so that a later run can
        // find the generation if this one is killed.
        let client_request_id = job.new_client_request_id();
        self.set_state(job, State::Sending { client_request_id: client_request_id.clone() });
        if job.failure.is_some() {
            job.state = State::NotCreated;
            return;
        }
        let mut request =
            ImageToVideo::new(Image::file(&job.image)).client_request_id(&client_request_id);
        if let Some(prompt) = &self.args.prompt {
            request = request.prompt(prompt);
        }
        self.bars.register(&client_request_id, &job.bar);
        match self.client.create(&request) {
            Ok(generation) => self.on_created(job, generation.id),
            Err(error) => self.on_create_error(job, &error),
        }
    }

    fn on_created(&self, job: &mut Job, id: GenerationId) {
        // Also printed, so that the id is not lost if the journal cannot be written.
        self.bars.all.suspend(|| print_line(format_args!("{}: generation {id}", job.name)));
        self.set_state(job, State::Created { id });
    }

    fn on_create_error(&self, job: &mut Job, error: &Error) {
        if let Some(id) = error.generation_id() {
            self.on_created(job, id.clone());
        } else if error.may_have_been_billed() {
            // The state stays `Sending`.
            job.fail(error, "run again later to search for it");
        } else {
            self.set_state(job, State::NotCreated);
            let (next_step, stop) = match error.kind() {
                // These messages already end with the first step.
                _ if error.is_out_of_credits() => {
                    ("then run again", Some("top up the account, then run again"))
                }
                _ if error.status() == Some(401) => {
                    ("then run again", Some("check the API key, then run again"))
                }
                ErrorKind::GenerationLimit => (MORE_GENERATIONS, Some(MORE_GENERATIONS)),
                ErrorKind::InvalidRequest | ErrorKind::Io => ("fix or remove the image", None),
                _ => ("run again", None),
            };
            if let Some(stop) = stop {
                // Skip all further creates. Videos that are already paid for are still downloaded.
                self.creates_stopped.get_or_init(|| stop);
            }
            job.fail(error, next_step);
        }
    }

    /// Waits for all generations in one call. One that fails does not end the wait for the others.
    fn wait(&self, jobs: &mut [Job]) {
        let mut waiting = Vec::new();
        let mut ids = Vec::new();
        for job in jobs {
            if let State::Created { id } = &job.state {
                self.bars.register(id.as_str(), &job.bar);
                ids.push(id.clone());
                waiting.push(job);
            }
        }
        for (job, result) in waiting.into_iter().zip(self.client.wait_all(&ids)) {
            match result {
                Ok(video) => job.video = Some(video),
                Err(error) if error.kind() == ErrorKind::GenerationFailed => {
                    self.set_state(job, State::NotCreated);
                    job.fail(&error, "run again, perhaps with another image");
                }
                Err(error) => job.fail(&error, "paid for; run again to continue waiting"),
            }
        }
    }

    fn download(&self, job: &mut Job) {
        let Some(video) = job.video.take() else { return };
        match self.client.download(&video, &job.target) {
            Ok(bytes) => {
                self.set_state(job, State::Saved { id: video.id, bytes });
                job.bar.finish_with_message("saved");
            }
            Err(error) => job.fail(&error, "paid for; run again to download it"),
        }
    }

    /// Writes the new state to the journal, then sets it.
    fn set_state(&self, job: &mut Job, state: State) {
        if let Err(error) = self.journal.append(&job.name, &state) {
            job.failure = Some(format!("cannot write the journal: {error}"));
        }
        job.state = state;
    }
}

impl Job {
    fn id(&self) -> &str {
        match &self.state {
            State::Created { id } | State::Saved { id, .. } => id.as_str(),
            State::NotCreated | State::Sending { .. } => "-",
        }
    }

    fn fail(&mut self, error: &Error, next_step: &str) {
        self.failure = Some(format!("{}; {next_step}", with_causes(error)));
        self.bar.abandon_with_message("failed");
    }

    /// Generates an id that is unique within the account.
    fn new_client_request_id(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("batch-{:x}-{}", now.as_nanos(), self.number)
    }
}

/// Returns a job for each image in the directory, in the state that earlier runs left it in.
fn jobs(image_dir: &Path, out: &Path, journal: &Journal, bars: &Bars) -> Result<Vec<Job>> {
    let mut images = Vec::new();
    let entries = fs::read_dir(image_dir)
        .map_err(|e| format!("cannot read directory {}: {e}", image_dir.display()))?;
    for entry in entries {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_file() && (extension == "jpg" || extension == "jpeg" || extension == "png") {
            images.push(path);
        }
    }
    if images.is_empty() {
        return Err(format!("{} contains no .jpg, .jpeg or .png file", image_dir.display()).into());
    }
    images.sort();
    let mut jobs = Vec::new();
    for (number, image) in images.into_iter().enumerate() {
        let name = image.file_name().and_then(|name| name.to_str());
        let name = name
            .ok_or_else(|| format!("{} is not valid UTF-8; rename the file", image.display()))?
            .to_owned();
        let target = out.join(format!("{name}.mp4"));
        let on_disk = fs::metadata(&target).ok().map(|file| file.len());
        let state = journal.states.get(&name).cloned().unwrap_or(State::NotCreated);
        let (state, failure) = match state {
            // The video was deleted or changed: download it again, at no cost.
            State::Saved { id, bytes } if on_disk != Some(bytes) => (State::Created { id }, None),
            State::NotCreated if on_disk.is_some() => {
                let path = target.display();
                let failure = format!("{path} exists but is not in the journal; move it away");
                (State::NotCreated, Some(failure))
            }
            state => (state, None),
        };
        let bar = bars.add(&name);
        jobs.push(Job { number, name, image, target, state, video: None, failure, bar });
    }
    Ok(jobs)
}

/// What a later run needs to continue: one line per state change of an image, synced to disk before
/// the next step. The last line of an image holds its current state.
struct Journal {
    file: Mutex<File>,
    /// The states that earlier runs recorded, by image name.
    states: HashMap<String, State>,
}

#[derive(Serialize, Deserialize)]
struct JournalEntry {
    image: String,
    #[serde(flatten)]
    state: State,
}

impl Journal {
    fn open(path: PathBuf) -> Result<Self> {
        let name = path.display();
        let mut options = OpenOptions::new();
        let file = options.read(true).append(true).create(true).open(&path);
        let file = file.map_err(|e| format!("cannot open {name}: {e}"))?;
        file.try_lock().map_err(|e| format!("cannot lock {name}, another run may use it: {e}"))?;
        let text = fs::read_to_string(&path)?;
        // A killed run may have left an incomplete last line. It is dropped, since the line before
        // it still says how to continue.
        let complete_len = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(complete_len as u64)?;
        let mut states = HashMap::new();
        for (index, line) in text.get(..complete_len).unwrap_or_default().lines().enumerate() {
            let JournalEntry { image, state } = serde_json::from_str(line)
                .map_err(|e| format!("{name}: invalid entry at line {}: {e}", index + 1))?;
            states.insert(image, state);
        }
        Ok(Self { file: Mutex::new(file), states })
    }

    fn append(&self, image: &str, state: &State) -> Result<()> {
        let entry = JournalEntry { image: image.to_owned(), state: state.clone() };
        let line = serde_json::to_string(&entry)? + "\n";
        let mut file = lock(&self.file);
        file.write_all(line.as_bytes())?;
        Ok(file.sync_data()?)
    }
}

/// A progress bar for each image, displayed only on a terminal.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    /// By client request id, for events of a create, and by generation id, for all others.
    by_id: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn add(&self, name: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix:24!} {wide_bar} {msg:12!}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style.progress_chars("=> "));
        self.all.add(bar.with_prefix(name.to_owned()))
    }

    fn register(&self, id: &str, bar: &ProgressBar) {
        lock(&self.by_id).insert(id.to_owned(), bar.clone());
    }

    /// Called on the thread that makes the call, so by several at once.
    fn on_event(&self, event: &Event<'_>) {
        match event.kind {
            EventKind::Uploading { sent, total, .. } => {
                self.update(event.client_request_id, "uploading", sent, total);
            }
            EventKind::Polled { generation, .. } => {
                let id = generation.id.as_str();
                self.update(Some(id), generation.status.as_str(), 0, 0);
            }
            EventKind::Downloading { received, total, .. } => {
                let id = event.generation_id.map(GenerationId::as_str);
                self.update(id, "downloading", received, total.unwrap_or(received));
            }
            EventKind::Retrying { delay, error, .. } => {
                self.all.suspend(|| eprintln!("{error}; retrying in {delay:.1?}"));
            }
            _ => {}
        }
    }

    fn update(&self, id: Option<&str>, message: &str, position: u64, length: u64) {
        // The bar is cloned, so that the lock is not held while it is drawn.
        let Some(bar) = id.and_then(|id| lock(&self.by_id).get(id).cloned()) else { return };
        bar.set_length(length);
        bar.set_position(position);
        bar.set_message(message.to_owned());
    }
}

/// Calls `work` with every item, on this number of threads.
fn in_parallel<T: Send>(threads: usize, items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let queue = Mutex::new(items.iter_mut());
    // A closure, since `while let` would hold the lock during the work.
    let next = || lock(&queue).next();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while let Some(item) = next() {
                    work(item);
                }
            });
        }
    });
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn print_table(jobs: &[Job]) {
    let names = jobs.iter().map(|job| job.name.chars().count());
    let ids = jobs.iter().map(|job| job.id().len());
    let (names, ids) = (names.max().unwrap_or(0).max(5), ids.max().unwrap_or(0).max(10));
    print_line(format_args!(
        "\n{:names$}  {:ids$}  {:11}  RESULT",
        "IMAGE", "GENERATION", "STATUS"
    ));
    for job in jobs {
        let (status, bytes) = match &job.state {
            State::NotCreated => ("not created", None),
            State::Sending { .. } => ("unknown", None),
            State::Created { .. } => ("paid for", None),
            State::Saved { bytes, .. } => ("saved", Some(format!("{bytes} bytes"))),
        };
        let result = job.failure.clone().or(bytes).unwrap_or_default();
        print_line(format_args!("{:names$}  {:ids$}  {status:11}  {result}", job.name, job.id()));
    }
    let saved = jobs.iter().filter(|job| matches!(job.state, State::Saved { .. })).count();
    print_line(format_args!("\n{saved} of {} images have a video", jobs.len()));
}

/// What the batch is run with: the API or a sandbox, and the directories that belong to it.
struct Setup {
    builder: ClientBuilder,
    image_dir: PathBuf,
    out: PathBuf,
    /// Stops when it is dropped.
    _sandbox: Option<Sandbox>,
}

/// Uses the API if an API key is set, else a sandbox.
fn connect(args: &Args) -> Result<Setup> {
    if let (Ok(mut builder), false) = (Client::builder_from_env(), args.sandbox) {
        print_line("Using AI/ML API with the key from the environment. This costs money.");
        if let Ok(url) = std::env::var("KLING_BASE_URL") {
            builder = builder.base_url(url);
        }
        let options = WaitOptions::new().initial_delay(args.interval).interval(args.interval);
        let builder = builder.wait_options(options);
        let image_dir = args.image_dir.clone().ok_or("IMAGE_DIR is required with the API")?;
        let out = args.out.clone().unwrap_or_else(|| image_dir.join("videos"));
        return Ok(Setup { builder, image_dir, out, _sandbox: None });
    }
    if args.out.is_some() {
        // Sample videos must not be mistaken for real ones, and no later run can use their ids.
        return Err(
            "--out cannot be used with the sandbox, which writes to a temporary directory".into()
        );
    }
    let sandbox = Sandbox::start()?;
    print_line("Using the sandbox, a bundled mock server: offline and free of charge.");
    print_line("It returns the same sample video for every image.");
    // Slow enough for the progress to be visible.
    sandbox.complete_after_polls(7);
    if let Some(credits) = args.credits {
        // The first creates are handled as usual, all later ones are rejected.
        sandbox.fault(Endpoint::Create, Fault::default(), credits);
        sandbox.fault(Endpoint::Create, Fault::status(403), u32::MAX);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
    let dir = std::env::temp_dir().join(format!("kling-video-batch-{:x}", now.as_nanos()));
    fs::create_dir(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    let image_dir = match &args.image_dir {
        Some(image_dir) => image_dir.clone(),
        None => create_sample_images(dir.join("images"))?,
    };
    let interval = Duration::from_millis(300);
    let options = WaitOptions::new().initial_delay(interval).interval(interval);
    let builder = sandbox.client_builder().wait_options(options);
    Ok(Setup { builder, image_dir, out: dir.join("videos"), _sandbox: Some(sandbox) })
}

fn create_sample_images(dir: PathBuf) -> Result<PathBuf> {
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/image.jpg");
    fs::create_dir(&dir)?;
    for number in 1..=5 {
        fs::copy(image, dir.join(format!("image-{number}.jpg")))?;
    }
    Ok(dir)
}

/// Prints a line. Unlike `println!`, it does not panic if stdout is closed (`| head`), which is no
/// reason to abort once videos are paid for.
fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

struct Args {
    image_dir: Option<PathBuf>,
    prompt: Option<String>,
    out: Option<PathBuf>,
    concurrency: usize,
    interval: Duration,
    max_generations: u32,
    sandbox: bool,
    credits: Option<u32>,
}

impl Args {
    /// Returns `None` if help was requested.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut args = Self {
            image_dir: None,
            prompt: None,
            out: None,
            concurrency: 3,
            interval: Duration::from_secs(10),
            max_generations: 20,
            sandbox: false,
            credits: None,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Value(value) if args.image_dir.is_none() => args.image_dir = Some(value.into()),
                Long("prompt") => args.prompt = Some(parser.value()?.string()?),
                Long("out") => args.out = Some(parser.value()?.into()),
                Long("concurrency") => args.concurrency = parse_concurrency(&parser.value()?)?,
                Long("interval") => {
                    args.interval =
                        Duration::from_secs(parse_number("--interval", &parser.value()?)?);
                }
                Long("max-generations") => {
                    args.max_generations = parse_number("--max-generations", &parser.value()?)?;
                }
                Long("sandbox") => args.sandbox = true,
                Long("credits") => {
                    args.credits = Some(parse_number("--credits", &parser.value()?)?);
                }
                Short('h') | Long("help") => return Ok(None),
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(Some(args))
    }
}

/// The API does not document its rate limit. A higher concurrency would only be rejected with 429.
fn parse_concurrency(value: &OsStr) -> Result<usize, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number
        .filter(|number| (1..=16).contains(number))
        .ok_or_else(|| format!("--concurrency must be from 1 to 16, got {}", value.display()))
}

fn parse_number<T: FromStr>(option: &str, value: &OsStr) -> Result<T, String> {
    let number = value.to_str().and_then(|text| text.parse().ok());
    number.ok_or_else(|| format!("{option} must be a whole number, got {}", value.display()))
}
