//! What the contenders' programs share, so that they differ in nothing but the client they use: the
//! command line, the clock around the job, and what a program tells of itself at its end.
//!
//! ```text
//! PROGRAM BASE_URL JOB TIMES [ARGUMENT…]
//! ```
//!
//! It has no dependencies, and prints a number of lines that does not depend on `TIMES`: the
//! difference between two runs is then the job alone.

mod memory;

use std::error::Error;
use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

pub use memory::{Counting, live_bytes, peak_since_reset, reset_peak};

pub type Outcome<T = ()> = Result<T, Box<dyn Error>>;

/// A client, as the comparison uses it. Each method does one whole job.
pub trait Contender: Sized {
    /// Makes the client, and sends nothing: all that the job `noop` does.
    fn new(base: &str) -> Outcome<Self>;

    /// Creates a generation from a link, looks at it once, and reads both answers.
    fn link(&mut self) -> Outcome;

    /// The same from a picture file.
    fn file(&mut self, picture: &Path) -> Outcome;

    /// Only the create, from a picture file.
    fn upload(&mut self, picture: &Path) -> Outcome;

    /// Fetches a video to a file; `sync` has it be on disk before this returns.
    fn download(&mut self, url: &str, to: &Path, sync: bool) -> Outcome;

    /// What only this contender can do.
    fn extra(&mut self, job: &str, _times: u32, _arguments: &[String]) -> Outcome {
        Err(format!("this contender has no job {job}").into())
    }
}

/// The whole of a contender's `main`.
pub fn run<C: Contender>() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match execute::<C>(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn execute<C: Contender>(arguments: &[String]) -> Outcome {
    let [base, job, times, rest @ ..] = arguments else {
        return Err("usage: PROGRAM BASE_URL JOB TIMES [ARGUMENT...]".into());
    };
    let times: u32 = times.parse()?;
    let mut contender = C::new(base)?;
    let (allocations, allocated) = memory::totals();
    let begun = Instant::now();
    match (job.as_str(), rest) {
        ("noop", []) => {}
        ("link", []) => repeat(times, || contender.link())?,
        ("file", [picture]) => repeat(times, || contender.file(picture.as_ref()))?,
        ("upload", [picture]) => repeat(times, || contender.upload(picture.as_ref()))?,
        ("download", [url, to]) => {
            repeat(times, || contender.download(url, to.as_ref(), false))?;
        }
        ("download-synced", [url, to]) => {
            repeat(times, || contender.download(url, to.as_ref(), true))?;
        }
        _ => contender.extra(job, times, rest)?,
    }
    let nanoseconds = begun.elapsed().as_nanos();
    let (allocations, allocated) =
        (memory::totals().0 - allocations, memory::totals().1 - allocated);
    println!("nanoseconds {nanoseconds}\nallocations {allocations}\nallocated {allocated}");
    // Last, so that it is the peak of all that went before.
    println!("peak_kib {}", memory::peak_kib().unwrap_or_default());
    Ok(())
}

fn repeat(times: u32, mut job: impl FnMut() -> Outcome) -> Outcome {
    (0..times).try_for_each(|_| job())
}

/// The program as it is measured.
#[macro_export]
macro_rules! main {
    ($contender:ty) => {
        fn main() -> std::process::ExitCode {
            $crate::run::<$contender>()
        }
    };
}

/// The same program with an allocator that counts: another binary, so that counting costs the
/// measured one nothing.
#[macro_export]
macro_rules! counted_main {
    ($contender:ty) => {
        #[global_allocator]
        static ALLOCATOR: $crate::Counting = $crate::Counting;

        $crate::main!($contender);
    };
}
