//! How the API behaves: a request as a plain value in, a [`Reply`] out. No sockets; the clock is
//! read only for time stamps and for rows that appear late.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::fmt::Display;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value, json};

use super::{Endpoint, SandboxGeneration};

pub(super) const KEY: &str = "sandbox-key";
pub(super) const MAX_BODY: u64 = 32 * 1024 * 1024;
pub(super) const VIDEO: &[u8] = include_bytes!("video.mp4");

const MODEL: &str = "kling-video/v2.1/pro/image-to-video";
const KLING_ROUTE: &str = "/v2/generate/video/kling/generation";
const UNIVERSAL_ROUTE: &str = "/v2/video/generations";
const LOGS_ROUTE: &str = "/v2/logs";
const BILLING_ROUTE: &str = "/v2/billing";
const VIDEO_ROUTE: &str = "/videos/";

const MAX_PROMPT_CHARS: usize = 2500;
const MAX_PICTURE_BYTES: usize = 10 * 1024 * 1024;
const MIN_PICTURE_SIDE: u32 = 300;
const MAX_LOG_WINDOW: Duration = Duration::from_secs(92 * 24 * 60 * 60);
const CREDITS_PER_SECOND: u64 = 24_000;
const CREDITS_PER_USD: f64 = 2_000_000.0;

// ---------------------------------------------------------------- requests and replies

/// The head of a request.
#[derive(Debug, Default)]
pub(super) struct Head {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) http_1_0: bool,
}

impl Head {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }

    fn path(&self) -> &str {
        self.split_target().0
    }

    /// As it was sent, without the question mark.
    fn raw_query(&self) -> &str {
        self.split_target().1
    }

    fn split_target(&self) -> (&str, &str) {
        self.target.split_once('?').unwrap_or((&self.target, ""))
    }

    fn client_request_id(&self) -> Option<&str> {
        self.header("x-client-request-id").filter(|id| is_client_request_id(id))
    }
}

pub(super) fn find_header<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers
        .iter()
        .find(|(known, _)| known.eq_ignore_ascii_case(name))
        .map(|(_, value)| value.as_str())
}

/// The server drops an invalid one without a word.
fn is_client_request_id(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    (1..=128).contains(&id.len()) && id.bytes().all(allowed)
}

/// A part of bytes that many replies share: a large video is never copied.
#[derive(Clone, Debug)]
pub(super) struct Body {
    bytes: Arc<Cow<'static, [u8]>>,
    range: Range<usize>,
}

impl Body {
    fn part(bytes: &Arc<Cow<'static, [u8]>>, range: Range<usize>) -> Body {
        Body { bytes: Arc::clone(bytes), range }
    }

    pub(super) fn as_slice(&self) -> &[u8] {
        self.bytes.get(self.range.clone()).unwrap_or_default()
    }
}

impl From<Vec<u8>> for Body {
    fn from(bytes: Vec<u8>) -> Body {
        Body { range: 0..bytes.len(), bytes: Arc::new(Cow::Owned(bytes)) }
    }
}

#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Body,
}

impl Reply {
    pub(super) fn new(status: u16, body: impl Into<Body>) -> Reply {
        Reply { status, headers: Vec::new(), body: body.into() }
    }

    fn json(status: u16, body: &Value) -> Reply {
        Reply::new(status, body.to_string().into_bytes())
            .header("Content-Type", "application/json; charset=utf-8")
    }

    fn html(status: u16, page: String) -> Reply {
        Reply::new(status, page.into_bytes()).header("Content-Type", "text/html; charset=UTF-8")
    }

    pub(super) fn header(mut self, name: &str, value: impl Into<String>) -> Reply {
        self.headers.push((name.to_owned(), value.into()));
        self
    }
}

/// What a fault changes about the video endpoint.
#[derive(Clone, Debug, Default)]
pub(super) struct VideoOptions {
    pub(super) ranges_ignored: bool,
    pub(super) etag: Option<String>,
}

/// The endpoint of a request; else the status that refuses it.
pub(super) fn endpoint(head: &Head) -> Result<Endpoint, u16> {
    let method = head.method.as_str();
    match head.path() {
        KLING_ROUTE | UNIVERSAL_ROUTE if method == "POST" => Ok(Endpoint::Create),
        KLING_ROUTE | UNIVERSAL_ROUTE if method == "GET" => Ok(Endpoint::Retrieve),
        LOGS_ROUTE if method == "GET" => Ok(Endpoint::Logs),
        BILLING_ROUTE if method == "GET" => Ok(Endpoint::Billing),
        path if path.starts_with(VIDEO_ROUTE) && method == "GET" => Ok(Endpoint::Video),
        KLING_ROUTE | UNIVERSAL_ROUTE | LOGS_ROUTE | BILLING_ROUTE => Err(405),
        path if path.starts_with(VIDEO_ROUTE) => Err(405),
        _ => Err(404),
    }
}

// ---------------------------------------------------------------- the API and its state

pub(super) struct Api {
    origin: String,
    replies: AtomicU64,
    state: Mutex<State>,
}

/// All that the API remembers, and the script for what comes.
pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) rules: Rules,
    pub(super) log_delay: Duration,
    pub(super) log_page_limit: usize,
    pub(super) balance: f64,
    video: StoredVideo,
    link_epoch: u64,
    next_id: u64,
    generations: Vec<Generation>,
    rows: Vec<Row>,
}

/// How a generation goes from one poll to the next.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) pending_polls: u32,
    pub(super) statuses: Vec<String>,
    pub(super) failure: Option<Failure>,
    pub(super) hidden_polls: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) message: String,
}

/// What a create may name besides what is documented.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    pub(super) models: BTreeSet<String>,
    pub(super) extra_fields: BTreeSet<String>,
}

struct Generation {
    seen: SandboxGeneration,
    plan: Plan,
    seconds: u64,
}

struct StoredVideo {
    bytes: Arc<Cow<'static, [u8]>>,
    etag: String,
    /// Counts what was served before it.
    version: u32,
}

/// A line of the key's request log.
struct Row {
    created: SystemTime,
    /// Of a generation: the row is shown only when `log_delay` has passed since.
    accepted: Option<Instant>,
    status: String,
    model: String,
    request_id: Option<String>,
    inference_id: String,
    client_request_id: Option<String>,
    credits: u64,
}

