//! A program that is killed anywhere in `generate_to` and restarted pays once and ends with the
//! complete video. The program is this test binary, which runs only [`subprocess_entry`].

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{EventKind, FileJournal, Image, ImageToVideo};

use crate::helpers::clients::{create_counts, remote_client_builder, request, sandbox};
use crate::helpers::files::TestDir;
use crate::helpers::journal::rejected;
use crate::helpers::media::{TINY_MP4, mp4, png_of_len};
use crate::helpers::subprocess::{Subprocess, emit_result, this_binary};
use crate::helpers::timing::wait_until;

const URL: &str = "KLING_TEST_URL";
const TARGET: &str = "KLING_TEST_TARGET";
const IMAGE: &str = "KLING_TEST_IMAGE";
const PAUSE_AT: &str = "KLING_TEST_PAUSE_AT";

/// The program that is killed. It does nothing in a normal test run, which lacks its environment.
#[test]
fn subprocess_entry() {
    let (Ok(url), Ok(target)) = (env::var(URL), env::var(TARGET)) else { return };
    let pause_at = env::var(PAUSE_AT).unwrap_or_default();
    let client = remote_client_builder(url)
        .event_handler(move |event| {
            let at = match event.kind {
                EventKind::Uploading { sent, total, .. } if sent == total => "uploaded",
                EventKind::Uploading { sent, .. } if sent > 300_000 => "uploading",
                EventKind::Created { .. } => "created",
                EventKind::Polled { .. } => "polled",
                EventKind::Retrying { .. } => "retrying",
                EventKind::Downloading { received, .. } if received > 100_000 => "downloading",
                _ => "",
            };
            if !at.is_empty() && at == pause_at {
                emit_result("paused");
                loop {
                    thread::park();
                }
            }
        })
        .build()
        .unwrap();
    match client.generate_to(&request_of(env::var(IMAGE).ok().map(PathBuf::from)), target) {
        Ok(saved) if saved.reused => emit_result("reused"),
        Ok(_) => emit_result("saved"),
        Err(error) => emit_result(&format!("{:?} {error}", error.kind())),
    }
}

fn request_of(image: Option<PathBuf>) -> ImageToVideo {
    image.map_or_else(request, |path| ImageToVideo::new(Image::file(path)))
}

/// A server and a target, for runs that are repeated until the video is there.
struct Job {
    sandbox: Sandbox,
    dir: TestDir,
    image: Option<PathBuf>,
    video: Vec<u8>,
}

impl Job {
    /// Starts with an image URL and a small video.
    fn new() -> Job {
        let job =
            Job { sandbox: sandbox(), dir: TestDir::new(), image: None, video: TINY_MP4.to_vec() };
        job.sandbox.set_video(job.video.clone());
        job
    }

    fn with_image(mut self, length: usize) -> Job {
        let path = self.dir.path().join("cat.png");
        std::fs::write(&path, png_of_len(length)).unwrap();
        self.image = Some(path);
        self
    }

    fn with_video(mut self, length: usize) -> Job {
        self.video = mp4(length);
        self.sandbox.set_video(self.video.clone());
        self
    }

    fn start(&self, pause_at: &str) -> Subprocess {
        self.start_with(this_binary(), pause_at)
    }

    fn start_with(&self, mut command: Command, pause_at: &str) -> Subprocess {
        command.env(URL, self.sandbox.url()).env(TARGET, &self.dir.target).env(PAUSE_AT, pause_at);
        if let Some(image) = &self.image {
            command.env(IMAGE, image);
        }
        Subprocess::start(command, "kill::subprocess_entry")
    }

    fn kill_at(&self, event: &str) {
        let mut run = self.start(event);
        assert_eq!(run.next_result().as_deref(), Some("paused"), "at {event}");
        run.kill().unwrap();
    }

    /// Starts a run and kills it once the condition holds.
    fn kill_when(&self, what: &str, condition: impl Fn(&Sandbox) -> bool) {
        let run = self.start("");
        wait_until(what, || condition(&self.sandbox));
        run.kill().unwrap();
    }

    fn run(&self) -> String {
        self.start("").wait()
    }

