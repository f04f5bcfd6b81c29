//! JSON of generations and videos, read tolerantly and written back without loss: what cannot be
//! parsed stays in `extra` under its own name.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Error as _, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use crate::model::response::error_message;

use super::{
    Generation, GenerationError, GenerationId, JsonObject, ResponseMetadata, Status, Usage, Video,
};

/// The fields of a generation as received, of which only a few end up in a map.
pub(crate) struct Fields<'a>(pub(crate) Vec<(Cow<'a, str>, Value)>);

impl Fields<'_> {
    /// If a field is there twice, the last one counts.
    pub(crate) fn get_mut(&mut self, name: &str) -> Option<&mut Value> {
        let mut fields = self.0.iter_mut().rev();
        fields.find_map(|(field, value)| (field == name).then_some(value))
    }
}

impl<'de> Deserialize<'de> for Fields<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        struct FieldsVisitor;

        impl<'de> Visitor<'de> for FieldsVisitor {
            type Value = Fields<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a map")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut fields = Vec::with_capacity(8);
                while let Some((Name(name), value)) = map.next_entry()? {
                    fields.push((name, value));
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(FieldsVisitor)
    }
}

impl Generation {
    /// Reads the fields of a generation with this id.
    pub(crate) fn from_fields(fields: Fields<'_>, id: GenerationId) -> Self {
        let (mut status, mut video, mut error) = (None, None, None);
        let (mut extra, mut has_null) = (JsonObject::new(), false);
        for (name, mut value) in fields.0 {
            match (&*name, &mut value) {
                ("status", value) => {
                    status = value.as_str().map(Status::from);
                    if status.is_some() {
                        *value = Value::Null;
                    }
                }
                ("error", value) => error = GenerationError::from_value(value.take()),
                ("video", value) => video = take_video(value, &id),
                _ => {}
            }
            // If a field is there twice, the last one counts, even if it is null or was taken.
            if !value.is_null() || extra.contains_key(&*name) {
                has_null |= value.is_null();
                extra.insert(name.into_owned(), value);
            }
        }
        if has_null {
            let repeated = std::mem::take(&mut extra).into_iter();
            extra.extend(repeated.filter(|(_, value)| !value.is_null()));
        }
        let status = status.unwrap_or_else(|| Status::from("unknown"));
        let usage = extra.get("meta").and_then(|meta| Usage::from_value(meta.get("usage")?));
        if let Some(video) = &mut video {
            video.usage = usage;
            // Documented responses have the duration twice, here and in the video.
            let outer = || extra.get("duration").and_then(Value::as_f64);
            video.duration = video.duration.or_else(outer);
        }
        let metadata = ResponseMetadata::default();
        Self { id, status, video, error, usage, metadata, extra }
    }
}

impl GenerationId {
    /// Takes the id of a generation, and leaves null.
    pub(crate) fn take_from(fields: &mut Fields<'_>) -> Option<Self> {
        ["id", "generation_id"].into_iter().find_map(|name| {
            let field = fields.get_mut(name)?;
            let id = Self::from_value(field)?;
            *field = Value::Null;
            Some(id)
        })
    }
}

/// Takes the video and leaves null, or takes the first of an array of videos. What has no URL stays
/// in place.
fn take_video(field: &mut Value, id: &GenerationId) -> Option<Video> {
    let Value::Array(items) = field else { return Video::take_from(field, id) };
    let video = Video::take_from(items.first_mut()?, id)?;
    items.remove(0);
    Some(video)
}

impl Video {
    /// Takes the video from an object, or from a string, which is its URL. Without a URL there is
    /// none, and the value stays as it is.
    fn take_from(value: &mut Value, id: &GenerationId) -> Option<Self> {
        let url = match &mut *value {
            Value::Object(fields) => fields.get_mut("url")?,
            other => other,
        };
        let url = match url {
            Value::String(url) if !url.is_empty() => std::mem::take(url),
            _ => return None,
        };
        let mut video = Self::new(id.clone(), url);
        let Value::Object(fields) = value.take() else { return Some(video) };
        for (name, value) in fields {
            match (name.as_str(), value) {
                ("url", _) => {}
                ("duration", Value::Number(number)) => video.duration = number.as_f64(),
                ("content_type", Value::String(text)) => video.content_type = Some(text),
                ("file_name", Value::String(text)) => video.file_name = Some(text),
                ("file_size", value) if value.is_u64() => video.file_size = value.as_u64(),
                (_, value) => drop(video.extra.insert(name, value)),
            }
        }
        Some(video)
    }

