//! The HTTP transport: sends requests and streams uploads and downloads. Only this module names
//! ureq.
//!
//! Some of ureq's defaults do not suit this crate and are overridden here: redirects of API
//! requests are not followed, error statuses are not errors, every timeout is set, and a request
//! body always has a `Content-Length`.

mod config;
mod error;
mod proxy;
mod response;
mod tls;
mod url;

use std::borrow::Cow;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use ureq::http::uri::{PathAndQuery, Scheme, Uri};
use ureq::http::{HeaderName, HeaderValue, Method, Request, header};
use ureq::{Agent, SendBody};

use crate::cancel::{CancelRegistration, CancelToken, is_cancelled};
use crate::error::{Error, Result};
use crate::model::body::{BodyReader, UploadState};
use crate::model::response::Response;
use crate::operation::Operation;
use crate::redact::sanitize;

pub(crate) use self::config::{DOWNLOAD_TIMEOUT, TransportConfig};
pub(crate) use self::proxy::{ProxyChoice, first_variable};
pub(crate) use self::response::UnreadResponse;
pub(crate) use self::tls::root_certificates;

use self::config::{Agents, SMALL_BUFFER, UPLOAD_BUFFER, ValidConfig};
use self::error::send_error;
use self::response::{HttpResponse, location};
use self::tls::ensure_enabled;
use self::url::{encode_url, is_local, is_loopback, resolve_redirect};

/// The body of a create that is larger takes a while to be sent.
const LARGE_BODY: u64 = 1024 * 1024;

const MAX_REDIRECTS: usize = 5;

const CLIENT_REQUEST_ID: HeaderName = HeaderName::from_static("x-client-request-id");
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// Sends requests to the API and to the hosts of videos. Its settings are validated once.
pub(crate) struct Transport {
    config: ValidConfig,
    agents: Agents,
    creates: Agent,
}

impl Transport {
    pub(crate) fn new(config: TransportConfig) -> Result<Self> {
        let config = config.validate()?;
        Ok(Self { agents: config.agents(), creates: config.create_agent(), config })
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
            let Agents { reads, downloads } = Agents::clone(&agents);
            Arc::new(token.register(Box::new(move || {
                reads.shutdown();
                downloads.shutdown();
            })))
        });
        let Self { config, creates, .. } = self;
        Session { config, agents, creates, token, _cancel_registration }
    }
}

/// The transport for one call.
#[derive(Clone)]
pub(crate) struct Session<'a> {
    config: &'a ValidConfig,
    agents: Cow<'a, Agents>,
    creates: &'a Agent,
    token: Option<&'a CancelToken>,
    _cancel_registration: Option<Arc<CancelRegistration>>,
}

