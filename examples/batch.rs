//! Makes a video of each picture in a folder: a few creates at a time, one wait for all of them,
//! then the downloads. It can be killed anywhere and run again, and pays once per picture.
//!
//! `cargo run --example batch` needs neither key nor pictures: without a key it talks to the
//! sandbox, a stand-in for the API that runs in this process, and makes some pictures itself.
//!
//! Where a thread per video is no burden, `Client::generate_to` is less code and as safe. This way
//! thousands of videos are waited for by one thread. What survives a kill is then up to the
//! program: here it is a record, one line per step, see [`Record`].
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::collections::HashMap;
use std::fmt::Display;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use kling_video::{
    Client, ClientBuilder, Endpoint, Error, ErrorKind, Event, Fault, GenerationId, Image,
    ImageToVideo, Sandbox, Video, WaitOptions,
};
use lexopt::prelude::*;
use serde::{Deserialize, Serialize};

type Result<T, E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

const HELP: &str = "\
Makes a video of each picture in a folder with Kling 2.1 Pro on AI/ML API.

Usage: cargo run --example batch -- [OPTIONS] [FOLDER]

FOLDER has the pictures (.jpg, .jpeg, .png). Default, with the sandbox: some that are made up.

Options:
  --prompt TEXT   what is to happen, in every video
  --out FOLDER    where the videos go, and the record of what is paid for (batch.jsonl): with the
                  same one the next run goes on where this one was; default: FOLDER/videos
  --at-once N     creates and downloads in flight, 1 to 16; default: 3
  --interval N    seconds between two looks at a video; default: 10
  --max N         pay for no more than N videos in this run; default: 20
  --sandbox       use the sandbox even though there is a key
  --credits N     let the sandbox's credits run out after N videos
  -h, --help      show this

Ends with 0 if every picture has its video, with 1 if not, and says in a table why and what to do.

The API key is taken from AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY. Without one, the sandbox
is used: offline and free of charge, and its videos go to a temporary folder. KLING_BASE_URL is
another address for the API, such as a gateway of your company.
";

fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(Some(args)) => args,
        Ok(None) => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("error: {problem}\nTry --help.");
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

/// Whether every picture has its video in the end.
fn run(args: &Args) -> Result<bool> {
    let Place { builder, wait, pictures, out, _sandbox } = connect(args)?;
    fs::create_dir_all(&out)?;
    let record = Record::open(out.join("batch.jsonl"))?;
    let bars = Arc::new(Bars::default());
    let mut jobs = jobs(&pictures, &out, &record, &bars)?;
    say(format_args!("{} pictures; videos and record go to {}", jobs.len(), out.display()));

    let on_event = {
        let bars = Arc::clone(&bars);
        move |event: &Event<'_>| bars.show(event)
    };
    let client = builder.max_creates(args.most).on_event(on_event).build()?;
    let batch = Batch { client, record, bars, args, stopped: OnceLock::new() };

    jobs.iter_mut().for_each(|job| batch.look_up(job));
    in_parallel(args.at_once, &mut jobs, |job| batch.create(job));
    batch.wait(&mut jobs, &wait);
    in_parallel(args.at_once, &mut jobs, |job| batch.download(job));

    batch.bars.all.clear()?;
    print_table(&jobs);
    Ok(jobs.iter().all(|job| matches!(job.state, State::Saved { .. })))
}

/// A picture on its way to its video.
struct Job {
    number: usize,
    /// The picture's file name: what the record and the table call it.
    name: String,
    picture: PathBuf,
    /// Where its video goes.
    target: PathBuf,
    state: State,
    /// What the wait brought.
    video: Option<Video>,
    /// What went wrong in this run, and what to do about it.
    problem: Option<String>,
    bar: ProgressBar,
}

