//! A generation: its create request, its script, and the JSON that each poll returns.

use serde_json::{Value, json};

use super::script::{Script, is_completed, is_failed};

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

pub(super) struct Generation {
    pub(super) record: RecordedGeneration,
    pub(super) script: Script,
    pub(super) seconds: u64,
    /// What it costs.
    pub(super) credits: u64,
    pub(super) is_charged: bool,
}

pub(super) struct PollResponse {
    pub(super) body: Value,
    /// Only for a completed generation, which is when the vendor charges.
    pub(super) credits: Option<u64>,
    /// Credits to charge now: all, the first time that the generation is reported as completed.
    pub(super) new_charge: u64,
}

impl Generation {
    /// Counts a poll and returns the response to it, with this URL and size of the video.
    ///
    /// Returns `None` for the first polls if the script says that they do not find the generation.
    pub(super) fn poll(&mut self, url: &str, file_size: usize) -> Option<PollResponse> {
        self.record.polls = self.record.polls.saturating_add(1);
        let found_polls = self.record.polls.checked_sub(self.script.not_found_polls)?;
        let status = self.script.status_at(found_polls.checked_sub(1)?);
        let is_completed = is_completed(status);
        let seconds = is_completed.then_some(self.seconds);
        let credits = is_completed.then_some(self.credits);
        let video = seconds.map(|seconds| {
            json!({
                "url": url, "duration": seconds, "content_type": "video/mp4",
                "file_name": "output.mp4", "file_size": file_size,
            })
        });
        let usage = |credits| json!({ "credits_used": credits, "usd_spent": usd(credits) });
        let body = json!({
            "id": self.record.id, "status": status, "video": video, "duration": seconds,
            "error": is_failed(status).then(|| self.script.error()),
            "meta": credits.map(|credits| json!({ "usage": usage(credits) })),
        });
        let new_charge = credits.filter(|_| !self.is_charged).unwrap_or_default();
        self.is_charged |= is_completed;
        Some(PollResponse { body, credits, new_charge })
    }
}

pub(super) fn usd(credits: u64) -> f64 {
    credits as f64 / CREDITS_PER_USD
}

/// Negative amounts are treated as zero.
pub(super) fn credits_of(usd: f64) -> u64 {
    (usd * CREDITS_PER_USD).round() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn not_found_polls_come_before_the_scripted_statuses() {
        let (id, request) = ("1".to_owned(), Value::Null);
        let mut generation = Generation {
            record: RecordedGeneration {
                id,
                client_request_id: None,
                request,
                image: None,
                polls: 0,
            },
            script: Script::new().not_found_polls(2),
            seconds: 5,
            credits: 0,
            is_charged: false,
        };
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
