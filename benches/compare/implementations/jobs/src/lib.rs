//! Shared by the programs, so that they differ only in the client they use.
//!
//! ```text
//! PROGRAM BASE_URL JOB TIMES [ARGUMENT…]
//! ```
//!
//! A program does one job the given number of times, and prints its measurements at the end.

pub mod kling;
pub mod memory;

use std::process::ExitCode;
use std::time::Instant;

/// kling-video is configured to send it too, so that all requests are identical.
pub const USER_AGENT: &str = "kling-video-compare";
pub const IMAGE_URL: &str = "https://example.com/cat.jpg";
pub const PROMPT: &str = "the cat yawns";

pub type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// A client, as the comparison uses it.
pub trait Implementation: Sized {
    /// Builds the client and sends nothing. The job `noop` does only this.
    fn new(base_url: &str) -> Result<Self>;

    /// Does a job once. `round` counts from 0.
    fn run(&self, job: &str, round: u32, arguments: &[String]) -> Result;
}

/// The complete `main` of a program.
pub fn main<I: Implementation>() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match execute::<I>(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn execute<I: Implementation>(arguments: &[String]) -> Result {
    let [base_url, job, times, rest @ ..] = arguments else {
        return Err("usage: PROGRAM BASE_URL JOB TIMES [ARGUMENT...]".into());
    };
    let times: u32 = times.parse()?;
    let implementation = I::new(base_url)?;
    let started = Instant::now();
    if job != "noop" {
        (0..times).try_for_each(|round| implementation.run(job, round, rest))?;
    }
    println!("nanoseconds {}", started.elapsed().as_nanos());
    // Read last, so that the peak covers everything above.
    println!("peak_kib {}", memory::peak_kib().unwrap_or_default());
    Ok(())
}
