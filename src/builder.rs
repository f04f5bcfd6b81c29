//! The client's settings, with documented defaults, validated once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::Client;
use crate::context::ClientInner;
use crate::endpoint::Route;
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler};
use crate::quota::CreateQuota;
use crate::retry::RetryPolicy;
use crate::transport::{
    ProxyChoice, Transport, TransportConfig, first_variable, root_certificates,
};
use crate::wait_options::WaitOptions;

const BASE_URL: &str = "https://api.aimlapi.com";
const USER_AGENT: &str = concat!("kling-video/", env!("CARGO_PKG_VERSION"));

/// In order of precedence; the vendor's own SDK reads the first two.
const API_KEY_ENV_VARS: [&str; 3] = ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"];

/// The settings of a [`Client`]. Nothing is validated or connected before [`build`](Self::build).
///
/// ```
/// use kling_video::{Client, RetryPolicy};
/// use std::time::Duration;
///
/// let client = Client::builder("key")
///     .idle_timeout(Duration::from_secs(30))
///     .retry_policy(RetryPolicy::new().max_retries(8))
///     .max_generations(20)
///     .build()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone)]
#[must_use = "a builder has no effect until it builds a client"]
pub struct ClientBuilder {
    transport: TransportConfig,
    route: Route,
    retry_policy: RetryPolicy,
    wait_options: WaitOptions,
    max_generations: Option<u32>,
    replace_videos: bool,
    event_handler: Option<Arc<EventHandler>>,
}

impl Client {
    /// Starts building a client with this API key; [`ClientBuilder`] has the settings.
    ///
    /// ```
    /// use kling_video::{Client, Route};
    ///
    /// let client = Client::builder("key").route(Route::Universal).build()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn builder(api_key: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            transport: TransportConfig {
                api_key: api_key.into(),
                base_url: BASE_URL.to_owned(),
                user_agent: USER_AGENT.to_owned(),
                proxy: ProxyChoice::default(),
                root_certificates: None,
                connect_timeout: Duration::from_secs(10),
                idle_timeout: Duration::from_secs(60),
            },
            route: Route::default(),
            retry_policy: RetryPolicy::new(),
            wait_options: WaitOptions::new(),
            max_generations: None,
            replace_videos: false,
            event_handler: None,
        }
    }

    /// Starts building a client with the API key from the environment.
    ///
    /// Reads the variables that [`from_env`](Self::from_env) reads.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) if none of the variables is set, or one is not UTF-8.
    ///
    /// ```no_run
    /// use kling_video::Client;
    ///
    /// let builder = Client::builder_from_env()?;
    /// let client = builder.event_handler(|event| eprintln!("{event:?}")).build()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn builder_from_env() -> Result<ClientBuilder> {
        let key = first_variable(&API_KEY_ENV_VARS)?;
        key.map(|(_, key)| Self::builder(key)).ok_or_else(|| {
            let names = API_KEY_ENV_VARS.join(", ");
            Error::config(format!("no API key in the environment; set one of {names}"))
        })
    }
}

impl ClientBuilder {
    /// Sets the URL of the API. Defaults to `https://api.aimlapi.com`.
    ///
    /// It must be an `https` URL, or `http` on the loopback, without credentials and query.
    pub fn base_url(mut self, url: impl Into<String>) -> Self {
        self.transport.base_url = url.into();
        self
    }

    /// Sets which of the API's routes to use. Defaults to [`Route::Kling`].
    pub fn route(self, route: Route) -> Self {
        Self { route, ..self }
    }

    /// Sets the `User-Agent` of every request. Defaults to `kling-video/` and this crate's version.
    pub fn user_agent(mut self, value: impl Into<String>) -> Self {
        self.transport.user_agent = value.into();
        self
    }

    /// Sets the proxy for all hosts but loopback addresses. Defaults to the environment's proxy.
    ///
    /// The URL is `http://` or `https://`, with credentials if the proxy needs them. The default is
    /// the first of `HTTPS_PROXY`, `ALL_PROXY` and `HTTP_PROXY`, in upper or lower case, with the
    /// exceptions in `NO_PROXY`: hosts, which include their subdomains, with or without a port,
    /// separated by commas or spaces; `*` is every host.
    pub fn proxy(mut self, url: impl Into<String>) -> Self {
        self.transport.proxy = ProxyChoice::Url(url.into());
        self
    }