    /// The video as in the `video` field of a response, which has neither generation id nor usage.
    fn to_fields(&self) -> JsonObject {
        let mut fields = self.extra.clone();
        insert_if_absent(&mut fields, "url", Some(self.url.as_str()));
        insert_if_absent(&mut fields, "duration", self.duration.map(to_json_number));
        insert_if_absent(&mut fields, "content_type", self.content_type.as_deref());
        insert_if_absent(&mut fields, "file_name", self.file_name.as_deref());
        insert_if_absent(&mut fields, "file_size", self.file_size);
        fields
    }
}

/// A video that is serialized on its own includes the generation's id and usage. If the API's
/// `video` itself has an `id` or `usage`, they are named `generation_id` and `generation_usage`.
impl Serialize for Video {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = self.to_fields();
        let id = if fields.contains_key("id") { "generation_id" } else { "id" };
        fields.insert(id.into(), self.id.0.clone().into());
        let usage = self.usage.map(Usage::to_value);
        if fields.contains_key("usage") {
            fields.insert("generation_usage".into(), usage.into());
        } else {
            insert_if_absent(&mut fields, "usage", usage);
        }
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Video {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = JsonObject::deserialize(deserializer)?;
        let id = take_parsed(&mut fields, "generation_id", GenerationId::from_value)
            .or_else(|| take_parsed(&mut fields, "id", GenerationId::from_value))
            .ok_or_else(|| D::Error::missing_field("id"))?;
        let usage = match fields.remove("generation_usage") {
            Some(usage) => Usage::from_value(&usage),
            None => take_parsed(&mut fields, "usage", Usage::from_value),
        };
        let video = Self::take_from(&mut fields.into(), &id);
        let video = video.ok_or_else(|| D::Error::missing_field("url"))?;
        Ok(Self { usage, ..video })
    }
}

impl Serialize for Generation {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut fields = self.extra.clone();
        // If `id` is in `extra`, it could not be parsed and the id came from `generation_id`.
        let id = if fields.contains_key("id") { "generation_id" } else { "id" };
        insert_if_absent(&mut fields, id, Some(self.id.as_str()));
        insert_if_absent(&mut fields, "status", Some(self.status.as_str()));
        insert_if_absent(&mut fields, "error", self.error.as_ref().map(|error| error.raw.clone()));
        if let Some(video) = &self.video {
            let video = Value::from(video.to_fields());
            let value = match fields.remove("video") {
                Some(Value::Array(remaining)) => std::iter::once(video).chain(remaining).collect(),
                _ => video,
            };
            fields.insert("video".into(), value);
        }
        // The usage is in `extra`, too.
        fields.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Generation {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut fields = Fields::deserialize(deserializer)?;
        let id =
            GenerationId::take_from(&mut fields).ok_or_else(|| D::Error::missing_field("id"))?;
        Ok(Self::from_fields(fields, id))
    }
}

impl GenerationError {
    fn from_value(raw: Value) -> Option<Self> {
        let name = raw.get("name").and_then(Value::as_str).map(str::to_owned);
        let message = match &raw {
            Value::Null => return None,
            Value::String(text) => text.clone(),
            other => error_message(other)
                .unwrap_or_else(|| serde_json::to_string(other).unwrap_or_default()),
        };
        Some(Self { name, message, raw })
    }
}

impl Usage {
    fn from_value(usage: &Value) -> Option<Self> {
        let number = |field| usage.get(field).and_then(Value::as_f64);
        let parsed = Self {
            credits_used: number("credits_used"),
            tokens_used: number("tokens_used"),
            usd_spent: number("usd_spent"),
        };
        (parsed != Self::default()).then_some(parsed)
    }

    fn to_value(self) -> Value {
        let amounts = [
            ("credits_used", self.credits_used),
            ("tokens_used", self.tokens_used),
            ("usd_spent", self.usd_spent),
        ];
        let mut fields = JsonObject::new();
        for (name, amount) in amounts {
            insert_if_absent(&mut fields, name, amount.map(to_json_number));
        }
        fields.into()
    }
}

