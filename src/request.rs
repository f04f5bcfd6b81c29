//! What the API is asked: an image-to-video request and its parts, checked before anything is sent.
//!
//! The rules are those of the API's OpenAPI files and of Kling's own docs.

use serde::Serialize;
use serde_json::{Map, Value};

use crate::error::{Error, Result};
use crate::image::{Image, Opened};

/// The model this crate is made for: Kling 2.1 Pro, image to video.
pub const MODEL: &str = "kling-video/v2.1/pro/image-to-video";

const MAX_PROMPT_CHARS: usize = 2_500;
const MAX_DYNAMIC_MASKS: usize = 6;
const TRAJECTORY_POINTS: std::ops::RangeInclusive<usize> = 2..=77;
const MAX_CAMERA_MOVE: f64 = 10.0;
const MAX_CLIENT_REQUEST_ID: usize = 128;

/// Fields with a setter of their own, so that [`ImageToVideo::extra`] may not overwrite them.
const KNOWN_FIELDS: [&str; 11] = [
    "model",
    "type",
    "prompt",
    "negative_prompt",
    "duration",
    "cfg_scale",
    "static_mask",
    "dynamic_masks",
    "camera_control",
    "external_task_id",
    "image_url",
];

/// How long the video is to be.
///
/// ```
/// use kling_video::VideoLength;
///
/// assert_eq!(VideoLength::TenSeconds.seconds(), 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VideoLength {
    /// 5 seconds: the API's default, ready in about 3 to 4 minutes.
    FiveSeconds,
    /// 10 seconds, ready in about 6 to 8 minutes.
    TenSeconds,
}

impl VideoLength {
    /// The length in seconds, as it is sent.
    pub fn seconds(self) -> u32 {
        match self {
            Self::FiveSeconds => 5,
            Self::TenSeconds => 10,
        }
    }
}

/// How the camera moves. Excludes masks (Kling's docs).
///
/// The first six take how far, from -10 to 10 and not 0; the other four are whole movements.
///
/// ```
/// use kling_video::{CameraControl, Image, ImageToVideo};
///
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"))
///     .camera_control(CameraControl::Zoom(12.0));
/// assert_eq!(request.validate().unwrap_err().field(), Some("camera_control"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum CameraControl {
    /// Moves left (negative) or right.
    Horizontal(f64),
    /// Moves down (negative) or up.
    Vertical(f64),
    /// Turns left (negative) or right.
    Pan(f64),
    /// Turns down (negative) or up.
    Tilt(f64),
    /// Rolls counter-clockwise (negative) or clockwise.
    Roll(f64),
    /// Narrows (negative) or widens the view.
    Zoom(f64),
    /// Moves down and back.
    DownBack,
    /// Moves forward and up.
    ForwardUp,
    /// Turns right and moves forward.
    RightTurnForward,
    /// Turns left and moves forward.
    LeftTurnForward,
}

impl CameraControl {
    /// The type on the wire, and for a simple movement its axis and how far.
    fn parts(self) -> (&'static str, Option<(&'static str, f64)>) {
        match self {
            Self::Horizontal(by) => ("simple", Some(("horizontal", by))),
            Self::Vertical(by) => ("simple", Some(("vertical", by))),
            Self::Pan(by) => ("simple", Some(("pan", by))),
            Self::Tilt(by) => ("simple", Some(("tilt", by))),
            Self::Roll(by) => ("simple", Some(("roll", by))),
            Self::Zoom(by) => ("simple", Some(("zoom", by))),
            Self::DownBack => ("down_back", None),
            Self::ForwardUp => ("forward_up", None),
            Self::RightTurnForward => ("right_turn_forward", None),
            Self::LeftTurnForward => ("left_turn_forward", None),
        }
    }

    fn check(self) -> Result<()> {
        let (_, Some((axis, by))) = self.parts() else { return Ok(()) };
        if by != 0.0 && (-MAX_CAMERA_MOVE..=MAX_CAMERA_MOVE).contains(&by) {
            return Ok(());
        }
        Err(Error::invalid(
            "camera_control",
            format!("moves {axis} by {by}: allowed is -10 to 10, and not 0"),
        ))
    }

    fn to_json(self) -> Value {
        match self.parts() {
            (kind, Some((axis, by))) => serde_json::json!({"type": kind, "config": {axis: by}}),
            (kind, None) => serde_json::json!({"type": kind}),
        }
    }
}