impl Api {
    pub(super) fn new(port: u16) -> Api {
        Api {
            origin: format!("http://127.0.0.1:{port}"),
            replies: AtomicU64::new(0),
            state: Mutex::new(State::new(port)),
        }
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the head alone gives reason to refuse; `length` is the body's.
    pub(super) fn refuse(&self, head: &Head, length: u64) -> Option<Reply> {
        let endpoint = match endpoint(head) {
            Ok(endpoint) => endpoint,
            Err(status) => return Some(self.no_route(status, head)),
        };
        match endpoint {
            Endpoint::Video => refuse_key(head),
            _ if !has_key(head) => Some(self.error(401, head, &bad_key_message())),
            Endpoint::Create => self.refuse_create(head, length),
            _ => None,
        }
    }

    fn refuse_create(&self, head: &Head, length: u64) -> Option<Reply> {
        if !is_json(head.header("content-type").unwrap_or_default()) {
            Some(self.error(415, head, "Unsupported Media Type: send application/json"))
        } else if head.header("content-length").is_none() {
            Some(self.error(411, head, standard_message(411)))
        } else if length > MAX_BODY {
            Some(self.error(413, head, standard_message(413)))
        } else {
            None
        }
    }

    fn no_route(&self, status: u16, head: &Head) -> Reply {
        let message = match status {
            404 => format!("Cannot {} {}", head.method, head.path()),
            _ => standard_message(status).to_owned(),
        };
        self.error(status, head, &message)
    }

    /// Answers a request that was read whole and not refused.
    pub(super) fn answer(
        &self,
        endpoint: Endpoint,
        head: &Head,
        body: &[u8],
        video: &VideoOptions,
    ) -> Reply {
        match endpoint {
            Endpoint::Create => self.create(head, body),
            Endpoint::Retrieve => self.retrieve(head),
            Endpoint::Logs => self.logs(head),
            Endpoint::Billing => self.billing(head),
            Endpoint::Video => self.state().video(head, video),
        }
    }

    fn create(&self, head: &Head, body: &[u8]) -> Reply {
        // Checking a large picture takes a while: not under the lock that all clients share.
        let rules = self.state().rules.clone();
        let draft = match read_create(body, &rules) {
            Ok(draft) => draft,
            Err(problems) => return self.invalid(head, problems),
        };
        let request_id = self.next_request_id();
        let id = self.state().accept(draft, head.client_request_id(), request_id);
        let body = generation_object(&id, "queued");
        self.ok(head, &body).header("x-inference-id", id)
    }

    fn retrieve(&self, head: &Head) -> Reply {
        let query = Query::of(head);
        let Some(id) = query.value("generation_id").filter(|id| !id.is_empty()) else {
            let problem = "Query validation error at \"generation_id\": Required";
            return self.invalid(head, vec![problem.to_owned()]);
        };
        match self.state().poll(id, &self.origin) {
            Some(Poll { body, credits }) => self.polled(head, &body, credits),
            None => self.error(404, head, "Inference not found"),
        }
    }

    fn polled(&self, head: &Head, body: &Value, credits: Option<u64>) -> Reply {
        let reply = self.ok(head, body);
        match credits {
            Some(credits) => reply
                .header("x-aimlapi-credits-used", credits.to_string())
                .header("x-aimlapi-usd-spent", usd(credits).to_string()),
            None => reply,
        }
    }

    fn logs(&self, head: &Head) -> Reply {
        match LogQuery::read(&Query::of(head), unix_millis(SystemTime::now())) {
            Ok(query) => self.ok(head, &self.state().log_page(&query)),
            Err(problem) => self.invalid(head, vec![problem]),
        }
    }

    fn billing(&self, head: &Head) -> Reply {
        let balance = self.state().balance;
        self.ok(head, &json!({ "current_balance": balance, "currency": "USD" }))
    }

    fn ok(&self, head: &Head, body: &Value) -> Reply {
        echo_client_request_id(Reply::json(200, body), head)
    }

    fn invalid(&self, head: &Head, problems: Vec<String>) -> Reply {
        let body = json!({
            "message": problems, "statusCode": 400,
            "requestId": self.next_request_id(), "path": head.path(),
        });
        echo_client_request_id(Reply::json(400, &body), head)
    }

    /// What the vendor documents for `status`.
    pub(super) fn documented(&self, status: u16, head: &Head) -> Reply {
        if status < 400 {
            Reply::new(status, Vec::new())
        } else if head.path().starts_with(VIDEO_ROUTE) {
            storage_error(status, "RequestFailed", standard_message(status))
        } else if status == 400 {
            let problem = "Body validation error at \"image_url\": Expected string, received null";
            self.invalid(head, vec![problem.to_owned()])
        } else {
            self.error(status, head, standard_message(status))
        }
    }

    /// An error in the shape that has been seen for `status`.
    fn error(&self, status: u16, head: &Head, message: &str) -> Reply {
        let path = head.path();
        if path.starts_with(VIDEO_ROUTE) {
            return storage_error(status, "MethodNotAllowed", message);
        }
        let request_id = self.next_request_id();
        let body = match status {
            401 => json!({ "message": message, "statusCode": 401, "requestId": request_id }),
            403 => forbidden(path, message, &request_id),
            524 => return gateway_page(status, message),
            _ => json!({
                "message": message, "path": path, "requestId": request_id,
                "statusCode": status.to_string(), "timestamp": iso_utc(SystemTime::now()),
            }),
        };
        echo_client_request_id(Reply::json(status, &body), head)
    }

    fn next_request_id(&self) -> String {
        let n = self.replies.fetch_add(1, Ordering::Relaxed);
        format!("sandbox-request-{n:05}")
    }
}

fn echo_client_request_id(reply: Reply, head: &Head) -> Reply {
    match head.client_request_id() {
        Some(id) => reply.header("x-client-request-id", id),
        None => reply,
    }
}

fn has_key(head: &Head) -> bool {
    let is_key = |value: &str| {
        value.split_once(' ').is_some_and(|(scheme, key)| {
            scheme.eq_ignore_ascii_case("bearer") && key.trim_start() == KEY
        })
    };
    head.header("authorization").is_some_and(is_key)
}

/// The video's host is a stranger: whoever sends it the key has leaked it.
fn refuse_key(head: &Head) -> Option<Reply> {
    let message = "Only one auth mechanism allowed; the link is signed, send no Authorization";
    head.header("authorization").map(|_| storage_error(400, "InvalidArgument", message))
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

fn bad_key_message() -> String {
    format!("{}. The sandbox accepts `{KEY}`", standard_message(401))
}

fn standard_message(status: u16) -> &'static str {
    match status {
        401 => "Invalid API key provided",
        403 => {
            "You've run out of credits. Please top up your balance or update your payment method"
        }
        404 => "Inference not found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        411 => "Length Required",
        413 => "Payload Too Large: request entity too large",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal server error",
        502 => "Bad Gateway",
        503 => "Service Unavailable: the service is under maintenance",
        504 => "Generation timeout",
        524 => "A timeout occurred",
        _ => "Request failed",
    }
}

/// Out of credits; the spelling of `kind` is the vendor's.
fn forbidden(path: &str, message: &str, request_id: &str) -> Value {
    json!({
        "title": "Forbidden", "status": 403, "message": message, "instance": path,
        "requestId": request_id,
        "error": {
            "name": "ForbiddenException", "message": message,
            "data": { "kind": "err_insufficent_credits" },
        },
    })
}

fn gateway_page(status: u16, message: &str) -> Reply {
    let page = format!(
        "<!DOCTYPE html>\n<html><head><title>{status}: {message}</title></head>\
         <body><h1>Error {status}</h1><p>{message}</p></body></html>\n"
    );
    Reply::html(status, page)
}

fn storage_error(status: u16, code: &str, message: &str) -> Reply {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>{message}</Message></Error>"
    );
    Reply::new(status, body.into_bytes()).header("Content-Type", "application/xml")
}

// ---------------------------------------------------------------- generations

struct Poll {
    body: Value,
    /// Of a completed generation only: that is when the vendor charges.
    credits: Option<u64>,
}

impl State {
    fn new(port: u16) -> State {
        State {
            plan: Plan::default(),
            rules: Rules::default(),
            log_delay: Duration::ZERO,
            log_page_limit: 100,
            balance: 100.0,
            video: StoredVideo::new(Cow::Borrowed(VIDEO), 0),
            link_epoch: 0,
            // 18 digits as the vendor's, over 2^53, and no two sandboxes share one: a test that
            // mixes up servers shall not find what it looks for by luck.
            next_id: 789_392_067_490_349_060 + u64::from(port) * 1_000_000_000,
            generations: Vec::new(),
            rows: Vec::new(),
        }
    }

