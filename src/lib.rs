//! Turns an image into a video with Kling 2.1 Pro (`kling-video/v2.1/pro/image-to-video`) on AI/ML
//! API: blocking, with five small dependencies, and careful with money.
//!
//! A generation costs money and takes minutes. This crate never pays twice, never loses what was
//! paid for, never hangs, never leaks the API key, and says clearly what went wrong.
//!
//! [First program](#first-program) ·
//! [Programs that may be killed](#programs-that-may-be-killed) ·
//! [Images](#images) ·
//! [Waiting and progress](#waiting-and-progress) ·
//! [Errors](#errors) ·
//! [Never paying twice](#never-paying-twice) ·
//! [What it costs](#what-it-costs) ·
//! [Many at once](#many-at-once) ·
//! [More than one machine](#more-than-one-machine) ·
//! [Testing your own program](#testing-your-own-program) ·
//! [TLS and proxies](#tls-and-proxies) ·
//! [Platforms](#platforms) ·
//! [What it does not do](#what-it-does-not-do-and-why) ·
//! [Features](#features)
//!
//! # First program
//!
//! The API key is read from the environment variable `AIML_API_KEY`.
//!
//! ```no_run
//! use kling_video::{Client, Image, ImageToVideo};
//!
//! fn main() -> kling_video::Result<()> {
//!     let client = Client::from_env()?;
//!     let request = ImageToVideo::new(Image::file("cat.jpg")).prompt("the cat yawns");
//!     let generation = client.create(&request)?; // from here on it costs money
//!     println!("created {}", generation.id); // enough to continue from any process
//!     let video = client.wait(&generation.id)?;
//!     client.download(&video, "cat.mp4")?;
//!     Ok(())
//! }
//! ```
//!
//! [`generate`](Client::generate) does the first two steps in one call. Download soon: URLs expire,
//! although [`download`](Client::download) then retrieves a fresh one.
//!
//! # Programs that may be killed
//!
//! [`generate_to`](Client::generate_to) does all three steps and keeps a journal next to the file.
//! Called again after a crash, a reboot or Ctrl-C, it continues and **pays once**; called again
//! after success, it makes no request at all. Use it in build scripts and batch jobs.
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("cat.mp4");
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! let saved = client.generate_to(&request, &path)?; // cat.mp4, and cat.mp4.kling.jsonl next to it
//! println!("{} bytes in {}", saved.bytes, saved.path.display());
//! # Ok(())
//! # }
//! ```
//!
//! # Images
//!
//! | Source | Properties |
//! |---|---|
//! | [`Image::file`] | streamed from disk in small chunks, so memory use does not depend on its size |
//! | [`Image::bytes`] | streamed from memory, without a copy |
//! | [`Image::url`] | fetched by the API, so the URL must be public |
//!
//! Kling's limits (JPEG or PNG, at most 10 MiB, at least 300 pixels a side, an aspect ratio between
//! 1:2.5 and 2.5:1) are checked for files and bytes before anything is sent, as is every documented
//! rule of a request. [`ImageToVideo::validate`] runs these checks without sending anything.
//!
//! # Waiting and progress
//!
//! A video of 5 seconds takes 3 to 4 minutes, one of 10 takes 6 to 8 (Kling's documentation).
//! [`WaitOptions`] set when to poll and for how long. An
//! [event handler](ClientBuilder::event_handler) receives progress, and a [`CancelToken`] ends any
//! call from another thread. The client's `with_…` methods return a *view*: the same client with
//! another setting for the calls made through it.
//!
//! | For every call | For single calls |
//! |---|---|
//! | [`ClientBuilder::wait_options`] | [`Client::with_wait_options`] |
//! | [`ClientBuilder::event_handler`] | [`Client::with_event_handler`] |
//! | – | [`Client::with_cancel_token`] |
//!
//! ```
//! use kling_video::{CancelToken, Client, EventKind, VideoDuration, WaitOptions};
//!
//! let client = Client::builder("key")
//!     .wait_options(WaitOptions::for_duration(VideoDuration::FiveSeconds))
//!     .event_handler(|event| match event.kind {
//!         EventKind::Uploading { sent, total, .. } => eprintln!("{sent} of {total} bytes sent"),
//!         EventKind::Created { generation, .. } => eprintln!("created {}", generation.id),
//!         EventKind::Polled { generation, elapsed, .. } => {
//!             eprintln!("{} after {} s", generation.status, elapsed.as_secs());
//!         }
//!         EventKind::Retrying { error, delay, .. } => eprintln!("{error}; retrying in {delay:?}"),
//!         _ => {}
//!     })
//!     .build()?;
//! let token = CancelToken::new(); // call token.cancel() in a Ctrl-C handler
//! let client = client.with_cancel_token(token.clone());
//! # Ok::<(), kling_video::Error>(())
//! ```
//!
//! # Errors
//!
//! Branch on [`Error::kind`]. Once a create request is accepted, every error has the
//! [`generation_id`](Error::generation_id): keep it, and nothing is lost.
//! [`source`](std::error::Error::source) leads to the cause.
//!
//! | [`ErrorKind`] | Meaning | What to do |
//! |---|---|---|
//! | `Config` | a client setting is invalid; nothing was sent | fix the setting that the message names |
//! | `InvalidRequest` | a documented rule is violated; nothing was sent | fix the [`field`](Error::field) |
//! | `Io` | an image or video file cannot be read or written | fix the cause and repeat the call that failed |
//! | `Connect`, `Transport`, `Timeout` | network failure: could not connect, connection lost, or timed out | retry if [`is_retryable`](Error::is_retryable) |
//! | `Api` | an error response | read [`server_message`](Error::server_message); if [`is_out_of_credits`](Error::is_out_of_credits), stop creating; check [`balance`](Client::balance) and the key's spending limit |
//! | `Decode` | a response or a file that is not what the API documents | inspect [`body`](Error::body): it may come from a gateway or proxy, or the API may have changed |
//! | `CreateUnknown` | a create request was sent, but no usable response was received: **a generation may exist and be billed** | search for it with [`find`](Client::find) before creating again; `generate_to` does so when it is called again |
//! | `GenerationLimit` | the limit of [`max_generations`](ClientBuilder::max_generations) is reached; nothing was sent | find out why so many were created |
//! | `GenerationFailed` | the API reported twice that the generation failed, which is not charged, or that it ended in another way, which may be: see [`may_have_been_billed`](Error::may_have_been_billed) | change the request |
//! | `WaitTimeout`, `Cancelled` | the wait timed out, or the call was cancelled; a generation that was created continues | wait for its id again |
//! | `Journal` | the journal of a durable run failed, is damaged or belongs to another request, or the file at the path is not its video | do what the message says; [`FileJournal::abandon`] gives up what cannot be finished |
//! | `NotAttempted` | a job of [`generate_all_to`](Client::generate_all_to) that was not carried out; nothing was sent for it | what the message gives as the reason; then call it again |
//!
//! # Never paying twice
//!
//! A create request is retried only if it certainly was not accepted ([`Client::create`] has the
//! complete table). If that cannot be known, the error is `CreateUnknown`: `generate_to` then
//! searches the API's log when it is called again, and other programs do so with [`Client::find`].
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! use kling_video::ErrorKind;
//!
//! let id = match client.create(&request) {
//!     Ok(generation) => generation.id,
//!     Err(error) if error.kind() == ErrorKind::CreateUnknown => {
//!         let found = match error.client_request_id() {
//!             Some(request_id) => client.find(request_id)?,
//!             None => None,
//!         };
//!         found.ok_or(error)? // not in the log, or not yet: search again later, do not create
//!     }
//!     Err(error) => return Err(error), // certainly not created
//! };
//! # let _ = id;
//! # Ok(())
//! # }
//! ```
//!
//! # What it costs
//!
//! Creating costs money: [`create`](Client::create), and whatever calls it. All other calls are free.
//!
//! - **Before:** [`pricing`](Client::pricing) reads the list price, and [`Pricing::estimate`] quotes a
//!   request. It returns `None` unless the price is certain.
//! - **Limits:** [`max_generations`](ClientBuilder::max_generations) limits how many generations a
//!   client creates, and guards against a loop that keeps spending. The strongest guard is the
//!   vendor's: each API key can have a daily, weekly or monthly **spending limit**, set in the vendor's
//!   dashboard, beyond which charges of any program that has the key are blocked.
//! - **After:** the `usage` of a [`Generation`](Generation::usage) or a [`Video`](Video::usage) is what
//!   it cost. [`list`](Client::list) lists the key's requests with their ids and costs, and
//!   [`balance`](Client::balance) returns what is left on the account.
//!
//! The log and the balance lag: a charge is recorded only after the generation is reported as
//! completed, so compare sums some time later. According to the API's documentation, a failed
//! generation is not charged. One that ended in another way may have been: see
//! [`may_have_been_billed`](Error::may_have_been_billed).
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! use std::time::Duration;
//!
//! match client.pricing(kling_video::MODEL)?.and_then(|pricing| pricing.estimate(&request)) {
//!     Some(usd) if usd > 1.0 => return Ok(()), // too expensive
//!     Some(usd) => println!("will cost {usd:.2} USD"),
//!     None => println!("the price is not known in advance"),
//! }
//! let video = client.generate(&request)?;
//! if let Some(usd) = video.usage.and_then(|usage| usage.usd_spent) {
//!     println!("cost {usd:.2} USD");
//! }
//! let last_30_days = client.list(Duration::from_secs(30 * 86_400), 10_000)?;
//! let total: f64 = last_30_days.iter().filter_map(|request| request.usd).sum();
//! println!("{total:.2} USD in the last 30 days");
//! # assert_eq!(total, 0.06);
//! # Ok(())
//! # }
//! ```
//!
//! # Many at once
//!
//! [`generate_all_to`](Client::generate_all_to) does what `generate_to` does, for many jobs and with a
//! handful of threads. Killed and called again with the same jobs, it pays once for each:
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let dir = tempfile::tempdir().unwrap();
//! use kling_video::{BatchOptions, Image, ImageToVideo};
//!
//! let job = |name: &str| {
//!     let image = Image::url(format!("https://example.com/{name}.jpg"));
//!     (ImageToVideo::new(image).prompt("it yawns"), dir.path().join(format!("{name}.mp4")))
//! };
//! let jobs = ["cat", "dog"].map(job);
//! for result in client.generate_all_to(&jobs, &BatchOptions::new()) {
//!     match result {
//!         Ok(saved) => println!("{}", saved.path.display()),
//!         Err(error) => eprintln!("{error}"),
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! When the credits run out, it stops creating and fetches what is paid for. Events carry the path
//! of their job. The example `batch` in the repository is a complete program.
//!
//! Programs that store the ids themselves can create one after the other, or from a few threads (a
//! [`Client`] is cheap to clone, and clones share its connections and limits), and then wait for all
//! of them in one call of [`wait_all`](Client::wait_all). One thread is enough for hundreds of
//! generations; [`WaitOptions::threads`] is for thousands. A response with status 429 delays the
//! polls of all of them.
//!
//! # More than one machine
//!
//! Keep the record where all machines see it: [`generate_recorded`](Client::generate_recorded) is
//! `generate_to` over a [`Journal`] of your own, such as rows of a table that you already operate.
//! Any machine then continues what another one has started. If two have the same job, only one gets to
//! pay, since each position of a journal can be taken only once.
//!
//! `examples/fleet` in the repository is a complete program: any number of workers over one
//! PostgreSQL table. Its README says what happens if a worker is killed or cut off from the
//! database, and what this relies on.
//!
//! Without a journal, the [`GenerationId`] is all that is needed: one process creates, and any other
//! with an API key of the account waits and downloads. Two that wait for the same id cost nothing but
//! requests. [`Generation`], [`Video`] and [`GenerationId`] implement serde's `Serialize` and
//! `Deserialize`.
//!
//! # Testing your own program
//!
//! With the feature `sandbox`, `sandbox::Sandbox` is a mock server on a loopback port: it serves a
//! real MP4 and fails on demand, so that tests need no API key, no network and no money.
//!
//! ```toml
//! [dev-dependencies]
//! kling-video = { version = "0.1", features = ["sandbox"] }
//! ```
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! use kling_video::sandbox::{Endpoint, Fault, Sandbox};
//! use kling_video::{ErrorKind, Image, ImageToVideo};
//!
//! let sandbox = Sandbox::start()?;
//! // The first create request is accepted, but its response is lost.
//! sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
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
//! TLS is rustls with Mozilla's root certificates, bundled. Behind a proxy with its own certificate
//! authority, the feature `platform-verifier` uses the system trust store, and
//! [`root_certificates_pem`](ClientBuilder::root_certificates_pem) trusts the given authorities and
//! no others. The proxy is read from `HTTPS_PROXY`, `ALL_PROXY` or `HTTP_PROXY`, with the exceptions
//! in `NO_PROXY`; [`proxy`](ClientBuilder::proxy) and [`no_proxy`](ClientBuilder::no_proxy) override
//! them. Requests are tunneled through it (`CONNECT`), so it never sees the API key. SOCKS proxies
//! are not supported, and are rejected when the client is built.
//!
//! # Platforms
//!
//! | Platform | Tests |
//! |---|---|
//! | Linux on x86-64, with glibc | all run, with rustls and with native-tls |
//! | Linux on x86-64 with musl (static, in an empty directory), on 32-bit x86, and on aarch64 (in an emulator) | run, except those that need other programs or measure the process |
//! | Windows on x86-64, built with MinGW | run in wine, which is not Windows: it enforces less |
//! | macOS, FreeBSD, Linux on RISC-V | compile, but were never run |
//! | Windows built with MSVC, Android | the library compiles without TLS; never run |
//!
//! The guarantees about files need a file system with locks, and are as durable as it is:
//!
//! - **Network file systems**: where files cannot be locked, runs and downloads fail before they send
//!   anything. Where locks are accepted but not shared between machines, two machines can pay for the
//!   same target: use [one database](#more-than-one-machine) instead.
//! - **Directories**: after a power failure, a new or renamed file can be missing where directories
//!   cannot be synced: on Windows, on some network file systems, and in directories without read
//!   permission. A journal that is lost in this way is a run that is paid for again.
//! - **Windows**: a journal or partial file in use cannot be read, renamed or deleted by others. The
//!   partial file is closed right before it is renamed: in that moment, another download to the same
//!   target can open it, which is an error for the first one. A target that somebody has open is
//!   replaced only if they permit its deletion; otherwise the complete video is kept, and the error
//!   names it. Names of devices and streams (`NUL`, `12:30.mp4`) are rejected.
//! - **Other than Unix and Windows**: a journal that is replaced while it is in use is not noticed.
//!
//! # What it does not do, and why
//!
//! - **No async.** A generation takes minutes, so a blocking call costs one sleeping thread. In an
//!   async program call it from `spawn_blocking` or an equivalent.
//! - **No other products of the vendor.** One model, done with care. Sibling models that take the same
//!   fields can be tried with [`ImageToVideo::model`] and [`extra`](ImageToVideo::extra).
//! - **No webhooks**: the API has none.
//! - **No cancelling of a generation**: the API cannot. Cancelling ends the call; the generation
//!   continues and is billed.
//! - **No resizing or converting of images**, and no playing of videos: other crates do that.
//! - **No logging**: an [event handler](ClientBuilder::event_handler) receives everything there is to
//!   log. The underlying HTTP library logs through the `log` crate, and at level *trace* it logs
//!   complete headers, including the API key. Where logs are kept, cap the level with one of `log`'s
//!   `max_level_…` features.
//! - **No budget in money**: [`max_generations`](ClientBuilder::max_generations) counts generations.
//!   For a limit in money, give the API key a [spending limit](#what-it-costs).
//!
//! # Features
//!
//! | Feature | Default | Purpose |
//! |---|---|---|
//! | `rustls` | yes | TLS with rustls and Mozilla's root certificates, bundled |
//! | `platform-verifier` | no | TLS with rustls and the system trust store |
//! | `native-tls` | no | TLS library and trust store of the operating system; requires disabling the default features |
//! | `sandbox` | no | the mock server, `sandbox::Sandbox` |
#![cfg_attr(docsrs, feature(doc_cfg))]

