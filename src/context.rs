//! The context of one client call, and reads of the API with retries.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::cancel;
use crate::endpoint::logs::{FoundRequest, LoggedRequest, Match};
use crate::endpoint::{Route, logs, retrieve};
use crate::error::{Error, Result};
use crate::event::{Event, EventHandler, EventKind};
use crate::model::generation::{Generation, GenerationId, Video};
use crate::model::response::Response;
use crate::operation::Operation;
use crate::poll::{Known, PollQueue, Poller};
use crate::random::random;
use crate::retry::RetryPolicy;
use crate::transport::Session;
use crate::wait_options::WaitOptions;

/// The connections, the settings and the event handler of one call.
pub(crate) struct RequestContext<'a> {
    pub(crate) session: Session<'a>,
    pub(crate) route: Route,
    pub(crate) retry_policy: &'a RetryPolicy,
    pub(crate) event_handler: Option<&'a EventHandler>,
    /// The output file, for events.
    pub(crate) path: Option<&'a Path>,
}

impl RequestContext<'_> {
    /// The same context, for one of several output files.
    pub(crate) fn for_path<'b>(&'b self, path: &'b Path) -> RequestContext<'b> {
        RequestContext { session: self.session.reborrow(), path: Some(path), ..*self }
    }

    /// An event about a generation.
    pub(crate) fn emit(&self, id: &GenerationId, kind: EventKind<'_>) {
        self.emit_with(self.path, Some(id), None, kind);
    }

    /// An event about an attempt to create one.
    pub(crate) fn emit_create(
        &self,
        id: Option<&GenerationId>,
        client_request_id: &str,
        kind: EventKind<'_>,
    ) {
        self.emit_with(self.path, id, Some(client_request_id), kind);
    }

    fn emit_with(
        &self,
        path: Option<&Path>,
        generation_id: Option<&GenerationId>,
        client_request_id: Option<&str>,
        kind: EventKind<'_>,
    ) {
        if let Some(handler) = self.event_handler {
            handler(&Event { path, generation_id, client_request_id, kind });
        }
    }

    /// Returns false if the call was cancelled before the time was up.
    pub(crate) fn sleep(&self, duration: Duration) -> bool {
        cancel::sleep(self.session.token(), duration)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        cancel::is_cancelled(self.session.token())
    }

    pub(crate) fn retrieve_once(&self, id: &GenerationId) -> Result<Generation> {
        let target = retrieve::target(self.route, id);
        let response = self.session.get(Operation::Retrieve, &target);
        let generation = response.and_then(|response| retrieve::parse_response(response, id));
        generation.map_err(|error| error.with_id(id))
    }

    pub(crate) fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
        self.with_retries(Operation::Retrieve, Some(id), None, || self.retrieve_once(id))
    }

    pub(crate) fn wait(
        &self,
        id: &GenerationId,
        known: Known<'_>,
        options: &WaitOptions,
    ) -> Result<Video> {
        PollQueue::new(options, self.retry_policy, &self.poller(&|_| self.path)).wait(id, known)
    }

    pub(crate) fn wait_all(
        &self,
        ids: &[GenerationId],
        options: &WaitOptions,
    ) -> Vec<Result<Video>> {
        PollQueue::new(options, self.retry_policy, &self.poller(&|_| self.path)).wait_all(ids)
    }

    /// Polls the API in real time. `path_of` is the output file of the generation with this index,
    /// for events.
    pub(crate) fn poller<'a>(
        &'a self,
        path_of: &'a (dyn Fn(usize) -> Option<&'a Path> + Sync),
    ) -> ApiPoller<'a> {
        ApiPoller { context: self, started: Instant::now(), path_of }
    }

    /// Makes a GET request to the API and parses its response. Transient failures are retried.
    pub(crate) fn get<T>(
        &self,
        operation: Operation,
        target: &str,
        parse_response: impl Fn(Response) -> Result<T>,
    ) -> Result<T> {
        self.with_retries(operation, None, None, || {
            parse_response(self.session.get(operation, target)?)
        })
    }

    /// The logged request with exactly this client request id. At the deadline, which is checked
    /// before all requests but the first, the search ends with an error.
    pub(crate) fn find(
        &self,
        client_request_id: &str,
        days: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<FoundRequest>> {
        self.search_log(client_request_id, false, days, deadline)
    }

    /// The best match in the log, and of several the newest. With `any_attempt`, that is of any
    /// attempt of the create with this client request id.
    pub(crate) fn search_log(
        &self,
        client_request_id: &str,
        any_attempt: bool,
        days: u64,
        deadline: Option<Instant>,
    ) -> Result<Option<FoundRequest>> {
        let period = format!("{}d", days.clamp(1, logs::MAX_DAYS));
        let mut best = None;
        self.read_log(Operation::Find, &period, deadline, &mut |entries| {
            let found = entries.iter().filter_map(|e| e.matches(client_request_id, any_attempt));
            best = best.take().into_iter().chain(found).min_by_key(|(quality, _)| *quality);
            matches!(best, Some((Match::Exact, _)))
        })?;
        Ok(best.map(|(_, request)| request))
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
        deadline: Option<Instant>,
        is_enough: &mut dyn FnMut(Vec<LoggedRequest>) -> bool,
    ) -> Result<()> {
        const OVERLAP: u64 = 10;
        const MAX_PAGES: u64 = 10_000;
        let limit = deadline.map(|deadline| TimeLimit { started: Instant::now(), deadline });
        let mut offset = 0;
        for _ in 0..MAX_PAGES {
            let target = logs::target(period, offset);
            let page = self.with_retries(operation, None, limit, || {
                logs::parse_response(self.session.get(operation, &target)?)
            })?;
            let count = page.entries.len() as u64;
            if is_enough(page.entries) || !page.has_more || count == 0 {
                return Ok(());
            }
            if let Some(limit) = limit.filter(|limit| limit.is_over(Duration::ZERO)) {
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
        limit: Option<TimeLimit>,
        mut read: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            let error = match read() {
                Ok(value) => return Ok(value),
                Err(error) => error.with_attempts(attempt),
            };
            let delay = error
                .is_transient()
                .then(|| self.retry_policy.next_delay(attempt, &error, random()));
            let Some(delay) = delay.flatten() else { return Err(error) };
            if let Some(limit) = limit.filter(|limit| limit.is_over(delay)) {
                return Err(limit.error(operation, Some(error)));
            }
            let kind = EventKind::Retrying { operation, attempt, delay, error: &error };
            self.emit_with(self.path, id, None, kind);
            if !self.sleep(delay) {
                let error = Error::cancelled(operation).with_attempts(attempt);
                return Err(id.into_iter().fold(error, Error::with_id));
            }
            attempt = attempt.saturating_add(1);
        }
    }
}

/// When reads end that are part of a longer call.
#[derive(Clone, Copy)]
struct TimeLimit {
    started: Instant,
    deadline: Instant,
}

impl TimeLimit {
    /// Whether nothing may be sent after this delay.
    fn is_over(&self, delay: Duration) -> bool {
        self.deadline.saturating_duration_since(Instant::now()) <= delay
    }

    fn error(&self, operation: Operation, source: Option<Error>) -> Error {
        Error::wait_timeout(self.started.elapsed(), source).with_operation(operation)
    }
}

pub(crate) struct ApiPoller<'a> {
    context: &'a RequestContext<'a>,
    started: Instant,
    path_of: &'a (dyn Fn(usize) -> Option<&'a Path> + Sync),
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
        self.context.emit_with((self.path_of)(index), Some(id), None, kind);
    }
}