    pub(super) fn generations(&self) -> Vec<SandboxGeneration> {
        let seen = self.generations.iter();
        seen.map(|generation| generation.seen.clone()).collect()
    }

    pub(super) fn serve_video(&mut self, bytes: Vec<u8>) {
        let version = self.video.version.saturating_add(1);
        self.video = StoredVideo::new(Cow::Owned(bytes), version);
    }

    pub(super) fn expire_links(&mut self) {
        self.link_epoch += 1;
    }

    /// Puts a row on top of the log.
    pub(super) fn add_log_row(
        &mut self,
        client_request_id: &str,
        inference_id: &str,
        status: &str,
    ) {
        self.rows.push(Row {
            created: SystemTime::now(),
            accepted: None,
            status: status.to_owned(),
            model: MODEL.to_owned(),
            request_id: None,
            inference_id: inference_id.to_owned(),
            client_request_id: Some(client_request_id.to_owned()),
            credits: 0,
        });
    }

    fn accept(
        &mut self,
        draft: Draft,
        client_request_id: Option<&str>,
        request_id: String,
    ) -> String {
        let id = self.next_id.to_string();
        self.next_id += 1;
        let client_request_id = client_request_id.map(str::to_owned);
        let plan = self.plan.clone();
        let fails = plan.ends_in_failure();
        self.rows.push(Row {
            created: SystemTime::now(),
            accepted: Some(Instant::now()),
            status: if fails { "failed" } else { "succeeded" }.to_owned(),
            model: draft.model,
            request_id: Some(request_id),
            inference_id: id.clone(),
            client_request_id: client_request_id.clone(),
            credits: if fails { 0 } else { credits(draft.seconds) },
        });
        self.generations.push(Generation {
            seen: SandboxGeneration {
                id: id.clone(),
                client_request_id,
                request: draft.request,
                picture: draft.picture,
                polls: 0,
            },
            plan,
            seconds: draft.seconds,
        });
        id
    }

    /// `None`: there is no such generation, or not yet.
    fn poll(&mut self, id: &str, origin: &str) -> Option<Poll> {
        let link = link(origin, id, self.link_epoch);
        let size = self.video.bytes.len();
        let generation = self.generations.iter_mut().find(|g| g.seen.id == id)?;
        let earlier = generation.count_poll()?;
        Some(generation.as_polled(earlier, &link, size))
    }
}

impl Generation {
    /// Counts a poll and returns how many were answered before it; `None` while it is hidden.
    fn count_poll(&mut self) -> Option<u32> {
        self.seen.polls = self.seen.polls.saturating_add(1);
        let visible = self.seen.polls.checked_sub(self.plan.hidden_polls)?;
        visible.checked_sub(1)
    }

    fn as_polled(&self, earlier: u32, link: &str, size: usize) -> Poll {
        let status = self.plan.status(earlier);
        let mut body = generation_object(&self.seen.id, status);
        let mut used = None;
        match Outcome::of(status) {
            Outcome::Pending => {}
            Outcome::Failed => set(&mut body, "error", self.plan.error()),
            Outcome::Done => {
                let credits = credits(self.seconds);
                let video = video_object(link, self.seconds, size);
                set(&mut body, "video", video);
                set(&mut body, "duration", json!(self.seconds));
                set(&mut body, "meta", usage(credits));
                used = Some(credits);
            }
        }
        Poll { body, credits: used }
    }
}

/// As long as there is nothing to tell but the status.
fn generation_object(id: &str, status: &str) -> Value {
    json!({
        "id": id, "status": status, "video": null, "duration": null,
        "error": null, "meta": null,
    })
}

fn set(object: &mut Value, field: &str, value: Value) {
    if let Some(fields) = object.as_object_mut() {
        fields.insert(field.to_owned(), value);
    }
}

fn video_object(link: &str, seconds: u64, size: usize) -> Value {
    json!({
        "url": link, "duration": seconds, "content_type": "video/mp4",
        "file_name": "output.mp4", "file_size": size,
    })
}

fn usage(credits: u64) -> Value {
    json!({ "usage": { "credits_used": credits, "usd_spent": usd(credits) } })
}

fn credits(seconds: u64) -> u64 {
    seconds * CREDITS_PER_SECOND
}

fn usd(credits: u64) -> f64 {
    credits as f64 / CREDITS_PER_USD
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { pending_polls: 2, statuses: Vec::new(), failure: None, hidden_polls: 0 }
    }
}

impl Plan {
    /// The status at a poll; `earlier` were answered before it.
    fn status(&self, earlier: u32) -> &str {
        let scripted = usize::try_from(earlier)
            .ok()
            .and_then(|n| self.statuses.get(n))
            .or(self.statuses.last());
        match scripted {
            Some(status) => status,
            None if earlier >= self.pending_polls => self.natural_end(),
            None if earlier == 0 => "queued",
            None => "generating",
        }
    }

    fn natural_end(&self) -> &str {
        if self.failure.is_some() { "error" } else { "completed" }
    }

    fn ends_in_failure(&self) -> bool {
        let last = self.statuses.last().map_or(self.natural_end(), |last| last);
        matches!(Outcome::of(last), Outcome::Failed)
    }

    fn error(&self) -> Value {
        match &self.failure {
            Some(Failure { name, message }) => json!({ "name": name, "message": message }),
            None => json!({ "name": "GenerationError", "message": "The generation failed" }),
        }
    }
}

enum Outcome {
    Pending,
    Done,
    Failed,
}

impl Outcome {
    fn of(status: &str) -> Outcome {
        match status {
            "completed" | "succeeded" => Outcome::Done,
            "error" | "failed" => Outcome::Failed,
            _ => Outcome::Pending,
        }
    }
}

// ---------------------------------------------------------------- the video

impl StoredVideo {
    fn new(bytes: Cow<'static, [u8]>, version: u32) -> StoredVideo {
        StoredVideo {
            // Not a hash: that would take a while for the videos of a benchmark.
            etag: format!("\"{version:x}-{:x}\"", bytes.len()),
            bytes: Arc::new(bytes),
            version,
        }
    }
}

impl State {
    fn video(&self, head: &Head, options: &VideoOptions) -> Reply {
        let name = head.path().strip_prefix(VIDEO_ROUTE).unwrap_or_default();
        let id = name.strip_suffix(".mp4").unwrap_or_default();
        if !self.generations.iter().any(|g| g.seen.id == id) {
            return storage_error(404, "NoSuchKey", "The specified key does not exist.");
        }
        match head.raw_query() {
            query if query == link_query(id, self.link_epoch) => self.stored(head, options),
            query if (0..self.link_epoch).any(|old| query == link_query(id, old)) => {
                storage_error(403, "AccessDenied", "Request has expired")
            }
            _ => storage_error(
                403,
                "SignatureDoesNotMatch",
                "The request signature we calculated does not match the signature you provided.",
            ),
        }
    }

    fn stored(&self, head: &Head, options: &VideoOptions) -> Reply {
        let StoredVideo { bytes, etag, .. } = &self.video;
        let etag = options.etag.as_ref().unwrap_or(etag);
        let length = bytes.len();
        let same = head.header("if-range").is_none_or(|known| known == etag);
        let range = head.header("range").filter(|_| same && !options.ranges_ignored);
        let reply = match Extent::of(range, length) {
            Extent::Whole => Reply::new(200, Body::part(bytes, 0..length)),
            Extent::Part(range) => {
                let last = range.end.saturating_sub(1);
                let content_range = format!("bytes {}-{last}/{length}", range.start);
                Reply::new(206, Body::part(bytes, range)).header("Content-Range", content_range)
            }
            Extent::Unsatisfiable => {
                return storage_error(416, "InvalidRange", "The requested range cannot be met")
                    .header("Content-Range", format!("bytes */{length}"));
            }
        };
        reply
            .header("Content-Type", "video/mp4")
            .header("Accept-Ranges", "bytes")
            .header("ETag", etag)
    }
}