/// How far a picture has come, over all runs; one line of the record.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum State {
    /// Nothing is paid for: not tried yet, certainly refused, or failed, which is not charged.
    Open,
    /// A create with this client request id may have been accepted.
    Sending { request: String },
    /// Paid for. This id is all it takes to get the video, also from another process.
    Created { id: GenerationId },
    /// The video is there.
    Saved { id: GenerationId, bytes: u64 },
}

/// What the parts of the work share.
struct Batch<'a> {
    client: Client,
    record: Record,
    bars: Arc<Bars>,
    args: &'a Args,
    /// Set when the next create would be refused like the last one: what to do about it.
    stopped: OnceLock<&'static str>,
}

impl Batch<'_> {
    /// An earlier run was killed between a create and its answer: the API's log may know of it.
    fn look_up(&self, job: &mut Job) {
        let State::Sending { request } = &job.state else { return };
        match self.client.find(request) {
            Ok(Some(id)) => self.note(job, State::Created { id }),
            Ok(None) => {
                job.problem = Some(format!(
                    "the answer to `{request}` was lost, and the API's log does not list it (yet): \
                     run again later, or delete its line from the record to pay for a new one"
                ));
            }
            Err(error) => job.fail(&error, "run again"),
        }
    }

    /// Pays for a video, unless that is done.
    fn create(&self, job: &mut Job) {
        if !matches!(job.state, State::Open) || job.problem.is_some() {
            return;
        }
        if let Some(what_to_do) = self.stopped.get() {
            job.problem = Some(format!("not tried, as another was refused: {what_to_do}"));
            return;
        }
        // The id is on record before the request is sent: a kill from here on loses nothing.
        let request = job.request_id();
        self.note(job, State::Sending { request: request.clone() });
        if job.problem.is_some() {
            job.state = State::Open;
            return;
        }
        let mut wanted = ImageToVideo::new(Image::file(&job.picture)).client_request_id(&request);
        if let Some(prompt) = &self.args.prompt {
            wanted = wanted.prompt(prompt);
        }
        self.bars.follow(&request, &job.bar);
        match self.client.create(&wanted) {
            Ok(generation) => self.paid(job, generation.id),
            Err(error) => self.not_created(job, &error),
        }
    }

    fn paid(&self, job: &mut Job, id: GenerationId) {
        // Printed as well: it is not lost either when the disk is full.
        self.bars.all.suspend(|| say(format_args!("{}: paid for as {id}", job.name)));
        self.note(job, State::Created { id });
    }

    fn not_created(&self, job: &mut Job, error: &Error) {
        if let Some(id) = error.generation_id() {
            self.paid(job, id.clone());
        } else if error.may_have_been_billed() {
            // Stays `Sending`.
            job.fail(error, "run again later: the next run looks it up");
        } else {
            self.note(job, State::Open);
            let what_to_do = match error.kind() {
                _ if error.is_out_of_credits() => self.stop("top up the account, then run again"),
                _ if error.status() == Some(401) => self.stop("check the key, then run again"),
                ErrorKind::CreateLimit => self.stop("run again, or with a higher --max"),
                ErrorKind::InvalidRequest | ErrorKind::Io => "mend or remove the picture",
                _ => "run again",
            };
            job.fail(error, what_to_do);
        }
    }

    /// No more creates in this run. What is paid for already is waited for and downloaded.
    fn stop(&self, what_to_do: &'static str) -> &'static str {
        self.stopped.get_or_init(|| what_to_do)
    }

    /// One loop for all that are under way. Each has its own schedule; one that fails does not
    /// end the wait for the others.
    fn wait(&self, jobs: &mut [Job], options: &WaitOptions) {
        let mut waiting = Vec::new();
        let mut ids = Vec::new();
        for job in jobs {
            if let State::Created { id } = &job.state {
                self.bars.follow(id.as_ref(), &job.bar);
                ids.push(id.clone());
                waiting.push(job);
            }
        }
        let videos = self.client.wait_all(&ids, options);
        for (job, video) in waiting.into_iter().zip(videos) {
            match video {
                Ok(video) => job.video = Some(video),
                Err(error) if error.kind() == ErrorKind::GenerationFailed => {
                    self.note(job, State::Open);
                    job.fail(&error, "not charged; run again, perhaps with another picture");
                }
                Err(error) => job.fail(&error, "paid for; run again to go on waiting"),
            }
        }
    }

    fn download(&self, job: &mut Job) {
        let Some(video) = job.video.take() else { return };
        match self.client.download(&video, &job.target) {
            Ok(bytes) => {
                self.note(job, State::Saved { id: video.id, bytes });
                job.bar.finish_with_message("saved");
            }
            Err(error) => job.fail(&error, "paid for; run again to download it"),
        }
    }

    /// Moves a job on, on record first.
    fn note(&self, job: &mut Job, state: State) {
        if let Err(error) = self.record.append(&job.name, &state) {
            job.problem = Some(format!("the record cannot be written: {error}"));
        }
        job.state = state;
    }
}

