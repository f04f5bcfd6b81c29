//! What the API answers: a generation, its status, its video, and what it cost.
//!
//! Replies are read tolerantly, because the vendor's samples, schemas and recorded replies differ:
//! see each type for the forms it takes. What is not known here is kept and written back.

mod json;

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

pub(crate) use self::json::GenerationFields;
use crate::text::{Shown, shorten};

type Fields = Map<String, Value>;

/// The id of a generation: all that is needed to wait for it and download it, from any process.
///
/// Ids of several shapes are in use (18 digits, UUIDs, `uuid:vendor/model/path`), so this is a
/// string that is never empty and holds no control characters.
///
/// ```
/// use kling_video::GenerationId;
///
/// let id: GenerationId = "789392067490349060".parse()?;
/// assert_eq!(id.as_ref(), "789392067490349060");
/// assert!("".parse::<GenerationId>().is_err());
/// # Ok::<(), kling_video::InvalidGenerationId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct GenerationId(String);

/// The text is no generation id: it is empty or holds control characters.
///
/// ```
/// use kling_video::{GenerationId, InvalidGenerationId};
///
/// let refused: Result<GenerationId, InvalidGenerationId> = "two\nlines".parse();
/// assert!(refused.is_err());
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a generation id is not empty and holds no control characters")]
pub struct InvalidGenerationId;

impl GenerationId {
    fn new(text: String) -> Result<Self, InvalidGenerationId> {
        if Self::is_valid(&text) { Ok(Self(text)) } else { Err(InvalidGenerationId) }
    }

    fn is_valid(text: &str) -> bool {
        !text.is_empty() && !text.contains(char::is_control)
    }

    /// Numeric ids are seen too; one over 2^64 has lost its digits in parsing and is no id. What is
    /// no id is given back.
    pub(crate) fn from_value(value: Value) -> Result<Self, Value> {
        match value {
            Value::String(text) if Self::is_valid(&text) => Ok(Self(text)),
            Value::Number(number) if !number.is_f64() => Ok(Self(number.to_string())),
            other => Err(other),
        }
    }
}

impl AsRef<str> for GenerationId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for GenerationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

impl FromStr for GenerationId {
    type Err = InvalidGenerationId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text.to_owned())
    }
}

impl Serialize for GenerationId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for GenerationId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::new(String::deserialize(deserializer)?).map_err(D::Error::custom)
    }
}

/// How far a generation is.
///
/// ```
/// use kling_video::Status;
///
/// assert_eq!(Status::from("succeeded"), Status::Completed);
/// assert_eq!(Status::from("waiting").as_str(), "waiting");
/// assert!(!Status::from("waiting").is_terminal());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Accepted, not begun.
    Queued,
    /// In the works.
    Generating,
    /// The video is ready. Also read from `succeeded`, which sibling models answer.
    Completed,
    /// It failed and is not charged. Also read from `failed`, which sibling models answer.
    Error,
    /// Anything else (seen: `waiting`, `active`, `unknown`): taken as still pending.
    Other(String),
}

impl Status {
    /// The status as the API spells it.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::Generating => "generating",
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Other(word) => word,
        }
    }

    /// Whether the generation has ended, well or badly.
    pub fn is_terminal(&self) -> bool {
        matches!(self, Self::Completed | Self::Error)
    }
}

impl From<&str> for Status {
    fn from(word: &str) -> Self {
        match word {
            "queued" => Self::Queued,
            "generating" => Self::Generating,
            "completed" | "succeeded" => Self::Completed,
            "error" | "failed" => Self::Error,
            other => Self::Other(other.to_owned()),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Why a generation failed, in the API's words.
///
/// Read from an object with `name` and `message`, from a string, and from any other JSON (its
/// `detail` messages, or the JSON itself as the message).
///
/// ```
/// use kling_video::Generation;
///
/// let reply = r#"{"id":"42","status":"error","error":{"name":"Policy","message":"refused"}}"#;
/// let generation: Generation = serde_json::from_str(reply)?;
/// let why = generation.error.unwrap();
/// assert_eq!((why.name.as_deref(), why.message.as_str()), (Some("Policy"), "refused"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct GenerationError {
    /// The error's name, where one is given.
    pub name: Option<String>,
    /// What happened.
    pub message: String,
    /// The `error` field as it came.
    pub raw: Value,
}

impl fmt::Debug for GenerationError {
    /// Short, and without a picture that the server may have echoed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationError")
            .field("name", &self.name.as_deref().map(shorten))
            .field("message", &shorten(&self.message))
            .finish_non_exhaustive()
    }
}

/// What a generation cost. 2,000,000 credits are 1 USD (the API's docs).
///
/// ```
/// let usage: kling_video::Usage = serde_json::from_str(r#"{"credits_used":840000}"#)?;
/// let usd = usage.usd_spent.or(usage.credits_used.map(|credits| credits / 2_000_000.0));
/// assert_eq!(usd, Some(0.42));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Usage {
    /// Credits, in newer replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits_used: Option<f64>,
    /// Tokens, in older replies.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_used: Option<f64>,
    /// US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_spent: Option<f64>,
}

