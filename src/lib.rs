//! Turns a picture into a video with Kling 2.1 Pro (`kling-video/v2.1/pro/image-to-video`) on
//! AI/ML API: blocking, with five small dependencies, and careful with money.
//!
//! A generation costs real money and takes minutes. So this crate never pays twice, never loses
//! what was paid for, never hangs, never shows the key, and says clearly what went wrong.
//!
//! [First program](#first-program) ·
//! [Programs that may be killed](#programs-that-may-be-killed) ·
//! [Pictures](#pictures) ·
//! [Waiting and progress](#waiting-and-progress) ·
//! [Errors](#errors) ·
//! [Never paying twice](#never-paying-twice) ·
//! [Many at once](#many-at-once) ·
//! [More than one machine](#more-than-one-machine) ·
//! [Testing your own program](#testing-your-own-program) ·
//! [TLS and proxies](#tls-and-proxies) ·
//! [What it does not do](#what-it-does-not-do-and-why) ·
//! [Features](#features)
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
//! [`generate`](Client::generate) does the first two steps in one call. Download soon: the links
//! expire, though [`download`](Client::download) asks for a fresh one by itself.
//!
//! # Programs that may be killed
//!
//! [`generate_to`](Client::generate_to) does all three steps and keeps a journal beside the file.
//! Run again after a crash, a reboot or Ctrl-C, it goes on where it was and **pays once**; run
//! again after success, it makes no call at all. Build scripts and batch jobs want this one.
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let folder = tempfile::tempdir().unwrap();
//! # let target = folder.path().join("cat.mp4");
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! let saved = client.generate_to(&request, &target)?; // cat.mp4, and cat.mp4.kling.jsonl beside it
//! println!("{} bytes in {}", saved.bytes, saved.path.display());
//! # Ok(())
//! # }
//! ```
//!
//! # Pictures
//!
//! | | |
//! |---|---|
//! | [`Image::file`] | streamed from disk in small pieces: memory does not grow with the picture |
//! | [`Image::bytes`] | the same from memory, without a copy |
//! | [`Image::url`] | the API fetches it: the link must be public |
//!
//! What Kling takes (JPEG or PNG, at most 10 MiB, at least 300 pixels a side, no slimmer than
//! 1:2.5) is checked before anything is sent, as is every documented rule of a request:
//! [`ImageToVideo::validate`] does only that.
//!
//! # Waiting and progress
//!
//! A video of 5 seconds takes 3 to 4 minutes, one of 10 takes 6 to 8 (Kling's documentation).
//! [`WaitOptions`] say when to look and for how long, [`on_event`](ClientBuilder::on_event) shows
//! what happens, and a [`CancelToken`] ends a call from another thread.
//!
//! ```
//! use kling_video::{CancelToken, Client, Event, VideoLength, WaitOptions};
//!
//! let token = CancelToken::new(); // token.cancel() in a Ctrl-C handler
//! let wait = WaitOptions::for_length(VideoLength::FiveSeconds).cancel(token.clone());
//! let client = Client::builder("key")
//!     .wait(wait)
//!     .on_event(|event| match event {
//!         Event::Uploading { sent, total, .. } => eprintln!("{sent} of {total} bytes sent"),
//!         Event::Created { generation, .. } => eprintln!("paid for: {}", generation.id),
//!         Event::Polled { generation, waited, .. } => {
//!             eprintln!("{} after {} s", generation.status, waited.as_secs());
//!         }
//!         Event::Retrying { error, after, .. } => eprintln!("{error}; again in {after:?}"),
//!         _ => {}
//!     })
//!     .build()?;
//! # Ok::<(), kling_video::Error>(())
//! ```
//!
//! # Errors
//!
//! Branch on [`Error::kind`]. After a create, [`Error::generation_id`] is always there: keep it,
//! and nothing is lost. [`source`](std::error::Error::source) leads to the cause.
//!
//! | [`ErrorKind`] | what it means | what to do |
//! |---|---|---|
//! | `Config` | a setting of the client; nothing was sent | mend what the message names |
//! | `InvalidRequest` | a documented rule is broken; nothing was sent | mend the [`field`](Error::field) |
//! | `Io` | a file, of the picture or of the video | mend it; a download can be repeated |
//! | `Connect`, `Transport`, `Timeout` | the way to the server | repeat, if [`is_retryable`](Error::is_retryable) |
//! | `Api` | the server refused | read [`api_message`](Error::api_message); if [`is_out_of_credits`](Error::is_out_of_credits), stop creating and top up |
//! | `Decode` | an answer, or a file, that cannot be used | look at [`body`](Error::body): a gateway, a proxy, or a new form of answer |
//! | `CreateUnknown` | a create was sent, its answer is not known: **it may be billed** | [`find`](Client::find) it before creating again |
//! | `CreateLimit` | [`max_creates`](ClientBuilder::max_creates) is used up; nothing was sent | it did its work |
//! | `GenerationFailed` | the API gave up; not charged | change the request |
//! | `WaitTimeout`, `Cancelled` | the generation, if there is one, goes on | wait for its id again |
//! | `Journal` | the journal of [`generate_to`](Client::generate_to) is damaged, or another request's | mend or delete the file that the message names |
//!
//! # Never paying twice
//!
//! A create is repeated by itself only when it certainly was not accepted ([`Client::create`] has
//! the whole table). Where nobody can know, the error is `CreateUnknown`: `generate_to` then looks
//! the create up by itself on its next run, and other programs do so with [`Client::find`].
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! use kling_video::ErrorKind;
//!
//! let id = match client.create(&request) {
//!     Ok(generation) => generation.id,
//!     Err(error) if error.kind() == ErrorKind::CreateUnknown => {
//!         let known = match error.client_request_id() {
//!             Some(request_id) => client.find(request_id)?,
//!             None => None,
//!         };
//!         known.ok_or(error)? // not in the log, or not yet: ask again later, do not create
//!     }
//!     Err(error) => return Err(error), // certainly not created
//! };
//! # let _ = id;
//! # Ok(())
//! # }
//! ```
//!
//! [`max_creates`](ClientBuilder::max_creates) guards against a loop that spends, and
//! [`balance`](Client::balance) tells what is left.
//!
//! # Many at once
//!
//! Create one after the other, or from a few threads (a [`Client`] is cheap to clone and shares
//! everything); then wait for all of them in one loop, which has each on a schedule of its own:
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! # let options = kling_video::WaitOptions::new().first_poll_after(std::time::Duration::ZERO)
//! #     .interval(std::time::Duration::from_millis(2));
//! # let requests = [request.clone(), request];
//! let ids = requests.iter().map(|request| Ok(client.create(request)?.id));
//! let ids = ids.collect::<kling_video::Result<Vec<_>>>()?; // a program that may be killed keeps each
//! for (id, end) in ids.iter().zip(client.wait_all(&ids, &options)) {
//!     match end {
//!         Ok(video) => println!("{id}: {}", video.url),
//!         Err(error) => eprintln!("{error}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! One thread is enough for some hundreds; [`WaitOptions::threads`] is for thousands. A server that
//! answers 429 slows all of them down together.
//!
//! For programs that may be killed, the simplest way is [`generate_to`](Client::generate_to) with a
//! file for each, from as many threads as there should be videos in the works at once: a thread
//! sleeps nearly all of its minutes, so that some dozens are no burden. On the first error that
//! [`is_out_of_credits`](Error::is_out_of_credits), go on with a client of
//! [`max_creates(0)`](ClientBuilder::max_creates): it fetches what is paid for, and creates nothing.
//! The examples `batch` and `resume` are whole programs.
//!
//! # More than one machine
//!
//! A [`GenerationId`] is a string, and the id is all there is to know: one process creates, and any
//! other that has a key of the account waits and downloads. So a table or a queue that you run
//! already is enough. Write a row *before* the create, with a client request id of your own, and
//! the id after it; then every state a crash can leave tells what to do next:
//!
//! | row | what is known | what a worker does |
//! |---|---|---|
//! | `request_id`, no `id` | it may have been created | [`find(request_id)`](Client::find); where the log does not have it, decide, for nobody can know |
//! | `id` | it is paid for | [`wait`](Client::wait), [`download`](Client::download), mark as done |
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let sandbox = kling_video::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! # let folder = tempfile::tempdir()?;
//! # let target = folder.path().join("cat.mp4");
//! use kling_video::GenerationId;
//!
//! // INSERT INTO videos (request_id) VALUES ('order-4711')
//! let generation = client.create(&request.client_request_id("order-4711"))?;
//! // UPDATE videos SET id = … WHERE request_id = 'order-4711'
//! let row: String = generation.id.to_string();
//!
//! // Later, anywhere: SELECT id FROM videos WHERE NOT done FOR UPDATE SKIP LOCKED
//! let id: GenerationId = row.parse()?;
//! let video = client.wait(&id)?;
//! client.download(&video, &target)?;
//! # Ok(())
//! # }
//! ```
//!
//! [`Generation`], [`Video`] and [`GenerationId`] also go through serde, both ways. That two workers
//! wait for the same id costs nothing but requests.
//!
//! # Testing your own program
//!
//! With the feature `sandbox`, `Sandbox` speaks the API on the loopback, serves a real MP4 and
//! fails on request: tests need no key, no network and no money.
//!
//! ```toml
//! [dev-dependencies]
//! kling-video = { version = "0.1", features = ["sandbox"] }
//! ```
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! use kling_video::{Endpoint, ErrorKind, Fault, Image, ImageToVideo, Sandbox};
//!
//! let sandbox = Sandbox::start()?;
//! sandbox.fault(Endpoint::Create, Fault::close().acted(), 1); // accepted, but the answer is lost
//! let client = sandbox.client_builder().build()?;
//!
//! let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
//! let error = client.generate(&request).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::CreateUnknown);
//! assert!(client.find(error.client_request_id().unwrap_or_default())?.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! # TLS and proxies
//!
//! TLS is rustls with Mozilla's root certificates, bundled. Behind a proxy that brings its own
//! certificate authority, the feature `platform-verifier` trusts what the system trusts, and
//! [`root_certificates_pem`](ClientBuilder::root_certificates_pem) trusts what it is given, and
//! nothing else. A proxy is taken from `HTTPS_PROXY`, `ALL_PROXY` or `HTTP_PROXY`, with the
//! exceptions of `NO_PROXY`; [`proxy`](ClientBuilder::proxy) and
//! [`no_proxy`](ClientBuilder::no_proxy) overrule them. It is asked for a tunnel (`CONNECT`), so
//! that it never sees the key. SOCKS proxies are not supported, and refused when the client is
//! built.
//!
//! # What it does not do, and why
//!
//! - **No async.** A generation takes minutes, so a thread that sleeps is what it costs; in an async
//!   program call it from `spawn_blocking` or its like.
//! - **No other products of the vendor.** One model, done with care. Siblings that take the same
//!   fields can be tried with [`ImageToVideo::model`] and [`extra`](ImageToVideo::extra).
//! - **No webhooks**: the API has none.
//! - **No cancelling of a generation**: the API has none. Cancelling ends the call; the generation
//!   goes on and is billed.
//! - **No resizing or converting of pictures**, and no playing of videos: there are crates for it.
//! - **No logging** of its own: [`on_event`](ClientBuilder::on_event) has all there is to log. The
//!   HTTP library below logs through the `log` crate, and at the level *trace* it writes down whole
//!   headers, the key included. Where logs are kept, cap the level with one of `log`'s
//!   `max_level_…` features.
//! - **No cap on the bill but [`max_creates`](ClientBuilder::max_creates)**: prices are the vendor's.
//!
//! # Features
//!
//! | feature | default | what it is for |
//! |---|---|---|
//! | `rustls` | yes | TLS by rustls, with Mozilla's root certificates bundled |
//! | `platform-verifier` | | the same, with the certificates of the operating system |
//! | `native-tls` | | the system's TLS library and certificates; turn the default features off |
//! | `sandbox` | | `Sandbox`, the stand-in for the API |
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
