//! How a client is set up: settings with documented defaults, checked once.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::client::{Client, Shared};
use crate::endpoint::Route;
use crate::error::{Error, Result};
use crate::event::{Event, Watcher};
use crate::key::ApiKey;
use crate::poll::WaitOptions;
use crate::retry::RetryPolicy;
use crate::submit::Budget;
use crate::transport::{ProxyChoice, Settings, Tls, Transport};

const BASE_URL: &str = "https://api.aimlapi.com";
const USER_AGENT: &str = concat!("kling-video/", env!("CARGO_PKG_VERSION"));

/// Where the API key is looked for, in this order: the first two are the vendor's own SDK's.
const KEY_VARIABLES: [&str; 3] = ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"];

/// Sets up a [`Client`]. Nothing is checked or connected before [`build`](Self::build).
///
/// ```
/// use kling_video::{Client, RetryPolicy};
/// use std::time::Duration;
///
/// let client = Client::builder("key")
///     .idle_timeout(Duration::from_secs(30))
///     .retry(RetryPolicy::new().max_retries(8))
///     .max_creates(20)
///     .build()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[must_use = "a builder does nothing until it builds a client"]
pub struct ClientBuilder {
    key: String,
    base_url: String,
    route: Route,
    user_agent: String,
    proxy: ProxyChoice,
    tls: Option<Result<Tls>>,
    connect_timeout: Duration,
    idle_timeout: Duration,
    retry: RetryPolicy,
    wait: WaitOptions,
    max_creates: Option<u32>,
    watcher: Option<Arc<Watcher>>,
}

impl Client {
    /// Begins to set up a client. See [`ClientBuilder`] for the settings and their defaults.
    pub fn builder(api_key: impl Into<String>) -> ClientBuilder {
        ClientBuilder {
            key: api_key.into(),
            base_url: BASE_URL.to_owned(),
            route: Route::default(),
            user_agent: USER_AGENT.to_owned(),
            proxy: ProxyChoice::default(),
            tls: None,
            connect_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(60),
            retry: RetryPolicy::new(),
            wait: WaitOptions::new(),
            max_creates: None,
            watcher: None,
        }
    }

    /// The same with the key from the environment, where [`from_env`](Self::from_env) looks for it.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config) when none of the variables is set.
    ///
    /// ```no_run
    /// use kling_video::Client;
    ///
    /// let client = Client::builder_from_env()?.on_event(|event| eprintln!("{event:?}")).build()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn builder_from_env() -> Result<ClientBuilder> {
        let set = |name: &&str| std::env::var(name).ok().filter(|key| !key.is_empty());
        KEY_VARIABLES.iter().find_map(set).map(Self::builder).ok_or_else(|| {
            let names = KEY_VARIABLES.join(", ");
            Error::config(format!("no API key in the environment: set one of {names}"))
        })
    }
}

impl ClientBuilder {
    /// Where the API is: an `https` URL without a user name or a query; `http` only on the
    /// loopback. Default: `https://api.aimlapi.com`.
    pub fn base_url(self, url: impl Into<String>) -> Self {
        Self { base_url: url.into(), ..self }
    }

    /// Which path of the API to use. Default: [`Route::Kling`].
    pub fn route(self, route: Route) -> Self {
        Self { route, ..self }
    }

    /// The `User-Agent` of every request. Default: this crate's name and version.
    pub fn user_agent(self, value: impl Into<String>) -> Self {
        Self { user_agent: value.into(), ..self }
    }

    /// An `http://` or `https://` proxy for everything but loopback hosts, with a name and a
    /// password if it asks for them. Default: the first of `HTTPS_PROXY`, `ALL_PROXY` and
    /// `HTTP_PROXY` in the environment, in upper or lower case, with the exceptions of `NO_PROXY`.
    pub fn proxy(self, url: impl Into<String>) -> Self {
        Self { proxy: ProxyChoice::Url(url.into()), ..self }
    }

    /// No proxy, whatever the environment says.
    pub fn no_proxy(self) -> Self {
        Self { proxy: ProxyChoice::None, ..self }
    }

    /// Trusts these certificate authorities, in PEM, *instead* of the others, for the API and for
    /// downloads. Default: Mozilla's, bundled. (With the feature `platform-verifier`, or with
    /// `native-tls` alone, the system's, where a company's own usually is installed already.)
    pub fn root_certificates_pem(self, pem: &[u8]) -> Self {
        // Read here and not in `build`, so that programs without this call need no parser for it.
        Self { tls: Some(Tls::trusting(pem)), ..self }
    }

    /// How long a name look-up may take, and again how long connecting and the TLS handshake may.
    /// Default: 10 s.
    pub fn connect_timeout(self, d: Duration) -> Self {
        Self { connect_timeout: d, ..self }
    }

    /// How long the other side may be silent. A reply of the API also has it for its headers as a
    /// whole, and for its body as a whole. Default: 60 s.
    pub fn idle_timeout(self, d: Duration) -> Self {
        Self { idle_timeout: d, ..self }
    }

    /// When failed requests are tried again. Default: [`RetryPolicy::new`].
    pub fn retry(self, policy: RetryPolicy) -> Self {
        Self { retry: policy, ..self }
    }

    /// What `wait`, `generate` and `generate_to` wait like. Default: [`WaitOptions::new`].
    pub fn wait(self, options: WaitOptions) -> Self {
        Self { wait: options, ..self }
    }

    /// A guard against a bug that spends: this client and its clones create no more than `n`
    /// generations, and then fail with [`CreateLimit`](crate::ErrorKind::CreateLimit) before
    /// anything is sent. A create that is certainly refused does not count. Default: unlimited.
    pub fn max_creates(self, n: u32) -> Self {
        Self { max_creates: Some(n), ..self }
    }

    /// Is called with everything that happens, on the thread it happens on. Default: nobody
    /// watches. A panic of `f` ends the call and reaches its caller.
    pub fn on_event(self, f: impl Fn(&Event<'_>) + Send + Sync + 'static) -> Self {
        Self { watcher: Some(Arc::new(f)), ..self }
    }

    /// Checks the settings and makes the client. Nothing is sent.
    ///
    /// # Errors
    /// [`Config`](crate::ErrorKind::Config), naming the setting: a key that no header can carry; a
    /// base URL that is not `https`, or for which no TLS feature is on; a proxy URL of an unknown
    /// kind; certificates that are none; a time-out of zero.
    pub fn build(self) -> Result<Client> {
        let transport = Transport::new(Settings {
            base_url: self.base_url,
            key: ApiKey::new(self.key)?,
            user_agent: self.user_agent,
            proxy: self.proxy,
            tls: self.tls.unwrap_or_else(|| Ok(Tls::usual()))?,
            connect_timeout: self.connect_timeout,
            idle_timeout: self.idle_timeout,
        })?;
        Ok(Client::from_shared(Shared {
            transport,
            route: self.route,
            retry: self.retry,
            wait: self.wait,
            budget: Budget::new(self.max_creates),
            watcher: self.watcher,
        }))
    }
}

impl fmt::Debug for ClientBuilder {
    /// Shows neither the key nor what may hold a password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ClientBuilder")
            .field("route", &self.route)
            .field("connect_timeout", &self.connect_timeout)
            .field("idle_timeout", &self.idle_timeout)
            .field("retry", &self.retry)
            .field("wait", &self.wait)
            .field("max_creates", &self.max_creates)
            .finish_non_exhaustive()
    }
}
