//! A mock server for the API, for testing programs offline, without a key and at no cost.
//!
//! Requires the feature `sandbox`.
//!
//! [`Sandbox::start`] listens on a loopback port and serves the API over real sockets. It is as
//! strict as the API's documentation: a wrong path, method, key, content type, field, type or
//! range gets the vendor's error response. A generation completes after a configurable number of
//! polls, and its video is a real, playable MP4. A [`Fault`] reproduces a failure that can happen
//! in production, and [`Sandbox::requests`] returns every request the server received.
//!
//! **Semver:** the sandbox is a testing tool. Until version 1.0, everything in this module is
//! outside the crate's semver promise and may change in any release.
//!
//! ```
//! use kling_video::sandbox::Sandbox;
//! use kling_video::{Image, ImageToVideo};
//!
//! # fn main() -> kling_video::Result<()> {
//! let sandbox = Sandbox::start()?;
//! let client = sandbox.client_builder().build()?;
//!
//! let video = client.generate(&ImageToVideo::new(Image::url("https://example.com/cat.jpg")))?;
//!
//! assert!(video.url.starts_with(&sandbox.url()));
//! assert_eq!(sandbox.generations().len(), 1);
//! # Ok(())
//! # }
//! ```

// In layers: a module imports only from its own layer and those above it in this list.

// HTTP, queries and dates.
mod http;
mod query;
mod time;

// Requests and responses of the API.
mod endpoint;
mod fault;
mod image;
mod responses;
mod schema;
mod video;

// What the API remembers, and how it responds.
mod api;
mod generation;
mod logs;

// Sockets.
mod connection;
mod request_log;
mod response_writer;
mod server;
mod shutdown;

use std::fmt;
use std::time::Duration;

pub use endpoint::Endpoint;
pub use fault::Fault;
pub use generation::RecordedGeneration;
pub use request_log::RecordedRequest;

use crate::{Client, ClientBuilder, Error, Operation, Result, RetryPolicy, WaitOptions};
use generation::Failure;
use server::Server;

/// A running mock server.
///
/// It runs until it is dropped. Dropping it closes the port and all connections, including those
/// held open by [`Fault::no_response`], and joins the server's threads.
///
/// All settings can be changed at any time, also while clients are connected.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// use kling_video::sandbox::Sandbox;
///
/// let sandbox = Sandbox::start()?;
/// sandbox.complete_after_polls(0);
/// let client = sandbox.client_builder().build()?;
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
pub struct Sandbox {
    server: Server,
}

impl Sandbox {
    /// Starts a server on a free port of 127.0.0.1.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`ErrorKind::Io`](crate::ErrorKind::Io) if the server cannot listen on a port or start its
    /// thread.
    pub fn start() -> Result<Sandbox> {
        let server = Server::start().map_err(|source| {
            Error::io(Operation::Build, None, "failed to start the sandbox on 127.0.0.1", source)
        })?;
        Ok(Sandbox { server })
    }

