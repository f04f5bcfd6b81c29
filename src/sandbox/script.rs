//! How a generation proceeds: the statuses that its polls return.

use serde_json::{Value, json};

use crate::Status;

/// How one generation proceeds, for [`Sandbox::set_script`](super::Sandbox::set_script).
///
/// ```
/// use kling_video::sandbox::Script;
///
/// let slow = Script::new().complete_after_polls(20);
/// let moderated = Script::new().failure("ContentPolicyViolation", "The image was rejected");
/// let sibling = Script::new().status_sequence(["waiting", "active", "succeeded"]);
/// ```
#[derive(Clone, Debug)]
#[must_use = "a script does nothing until it is returned to the sandbox"]
pub struct Script {
    pub(super) pending_polls: u32,
    pub(super) statuses: Vec<String>,
    /// Name and message.
    pub(super) failure: Option<(String, String)>,
    pub(super) not_found_polls: u32,
}

impl Default for Script {
    fn default() -> Script {
        Script::new()
    }
}

impl Script {
    /// Creates a script by which a generation completes with its third poll.
    pub fn new() -> Script {
        Script { pending_polls: 2, statuses: Vec::new(), failure: None, not_found_polls: 0 }
    }

    /// As [`Sandbox::complete_after_polls`](super::Sandbox::complete_after_polls).
    pub fn complete_after_polls(self, polls: u32) -> Script {
        Script { pending_polls: polls, statuses: Vec::new(), ..self }
    }

    /// As [`Sandbox::set_status_sequence`](super::Sandbox::set_status_sequence).
    pub fn status_sequence(self, statuses: impl IntoIterator<Item = impl Into<String>>) -> Script {
        Script { statuses: statuses.into_iter().map(Into::into).collect(), ..self }
    }

    /// As [`Sandbox::set_failure`](super::Sandbox::set_failure).
    pub fn failure(self, name: impl Into<String>, message: impl Into<String>) -> Script {
        Script { failure: Some((name.into(), message.into())), ..self }
    }

    /// As [`Sandbox::set_not_found_polls`](super::Sandbox::set_not_found_polls).
    pub fn not_found_polls(self, polls: u32) -> Script {
        Script { not_found_polls: polls, ..self }
    }

    /// Returns the status for the poll with this index, which does not count not-found polls.
    pub(super) fn status_at(&self, poll: u32) -> &str {
        let scripted = self.statuses.get(poll as usize).or(self.statuses.last());
        match scripted {
            Some(status) => status,
            None if poll >= self.pending_polls => self.default_final_status(),
            None if poll == 0 => "queued",
            None => "generating",
        }
    }

    fn default_final_status(&self) -> &str {
        if self.failure.is_some() { "error" } else { "completed" }
    }

    pub(super) fn will_fail(&self) -> bool {
        let last = self.statuses.last().map_or(self.default_final_status(), |last| last);
        is_failed(last)
    }

    pub(super) fn error(&self) -> Value {
        match &self.failure {
            Some((name, message)) => json!({ "name": name, "message": message }),
            None => json!({ "name": "GenerationError", "message": "The generation failed" }),
        }
    }
}

pub(super) fn is_completed(status: &str) -> bool {
    Status::from(status) == Status::Completed
}

pub(super) fn is_failed(status: &str) -> bool {
    Status::from(status) == Status::Error
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_follows_its_script() {
        let statuses = |script: &Script| -> Vec<String> {
            (0..4).map(|poll| script.status_at(poll).to_owned()).collect()
        };
        let mut script = Script::new();
        assert_eq!(statuses(&script), ["queued", "generating", "completed", "completed"]);
        script = script.failure("", "").complete_after_polls(0);
        assert_eq!(statuses(&script), ["error"; 4]);
        assert!(script.will_fail());
        script = script.status_sequence(["waiting", "succeeded"]);
        assert_eq!(statuses(&script), ["waiting", "succeeded", "succeeded", "succeeded"]);
        assert!(!script.will_fail());
    }
}