    /// Uses no proxy, whatever the environment says. Defaults to the environment's proxy.
    pub fn no_proxy(mut self) -> Self {
        self.transport.proxy = ProxyChoice::None;
        self
    }

    /// Sets the certificate authorities to trust, in PEM, *instead of* the default ones, for the
    /// API and for downloads.
    ///
    /// Defaults to Mozilla's, bundled; with the feature `platform-verifier`, or with `native-tls`
    /// alone, to the system trust store, where a company's own is usually installed already.
    ///
    /// A certificate may be that of a root or, with `rustls`, of an intermediate authority. With
    /// `native-tls` alone, whether the latter suffices without its root depends on the system:
    /// OpenSSL, on Linux, requires the root.
    pub fn root_certificates_pem(mut self, pem: &[u8]) -> Self {
        self.transport.root_certificates = Some(root_certificates(pem));
        self
    }

    /// Sets the maximum time for the DNS lookup and, separately, for connecting with the TLS
    /// handshake. Defaults to 10 s.
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.transport.connect_timeout = timeout;
        self
    }

    /// Sets the maximum time without data from the server. Defaults to 60 s.
    ///
    /// For API responses it also bounds receiving the complete headers, and separately the complete
    /// body. The response to a create of more than 1 MiB may take 2.5 times as long again, at most
    /// 150 s more: on a slow network the operating system is still sending then.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.transport.idle_timeout = timeout;
        self
    }

    /// Sets when failed requests are retried. Defaults to [`RetryPolicy::new`].
    pub fn retry_policy(self, policy: RetryPolicy) -> Self {
        Self { retry_policy: policy, ..self }
    }

    /// Sets how `wait`, `wait_all`, `generate` and `generate_to` poll. Defaults to
    /// [`WaitOptions::new`].
    pub fn wait_options(self, options: WaitOptions) -> Self {
        Self { wait_options: options, ..self }
    }

    /// Limits how many generations this client, its clones and its views create. Defaults to no
    /// limit.
    ///
    /// A guard against a bug that spends: at the limit, creates fail with
    /// [`GenerationLimit`](crate::ErrorKind::GenerationLimit) before anything is sent. A create that
    /// is rejected does not count. For a limit in money, give the API key a spending limit in the
    /// vendor's dashboard.
    pub fn max_generations(self, limit: u32) -> Self {
        Self { max_generations: Some(limit), ..self }
    }

    /// Sets whether [`generate_to`](Client::generate_to) may replace a finished video by that of
    /// another request, and pay for it. Defaults to false: another request for the same path is then
    /// an error, before anything is paid.
    pub fn replace_videos(self, replace: bool) -> Self {
        Self { replace_videos: replace, ..self }
    }

    /// Sets a function to call with every [`Event`], on the thread that makes the call. Defaults to
    /// none.
    ///
    /// If it panics, the call ends and the panic reaches the caller.
    pub fn event_handler(self, handler: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self { event_handler: Some(Arc::new(handler)), ..self }
    }

    /// Validates the settings and creates the client. Nothing is sent.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), naming the setting: an API key that is not printable
    /// ASCII without spaces and quotation marks, or starts with `Bearer `; a base URL that is not
    /// `https`, or for which no TLS feature is enabled; an environment variable that is not UTF-8; an
    /// unsupported proxy; invalid certificates; a timeout of zero.
    pub fn build(self) -> Result<Client> {
        let inner = Arc::new(ClientInner {
            transport: Transport::new(self.transport)?,
            route: self.route,
            retry_policy: self.retry_policy,
            quota: CreateQuota::new(self.max_generations),
            replace_videos: self.replace_videos,
        });
        let Self { wait_options, event_handler, .. } = self;
        Ok(Client { inner, wait_options, cancel_token: None, event_handler })
    }
}

impl fmt::Debug for ClientBuilder {
    /// Omits the API key and whatever may contain a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("route", &self.route)
            .field("connect_timeout", &self.transport.connect_timeout)
            .field("idle_timeout", &self.transport.idle_timeout)
            .field("retry_policy", &self.retry_policy)
            .field("wait_options", &self.wait_options)
            .field("max_generations", &self.max_generations)
            .field("replace_videos", &self.replace_videos)
            .finish_non_exhaustive()
    }
}
