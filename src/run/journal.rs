//! Where a durable run keeps its record: the trait, and the entries.

use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::model::generation::{GenerationId, Usage};

use super::fingerprint::RequestFingerprint;

/// The version of the format, recorded in every `intent`.
const VERSION: u64 = 1;

/// Any error, as a [`Journal`] returns it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Where a durable run keeps its record. One journal is one job.
///
/// [`FileJournal`](crate::FileJournal) is the one that
/// [`generate_to`](crate::Client::generate_to) uses. A row of a database, the payload of a queue or
/// an object in a store can be another, for
/// [`generate_recorded`](crate::Client::generate_recorded).
///
/// # What an implementation owes
/// - **Durable**: when [`append`](Self::append) returns `Ok`, the entry survives a power failure.
///   With PostgreSQL that is a commit with `synchronous_commit` on; with SQLite, one with
///   `PRAGMA synchronous = FULL`.
/// - **In order**: `append` fails if there is already an entry at this position, for example by a
///   unique key on `(job, position)`. Two workers that both read an empty journal then cannot both
///   create: the second one fails at its first entry.
/// - **One writer at a time** is not required for that, but without it two workers may wait for the
///   same generation. A lease in the job's row, which the worker renews, gives it, also if its machine
///   is cut off from the database; `examples/fleet` in the repository does that. So does a lock that
///   ends with its holder: an advisory lock of the session, or `SELECT … FOR UPDATE SKIP LOCKED` in a
///   transaction that stays open. Entries must then be committed through another connection.
///
/// # What happens when it fails
/// - [`entries`](Self::entries): nothing is sent.
/// - [`append`](Self::append) of `intent` or `sending`: nothing is sent, and nothing is paid.
/// - of `rejected`: the call ends with the journal's error. The next one searches the API's log.
/// - of `created`: the call continues, since the generation is paid for; its result or its error
///   has the id. If the process is killed before, the next call searches the API's log.
/// - of `completed`: the call returns the video all the same.
/// - of `failed` or `ended`: the call ends with the journal's error and the id; the next one polls
///   the generation again.
///
/// An `append` whose outcome is unknown, such as a commit without a response, must be an error. A
/// process that ends after `sending`, but before the last byte is sent, leaves a create that the
/// API's log never lists; nobody can know that, so it ends with
/// [`CreateUnknown`](crate::ErrorKind::CreateUnknown) until it is [abandoned](Self::abandon).
///
/// The smallest implementation, which survives nothing:
/// ```
/// use kling_video::{BoxError, Client, Image, ImageToVideo, Journal, JournalEntry};
///
/// #[derive(Default)]
/// struct InMemory(Vec<JournalEntry>);
///
/// impl Journal for InMemory {
///     fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
///         Ok(self.0.clone())
///     }
///
///     fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
///         if position != self.0.len() as u64 {
///             return Err("position taken".into());
///         }
///         self.0.push(entry.clone());
///         Ok(())
///     }
/// }
///
/// # fn example(client: Client) -> Result<(), kling_video::Error> {
/// let mut journal = InMemory::default();
/// let request = ImageToVideo::new(Image::file("cat.jpg"));
/// let video = client.generate_recorded(&request, &mut journal)?;
/// # Ok(())
/// # }
/// ```
pub trait Journal {
    /// All entries, the oldest first.
    ///
    /// # Errors
    /// Whatever prevents reading them, also one that cannot be deserialized: a newer version of
    /// this crate may have written it. Nothing is then sent.
    fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError>;

    /// Appends an entry, which is durable when this returns. `position` is the number of entries
    /// before it.
    ///
    /// # Errors
    /// If the position is taken, or if the entry could not be made durable.
    fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError>;

    /// What error messages call this journal. Defaults to "the journal".
    fn name(&self) -> String {
        "the journal".to_owned()
    }

