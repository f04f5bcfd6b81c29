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
//! [Recipes](#recipes) ·
//! [Testing your own program](#testing-your-own-program) ·
//! [Logging](#logging) ·
//! [Other models and fields](#other-models-and-fields) ·
//! [TLS and proxies](#tls-and-proxies) ·
//! [Platforms](#platforms) ·
//! [Small programs](#small-programs) ·
//! [What it does not do](#what-it-does-not-do-and-why) ·
//! [Features](#features)
//!
//! # First program
//!
//! ```no_run
//! use kling_video::{Client, Image, ImageToVideo};
//!
//! fn main() -> kling_video::Result<()> {
//!     let client = Client::from_env()?; // AIML_API_KEY, AIMLAPI_API_KEY or AIMLAPI_KEY
//!     let request = ImageToVideo::new(Image::file("cat.jpg")).prompt("the cat yawns");
//!     let saved = client.generate_to(&request, "cat.mp4")?; // can be killed and repeated; pays once
//!     println!("{} bytes, generation {}", saved.bytes, saved.id);
//!     Ok(())
//! }
//! ```
//!
//! # Programs that may be killed
//!
//! [`generate_to`](Client::generate_to) records each step in a journal next to the file,
//! `cat.mp4.kling.jsonl`, before it takes the next one. Called again after a crash, a reboot, Ctrl-C
//! or any error, it continues and **pays once**; called again after success, it makes no request at
//! all. If it cannot be known whether a generation was paid for, it stops and pays for no other until
//! [`FileJournal::abandon`] gives that one up.
//!
//! The steps are also available one by one. Programs that use them keep the id themselves:
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("cat.mp4");
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! let generation = client.create(&request)?; // from here on it costs money
//! println!("created {}", generation.id); // enough to continue from any process
//! let video = client.wait(&generation.id)?;
//! client.download(&video, &path)?; // soon, since URLs expire
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
//! call from another thread. Each can be set for single calls: the client's `with_…` methods return a
//! *view*, the same client with another setting for the calls made through it.
//!
//! ```
//! use kling_video::{CancelToken, Client, EventKind, VideoDuration, WaitOptions};
//!
//! let client = Client::builder("key")
//!     .wait_options(WaitOptions::for_duration(VideoDuration::FiveSeconds))
//!     .event_handler(|event| match event.kind {
//!         EventKind::Created { generation, .. } => eprintln!("created {}", generation.id),
//!         EventKind::Polled { generation, elapsed, .. } => {
//!             eprintln!("{} after {} s", generation.status, elapsed.as_secs());
//!         }
//!         EventKind::Retrying { error, delay, .. } => eprintln!("{error}; retrying in {delay:?}"),
//!         _ => {}
//!     })
//!     .build()?;
//! let token = CancelToken::new(); // for a handler of Ctrl-C: see the recipe below
//! let client = client.with_cancel_token(token.clone());
//! # Ok::<(), kling_video::Error>(())
//! ```
//!
//! # Errors
//!
//! Branch on [`Error::kind`]. Once a create request is accepted, every error has the
//! [`generation_id`](Error::generation_id): keep it, and nothing is lost.
//! A message does not repeat its cause (`nope.jpg: failed to open the image`): print the chain of
//! [`source`](std::error::Error::source)s, too.
//!
//! | [`ErrorKind`] | Meaning | What to do |
//! |---|---|---|
//! | `Config` | a client setting is invalid; nothing was sent | fix the setting that the message names |
//! | `InvalidRequest` | a documented rule is violated; nothing was sent | fix the [`field`](Error::field) |
//! | `Io` | an image or video file cannot be read or written | fix the cause and repeat the call that failed |
//! | `Connect`, `Transport`, `Timeout` | network failure: could not connect, connection lost, or timed out | retry if [`is_retryable`](Error::is_retryable) |
//! | `Api` | an error response | read [`server_message`](Error::server_message), or [`body`](Error::body) if it is not the API's; if [`is_out_of_credits`](Error::is_out_of_credits), stop creating; check [`balance`](Client::balance) and the key's spending limit |
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
//! completed, so compare sums some time later.
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
//! [`generate_all_to`](Client::generate_all_to) does what `generate_to` does, for many jobs and with
//! a handful of threads. Killed and called again with the same jobs, it pays once for each. When the
//! credits run out, it stops creating and fetches what is paid for. Events carry the path of their
//! job. The example `batch` in the repository is a complete program.
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
//! # Recipes
//!
//! ## A build script
//!
//! With the crate in `[build-dependencies]` (`cargo add --build kling-video`):
//!
//! ```no_run
//! use kling_video::{Client, Image, ImageToVideo};
//!
//! fn main() -> kling_video::Result<()> {
//!     println!("cargo::rerun-if-changed=assets/cat.jpg");
//!     println!("cargo::rerun-if-changed=assets/cat.mp4");
//!     let builder = match Client::builder_from_env() {
//!         Ok(builder) => builder.max_generations(1),
//!         // No API key, as in CI: what is committed is used, and nothing is created.
//!         Err(_) => Client::builder("none").max_generations(0),
//!     };
//!     let request = ImageToVideo::new(Image::file("assets/cat.jpg")).prompt("the cat yawns");
//!     builder.build()?.generate_to(&request, "assets/cat.mp4")?;
//!     Ok(())
//! }
//! ```
//!
//! Commit `assets/cat.mp4` **and** `assets/cat.mp4.kling.jsonl`: every build that has both makes no
//! request, and needs neither network nor key. Without a key and a recorded generation, the build
//! fails with `max_generations(0) is reached`. With the journal but without the video, it downloads
//! the video again, and without a network tries to until [`WaitOptions::timeout`]. Never write to
//! `OUT_DIR`: `cargo clean` empties it, and the next build pays again. A changed prompt or image is
//! another request for the same path, so the build fails before anything is sent;
//! [`replace_videos(true)`](ClientBuilder::replace_videos) allows it to pay for the new video and
//! to replace the old one. The example `build-script` in the repository also uses a sample from the
//! sandbox as long as there is no video.
//!
//! ## A cron job or serverless function
//!
//! Poll once per run instead of sleeping. The first run creates the generation:
//!
//! ```
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use kling_video::{Client, ErrorKind, ImageToVideo, Result, WaitOptions};
//!
//! /// Returns whether the video is there.
//! fn tick(client: &Client, request: &ImageToVideo, path: &Path) -> Result<bool> {
//!     let once = WaitOptions::new().initial_delay(Duration::ZERO).timeout(Duration::ZERO);
//!     match client.with_wait_options(once).generate_to(request, path) {
//!         Ok(_) => Ok(true),
//!         Err(error) if error.kind() == ErrorKind::WaitTimeout => Ok(false), // the next run
//!         Err(error) => Err(error),
//!     }
//! }
//! # fn main() -> Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # let client = sandbox.client_builder().build()?;
//! # let dir = tempfile::tempdir().unwrap();
//! # let path = dir.path().join("cat.mp4");
//! # let request = ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! # for (run, is_there) in [false, false, true, true].into_iter().enumerate() {
//! #     assert_eq!(tick(&client, &request, &path)?, is_there);
//! #     let polls = sandbox.request_count(kling_video::sandbox::Endpoint::Retrieve);
//! #     assert_eq!(polls, (run + 1).min(3));
//! # }
//! # sandbox.fault(kling_video::sandbox::Endpoint::Create,
//! #     kling_video::sandbox::Fault::close_connection().after_accepting(), 1);
//! # let path = dir.path().join("lost.mp4");
//! # assert_eq!(tick(&client, &request, &path).unwrap_err().kind(), ErrorKind::CreateUnknown);
//! # for is_there in [false, false, true] {
//! #     assert_eq!(tick(&client, &request, &path)?, is_there);
//! # }
//! # assert_eq!(sandbox.generations().len(), 2);
//! # Ok(())
//! # }
//! ```
//!
//! Where no disk is kept, do the same with `generate_recorded`.
//!
//! <details><summary>With an id that is stored elsewhere</summary>
//!
//! ```
//! # use std::time::Duration;
//! use kling_video::{Client, GenerationId, Result, Video, WaitOptions};
//!
//! fn tick(client: &Client, id: &GenerationId) -> Result<Option<Video>> {
//!     if !client.retrieve(id)?.status.is_terminal() {
//!         return Ok(None); // the next run
//!     }
//!     // Returns the video, or why there is none: a single response proves no failure.
//!     let options = WaitOptions::new().initial_delay(Duration::ZERO);
//!     client.with_wait_options(options).wait(id).map(Some)
//! }
//! # fn main() -> Result<()> {
//! # let sandbox = kling_video::sandbox::Sandbox::start()?;
//! # sandbox.complete_after_polls(1);
//! # let client = sandbox.client_builder().build()?;
//! # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
//! # let id = client.create(&request)?.id;
//! # assert!(tick(&client, &id)?.is_none() && tick(&client, &id)?.is_some());
//! # Ok(())
//! # }
//! ```
//!
//! </details>
//!
//! ## With other crates
//!
//! These are in `examples/recipes` in the repository, too, with tests that run them.
//!
//! <details><summary>Ctrl-C, with <code>ctrlc</code></summary>
//!
//! Calls of `client.with_cancel_token(token)` then end with [`ErrorKind::Cancelled`]. With
//! `generate_to` the next run continues, so a program without a handler pays once, too.
//!
//! ```ignore
//! use kling_video::CancelToken;
//!
//! pub fn cancelled_by_ctrl_c() -> Result<CancelToken, ctrlc::Error> {
//!     let token = CancelToken::new();
//!     let on_ctrl_c = token.clone();
//!     ctrlc::set_handler(move || match on_ctrl_c.is_cancelled() {
//!         false => on_ctrl_c.cancel(),
//!         true => std::process::exit(130),
//!     })?;
//!     Ok(token)
//! }
//! ```
//!
//! </details>
//! <details><summary>A progress bar, with <code>indicatif</code></summary>
//!
//! ```ignore
//! use indicatif::ProgressBar;
//! use kling_video::{Event, EventKind};
//!
//! pub fn show_event(bar: &ProgressBar, event: &Event<'_>) {
//!     let (message, position, length) = match event.kind {
//!         EventKind::Uploading { sent, total, .. } => ("uploading", sent, total),
//!         EventKind::Polled { generation, .. } => (generation.status.as_str(), 0, 1),
//!         EventKind::Downloading { received, total, .. } => {
//!             ("downloading", received, total.unwrap_or(received))
//!         }
//!         EventKind::Saved { .. } | EventKind::Reused => return bar.finish_with_message("saved"),
//!         _ => return,
//!     };
//!     bar.set_length(length);
//!     bar.set_position(position);
//!     bar.set_message(message.to_owned());
//! }
//! ```
//!
//! </details>
//! <details><summary>Log lines, with <code>tracing</code></summary>
//!
//! ```ignore
//! use kling_video::{Event, EventKind};
//! use tracing::{debug, info, warn};
//!
//! pub fn log_event(event: &Event<'_>) {
//!     let id = event.generation_id.map(|id| id.as_str());
//!     match event.kind {
//!         EventKind::Created { .. } => info!(id, request = event.client_request_id, "paid for"),
//!         EventKind::Recovered => info!(id, "found in the API's log"),
//!         EventKind::Polled { generation, .. } => debug!(id, status = %generation.status, "polled"),
//!         EventKind::Retrying { operation, error, .. } => warn!(id, %operation, %error, "retrying"),
//!         EventKind::Saved { bytes, .. } => info!(id, path = ?event.path, bytes, "saved"),
//!         _ => {}
//!     }
//! }
//! ```
//!
//! </details>
//! <details><summary>A journal in SQLite, with <code>rusqlite</code> and <code>serde_json</code></summary>
//!
//! The primary key is what keeps two workers from paying for the same job. Execute `SCHEMA` on every
//! connection, since `synchronous` is a setting of the connection.
//!
//! ```ignore
//! use kling_video::{BoxError, Journal, JournalEntry};
//! use rusqlite::Connection;
//!
//! pub const SCHEMA: &str = "
//!     PRAGMA synchronous = FULL;
//!     CREATE TABLE IF NOT EXISTS journal (
//!         job INTEGER, position INTEGER, entry TEXT NOT NULL, PRIMARY KEY (job, position)
//!     );";
//!
//! pub struct SqliteJournal<'a> {
//!     pub connection: &'a Connection,
//!     pub job: i64,
//! }
//!
//! impl Journal for SqliteJournal<'_> {
//!     fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
//!         let query = "SELECT entry FROM journal WHERE job = ?1 ORDER BY position";
//!         let mut query = self.connection.prepare(query)?;
//!         let rows = query.query_map([self.job], |row| row.get::<_, String>(0))?;
//!         rows.map(|entry| Ok(serde_json::from_str(&entry?)?)).collect()
//!     }
//!
//!     fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
//!         let row = (self.job, i64::try_from(position)?, serde_json::to_string(entry)?);
//!         self.connection.execute("INSERT INTO journal VALUES (?1, ?2, ?3)", row)?;
//!         Ok(())
//!     }
//! }
//! ```
//!
//! </details>
//!
//! ## A web server
//!
//! Respond at once, and finish the job in a thread. A job is a row, inserted before the response is
//! sent; worker threads carry it out with `generate_recorded` over the journal above, `download` it and
//! mark the row as done. After a kill, the open rows go back into the queue. Let clients name their
//! jobs (`PUT /videos/NAME`), so that a repeated request does not pay again, and accept only URLs as
//! images: a stranger's path would be a file of your machine. All of it is in
//! `examples/recipes/src/bin/web_worker.rs` in the repository, with a test that kills it ten times.
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
//! Let your functions take a [`Client`]. That of `Sandbox::client_builder` polls and retries within
//! milliseconds, so no test sleeps.
//!
//! ```
//! # fn main() -> kling_video::Result<()> {
//! use kling_video::sandbox::{Endpoint, Fault, Sandbox, Script};
//! use kling_video::{BatchOptions, ErrorKind, Image, ImageToVideo};
//!
//! let sandbox = Sandbox::start()?;
//! let client = sandbox.client_builder().build()?;
//! let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
//! # let dir = tempfile::tempdir().unwrap();
//! # let dir = dir.path();
//!
//! // Out of credits.
//! sandbox.fault(Endpoint::Create, Fault::status(403), 1);
//! let error = client.generate_to(&request, dir.join("1.mp4")).unwrap_err();
//! assert!(error.is_out_of_credits() && !error.may_have_been_billed());
//!
//! // Accepted, but the response is lost. The next call finds the generation, which is paid once.
//! sandbox.fault(Endpoint::Create, Fault::close_connection().after_accepting(), 1);
//! let error = client.generate_to(&request, dir.join("2.mp4")).unwrap_err();
//! assert_eq!(error.kind(), ErrorKind::CreateUnknown);
//! client.generate_to(&request, dir.join("2.mp4"))?;
//! assert_eq!(sandbox.generations().len(), 1);
//!
//! // Too many requests, and a download that is interrupted: the program notices neither.
//! sandbox.fault(Endpoint::Create, Fault::status(429), 2);
//! sandbox.fault(Endpoint::Retrieve, Fault::status(429), 2);
//! sandbox.fault(Endpoint::Video, Fault::truncate(9_000), 1);
//! client.generate_to(&request, dir.join("3.mp4"))?;
//!
//! // Concurrent jobs with different ends: one is moderated.
//! sandbox.set_script(|generation| match generation.request["prompt"].as_str() {
//!     Some("4") => Some(Script::new().failure("ContentPolicyViolation", "The image was rejected")),
//!     _ => None,
//! });
//! let jobs = ["4", "5", "6"].map(|name| {
//!     (request.clone().prompt(name), dir.join(name).with_extension("mp4"))
//! });
//! let results = client.generate_all_to(&jobs, &BatchOptions::new());
//! assert_eq!(results[0].as_ref().unwrap_err().kind(), ErrorKind::GenerationFailed);
//! assert!(results[1].is_ok() && results[2].is_ok());
//! # Ok(())
//! # }
//! ```
//!
//! `sandbox::Fault` has the other ways to fail. A program that runs as its own process is given the
//! sandbox's URL and key; the example `serve` in the repository is a sandbox as a process.
//!
//! # Logging
//!
//! This crate logs nothing: an [event handler](ClientBuilder::event_handler) receives everything there
//! is to log. Log single fields, since the `Debug` output of an [`Event`] may contain the video's URL,
//! with which anybody can download it. The HTTP library logs through the `log` crate:
//!
//! | Level | What ureq 3.5 logs, with targets that start with `ureq` |
//! |---|---|
//! | info and above | nothing |
//! | debug | connections, requests and responses: hosts, statuses, harmless headers; no paths, no key |
//! | trace | complete URLs, all headers, bodies of responses: **the API key**, signed URLs |
//!
//! A search of a trace log does not find the key, since it is broken into lines of 16 bytes. The filter
//! `debug,ureq=info`, in `RUST_LOG` for `env_logger` and `tracing_subscriber`, keeps all of it out. No
//! configuration can undo a limit at compile time:
//! `log = { version = "0.4", features = ["release_max_level_debug"] }`.
//!
//! # Other models and fields
//!
//! Models that take the same fields can be tried with [`ImageToVideo::model`], and fields without a
//! setter with [`extra`](ImageToVideo::extra). Both are untested: the server decides.
//!
//! | Checked before sending | For |
//! |---|---|
//! | length of prompts; range of `cfg_scale` and camera movements; number of masks and points; masks with a camera movement | [`MODEL`] |
//! | images: JPEG or PNG, size, dimensions, aspect ratio | [`MODEL`] |
//! | images: a format that a data URI can name, not empty | others |
//! | numbers are finite, client request ids valid, extra fields not those of a setter | all |
//!
//! [`Pricing::estimate`] assumes 5 seconds for an unset duration for [`MODEL`] only.
//!
//! `extra("tail_image_url", …)`, a last frame, is sent as it is. The vendor documented it for this
//! model until September 2025 and still does for others. Whether the API now ignores, rejects or
//! honors it is not known.
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
//! # Small programs
//!
//! The largest lever is the TLS library (see [Features](#features)): `native-tls` saves most of its
//! size, and no TLS at all, for a [`base_url`](ClientBuilder::base_url) on the loopback, the rest. Keep
//! `sandbox` in the `dev-dependencies`. Then comes the profile. The sizes of stripped programs on
//! x86-64 Linux, in MB, with `create`, `wait` and `download` / with `generate_to`:
//!
//! | TLS | release | with the profile below |
//! |---|---|---|
//! | `rustls` (default) | 2.98 / 3.12 | 1.76 / 1.83 |
//! | `native-tls` | 1.45 / 1.59 | 0.83 / 0.91 |
//! | none | 1.33 / 1.46 | 0.77 / 0.85 |
//!
//! ```toml
//! [profile.release]
//! opt-level = "z"   # for size; the network limits the speed anyway
//! lto = true
//! codegen-units = 1
//! panic = "abort"   # loses nothing that `generate_to` has paid for
//! strip = true
//! ```
//!
//! # What it does not do, and why
//!
//! - **No async.** A generation takes minutes, so a blocking call costs one sleeping thread. In an
//!   async program call it from `spawn_blocking` or an equivalent.
//! - **No other products of the vendor.** One model, done with care.
//! - **No webhooks**: the API has none.
//! - **No cancelling of a generation**: the API cannot. Cancelling ends the call; the generation
//!   continues and is billed.
//! - **No resizing or converting of images**, and no playing of videos: other crates do that.
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

// How requests are sent, and how often.
mod api_key;
mod endpoint;
mod quota;
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
