//! Sends a request, streams a body, streams a download: the only file, with the ones below
//! it, that names ureq.
//!
//! What ureq would do wrong for this crate is turned off or made up for here: redirects of the API
//! are not followed, statuses are no errors, every time-out is set, and a body always has a length.

mod failure;
mod proxy;
mod tls;
mod url;

use std::borrow::Cow;
use std::io::Read;
use std::net::IpAddr;
use std::time::Duration;

use ureq::http::uri::{self, PathAndQuery, Uri};
use ureq::http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, header};
use ureq::{Agent, Proxy, SendBody};

use crate::body::{self, Progress};
use crate::cancel::{Armed, CancelToken, is_cancelled};
use crate::error::{Error, Result};
use crate::http::{Failure, FailureKind, HEADERS, Headers, Reply};
use crate::key::ApiKey;

use self::failure::failure;
pub(crate) use self::proxy::ProxyChoice;
use self::proxy::find_proxy;
pub(crate) use self::tls::Tls;
use self::url::{bare_host, check_base_url, is_loopback, resolve};

/// A larger reply of the API is none.
const MAX_REPLY: u64 = 1024 * 1024;

/// A larger body asks before it is sent, so that a refusal costs no upload and is not lost.
pub(crate) const ASK_FIRST: u64 = 1024 * 1024;

/// Bodies up to this fit into a small output buffer. Zeroing large ones is most of what a small
/// request would cost.
const SMALL_BODY: u64 = SMALL_BUFFER as u64;
const SMALL_BUFFER: usize = 2 * 1024;
/// One step of the body's encoder: 72 KiB as base64.
const UPLOAD_BUFFER: usize = 96 * 1024;
/// A request's line and each of its headers has to fit whole; a signed link is long.
const LONGEST_LINK: usize = 16 * 1024;
const REPLY_BUFFER: usize = 10 * 1024;
const DOWNLOAD_BUFFER: usize = 128 * 1024;

/// No download takes longer, whatever a server sends.
pub(crate) const LONGEST_DOWNLOAD: Duration = Duration::from_secs(3600);

const MAX_REDIRECTS: usize = 5;

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Time-outs beyond this are as good as none, and would overflow what sockets take.
const LONGEST: Duration = Duration::from_secs(365 * 86_400);

/// Everything a transport is made from.
pub(crate) struct Settings {
    pub(crate) base_url: String,
    pub(crate) key: ApiKey,
    pub(crate) user_agent: String,
    pub(crate) proxy: ProxyChoice,
    pub(crate) tls: Tls,
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
    base_uri: Uri,
    base_is_local: bool,
    base_needs_lookup: bool,
    longest_setting: usize,
    /// What every request of the API has.
    headers: HeaderMap,
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
        let base_uri = check_base_url(&base)?;
        let host = base_uri.host().unwrap_or_default();
        let authorization = settings.key.authorization();
        let mut authorization = HeaderValue::from_str(&authorization)
            .map_err(|_| Error::config("the API key cannot be sent in a header"))?;
        authorization.set_sensitive(true);
        let longest =
            [base.len(), authorization.len(), settings.user_agent.len()].into_iter().max();
        let mut headers = HeaderMap::new();
        headers.insert(header::AUTHORIZATION, authorization);
        headers.insert(header::ACCEPT, JSON);
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
            longest_setting: longest.unwrap_or_default(),
            base,
            base_uri,
            headers,
            key: settings.key,
            user_agent: settings.user_agent,
            proxy: find_proxy(&settings.proxy)?,
            tls: settings.tls,
            connect_timeout: settings.connect_timeout.min(LONGEST),
            idle_timeout: settings.idle_timeout.min(LONGEST),
        };
        if plan.base_uri.scheme() == Some(&uri::Scheme::HTTPS) {
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
            Some(_) => Cow::Owned(self.plan.agents()),
            None => Cow::Borrowed(&self.agents),
        };
        let _interrupt = token.map(|token| {
            let Agents { reads, downloads, local_downloads, .. } = Agents::clone(&agents);
            token.on_cancel(Box::new(move || {
                reads.shutdown();
                downloads.shutdown();
                local_downloads.shutdown();
            }))
        });
        Session { plan: &self.plan, agents, token, _interrupt }
    }
}

/// The transport as one call uses it.
pub(crate) struct Session<'a> {
    plan: &'a Plan,
    agents: Cow<'a, Agents>,
    token: Option<&'a CancelToken>,
    _interrupt: Option<Armed>,
}

/// Has a create stopped when its token is cancelled, until it is committed.
pub(crate) struct CreateInterrupt(Option<Armed>);

impl CreateInterrupt {
    /// From here on the create is finished, whatever happens to the token; or says that it was
    /// cancelled before.
    pub(crate) fn disarm(&self) -> bool {
        self.0.as_ref().is_none_or(Armed::disarm)
    }
}

