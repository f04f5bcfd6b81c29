//! Every client call against every fault that the sandbox can inject.
//!
//! `fault_cases` lists the faults and `checks` the outcomes that are allowed; this module runs the
//! combinations.

mod checks;
mod fault_cases;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{
    Client, Error, ErrorKind, Generation, GenerationId, Image, ImageToVideo, RetryPolicy, Video,
    WaitOptions,
};
use serde_json::json;

pub(crate) use self::checks::ClientCall;
use self::checks::{
    ALL_CALLS, Expected, FaultEffect, check_error, effect, expected, expected_creates,
    expected_downloads,
};
use self::fault_cases::ValidResponse;
pub(crate) use self::fault_cases::{FaultCase, fault_cases};
use crate::helpers::clients::{request, sandbox, test_client};
use crate::helpers::media::png_of_len;
#[cfg(target_os = "linux")]
use crate::helpers::process_status::{Resources, peak_memory};
#[cfg(target_os = "linux")]
use crate::helpers::subprocess::{emit_result, run_in_subprocess};

/// Test cases that run at the same time: most of them only wait.
const WORKERS: usize = 12;
const SECOND: Duration = Duration::from_secs(1);
/// The timeout of a wait that is expected to time out.
const DEADLINE: Duration = Duration::from_millis(150);
const COMPLETED_REQUEST_ID: &str = "matrix-completed";

/// A sandbox with a completed and a pending generation, and a directory for the videos.
pub(crate) struct Fixture {
    pub sandbox: Sandbox,
    pub completed: Generation,
    pub video: Video,
    /// Completes after a few polls.
    pub pending: Generation,
    dir: tempfile::TempDir,
    /// Requests that the setup made.
    setup_requests: usize,
}

impl Fixture {
    pub(crate) fn new() -> Fixture {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        sandbox.complete_after_polls(0);
        let completed = client.create(&request().client_request_id(COMPLETED_REQUEST_ID)).unwrap();
        let video = client.wait(&completed.id).unwrap();
        sandbox.complete_after_polls(2);
        let pending = client.create(&request()).unwrap();
        let setup_requests = sandbox.requests().len();
        // In memory if possible, because `generate_to` syncs every journal entry to disk.
        let memory = Path::new("/dev/shm");
        let dir = match memory.is_dir() {
            true => tempfile::tempdir_in(memory),
            false => tempfile::tempdir(),
        };
        let dir = dir.unwrap();
        Fixture { sandbox, completed, video, pending, dir, setup_requests }
    }

    /// The response that the endpoint would send without the fault.
    pub(crate) fn valid_response(&self, call: ClientCall) -> ValidResponse {
        let id = match call {
            ClientCall::Wait | ClientCall::WaitOneFault => self.pending.id.to_string(),
            // The sandbox counts.
            ClientCall::GenerateToPoll => {
                let pending: u64 = self.pending.id.as_str().parse().unwrap();
                (pending + 1).to_string()
            }
            _ => self.completed.id.to_string(),
        };
        let endpoint = call.endpoint();
        let body = match endpoint {
            Endpoint::Create => json!({ "id": id, "status": "queued" }).to_string().into_bytes(),
            Endpoint::Retrieve => {
                let video = json!({ "url": self.video.url, "duration": 5 });
                json!({ "id": id, "status": "completed", "video": video }).to_string().into_bytes()
            }
            Endpoint::Logs => {
                let entry = json!({
                    "status": "succeeded", "inference_id": id, "client_request_id": COMPLETED_REQUEST_ID,
                });
                let pagination = json!({ "has_more": false });
                json!({ "data": [entry], "pagination": pagination }).to_string().into_bytes()
            }
            _ => self.sandbox.default_video().to_vec(),
        };
        let url = self.sandbox.url();
        let video_path = self.video.url.strip_prefix(&url).unwrap().to_owned();
        ValidResponse { endpoint, body, id, url, video_path }
    }

