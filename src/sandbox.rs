//! An offline stand-in for the API, so that programs which embed this crate can test themselves
//! without a network, without a key and at no cost (feature `sandbox`).
//!
//! [`Sandbox::start`] opens a port on the loopback interface and speaks the API over real
//! sockets, as strictly as its documentation: a wrong path, method, key, content type, field,
//! type or range gets the vendor's error. It "generates" in a scripted number of polls, and
//! serves a real, playable MP4. What goes wrong in production can be made to go wrong here: see
//! [`Fault`]. What it was asked can be looked at: see [`Sandbox::requests`].
//!
//! The sandbox is a tool for tests. Until version 1.0 it is outside the crate's semver promise.
//!
//! ```
//! use kling_video::{Image, ImageToVideo, Sandbox};
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

// Each file imports only from those after it in: server, connection, sender, stop, traffic, api,
// log, generation, schema, picture, video, replies, endpoint, fault, query, time, http.
mod api;
mod connection;
mod endpoint;
mod fault;
mod generation;
mod http;
mod log;
mod picture;
mod query;
mod replies;
mod schema;
mod sender;
mod server;
mod stop;
mod time;
mod traffic;
mod video;

use std::fmt;
use std::time::Duration;

pub use endpoint::Endpoint;
pub use fault::Fault;
pub use generation::SandboxGeneration;
pub use traffic::SandboxRequest;

use crate::{Client, ClientBuilder, Error, Result, RetryPolicy, WaitOptions};
use generation::Failure;
use server::Server;

/// The stand-in server. It runs until it is dropped, which closes its port and all connections,
/// also those that a [`Fault::stall`] keeps waiting, and ends its threads.
///
/// It can be scripted at any time, also while clients are talking to it.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// let sandbox = kling_video::Sandbox::start()?;
/// sandbox.finish_after(0);
/// let client = sandbox.client_builder().build()?;
/// # let _ = client;
/// # Ok(())
/// # }
/// ```
pub struct Sandbox {
    server: Server,
}

impl Sandbox {
    /// Starts a server on 127.0.0.1 and a free port.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// let sandbox = kling_video::Sandbox::start()?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `ErrorKind::Io` when no port can be opened.
    pub fn start() -> Result<Sandbox> {
        let server = Server::start()
            .map_err(|source| Error::io("sandbox", None, "no port can be opened", source))?;
        Ok(Sandbox { server })
    }