    /// Gives up what the journal's runs may have paid for, so that the next call creates a new
    /// generation.
    ///
    /// This is the way on from a create whose outcome stays unknown, and from a generation that has
    /// ended without a video but may have been charged. Finished videos are not affected, and
    /// calling it again changes nothing. Make sure first that no other process is still at it, and
    /// that the API's log had the time to list the create: it may do so only when the generation has
    /// ended, which takes minutes.
    ///
    /// # Errors
    /// Those of [`entries`](Self::entries) and [`append`](Self::append).
    fn abandon(&mut self) -> Result<(), BoxError> {
        let entries = self.entries()?;
        let newest = entries.iter().rev().find(|entry| !entry.is_intent());
        if newest.is_some_and(JournalEntry::is_abandoned)
            || !entries.iter().any(JournalEntry::is_open)
        {
            return Ok(());
        }
        self.append(entries.len() as u64, &JournalEntry::Abandoned { time: now() })
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    use std::time::SystemTime;
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// One step of a durable run, recorded before the next thing happens.
///
/// Serialized as one flat JSON object. `step` names the kind in lowercase; ids are under `id`,
/// client request ids under `client_request_id`, times in seconds since 1970 under `time`. The
/// `intent` has the format's version; every version of this crate reads what earlier ones wrote, and
/// deserializing what a later one wrote is an error.
///
/// ```
/// use kling_video::JournalEntry;
///
/// let entry: JournalEntry = serde_json::from_str(r#"{"step":"created","id":"789"}"#)?;
/// assert_eq!(entry.id().map(|id| id.as_str()), Some("789"));
/// assert_eq!(serde_json::to_string(&entry)?, r#"{"step":"created","id":"789"}"#);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub enum JournalEntry {
    /// A request is about to be carried out. Nothing was sent. The entries up to the next `intent`
    /// are of this request.
    #[non_exhaustive]
    Intent {
        /// What tells this request from others.
        request: RequestFingerprint,
        /// The image's path or URL, for people.
        source: Option<String>,
        /// When.
        time: u64,
        /// The generation whose video this one replaces.
        replaces: Option<GenerationId>,
    },
    /// The last byte of a create is about to be sent; or, with an `id`, it was sent, and the
    /// response named this id but was unusable otherwise.
    #[non_exhaustive]
    Sending {
        /// What this attempt was sent with, and what the API's log lists it under.
        client_request_id: String,
        /// The id that the response named.
        id: Option<GenerationId>,
        /// When.
        time: u64,
    },
    /// The create was rejected.
    #[non_exhaustive]
    Rejected {
        /// The HTTP status, if there was a response.
        status: Option<u16>,
        /// Whether the API itself sent it, as its body shows, and not a gateway.
        marked: bool,
        /// The id that the response named all the same. It is asked about before the next create.
        id: Option<GenerationId>,
        /// When.
        time: u64,
    },
    /// The create was accepted, and will be charged unless it fails.
    #[non_exhaustive]
    Created {
        /// The generation.
        id: GenerationId,
    },
    /// The generation has a video.
    #[non_exhaustive]
    Completed {
        /// The generation.
        id: GenerationId,
        /// What it cost, if the API says so.
        usage: Option<Usage>,
    },
    /// The checked video is about to be moved to the target.
    #[non_exhaustive]
    Publishing {
        /// The generation.
        id: GenerationId,
        /// The video's length in bytes.
        length: u64,
        /// The video's hash, to recognize the file.
        hash: String,
    },
    /// The video is at the target.
    #[non_exhaustive]
    Saved {
        /// The generation.
        id: GenerationId,
        /// The video's length in bytes.
        length: u64,
        /// What it cost, if the API says so.
        usage: Option<Usage>,
    },
    /// The generation failed and is not charged.
    #[non_exhaustive]
    Failed {
        /// The generation.
        id: GenerationId,
        /// The server's reason.
        reason: String,
    },
    /// The generation ended in another way, and may have been charged.
    #[non_exhaustive]
    Ended {
        /// The generation.
        id: GenerationId,
        /// The server's reason.
        reason: String,
    },
    /// The caller has given up whatever the entries before may have paid for.
    #[non_exhaustive]
    Abandoned {
        /// When.
        time: u64,
    },
}

/// Why a JSON object is not an entry.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub(crate) enum InvalidEntry {
    /// Not an entry at all, or a field is missing.
    #[error("invalid journal entry")]
    Invalid,
    /// Of a version of this crate that writes other entries.
    #[error("journal entry written by another version of kling-video")]
    OtherVersion,
}

impl JournalEntry {
    /// The generation that the entry names.
    pub fn id(&self) -> Option<&GenerationId> {
        match self {
            Self::Intent { .. } | Self::Abandoned { .. } => None,
            Self::Sending { id, .. } | Self::Rejected { id, .. } => id.as_ref(),
            Self::Created { id }
            | Self::Completed { id, .. }
            | Self::Publishing { id, .. }
            | Self::Saved { id, .. }
            | Self::Failed { id, .. }
            | Self::Ended { id, .. } => Some(id),
        }
    }

    /// The client request id of a create that is about to be sent.
    pub fn client_request_id(&self) -> Option<&str> {
        match self {
            Self::Sending { client_request_id, .. } => Some(client_request_id),
            _ => None,
        }
    }