    /// Number of requests to an endpoint since the setup.
    fn request_count(&self, endpoint: Endpoint) -> usize {
        let requests = self.sandbox.requests();
        let new = requests.iter().skip(self.setup_requests);
        new.filter(|request| request.endpoint == Some(endpoint)).count()
    }

    pub(crate) fn target(&self) -> std::path::PathBuf {
        self.dir.path().join("cat.mp4")
    }

    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Ids of the generations that were created since the setup.
    fn created_ids(&self) -> Vec<String> {
        self.sandbox.generations().into_iter().skip(2).map(|generation| generation.id).collect()
    }
}

/// What a successful call returned: the fields that the calls have in common.
pub(crate) struct CallResult {
    pub id: Option<GenerationId>,
    bytes: Option<u64>,
}

/// Makes the call once.
pub(crate) fn perform(
    call: ClientCall,
    client: &Client,
    fixture: &Fixture,
) -> Result<CallResult, Error> {
    let with_id = |id| CallResult { id: Some(id), bytes: None };
    match call {
        ClientCall::Create => client.create(&request()).map(|generation| with_id(generation.id)),
        ClientCall::CreateLarge => {
            client.create(&large_request()).map(|generation| with_id(generation.id))
        }
        ClientCall::Retrieve => {
            client.retrieve(&fixture.completed.id).map(|generation| with_id(generation.id))
        }
        ClientCall::Wait | ClientCall::WaitOneFault => {
            client.wait(&fixture.pending.id).map(|video| with_id(video.id))
        }
        ClientCall::Find => {
            client.find(COMPLETED_REQUEST_ID).map(|id| CallResult { id, bytes: None })
        }
        ClientCall::Download => {
            let bytes = client.download(&fixture.video, fixture.target())?;
            Ok(CallResult { id: Some(fixture.video.id.clone()), bytes: Some(bytes) })
        }
        ClientCall::GenerateToCreate
        | ClientCall::GenerateToPoll
        | ClientCall::GenerateToDownload => {
            let saved = client.generate_to(&request(), fixture.target())?;
            Ok(CallResult { id: Some(saved.id), bytes: Some(saved.bytes) })
        }
    }
}

/// A request with an image that is larger than the socket buffers.
fn large_request() -> ImageToVideo {
    ImageToVideo::new(Image::bytes(png_of_len(2_000_000)))
}

/// One call with one fault, and the checks that failed.
struct TestCase<'a> {
    fault_case: &'a FaultCase,
    call: ClientCall,
    failures: Vec<String>,
}