impl Job {
    fn id(&self) -> &str {
        match &self.state {
            State::Created { id } | State::Saved { id, .. } => id.as_ref(),
            State::Open | State::Sending { .. } => "-",
        }
    }

    fn fail(&mut self, error: &Error, what_to_do: &str) {
        self.problem = Some(format!("{}: {what_to_do}", with_causes(error)));
        self.bar.abandon_with_message("failed");
    }

    /// One that no other create of this account has ever had.
    fn request_id(&self) -> String {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("batch-{:x}-{}", now.as_nanos(), self.number)
    }
}

/// A job for each picture in the folder, as far as earlier runs have come.
fn jobs(folder: &Path, out: &Path, record: &Record, bars: &Bars) -> Result<Vec<Job>> {
    let mut pictures = Vec::new();
    for entry in fs::read_dir(folder).map_err(|e| format!("{}: {e}", folder.display()))? {
        let path = entry?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if path.is_file() && (extension == "jpg" || extension == "jpeg" || extension == "png") {
            pictures.push(path);
        }
    }
    if pictures.is_empty() {
        return Err(format!("{}: no pictures in it", folder.display()).into());
    }
    pictures.sort();
    let mut jobs = Vec::new();
    for (number, picture) in pictures.into_iter().enumerate() {
        let name = picture.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| format!("{}: no Unicode", picture.display()))?.to_owned();
        let target = out.join(format!("{name}.mp4"));
        let on_disk = fs::metadata(&target).ok().map(|file| file.len());
        let (state, problem) = match record.known.get(&name).cloned().unwrap_or(State::Open) {
            // Deleted or changed since: fetched again, at no cost.
            State::Saved { id, bytes } if on_disk != Some(bytes) => (State::Created { id }, None),
            State::Open if on_disk.is_some() => {
                let problem = format!("{} is not on record: move it away", target.display());
                (State::Open, Some(problem))
            }
            state => (state, None),
        };
        let bar = bars.add(&name);
        jobs.push(Job { number, name, picture, target, state, video: None, problem, bar });
    }
    Ok(jobs)
}

/// What is kept of a batch from run to run: a line for each step of each picture, on disk before
/// the next step is taken. The last line of a picture counts.
struct Record {
    file: Mutex<File>,
    /// How far earlier runs have come.
    known: HashMap<String, State>,
}

#[derive(Serialize, Deserialize)]
struct Line {
    picture: String,
    #[serde(flatten)]
    state: State,
}

impl Record {
    fn open(path: PathBuf) -> Result<Self> {
        let file = OpenOptions::new().read(true).append(true).create(true).open(&path)?;
        file.try_lock().map_err(|e| format!("{}, perhaps another run's: {e}", path.display()))?;
        let text = fs::read_to_string(&path)?;
        // A last line without its end was torn by a kill, and what it was to note never happened.
        let whole = text.rfind('\n').map_or(0, |end| end + 1);
        file.set_len(whole as u64)?;
        let mut known = HashMap::new();
        for (index, line) in text.get(..whole).unwrap_or_default().lines().enumerate() {
            let Line { picture, state } = serde_json::from_str(line)
                .map_err(|e| format!("{}, line {}: {e}", path.display(), index + 1))?;
            known.insert(picture, state);
        }
        Ok(Self { file: Mutex::new(file), known })
    }

