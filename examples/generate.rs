//! Turns an image into a video, with progress. It can be interrupted at any point and started
//! again, and pays once.
//!
//! `cargo run --example generate` needs no API key: without one it uses the sandbox, a bundled mock
//! server that runs in this process and returns a sample video.

mod common;

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::ProgressBar;
use kling_video::{
    Client, Error, ErrorKind, Event, EventKind, FileJournal, GenerationId, Image, ImageToVideo,
    Journal as _, JournalEntry, Usage, VideoDuration,
};
use lexopt::prelude::*;

use common::{
    Demo, Result, SAMPLE_IMAGES, cancelled_by_ctrl_c, connect, cost, exit_code, print_line,
    print_note, style, with_causes,
};

const HELP: &str = "\
Turns an image into a video with Kling 2.1 Pro on AI/ML API.
The same command again continues where the last one stopped,
and does not pay again.

Usage: cargo run --example generate -- [OPTIONS] [IMAGE]

Arguments:
  [IMAGE]  Path or https:// URL of a JPEG or PNG image.
           Defaults to a sample image

Options:
  --prompt TEXT           What should happen in the video
  --negative-prompt TEXT  What should not appear in it
  --duration 5|10         Seconds of video. Defaults to the
                          API's default, 5
  --cfg-scale NUMBER      How closely to follow the prompt,
                          from 0.0 to 1.0. Defaults to the
                          API's default, 0.5
  --out FILE              The file to write. Defaults to
                          kling-video.mp4
  --interval SECONDS      Time between two polls. Defaults
                          to 10
  --resume ID             Fetch the video of a generation
                          that was created anywhere
  --abandon               Give up the unfinished generation
                          of FILE, so that the next run pays
                          for a new one
  --sandbox               Use the sandbox even if an API key
                          is set
  -h, --help              Print this help

The API key is read from AIML_API_KEY, AIMLAPI_API_KEY or
AIMLAPI_KEY. Without one, the sandbox is used: offline, free
of charge, and always with the same sample video.
KLING_BASE_URL sets another URL for the API.
";

fn main() -> ExitCode {
    let Some(args) = Args::parse().transpose() else {
        print_line(HELP.trim_end());
        return ExitCode::SUCCESS;
    };
    exit_code(args.map_err(Into::into).and_then(|args| match args.abandon {
        true => abandon(&args.out),
        false => run(&args),
    }))
}

fn run(args: &Args) -> Result<()> {
    let (builder, demo) = connect(args.sandbox, args.interval)?;
    let client = builder.build()?.with_cancel_token(cancelled_by_ctrl_c()?);
    match (demo, &args.resume) {
        (None, None) => {}
        // A download would replace any file.
        (None, Some(_)) => check_replaceable(&args.out, b"")?,
        (Some(demo), None) => return run_demo(&client, args, &demo),
        (Some(_), Some(_)) => return Err("--resume needs an API key".into()),
    }
    let fetched = generate(&client, args, &args.out);
    fetched.map_err(|error| with_way_on(&error, args))?.print(&args.out);
    Ok(())
}

/// Generates the video in the sandbox's temporary directory and copies it out.
fn run_demo(client: &Client, args: &Args, demo: &Demo) -> Result<()> {
    let path = demo.dir.join("sample.mp4");
    let fetched = generate(client, args, &path).map_err(|error| {
        with_causes(&error) + "\nThe sandbox ends with this run. The next one starts anew."
    })?;
    let sample = fs::read(path)?;
    // The last run may have written a part of it.
    check_replaceable(&args.out, &sample)?;
    fs::write(&args.out, sample)?;
    fetched.print(&args.out);
    print_line("That is what the sandbox reports. Nothing was paid.");
    Ok(())
}

/// Protects videos that were paid for: the file may have only the content that is given, or a part
/// of it from the beginning, and no journal.
fn check_replaceable(out: &Path, content: &[u8]) -> Result<()> {
    let is_not_found = |e: &io::Error| e.kind() == io::ErrorKind::NotFound;
    let has_journal = match FileJournal::for_target(out) {
        Ok(_) => true,
        Err(e) => !e.source().and_then(|e| e.downcast_ref()).is_some_and(is_not_found),
    };
    let is_replaceable = match fs::read(out) {
        Ok(bytes) => content.starts_with(&bytes),
        Err(e) => is_not_found(&e),
    };
    if has_journal || !is_replaceable {
        let out = out.display();
        return Err(
            format!("{out} exists, or has a journal; choose another file with --out").into()
        );
    }
    Ok(())
}