impl<'a> TestCase<'a> {
    fn run(fault_case: &'a FaultCase, call: ClientCall) -> TestCase<'a> {
        let mut case = TestCase { fault_case, call, failures: Vec::new() };
        match catch_unwind(AssertUnwindSafe(|| case.execute())) {
            Ok(()) => {}
            Err(panic) => {
                let text = panic.downcast_ref::<String>().map(String::as_str);
                let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
                case.failures.push(format!("panicked: {}", text.unwrap_or("?")));
            }
        }
        case
    }

    fn name(&self) -> String {
        format!("{:?} × {}", self.call, self.fault_case.name)
    }

    fn check(&mut self, holds: bool, message: impl FnOnce() -> String) {
        if !holds {
            self.failures.push(message());
        }
    }

    fn execute(&mut self) {
        let (fault_case, call) = (self.fault_case, self.call);
        let fixture = Fixture::new();
        let expected = expected(fault_case, call);
        let effect = effect(fault_case, call);
        // Short only if the test waits for it: otherwise a busy machine could reach it.
        let is_slow =
            fault_case.slow || matches!(effect, FaultEffect::Timeout | FaultEffect::EndlessHead);
        let idle = Duration::from_millis(if is_slow { 200 } else { 3_000 });
        let deadline = if expected.error_kinds.is_empty() { 10 * SECOND } else { DEADLINE };
        let recovers = call == ClientCall::WaitOneFault && !fault_case.long_retry_after;
        let deadline = if recovers { 10 * SECOND } else { deadline };
        let wait = WaitOptions::new()
            .initial_delay(Duration::ZERO)
            .interval(Duration::from_millis(20))
            .timeout(deadline);
        let builder = fixture.sandbox.client_builder().retry_policy(RetryPolicy::none());
        let client = builder.idle_timeout(idle).wait_options(wait).build().unwrap();
        let mut fault = (fault_case.make)(&fixture.valid_response(call));
        if !expected.may_succeed && expected.error_kinds == [ErrorKind::CreateUnknown] {
            // The worst case: the generation exists, and only the response is lost.
            fault = fault.after_accepting();
        }
        let times = if call == ClientCall::WaitOneFault { 1 } else { fault_case.times };
        fixture.sandbox.fault(call.endpoint(), fault, times);

        let started = Instant::now();
        let result = perform(call, &client, &fixture);
        let elapsed = started.elapsed();

        let is_long = is_slow || effect == FaultEffect::TooLarge;
        let request_time = if is_long { 2 * idle } else { Duration::ZERO };
        let polls = matches!(call, ClientCall::Wait | ClientCall::WaitOneFault);
        let polls = polls || call.is_generate_to();
        // The response to a large create may take 3.5 times the idle timeout.
        let large_time = if call == ClientCall::CreateLarge { 3 * idle } else { Duration::ZERO };
        let wait_time = if polls && result.is_err() { DEADLINE } else { Duration::ZERO };
        let max_elapsed = request_time + large_time + wait_time + SECOND;
        self.check(elapsed <= max_elapsed, || {
            format!("took {elapsed:?}, more than {max_elapsed:?}")
        });
        self.check_result(&fixture, &expected, &result);
        self.check_requests(&fixture, result.as_ref().err());
        self.check_files(&fixture, result.is_ok());
        if call.is_generate_to() {
            self.check_second_run(&fixture, &result);
        }
    }

    fn check_result(
        &mut self,
        fixture: &Fixture,
        expected: &Expected,
        result: &Result<CallResult, Error>,
    ) {
        let kind = result.as_ref().err().map(Error::kind);
        let is_expected =
            kind.map_or(expected.may_succeed, |kind| expected.error_kinds.contains(&kind));
        self.check(is_expected, || {
            let actual = kind.map_or("success".to_owned(), |kind| format!("{kind:?}"));
            format!("outcome is {actual}, expected {expected:?}")
        });
        match result {
            Ok(returned) => self.check_success(fixture, returned),
            Err(error) => {
                let id = self.expected_id(fixture);
                self.failures.extend(check_error(self.fault_case, self.call, error, &id));
                self.check(is_expected, || format!("{error:?}"));
            }
        }
    }

    fn expected_id(&self, fixture: &Fixture) -> String {
        match self.call {
            ClientCall::Wait | ClientCall::WaitOneFault => fixture.pending.id.to_string(),
            ClientCall::GenerateToPoll | ClientCall::GenerateToDownload => {
                fixture.created_ids().first().cloned().unwrap_or_default()
            }
            _ => fixture.completed.id.to_string(),
        }
    }

    fn check_success(&mut self, fixture: &Fixture, returned: &CallResult) {
        let id = returned.id.as_ref().map(|id| id.to_string()).unwrap_or_default();
        let created = fixture.created_ids().first().cloned();
        let expected = match self.call.endpoint() {
            Endpoint::Create => created.unwrap_or_else(|| fixture.completed.id.to_string()),
            _ => self.expected_id(fixture),
        };
        self.check(id == expected, || format!("generation is `{id}`, expected `{expected}`"));
        if let Some(bytes) = returned.bytes {
            let file = std::fs::read(fixture.target()).unwrap_or_default();
            let is_complete = file == fixture.sandbox.default_video() && bytes == file.len() as u64;
            self.check(is_complete, || "the file is not the video".to_owned());
        }
    }

    fn check_requests(&mut self, fixture: &Fixture, error: Option<&Error>) {
        let (fault_case, call) = (self.fault_case, self.call);
        let requests = fixture.request_count(call.endpoint());
        let attempts = error.map_or(4, |error| error.attempts() as usize);
        let expected = match call {
            // A retry that finds its connection closed never reaches the server.
            ClientCall::Wait | ClientCall::WaitOneFault | ClientCall::GenerateToPoll => {
                1..=attempts
            }
            ClientCall::Download | ClientCall::GenerateToDownload => {
                let downloads = expected_downloads(fault_case);
                downloads..=downloads
            }
            _ => expected_creates(fault_case, call),
        };
        self.check(expected.contains(&requests), || {
            format!("{requests} requests were made, expected {expected:?}")
        });
        let is_api_error = error.is_some_and(|error| error.kind() == ErrorKind::Api);
        if is_api_error && call == ClientCall::Wait {
            self.check(requests == 1, || {
                format!("a permanent error was retried: {requests} polls")
            });
        }
        if call.is_generate_to() {
            let creates = fixture.request_count(Endpoint::Create);
            let expected = expected_creates(fault_case, call);
            self.check(expected.contains(&creates), || {
                format!("{creates} create requests were made")
            });
        }
        let created = fixture.created_ids().len();
        self.check(created <= 1, || format!("{created} generations were created"));
    }

    /// Checks that only documented files are left behind.
    fn check_files(&mut self, fixture: &Fixture, success: bool) {
        for file in std::fs::read_dir(fixture.dir()).unwrap() {
            let name = file.unwrap().file_name().into_string().unwrap();
            let expected = match name.as_str() {
                "cat.mp4" => success,
                "cat.mp4.kling.jsonl" => self.call.is_generate_to(),
                _ => false,
            };
            self.check(expected, || format!("{name} is left behind"));
        }
    }

    /// Repeats the call without the fault: it must fetch what was paid for, and pay for nothing
    /// twice.
    fn check_second_run(&mut self, fixture: &Fixture, first: &Result<CallResult, Error>) {
        fixture.sandbox.clear_faults();
        let creates = fixture.request_count(Endpoint::Create);
        let created_ids = fixture.created_ids();
        let client = test_client(&fixture.sandbox);
        let second = client.generate_to(&request(), fixture.target());
        let created = fixture.request_count(Endpoint::Create) - creates;
        let unknown = matches!(first, Err(error) if error.kind() == ErrorKind::CreateUnknown);
        let pays = first.is_err() && self.call == ClientCall::GenerateToCreate && !unknown;
        self.check(created == usize::from(pays), || {
            format!("the second run made {created} create requests")
        });
        let total = fixture.created_ids().len();
        self.check(total <= 1, || format!("both runs together created {total} generations"));
        match &second {
            Err(error) if unknown && created_ids.is_empty() => {
                let kind = error.kind();
                let is_unknown = kind == ErrorKind::CreateUnknown;
                self.check(is_unknown, || format!("the second run failed: {error:?}"));
            }
            Err(error) => self.failures.push(format!("the second run failed: {error:?}")),
            Ok(saved) => {
                let reused = first.is_ok();
                self.check(saved.reused == reused, || format!("reused is {}", saved.reused));
                // A lost response that named an id is recovered by that id, before the log is asked.
                let named = first.as_ref().err().and_then(Error::generation_id).filter(|_| unknown);
                let named = named.map(|id| id.to_string());
                if let Some(id) = named.as_ref().or(created_ids.first()) {
                    let saved = saved.id.as_str();
                    self.check(saved == id, || {
                        format!("the second run saved `{saved}`, expected `{id}`")
                    });
                }
            }
        }
    }
}

/// The combinations that are worth a test. A response that may overtake a small request has no
/// defined outcome, and to most faults it makes no difference that the request is large.
fn test_cases(fault_cases: &[FaultCase]) -> Vec<(&FaultCase, ClientCall)> {
    let all = fault_cases.iter().flat_map(|case| ALL_CALLS.map(|call| (case, call)));
    all.filter(|(case, call)| match call {
        ClientCall::Create | ClientCall::GenerateToCreate => !case.races_small_request,
        ClientCall::CreateLarge => {
            case.before_body_read
                || case.slow
                || matches!(case.effect, FaultEffect::ErrorStatus { from_api: true, .. })
        }
        _ => true,
    })
    .collect()
}

/// Runs the closure for each item, on several threads.
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

/// Known failures, each a fault's name and the calls that fail. The test also fails when one of
/// them passes, so that fixed ones are removed from the list.
const KNOWN_FAILURES: &[(&str, &[ClientCall])] = {
    use ClientCall::{Download, GenerateToDownload};
    &[
        // Only the HTTP library sees the bytes between chunks: these end at the one-hour limit.
        ("slow trailers", &[Download, GenerateToDownload]),
        ("slow chunk extension", &[Download, GenerateToDownload]),
    ]
};

/// Timeouts of a fraction of a second make a busy machine appear as a fault. A bug in the client
/// fails every time, even when the case runs alone.
const MAX_RETRIES_ALONE: u32 = 3;

impl TestCase<'_> {
    fn retry_if_failed(self) -> Self {
        (0..MAX_RETRIES_ALONE).fold(self, |case, _| match case.failures.is_empty() {
            true => case,
            false => TestCase::run(case.fault_case, case.call),
        })
    }

