//! The API's behavior without I/O: takes a parsed request and returns a [`Response`].

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::{Value, json};

use super::endpoint::Endpoint;
use super::fault::VideoOptions;
use super::generation::{Generation, PollResponse, RecordedGeneration, usd};
use super::http::{MAX_BODY, RequestHead, Response};
use super::logs::{ApiLog, LogEntry};
use super::models::{catalogue, fixed_price};
use super::query::Query;
use super::responses::{ApiError, client_request_id, json_response, storage_error};
use super::schema::{MODEL, SchemaExtensions, ValidCreate, parse_create};
use super::script::Script;
use super::time::now;
use super::video::{StoredVideo, generation_id_of};

pub(super) const API_KEY: &str = "sandbox-key";

pub(super) struct Api {
    origin: String,
    next_request_id: AtomicU64,
    state: Mutex<ApiState>,
}

/// Decides how a new generation proceeds.
pub(super) type ScriptOf = dyn Fn(&RecordedGeneration) -> Option<Script> + Send + Sync;

/// What the API stores, and the settings for later requests.
pub(super) struct ApiState {
    /// For generations that `script_of` has none for.
    pub(super) script: Script,
    pub(super) script_of: Option<Arc<ScriptOf>>,
    pub(super) extensions: SchemaExtensions,
    /// Without what was charged since it was set.
    pub(super) balance: f64,
    pub(super) charged_credits: u64,
    pub(super) credits_per_second: u64,
    /// What is listed instead of the price per second.
    pub(super) pricing: Option<Value>,
    pub(super) video: StoredVideo,
    pub(super) logs: ApiLog,
    generations: Vec<Generation>,
    next_id: u64,
}

impl Api {
    pub(super) fn new(port: u16) -> Api {
        Api {
            origin: format!("http://127.0.0.1:{port}"),
            next_request_id: AtomicU64::new(0),
            state: Mutex::new(ApiState::new(port)),
        }
    }

    pub(super) fn origin(&self) -> &str {
        &self.origin
    }

    pub(super) fn state(&self) -> MutexGuard<'_, ApiState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Responds to a complete request. `body` may be empty if it exceeds the limit.
    pub(super) fn respond(
        &self,
        head: &RequestHead,
        body: &[u8],
        video: &VideoOptions,
    ) -> Response {
        self.handle(head, body, video).unwrap_or_else(|error| self.error_response(error, head))
    }

    /// Returns an error response if the head alone is enough to reject the request.
    pub(super) fn reject(&self, head: &RequestHead) -> Option<Response> {
        validate_head(head).err().map(|error| self.error_response(error, head))
    }

    /// Returns the response that the vendor documents for `status`.
    pub(super) fn documented_response(&self, status: u16, head: &RequestHead) -> Response {
        match status {
            ..400 => Response::new(status, String::new()),
            _ => self.error_response(ApiError::documented(status), head),
        }
    }

    fn error_response(&self, error: ApiError, head: &RequestHead) -> Response {
        error.into_response(head, &self.next_request_id())
    }

    fn handle(
        &self,
        head: &RequestHead,
        body: &[u8],
        video: &VideoOptions,
    ) -> Result<Response, ApiError> {
        match validate_head(head)? {
            Endpoint::Create => self.create(head, body),
            Endpoint::Retrieve => self.retrieve(head),
            Endpoint::Logs => self.logs(head),
            Endpoint::Billing => Ok(self.billing(head)),
            Endpoint::Models => Ok(self.models(head)),
            Endpoint::Video => Ok(self.state().serve_video(head, video)),
        }
    }

    fn create(&self, head: &RequestHead, body: &[u8]) -> Result<Response, ApiError> {
        // Decoding a large image takes a while, so the lock is not held meanwhile.
        let extensions = self.state().extensions.clone();
        let create = parse_create(body, &extensions).map_err(ApiError::invalid)?;
        let ValidCreate { model, seconds, request, image } = create;
        let (id, script_of) = self.state().next_generation();
        let client_request_id = client_request_id(head).map(str::to_owned);
        let record =
            RecordedGeneration { id: id.clone(), client_request_id, request, image, polls: 0 };
        // The caller's function must not run while the lock is held.
        let script = script_of.and_then(|script_of| script_of(&record));
        self.state().accept(record, model, seconds, script, self.next_request_id());
        let body = json!({
            "id": id, "status": "queued", "video": null, "duration": null,
            "error": null, "meta": null,
        });
        Ok(json_response(200, &body, head).header("x-inference-id", id))
    }

    fn retrieve(&self, head: &RequestHead) -> Result<Response, ApiError> {
        let query = Query::parse(head.raw_query());
        let Some(id) = query.value("generation_id").filter(|id| !id.is_empty()) else {
            let message = "Query validation error at \"generation_id\": Required";
            return Err(ApiError::invalid(vec![message.to_owned()]));
        };
        let poll = self.state().poll(id, &self.origin);
        let PollResponse { body, credits, .. } = poll.ok_or_else(|| ApiError::documented(404))?;
        let response = json_response(200, &body, head);
        Ok(match credits {
            Some(credits) => response
                .header("x-aimlapi-credits-used", credits.to_string())
                .header("x-aimlapi-usd-spent", usd(credits).to_string()),
            None => response,
        })
    }

    fn logs(&self, head: &RequestHead) -> Result<Response, ApiError> {
        let page = self.state().logs.page(&Query::parse(head.raw_query()), now());
        let page = page.map_err(|message| ApiError::invalid(vec![message]))?;
        Ok(json_response(200, &page, head))
    }

    fn billing(&self, head: &RequestHead) -> Response {
        let balance = self.state().current_balance();
        json_response(200, &json!({ "current_balance": balance, "currency": "USD" }), head)
    }

