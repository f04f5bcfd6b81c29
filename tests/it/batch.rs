//! `generate_all_to`: many durable runs in one call.

use std::collections::HashSet;
use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    BatchOptions, CancelToken, Error, ErrorKind, Event, EventKind, FileJournal, Image,
    ImageToVideo, Operation, Result, SavedVideo, VideoDuration,
};

use crate::helpers::clients::{
    create_counts, no_retry_client, quick_wait, remote_client_builder, sandbox, test_client,
};
use crate::helpers::events::{event_name, record_events};
use crate::helpers::files::{TestDir, file_names, with_suffix};
use crate::helpers::journal::{created, intent};
use crate::helpers::media::TINY_MP4;
#[cfg(target_os = "linux")]
use crate::helpers::process_status::Resources;
use crate::helpers::subprocess::{Subprocess, emit_result, this_binary};

type Jobs = Vec<(ImageToVideo, PathBuf)>;

fn job(dir: &Path, index: usize) -> (ImageToVideo, PathBuf) {
    let image = Image::url(format!("https://example.com/{index}.jpg"));
    (ImageToVideo::new(image), dir.join(format!("{index:04}.mp4")))
}

fn jobs(dir: &TestDir, count: usize) -> Jobs {
    (0..count).map(|index| job(dir.path(), index)).collect()
}

fn kinds(results: &[Result<SavedVideo>]) -> Vec<Option<ErrorKind>> {
    results.iter().map(|result| result.as_ref().err().map(Error::kind)).collect()
}

/// An error response of the API itself.
fn marked(status: u16) -> Fault {
    Fault::response(status, format!(r#"{{"message":"no","statusCode":{status},"requestId":"r"}}"#))
}

fn out_of_credits() -> Fault {
    let error = r#"{"name":"ForbiddenException","data":{"kind":"err_insufficent_credits"}}"#;
    Fault::response(403, format!(r#"{{"status":403,"message":"no credits","error":{error}}}"#))
}

#[test]
fn batch_saves_every_video_once_and_reuses_them_all() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let jobs = jobs(&dir, 20);
    let results = client.generate_all_to(&jobs, &BatchOptions::new());
    let saved: Vec<_> = results.into_iter().map(Result::unwrap).collect();
    for (saved, (_, path)) in saved.iter().zip(&jobs) {
        assert_eq!(&saved.path, path);
        assert!(std::fs::read(path).unwrap() == sandbox.default_video());
        assert!(!saved.reused);
    }
    assert_eq!(saved.iter().map(|saved| &saved.id).collect::<HashSet<_>>().len(), 20);
    let requests = sandbox.requests().len();
    let again = client.generate_all_to(&jobs, &BatchOptions::new());
    for (again, saved) in again.into_iter().map(Result::unwrap).zip(&saved) {
        assert!(again.reused);
        assert_eq!((&again.id, again.usage), (&saved.id, saved.usage));
    }
    assert_eq!(sandbox.requests().len(), requests);
    assert!(client.generate_all_to(&[], &BatchOptions::new()).is_empty());
}

#[test]
fn job_that_fails_leaves_the_others_alone() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let mut jobs = jobs(&dir, 4);
    jobs[0].1 = dir.path().join("missing").join("cat.mp4");
    jobs[2].0 = ImageToVideo::new(Image::file(dir.path().join("missing.jpg")));
    let results = test_client(&sandbox).generate_all_to(&jobs, &BatchOptions::new());
    assert_eq!(kinds(&results), [Some(ErrorKind::Io), None, Some(ErrorKind::Io), None]);
    assert_eq!(create_counts(&sandbox), (2, 2));
    assert!(!with_suffix(&jobs[2].1, ".kling.jsonl").exists());
}

#[test]
fn jobs_with_one_target_are_rejected_before_anything_is_sent() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let mut jobs = jobs(&dir, 3);
    // The same file by another spelling.
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    jobs[2].1 = dir.path().join("sub").join("..").join("0000.mp4");
    let results = test_client(&sandbox).generate_all_to(&jobs, &BatchOptions::new());
    let (invalid, not_attempted) = (ErrorKind::InvalidRequest, ErrorKind::NotAttempted);
    assert_eq!(kinds(&results), [Some(invalid), Some(not_attempted), Some(not_attempted)]);
    for error in results.iter().map(|result| result.as_ref().unwrap_err()) {
        assert!(error.to_string().contains("jobs 0 and 2 have the same target"), "{error}");
    }
    assert_eq!(create_counts(&sandbox), (0, 0));
    assert_eq!(file_names(dir.path()), ["sub"]);
}

#[test]
fn rejected_key_or_account_stops_creating_and_what_is_paid_for_is_fetched() {
    for fault in [marked(401), marked(403)] {
        let sandbox = sandbox();
        let client = no_retry_client(&sandbox);
        let dir = TestDir::new();
        let jobs = jobs(&dir, 8);
        // Two are created, and the second one's response is lost.
        sandbox.fault(Endpoint::Video, Fault::status(500), 1);
        client.generate_to(&jobs[4].0, &jobs[4].1).unwrap_err();
        sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
        client.generate_to(&jobs[6].0, &jobs[6].1).unwrap_err();
        sandbox.fault(Endpoint::Create, fault.clone(), 99);
        let options = BatchOptions::new().concurrent_creates(1);
        let results = client.generate_all_to(&jobs, &options);
        let (api, not) = (Some(ErrorKind::Api), Some(ErrorKind::NotAttempted));
        assert_eq!(kinds(&results), [api, not, not, not, None, not, None, not]);
        let error = results[1].as_ref().unwrap_err();
        assert_eq!(error.operation(), Operation::GenerateAllTo);
        assert!(error.to_string().starts_with("not attempted: "), "{error}");
        assert!(error.to_string().contains("server returned HTTP 40"), "{error}");
        assert!(!error.may_have_been_billed() && !error.is_retryable());
        assert_eq!(create_counts(&sandbox), (3, 2), "{fault:?}");
        assert!(!with_suffix(&jobs[1].1, ".kling.jsonl").exists());
        sandbox.clear_faults();
        let results = client.generate_all_to(&jobs, &options);
        assert_eq!(kinds(&results), [None; 8]);
        assert_eq!(sandbox.generations().len(), 8);
    }
}

#[test]
fn unmarked_rejection_is_of_one_job_only() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    sandbox.fault(Endpoint::Create, Fault::response(403, "<html>"), 1);
    let options = BatchOptions::new().concurrent_creates(1);
    let results = no_retry_client(&sandbox).generate_all_to(&jobs(&dir, 3), &options);
    assert_eq!(kinds(&results), [Some(ErrorKind::Api), None, None]);
}

