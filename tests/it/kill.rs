//! A program that is killed anywhere in `generate_to` and started again pays once and ends with the
//! whole video. The program is this test binary itself, running only [`child`].

use std::env;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::{Client, Endpoint, Event, Fault, Image, ImageToVideo, Sandbox};

use crate::common::{request, sandbox};
use crate::faults::{Place, TINY_MP4, creates, mp4, picture, quick_retry, quick_wait, until};

const URL: &str = "KLING_TEST_URL";
const TARGET: &str = "KLING_TEST_TARGET";
const PICTURE: &str = "KLING_TEST_PICTURE";
const PAUSE: &str = "KLING_TEST_PAUSE";

/// The program that is killed. Without its environment, in a usual test run, it has nothing to do.
#[test]
fn child() {
    let (Ok(url), Ok(target)) = (env::var(URL), env::var(TARGET)) else { return };
    let pause = env::var(PAUSE).unwrap_or_default();
    let client = Client::builder("sandbox-key")
        .base_url(url)
        .no_proxy()
        .idle_timeout(Duration::from_secs(30))
        .wait(quick_wait())
        .retry(quick_retry())
        .on_event(move |event| {
            let at = match event {
                Event::Uploading { sent, total, .. } if sent == total => "uploaded",
                Event::Uploading { sent, .. } if *sent > 300_000 => "uploading",
                Event::Created { .. } => "created",
                Event::Polled { .. } => "polled",
                Event::Retrying { .. } => "retrying",
                Event::Downloading { received, .. } if *received > 100_000 => "downloading",
                _ => "",
            };
            if !at.is_empty() && at == pause {
                say("paused");
                loop {
                    thread::park();
                }
            }
        })
        .build()
        .unwrap();
    match client.generate_to(&request_of(env::var(PICTURE).ok().map(PathBuf::from)), target) {
        Ok(saved) if saved.reused => say("reused"),
        Ok(_) => say("saved"),
        Err(error) => say(&format!("{:?} {error}", error.kind())),
    }
}

/// On a line of its own: the test harness writes to the same place.
fn say(what: &str) {
    let mut out = std::io::stdout();
    writeln!(out, "\nCHILD {what}").unwrap();
    out.flush().unwrap();
}

fn request_of(picture: Option<PathBuf>) -> ImageToVideo {
    picture.map_or_else(request, |path| ImageToVideo::new(Image::file(path)))
}

/// The child, running.
struct Run {
    process: Child,
    out: BufReader<ChildStdout>,
}

impl Run {
    /// What the child says next; `None`: it is dead.
    fn hear(&mut self) -> Option<String> {
        let mut line = String::new();
        while self.out.read_line(&mut line).unwrap() > 0 {
            if let Some(said) = line.strip_prefix("CHILD ") {
                return Some(said.trim().to_owned());
            }
            line.clear();
        }
        None
    }

    /// Waits for its end and says how it ended.
    fn end(mut self) -> String {
        let said = self.hear().expect("the child ended without a word");
        self.process.wait().unwrap();
        said
    }

    /// Waits until something has come, or the child has ended before it.
    fn wait_for(&mut self, seen: impl Fn() -> bool) {
        until("the moment, or the end", || seen() || self.process.try_wait().unwrap().is_some());
    }

    /// SIGKILL, and whether that was what ended it; if not, what it said.
    fn kill(mut self) -> Result<(), String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.hear().filter(|said| said != "paused").map_or(Ok(()), Err)
    }
}

/// A test that fails leaves no child behind.
impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// One job: a server, a target, and runs on it until the video is there.
struct Job {
    sandbox: Sandbox,
    place: Place,
    picture: Option<PathBuf>,
    video: Vec<u8>,
}

impl Job {
    /// With a link as its picture, and a small video.
    fn new() -> Job {
        let job = Job {
            sandbox: sandbox(),
            place: Place::new(),
            picture: None,
            video: TINY_MP4.to_vec(),
        };
        job.sandbox.serve_video(job.video.clone());
        job
    }

