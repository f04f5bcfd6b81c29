//! The HTTP transport: sends requests and streams uploads and downloads. Only this module names
//! ureq.
//!
//! Some of ureq's defaults do not suit this crate and are overridden here: redirects of API
//! requests are not followed, error statuses are not errors, every timeout is set, and a request
//! body always has a `Content-Length`.

mod failure;
mod proxy;
mod tls;
mod url;

use std::borrow::Cow;
use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use ureq::http::uri::{self, PathAndQuery, Scheme, Uri};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, header};
use ureq::{Agent, Proxy, SendBody};

use crate::body::{self, UploadState};
use crate::cancel::{CancelRegistration, CancelToken, is_cancelled};
use crate::error::{Error, Result};
use crate::http::{Headers, RESPONSE_HEADERS, Response, TransportError, TransportErrorKind};
use crate::key::ApiKey;
use crate::text::sanitize;

use self::failure::classify_error;
pub(crate) use self::proxy::ProxyChoice;
use self::proxy::resolve_proxy;
pub(crate) use self::tls::Tls;
use self::url::{is_loopback, resolve_redirect, strip_brackets, validate_base_url};

/// A larger API response is rejected.
const MAX_RESPONSE_BODY: u64 = 1024 * 1024;

/// A create whose body is larger is sent with `Expect: 100-continue`, so that a rejection costs no
/// upload and its response is not lost.
pub(crate) const EXPECT_CONTINUE_THRESHOLD: u64 = 1024 * 1024;

/// A body up to this size is sent through a small output buffer: zeroing a large one would be most
/// of the cost of a small request.
const SMALL_BODY: u64 = SMALL_BUFFER as u64;
const SMALL_BUFFER: usize = 2 * 1024;
/// Holds one chunk of the body's encoder: 72 KiB, encoded as base64.
const UPLOAD_BUFFER: usize = 96 * 1024;
/// The output buffer must hold the complete request line and each complete header, and signed URLs
/// are long.
const MAX_URL_LEN: usize = 16 * 1024;
const RESPONSE_BUFFER: usize = 10 * 1024;
const DOWNLOAD_BUFFER: usize = 128 * 1024;

/// The maximum duration of a download, however steadily the server sends.
pub(crate) const DOWNLOAD_TIMEOUT: Duration = Duration::from_secs(3600);

const MAX_REDIRECTS: usize = 5;

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Longer timeouts make no practical difference and would overflow what sockets accept.
const MAX_TIMEOUT: Duration = Duration::from_secs(365 * 86_400);

