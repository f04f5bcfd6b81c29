//! What the crate promises, through its public API, against the sandbox on 127.0.0.1.

#![allow(missing_docs, clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing)]
#![allow(clippy::panic, clippy::print_stdout, clippy::print_stderr)]

mod child;
mod common;
mod faults;

// The types and the whole job.
mod client;
mod download;
mod errors;
mod pictures;
mod replies;
mod requests;
mod sandbox;
mod wait;

// Nothing is paid twice, nothing paid for is lost.
mod cancel;
mod create;
mod download_faults;
mod find;
mod kill;
mod resume;
mod retry;

// The example that is a crate of its own.
mod build_script;

// A hostile network and other people's programs.
mod connect_proxy;
mod embedding;
mod matrix;
mod requests_prop;
mod secrets;
mod service;
mod tls;
mod tls_server;

// The tree itself.
mod tidy;