    /// Asserts that the run paid once and saved the video.
    #[track_caller]
    fn assert_saved_once(&self) {
        assert_eq!(self.sandbox.generations().len(), 1, "the video must be paid for exactly once");
        self.assert_file_complete();
        let steps = self.dir.journal_steps();
        assert_eq!(steps.last().map(String::as_str), Some("saved"), "{steps:?}");
    }

    #[track_caller]
    fn assert_file_complete(&self) {
        assert!(std::fs::read(&self.dir.target).unwrap() == self.video, "the file is not complete");
        assert!(!self.dir.partial_file().exists());
        assert!(!self.dir.journal_text().contains("sandbox-key"));
    }
}

#[test]
fn uninterrupted_run_saves_and_is_then_reused() {
    let job = Job::new();
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    let requests = job.sandbox.requests().len();
    assert_eq!(job.run(), "reused");
    assert_eq!(job.sandbox.requests().len(), requests, "a request was sent");
    job.assert_saved_once();
}

#[test]
fn kill_before_sending_entry_leads_to_a_create() {
    for (event, job) in [
        ("uploading", Job::new().with_image(600_000)),
        ("uploading", Job::new().with_image(2_000_000)),
        ("uploaded", Job::new()),
        ("uploaded", Job::new().with_image(600_000)),
    ] {
        job.kill_at(event);
        job.kill_at(event);
        assert_eq!(job.dir.last_step().as_deref(), Some("intent"), "{event}");
        assert_eq!(job.sandbox.generations().len(), 0, "{event}");
        assert_eq!(job.run(), "saved", "{event}");
        job.assert_saved_once();
        assert_eq!(job.sandbox.request_count(Endpoint::Logs), 0, "there was nothing to recover");
    }
}

#[test]
fn kill_between_request_and_response_recovers_the_generation() {
    for job in [Job::new(), Job::new().with_image(300_000), Job::new().with_image(2_000_000)] {
        job.sandbox.fault(Endpoint::Create, Fault::no_response().after_accepting(), 1);
        job.kill_when("the create", |sandbox| sandbox.generations().len() == 1);
        assert_eq!(job.dir.journal_steps(), ["intent", "sending"]);
        assert_eq!(job.run(), "saved");
        job.assert_saved_once();
        assert_eq!(create_counts(&job.sandbox), (1, 1));
        assert_eq!(job.sandbox.request_count(Endpoint::Logs), 1);
    }
}

#[test]
fn create_missing_from_the_log_is_not_repeated_after_a_kill() {
    let job = Job::new();
    job.sandbox.set_log_delay(Duration::MAX);
    job.sandbox.fault(Endpoint::Create, Fault::no_response().after_accepting(), 1);
    job.kill_when("the create", |sandbox| sandbox.generations().len() == 1);
    for _ in 0..3 {
        let result = job.run();
        assert!(result.starts_with("CreateUnknown "), "{result}");
        assert_eq!(create_counts(&job.sandbox), (1, 1));
        assert_eq!(job.dir.last_step().as_deref(), Some("sending"));
    }
    job.sandbox.set_log_delay(Duration::ZERO);
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (1, 1));
}

#[test]
fn create_never_accepted_is_not_repeated_until_it_is_abandoned() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::no_response(), 1);
    job.kill_when("the create", |sandbox| sandbox.requests().iter().any(|r| r.body_complete));
    for _ in 0..2 {
        let result = job.run();
        assert!(result.starts_with("CreateUnknown "), "{result}");
        assert_eq!(create_counts(&job.sandbox), (1, 0));
    }
    FileJournal::for_target(&job.dir.target).unwrap().abandon().unwrap();
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
}

#[test]
fn kill_after_created_entry_fetches_the_generation() {
    for event in ["created", "polled"] {
        let job = Job::new();
        job.kill_at(event);
        assert_eq!(job.dir.journal_steps(), ["intent", "sending", "created"], "{event}");
        job.kill_at("polled");
        assert_eq!(job.run(), "saved", "{event}");
        job.assert_saved_once();
        assert_eq!(create_counts(&job.sandbox), (1, 1), "{event}");
        assert_eq!(job.sandbox.request_count(Endpoint::Logs), 0);
    }
}

