//! The settings of the sandbox: how generations proceed, and what the API stores and reports.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::generation::{RecordedGeneration, credits_of};
use super::{Endpoint, Sandbox, Script};

impl Sandbox {
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
        let script = &mut self.server.api().state().script;
        script.pending_polls = polls;
        script.statuses.clear();
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
        self.server.api().state().script.statuses = statuses;
    }

    /// Makes generations fail: the final status is `error`, with this error name and message. Undone
    /// by [`clear_failure`](Sandbox::clear_failure).
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
        let failure = Some((name.to_owned(), message.to_owned()));
        self.server.api().state().script.failure = failure;
    }

    /// Undoes [`set_failure`](Sandbox::set_failure): generations created from now on complete.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.set_failure("ContentPolicyViolation", "The image was rejected");
    /// // …
    /// sandbox.clear_failure();
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear_failure(&self) {
        self.server.api().state().script.failure = None;
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
        self.server.api().state().script.not_found_polls = polls;
    }

    /// Sets a function that decides by its request how each new generation proceeds, so that
    /// concurrent jobs get different ends.
    ///
    /// It is called once for each accepted create request, before its response is sent. Where it
    /// returns `None`, the settings for all generations apply.
    ///
    /// Defaults to none.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// use kling_video::sandbox::{Sandbox, Script};
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let sandbox = Sandbox::start()?;
    /// sandbox.set_script(|generation| {
    ///     // By the client request id, to which retries and `generate_to` append `.` and 16 digits.
    ///     let job = generation.client_request_id.as_deref().unwrap_or_default();
    ///     // By a field of the request.
    ///     let prompt = generation.request["prompt"].as_str().unwrap_or_default();
    ///     if job.starts_with("order-2") {
    ///         Some(Script::new().failure("ContentPolicyViolation", "The image was rejected"))
    ///     } else if prompt.contains("slowly") {
    ///         Some(Script::new().complete_after_polls(20))
    ///     } else {
    ///         None
    ///     }
    /// });
    /// let client = sandbox.client_builder().build()?;
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let ids = [
    ///     client.create(&request.clone().client_request_id("order-1"))?.id,
    ///     client.create(&request.client_request_id("order-2"))?.id,
    /// ];
    /// let results = client.wait_all(&ids);
    /// assert!(results[0].is_ok() && results[1].is_err());
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_script(
        &self,
        script: impl Fn(&RecordedGeneration) -> Option<Script> + Send + Sync + 'static,
    ) {
        self.server.api().state().script_of = Some(Arc::new(script));
    }

    /// Undoes [`set_script`](Sandbox::set_script).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.clear_script();
    /// # Ok(())
    /// # }
    /// ```
    pub fn clear_script(&self) {
        self.server.api().state().script_of = None;
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
    /// Each generation reduces it by its price when it is first reported as completed. Create requests
    /// are accepted whatever it is: use `Fault::status(403)` to simulate an account without credits.
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
        let mut state = self.server.api().state();
        (state.balance, state.charged_credits) = (usd, 0);
    }

    /// Sets the price of generations created from now on, in US dollars per second of video.
    ///
    /// It is reported as the usage of completed generations, listed in the log, charged to the
    /// [balance](Sandbox::set_balance) and, unless [`set_pricing`](Sandbox::set_pricing) says
    /// otherwise, quoted by `GET /v1/models`.
    ///
    /// Defaults to 0.012: 5 seconds cost 0.06 USD.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// sandbox.set_price(0.1);
    /// client.generate(&request)?;
    /// assert_eq!(client.balance()?.amount, 99.5);
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_price(&self, usd_per_second: f64) {
        self.server.api().state().credits_per_second = credits_of(usd_per_second);
    }

    /// Sets the `pricing` that `GET /v1/models` lists for every model, or with `None` the default.
    ///
    /// It changes only what is quoted; [`set_price`](Sandbox::set_price) changes what is charged.
    ///
    /// Defaults to a fixed price per second.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// sandbox.set_pricing(Some(serde_json::from_str(r#"{"kind":"variable"}"#)?));
    /// let pricing = client.pricing(kling_video::MODEL)?;
    /// assert_eq!(pricing.map(|pricing| pricing.kind).as_deref(), Some("variable"));
    /// # Ok(())
    /// # }
    /// ```
    pub fn set_pricing(&self, pricing: Option<Value>) {
        self.server.api().state().pricing = pricing;
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

    /// Undoes [`allow_model`](Sandbox::allow_model).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.disallow_model("kling-video/v2.1/standard/image-to-video");
    /// # Ok(())
    /// # }
    /// ```
    pub fn disallow_model(&self, model: &str) {
        self.server.api().state().extensions.models.remove(model);
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

    /// Undoes [`allow_field`](Sandbox::allow_field).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// sandbox.disallow_field("tail_image_url");
    /// # Ok(())
    /// # }
    /// ```
    pub fn disallow_field(&self, name: &str) {
        self.server.api().state().extensions.fields.remove(name);
    }
}
