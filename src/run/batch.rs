//! Many durable runs in one call, with a handful of threads.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use crate::download::Target;
use crate::error::{Error, ErrorKind, Result};
use crate::fs::parent_dir;
use crate::model::generation::Video;
use crate::model::request::{ImageToVideo, VideoDuration};
use crate::operation::Operation;
use crate::poll::{PollQueue, Step, run_workers};

use super::DurableRun;
use super::file_run::{FileRun, Opened, SavedVideo};

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
    pub fn concurrent_creates(mut self, count: usize) -> Self {
        self.concurrent_creates = count.max(1);
        self
    }

    /// How many videos are downloaded at once. Defaults to 3, and is at least 1.
    #[must_use]
    pub fn concurrent_downloads(mut self, count: usize) -> Self {
        self.concurrent_downloads = count.max(1);
        self
    }

    /// How many generations are unfinished at once. Defaults to 64, and is at least 1. The journal
    /// of each is open until its video is saved.
    #[must_use]
    pub fn max_in_flight(mut self, count: usize) -> Self {
        self.max_in_flight = count.max(1);
        self
    }
}

impl Default for BatchOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Runs all jobs; the results are in input order. `run` has what they have in common.
pub(crate) fn generate_all_to(
    run: &DurableRun<'_>,
    jobs: &[(ImageToVideo, PathBuf)],
    options: &BatchOptions,
) -> Vec<Result<SavedVideo>> {
    if let Err(error) = validate_targets(jobs) {
        let others = || Error::not_attempted(&error.to_string());
        let mut results: Vec<_> = jobs.iter().skip(1).map(|_| Err(others())).collect();
        results.insert(0, Err(error));
        return results;
    }
    // Events have the paths as they were given.
    let path_of = |index: usize| jobs.get(index).map(|(_, path)| path.as_path());
    let poller = run.context.poller(&path_of);
    let state = State {
        next: 0,
        starting: 0,
        in_flight: 0,
        downloading: 0,
        waiting: jobs.iter().map(|_| None).collect(),
        downloads: VecDeque::new(),
        stops: Vec::new(),
        results: jobs.iter().map(|_| None).collect(),
    };
    let queue = PollQueue::new(run.options, run.context.retry_policy, &poller);
    // Now, so that they mean the same files when their turn comes.
    let absolute =
        |(_, path): &(_, PathBuf)| std::path::absolute(path).unwrap_or_else(|_| path.clone());
    let paths = jobs.iter().map(absolute).collect();
    let batch = Batch { run, jobs, paths, options, queue, state: Mutex::new(state) };
    let threads = [run.options.threads, options.concurrent_creates, options.concurrent_downloads];
    let threads = threads.iter().fold(0_usize, |sum, count| sum.saturating_add(*count));
    run_workers(threads.min(jobs.len()), &|| batch.work());
    let state = batch.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missing = || Err(Error::not_attempted("the batch was interrupted"));
    state.results.into_iter().map(|result| result.unwrap_or_else(missing)).collect()
}

struct Batch<'a> {
    run: &'a DurableRun<'a>,
    jobs: &'a [(ImageToVideo, PathBuf)],
    /// Where the jobs' paths led at the start of the call.
    paths: Vec<PathBuf>,
    options: &'a BatchOptions,
    queue: PollQueue<'a>,
    state: Mutex<State>,
}

struct State {
    /// The next job to start.
    next: usize,
    starting: usize,
    /// The jobs that are started but have no result yet.
    in_flight: usize,
    downloading: usize,
    /// The runs whose generations are in the queue, by job.
    waiting: Vec<Option<Box<FileRun>>>,
    downloads: VecDeque<(usize, Box<(FileRun, Video)>)>,
    stops: Vec<Stop>,
    results: Vec<Option<Result<SavedVideo>>>,
}

/// Why no more generations are created.
struct Stop {
    /// Only those of this model and duration: without credits for them, others may be possible.
    only_for: Option<(String, Option<VideoDuration>)>,
    reason: String,
}

enum Task {
    Start(usize),
    Download(usize, Box<(FileRun, Video)>),
    Poll,
    Exit,
}