/// The settings of a [`Transport`], not validated yet.
pub(crate) struct TransportConfig {
    pub(crate) base_url: String,
    pub(crate) key: ApiKey,
    pub(crate) user_agent: String,
    pub(crate) proxy: ProxyChoice,
    pub(crate) tls: Tls,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

/// Sends requests to the API and to the hosts of videos. Its settings are validated once.
pub(crate) struct Transport {
    config: ConnectionConfig,
    agents: Agents,
}

/// Validated settings, from which agents can be built without errors.
struct ConnectionConfig {
    base_url: String,
    base_uri: Uri,
    base_is_loopback: bool,
    needs_dns: bool,
    max_header_len: usize,
    /// Sent with every API request.
    headers: HeaderMap,
    key: ApiKey,
    user_agent: String,
    proxy: Option<Proxy>,
    tls: Tls,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

/// One agent per kind of request. Agents are cheap: what they share is created on first use.
#[derive(Clone)]
struct Agents {
    /// Pools its connections, so that all polls of a generation need one TLS handshake.
    reads: Agent,
    /// Never reuses a connection: if a stale one failed, it would be unknown whether the generation
    /// was created. The same goes for large creates.
    small_creates: Agent,
    large_creates: Agent,
    /// Never sends the API key.
    downloads: Agent,
    loopback_downloads: Agent,
}

impl Transport {
    pub(crate) fn new(config: TransportConfig) -> Result<Self> {
        let base_url = config.base_url.trim_end_matches('/').to_owned();
        let base_uri = validate_base_url(&base_url, &config.key)?;
        let host = base_uri.host().unwrap_or_default();
        let authorization = config.key.authorization();
        let mut authorization = HeaderValue::from_str(&authorization)
            .map_err(|_| Error::config("the API key is not a valid header value"))?;
        authorization.set_sensitive(true);
        let max_header_len =
            [base_url.len(), authorization.len(), config.user_agent.len()].into_iter().max();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert(header::ACCEPT, JSON);
        if HeaderValue::from_str(&config.user_agent).is_err() {
            return Err(Error::config("user_agent is not a valid header value"));
        }
        for (name, timeout) in
            [("connect_timeout", config.connect_timeout), ("idle_timeout", config.idle_timeout)]
        {
            if timeout.is_zero() {
                return Err(Error::config(format!("{name} must be greater than zero")));
            }
        }
        let config = ConnectionConfig {
            base_is_loopback: is_loopback(host),
            needs_dns: strip_brackets(host).parse::<IpAddr>().is_err(),
            max_header_len: max_header_len.unwrap_or_default(),
            base_url,
            base_uri,
            headers,
            key: config.key,
            user_agent: config.user_agent,
            proxy: resolve_proxy(&config.proxy)?,
            tls: config.tls,
            connect_timeout: config.connect_timeout.min(MAX_TIMEOUT),
            idle_timeout: config.idle_timeout.min(MAX_TIMEOUT),
        };
        if config.base_uri.scheme() == Some(&Scheme::HTTPS) {
            config.tls.ensure_enabled()?;
        }
        Ok(Self { agents: config.agents(), config })
    }

    /// The base URL of the API, without a trailing slash.
    pub(crate) fn base_url(&self) -> &str {
        &self.config.base_url
    }

