//! Turns an image into a video in three steps, with progress: create, wait, download.
//!
//! `cargo run --example generate` needs no API key: without one it uses the sandbox, a bundled mock
//! server that runs in this process and returns a sample video.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kling_video::sandbox::Sandbox;
use kling_video::{
    Client, ClientBuilder, Error, Event, EventKind, Image, ImageToVideo, VideoDuration, WaitOptions,
};
use lexopt::prelude::*;

const HELP: &str = "\
Turns an image into a video with Kling 2.1 Pro on AI/ML API.

Usage: cargo run --example generate -- [OPTIONS] [IMAGE]

Arguments:
  [IMAGE]  Path of a JPEG or PNG file, or an http:// or https:// URL.
           Defaults to a sample image in this repository

Options:
  --prompt TEXT           What should happen in the video
  --negative-prompt TEXT  What should not appear in the video
  --duration 5|10         Duration of the video in seconds. Defaults to the API's default, 5
  --cfg-scale NUMBER      How closely to follow the prompt, from 0.0 to 1.0. Defaults to the API's
                          default, 0.5
  --out FILE              File to write the video to. Defaults to kling-video.mp4
  --sandbox               Use the sandbox even if an API key is set
  -h, --help              Print this help

The API key is read from AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY. Without one, the sandbox is
used: offline, free of charge, and always with the same sample video.
";

fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(Some(args)) => args,
        Ok(None) => {
            print_line(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            eprintln!("error: {error}\nTry '--help' for more information.");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error, &args.out);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> kling_video::Result<()> {
    let bar = ProgressBar::no_length();
    // The sandbox stops when it is dropped.
    let (builder, _sandbox) = connect(args.sandbox)?;
    let client = builder.build()?.with_event_handler({
        let bar = bar.clone();
        move |event| show_progress(&bar, event)
    });

    start_step(&bar, "Uploading {wide_bar} {bytes} of {total_bytes}");
    let generation = client.create(&args.request())?;
    // The generation is paid for. With this id any process can wait for the video and download it.
    bar.suspend(|| print_line(format_args!("Generation: {}", generation.id)));

    start_step(&bar, "Waiting {spinner} {msg} {elapsed}");
    let video = client.wait(&generation.id)?;

    start_step(&bar, "Downloading {wide_bar} {bytes} of {total_bytes}");
    let bytes = client.download(&video, &args.out)?;
    bar.finish_and_clear();
    print_line(format_args!("Video:      {} ({bytes} bytes)", args.out.display()));
    Ok(())
}

/// Returns a builder for the API if an API key is set, else for a sandbox, which is also returned.
fn connect(sandbox: bool) -> kling_video::Result<(ClientBuilder, Option<Sandbox>)> {
    match Client::builder_from_env() {
        Ok(builder) if !sandbox => {
            print_line("Using AI/ML API with the key from the environment. This costs money.");
            Ok((builder, None))
        }
        _ => {
            let sandbox = Sandbox::start()?;
            print_line("Using the sandbox, a bundled mock server: offline and free of charge.");
            print_line("It returns a sample video. To use the API, set AIML_API_KEY.");
            // Slow enough for the progress to be visible.
            sandbox.complete_after_polls(7);
            let interval = Duration::from_millis(300);
            let options = WaitOptions::new().initial_delay(interval).interval(interval);
            Ok((sandbox.client_builder().wait_options(options), Some(sandbox)))
        }
    }
}

/// Resets the progress bar for the next step. It is displayed only on a terminal.
fn start_step(bar: &ProgressBar, template: &str) {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_message("created");
    bar.unset_length();
    bar.reset();
    bar.enable_steady_tick(Duration::from_millis(100));
}

fn show_progress(bar: &ProgressBar, event: &Event<'_>) {
    match event.kind {
        EventKind::Uploading { sent, total, .. } => {
            bar.set_length(total);
            bar.set_position(sent);
        }
        EventKind::Polled { generation, .. } => bar.set_message(generation.status.to_string()),
        EventKind::Downloading { received, total, .. } => {
            bar.set_length(total.unwrap_or(received));
            bar.set_position(received);
        }
        EventKind::Retrying { delay, error, .. } => {
            bar.suspend(|| eprintln!("{error}; retrying in {delay:.1?}"));
        }
        _ => {}
    }
}

/// Prints a line. Unlike `println!`, it does not panic if stdout is closed (`| head`), which is no
/// reason to abort once the video is paid for.
fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints the error, its causes, and how to get a video that is already paid for.
fn print_error(error: &Error, out: &Path) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  caused by: {error}");
        cause = error.source();
    }
    match error.generation_id() {
        Some(id) if error.may_have_been_billed() => {
            eprintln!("To get this video without paying again:");
            eprintln!("  let video = client.wait(&{:?}.parse()?)?;", id.as_ref());
            eprintln!("  client.download(&video, {out:?})?;");
        }
        _ => {}
    }
}

struct Args {
    image: Image,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    duration: Option<VideoDuration>,
    cfg_scale: Option<f64>,
    out: PathBuf,
    sandbox: bool,
}

impl Args {
    /// Returns `None` if help was requested.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let default_image = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/image.jpg");
        let mut image = None;
        let mut args = Self {
            image: Image::file(default_image),
            prompt: None,
            negative_prompt: None,
            duration: None,
            cfg_scale: None,
            out: PathBuf::from("kling-video.mp4"),
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
