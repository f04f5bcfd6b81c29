//! Many durable runs in one call, with a handful of threads.

use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::iter;
use std::mem;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::context::RequestContext;
use crate::download::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::parent_dir;
use crate::model::generation::Video;
use crate::model::request::{ImageToVideo, VideoDuration};
use crate::operation::Operation;
use crate::poll::{PollQueue, Step, run_workers};

use super::file_run::{FileRun, SavedVideo};
use super::{DurableRun, Started};

/// How long a worker sleeps that finds nothing to do.
const MAX_IDLE: Duration = Duration::from_millis(100);

/// The limits of [`Client::generate_all_to`](crate::Client::generate_all_to).
///
/// ```
/// use kling_video::BatchOptions;
///
/// let careful = BatchOptions::new().concurrent_creates(1).max_in_flight(8);
/// assert_ne!(careful, BatchOptions::default());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BatchOptions {
    concurrent_creates: usize,
    concurrent_downloads: usize,
    max_in_flight: usize,
}

impl BatchOptions {
    /// The default limits.
    #[must_use]
    pub fn new() -> Self {
        Self { concurrent_creates: 3, concurrent_downloads: 3, max_in_flight: 64 }
    }

    /// How many jobs are started at once: their images hashed and their creates sent. Defaults to 3,
    /// and is at least 1.
    #[must_use]
    pub fn concurrent_creates(self, count: usize) -> Self {
        Self { concurrent_creates: count.max(1), ..self }
    }

    /// How many videos are downloaded at once. Defaults to 3, and is at least 1.
    #[must_use]
    pub fn concurrent_downloads(self, count: usize) -> Self {
        Self { concurrent_downloads: count.max(1), ..self }
    }

    /// How many generations are unfinished at once. Defaults to 64, and is at least 1. The journal
    /// of each is open until its video is saved.
    #[must_use]
    pub fn max_in_flight(self, count: usize) -> Self {
        Self { max_in_flight: count.max(1), ..self }
    }
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs all jobs; the results are in input order.
pub(crate) fn generate_all_to(
    context: &RequestContext<'_>,
    jobs: &[(ImageToVideo, PathBuf)],
    options: &BatchOptions,
) -> Vec<Result<SavedVideo>> {
    if let Err(error) = validate_targets(jobs) {
        let reason = error.to_string();
        let others = jobs.iter().skip(1).map(|_| Err(Error::not_attempted(&reason)));
        return iter::once(Err(error)).chain(others).collect();
    }
    let stops = Stops::default();
    let numbered = jobs.iter().enumerate();
    let jobs: Vec<_> = numbered
        .map(|(index, (request, path))| {
            // Events have the path as it was given.
            let context = RequestContext { path: Some(path), ..context.clone() };
            let run = DurableRun { context, request, stops: Some(&stops) };
            let path = std::path::absolute(path).unwrap_or_else(|_| path.clone());
            Job { index, run, path }
        })
        .collect();
    let context_of = |index: usize| jobs.get(index).map_or(context, |job| &job.run.context);
    let poller = context.poller(&context_of);
    let queue = context.poll_queue(&poller);
    let batch = Batch { jobs: &jobs, options, queue, state: Mutex::default() };
    let threads =
        [context.wait_options.threads, options.concurrent_creates, options.concurrent_downloads];
    let threads = threads.iter().fold(0_usize, |sum, count| sum.saturating_add(*count));
    run_workers(threads.min(jobs.len()), &|| batch.work());
    let mut results = mem::take(&mut batch.lock().results);
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

struct Batch<'a> {
    jobs: &'a [Job<'a>],
    options: &'a BatchOptions,
    queue: PollQueue<'a>,
    state: Mutex<State<'a>>,
}

struct Job<'a> {
    index: usize,
    run: DurableRun<'a>,
    /// Where its path led at the start of the call.
    path: PathBuf,
}

#[derive(Default)]
struct State<'a> {
    /// The next job to start.
    next: usize,
    starting: usize,
    downloading: usize,
    /// The jobs whose generations are in the queue, by index.
    waiting: HashMap<usize, (&'a Job<'a>, Box<FileRun>)>,
    downloads: VecDeque<(&'a Job<'a>, Box<(FileRun, Video)>)>,
    /// With the indices of their jobs.
    results: Vec<(usize, Result<SavedVideo>)>,
}

enum Task<'a> {
    Start(&'a Job<'a>),
    Download(&'a Job<'a>, Box<(FileRun, Video)>),
    Poll,
    Exit,
}

impl<'a> Batch<'a> {
    /// Does the next task of a worker, if there is any left. What it makes possible is done next by
    /// the same worker, so that a sleeping one has nothing to miss but polls.
    fn work(&self) -> bool {
        match self.next_task() {
            Task::Exit => return false,
            Task::Start(job) => self.start(job),
            Task::Download(job, completed) => self.save(job, *completed),
            Task::Poll => match self.queue.step() {
                Step::Polled => {}
                Step::Done(index, result) => self.settle(index, result),
                Step::Idle(delay) => self.queue.sleep(delay.min(MAX_IDLE)),
                // Also after a cancel, which would end any other sleep at once: there is nothing to
                // do but to let the others complete what they are doing.
                Step::Empty => thread::sleep(MAX_IDLE),
            },
        }
        true
    }