/// Removes a field if it can be parsed, and leaves it in place otherwise.
pub(crate) fn take_parsed<T>(
    fields: &mut JsonObject,
    field: &str,
    parse: impl FnOnce(&Value) -> Option<T>,
) -> Option<T> {
    let value = fields.get(field).and_then(parse)?;
    fields.remove(field);
    Some(value)
}

/// Inserts a field, unless a value that could not be parsed was preserved under its name.
fn insert_if_absent(fields: &mut JsonObject, field: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        fields.entry(field).or_insert_with(|| value.into());
    }
}

/// Converts integers to JSON integers: the API sends them without a fraction.
fn to_json_number(number: f64) -> Value {
    /// The largest integer up to which `f64` represents all integers exactly.
    const MAX_SAFE_INTEGER: f64 = 9_007_199_254_740_991.0;
    if number.fract() == 0.0 && number.abs() <= MAX_SAFE_INTEGER {
        Value::from(number as i64)
    } else {
        Value::from(number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, from_seed};
    use proptest::prelude::*;

    fn round_trip<T: Serialize + serde::de::DeserializeOwned>(value: &T) -> T {
        serde_json::from_str(&serde_json::to_string(value).unwrap()).unwrap()
    }

    /// The video's fields, independent of its serialization.
    fn video_fields(video: &Video) -> Value {
        let Video { id, url, duration, content_type, file_name, file_size, usage, extra } = video;
        serde_json::json!([id, url, duration, content_type, file_name, file_size, usage, extra])
    }

    /// The generation's serialized fields, independent of its serialization.
    fn generation_fields(generation: &Generation) -> Value {
        let Generation { id, status, video, error, usage, metadata: _, extra } = generation;
        let video = video.as_ref().map(video_fields);
        let error = error.as_ref().map(|error| (&error.name, &error.message, &error.raw));
        serde_json::json!([id, status.as_str(), video, error, usage, extra])
    }

    /// Equality, except for the last digit of numbers with more than 15 digits, which `serde_json`
    /// does not parse exactly. Shorter numbers: see `usage_amount_round_trips_exactly`.
    fn approx_eq(one: &Value, other: &Value) -> bool {
        match (one, other) {
            (Value::Array(one), Value::Array(other)) => {
                one.len() == other.len() && one.iter().zip(other).all(|(a, b)| approx_eq(a, b))
            }
            (Value::Object(one), Value::Object(other)) => {
                one.len() == other.len()
                    && one.iter().zip(other).all(|(a, b)| a.0 == b.0 && approx_eq(a.1, b.1))
            }
            (Value::Number(a), Value::Number(b)) if a.is_f64() || b.is_f64() => {
                let (a, b) = (a.as_f64().unwrap(), b.as_f64().unwrap());
                (a - b).abs() <= a.abs() * 1e-15 || a.abs() < 1e-300
            }
            _ => one == other,
        }
    }

    #[test]
    fn unparsable_field_survives_a_round_trip() {
        for response in [
            r#"{"id":"","generation_id":"a"}"#,
            r#"{"id":"a","status":7}"#,
            r#"{"id":"a","duration":5,"video":{"url":"b","duration":"5"}}"#,
        ] {
            let parsed: Generation = serde_json::from_str(response).unwrap();
            assert_eq!(round_trip(&parsed), parsed, "{response}");
        }
        let response = r#"{"id":"a","video":{"url":"b","usage":{"credits_used":1}}}"#;
        let parsed: Generation = serde_json::from_str(response).unwrap();
        let video = parsed.video.unwrap();
        assert_eq!(round_trip(&video), video);
    }

    #[test]
    fn generation_is_read_from_any_map() {
        let fields = [("id", "a"), ("status", "queued")].into_iter();
        let fields = serde::de::value::MapDeserializer::<_, serde::de::value::Error>::new(fields);
        let generation = Generation::deserialize(fields).unwrap();
        assert_eq!((generation.id.as_str(), generation.status), ("a", Status::Queued));
    }

    #[test]
    fn last_of_repeated_fields_counts() {
        for (first, last) in [
            (r#""id":"b","status":"error""#, r#""id":"a","status":"queued""#),
            (r#""id":"a","status":"error""#, r#""id":"a","status":5"#),
            (r#""id":"a","generation_id":"b""#, r#""generation_id":"c","status":"queued""#),
            (r#""id":"a","video":"b""#, r#""video":null,"status":"queued""#),
            (r#""id":"a","error":"b""#, r#""error":null,"status":"queued""#),
            (r#""id":"a","error":"b","n":1"#, r#""error":"c","n":2,"status":"queued""#),
            (r#""id":"a","video":"b""#, r#""video":{"url":"c"},"status":"completed""#),
            (r#""id":"a","status":5"#, r#""status":"queued""#),
            (r#""id":[],"n":1"#, r#""id":"a","n":null"#),
            (r#""id":"a","video":["","5"]"#, r#""video":null"#),
            (r#""id":"a","video":{}"#, r#""video":{"url":"c"}"#),
            (r#""id":"a","meta":{"usage":{"usd_spent":1}}"#, r#""meta":null"#),
        ] {
            let json = format!("{{{first},{last}}}");
            let generation: Generation = serde_json::from_str(&json).unwrap();
            let unique: Value = serde_json::from_str(&json).unwrap();
            assert_eq!(generation, serde_json::from_value(unique).unwrap(), "{json}");
            assert_eq!(round_trip(&generation), generation, "{json}");
        }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn generation_round_trips_without_loss(fields in from_seed(Seed::generation)) {
            // Through text as in a real response, which normalizes the numbers.
            let fields = round_trip(&fields);
            let has_id = ["id", "generation_id"].iter().any(|name| {
                fields.get(*name).is_some_and(|id| GenerationId::from_value(id).is_some())
            });
            match serde_json::from_value::<Generation>(fields.into()) {
                Ok(parsed) => {
                    prop_assert!(has_id);
                    let before = generation_fields(&parsed);
                    let mut after = generation_fields(&round_trip(&parsed));
                    if let (Some(before), Some(after)) =
                        (before.pointer("/3/1"), after.pointer_mut("/3/1"))
                    {
                        // The message may be the error's JSON, with numbers in it.
                        let json = |text: &Value| serde_json::from_str(text.as_str().unwrap());
                        if let (Ok(one), Ok(other)) = (json(before), json(after)) {
                            prop_assert!(approx_eq(&one, &other));
                            *after = before.clone();
                        }
                    }
                    prop_assert!(approx_eq(&before, &after), "{} became {}", before, after);
                }
                Err(_) => prop_assert!(!has_id),
            }
        }

        #[test]
        fn repeated_fields_are_read_like_those_of_a_map(
            one in from_seed(Seed::generation),
            other in from_seed(Seed::generation),
        ) {
            let [one, other] = [one, other].map(|fields| Value::from(fields).to_string());
            let json = format!("{},{}", &one[..one.len() - 1], &other[1..]).replace("{,", "{");
            let json = json.replace(",}", "}");
            let map: Value = serde_json::from_str(&json).unwrap();
            match serde_json::from_str::<Generation>(&json) {
                Ok(generation) => prop_assert_eq!(generation, serde_json::from_value(map).unwrap()),
                Err(_) => prop_assert!(serde_json::from_value::<Generation>(map).is_err()),
            }
        }

        #[test]
        fn usage_amount_round_trips_exactly(
            digits in 0u64..1_000_000_000_000_000,
            decimals in 0u32..=9,
        ) {
            let amount = digits as f64 / 10f64.powi(decimals as i32);
            let response = format!(r#"{{"id":"a","meta":{{"usage":{{"usd_spent":{amount}}}}}}}"#);
            let parsed: Generation = serde_json::from_str(&response).unwrap();
            prop_assert_eq!(parsed.usage.unwrap().usd_spent, Some(amount));
            prop_assert_eq!(round_trip(&parsed), parsed);
        }

        #[test]
        fn video_round_trips_without_loss(
            fields in from_seed(Seed::video),
            id in any::<u64>(),
        ) {
            let mut fields: JsonObject = round_trip(&fields);
            fields.insert("id".into(), id.to_string().into());
            let url = fields.get("url").and_then(Value::as_str);
            let has_url = url.is_some_and(|url| !url.is_empty());
            match serde_json::from_value::<Video>(fields.into()) {
                Ok(parsed) => {
                    prop_assert!(has_url);
                    let (before, after) =
                        (video_fields(&parsed), video_fields(&round_trip(&parsed)));
                    prop_assert!(approx_eq(&before, &after), "{} became {}", before, after);
                }
                Err(_) => prop_assert!(!has_url),
            }
        }
    }
}
