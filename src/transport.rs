//! Sends a request, streams a body, streams a download: the only file that names ureq.
//!
//! What ureq would do wrong for this crate is turned off or made up for here: redirects of the API
//! are not followed, statuses are no errors, every time-out is set, and a body always has a length.

use std::io::{self, Read};
use std::net::IpAddr;
use std::time::Duration;

use ureq::http::{HeaderMap, HeaderValue, Response, Uri, header};
use ureq::{Agent, Proxy, SendBody, Timeout};

use crate::body::{self, Progress};
use crate::cancel::{Armed, CancelToken, is_cancelled};
use crate::error::{Error, Result};
use crate::http::{Failure, FailureKind, HEADERS, Headers, Reply};
use crate::key::ApiKey;

/// A larger reply of the API is none.
const MAX_REPLY: u64 = 1024 * 1024;

/// A larger body asks before it is sent, so that a refusal costs no upload and is not lost.
const ASK_FIRST: u64 = 1024 * 1024;

/// Bodies up to this fit into a small output buffer. Zeroing large ones is most of what a small
/// request would cost.
const SMALL_BODY: u64 = 4 * 1024;
const SMALL_BUFFER: usize = 4 * 1024;
/// One step of the body's encoder: 48 KiB as base64.
const UPLOAD_BUFFER: usize = 64 * 1024;
const REPLY_BUFFER: usize = 10 * 1024;
const DOWNLOAD_BUFFER: usize = 128 * 1024;

const MAX_REDIRECTS: usize = 5;

/// Time-outs beyond this are as good as none, and would overflow what sockets take.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Where proxies come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum ProxyChoice {
    #[default]
    Environment,
    None,
    Url(String),
}

/// Everything a transport is made from.
pub(crate) struct Settings {
    pub(crate) base_url: String,
    pub(crate) key: ApiKey,
    pub(crate) user_agent: String,
    pub(crate) proxy: ProxyChoice,
    pub(crate) root_certificates: Option<Vec<u8>>,
    pub(crate) connect_timeout: Duration,
    pub(crate) idle_timeout: Duration,
}

/// The way to the API and to the videos, checked once.
pub(crate) struct Transport {
    plan: Plan,
    agents: Agents,
}

/// What was checked: enough to make agents without failing.
struct Plan {
    base: String,
    base_is_local: bool,
    base_needs_lookup: bool,
    authorization: HeaderValue,
    key: ApiKey,
    user_agent: String,
    proxy: Option<Proxy>,
    tls: Tls,
    connect_timeout: Duration,
    idle_timeout: Duration,
}

/// One agent for each way of sending. They are cheap; what they share is made on first use.
#[derive(Clone)]
struct Agents {
    /// Keeps its connections, so that polls cost one handshake.
    reads: Agent,
    /// Never reuses a connection: a stale one could make it unknown whether a create happened.
    small_creates: Agent,
    large_creates: Agent,
    /// Never holds the key.
    downloads: Agent,
    local_downloads: Agent,
}

impl Transport {
    pub(crate) fn new(settings: Settings) -> Result<Self> {
        let base = settings.base_url.trim_end_matches('/').to_owned();
        let uri = check_base_url(&base)?;
        let host = uri.host().unwrap_or_default();
        let authorization = settings.key.authorization();
        let mut authorization = HeaderValue::from_str(&authorization)
            .map_err(|_| Error::config("the API key cannot be sent in a header"))?;
        authorization.set_sensitive(true);
        if HeaderValue::from_str(&settings.user_agent).is_err() {
            return Err(Error::config("user_agent: holds characters that no header can carry"));
        }
        for (name, duration) in
            [("connect_timeout", settings.connect_timeout), ("idle_timeout", settings.idle_timeout)]
        {
            if duration.is_zero() {
                return Err(Error::config(format!("{name}: is zero: allowed is more than that")));
            }
        }
        let plan = Plan {
            base_is_local: is_loopback(host),
            base_needs_lookup: bare_host(host).parse::<IpAddr>().is_err(),
            base,
            authorization,
            key: settings.key,
            user_agent: settings.user_agent,
            proxy: find_proxy(&settings.proxy)?,
            tls: Tls::new(settings.root_certificates.as_deref())?,
            connect_timeout: settings.connect_timeout.min(LONGEST),
            idle_timeout: settings.idle_timeout.min(LONGEST),
        };
        if uri.scheme_str() == Some("https") {
            plan.tls.check()?;
        }
        Ok(Self { agents: plan.agents(), plan })
    }

