//! `validate()` accepts exactly what the API documents for the default model, and for another one all
//! that can be sent: random requests are compared with an oracle, which implements the rules without
//! using the crate, and with the sandbox.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use kling_video::sandbox::Sandbox;
use kling_video::{
    CameraControl, Client, DynamicMask, ErrorKind, Image, ImageToVideo, MODEL, VideoDuration,
};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::helpers::clients::{sandbox, test_client};
use crate::helpers::media::{jpeg, png};

/// Runs this number of cases, unless the environment variable `PROPTEST_CASES` sets another.
fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases, ..config },
    }
}

#[derive(Clone, Debug)]
enum Source {
    Url(&'static str),
    Png(u16, u16),
    Jpeg(u16, u16),
    Other(&'static [u8]),
}

/// The parameters of a request.
#[derive(Clone, Debug)]
struct RequestSpec {
    image: Source,
    model: &'static str,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    duration: Option<VideoDuration>,
    cfg_scale: Option<f64>,
    static_mask: Option<Source>,
    dynamic_masks: Vec<(Source, Vec<(i32, i32)>)>,
    camera: Option<(usize, f64)>,
    external_task_id: Option<String>,
    client_request_id: Option<String>,
    extra: Option<(&'static str, Value)>,
}

const CAMERAS: [(&str, Option<&str>); 10] = [
    ("simple", Some("horizontal")),
    ("simple", Some("vertical")),
    ("simple", Some("pan")),
    ("simple", Some("tilt")),
    ("simple", Some("roll")),
    ("simple", Some("zoom")),
    ("down_back", None),
    ("forward_up", None),
    ("right_turn_forward", None),
    ("left_turn_forward", None),
];

/// A field of newer models, which the crate does not know.
const NEW_FIELD: &str = "tail_image_url";

impl RequestSpec {
    fn request(&self) -> ImageToVideo {
        let mut request = ImageToVideo::new(self.image.image()).model(self.model);
        if let Some(text) = &self.prompt {
            request = request.prompt(text);
        }
        if let Some(text) = &self.negative_prompt {
            request = request.negative_prompt(text);
        }
        if let Some(duration) = self.duration {
            request = request.duration(duration);
        }
        if let Some(scale) = self.cfg_scale {
            request = request.cfg_scale(scale);
        }
        if let Some(mask) = &self.static_mask {
            request = request.static_mask(mask.image());
        }
        for (mask, points) in &self.dynamic_masks {
            request = request.dynamic_mask(DynamicMask::new(mask.image(), points.clone()));
        }
        if let Some((camera, amount)) = self.camera {
            request = request.camera_control(match camera {
                0 => CameraControl::Horizontal(amount),
                1 => CameraControl::Vertical(amount),
                2 => CameraControl::Pan(amount),
                3 => CameraControl::Tilt(amount),
                4 => CameraControl::Roll(amount),
                5 => CameraControl::Zoom(amount),
                6 => CameraControl::DownBack,
                7 => CameraControl::ForwardUp,
                8 => CameraControl::RightTurnForward,
                _ => CameraControl::LeftTurnForward,
            });
        }
        if let Some(id) = &self.external_task_id {
            request = request.external_task_id(id);
        }
        if let Some(id) = &self.client_request_id {
            request = request.client_request_id(id);
        }
        match &self.extra {
            Some((name, value)) => request.extra(*name, value.clone()),
            None => request,
        }
    }

    /// Whether the documentation allows the request: the vendor's fields and ranges, and Kling's
    /// rules for images.
    fn is_documented(&self) -> bool {
        let has_valid_length =
            |text: &Option<String>| text.as_ref().is_none_or(|text| text.chars().count() <= 2500);
        let is_valid_dynamic_mask = |(mask, points): &(Source, Vec<(i32, i32)>)| {
            mask.is_valid_mask() && (2..=77).contains(&points.len())
        };
        let has_masks = self.static_mask.is_some() || !self.dynamic_masks.is_empty();
        self.image.is_valid_image()
            && !self.model.is_empty()
            && has_valid_length(&self.prompt)
            && has_valid_length(&self.negative_prompt)
            && self.cfg_scale.is_none_or(|scale| (0.0..=1.0).contains(&scale))
            && self.static_mask.as_ref().is_none_or(Source::is_valid_mask)
            && self.dynamic_masks.len() <= 6
            && self.dynamic_masks.iter().all(is_valid_dynamic_mask)
            && !(has_masks && self.camera.is_some())
            && self.camera.is_none_or(|(camera, amount)| {
                CAMERAS[camera].1.is_none() || ((-10.0..=10.0).contains(&amount) && amount != 0.0)
            })
            // The documentation only says "a string"; an empty id is assumed to be invalid.
            && self.external_task_id.as_ref().is_none_or(|id| !id.is_empty())
            // The documentation says 128, of which a retry needs 17.
            && self.client_request_id.as_ref().is_none_or(|id| {
                (1..=111).contains(&id.len())
                    && id.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c))
            })
            // An extra field must not repeat a known one.
            && self.extra.as_ref().is_none_or(|(name, _)| *name == NEW_FIELD)
    }

    /// Whether the request is sent: rules of the default model do not matter for others, and those
    /// for an empty `external_task_id` are the server's.
    fn is_sendable(&self) -> bool {
        let spec = match self.model {
            MODEL => Self { external_task_id: None, ..self.clone() },
            _ => {
                let dynamic_masks = self.dynamic_masks.iter();
                let masks = dynamic_masks.map(|(mask, _)| mask).chain(&self.static_mask);
                let is_finite = |number: Option<f64>| number.is_none_or(f64::is_finite);
                let amount =
                    self.camera.filter(|(camera, _)| CAMERAS[*camera].1.is_some()).map(|c| c.1);
                if !masks.chain([&self.image]).all(Source::is_sendable)
                    || !is_finite(self.cfg_scale)
                    || !is_finite(amount)
                {
                    return false;
                }
                Self {
                    image: Source::Url(VALID_URLS[0]),
                    prompt: None,
                    negative_prompt: None,
                    cfg_scale: None,
                    static_mask: None,
                    dynamic_masks: Vec::new(),
                    camera: None,
                    external_task_id: None,
                    ..self.clone()
                }
            }
        };
        spec.is_documented()
    }

    /// The request body that the documentation requires, with data URIs truncated as in the
    /// sandbox's recordings.
    fn body(&self) -> Value {
        let mut body = Map::new();
        let mut insert = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        insert("model", Some(self.model.into()));
        insert("type", Some("image-to-video".into()));
        insert("image_url", Some(self.image.to_json()));
        insert("prompt", self.prompt.clone().map(Value::from));
        insert("negative_prompt", self.negative_prompt.clone().map(Value::from));
        insert("duration", self.duration.map(|duration| duration.as_secs().into()));
        insert("cfg_scale", self.cfg_scale.map(Value::from));
        insert("static_mask", self.static_mask.as_ref().map(Source::to_json));
        let points = |points: &[(i32, i32)]| -> Value {
            points.iter().map(|(x, y)| json!({"x": x, "y": y})).collect()
        };
        let dynamic_mask = |(mask, trajectory): &(Source, Vec<(i32, i32)>)| json!({"mask": mask.to_json(), "trajectories": points(trajectory)});
        let masks: Vec<Value> = self.dynamic_masks.iter().map(dynamic_mask).collect();
        insert("dynamic_masks", (!masks.is_empty()).then(|| masks.into()));
        insert(
            "camera_control",
            self.camera.map(|(camera, amount)| match CAMERAS[camera] {
                (kind, Some(axis)) => json!({"type": kind, "config": {axis: amount}}),
                (kind, None) => json!({"type": kind}),
            }),
        );
        insert("external_task_id", self.external_task_id.clone().map(Value::from));
        if let Some((name, value)) = &self.extra {
            insert(name, Some(value.clone()));
        }
        body.into()
    }
}

impl Source {
    fn data(&self) -> Option<Vec<u8>> {
        match self {
            Self::Url(_) => None,
            Self::Png(width, height) => Some(png(u32::from(*width), u32::from(*height), 30)),
            Self::Jpeg(width, height) => Some(jpeg(*width, *height)),
            Self::Other(data) => Some(data.to_vec()),
        }
    }

