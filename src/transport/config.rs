//! The transport's settings, their validation, and the HTTP agents built from them.

use std::net::IpAddr;
use std::time::Duration;

use ureq::http::HeaderValue;
use ureq::http::uri::{Scheme, Uri};
use ureq::{Agent, Proxy};

use crate::api_key::ApiKey;
use crate::error::{Error, Result};
use crate::redact::sanitize;

use super::proxy::{ProxyChoice, ProxyConfig, resolve_proxy};
use super::tls::{RootCertificates, Tls, ensure_enabled};
use super::url::{is_loopback, strip_brackets, validate_base_url};

/// The smallest output buffer. Zeroing a large one would be most of the cost of a small request.
pub(super) const SMALL_BUFFER: usize = 2 * 1024;
/// Holds one chunk of the body's encoder: 72 KiB, encoded as base64.
pub(super) const UPLOAD_BUFFER: usize = 96 * 1024;
/// The output buffer must hold the complete request line and each complete header, and signed URLs
/// are long.
const MAX_URL_LEN: usize = 16 * 1024;
/// Must hold all headers of a response: as much as ureq accepts.
const READ_BUFFER: usize = 64 * 1024;
/// Every create zeroes its own, so this is only as much as haproxy forwards. The response to a
/// create with longer headers is not read: the next run of `generate_to` recovers the generation.
const CREATE_BUFFER: usize = 16 * 1024;
const DOWNLOAD_BUFFER: usize = 128 * 1024;

/// The maximum duration of a download, however steadily the server sends.
pub(crate) const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

/// 4 MB, the most that Linux buffers by default, at about 200 kbit/s.
const MAX_SEND_BUFFER_TIME: Duration = Duration::from_secs(150);

/// Longer timeouts make no practical difference and would overflow what sockets accept.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);

/// The transport's part of the client's settings, not validated yet.
#[derive(Clone)]
pub(crate) struct TransportConfig {
    pub(crate) api_key: String,
    pub(crate) base_url: String,
    pub(crate) user_agent: String,
    pub(crate) proxy: ProxyChoice,
    pub(crate) root_certificates: Option<RootCertificates>,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

/// Validated settings, from which agents can be built without errors.
pub(super) struct ValidConfig {
    pub(super) base_url: String,
    pub(super) base_uri: Uri,
    pub(super) authorization: HeaderValue,
    pub(super) key: ApiKey,
    tls: Tls,
    pub(super) idle_timeout: Duration,
    connect_timeout: Duration,
    user_agent: String,
    proxy: Option<ProxyConfig>,
}

/// The agents of all requests but creates. Agents are cheap: what they share is created on first use.
#[derive(Clone)]
pub(super) struct Agents {
    /// Pools its connections, so that all polls of a generation need one TLS handshake.
    pub(super) reads: Agent,
    /// Never sends the API key.
    pub(super) downloads: Agent,
}

impl TransportConfig {
    pub(super) fn validate(self) -> Result<ValidConfig> {
        let key = ApiKey::new(self.api_key)?;
        let base_url = self.base_url.trim_end_matches('/').to_owned();
        let base_uri = validate_base_url(&base_url, &key)?;
        let header = |name: &str, text: &str| {
            let invalid = |_| Error::config(format!("{name} is not a valid header value"));
            HeaderValue::from_str(text).map_err(invalid)
        };
        let mut authorization = header("the API key", &key.authorization())?;
        authorization.set_sensitive(true);
        header("user_agent", &self.user_agent)?;
        let timeouts =
            [("connect_timeout", self.connect_timeout), ("idle_timeout", self.idle_timeout)];
        if let Some((name, _)) = timeouts.iter().find(|(_, timeout)| timeout.is_zero()) {
            return Err(Error::config(format!("{name} must be greater than zero")));
        }
        let tls = self.root_certificates.map(|parse| parse()).transpose()?.unwrap_or_default();
        if base_uri.scheme() == Some(&Scheme::HTTPS) {
            ensure_enabled()?;
        }
        Ok(ValidConfig {
            base_url,
            base_uri,
            authorization,
            key,
            tls,
            idle_timeout: self.idle_timeout.min(MAX_TIMEOUT),
            connect_timeout: self.connect_timeout.min(MAX_TIMEOUT),
            user_agent: self.user_agent,
            proxy: resolve_proxy(self.proxy)?,
        })
    }
}

impl ValidConfig {
    pub(super) fn agents(&self) -> Agents {
        let downloads = self
            .agent_config(DOWNLOAD_BUFFER, MAX_URL_LEN)
            .proxy(self.proxy.as_ref().map(|config| config.proxy.clone()))
            .timeout_resolve(Some(self.connect_timeout))
            .timeout_per_read(Some(self.idle_timeout))
            // Bounds data that only ureq sees because it is not part of the body, such as trailers.
            .timeout_recv_body(Some(DOWNLOAD_TIMEOUT));
        Agents {
            reads: self.api_config(READ_BUFFER).build().into(),
            downloads: downloads.build().into(),
        }
    }

