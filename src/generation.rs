//! What the API answers: a generation, its status, its video, and what it cost.
//!
//! Replies are read tolerantly, because the vendor's samples, schemas and recorded replies differ:
//! see each type for the forms it takes. What is not known here is kept and written back.

use std::fmt;
use std::str::FromStr;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::{Map, Value};

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
        if text.is_empty() || text.chars().any(char::is_control) {
            return Err(InvalidGenerationId);
        }
        Ok(Self(text))
    }

    /// Numeric ids are seen too; one over 2^64 has lost its digits in parsing and is no id.
    pub(crate) fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::String(text) => Self::new(text.clone()).ok(),
            Value::Number(number) if !number.is_f64() => Self::new(number.to_string()).ok(),
            _ => None,
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

impl GenerationError {
    fn from_value(raw: Value) -> Option<Self> {
        let name = raw.get("name").and_then(Value::as_str).map(str::to_owned);
        let message = match &raw {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => message_of(other).unwrap_or_else(|| other.to_string()),
        };
        Some(Self { name, message, raw })
    }
}

fn message_of(error: &Value) -> Option<String> {
    if let Some(message) = error.get("message").and_then(Value::as_str) {
        return Some(message.to_owned());
    }
    match error.get("detail")? {
        Value::String(text) => Some(text.clone()),
        Value::Array(items) => {
            let messages: Vec<&str> =
                items.iter().filter_map(|item| item.get("msg")?.as_str()).collect();
            (!messages.is_empty()).then(|| messages.join("; "))
        }
        _ => None,
    }
}

/// What a generation cost. 2,000,000 credits are 1 USD (the API's docs).
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

impl Usage {
    fn from_value(usage: &Value) -> Option<Self> {
        let number = |field| usage.get(field).and_then(Value::as_f64);
        let read = Self {
            credits_used: number("credits_used"),
            tokens_used: number("tokens_used"),
            usd_spent: number("usd_spent"),
        };
        (read != Self::default()).then_some(read)
    }

    fn write(self, usage: &mut Fields) {
        for (field, amount) in [
            ("credits_used", self.credits_used),
            ("tokens_used", self.tokens_used),
            ("usd_spent", self.usd_spent),
        ] {
            put(usage, field, amount.map(number));
        }
    }
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

impl Video {
    /// Takes the known fields out of `fields`, or gives them back untouched if there is no link.
    fn from_fields(mut fields: Fields, id: GenerationId) -> Result<Self, Fields> {
        match take_text(&mut fields, "url") {
            Some(url) if !url.is_empty() => Ok(Self {
                id,
                url,
                duration: take(&mut fields, "duration", Value::as_f64),
                content_type: take_text(&mut fields, "content_type"),
                file_name: take_text(&mut fields, "file_name"),
                file_size: take(&mut fields, "file_size", Value::as_u64),
                usage: None,
                extra: fields,
            }),
            Some(empty) => {
                fields.insert("url".into(), empty.into());
                Err(fields)
            }
            None => Err(fields),
        }
    }

