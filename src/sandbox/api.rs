//! How the API behaves: a request as a plain value in, a [`Reply`] out. No sockets.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::json;

use super::endpoint::Endpoint;
use super::fault::VideoOptions;
use super::generation::{Generation, Plan, Poll, SandboxGeneration, credits, usd};
use super::http::{Head, MAX_BODY, Reply};
use super::log::{Log, Row};
use super::query::Query;
use super::replies::{Refusal, client_request_id, json_reply, storage_error};
use super::schema::{Allowed, Draft, MODEL, read_create};
use super::time::now;
use super::video::{StoredVideo, requested_id};

pub(super) const KEY: &str = "sandbox-key";

pub(super) struct Api {
    origin: String,
    replies: AtomicU64,
    state: Mutex<State>,
}

/// All that the API remembers, and the script for what comes.
pub(super) struct State {
    pub(super) plan: Plan,
    pub(super) allowed: Allowed,
    pub(super) balance: f64,
    pub(super) video: StoredVideo,
    pub(super) log: Log,
    generations: Vec<Generation>,
    next_id: u64,
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

    /// Answers a request that was read whole. `body` may be empty if it is longer than allowed.
    pub(super) fn answer(&self, head: &Head, body: &[u8], video: &VideoOptions) -> Reply {
        self.grant(head, body, video).unwrap_or_else(|refusal| self.refusal(refusal, head))
    }

    /// The refusal that the head alone gives reason for.
    pub(super) fn refuse(&self, head: &Head) -> Option<Reply> {
        check_head(head).err().map(|refusal| self.refusal(refusal, head))
    }

    /// What the vendor documents for `status`.
    pub(super) fn documented(&self, status: u16, head: &Head) -> Reply {
        match status {
            ..400 => Reply::new(status, String::new()),
            _ => self.refusal(Refusal::documented(status), head),
        }
    }

    fn refusal(&self, refusal: Refusal, head: &Head) -> Reply {
        refusal.into_reply(head, &self.next_request_id())
    }

    fn grant(&self, head: &Head, body: &[u8], video: &VideoOptions) -> Result<Reply, Refusal> {
        match check_head(head)? {
            Endpoint::Create => self.create(head, body),
            Endpoint::Retrieve => self.retrieve(head),
            Endpoint::Logs => self.logs(head),
            Endpoint::Billing => Ok(self.billing(head)),
            Endpoint::Video => Ok(self.state().video(head, video)),
        }
    }

    fn create(&self, head: &Head, body: &[u8]) -> Result<Reply, Refusal> {
        // Checking a large picture takes a while: not under the lock that all clients share.
        let allowed = self.state().allowed.clone();
        let draft = read_create(body, &allowed).map_err(Refusal::invalid)?;
        let id = self.state().accept(draft, client_request_id(head), self.next_request_id());
        let body = json!({
            "id": id, "status": "queued", "video": null, "duration": null,
            "error": null, "meta": null,
        });
        Ok(json_reply(200, &body, head).header("x-inference-id", id))
    }

    fn retrieve(&self, head: &Head) -> Result<Reply, Refusal> {
        let query = Query::parse(head.raw_query());
        let Some(id) = query.value("generation_id").filter(|id| !id.is_empty()) else {
            let problem = "Query validation error at \"generation_id\": Required";
            return Err(Refusal::invalid(vec![problem.to_owned()]));
        };
        let poll = self.state().poll(id, &self.origin);
        let Poll { body, credits } = poll.ok_or_else(|| Refusal::documented(404))?;
        let reply = json_reply(200, &body, head);
        Ok(match credits {
            Some(credits) => reply
                .header("x-aimlapi-credits-used", credits.to_string())
                .header("x-aimlapi-usd-spent", usd(credits).to_string()),
            None => reply,
        })
    }

    fn logs(&self, head: &Head) -> Result<Reply, Refusal> {
        let page = self.state().log.page(&Query::parse(head.raw_query()), now());
        let page = page.map_err(|problem| Refusal::invalid(vec![problem]))?;
        Ok(json_reply(200, &page, head))
    }