/// How much of the video a `Range` header asks for.
#[derive(Debug, PartialEq)]
enum Extent {
    Whole,
    Part(Range<usize>),
    Unsatisfiable,
}

impl Extent {
    /// A range that cannot be read is ignored, and so are several at once.
    fn of(range: Option<&str>, length: usize) -> Extent {
        let bounds = range
            .and_then(|range| range.strip_prefix("bytes="))
            .and_then(|bounds| bounds.split_once('-'));
        let Some((first, last)) = bounds else {
            return Extent::Whole;
        };
        match (decimal::<usize>(first), decimal::<usize>(last)) {
            (Some(first), Some(last)) if last >= first => {
                Extent::between(first, last.saturating_add(1), length)
            }
            (Some(first), None) if last.is_empty() => Extent::between(first, length, length),
            (None, Some(tail)) if first.is_empty() => {
                Extent::between(length.saturating_sub(tail), length, length)
            }
            _ => Extent::Whole,
        }
    }

    fn between(start: usize, end: usize, length: usize) -> Extent {
        if start < length { Extent::Part(start..end.min(length)) } else { Extent::Unsatisfiable }
    }
}

/// Digits only: `parse` would take a sign.
pub(super) fn decimal<T: std::str::FromStr>(text: &str) -> Option<T> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn link(origin: &str, id: &str, epoch: u64) -> String {
    format!("{origin}{VIDEO_ROUTE}{id}.mp4?{}", link_query(id, epoch))
}

/// Looks like a cloud's signed link, and holds what a client might "normalise": both cases of
/// hex, an escaped and a bare plus, a tilde, an empty value.
fn link_query(id: &str, epoch: u64) -> String {
    let signature: String = (0..4_u8)
        .map(|part| {
            let mut hasher = DefaultHasher::new();
            (id, epoch, part).hash(&mut hasher);
            format!("{:016x}", hasher.finish())
        })
        .collect();
    format!(
        "sig={signature}&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIASANDBOX%2f20260101%2Fauto%2Fs3%2Faws4_request&X-Amz-Expires=3600\
         &response-content-disposition=inline%3B+filename%3D%22output%2B1~.mp4%22&x-id="
    )
}

// ---------------------------------------------------------------- the request log

/// The decoded query of a request, in order.
struct Query(Vec<(String, String)>);

impl Query {
    fn of(head: &Head) -> Query {
        let pairs = head.raw_query().split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decoded(name), form_decoded(value))
        });
        Query(decoded.collect())
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }
}

/// As web frameworks read a query: `%XX` is a byte and `+` a space; a stray `%` stays.
fn form_decoded(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let byte = match (first, after) {
            (b'%', [high, low, tail @ ..]) => match hex_byte(*high, *low) {
                Some(byte) => {
                    rest = tail;
                    byte
                }
                None => b'%',
            },
            (b'+', _) => b' ',
            _ => *first,
        };
        decoded.push(byte);
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[derive(Debug)]
struct LogQuery {
    /// Milliseconds since 1970.
    window: Range<i64>,
    models: Vec<String>,
    statuses: Vec<String>,
    limit: usize,
    offset: usize,
}

impl LogQuery {
    fn read(query: &Query, now: i64) -> Result<LogQuery, String> {
        let statuses: Vec<String> = query.values("status").map(str::to_owned).collect();
        let known = |status: &String| ["succeeded", "failed"].contains(&status.as_str());
        if !statuses.iter().all(known) {
            return Err(query_problem("status", "Expected 'succeeded' | 'failed'"));
        }
        Ok(LogQuery {
            window: log_window(query, now)?,
            models: query.values("model").map(str::to_owned).collect(),
            statuses,
            limit: whole_number(query, "limit", 50, 1..=100)?,
            offset: whole_number(query, "offset", 0, 0..=usize::MAX)?,
        })
    }

    fn matches(&self, row: &Row) -> bool {
        let wanted = |list: &[String], value: &String| list.is_empty() || list.contains(value);
        self.window.contains(&unix_millis(row.created))
            && wanted(&self.models, &row.model)
            && wanted(&self.statuses, &row.status)
    }
}

fn query_problem(field: &str, problem: impl Display) -> String {
    format!("Query validation error at \"{field}\": {problem}")
}

fn whole_number(
    query: &Query,
    field: &str,
    default: usize,
    allowed: std::ops::RangeInclusive<usize>,
) -> Result<usize, String> {
    match query.value(field) {
        None => Ok(default),
        Some(text) => decimal(text).filter(|number| allowed.contains(number)).ok_or_else(|| {
            let (least, most) = (allowed.start(), allowed.end());
            query_problem(field, format_args!("Expected {least}..{most}"))
        }),
    }
}

/// Either `period`, or `start` and `end`.
fn log_window(query: &Query, now: i64) -> Result<Range<i64>, String> {
    let times = (query.value("start"), query.value("end"));
    let longest = i64::try_from(MAX_LOG_WINDOW.as_millis()).unwrap_or(i64::MAX);
    let window = match (query.value("period"), times) {
        (Some(period), (None, None)) => {
            let length = period_millis(period)
                .ok_or_else(|| query_problem("period", "Expected ^[1-9][0-9]*[hd]$"))?;
            // The end is open, and what was logged in this very millisecond belongs to it.
            now.saturating_sub(length)..now.saturating_add(1)
        }
        (None, (Some(start), Some(end))) => {
            let time = |field, text| {
                parse_iso_utc(text).ok_or_else(|| query_problem(field, "Expected ISO-8601"))
            };
            time("start", start)?..time("end", end)?.saturating_add(1)
        }
        _ => {
            let problem = "Provide either `period` or both `start` and `end`";
            return Err(query_problem("period", problem));
        }
    };
    match window.end.saturating_sub(window.start).saturating_sub(1) {
        ..0 => Err(query_problem("end", "Must not be earlier than `start`")),
        length if length > longest => Err(query_problem("period", "At most 92 days")),
        _ => Ok(window),
    }
}

fn period_millis(period: &str) -> Option<i64> {
    let unit_at = period.len().checked_sub(1)?;
    let (number, unit) = period.split_at_checked(unit_at)?;
    let hours = match unit {
        "h" => 1,
        "d" => 24,
        _ => return None,
    };
    let number: i64 = decimal(number).filter(|_| !number.starts_with('0'))?;
    Some(number.saturating_mul(hours * 60 * 60 * 1000))
}

impl State {
    fn log_page(&self, query: &LogQuery) -> Value {
        let is_shown = |row: &&Row| {
            let waited = |accepted: Instant| accepted.elapsed() >= self.log_delay;
            row.accepted.is_none_or(waited) && query.matches(row)
        };
        let limit = query.limit.min(self.log_page_limit);
        let total = self.rows.iter().filter(is_shown).count();
        let newest_first = self.rows.iter().rev().filter(is_shown);
        let page: Vec<Value> =
            newest_first.skip(query.offset).take(limit).map(Row::to_json).collect();
        let has_more = query.offset.saturating_add(page.len()) < total;
        json!({
            "data": page,
            "pagination": {
                "limit": limit, "offset": query.offset, "total": total, "has_more": has_more,
            },
        })
    }
}

impl Row {
    fn to_json(&self) -> Value {
        json!({
            "created": iso_utc(self.created),
            "status": self.status,
            "origin": "api",
            "model": self.model,
            "cost": { "usd": usd(self.credits), "credits": self.credits },
            "tokens": { "input": 0, "output": 0, "total": 0 },
            "request_id": self.request_id,
            "inference_id": self.inference_id,
            "client_request_id": self.client_request_id,
        })
    }
}

// ---------------------------------------------------------------- time

const DAY_MILLIS: i64 = 24 * 60 * 60 * 1000;

fn unix_millis(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn iso_utc(time: SystemTime) -> String {
    let millis = unix_millis(time);
    let (year, month, day) = civil_date(millis.div_euclid(DAY_MILLIS));
    let of_day = millis.rem_euclid(DAY_MILLIS);
    let (hour, minute) = (of_day / 3_600_000, of_day / 60_000 % 60);
    let (second, milli) = (of_day / 1000 % 60, of_day % 1000);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{milli:03}Z")
}

/// Year, month and day of a day number; 0 is 1970-01-01. Howard Hinnant's algorithm: years run
/// from March, so that the leap day is their last.
fn civil_date(day: i64) -> (i64, i64, i64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = (from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

/// The way back.
fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + of_year - 719_468
}

/// Milliseconds since 1970 of `2026-07-01`, `2026-07-01T00:00:00.5Z`, `2026-07-01T00:00+02:00`;
/// without an offset it is UTC.
fn parse_iso_utc(text: &str) -> Option<i64> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "00:00Z"));
    let mut parts = date.split('-').map(decimal::<i64>);
    let (year, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    let in_range = (1..=9999).contains(&year) && (1..=12).contains(&month);
    if parts.next().is_some() || !in_range || !(1..=31).contains(&day) {
        return None;
    }
    let (clock, offset) = match time.find(['Z', '+', '-']) {
        Some(at) => time.split_at_checked(at)?,
        None => (time, "Z"),
    };
    let midnight = day_number(year, month, day) * DAY_MILLIS;
    Some(midnight + clock_millis(clock)? - offset_millis(offset)?)
}

/// `hh:mm`, `hh:mm:ss`, `hh:mm:ss.fraction`.
fn clock_millis(clock: &str) -> Option<i64> {
    let mut parts = clock.splitn(3, ':');
    let hour: i64 = decimal(parts.next()?).filter(|hour| (0..24).contains(hour))?;
    let minute: i64 = decimal(parts.next()?).filter(|minute| (0..60).contains(minute))?;
    let seconds = parts.next().unwrap_or("0");
    let seconds: f64 = seconds.parse().ok().filter(|s| (0.0..61.0).contains(s))?;
    Some((hour * 60 + minute) * 60_000 + (seconds * 1000.0) as i64)
}

/// `Z`, `+hh:mm` or `-hh:mm`.
fn offset_millis(offset: &str) -> Option<i64> {
    match offset.split_at_checked(1)? {
        ("Z", "") => Some(0),
        ("+", clock) => clock_millis(clock),
        ("-", clock) => clock_millis(clock).map(|millis| -millis),
        _ => None,
    }
}

// ---------------------------------------------------------------- the body of a create

impl Default for Rules {
    fn default() -> Rules {
        Rules { models: BTreeSet::from([MODEL.to_owned()]), extra_fields: BTreeSet::new() }
    }
}

/// A valid create.
#[derive(Debug)]
struct Draft {
    model: String,
    seconds: u64,
    /// The body, data URIs cut to their header.
    request: Value,
    picture: Option<Vec<u8>>,
}

/// Reads a create's body, or lists all that is wrong with it.
fn read_create(body: &[u8], rules: &Rules) -> Result<Draft, Vec<String>> {
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| vec![format!("Body validation error: invalid JSON, {error}")])?;
    let mut check = Check { rules, problems: Vec::new() };
    let picture = check.request(&request);
    if !check.problems.is_empty() {
        return Err(check.problems);
    }
    let text = |field: &str| request.get(field).and_then(Value::as_str);
    let seconds = request.get("duration").and_then(Value::as_u64);
    Ok(Draft {
        model: text("model").unwrap_or_default().to_owned(),
        seconds: seconds.unwrap_or(5),
        picture,
        request: without_payloads(request),
    })
}