    /// The transport for one call. With a token it has its own agents, so that cancelling can close
    /// their connections without affecting other calls.
    pub(crate) fn session<'a>(&'a self, token: Option<&'a CancelToken>) -> Session<'a> {
        let agents = match token {
            Some(_) => Cow::Owned(self.config.agents()),
            None => Cow::Borrowed(&self.agents),
        };
        let _cancel_registration = token.map(|token| {
            let Agents { reads, downloads, loopback_downloads, .. } = Agents::clone(&agents);
            token.register(Box::new(move || {
                reads.shutdown();
                downloads.shutdown();
                loopback_downloads.shutdown();
            }))
        });
        Session { config: &self.config, agents, token, _cancel_registration }
    }
}

/// The transport for one call.
pub(crate) struct Session<'a> {
    config: &'a ConnectionConfig,
    agents: Cow<'a, Agents>,
    token: Option<&'a CancelToken>,
    _cancel_registration: Option<CancelRegistration>,
}

/// Aborts a create attempt when its token is cancelled, until the attempt is committed.
pub(crate) struct CreateCancelGuard(Option<CancelRegistration>);

impl CreateCancelGuard {
    /// Detaches the attempt from the token, so that a later cancellation does not abort it. Returns
    /// `false` if the token was cancelled before.
    pub(crate) fn unregister(&self) -> bool {
        self.0.as_ref().is_none_or(CancelRegistration::unregister)
    }
}

impl Session<'_> {
    /// How long the server may send nothing.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.config.idle_timeout
    }

    pub(crate) fn token(&self) -> Option<&CancelToken> {
        self.token
    }

    /// The guard for one create attempt.
    pub(crate) fn create_cancel_guard(&self) -> CreateCancelGuard {
        CreateCancelGuard(self.token.map(|token| {
            let Agents { small_creates, large_creates, .. } = Agents::clone(&self.agents);
            token.register(Box::new(move || {
                small_creates.shutdown();
                large_creates.shutdown();
            }))
        }))
    }

    /// Sends a GET request to the API.
    pub(crate) fn get(&self, target: &str) -> Result<Response, TransportError> {
        let request = self.config.request(Method::GET, target, ())?;
        let result = match self.agents.reads.run(request) {
            Ok(response) => Ok(self.config.read_response(response, true)),
            Err(error) => Err(self.config.send_error(error, &self.config.base_uri)),
        };
        match result {
            _ if is_cancelled(self.token) => Err(cancelled()),
            result => result,
        }
    }

    /// Sends a create request to the API. With `expect_continue`, the body waits for the server's
    /// `100 Continue`.
    pub(crate) fn post(
        &self,
        target: &str,
        client_request_id: &str,
        body: &mut body::BodyReader<'_>,
        expect_continue: bool,
    ) -> Result<Response, TransportError> {
        let length = body.total();
        let agent = match length {
            0..=SMALL_BODY => &self.agents.small_creates,
            _ => &self.agents.large_creates,
        };
        let client_request_id = HeaderValue::from_str(client_request_id)
            .map_err(|e| TransportError::new(TransportErrorKind::InvalidResponse, e))?;
        let mut request =
            self.config.request(Method::POST, target, SendBody::from_reader(&mut *body))?;
        let headers = request.headers_mut();
        headers.reserve(4);
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CLIENT_REQUEST_ID, client_request_id);
        if expect_continue {
            headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        match agent.run(request) {
            Ok(response) => Ok(self.config.read_response(response, false)),
            Err(_) if body.state() != UploadState::Committed && is_cancelled(self.token) => {
                Err(cancelled())
            }
            Err(error) => Err(self.config.send_error(error, &self.config.base_uri)),
        }
    }

    /// Requests a video, without the API key. With a range, requests the rest of the file, provided
    /// that it has not changed.
    pub(crate) fn download(
        &self,
        url: &str,
        range: Option<&ResumeRange>,
    ) -> Result<DownloadResponse, TransportError> {
        let mut url = url.to_owned();
        // Redirects must not leave https.
        let allow_http = !url.starts_with("https:");
        for _ in 0..=MAX_REDIRECTS {
            let response = self.send_download(&url, allow_http, range)?;
            let status = response.status().as_u16();
            let location = match status {
                301 | 302 | 303 | 307 | 308 => location(&response),
                _ => None,
            };
            match location {
                Some(location) => url = resolve_redirect(&url, &location),
                None => return Ok(DownloadResponse::new(self, status, response)),
            }
        }
        let message = format!("video URL redirects more than {MAX_REDIRECTS} times");
        Err(TransportError::new(TransportErrorKind::InvalidResponse, message))
    }

    fn send_download(
        &self,
        url: &str,
        allow_http: bool,
        range: Option<&ResumeRange>,
    ) -> Result<HttpResponse, TransportError> {
        let invalid = |message: &str| {
            TransportError::new(TransportErrorKind::InvalidResponse, message.to_owned())
        };
        let uri: Uri = url.parse().map_err(|_| invalid("invalid video URL"))?;
        let loopback = is_loopback(uri.host().unwrap_or_default());
        match uri.scheme_str() {
            Some("https") => {
                self.config.tls.ensure_enabled().map_err(|e| invalid(&e.to_string()))?;
            }
            Some("http") if loopback && allow_http => {}
            _ => return Err(invalid("video URL must start with https://")),
        }
        let agent = if loopback { &self.agents.loopback_downloads } else { &self.agents.downloads };
        // Byte ranges of a compressed representation would not fit together.
        let mut request =
            agent.get(uri).header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range {
            request = request
                .header(header::RANGE, format!("bytes={}-", range.from))
                .header(header::IF_RANGE, &range.validator);
        }
        match request.call() {
            _ if is_cancelled(self.token) => Err(cancelled()),
            // The URL is parsed again so that successful requests need no copy of `uri`.
            result => result
                .map_err(|error| self.config.send_error(error, &url.parse().unwrap_or_default())),
        }
    }
}

/// The rest of a file from a byte offset, provided that the file's validator still matches.
pub(crate) struct ResumeRange {
    pub(crate) from: u64,
    pub(crate) validator: String,
}

