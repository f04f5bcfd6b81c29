//! Validation of create requests against the documented schema: a table of fields, and the few
//! rules that involve more than one field.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::image;

pub(super) const MODEL: &str = "kling-video/v2.1/pro/image-to-video";

/// What values a field accepts.
enum Rule {
    Model,
    /// The image to animate.
    ImageUrl,
    Mask,
    /// With this maximum number of characters.
    String(usize),
    OneOf(&'static [&'static str]),
    /// A JSON integer: neither `"5"` nor `5.0`.
    Duration,
    Integer,
    Number(RangeInclusive<f64>),
    List(RangeInclusive<usize>, &'static Rule),
    Object(&'static [Field]),
}

struct Field {
    name: &'static str,
    is_required: bool,
    rule: Rule,
}

const fn required(name: &'static str, rule: Rule) -> Field {
    Field { name, is_required: true, rule }
}

const fn optional(name: &'static str, rule: Rule) -> Field {
    Field { name, is_required: false, rule }
}

const BODY: &[Field] = &[
    required("model", Rule::Model),
    required("image_url", Rule::ImageUrl),
    optional("prompt", Rule::String(2500)),
    optional("negative_prompt", Rule::String(2500)),
    optional("type", Rule::OneOf(&["image-to-video"])),
    optional("static_mask", Rule::Mask),
    optional("dynamic_masks", Rule::List(0..=6, &Rule::Object(DYNAMIC_MASK))),
    optional("camera_control", Rule::Object(CAMERA)),
    optional("duration", Rule::Duration),
    optional("cfg_scale", Rule::Number(0.0..=1.0)),
    optional("external_task_id", Rule::String(usize::MAX)),
];
const DYNAMIC_MASK: &[Field] = &[
    required("mask", Rule::Mask),
    required("trajectories", Rule::List(2..=77, &Rule::Object(POINT))),
];
const POINT: &[Field] = &[required("x", Rule::Integer), required("y", Rule::Integer)];
const CAMERA: &[Field] =
    &[required("type", Rule::OneOf(CAMERA_MOVES)), optional("config", Rule::Object(CAMERA_AXES))];
const CAMERA_MOVES: &[&str] =
    &["simple", "down_back", "forward_up", "right_turn_forward", "left_turn_forward"];
const CAMERA_AXES: &[Field] =
    &[axis("horizontal"), axis("vertical"), axis("pan"), axis("tilt"), axis("roll"), axis("zoom")];

const fn axis(name: &'static str) -> Field {
    optional(name, Rule::Number(-10.0..=10.0))
}

/// What create requests may contain in addition to the documented schema.
#[derive(Clone, Debug, Default)]
pub(super) struct SchemaExtensions {
    pub(super) models: BTreeSet<String>,
    pub(super) fields: BTreeSet<String>,
}

/// A create request that passed validation.
#[derive(Debug)]
pub(super) struct ValidCreate {
    pub(super) model: String,
    pub(super) seconds: u64,
    /// The body, with data URIs shortened to their header.
    pub(super) request: Value,
    pub(super) image: Option<Vec<u8>>,
}

/// Parses and validates the body of a create request; the error lists everything that is invalid.
pub(super) fn parse_create(
    body: &[u8],
    extensions: &SchemaExtensions,
) -> Result<ValidCreate, Vec<String>> {
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| vec![format!("Body validation error: invalid JSON, {error}")])?;
    let mut validator = Validator { extensions, errors: Vec::new(), image: None };
    validator.validate("", &request, &Rule::Object(BODY));
    validator.validate_camera_control(&request);
    if !validator.errors.is_empty() {
        return Err(validator.errors);
    }
    let model = request.get("model").and_then(Value::as_str).unwrap_or_default();
    Ok(ValidCreate {
        model: model.to_owned(),
        seconds: request.get("duration").and_then(Value::as_u64).unwrap_or(5),
        image: validator.image,
        request: without_payloads(request),
    })
}

/// Shortens `data:image/png;base64,AAAA…` to `data:image/png;base64,`, at any depth.
fn without_payloads(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("data:") => {
            let end = text.find(',').map_or(text.len(), |comma| comma + 1);
            text.get(..end).into()
        }
        Value::Array(items) => items.into_iter().map(without_payloads).collect(),
        Value::Object(fields) => {
            fields.into_iter().map(|(name, value)| (name, without_payloads(value))).collect()
        }
        other => other,
    }
}

/// Collects the validation errors of one body, and its decoded image.
struct Validator<'a> {
    extensions: &'a SchemaExtensions,
    errors: Vec<String>,
    image: Option<Vec<u8>>,
}

