//! What the API returns: a generation with its status, video and cost, and the account's balance.
//!
//! Parsing is lenient, because the vendor's samples, schemas and recorded responses differ; each
//! type documents the forms it accepts. Unknown fields are preserved and written back.

pub(crate) mod json;

use std::borrow::Borrow;
use std::convert::Infallible;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

use crate::redact::{Sanitized, has_control, sanitize};

pub(crate) type JsonObject = Map<String, Value>;

/// The id of a generation: all that any process needs to wait for it and download its video.
///
/// Ids come in several formats (18 digits, UUIDs, `uuid:vendor/model/path`), so this is an opaque
/// string. It is never empty and contains no control characters.
///
/// ```
/// use kling_video::GenerationId;
///
/// let id: GenerationId = "789392067490349060".parse()?;
/// assert_eq!(id.as_str(), "789392067490349060");
/// assert!("".parse::<GenerationId>().is_err());
/// # Ok::<(), kling_video::InvalidGenerationId>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GenerationId(String);

/// The error for a string that is not a valid [`GenerationId`]: it is empty or contains control
/// characters.
///
/// ```
/// use kling_video::{GenerationId, InvalidGenerationId};
///
/// let result: Result<GenerationId, InvalidGenerationId> = "two\nlines".parse();
/// assert_eq!(result, Err(InvalidGenerationId));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("generation id must not be empty or contain control characters")]
pub struct InvalidGenerationId;

impl GenerationId {
    /// The id as a string slice.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The id in a JSON string or number. A number that does not fit a 64-bit integer is not valid,
    /// since parsing has rounded it.
    pub(crate) fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => text.parse().ok(),
            Value::Number(number) if !number.is_f64() => Some(Self(number.to_string())),
            _ => None,
        }
    }
}

impl AsRef<str> for GenerationId {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for GenerationId {
    fn borrow(&self) -> &str {
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
        Self::try_from(text.to_owned())
    }
}

impl TryFrom<String> for GenerationId {
    type Error = InvalidGenerationId;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let is_valid = !text.is_empty() && !has_control(&text);
        if is_valid { Ok(Self(text)) } else { Err(InvalidGenerationId) }
    }
}

impl From<GenerationId> for String {
    fn from(id: GenerationId) -> Self {
        id.0
    }
}

/// The status of a generation.
///
/// Read without regard to case. Parsing never fails: any other status becomes
/// [`Other`](Self::Other).
///
/// ```
/// use kling_video::Status;
///
/// assert_eq!(Status::from("succeeded"), Status::Completed);
/// assert_eq!(Status::from("waiting").as_str(), "waiting");
/// assert!(!Status::from("waiting").is_terminal());
/// assert!(Status::from("canceled").is_terminal());
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Status {
    /// Accepted, but not started.
    Queued,
    /// In progress.
    Generating,
    /// The video is ready. Also parsed from `succeeded`, `succeed` and `success`, which sibling
    /// models return.
    Completed,
    /// The generation failed, which is documented as not charged. Also parsed from `failed`, which
    /// sibling models return. A single response does not prove it: see
    /// [`wait`](crate::Client::wait).
    Error,
    /// Any other status, as the server spells it. `canceled`, `cancelled` and `expired` are ends
    /// that may have been charged; all others, such as `waiting`, `active` and `unknown`, are
    /// treated as pending.
    Other(String),
}

impl Status {
    /// The status as the API spells it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        match self {
            Self::Queued => "queued",
            Self::Generating => "generating",
            Self::Completed => "completed",
            Self::Error => "error",
            Self::Other(status) => status,
        }
    }

    /// Whether the generation has ended, successfully or not.
    #[must_use]
    pub fn is_terminal(&self) -> bool {
        match self {
            Self::Completed | Self::Error => true,
            Self::Other(status) => {
                let is = |word: &&str| status.eq_ignore_ascii_case(word);
                ["canceled", "cancelled", "expired"].iter().any(is)
            }
            Self::Queued | Self::Generating => false,
        }
    }
}

impl From<&str> for Status {
    fn from(status: &str) -> Self {
        let is = |words: &[&str]| words.iter().any(|word| status.eq_ignore_ascii_case(word));
        if is(&["queued"]) {
            Self::Queued
        } else if is(&["generating"]) {
            Self::Generating
        } else if is(&["completed", "succeeded", "succeed", "success"]) {
            Self::Completed
        } else if is(&["error", "failed"]) {
            Self::Error
        } else {
            Self::Other(status.to_owned())
        }
    }
}

impl FromStr for Status {
    type Err = Infallible;

    fn from_str(status: &str) -> Result<Self, Self::Err> {
        Ok(Self::from(status))
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|status| Self::from(status.as_str()))
    }
}

/// Why a generation failed, as reported by the API.
///
/// Parsed from an object with `name` and `message`, from a string, and from any other JSON, whose
/// message is taken from `detail`, each item with its location, or else is the JSON itself.
///
/// ```
/// use kling_video::Generation;
///
/// let json = r#"{"id":"42","status":"error","error":{"name":"Policy","message":"rejected"}}"#;
/// let generation: Generation = serde_json::from_str(json)?;
/// let error = generation.error.unwrap();
/// assert_eq!((error.name.as_deref(), error.message.as_str()), (Some("Policy"), "rejected"));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct GenerationError {
    /// The error's name, if it has one.
    pub name: Option<String>,
    /// A description of the error.
    pub message: String,
    /// The `error` field as received.
    pub raw: Value,
}