    fn with_picture(mut self, length: usize) -> Job {
        let path = self.place.folder.path().join("cat.png");
        std::fs::write(&path, picture(length)).unwrap();
        self.picture = Some(path);
        self
    }

    fn with_video(mut self, length: usize) -> Job {
        self.video = mp4(length);
        self.sandbox.serve_video(self.video.clone());
        self
    }

    fn start(&self, pause: &str) -> Run {
        self.start_by(Command::new(env::current_exe().unwrap()), pause)
    }

    fn start_by(&self, mut command: Command, pause: &str) -> Run {
        command
            .args(["--exact", "kill::child", "--nocapture", "--test-threads=1"])
            .env(URL, self.sandbox.url())
            .env(TARGET, &self.place.target)
            .env(PAUSE, pause)
            .stdin(Stdio::null())
            .stdout(Stdio::piped());
        if let Some(picture) = &self.picture {
            command.env(PICTURE, picture);
        }
        let mut process = command.spawn().unwrap();
        let out = BufReader::new(process.stdout.take().unwrap());
        Run { process, out }
    }

    /// Runs it until it comes to this event, and kills it there.
    fn kill_at(&self, event: &str) {
        let mut run = self.start(event);
        assert_eq!(run.hear().as_deref(), Some("paused"), "at {event}");
        run.kill().unwrap();
    }

    /// Runs it until the server has seen something, and kills it then.
    fn kill_when(&self, what: &str, seen: impl Fn(&Sandbox) -> bool) {
        let run = self.start("");
        until(what, || seen(&self.sandbox));
        run.kill().unwrap();
    }

    fn run(&self) -> String {
        self.start("").end()
    }

    /// Everything is there, once.
    #[track_caller]
    fn check(&self) {
        assert_eq!(self.sandbox.generations().len(), 1, "paid once");
        self.check_file();
        let steps = self.place.steps();
        assert_eq!(steps.last().map(String::as_str), Some("saved"), "{steps:?}");
    }

    #[track_caller]
    fn check_file(&self) {
        assert!(std::fs::read(&self.place.target).unwrap() == self.video, "the file is not whole");
        assert!(!self.place.part().exists());
        assert!(!self.place.journal_text().contains("sandbox-key"));
    }
}

#[test]
fn a_run_that_nobody_kills_ends_and_is_reused() {
    let job = Job::new();
    assert_eq!(job.run(), "saved");
    job.check();
    let requests = job.sandbox.requests().len();
    assert_eq!(job.run(), "reused");
    assert_eq!(job.sandbox.requests().len(), requests, "no call was made");
    job.check();
}

#[test]
fn killed_before_the_sending_line_the_next_run_simply_creates() {
    for (event, job) in [
        ("uploading", Job::new().with_picture(600_000)),
        ("uploading", Job::new().with_picture(2_000_000)),
        ("uploaded", Job::new()),
        ("uploaded", Job::new().with_picture(600_000)),
    ] {
        job.kill_at(event);
        job.kill_at(event);
        assert_eq!(job.place.last_step().as_deref(), Some("intent"), "{event}");
        assert_eq!(job.sandbox.generations().len(), 0, "{event}");
        assert_eq!(job.run(), "saved", "{event}");
        job.check();
        assert_eq!(job.sandbox.count(Endpoint::Logs), 0, "nothing had to be looked up");
    }
}

#[test]
fn killed_between_the_request_and_its_answer_the_next_run_finds_the_generation() {
    for job in [Job::new(), Job::new().with_picture(300_000), Job::new().with_picture(2_000_000)] {
        job.sandbox.fault(Endpoint::Create, Fault::stall().acted(), 1);
        job.kill_when("the create", |sandbox| sandbox.generations().len() == 1);
        assert_eq!(job.place.steps(), ["intent", "sending"]);
        assert_eq!(job.run(), "saved");
        job.check();
        assert_eq!(creates(&job.sandbox), (1, 1));
        assert_eq!(job.sandbox.count(Endpoint::Logs), 1);
    }
}

