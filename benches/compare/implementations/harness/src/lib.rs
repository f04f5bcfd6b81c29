//! Shared by the programs of all implementations, so that they differ only in the client they use:
//! the command line, the timing of a job, and the measurements that a program prints when it ends.
//!
//! ```text
//! PROGRAM BASE_URL JOB TIMES [ARGUMENT…]
//! ```
//!
//! It has no dependencies, and the number of lines it prints does not depend on `TIMES`, so the
//! difference between two runs is due to the job alone.

mod memory;

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

pub use memory::{CountingAllocator, live_bytes, peak_since_reset, reset_peak};

pub type Result<T = (), E = Box<dyn std::error::Error>> = std::result::Result<T, E>;

/// A client, as the comparison uses it. Each method does one complete job.
pub trait Implementation: Sized {
    /// Builds the client and sends nothing. The job `noop` does only this.
    fn new(base_url: &str) -> Result<Self>;

    /// Creates a generation from an image URL, polls it once, and parses both responses.
    fn create_and_poll_url(&mut self) -> Result;

    /// Creates a generation from an image file, polls it once, and parses both responses.
    fn create_and_poll_file(&mut self, image: &Path) -> Result;

    /// Creates a generation from an image file, without polling it.
    fn upload(&mut self, image: &Path) -> Result;

    /// Downloads a video to a file; with `sync`, `fsync`s it before returning.
    fn download(&mut self, url: &str, path: &Path, sync: bool) -> Result;

    /// Runs a job that only this implementation supports.
    fn run_extra(&mut self, job: &str, _times: u32, _arguments: &[String]) -> Result {
        Err(format!("unknown job `{job}`").into())
    }
}

/// The complete `main` of an implementation's program.
pub fn run<I: Implementation>() -> ExitCode {
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
    let mut implementation = I::new(base_url)?;
    let (allocations, allocated) = memory::totals();
    let started = Instant::now();
    match (job.as_str(), rest) {
        ("noop", []) => {}
        ("create-url", []) => repeat(times, || implementation.create_and_poll_url())?,
        ("create-file", [image]) => {
            repeat(times, || implementation.create_and_poll_file(image.as_ref()))?;
        }
        ("upload", [image]) => repeat(times, || implementation.upload(image.as_ref()))?,
        ("download", [url, path]) => {
            repeat(times, || implementation.download(url, path.as_ref(), false))?;
        }
        ("download-synced", [url, path]) => {
            repeat(times, || implementation.download(url, path.as_ref(), true))?;
        }
        _ => implementation.run_extra(job, times, rest)?,
    }
    let nanoseconds = started.elapsed().as_nanos();
    let (allocations, allocated) =
        (memory::totals().0 - allocations, memory::totals().1 - allocated);
    println!("nanoseconds {nanoseconds}\nallocations {allocations}\nallocated {allocated}");
    // Read last, so that the peak covers everything above.
    println!("peak_kib {}", memory::peak_kib().unwrap_or_default());
    Ok(())
}

fn repeat(times: u32, mut job: impl FnMut() -> Result) -> Result {
    (0..times).try_for_each(|_| job())
}

/// Defines `main` of the program that is measured.
#[macro_export]
macro_rules! main {
    ($implementation:ty) => {
        fn main() -> std::process::ExitCode {
            $crate::run::<$implementation>()
        }
    };
}

/// Defines `main` of the same program with a counting allocator. It is a separate binary, so that
/// counting does not slow down the one that is timed.
#[macro_export]
macro_rules! counted_main {
    ($implementation:ty) => {
        #[global_allocator]
        static ALLOCATOR: $crate::CountingAllocator = $crate::CountingAllocator;

        $crate::main!($implementation);
    };
}