    /// An agent that never reuses a connection: if a stale one failed, it would be unknown whether
    /// the generation was created.
    pub(super) fn create_agent(&self) -> Agent {
        let continue_timeout = Duration::from_secs(1).min(self.idle_timeout / 2);
        let config = self.api_config(CREATE_BUFFER).max_idle_connections(0);
        config.timeout_await_100(Some(continue_timeout)).build().into()
    }

    fn api_config(&self, input_buffer_size: usize) -> AgentConfig {
        // The longest line is the `Authorization` or `User-Agent` header, or the request line of a
        // GET, which contains the path of the base URL and the generation id.
        let longest = self.authorization.len().max(self.base_url.len()).max(self.user_agent.len());
        self.agent_config(input_buffer_size, SMALL_BUFFER.max(1024 + longest))
            .proxy(self.proxy_for(&self.base_uri).cloned())
            .timeout_resolve(self.dns_timeout(&self.base_uri))
            .timeout_recv_body(Some(self.idle_timeout))
    }

    pub(super) fn proxy_for(&self, uri: &Uri) -> Option<&Proxy> {
        self.proxy.as_ref()?.for_uri(uri)
    }

    pub(super) fn bypasses_proxy(&self, uri: &Uri) -> bool {
        self.proxy.as_ref().is_some_and(|proxy| proxy.for_uri(uri).is_none())
    }

    /// The time limit for looking up the host of `uri`. Without one ureq needs no thread, so there is
    /// none for a host that needs no lookup.
    pub(super) fn dns_timeout(&self, uri: &Uri) -> Option<Duration> {
        let host = uri.host().unwrap_or_default();
        let needs_dns = !is_loopback(host) && strip_brackets(host).parse::<IpAddr>().is_err();
        needs_dns.then_some(self.connect_timeout)
    }

    /// How long the response to a large create may take. When its last byte is written, megabytes
    /// may still be in the kernel's send buffer, which a slow network needs minutes for. How many
    /// and at which rate is not known before they are sent, when ureq's timeouts are set.
    pub(super) fn large_response_timeout(&self) -> Duration {
        let extra = self.idle_timeout.saturating_mul(5) / 2;
        self.idle_timeout + extra.min(MAX_SEND_BUFFER_TIME)
    }

    fn agent_config(&self, input_buffer_size: usize, output_buffer_size: usize) -> AgentConfig {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(&self.user_agent)
            // Byte ranges of a compressed representation would not fit together.
            .accept_encoding("identity")
            .input_buffer_size(input_buffer_size)
            .output_buffer_size(output_buffer_size)
            .timeout_connect(Some(self.connect_timeout))
            .timeout_recv_response(Some(self.idle_timeout))
            .timeout_per_write(Some(self.idle_timeout));
        self.tls.apply(config)
    }

    /// The host of `uri` and the proxy that is used for it, without credentials, for error
    /// messages. The host may come from a server, so the text is redacted and sanitized.
    pub(super) fn peer(&self, uri: &Uri) -> String {
        let default_port = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
        let mut peer = uri.host().unwrap_or_default().to_owned();
        if let Some(port) = uri.port_u16().filter(|port| *port != default_port) {
            peer += &format!(":{port}");
        }
        if let Some(proxy) = self.proxy_for(uri) {
            peer += &format!(" through proxy {}:{}", proxy.host(), proxy.port());
        }
        sanitize(&self.key.redact(peer))
    }
}

pub(super) type AgentConfig = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;
