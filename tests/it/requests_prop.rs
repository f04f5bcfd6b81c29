//! What `validate()` lets through is what the API documents, neither more nor less: compared with
//! an oracle that knows the rules and nothing of the crate, and with the sandbox.

use std::cell::{Cell, RefCell};
use std::ops::Range;

use kling_video::{
    CameraControl, Client, DynamicMask, ErrorKind, Image, ImageToVideo, MODEL, Sandbox, VideoLength,
};
use proptest::collection::vec;
use proptest::option::weighted;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

/// So many cases, unless the environment variable `PROPTEST_CASES` says otherwise.
fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases, ..config },
    }
}

#[derive(Clone, Debug)]
enum Source {
    Link(&'static str),
    Png(u16, u16),
    Jpeg(u16, u16),
    Other(&'static [u8]),
}

/// A request before it is one.
#[derive(Clone, Debug)]
struct Plan {
    image: Source,
    model: &'static str,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    duration: Option<VideoLength>,
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

/// A field that newer models take.
const NEW_FIELD: &str = "tail_image_url";

impl Plan {
    fn request(&self) -> ImageToVideo {
        let mut request = ImageToVideo::new(self.image.image()).model(self.model);
        if let Some(text) = &self.prompt {
            request = request.prompt(text);
        }
        if let Some(text) = &self.negative_prompt {
            request = request.negative_prompt(text);
        }
        if let Some(length) = self.duration {
            request = request.duration(length);
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
        if let Some((camera, by)) = self.camera {
            request = request.camera_control(match camera {
                0 => CameraControl::Horizontal(by),
                1 => CameraControl::Vertical(by),
                2 => CameraControl::Pan(by),
                3 => CameraControl::Tilt(by),
                4 => CameraControl::Roll(by),
                5 => CameraControl::Zoom(by),
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

    /// Whether the documents allow it: the vendor's fields and ranges, Kling's rules for pictures.
    fn is_documented(&self) -> bool {
        let short =
            |text: &Option<String>| text.as_ref().is_none_or(|text| text.chars().count() <= 2500);
        let masked = self.static_mask.is_some() || !self.dynamic_masks.is_empty();
        self.image.is_picture()
            && !self.model.is_empty()
            && short(&self.prompt)
            && short(&self.negative_prompt)
            && self.cfg_scale.is_none_or(|scale| (0.0..=1.0).contains(&scale))
            && self.static_mask.as_ref().is_none_or(Source::is_mask)
            && self.dynamic_masks.len() <= 6
            && self.dynamic_masks.iter().all(|(mask, points)| mask.is_mask() && (2..=77).contains(&points.len()))
            && !(masked && self.camera.is_some())
            && self.camera.is_none_or(|(camera, by)| {
                CAMERAS[camera].1.is_none() || ((-10.0..=10.0).contains(&by) && by != 0.0)
            })
            // "A string": that an id has a character at least goes without saying.
            && self.external_task_id.as_ref().is_none_or(|id| !id.is_empty())
            && self.client_request_id.as_ref().is_none_or(|id| {
                (1..=128).contains(&id.len())
                    && id.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c))
            })
            // A field of its own cannot be given twice in one object.
            && self.extra.as_ref().is_none_or(|(name, _)| *name == NEW_FIELD)
    }

    /// The body that the documents ask for, data URIs cut as the sandbox keeps them.
    fn body(&self) -> Value {
        let mut body = Map::new();
        let mut put = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                body.insert(name.to_owned(), value);
            }
        };
        put("model", Some(self.model.into()));
        put("type", Some("image-to-video".into()));
        put("image_url", Some(self.image.on_the_wire()));
        put("prompt", self.prompt.clone().map(Value::from));
        put("negative_prompt", self.negative_prompt.clone().map(Value::from));
        put("duration", self.duration.map(|length| length.seconds().into()));
        put("cfg_scale", self.cfg_scale.map(Value::from));
        put("static_mask", self.static_mask.as_ref().map(Source::on_the_wire));
        let points = |points: &[(i32, i32)]| -> Value {
            points.iter().map(|(x, y)| json!({"x": x, "y": y})).collect()
        };
        let masks: Vec<Value> = self
            .dynamic_masks
            .iter()
            .map(|(mask, path)| json!({"mask": mask.on_the_wire(), "trajectories": points(path)}))
            .collect();
        put("dynamic_masks", (!masks.is_empty()).then(|| masks.into()));
        put(
            "camera_control",
            self.camera.map(|(camera, by)| match CAMERAS[camera] {
                (kind, Some(axis)) => json!({"type": kind, "config": {axis: by}}),
                (kind, None) => json!({"type": kind}),
            }),
        );
        put("external_task_id", self.external_task_id.clone().map(Value::from));
        if let Some((name, value)) = &self.extra {
            put(name, Some(value.clone()));
        }
        body.into()
    }
}

impl Source {
    fn data(&self) -> Option<Vec<u8>> {
        match self {
            Self::Link(_) => None,
            Self::Png(width, height) => {
                let side = |side: u16| u32::from(side).to_be_bytes();
                let start = b"\x89PNG\r\n\x1a\n\0\0\0\x0dIHDR";
                Some([&start[..], &side(*width), &side(*height), &[8, 2, 0, 0, 0]].concat())
            }
            Self::Jpeg(width, height) => {
                let start = b"\xFF\xD8\xFF\xE0\0\x04ab\xFF\xFF\xC2\0\x0B\x08";
                let (width, height) = (width.to_be_bytes(), height.to_be_bytes());
                Some([&start[..], &height, &width, &[3]].concat())
            }
            Self::Other(data) => Some(data.to_vec()),
        }
    }

    fn image(&self) -> Image {
        match (self, self.data()) {
            (_, Some(data)) => Image::bytes(data),
            (Self::Link(link), None) => Image::url(*link),
            _ => unreachable!(),
        }
    }

    fn is_picture(&self) -> bool {
        match self {
            Self::Png(width, height) | Self::Jpeg(width, height) => {
                let (width, height) = (u32::from(*width), u32::from(*height));
                width.min(height) >= 300 && 2 * width.max(height) <= 5 * width.min(height)
            }
            other => other.is_mask(),
        }
    }

    /// No size is documented for a mask.
    fn is_mask(&self) -> bool {
        match self {
            Self::Link(link) => LINKS.contains(link),
            Self::Png(..) | Self::Jpeg(..) => true,
            Self::Other(_) => false,
        }
    }

    fn on_the_wire(&self) -> Value {
        match self {
            Self::Link(link) => (*link).into(),
            Self::Png(..) => "data:image/png;base64,".into(),
            Self::Jpeg(..) | Self::Other(_) => "data:image/jpeg;base64,".into(),
        }
    }
}

const LINKS: [&str; 6] = [
    "https://example.com/cat.jpg",
    "http://example.com",
    "https://example.com:8443/a%20b?sig=%2B%2F=&x#y",
    "https://[2001:db8::1]/cat.png",
    "https://user@example.com/é.png",
    "https://e/\"\\",
];

const NO_LINKS: [&str; 12] = [
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
        8 => select(&LINKS[..]).prop_map(Source::Link),
        1 => select(&NO_LINKS[..]).prop_map(Source::Link),
        4 => (side(), side()).prop_map(|(width, height)| Source::Png(width, height)),
        4 => (side(), side()).prop_map(|(width, height)| Source::Jpeg(width, height)),
        1 => select(vec![&b""[..], b"GIF89a", b"<svg/>", b"\xFF\xD8", b"\x89PNG", b"RIFF1234WEBPVP8 "])
            .prop_map(Source::Other),
    ]
    .boxed()
}

/// Mostly a few characters of any kind, at times about as many as allowed.
fn text(most: usize) -> impl Strategy<Value = String> {
    let few = vec(any::<char>(), 0..6).prop_map(String::from_iter);
    let many = (select(vec!["a", "é", "\u{1F600}", "\""]), most - 1..most + 2)
        .prop_map(|(character, times)| character.repeat(times));
    prop_oneof![9 => few, 1 => many]
}

/// Mostly within the range, at times at its ends, at times outside.
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
    // Eighths are the same in every notation.
    let inside = (range.start * 8.0) as i32..=(range.end * 8.0) as i32;
    prop_oneof![4 => inside.prop_map(|eighths| f64::from(eighths) / 8.0), 1 => select(special)]
}

fn dynamic_masks() -> impl Strategy<Value = Vec<(Source, Vec<(i32, i32)>)>> {
    let length = prop_oneof![8 => 2usize..5, 1 => select(vec![0usize, 1, 2, 76, 77, 78])];
    // The points do not matter one by one: the first and how they go on.
    let points = (any::<(i32, i32)>(), length).prop_map(|((x, y), length)| {
        (0..length as i32).map(|step| (x.wrapping_add(step), y.wrapping_sub(step))).collect()
    });
    let mask = (source(), points).boxed();
    prop_oneof![3 => Just(Vec::new()), 2 => vec(mask.clone(), 1..3), 1 => vec(mask, 5..8)]
}

fn plan() -> impl Strategy<Value = Plan> {
    let texts = (
        weighted(0.3, text(2500)),
        weighted(0.2, text(2500)),
        weighted(0.1, text(20)),
        weighted(0.2, prop_oneof![4 => "[A-Za-z0-9._:-]{1,8}", 1 => text(128)]),
    );
    let length = select(vec![VideoLength::FiveSeconds, VideoLength::TenSeconds]);
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
            )| Plan {
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
    fn what_is_refused_is_outside_the_documents_and_nothing_else(plan in plan()) {
        match plan.request().validate() {
            Ok(()) => prop_assert!(plan.is_documented()),
            Err(error) => {
                prop_assert!(!plan.is_documented(), "{}", error);
                prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                prop_assert!(error.field().is_some());
            }
        }
    }
}

/// A sandbox keeps what it was sent; this many creates, and it is time for another.
const CREATES_PER_SANDBOX: usize = 50;

fn allowing_sandbox() -> (Sandbox, Client) {
    let sandbox = Sandbox::start().unwrap();
    sandbox.allow_model("kling-video/v9");
    sandbox.allow_field(NEW_FIELD);
    let client = sandbox.client_builder().build().unwrap();
    (sandbox, client)
}

/// Over sockets, with a fresh connection for each create.
#[test]
fn what_is_accepted_is_accepted_by_the_server_as_it_was_meant() {
    let stage = RefCell::new(allowing_sandbox());
    let created = Cell::new(0);
    proptest!(cases(10_000), |(plan in plan())| {
        if created.get() == CREATES_PER_SANDBOX {
            stage.replace(allowing_sandbox());
            created.set(0);
        }
        let (sandbox, client) = &*stage.borrow();
        match client.create(&plan.request()) {
            Ok(generation) => {
                let seen = sandbox.generations().pop().unwrap();
                prop_assert_eq!(&seen.id, generation.id.as_ref());
                prop_assert_eq!(seen.request, plan.body());
                prop_assert_eq!(seen.picture, plan.image.data());
                if plan.client_request_id.is_some() {
                    prop_assert_eq!(seen.client_request_id, plan.client_request_id);
                }
                created.set(created.get() + 1);
            }
            Err(error) => {
                prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{}", error);
                prop_assert!(!plan.is_documented());
            }
        }
        let sent = sandbox.requests().len();
        prop_assert_eq!(sent, created.get(), "nothing that was refused was sent");
    });
}

/// What the client and the sandbox do not agree on.
#[test]
fn schemes_have_no_case() {
    let sandbox = Sandbox::start().unwrap();
    let client = sandbox.client_builder().build().unwrap();
    let image = Image::url("HTTPS://example.com/cat.jpg");
    client.create(&ImageToVideo::new(image)).unwrap();
}
