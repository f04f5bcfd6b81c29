//! Request fingerprints, which tell whether a journal's entry belongs to a request.

use serde_json::Value;

use crate::error::Result;
use crate::hash::Hash;
use crate::model::image::ImageRules;
use crate::model::request::ImageToVideo;

/// What tells a request from others in a [`Journal`](crate::Journal): its base URL, route and model,
/// and hashes of its other fields, its image and its masks. Serialized as fields of the `intent`.
///
/// ```
/// use kling_video::{JournalEntry, RequestFingerprint};
///
/// fn request(entry: &JournalEntry) -> Option<&RequestFingerprint> {
///     match entry {
///         JournalEntry::Intent { request, .. } => Some(request),
///         _ => None,
///     }
/// }
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct RequestFingerprint {
    pub(crate) base_url: String,
    pub(crate) route: String,
    pub(crate) model: String,
    pub(crate) fields: String,
    /// Of the bytes, or of the URL; `None` if the image cannot be read.
    pub(crate) image: Option<String>,
    pub(crate) masks: Vec<Option<String>>,
}

impl RequestFingerprint {
    /// The fingerprint of a request to this base URL and route. `image` is the hash of the image's
    /// bytes, if it has any.
    pub(crate) fn new(
        request: &ImageToVideo,
        image: Option<String>,
        base_url: &str,
        route: &str,
    ) -> Result<Self> {
        let mut canonical = Vec::new();
        write_canonical(&Value::Object(request.fields()?), &mut canonical);
        Ok(Self {
            base_url: base_url.to_owned(),
            route: route.to_owned(),
            model: request.model.clone(),
            fields: hash(&canonical),
            image: image.or_else(|| request.image.as_url().map(|url| hash(url.as_bytes()))),
            masks: request
                .masks()
                .map(|mask| mask.open_mask("mask", ImageRules::DataUri))
                .map(|mask| mask.ok().map(|mask| hash(mask.as_bytes())))
                .collect(),
        })
    }

    /// The first part that differs, or `None` if both are of the same request. An image or mask that
    /// cannot be read any more matches any: it matters only to a create, which cannot be sent without
    /// it.
    pub(crate) fn difference(&self, recorded: &Self) -> Option<&'static str> {
        let differ = |own: &Option<String>, recorded: &Option<String>| {
            own.is_some() && recorded.is_some() && own != recorded
        };
        let mut masks = self.masks.iter().zip(&recorded.masks);
        Some(match self {
            _ if self.base_url != recorded.base_url => "base_url",
            _ if self.route != recorded.route => "route",
            _ if self.model != recorded.model => "model",
            _ if differ(&self.image, &recorded.image) => "image",
            _ if self.masks.len() != recorded.masks.len() => "masks",
            _ if masks.any(|(own, recorded)| differ(own, recorded)) => "masks",
            _ if self.fields != recorded.fields => "prompt or another field",
            _ => return None,
        })
    }

    pub(crate) fn matches(&self, recorded: &Self) -> bool {
        self.difference(recorded).is_none()
    }
}

fn hash(data: &[u8]) -> String {
    let mut hash = Hash::new();
    hash.update(data);
    hash.hex()
}

/// Writes JSON in one form, whatever features of `serde_json` other crates enable: keys sorted,
/// numbers by value.
fn write_canonical(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.extend(b"null"),
        Value::Bool(value) => out.extend(value.to_string().bytes()),
        Value::Number(number) => out.extend(canonical_number(number).bytes()),
        // With its length, so that no text can be taken for two.
        Value::String(text) => out.extend(format!("{}:{text}", text.len()).bytes()),
        Value::Array(items) => {
            out.push(b'[');
            for item in items {
                write_canonical(item, out);
                out.push(b',');
            }
            out.push(b']');
        }
        Value::Object(fields) => {
            let mut fields: Vec<_> = fields.iter().collect();
            fields.sort_unstable_by_key(|(name, _)| name.as_str());
            out.push(b'{');
            for (name, value) in fields {
                out.extend(format!("{}:{name}=", name.len()).bytes());
                write_canonical(value, out);
                out.push(b',');
            }
            out.push(b'}');
        }
    }
}

fn canonical_number(number: &serde_json::Number) -> String {
    if let Some(integer) = number.as_i64() {
        return integer.to_string();
    }
    if let Some(integer) = number.as_u64() {
        return integer.to_string();
    }
    match number.as_f64().filter(|float| float.is_finite()) {
        // `-0.0` and `5.0` are integers too.
        Some(float) if float.fract() == 0.0 && float.abs() < 9e15 => (float as i64).to_string(),
        Some(float) => format!("{float:e}"),
        None => number.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;

    fn canonical(json: &str) -> String {
        let mut out = Vec::new();
        write_canonical(&serde_json::from_str(json).unwrap(), &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn canonical_json_does_not_depend_on_order_or_notation() {
        let same = [
            r#"{"b":[1,-0.0,"x"],"a":0.5}"#,
            r#"{ "a": 5e-1, "b": [1.0, 0, "\u0078"] }"#,
            r#"{"a":0.50,"b":[1e0,0.0,"x"]}"#,
        ];
        for json in same {
            assert_eq!(canonical(json), canonical(same[0]), "{json}");
        }
        for other in
            [r#"{"b":[1,0,"x"],"a":0.6}"#, r#"{"b":[10,"x"],"a":0.5}"#, r#"{"b":["1,0,x"]}"#]
        {
            assert_ne!(canonical(other), canonical(same[0]), "{other}");
        }
    }

    /// Journals have it: if it changes, every recorded request becomes another one.
    #[test]
    fn fingerprint_stays_the_same_in_later_versions() {
        let image = Image::url("https://example.com/cat.jpg");
        // Its shortest decimal form has 20 digits.
        let request = ImageToVideo::new(image).prompt("x").cfg_scale(f64::from(0.03_f32));
        let fingerprint = RequestFingerprint::new(&request, None, "https://a", "/v2").unwrap();
        assert_eq!(fingerprint.fields, "30dab0f0e71f478437bfb85e54406aa4");
        assert_eq!(fingerprint.image.as_deref(), Some("b80ed5426fed06261bd999feece7c655"));
    }

    #[test]
    fn fingerprint_depends_on_the_request_but_not_on_its_client_request_id() {
        let request = || ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("x");
        let fingerprint = |request: ImageToVideo, url| {
            RequestFingerprint::new(&request, None, url, "/v2").unwrap()
        };
        let first = fingerprint(request(), "https://a");
        assert!(first.matches(&fingerprint(request().client_request_id("mine"), "https://a")));
        assert!(!first.matches(&fingerprint(request(), "https://b")));
        assert!(!first.matches(&fingerprint(request().prompt("y"), "https://a")));
        let other_image = ImageToVideo::new(Image::url("https://example.com/dog.jpg")).prompt("x");
        assert!(!first.matches(&fingerprint(other_image, "https://a")));
        let masked = request().static_mask(Image::url("https://example.com/mask.png"));
        assert!(!first.matches(&fingerprint(masked, "https://a")));
    }
}
