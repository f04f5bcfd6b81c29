//! What was seen on the wire, and what is yet to go wrong there.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::endpoint::Endpoint;
use super::fault::Fault;
use super::http::{Head, find_header};

/// A request that the sandbox has seen, whole or not.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::Sandbox::start()?;
/// for request in sandbox.requests() {
///     println!("{} {} -> {:?}", request.method, request.target, request.answered);
///     assert_eq!(request.header("authorization"), Some("Bearer sandbox-key"));
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SandboxRequest {
    /// `None` for a path or a method that the API does not have, and for what is no HTTP.
    pub endpoint: Option<Endpoint>,
    /// `GET`, `POST`; empty if the head did not arrive whole.
    pub method: String,
    /// Path and query as they were sent; empty if the head did not arrive whole.
    pub target: String,
    /// In the order in which they were sent, the key among them.
    pub headers: Vec<(String, String)>,
    /// How many bytes of the body have arrived.
    pub body_bytes: u64,
    /// Whether the whole body has arrived.
    pub complete: bool,
    /// The status of the answer, from the moment when it is sent. `None`: no HTTP answer.
    pub answered: Option<u16>,
}

impl SandboxRequest {
    /// The first header of that name, in whatever case it was written.
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::Sandbox::start()?;
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
pub(super) struct Traffic {
    pub(super) connections: usize,
    pub(super) requests: Vec<SandboxRequest>,
    pub(super) delays: HashMap<Endpoint, Duration>,
    faults: HashMap<Endpoint, VecDeque<(Fault, u32)>>,
}

impl Traffic {
    pub(super) fn queue(&mut self, endpoint: Endpoint, fault: Fault, times: u32) {
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

    /// Puts a request on record and returns its number.
    pub(super) fn record(&mut self, head: &Head) -> usize {
        self.requests.push(SandboxRequest {
            endpoint: Endpoint::of(head).ok(),
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.headers.clone(),
            body_bytes: 0,
            complete: false,
            answered: None,
        });
        self.requests.len() - 1
    }

    pub(super) fn update(&mut self, number: usize, change: impl FnOnce(&mut SandboxRequest)) {
        if let Some(request) = self.requests.get_mut(number) {
            change(request);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fault::Answer;
    use super::*;

    #[test]
    fn faults_are_used_in_order_and_as_often_as_asked() {
        let mut traffic = Traffic::default();
        traffic.queue(Endpoint::Logs, Fault::status(500), 2);
        traffic.queue(Endpoint::Logs, Fault::status(429), 0);
        traffic.queue(Endpoint::Logs, Fault::close(), 1);
        let mut next = || traffic.next_fault(Endpoint::Logs).map(|fault| fault.answer);
        assert!(matches!(next(), Some(Answer::Status(500))));
        assert!(matches!(next(), Some(Answer::Status(500))));
        assert!(matches!(next(), Some(Answer::Raw { .. })));
        assert!(next().is_none());
    }
}
