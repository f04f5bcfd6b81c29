//! The body of a create, held against what the API documents: a table of fields, and the few
//! rules that take more than one field to check.

use std::collections::BTreeSet;
use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

use super::picture;

pub(super) const MODEL: &str = "kling-video/v2.1/pro/image-to-video";

/// What a value may be.
enum Rule {
    Model,
    /// The picture to animate.
    Source,
    Mask,
    /// With at most so many characters.
    Text(usize),
    OneOf(&'static [&'static str]),
    /// An integer on the wire: neither `"5"` nor `5.0`.
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
    required("image_url", Rule::Source),
    optional("prompt", Rule::Text(2500)),
    optional("negative_prompt", Rule::Text(2500)),
    optional("type", Rule::OneOf(&["image-to-video"])),
    optional("static_mask", Rule::Mask),
    optional("dynamic_masks", Rule::List(0..=6, &Rule::Object(DYNAMIC_MASK))),
    optional("camera_control", Rule::Object(CAMERA)),
    optional("duration", Rule::Duration),
    optional("cfg_scale", Rule::Number(0.0..=1.0)),
    optional("external_task_id", Rule::Text(usize::MAX)),
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

/// What a create may name besides what is documented.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    pub(super) models: BTreeSet<String>,
    pub(super) fields: BTreeSet<String>,
}

/// A valid create.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) model: String,
    pub(super) seconds: u64,
    /// The body, data URIs cut to their header.
    pub(super) request: Value,
    pub(super) picture: Option<Vec<u8>>,
}

/// Reads a create's body, or lists all that is wrong with it.
pub(super) fn read_create(body: &[u8], allowed: &Allowed) -> Result<Draft, Vec<String>> {
    let request: Value = serde_json::from_slice(body)
        .map_err(|error| vec![format!("Body validation error: invalid JSON, {error}")])?;
    let mut check = Check { allowed, problems: Vec::new(), picture: None };
    check.value("", &request, &Rule::Object(BODY));
    check.camera(&request);
    if !check.problems.is_empty() {
        return Err(check.problems);
    }
    let model = request.get("model").and_then(Value::as_str).unwrap_or_default();
    Ok(Draft {
        model: model.to_owned(),
        seconds: request.get("duration").and_then(Value::as_u64).unwrap_or(5),
        picture: check.picture,
        request: without_payloads(request),
    })
}

/// Cuts `data:image/png;base64,AAAA…` to `data:image/png;base64,`, however deep it sits.
fn without_payloads(value: Value) -> Value {
    match value {
        Value::String(text) if text.starts_with("data:") => {
            let end = text.find(',').map_or(text.len(), |comma| comma + 1);
            text.get(..end).into()
        }
        Value::Array(items) => items.into_iter().map(without_payloads).collect(),
        Value::Object(fields) => {
            let cut = |(name, value)| (name, without_payloads(value));
            fields.into_iter().map(cut).collect()
        }
        other => other,
    }
}

/// Collects the problems of one body, and the picture that came with it.
struct Check<'a> {
    allowed: &'a Allowed,
    problems: Vec<String>,
    picture: Option<Vec<u8>>,
}

impl Check<'_> {
    fn problem(&mut self, at: &str, problem: impl Display) {
        self.problems.push(format!("Body validation error at \"{at}\": {problem}"));
    }

    fn value(&mut self, at: &str, value: &Value, rule: &Rule) {
        if let Err(problem) = self.verdict(at, value, rule) {
            self.problem(at, problem);
        }
    }

    /// What is wrong with the value itself; what is wrong inside it is put on the list.
    fn verdict(&mut self, at: &str, value: &Value, rule: &Rule) -> Result<(), String> {
        match rule {
            Rule::Model if self.allowed.models.contains(text(value)?) => Ok(()),
            Rule::Model => one_of(&[MODEL], value),
            Rule::OneOf(allowed) => one_of(allowed, value),
            Rule::Source => self.source(text(value)?),
            Rule::Mask => Ok(picture::read(text(value)?).map(drop)?),
            Rule::Text(most) => within(&(0..=*most), text(value)?.chars().count(), " characters"),
            Rule::Duration => match typed("integer", Value::as_u64, value)? {
                5 | 10 => Ok(()),
                other => Err(format!("Expected 5 | 10, received {other}")),
            },
            Rule::Integer => typed("integer", Value::as_i64, value).map(drop),
            Rule::Number(allowed) => within(allowed, typed("number", Value::as_f64, value)?, ""),
            Rule::List(lengths, item) => {
                let items = typed("array", Value::as_array, value)?;
                for (index, value) in items.iter().enumerate() {
                    self.value(&format!("{at}.{index}"), value, item);
                }
                within(lengths, items.len(), " items")
            }
            Rule::Object(fields) => {
                self.object(at, typed("object", Value::as_object, value)?, fields);
                Ok(())
            }
        }
    }

    fn object(&mut self, at: &str, object: &Map<String, Value>, fields: &[Field]) {
        let inside = |name: &str| if at.is_empty() { name.into() } else { format!("{at}.{name}") };
        for Field { name, is_required, rule } in fields {
            match object.get(*name) {
                Some(value) => self.value(&inside(name), value, rule),
                None if *is_required => self.problem(&inside(name), "Required"),
                None => {}
            }
        }
        for name in object.keys() {
            let is_extra = at.is_empty() && self.allowed.fields.contains(name);
            if !is_extra && !fields.iter().any(|field| field.name == name) {
                self.problem(&inside(name), "Unrecognized key");
            }
        }
    }

    fn source(&mut self, text: &str) -> Result<(), String> {
        self.picture = picture::read(text)?;
        self.picture.as_deref().map_or(Ok(()), picture::check_size)
    }

    /// What the table cannot say of the camera: what it goes with, and what goes with it.
    fn camera(&mut self, request: &Value) {
        let Some(camera) = request.get("camera_control") else {
            return;
        };
        if request.get("static_mask").or(request.get("dynamic_masks")).is_some() {
            self.problem("camera_control", "Not together with a mask");
        }
        let is_simple = camera.get("type").is_some_and(|kind| kind == "simple");
        let problem = match camera.get("config") {
            None if is_simple => "Required",
            Some(_) if !is_simple => "Only with the type 'simple'",
            Some(config) if moved_axes(config) != 1 => "Exactly one value must not be zero",
            _ => return,
        };
        self.problem("camera_control.config", problem);
    }
}

