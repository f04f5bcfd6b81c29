//! A generation: its create request, its planned statuses, and the JSON that each poll returns.

use serde_json::{Value, json};

use super::schema::ValidCreate;

use crate::Status;

const CREDITS_PER_SECOND: u64 = 24_000;
const CREDITS_PER_USD: f64 = 2_000_000.0;

/// A generation that the sandbox created, and that the real API would have billed.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// for generation in sandbox.generations() {
///     assert_eq!(generation.request["model"], "kling-video/v2.1/pro/image-to-video");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct RecordedGeneration {
    /// The generation id, unique across all sandboxes of a process.
    pub id: String,
    /// The `X-Client-Request-Id` header of the create request, if it was present and valid.
    pub client_request_id: Option<String>,
    /// The body of the create request. Data URIs are shortened to `data:image/png;base64,`.
    pub request: Value,
    /// The decoded image, if `image_url` was a data URI.
    pub image: Option<Vec<u8>>,
    /// How many times the generation was polled.
    pub polls: u32,
}

/// The statuses that a generation goes through.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) pending_polls: u32,
    pub(super) statuses: Vec<String>,
    pub(super) failure: Option<Failure>,
    pub(super) not_found_polls: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Failure {
    pub(super) name: String,
    pub(super) message: String,
}

impl Default for Plan {
    fn default() -> Plan {
        Plan { pending_polls: 2, statuses: Vec::new(), failure: None, not_found_polls: 0 }
    }
}

impl Plan {
    /// Returns the status for the poll with this index, which does not count not-found polls.
    fn status_at(&self, poll: u32) -> &str {
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

    fn error(&self) -> Value {
        match &self.failure {
            Some(Failure { name, message }) => json!({ "name": name, "message": message }),
            None => json!({ "name": "GenerationError", "message": "The generation failed" }),
        }
    }
}

fn is_completed(status: &str) -> bool {
    Status::from(status) == Status::Completed
}

fn is_failed(status: &str) -> bool {
    Status::from(status) == Status::Error
}

pub(super) struct Generation {
    pub(super) record: RecordedGeneration,
    plan: Plan,
    seconds: u64,
}

/// The response to a poll.
pub(super) struct PollResponse {
    pub(super) body: Value,
    /// Only for a completed generation, which is when the vendor charges.
    pub(super) credits: Option<u64>,
}

impl Generation {
    pub(super) fn new(
        id: String,
        client_request_id: Option<String>,
        create: ValidCreate,
        plan: Plan,
    ) -> Generation {
        let ValidCreate { seconds, request, image, .. } = create;
        let record = RecordedGeneration { id, client_request_id, request, image, polls: 0 };
        Generation { record, plan, seconds }
    }

    /// Counts a poll and returns the response to it, with this URL and size of the video.
    ///
    /// Returns `None` for the first polls if the plan says that they do not find the generation.
    pub(super) fn poll(&mut self, url: &str, file_size: usize) -> Option<PollResponse> {
        self.record.polls = self.record.polls.saturating_add(1);
        let found_polls = self.record.polls.checked_sub(self.plan.not_found_polls)?;
        let status = self.plan.status_at(found_polls.checked_sub(1)?);
        let seconds = is_completed(status).then_some(self.seconds);
        let credits = seconds.map(credits);
        let video = seconds.map(|seconds| {
            json!({
                "url": url, "duration": seconds, "content_type": "video/mp4",
                "file_name": "output.mp4", "file_size": file_size,
            })
        });
        let usage = |credits| json!({ "credits_used": credits, "usd_spent": usd(credits) });
        let body = json!({
            "id": self.record.id, "status": status, "video": video, "duration": seconds,
            "error": is_failed(status).then(|| self.plan.error()),
            "meta": credits.map(|credits| json!({ "usage": usage(credits) })),
        });
        Some(PollResponse { body, credits })
    }
}

/// Returns the price of a video of this duration.
pub(super) fn credits(seconds: u64) -> u64 {
    seconds * CREDITS_PER_SECOND
}

pub(super) fn usd(credits: u64) -> f64 {
    credits as f64 / CREDITS_PER_USD
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generation_follows_its_plan() {
        let statuses = |plan: &Plan| -> Vec<String> {
            (0..4).map(|poll| plan.status_at(poll).to_owned()).collect()
        };
        let mut plan = Plan::default();
        assert_eq!(statuses(&plan), ["queued", "generating", "completed", "completed"]);
        plan.failure = Some(Failure { name: String::new(), message: String::new() });
        plan.pending_polls = 0;
        assert_eq!(statuses(&plan), ["error"; 4]);
        assert!(plan.will_fail());
        plan.statuses = vec!["waiting".to_owned(), "succeeded".to_owned()];
        assert_eq!(statuses(&plan), ["waiting", "succeeded", "succeeded", "succeeded"]);
        assert!(!plan.will_fail());
    }

    #[test]
    fn not_found_polls_come_before_the_planned_statuses() {
        let plan = Plan { not_found_polls: 2, ..Plan::default() };
        let (model, request) = (String::new(), Value::Null);
        let create = ValidCreate { model, seconds: 5, request, image: None };
        let mut generation = Generation::new("1".to_owned(), None, create, plan);
        let mut poll = || {
            let poll = generation.poll("http://a", 0)?;
            Some(poll.body["status"].as_str()?.to_owned())
        };
        let statuses: Vec<_> = (0..5).map(|_| poll()).collect();
        let statuses: Vec<_> = statuses.iter().map(Option::as_deref).collect();
        let expected = [None, None, Some("queued"), Some("generating"), Some("completed")];
        assert_eq!(statuses, expected);
    }
}