impl GenerationError {
    /// Whether it says anything: `""`, `false`, `{}` and `[]` stand for "no error".
    pub(crate) fn is_empty(&self) -> bool {
        self.name.is_none() && matches!(self.message.trim(), "" | "false" | "{}" | "[]")
    }
}

impl fmt::Debug for GenerationError {
    /// Omits the raw JSON and image data that the server may have echoed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationError")
            .field("name", &self.name.as_deref().map(sanitize))
            .field("message", &sanitize(&self.message))
            .finish_non_exhaustive()
    }
}

/// The cost of a generation.
///
/// According to the API's documentation, 1 USD is 2,000,000 credits.
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
    /// The cost in credits, in newer responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credits_used: Option<f64>,
    /// The cost in tokens, in older responses.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tokens_used: Option<f64>,
    /// The cost in US dollars.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub usd_spent: Option<f64>,
}

/// The URL and metadata of a finished video.
///
/// URLs expire, some within days and some within minutes: download the video soon, or retrieve the
/// generation again to get a new URL.
///
/// ```
/// use kling_video::Video;
///
/// let json = r#"{"id":"42","url":"https://cdn.example/42.mp4","duration":5}"#;
/// let video: Video = serde_json::from_str(json)?;
/// assert_eq!(video.duration, Some(5.0));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Video {
    /// The generation that the video belongs to.
    pub id: GenerationId,
    /// The video's URL. It may be signed, so use it unchanged.
    pub url: String,
    /// The duration in seconds.
    pub duration: Option<f64>,
    /// The media type, usually `video/mp4`.
    pub content_type: Option<String>,
    /// The file name that the API suggests.
    pub file_name: Option<String>,
    /// The size in bytes as reported by the API. Downloads do not rely on it.
    pub file_size: Option<u64>,
    /// The cost of the generation.
    pub usage: Option<Usage>,
    /// Fields that this crate does not know or cannot parse.
    pub extra: JsonObject,
}

impl Video {
    /// Creates a video from its generation's id and its URL, to pass to
    /// [`download`](crate::Client::download).
    ///
    /// Both may come from a database, for example. All other fields are empty.
    ///
    /// ```
    /// use kling_video::Video;
    ///
    /// let video = Video::new("42".parse()?, "https://cdn.example/42.mp4");
    /// assert_eq!(video.duration, None);
    /// # Ok::<(), kling_video::InvalidGenerationId>(())
    /// ```
    #[must_use]
    pub fn new(id: GenerationId, url: impl Into<String>) -> Self {
        Self {
            id,
            url: url.into(),
            duration: None,
            content_type: None,
            file_name: None,
            file_size: None,
            usage: None,
            extra: JsonObject::new(),
        }
    }
}

impl fmt::Debug for Video {
    /// Omits image data that the server may have echoed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Video")
            .field("id", &self.id)
            .field("url", &sanitize(&self.url))
            .field("duration", &self.duration)
            .field("content_type", &self.content_type.as_deref().map(sanitize))
            .field("file_name", &self.file_name.as_deref().map(sanitize))
            .field("file_size", &self.file_size)
            .field("usage", &self.usage)
            .field("extra", &Sanitized(&self.extra))
            .finish()
    }
}

/// The ids and the cost of an API call, from the response headers.
///
/// They are not part of the response's JSON, so serde neither reads nor writes them.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// # let request = kling_video::ImageToVideo::new(kling_video::Image::url("https://example.com/cat.jpg"));
/// let generation = client.create(&request)?;
/// println!("request id for the vendor's support: {:?}", generation.metadata.request_id);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct ResponseMetadata {
    /// `x-client-request-id`: the client request id that the create request was sent with.
    pub client_request_id: Option<String>,
    /// `x-inference-id`: the generation's id.
    pub inference_id: Option<String>,
    /// `x-request-id`: the server's id of this call, for the vendor's support.
    pub request_id: Option<String>,
    /// `x-aimlapi-credits-used`: the cost in credits.
    pub credits_used: Option<f64>,
    /// `x-aimlapi-usd-spent`: the cost in US dollars.
    pub usd_spent: Option<f64>,
}