#[test]
fn killed_there_and_not_listed_yet_nothing_is_created_until_it_is() {
    let job = Job::new();
    job.sandbox.log_delay(Duration::MAX);
    job.sandbox.fault(Endpoint::Create, Fault::stall().acted(), 1);
    job.kill_when("the create", |sandbox| sandbox.generations().len() == 1);
    for _ in 0..3 {
        let said = job.run();
        assert!(said.starts_with("CreateUnknown "), "{said}");
        assert_eq!(creates(&job.sandbox), (1, 1));
        assert_eq!(job.place.last_step().as_deref(), Some("sending"));
    }
    job.sandbox.log_delay(Duration::ZERO);
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (1, 1));
}

#[test]
fn killed_there_and_never_accepted_nothing_is_created_until_the_journal_is_deleted() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::stall(), 1);
    job.kill_when("the create", |sandbox| sandbox.requests().iter().any(|r| r.complete));
    for _ in 0..2 {
        let said = job.run();
        assert!(said.starts_with("CreateUnknown "), "{said}");
        assert_eq!(creates(&job.sandbox), (1, 0));
    }
    std::fs::remove_file(job.place.journal()).unwrap();
    assert_eq!(job.run(), "saved");
    job.check();
}

#[test]
fn killed_after_the_created_line_the_next_run_fetches() {
    for event in ["created", "polled"] {
        let job = Job::new();
        job.kill_at(event);
        assert_eq!(job.place.steps(), ["intent", "sending", "created"], "{event}");
        job.kill_at("polled");
        assert_eq!(job.run(), "saved", "{event}");
        job.check();
        assert_eq!(creates(&job.sandbox), (1, 1), "{event}");
        assert_eq!(job.sandbox.count(Endpoint::Logs), 0);
    }
}

#[test]
fn killed_in_the_download_the_next_run_begins_it_again() {
    let job = Job::new().with_video(1_000_000);
    for _ in 0..2 {
        job.kill_at("downloading");
        assert!(std::fs::metadata(job.place.part()).unwrap().len() > 100_000);
        assert!(!job.place.target.exists());
    }
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (1, 1));
}

#[test]
fn killed_in_the_back_off_after_a_429_the_next_run_creates() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    job.kill_at("retrying");
    assert_eq!(job.place.steps(), ["intent", "sending", "refused"]);
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (2, 1));
    assert_eq!(job.sandbox.count(Endpoint::Logs), 0);
}

#[test]
fn killed_in_the_look_up_the_next_run_looks_again() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::stall().acted(), 1);
    job.kill_when("the create", |sandbox| sandbox.generations().len() == 1);
    job.sandbox.fault(Endpoint::Logs, Fault::stall(), 1);
    job.kill_when("the look-up", |sandbox| sandbox.count(Endpoint::Logs) == 1);
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (1, 1));
}

#[test]
fn two_processes_at_once_on_one_target_pay_once() {
    for _ in 0..3 {
        let job = Job::new().with_video(200_000);
        job.sandbox.delay(Endpoint::Create, Duration::from_millis(20));
        let runs = [job.start(""), job.start(""), job.start("")];
        let mut ends = runs.map(Run::end);
        ends.sort();
        assert_eq!(ends, ["reused", "reused", "saved"]);
        job.check();
        assert_eq!(creates(&job.sandbox), (1, 1));
    }
}

