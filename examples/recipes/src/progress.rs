//! Events as a progress bar, with `indicatif`.

use indicatif::ProgressBar;
use kling_video::{Event, EventKind};

/// Shows an event on a bar whose style has a `{msg}`:
/// `client.with_event_handler(move |event| show_event(&bar, event))`.
pub fn show_event(bar: &ProgressBar, event: &Event<'_>) {
    let (message, position, length) = match event.kind {
        EventKind::Uploading { sent, total, .. } => ("uploading", sent, total),
        EventKind::Polled { generation, .. } => (generation.status.as_str(), 0, 1),
        EventKind::Downloading { received, total, .. } => {
            ("downloading", received, total.unwrap_or(received))
        }
        EventKind::Saved { .. } | EventKind::Reused => return bar.finish_with_message("saved"),
        _ => return,
    };
    bar.set_length(length);
    bar.set_position(position);
    bar.set_message(message.to_owned());
}