impl Batch<'_> {
    /// Does the next task of a worker, if there is any left. What it makes possible is done next by
    /// the same worker, so that a sleeping one has nothing to miss but polls.
    fn work(&self) -> bool {
        match self.next_task() {
            Task::Exit => return false,
            Task::Start(index) => self.start(index),
            Task::Download(index, completed) => self.save(index, *completed),
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
    fn next_task(&self) -> Task {
        let mut state = self.lock();
        if state.next == self.jobs.len() && state.in_flight == 0 {
            return Task::Exit;
        }
        if state.downloading < self.options.concurrent_downloads
            && let Some((index, completed)) = state.downloads.pop_front()
        {
            state.downloading += 1;
            return Task::Download(index, completed);
        }
        if state.next < self.jobs.len()
            && state.starting < self.options.concurrent_creates
            && state.in_flight < self.options.max_in_flight
        {
            let index = state.next;
            state.next += 1;
            state.starting += 1;
            state.in_flight += 1;
            return Task::Start(index);
        }
        Task::Poll
    }

    fn start(&self, index: usize) {
        let opened = self.with_run(index, |run, path| match run.context.is_cancelled() {
            true => {
                Err(Error::not_attempted("the batch was cancelled; call generate_all_to again"))
            }
            false => run.open(path),
        });
        match opened {
            Ok(Opened::Saved(saved)) => self.finish(index, Ok(saved)),
            Ok(Opened::Pending(run)) => {
                let mut state = self.lock();
                let id = Cow::Owned(run.pending.id.clone());
                let initial_delay = self.run.initial_delay(&run.pending);
                self.queue.push(index, id, run.pending.known(), initial_delay);
                if let Some(waiting) = state.waiting.get_mut(index) {
                    *waiting = Some(run);
                }
            }
            Err(error) => self.finish(index, Err(error)),
        }
        self.lock().starting -= 1;
    }

    /// Records how the wait of a job ended.
    fn settle(&self, index: usize, waited: Result<Video>) {
        let waiting = self.lock().waiting.get_mut(index).and_then(Option::take);
        let Some(mut file_run) = waiting else { return };
        match self.with_run(index, |run, _| run.settle_file(&mut file_run, waited)) {
            Ok(video) => {
                let completed = Box::new((*file_run, video));
                self.lock().downloads.push_back((index, completed));
            }
            Err(error) => {
                drop(file_run);
                self.finish(index, Err(error));
            }
        }
    }

    fn save(&self, index: usize, (file_run, video): (FileRun, Video)) {
        let saved = self.with_run(index, |run, _| run.save(file_run, &video));
        self.finish(index, saved);
        self.lock().downloading -= 1;
    }

    fn finish(&self, index: usize, result: Result<SavedVideo>) {
        let mut state = self.lock();
        if let Err(error) = &result {
            state.stops.extend(self.stop(index, error));
        }
        if let Some(slot) = state.results.get_mut(index) {
            *slot = Some(result);
        }
        state.in_flight -= 1;
    }

    /// Whether the error of a create says that others will fail as well: the API itself rejects the
    /// key or the account, or the client's limit is reached.
    fn stop(&self, index: usize, error: &Error) -> Option<Stop> {
        let is_denied = error.operation() == Operation::Create
            && error.has_vendor_marks()
            && matches!(error.status(), Some(401 | 403));
        if !is_denied && error.kind() != ErrorKind::GenerationLimit {
            return None;
        }
        let price = || self.jobs.get(index).map(|(request, _)| price_class(request));
        let only_for = if error.is_out_of_credits() { price() } else { None };
        Some(Stop { only_for, reason: error.to_string() })
    }

    /// Calls `work` with the run of this job, and where its path leads.
    fn with_run<T>(
        &self,
        index: usize,
        work: impl FnOnce(&DurableRun<'_>, &Path) -> Result<T>,
    ) -> Result<T> {
        let job = self.jobs.get(index).zip(self.paths.get(index));
        let Some(((request, path), absolute)) = job else {
            return Err(Error::not_attempted("there is no such job"));
        };
        let may_create = || {
            let price = price_class(request);
            let state = self.lock();
            let stop = state
                .stops
                .iter()
                .find(|stop| stop.only_for.as_ref().is_none_or(|only_for| *only_for == price));
            stop.map_or(Ok(()), |stop| Err(Error::not_attempted(&stop.reason)))
        };
        let context = self.run.context.for_path(path);
        let base_url = self.run.base_url.clone();
        let run = DurableRun {
            context: &context,
            request,
            base_url,
            may_create: &may_create,
            ..*self.run
        };
        work(&run, absolute)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
