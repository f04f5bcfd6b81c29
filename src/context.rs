//! The context of one client call, and reads of the API with retries.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::cancel::is_cancelled;
use crate::endpoint::logs::{FoundRequest, LoggedRequest, Match};
use crate::endpoint::{Route, logs, retrieve};
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler, EventKind};
use crate::model::generation::{Generation, GenerationId, Video};
use crate::model::response::Response;
use crate::operation::Operation;
use crate::poll::{Known, PollQueue, Poller};
use crate::quota::CreateQuota;
use crate::random::random;
use crate::retry::RetryPolicy;
use crate::transport::{Session, Transport};
use crate::wait_options::WaitOptions;

/// What a client shares with its clones and views.
pub(crate) struct ClientInner {
    pub(crate) transport: Transport,
    pub(crate) route: Route,
    pub(crate) retry_policy: RetryPolicy,
    pub(crate) quota: CreateQuota,
    pub(crate) replace_videos: bool,
}

/// The connections, the settings and the event handler of one call.
#[derive(Clone)]
pub(crate) struct RequestContext<'a> {
    pub(crate) client: &'a ClientInner,
    pub(crate) session: Session<'a>,
    pub(crate) wait_options: &'a WaitOptions,
    pub(crate) event_handler: Option<&'a EventHandler>,
    /// The output file, for events.
    pub(crate) path: Option<&'a Path>,
}

