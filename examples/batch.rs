//! Turns every image in a directory into a video. It can be interrupted at any point and started
//! again, and pays once per image. Without an API key it uses the sandbox, and sample images.

mod common;

use std::collections::HashMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar};
use kling_video::{BatchOptions, ErrorKind, Event, EventKind, Image, ImageToVideo, SavedVideo};
use lexopt::prelude::*;

use common::{
    Result, SAMPLE_IMAGES, cancelled_by_ctrl_c, connect, cost, exit_code, print_line, print_note,
    style, with_causes,
};

const HELP: &str = "\
Turns every .jpg, .jpeg and .png image in a directory into a
video in IMAGE_DIR/videos. The same command again continues,
and does not pay again.

Usage: cargo run --example batch -- [OPTIONS] [IMAGE_DIR]

Options:
  --prompt TEXT        What should happen in every video
  --max-generations N  Pay for at most N videos in this run.
                       Defaults to 20
  --interval SECONDS   Time between polls. Defaults to 10

The API key is read from AIML_API_KEY, AIMLAPI_API_KEY or
AIMLAPI_KEY; KLING_BASE_URL sets another URL for the API.
Without a key, the sandbox is used, and no file is kept.";

type Job = (ImageToVideo, PathBuf);

fn main() -> ExitCode {
    exit_code(run())
}

fn run() -> Result<()> {
    let (mut prompt, mut image_dir, mut max_generations, mut interval) = (None, None, 20, 10);
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Value(dir) if image_dir.is_none() => image_dir = Some(PathBuf::from(dir)),
            Long("prompt") => prompt = Some(parser.value()?.string()?),
            Long("max-generations") => max_generations = parser.value()?.parse()?,
            Long("interval") => interval = parser.value()?.parse()?,
            Short('h') | Long("help") => {
                print_line(HELP);
                return Ok(());
            }
            _ => return Err(arg.unexpected().into()),
        }
    }
    let (builder, demo) = connect(false, Duration::from_secs(interval))?;
    let samples = demo.as_ref().map(|_| PathBuf::from(SAMPLE_IMAGES));
    let image_dir = image_dir.or(samples).ok_or("IMAGE_DIR is required with the API")?;
    let videos = demo.as_ref().map_or(&image_dir, |demo| &demo.dir).join("videos");
    let jobs = jobs(&image_dir, &videos, prompt.as_deref())?;

    let bars = MultiProgress::new();
    let add = |name| bars.add(ProgressBar::no_length().with_style(style(BAR)).with_prefix(name));
    let bar_of: HashMap<_, _> = jobs.iter().map(|(_, p)| (p.clone(), add(name(p)))).collect();
    let client = builder.max_generations(max_generations).build()?;
    let client = client.with_cancel_token(cancelled_by_ctrl_c()?);
    let client = client.with_event_handler(move |event| {
        let bar = event.path.and_then(|path| bar_of.get(path));
        bar.inspect(|bar| show_progress(bar, event));
    });
    let results = client.generate_all_to(&jobs, &BatchOptions::new());
    bars.clear()?;
    print_table(&jobs, &results);
    match results.iter().filter(|result| result.is_err()).count() {
        _ if jobs.is_empty() => Err(format!("{} has no images", image_dir.display()).into()),
        0 => Ok(()),
        n => Err(format!("{n} of {} videos are missing; run again to continue", jobs.len()).into()),
    }
}

/// Returns a request and the path of its video for each image in the directory.
fn jobs(image_dir: &Path, videos: &Path, prompt: Option<&str>) -> Result<Vec<Job>> {
    let mut jobs = Vec::new();
    let cannot_use = |e| format!("cannot use the directory {}: {e}", image_dir.display());
    for entry in fs::read_dir(image_dir).map_err(cannot_use)? {
        let image = entry?.path();
        let extension = image.extension().unwrap_or_default().to_ascii_lowercase();
        if ["jpg", "jpeg", "png"].iter().any(|known| extension == *known) {
            let request = ImageToVideo::new(Image::file(&image));
            let request = prompt.into_iter().fold(request, ImageToVideo::prompt);
            jobs.push((request, videos.join(name(&image) + ".mp4")));
        }
    }
    fs::create_dir_all(videos).map_err(cannot_use)?;
    jobs.sort_by(|(_, a), (_, b)| a.cmp(b));
    Ok(jobs)
}

const BAR: &str = "{prefix:20!} {wide_bar} {msg:11!} {elapsed:>4}";

/// On a terminal a bar per video, elsewhere a line per change of state.
fn show_progress(bar: &ProgressBar, event: &Event<'_>) {
    let (state, position, length) = match event.kind {
        EventKind::Uploading { sent, total, .. } => ("uploading", sent, total),
        EventKind::Polled { generation, .. } => (generation.status.as_str(), 0, 1),
        EventKind::Retrying { .. } => ("retrying", 0, 1),
        EventKind::Downloading { received, total, .. } => {
            ("downloading", received, total.unwrap_or(received))
        }
        EventKind::Saved { .. } | EventKind::Reused => return bar.finish_and_clear(),
        _ => return,
    };
    if bar.is_hidden() && bar.message() != state {
        print_note(format_args!("{}: {state}", bar.prefix()));
    }
    bar.set_length(length);
    bar.set_position(position);
    bar.set_message(state.to_owned());
}

fn print_table(jobs: &[Job], results: &[kling_video::Result<SavedVideo>]) {
    let width = jobs.iter().map(|(_, path)| name(path).chars().count()).max().unwrap_or(0);
    let mut errors = Vec::new();
    for ((_, path), result) in jobs.iter().zip(results) {
        let result = match result {
            Ok(saved) => {
                let status = if saved.reused { "reused" } else { "saved" };
                format!("{status:6}  {:>9} bytes  {}", saved.bytes, cost(saved.usage))
            }
            Err(error) => {
                // The reason of a job that was not attempted is the error of another one.
                if !matches!(error.kind(), ErrorKind::NotAttempted | ErrorKind::Cancelled) {
                    errors.push(format!("\n{}: {}", name(path), with_causes(error)));
                }
                error.kind().to_string()
            }
        };
        print_line(format_args!("{:width$}  {result}", name(path)));
    }
    errors.iter().for_each(print_line);
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().display().to_string()
}