impl Validator<'_> {
    fn add_error(&mut self, path: &str, error: impl Display) {
        self.errors.push(format!("Body validation error at \"{path}\": {error}"));
    }

    fn validate(&mut self, path: &str, value: &Value, rule: &Rule) {
        if let Err(error) = self.check(path, value, rule) {
            self.add_error(path, error);
        }
    }

    /// Returns the error of the value itself; errors of nested values are added to the list.
    fn check(&mut self, path: &str, value: &Value, rule: &Rule) -> Result<(), String> {
        match rule {
            Rule::Model if self.extensions.models.contains(string(value)?) => Ok(()),
            Rule::Model => one_of(&[MODEL], value),
            Rule::OneOf(allowed) => one_of(allowed, value),
            Rule::ImageUrl => self.check_image(string(value)?),
            Rule::Mask => Ok(image::decode(string(value)?).map(drop)?),
            Rule::String(max_chars) => {
                in_range(&(0..=*max_chars), string(value)?.chars().count(), " characters")
            }
            Rule::Duration => match typed("integer", Value::as_u64, value)? {
                5 | 10 => Ok(()),
                other => Err(format!("Expected 5 | 10, received {other}")),
            },
            Rule::Integer => typed("integer", Value::as_i64, value).map(drop),
            Rule::Number(allowed) => in_range(allowed, typed("number", Value::as_f64, value)?, ""),
            Rule::List(lengths, item) => {
                let items = typed("array", Value::as_array, value)?;
                for (index, value) in items.iter().enumerate() {
                    self.validate(&format!("{path}.{index}"), value, item);
                }
                in_range(lengths, items.len(), " items")
            }
            Rule::Object(fields) => {
                self.check_fields(path, typed("object", Value::as_object, value)?, fields);
                Ok(())
            }
        }
    }

    fn check_fields(&mut self, path: &str, object: &Map<String, Value>, fields: &[Field]) {
        let is_body = path.is_empty();
        let path_of = |name: &str| if is_body { name.to_owned() } else { format!("{path}.{name}") };
        for Field { name, is_required, rule } in fields {
            match object.get(*name) {
                Some(value) => self.validate(&path_of(name), value, rule),
                None if *is_required => self.add_error(&path_of(name), "Required"),
                None => {}
            }
        }
        for name in object.keys() {
            let is_extension = is_body && self.extensions.fields.contains(name);
            if !is_extension && !fields.iter().any(|field| field.name == name) {
                self.add_error(&path_of(name), "Unrecognized key");
            }
        }
    }

    fn check_image(&mut self, url: &str) -> Result<(), String> {
        self.image = image::decode(url)?;
        self.image.as_deref().map_or(Ok(()), image::validate_dimensions)
    }

    /// Validates what the table cannot express: which fields `camera_control` excludes, and which
    /// `config` its `type` requires.
    fn validate_camera_control(&mut self, request: &Value) {
        let Some(camera) = request.get("camera_control") else {
            return;
        };
        if request.get("static_mask").or(request.get("dynamic_masks")).is_some() {
            self.add_error("camera_control", "Cannot be combined with a mask");
        }
        let is_simple = camera.get("type").is_some_and(|kind| kind == "simple");
        let error = match camera.get("config") {
            None if is_simple => "Required",
            Some(_) if !is_simple => "Only allowed with type 'simple'",
            Some(config) if nonzero_values(config) != 1 => "Exactly one value must be non-zero",
            _ => return,
        };
        self.add_error("camera_control.config", error);
    }
}

fn nonzero_values(config: &Value) -> usize {
    let values = config.as_object().into_iter().flat_map(Map::values);
    values.filter(|value| value.as_f64() != Some(0.0)).count()
}

/// Reads the value as a type; the error names the type that it has instead.
fn typed<'v, T>(
    expected: &str,
    read: impl Fn(&'v Value) -> Option<T>,
    value: &'v Value,
) -> Result<T, String> {
    let received = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    read(value).ok_or_else(|| format!("Expected {expected}, received {received}"))
}

fn string(value: &Value) -> Result<&str, String> {
    typed("string", Value::as_str, value)
}

fn one_of(allowed: &[&str], value: &Value) -> Result<(), String> {
    match string(value)? {
        value if allowed.contains(&value) => Ok(()),
        other => Err(format!("Expected '{}', received '{other}'", allowed.join("' | '"))),
    }
}