#[test]
fn missing_credits_stop_creates_of_the_same_model_and_duration() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let mut jobs = jobs(&dir, 5);
    for index in [0, 1, 4] {
        jobs[index].0 = jobs[index].0.clone().duration(VideoDuration::TenSeconds);
    }
    sandbox.fault(Endpoint::Create, out_of_credits(), 1);
    let options = BatchOptions::new().concurrent_creates(1);
    let results = no_retry_client(&sandbox).generate_all_to(&jobs, &options);
    let not = Some(ErrorKind::NotAttempted);
    assert_eq!(kinds(&results), [Some(ErrorKind::Api), not, None, None, not]);
    assert!(results[0].as_ref().unwrap_err().is_out_of_credits());
    assert_eq!(create_counts(&sandbox), (3, 2));
}

#[test]
fn generation_limit_stops_creating() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = sandbox.client_builder().max_generations(2).build().unwrap();
    let jobs = jobs(&dir, 5);
    let results = client.generate_all_to(&jobs, &BatchOptions::new().concurrent_creates(1));
    let (limit, not) = (Some(ErrorKind::GenerationLimit), Some(ErrorKind::NotAttempted));
    assert_eq!(kinds(&results), [None, None, limit, not, not]);
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn cancelled_batch_ends_at_once_and_continues_when_it_is_repeated() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(200);
    let dir = TestDir::new();
    let jobs = jobs(&dir, 6);
    let token = CancelToken::new();
    let cancel = token.clone();
    let created = AtomicUsize::new(0);
    let on_event = move |event: &Event<'_>| match event.kind {
        EventKind::Created { .. } => drop(created.fetch_add(1, Ordering::SeqCst)),
        EventKind::Polled { .. } if created.load(Ordering::SeqCst) == 4 => cancel.cancel(),
        _ => {}
    };
    let client = test_client(&sandbox).with_cancel_token(token).with_event_handler(on_event);
    let options = BatchOptions::new().max_in_flight(4);
    let results = client.generate_all_to(&jobs, &options);
    let (cancelled, not) = (Some(ErrorKind::Cancelled), Some(ErrorKind::NotAttempted));
    assert_eq!(kinds(&results), [cancelled, cancelled, cancelled, cancelled, not, not]);
    for error in results.iter().take(4).map(|result| result.as_ref().unwrap_err()) {
        assert!(error.generation_id().is_some());
        assert!(error.to_string().contains("call generate_all_to again"), "{error}");
    }
    assert_eq!(create_counts(&sandbox), (4, 4));
    let results = test_client(&sandbox).generate_all_to(&jobs, &options);
    assert_eq!(kinds(&results), [None; 6]);
    assert_eq!(create_counts(&sandbox), (6, 6));
}

