//! Tests of the public API against the sandbox on 127.0.0.1.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

mod helpers;

// Types, single calls and complete jobs.
mod client;
mod download;
mod errors;
mod images;
mod requests;
mod responses;
mod sandbox;
mod wait;

// Nothing is paid for twice, and nothing that was paid for is lost.
mod cancel;
mod create;
mod create_verdicts;
mod download_faults;
mod early_rejection;
#[cfg(unix)]
mod early_rejection_campaign;
mod files;
mod find;
mod generation_verdicts;
mod kill;
mod record;
mod resume;
mod retry;

// The example that is a separate crate.
mod build_script;

// Hostile networks, and other programs that embed the crate.
mod embedding;
mod matrix;
mod proxies;
mod requests_prop;
mod secrets;
mod tls;

// The source tree itself.
mod tidy;
