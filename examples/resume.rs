//! Shows a run that can be interrupted at any point and started again, and pays once.
//!
//! Run `cargo run --example resume`, interrupt it with Ctrl-C, and run it again. It needs no API
//! key: without one it uses the sandbox, a bundled mock server. Like the real API, the sandbox must
//! survive the interruption, so it runs in its own process, in the background, for some minutes.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{
    Client, ClientBuilder, Event, EventKind, FileJournal, Image, ImageToVideo, RetryPolicy,
    WaitOptions,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
Generates a video in a run that can be interrupted with Ctrl-C and started again, and pays once.

Usage: cargo run --example resume -- [OPTIONS]

Options:
  --sandbox   Use the sandbox even if an API key is set
  --abandon   Give up a run that cannot be finished (its create stays unknown, or its generation has
              ended without a video), so that the next one pays for a new generation
  -h, --help  Print this help

The API key is read from AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY. Without one, the sandbox is
used: offline and free of charge.
";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap_or("?")).collect();
    let result = match args.as_slice() {
        [] => run(false),
        ["--sandbox"] => run(true),
        ["--abandon"] => abandon(),
        ["-h" | "--help"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        // Internal: a run starts the sandbox with this argument.
        ["--serve"] => serve(),
        _ => {
            let args = args.join(" ");
            eprintln!("error: unexpected arguments: {args}\nTry '--help' for more information.");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  caused by: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

/// Gives up what an earlier run may have paid for.
fn abandon() -> Result<()> {
    let target = match Client::builder_from_env() {
        Ok(_) => PathBuf::from("kling-video-resume.mp4"),
        Err(_) => sandbox_dir().join("kling-video.mp4"),
    };
    FileJournal::for_target(target)?.abandon()?;
    println!("Abandoned. The next run creates a new generation if this one is not finished.");
    Ok(())
}

fn run(sandbox: bool) -> Result<()> {
    let (builder, target, sandbox) = match Client::builder_from_env() {
        Ok(builder) if !sandbox => {
            println!("Using AI/ML API with the key from the environment. This costs money, once.");
            (builder, PathBuf::from("kling-video-resume.mp4"), false)
        }
        _ => {
            let (builder, target) = find_or_start_sandbox()?;
            (builder, target, true)
        }
    };
    let client = builder.event_handler(print_event).build()?;
    let image = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/image.jpg");
    let request = ImageToVideo::new(Image::file(image)).prompt("the camera moves in slowly");

    print_last_entry(&target);
    println!("You can interrupt this run with Ctrl-C at any time and start it again.");
    let saved = client.generate_to(&request, &target)?;

    println!("Generation: {}", saved.id);
    println!("Video:      {} ({} bytes)", saved.path.display(), saved.bytes);
    if saved.reused {
        println!("Reused:     yes; the video was already there, and nothing was requested");
    } else {
        println!("Reused:     no; the next run reuses this video");
    }
    if sandbox {
        let paid = (INITIAL_BALANCE - client.balance()?.amount) / PRICE;
        println!("Paid for:   {paid} generation(s), in all runs together");
    }
    Ok(())
}

/// Prints the last journal entry of an earlier run, only for information: `generate_to` reads the
/// journal itself.
fn print_last_entry(target: &Path) {
    let journal = target.with_extension("mp4.kling.jsonl");
    match fs::read_to_string(&journal) {
        Ok(entries) => {
            println!("Found the journal of an earlier run: {}", journal.display());
            println!("Last entry: {}", entries.lines().last().unwrap_or("none"));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            println!("Found no journal: this is the first run.");
        }
        // On Windows, one that another run has open cannot be read.
        Err(error) => println!("The journal of another run cannot be read now: {error}"),
    }
}

fn print_event(event: &Event<'_>) {
    match event.kind {
        EventKind::Uploading { sent, total, .. } if sent == total => {
            println!("Request sent, waiting for the response ...");
        }
        EventKind::Created { generation, .. } => {
            println!("Created and paid for: {}", generation.id);
        }
        EventKind::Recovered => {
            println!("Recovered the generation of the interrupted create")
        }
        EventKind::Polled { generation, .. } => {
            println!("{}: {}", generation.id, generation.status);
        }
        EventKind::Retrying { delay, error, .. } => eprintln!("{error}; retrying in {delay:.1?}"),
        _ => {}
    }
}

// The rest of this file manages the sandbox process. Your program needs none of it.

/// The initial balance of the sandbox's account.
const INITIAL_BALANCE: f64 = 100.0;

/// The price of a generation in the sandbox.
const PRICE: f64 = 1.0;

/// The sandbox process exits after this time without a request.
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);

/// Returns a builder for the sandbox, and the path of the video. The sandbox is the one of an
/// earlier run if it is still running, else a new one.
fn find_or_start_sandbox() -> Result<(ClientBuilder, PathBuf)> {
    let dir = sandbox_dir();
    fs::create_dir_all(&dir)?;
    let target = dir.join("kling-video.mp4");
    // With the lock, two concurrent runs start only one sandbox.
    let lock = File::create(dir.join("lock"))?;
    lock.lock()?;

    let address_file = dir.join("sandbox.txt");
    let address = fs::read_to_string(&address_file).unwrap_or_default();
    if is_running(&address) {
        println!("Using the sandbox that an earlier run started in the background.");
        return Ok((builder_for(&address), target));
    }
    // A sandbox's generations end with its process, so the files of an earlier run are useless.
    for name in ["kling-video.mp4", "kling-video.mp4.kling.jsonl", ".kling-video.mp4.kling.part"] {
        let _ = fs::remove_file(dir.join(name));
    }
    let address = start_sandbox_process()?;
    fs::write(address_file, &address)?;
    let minutes = IDLE_TIMEOUT.as_secs() / 60;
    println!("Started the sandbox, a mock server in the background: offline and free of charge.");
    println!("It returns a sample video, and exits after {minutes} minutes without a request.");
    Ok((builder_for(&address), target))
}

/// Starts this program again with `--serve`, and returns the line that it prints: the address.
fn start_sandbox_process() -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--serve").current_dir(std::env::temp_dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Ctrl-C is sent to the terminal's process group, so the sandbox gets its own group.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    #[cfg(windows)] // CREATE_NEW_PROCESS_GROUP
    std::os::windows::process::CommandExt::creation_flags(&mut command, 0x200);
    let mut process = command.spawn()?;
    let mut address = String::new();
    if let Some(stdout) = process.stdout.take() {
        BufReader::new(stdout).read_line(&mut address)?;
    }
    match is_running(&address) {
        true => Ok(address),
        false => Err("the sandbox process did not start; run again".into()),
    }
}

/// Runs the sandbox in this process, and prints its address. A generation takes about 15 seconds.
fn serve() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.complete_after_polls(13);
    sandbox.set_response_delay(Endpoint::Create, Duration::from_secs(2));
    println!("{} {}", sandbox.url(), sandbox.key());

    let (mut request_count, mut last_request) = (0, Instant::now());
    while last_request.elapsed() < IDLE_TIMEOUT {
        std::thread::sleep(Duration::from_millis(50));
        sandbox.set_balance(INITIAL_BALANCE - PRICE * sandbox.generations().len() as f64);
        let count = sandbox.requests().len();
        if count != request_count {
            (request_count, last_request) = (count, Instant::now());
        }
    }
    Ok(())
}

/// Returns a builder for the sandbox at `address`, its URL and API key, with a poll every second.
fn builder_for(address: &str) -> ClientBuilder {
    let (url, key) = address.trim().split_once(' ').unwrap_or_default();
    let second = Duration::from_secs(1);
    let options = WaitOptions::new().initial_delay(second).interval(second);
    Client::builder(key).base_url(url).no_proxy().wait_options(options)
}

fn is_running(address: &str) -> bool {
    let client = builder_for(address).retry_policy(RetryPolicy::none()).build();
    client.is_ok_and(|client| client.balance().is_ok())
}

/// Where the runs without an API key keep their files.
fn sandbox_dir() -> PathBuf {
    std::env::temp_dir().join("kling-video-resume")
}
