//! Tests of the public API against the sandbox on 127.0.0.1.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::panic, clippy::print_stdout, clippy::print_stderr)]
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]
#![cfg_attr(
    not(target_os = "linux"),
    allow(unused_imports, reason = "used by tests of Linux or Unix")
)]

mod helpers;

// Types, single calls and complete jobs.
mod client;
mod download;
mod error_responses;
mod errors;
mod image_kinds;
mod images;
mod list;
mod media;
mod pricing;
mod requests;
mod response_serde;
mod responses;
mod sandbox;
mod sandbox_money;
mod sandbox_settings;
mod statuses;
mod video_hosts;
mod wait;

// Nothing is paid for twice, and nothing that was paid for is lost.
mod batch;
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
mod interleavings;
mod journal_file;
mod journal_order;
mod journals;
mod kill;
mod record;
mod record_files;
mod record_recovery;
mod resume;
mod resume_requests;
mod resume_target;
mod retry;
mod target_path;

// The example that is a separate crate.
mod build_script;

// Hostile networks, and other programs that embed the crate.
mod embedding;
mod matrix;
mod proxies;
mod requests_prop;
mod secrets;
mod tls;
#[cfg(windows)]
mod windows;

// The source tree itself.
mod tidy;
