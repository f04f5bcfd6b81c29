//! How the API's JSON becomes a generation, and is written back.
//!
//! What cannot be read stays in `extra` under its own name, so that nothing a server wrote is lost.

use std::borrow::Cow;
use std::fmt;

use serde::de::value::SeqAccessDeserializer;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::{Fields, Generation, GenerationError, GenerationId, Status, Trace, Usage, Video};

/// A reply's fields: those that make a generation as they came, and the rest.
#[derive(Default)]
pub(crate) struct GenerationFields {
    id: Option<Value>,
    generation_id: Option<Value>,
    status: Option<Value>,
    video: Option<VideoField>,
    error: Option<Value>,
    rest: Fields,
}

impl GenerationFields {
    pub(crate) fn has_status(&self) -> bool {
        self.status.is_some()
    }

    /// The generation; `known_id` stands in where the reply names none.
    pub(crate) fn into_generation(self, known_id: Option<&GenerationId>) -> Option<Generation> {
        let Self { id, generation_id, status, video, error, rest: mut extra } = self;
        let mut keep = |name: &str, value: Option<Value>| {
            extra.extend(value.map(|value| (name.to_owned(), value)));
        };
        let mut read = None;
        for (name, value) in [("id", id), ("generation_id", generation_id)] {
            match (&read, value) {
                (None, Some(value)) => match GenerationId::from_value(value) {
                    Ok(id) => read = Some(id),
                    Err(unread) => keep(name, Some(unread)),
                },
                (_, value) => keep(name, value),
            }
        }
        let id = read.or_else(|| known_id.cloned())?;
        let status = match status {
            Some(Value::String(word)) => Status::from(word.as_str()),
            unread => {
                keep("status", unread);
                Status::Other("unknown".to_owned())
            }
        };
        let (mut video, left) = read_videos(video, &id);
        keep("video", left);
        let error = error.and_then(GenerationError::from_value);
        let usage =
            extra.get("meta").and_then(|meta| meta.get("usage")).and_then(Usage::from_value);
        if let Some(video) = &mut video {
            video.usage = usage;
            // The documented reply carries the length twice; one of them is enough.
            let outer = || extra.get("duration").and_then(Value::as_f64);
            video.duration = video.duration.or_else(outer);
        }
        Some(Generation { id, status, video, error, usage, trace: Trace::default(), extra })
    }
}

impl<'de> Deserialize<'de> for GenerationFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reply;

        impl<'de> Visitor<'de> for Reply {
            type Value = GenerationFields;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
                let mut fields = GenerationFields::default();
                while let Some(name) = map.next_key_seed(Name)? {
                    if name == "video" {
                        fields.video = Some(map.next_value()?);
                        continue;
                    }
                    let value: Value = map.next_value()?;
                    let known = match &*name {
                        "id" => &mut fields.id,
                        "generation_id" => &mut fields.generation_id,
                        "status" => &mut fields.status,
                        "error" => &mut fields.error,
                        // As good as absent, and what half of the fields of a pending one are.
                        _ if value.is_null() => continue,
                        _ => {
                            fields.rest.insert(name.into_owned(), value);
                            continue;
                        }
                    };
                    *known = Some(value);
                }
                Ok(fields)
            }
        }

        deserializer.deserialize_map(Reply)
    }
}

/// The name of a field. Those that every reply has cost no allocation.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'static, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Cow<'static, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        const KNOWN: [&str; 9] = [
            "id",
            "status",
            "video",
            "error",
            "url",
            "duration",
            "content_type",
            "file_name",
            "file_size",
        ];
        let known = KNOWN.into_iter().find(|known| *known == name);
        Ok(known.map_or_else(|| Cow::Owned(name.to_owned()), Cow::Borrowed))
    }
}

/// What stands under `video`: an object, read as it comes, or something else.
enum VideoField {
    Object(Video),
    Other(Value),
}

impl<'de> Deserialize<'de> for VideoField {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Field;

        impl<'de> Visitor<'de> for Field {
            type Value = VideoField;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("any JSON")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<VideoField, M::Error> {
                let mut video = Video::empty();
                while let Some(name) = map.next_key_seed(Name)? {
                    video.take_in(name, map.next_value()?);
                }
                Ok(VideoField::Object(video))
            }

            fn visit_seq<S: SeqAccess<'de>>(self, seq: S) -> Result<VideoField, S::Error> {
                Value::deserialize(SeqAccessDeserializer::new(seq)).map(VideoField::Other)
            }

            fn visit_unit<E>(self) -> Result<VideoField, E> {
                Ok(VideoField::Other(Value::Null))
            }