/// The response to a download request; its body is read in pieces.
pub(crate) struct DownloadResponse {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    /// The length of the body. `None` if the transfer encoding overrides `Content-Length`.
    pub(crate) length: Option<u64>,
    body: ureq::BodyReader<'static>,
    key: ApiKey,
    token: Option<CancelToken>,
}

impl DownloadResponse {
    fn new(session: &Session<'_>, status: u16, response: HttpResponse) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status,
            headers: filter_headers(&parts.headers, &session.config.key),
            length: body.content_length(),
            body: body.into_reader(),
            key: session.config.key.clone(),
            token: session.token.cloned(),
        }
    }

    /// Reads the next bytes of the body and returns their number, 0 at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, TransportError> {
        let read = self.body.read(buf);
        // A connection that cancelling has shut down can look like the end of the body.
        if is_cancelled(self.token.as_ref()) {
            return Err(cancelled());
        }
        read.map_err(|e| classify_error(e.into()))
    }

    /// Reads the body of an error response, to its end or as far as possible.
    pub(crate) fn into_response(self) -> Response {
        let Self { status, headers, body, key, .. } = self;
        let (body, body_result) = read_body(body, None, true);
        Response { status, headers, body: key.redact_json(body), body_result }
    }
}

impl ConnectionConfig {
    fn request<B>(
        &self,
        method: Method,
        target: &str,
        body: B,
    ) -> Result<Request<B>, TransportError> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self
            .uri(target)
            .map_err(|e| TransportError::new(TransportErrorKind::ConnectionLost, e))?;
        *request.headers_mut() = self.headers.clone();
        Ok(request)
    }

    fn uri(&self, target: &str) -> Result<Uri, ureq::http::Error> {
        let path = [self.base_uri.path().trim_end_matches('/'), target].concat();
        let mut parts = uri::Parts::default();
        parts.scheme = self.base_uri.scheme().cloned();
        parts.authority = self.base_uri.authority().cloned();
        parts.path_and_query = Some(PathAndQuery::try_from(path)?);
        Ok(Uri::from_parts(parts)?)
    }

    fn read_response(&self, response: HttpResponse, pooled: bool) -> Response {
        let (parts, body) = response.into_parts();
        let length = body.content_length();
        let (body, body_result) = read_body(body.into_reader(), length, pooled);
        Response {
            status: parts.status.as_u16(),
            headers: filter_headers(&parts.headers, &self.key),
            body: self.key.redact_json(body),
            body_result,
        }
    }

    /// The error of a request to `uri` that got no response.
    #[cold]
    fn send_error(&self, error: ureq::Error, uri: &Uri) -> TransportError {
        let error = classify_error(error);
        match error.kind {
            TransportErrorKind::Connect => error.with_peer(self.peer(uri)),
            _ => error,
        }
    }

    /// The host of `uri` and the proxy that is used for it, without credentials, for error
    /// messages. The host may come from a server, so the text is redacted and sanitized.
    fn peer(&self, uri: &Uri) -> String {
        let host = uri.host().unwrap_or_default();
        let default_port = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
        let mut peer = host.to_owned();
        if let Some(port) = uri.port_u16().filter(|port| *port != default_port) {
            peer += &format!(":{port}");
        }
        let uses_proxy = |proxy: &&Proxy| !is_loopback(host) && !proxy.is_no_proxy(uri);
        if let Some(proxy) = self.proxy.as_ref().filter(uses_proxy) {
            peer += &format!(" through proxy {}:{}", proxy.host(), proxy.port());
        }
        sanitize(&String::from_utf8_lossy(&self.key.redact(peer.into_bytes())))
    }

    fn agents(&self) -> Agents {
        let api_proxy = self.proxy.clone().filter(|_| !self.base_is_loopback);
        // ureq starts a thread for a DNS lookup with a timeout, and an IP address needs no lookup.
        let dns_timeout = self.needs_dns.then_some(self.connect_timeout);
        let api = |input_buffer_size: usize, output_buffer_size: usize| {
            self.config(input_buffer_size, output_buffer_size)
                .proxy(api_proxy.clone())
                .timeout_resolve(dns_timeout)
                .timeout_recv_response(Some(self.idle_timeout))
                .timeout_recv_body(Some(self.idle_timeout))
        };
        let create = |output_buffer_size: usize| {
            let continue_timeout = Duration::from_secs(1).min(self.idle_timeout / 2);
            api(RESPONSE_BUFFER, output_buffer_size)
                .max_idle_connections(0)
                .timeout_await_100(Some(continue_timeout))
        };
        let download = |proxy: Option<Proxy>, dns_timeout: Option<Duration>| {
            self.config(DOWNLOAD_BUFFER, MAX_URL_LEN)
                .proxy(proxy)
                .timeout_resolve(dns_timeout)
                .timeout_recv_response(Some(self.idle_timeout))
                .timeout_per_read(Some(self.idle_timeout))
                // Bounds data that only ureq sees because it is not part of the body, such as
                // trailers.
                .timeout_recv_body(Some(DOWNLOAD_TIMEOUT))
        };
        // The longest line is the `Authorization` or `User-Agent` header, or the request line of a
        // GET, which contains the path of the base URL and the generation id.
        let small = SMALL_BUFFER.max(1024 + self.max_header_len);
        Agents {
            reads: api(RESPONSE_BUFFER, small).build().into(),
            small_creates: create(small).build().into(),
            large_creates: create(UPLOAD_BUFFER).build().into(),
            downloads: download(self.proxy.clone(), Some(self.connect_timeout)).build().into(),
            loopback_downloads: download(None, None).build().into(),
        }
    }

    fn config(&self, input_buffer_size: usize, output_buffer_size: usize) -> AgentConfig {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(&self.user_agent)
            .accept_encoding("")
            .input_buffer_size(input_buffer_size)
            .output_buffer_size(output_buffer_size)
            .timeout_connect(Some(self.connect_timeout))
            .timeout_per_write(Some(self.idle_timeout));
        self.tls.apply(config)
    }
}