/// A generation as last reported by the API.
///
/// Serde reads and writes it as the API's JSON. These forms are accepted: an id that is a number or
/// is named `generation_id`; a `video` that is absent, `null`, an object, its URL, or an array of
/// these (the first becomes [`video`](Self::video), the rest stays in [`extra`](Self::extra)); an
/// `error` of any type; usage in tokens or credits; unknown fields.
///
/// ```
/// use kling_video::{Generation, Status};
///
/// let json = r#"{"id":789392067490349060,"status":"queued","queue_position":3}"#;
/// let generation: Generation = serde_json::from_str(json)?;
/// assert_eq!(generation.id.as_str(), "789392067490349060");
/// assert_eq!(generation.status, Status::Queued);
/// assert_eq!(generation.extra["queue_position"], 3);
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Clone, PartialEq)]
#[non_exhaustive]
pub struct Generation {
    /// The generation's id.
    pub id: GenerationId,
    /// Whether the generation is pending, completed or failed.
    pub status: Status,
    /// The video, once it is available.
    pub video: Option<Video>,
    /// Why the generation failed, or ended without a video. While the status is pending it means
    /// nothing.
    pub error: Option<GenerationError>,
    /// The cost, once it is known.
    pub usage: Option<Usage>,
    /// Ids and cost from the response headers.
    pub metadata: ResponseMetadata,
    /// Fields that this crate does not know or cannot parse. Unknown `null` fields are omitted.
    pub extra: JsonObject,
}

impl fmt::Debug for Generation {
    /// Omits image data that the server may have echoed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Generation")
            .field("id", &self.id)
            .field("status", &sanitize(self.status.as_str()))
            .field("video", &self.video)
            .field("error", &self.error)
            .field("usage", &self.usage)
            .field("metadata", &self.metadata)
            .field("extra", &Sanitized(&self.extra))
            .finish()
    }
}

/// The account's remaining credit.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// let balance = client.balance()?;
/// println!("{:.2} {} left", balance.amount, balance.currency);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Balance {
    /// The amount, in [`currency`](Self::currency).
    pub amount: f64,
    /// The currency's code, usually `USD`.
    pub currency: String,
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, HashMap};

    const IDS: [&str; 3] =
        ["789392067490349060", "60ac7c34-3224-4b14-8e7d-0aa0db708325", "60ac7c34:kling-video/v2.1"];

    #[test]
    fn generation_id_converts_to_and_from_strings() {
        for text in IDS {
            let id: GenerationId = text.parse().unwrap();
            assert_eq!(GenerationId::try_from(text.to_owned()), Ok(id.clone()));
            let (as_ref, borrowed): (&str, &str) = (id.as_ref(), id.borrow());
            assert_eq!((id.as_str(), as_ref, borrowed), (text, text, text));
            assert_eq!(id.to_string(), text);
            assert_eq!(String::from(id), text);
        }
        for invalid in ["", "a\n", "\0"] {
            assert_eq!(GenerationId::try_from(invalid.to_owned()), Err(InvalidGenerationId));
        }
    }

    #[test]
    fn generation_id_as_map_key_is_found_by_str() {
        let ids = || IDS.iter().map(|id| id.parse::<GenerationId>().unwrap()).zip(0..);
        let (hashed, sorted): (HashMap<_, _>, BTreeMap<_, _>) = (ids().collect(), ids().collect());
        for (id, index) in IDS.iter().zip(0..) {
            assert_eq!((hashed.get(*id), sorted.get(*id)), (Some(&index), Some(&index)));
        }
    }

    #[test]
    fn generation_id_round_trips_through_json() {
        for text in IDS {
            let json = format!("\"{text}\"");
            let id: GenerationId = serde_json::from_str(&json).unwrap();
            assert_eq!(id.as_str(), text);
            assert_eq!(serde_json::to_string(&id).unwrap(), json);
        }
        assert!(serde_json::from_str::<GenerationId>("\"\"").is_err());
    }

    #[test]
    fn status_round_trips_through_str_and_json() {
        for (text, status) in [
            ("queued", Status::Queued),
            ("generating", Status::Generating),
            ("completed", Status::Completed),
            ("error", Status::Error),
            ("waiting", Status::Other("waiting".to_owned())),
            ("Canceled", Status::Other("Canceled".to_owned())),
            ("", Status::Other(String::new())),
        ] {
            assert_eq!(text.parse(), Ok(status.clone()));
            assert_eq!((status.as_str(), status.to_string().as_str()), (text, text));
            let json = serde_json::to_string(&status).unwrap();
            assert_eq!(json, format!("\"{text}\""));
            assert_eq!(serde_json::from_str::<Status>(&json).unwrap(), status);
        }
    }

    #[test]
    fn status_synonym_is_written_as_its_canonical_form() {
        for (synonym, canonical) in [
            ("succeeded", "completed"),
            ("succeed", "completed"),
            ("SUCCESS", "completed"),
            ("Completed", "completed"),
            ("failed", "error"),
            ("ERROR", "error"),
            ("Queued", "queued"),
        ] {
            let status: Status = serde_json::from_value(synonym.into()).unwrap();
            assert_eq!(synonym.parse(), Ok(status.clone()));
            assert_eq!(serde_json::to_value(&status).unwrap(), canonical);
        }
    }

    #[test]
    fn video_with_only_id_and_url_round_trips_through_json() {
        let video = Video::new("42".parse().unwrap(), "https://cdn.example/42.mp4");
        let json = serde_json::to_value(&video).unwrap();
        assert_eq!(json, serde_json::json!({"id": "42", "url": "https://cdn.example/42.mp4"}));
        assert_eq!(serde_json::from_value::<Video>(json).unwrap(), video);
    }
}