    fn is_known_failure(&self) -> bool {
        let is_self = |name: &str, calls: &[ClientCall]| {
            name == self.fault_case.name && calls.contains(&self.call)
        };
        KNOWN_FAILURES.iter().any(|(name, calls)| is_self(name, calls))
    }
}

/// Returns how many cases were run, and how long it took.
fn run_all() -> String {
    let fault_cases = fault_cases();
    let cases = test_cases(&fault_cases);
    let started = Instant::now();
    let finished = in_parallel(&cases, |(fault_case, call)| TestCase::run(fault_case, *call));
    let elapsed = started.elapsed();
    let mut failures = Vec::new();
    for case in finished {
        let known = case.is_known_failure();
        let case = if known { case } else { case.retry_if_failed() };
        match (case.failures.is_empty(), known) {
            (true, true) => {
                failures.push(format!("{}: passes, but is a known failure", case.name()))
            }
            (false, false) => {
                failures.push(format!("{}: {}", case.name(), case.failures.join("; ")));
            }
            _ => {}
        }
    }
    failures.sort();
    assert!(failures.is_empty(), "{} failed cases\n{}", failures.len(), failures.join("\n"));
    assert!(cases.len() > 1_000, "only {} cases", cases.len());
    format!("{} faults, {} cases, {elapsed:?}", fault_cases.len(), cases.len())
}