type AgentConfig = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

type HttpResponse = ureq::http::Response<ureq::Body>;

/// Reads a response body of at most [`MAX_RESPONSE_BODY`].
///
/// A pooled connection is reused only after the body is read to EOF, when ureq also checks that the
/// connection is still open. Without a pool, a body of known length is not read any further.
fn read_body(
    body: ureq::BodyReader<'_>,
    length: Option<u64>,
    pooled: bool,
) -> (Vec<u8>, Result<(), TransportError>) {
    let expected = length.unwrap_or_default().min(MAX_RESPONSE_BODY) as usize;
    let max_len = length.filter(|_| !pooled).unwrap_or(u64::MAX).min(MAX_RESPONSE_BODY + 1);
    let mut data = Vec::with_capacity(expected);
    let result = match body.take(max_len).read_to_end(&mut data) {
        Ok(_) if data.len() as u64 > MAX_RESPONSE_BODY => {
            data.truncate(MAX_RESPONSE_BODY as usize);
            let message = "response body exceeds the 1 MiB limit";
            Err(TransportError::new(TransportErrorKind::InvalidResponse, message))
        }
        Ok(_) => Ok(()),
        Err(e) => Err(classify_error(e.into())),
    };
    (data, result)
}

fn filter_headers(headers: &HeaderMap, key: &ApiKey) -> Headers {
    let text = |value: &HeaderValue| {
        let value = key.redact(value.as_bytes().to_vec());
        String::from_utf8(value).ok().filter(|value| !value.contains(char::is_control))
    };
    // A response usually has fewer headers than there are names to search for.
    let found = headers.iter().filter_map(|(name, value)| {
        let known = RESPONSE_HEADERS.iter().find(|known| **known == name.as_str())?;
        Some((*known, text(value)?))
    });
    Headers(found.collect())
}

fn location(response: &HttpResponse) -> Option<String> {
    response.headers().get(header::LOCATION)?.to_str().ok().map(str::to_owned)
}

fn cancelled() -> TransportError {
    TransportError::new(TransportErrorKind::Cancelled, "cancelled")
}