#[test]
fn a_process_that_waits_for_a_killed_one_goes_on_with_its_generation() {
    let job = Job::new();
    let mut first = job.start("created");
    assert_eq!(first.hear().as_deref(), Some("paused"));
    let second = job.start("");
    // It has the journal open and waits for its lock.
    thread::sleep(Duration::from_millis(60));
    assert_eq!(job.sandbox.requests().len(), 1);
    first.kill().unwrap();
    assert_eq!(second.end(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (1, 1));
}

/// Kills at times spread evenly over the whole run, and now and then right where the server has
/// taken the request or is asked for the video; mostly more than once in one job.
#[test]
fn killed_at_any_time_and_started_again_it_pays_once_and_the_file_is_whole() {
    const KILLS: usize = 60;
    let new_job = || {
        let job = Job::new().with_picture(100_000).with_video(150_000);
        for endpoint in [Endpoint::Create, Endpoint::Logs, Endpoint::Video] {
            job.sandbox.delay(endpoint, Duration::from_millis(12));
        }
        job.sandbox.delay(Endpoint::Retrieve, Duration::from_millis(4));
        job
    };
    let begun = Instant::now();
    assert_eq!(new_job().run(), "saved");
    let whole_run = begun.elapsed();

    let (mut kills, mut unknown, mut killed_after) = (0, 0, Vec::new());
    let mut runs = 0;
    while kills < KILLS {
        let job = new_job();
        let mut abandoned = 0;
        loop {
            let last_step = job.place.steps_of_torn().pop();
            // The golden ratio spreads points evenly, however many there are.
            runs += 1;
            assert!(runs < 1000, "{kills} kills in 1000 runs");
            let share = (f64::from(runs) * 0.618_034).fract();
            let mut run = job.start("");
            let paid = || job.sandbox.generations().len() == 1;
            let asked_for_video = job.sandbox.count(Endpoint::Video);
            match runs % 4 {
                0 if !paid() => run.wait_for(paid),
                0 => run.wait_for(|| job.sandbox.count(Endpoint::Video) > asked_for_video),
                _ => thread::sleep(whole_run.mul_f64(share)),
            }
            let said = if kills < KILLS { run.kill() } else { Err(run.end()) };
            match said {
                Ok(()) => {
                    kills += 1;
                    killed_after.push(job.place.steps_of_torn().pop().unwrap_or_default());
                }
                Err(said) if said == "saved" || said == "reused" => break,
                Err(said) if said.starts_with("CreateUnknown ") => {
                    assert_eq!(last_step.as_deref(), Some("sending"), "{said}");
                    unknown += 1;
                    if !settles(&job.sandbox) {
                        // Killed between the line and the request: only a person can know.
                        std::fs::remove_file(job.place.journal()).unwrap();
                        abandoned += 1;
                    }
                }
                Err(said) => panic!("after {last_step:?}: {said}"),
            }
            assert!(job.sandbox.generations().len() <= 1, "paid twice");
            let in_place = job.place.target.exists();
            assert!(!in_place || std::fs::read(&job.place.target).unwrap() == job.video);
        }
        job.check();
        // Each create that was sent whole is one that was accepted.
        let whole =
            |r: &&kling_video::SandboxRequest| r.endpoint == Some(Endpoint::Create) && r.complete;
        assert_eq!(job.sandbox.requests().iter().filter(whole).count(), 1, "{abandoned} abandoned");
    }
    for step in ["sending", "created"] {
        assert!(killed_after.iter().any(|at| at == step), "never killed after {step:?}");
    }
    println!("{kills} kills in {runs} runs of {whole_run:?}, {unknown} stopped as unknown");
}

/// Whether a create that was underway when its sender was killed still arrives.
fn settles(sandbox: &Sandbox) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_millis(300) {
        if sandbox.generations().len() == 1 {
            return true;
        }
        thread::sleep(Duration::from_millis(2));
    }
    false
}

impl Place {
    /// The steps of a journal whose last line may be torn.
    fn steps_of_torn(&self) -> Vec<String> {
        let text = self.journal_text();
        let values = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        values.map(|line: serde_json::Value| line["step"].as_str().unwrap().to_owned()).collect()
    }
}

/// A shell that allows files of so many blocks (of 512 or 1024 bytes) and then is the child.
#[cfg(unix)]
fn in_little_space(blocks: usize) -> Command {
    let mut command = Command::new("sh");
    let script = format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" \"$@\"");
    command.arg("-c").arg(script).arg(env::current_exe().unwrap());
    command
}