            fn visit_bool<E>(self, value: bool) -> Result<VideoField, E> {
                Ok(VideoField::Other(value.into()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<VideoField, E> {
                Ok(VideoField::Other(value.into()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<VideoField, E> {
                Ok(VideoField::Other(value.into()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<VideoField, E> {
                Ok(VideoField::Other(value.into()))
            }

            fn visit_str<E>(self, value: &str) -> Result<VideoField, E> {
                Ok(VideoField::Other(value.into()))
            }
        }

        deserializer.deserialize_any(Field)
    }
}

/// One object or an array of them, and what is left of it; what holds no link stays where it is.
fn read_videos(field: Option<VideoField>, id: &GenerationId) -> (Option<Video>, Option<Value>) {
    match field {
        None | Some(VideoField::Other(Value::Null)) => (None, None),
        Some(VideoField::Object(video)) => match video.of(id) {
            Ok(video) => (Some(video), None),
            Err(unread) => (None, Some(unread)),
        },
        Some(VideoField::Other(Value::Array(items))) => {
            let mut items = items.into_iter();
            match items.next().map(|first| read_video(first, id)) {
                Some(Ok(video)) => (Some(video), Some(items.collect())),
                Some(Err(first)) => (None, Some(std::iter::once(first).chain(items).collect())),
                None => (None, Some(Value::Array(Vec::new()))),
            }
        }
        Some(VideoField::Other(other)) => (None, Some(other)),
    }
}

fn read_video(value: Value, id: &GenerationId) -> Result<Video, Value> {
    match value {
        Value::Object(fields) => Video::from_fields(fields).of(id),
        other => Err(other),
    }
}

impl Video {
    fn empty() -> Self {
        Self {
            id: GenerationId(String::new()),
            url: String::new(),
            duration: None,
            content_type: None,
            file_name: None,
            file_size: None,
            usage: None,
            extra: Fields::new(),
        }
    }

    fn from_fields(fields: Fields) -> Self {
        let mut video = Self::empty();
        fields.into_iter().for_each(|(name, value)| video.take_in(name.into(), value));
        video
    }

    /// A field of its JSON.
    fn take_in(&mut self, name: Cow<'_, str>, value: Value) {
        match (&*name, value) {
            ("url", Value::String(text)) if !text.is_empty() => self.url = text,
            ("duration", Value::Number(number)) => self.duration = number.as_f64(),
            ("content_type", Value::String(text)) => self.content_type = Some(text),
            ("file_name", Value::String(text)) => self.file_name = Some(text),
            ("file_size", value) if value.is_u64() => self.file_size = value.as_u64(),
            (_, value) => drop(self.extra.insert(name.into_owned(), value)),
        }
    }

    /// The video of this generation, provided that it has a link; its JSON otherwise.
    fn of(self, id: &GenerationId) -> Result<Self, Value> {
        match self.url.is_empty() {
            true => Err(self.to_fields().into()),
            false => Ok(Self { id: id.clone(), ..self }),
        }
    }

    /// The `video` object of a reply: without what belongs to the generation.
    fn to_fields(&self) -> Fields {
        let mut fields = self.extra.clone();
        put(&mut fields, "url", Some(self.url.as_str()).filter(|url| !url.is_empty()));
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
        let read_id = |value: &Value| GenerationId::from_value(value.clone()).ok();
        let id = take(&mut fields, "generation_id", read_id)
            .or_else(|| take(&mut fields, "id", read_id))
            .ok_or_else(|| D::Error::missing_field("id"))?;
        let usage = match fields.remove("generation_usage") {
            Some(usage) => Usage::from_value(&usage),
            None => take(&mut fields, "usage", Usage::from_value),
        };
        let video = Self::from_fields(fields).of(&id);
        let video = video.map_err(|_| D::Error::missing_field("url"))?;
        Ok(Self { usage, ..video })
    }
}

impl Generation {
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

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.to_fields().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let fields = GenerationFields::deserialize(deserializer)?;
        fields.into_generation(None).ok_or_else(|| D::Error::missing_field("id"))
    }
}

impl GenerationError {
    fn from_value(raw: Value) -> Option<Self> {
        let name = raw.get("name").and_then(Value::as_str).map(str::to_owned);
        let message = match &raw {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => message_of(other)
                .unwrap_or_else(|| serde_json::to_string(other).unwrap_or_default()),
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

/// Takes a field out if it can be read, and leaves it where it is otherwise.
fn take<T>(fields: &mut Fields, field: &str, read: impl FnOnce(&Value) -> Option<T>) -> Option<T> {
    let value = fields.get(field).and_then(read)?;
    fields.remove(field);
    Some(value)
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

    /// The same but for the last digit of a number of more than 15, and the texts made from one: see
    /// `amounts_are_kept_exactly`.
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

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn a_generation_is_read_and_written_without_loss(fields in grown(Seed::generation)) {
            // As text, as it comes: the numbers in it have been parsed.
            let fields = reread(&fields);
            let has_id = ["id", "generation_id"]
                .iter()
                .any(|name| fields.get(*name).cloned().is_some_and(|id| GenerationId::from_value(id).is_ok()));
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
        fn amounts_are_kept_exactly(digits in 0u64..1_000_000_000_000_000, decimals in 0u32..=9) {
            let amount = digits as f64 / 10f64.powi(decimals as i32);
            let reply = format!(r#"{{"id":"a","meta":{{"usage":{{"usd_spent":{amount}}}}}}}"#);
            let read: Generation = serde_json::from_str(&reply).unwrap();
            prop_assert_eq!(read.usage.unwrap().usd_spent, Some(amount));
            prop_assert_eq!(reread(&read), read);
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