// In layers: a module imports only from its own layer and those above it in this list.

// Cancellation, randomness, files, and text from untrusted input.
mod cancel;
mod fs;
mod hash;
mod random;
mod redact;

// Requests, responses, events and errors.
mod error;
mod event;
mod model;
mod operation;

// How requests are sent, and when they are retried.
mod api_key;
mod endpoint;
mod retry;
mod transport;

// Waiting, with I/O and time injected.
mod poll;
mod wait_options;

// The parts of a call: reading, creating, downloading.
mod context;
mod create;
mod download;

// Durable runs.
mod run;

// The public client.
mod builder;
mod client;

// The mock server, which imports only the crate's public items.
#[cfg(feature = "sandbox")]
#[cfg_attr(docsrs, doc(cfg(feature = "sandbox")))]
pub mod sandbox;

// Test generators and fuzz targets.
#[cfg(test)]
mod arbitrary;
#[cfg(any(fuzzing, test))]
#[doc(hidden)]
pub mod fuzzing;

pub use builder::ClientBuilder;
pub use cancel::CancelToken;
pub use client::Client;
pub use endpoint::Route;
pub use endpoint::logs::LoggedRequest;
pub use error::{Error, ErrorKind, Result};
pub use event::{Event, EventKind};
pub use model::generation::{
    Balance, Generation, GenerationError, GenerationId, InvalidGenerationId, ResponseMetadata,
    Status, Usage, Video,
};
pub use model::image::Image;
pub use model::pricing::{Pricing, Rate};
pub use model::request::{CameraControl, DynamicMask, ImageToVideo, MODEL, VideoDuration};
pub use operation::Operation;
pub use retry::RetryPolicy;
pub use run::{
    BatchOptions, BoxError, FileJournal, Journal, JournalEntry, RequestFingerprint, SavedVideo,
};
pub use wait_options::WaitOptions;

/// Compiles the README's code as doctests.
#[cfg(all(doctest, feature = "sandbox"))]
#[doc = include_str!("../README.md")]
struct Readme;