#[test]
fn batch_keeps_its_limits_and_its_events_carry_the_path() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(3);
    let dir = TestDir::new();
    let jobs = jobs(&dir, 30);
    // Of each job: whether it is created and not saved yet.
    let in_flight = Arc::new(Mutex::new((HashSet::new(), 0)));
    let saved = Arc::new(Mutex::new(HashSet::new()));
    let client = test_client(&sandbox).with_event_handler({
        let (in_flight, saved) = (Arc::clone(&in_flight), Arc::clone(&saved));
        move |event| {
            let path = event.path.expect("every event is of a job").to_owned();
            let mut in_flight = in_flight.lock().unwrap();
            match event.kind {
                EventKind::Created { .. } => {
                    in_flight.0.insert(path);
                }
                EventKind::Saved { .. } => {
                    in_flight.0.remove(&path);
                    saved.lock().unwrap().insert(path);
                }
                _ => {}
            }
            in_flight.1 = in_flight.1.max(in_flight.0.len());
        }
    });
    let options = BatchOptions::new().max_in_flight(5);
    assert_eq!(kinds(&client.generate_all_to(&jobs, &options)), [None; 30]);
    assert!((2..=5).contains(&in_flight.lock().unwrap().1));
    assert_eq!(saved.lock().unwrap().len(), 30);
}

#[test]
fn video_is_downloaded_while_others_are_still_generating() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let jobs = jobs(&dir, 3);
    // The API does not know the first one's generation, which is polled until it is cancelled.
    let token = CancelToken::new();
    let (saved, cancel) = (AtomicUsize::new(0), token.clone());
    let builder = sandbox.client_builder().wait_options(quick_wait());
    let (client, events) = record_events(builder, move |event| {
        let (name, path) = (event_name(event), event.path?.file_name()?.to_owned());
        if name == "saved" {
            saved.fetch_add(1, Ordering::SeqCst);
        } else if path == "0000.mp4" && saved.load(Ordering::SeqCst) == 2 {
            cancel.cancel();
        }
        Some((name, path))
    });
    let client = client.with_cancel_token(token);
    let lines = [intent(&client, &jobs[0].0, None), created("unknown")];
    let journal = with_suffix(&jobs[0].1, ".kling.jsonl");
    std::fs::write(journal, lines.map(|line| line + "\n").concat()).unwrap();
    events.take();
    let results = client.generate_all_to(&jobs, &BatchOptions::new());
    assert_eq!(kinds(&results), [Some(ErrorKind::Cancelled), None, None]);
    let events = events.take();
    let last_saved = events.iter().rposition(|(name, _)| *name == "saved").unwrap();
    assert!(events[last_saved..].contains(&("retrying", "0000.mp4".into())), "{events:?}");
    assert_eq!(events.iter().filter(|(name, _)| *name == "saved").count(), 2);
    let no_time = test_client(&sandbox).with_wait_options(quick_wait().timeout(Duration::ZERO));
    let results = no_time.generate_all_to(&jobs, &BatchOptions::new());
    assert_eq!(kinds(&results), [Some(ErrorKind::WaitTimeout), None, None]);
}

// ---------------------------------------------------------------- kills and limits