    fn image(&self) -> Image {
        match (self, self.data()) {
            (_, Some(data)) => Image::bytes(data),
            (Self::Url(url), None) => Image::url(*url),
            _ => panic!("a source has a URL or data"),
        }
    }

    fn is_valid_image(&self) -> bool {
        match self {
            Self::Png(width, height) | Self::Jpeg(width, height) => {
                let (width, height) = (u32::from(*width), u32::from(*height));
                width.min(height) >= 300 && 2 * width.max(height) <= 5 * width.min(height)
            }
            other => other.is_valid_mask(),
        }
    }

    /// No dimensions are documented for a mask.
    fn is_valid_mask(&self) -> bool {
        match self {
            Self::Url(url) => VALID_URLS.contains(url),
            Self::Png(..) | Self::Jpeg(..) => true,
            Self::Other(_) => false,
        }
    }

    /// Whether a data URI can name its media type, or its URL is valid.
    fn is_sendable(&self) -> bool {
        match self {
            Self::Other(data) => data.starts_with(b"GIF8") || data.ends_with(b"WEBPVP8 "),
            other => other.is_valid_mask(),
        }
    }

    fn to_json(&self) -> Value {
        match self {
            Self::Url(url) => {
                url.replace('é', "%C3%A9").replace('"', "%22").replace('\\', "%5C").into()
            }
            Self::Png(..) => "data:image/png;base64,".into(),
            Self::Jpeg(..) | Self::Other(_) => "data:image/jpeg;base64,".into(),
        }
    }
}

const VALID_URLS: [&str; 6] = [
    "https://example.com/cat.jpg",
    "http://example.com",
    "https://example.com:8443/a%20b?sig=%2B%2F=&x#y",
    "https://[2001:db8::1]/cat.png",
    "https://user@example.com/é.png",
    "https://e/\"\\",
];

const INVALID_URLS: [&str; 12] = [
    "",
    "cat.jpg",
    "/tmp/cat.jpg",
    "ftp://example.com/cat.jpg",
    "file:///cat.jpg",
    "https:/example.com/cat.jpg",
    "https://",
    "https:///cat.jpg",
    "https://example.com/a cat.jpg",
    "https://example.com/\n",
    "data:image/png;base64,iVBORw0KGgo=",
    "httpsx://example.com",
];

fn source() -> BoxedStrategy<Source> {
    let side =
        || prop_oneof![3 => 300u16..700, 1 => select(vec![0u16, 299, 300, 750, 751, 65_535])];
    prop_oneof![
        8 => select(&VALID_URLS[..]).prop_map(Source::Url),
        1 => select(&INVALID_URLS[..]).prop_map(Source::Url),
        4 => (side(), side()).prop_map(|(width, height)| Source::Png(width, height)),
        4 => (side(), side()).prop_map(|(width, height)| Source::Jpeg(width, height)),
        1 => select(vec![&b""[..], b"GIF89a", b"<svg/>", b"\xFF\xD8", b"\x89PNG", b"RIFF1234WEBPVP8 "])
            .prop_map(Source::Other),
    ]
    .boxed()
}

/// Mostly a few arbitrary characters, sometimes a length near the maximum.
fn text(max_len: usize) -> impl Strategy<Value = String> {
    let short = vec(any::<char>(), 0..6).prop_map(String::from_iter);
    let long = (select(vec!["a", "é", "\u{1F600}", "\""]), max_len - 1..max_len + 2)
        .prop_map(|(character, times)| character.repeat(times));
    prop_oneof![9 => short, 1 => long]
}

/// Mostly within the range, sometimes at its ends, sometimes outside.
fn number(range: Range<f64>) -> impl Strategy<Value = f64> {
    let Range { start, end } = range.clone();
    let special = vec![
        start,
        end,
        0.0,
        -0.0,
        end + 1e-9,
        start - 1e-9,
        f64::NAN,
        f64::INFINITY,
        f64::MIN_POSITIVE,
        -f64::MIN_POSITIVE,
    ];
    // Multiples of 1/8 have an exact decimal representation.
    let inside = (range.start * 8.0) as i32..=(range.end * 8.0) as i32;
    prop_oneof![4 => inside.prop_map(|eighths| f64::from(eighths) / 8.0), 1 => select(special)]
}

fn dynamic_masks() -> impl Strategy<Value = Vec<(Source, Vec<(i32, i32)>)>> {
    let length = prop_oneof![8 => 2usize..5, 1 => select(vec![0usize, 1, 2, 76, 77, 78])];
    // Individual points do not matter, so all but the first are computed from it.
    let points = (any::<(i32, i32)>(), length).prop_map(|((x, y), length)| {
        (0..length as i32).map(|step| (x.wrapping_add(step), y.wrapping_sub(step))).collect()
    });
    let mask = (source(), points).boxed();
    prop_oneof![3 => Just(Vec::new()), 2 => vec(mask.clone(), 1..3), 1 => vec(mask, 5..8)]
}

fn request_spec() -> impl Strategy<Value = RequestSpec> {
    let texts = (
        weighted(0.3, text(2500)),
        weighted(0.2, text(2500)),
        weighted(0.1, text(20)),
        weighted(0.2, prop_oneof![4 => "[A-Za-z0-9._:-]{1,8}", 1 => text(111)]),
    );
    let length = select(vec![VideoDuration::FiveSeconds, VideoDuration::TenSeconds]);
    let camera = (0..CAMERAS.len(), number(-10.0..10.0));
    let extra = (
        prop_oneof![9 => Just(NEW_FIELD), 1 => select(vec!["image_url", "prompt", "type", "duration", "model"])],
        select(vec![json!(null), json!("x"), json!({"a": [1, 2.5]})]),
    );
    let models = select(vec![MODEL, MODEL, MODEL, "kling-video/v9", ""]);
    (
        (source(), prop_oneof![9 => Just(MODEL), 1 => models]),
        texts,
        (weighted(0.4, length), weighted(0.3, number(0.0..1.0))),
        (weighted(0.1, source()), dynamic_masks(), weighted(0.3, camera)),
        weighted(0.2, extra),
    )
        .prop_map(
            |(
                (image, model),
                (prompt, negative_prompt, external_task_id, client_request_id),
                (duration, cfg_scale),
                (static_mask, dynamic_masks, camera),
                extra,
            )| RequestSpec {
                image,
                model,
                prompt,
                negative_prompt,
                duration,
                cfg_scale,
                static_mask,
                dynamic_masks,
                camera,
                external_task_id,
                client_request_id,
                extra,
            },
        )
}

proptest! {
    #![proptest_config(cases(10_000))]

    #[test]
    fn validation_rejects_exactly_what_is_not_sendable(spec in request_spec()) {
        match spec.request().validate() {
            Ok(()) => prop_assert!(spec.is_sendable()),
            Err(error) => {
                prop_assert!(!spec.is_sendable(), "{}", error);
                prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                prop_assert!(error.field().is_some());
            }
        }
    }
}

/// A sandbox keeps everything that it received, so it is replaced after this number of creates.
const CREATES_PER_SANDBOX: usize = 50;

fn permissive_sandbox() -> (Sandbox, Client) {
    let sandbox = sandbox();
    sandbox.allow_model("kling-video/v9");
    sandbox.allow_field(NEW_FIELD);
    let client = test_client(&sandbox);
    (sandbox, client)
}

/// Sends the requests over sockets, each on a new connection.
#[test]
fn valid_request_is_received_by_server_as_specified() {
    let server = RefCell::new(permissive_sandbox());
    let sent = Cell::new(0);
    proptest!(cases(10_000), |(spec in request_spec())| {
        if sent.get() == CREATES_PER_SANDBOX {
            server.replace(permissive_sandbox());
            sent.set(0);
        }
        let (sandbox, client) = &*server.borrow();
        match client.create(&spec.request()) {
            Ok(generation) => {
                let recorded = sandbox.generations().pop().unwrap();
                prop_assert_eq!(&recorded.id, generation.id.as_ref());
                prop_assert_eq!(recorded.request, spec.body());
                prop_assert_eq!(recorded.image, spec.image.data());
                if spec.client_request_id.is_some() {
                    prop_assert_eq!(recorded.client_request_id, spec.client_request_id);
                }
                sent.set(sent.get() + 1);
            }
            // What is left to the server.
            Err(error) if error.kind() == ErrorKind::Api => {
                prop_assert!(spec.is_sendable() && !spec.is_documented(), "{}", error);
                sent.set(sent.get() + 1);
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{}", error);
                prop_assert!(!spec.is_sendable());
            }
        }
        prop_assert_eq!(sandbox.requests().len(), sent.get(), "invalid requests are not sent");
    });
}