    /// The API's address, without a path.
    pub(crate) fn base_url(&self) -> &str {
        &self.plan.base
    }

    /// The transport for one call. One with a token has agents of its own, so that cancelling it
    /// can close their connections without touching another call's.
    pub(crate) fn session<'a>(&'a self, token: Option<&'a CancelToken>) -> Session<'a> {
        let agents = match token {
            Some(_) => self.plan.agents(),
            None => self.agents.clone(),
        };
        let armed = token.map(|token| {
            let Agents { reads, small_creates, large_creates, downloads, local_downloads } =
                agents.clone();
            Interrupts {
                creates: token.on_cancel(move || {
                    small_creates.shutdown();
                    large_creates.shutdown();
                }),
                _others: token.on_cancel(move || {
                    reads.shutdown();
                    downloads.shutdown();
                    local_downloads.shutdown();
                }),
            }
        });
        Session { plan: &self.plan, agents, token, armed }
    }
}

/// The transport as one call uses it.
pub(crate) struct Session<'a> {
    plan: &'a Plan,
    agents: Agents,
    token: Option<&'a CancelToken>,
    armed: Option<Interrupts>,
}

struct Interrupts {
    creates: Armed,
    _others: Armed,
}

impl Session<'_> {
    /// How long the other side may be silent.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.plan.idle_timeout
    }

    pub(crate) fn token(&self) -> Option<&CancelToken> {
        self.token
    }

    /// From here on a create of this session is finished, whatever happens to its token; or says
    /// that it was cancelled before.
    pub(crate) fn shield_create(&self) -> bool {
        self.armed.as_ref().is_none_or(|armed| armed.creates.disarm())
    }

    /// A GET of the API.
    pub(crate) fn get(&self, target: &str) -> Result<Reply, Failure> {
        let uri = self.plan.uri(target)?;
        let sent = self
            .agents
            .reads
            .get(uri)
            .header(header::AUTHORIZATION, self.plan.authorization.clone())
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .call();
        let reply = sent.map_err(failure).map(|response| self.plan.read_reply(response));
        match reply {
            _ if is_cancelled(self.token) => Err(cancelled()),
            reply => reply,
        }
    }

    /// The POST of the API. `ask_first` has a large body wait for the server's consent.
    pub(crate) fn post(
        &self,
        target: &str,
        client_request_id: &str,
        body: &mut body::Reader<'_>,
        ask_first: bool,
    ) -> Result<Reply, Failure> {
        let length = body.total();
        let agent = match length {
            0..=SMALL_BODY => &self.agents.small_creates,
            _ => &self.agents.large_creates,
        };
        let mut request = agent
            .post(self.plan.uri(target)?)
            .header(header::AUTHORIZATION, self.plan.authorization.clone())
            .header(header::ACCEPT, HeaderValue::from_static("application/json"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .header(header::CONTENT_LENGTH, HeaderValue::from(length))
            .header("x-client-request-id", client_request_id);
        if ask_first && length > ASK_FIRST {
            request = request.header(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        let sent = request.send(SendBody::from_reader(body));
        match sent {
            Ok(response) => Ok(self.plan.read_reply(response)),
            Err(_) if body.progress() != Progress::Committed && is_cancelled(self.token) => {
                Err(cancelled())
            }
            Err(e) => Err(failure(e)),
        }
    }

    /// A GET of a video, without the key: from a byte on, if the file still is the one meant.
    pub(crate) fn fetch(&self, url: &str, range: Option<&Range>) -> Result<Stream, Failure> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let response = self.fetch_once(&url, range)?;
            let status = response.status().as_u16();
            let location = match status {
                301 | 302 | 303 | 307 | 308 => location_of(&response),
                _ => None,
            };
            match location {
                Some(location) => url = resolve(&url, &location),
                None => return Ok(Stream::new(self, status, response)),
            }
        }
        let problem = format!("the video's link redirects more than {MAX_REDIRECTS} times");
        Err(Failure::new(FailureKind::Unusable, problem))
    }

    fn fetch_once(
        &self,
        url: &str,
        range: Option<&Range>,
    ) -> Result<Response<ureq::Body>, Failure> {
        let refused = |why: &str| Failure::new(FailureKind::Unusable, why.to_owned());
        let uri: Uri = url.parse().map_err(|_| refused("the video's link is no link"))?;
        let local = is_loopback(uri.host().unwrap_or_default());
        match uri.scheme_str() {
            Some("https") => self.plan.tls.check().map_err(|e| refused(&e.to_string()))?,
            Some("http") if local => {}
            _ => return Err(refused("the video's link is not https")),
        }
        let agent = if local { &self.agents.local_downloads } else { &self.agents.downloads };
        // As it is on the server: ranges of a compressed form would not fit together.
        let mut request =
            agent.get(uri).header(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if let Some(range) = range {
            request = request
                .header(header::RANGE, format!("bytes={}-", range.from))
                .header(header::IF_RANGE, &range.validator);
        }
        match request.call() {
            _ if is_cancelled(self.token) => Err(cancelled()),
            answer => answer.map_err(failure),
        }
    }
}

/// The rest of a file, provided that its validator still holds.
pub(crate) struct Range {
    pub(crate) from: u64,
    pub(crate) validator: String,
}

/// A download under way.
pub(crate) struct Stream {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    body: ureq::BodyReader<'static>,
    token: Option<CancelToken>,
}

impl Stream {
    fn new(session: &Session<'_>, status: u16, response: Response<ureq::Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status,
            headers: wanted(&parts.headers, &session.plan.key),
            body: body.into_reader(),
            token: session.token.cloned(),
        }
    }

    /// The next bytes, or none at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize, Failure> {
        let read = self.body.read(buf);
        // A connection that is shut down can look like one that has ended.
        if is_cancelled(self.token.as_ref()) {
            return Err(cancelled());
        }
        read.map_err(|e| failure(e.into()))
    }

    /// A refusal, read to its end or as far as it goes.
    pub(crate) fn into_reply(self) -> Reply {
        let Self { status, headers, body, .. } = self;
        let (body, end) = read_whole(body, None);
        Reply { status, headers, body, end }
    }
}

