//! Turns a picture into a video with Kling 2.1 Pro on [AI/ML API], blocking and with few
//! dependencies.
//!
//! [AI/ML API]: https://aimlapi.com
#![cfg_attr(docsrs, feature(doc_cfg))]

mod body;
mod builder;
mod call;
mod cancel;
mod client;
mod download;
mod endpoint;
mod error;
mod event;
mod fingerprint;
mod generation;
mod http;
mod image;
mod journal;
mod key;
mod mp4;
mod part;
mod poll;
mod poll_all;
mod random;
mod request;
mod resumable;
mod retry;
#[cfg(feature = "sandbox")]
mod sandbox;
mod submit;
mod transport;

pub use builder::ClientBuilder;
pub use cancel::CancelToken;
pub use client::Client;
pub use endpoint::Route;
pub use error::{Error, ErrorKind, Result};
pub use event::Event;
pub use generation::{
    Balance, Generation, GenerationError, GenerationId, InvalidGenerationId, Status, Trace, Usage,
    Video,
};
pub use image::Image;
pub use poll::WaitOptions;
pub use request::{CameraControl, DynamicMask, ImageToVideo, MODEL, VideoLength};
pub use resumable::Saved;
pub use retry::RetryPolicy;
#[cfg(feature = "sandbox")]
pub use sandbox::{Endpoint, Fault, Sandbox, SandboxGeneration, SandboxRequest};

/// The README's code compiles.
#[cfg(all(doctest, feature = "sandbox"))]
#[doc = include_str!("../README.md")]
struct Readme;