/// Runs the matrix in its own process, where nothing else starts threads or opens files, and
/// compares threads, open files and memory before and after.
#[cfg(target_os = "linux")]
#[test]
fn client_calls_handle_every_fault() {
    const CHILD: &str = "KLING_VIDEO_MATRIX_CHILD";
    if std::env::var_os(CHILD).is_some() {
        return check_resource_leaks();
    }
    let variables = [(CHILD, "1"), ("RUST_BACKTRACE", "0")];
    println!("{}", run_in_subprocess("matrix::client_calls_handle_every_fault", &variables));
}

#[cfg(not(target_os = "linux"))]
#[test]
fn client_calls_handle_every_fault() {
    println!("{}", run_all());
}

#[cfg(target_os = "linux")]
fn check_resource_leaks() {
    // Warm up everything that is created once and kept.
    let fault_cases = fault_cases();
    in_parallel(&ALL_CALLS, |call| TestCase::run(&fault_cases[0], *call).failures);
    // The main thread and the test's.
    let before = Resources::settled(|now| now.threads <= 2);
    let memory = peak_memory();
    let summary = run_all();
    let after = Resources::settled(|now| now.is_within(before));
    let growth = peak_memory() - memory;
    assert_eq!(after, before);
    assert!(growth < 128 * 1024, "peak memory grew by {growth} KiB");
    emit_result(&format!("{summary}; peak memory grew by {growth} KiB; {before:?}"));
}
