//! Recording the events that a client emits. A test that asserts on the recording fails when there
//! are none, which an assertion inside the event handler would not notice.

use std::sync::{Arc, Mutex};

use kling_video::{Client, ClientBuilder, Event, EventKind};

/// What was recorded, in the order of the events.
pub struct Recording<T>(Arc<Mutex<Vec<T>>>);

impl<T> Recording<T> {
    /// Removes and returns what was recorded so far.
    pub fn take(&self) -> Vec<T> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

/// Builds the client with an event handler that records what `select` returns.
pub fn record_events<T: Send + 'static>(
    builder: ClientBuilder,
    select: impl Fn(&Event<'_>) -> Option<T> + Send + Sync + 'static,
) -> (Client, Recording<T>) {
    let recorded = Arc::new(Mutex::new(Vec::new()));
    let recording = Recording(Arc::clone(&recorded));
    let builder = builder.event_handler(move |event| {
        if let Some(selected) = select(event) {
            recorded.lock().unwrap().push(selected);
        }
    });
    (builder.build().unwrap(), recording)
}

/// Builds the client with an event handler that records each event's name, the status of a poll
/// and the operation that is retried.
pub fn record_event_names(builder: ClientBuilder) -> (Client, Recording<String>) {
    record_events(builder, |event| {
        Some(match event.kind {
            EventKind::Polled { generation, .. } => format!("polled {}", generation.status),
            EventKind::Retrying { operation, .. } => format!("retrying {operation}"),
            _ => event_name(event).to_owned(),
        })
    })
}

impl Recording<String> {
    /// The names recorded so far. Repetitions are collapsed, except of polls.
    pub fn names(&self) -> Vec<String> {
        let mut names = self.0.lock().unwrap().clone();
        names.dedup_by(|name, previous| name == previous && !name.starts_with("polled"));
        names
    }
}

pub fn event_name(event: &Event<'_>) -> &'static str {
    match event.kind {
        EventKind::Uploading { .. } => "uploading",
        EventKind::Created { .. } => "created",
        EventKind::Polled { .. } => "polled",
        EventKind::Retrying { .. } => "retrying",
        EventKind::Downloading { .. } => "downloading",
        EventKind::Recovered => "recovered",
        EventKind::Reused => "reused",
        EventKind::Saved { .. } => "saved",
        _ => "other",
    }
}