/// A part of the picture and the way it moves: 2 to 77 points in pixels, the origin bottom left.
///
/// ```
/// use kling_video::{DynamicMask, Image, ImageToVideo};
///
/// let mask = DynamicMask::new(Image::url("https://example.com/mask.png"), [(0, 0), (120, 80)]);
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg")).dynamic_mask(mask);
/// request.validate()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct DynamicMask {
    mask: Image,
    trajectory: Vec<(i32, i32)>,
}

impl DynamicMask {
    /// A mask and the points it moves along.
    pub fn new(mask: impl Into<Image>, points: impl IntoIterator<Item = (i32, i32)>) -> Self {
        Self { mask: mask.into(), trajectory: points.into_iter().collect() }
    }
}

/// A request to turn a picture into a video.
///
/// Only the picture is required; what is not set is not sent, and the server's defaults hold.
///
/// ```
/// use kling_video::{Image, ImageToVideo, VideoLength};
///
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"))
///     .prompt("the cat stretches and yawns")
///     .duration(VideoLength::FiveSeconds)
///     .cfg_scale(0.5);
/// request.validate()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct ImageToVideo {
    image: Image,
    model: String,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    duration: Option<VideoLength>,
    cfg_scale: Option<f64>,
    static_mask: Option<Image>,
    dynamic_masks: Vec<DynamicMask>,
    camera_control: Option<CameraControl>,
    external_task_id: Option<String>,
    client_request_id: Option<String>,
    extra: Map<String, Value>,
}

impl ImageToVideo {
    /// A request with this picture as the first frame.
    pub fn new(image: impl Into<Image>) -> Self {
        Self {
            image: image.into(),
            model: MODEL.to_owned(),
            prompt: None,
            negative_prompt: None,
            duration: None,
            cfg_scale: None,
            static_mask: None,
            dynamic_masks: Vec::new(),
            camera_control: None,
            external_task_id: None,
            client_request_id: None,
            extra: Map::new(),
        }
    }

    /// Another model on the same route. Default: [`MODEL`].
    pub fn model(self, id: impl Into<String>) -> Self {
        Self { model: id.into(), ..self }
    }

    /// What is to happen in the video, at most 2,500 characters (Kling's docs). Default: not sent.
    pub fn prompt(self, text: impl Into<String>) -> Self {
        Self { prompt: Some(text.into()), ..self }
    }

    /// What is to be avoided, at most 2,500 characters (Kling's docs). Default: not sent.
    pub fn negative_prompt(self, text: impl Into<String>) -> Self {
        Self { negative_prompt: Some(text.into()), ..self }
    }

    /// The video's length. Default: not sent; the server's default is 5 seconds.
    pub fn duration(self, length: VideoLength) -> Self {
        Self { duration: Some(length), ..self }
    }

    /// How closely to follow the prompt, from 0.0 to 1.0. Default: not sent; the server's default
    /// is 0.5.
    pub fn cfg_scale(self, scale: f64) -> Self {
        Self { cfg_scale: Some(scale), ..self }
    }

    /// The part of the picture that stays still. Default: none. The API documents a link; a file
    /// or bytes go out as a data URI, which it may refuse. Excludes
    /// [`camera_control`](Self::camera_control).
    pub fn static_mask(self, mask: impl Into<Image>) -> Self {
        Self { static_mask: Some(mask.into()), ..self }
    }

    /// Adds a part of the picture that moves, at most 6 of them. Default: none. Excludes
    /// [`camera_control`](Self::camera_control).
    pub fn dynamic_mask(mut self, mask: DynamicMask) -> Self {
        self.dynamic_masks.push(mask);
        self
    }

    /// How the camera moves. Default: not sent. Excludes masks.
    pub fn camera_control(self, camera: CameraControl) -> Self {
        Self { camera_control: Some(camera), ..self }
    }