    /// Returns the server's base URL, for [`ClientBuilder::base_url`].
    ///
    /// It is `http://127.0.0.1:` followed by the port.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// assert!(sandbox.url().starts_with("http://127.0.0.1:"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn url(&self) -> String {
        self.server.api().origin().to_owned()
    }

    /// Returns the only API key that the server accepts: `sandbox-key`.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// assert_eq!(sandbox.key(), "sandbox-key");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self) -> &str {
        api::API_KEY
    }

    /// Returns a builder for a client of this server, with delays short enough for tests.
    ///
    /// The client uses this server's URL and key, and no proxy. It polls after 2 ms and then every
    /// 2 ms, for at most 30 s. Its retries start with a base delay of 1 ms, up to 20 ms.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// let client = sandbox.client_builder().build()?;
    /// assert_eq!(client.balance()?.amount, 100.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn client_builder(&self) -> ClientBuilder {
        let wait = WaitOptions::new()
            .initial_delay(Duration::from_millis(2))
            .interval(Duration::from_millis(2))
            .timeout(Duration::from_secs(30));
        let retry = RetryPolicy::new()
            .base_delay(Duration::from_millis(1))
            .max_delay(Duration::from_millis(20));
        Client::builder(self.key())
            .base_url(self.url())
            .no_proxy()
            .wait_options(wait)
            .retry_policy(retry)
    }

    /// Returns the video that is served by default: MP4, H.264, one second, 320 × 180 px, 18 KB.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// assert_eq!(&sandbox.default_video()[4..8], b"ftyp");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn default_video(&self) -> &'static [u8] {
        video::DEFAULT_VIDEO
    }

    /// Sets the bytes that are served as the video of every generation, existing ones included.
    ///
    /// Defaults to [`default_video`](Sandbox::default_video).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_video(b"not a video".to_vec());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_video(&self, bytes: Vec<u8>) {
        self.server.api().state().video.replace(bytes);
    }

    /// Sets the file name at the end of the video URLs' path, which is not percent-encoded.
    ///
    /// It may contain blanks, quotes and other characters that a URL must not contain, as those of
    /// some hosts do, but not `?` or `#`. Applies to the URLs in later responses; earlier URLs stay
    /// valid. Other oddities of video hosts are faults of [`Endpoint::Video`]:
    ///
    /// | Host | Setting |
    /// |---|---|
    /// | has the video only a while later | `Fault::status(404)`, a few times |
    /// | responds with a page | `Fault::response(200, "<html>…").header("Content-Type", "text/html")` |
    /// | compresses the video | `Fault::response(200, compressed).header("Content-Encoding", "gzip")` |
    /// | sends only a part | `Fault::response(206, part).header("Content-Range", "bytes 0-8999/18218")` |
    /// | appends bytes | [`set_video`](Sandbox::set_video) with these bytes |
    ///
    /// Defaults to `output.mp4`.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_video_file_name("my vidéo (1).mp4");
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_video_file_name(&self, name: impl Into<String>) {
        let name = name.into();
        self.server.api().state().video.url_file_name = name;
    }

    /// Sets how many polls return a pending status before a generation completes.
    ///
    /// The first pending poll returns `queued`, later ones `generating`, and the poll after them
    /// the final status. Applies to generations created from now on, and clears
    /// [`set_status_sequence`](Sandbox::set_status_sequence).
    ///
    /// Defaults to 2: the third poll returns the video.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.complete_after_polls(0); // the first poll returns the video
    /// # Ok(())
    /// # }
    /// ```
    pub fn complete_after_polls(&self, polls: u32) {
        let plan = &mut self.server.api().state().plan;
        plan.pending_polls = polls;
        plan.statuses.clear();
    }

    /// Sets the statuses that successive polls of a generation return; the last one repeats.
    ///
    /// A response with a [`Status::Completed`](crate::Status::Completed) carries the video, one with
    /// a [`Status::Error`](crate::Status::Error) an error object (see
    /// [`set_failure`](Sandbox::set_failure)). Applies to generations created from now on.
    ///
    /// Defaults to an empty sequence, with which
    /// [`complete_after_polls`](Sandbox::complete_after_polls) decides.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_status_sequence(["queued", "waiting", "succeeded"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_status_sequence(&self, statuses: impl IntoIterator<Item = impl Into<String>>) {
        // Collected first: the caller's iterator must not run while the lock is held.
        let statuses = statuses.into_iter().map(Into::into).collect();
        self.server.api().state().plan.statuses = statuses;
    }

    /// Makes generations fail: the final status is `error`, with this error name and message.
    ///
    /// Applies to generations created from now on. They fail after the pending polls set with
    /// [`complete_after_polls`](Sandbox::complete_after_polls). A generation with a
    /// [status sequence](Sandbox::set_status_sequence) keeps its statuses and takes only the error
    /// from here.
    ///
    /// Defaults to no failure: generations complete.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// use kling_video::sandbox::Sandbox;
    /// use kling_video::{ErrorKind, Image, ImageToVideo};
    ///
    /// let sandbox = Sandbox::start()?;
    /// sandbox.set_failure("ContentPolicyViolation", "The image was rejected");
    /// let client = sandbox.client_builder().build()?;
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let error = client.generate(&request).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_failure(&self, name: &str, message: &str) {
        self.server.api().state().plan.failure =
            Some(Failure { name: name.to_owned(), message: message.to_owned() });
    }

    /// Sets how many polls of a new generation return 404 "Inference not found" at first.
    ///
    /// The real API has been seen to do this. These polls do not count towards
    /// [`complete_after_polls`](Sandbox::complete_after_polls) or
    /// [`set_status_sequence`](Sandbox::set_status_sequence). Applies to generations created from
    /// now on.
    ///
    /// Defaults to 0.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_not_found_polls(3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_not_found_polls(&self, polls: u32) {
        self.server.api().state().plan.not_found_polls = polls;
    }

    /// Sets how long every response of an endpoint is delayed.
    ///
    /// The request is processed first, so a delayed create request has already created its
    /// generation. The delay applies until it is set again.
    ///
    /// Defaults to zero.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// use std::time::Duration;
    ///
    /// use kling_video::sandbox::Endpoint;
    ///
    /// sandbox.set_response_delay(Endpoint::Retrieve, Duration::from_millis(50));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_response_delay(&self, endpoint: Endpoint, delay: Duration) {
        self.server.request_log().response_delays.insert(endpoint, delay);
    }

    /// Sets how long after its creation a generation appears in the API's log (`GET /v2/logs`).
    ///
    /// Applies to existing generations too. With [`Duration::MAX`] they never appear.
    ///
    /// Defaults to zero.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_log_delay(std::time::Duration::MAX);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_log_delay(&self, delay: Duration) {
        self.server.api().state().logs.delay = delay;
    }

    /// Sets the maximum number of entries on one page of the API's log.
    ///
    /// It caps the `limit` of a request, so that pagination can be tested without hundreds of
    /// generations. Values below 1 are treated as 1.
    ///
    /// Defaults to 100, which is also the largest `limit` that the API accepts.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_log_page_limit(2);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_log_page_limit(&self, entries: usize) {
        self.server.api().state().logs.page_limit = entries.max(1);
    }

    /// Adds an entry to the API's log, dated now and not subject to the log delay.
    #[doc(hidden)]
    pub fn add_log_entry(&self, client_request_id: &str, inference_id: &str, status: &str) {
        let mut state = self.server.api().state();
        state.add_log_entry(client_request_id, inference_id, status);
    }

    /// Expires all video URLs issued so far: requests for them return 403.
    ///
    /// Retrieving the generation again issues a new URL.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.expire_video_urls();
    /// # Ok(())
    /// # }
    /// ```
    pub fn expire_video_urls(&self) {
        self.server.api().state().video.expire_urls();
    }

    /// Sets the account balance that the server reports, in US dollars.
    ///
    /// Generations do not reduce it, and create requests are accepted whatever it is. Use
    /// `Fault::status(403)` to simulate an account without credits.
    ///
    /// Defaults to 100.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_balance(0.25);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_balance(&self, usd: f64) {
        self.server.api().state().balance = usd;
    }

    /// Allows create requests to use this model, in addition to those already allowed.
    ///
    /// Defaults to `kling-video/v2.1/pro/image-to-video` only.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.allow_model("kling-video/v2.1/standard/image-to-video");
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_model(&self, model: impl Into<String>) {
        let model = model.into();
        self.server.api().state().extensions.models.insert(model);
    }

    /// Allows a top-level field of this name in the body of create requests, with any value.
    ///
    /// Defaults to the documented fields only.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.allow_field("tail_image_url");
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_field(&self, name: impl Into<String>) {
        let name = name.into();
        self.server.api().state().extensions.fields.insert(name);
    }

    /// Queues a fault for the next `times` requests to an endpoint.
    ///
    /// The faults of an endpoint are used in the order in which they were queued.
    /// [`Fault::default`] lets a request through unchanged: queue it first to make a later request
    /// fail, as when credits run out after the second generation.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// use kling_video::sandbox::{Endpoint, Fault};
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.fault(Endpoint::Billing, Fault::status(500), 2);
    /// sandbox.fault(Endpoint::Billing, Fault::close_connection(), 1);
    /// let client = sandbox.client_builder().build()?;
    /// client.balance()?; // the fourth attempt succeeds
    /// assert_eq!(sandbox.request_count(Endpoint::Billing), 4);
    ///
    /// sandbox.fault(Endpoint::Create, Fault::default(), 2);
    /// sandbox.fault(Endpoint::Create, Fault::status(403), u32::MAX); // out of credits
    /// # Ok(())
    /// # }
    /// ```
    pub fn fault(&self, endpoint: Endpoint, fault: Fault, times: u32) {
        self.server.request_log().queue_fault(endpoint, fault, times);
    }

    /// Discards all queued faults that have not been used yet.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.clear_faults();
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear_faults(&self) {
        self.server.request_log().clear_faults();
    }

    /// Returns every request received so far, including rejected and incomplete ones.
    ///
    /// They are in the order in which their heads were received.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// assert!(sandbox.requests().iter().all(|request| request.body_complete));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn requests(&self) -> Vec<RecordedRequest> {
        self.server.request_log().requests.clone()
    }

    /// Returns how many requests to an endpoint were received so far.
    ///
    /// A request counts as soon as its head was read.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// use kling_video::sandbox::Endpoint;
    ///
    /// assert_eq!(sandbox.request_count(Endpoint::Retrieve), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn request_count(&self, endpoint: Endpoint) -> usize {
        let request_log = self.server.request_log();
        request_log.requests.iter().filter(|request| request.endpoint == Some(endpoint)).count()
    }

    /// Returns every generation created so far, oldest first.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// assert!(sandbox.generations().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn generations(&self) -> Vec<RecordedGeneration> {
        self.server.api().state().generations()
    }

    /// Returns how many TCP connections were accepted so far.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// assert_eq!(sandbox.connection_count(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connection_count(&self) -> usize {
        self.server.request_log().connection_count
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("url", &self.url()).finish_non_exhaustive()
    }
}