fn moved_axes(config: &Value) -> usize {
    let values = config.as_object().into_iter().flat_map(Map::values);
    values.filter(|value| value.as_f64() != Some(0.0)).count()
}

/// The value as its type, or what it is instead.
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

fn text(value: &Value) -> Result<&str, String> {
    typed("string", Value::as_str, value)
}

fn one_of(allowed: &[&str], value: &Value) -> Result<(), String> {
    match text(value)? {
        text if allowed.contains(&text) => Ok(()),
        other => Err(format!("Expected '{}', received '{other}'", allowed.join("' | '"))),
    }
}

fn within<T: PartialOrd + Display>(
    allowed: &RangeInclusive<T>,
    received: T,
    unit: &str,
) -> Result<(), String> {
    if allowed.contains(&received) {
        return Ok(());
    }
    let (least, most) = (allowed.start(), allowed.end());
    Err(format!("Expected {least}..{most}{unit}, received {received}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::picture::tests::{JPEG, PNG, data_uri};
    use super::*;

    /// The minimal body with these fields added or replaced.
    fn read(fields: Value) -> Result<Draft, Vec<String>> {
        let mut body = json!({ "model": MODEL, "image_url": "https://example.com/cat.jpg" });
        for (name, value) in fields.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        read_create(body.to_string().as_bytes(), &Allowed::default())
    }

    fn problems(fields: Value) -> Vec<String> {
        read(fields).err().unwrap_or_default()
    }

    #[test]
    fn documented_bodies_are_accepted() {
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
            assert_eq!(problems(fields.clone()), Vec::<String>::new(), "{fields}");
        }
    }

    #[test]
    fn each_wrong_field_is_named() {
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
            let top = field.split('.').next().unwrap_or_default();
            let found = problems(json!({ top: value.clone() }));
            let start = format!("Body validation error at \"{field}\": ");
            assert!(found.iter().any(|p| p.starts_with(&start)), "{field} {value}: {found:?}");
        }
    }

    #[test]
    fn masks_and_camera_exclude_each_other() {
        let camera = json!({ "type": "forward_up" });
        let both = problems(json!({ "camera_control": camera, "static_mask": "https://a" }));
        assert_eq!(both.len(), 1);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for body in ["", "{", "[]", "null", "\"a\"", "{}", "\u{0}"] {
            assert!(read_create(body.as_bytes(), &Allowed::default()).is_err(), "{body}");
        }
    }

    #[test]
    fn more_is_allowed_on_request() {
        let mut allowed = Allowed::default();
        allowed.models.insert("other".to_owned());
        allowed.fields.insert("tail".to_owned());
        let body = json!({ "model": "other", "image_url": "https://a", "tail": [1] });
        assert!(read_create(body.to_string().as_bytes(), &allowed).is_ok());
    }

    #[test]
    fn the_picture_is_kept_and_its_text_is_not() {
        let draft = read(json!({ "image_url": data_uri("image/jpeg", JPEG) }));
        let draft = draft.expect("valid");
        assert_eq!(draft.picture.as_deref(), Some(JPEG));
        assert_eq!(draft.request["image_url"], "data:image/jpeg;base64,");
    }
}
