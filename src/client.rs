//! The client and its views: connects a caller's request to the modules that carry it out. The
//! protocol is elsewhere.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::cancel::CancelToken;
use crate::context::RequestContext;
use crate::create::{CreateObserver, CreateQuota, generate_client_request_id, submit};
use crate::download::download;
use crate::endpoint::{Route, billing, logs};
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler, EventKind};
use crate::model::body::RequestBody;
use crate::model::generation::{Balance, Generation, GenerationId, Video};
use crate::model::request::{ImageToVideo, validate_client_request_id};
use crate::operation::Operation;
use crate::retry::RetryPolicy;
use crate::run::{ResumableRun, SavedVideo};
use crate::transport::Transport;
use crate::wait_options::WaitOptions;

/// A client of the API, cheap to clone and to use from several threads.
///
/// Clones and views share the API key, the connections and the limit on generations. A *view* is
/// the same client with another setting for the calls made through it: see
/// [`with_wait_options`](Self::with_wait_options),
/// [`with_cancel_token`](Self::with_cancel_token) and
/// [`with_event_handler`](Self::with_event_handler).
///
/// ```no_run
/// use kling_video::{Client, Image, ImageToVideo};
///
/// let client = Client::from_env()?;
/// let request = ImageToVideo::new(Image::file("cat.jpg")).prompt("the cat yawns");
/// let video = client.generate(&request)?;
/// client.download(&video, "cat.mp4")?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone)]
pub struct Client {
    inner: Arc<ClientInner>,
    wait_options: WaitOptions,
    cancel_token: Option<CancelToken>,
    event_handler: Option<Arc<EventHandler>>,
}

/// What a client shares with its clones and views.
pub(crate) struct ClientInner {
    pub(crate) transport: Transport,
    pub(crate) route: Route,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) quota: CreateQuota,
}