    /// Downloads go first, since URLs expire. There are more workers than may start and download, so
    /// that polls are not late.
    fn next_task(&self) -> Task<'a> {
        let mut state = self.lock();
        if state.results.len() == self.jobs.len() {
            return Task::Exit;
        }
        if state.downloading < self.options.concurrent_downloads
            && let Some((job, completed)) = state.downloads.pop_front()
        {
            state.downloading += 1;
            return Task::Download(job, completed);
        }
        // Only jobs that were started have results.
        let in_flight = state.next - state.results.len();
        if let Some(job) = self.jobs.get(state.next)
            && state.starting < self.options.concurrent_creates
            && in_flight < self.options.max_in_flight
        {
            state.next += 1;
            state.starting += 1;
            return Task::Start(job);
        }
        Task::Poll
    }

    fn start(&self, job: &'a Job<'a>) {
        let started = if job.run.context.is_cancelled() {
            Err(Error::not_attempted("the batch was cancelled; call generate_all_to again"))
        } else {
            job.run.open(&job.path)
        };
        match started {
            Ok(Started::Saved(saved)) => self.finish(job, Ok(saved)),
            Ok(Started::Pending(file_run)) => {
                let mut state = self.lock();
                self.queue.push(job.index, &file_run.pending.id, &file_run.pending.known);
                state.waiting.insert(job.index, (job, file_run));
            }
            Err(error) => self.finish(job, Err(error)),
        }
        self.lock().starting -= 1;
    }

    /// Records how the wait of a job ended.
    fn settle(&self, index: usize, waited: Result<Video>) {
        let waiting = self.lock().waiting.remove(&index);
        let Some((job, file_run)) = waiting else { return };
        match job.run.settle_file(*file_run, waited) {
            Ok(completed) => self.lock().downloads.push_back((job, Box::new(completed))),
            Err(error) => self.finish(job, Err(error)),
        }
    }

    fn save(&self, job: &Job<'_>, completed: (FileRun, Video)) {
        self.finish(job, job.run.save(completed));
        self.lock().downloading -= 1;
    }

    fn finish(&self, job: &Job<'_>, result: Result<SavedVideo>) {
        if let (Err(error), Some(stops)) = (&result, job.run.stops) {
            stops.add(job.run.request, error);
        }
        self.lock().results.push((job.index, result));
    }

    fn lock(&self) -> MutexGuard<'_, State<'a>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Why no more generations are created.
#[derive(Default)]
pub(crate) struct Stops(Mutex<Vec<Stop>>);

struct Stop {
    /// Only those of this model and duration: without credits for them, others may be possible.
    only_for: Option<(String, Option<VideoDuration>)>,
    reason: String,
}

impl Stops {
    /// Whether this request may still be paid for.
    pub(crate) fn check(&self, request: &ImageToVideo) -> Result<()> {
        let price = price_class(request);
        let applies = |stop: &&Stop| stop.only_for.as_ref().is_none_or(|only| *only == price);
        let stops = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let stop = stops.iter().find(applies);
        stop.map_or(Ok(()), |stop| Err(Error::not_attempted(&stop.reason)))
    }

    /// Stops if the error of a create says that others will fail as well: the API itself rejects the
    /// key or the account, or the client's limit is reached.
    fn add(&self, request: &ImageToVideo, error: &Error) {
        let is_denied = error.operation() == Operation::Create
            && error.has_vendor_marks()
            && matches!(error.status(), Some(401 | 403));
        if is_denied || error.kind() == ErrorKind::GenerationLimit {
            let only_for = error.is_out_of_credits().then(|| price_class(request));
            let stop = Stop { only_for, reason: error.to_string() };
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(stop);
        }
    }
}

/// What a request's price depends on.
fn price_class(request: &ImageToVideo) -> (String, Option<VideoDuration>) {
    (request.model.clone(), request.duration)
}

/// Two jobs with one target would replace each other's video, or wait for each other.
fn validate_targets(jobs: &[(ImageToVideo, PathBuf)]) -> Result<()> {
    let mut seen = HashMap::new();
    for (index, (_, path)) in jobs.iter().enumerate() {
        // A path that is invalid is an error of its job.
        let Ok(target) = Target::resolve(path, Operation::GenerateAllTo) else { continue };
        let destination = &target.destination;
        let Ok(dir) = parent_dir(destination).canonicalize() else { continue };
        let name = destination.file_name().map(OsStr::to_owned);
        if let Some(first) = seen.insert((dir, name), index) {
            let path = path.display();
            let message = format!("jobs {first} and {index} have the same target, {path}");
            return Err(Error::invalid_request("path", message));
        }
    }
    Ok(())
}