impl Plan {
    fn uri(&self, target: &str) -> Result<Uri, Failure> {
        let uri = format!("{}{target}", self.base);
        Uri::try_from(uri).map_err(|e| Failure::new(FailureKind::Broken, e))
    }

    fn read_reply(&self, response: Response<ureq::Body>) -> Reply {
        let (parts, body) = response.into_parts();
        let length = body.content_length();
        let (body, end) = read_whole(body.into_reader(), length);
        Reply {
            status: parts.status.as_u16(),
            headers: wanted(&parts.headers, &self.key),
            body: self.key.scrub(body),
            end,
        }
    }

    fn agents(&self) -> Agents {
        let api_proxy = self.proxy.clone().filter(|_| !self.base_is_local);
        // Only a look-up with a limit costs a thread, and an address needs no look-up.
        let lookup =
            (self.base_needs_lookup && api_proxy.is_none()).then_some(self.connect_timeout);
        let api = |input: usize, output: usize| {
            self.config(input, output)
                .proxy(api_proxy.clone())
                .timeout_resolve(lookup)
                .timeout_recv_response(Some(self.idle_timeout))
                .timeout_recv_body(Some(self.idle_timeout))
        };
        let create = |output: usize| {
            let ask = Duration::from_secs(1).min(self.idle_timeout / 2);
            api(REPLY_BUFFER, output).max_idle_connections(0).timeout_await_100(Some(ask))
        };
        let download = |proxy: Option<Proxy>, lookup: Option<Duration>| {
            self.config(DOWNLOAD_BUFFER, SMALL_BUFFER)
                .proxy(proxy)
                .timeout_resolve(lookup)
                .timeout_recv_response(Some(self.idle_timeout))
        };
        Agents {
            reads: api(REPLY_BUFFER, SMALL_BUFFER).build().into(),
            small_creates: create(SMALL_BUFFER).build().into(),
            large_creates: create(UPLOAD_BUFFER).build().into(),
            downloads: download(self.proxy.clone(), Some(self.connect_timeout)).build().into(),
            local_downloads: download(None, None).build().into(),
        }
    }