impl Client {
    /// Creates a client with this API key and the default settings.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if the key is empty or not a valid header value, or if
    /// the environment's proxy is not supported.
    ///
    /// ```
    /// let client = kling_video::Client::new("key")?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn new(api_key: impl Into<String>) -> Result<Client> {
        Self::builder(api_key).build()
    }

    /// Creates a client with the API key from the environment and the default settings.
    ///
    /// The key is the first of `AIML_API_KEY`, `AIMLAPI_API_KEY` and `AIMLAPI_KEY` that is set and
    /// not empty.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if none is set, and as [`new`](Self::new).
    ///
    /// ```no_run
    /// let client = kling_video::Client::from_env()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn from_env() -> Result<Client> {
        Self::builder_from_env()?.build()
    }

    pub(crate) fn from_parts(
        inner: ClientInner,
        wait_options: WaitOptions,
        event_handler: Option<Arc<EventHandler>>,
    ) -> Self {
        Self { inner: Arc::new(inner), wait_options, cancel_token: None, event_handler }
    }

    /// Returns a view of this client that polls as `options` say.
    ///
    /// Defaults to the options of the [builder](crate::ClientBuilder::wait_options).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let id = client.create(&request)?.id;
    /// use kling_video::WaitOptions;
    /// use std::time::Duration;
    ///
    /// let options = WaitOptions::new().initial_delay(Duration::ZERO);
    /// # let options = options.interval(Duration::from_millis(2));
    /// let video = client.with_wait_options(options).wait(&id)?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the view has the options, not the client"]
    pub fn with_wait_options(&self, options: WaitOptions) -> Client {
        Self { wait_options: options, ..self.clone() }
    }

    /// Returns a view of this client whose calls end when `token` is cancelled: creates, waits,
    /// downloads and all others.
    ///
    /// Defaults to no token. Each call through the view opens its own connections, since cancelling
    /// closes them.
    ///
    /// ```no_run
    /// # use kling_video::{Client, Error, ImageToVideo};
    /// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
    /// use kling_video::CancelToken;
    ///
    /// let token = CancelToken::new(); // call token.cancel() in a Ctrl-C handler
    /// let client = client.with_cancel_token(token.clone());
    /// let saved = client.generate_to(&request, "cat.mp4")?;
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the view has the token, not the client"]
    pub fn with_cancel_token(&self, token: CancelToken) -> Client {
        Self { cancel_token: Some(token), ..self.clone() }
    }

    /// Returns a view of this client that calls `handler` with every [`Event`], on the thread that
    /// makes the call.
    ///
    /// Replaces the handler of the [builder](crate::ClientBuilder::event_handler), which is the
    /// default. If `handler` panics, the call ends and the panic reaches the caller.
    ///
    /// ```no_run
    /// # use kling_video::{Client, Error, ImageToVideo};
    /// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
    /// use kling_video::EventKind;
    ///
    /// let client = client.with_event_handler(|event| {
    ///     if let EventKind::Downloading { received, .. } = event.kind {
    ///         eprintln!("{received} bytes received");
    ///     }
    /// });
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "the view has the handler, not the client"]
    pub fn with_event_handler(
        &self,
        handler: impl Fn(&Event<'_>) + Send + Sync + 'static,
    ) -> Client {
        Self { event_handler: Some(Arc::new(handler)), ..self.clone() }
    }

    /// Creates a generation. **This is what costs money.**
    ///
    /// A failed attempt is repeated, at most 3 times, only if it certainly was not accepted:
    ///
    /// | Response | Result |
    /// |---|---|
    /// | 2xx with an id, in the body or in `x-inference-id` | the generation |
    /// | no connection; connection lost, or 5xx, before the last byte was sent | repeated, then `Connect`, `Transport`, `Timeout` or `Api` |
    /// | 429 | repeated after `Retry-After`, unless that is longer than [`RetryPolicy::max_delay`]; then `Api` |
    /// | other 4xx; 3xx except 302 and 303; 500, 503 and other 5xx with the vendor's error body | `Api`, never repeated |
    /// | 302, 303, 502, 504, 524; any 5xx without the vendor's error body; 1xx, 600 and above | `CreateUnknown`, never repeated |
    /// | connection lost, timeout or an invalid response after the last byte was sent | `CreateUnknown`, never repeated |
    ///
    /// For a body over 1 MiB (an image over about 750 kB) the server is asked before the upload
    /// (`Expect: 100-continue`), so that a rejection costs no upload.
    ///
    /// # Errors
    /// As above; [`InvalidRequest`](crate::ErrorKind::InvalidRequest) and
    /// [`Io`](crate::ErrorKind::Io) as [`validate`](ImageToVideo::validate);
    /// [`GenerationLimit`](crate::ErrorKind::GenerationLimit). After
    /// [`CreateUnknown`](crate::ErrorKind::CreateUnknown) search for the generation with
    /// [`find`](Self::find).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let generation = client.create(&request)?;
    /// println!("accepted as {}", generation.id);
    /// # Ok(())
    /// # }
    /// ```
    pub fn create(&self, request: &ImageToVideo) -> Result<Generation> {
        self.create_with_context(&self.context(None), request)
    }

    /// Retrieves the current state of a generation, without waiting for it to end.
    ///
    /// Transient failures are retried as the [`RetryPolicy`] says.
    ///
    /// # Errors
    /// [`Api`](crate::ErrorKind::Api) (404: unknown, or not visible yet right after its create),
    /// [`Connect`](crate::ErrorKind::Connect), [`Transport`](crate::ErrorKind::Transport),
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Decode`](crate::ErrorKind::Decode),
    /// [`Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let id = client.create(&request)?.id;
    /// let generation = client.retrieve(&id)?;
    /// println!("{} is {}", generation.id, generation.status);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
        self.context(None).retrieve(id)
    }

    /// Waits until a generation has ended and returns its video.
    ///
    /// Polls as the [`WaitOptions`] say. Any process that has the id can do this.
    ///
    /// # Errors
    /// [`GenerationFailed`](crate::ErrorKind::GenerationFailed);
    /// [`WaitTimeout`](crate::ErrorKind::WaitTimeout) (the generation is still running: wait
    /// again); [`Api`](crate::ErrorKind::Api) for an error response that is not transient;
    /// [`Cancelled`](crate::ErrorKind::Cancelled). Transient failures do not end the wait. Every
    /// error carries the id and the last known state.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let id = client.create(&request)?.id.to_string();
    /// let video = client.wait(&id.parse()?)?;
    /// println!("the video is at {}", video.url);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self, id: &GenerationId) -> Result<Video> {
        self.context(None).wait(id, &self.wait_options)
    }

    /// Waits for any number of generations at once and returns their videos.
    ///
    /// Each is polled on its own schedule. The results are in the order of `ids`; a failed
    /// generation does not end the wait for the others.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let (first, second) = (client.create(&request)?.id, client.create(&request)?.id);
    /// for result in client.wait_all(&[first, second]) {
    ///     match result {
    ///         Ok(video) => println!("{} is at {}", video.id, video.url),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "each result may be an error"]
    pub fn wait_all(&self, ids: &[GenerationId]) -> Vec<Result<Video>> {
        self.context(None).wait_all(ids, &self.wait_options)
    }

    /// Creates a generation and waits for its video.
    ///
    /// **A second call pays a second time**; a program that may be killed uses
    /// [`generate_to`](Self::generate_to).
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`wait`](Self::wait).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let video = client.generate(&request)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate(&self, request: &ImageToVideo) -> Result<Video> {
        let context = self.context(None);
        let generation = self.create_with_context(&context, request)?;
        // Repeating the call after an error of the wait would pay again.
        context.wait(&generation.id, &self.wait_options).map_err(Error::not_idempotent)
    }

    /// Downloads a video to a file and returns its size in bytes.
    ///
    /// The video is written to a temporary file next to `path`, resumed when the connection is
    /// lost, checked to be a complete MP4, and then renamed; an existing regular file is replaced.
    /// If the URL has expired, a fresh one is retrieved, once.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the path, also while another download writes to the same
    /// path; [`Decode`](crate::ErrorKind::Decode) if the server does not send a complete MP4;
    /// otherwise as [`retrieve`](Self::retrieve). A file at `path` is then unchanged.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let video = client.generate(&request)?;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("cat.mp4");
    /// let bytes = client.download(&video, &path)?;
    /// # assert_eq!(bytes, sandbox.default_video().len() as u64);
    /// # Ok(())
    /// # }
    /// ```
    pub fn download(&self, video: &Video, path: impl AsRef<Path>) -> Result<u64> {
        let path = path.as_ref();
        let context = self.context(Some(path));
        let bytes = download(&context, video, path)?;
        context.emit(&video.id, EventKind::Saved { bytes });
        Ok(bytes)
    }

    /// Generates a video into a file. Can be killed anywhere and called again: it **pays once**.
    ///
    /// Progress is recorded in `<path>.kling.jsonl` next to the file, one JSON line per step, each
    /// on disk before the next thing happens. Called again with the same request, it continues:
    /// - a finished video is reused without any request; one that was deleted is fetched again;
    /// - an accepted generation is waited for and downloaded;
    /// - a create whose response was lost is searched for in the API's log. If the log does not
    ///   list it, nothing is created and the error is `CreateUnknown`: call again later, or delete
    ///   the journal to pay for a new generation.
    ///
    /// A failed generation is not charged, and the next call creates another one.
    ///
    /// Requests are the same if all their fields are (but the client request id), and the image's
    /// bytes or URL, and the base URL and route that they are sent to; not the API key, nor a
    /// file's path. With **another request a finished video is replaced, which is paid for**, and
    /// an unfinished one is an error. A second process with the same path waits, and then reuses
    /// the first one's result. A file at `path` without a journal is never overwritten.
    ///
    /// Every attempt to create is sent with its own client request id: the request's, followed by
    /// `-` and 16 hexadecimal digits.
    ///
    /// A client with [`max_generations(0)`](crate::ClientBuilder::max_generations) fetches what is
    /// paid for and creates nothing: use it to continue when the credits have run out.
    ///
    /// # Errors
    /// [`Journal`](crate::ErrorKind::Journal) if the journal cannot be used or belongs to another
    /// request; otherwise as [`create`](Self::create), [`wait`](Self::wait) and
    /// [`download`](Self::download). The call can be repeated after any error.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("cat.mp4");
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let first = client.generate_to(&request, &path)?;
    /// let again = client.generate_to(&request, &path)?;
    /// assert!(!first.reused && again.reused);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate_to(
        &self,
        request: &ImageToVideo,
        path: impl AsRef<Path>,
    ) -> Result<SavedVideo> {
        let target = path.as_ref();
        let inner = &*self.inner;
        ResumableRun {
            context: &self.context(Some(target)),
            request,
            target,
            options: &self.wait_options,
            quota: &inner.quota,
            endpoint_url: &format!("{}{}", inner.transport.base_url(), inner.route.path()),
        }
        .run()
        .map_err(Error::resumable)
    }

    /// Searches the API's log for a generation by the `X-Client-Request-Id` of its create
    /// request.
    ///
    /// This is how to continue after [`CreateUnknown`](crate::ErrorKind::CreateUnknown), with
    /// [`Error::client_request_id`]. The log goes back 92 days. It lags, and may list a generation
    /// only when it has ended: `None` does not prove that there is none. A request that succeeded
    /// is preferred to one that failed.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for an id that no create can have;
    /// otherwise as [`retrieve`](Self::retrieve).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// let created = client.create(&request.client_request_id("order-4711"))?;
    /// assert_eq!(client.find("order-4711")?, Some(created.id));
    /// # Ok(())
    /// # }
    /// ```
    pub fn find(&self, client_request_id: &str) -> Result<Option<GenerationId>> {
        validate_client_request_id(client_request_id)
            .map_err(|error| error.with_operation(Operation::Find))?;
        let found = self.context(None).find(client_request_id, logs::MAX_DAYS)?;
        Ok(found.map(|(id, _)| id))
    }

    /// Reads the account's balance.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// let balance = client.balance()?;
    /// println!("{} {}", balance.amount, balance.currency);
    /// # Ok(())
    /// # }
    /// ```
    pub fn balance(&self) -> Result<Balance> {
        self.context(None).get(Operation::Balance, billing::TARGET, billing::parse_response)
    }

    /// The context of one call; `path` is its output file, for events.
    fn context<'a>(&'a self, path: Option<&'a Path>) -> RequestContext<'a> {
        RequestContext {
            session: self.inner.transport.session(self.cancel_token.as_ref()),
            route: self.inner.route,
            retry_policy: &self.inner.retry_policy,
            event_handler: self.event_handler.as_deref(),
            path,
        }
    }

    fn create_with_context(
        &self,
        context: &RequestContext<'_>,
        request: &ImageToVideo,
    ) -> Result<Generation> {
        let body = RequestBody::new(request)?;
        let id = request
            .caller_request_id()
            .map_or_else(|| generate_client_request_id(None), str::to_owned);
        submit(context, body, &self.inner.quota, &mut FixedRequestId(id))
    }
}

/// A create without a journal: every attempt has the same id, and none is recorded.
struct FixedRequestId(String);

impl CreateObserver for FixedRequestId {
    fn client_request_id(&mut self) -> String {
        self.0.clone()
    }
}

impl fmt::Debug for Client {
    /// Omits the API key.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.inner.transport.base_url())
            .field("route", &self.inner.route)
            .field("retry_policy", &self.inner.retry_policy)
            .field("wait_options", &self.wait_options)
            .field("cancel_token", &self.cancel_token)
            .finish_non_exhaustive()
    }
}
