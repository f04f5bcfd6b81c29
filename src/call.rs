//! What one call of the client has at hand, and reads of the API that are tried again.

use std::time::{Duration, Instant};

use crate::cancel;
use crate::endpoint::{Route, billing, logs, retrieve};
use crate::error::{Error, Result};
use crate::event::{Event, Watcher};
use crate::generation::{Balance, Generation, GenerationId, Video};
use crate::http::Reply;
use crate::poll::{self, Driver, WaitOptions};
use crate::poll_all;
use crate::random::random;
use crate::retry::RetryPolicy;
use crate::transport::Session;

/// One call: its connections, its policy, and who watches it.
pub(crate) struct Call<'a> {
    pub(crate) session: Session<'a>,
    pub(crate) route: Route,
    pub(crate) retry: &'a RetryPolicy,
    pub(crate) watcher: Option<&'a Watcher>,
}

impl Call<'_> {
    pub(crate) fn report(&self, event: &Event<'_>) {
        if let Some(watcher) = self.watcher {
            watcher(event);
        }
    }

    /// Sleeps, and says whether it slept to the end.
    pub(crate) fn sleep(&self, duration: Duration) -> bool {
        cancel::sleep(self.session.token(), duration)
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        cancel::is_cancelled(self.session.token())
    }

    /// Looks at a generation once.
    pub(crate) fn look(&self, id: &GenerationId) -> Result<Generation> {
        let reply = self.get("retrieve", &retrieve::target(self.route, id));
        reply.and_then(|reply| retrieve::read(reply, id)).map_err(|error| error.with_id(id))
    }

    /// Looks at a generation, again if that fails for a reason that may pass.
    pub(crate) fn retrieve(&self, id: &GenerationId) -> Result<Generation> {
        self.retrying("retrieve", Some(id), || self.look(id))
    }

    pub(crate) fn wait(&self, id: &GenerationId, options: &WaitOptions) -> Result<Video> {
        self.drive(|driver| poll::wait(id, options, self.retry, driver))
    }

    pub(crate) fn wait_all(
        &self,
        ids: &[GenerationId],
        options: &WaitOptions,
    ) -> Vec<Result<Video>> {
        self.drive(|driver| poll_all::wait_all(ids, options, self.retry, driver))
    }

    fn drive<T>(&self, wait: impl FnOnce(&Driver<'_>) -> T) -> T {
        let begun = Instant::now();
        wait(&Driver {
            fetch: &|id| self.look(id),
            sleep: &|duration| self.sleep(duration),
            now: &|| begun.elapsed(),
            watch: &|event| self.report(event),
        })
    }

    pub(crate) fn balance(&self) -> Result<Balance> {
        self.retrying("balance", None, || billing::read(self.get("balance", billing::TARGET)?))
    }

    /// The logged request with this client request id, and whether it succeeded.
    ///
    /// New requests push the rows down while they are read, so that one can be seen twice; pages
    /// overlap, so that none is missed where some go.
    pub(crate) fn find(
        &self,
        client_request_id: &str,
        days: u64,
    ) -> Result<Option<(GenerationId, bool)>> {
        const OVERLAP: u64 = 10;
        const MOST_PAGES: u64 = 10_000;
        let days = days.clamp(1, logs::MAX_DAYS);
        let mut failed = None;
        let mut offset = 0;
        for _ in 0..MOST_PAGES {
            let target = logs::target(days, offset);
            let page = self.retrying("find", None, || logs::read(self.get("find", &target)?))?;
            match logs::pick(&page.rows, client_request_id) {
                Some((id, true)) => return Ok(Some((id, true))),
                found => failed = failed.or(found),
            }
            let rows = page.rows.len() as u64;
            if !page.has_more || rows == 0 {
                return Ok(failed);
            }
            // By what came: a server may send fewer rows than it was asked for.
            offset += rows - OVERLAP.min(rows / 2);
        }
        Err(Error::decode("find", "the server's log does not end"))
    }

    fn get(&self, operation: &'static str, target: &str) -> Result<Reply> {
        self.session.get(target).map_err(|failure| failure.into_error(operation))
    }

    /// Does a read until it succeeds, cannot succeed, or has failed often enough.
    fn retrying<T>(
        &self,
        operation: &'static str,
        id: Option<&GenerationId>,
        mut read: impl FnMut() -> Result<T>,
    ) -> Result<T> {
        let mut attempt = 1;
        loop {
            let error = match read() {
                Ok(value) => return Ok(value),
                Err(error) => error.with_attempts(attempt),
            };
            let again = error.is_transient().then(|| self.retry.delay(attempt, &error, random()));
            let Some(after) = again.flatten() else { return Err(error) };
            self.report(&Event::Retrying {
                operation,
                id,
                client_request_id: None,
                attempt,
                after,
                error: &error,
            });
            if !self.sleep(after) {
                let error = Error::cancelled(operation).with_attempts(attempt);
                return Err(match id {
                    Some(id) => error.with_id(id),
                    None => error,
                });
            }
            attempt = attempt.saturating_add(1);
        }
    }
}
