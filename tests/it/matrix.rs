//! Everything a client does, against every fault the sandbox has: a table of faults, a table of
//! rules, and what has to hold in each cell.

mod rows;
mod rules;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kling_video::{
    Client, Endpoint, Error, ErrorKind, Generation, GenerationId, Image, ImageToVideo, RetryPolicy,
    Sandbox, Video, WaitOptions,
};
use serde_json::json;

use self::rows::Good;
pub(crate) use self::rows::{Row, rows};
pub(crate) use self::rules::Column;
use self::rules::{COLUMNS, Meaning, complaints, creates, downloads, ends, meaning};
use crate::common::{fixture, request, sandbox};

/// Cells run at a time: most of them wait for somebody.
const WORKERS: usize = 12;
const SECOND: Duration = Duration::from_secs(1);
/// A wait's own deadline, where it has to reach it.
const DEADLINE: Duration = Duration::from_millis(150);
const PRIME: &str = "matrix-prime";

/// A sandbox with a finished generation, and what there is to ask of it.
pub(crate) struct Stage {
    pub sandbox: Sandbox,
    pub primed: Generation,
    pub video: Video,
    /// What is waited for: it takes a few polls.
    pub pending: Generation,
    folder: tempfile::TempDir,
    earlier: usize,
}

impl Stage {
    pub(crate) fn new() -> Stage {
        let sandbox = sandbox();
        let client = sandbox.client_builder().build().unwrap();
        sandbox.finish_after(0);
        let primed = client.create(&request().client_request_id(PRIME)).unwrap();
        let video = client.wait(&primed.id).unwrap();
        sandbox.finish_after(2);
        let pending = client.create(&request()).unwrap();
        let earlier = sandbox.requests().len();
        // In memory where that is to be had: the runs sync every line that they write.
        let memory = Path::new("/dev/shm");
        let folder = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let folder = folder.unwrap();
        Stage { sandbox, primed, video, pending, folder, earlier }
    }

    /// What the endpoint would answer.
    pub(crate) fn good(&self, column: Column) -> Good {
        let id = match column {
            Column::Wait | Column::WaitOn => self.pending.id.to_string(),
            _ => self.primed.id.to_string(),
        };
        let endpoint = column.endpoint();
        let body = match endpoint {
            Endpoint::Create => json!({ "id": id, "status": "queued" }).to_string().into_bytes(),
            Endpoint::Retrieve => {
                let video = json!({ "url": self.video.url, "duration": 5 });
                json!({ "id": id, "status": "completed", "video": video }).to_string().into_bytes()
            }
            Endpoint::Logs => {
                let row = json!({
                    "status": "succeeded", "inference_id": id, "client_request_id": PRIME,
                });
                let pagination = json!({ "has_more": false });
                json!({ "data": [row], "pagination": pagination }).to_string().into_bytes()
            }
            _ => self.sandbox.video().to_vec(),
        };
        let url = self.sandbox.url();
        let video_path = self.video.url.strip_prefix(&url).unwrap().to_owned();
        Good { endpoint, body, id, url, video_path }
    }

    /// Requests of an endpoint since the stage was set.
    fn count(&self, endpoint: Endpoint) -> usize {
        let requests = self.sandbox.requests();
        requests.iter().skip(self.earlier).filter(|seen| seen.endpoint == Some(endpoint)).count()
    }

    pub(crate) fn target(&self) -> std::path::PathBuf {
        self.folder.path().join("cat.mp4")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Creates that were accepted since the stage was set.
    fn accepted(&self) -> Vec<String> {
        self.sandbox.generations().into_iter().skip(2).map(|seen| seen.id).collect()
    }
}

/// What a call brought, as far as the columns have it in common.
pub(crate) struct Brought {
    pub id: Option<GenerationId>,
    bytes: Option<u64>,
}

/// Does what the column says, once.
pub(crate) fn act(column: Column, client: &Client, stage: &Stage) -> Result<Brought, Error> {
    let brought = |id| Brought { id: Some(id), bytes: None };
    match column {
        Column::Create => client.create(&request()).map(|created| brought(created.id)),
        Column::CreateLarge => client.create(&large_request()).map(|created| brought(created.id)),
        Column::Retrieve => client.retrieve(&stage.primed.id).map(|seen| brought(seen.id)),
        Column::Wait | Column::WaitOn => client.wait(&stage.pending.id).map(|v| brought(v.id)),
        Column::Find => client.find(PRIME).map(|id| Brought { id, bytes: None }),
        Column::Download => {
            let bytes = client.download(&stage.video, stage.target())?;
            Ok(Brought { id: Some(stage.video.id.clone()), bytes: Some(bytes) })
        }
        Column::RunCreate | Column::RunPoll | Column::RunDownload => {
            let saved = client.generate_to(&request(), stage.target())?;
            Ok(Brought { id: Some(saved.id), bytes: Some(saved.bytes) })
        }
    }
}

/// A picture large enough for its create to ask first.
fn large_request() -> ImageToVideo {
    let mut picture = std::fs::read(fixture("picture.jpg")).unwrap();
    picture.resize(790_000, 0);
    ImageToVideo::new(Image::bytes(picture))
}

/// One cell, and what is wrong with it.
struct Cell<'a> {
    row: &'a Row,
    column: Column,
    wrong: Vec<String>,
}