    fn append(&self, picture: &str, state: &State) -> Result<()> {
        let line = Line { picture: picture.to_owned(), state: state.clone() };
        let line = serde_json::to_string(&line)? + "\n";
        let mut file = lock(&self.file);
        file.write_all(line.as_bytes())?;
        Ok(file.sync_data()?)
    }
}

/// A bar for each picture, shown on terminals only.
#[derive(Default)]
struct Bars {
    all: MultiProgress,
    /// By what events name: a client request id or a generation's id.
    by_id: Mutex<HashMap<String, ProgressBar>>,
}

impl Bars {
    fn add(&self, name: &str) -> ProgressBar {
        let style = ProgressStyle::with_template("{prefix:24!} {wide_bar} {msg:12!}");
        let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
        let bar = ProgressBar::no_length().with_style(style.progress_chars("=> "));
        self.all.add(bar.with_prefix(name.to_owned()))
    }

    fn follow(&self, id: &str, bar: &ProgressBar) {
        lock(&self.by_id).insert(id.to_owned(), bar.clone());
    }

    /// What the client calls with everything that happens, on whatever thread it happens.
    fn show(&self, event: &Event<'_>) {
        match event {
            Event::Uploading { client_request_id, sent, total, .. } => {
                self.update(client_request_id, "uploading", Some((*sent, *total)));
            }
            Event::Polled { generation, .. } => {
                self.update(generation.id.as_ref(), generation.status.as_str(), None);
            }
            Event::Downloading { id, received, total, .. } => {
                let total = total.unwrap_or(*received);
                self.update(id.as_ref(), "downloading", Some((*received, total)));
            }
            Event::Retrying { after, error, .. } => {
                self.all.suspend(|| eprintln!("{error}; next try in {after:.1?}"));
            }
            _ => {}
        }
    }

    fn update(&self, id: &str, message: &str, progress: Option<(u64, u64)>) {
        // Cloned, so that the lock is not held while the bar is drawn.
        let Some(bar) = lock(&self.by_id).get(id).cloned() else { return };
        let (done, total) = progress.unwrap_or_default();
        bar.set_length(total);
        bar.set_position(done);
        bar.set_message(message.to_owned());
    }
}

/// Does this to all of them, with so many at a time.
fn in_parallel<T: Send>(threads: usize, items: &mut [T], work: impl Fn(&mut T) + Sync) {
    let queue = Mutex::new(items.iter_mut());
    // In a function of its own, which gives the lock back before the work begins.
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
    let (names, ids) = (names.max().unwrap_or(0).max(7), ids.max().unwrap_or(0).max(10));
    say(format_args!("\n{:names$}  {:ids$}  {:11}  RESULT", "PICTURE", "GENERATION", "STATUS"));
    for job in jobs {
        let (status, bytes) = match &job.state {
            State::Open => ("not created", None),
            State::Sending { .. } => ("unknown", None),
            State::Created { .. } => ("paid for", None),
            State::Saved { bytes, .. } => ("saved", Some(format!("{bytes} bytes"))),
        };
        let result = job.problem.clone().or(bytes).unwrap_or_default();
        say(format_args!("{:names$}  {:ids$}  {status:11}  {result}", job.name, job.id()));
    }
    let saved = jobs.iter().filter(|job| matches!(job.state, State::Saved { .. })).count();
    say(format_args!("\n{saved} of {} pictures have their video", jobs.len()));
}

/// Where things come from and go to.
struct Place {
    builder: ClientBuilder,
    wait: WaitOptions,
    pictures: PathBuf,
    out: PathBuf,
    /// It runs for as long as it is held.
    _sandbox: Option<Sandbox>,
}

