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
mod models;
mod script;

// Sockets.
mod connection;
mod request_log;
mod response_writer;
mod server;
mod shutdown;

// What programs set.
mod settings;

use std::fmt;
use std::time::Duration;

pub use endpoint::Endpoint;
pub use fault::Fault;
pub use generation::RecordedGeneration;
pub use request_log::RecordedRequest;
pub use script::Script;

use crate::{Client, ClientBuilder, Error, Operation, Result, RetryPolicy, WaitOptions};
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
        Sandbox::start_on_port(0)
    }

    /// Starts a server on this port of 127.0.0.1, so that programs can be started before it, or keep
    /// its address while it is restarted. Port 0 means any free port.
    ///
    /// A restarted server knows no generation of its predecessor, and uses none of its ids: a run of
    /// `generate_to` that another one has started is polled until the wait's timeout. Delete its
    /// journal, or start in a fresh directory.
    ///
    /// ```no_run
    /// # fn main() -> kling_video::Result<()> {
    /// use kling_video::sandbox::Sandbox;
    ///
    /// let sandbox = Sandbox::start_on_port(4711)?;
    /// assert_eq!(sandbox.url(), "http://127.0.0.1:4711");
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// As [`start`](Sandbox::start); also if the port is in use.
    pub fn start_on_port(port: u16) -> Result<Sandbox> {
        let server = Server::start(port).map_err(|source| {
            let message = "failed to start the sandbox on 127.0.0.1".to_owned();
            Error::io(Operation::Build, message, source)
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