    /// The kind of the entry, as it is serialized.
    pub fn step(&self) -> &'static str {
        match self {
            Self::Intent { .. } => "intent",
            Self::Sending { .. } => "sending",
            Self::Rejected { .. } => "rejected",
            Self::Created { .. } => "created",
            Self::Completed { .. } => "completed",
            Self::Publishing { .. } => "publishing",
            Self::Saved { .. } => "saved",
            Self::Failed { .. } => "failed",
            Self::Ended { .. } => "ended",
            Self::Abandoned { .. } => "abandoned",
        }
    }

    pub(super) fn is_intent(&self) -> bool {
        matches!(self, Self::Intent { .. })
    }

    pub(super) fn is_abandoned(&self) -> bool {
        matches!(self, Self::Abandoned { .. })
    }

    /// Whether a request whose newest entry this is may have paid for a video that it does not have.
    pub(super) fn is_open(&self) -> bool {
        match self {
            Self::Rejected { id, .. } => id.is_some(),
            Self::Intent { .. }
            | Self::Saved { .. }
            | Self::Failed { .. }
            | Self::Abandoned { .. } => false,
            _ => true,
        }
    }

    pub(crate) fn from_value(value: &Value) -> Result<Self, InvalidEntry> {
        let fields = Fields(value);
        let step: String = fields.get("step")?;
        Ok(match step.as_str() {
            "intent" => {
                let version: Option<u64> = fields.get("version")?;
                if version != Some(VERSION) {
                    return Err(InvalidEntry::OtherVersion);
                }
                let request = RequestFingerprint {
                    base_url: fields.get("base_url")?,
                    route: fields.get("route")?,
                    model: fields.get("model")?,
                    fields: fields.get("fields")?,
                    image: fields.get("image")?,
                    masks: fields.get_or_default("masks")?,
                };
                let (source, time) = (fields.get("source")?, fields.get("time")?);
                Self::Intent { request, source, time, replaces: fields.get("replaces")? }
            }
            "sending" => Self::Sending {
                client_request_id: fields.get("client_request_id")?,
                id: fields.get("id")?,
                time: fields.get("time")?,
            },
            "rejected" => Self::Rejected {
                status: fields.get("status")?,
                marked: fields.get_or_default("marked")?,
                id: fields.get("id")?,
                time: fields.get("time")?,
            },
            "created" => Self::Created { id: fields.get("id")? },
            "completed" => Self::Completed { id: fields.get("id")?, usage: fields.get("usage")? },
            "publishing" => Self::Publishing {
                id: fields.get("id")?,
                length: fields.get("length")?,
                hash: fields.get("hash")?,
            },
            "saved" => Self::Saved {
                id: fields.get("id")?,
                length: fields.get("length")?,
                usage: fields.get("usage")?,
            },
            "failed" => {
                Self::Failed { id: fields.get("id")?, reason: fields.get_or_default("reason")? }
            }
            "ended" => {
                Self::Ended { id: fields.get("id")?, reason: fields.get_or_default("reason")? }
            }
            "abandoned" => Self::Abandoned { time: fields.get("time")? },
            _ => return Err(InvalidEntry::OtherVersion),
        })
    }
}

/// The fields of a serialized entry.
struct Fields<'a>(&'a Value);

impl Fields<'_> {
    /// A field that is missing is null.
    fn get<T: DeserializeOwned>(&self, name: &str) -> Result<T, InvalidEntry> {
        T::deserialize(self.0.get(name).unwrap_or(&Value::Null)).map_err(|_| InvalidEntry::Invalid)
    }

    fn get_or_default<T: DeserializeOwned + Default>(&self, name: &str) -> Result<T, InvalidEntry> {
        Ok(self.get::<Option<T>>(name)?.unwrap_or_default())
    }
}

/// The fields of an entry in the order in which they are written.
struct OrderedFields(Vec<(&'static str, Value)>);

impl OrderedFields {
    /// Adds a field, unless it is null.
    fn put(&mut self, name: &'static str, value: impl Serialize) -> &mut Self {
        let value = serde_json::to_value(value).unwrap_or_default();
        if !value.is_null() {
            self.0.push((name, value));
        }
        self
    }
}

impl Serialize for JournalEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = OrderedFields(Vec::new());
        fields.put("step", self.step()).put("id", self.id());
        fields.put("client_request_id", self.client_request_id());
        match self {
            Self::Intent { request, source, time, replaces } => fields
                .put("version", VERSION)
                .put("base_url", &request.base_url)
                .put("route", &request.route)
                .put("model", &request.model)
                .put("fields", &request.fields)
                .put("image", &request.image)
                .put("masks", Some(&request.masks).filter(|masks| !masks.is_empty()))
                .put("source", source)
                .put("time", time)
                .put("replaces", replaces),
            Self::Sending { time, .. } | Self::Abandoned { time } => fields.put("time", time),
            Self::Rejected { status, marked, time, .. } => {
                fields.put("status", status).put("marked", marked).put("time", time)
            }
            Self::Created { .. } => &mut fields,
            Self::Completed { usage, .. } => fields.put("usage", usage),
            Self::Publishing { length, hash, .. } => fields.put("length", length).put("hash", hash),
            Self::Saved { length, usage, .. } => fields.put("length", length).put("usage", usage),
            Self::Failed { reason, .. } | Self::Ended { reason, .. } => {
                fields.put("reason", reason)
            }
        };
        serializer.collect_map(fields.0)
    }
}

impl<'de> Deserialize<'de> for JournalEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = Value::deserialize(deserializer)?;
        Self::from_value(&value).map_err(D::Error::custom)
    }
}