/// The API if there is a key, else a sandbox.
fn connect(args: &Args) -> Result<Place> {
    let wait = WaitOptions::new().first_poll_after(args.interval).interval(args.interval);
    if let (Ok(mut builder), false) = (Client::builder_from_env(), args.sandbox) {
        say("Using AI/ML API with the key from the environment: this costs money.");
        if let Ok(url) = std::env::var("KLING_BASE_URL") {
            builder = builder.base_url(url);
        }
        let pictures = args.pictures.clone().ok_or("which pictures? Try --help.")?;
        let out = args.out.clone().unwrap_or_else(|| pictures.join("videos"));
        return Ok(Place { builder, wait, pictures, out, _sandbox: None });
    }
    if args.out.is_some() {
        // Its samples must not be taken for videos, and its ids end with this process.
        return Err("--out is for the API; the sandbox's videos go to a temporary folder".into());
    }
    let sandbox = Sandbox::start()?;
    say("Using the sandbox, which runs in this process: offline and free of charge.");
    say("Its videos are samples, not made from the pictures.");
    // Slow enough to be seen.
    sandbox.finish_after(7);
    if let Some(credits) = args.credits {
        // So many creates with nothing wrong, and all others are refused.
        sandbox.fault(Endpoint::Create, Fault::default(), credits);
        sandbox.fault(Endpoint::Create, Fault::status(403), u32::MAX);
    }
    let folder = tempfile::Builder::new().prefix("kling-video-batch-").tempdir()?.keep();
    let pictures = match &args.pictures {
        Some(pictures) => pictures.clone(),
        None => make_pictures(folder.join("pictures"))?,
    };
    let pause = Duration::from_millis(300);
    let wait = WaitOptions::new().first_poll_after(pause).interval(pause);
    let builder = sandbox.client_builder();
    Ok(Place { builder, wait, pictures, out: folder.join("videos"), _sandbox: Some(sandbox) })
}

fn make_pictures(folder: PathBuf) -> Result<PathBuf> {
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/picture.jpg");
    fs::create_dir(&folder)?;
    for number in 1..=5 {
        fs::copy(picture, folder.join(format!("picture-{number}.jpg")))?;
    }
    Ok(folder)
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more (`| head`): that
/// is no reason to stop once videos are paid for.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

fn with_causes(error: &dyn std::error::Error) -> String {
    let causes = std::iter::successors(Some(error), |error| error.source());
    causes.map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

struct Args {
    pictures: Option<PathBuf>,
    prompt: Option<String>,
    out: Option<PathBuf>,
    at_once: usize,
    interval: Duration,
    most: u32,
    sandbox: bool,
    credits: Option<u32>,
}

impl Args {
    /// `None` when help is asked for.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut args = Self {
            pictures: None,
            prompt: None,
            out: None,
            at_once: 3,
            interval: Duration::from_secs(10),
            most: 20,
            sandbox: false,
            credits: None,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Value(value) if args.pictures.is_none() => args.pictures = Some(value.into()),
                Long("prompt") => args.prompt = Some(parser.value()?.string()?),
                Long("out") => args.out = Some(parser.value()?.into()),
                Long("at-once") => args.at_once = parser.value()?.parse_with(parse_at_once)?,
                Long("interval") => args.interval = Duration::from_secs(parser.value()?.parse()?),
                Long("max") => args.most = parser.value()?.parse()?,
                Long("sandbox") => args.sandbox = true,
                Long("credits") => args.credits = Some(parser.value()?.parse()?),
                Short('h') | Long("help") => return Ok(None),
                _ => return Err(arg.unexpected()),
            }
        }
        Ok(Some(args))
    }
}

/// The API's limits are not documented, and it asks for less with 429: more would only be refused.
fn parse_at_once(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=16).contains(number));
    number.ok_or_else(|| format!("--at-once {text}: allowed is 1 to 16"))
}