    /// An id of your own for the task, unique within the account (Kling's docs). Default: not
    /// sent. Nothing can be looked up by it; see [`client_request_id`](Self::client_request_id).
    pub fn external_task_id(self, id: impl Into<String>) -> Self {
        Self { external_task_id: Some(id.into()), ..self }
    }

    /// The `X-Client-Request-Id` of the create: 1 to 128 of `A-Z a-z 0-9 . _ : -`. Default: made
    /// up for each call. [`Client::find`](crate::Client::find) looks a generation up by it.
    pub fn client_request_id(self, id: impl Into<String>) -> Self {
        Self { client_request_id: Some(id.into()), ..self }
    }

    /// Adds a field that this crate does not know. Default: none. A field that has a setter here
    /// is refused by [`validate`](Self::validate).
    pub fn extra(mut self, field: impl Into<String>, value: Value) -> Self {
        self.extra.insert(field.into(), value);
        self
    }

    /// Checks every documented rule, and the headers of files and bytes. Nothing is sent; every
    /// call that creates does this first.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) with the
    /// [`field`](crate::Error::field), what was given and what is allowed;
    /// [`Io`](crate::ErrorKind::Io) when a file cannot be read.
    pub fn validate(&self) -> Result<()> {
        self.check().map(drop)
    }

    /// The id that the caller wants its create to have.
    pub(crate) fn own_client_request_id(&self) -> Option<&str> {
        self.client_request_id.as_deref()
    }

    pub(crate) fn image(&self) -> &Image {
        &self.image
    }

    /// Checks everything, opens the picture and writes down all fields but the picture.
    pub(crate) fn check(&self) -> Result<Checked> {
        self.check_fields()?;
        let picture = self.image.open("image_url")?;
        Ok(Checked { head: self.write_head(&picture)?, picture })
    }

    /// The fields without the picture, for a fingerprint. Masks stand in it by where they come
    /// from, since a run can go on when their files are gone.
    pub(crate) fn canonical_fields(&self) -> Result<Vec<u8>> {
        self.check_fields()?;
        self.to_json("", |mask, field| match mask.name() {
            Some(name) => Ok(name),
            None => mask.open_mask(field),
        })
    }

    fn check_fields(&self) -> Result<()> {
        check_text("model", Some(&self.model), 1, usize::MAX)?;
        check_text("prompt", self.prompt.as_ref(), 0, MAX_PROMPT_CHARS)?;
        check_text("negative_prompt", self.negative_prompt.as_ref(), 0, MAX_PROMPT_CHARS)?;
        check_text("external_task_id", self.external_task_id.as_ref(), 1, usize::MAX)?;
        self.check_cfg_scale()?;
        self.check_masks()?;
        if let Some(camera) = self.camera_control {
            camera.check()?;
        }
        if let Some(id) = &self.client_request_id {
            check_client_request_id(id)?;
        }
        self.check_extra()
    }

    fn check_cfg_scale(&self) -> Result<()> {
        match self.cfg_scale {
            Some(scale) if !(0.0..=1.0).contains(&scale) => {
                Err(Error::invalid("cfg_scale", format!("is {scale}: allowed is 0.0 to 1.0")))
            }
            _ => Ok(()),
        }
    }

    fn check_masks(&self) -> Result<()> {
        let masks = self.dynamic_masks.len();
        if masks > MAX_DYNAMIC_MASKS {
            return Err(Error::invalid(
                "dynamic_masks",
                format!("has {masks} masks: allowed are at most {MAX_DYNAMIC_MASKS}"),
            ));
        }
        for mask in &self.dynamic_masks {
            let points = mask.trajectory.len();
            if !TRAJECTORY_POINTS.contains(&points) {
                return Err(Error::invalid(
                    "dynamic_masks",
                    format!("has a trajectory of {points} points: allowed are 2 to 77"),
                ));
            }
        }
        if self.camera_control.is_some() && (masks > 0 || self.static_mask.is_some()) {
            return Err(Error::invalid(
                "camera_control",
                "is given together with masks: allowed is one of the two",
            ));
        }
        Ok(())
    }