/// Cuts `data:image/png;base64,AAAA…` to `data:image/png;base64,`, however deep it sits.
fn without_payloads(value: Value) -> Value {
    match value {
        Value::String(mut text) if text.starts_with("data:") => {
            if let Some(comma) = text.find(',') {
                text.truncate(comma + 1);
                text.shrink_to_fit();
            }
            Value::String(text)
        }
        Value::Array(items) => items.into_iter().map(without_payloads).collect(),
        Value::Object(fields) => {
            let cut = |(name, value)| (name, without_payloads(value));
            Value::Object(fields.into_iter().map(cut).collect())
        }
        other => other,
    }
}

/// Collects the problems of one body.
struct Check<'a> {
    rules: &'a Rules,
    problems: Vec<String>,
}

impl Check<'_> {
    fn problem(&mut self, at: &str, problem: impl Display) {
        self.problems.push(format!("Body validation error at \"{at}\": {problem}"));
    }

    fn expected(&mut self, at: &str, expected: &str, got: &Value) {
        let received = match got {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.problem(at, format_args!("Expected {expected}, received {received}"));
    }

    /// Checks the whole body and returns the picture, if it came with it.
    fn request(&mut self, request: &Value) -> Option<Vec<u8>> {
        let Some(fields) = request.as_object() else {
            self.expected("", "object", request);
            return None;
        };
        for required in ["model", "image_url"] {
            if !fields.contains_key(required) {
                self.problem(required, "Required");
            }
        }
        if fields.contains_key("camera_control") && has_mask(fields) {
            self.problem("camera_control", "Not together with a mask");
        }
        for (name, value) in fields {
            self.field(name, value);
        }
        fields.get("image_url").and_then(|picture| self.source_picture(picture))
    }

    fn field(&mut self, name: &str, value: &Value) {
        match name {
            "model" => self.model(value),
            "image_url" => {} // by `request`, which needs what is in it
            "prompt" | "negative_prompt" => self.prompt(name, value),
            "type" => self.one_of(name, value, &["image-to-video"]),
            "static_mask" => drop(self.picture(name, value)),
            "dynamic_masks" => self.dynamic_masks(value),
            "camera_control" => self.camera(value),
            "duration" => self.duration(value),
            "cfg_scale" => self.number(name, value, 0.0, 1.0),
            "external_task_id" => drop(self.text(name, value)),
            extra if self.rules.extra_fields.contains(extra) => {}
            unknown => self.problem(unknown, "Unrecognized key"),
        }
    }

    fn text<'v>(&mut self, at: &str, value: &'v Value) -> Option<&'v str> {
        let text = value.as_str();
        if text.is_none() {
            self.expected(at, "string", value);
        }
        text
    }

    fn one_of(&mut self, at: &str, value: &Value, allowed: &[&str]) {
        if let Some(text) = self.text(at, value)
            && !allowed.contains(&text)
        {
            let allowed = allowed.join("' | '");
            self.problem(at, format_args!("Expected '{allowed}', received '{text}'"));
        }
    }

    fn model(&mut self, value: &Value) {
        let rules = self.rules;
        let models: Vec<&str> = rules.models.iter().map(String::as_str).collect();
        self.one_of("model", value, &models);
    }

    fn prompt(&mut self, at: &str, value: &Value) {
        let length = self.text(at, value).map_or(0, |text| text.chars().count());
        if length > MAX_PROMPT_CHARS {
            let problem = format_args!("At most {MAX_PROMPT_CHARS} characters, received {length}");
            self.problem(at, problem);
        }
    }

    /// An integer on the wire: neither `"5"` nor `5.0`.
    fn duration(&mut self, value: &Value) {
        match value.as_u64() {
            Some(5 | 10) => {}
            Some(other) => {
                self.problem("duration", format_args!("Expected 5 | 10, received {other}"));
            }
            None => self.expected("duration", "integer", value),
        }
    }

    fn number(&mut self, at: &str, value: &Value, least: f64, most: f64) {
        match value.as_f64() {
            Some(number) if (least..=most).contains(&number) => {}
            Some(number) => {
                let problem = format_args!("Expected {least}..{most}, received {number}");
                self.problem(at, problem);
            }
            None => self.expected(at, "number", value),
        }
    }

    fn dynamic_masks(&mut self, value: &Value) {
        let Some(masks) = value.as_array() else {
            return self.expected("dynamic_masks", "array", value);
        };
        if masks.len() > 6 {
            let problem = format_args!("At most 6 items, received {}", masks.len());
            self.problem("dynamic_masks", problem);
        }
        for (index, mask) in masks.iter().enumerate() {
            let at = format!("dynamic_masks.{index}");
            if let Some(mask) = self.exact_object(&at, mask, &["mask", "trajectories"]) {
                self.dynamic_mask(&at, mask);
            }
        }
    }

    fn dynamic_mask(&mut self, at: &str, mask: &Map<String, Value>) {
        if let Some(picture) = mask.get("mask") {
            self.picture(&format!("{at}.mask"), picture);
        }
        if let Some(points) = mask.get("trajectories") {
            self.trajectories(&format!("{at}.trajectories"), points);
        }
    }

    fn trajectories(&mut self, at: &str, value: &Value) {
        let Some(points) = value.as_array() else {
            return self.expected(at, "array", value);
        };
        if !(2..=77).contains(&points.len()) {
            let problem = format_args!("Expected 2..77 points, received {}", points.len());
            self.problem(at, problem);
        }
        for (index, point) in points.iter().enumerate() {
            let at = format!("{at}.{index}");
            let point = self.exact_object(&at, point, &["x", "y"]);
            for (axis, value) in point.into_iter().flatten() {
                if !value.is_i64() && !value.is_u64() {
                    self.expected(&format!("{at}.{axis}"), "integer", value);
                }
            }
        }
    }

    /// An object with all of these fields and no other.
    fn exact_object<'v>(
        &mut self,
        at: &str,
        value: &'v Value,
        fields: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let object = self.known_object(at, value, fields)?;
        for field in fields.iter().filter(|field| !object.contains_key(**field)) {
            self.problem(&format!("{at}.{field}"), "Required");
        }
        Some(object)
    }

    /// An object with none but these fields.
    fn known_object<'v>(
        &mut self,
        at: &str,
        value: &'v Value,
        fields: &[&str],
    ) -> Option<&'v Map<String, Value>> {
        let Some(object) = value.as_object() else {
            self.expected(at, "object", value);
            return None;
        };
        for unknown in object.keys().filter(|key| !fields.contains(&key.as_str())) {
            self.problem(&format!("{at}.{unknown}"), "Unrecognized key");
        }
        Some(object)
    }

    fn camera(&mut self, value: &Value) {
        const MOVES: [&str; 5] =
            ["simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"];
        let Some(camera) = self.known_object("camera_control", value, &["type", "config"]) else {
            return;
        };
        match camera.get("type") {
            Some(kind) => self.one_of("camera_control.type", kind, &MOVES),
            None => self.problem("camera_control.type", "Required"),
        }
        let is_simple = camera.get("type").and_then(Value::as_str) == Some("simple");
        match camera.get("config") {
            Some(config) if is_simple => self.camera_config(config),
            Some(_) => self.problem("camera_control.config", "Only with the type 'simple'"),
            None if is_simple => self.problem("camera_control.config", "Required"),
            None => {}
        }
    }

    fn camera_config(&mut self, config: &Value) {
        const AXES: [&str; 6] = ["horizontal", "vertical", "pan", "tilt", "roll", "zoom"];
        let at = "camera_control.config";
        let Some(config) = self.known_object(at, config, &AXES) else {
            return;
        };
        for (axis, value) in config {
            self.number(&format!("{at}.{axis}"), value, -10.0, 10.0);
        }
        let moved = config.values().filter(|value| value.as_f64() != Some(0.0));
        if moved.count() != 1 {
            self.problem(at, "Exactly one value must not be zero");
        }
    }

    /// The picture to animate: as every picture, and of a size that Kling takes.
    fn source_picture(&mut self, value: &Value) -> Option<Vec<u8>> {
        let at = "image_url";
        let picture = self.picture(at, value)?;
        match dimensions(&picture) {
            None => self.problem(at, "Cannot read the picture's dimensions"),
            Some((width, height)) if width.min(height) < MIN_PICTURE_SIDE => self.problem(
                at,
                format_args!("Picture too small: {width}x{height}, at least 300 px a side"),
            ),
            Some((width, height)) if !is_ratio_allowed(width, height) => self.problem(
                at,
                format_args!("Picture's aspect ratio {width}:{height} not in 1:2.5..2.5:1"),
            ),
            Some(_) => {}
        }
        Some(picture)
    }

    /// A link, or a data URI whose picture is what it says. Returns what came with the request.
    fn picture(&mut self, at: &str, value: &Value) -> Option<Vec<u8>> {
        let text = self.text(at, value)?;
        if is_link(text) {
            return None;
        }
        match data_uri_picture(text) {
            Ok(picture) => Some(picture),
            Err(problem) => {
                self.problem(at, problem);
                None
            }
        }
    }
}

