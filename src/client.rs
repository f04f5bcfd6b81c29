//! The client and its views: connects a caller's request to the modules that carry it out. The
//! protocol is elsewhere.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::cancel::CancelToken;
use crate::context::{ClientInner, RequestContext};
use crate::create::create;
use crate::download::{Replace, Target, download};
use crate::endpoint::logs::{LoggedRequest, MAX_DAYS};
use crate::endpoint::{billing, models};
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler, EventKind};
use crate::model::generation::{Balance, Generation, GenerationId, Video};
use crate::model::pricing::Pricing;
use crate::model::request::{ImageToVideo, MAX_CLIENT_REQUEST_ID_LEN, validate_client_request_id};
use crate::operation::Operation;
use crate::poll::Known;
use crate::run::{BatchOptions, DurableRun, Journal, SavedVideo, generate_all_to};
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
    pub(crate) inner: Arc<ClientInner>,
    pub(crate) wait_options: WaitOptions,
    pub(crate) cancel_token: Option<CancelToken>,
    pub(crate) event_handler: Option<Arc<EventHandler>>,
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
    /// A failed attempt is repeated, at most 3 times, only on proof that it was not accepted:
    ///
    /// | Response | Proof | Result |
    /// |---|---|---|
    /// | 2xx with an id, in the body or in `x-inference-id` | of a generation | the generation |
    /// | no connection; connection lost, or 5xx, before the last byte was sent | not accepted | repeated, then `Connect`, `Transport`, `Timeout` or `Api` |
    /// | 429 | not accepted | repeated after `Retry-After`, unless that is longer than [`RetryPolicy::max_delay`](crate::RetryPolicy::max_delay); then `Api` |
    /// | the other registered 4xx, but not those below; 301, 307, 308; 500 and 503 with the vendor's marks | not accepted | `Api`, never repeated |
    /// | 408, 409, 423, 424, 425; every other 3xx, 4xx and 5xx; 1xx, 600 and above | none | `CreateUnknown`, never repeated |
    /// | connection lost, timeout or an invalid response after the last byte was sent | none | `CreateUnknown`, never repeated |
    ///
    /// The vendor's marks are, in the JSON object of the body, `statusCode` equal to the status with
    /// `requestId`; or `status` equal to it with an `error` that has `name` or `data.kind`. Gateways
    /// in front of the API write anything else, and what is behind them may have accepted the
    /// request.
    ///
    /// A rejection may name a generation all the same, in `x-inference-id`. Before the create is
    /// repeated, the API is asked about that id once; if it knows the generation as pending or done,
    /// that is the result. An error has the id as [`Error::generation_id`]:
    /// [`retrieve`](Self::retrieve) it before creating again.
    ///
    /// Every attempt has its own client request id: a retry's is the first one's with `.` and 16
    /// hexadecimal digits. [`Error::client_request_id`] is that of the last attempt.
    ///
    /// A server that rejects a create before it has read the body often closes the connection, and
    /// its response is lost. If it is certain that the body was not sent completely, the create is
    /// repeated at once, and asks before the upload (`Expect: 100-continue`).
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
        create(&self.context(None), request)
    }

    /// Retrieves the current state of a generation, without waiting for it to end.
    ///
    /// Transient failures are retried as the [`RetryPolicy`](crate::RetryPolicy) says.
    ///
    /// # Errors
    /// [`Api`](crate::ErrorKind::Api) (404: unknown, or not visible yet right after its create),
    /// [`Connect`](crate::ErrorKind::Connect), [`Transport`](crate::ErrorKind::Transport),
    /// [`Timeout`](crate::ErrorKind::Timeout), [`Cancelled`](crate::ErrorKind::Cancelled);
    /// [`Decode`](crate::ErrorKind::Decode) for a response that cannot be read, or that does not
    /// name this generation in `id`, `generation_id` or `x-inference-id`.
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
    /// A generation is given up only on proof:
    ///
    /// | Response to a poll | Result |
    /// |---|---|
    /// | `completed` with a video URL | the video |
    /// | `error` or `failed`, twice in a row | `GenerationFailed`, documented as not charged |
    /// | `canceled` or `expired`, or `completed` with an error instead of a video, or `error` after `completed`, twice in a row | `GenerationFailed`, and [`may_have_been_billed`](Error::may_have_been_billed) is true |
    /// | `completed` without URL and error, for 60 s | `Decode` |
    /// | 404 with the vendor's error body, for 60 s | `Api`: the API does not know the id. With [`generate`](Self::generate) and [`generate_to`](Self::generate_to), which know that it exists: polled again |
    /// | another 4xx with the vendor's error body, but 408, 425 and 429 | `Api` |
    /// | all others: pending, without the generation's id, an error response without the vendor's error body, 5xx, no response | polled again until the timeout |
    ///
    /// Two responses are *in a row* if none between them is readable. The second is requested after
    /// the poll interval, but no sooner than a first retry may be made and no later than 10 s, even
    /// past the timeout.
    ///
    /// # Errors
    /// As above; [`WaitTimeout`](crate::ErrorKind::WaitTimeout) (the generation may still be
    /// running: wait again), with what the last unusable response says in its message and source;
    /// [`Cancelled`](crate::ErrorKind::Cancelled). Every error carries the id and the last known
    /// state.
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
        self.context(None).wait(id, &Known::Nothing)
    }

    /// Waits for any number of generations at once and returns their videos.
    ///
    /// Each is polled on its own schedule, and what ends its wait is as for [`wait`](Self::wait).
    /// The results are in the order of `ids`; a failed generation does not end the wait for the
    /// others.
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
        self.context(None).wait_all(ids)
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
        let generation = create(&context, request)?;
        // Repeating the call after an error of the wait would pay again.
        let id = generation.id.clone();
        let known = Known::Response(Box::new(generation));
        context.wait(&id, &known).map_err(Error::not_idempotent)
    }

    /// Downloads a video to a file and returns its size in bytes.
    ///
    /// The video is written to a temporary file next to `path` (`.cat.mp4.kling.part` for
    /// `cat.mp4`), resumed when the connection is lost, checked to be a complete MP4, and then
    /// renamed. **An existing regular file is replaced**; nothing else is. Symlinks are followed.
    ///
    /// | Video host | Result |
    /// |---|---|
    /// | 400, 401, 403, 404 or 410 | a fresh URL is retrieved, once |
    /// | then 404 | requested again for three times the policy's [`max_delay`](crate::RetryPolicy::max_delay), at most and by default 60 s: the video may not be there yet |
    /// | connection lost, timeout, 408, 425, 429, 5xx | resumed or repeated as the retry policy says |
    /// | 206 without having been asked for a range | accepted if it is the complete file, else continued |
    /// | a complete response that is not a complete MP4 | requested once more, then `Decode`, with the start of the body in [`Error::body`] |
    ///
    /// A complete MP4 has complete `ftyp` and `moov` boxes and complete media data. Bytes behind its
    /// last box are accepted if the server announced the length. Characters that a URL must not
    /// contain are percent-encoded. A URL with a loopback or link-local host is rejected, unless the
    /// API has a loopback host, too.
    ///
    /// # Errors
    /// [`Io`](crate::ErrorKind::Io) with the path, also while another download writes to the same
    /// path; [`Decode`](crate::ErrorKind::Decode) if the server does not send a complete MP4, or if
    /// the URL is invalid or rejected, which the message then contains; otherwise as
    /// [`retrieve`](Self::retrieve). A file at `path` is then unchanged. If only the rename fails, the
    /// temporary file is kept, and the message names it.
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
        let target =
            Target::resolve(path, Operation::Download).map_err(|error| error.with_id(&video.id))?;
        let context = self.context(Some(path));
        let bytes = download(&context, video, &target, &Replace::RegularFile, None)?;
        context.emit(&video.id, EventKind::Saved { bytes });
        Ok(bytes)
    }

    /// Generates a video into a file. Can be killed anywhere and called again: it **pays once**.
    ///
    /// Progress is recorded in a [journal](crate::FileJournal), `<path>.kling.jsonl` next to the
    /// file: one JSON line per step, each on disk before the next thing happens. Called again, it
    /// continues. The newest record of the request decides, and an id that is neither proved failed
    /// nor abandoned is fetched, never created again:
    ///
    /// | Record of this request | What happens |
    /// |---|---|
    /// | none; the create was rejected; the generation failed, or was abandoned | a generation is created and paid for |
    /// | a create was sent, its response is not known | it is searched for in the API's log; if that does not list it, `CreateUnknown` |
    /// | a generation was created | it is waited for and downloaded |
    /// | the video was saved and is there, unchanged | it is reused, without any request |
    /// | the video was saved and is gone | it is downloaded again |
    /// | the generation ended without a video, and may have been charged | `GenerationFailed` |
    ///
    /// What counts as proof:
    ///
    /// | Verdict | Proof |
    /// |---|---|
    /// | created | a 2xx that names an id; [`retrieve`](Self::retrieve) knows the id that a rejection or a lost response named; the log lists the attempt |
    /// | rejected | as for [`create`](Self::create); if the rejection named an id, the API also says that this is no generation |
    /// | failed | as for [`wait`](Self::wait); or the log says so and the generation itself, too |
    ///
    /// Whatever is not proved is not known, and is never paid for again. To give it up and pay for a
    /// new generation, call [`FileJournal::abandon`](crate::FileJournal::abandon).
    ///
    /// Requests are the same if all their fields are (but the client request id), the bytes or the
    /// URLs of the image and the masks, and the base URL and route that they are sent to; not the
    /// API key, nor a file's path. Another request for the same path is an error before anything is
    /// sent: if the first one is not finished, always; if its video is there, unless
    /// [`replace_videos`](crate::ClientBuilder::replace_videos) allows to replace it. Any other file
    /// at `path` is never overwritten. Another process with the same path waits, and then reuses the
    /// first one's result.
    ///
    /// Every attempt to create is sent with its own client request id: the request's, followed by
    /// `.` and 16 hexadecimal digits.
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
        let path = path.as_ref();
        let run = DurableRun { context: self.context(Some(path)), request, stops: None };
        run.generate_to(path).map_err(|error| error.resumable(Operation::GenerateTo))
    }

    /// Runs [`generate_to`](Self::generate_to) for many jobs at once, with a handful of threads.
    ///
    /// Like `generate_to` it can be killed anywhere and called again with the same jobs, and pays
    /// once for each. The results are in input order.
    ///
    /// Up to [`concurrent_creates`](BatchOptions::concurrent_creates) jobs are started at once, and
    /// up to [`max_in_flight`](BatchOptions::max_in_flight) are unfinished; every video is downloaded
    /// as soon as it is there, since URLs expire. The number of threads is
    /// `concurrent_creates` + [`concurrent_downloads`](BatchOptions::concurrent_downloads) +
    /// [`threads`](WaitOptions::threads) of the wait options: 7 by default. Events carry the
    /// [`path`](Event::path) of their job.
    ///
    /// If the API rejects the key or the account, or the limit of
    /// [`max_generations`](crate::ClientBuilder::max_generations) is reached, no more generations are
    /// created; without enough credits, none of the same model and duration. What is paid for
    /// already is still fetched, and the other jobs end with
    /// [`NotAttempted`](crate::ErrorKind::NotAttempted) and the reason. So do those that have not
    /// started when the call is cancelled.
    ///
    /// # Errors
    /// Each job has its own result, with the errors of [`generate_to`](Self::generate_to). If two
    /// jobs have the same target, nothing is sent for any job: the first result is
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) and names them.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let dir = tempfile::tempdir().unwrap();
    /// use kling_video::{BatchOptions, Image, ImageToVideo};
    ///
    /// let jobs = ["cat", "dog"].map(|name| {
    ///     let image = Image::url(format!("https://example.com/{name}.jpg"));
    ///     (ImageToVideo::new(image), dir.path().join(format!("{name}.mp4")))
    /// });
    /// for (result, (_, path)) in client.generate_all_to(&jobs, &BatchOptions::new()).iter().zip(&jobs) {
    ///     match result {
    ///         Ok(saved) => println!("{}: {} bytes", path.display(), saved.bytes),
    ///         Err(error) => println!("{}: {error}", path.display()),
    ///     }
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use = "each result may be an error"]
    pub fn generate_all_to(
        &self,
        jobs: &[(ImageToVideo, PathBuf)],
        options: &BatchOptions,
    ) -> Vec<Result<SavedVideo>> {
        let results = generate_all_to(&self.context(None), jobs, options);
        let resumable = |error: Error| error.resumable(Operation::GenerateAllTo);
        results.into_iter().map(|result| result.map_err(resumable)).collect()
    }

    /// Creates a generation and waits for it, and records each step in a journal of the caller's.
    ///
    /// This is [`generate_to`](Self::generate_to) without the file: it can be killed anywhere and
    /// called again with the same journal, and pays once. Use it to keep the record in a database, or
    /// where several machines share the work; [`Journal`] says what it owes. The call ends with
    /// `completed`. Called again it makes no create, but retrieves a fresh URL for the same video.
    ///
    /// One journal is one job: another request with the same journal is an error.
    ///
    /// # Errors
    /// [`Journal`](crate::ErrorKind::Journal) with the journal's own error as its
    /// [`source`](std::error::Error::source), or if it belongs to another request; otherwise as
    /// [`create`](Self::create) and [`wait`](Self::wait). The call can be repeated after any error.
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use kling_video::{BoxError, Image, ImageToVideo, Journal, JournalEntry};
    ///
    /// struct InMemory(Vec<JournalEntry>);
    ///
    /// impl Journal for InMemory {
    ///     fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
    ///         Ok(self.0.clone())
    ///     }
    ///
    ///     fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
    ///         assert_eq!(position, self.0.len() as u64);
    ///         self.0.push(entry.clone());
    ///         Ok(())
    ///     }
    /// }
    ///
    /// let mut journal = InMemory(Vec::new());
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    /// let video = client.generate_recorded(&request, &mut journal)?;
    /// let steps: Vec<_> = journal.0.iter().map(JournalEntry::step).collect();
    /// assert_eq!(steps, ["intent", "sending", "created", "completed"]);
    /// assert_eq!(client.generate_recorded(&request, &mut journal)?.id, video.id);
    /// # Ok(())
    /// # }
    /// ```
    pub fn generate_recorded(
        &self,
        request: &ImageToVideo,
        journal: &mut dyn Journal,
    ) -> Result<Video> {
        let run = DurableRun { context: self.context(None), request, stops: None };
        run.generate_recorded(journal).map_err(|error| error.resumable(Operation::GenerateRecorded))
    }

    /// Searches the API's log for a generation by the `X-Client-Request-Id` of its create
    /// request.
    ///
    /// This is how to continue after [`CreateUnknown`](crate::ErrorKind::CreateUnknown), with
    /// [`Error::client_request_id`] or with the id that was set on the request. The log goes back 92
    /// days. It lags, and may list a generation only when it has ended: `None` does not prove that
    /// there is none.
    ///
    /// | The log lists | Result |
    /// |---|---|
    /// | requests with this id that did not fail | the newest one's generation |
    /// | else retries of it, or attempts of [`generate_to`](Self::generate_to), that did not fail | the newest one's |
    /// | else failed ones | the newest one's: [`wait`](Self::wait) says whether it really failed |
    /// | none of these | `None` |
    ///
    /// Only the status `failed`, without a cost, means that a request failed.
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
        validate_client_request_id(client_request_id, MAX_CLIENT_REQUEST_ID_LEN)
            .map_err(|error| error.with_operation(Operation::Find))?;
        let found = self.context(None).find(client_request_id, true, MAX_DAYS, None)?;
        Ok(found.map(|found| found.id))
    }

    /// Lists the requests of the API key in the last `period`, newest first, at most `limit` of them:
    /// what was generated, under which ids, and what it cost.
    ///
    /// The period is rounded up to whole hours; the log goes back 92 days, and a longer period means
    /// all of it. The log lags, and may list a generation only when it has ended.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use std::time::Duration;
    ///
    /// let last_week = Duration::from_secs(7 * 86_400);
    /// for request in client.list(last_week, 100)? {
    ///     println!("{:?} {} {:?} USD", request.inference_id, request.status, request.usd);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn list(&self, period: Duration, limit: usize) -> Result<Vec<LoggedRequest>> {
        const HOUR: Duration = Duration::from_secs(3_600);
        let hours = period.as_nanos().div_ceil(HOUR.as_nanos()).clamp(1, MAX_DAYS as u128 * 24);
        self.context(None).list(&format!("{hours}h"), limit)
    }

    /// Reads the price of a model, by its id or an alias. `None` if the API does not know the model
    /// or lists no price for it.
    ///
    /// [`Pricing::estimate`] quotes a request. Prices are public, so the API key is not sent.
    ///
    /// # Errors
    /// As [`retrieve`](Self::retrieve).
    ///
    /// ```
    /// # fn main() -> Result<(), kling_video::Error> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
    /// if let Some(pricing) = client.pricing(kling_video::MODEL)? {
    ///     println!("{:?} {}", pricing.estimate(&request), pricing.currency);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub fn pricing(&self, model: &str) -> Result<Option<Pricing>> {
        let parse_response = |response| models::parse_response(response, model);
        self.context(None).get(Operation::Pricing, &models::target(model), None, parse_response)
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
        self.context(None).get(Operation::Balance, billing::TARGET, None, billing::parse_response)
    }

    /// The context of one call; `path` is its output file, for events.
    fn context<'a>(&'a self, path: Option<&'a Path>) -> RequestContext<'a> {
        RequestContext {
            client: &self.inner,
            session: self.inner.transport.session(self.cancel_token.as_ref()),
            wait_options: &self.wait_options,
            event_handler: self.event_handler.as_deref(),
            path,
        }
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
