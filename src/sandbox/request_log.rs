//! The recorded requests, and the delays and faults to apply to later ones.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::endpoint::Endpoint;
use super::fault::Fault;
use super::http::{RequestHead, find_header};

/// A request that the sandbox received, completely or in part.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// for request in sandbox.requests() {
///     println!("{} {} -> {:?}", request.method, request.target, request.response_status);
///     assert_eq!(request.header("authorization"), Some("Bearer sandbox-key"));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecordedRequest {
    /// The endpoint. `None` if the API has no such path or method, or if it was not valid HTTP.
    pub endpoint: Option<Endpoint>,
    /// The method, such as `GET`. Empty if the head was not received completely.
    pub method: String,
    /// The path and query, as sent. Empty if the head was not received completely.
    pub target: String,
    /// The headers in the order in which they were sent, including the API key.
    pub headers: Vec<(String, String)>,
    /// How many bytes of the body were received.
    pub body_bytes: u64,
    /// Whether the complete body was received.
    pub body_complete: bool,
    /// The status of the response, set when it is sent. `None` if no HTTP response was sent.
    pub response_status: Option<u16>,
}

impl RecordedRequest {
    /// Returns the value of the first header with this name, compared case-insensitively.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// if let Some(request) = sandbox.requests().first() {
    ///     println!("{:?}", request.header("user-agent"));
    /// }
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        find_header(&self.headers, name)
    }
}

#[derive(Default)]
pub(super) struct RequestLog {
    pub(super) connection_count: usize,
    pub(super) requests: Vec<RecordedRequest>,
    pub(super) response_delays: HashMap<Endpoint, Duration>,
    faults: HashMap<Endpoint, VecDeque<(Fault, u32)>>,
}

impl RequestLog {
    pub(super) fn queue_fault(&mut self, endpoint: Endpoint, fault: Fault, times: u32) {
        if times > 0 {
            self.faults.entry(endpoint).or_default().push_back((fault, times));
        }
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    pub(super) fn next_fault(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let queue = self.faults.get_mut(&endpoint)?;
        let (fault, times) = queue.front_mut()?;
        *times -= 1;
        if *times == 0 { queue.pop_front().map(|(fault, _)| fault) } else { Some(fault.clone()) }
    }

    /// Records a request and returns its index.
    pub(super) fn record(&mut self, head: &RequestHead) -> usize {
        self.requests.push(RecordedRequest {
            endpoint: Endpoint::from_head(head).ok(),
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.headers.clone(),
            body_bytes: 0,
            body_complete: false,
            response_status: None,
        });
        self.requests.len() - 1
    }

    pub(super) fn update(&mut self, index: usize, change: impl FnOnce(&mut RecordedRequest)) {
        if let Some(request) = self.requests.get_mut(index) {
            change(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::ResponseOverride;
    use super::*;

    #[test]
    fn faults_are_used_in_order_and_the_given_number_of_times() {
        let mut log = RequestLog::default();
        log.queue_fault(Endpoint::Logs, Fault::status(500), 2);
        log.queue_fault(Endpoint::Logs, Fault::status(429), 0);
        log.queue_fault(Endpoint::Logs, Fault::close_connection(), 1);
        let mut next = || log.next_fault(Endpoint::Logs).map(|fault| fault.response);
        assert!(matches!(next(), Some(ResponseOverride::Status(500))));
        assert!(matches!(next(), Some(ResponseOverride::Status(500))));
        assert!(matches!(next(), Some(ResponseOverride::Raw { .. })));
        assert!(next().is_none());
    }
}