fn has_mask(fields: &Map<String, Value>) -> bool {
    fields.contains_key("static_mask") || fields.contains_key("dynamic_masks")
}

// ---------------------------------------------------------------- pictures

fn is_link(text: &str) -> bool {
    let rest = ["https://", "http://"].iter().find_map(|scheme| text.strip_prefix(scheme));
    rest.is_some_and(|rest| !rest.starts_with('/') && !rest.is_empty())
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

fn data_uri_picture(text: &str) -> Result<Vec<u8>, &'static str> {
    let rest = text.strip_prefix("data:").ok_or("Invalid url: expected http(s) or a data URI")?;
    let (media_type, payload) =
        rest.split_once(";base64,").ok_or("Invalid data URI: expected ;base64,")?;
    let magic: &[u8] = match media_type {
        "image/jpeg" => b"\xFF\xD8\xFF",
        "image/png" => PNG_MAGIC,
        _ => return Err("Unsupported image format: expected image/jpeg or image/png"),
    };
    let picture = STANDARD.decode(payload).map_err(|_| "Invalid base64")?;
    if picture.len() > MAX_PICTURE_BYTES {
        Err("Picture too large: at most 10 MB")
    } else if !picture.starts_with(magic) {
        Err("The picture is not of the media type that its data URI names")
    } else {
        Ok(picture)
    }
}

const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

fn dimensions(picture: &[u8]) -> Option<(u32, u32)> {
    match picture.strip_prefix(PNG_MAGIC) {
        Some(chunks) => png_dimensions(chunks),
        None => jpeg_dimensions(picture),
    }
}