    /// The `video` object of a reply: without what belongs to the generation.
    fn to_fields(&self) -> Fields {
        let mut fields = self.extra.clone();
        put(&mut fields, "url", Some(self.url.as_str()));
        put(&mut fields, "duration", self.duration.map(number));
        put(&mut fields, "content_type", self.content_type.as_deref());
        put(&mut fields, "file_name", self.file_name.as_deref());
        put(&mut fields, "file_size", self.file_size);
        fields
    }
}

/// Alone, a video has its generation's id and usage with it: under longer names where the API's
/// video has fields of these names itself.
impl Serialize for Video {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = self.to_fields();
        let id = if fields.contains_key("id") { "generation_id" } else { "id" };
        fields.insert(id.into(), self.id.0.clone().into());
        let usage = self.usage.map(|usage| {
            let mut written = Fields::new();
            usage.write(&mut written);
            Value::from(written)
        });
        if fields.contains_key("usage") {
            fields.insert("generation_usage".into(), usage.into());
        } else {
            put(&mut fields, "usage", usage);
        }
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Video {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Fields::deserialize(deserializer)?;
        let id = take(&mut fields, "generation_id", GenerationId::from_value)
            .or_else(|| take(&mut fields, "id", GenerationId::from_value))
            .ok_or_else(|| D::Error::missing_field("id"))?;
        let usage = match fields.remove("generation_usage") {
            Some(usage) => Usage::from_value(&usage),
            None => take(&mut fields, "usage", Usage::from_value),
        };
        let video = Self::from_fields(fields, id).map_err(|_| D::Error::missing_field("url"))?;
        Ok(Self { usage, ..video })
    }
}

/// What identifies a call on the server's side, and what it cost: read from the reply's headers.
///
/// It is not part of the reply's JSON, so serde neither reads nor writes it.
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
    /// The reply's other fields.
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

impl Generation {
    /// A reply's fields; `known_id` stands in where the reply names none.
    pub(crate) fn from_fields(mut fields: Fields, known_id: Option<&GenerationId>) -> Option<Self> {
        let id = take(&mut fields, "id", GenerationId::from_value)
            .or_else(|| take(&mut fields, "generation_id", GenerationId::from_value))
            .or_else(|| known_id.cloned())?;
        let status = match take_text(&mut fields, "status") {
            Some(word) => Status::from(word.as_str()),
            None => Status::Other("unknown".to_owned()),
        };
        let error = fields.remove("error").and_then(GenerationError::from_value);
        let usage =
            fields.get("meta").and_then(|meta| meta.get("usage")).and_then(Usage::from_value);
        let mut video = take_video(&mut fields, &id);
        if let Some(video) = &mut video {
            video.usage = usage;
            // The documented reply carries the length twice; one of them is enough.
            let outer = || fields.get("duration").and_then(Value::as_f64);
            video.duration = video.duration.or_else(outer);
        }
        Some(Self { id, status, video, error, usage, trace: Trace::default(), extra: fields })
    }

    fn to_fields(&self) -> Fields {
        let mut fields = self.extra.clone();
        // A reply with an unreadable `id` was read by its `generation_id`.
        let id = if fields.contains_key("id") { "generation_id" } else { "id" };
        put(&mut fields, id, Some(self.id.as_ref()));
        put(&mut fields, "status", Some(self.status.as_str()));
        put(&mut fields, "error", self.error.as_ref().map(|error| error.raw.clone()));
        if let Some(video) = &self.video {
            let video = Value::from(video.to_fields());
            let written = match fields.remove("video") {
                Some(Value::Array(rest)) => std::iter::once(video).chain(rest).collect(),
                _ => video,
            };
            fields.insert("video".into(), written);
        }
        if let Some(usage) = self.usage {
            let mut meta = take_object(&mut fields, "meta");
            let mut written = take_object(&mut meta, "usage");
            usage.write(&mut written);
            meta.insert("usage".into(), written.into());
            fields.insert("meta".into(), meta.into());
        }
        fields
    }
}

/// One object or an array of them; what holds no link stays where it is.
fn take_video(fields: &mut Fields, id: &GenerationId) -> Option<Video> {
    let (video, left) = match fields.remove("video")? {
        Value::Null => return None,
        Value::Array(items) => {
            let mut items = items.into_iter();
            match items.next().map(|first| read_video(first, id)) {
                Some(Ok(video)) => (Some(video), Some(items.collect())),
                Some(Err(first)) => (None, Some(std::iter::once(first).chain(items).collect())),
                None => (None, Some(Value::Array(Vec::new()))),
            }
        }
        single => match read_video(single, id) {
            Ok(video) => (Some(video), None),
            Err(single) => (None, Some(single)),
        },
    };
    if let Some(left) = left {
        fields.insert("video".into(), left);
    }
    video
}

fn read_video(value: Value, id: &GenerationId) -> Result<Video, Value> {
    match value {
        Value::Object(fields) => Video::from_fields(fields, id.clone()).map_err(Value::from),
        other => Err(other),
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_fields().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = Fields::deserialize(deserializer)?;
        Self::from_fields(fields, None).ok_or_else(|| D::Error::missing_field("id"))
    }
}

/// What is left on the account.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Balance {
    /// How much, in [`currency`](Self::currency).
    pub amount: f64,
    /// The currency's code, usually `USD`.
    pub currency: String,
}

/// Takes a field out if it can be read, and leaves it where it is otherwise.
fn take<T>(fields: &mut Fields, field: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
    let value = fields.get(field).and_then(read)?;
    fields.remove(field);
    Some(value)
}

fn take_text(fields: &mut Fields, field: &str) -> Option<String> {
    take(fields, field, |value| value.as_str().map(str::to_owned))
}

fn take_object(fields: &mut Fields, field: &str) -> Fields {
    match fields.remove(field) {
        Some(Value::Object(object)) => object,
        _ => Fields::new(),
    }
}