/// A video in a file.
struct Fetched {
    id: GenerationId,
    bytes: u64,
    usage: Option<Usage>,
    reused: bool,
}

impl Fetched {
    fn print(&self, out: &Path) {
        print_line(format_args!("Generation: {}", self.id));
        print_line(format_args!("Video:      {} ({} bytes)", out.display(), self.bytes));
        print_line(format_args!("Cost:       {}", cost(self.usage)));
        if self.reused {
            print_line("Reused:     it was already there; nothing was requested");
        }
    }
}

fn generate(client: &Client, args: &Args, path: &Path) -> kling_video::Result<Fetched> {
    let bar = ProgressBar::no_length();
    let client = client.with_event_handler({
        let bar = bar.clone();
        move |event| show_progress(&bar, event)
    });
    let fetched = match &args.resume {
        None => client.generate_to(&args.request(), path).map(|saved| Fetched {
            id: saved.id,
            bytes: saved.bytes,
            usage: saved.usage,
            reused: saved.reused,
        }),
        Some(id) => client.wait(id).and_then(|video| {
            let bytes = client.download(&video, path)?;
            Ok(Fetched { id: video.id, bytes, usage: video.usage, reused: false })
        }),
    };
    bar.finish_and_clear();
    fetched
}

const RETRYING: &str = "retrying";

/// Shows progress: on a terminal in a bar, elsewhere as a line per change of state.
fn show_progress(bar: &ProgressBar, event: &Event<'_>) {
    match event.kind {
        EventKind::Uploading { sent, total, .. } => {
            show_state(bar, "uploading", Some((sent, total)));
        }
        // With the id any process can get the video, so it must not be lost.
        EventKind::Created { generation, .. } => bar.suspend(|| {
            print_line(format_args!("Created and paid for: {}", generation.id));
        }),
        EventKind::Recovered => bar.suspend(|| {
            print_line("Found the generation of the interrupted create.");
        }),
        EventKind::Polled { generation, .. } => show_state(bar, generation.status.as_str(), None),
        EventKind::Downloading { received, total, .. } => {
            show_state(bar, "downloading", Some((received, total.unwrap_or(received))));
        }
        EventKind::Retrying { delay, error, .. } => {
            if bar.message() != RETRYING {
                bar.suspend(|| print_note(format_args!("{error}; retrying in {delay:.1?}")));
            }
            show_state(bar, RETRYING, None);
        }
        _ => {}
    }
}

/// `bytes` are those transferred and their total.
fn show_state(bar: &ProgressBar, state: &str, bytes: Option<(u64, u64)>) {
    if bar.message() != state {
        let template = match bytes {
            Some(_) => "{msg} {wide_bar} {bytes} of {total_bytes}",
            None => "{msg} {spinner} {elapsed}",
        };
        bar.set_style(style(template));
        bar.set_message(state.to_owned());
        bar.enable_steady_tick(Duration::from_millis(100));
        if bar.is_hidden() {
            print_note(format_args!("{state} ({} s)", bar.elapsed().as_secs()));
        }
    }
    if let Some((transferred, total)) = bytes {
        bar.set_position(transferred);
        bar.set_length(total);
    }
}

/// Adds how to get a video that may be paid for.
fn with_way_on(error: &Error, args: &Args) -> String {
    let (mut text, out) = (with_causes(error), args.out.display());
    if error.may_have_been_billed() || error.kind() == ErrorKind::Cancelled {
        text += "\nTo continue, run the same command again. It does not pay again.";
    }
    if args.resume.is_some() || !error.may_have_been_billed() {
        return text;
    }
    if let Some(id) = error.generation_id() {
        text += &format!("\nOn another machine: generate --resume {id}");
    }
    if matches!(error.kind(), ErrorKind::CreateUnknown | ErrorKind::GenerationFailed) {
        text += &format!("\nTo give it up and pay for a new one: generate --abandon --out {out}");
    }
    text
}