impl Session<'_> {
    /// The base URL as a journal keeps it: on the loopback without its port, since a sandbox has
    /// another one each time.
    pub(crate) fn recorded_base_url(&self) -> String {
        let uri = &self.config.base_uri;
        let host = uri.host().unwrap_or_default();
        if !is_loopback(host) {
            return self.config.base_url.clone();
        }
        format!("{}://{host}{}", uri.scheme_str().unwrap_or_default(), uri.path())
    }

    /// How long the server may send nothing.
    pub(crate) fn idle_timeout(&self) -> Duration {
        self.config.idle_timeout
    }

    pub(crate) fn token(&self) -> Option<&CancelToken> {
        self.token
    }

    /// The agent of one attempt to create, and the registration that cancelling aborts the attempt.
    /// With a token it is the attempt's own: cancelling one before its commit must not close the
    /// connection of another after its. Unregistered at the commit point, so that a later
    /// cancellation does not abort a create that may have been accepted.
    pub(crate) fn create_agent(&self) -> (Agent, Option<CancelRegistration>) {
        let Some(token) = self.token else { return (self.creates.clone(), None) };
        let agent = self.config.create_agent();
        let cancelled = agent.clone();
        (agent, Some(token.register(Box::new(move || cancelled.shutdown()))))
    }

    /// Whether this error of a committed request proves that the end of its body was not written.
    ///
    /// On Unix, over plain TCP, `EPIPE` comes only from writing, and the last write is that of the
    /// body's end. `ECONNRESET` also comes from reading; and over TLS, where a read may have to
    /// write first, `EPIPE` may be about an alert that follows a complete body.
    fn is_cut(&self, e: &ureq::Error) -> bool {
        let plain = self.config.base_uri.scheme() == Some(&Scheme::HTTP);
        let is_epipe =
            |e: &io::Error| e.kind() == io::ErrorKind::BrokenPipe && e.raw_os_error().is_some();
        cfg!(unix) && plain && matches!(e, ureq::Error::Io(e) if is_epipe(e))
    }

    /// Sends a GET request to the API.
    pub(crate) fn get(&self, operation: Operation, target: &str) -> Result<Response> {
        let request = self.request(operation, Method::GET, target)?;
        let result = match self.agents.reads.run(request) {
            Ok(response) => Ok(self.unread(response, operation).into_response()),
            Err(e) => Err(send_error(e, operation, self.config.peer(&self.config.base_uri))),
        };
        match result {
            _ if is_cancelled(self.token) => Err(Error::cancelled(operation)),
            result => result,
        }
    }

    /// Sends a create request to the API. With `expect_continue`, the body waits for the server's
    /// `100 Continue`.
    pub(crate) fn post(
        &self,
        agent: &Agent,
        target: &str,
        client_request_id: &str,
        body: &mut BodyReader<'_>,
        expect_continue: bool,
    ) -> Result<Response> {
        let operation = Operation::Create;
        let length = body.total;
        let client_request_id = HeaderValue::from_str(client_request_id).map_err(|_| {
            let message = "`client_request_id` is not a valid header value";
            Error::invalid_request("client_request_id", message)
        })?;
        let request = self.request(operation, Method::POST, target)?;
        let mut request = request.map(|()| SendBody::from_reader(&mut *body));
        let headers = request.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
        headers.insert(CLIENT_REQUEST_ID, client_request_id);
        // Without it, a server that rejects a request with an expectation may keep the connection
        // open, and ureq waits for more than the response that it has received.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        if expect_continue {
            headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
        }
        if length > SMALL_BUFFER as u64 {
            let mut config = agent.configure_request(request).output_buffer_size(UPLOAD_BUFFER);
            if length > LARGE_BODY {
                config = config.timeout_recv_response(Some(self.config.large_response_timeout()));
            }
            request = config.build();
        }
        match agent.run(request) {
            Ok(response) => Ok(self.unread(response, operation).into_response()),
            Err(_) if body.state() != UploadState::Committed && is_cancelled(self.token) => {
                Err(Error::cancelled(operation))
            }
            Err(e) => {
                body.is_cut = self.is_cut(&e);
                Err(send_error(e, operation, self.config.peer(&self.config.base_uri)))
            }
        }
    }

    fn unread(&self, response: HttpResponse, operation: Operation) -> UnreadResponse<'_> {
        UnreadResponse::new(response, operation, &self.config.key, self.token)
    }

    /// Requests a video, without the API key. With a range, requests the rest of the file, provided
    /// that it has not changed.
    pub(crate) fn download(
        &self,
        url: &str,
        range: Option<&ResumeRange>,
    ) -> Result<UnreadResponse<'_>> {
        let mut url = encode_url(url.as_bytes());
        let mut allow_http = true;
        for _ in 0..=MAX_REDIRECTS {
            let uri = self.video_uri(&url, allow_http).map_err(|e| self.url_error(&e, &url))?;
            // Redirects must not leave https.
            allow_http = uri.scheme() == Some(&Scheme::HTTP);
            let response = self.send_download(&uri, range)?;
            match location(&response) {
                Some(location) => url = resolve_redirect(&uri, &location),
                None => return Ok(self.unread(response, Operation::Download)),
            }
        }
        let message = format!("video URL redirects more than {MAX_REDIRECTS} times");
        Err(self.url_error(&message, &url))
    }

    /// Parses the URL of a video, which the server chooses: it must not lead to what only this
    /// machine can reach.
    fn video_uri(&self, url: &str, allow_http: bool) -> Result<Uri, String> {
        let uri: Uri = url.parse().map_err(|_| "invalid video URL")?;
        let host = uri.host().unwrap_or_default();
        let api_host = self.config.base_uri.host().unwrap_or_default();
        if is_local(host) && !is_loopback(api_host) {
            return Err("video URL must not have a loopback or link-local host".into());
        }
        match uri.scheme_str() {
            Some("https") => ensure_enabled().map_err(|e| e.to_string())?,
            Some("http") if is_loopback(host) && allow_http => {}
            _ => return Err("video URL must start with https://".into()),
        }
        Ok(uri)
    }

    fn url_error(&self, message: &str, url: &str) -> Error {
        let url = sanitize(&self.config.key.redact(url.to_owned()));
        Error::decode(Operation::Download, format!("{message}: {url}"))
    }

    fn send_download(&self, uri: &Uri, range: Option<&ResumeRange>) -> Result<HttpResponse> {
        let operation = Operation::Download;
        let mut request = Request::new(());
        *request.uri_mut() = uri.clone();
        if let Some(ResumeRange { from, validator }) = range {
            let value = |text: &str| {
                HeaderValue::from_str(text).map_err(|_| {
                    Error::decode(operation, "the video's validator is not a header value")
                })
            };
            let headers = request.headers_mut();
            headers.insert(header::RANGE, value(&format!("bytes={from}-"))?);
            if let Some(validator) = validator {
                headers.insert(header::IF_RANGE, value(validator)?);
            }
        }
        let agent = &self.agents.downloads;
        // Only where necessary: ureq resumes no TLS session of a request with its own configuration.
        if is_loopback(uri.host().unwrap_or_default()) || self.config.bypasses_proxy(uri) {
            let config = agent.configure_request(request).proxy(None);
            request = config.timeout_resolve(self.config.dns_timeout(uri)).build();
        }
        match agent.run(request) {
            _ if is_cancelled(self.token) => Err(Error::cancelled(operation)),
            result => result.map_err(|e| send_error(e, operation, self.config.peer(uri))),
        }
    }

    fn request(&self, operation: Operation, method: Method, target: &str) -> Result<Request<()>> {
        let mut request = Request::new(());
        *request.method_mut() = method;
        *request.uri_mut() = self.uri(target).map_err(|e| {
            Error::invalid_request("url", format!("the request's URL is invalid: {e}"))
                .with_operation(operation)
        })?;
        let headers = request.headers_mut();
        // Prices are public, and the key is sent only where it is needed.
        if operation != Operation::Pricing {
            headers.insert(header::AUTHORIZATION, self.config.authorization.clone());
        }
        headers.insert(header::ACCEPT, JSON);
        Ok(request)
    }

    fn uri(&self, target: &str) -> Result<Uri, ureq::http::Error> {
        let base = &self.config.base_uri;
        // Without a path, the URL's is `/`.
        let path = [base.path().strip_suffix('/').unwrap_or(base.path()), target].concat();
        let mut parts = base.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::try_from(path)?);
        Ok(Uri::from_parts(parts)?)
    }
}

/// The rest of a file from a byte offset, provided that the file's validator, if it has one, still
/// matches.
pub(crate) struct ResumeRange {
    pub(crate) from: u64,
    pub(crate) validator: Option<String>,
}
