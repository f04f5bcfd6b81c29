//! What `generate` and `batch` have in common: the API or the sandbox, Ctrl-C, and output.

use std::fmt::Display;
use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use indicatif::ProgressStyle;
use kling_video::sandbox::Sandbox;
use kling_video::{BoxError, CancelToken, Client, ClientBuilder, Usage, WaitOptions};

pub(crate) type Result<T, E = BoxError> = std::result::Result<T, E>;

/// Images to try the examples with.
pub(crate) const SAMPLE_IMAGES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures");

/// A mock server in this process, used without an API key. Your program needs none of it.
pub(crate) struct Demo {
    _sandbox: Sandbox,
    /// A fresh temporary directory, removed in the end: the generations of a sandbox end with it,
    /// so no later run could continue one.
    pub(crate) dir: PathBuf,
}

impl Drop for Demo {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// Returns a builder for the API if an API key is set, else for a sandbox, which is also returned.
/// A generation is polled every `interval`.
pub(crate) fn connect(sandbox: bool, interval: Duration) -> Result<(ClientBuilder, Option<Demo>)> {
    let options = |interval| WaitOptions::new().initial_delay(interval).interval(interval);
    if let (Ok(builder), false) = (Client::builder_from_env(), sandbox) {
        let builder = builder.wait_options(options(interval));
        let builder = match std::env::var("KLING_BASE_URL") {
            Ok(url) => {
                print_line(format_args!("Using {url} with the key from the environment."));
                builder.base_url(url)
            }
            Err(_) => {
                print_line("Using AI/ML API with the key from the environment.");
                builder
            }
        };
        print_line("This costs money. A video usually takes 3 to 4 minutes");
        print_line("(5 seconds of video) or 6 to 8 minutes (10 seconds).");
        return Ok((builder, None));
    }
    print_line("Using the sandbox, a bundled mock server: offline, free");
    print_line("of charge, and always with the same sample video.");
    print_line("To use the API, set AIML_API_KEY.");
    let sandbox = Sandbox::start()?;
    // Slow enough for the progress to be visible.
    sandbox.complete_after_polls(7);
    let builder = sandbox.client_builder().wait_options(options(Duration::from_millis(300)));
    let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let name = format!("kling-video-{}-{now}", std::process::id());
    let dir = std::env::temp_dir().join(name);
    fs::create_dir(&dir).map_err(|e| format!("cannot create {}: {e}", dir.display()))?;
    Ok((builder, Some(Demo { _sandbox: sandbox, dir })))
}

/// Prints the error, if there is one.
pub(crate) fn exit_code(result: Result<()>) -> ExitCode {
    let Err(error) = result else { return ExitCode::SUCCESS };
    print_note(format_args!("error: {}", with_causes(&*error)));
    if error.is::<lexopt::Error>() {
        print_note("Try '--help' for more information.");
        return ExitCode::from(2);
    }
    ExitCode::FAILURE
}

/// Returns a token that the first Ctrl-C cancels. The second one ends the process.
pub(crate) fn cancelled_by_ctrl_c() -> Result<CancelToken> {
    let token = CancelToken::new();
    ctrlc::set_handler({
        let token = token.clone();
        move || match token.is_cancelled() {
            true => std::process::exit(130),
            false => token.cancel(),
        }
    })?;
    Ok(token)
}

/// Prints a line. Unlike `println!`, it does not panic if stdout is closed (`| head`), which is no
/// reason to abort once a video is paid for.
pub(crate) fn print_line(line: impl Display) {
    let _ = writeln!(io::stdout(), "{line}");
}

/// Prints a line to stderr, for progress and errors.
pub(crate) fn print_note(line: impl Display) {
    let _ = writeln!(io::stderr(), "{line}");
}

pub(crate) fn cost(usage: Option<Usage>) -> String {
    match usage {
        Some(Usage { usd_spent: Some(usd), .. }) => format!("{usd} USD"),
        Some(Usage { credits_used: Some(credits), .. }) => format!("{credits} credits"),
        _ => "cost not reported".to_owned(),
    }
}

pub(crate) fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template);
    style.unwrap_or_else(|_| ProgressStyle::default_bar()).progress_chars("=> ")
}

/// Returns the error's message and those of its causes that say something new.
pub(crate) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}\n  caused by: {message}");
        }
        cause = error.source();
    }
    text
}