    fn config(&self, input: usize, output: usize) -> AgentConfig {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .user_agent(&self.user_agent)
            .accept_encoding("")
            .input_buffer_size(input)
            .output_buffer_size(output)
            .timeout_connect(Some(self.connect_timeout))
            .timeout_per_read(Some(self.idle_timeout))
            .timeout_per_write(Some(self.idle_timeout));
        self.tls.apply(config)
    }
}

type AgentConfig = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

fn read_whole(body: ureq::BodyReader<'_>, length: Option<u64>) -> (Vec<u8>, Result<(), Failure>) {
    let expected = length.unwrap_or_default().min(MAX_REPLY) as usize;
    let mut whole = Vec::with_capacity(expected);
    let end = match body.take(MAX_REPLY + 1).read_to_end(&mut whole) {
        Ok(_) if whole.len() as u64 > MAX_REPLY => {
            whole.truncate(MAX_REPLY as usize);
            Err(Failure::new(FailureKind::Unusable, "the server's answer is larger than 1 MiB"))
        }
        Ok(_) => Ok(()),
        Err(e) => Err(failure(e.into())),
    };
    (whole, end)
}

fn wanted(headers: &HeaderMap, key: &ApiKey) -> Headers {
    let text = |value: &HeaderValue| {
        let value = key.scrub(value.as_bytes().to_vec());
        String::from_utf8(value).ok().filter(|value| !value.contains(char::is_control))
    };
    let found = HEADERS.iter().filter_map(|&name| Some((name, text(headers.get(name)?)?)));
    Headers(found.collect())
}

fn location_of<B>(response: &Response<B>) -> Option<String> {
    response.headers().get(header::LOCATION)?.to_str().ok().map(str::to_owned)
}

/// A redirect's target, which may be relative (RFC 3986, without the dots nobody sends).
fn resolve(base: &str, location: &str) -> String {
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let authority_end = base
        .get(scheme_end..)
        .and_then(|rest| rest.find(['/', '?', '#']))
        .map_or(base.len(), |at| scheme_end + at);
    let up_to = |end: usize| base.get(..end).unwrap_or(base);
    let location = location.split('#').next().unwrap_or_default();
    let has_scheme = location.split(['/', '?']).next().is_some_and(|start| start.contains(':'));
    if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}{location}", up_to(scheme_end.saturating_sub(2)))
    } else if location.starts_with('/') {
        format!("{}{location}", up_to(authority_end))
    } else {
        let path_end = base.find(['?', '#']).unwrap_or(base.len());
        let path = up_to(path_end);
        if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').filter(|&at| at >= authority_end);
            format!("{}/{location}", path.get(..folder.unwrap_or(path.len())).unwrap_or(path))
        }
    }
}

fn cancelled() -> Failure {
    Failure::new(FailureKind::Cancelled, "cancelled")
}

/// What ureq's error means. Whether a create may have happened does not hang on this: the body's
/// commit point tells.
fn failure(e: ureq::Error) -> Failure {
    use ureq::Error as E;
    let kind = match &e {
        E::BadUri(_)
        | E::HostNotFound
        | E::ConnectionFailed
        | E::ConnectProxyFailed(_)
        | E::Tls(_)
        | E::TlsRequired
        | E::Timeout(Timeout::Resolve | Timeout::Connect) => FailureKind::Connect,
        E::Timeout(_) => FailureKind::Silent,
        E::Io(e) if is_connect_error(e) => FailureKind::Connect,
        E::LargeResponseHeader(..) => FailureKind::Unusable,
        #[cfg(feature = "rustls")]
        E::Rustls(_) => FailureKind::Connect,
        #[cfg(feature = "native-tls")]
        E::NativeTls(_) => FailureKind::Connect,
        _ => FailureKind::Broken,
    };
    match e {
        // ureq's own wrapper hides the cause.
        E::Io(e) => Failure::new(kind, e),
        other => Failure::new(kind, other),
    }
}

fn is_connect_error(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    match e.kind() {
        K::ConnectionRefused
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::AddrNotAvailable
        // What rustls says of a certificate it does not trust.
        | K::InvalidData => true,
        // A look-up has no kind of its own in std.
        _ => e.raw_os_error().is_none() && e.to_string().contains("failed to lookup address"),
    }
}