/// From the first chunk, which must be `IHDR`.
fn png_dimensions(chunks: &[u8]) -> Option<(u32, u32)> {
    let (_length, rest) = chunks.split_first_chunk::<4>()?;
    let (width, rest) = rest.strip_prefix(b"IHDR")?.split_first_chunk::<4>()?;
    let (height, _) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

/// From the first frame header, whatever segments stand before it.
fn jpeg_dimensions(picture: &[u8]) -> Option<(u32, u32)> {
    let mut rest = picture.strip_prefix(b"\xFF\xD8")?;
    while let [0xFF, marker, after @ ..] = rest {
        rest = match *marker {
            0xFF => rest.get(1..)?, // fill byte
            0x01 | 0xD0..=0xD7 => after,
            // Huffman tables, a reserved one and arithmetic tables share the frames' range.
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let [_, _, _precision, h1, h2, w1, w2, ..] = after else {
                    return None;
                };
                let side = |high: &u8, low: &u8| u32::from(u16::from_be_bytes([*high, *low]));
                return Some((side(w1, w2), side(h1, h2)));
            }
            _ => {
                let (length, _) = after.split_first_chunk::<2>()?;
                after.get(usize::from(u16::from_be_bytes(*length))..)?
            }
        };
    }
    None
}

fn is_ratio_allowed(width: u32, height: u32) -> bool {
    let (width, height) = (u64::from(width), u64::from(height));
    2 * width <= 5 * height && 2 * height <= 5 * width
}

#[cfg(test)]
mod tests {
    use super::*;

    const JPEG: &[u8] = b"\xFF\xD8\xFF\xE0\x00\x04ab\xFF\xFF\xC0\x00\x0B\x08\x01\x68\x02\x80\x01";
    const PNG: &[u8] = b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0DIHDR\x00\x00\x02\x80\x00\x00\x01\x68";

    fn minimal() -> Value {
        json!({ "model": MODEL, "image_url": "https://example.com/cat.jpg" })
    }

    /// The minimal body with these fields added or replaced.
    fn read(fields: Value) -> Result<Draft, Vec<String>> {
        let mut body = minimal();
        for (name, value) in fields.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        read_create(body.to_string().as_bytes(), &Rules::default())
    }

    fn problems(fields: Value) -> Vec<String> {
        read(fields).err().unwrap_or_default()
    }

    fn get(target: &str) -> Head {
        Head { method: "GET".to_owned(), target: target.to_owned(), ..Head::default() }
    }

    fn data_uri(media_type: &str, picture: &[u8]) -> String {
        format!("data:{media_type};base64,{}", STANDARD.encode(picture))
    }

    #[test]
    fn documented_bodies_are_accepted() {
        let points = json!([{ "x": -1, "y": 0 }, { "x": 5, "y": 7 }]);
        let masks = json!([{ "mask": "https://example.com/m.png", "trajectories": points }]);
        for fields in [
            json!({}),
            json!({ "prompt": "é".repeat(2500), "negative_prompt": "", "cfg_scale": 1 }),
            json!({ "type": "image-to-video", "duration": 10, "external_task_id": "a" }),
            json!({ "static_mask": "http://a/b", "dynamic_masks": masks }),
            json!({ "camera_control": { "type": "down_back" } }),
            json!({ "camera_control": { "type": "simple", "config": { "pan": -10, "roll": 0 } } }),
            json!({ "image_url": data_uri("image/jpeg", JPEG) }),
            json!({ "image_url": data_uri("image/png", PNG), "static_mask": "https://a" }),
        ] {
            assert_eq!(problems(fields.clone()), Vec::<String>::new(), "{fields}");
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
        let point = json!({ "x": 1, "y": 2 });
        let mask = |points: Value| json!([{ "mask": "https://a", "trajectories": points }]);
        let simple = |config: Value| json!({ "type": "simple", "config": config });
        for (field, value) in [
            ("model", json!("kling-video/v9")),
            ("image_url", json!(null)),
            ("image_url", json!("cat.jpg")),
            ("image_url", json!("ftp://example.com/cat.jpg")),
            ("image_url", json!("data:image/png;base64,@@@@")),
            ("image_url", json!(data_uri("image/gif", b"GIF89a"))),
            ("image_url", json!(data_uri("image/png", JPEG))),
            ("prompt", json!("é".repeat(2501))),
            ("negative_prompt", json!(3)),
            ("type", json!("text-to-video")),
            ("duration", json!("5")),
            ("duration", json!(5.0)),
            ("duration", json!(6)),
            ("cfg_scale", json!(1.01)),
            ("cfg_scale", json!("0.5")),
            ("external_task_id", json!(7)),
            ("static_mask", json!([])),
            ("dynamic_masks", json!({})),
            ("dynamic_masks.0.trajectories", mask(json!([point]))),
            ("dynamic_masks.0.trajectories.1.x", mask(json!([point, { "x": 1.5, "y": 1 }]))),
            ("dynamic_masks.0.trajectories.1.y", mask(json!([point, { "x": 1 }]))),
            ("dynamic_masks.0.mask", json!([{ "trajectories": [point, point] }])),
            ("camera_control.type", json!({})),
            ("camera_control.type", json!({ "type": "spin" })),
            ("camera_control.config", json!({ "type": "simple" })),
            ("camera_control.config", json!({ "type": "down_back", "config": {} })),
            ("camera_control.config", simple(json!({ "pan": 0 }))),
            ("camera_control.config", simple(json!({ "pan": 1, "tilt": 1 }))),
            ("camera_control.config.pan", simple(json!({ "pan": 10.5 }))),
            ("camera_control.config.fov", simple(json!({ "fov": 1 }))),
            ("tail_image_url", json!("https://a")),
        ] {
            let top = field.split('.').next().unwrap_or_default();
            let found = problems(json!({ top: value.clone() }));
            let start = format!("Body validation error at \"{field}\": ");
            assert!(found.iter().any(|p| p.starts_with(&start)), "{field} {value}: {found:?}");
        }
    }

    #[test]
    fn masks_and_camera_exclude_each_other() {
        let camera = json!({ "type": "forward_up" });
        let both = problems(json!({ "camera_control": camera, "static_mask": "https://a" }));
        assert_eq!(both.len(), 1);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "{", "[]", "null", "\"a\"", "{}", "\u{0}"] {
            assert!(read_create(body.as_bytes(), &Rules::default()).is_err(), "{body}");
        }
    }

    #[test]
    fn rules_let_more_in() {
        let mut rules = Rules::default();
        rules.models.insert("other".to_owned());
        rules.extra_fields.insert("tail".to_owned());
        let body = json!({ "model": "other", "image_url": "https://a", "tail": [1] });
        assert!(read_create(body.to_string().as_bytes(), &rules).is_ok());
    }

    #[test]
    fn the_picture_is_kept_and_its_text_is_not() {
        let draft = read(json!({ "image_url": data_uri("image/jpeg", JPEG) }));
        let draft = draft.expect("valid");
        assert_eq!(draft.picture.as_deref(), Some(JPEG));
        assert_eq!(draft.request["image_url"], "data:image/jpeg;base64,");
    }

    #[test]
    fn dimensions_come_from_the_header() {
        assert_eq!(dimensions(JPEG), Some((640, 360)));
        assert_eq!(dimensions(PNG), Some((640, 360)));
        for end in 0..PNG.len() {
            assert_eq!(dimensions(&PNG[..end]), None);
        }
        assert_eq!(dimensions(b"\xFF\xD8\xFF\xE0\x00\x00\xFF\xE0\x00"), None);
        assert!(is_ratio_allowed(750, 300) && is_ratio_allowed(300, 750));
        assert!(!is_ratio_allowed(751, 300) && !is_ratio_allowed(300, 751));
    }