fn in_range<T: PartialOrd + Display>(
    allowed: &RangeInclusive<T>,
    received: T,
    unit: &str,
) -> Result<(), String> {
    if allowed.contains(&received) {
        return Ok(());
    }
    let (min, max) = (allowed.start(), allowed.end());
    Err(format!("Expected {min}..{max}{unit}, received {received}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::image::tests::{JPEG, PNG, data_uri};
    use super::*;

    /// Parses the minimal body with these fields added or replaced.
    fn parse(fields: Value) -> Result<ValidCreate, Vec<String>> {
        let mut body = json!({ "model": MODEL, "image_url": "https://example.com/cat.jpg" });
        for (name, value) in fields.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        parse_create(body.to_string().as_bytes(), &SchemaExtensions::default())
    }

    fn errors(fields: Value) -> Vec<String> {
        parse(fields).err().unwrap_or_default()
    }

    #[test]
    fn documented_body_is_accepted() {
        let points = json!([{ "x": -1, "y": 0 }, { "x": 5, "y": 7 }]);
        let masks = json!([{ "mask": "https://example.com/m.png", "trajectories": points }]);
        for fields in [
            json!({}),
            json!({ "prompt": "é".repeat(2500), "negative_prompt": "", "cfg_scale": 1 }),
            json!({ "type": "image-to-video", "duration": 10, "external_task_id": "a" }),
            json!({ "static_mask": "http://a/b", "dynamic_masks": masks }),
            json!({ "camera_control": { "type": "down_back" } }),
            json!({ "camera_control": { "type": "simple", "config": { "pan": -10, "roll": 0 } } }),
            json!({ "image_url": data_uri("image/jpeg", JPEG) }),
            json!({ "image_url": data_uri("image/png", PNG), "static_mask": "https://a" }),
        ] {
            assert_eq!(errors(fields.clone()), Vec::<String>::new(), "{fields}");
        }
    }

    #[test]
    fn invalid_field_is_named_in_the_error() {
        let point = json!({ "x": 1, "y": 2 });
        let mask = |points: Value| json!([{ "mask": "https://a", "trajectories": points }]);
        let simple = |config: Value| json!({ "type": "simple", "config": config });
        for (field, value) in [
            ("model", json!("kling-video/v9")),
            ("image_url", json!(null)),
            ("image_url", json!("cat.jpg")),
            ("image_url", json!("ftp://example.com/cat.jpg")),
            ("image_url", json!("data:image/png;base64,@@@@")),
            ("image_url", json!(data_uri("image/gif", b"GIF89a"))),
            ("image_url", json!(data_uri("image/png", JPEG))),
            ("prompt", json!("é".repeat(2501))),
            ("negative_prompt", json!(3)),
            ("type", json!("text-to-video")),
            ("duration", json!("5")),
            ("duration", json!(5.0)),
            ("duration", json!(6)),
            ("cfg_scale", json!(1.01)),
            ("cfg_scale", json!("0.5")),
            ("external_task_id", json!(7)),
            ("static_mask", json!([])),
            ("dynamic_masks", json!({})),
            ("dynamic_masks.0.trajectories", mask(json!([point]))),
            ("dynamic_masks.0.trajectories.1.x", mask(json!([point, { "x": 1.5, "y": 1 }]))),
            ("dynamic_masks.0.trajectories.1.y", mask(json!([point, { "x": 1 }]))),
            ("dynamic_masks.0.mask", json!([{ "trajectories": [point, point] }])),
            ("camera_control.type", json!({})),
            ("camera_control.type", json!({ "type": "spin" })),
            ("camera_control.config", json!({ "type": "simple" })),
            ("camera_control.config", json!({ "type": "down_back", "config": {} })),
            ("camera_control.config", simple(json!({ "pan": 0 }))),
            ("camera_control.config", simple(json!({ "pan": 1, "tilt": 1 }))),
            ("camera_control.config.pan", simple(json!({ "pan": 10.5 }))),
            ("camera_control.config.fov", simple(json!({ "fov": 1 }))),
            ("tail_image_url", json!("https://a")),
        ] {
            let top_level = field.split('.').next().unwrap_or_default();
            let errors = errors(json!({ top_level: value.clone() }));
            let prefix = format!("Body validation error at \"{field}\": ");
            let is_named = errors.iter().any(|error| error.starts_with(&prefix));
            assert!(is_named, "{field} {value}: {errors:?}");
        }
    }

    #[test]
    fn masks_and_camera_exclude_each_other() {
        let camera = json!({ "type": "forward_up" });
        let both = errors(json!({ "camera_control": camera, "static_mask": "https://a" }));
        assert_eq!(both.len(), 1);
    }

    #[test]
    fn body_must_be_a_json_object() {
        for body in ["", "{", "[]", "null", "\"a\"", "{}", "\u{0}"] {
            assert!(parse_create(body.as_bytes(), &SchemaExtensions::default()).is_err(), "{body}");
        }
    }

    #[test]
    fn extensions_are_accepted() {
        let mut extensions = SchemaExtensions::default();
        extensions.models.insert("other".to_owned());
        extensions.fields.insert("tail".to_owned());
        let body = json!({ "model": "other", "image_url": "https://a", "tail": [1] });
        assert!(parse_create(body.to_string().as_bytes(), &extensions).is_ok());
    }

    #[test]
    fn image_is_decoded_and_its_base64_removed_from_the_body() {
        let create = parse(json!({ "image_url": data_uri("image/jpeg", JPEG) }));
        let create = create.expect("valid");
        assert_eq!(create.image.as_deref(), Some(JPEG));
        assert_eq!(create.request["image_url"], "data:image/jpeg;base64,");
    }
}