fn check_base_url(base: &str) -> Result<Uri> {
    let refused = |problem: &str| Error::config(format!("base_url: {problem}"));
    let uri: Uri = base.parse().map_err(|e| Error::config_from("base_url: is no URL", e))?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err(refused("names no host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        // Not quoted: what stands there is a password.
        return Err(refused("holds a user name: allowed is none, the key goes in a header"));
    }
    if base.contains(['?', '#']) {
        return Err(refused("holds a query: allowed is a scheme, a host and perhaps a path"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_loopback(host) => Ok(uri),
        Some("http") => Err(refused("is http: allowed is https, and http on the loopback only")),
        _ => Err(refused("has no scheme that is known: allowed is https")),
    }
}

fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

fn is_loopback(host: &str) -> bool {
    let host = bare_host(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// The environment's proxies, the ones meant for https first.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];

fn find_proxy(choice: &ProxyChoice) -> Result<Option<Proxy>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    match choice {
        ProxyChoice::None => Ok(None),
        ProxyChoice::Url(url) => parse_proxy("proxy", url, "").map(Some),
        ProxyChoice::Environment => {
            let found = PROXY_VARIABLES.iter().find_map(|&name| Some((name, variable(name)?)));
            let Some((name, url)) = found else { return Ok(None) };
            let exceptions = variable("NO_PROXY").or_else(|| variable("no_proxy"));
            parse_proxy(name, url.trim(), &exceptions.unwrap_or_default()).map(Some)
        }
    }
}

/// The messages do not quote the URL: it may hold a password.
fn parse_proxy(setting: &str, url: &str, exceptions: &str) -> Result<Proxy> {
    let refused =
        |_| Error::config(format!("{setting}: is no proxy URL: allowed is http://host:port"));
    let given = Proxy::new(url).map_err(refused)?;
    let protocol = given.protocol();
    if !matches!(protocol, ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) {
        return Err(Error::config(format!(
            "{setting}: is a {protocol} proxy: allowed is http or https"
        )));
    }
    let mut proxy = Proxy::builder(protocol).host(given.host()).port(given.port());
    if let Some(name) = given.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = given.password() {
        proxy = proxy.password(password);
    }
    // As other programs read NO_PROXY: with white space, and with what lies below a domain.
    for entry in exceptions.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        proxy = match domain {
            "" => proxy.no_proxy("*"),
            _ => proxy.no_proxy(domain).no_proxy(&format!(".{domain}")),
        };
    }
    proxy.build().map_err(refused)
}

#[cfg(any(feature = "rustls", feature = "native-tls"))]
#[derive(Clone)]
struct Tls(ureq::tls::TlsConfig);

#[cfg(any(feature = "rustls", feature = "native-tls"))]
impl Tls {
    fn new(pem: Option<&[u8]>) -> Result<Self> {
        use ureq::tls::{RootCerts, TlsConfig, TlsProvider};
        let provider =
            if cfg!(feature = "rustls") { TlsProvider::Rustls } else { TlsProvider::NativeTls };
        let roots = match pem {
            Some(pem) => RootCerts::Specific(std::sync::Arc::new(parse_certificates(pem)?)),
            None if cfg!(all(feature = "rustls", not(feature = "platform-verifier"))) => {
                RootCerts::WebPki
            }
            None => RootCerts::PlatformVerifier,
        };
        Ok(Self(TlsConfig::builder().provider(provider).root_certs(roots).build()))
    }

    fn check(&self) -> Result<()> {
        Ok(())
    }

    fn apply(&self, config: AgentConfig) -> AgentConfig {
        config.tls_config(self.0.clone())
    }
}

#[cfg(any(feature = "rustls", feature = "native-tls"))]
fn parse_certificates(pem: &[u8]) -> Result<Vec<ureq::tls::Certificate<'static>>> {
    use ureq::tls::{PemItem, parse_pem};
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        let item = item.map_err(|e| Error::config_from("root_certificates_pem: is no PEM", e))?;
        if let PemItem::Certificate(certificate) = item {
            // The TLS library ignores what it cannot read, and would then trust nobody.
            if !is_der_sequence(certificate.der()) {
                return Err(Error::config("root_certificates_pem: holds a damaged certificate"));
            }
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(Error::config("root_certificates_pem: holds no certificate"));
    }
    Ok(certificates)
}

/// Whether the bytes are one ASN.1 sequence and nothing else, as every certificate is.
#[cfg(any(feature = "rustls", feature = "native-tls"))]
fn is_der_sequence(der: &[u8]) -> bool {
    let (length, rest) = match der {
        [0x30, short @ 0..=0x7F, rest @ ..] => (usize::from(*short), rest),
        [0x30, 0x81, a, rest @ ..] => (usize::from(*a), rest),
        [0x30, 0x82, a, b, rest @ ..] => (usize::from(u16::from_be_bytes([*a, *b])), rest),
        _ => return false,
    };
    length == rest.len()
}

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
#[derive(Clone)]
struct Tls;

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
impl Tls {
    fn new(pem: Option<&[u8]>) -> Result<Self> {
        match pem {
            Some(_) => Self.check().map(|()| Self),
            None => Ok(Self),
        }
    }

    fn check(&self) -> Result<()> {
        Err(Error::config(
            "https needs one of the features `rustls` (the default), `platform-verifier` or `native-tls`",
        ))
    }

    fn apply(&self, config: AgentConfig) -> AgentConfig {
        config
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_may_be_relative() {
        let base = "https://cdn.example/a/b.mp4?sig=1/2";
        for (location, resolved) in [
            ("https://other.example/x?y#z", "https://other.example/x?y"),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("//other.example/x", "https://other.example/x"),
            ("/x/y", "https://cdn.example/x/y"),
            ("c.mp4", "https://cdn.example/a/c.mp4"),
            ("c.mp4?to=https://x", "https://cdn.example/a/c.mp4?to=https://x"),
            ("?sig=2", "https://cdn.example/a/b.mp4?sig=2"),
        ] {
            assert_eq!(resolve(base, location), resolved, "{location}");
        }
        assert_eq!(resolve("https://cdn.example", "c.mp4"), "https://cdn.example/c.mp4");
        assert_eq!(resolve("https://cdn.example?x", "/c.mp4"), "https://cdn.example/c.mp4");
    }

    #[test]
    fn loopback_is_what_the_machine_keeps_to_itself() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "localhost.example.com", "128.0.0.1", "127.0.0.1.nip.io", "[::2]", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn exceptions_from_the_proxy_are_read_as_other_programs_read_them() {
        let bypassed = |exceptions: &str, host: &str| {
            let proxy = parse_proxy("proxy", "http://proxy.example:8080", exceptions).unwrap();
            proxy.is_no_proxy(&format!("https://{host}/").parse().unwrap())
        };
        let listed = "internal.example , *.wild.example,.dot.example";
        for host in ["internal.example", "api.internal.example", "a.wild.example", "a.dot.example"]
        {
            assert!(bypassed(listed, host), "{host}");
            assert!(bypassed("*", host), "{host}");
            assert!(!bypassed("", host), "{host}");
        }
        assert!(!bypassed(listed, "api.aimlapi.com"));
        assert!(!bypassed(listed, "notinternal.example"));
    }

    #[test]
    fn a_proxys_password_is_kept_and_not_told() {
        let proxy = parse_proxy("proxy", "http://me:p%40ss@proxy.example:8080", "").unwrap();
        assert_eq!((proxy.username(), proxy.password()), (Some("me"), Some("p@ss")));
        for url in ["socks5://me:secret@proxy.example", "http://me:secret@", "gopher://me:secret@x"]
        {
            let error = parse_proxy("proxy", url, "").unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }

    #[cfg(any(feature = "rustls", feature = "native-tls"))]
    #[test]
    fn a_certificate_is_one_whole_sequence() {
        assert!(is_der_sequence(&[0x30, 2, 1, 1]));
        assert!(is_der_sequence(&[&[0x30, 0x81, 200][..], &[0; 200]].concat()));
        assert!(is_der_sequence(&[&[0x30, 0x82, 1, 44][..], &[0; 300]].concat()));
        for other in [&[][..], &[0x30], &[0x30, 3, 1, 1], &[0x31, 2, 1, 1], &[0x30, 0x80, 0, 0]] {
            assert!(!is_der_sequence(other), "{other:?}");
        }
    }
}