#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing_under_the_targets_name_and_the_next_run_fetches_it() {
    let job = Job::new().with_video(1_000_000);
    let said = job.start_by(in_little_space(100), "").end();
    assert!(said.starts_with("Io "), "{said}");
    assert!(said.contains("the file cannot be written"), "{said}");
    assert_eq!(job.place.files(), ["cat.mp4.kling.jsonl"]);
    assert_eq!(job.place.steps(), ["intent", "sending", "created"]);
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (1, 1));
}

#[cfg(unix)]
#[test]
fn a_disk_too_full_for_the_journal_keeps_a_run_from_paying() {
    let job = Job::new();
    let said = job.start_by(in_little_space(0), "").end();
    assert!(said.starts_with("Journal "), "{said}");
    assert!(said.contains("cannot be written"), "{said}");
    assert!(job.sandbox.requests().is_empty());
    assert_eq!(job.run(), "saved");
    job.check();
}

/// Fills a journal with refusals so that what fits under the limit ends in the line after these.
#[cfg(unix)]
fn fill_up_to_the_limit(journal: &std::path::Path, next_lines: u64) {
    let refusal = |length: usize| {
        let line = serde_json::json!({ "step": "refused", "why": "" }).to_string();
        format!("{}\n", line.replace("\"\"", &format!("\"{}\"", "x".repeat(length))))
    };
    let bare = refusal(0).len() as u64;
    // What `ulimit -f 1` means differs between shells: 512 or 1024 bytes, so it is tried.
    let probe = journal.with_extension("probe");
    let script = format!("trap '' XFSZ; ulimit -f 1; head -c 4000 /dev/zero > {probe:?}");
    Command::new("sh").arg("-c").arg(script).stderr(Stdio::null()).status().unwrap();
    let unit = std::fs::metadata(&probe).unwrap().len();
    std::fs::remove_file(probe).unwrap();
    let text = std::fs::read_to_string(journal).unwrap();
    // Room for the next lines and for half of what follows them.
    let limit = unit * 4;
    let fill = limit - text.len() as u64 - bare - next_lines - 20;
    std::fs::write(journal, format!("{text}{}", refusal(fill as usize))).unwrap();
}

/// Of a journal's first lines: intent, sending.
#[cfg(unix)]
fn lengths(place: &Place) -> Vec<u64> {
    place.journal_text().split_inclusive('\n').map(|line| line.len() as u64).collect()
}

#[cfg(unix)]
#[test]
fn a_sending_line_that_cannot_be_written_keeps_a_run_from_paying() {
    let job = Job::new();
    job.kill_at("uploaded");
    let intent = lengths(&job.place)[0];
    fill_up_to_the_limit(&job.place.journal(), intent);
    let said = job.start_by(in_little_space(4), "").end();
    assert!(said.starts_with("Journal "), "{said}");
    assert_eq!(job.sandbox.generations().len(), 0);
    assert!(job.sandbox.requests().iter().all(|request| !request.complete));
    // The torn line is cut off, and never happened.
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(job.sandbox.count(Endpoint::Logs), 0);
}

#[cfg(unix)]
#[test]
fn a_created_line_that_cannot_be_written_does_not_stop_a_run_that_has_paid() {
    let job = Job::new();
    job.sandbox.fault(Endpoint::Create, Fault::status(400), 1);
    let said = job.run();
    assert!(said.starts_with("Api "), "{said}");
    let lengths = lengths(&job.place);
    fill_up_to_the_limit(&job.place.journal(), lengths[0] + lengths[1]);
    let said = job.start_by(in_little_space(4), "").end();
    // It reports that it could not be written down, with the id, and the video is there.
    assert!(said.starts_with("Journal "), "{said}");
    assert!(said.contains(&job.sandbox.generations()[0].id), "{said}");
    job.check_file();
    assert_eq!(creates(&job.sandbox), (2, 1));
    // The next run finds it in the log and does not pay again.
    assert_eq!(job.run(), "saved");
    job.check();
    assert_eq!(creates(&job.sandbox), (2, 1));
}