#[test]
fn kill_during_download_restarts_the_download() {
    let job = Job::new().with_video(1_000_000);
    for _ in 0..2 {
        job.kill_at("downloading");
        assert!(std::fs::metadata(job.dir.partial_file()).unwrap().len() > 100_000);
        assert!(!job.dir.target.exists());
    }
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (1, 1));
}

#[test]
fn kill_during_back_off_after_429_leads_to_a_create() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    job.kill_at("retrying");
    assert_eq!(job.dir.journal_steps(), ["intent", "sending", "rejected"]);
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (2, 1));
    assert_eq!(job.sandbox.request_count(Endpoint::Logs), 0);
}

#[test]
fn kill_during_recovery_recovers_again() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::no_response().after_accepting(), 1);
    job.kill_when("the create", |sandbox| sandbox.generations().len() == 1);
    job.sandbox.fault(Endpoint::Logs, Fault::no_response(), 1);
    job.kill_when("the log request", |sandbox| sandbox.request_count(Endpoint::Logs) == 1);
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (1, 1));
}

#[test]
fn concurrent_processes_on_one_target_pay_once() {
    for _ in 0..3 {
        let job = Job::new().with_video(200_000);
        job.sandbox.set_response_delay(Endpoint::Create, Duration::from_millis(20));
        let runs = [job.start(""), job.start(""), job.start("")];
        let mut results = runs.map(Subprocess::wait);
        results.sort();
        assert_eq!(results, ["reused", "reused", "saved"]);
        job.assert_saved_once();
        assert_eq!(create_counts(&job.sandbox), (1, 1));
    }
}

