//! The client: glue between what a caller asks for and the modules that do it. No protocol here.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use crate::body::Body;
use crate::call::Call;
use crate::cancel::CancelToken;
use crate::download::download;
use crate::endpoint::{Route, logs};
use crate::error::{Error, Result};
use crate::event::Watcher;
use crate::generation::{Balance, Generation, GenerationId, Video};
use crate::poll::WaitOptions;
use crate::request::{ImageToVideo, check_client_request_id};
use crate::resumable::{Run, Saved};
use crate::retry::RetryPolicy;
use crate::submit::{Budget, Ledger, make_client_request_id, submit};
use crate::transport::Transport;

/// A client of the API. Cheap to clone; clones and threads share its connections and limits.
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
pub struct Client(Arc<Shared>);

/// What a client and its clones share.
pub(crate) struct Shared {
    pub(crate) transport: Transport,
    pub(crate) route: Route,
    pub(crate) retry: RetryPolicy,
    pub(crate) wait: WaitOptions,
    pub(crate) budget: Budget,
    pub(crate) watcher: Option<Arc<Watcher>>,
}

impl Client {
    /// A client with this key and the default settings.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) when the key is empty or cannot be sent in a header, or
    /// when the proxy in the environment is none that can be used.
    ///
    /// ```
    /// let client = kling_video::Client::new("key")?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn new(api_key: impl Into<String>) -> Result<Client> {
        Self::builder(api_key).build()
    }

    /// A client with the key from `AIML_API_KEY`, `AIMLAPI_API_KEY` or `AIMLAPI_KEY`, the first
    /// that is set and not empty, and the default settings.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) when none is set, and as [`new`](Self::new).
    ///
    /// ```no_run
    /// let client = kling_video::Client::from_env()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn from_env() -> Result<Client> {
        Self::builder_from_env()?.build()
    }

    pub(crate) fn from_shared(shared: Shared) -> Self {
        Self(Arc::new(shared))
    }

    /// Creates a generation. **This is what costs money.**
    ///
    /// A failed attempt is repeated, at most 3 times, only where it certainly was not accepted:
    ///
    /// | what happens | what comes of it |
    /// |---|---|
    /// | 2xx with an id, in the body or in `x-inference-id` | the generation |
    /// | no connection; a break before the last byte was sent; 5xx before it | repeated, then `Connect`, `Transport`, `Timeout` or `Api` |
    /// | 429 | repeated after `Retry-After`, unless that is longer than [`RetryPolicy::max_delay`]; then `Api` |
    /// | other 4xx; 3xx but 302 and 303; 500, 503 and other 5xx with the vendor's body | `Api`, never repeated |
    /// | 302, 303, 502, 504, 524; any 5xx without the vendor's body; 1xx, 600 and above | `CreateUnknown`, never repeated |
    /// | a break, silence or an unreadable answer after the last byte | `CreateUnknown`, never repeated |
    ///
    /// A picture over about 750 kB is announced first (`Expect: 100-continue`), so that a refusal
    /// costs no upload.
    ///
    /// # Errors
    /// As above; [`InvalidRequest`](crate::ErrorKind::InvalidRequest) and
    /// [`Io`](crate::ErrorKind::Io) as [`validate`](ImageToVideo::validate);
    /// [`CreateLimit`](crate::ErrorKind::CreateLimit). After
    /// [`CreateUnknown`](crate::ErrorKind::CreateUnknown) look the generation up with
    /// [`find`](Self::find).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
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
        self.create_on(&self.call(None), request)
    }

    /// Asks for a generation's state once. A failed read is repeated as the
    /// [`RetryPolicy`] says.
    ///
    /// # Errors
    /// [`Api`](crate::ErrorKind::Api) (404: unknown, or not visible yet right after its create),
    /// [`Connect`](crate::ErrorKind::Connect), [`Transport`](crate::ErrorKind::Transport),
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Decode`](crate::ErrorKind::Decode).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let id = client.create(&request)?.id;
    /// let generation = client.retrieve(&id)?;
    /// println!("{} is {}", generation.id, generation.status);
    /// # Ok(())
    /// # }
    /// ```
    pub fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
        self.call(None).retrieve(id)
    }

    /// Waits until a generation has ended, as the client's [`wait`](crate::ClientBuilder::wait)
    /// options say. Any process can do this that has the id.
    ///
    /// # Errors
    /// [`GenerationFailed`](crate::ErrorKind::GenerationFailed),
    /// [`WaitTimeout`](crate::ErrorKind::WaitTimeout) (the generation goes on: wait again), and a
    /// refusal of the API that waiting cannot mend; passing failures do not end the wait. Each
    /// error carries the id and the last state.
    ///
    /// ```
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let id = client.create(&request)?.id.to_string();
    /// let video = client.wait(&id.parse()?)?;
    /// println!("the video is at {}", video.url);
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait(&self, id: &GenerationId) -> Result<Video> {
        self.wait_with(id, &self.0.wait)
    }

    /// The same with options of its own.
    ///
    /// # Errors
    /// As [`wait`](Self::wait), and [`Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let id = client.create(&request)?.id;
    /// use kling_video::WaitOptions;
    /// use std::time::Duration;
    ///
    /// let options = WaitOptions::new().first_poll_after(Duration::ZERO);
    /// # let options = options.interval(Duration::from_millis(2));
    /// let video = client.wait_with(&id, &options)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_with(&self, id: &GenerationId, options: &WaitOptions) -> Result<Video> {
        self.call(options.cancel.as_ref()).wait(id, options)
    }

    /// Waits for any number of generations in one loop, each on a schedule of its own. The results
    /// are in the order of `ids`; one that fails does not end the wait for the others.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let (first, second) = (client.create(&request)?.id, client.create(&request)?.id);
    /// # let options = kling_video::WaitOptions::new().first_poll_after(std::time::Duration::ZERO)
    /// #     .interval(std::time::Duration::from_millis(2));
    /// for result in client.wait_all(&[first, second], &options) {
    ///     match result {
    ///         Ok(video) => println!("{} is at {}", video.id, video.url),
    ///         Err(error) => eprintln!("{error}"),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn wait_all(&self, ids: &[GenerationId], options: &WaitOptions) -> Vec<Result<Video>> {
        self.call(options.cancel.as_ref()).wait_all(ids, options)
    }

    /// Creates a generation and waits for it. **A second call pays a second time**; a program that
    /// may be killed uses [`generate_to`](Self::generate_to).
    ///
    /// # Errors
    /// As [`create`](Self::create) and [`wait`](Self::wait).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let video = client.generate(&request)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate(&self, request: &ImageToVideo) -> Result<Video> {
        self.generate_with(request, &self.0.wait)
    }

    /// The same with options of its own.
    ///
    /// # Errors
    /// As [`generate`](Self::generate), and [`Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// ```no_run
    /// # use kling_video::{Client, Error, ImageToVideo};
    /// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
    /// use kling_video::{VideoLength, WaitOptions};
    ///
    /// let options = WaitOptions::for_length(VideoLength::FiveSeconds);
    /// let video = client.generate_with(&request, &options)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate_with(&self, request: &ImageToVideo, options: &WaitOptions) -> Result<Video> {
        let call = self.call(options.cancel.as_ref());
        let generation = self.create_on(&call, request)?;
        // Calling this once more would pay once more.
        call.wait(&generation.id, options).map_err(Error::paid)
    }

    /// Downloads a video: to a temporary file beside `to`, resumed where it breaks off, checked to
    /// be a whole MP4, and then renamed. The bytes in the file are returned. An expired link is
    /// renewed once.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the path, also while another download writes to the same
    /// target; [`Decode`](crate::ErrorKind::Decode) when what the server sends is no whole MP4;
    /// otherwise as [`retrieve`](Self::retrieve). Whatever stood at `to` is then untouched.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// # let video = client.generate(&request)?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let to = folder.path().join("cat.mp4");
    /// let bytes = client.download(&video, &to)?;
    /// # assert_eq!(bytes, sandbox.video().len() as u64);
    /// # Ok(())
    /// # }
    /// ```
    pub fn download(&self, video: &Video, to: impl AsRef<Path>) -> Result<u64> {
        download(&self.call(None), video, to.as_ref())
    }

    /// From the request to the file, in a way that can be killed anywhere and started again: it
    /// **pays once**, and goes on where it was.
    ///
    /// What was done is kept in `<to>.kling.jsonl` beside the file, one JSON line per step, each on
    /// disk before the next thing happens. On the next run with the same request
    /// - a finished video is reused, without any call; one that was deleted is fetched again;
    /// - an accepted generation is waited for and downloaded;
    /// - a create whose answer was lost is looked up in the API's log; where that does not list it,
    ///   nothing is created and the error is `CreateUnknown`: run again later, or delete the
    ///   journal to pay for a new one.
    ///
    /// A generation that failed is not charged, and the next run creates another one.
    ///
    /// Requests are the same if all their fields but the client request id are, the picture's bytes
    /// (or its link), and the base URL and route that they go to; not the key, nor a file's path.
    /// With **another request a finished video is replaced, which is paid for**, and an unfinished
    /// one is an error. A second process with the same target waits and then reuses the first
    /// one's result. A file at `to` without a journal is never overwritten.
    ///
    /// A client with [`max_creates(0)`](crate::ClientBuilder::max_creates) fetches what is paid for
    /// and creates nothing: the way on when the credits have run out.
    ///
    /// # Errors
    /// [`Journal`](crate::ErrorKind::Journal) when the journal cannot be used or belongs to
    /// something else; otherwise as [`create`](Self::create), [`wait`](Self::wait) and
    /// [`download`](Self::download). The same call can be made again after every error.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let folder = tempfile::tempdir().unwrap();
    /// # let to = folder.path().join("cat.mp4");
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let first = client.generate_to(&request, &to)?;
    /// let again = client.generate_to(&request, &to)?;
    /// assert!(!first.reused && again.reused);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate_to(&self, request: &ImageToVideo, to: impl AsRef<Path>) -> Result<Saved> {
        self.generate_to_with(request, to, &self.0.wait)
    }

    /// The same with options of its own.
    ///
    /// # Errors
    /// As [`generate_to`](Self::generate_to), and [`Cancelled`](crate::ErrorKind::Cancelled).
    ///
    /// ```no_run
    /// # use kling_video::{Client, Error, ImageToVideo};
    /// # fn example(client: Client, request: ImageToVideo) -> Result<(), Error> {
    /// use kling_video::{CancelToken, WaitOptions};
    ///
    /// let stop = CancelToken::new(); // cancel it from a Ctrl-C handler
    /// let options = WaitOptions::new().cancel(stop.clone());
    /// let saved = client.generate_to_with(&request, "cat.mp4", &options)?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate_to_with(
        &self,
        request: &ImageToVideo,
        to: impl AsRef<Path>,
        options: &WaitOptions,
    ) -> Result<Saved> {
        let shared = &*self.0;
        Run {
            call: &self.call(options.cancel.as_ref()),
            request,
            target: to.as_ref(),
            options,
            budget: &shared.budget,
            address: &format!("{}{}", shared.transport.base_url(), shared.route.path()),
        }
        .run()
    }

    /// Looks a generation up in the API's log by the `X-Client-Request-Id` of its create
    /// ([`Error::client_request_id`]), at most 92 days back: the way on from
    /// [`CreateUnknown`](crate::ErrorKind::CreateUnknown).
    ///
    /// The log lags, and may list a generation only when it has ended: `None` does not prove that
    /// there is none. A request that succeeded is preferred to one that failed.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) for an id that cannot have been sent;
    /// otherwise as [`retrieve`](Self::retrieve).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// let created = client.create(&request.client_request_id("order-4711"))?;
    /// assert_eq!(client.find("order-4711")?, Some(created.id));
    /// # Ok(())
    /// # }
    /// ```
    pub fn find(&self, client_request_id: &str) -> Result<Option<GenerationId>> {
        check_client_request_id(client_request_id).map_err(|error| error.during("find"))?;
        let found = self.call(None).find(client_request_id, logs::MAX_DAYS)?;
        Ok(found.map(|(id, _)| id))
    }

    /// What is left on the account.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// let balance = client.balance()?;
    /// println!("{} {}", balance.amount, balance.currency);
    /// # Ok(())
    /// # }
    /// ```
    pub fn balance(&self) -> Result<Balance> {
        self.call(None).balance()
    }

    fn call<'a>(&'a self, token: Option<&'a CancelToken>) -> Call<'a> {
        Call {
            session: self.0.transport.session(token),
            route: self.0.route,
            retry: &self.0.retry,
            watcher: self.0.watcher.as_deref(),
        }
    }

    fn create_on(&self, call: &Call<'_>, request: &ImageToVideo) -> Result<Generation> {
        let body = Body::new(request.check()?);
        let own = request.own_client_request_id();
        let id = own.map_or_else(|| make_client_request_id(None), str::to_owned);
        submit(call, body, &self.0.budget, &mut OneId(id))
    }
}

/// A create without a journal: every attempt has the same id, and nothing is written down.
struct OneId(String);

impl Ledger for OneId {
    fn client_request_id(&mut self) -> String {
        self.0.clone()
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client")
            .field("base_url", &self.0.transport.base_url())
            .field("route", &self.0.route)
            .field("retry", &self.0.retry)
            .field("wait", &self.0.wait)
            .finish_non_exhaustive()
    }
}
