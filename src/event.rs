//! What a caller can watch while a call is under way.

use std::time::Duration;

use crate::error::Error;
use crate::generation::{Generation, GenerationId};

/// Something that happened during a call, as [`on_event`](crate::ClientBuilder::on_event) sees it.
///
/// ```no_run
/// use kling_video::{Client, Event};
///
/// let client = Client::builder("key")
///     .on_event(|event| match event {
///         Event::Created { generation, .. } => eprintln!("created {}", generation.id),
///         Event::Polled { generation, waited, .. } => {
///             eprintln!("{} after {waited:?}", generation.status);
///         }
///         _ => {}
///     })
///     .build()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone, Copy, Debug)]
#[non_exhaustive]
pub enum Event<'a> {
    /// A part of a create's body was handed over to be sent.
    #[non_exhaustive]
    Uploading {
        /// The id that the create is sent with.
        client_request_id: &'a str,
        /// Bytes of the body so far.
        sent: u64,
        /// Bytes of the whole body.
        total: u64,
    },
    /// The API accepted a create.
    #[non_exhaustive]
    Created {
        /// The new generation.
        generation: &'a Generation,
    },
    /// A waiting call has looked at a generation.
    #[non_exhaustive]
    Polled {
        /// Its state.
        generation: &'a Generation,
        /// For how long it has been waited for.
        waited: Duration,
    },
    /// A request failed and is tried again.
    #[non_exhaustive]
    Retrying {
        /// What is being done: `"create"`, `"wait"`, ….
        operation: &'static str,
        /// The generation, where there is one.
        id: Option<&'a GenerationId>,
        /// The id of the create that failed, where it is one.
        client_request_id: Option<&'a str>,
        /// How many tries have failed so far, from 1.
        attempt: u32,
        /// The next try is made after so long.
        after: Duration,
        /// Why it failed.
        error: &'a Error,
    },
    /// A part of a video arrived.
    #[non_exhaustive]
    Downloading {
        /// The generation.
        id: &'a GenerationId,
        /// Bytes of the video so far.
        received: u64,
        /// Bytes of the whole video, where the server told.
        total: Option<u64>,
    },
}

/// What the layers below the client report to.
pub(crate) type Watcher = dyn Fn(&Event<'_>) + Send + Sync;