/// Gives up what earlier runs may have paid for.
fn abandon(out: &Path) -> Result<()> {
    let mut journal = FileJournal::for_target(out)?;
    let entries = journal.entries()?;
    if matches!(entries.last(), Some(JournalEntry::Saved { .. })) {
        return Err(format!("{} is finished; there is nothing to abandon", out.display()).into());
    }
    journal.abandon()?;
    print_line("Abandoned. The next run pays for a new generation.");
    if let Some(id) = entries.iter().rev().find_map(JournalEntry::id) {
        print_line(format_args!("To get the last one: generate --resume {id}"));
    }
    Ok(())
}

struct Args {
    image: Image,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    duration: Option<VideoDuration>,
    cfg_scale: Option<f64>,
    out: PathBuf,
    interval: Duration,
    resume: Option<GenerationId>,
    abandon: bool,
    sandbox: bool,
}

impl Args {
    /// Returns `None` if help was requested.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let mut image = None;
        let mut args = Self {
            image: Image::file(Path::new(SAMPLE_IMAGES).join("image.jpg")),
            prompt: None,
            negative_prompt: None,
            duration: None,
            cfg_scale: None,
            out: PathBuf::from("kling-video.mp4"),
            interval: Duration::from_secs(10),
            resume: None,
            abandon: false,
            sandbox: false,
        };
        let mut parser = lexopt::Parser::from_env();
        while let Some(arg) = parser.next()? {
            match arg {
                Value(value) if image.is_none() => image = Some(value),
                Long("prompt") => args.prompt = Some(parser.value()?.string()?),
                Long("negative-prompt") => args.negative_prompt = Some(parser.value()?.string()?),
                Long("duration") => args.duration = Some(parse_duration(&parser.value()?)?),
                Long("cfg-scale") => args.cfg_scale = Some(parse_cfg_scale(&parser.value()?)?),
                Long("out") => args.out = parse_out(parser.value()?)?,
                Long("interval") => args.interval = parse_interval(&parser.value()?)?,
                Long("resume") => args.resume = Some(parser.value()?.parse()?),
                Long("abandon") => args.abandon = true,
                Long("sandbox") => args.sandbox = true,
                Short('h') | Long("help") => return Ok(None),
                _ => return Err(arg.unexpected()),
            }
        }
        if let Some(image) = image {
            args.image = match image.to_str() {
                Some(url) if url.starts_with("http://") || url.starts_with("https://") => {
                    Image::url(url)
                }
                _ => Image::file(image),
            };
        }
        Ok(Some(args))
    }

    fn request(&self) -> ImageToVideo {
        let mut request = ImageToVideo::new(self.image.clone());
        if let Some(prompt) = &self.prompt {
            request = request.prompt(prompt);
        }
        if let Some(negative_prompt) = &self.negative_prompt {
            request = request.negative_prompt(negative_prompt);
        }
        if let Some(duration) = self.duration {
            request = request.duration(duration);
        }
        if let Some(cfg_scale) = self.cfg_scale {
            request = request.cfg_scale(cfg_scale);
        }
        request
    }
}

fn parse_duration(value: &OsStr) -> Result<VideoDuration, String> {
    match value.to_str() {
        Some("5") => Ok(VideoDuration::FiveSeconds),
        Some("10") => Ok(VideoDuration::TenSeconds),
        _ => Err(format!("--duration must be 5 or 10, got {}", value.display())),
    }
}

fn parse_cfg_scale(value: &OsStr) -> Result<f64, String> {
    let scale = value.to_str().and_then(|text| text.parse().ok());
    scale
        .filter(|scale| (0.0..=1.0).contains(scale))
        .ok_or_else(|| format!("--cfg-scale must be from 0.0 to 1.0, got {}", value.display()))
}

fn parse_interval(value: &OsStr) -> Result<Duration, String> {
    let seconds = value.to_str().and_then(|text| text.parse().ok());
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| format!("--interval must be a number of seconds, got {}", value.display()))
}

/// Checks the path, so that nothing is paid for if the video cannot be written to it.
fn parse_out(value: OsString) -> Result<PathBuf, String> {
    let out = PathBuf::from(value);
    let dir = out.parent().filter(|dir| !dir.as_os_str().is_empty());
    if out.file_name().is_none() || out.is_dir() || dir.is_some_and(|dir| !dir.is_dir()) {
        return Err(format!(
            "--out must be a file in an existing directory, got {}",
            out.display()
        ));
    }
    Ok(out)
}