#[test]
fn waiting_process_continues_the_generation_of_a_killed_one() {
    let job = Job::new();
    let mut first = job.start("created");
    assert_eq!(first.next_result().as_deref(), Some("paused"));
    let second = job.start("");
    // By then it has opened the journal and waits for the lock.
    thread::sleep(Duration::from_millis(60));
    assert_eq!(job.sandbox.requests().len(), 1);
    first.kill().unwrap();
    assert_eq!(second.wait(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (1, 1));
}

/// Kills runs at times spread evenly over their duration, and every fourth one just after the
/// server accepted the create or received a video request. Most jobs are killed more than once.
#[test]
fn kill_at_any_time_pays_once_and_ends_with_a_complete_file() {
    const KILLS: usize = 60;
    let started = Instant::now();
    assert_eq!(slow_job().run(), "saved");
    let run_duration = started.elapsed();

    let (mut kills, mut unknown, mut killed_after) = (0, 0, Vec::new());
    let mut runs = 0;
    while kills < KILLS {
        let job = slow_job();
        let mut abandoned = 0;
        loop {
            let last_step = job.dir.steps_of_torn_journal().pop();
            // Multiples of the golden ratio are spread evenly, however many there are.
            runs += 1;
            assert!(runs < 1000, "{kills} kills in 1000 runs");
            let fraction = (f64::from(runs) * 0.618_034).fract();
            let mut run = job.start("");
            match runs % 4 {
                0 => wait_for_progress(&mut run, &job.sandbox),
                _ => thread::sleep(run_duration.mul_f64(fraction)),
            }
            let result = if kills < KILLS { run.kill() } else { Err(run.wait()) };
            match result {
                Ok(()) => {
                    kills += 1;
                    killed_after.push(job.dir.steps_of_torn_journal().pop().unwrap_or_default());
                }
                Err(result) if result == "saved" || result == "reused" => break,
                Err(result) if result.starts_with("CreateUnknown ") => {
                    assert_eq!(last_step.as_deref(), Some("sending"), "{result}");
                    unknown += 1;
                    if !create_arrives(&job.sandbox) {
                        // The run was killed between the entry and the request. It cannot know that
                        // nothing was sent, so it needs a decision of the user.
                        FileJournal::for_target(&job.dir.target).unwrap().abandon().unwrap();
                        abandoned += 1;
                    }
                }
                Err(result) => panic!("after {last_step:?}: {result}"),
            }
            assert!(job.sandbox.generations().len() <= 1, "paid twice");
            let exists = job.dir.target.exists();
            assert!(!exists || std::fs::read(&job.dir.target).unwrap() == job.video);
        }
        job.assert_saved_once();
        // Every create request that was sent completely was accepted.
        let mut creates = job.sandbox.requests();
        creates.retain(|r| r.endpoint == Some(Endpoint::Create) && r.body_complete);
        assert_eq!(creates.len(), 1, "{abandoned} abandoned");
    }
    for step in ["sending", "created"] {
        assert!(killed_after.iter().any(|at| at == step), "never killed after {step:?}");
    }
    println!("{kills} kills in {runs} runs of {run_duration:?}, {unknown} ended as unknown");
}

/// A job whose requests take long enough for a kill to hit each of them.
fn slow_job() -> Job {
    let job = Job::new().with_image(100_000).with_video(150_000);
    for endpoint in [Endpoint::Create, Endpoint::Logs, Endpoint::Video] {
        job.sandbox.set_response_delay(endpoint, Duration::from_millis(12));
    }
    job.sandbox.set_response_delay(Endpoint::Retrieve, Duration::from_millis(4));
    job
}

/// Waits until the server accepts the create, or if it has, receives another video request.
fn wait_for_progress(run: &mut Subprocess, sandbox: &Sandbox) {
    let accepted = || sandbox.generations().len() == 1;
    let video_requests = sandbox.request_count(Endpoint::Video);
    match accepted() {
        false => run.wait_until(accepted),
        true => run.wait_until(|| sandbox.request_count(Endpoint::Video) > video_requests),
    }
}

/// Whether a create request that was in flight when its sender was killed still arrives.
fn create_arrives(sandbox: &Sandbox) -> bool {
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(300) {
        if sandbox.generations().len() == 1 {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

impl TestDir {
    /// The `step` of each line of a journal whose last line may be torn.
    fn steps_of_torn_journal(&self) -> Vec<String> {
        let text = self.journal_text();
        let values = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        values.map(|line: serde_json::Value| line["step"].as_str().unwrap().to_owned()).collect()
    }
}

/// A shell that limits the size of files to `blocks` blocks of 512 or 1024 bytes, depending on the
/// shell, and then execs this binary.
#[cfg(unix)]
fn with_file_size_limit(blocks: usize) -> Command {
    let mut command = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    let binary = this_binary();
    command.arg("-c").arg(script).arg(binary.get_program()).args(binary.get_args());
    command
}

#[cfg(unix)]
#[test]
fn full_disk_leaves_no_target_and_the_next_run_fetches() {
    let job = Job::new().with_video(1_000_000);
    let result = job.start_with(with_file_size_limit(100), "").wait();
    assert!(result.starts_with("Io "), "{result}");
    assert!(result.contains("failed to write the partial file"), "{result}");
    assert_eq!(job.dir.files(), ["cat.mp4.kling.jsonl"]);
    assert_eq!(job.dir.journal_steps(), ["intent", "sending", "created", "completed"]);
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (1, 1));
}

#[cfg(unix)]
#[test]
fn full_disk_that_blocks_the_journal_prevents_payment() {
    let job = Job::new();
    let result = job.start_with(with_file_size_limit(0), "").wait();
    assert!(result.starts_with("Journal "), "{result}");
    assert!(result.contains("failed to write"), "{result}");
    assert!(job.sandbox.requests().is_empty());
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
}

/// Pads a journal with a `rejected` entry so that the limit of `with_file_size_limit(4)` leaves
/// room for `next_bytes`.
#[cfg(unix)]
fn fill_up_to_limit(journal: &std::path::Path, next_bytes: u64) {
    let rejected = |length: usize| {
        // A field of a later version, which is ignored.
        let mut line: serde_json::Value = serde_json::from_str(&rejected()).unwrap();
        line["padding"] = "x".repeat(length).into();
        format!("{line}\n")
    };
    let empty = rejected(0).len() as u64;
    // The block size of `ulimit -f` differs between shells (512 or 1024 bytes), so measure it.
    let probe = journal.with_extension("probe");
    let script = format!("trap '' XFSZ; ulimit -f 1; head -c 4000 /dev/zero > {probe:?}");
    Command::new("sh").arg("-c").arg(script).stderr(Stdio::null()).status().unwrap();
    let block_size = std::fs::metadata(&probe).unwrap().len();
    std::fs::remove_file(probe).unwrap();
    let text = std::fs::read_to_string(journal).unwrap();
    let limit = block_size * 4;
    let fill = limit - text.len() as u64 - empty - next_bytes;
    std::fs::write(journal, format!("{text}{}", rejected(fill as usize))).unwrap();
}

/// The lengths of a journal's lines.
#[cfg(unix)]
fn line_lengths(dir: &TestDir) -> Vec<u64> {
    dir.journal_text().split_inclusive('\n').map(|line| line.len() as u64).collect()
}

#[cfg(unix)]
#[test]
fn sending_entry_write_failure_prevents_payment() {
    let job = Job::new();
    job.kill_at("uploaded");
    let intent = line_lengths(&job.dir)[0];
    fill_up_to_limit(&job.dir.journal(), intent + 20);
    let result = job.start_with(with_file_size_limit(4), "").wait();
    assert!(result.starts_with("Journal "), "{result}");
    assert_eq!(job.sandbox.generations().len(), 0);
    assert!(job.sandbox.requests().iter().all(|request| !request.body_complete));
    // The next run drops the torn line.
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(job.sandbox.request_count(Endpoint::Logs), 0);
}

/// All of the line is written but its newline, so that it could be taken for whole.
#[cfg(unix)]
#[test]
fn entry_cut_at_its_last_byte_is_taken_back() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::status(400), 1);
    assert!(job.run().starts_with("Api "));
    let lengths = line_lengths(&job.dir);
    assert_eq!(job.dir.journal_steps(), ["intent", "sending", "rejected"]);

    fill_up_to_limit(&job.dir.journal(), lengths[0] + lengths[1] - 1);
    let text = job.dir.journal_text();
    let result = job.start_with(with_file_size_limit(4), "").wait();
    assert!(result.starts_with("Journal ") && result.contains("nothing was created"), "{result}");
    assert!(!job.sandbox.requests().iter().skip(1).any(|request| request.body_complete));
    assert_eq!(job.dir.journal_text().strip_prefix(&text).unwrap().lines().count(), 1);
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(job.sandbox.request_count(Endpoint::Logs), 0);

    // A `rejected` entry that is not durable does not count, so the create is not known.
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::status(400), 2);
    assert!(job.run().starts_with("Api "));
    fill_up_to_limit(&job.dir.journal(), lengths.iter().sum::<u64>() - 1);
    let result = job.start_with(with_file_size_limit(4), "").wait();
    assert!(result.starts_with("Journal "), "{result}");
    assert_eq!(job.dir.last_step().as_deref(), Some("sending"));
    let result = job.run();
    assert!(result.starts_with("CreateUnknown "), "{result}");
    FileJournal::for_target(&job.dir.target).unwrap().abandon().unwrap();
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
}

#[cfg(unix)]
#[test]
fn created_entry_write_failure_does_not_stop_a_paid_run() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::status(400), 1);
    let result = job.run();
    assert!(result.starts_with("Api "), "{result}");
    let lengths = line_lengths(&job.dir);
    fill_up_to_limit(&job.dir.journal(), lengths[0] + lengths[1] + 20);
    let result = job.start_with(with_file_size_limit(4), "").wait();
    // The error names the generation. The run went on to the video, but did not put it in place:
    // without a `publishing` entry, it would be somebody's file.
    assert!(result.starts_with("Journal "), "{result}");
    assert!(result.contains(&job.sandbox.generations()[0].id), "{result}");
    assert_eq!(job.sandbox.request_count(Endpoint::Video), 1);
    assert_eq!(job.dir.files(), ["cat.mp4.kling.jsonl"]);
    assert_eq!(create_counts(&job.sandbox), (2, 1));
    // The next run finds the generation in the log and does not pay again.
    assert_eq!(job.run(), "saved");
    job.assert_saved_once();
    assert_eq!(create_counts(&job.sandbox), (2, 1));
}