impl Session<'_> {
    /// How long the other side may be silent.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.plan.idle_timeout
    }

    pub(crate) fn token(&self) -> Option<&CancelToken> {
        self.token
    }

    /// For one attempt at a create.
    pub(crate) fn interrupt_create(&self) -> CreateInterrupt {
        CreateInterrupt(self.token.map(|token| {
            let Agents { small_creates, large_creates, .. } = Agents::clone(&self.agents);
            token.on_cancel(Box::new(move || {
                small_creates.shutdown();
                large_creates.shutdown();
            }))
        }))
    }

    /// A GET of the API.
    pub(crate) fn get(&self, target: &str) -> Result<Reply, Failure> {
        let request = self.plan.request(Method::GET, target, ())?;
        let sent = self.agents.reads.run(request);
        let reply = sent.map_err(failure).map(|response| self.plan.read_reply(response, true));
        match reply {
            _ if is_cancelled(self.token) => Err(cancelled()),
            reply => reply,
        }
    }

    /// The POST of the API. `ask_first` has the body wait for the server's consent.
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
        let client_request_id = HeaderValue::from_str(client_request_id)
            .map_err(|e| Failure::new(FailureKind::Unusable, e))?;
        let mut request =
            self.plan.request(Method::POST, target, SendBody::from_reader(&mut *body))?;
        let headers = request.headers_mut();
        headers.reserve(4);
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CLIENT_REQUEST_ID, client_request_id);
        if ask_first {
            headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        match agent.run(request) {
            Ok(response) => Ok(self.plan.read_reply(response, false)),
            Err(_) if body.progress() != Progress::Committed && is_cancelled(self.token) => {
                Err(cancelled())
            }
            Err(e) => Err(failure(e)),
        }
    }

    /// A GET of a video, without the key: from a byte on, if the file still is the one meant.
    pub(crate) fn fetch(&self, url: &str, range: Option<&Range>) -> Result<Stream, Failure> {
        let mut url = url.to_owned();
        // A link that was secure stays so, wherever it leads.
        let may_be_plain = !url.starts_with("https:");
        for _ in 0..=MAX_REDIRECTS {
            let response = self.fetch_once(&url, may_be_plain, range)?;
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
        may_be_plain: bool,
        range: Option<&Range>,
    ) -> Result<Response<ureq::Body>, Failure> {
        let refused = |why: &str| Failure::new(FailureKind::Unusable, why.to_owned());
        let uri: Uri = url.parse().map_err(|_| refused("the video's link is no link"))?;
        let local = is_loopback(uri.host().unwrap_or_default());
        match uri.scheme_str() {
            Some("https") => self.plan.tls.check().map_err(|e| refused(&e.to_string()))?,
            Some("http") if local && may_be_plain => {}
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
    /// As it counts: not what a header says that the way of sending overrules.
    pub(crate) length: Option<u64>,
    body: ureq::BodyReader<'static>,
    key: ApiKey,
    token: Option<CancelToken>,
}

impl Stream {
    fn new(session: &Session<'_>, status: u16, response: Response<ureq::Body>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status,
            headers: wanted(&parts.headers, &session.plan.key),
            length: body.content_length(),
            body: body.into_reader(),
            key: session.plan.key.clone(),
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
        let Self { status, headers, body, key, .. } = self;
        let (body, end) = read_whole(body, None, true);
        Reply { status, headers, body: key.scrub_reply(body), end }
    }
}

impl Plan {
    fn request<B>(&self, method: Method, target: &str, body: B) -> Result<Request<B>, Failure> {
        let mut request = Request::new(body);
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(target).map_err(|e| Failure::new(FailureKind::Broken, e))?;
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

    fn read_reply(&self, response: Response<ureq::Body>, pooled: bool) -> Reply {
        let (parts, body) = response.into_parts();
        let length = body.content_length();
        let (body, end) = read_whole(body.into_reader(), length, pooled);
        Reply {
            status: parts.status.as_u16(),
            headers: wanted(&parts.headers, &self.key),
            body: self.key.scrub_reply(body),
            end,
        }
    }

    fn agents(&self) -> Agents {
        let api_proxy = self.proxy.clone().filter(|_| !self.base_is_local);
        // Only a look-up with a limit costs a thread, and an address needs no look-up.
        let lookup = self.base_needs_lookup.then_some(self.connect_timeout);
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
            self.config(DOWNLOAD_BUFFER, LONGEST_LINK)
                .proxy(proxy)
                .timeout_resolve(lookup)
                .timeout_recv_response(Some(self.idle_timeout))
                .timeout_per_read(Some(self.idle_timeout))
                // What brings no byte of the video, as trailers, is seen by ureq alone.
                .timeout_recv_body(Some(LONGEST_DOWNLOAD))
        };
        // The longest line is the key's, the user agent's or, of a GET, the address with the id.
        let small = SMALL_BUFFER.max(1024 + self.longest_setting);
        Agents {
            reads: api(REPLY_BUFFER, small).build().into(),
            small_creates: create(small).build().into(),
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
            .timeout_per_write(Some(self.idle_timeout));
        self.tls.apply(config)
    }
}

type AgentConfig = ureq::config::ConfigBuilder<ureq::typestate::AgentScope>;

/// Seeing where a body ends is what gives its connection back to the pool, after a look at whether
/// it still is one. Where there is no pool, nobody needs to look past a length that is known.
fn read_whole(
    body: ureq::BodyReader<'_>,
    length: Option<u64>,
    pooled: bool,
) -> (Vec<u8>, Result<(), Failure>) {
    let expected = length.unwrap_or_default().min(MAX_REPLY) as usize;
    let most = length.filter(|_| !pooled).unwrap_or(u64::MAX).min(MAX_REPLY + 1);
    let mut whole = Vec::with_capacity(expected);
    let end = match body.take(most).read_to_end(&mut whole) {
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
    // A reply has fewer headers than there are names to look up.
    let found = headers.iter().filter_map(|(name, value)| {
        let known = HEADERS.iter().find(|known| **known == name.as_str())?;
        Some((*known, text(value)?))
    });
    Headers(found.collect())
}

fn location_of<B>(response: &Response<B>) -> Option<String> {
    response.headers().get(header::LOCATION)?.to_str().ok().map(str::to_owned)
}

fn cancelled() -> Failure {
    Failure::new(FailureKind::Cancelled, "cancelled")
}