    fn models(&self, head: &RequestHead) -> Response {
        let state = self.state();
        let price = || fixed_price(usd(state.credits_per_second));
        let pricing = state.pricing.clone().unwrap_or_else(price);
        let models = state.extensions.models.iter().map(String::as_str);
        let models = std::iter::once(MODEL).chain(models);
        json_response(200, &catalogue(models, &pricing, &Query::parse(head.raw_query())), head)
    }

    fn next_request_id(&self) -> String {
        let n = self.next_request_id.fetch_add(1, Ordering::Relaxed);
        format!("sandbox-request-{n:05}")
    }
}

/// Returns the endpoint of a request with a valid head.
fn validate_head(head: &RequestHead) -> Result<Endpoint, ApiError> {
    let endpoint = Endpoint::from_head(head).map_err(|status| match status {
        404 => ApiError::new(404, format!("Cannot {} {}", head.method, head.path())),
        _ => ApiError::documented(status),
    })?;
    match endpoint {
        // The video host is a third party: a client that sends it the API key leaks the key.
        Endpoint::Video if head.header("authorization").is_some() => {
            let message =
                "Only one auth mechanism allowed: the URL is signed, do not send Authorization";
            Err(ApiError::new(400, message))
        }
        Endpoint::Video | Endpoint::Models => Ok(endpoint),
        _ if !has_valid_key(head) => {
            let message = format!("Invalid API key provided. The sandbox accepts `{API_KEY}`");
            Err(ApiError::new(401, message))
        }
        Endpoint::Create => validate_create_head(head).map(|()| endpoint),
        _ => Ok(endpoint),
    }
}

fn validate_create_head(head: &RequestHead) -> Result<(), ApiError> {
    if !is_json(head.header("content-type").unwrap_or_default()) {
        Err(ApiError::new(415, "Unsupported Media Type: send application/json"))
    } else if head.header("content-length").is_none() {
        Err(ApiError::documented(411))
    } else if head.content_length > MAX_BODY {
        Err(ApiError::documented(413))
    } else {
        Ok(())
    }
}

fn has_valid_key(head: &RequestHead) -> bool {
    let is_key = |value: &str| {
        value.split_once(' ').is_some_and(|(scheme, key)| {
            scheme.eq_ignore_ascii_case("bearer") && key.trim_start() == API_KEY
        })
    };
    head.header("authorization").is_some_and(is_key)
}

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

impl ApiState {
    fn new(port: u16) -> ApiState {
        ApiState {
            script: Script::new(),
            script_of: None,
            extensions: SchemaExtensions::default(),
            balance: 100.0,
            charged_credits: 0,
            credits_per_second: 24_000,
            pricing: None,
            video: StoredVideo::new(),
            logs: ApiLog::new(),
            generations: Vec::new(),
            // Like the vendor's ids, these have 18 digits and exceed 2^53. No two sandboxes share
            // an id, at the same time or one after the other on the same port, so that a test that
            // mixes up servers cannot pass by accident.
            next_id: 789_000_000_000_000_000
                + u64::from(port) * 1_000_000_000_000
                + now().unsigned_abs() % 1_000_000_000 * 1_000,
        }
    }

    pub(super) fn generations(&self) -> Vec<RecordedGeneration> {
        self.generations.iter().map(|generation| generation.record.clone()).collect()
    }

    /// Adds a log entry that belongs to no generation.
    pub(super) fn add_log_entry(
        &mut self,
        client_request_id: &str,
        inference_id: &str,
        status: &str,
    ) {
        self.logs.add(LogEntry {
            created: now(),
            accepted: None,
            status: status.to_owned(),
            model: MODEL.to_owned(),
            request_id: None,
            inference_id: inference_id.to_owned(),
            client_request_id: Some(client_request_id.to_owned()),
            credits: 0,
        });
    }

    fn current_balance(&self) -> f64 {
        self.balance - usd(self.charged_credits)
    }

    /// Returns the id of a new generation, and what decides how it proceeds.
    fn next_generation(&mut self) -> (String, Option<Arc<ScriptOf>>) {
        let id = self.next_id.to_string();
        self.next_id += 1;
        (id, self.script_of.clone())
    }

    fn accept(
        &mut self,
        record: RecordedGeneration,
        model: String,
        seconds: u64,
        script: Option<Script>,
        request_id: String,
    ) {
        let script = script.unwrap_or_else(|| self.script.clone());
        let (status, credits) = match script.will_fail() {
            true => ("failed", 0),
            false => ("succeeded", self.credits_per_second.saturating_mul(seconds)),
        };
        self.logs.add(LogEntry {
            created: now(),
            accepted: Some(Instant::now()),
            status: status.to_owned(),
            model,
            request_id: Some(request_id),
            inference_id: record.id.clone(),
            client_request_id: record.client_request_id.clone(),
            credits,
        });
        let credits = self.credits_per_second.saturating_mul(seconds);
        self.generations.push(Generation { record, script, seconds, credits, is_charged: false });
    }

    /// Returns `None` if the generation does not exist or is not found yet.
    fn poll(&mut self, id: &str, origin: &str) -> Option<PollResponse> {
        let url = self.video.url(origin, id);
        let generation = self.generations.iter_mut().find(|g| g.record.id == id)?;
        let poll = generation.poll(&url, self.video.length())?;
        self.charged_credits = self.charged_credits.saturating_add(poll.new_charge);
        Some(poll)
    }

    fn serve_video(&self, head: &RequestHead, options: &VideoOptions) -> Response {
        let exists = |id: &&str| self.generations.iter().any(|g| g.record.id == *id);
        match generation_id_of(head.path()).filter(exists) {
            Some(id) => self.video.respond(id, head, options),
            None => storage_error(404, "The specified key does not exist"),
        }
    }
}