/// Writes a field, unless what the server wrote there could not be read and was kept.
fn put(fields: &mut Fields, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.entry(field).or_insert_with(|| value.into());
    }
}

/// A whole number is written without a fraction, as it came.
fn number(number: f64) -> Value {
    const EXACT: f64 = 9_007_199_254_740_992.0;
    if number.fract() == 0.0 && number.abs() < EXACT {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, grown};
    use proptest::prelude::*;

    fn reread<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    /// All of a video, and not as it is written.
    fn video_parts(video: &Video) -> Value {
        let Video { id, url, duration, content_type, file_name, file_size, usage, extra } = video;
        serde_json::json!([id, url, duration, content_type, file_name, file_size, usage, extra])
    }

    /// All of a generation but what is lost in writing it: see `what_cannot_be_read_is_kept_too`.
    fn parts(generation: &Generation) -> Value {
        let Generation { id, status, video, error, usage, trace: _, extra } = generation;
        let mut extra = extra.clone();
        extra.remove("id");
        extra.remove("status");
        let video = video.clone().map(|mut video| {
            if video.duration.is_some() {
                video.extra.remove("duration");
            }
            video_parts(&video)
        });
        let error = error.as_ref().map(|error| (&error.name, &error.message, &error.raw));
        serde_json::json!([id, status.as_str(), video, error, usage, extra])
    }

    /// The same but for the last digit of a number, and the texts made from one: see
    /// `numbers_are_kept_to_the_last_digit`.
    fn is_same(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(a, b)| is_same(a, b))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(a, b)| a.0 == b.0 && is_same(a.1, b.1))
            }
            (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                (a - b).abs() <= a.abs() * 1e-15 || a.abs() < 1e-300
            }
            _ => one == other,
        }
    }

    #[test]
    fn what_cannot_be_read_is_kept_too() {
        for reply in [
            r#"{"id":"","generation_id":"a"}"#,
            r#"{"id":"a","status":7}"#,
            r#"{"id":"a","duration":5,"video":{"url":"b","duration":"5"}}"#,
        ] {
            let read: Generation = serde_json::from_str(reply).unwrap();
            assert_eq!(reread(&read), read, "{reply}");
        }
        let reply = r#"{"id":"a","video":{"url":"b","usage":{"credits_used":1}}}"#;
        let read: Generation = serde_json::from_str(reply).unwrap();
        let video = read.video.unwrap();
        assert_eq!(reread(&video), video);
    }

    #[test]
    fn numbers_are_kept_to_the_last_digit() {
        let row = r#"{"id":"a","url":"b","duration":9039519469930348032}"#;
        let read: Video = serde_json::from_str(row).unwrap();
        assert_eq!(reread(&read), read);
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn a_generation_is_read_and_written_without_loss(fields in grown(Seed::generation)) {
            // As text, as it comes: the numbers in it have been parsed.
            let fields = reread(&fields);
            let has_id = ["id", "generation_id"]
                .iter()
                .any(|name| fields.get(*name).and_then(GenerationId::from_value).is_some());
            match serde_json::from_value::<Generation>(fields.into()) {
                Ok(read) => {
                    prop_assert!(has_id);
                    let (before, mut after) = (parts(&read), parts(&reread(&read)));
                    if let (Some(before), Some(after)) =
                        (before.pointer("/3/1"), after.pointer_mut("/3/1"))
                    {
                        // The message may be the error's JSON.
                        let json = |text: &Value| serde_json::from_str(text.as_str().unwrap());
                        if let (Ok(one), Ok(other)) = (json(before), json(after)) {
                            prop_assert!(is_same(&one, &other));
                            *after = before.clone();
                        }
                    }
                    prop_assert!(is_same(&before, &after), "{} became {}", before, after);
                }
                Err(_) => prop_assert!(!has_id),
            }
        }

        #[test]
        fn a_video_is_read_and_written_without_loss(
            fields in grown(Seed::video),
            id in any::<u64>(),
        ) {
            let mut fields: Fields = reread(&fields);
            fields.insert("id".into(), id.to_string().into());
            let link = fields.get("url").and_then(Value::as_str);
            let has_link = link.is_some_and(|url| !url.is_empty());
            match serde_json::from_value::<Video>(fields.into()) {
                Ok(read) => {
                    prop_assert!(has_link);
                    let (before, after) = (video_parts(&read), video_parts(&reread(&read)));
                    prop_assert!(is_same(&before, &after), "{} became {}", before, after);
                }
                Err(_) => prop_assert!(!has_link),
            }
        }
    }
}