impl<'a> Cell<'a> {
    fn run(row: &'a Row, column: Column) -> Cell<'a> {
        let mut cell = Cell { row, column, wrong: Vec::new() };
        match catch_unwind(AssertUnwindSafe(|| cell.try_out())) {
            Ok(()) => {}
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                cell.wrong.push(format!("it panics: {}", text.unwrap_or("?")));
            }
        }
        cell
    }

    fn name(&self) -> String {
        format!("{:?} × {}", self.column, self.row.name)
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.wrong.push(what());
        }
    }

    fn try_out(&mut self) {
        let (row, column) = (self.row, self.column);
        let stage = Stage::new();
        let ends = ends(row, column);
        let meaning = meaning(row, column);
        // Where nobody is silent, nobody is waited for.
        let is_slow = row.slow || matches!(meaning, Meaning::Silent | Meaning::HugeHead);
        let idle = Duration::from_millis(if is_slow { 200 } else { 3_000 });
        let deadline = if ends.kinds.is_empty() { 10 * SECOND } else { DEADLINE };
        let deadline = if column == Column::WaitOn && !row.later { 10 * SECOND } else { deadline };
        let wait = WaitOptions::new()
            .first_poll_after(Duration::ZERO)
            .interval(Duration::from_millis(20))
            .timeout(deadline);
        let client = stage
            .sandbox
            .client_builder()
            .retry(RetryPolicy::none())
            .idle_timeout(idle)
            .wait(wait)
            .build()
            .unwrap();
        let mut fault = (row.make)(&stage.good(column));
        if !ends.success && ends.kinds == [ErrorKind::CreateUnknown] {
            // The worst case: it exists, and only its reply is lost.
            fault = fault.acted();
        }
        let times = if column == Column::WaitOn { 1 } else { row.times };
        stage.sandbox.fault(column.endpoint(), fault, times);

        let begun = Instant::now();
        let result = act(column, &client, &stage);
        let took = begun.elapsed();

        let is_long = is_slow || meaning == Meaning::TooLarge;
        let request_time = if is_long { 2 * idle } else { Duration::ZERO };
        let waits = matches!(column, Column::Wait | Column::WaitOn) || column.is_run();
        let asks = if column == Column::CreateLarge { SECOND } else { Duration::ZERO };
        let longest = request_time
            + asks
            + SECOND
            + if waits && result.is_err() { DEADLINE } else { Duration::ZERO };
        if took > longest {
            self.wrong.push(format!("it took {took:?}, which is over {longest:?}"));
        }
        let kind = result.as_ref().err().map(Error::kind);
        let fits = kind.map_or(ends.success, |kind| ends.kinds.contains(&kind));
        if !fits {
            let is = kind.map_or("a success".to_owned(), |kind| format!("{kind:?}"));
            self.wrong.push(format!("it is {is} instead of {ends:?}"));
        }
        match &result {
            Ok(brought) => self.check_success(&stage, brought),
            Err(error) => {
                let id = self.expected_id(&stage);
                self.wrong.extend(complaints(row, column, error, &id));
                if !fits {
                    self.wrong.push(format!("{error:?}"));
                }
            }
        }
        self.check_requests(&stage, result.as_ref().err());
        self.check_files(&stage, result.is_ok());
        if column.is_run() {
            self.check_second_run(&stage, &result);
        }
    }

    fn expected_id(&self, stage: &Stage) -> String {
        match self.column {
            Column::Wait | Column::WaitOn => stage.pending.id.to_string(),
            Column::RunPoll | Column::RunDownload => {
                stage.accepted().first().cloned().unwrap_or_default()
            }
            _ => stage.primed.id.to_string(),
        }
    }

    fn check_success(&mut self, stage: &Stage, brought: &Brought) {
        let id = brought.id.as_ref().map(|id| id.to_string()).unwrap_or_default();
        let accepted = stage.accepted().first().cloned();
        let expected = match self.column.endpoint() {
            Endpoint::Create => accepted.unwrap_or_else(|| stage.primed.id.to_string()),
            _ => self.expected_id(stage),
        };
        self.check(id == expected, || format!("it is about `{id}` instead of `{expected}`"));
        if let Some(bytes) = brought.bytes {
            let file = std::fs::read(stage.target()).unwrap_or_default();
            let whole = file == stage.sandbox.video() && bytes == file.len() as u64;
            self.check(whole, || "the file is not the video".to_owned());
        }
    }

    fn check_requests(&mut self, stage: &Stage, error: Option<&Error>) {
        let (row, column) = (self.row, self.column);
        let seen = stage.count(column.endpoint());
        let attempts = error.map_or(4, |error| error.attempts() as usize);
        let expected = match column {
            // One that goes wrong, and then a few; some may find the connection closed and never
            // get to the server.
            Column::Wait | Column::WaitOn | Column::RunPoll => 1..=attempts,
            Column::Download | Column::RunDownload => downloads(row)..=downloads(row),
            _ => creates(row, column)..=creates(row, column),
        };
        self.check(expected.contains(&seen), || {
            format!("there were {seen} requests instead of {expected:?}")
        });
        if error.is_some_and(|error| error.kind() == ErrorKind::Api) && column == Column::Wait {
            self.check(seen == 1, || format!("a final refusal was asked for {seen} times"));
        }
        if column.is_run() {
            let creates = stage.count(Endpoint::Create);
            self.check(creates == 1, || format!("there were {creates} creates"));
        }
        let accepted = stage.accepted().len();
        self.check(accepted <= 1, || format!("{accepted} creates were accepted"));
    }

    /// Nothing is left behind but what is documented.
    fn check_files(&mut self, stage: &Stage, success: bool) {
        for file in std::fs::read_dir(stage.folder()).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let expected = match name.as_str() {
                "cat.mp4" => success,
                "cat.mp4.kling.jsonl" => self.column.is_run(),
                _ => false,
            };
            self.check(expected, || format!("{name} is left behind"));
        }
    }

    /// The same call when all is well again: what was paid for is fetched, and nothing is paid
    /// twice.
    fn check_second_run(&mut self, stage: &Stage, first: &Result<Brought, Error>) {
        stage.sandbox.clear_faults();
        let creates = stage.count(Endpoint::Create);
        let accepted = stage.accepted();
        let client = stage.sandbox.client_builder().build().unwrap();
        let second = client.generate_to(&request(), stage.target());
        let created = stage.count(Endpoint::Create) - creates;
        let unknown = matches!(first, Err(error) if error.kind() == ErrorKind::CreateUnknown);
        let pays = first.is_err() && self.column == Column::RunCreate && !unknown;
        self.check(created == usize::from(pays), || {
            format!("the second run made {created} creates")
        });
        let total = stage.accepted().len();
        self.check(total <= 1, || format!("{total} creates were accepted in both runs"));
        match &second {
            Err(error) if unknown && accepted.is_empty() => {
                let kind = error.kind();
                self.check(kind == ErrorKind::CreateUnknown, || format!("then: {error:?}"));
            }
            Err(error) => self.wrong.push(format!("the second run: {error:?}")),
            Ok(saved) => {
                let reused = first.is_ok();
                self.check(saved.reused == reused, || format!("reused is {}", saved.reused));
                if let Some(id) = accepted.first() {
                    let own = saved.id.as_ref();
                    self.check(own == id, || format!("the second run got `{own}`, not `{id}`"));
                }
            }
        }
    }
}