/// Where a finished video is. Links expire within days or minutes: download it soon, or retrieve
/// the generation again for a fresh link.
///
/// ```
/// use kling_video::Video;
///
/// let row = r#"{"id":"42","url":"https://cdn.example/42.mp4","duration":5}"#;
/// let video: Video = serde_json::from_str(row)?;
/// assert_eq!(video.duration, Some(5.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Video {
    /// The generation it belongs to.
    pub id: GenerationId,
    /// The link, to be used as it is: it may be signed.
    pub url: String,
    /// Length in seconds.
    pub duration: Option<f64>,
    /// Media type, usually `video/mp4`.
    pub content_type: Option<String>,
    /// The name the server gives the file.
    pub file_name: Option<String>,
    /// Size in bytes, as announced: informative only.
    pub file_size: Option<u64>,
    /// What the generation cost.
    pub usage: Option<Usage>,
    /// Fields that this crate does not know.
    pub extra: Fields,
}

impl fmt::Debug for Video {
    /// Without a picture that the server may have echoed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Video")
            .field("id", &self.id)
            .field("url", &shorten(&self.url))
            .field("duration", &self.duration)
            .field("content_type", &self.content_type.as_deref().map(shorten))
            .field("file_name", &self.file_name.as_deref().map(shorten))
            .field("file_size", &self.file_size)
            .field("usage", &self.usage)
            .field("extra", &Shown(&self.extra))
            .finish()
    }
}

/// What identifies a call on the server's side, and what it cost: read from the reply's headers.
///
/// It is not part of the reply's JSON, so serde neither reads nor writes it.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
/// let generation = client.create(&request)?;
/// println!("for the vendor's support: {:?}", generation.trace.request_id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Trace {
    /// `x-client-request-id`: the id that the create was sent with.
    pub client_request_id: Option<String>,
    /// `x-inference-id`: the generation's id once more.
    pub inference_id: Option<String>,
    /// The server's id of this call, for its support.
    pub request_id: Option<String>,
    /// `x-aimlapi-credits-used`.
    pub credits_used: Option<f64>,
    /// `x-aimlapi-usd-spent`, in US dollars.
    pub usd_spent: Option<f64>,
}

/// A generation as the API last described it.
///
/// Serde reads and writes it as the API's JSON. Tolerated: an id that is a number or is called
/// `generation_id`; a `video` that is absent, `null`, an object or an array (its first object is
/// [`video`](Self::video), the rest stays in [`extra`](Self::extra)); an `error` of any shape;
/// usage in tokens or credits; unknown fields.
///
/// ```
/// use kling_video::{Generation, Status};
///
/// let reply = r#"{"id":789392067490349060,"status":"queued","queue_position":3}"#;
/// let generation: Generation = serde_json::from_str(reply)?;
/// assert_eq!(generation.id.as_ref(), "789392067490349060");
/// assert_eq!(generation.status, Status::Queued);
/// assert_eq!(generation.extra["queue_position"], 3);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Generation {
    /// Its id.
    pub id: GenerationId,
    /// How far it is.
    pub status: Status,
    /// The video, once there is one.
    pub video: Option<Video>,
    /// What went wrong. Acted on only with [`Status::Error`].
    pub error: Option<GenerationError>,
    /// What it cost, once that is known.
    pub usage: Option<Usage>,
    /// From the reply's headers.
    pub trace: Trace,
    /// The reply's other fields, but for those that are `null`.
    pub extra: Fields,
}

impl fmt::Debug for Generation {
    /// Without a picture that the server may have echoed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("id", &self.id)
            .field("status", &shorten(self.status.as_str()))
            .field("video", &self.video)
            .field("error", &self.error)
            .field("usage", &self.usage)
            .field("trace", &self.trace)
            .field("extra", &Shown(&self.extra))
            .finish()
    }
}

/// What is left on the account.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// let balance = client.balance()?;
/// println!("{:.2} {} left", balance.amount, balance.currency);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Balance {
    /// How much, in [`currency`](Self::currency).
    pub amount: f64,
    /// The currency's code, usually `USD`.
    pub currency: String,
}
