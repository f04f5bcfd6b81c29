//! Turns a picture into a video: create, wait, download, with progress.
//!
//! `cargo run --example generate` needs no key: without one it talks to the sandbox, a stand-in
//! for the API that runs in this process.
#![allow(clippy::print_stdout, clippy::print_stderr)]

use std::error::Error as _;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use kling_video::{
    Client, ClientBuilder, Error, Event, Image, ImageToVideo, Sandbox, VideoLength, WaitOptions,
};
use lexopt::prelude::*;

const HELP: &str = "\
Turns a picture into a video with Kling 2.1 Pro on AI/ML API.

Usage: cargo run --example generate -- [OPTIONS] [PICTURE]

PICTURE is the path of a JPEG or PNG, or a link that begins with http:// or https://.
Default: a small picture of this repository.

Options:
  --prompt TEXT           what is to happen
  --negative-prompt TEXT  what is to be avoided
  --duration 5|10         seconds of video; the API's default is 5
  --cfg-scale NUMBER      how closely to follow the prompt, 0.0 to 1.0; the API's default is 0.5
  --out FILE              where the video goes; default: kling-video.mp4
  --sandbox               use the sandbox even though there is a key
  -h, --help              show this

The API key is taken from AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY. Without one, the sandbox
is used: offline and free of charge, and the video is always the same.
";

fn main() -> ExitCode {
    let args = match Args::parse() {
        Ok(Some(args)) => args,
        Ok(None) => {
            say(HELP.trim_end());
            return ExitCode::SUCCESS;
        }
        Err(problem) => {
            eprintln!("error: {problem}\nTry --help.");
            return ExitCode::from(2);
        }
    };
    match run(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error, &args.out);
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> kling_video::Result<()> {
    let bar = ProgressBar::no_length();
    let on_event = {
        let bar = bar.clone();
        move |event: &Event<'_>| show(&bar, event)
    };
    // The sandbox runs for as long as it is held.
    let (builder, _sandbox) = connect(args.sandbox)?;
    let client = builder.on_event(on_event).build()?;

    begin(&bar, "Uploading {wide_bar} {bytes} of {total_bytes}");
    let generation = client.create(&args.request())?;
    // From here on this id is all it takes to get what is paid for, also from another process.
    bar.suspend(|| say(format_args!("Generation: {}", generation.id)));

    begin(&bar, "Waiting {spinner} {msg} {elapsed}");
    let video = client.wait(&generation.id)?;

    begin(&bar, "Downloading {wide_bar} {bytes} of {total_bytes}");
    let bytes = client.download(&video, &args.out)?;
    bar.finish_and_clear();
    say(format_args!("Video:      {} ({bytes} bytes)", args.out.display()));
    Ok(())
}

/// Where to send the request: to the API if there is a key, else to a sandbox.
fn connect(sandbox: bool) -> kling_video::Result<(ClientBuilder, Option<Sandbox>)> {
    match Client::builder_from_env() {
        Ok(builder) if !sandbox => {
            say("Using AI/ML API with the key from the environment: this costs money.");
            Ok((builder, None))
        }
        _ => {
            let sandbox = Sandbox::start()?;
            say("Using the sandbox, which runs in this process: offline and free of charge.");
            say("Its video is a sample, not made from the picture. With AIML_API_KEY set, the API");
            say("is used instead.");
            // Slow enough to be seen.
            sandbox.finish_after(7);
            let pause = Duration::from_millis(300);
            let wait = WaitOptions::new().first_poll_after(pause).interval(pause);
            Ok((sandbox.client_builder().wait(wait), Some(sandbox)))
        }
    }
}

/// Begins another part of the job on the progress line, which is shown on terminals only.
fn begin(bar: &ProgressBar, template: &str) {
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> "));
    bar.set_message("accepted");
    bar.unset_length();
    bar.reset();
    bar.enable_steady_tick(Duration::from_millis(100));
}

/// What the client calls with everything that happens.
fn show(bar: &ProgressBar, event: &Event<'_>) {
    match event {
        Event::Uploading { sent, total, .. } => {
            bar.set_length(*total);
            bar.set_position(*sent);
        }
        Event::Polled { generation, .. } => bar.set_message(generation.status.to_string()),
        Event::Downloading { received, total, .. } => {
            bar.set_length(total.unwrap_or(*received));
            bar.set_position(*received);
        }
        Event::Retrying { after, error, .. } => {
            bar.suspend(|| eprintln!("{error}; next try in {after:.1?}"));
        }
        _ => {}
    }
}

/// Prints a line. Unlike `println!` it does not panic when nobody reads any more (`| head`): that
/// is no reason to stop once the video is paid for.
fn say(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Tells what went wrong and why, and how to get what was paid for.
fn report(error: &Error, out: &Path) {
    eprintln!("error: {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        eprintln!("  because: {error}");
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
    picture: Image,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    duration: Option<VideoLength>,
    cfg_scale: Option<f64>,
    out: PathBuf,
    sandbox: bool,
}

impl Args {
    /// `None` when help is asked for.
    fn parse() -> Result<Option<Self>, lexopt::Error> {
        let default_picture = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/picture.jpg");
        let mut picture = None;
        let mut args = Self {
            picture: Image::file(default_picture),
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
                Value(value) if picture.is_none() => picture = Some(value),
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
        if let Some(picture) = picture {
            args.picture = match picture.to_str() {
                Some(link) if link.starts_with("http://") || link.starts_with("https://") => {
                    Image::url(link)
                }
                _ => Image::file(picture),
            };
        }
        Ok(Some(args))
    }

    fn request(&self) -> ImageToVideo {
        let mut request = ImageToVideo::new(self.picture.clone());
        if let Some(text) = &self.prompt {
            request = request.prompt(text);
        }
        if let Some(text) = &self.negative_prompt {
            request = request.negative_prompt(text);
        }
        if let Some(length) = self.duration {
            request = request.duration(length);
        }
        if let Some(scale) = self.cfg_scale {
            request = request.cfg_scale(scale);
        }
        request
    }
}

fn parse_duration(value: &OsStr) -> Result<VideoLength, String> {
    match value.to_str() {
        Some("5") => Ok(VideoLength::FiveSeconds),
        Some("10") => Ok(VideoLength::TenSeconds),
        _ => Err(format!("--duration {}: allowed is 5 or 10", value.display())),
    }
}

fn parse_cfg_scale(value: &OsStr) -> Result<f64, String> {
    let scale = value.to_str().and_then(|text| text.parse().ok());
    scale
        .filter(|scale| (0.0..=1.0).contains(scale))
        .ok_or_else(|| format!("--cfg-scale {}: allowed is 0.0 to 1.0", value.display()))
}

/// Asked before anything is paid for.
fn parse_out(value: OsString) -> Result<PathBuf, String> {
    let out = PathBuf::from(value);
    let folder = out.parent().filter(|folder| !folder.as_os_str().is_empty());
    if out.file_name().is_none() || out.is_dir() || folder.is_some_and(|folder| !folder.is_dir()) {
        return Err(format!("--out {}: allowed is a file in an existing folder", out.display()));
    }
    Ok(out)
}