    /// What to give [`ClientBuilder::base_url`]: `http://127.0.0.1:` and the port.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert!(sandbox.url().starts_with("http://127.0.0.1:"));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn url(&self) -> String {
        self.server.api().origin().to_owned()
    }

    /// The only API key that it accepts: `sandbox-key`.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert_eq!(sandbox.key(), "sandbox-key");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn key(&self) -> &str {
        api::KEY
    }

    /// A client's builder that points here, with the key, without any proxy, and with waits that
    /// suit a test: the first poll after 2 ms, then every 2 ms, for at most 30 s; retries after
    /// 1 ms to 20 ms.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// let client = sandbox.client_builder().build()?;
    /// assert_eq!(client.balance()?.amount, 100.0);
    /// # Ok(())
    /// # }
    /// ```
    pub fn client_builder(&self) -> ClientBuilder {
        let wait = WaitOptions::new()
            .first_poll_after(Duration::from_millis(2))
            .interval(Duration::from_millis(2))
            .timeout(Duration::from_secs(30));
        let retry = RetryPolicy::new()
            .base_delay(Duration::from_millis(1))
            .max_delay(Duration::from_millis(20));
        Client::builder(self.key()).base_url(self.url()).no_proxy().wait(wait).retry(retry)
    }

    /// The video that it serves by default: an MP4 of one second, H.264, 320 × 180 px, 18 KB.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert_eq!(&sandbox.video()[4..8], b"ftyp");
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn video(&self) -> &'static [u8] {
        video::VIDEO
    }

    /// Serves these bytes from now on, for every generation.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.serve_video(b"not a video".to_vec());
    /// # Ok(())
    /// # }
    /// ```
    pub fn serve_video(&self, bytes: Vec<u8>) {
        self.server.api().state().video.replace(bytes);
    }

    /// Generations created from now on are pending for so many polls (`queued` at the first,
    /// `generating` after it) and finished at the next. Default: 2, so the third poll finds the
    /// video. Takes back [`statuses`](Sandbox::statuses).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.finish_after(0); // the first poll finds it
    /// # Ok(())
    /// # }
    /// ```
    pub fn finish_after(&self, polls: u32) {
        let plan = &mut self.server.api().state().plan;
        plan.pending_polls = polls;
        plan.statuses.clear();
    }

    /// Generations created from now on have these statuses, one a poll, the last for good.
    /// `completed` and `succeeded` come with the video, `error` and `failed` with an error. None
    /// at all: back to [`finish_after`](Sandbox::finish_after).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.statuses(["queued", "waiting", "succeeded"]);
    /// # Ok(())
    /// # }
    /// ```
    pub fn statuses(&self, statuses: impl IntoIterator<Item = impl Into<String>>) {
        // Collected first: the caller's iterator shall not run under the lock.
        let statuses = statuses.into_iter().map(Into::into).collect();
        self.server.api().state().plan.statuses = statuses;
    }

    /// Generations created from now on end with the status `error` and this error, when
    /// [`finish_after`](Sandbox::finish_after) says.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// use kling_video::{ErrorKind, Image, ImageToVideo, Sandbox};
    ///
    /// let sandbox = Sandbox::start()?;
    /// sandbox.fail_with("ContentPolicyViolation", "The picture was refused");
    /// let client = sandbox.client_builder().build()?;
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let error = client.generate(&request).unwrap_err();
    /// assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    /// # Ok(())
    /// # }
    /// ```
    pub fn fail_with(&self, name: &str, message: &str) {
        self.server.api().state().plan.failure =
            Some(Failure { name: name.to_owned(), message: message.to_owned() });
    }

    /// The first polls of generations created from now on answer 404 "Inference not found", as
    /// the API has been seen to do. Default: 0. These polls do not count for
    /// [`finish_after`](Sandbox::finish_after) and [`statuses`](Sandbox::statuses).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.hidden_polls(3);
    /// # Ok(())
    /// # }
    /// ```
    pub fn hidden_polls(&self, polls: u32) {
        self.server.api().state().plan.hidden_polls = polls;
    }

    /// Holds back every reply of an endpoint for so long, until it is set to zero. The request
    /// has been acted on by then. Default: zero.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// use std::time::Duration;
    /// sandbox.delay(kling_video::Endpoint::Retrieve, Duration::from_millis(50));
    /// # Ok(())
    /// # }
    /// ```
    pub fn delay(&self, endpoint: Endpoint, delay: Duration) {
        self.server.traffic().delays.insert(endpoint, delay);
    }

    /// Generations appear in the request log so long after they were accepted, earlier ones too.
    /// `Duration::MAX`: never. Default: zero.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.log_delay(std::time::Duration::MAX);
    /// # Ok(())
    /// # }
    /// ```
    pub fn log_delay(&self, delay: Duration) {
        self.server.api().state().log.delay = delay;
    }

    /// A page of the request log has at most so many rows, whatever the request's `limit` says.
    /// At least 1, default 100, which is also the largest `limit` that the API takes.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.log_page_limit(2); // paging without hundreds of generations
    /// # Ok(())
    /// # }
    /// ```
    pub fn log_page_limit(&self, rows: usize) {
        self.server.api().state().log.page_limit = rows.max(1);
    }

    /// Puts a row on top of the request log, dated now and not held back.
    #[doc(hidden)]
    pub fn add_log_row(&self, client_request_id: &str, inference_id: &str, status: &str) {
        let mut state = self.server.api().state();
        state.add_log_row(client_request_id, inference_id, status);
    }

    /// Links to videos that were handed out so far answer 403. A retrieve hands out a fresh one.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.expire_links();
    /// # Ok(())
    /// # }
    /// ```
    pub fn expire_links(&self) {
        self.server.api().state().video.expire_links();
    }

    /// The balance that is reported, in US dollars. Default: 100. Nothing is deducted from it,
    /// and nothing is refused for want of it (for that: `Fault::status(403)`).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.balance(0.25);
    /// # Ok(())
    /// # }
    /// ```
    pub fn balance(&self, usd: f64) {
        self.server.api().state().balance = usd;
    }

    /// Accepts this model as well. By default only `kling-video/v2.1/pro/image-to-video`.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.allow_model("kling-video/v2.1/standard/image-to-video");
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_model(&self, model: impl Into<String>) {
        let model = model.into();
        self.server.api().state().allowed.models.insert(model);
    }

    /// Accepts a field of this name in the body of a create, with any value. By default only the
    /// documented ones.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.allow_field("tail_image_url");
    /// # Ok(())
    /// # }
    /// ```
    pub fn allow_field(&self, name: impl Into<String>) {
        let name = name.into();
        self.server.api().state().allowed.fields.insert(name);
    }

    /// The next `times` requests of an endpoint go wrong in this way. Faults of one endpoint
    /// queue up and are used in order; [`Fault::default`] lets a request pass, so that with some of
    /// these first it is a later one that goes wrong, as when credits run out after the second.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// use kling_video::{Endpoint, Fault};
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.fault(Endpoint::Billing, Fault::status(500), 2);
    /// sandbox.fault(Endpoint::Billing, Fault::close(), 1);
    /// let client = sandbox.client_builder().build()?;
    /// client.balance()?; // at the fourth try
    /// assert_eq!(sandbox.count(Endpoint::Billing), 4);
    ///
    /// sandbox.fault(Endpoint::Create, Fault::default(), 2);
    /// sandbox.fault(Endpoint::Create, Fault::status(403), u32::MAX); // no credits
    /// # Ok(())
    /// # }
    /// ```
    pub fn fault(&self, endpoint: Endpoint, fault: Fault, times: u32) {
        self.server.traffic().queue(endpoint, fault, times);
    }

    /// Forgets the faults that have not been used.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// sandbox.clear_faults();
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear_faults(&self) {
        self.server.traffic().clear_faults();
    }

    /// Every request so far in the order of their heads, also those that were refused or did not
    /// arrive whole.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert!(sandbox.requests().iter().all(|request| request.complete));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn requests(&self) -> Vec<SandboxRequest> {
        self.server.traffic().requests.clone()
    }

    /// How many requests of an endpoint have come, counted as soon as their head was read.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert_eq!(sandbox.count(kling_video::Endpoint::Retrieve), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn count(&self, endpoint: Endpoint) -> usize {
        let traffic = self.server.traffic();
        let of_endpoint = |request: &&SandboxRequest| request.endpoint == Some(endpoint);
        traffic.requests.iter().filter(of_endpoint).count()
    }

    /// Every create that was accepted, in order.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert!(sandbox.generations().is_empty());
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn generations(&self) -> Vec<SandboxGeneration> {
        self.server.api().state().generations()
    }

    /// How many TCP connections were accepted so far.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// assert_eq!(sandbox.connections(), 0);
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn connections(&self) -> usize {
        self.server.traffic().connections
    }
}

impl fmt::Debug for Sandbox {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sandbox").field("url", &self.url()).finish_non_exhaustive()
    }
}