/// The cells that say something: an answer that may overtake a small request says nothing, and
/// that it is large means nothing to most faults.
fn cells(rows: &[Row]) -> Vec<(&Row, Column)> {
    let all = rows.iter().flat_map(|row| COLUMNS.map(|column| (row, column)));
    all.filter(|(row, column)| match column {
        Column::Create | Column::RunCreate => !row.is_race,
        Column::CreateLarge => {
            row.early || row.slow || matches!(row.meaning, Meaning::Refused { vendor: true, .. })
        }
        _ => true,
    })
    .collect()
}

/// Runs something for each item, on a few threads.
pub(crate) fn in_parallel<T: Sync, R: Send>(items: &[T], run: impl Fn(&T) -> R + Sync) -> Vec<R> {
    let (next, results) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(|| {
                while let Some(item) = items.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let result = run(item);
                    results.lock().unwrap().push(result);
                }
            });
        }
    });
    results.into_inner().unwrap()
}

/// Cells that are known to be wrong: a fault's name, and the calls. The matrix fails when one of
/// them is mended, so that it leaves this list.
const KNOWN: &[(&str, &[Column])] = {
    use Column::{Download, RunDownload};
    &[
        // What lies between the chunks only the HTTP library sees: these end at the hour's cap.
        ("a trickle of trailers", &[Download, RunDownload]),
        ("a trickle of a chunk's extension", &[Download, RunDownload]),
    ]
};