    #[test]
    fn a_generation_follows_its_plan() {
        let statuses = |plan: &Plan| -> Vec<String> {
            (0..4).map(|earlier| plan.status(earlier).to_owned()).collect()
        };
        let mut plan = Plan::default();
        assert_eq!(statuses(&plan), ["queued", "generating", "completed", "completed"]);
        plan.failure = Some(Failure { name: String::new(), message: String::new() });
        plan.pending_polls = 0;
        assert_eq!(statuses(&plan), ["error"; 4]);
        assert!(plan.ends_in_failure());
        plan.statuses = vec!["waiting".to_owned(), "succeeded".to_owned()];
        assert_eq!(statuses(&plan), ["waiting", "succeeded", "succeeded", "succeeded"]);
        assert!(!plan.ends_in_failure());
    }

    #[test]
    fn hidden_polls_come_before_the_plan() {
        let mut state = State::new(1);
        state.plan.hidden_polls = 2;
        let id = state.accept(read(json!({})).expect("valid"), None, String::new());
        let mut poll = || {
            let poll = state.poll(&id, "http://a")?;
            Some(poll.body["status"].as_str()?.to_owned())
        };
        let seen: Vec<_> = (0..5).map(|_| poll()).collect();
        let seen: Vec<_> = seen.iter().map(Option::as_deref).collect();
        let expected = [None, None, Some("queued"), Some("generating"), Some("completed")];
        assert_eq!(seen, expected);
    }

    #[test]
    fn ranges() {
        let of = |range| Extent::of(Some(range), 10);
        assert_eq!(Extent::of(None, 10), Extent::Whole);
        assert_eq!(of("bytes=0-"), Extent::Part(0..10));
        assert_eq!(of("bytes=3-4"), Extent::Part(3..5));
        assert_eq!(of("bytes=9-99"), Extent::Part(9..10));
        assert_eq!(of("bytes=-4"), Extent::Part(6..10));
        assert_eq!(of("bytes=10-"), Extent::Unsatisfiable);
        assert_eq!(of("bytes=-0"), Extent::Unsatisfiable);
        for ignored in
            ["bytes=4-3", "bytes=-", "bytes=a-", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-"]
        {
            assert_eq!(of(ignored), Extent::Whole, "{ignored}");
        }
    }

    #[test]
    fn queries_are_decoded_as_forms() {
        let query = Query::of(&get("/p?a=uuid%3Av%2fw&b=1+2%2B&a=%zz%4&c"));
        assert_eq!(query.values("a").collect::<Vec<_>>(), ["uuid:v/w", "%zz%4"]);
        assert_eq!(query.value("b"), Some("1 2+"));
        assert_eq!(query.value("c"), Some(""));
        assert_eq!(query.value("d"), None);
    }

    #[test]
    fn log_queries_are_checked() {
        let now = 200 * DAY_MILLIS;
        let read =
            |query: &str| LogQuery::read(&Query::of(&get(&format!("/v2/logs?{query}"))), now);
        let hour = read("period=1h").expect("valid");
        assert_eq!(hour.window, now - 3_600_000..now + 1);
        assert_eq!((hour.limit, hour.offset), (50, 0));
        assert!(read("period=92d&limit=100&offset=3").is_ok());
        assert!(read("start=1970-01-01&end=1970-01-01T00:00:00%2B00:00").is_ok());
        for refused in [
            "",
            "period=93d",
            "period=2209h",
            "period=0h",
            "period=01h",
            "period=h",
            "period=1w",
            "period=1hd",
            "period=+1h",
            "period=é",
            "period=99999999999999999999h",
            "period=1h&limit=0",
            "period=1h&limit=101",
            "period=1h&offset=-1",
            "period=1h&status=done",
            "period=1h&start=1970-01-01",
            "start=1970-01-01",
            "start=1970-01-02&end=1970-01-01",
            "start=1970-01-01&end=1970-04-04",
        ] {
            assert!(read(refused).is_err(), "{refused}");
        }
    }

    #[test]
    fn the_log_pages_newest_first_and_late() {
        let mut state = State::new(1);
        for id in ["a", "b", "c"] {
            state.add_log_row(id, id, "succeeded");
        }
        state.accept(read(json!({})).expect("valid"), Some("d"), String::new());
        let mut page = |log_delay, query: &str| {
            state.log_delay = log_delay;
            let query = Query::of(&get(&format!("/v2/logs?{query}")));
            let query = LogQuery::read(&query, unix_millis(SystemTime::now())).expect("valid");
            let page = state.log_page(&query);
            let rows = page["data"].as_array().cloned().unwrap_or_default();
            let ids = rows.iter().map(|row| row["client_request_id"].as_str().unwrap_or("-"));
            (ids.collect::<String>(), page["pagination"]["has_more"] == true)
        };
        let now = Duration::ZERO;
        assert_eq!(page(now, "period=1h"), ("dcba".to_owned(), false));
        assert_eq!(page(now, "period=1h&limit=2"), ("dc".to_owned(), true));
        assert_eq!(page(now, "period=1h&limit=2&offset=2"), ("ba".to_owned(), false));
        assert_eq!(page(now, "period=1h&offset=9"), (String::new(), false));
        assert_eq!(page(now, "period=1h&model=x"), (String::new(), false));
        assert_eq!(page(Duration::MAX, "period=1h"), ("cba".to_owned(), false));
    }

    #[test]
    fn time_goes_there_and_back() {
        let time = |millis| UNIX_EPOCH + Duration::from_millis(millis);
        assert_eq!(iso_utc(time(0)), "1970-01-01T00:00:00.000Z");
        assert_eq!(iso_utc(time(951_782_400_007)), "2000-02-29T00:00:00.007Z");
        assert_eq!(parse_iso_utc("2000-02-29T00:00:00.007Z"), Some(951_782_400_007));
        assert_eq!(parse_iso_utc("2000-02-29"), Some(951_782_400_000));
        assert_eq!(parse_iso_utc("2000-02-29T02:00+02:00"), Some(951_782_400_000));
        for day in (-1_000_000..1_000_000).step_by(997) {
            let (year, month, day_of_month) = civil_date(day);
            assert_eq!(day_number(year, month, day_of_month), day);
        }
        for wrong in ["", "2000", "2000-13-01", "2000-01-01T25:00", "2000-01-01T00:00:0x", "é"] {
            assert_eq!(parse_iso_utc(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn client_request_ids() {
        assert!(is_client_request_id("a.B_1:-"));
        assert!(is_client_request_id(&"a".repeat(128)));
        for invalid in [String::new(), "a".repeat(129), "a b".to_owned(), "é".to_owned()] {
            assert!(!is_client_request_id(&invalid), "{invalid}");
        }
    }

    #[test]
    fn routes() {
        assert_eq!(endpoint(&get("/v2/video/generations?generation_id=1")), Ok(Endpoint::Retrieve));
        assert_eq!(endpoint(&get("/v2/logs?period=1h")), Ok(Endpoint::Logs));
        assert_eq!(endpoint(&get("/videos/1.mp4?sig=2")), Ok(Endpoint::Video));
        assert_eq!(endpoint(&get("/v2/Logs")), Err(404));
        let post = Head { method: "POST".to_owned(), ..get("/v2/logs") };
        assert_eq!(endpoint(&post), Err(405));
    }
}