    fn check_extra(&self) -> Result<()> {
        match self.extra.keys().find(|field| KNOWN_FIELDS.contains(&field.as_str())) {
            Some(field) => Err(Error::invalid(
                field,
                "is given as an extra field: allowed are fields without a setter of their own",
            )),
            None => Ok(()),
        }
    }

    /// The JSON up to where the picture's data goes: all but the last two bytes, `"}`.
    fn write_head(&self, picture: &Opened) -> Result<Vec<u8>> {
        let image_url = match picture {
            Opened::Link(link) => link,
            Opened::Picture(picture) => picture.media.data_uri_head(),
        };
        let mut json = self.to_json(image_url, Image::open_mask)?;
        json.truncate(json.len().saturating_sub(LAST_PIECE.len()));
        Ok(json)
    }

    fn to_json(
        &self,
        image_url: &str,
        write_mask: impl Fn(&Image, &str) -> Result<String>,
    ) -> Result<Vec<u8>> {
        let static_mask = self.static_mask.as_ref();
        let wire = Wire {
            model: &self.model,
            kind: "image-to-video",
            prompt: self.prompt.as_deref(),
            negative_prompt: self.negative_prompt.as_deref(),
            duration: self.duration.map(VideoLength::seconds),
            cfg_scale: self.cfg_scale,
            static_mask: static_mask.map(|mask| write_mask(mask, "static_mask")).transpose()?,
            dynamic_masks: self
                .dynamic_masks
                .iter()
                .map(|mask| {
                    let trajectories = mask.trajectory.as_slice();
                    Ok(WireMask { mask: write_mask(&mask.mask, "dynamic_masks")?, trajectories })
                })
                .collect::<Result<_>>()?,
            camera_control: self.camera_control.map(CameraControl::to_json),
            external_task_id: self.external_task_id.as_deref(),
            extra: &self.extra,
            image_url,
        };
        serde_json::to_vec(&wire)
            .map_err(|e| Error::invalid("extra", format!("cannot be written as JSON: {e}")))
    }
}

/// What ends every request's JSON: the picture's closing quote and the object's brace.
pub(crate) const LAST_PIECE: &[u8] = b"\"}";

/// A request that was checked and is ready to be streamed: `head`, picture, [`LAST_PIECE`].
pub(crate) struct Checked {
    pub(crate) head: Vec<u8>,
    pub(crate) picture: Opened,
}

/// The fields in the order they are sent: the picture last, so that it can be streamed.
#[derive(Serialize)]
struct Wire<'a> {
    model: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    negative_prompt: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    duration: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    cfg_scale: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    static_mask: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    dynamic_masks: Vec<WireMask<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    camera_control: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    external_task_id: Option<&'a str>,
    #[serde(flatten)]
    extra: &'a Map<String, Value>,
    image_url: &'a str,
}

#[derive(Serialize)]
struct WireMask<'a> {
    mask: String,
    #[serde(serialize_with = "points")]
    trajectories: &'a [(i32, i32)],
}

fn points<S: serde::Serializer>(
    trajectory: &[(i32, i32)],
    serializer: S,
) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Point {
        x: i32,
        y: i32,
    }
    serializer.collect_seq(trajectory.iter().map(|&(x, y)| Point { x, y }))
}

fn check_text(field: &str, text: Option<&String>, min: usize, max: usize) -> Result<()> {
    let Some(text) = text else { return Ok(()) };
    let chars = text.chars().count();
    if chars < min {
        return Err(Error::invalid(field, "is empty: allowed is a text of at least one character"));
    }
    if chars > max {
        let problem = format!("has {chars} characters: allowed are at most {max}");
        return Err(Error::invalid(field, problem));
    }
    Ok(())
}

/// The server drops an invalid one silently, and a lost create could then not be found.
pub(crate) fn check_client_request_id(id: &str) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=MAX_CLIENT_REQUEST_ID).contains(&id.len()) && id.bytes().all(allowed) {
        return Ok(());
    }
    Err(Error::invalid(
        "client_request_id",
        format!("is {id:?}: allowed are 1 to 128 of A-Z a-z 0-9 . _ : -"),
    ))
}