/// With time-outs of a fraction of a second a busy machine looks like a fault. What is wrong in
/// the client is wrong each time, also alone.
const TRIES_ALONE: u32 = 3;

impl Cell<'_> {
    fn again_if_wrong(self) -> Self {
        (0..TRIES_ALONE).fold(self, |cell, _| match cell.wrong.is_empty() {
            true => cell,
            false => Cell::run(cell.row, cell.column),
        })
    }
}

fn is_known(cell: &Cell<'_>) -> bool {
    KNOWN.iter().any(|(name, columns)| *name == cell.row.name && columns.contains(&cell.column))
}

fn run_all() {
    let rows = rows();
    let cells = cells(&rows);
    let begun = Instant::now();
    let tried = in_parallel(&cells, |(row, column)| Cell::run(row, *column));
    let took = begun.elapsed();
    let mut wrong = Vec::new();
    for cell in tried {
        let cell = if is_known(&cell) { cell } else { cell.again_if_wrong() };
        match (cell.wrong.is_empty(), is_known(&cell)) {
            (true, true) => wrong.push(format!("{}: is mended", cell.name())),
            (false, false) => wrong.push(format!("{}: {}", cell.name(), cell.wrong.join("; "))),
            _ => {}
        }
    }
    wrong.sort();
    println!("{} faults, {} cells, {took:?}", rows.len(), cells.len());
    assert!(wrong.is_empty(), "{} wrong cells\n{}", wrong.len(), wrong.join("\n"));
}

/// Runs the matrix in a process of its own, where nothing else starts threads or opens files: what
/// there is of them is counted before and after, and the memory.
#[test]
fn every_call_holds_against_every_fault() {
    const CHILD: &str = "KLING_VIDEO_MATRIX_CHILD";
    if !cfg!(target_os = "linux") {
        return run_all();
    }
    if std::env::var_os(CHILD).is_some() {
        return count_what_is_left();
    }
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["matrix::every_call_holds_against_every_fault", "--exact", "--nocapture"])
        .env(CHILD, "1")
        .env("RUST_BACKTRACE", "0")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&child.stdout);
    assert!(child.status.success(), "{text}\n{}", String::from_utf8_lossy(&child.stderr));
    assert!(text.contains("1 passed"), "the child ran nothing: {text}");
    print!("{text}");
}

fn count_what_is_left() {
    let field = |name: &str| -> usize {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim_start_matches(':').trim().trim_end_matches(" kB").parse().unwrap()
    };
    let files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    // What is made once and kept.
    let rows = rows();
    in_parallel(&COLUMNS, |column| Cell::run(&rows[0], *column).wrong);
    let count = || (field("Threads"), files());
    // A thread that was joined may be seen for a moment longer.
    let settled = |least: (usize, usize)| {
        let moments = std::iter::repeat_with(|| std::thread::sleep(Duration::from_millis(5)));
        moments.take(400).map(|()| count()).find(|now| *now <= least).unwrap_or_else(count)
    };
    // The main thread and the test's own.
    let before = settled((2, files()));
    let memory = field("VmHWM");
    run_all();
    let after = settled(before);
    let grown = field("VmHWM") - memory;
    println!("threads and files: {before:?} before, {after:?} after; {grown} kB at most");
    assert_eq!(after, before);
    assert!(grown < 128 * 1024, "{grown} kB more at the worst moment");
}
