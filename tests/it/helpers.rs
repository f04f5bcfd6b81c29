//! What several tests use, one file per kind.

pub mod clients;
pub mod connect_proxy;
pub mod error_output;
pub mod events;
pub mod files;
pub mod journal;
pub mod media;
#[cfg(target_os = "linux")]
pub mod process_status;
pub mod subprocess;
pub mod tcp_server;
pub mod timing;
pub mod tls_server;
