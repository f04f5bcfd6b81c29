//! The lines of a journal, as a run of `generate_to` would have written them.

use std::time::{SystemTime, UNIX_EPOCH};

use kling_video::{CancelToken, Client, ErrorKind, ImageToVideo};

use crate::helpers::files::TestDir;

/// The `intent` line that a run of this request writes, as if it had started at `at` (a Unix time;
/// `None` is now). Nothing is sent for it.
pub fn intent(client: &Client, request: &ImageToVideo, at: Option<u64>) -> String {
    let dir = TestDir::new();
    let token = CancelToken::new();
    token.cancel();
    let client = client.with_cancel_token(token);
    let error = client.generate_to(request, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert_eq!(dir.journal_steps(), ["intent"]);
    let mut line = dir.journal_lines().remove(0);
    if let Some(at) = at {
        line["time"] = at.into();
    }
    line.to_string()
}

/// A `sending` line: a create request with this id may have been accepted.
pub fn sending(client_request_id: &str) -> String {
    sending_at(client_request_id, now())
}

/// A `sending` line of this Unix time.
pub fn sending_at(client_request_id: &str, time: u64) -> String {
    serde_json::json!({ "step": "sending", "client_request_id": client_request_id, "time": time })
        .to_string()
}

/// A `created` line: the generation is paid for.
pub fn created(id: &str) -> String {
    serde_json::json!({ "step": "created", "id": id }).to_string()
}

/// A `rejected` line: the create before it was not accepted.
pub fn rejected() -> String {
    serde_json::json!({ "step": "rejected", "status": 400, "marked": true, "time": now() })
        .to_string()
}

/// A `failed` line: the generation is not charged.
pub fn failed(id: &str) -> String {
    serde_json::json!({ "step": "failed", "id": id, "reason": "no" }).to_string()
}

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}
