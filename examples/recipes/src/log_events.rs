//! Events as log lines, with `tracing`.

use kling_video::{Event, EventKind};
use tracing::{debug, info, warn};

/// Logs an event: a handler for `ClientBuilder::event_handler`.
///
/// It logs single fields. `{event:?}` would contain the video's URL, with which anybody can
/// download it.
pub fn log_event(event: &Event<'_>) {
    let id = event.generation_id.map(|id| id.as_str());
    match event.kind {
        EventKind::Created { .. } => info!(id, request = event.client_request_id, "paid for"),
        EventKind::Recovered => info!(id, "found in the API's log"),
        EventKind::Polled { generation, .. } => debug!(id, status = %generation.status, "polled"),
        EventKind::Retrying { operation, error, .. } => warn!(id, %operation, %error, "retrying"),
        EventKind::Saved { bytes, .. } => info!(id, path = ?event.path, bytes, "saved"),
        _ => {}
    }
}
