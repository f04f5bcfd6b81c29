//! The recipes of kling-video's guide that need other crates. Each is short enough to be copied.
//!
//! | Recipe | Crate | File |
//! |---|---|---|
//! | events as log lines | `tracing` | `src/log_events.rs` |
//! | events as a progress bar | `indicatif` | `src/progress.rs` |
//! | Ctrl-C ends a call, and the next run continues | `ctrlc` | `src/ctrl_c.rs`, `src/bin/interruptible.rs` |
//! | the record of a run in SQLite | `rusqlite` | `src/sqlite_journal.rs` |
//! | a web server that responds at once and finishes later | `tiny_http`, `rusqlite` | `src/bin/web_worker.rs` |
//!
//! `cargo test` runs each of them against the sandbox, without an API key and at no cost, and checks
//! what the guide says of logging and of build scripts.

pub mod ctrl_c;
pub mod log_events;
pub mod progress;
pub mod sqlite_journal;

use std::time::Duration;

use kling_video::{Client, Result, WaitOptions};

/// Returns a client of the API or, if `KLING_BASE_URL` is set, of the sandbox at that URL.
///
/// Your program needs only `Client::from_env`.
pub fn client() -> Result<Client> {
    let builder = Client::builder_from_env()?;
    let Ok(url) = std::env::var("KLING_BASE_URL") else { return builder.build() };
    let interval = Duration::from_millis(5);
    let options = WaitOptions::new().initial_delay(interval).interval(interval);
    builder.base_url(url).wait_options(options).build()
}
