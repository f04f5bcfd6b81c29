//! A generation on its way: what was asked, what the script has planned for it, and the object
//! that every poll answers.

use serde_json::{Value, json};

use super::schema::Draft;

const CREDITS_PER_SECOND: u64 = 24_000;
const CREDITS_PER_USD: f64 = 2_000_000.0;

/// A create that the sandbox has accepted: what would have been paid for.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::Sandbox::start()?;
/// for generation in sandbox.generations() {
///     assert_eq!(generation.request["model"], "kling-video/v2.1/pro/image-to-video");
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct SandboxGeneration {
    /// Unique, also among the sandboxes of one process.
    pub id: String,
    /// `X-Client-Request-Id`, if it was sent and valid.
    pub client_request_id: Option<String>,
    /// The body. Of a data URI only its header is kept: `data:image/png;base64,`.
    pub request: Value,
    /// The picture, if it came in `image_url` as a data URI.
    pub picture: Option<Vec<u8>>,
    /// How often it was retrieved.
    pub polls: u32,
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

impl Default for Plan {
    fn default() -> Plan {
        Plan { pending_polls: 2, statuses: Vec::new(), failure: None, hidden_polls: 0 }
    }
}

impl Plan {
    /// The status at a poll; `earlier` were answered before it.
    fn status(&self, earlier: u32) -> &str {
        let scripted = self.statuses.get(earlier as usize).or(self.statuses.last());
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

    pub(super) fn ends_in_failure(&self) -> bool {
        let last = self.statuses.last().map_or(self.natural_end(), |last| last);
        has_failed(last)
    }

    fn error(&self) -> Value {
        match &self.failure {
            Some(Failure { name, message }) => json!({ "name": name, "message": message }),
            None => json!({ "name": "GenerationError", "message": "The generation failed" }),
        }
    }
}

fn is_done(status: &str) -> bool {
    matches!(status, "completed" | "succeeded")
}

fn has_failed(status: &str) -> bool {
    matches!(status, "error" | "failed")
}

pub(super) struct Generation {
    pub(super) seen: SandboxGeneration,
    plan: Plan,
    seconds: u64,
}

/// What a poll finds.
pub(super) struct Poll {
    pub(super) body: Value,
    /// Of a completed generation only: that is when the vendor charges.
    pub(super) credits: Option<u64>,
}

impl Generation {
    pub(super) fn new(
        id: String,
        client_request_id: Option<String>,
        draft: Draft,
        plan: Plan,
    ) -> Generation {
        let Draft { seconds, request, picture, .. } = draft;
        let seen = SandboxGeneration { id, client_request_id, request, picture, polls: 0 };
        Generation { seen, plan, seconds }
    }

    /// Counts a poll and answers it, with this link and length of the video; `None` while the
    /// generation is hidden.
    pub(super) fn poll(&mut self, link: &str, length: usize) -> Option<Poll> {
        self.seen.polls = self.seen.polls.saturating_add(1);
        let visible = self.seen.polls.checked_sub(self.plan.hidden_polls)?;
        let status = self.plan.status(visible.checked_sub(1)?);
        let seconds = is_done(status).then_some(self.seconds);
        let credits = seconds.map(credits);
        let video = seconds.map(|seconds| {
            json!({
                "url": link, "duration": seconds, "content_type": "video/mp4",
                "file_name": "output.mp4", "file_size": length,
            })
        });
        let usage = |credits| json!({ "credits_used": credits, "usd_spent": usd(credits) });
        let body = json!({
            "id": self.seen.id, "status": status, "video": video, "duration": seconds,
            "error": has_failed(status).then(|| self.plan.error()),
            "meta": credits.map(|credits| json!({ "usage": usage(credits) })),
        });
        Some(Poll { body, credits })
    }
}

/// What a video of so many seconds costs.
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
        let plan = Plan { hidden_polls: 2, ..Plan::default() };
        let (model, request) = (String::new(), Value::Null);
        let draft = Draft { model, seconds: 5, request, picture: None };
        let mut generation = Generation::new("1".to_owned(), None, draft, plan);
        let mut poll = || {
            let poll = generation.poll("http://a", 0)?;
            Some(poll.body["status"].as_str()?.to_owned())
        };
        let seen: Vec<_> = (0..5).map(|_| poll()).collect();
        let seen: Vec<_> = seen.iter().map(Option::as_deref).collect();
        let expected = [None, None, Some("queued"), Some("generating"), Some("completed")];
        assert_eq!(seen, expected);
    }
}
