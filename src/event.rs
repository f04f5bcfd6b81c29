//! Events: what happens during a call, for progress displays and logs.

use std::path::Path;
use std::time::Duration;

use crate::error::Error;
use crate::model::generation::{Generation, GenerationId};
use crate::operation::Operation;

/// An event during a call, with the file and the generation that it concerns.
///
/// Passed to the handler set with [`ClientBuilder::event_handler`] or
/// [`Client::with_event_handler`], on the thread that makes the call.
///
/// ```no_run
/// use kling_video::{Client, EventKind};
///
/// let client = Client::builder("key")
///     .event_handler(|event| match event.kind {
///         EventKind::Created { generation, .. } => eprintln!("created {}", generation.id),
///         EventKind::Polled { generation, elapsed, .. } => {
///             eprintln!("{} after {} s", generation.status, elapsed.as_secs());
///         }
///         _ => {}
///     })
///     .build()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
///
/// [`ClientBuilder::event_handler`]: crate::ClientBuilder::event_handler
/// [`Client::with_event_handler`]: crate::Client::with_event_handler
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub struct Event<'a> {
    /// The output file, for calls that write one: `generate_to`, `generate_all_to` and `download`.
    pub path: Option<&'a Path>,
    /// The generation, once it is known.
    pub generation_id: Option<&'a GenerationId>,
    /// The `X-Client-Request-Id` of the create, for events of a create.
    pub client_request_id: Option<&'a str>,
    /// What happened.
    pub kind: EventKind<'a>,
}

/// The kind of an [`Event`], with its details.
///
/// ```
/// use kling_video::{Event, EventKind};
///
/// fn describe(event: &Event<'_>) -> Option<String> {
///     match event.kind {
///         EventKind::Uploading { sent, total, .. } => Some(format!("{sent} of {total} bytes sent")),
///         EventKind::Saved { bytes, .. } => Some(format!("{bytes} bytes saved")),
///         _ => None,
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum EventKind<'a> {
    /// Part of a create's body was sent.
    #[non_exhaustive]
    Uploading {
        /// Bytes of the body sent so far.
        sent: u64,
        /// Size of the body in bytes.
        total: u64,
    },
    /// The API accepted a create. From here on the generation costs money.
    #[non_exhaustive]
    Created {
        /// The new generation.
        generation: &'a Generation,
    },
    /// A durable run found the generation of a create whose response was lost.
    Recovered,
    /// A generation that is being waited for was retrieved.
    #[non_exhaustive]
    Polled {
        /// Its state.
        generation: &'a Generation,
        /// The time since the wait started.
        elapsed: Duration,
        /// The time until the next poll; `None` if this was the last one.
        next_poll: Option<Duration>,
    },
    /// A request failed and will be retried.
    #[non_exhaustive]
    Retrying {
        /// The operation that failed.
        operation: Operation,
        /// The number of failed attempts so far, from 1.
        attempt: u32,
        /// The delay before the next attempt.
        delay: Duration,
        /// Why the attempt failed.
        error: &'a Error,
    },
    /// Part of a video was received.
    #[non_exhaustive]
    Downloading {
        /// Bytes of the video received so far.
        received: u64,
        /// Size of the video in bytes, if the server announces it.
        total: Option<u64>,
    },
    /// `generate_to` found the finished video and made no request.
    Reused,
    /// A video is complete and renamed into place.
    #[non_exhaustive]
    Saved {
        /// Size of the file in bytes.
        bytes: u64,
    },
}

pub(crate) type EventHandler = dyn Fn(&Event<'_>) + Send + Sync;
