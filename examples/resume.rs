//! A run that can be interrupted anywhere, started again, and pays once.
//!
//! `cargo run --example resume`, interrupt it with Ctrl-C, and run it again. It needs no key:
//! without one it talks to the sandbox, a stand-in for the API. That has to survive the
//! interruption as the real API would, so it runs in a process of its own, in the background, for
//! some minutes.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use kling_video::{
    Client, ClientBuilder, Endpoint, Event, Image, ImageToVideo, RetryPolicy, Sandbox, WaitOptions,
};

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

const HELP: &str = "\
Shows that a run can be interrupted with Ctrl-C and run again, and pays once.

Usage: cargo run --example resume -- [--sandbox]

  --sandbox   use the sandbox even though there is a key
  -h, --help  show this

The API key is taken from AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY. Without one, the sandbox
is used: offline and free of charge.
";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let args: Vec<_> = args.iter().map(|arg| arg.to_str().unwrap_or("?")).collect();
    let done = match args.as_slice() {
        [] => run(false),
        ["--sandbox"] => run(true),
        ["-h" | "--help"] => {
            print!("{HELP}");
            return ExitCode::SUCCESS;
        }
        // Not for people: what a run starts in the background.
        ["--serve"] => serve(),
        _ => {
            eprintln!("error: unknown arguments: {}\nTry --help.", args.join(" "));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error}");
            let mut cause = error.source();
            while let Some(error) = cause {
                eprintln!("  because: {error}");
                cause = error.source();
            }
            ExitCode::FAILURE
        }
    }
}

fn run(sandbox: bool) -> Result<()> {
    let (builder, target, sandbox) = match Client::builder_from_env() {
        Ok(builder) if !sandbox => {
            println!("Using AI/ML API with the key from the environment: this costs money, once.");
            (builder, PathBuf::from("kling-video-resume.mp4"), false)
        }
        _ => {
            let (builder, target) = find_or_start_sandbox()?;
            (builder, target, true)
        }
    };
    let client = builder.on_event(show).build()?;
    let picture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/picture.jpg");
    let request = ImageToVideo::new(Image::file(picture)).prompt("the camera moves in slowly");

    show_journal(&target);
    println!("Interrupt me with Ctrl-C whenever you like, and run me again.");
    let saved = client.generate_to(&request, &target)?;

    println!("Generation: {}", saved.id);
    println!("Video:      {} ({} bytes)", saved.path.display(), saved.bytes);
    if saved.reused {
        println!("Reused:     yes, the video was there already and nothing was asked of the API");
    } else {
        println!("Reused:     no; run me once more and it will be");
    }
    if sandbox {
        let paid = (BALANCE - client.balance()?.amount) / PRICE;
        println!("Paid for:   {paid} create(s), all runs together");
    }
    Ok(())
}

/// Shows how far an earlier run came. `generate_to` sees to it by itself.
fn show_journal(target: &Path) {
    let journal = target.with_extension("mp4.kling.jsonl");
    match fs::read_to_string(&journal) {
        Ok(steps) => {
            println!("An earlier run left its journal, {}", journal.display());
            println!("Its last step: {}", steps.lines().last().unwrap_or("none"));
        }
        Err(_) => println!("There is no journal of an earlier run: this one is the first."),
    }
}

/// What the client calls with everything that happens.
fn show(event: &Event<'_>) {
    match event {
        Event::Uploading { sent, total, .. } if sent == total => {
            println!("The request is sent; waiting for the answer ...");
        }
        Event::Created { generation, .. } => println!("Accepted and paid for: {}", generation.id),
        Event::Polled { generation, .. } => println!("{}: {}", generation.id, generation.status),
        Event::Retrying { after, error, .. } => eprintln!("{error}; next try in {after:.1?}"),
        _ => {}
    }
}

// What follows is about the sandbox, and nothing that a program of yours needs.

/// What the sandbox's account holds at first, and what a generation takes from it.
const BALANCE: f64 = 100.0;
const PRICE: f64 = 1.0;

/// The sandbox ends after so long without a request.
const IDLE: Duration = Duration::from_secs(5 * 60);

/// A builder for the sandbox of an earlier run while that is there, else for a new one; and where
/// the video goes.
fn find_or_start_sandbox() -> Result<(ClientBuilder, PathBuf)> {
    let folder = std::env::temp_dir().join("kling-video-resume");
    fs::create_dir_all(&folder)?;
    let target = folder.join("kling-video.mp4");
    // The note says where the sandbox is. Locked, so that two runs at once start one sandbox.
    let note = folder.join("sandbox.txt");
    let lock = File::create(folder.join("lock"))?;
    lock.lock()?;

    let known = fs::read_to_string(&note).unwrap_or_default();
    if is_alive(&known) {
        println!("Using the sandbox that an earlier run started in the background.");
        return Ok((builder_for(&known), target));
    }
    // A sandbox that has ended took its generations with it: nothing to resume.
    for left in ["mp4", "mp4.kling.jsonl", "mp4.part"] {
        let _ = fs::remove_file(target.with_extension(left));
    }
    let new = start_server()?;
    fs::write(note, &new)?;
    println!("Started a sandbox in the background: offline, free of charge, and its video is a");
    println!("sample. It ends by itself after {} minutes without a request.", IDLE.as_secs() / 60);
    Ok((builder_for(&new), target))
}

/// Runs this program again as the server, and returns its first line: the note.
fn start_server() -> Result<String> {
    let mut command = Command::new(std::env::current_exe()?);
    command.arg("--serve").current_dir(std::env::temp_dir());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    // Ctrl-C goes to the process group of the terminal: the server gets one of its own.
    #[cfg(unix)]
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    #[cfg(windows)] // CREATE_NEW_PROCESS_GROUP
    std::os::windows::process::CommandExt::creation_flags(&mut command, 0x200);
    let mut server = command.spawn()?;
    let mut note = String::new();
    if let Some(output) = server.stdout.take() {
        BufReader::new(output).read_line(&mut note)?;
    }
    match is_alive(&note) {
        true => Ok(note),
        false => Err("the sandbox did not start".into()),
    }
}

/// The sandbox, in a process of its own: its address on stdout, then a generation that takes about
/// 15 seconds for whoever asks.
fn serve() -> Result<()> {
    let sandbox = Sandbox::start()?;
    sandbox.finish_after(13);
    sandbox.delay(Endpoint::Create, Duration::from_secs(2));
    println!("{} {}", sandbox.url(), sandbox.key());

    let (mut seen, mut since) = (0, Instant::now());
    while since.elapsed() < IDLE {
        std::thread::sleep(Duration::from_millis(50));
        sandbox.balance(BALANCE - PRICE * sandbox.generations().len() as f64);
        let requests = sandbox.requests().len();
        if requests != seen {
            (seen, since) = (requests, Instant::now());
        }
    }
    Ok(())
}

/// A builder for the sandbox of a note, which looks at its generations every second.
fn builder_for(note: &str) -> ClientBuilder {
    let (url, key) = note.trim().split_once(' ').unwrap_or_default();
    let second = Duration::from_secs(1);
    let wait = WaitOptions::new().first_poll_after(second).interval(second);
    Client::builder(key).base_url(url).no_proxy().wait(wait)
}

fn is_alive(note: &str) -> bool {
    let client = builder_for(note).retry(RetryPolicy::none()).build();
    client.is_ok_and(|client| client.balance().is_ok())
}
