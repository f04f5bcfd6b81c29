//! Tests of the public API against the sandbox on 127.0.0.1.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod common;
mod faults;
mod subprocess;
mod tcp_server;

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
mod download_faults;
mod find;
mod kill;
mod resume;
mod retry;

// The example that is a separate crate.
mod build_script;

// Hostile networks, and other programs that embed the crate.
mod connect_proxy;
mod embedding;
mod matrix;
mod requests_prop;
mod secrets;
mod tls;
mod tls_server;

// The source tree itself.
mod tidy;