const URL: &str = "KLING_TEST_BATCH_URL";
const DIR: &str = "KLING_TEST_BATCH_DIR";
const COUNT: &str = "KLING_TEST_BATCH_COUNT";
/// Set if the threads and open files are measured.
#[cfg(target_os = "linux")]
const MEASURE: &str = "KLING_TEST_BATCH_MEASURE";

/// The program that is killed. It does nothing in a normal test run, which lacks its environment.
#[test]
fn subprocess_entry() {
    let (Ok(url), Ok(dir)) = (env::var(URL), env::var(DIR)) else { return };
    let count: usize = env::var(COUNT).unwrap().parse().unwrap();
    let builder = remote_client_builder(url);
    // Of threads and of open files.
    let peak = Arc::new(Mutex::new((0, 0)));
    #[cfg(target_os = "linux")]
    let builder = builder.event_handler({
        let peak = Arc::clone(&peak);
        let is_measured = env::var_os(MEASURE).is_some();
        move |event| {
            if let EventKind::Created { .. } | EventKind::Saved { .. } = event.kind
                && is_measured
            {
                let now = Resources::now();
                let mut peak = peak.lock().unwrap();
                *peak = (peak.0.max(now.threads), peak.1.max(now.files));
            }
        }
    });
    let client = builder.build().unwrap();
    let jobs: Jobs = (0..count).map(|index| job(Path::new(&dir), index)).collect();
    let results = client.generate_all_to(&jobs, &BatchOptions::new());
    let errors: Vec<_> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    let peak = peak.lock().unwrap();
    emit_result(&format!("{} {} {errors:?}", peak.0, peak.1));
}

fn start(sandbox: &Sandbox, dir: &TestDir, count: usize, mut command: Command) -> Subprocess {
    let count = count.to_string();
    command.env(URL, sandbox.url()).env(DIR, dir.path()).env(COUNT, count);
    Subprocess::start(command, "batch::subprocess_entry")
}

#[test]
fn batch_that_is_killed_anywhere_pays_once_for_each_job() {
    const JOBS: usize = 40;
    let sandbox = sandbox();
    sandbox.complete_after_polls(2);
    let dir = TestDir::new();
    let program = || this_binary();
    for kill in 0..40 {
        // Too many requests, once in a while.
        sandbox.fault(Endpoint::Create, Fault::status(429), 1);
        let mut run = start(&sandbox, &dir, JOBS, program());
        let until = sandbox.requests().len() + 1 + kill * 7 % 23;
        run.wait_until(|| sandbox.requests().len() >= until);
        let _ = run.kill();
    }
    sandbox.clear_faults();
    let mut result = start(&sandbox, &dir, JOBS, program()).wait();
    // A create that was killed before its last byte arrived is not known to anyone.
    for index in 0..JOBS {
        let (_, path) = job(dir.path(), index);
        if !path.exists() {
            FileJournal::for_target(&path).unwrap().abandon().unwrap();
            result = start(&sandbox, &dir, JOBS, program()).wait();
        }
    }
    assert!(result.ends_with("[]"), "{result}");
    assert_eq!(sandbox.generations().len(), JOBS);
    for index in 0..JOBS {
        let (_, path) = job(dir.path(), index);
        assert!(std::fs::read(path).unwrap() == sandbox.default_video());
    }
    // A video and a journal for each, and nothing else.
    assert_eq!(file_names(dir.path()).len(), 2 * JOBS);
}

#[cfg(target_os = "linux")]
#[test]
fn thousand_jobs_need_few_threads_and_files() {
    let sandbox = sandbox();
    sandbox.set_video(TINY_MP4.to_vec());
    let dir = TestDir::new();
    let mut program = Command::new("sh");
    program.args(["-c", "ulimit -n 128; exec \"$0\" \"$@\""]).arg(env::current_exe().unwrap());
    program.env(MEASURE, "1");
    let result = start(&sandbox, &dir, 1_000, program).wait();
    let mut words = result.splitn(3, ' ');
    let mut number = || words.next().unwrap().parse::<usize>().unwrap();
    let (threads, files) = (number(), number());
    assert_eq!(words.next(), Some("[]"));
    // The test harness has two threads of its own.
    assert!(threads <= 16 + 2, "{threads} threads");
    assert!(files <= 128, "{files} files");
    assert_eq!(create_counts(&sandbox), (1_000, 1_000));
}