impl RequestContext<'_> {
    /// An event about a generation.
    pub(crate) fn emit(&self, id: &GenerationId, kind: EventKind<'_>) {
        self.emit_with(Some(id), None, kind);
    }

    /// An event about a generation, an attempt to create one, or both.
    pub(crate) fn emit_with(
        &self,
        generation_id: Option<&GenerationId>,
        client_request_id: Option<&str>,
        kind: EventKind<'_>,
    ) {
        if let Some(handler) = self.event_handler {
            handler(&Event { path: self.path, generation_id, client_request_id, kind });
        }
    }

    /// Returns false if the call was cancelled before the time was up.
    pub(crate) fn sleep(&self, duration: Duration) -> bool {
        match self.session.token() {
            Some(token) => token.sleep(duration),
            None => {
                thread::sleep(duration);
                true
            }
        }
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        is_cancelled(self.session.token())
    }

    pub(crate) fn retrieve_once(&self, id: &GenerationId) -> Result<Generation> {
        let target = retrieve::target(self.client.route, id);
        let response = self.session.get(Operation::Retrieve, &target);
        let generation = response.and_then(|response| retrieve::parse_response(response, id));
        generation.map_err(|error| error.with_id(id))
    }

    pub(crate) fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
        self.with_retries(Operation::Retrieve, Some(id), None, || self.retrieve_once(id))
    }

    pub(crate) fn wait(&self, id: &GenerationId, known: &Known) -> Result<Video> {
        self.poll_queue(&self.poller(&|_| self)).wait(id, known)
    }

    pub(crate) fn wait_all(&self, ids: &[GenerationId]) -> Vec<Result<Video>> {
        self.poll_queue(&self.poller(&|_| self)).wait_all(ids)
    }

    /// A queue of polls with the settings of this call.
    pub(crate) fn poll_queue<'q>(&'q self, poller: &'q ApiPoller<'q>) -> PollQueue<'q> {
        PollQueue::new(self.wait_options, &self.client.retry_policy, poller)
    }

    /// Polls the API in real time. `context_of` is the context of the generation with this index, for
    /// events.
    pub(crate) fn poller<'a>(
        &'a self,
        context_of: &'a (dyn Fn(usize) -> &'a RequestContext<'a> + Sync),
    ) -> ApiPoller<'a> {
        ApiPoller { context: self, started: Instant::now(), context_of }
    }

    /// Makes a GET request to the API and parses its response. Transient failures are retried.
    pub(crate) fn get<T>(
        &self,
        operation: Operation,
        target: &str,
        limit: Option<&TimeLimit>,
        parse_response: impl Fn(Response) -> Result<T>,
    ) -> Result<T> {
        self.with_retries(operation, None, limit, || {
            parse_response(self.session.get(operation, target)?)
        })
    }

    /// The best match in the log, and of several the newest: the request with exactly this client
    /// request id or, with `any_attempt`, any attempt of the create with this id. The limit is
    /// checked before all requests but the first.
    pub(crate) fn find(
        &self,
        client_request_id: &str,
        any_attempt: bool,
        days: u64,
        limit: Option<&TimeLimit>,
    ) -> Result<Option<FoundRequest>> {
        let period = format!("{}d", days.clamp(1, logs::MAX_DAYS));
        let mut best = None;
        self.read_log(Operation::Find, &period, limit, &mut |entries| {
            let found = entries.iter().filter_map(|e| e.matches(client_request_id, any_attempt));
            best = best.take().into_iter().chain(found).min_by_key(|found| found.quality);
            best.as_ref().is_some_and(|best| best.quality == Match::Exact)
        })?;
        Ok(best)
    }

    /// At most `limit` logged requests of a period, newest first.
    pub(crate) fn list(&self, period: &str, limit: usize) -> Result<Vec<LoggedRequest>> {
        let mut listed: Vec<LoggedRequest> = Vec::new();
        self.read_log(Operation::List, period, None, &mut |mut entries| {
            entries.retain(|entry| !listed.iter().any(|other| entry.is_same_request(other)));
            listed.append(&mut entries);
            listed.len() >= limit
        })?;
        listed.truncate(limit);
        Ok(listed)
    }

    /// Reads the log, newest entries first, until it ends or `is_enough` of the pages so far.
    ///
    /// New requests shift the entries while they are paged through. Pages overlap, so that an entry
    /// may be read twice but none is skipped.
    fn read_log(
        &self,
        operation: Operation,
        period: &str,
        limit: Option<&TimeLimit>,
        is_enough: &mut dyn FnMut(Vec<LoggedRequest>) -> bool,
    ) -> Result<()> {
        const OVERLAP: u64 = 10;
        const MAX_PAGES: u64 = 10_000;
        let mut offset = 0;
        for _ in 0..MAX_PAGES {
            let target = logs::target(period, offset);
            let page = self.get(operation, &target, limit, logs::parse_response)?;
            let count = page.entries.len() as u64;
            if is_enough(page.entries) || !page.has_more || count == 0 {
                return Ok(());
            }
            if let Some(limit) = limit.filter(|limit| limit.remaining().is_zero()) {
                return Err(limit.error(operation, None));
            }
            // By what was received: a server may send fewer entries than requested.
            offset += count - OVERLAP.min(count / 2);
        }
        Err(Error::decode(operation, "log pagination did not terminate"))
    }

    /// Repeats a read until it succeeds, fails for good, or its retries or its time are used up.
    fn with_retries<T>(
        &self,
        operation: Operation,
        id: Option<&GenerationId>,
        limit: Option<&TimeLimit>,
        mut read: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            let error = match read() {
                Ok(value) => return Ok(value),
                Err(error) => error.with_attempts(attempt),
            };
            let delay = self.client.retry_policy.next_delay(attempt, &error, random());
            let Some(delay) = delay.filter(|_| error.is_transient()) else { return Err(error) };
            if let Some(limit) = limit.filter(|limit| limit.remaining() <= delay) {
                return Err(limit.error(operation, Some(error)));
            }
            let kind = EventKind::Retrying { operation, attempt, delay, error: &error };
            self.emit_with(id, None, kind);
            if !self.sleep(delay) {
                return Err(Error::cancelled(operation).with_attempts(attempt).with_id(id));
            }
            attempt = attempt.saturating_add(1);
        }
    }
}

/// When a step of a longer call must end.
pub(crate) struct TimeLimit {
    started: Instant,
    timeout: Duration,
}

impl TimeLimit {
    /// Starts now.
    pub(crate) fn new(timeout: Duration) -> Self {
        Self { started: Instant::now(), timeout }
    }

    pub(crate) fn remaining(&self) -> Duration {
        self.timeout.saturating_sub(self.started.elapsed())
    }

    pub(crate) fn error(&self, operation: Operation, source: Option<Error>) -> Error {
        Error::wait_timeout(self.started.elapsed(), source).with_operation(operation)
    }
}

/// Polls the API in real time.
pub(crate) struct ApiPoller<'a> {
    context: &'a RequestContext<'a>,
    started: Instant,
    context_of: &'a (dyn Fn(usize) -> &'a RequestContext<'a> + Sync),
}

impl Poller for ApiPoller<'_> {
    fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
        self.context.retrieve_once(id)
    }

    fn sleep(&self, duration: Duration) -> bool {
        self.context.sleep(duration)
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    fn emit(&self, index: usize, id: &GenerationId, kind: EventKind<'_>) {
        (self.context_of)(index).emit(id, kind);
    }
}