    fn billing(&self, head: &Head) -> Reply {
        let balance = self.state().balance;
        json_reply(200, &json!({ "current_balance": balance, "currency": "USD" }), head)
    }

    fn next_request_id(&self) -> String {
        let n = self.replies.fetch_add(1, Ordering::Relaxed);
        format!("sandbox-request-{n:05}")
    }
}

/// The endpoint of a request whose head is in order.
fn check_head(head: &Head) -> Result<Endpoint, Refusal> {
    let endpoint = Endpoint::of(head).map_err(|status| match status {
        404 => Refusal::new(404, format!("Cannot {} {}", head.method, head.path())),
        _ => Refusal::documented(status),
    })?;
    match endpoint {
        // The video's host is a stranger: whoever sends it the key has leaked it.
        Endpoint::Video if head.header("authorization").is_some() => {
            let message =
                "Only one auth mechanism allowed; the link is signed, send no Authorization";
            Err(Refusal::new(400, message))
        }
        Endpoint::Video => Ok(endpoint),
        _ if !has_key(head) => {
            let message = format!("Invalid API key provided. The sandbox accepts `{KEY}`");
            Err(Refusal::new(401, message))
        }
        Endpoint::Create => check_create(head).map(|()| endpoint),
        _ => Ok(endpoint),
    }
}

fn check_create(head: &Head) -> Result<(), Refusal> {
    if !is_json(head.header("content-type").unwrap_or_default()) {
        Err(Refusal::new(415, "Unsupported Media Type: send application/json"))
    } else if head.header("content-length").is_none() {
        Err(Refusal::documented(411))
    } else if head.length > MAX_BODY {
        Err(Refusal::documented(413))
    } else {
        Ok(())
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

fn is_json(content_type: &str) -> bool {
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().eq_ignore_ascii_case("application/json")
}

impl State {
    fn new(port: u16) -> State {
        State {
            plan: Plan::default(),
            allowed: Allowed::default(),
            balance: 100.0,
            video: StoredVideo::new(),
            log: Log::new(),
            generations: Vec::new(),
            // 18 digits as the vendor's, over 2^53, and no two sandboxes share one: a test that
            // mixes up servers shall not find what it looks for by luck.
            next_id: 789_392_067_490_349_060 + u64::from(port) * 1_000_000_000,
        }
    }

    pub(super) fn generations(&self) -> Vec<SandboxGeneration> {
        self.generations.iter().map(|generation| generation.seen.clone()).collect()
    }

    /// Puts a row of no generation on top of the log.
    pub(super) fn add_log_row(
        &mut self,
        client_request_id: &str,
        inference_id: &str,
        status: &str,
    ) {
        self.log.add(Row {
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
        let (status, credits) = match plan.ends_in_failure() {
            true => ("failed", 0),
            false => ("succeeded", credits(draft.seconds)),
        };
        self.log.add(Row {
            created: now(),
            accepted: Some(Instant::now()),
            status: status.to_owned(),
            model: draft.model.clone(),
            request_id: Some(request_id),
            inference_id: id.clone(),
            client_request_id: client_request_id.clone(),
            credits,
        });
        self.generations.push(Generation::new(id.clone(), client_request_id, draft, plan));
        id
    }

    /// `None`: there is no such generation, or not yet.
    fn poll(&mut self, id: &str, origin: &str) -> Option<Poll> {
        let link = self.video.link(origin, id);
        let generation = self.generations.iter_mut().find(|g| g.seen.id == id)?;
        generation.poll(&link, self.video.length())
    }

    fn video(&self, head: &Head, options: &VideoOptions) -> Reply {
        let is_known = |id: &&str| self.generations.iter().any(|g| g.seen.id == *id);
        match requested_id(head.path()).filter(is_known) {
            Some(id) => self.video.answer(id, head, options),
            None => storage_error(404, "The specified key does not exist"),
        }
    }
}
