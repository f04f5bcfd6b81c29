//! Turns a picture into a video with Kling 2.1 Pro (`kling-video/v2.1/pro/image-to-video`) on
//! AI/ML API: blocking, with five small dependencies, and careful with money.
//!
//! A generation costs real money and takes minutes. So this crate never pays twice, never loses
//! what was paid for, never hangs, never shows the key, and says clearly what went wrong.
//!
//! # First program
//!
//! The key comes from `AIML_API_KEY` in the environment.
//!
//! ```no_run
//! use kling_video::{Client, Image, ImageToVideo};
//!
//! fn main() -> kling_video::Result<()> {
//!     let client = Client::from_env()?;
//!     let request = ImageToVideo::new(Image::file("cat.jpg")).prompt("the cat yawns");
//!     let generation = client.create(&request)?; // from here on it costs money
//!     println!("created {}", generation.id); // all that is needed to come back to it
//!     let video = client.wait(&generation.id)?;
//!     client.download(&video, "cat.mp4")?;
//!     Ok(())
//! }
//! ```
//!
//! [`generate`](Client::generate) does the first two steps in one call.
//!
//! # A program that may be killed
//!
//! [`generate_to`](Client::generate_to) does all three steps and keeps a journal beside the file.
//! Run again after a crash, a reboot or Ctrl-C, it goes on where it was and **pays once**; run
//! again after success, it makes no call at all. Build scripts and batch jobs want this one.
//!
//! ```no_run
//! # use kling_video::{Client, Image, ImageToVideo};
//! # let client = Client::from_env()?;
//! # let request = ImageToVideo::new(Image::file("cat.jpg"));
//! let saved = client.generate_to(&request, "cat.mp4")?;
//! println!("{} bytes in {}", saved.bytes, saved.path.display());
//! # Ok::<(), kling_video::Error>(())
//! ```
//!
//! # Pictures
//!
//! [`Image::file`] is streamed from disk in small pieces, so that memory does not grow with the
//! picture; [`Image::bytes`] and [`Image::url`] are there too. What Kling takes (JPEG or PNG, at
//! most 10 MiB, at least 300 pixels a side, no slimmer than 1:2.5) is checked before anything is
//! sent, as is every documented rule of a request.
//!
//! # Waiting
//!
//! [`WaitOptions`] says when to look and for how long; [`on_event`](ClientBuilder::on_event) shows
//! progress; a [`CancelToken`] ends a call from another thread. A [`GenerationId`] is a string that
//! can sit in any database or queue: another process can wait for it and download it.
//! [`wait_all`](Client::wait_all) waits for any number of them in one loop.
//!
//! # Errors
//!
//! Branch on [`Error::kind`]; after a create, [`Error::generation_id`] is always there.
//!
//! | kind | what to do |
//! |---|---|
//! | `Config`, `InvalidRequest`, `Io` | mend what the message names; nothing was sent |
//! | `Connect`, `Transport`, `Timeout` | try again if [`is_retryable`](Error::is_retryable) says so |
//! | `Api` | read [`api_message`](Error::api_message); see [`is_out_of_credits`](Error::is_out_of_credits) |
//! | `Decode` | look at [`body`](Error::body): a gateway, a proxy or a new form of answer |
//! | `CreateUnknown` | [`find`](Client::find) the generation before creating again |
//! | `CreateLimit` | [`max_creates`](ClientBuilder::max_creates) did its work |
//! | `GenerationFailed` | not charged; change the request |
//! | `WaitTimeout`, `Cancelled` | the generation goes on: wait for its id again |
//! | `Journal` | mend or delete the file that the message names |
//!
//! # Testing your own program
//!
//! With the feature `sandbox`, `Sandbox` speaks the API on the loopback, serves a real MP4 and
//! fails on request: tests need no key, no network and no money.
//!
//! # Features
//!
//! `rustls` (on by default): TLS with Mozilla's roots, bundled. `platform-verifier`: the same with
//! the system's certificate store. `native-tls`: the system's TLS library, where `rustls` is off.
//! `sandbox`: the stand-in server.
//!
//! # Logging
//!
//! This crate logs nothing. The HTTP library below it does, through the `log` crate, and at the
//! level *trace* it writes down whole headers, the key included. Where logs are kept, cap the level
//! with one of `log`'s `max_level_…` features.
#![cfg_attr(docsrs, feature(doc_cfg))]

// From below to above: a module imports only from its own group and the ones before.

// What is shown of what others wrote, chance, and stopping.
mod cancel;
mod random;
mod text;

// What the API is asked and what it answers.
mod error;
mod event;
mod generation;
mod image;
mod request;

// How a request goes over the wire, and when again.
mod body;
mod endpoint;
mod http;
mod key;
mod retry;
mod transport;

// Waiting, over closures.
mod poll;
mod poll_all;

// What one call does: reads, a create, a download.
mod call;
mod download;
mod mp4;
mod part;
mod submit;

// A run that can be killed and goes on.
mod fingerprint;
mod journal;
mod resumable;

// What a caller holds.
mod builder;
mod client;

// The stand-in for the API, which uses the crate only as its users do.
#[cfg(feature = "sandbox")]
mod sandbox;

// For tests and fuzzers.
#[cfg(test)]
mod arbitrary;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;

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
