//! The image-to-video request: its fields, their validation and their JSON.
//!
//! The validation rules come from the API's OpenAPI files and from Kling's own docs.

use std::fmt;

use serde::Serializer as _;
use serde::ser::SerializeMap;
use serde_json::{Serializer, Value, json};

use crate::error::{Error, Result};
use crate::model::body::RequestBody;
use crate::model::generation::JsonObject;
use crate::model::image::{Image, ImageRules};
use crate::random::random;

/// The default model: Kling 2.1 Pro, image to video.
///
/// ```
/// use kling_video::{Image, ImageToVideo, MODEL};
///
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
/// assert_eq!(request.clone().model(MODEL), request);
/// ```
pub const MODEL: &str = "kling-video/v2.1/pro/image-to-video";

const MAX_PROMPT_CHARS: usize = 2_500;
const MAX_DYNAMIC_MASKS: usize = 6;
const TRAJECTORY_POINTS: std::ops::RangeInclusive<usize> = 2..=77;
const MAX_CAMERA_AMOUNT: f64 = 10.0;
/// The longest client request id that the API accepts.
pub(crate) const MAX_CLIENT_REQUEST_ID_LEN: usize = 128;
/// What a retry appends to its create's client request id: `.` and 16 hexadecimal digits.
const ATTEMPT_SUFFIX_LEN: usize = 17;

/// The field that is sent last, so that the image can be streamed after the others.
const IMAGE_URL: &str = "image_url";

/// The duration of the video to generate.
///
/// ```
/// use kling_video::VideoDuration;
///
/// assert_eq!(VideoDuration::TenSeconds.as_secs(), 10);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum VideoDuration {
    /// 5 seconds, the API's default. Generating it takes about 3 to 4 minutes.
    FiveSeconds,
    /// 10 seconds. Generating it takes about 6 to 8 minutes.
    TenSeconds,
}

impl VideoDuration {
    /// Returns the duration in seconds, as sent to the API.
    #[must_use]
    pub fn as_secs(self) -> u32 {
        match self {
            Self::FiveSeconds => 5,
            Self::TenSeconds => 10,
        }
    }
}

/// A camera movement, which cannot be combined with masks (Kling's docs).
///
/// The first six variants move the camera by an amount from -10 to 10 (the API's docs), but not
/// by 0 (Kling's docs). The other four are predefined movements.
///
/// ```
/// use kling_video::{CameraControl, Image, ImageToVideo};
///
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
/// request.clone().camera_control(CameraControl::Zoom(2.5)).validate()?;
///
/// let too_far = request.camera_control(CameraControl::Zoom(12.0));
/// assert_eq!(too_far.validate().unwrap_err().field(), Some("camera_control"));
/// # Ok::<(), kling_video::Error>(())
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
    /// The axis and the amount of a simple movement, or the name of a predefined one.
    fn movement(self) -> (&'static str, Option<f64>) {
        match self {
            Self::Horizontal(amount) => ("horizontal", Some(amount)),
            Self::Vertical(amount) => ("vertical", Some(amount)),
            Self::Pan(amount) => ("pan", Some(amount)),
            Self::Tilt(amount) => ("tilt", Some(amount)),
            Self::Roll(amount) => ("roll", Some(amount)),
            Self::Zoom(amount) => ("zoom", Some(amount)),
            Self::DownBack => ("down_back", None),
            Self::ForwardUp => ("forward_up", None),
            Self::RightTurnForward => ("right_turn_forward", None),
            Self::LeftTurnForward => ("left_turn_forward", None),
        }
    }

    fn to_json(self) -> Value {
        match self.movement() {
            (axis, Some(amount)) => json!({ "type": "simple", "config": { axis: amount } }),
            (name, None) => json!({ "type": name }),
        }
    }
}

/// A region of the image and the trajectory along which it moves.
///
/// A trajectory has 2 to 77 points (the API's docs), in pixels from the bottom left corner.
///
/// ```
/// use kling_video::{DynamicMask, Image, ImageToVideo};
///
/// let mask = DynamicMask::new(Image::url("https://example.com/mask.png"), [(0, 0), (120, 80)]);
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg")).dynamic_mask(mask);
/// request.validate()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DynamicMask {
    mask: Image,
    trajectory: Vec<(i32, i32)>,
}

impl DynamicMask {
    /// Creates a mask whose region moves along `trajectory`, a sequence of `(x, y)` points.
    #[must_use]
    pub fn new(mask: impl Into<Image>, trajectory: impl IntoIterator<Item = (i32, i32)>) -> Self {
        Self { mask: mask.into(), trajectory: trajectory.into_iter().collect() }
    }

    /// `mask` is what is sent of the image.
    fn to_json(&self, mask: String) -> Value {
        let points = self.trajectory.iter().map(|(x, y)| json!({ "x": x, "y": y }));
        // Not `json!`, which would copy the mask, and not `collect`, which would sort the fields.
        let mut fields = JsonObject::new();
        fields.insert("mask".to_owned(), mask.into());
        fields.insert("trajectories".to_owned(), points.collect());
        fields.into()
    }
}

/// A request to generate a video from an image.
///
/// Only the image is required. Fields that are not set are not sent, and the server applies its
/// defaults.
///
/// ```
/// use kling_video::{Image, ImageToVideo, VideoDuration};
///
/// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"))
///     .prompt("the cat stretches and yawns")
///     .duration(VideoDuration::FiveSeconds)
///     .cfg_scale(0.5);
/// request.validate()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone, Debug, PartialEq)]
#[must_use = "a request does nothing until a client sends it"]
pub struct ImageToVideo {
    pub(crate) image: Image,
    pub(crate) model: String,
    prompt: Option<String>,
    negative_prompt: Option<String>,
    pub(crate) duration: Option<VideoDuration>,
    cfg_scale: Option<f64>,
    static_mask: Option<Image>,
    dynamic_masks: Vec<DynamicMask>,
    camera_control: Option<CameraControl>,
    external_task_id: Option<String>,
    pub(crate) client_request_id: Option<String>,
    extra: JsonObject,
}

impl ImageToVideo {
    /// Creates a request with `image` as the first frame of the video.
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
            extra: JsonObject::new(),
        }
    }

    /// Sets the model, which must be available on the client's [`Route`](crate::Route).
    ///
    /// The rules that [`MODEL`] has for images and fields are not checked for another model: the
    /// server decides. Its image may have any format that a data URI can name: JPEG, PNG, WebP, GIF,
    /// BMP, TIFF, AVIF, HEIC. Defaults to [`MODEL`].
    pub fn model(self, id: impl Into<String>) -> Self {
        Self { model: id.into(), ..self }
    }

    /// Sets the prompt, which describes what should happen in the video.
    ///
    /// At most 2,500 characters (Kling's docs). Defaults to no prompt.
    pub fn prompt(self, prompt: impl Into<String>) -> Self {
        Self { prompt: Some(prompt.into()), ..self }
    }

    /// Sets the negative prompt, which describes what the video should avoid.
    ///
    /// At most 2,500 characters (Kling's docs). Defaults to no negative prompt.
    pub fn negative_prompt(self, prompt: impl Into<String>) -> Self {
        Self { negative_prompt: Some(prompt.into()), ..self }
    }

    /// Sets the duration of the video.
    ///
    /// 5 or 10 seconds (the API's docs). Defaults to the server's default, 5 seconds.
    pub fn duration(self, duration: VideoDuration) -> Self {
        Self { duration: Some(duration), ..self }
    }

    /// Sets how closely the video follows the prompt.
    ///
    /// From 0.0 to 1.0 (the API's docs). Defaults to the server's default, 0.5.
    pub fn cfg_scale(self, scale: f64) -> Self {
        Self { cfg_scale: Some(scale), ..self }
    }

    /// Sets the mask of the region that stays still.
    ///
    /// The API's docs mention only URLs for masks: a file or bytes are sent as a data URI, which
    /// the server may reject. The dimensions of a mask are not checked, since none are documented.
    ///
    /// Cannot be combined with [`camera_control`](Self::camera_control) (Kling's docs). Defaults
    /// to no mask.
    pub fn static_mask(self, mask: impl Into<Image>) -> Self {
        Self { static_mask: Some(mask.into()), ..self }
    }

    /// Adds a region that moves along a trajectory.
    ///
    /// At most 6 (the API's docs). Cannot be combined with
    /// [`camera_control`](Self::camera_control) (Kling's docs). Defaults to no masks.
    pub fn dynamic_mask(mut self, mask: DynamicMask) -> Self {
        self.dynamic_masks.push(mask);
        self
    }

    /// Sets the camera movement.
    ///
    /// Cannot be combined with masks (Kling's docs). Defaults to no camera control.
    pub fn camera_control(self, camera: CameraControl) -> Self {
        Self { camera_control: Some(camera), ..self }
    }

    /// Sets a custom task id, unique within the account (Kling's docs).
    ///
    /// A generation cannot be found by this id: use
    /// [`client_request_id`](Self::client_request_id) for that. Defaults to no id.
    pub fn external_task_id(self, id: impl Into<String>) -> Self {
        Self { external_task_id: Some(id.into()), ..self }
    }

    /// Sets the client request id, by which [`Client::find`](crate::Client::find) finds the
    /// generation.
    ///
    /// It is sent as the `X-Client-Request-Id` header: 1 to 111 characters from
    /// `A-Z a-z 0-9 . _ : -`. Every attempt has an id of its own, so each retry, and every attempt of
    /// [`generate_to`](crate::Client::generate_to), appends `.` and 16 hexadecimal digits; the API
    /// accepts 128 characters. Defaults to an id generated for each call.
    ///
    /// ```
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"))
    ///     .client_request_id("order-4711");
    /// let generation = client.create(&request)?;
    /// assert_eq!(client.find("order-4711")?, Some(generation.id));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn client_request_id(self, id: impl Into<String>) -> Self {
        Self { client_request_id: Some(id.into()), ..self }
    }

    /// Adds a field that this crate has no setter for.
    ///
    /// [`validate`](Self::validate) rejects a field that this type sets itself. Defaults to no
    /// extra fields.
    ///
    /// ```
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// // Documented for other Kling models; the server decides what this one does with it.
    /// let request = ImageToVideo::new(Image::url("https://example.com/first.jpg"))
    ///     .extra("tail_image_url", "https://example.com/last.jpg".into());
    /// request.validate()?;
    ///
    /// let error = request.extra("prompt", "a cat".into()).validate().unwrap_err();
    /// assert_eq!(error.field(), Some("prompt"));
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    pub fn extra(mut self, field: impl Into<String>, value: Value) -> Self {
        self.extra.insert(field.into(), value);
        self
    }

    /// Checks the request against all documented rules of its model, without sending anything.
    ///
    /// This includes the headers of image files and bytes. Every call that creates a generation
    /// does this first.
    ///
    /// # Errors
    /// [`InvalidRequest`](crate::ErrorKind::InvalidRequest) if a rule is broken: the message says
    /// which one, and [`Error::field`](crate::Error::field) names the field.
    /// [`Io`](crate::ErrorKind::Io) if a file cannot be read.
    ///
    /// ```
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg")).cfg_scale(1.5);
    /// let error = request.validate().unwrap_err();
    /// assert_eq!(error.field(), Some("cfg_scale"));
    /// assert_eq!(error.to_string(), "`cfg_scale` is 1.5; must be between 0.0 and 1.0");
    /// ```
    pub fn validate(&self) -> Result<()> {
        self.body().map(drop)
    }

    /// Validates the request, opens its image and serializes it.
    pub(crate) fn body(&self) -> Result<RequestBody> {
        self.validate_fields()?;
        let (image_rules, mask_rules) = if self.model == MODEL {
            (ImageRules::Image, ImageRules::Mask)
        } else {
            (ImageRules::DataUri, ImageRules::DataUri)
        };
        let (image_url, image) = self.image.open(IMAGE_URL, image_rules)?;
        let fields = self.own_fields(&|mask, field| mask.open_mask(field, mask_rules))?;
        let own = fields.iter().filter_map(|(name, value)| Some((*name, value.as_ref()?)));
        let extra = self.extra.iter().map(|(name, value)| (name.as_str(), value));
        let mut json_prefix = Vec::with_capacity(512);
        // Not ended, since the image follows.
        let written = Serializer::new(&mut json_prefix).serialize_map(None).and_then(|mut map| {
            own.chain(extra).try_for_each(|(name, value)| map.serialize_entry(name, value))
        });
        written.map_err(|e| {
            let problem = format!("`extra` cannot be serialized as JSON: {e}");
            Error::invalid_request("extra", problem)
        })?;
        // Validated: the URL has nothing that JSON escapes.
        for part in [",\"", IMAGE_URL, "\":\"", &image_url] {
            json_prefix.extend_from_slice(part.as_bytes());
        }
        Ok(RequestBody { json_prefix, image })
    }

    /// The fields as they are sent, but without the data of the image and the masks.
    pub(crate) fn fields(&self) -> Result<JsonObject> {
        self.validate_fields()?;
        let own = self.own_fields(&|_, _| Ok(String::new()))?.into_iter();
        let own = own.filter_map(|(name, value)| Some((name.to_owned(), value?)));
        let mut fields = self.extra.clone();
        fields.extend(own.chain([(IMAGE_URL.to_owned(), "".into())]));
        Ok(fields)
    }

    pub(crate) fn masks(&self) -> impl Iterator<Item = &Image> {
        self.static_mask.iter().chain(self.dynamic_masks.iter().map(|mask| &mask.mask))
    }

    fn validate_fields(&self) -> Result<()> {
        require(!self.model.is_empty(), "model", format_args!("must not be empty"))?;
        if self.model == MODEL {
            self.validate_model_rules()?;
        }
        // JSON has no other numbers.
        let camera_amount = self.camera_control.and_then(|camera| camera.movement().1);
        for (field, amount) in [("cfg_scale", self.cfg_scale), ("camera_control", camera_amount)] {
            let amount = amount.unwrap_or_default();
            require(amount.is_finite(), field, format_args!("is {amount}; must be finite"))?;
        }
        if let Some(id) = &self.client_request_id {
            validate_client_request_id(id, MAX_CLIENT_REQUEST_ID_LEN - ATTEMPT_SUFFIX_LEN)?;
        }
        if self.extra.is_empty() {
            return Ok(());
        }
        let own = self.own_fields(&|_, _| Ok(String::new()))?;
        for field in self.extra.keys() {
            let is_own = field == IMAGE_URL || own.iter().any(|(name, _)| name == field);
            let problem = format_args!("must not be an extra field: ImageToVideo sets it itself");
            require(!is_own, field, problem)?;
        }
        Ok(())
    }

    /// The documented rules of [`MODEL`]. Those of other models are left to the server.
    fn validate_model_rules(&self) -> Result<()> {
        let prompts = [("prompt", &self.prompt), ("negative_prompt", &self.negative_prompt)];
        for (field, prompt) in prompts {
            let chars = prompt.as_ref().map_or(0, |prompt| prompt.chars().count());
            let most = MAX_PROMPT_CHARS;
            let problem = format_args!("has {chars} characters; must have at most {most}");
            require(chars <= most, field, problem)?;
        }
        let scale = self.cfg_scale.unwrap_or_default();
        let problem = format_args!("is {scale}; must be between 0.0 and 1.0");
        require((0.0..=1.0).contains(&scale), "cfg_scale", problem)?;

        let (field, masks) = ("dynamic_masks", self.dynamic_masks.len());
        let problem = format_args!("has {masks} masks; must have at most {MAX_DYNAMIC_MASKS}");
        require(masks <= MAX_DYNAMIC_MASKS, field, problem)?;
        for points in self.dynamic_masks.iter().map(|mask| mask.trajectory.len()) {
            let problem =
                format_args!("has a trajectory of length {points}; must have 2 to 77 points");
            require(TRAJECTORY_POINTS.contains(&points), field, problem)?;
        }

        let Some(camera) = self.camera_control else { return Ok(()) };
        let field = "camera_control";
        if let (axis, Some(amount)) = camera.movement() {
            let is_valid = amount != 0.0 && amount.abs() <= MAX_CAMERA_AMOUNT;
            let problem = format_args!("{axis} is {amount}; must be between -10 and 10 and not 0");
            require(is_valid, field, problem)?;
        }
        let problem = format_args!("must not be combined with masks; remove one of the two");
        require(self.masks().next().is_none(), field, problem)
    }

    /// All fields but the image, in the order in which they are sent. `mask` returns what is sent of
    /// a mask.
    fn own_fields(
        &self,
        mask: &dyn Fn(&Image, &str) -> Result<String>,
    ) -> Result<[(&'static str, Option<Value>); 10]> {
        let text = |text: &Option<String>| text.as_deref().map(Value::from);
        let static_mask = self.static_mask.as_ref().map(|image| mask(image, "static_mask"));
        let mut dynamic_masks = Vec::new();
        for dynamic in &self.dynamic_masks {
            dynamic_masks.push(dynamic.to_json(mask(&dynamic.mask, "dynamic_masks")?));
        }
        let dynamic_masks = (!dynamic_masks.is_empty()).then_some(Value::Array(dynamic_masks));
        Ok([
            ("model", Some(self.model.as_str().into())),
            ("type", Some("image-to-video".into())),
            ("prompt", text(&self.prompt)),
            ("negative_prompt", text(&self.negative_prompt)),
            ("duration", self.duration.map(|duration| duration.as_secs().into())),
            ("cfg_scale", self.cfg_scale.map(Value::from)),
            ("static_mask", static_mask.transpose()?.map(Value::from)),
            ("dynamic_masks", dynamic_masks),
            ("camera_control", self.camera_control.map(CameraControl::to_json)),
            ("external_task_id", text(&self.external_task_id)),
        ])
    }
}

/// Fails with the problem of this field unless its rule holds.
fn require(holds: bool, field: &str, problem: fmt::Arguments<'_>) -> Result<()> {
    if holds {
        return Ok(());
    }
    Err(Error::invalid_request(field, format!("`{field}` {problem}")))
}

/// Checked here, because the server silently drops an invalid id, and a create whose response is
/// lost could then not be found.
pub(crate) fn validate_client_request_id(id: &str, max_len: usize) -> Result<()> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._:-".contains(&byte);
    if (1..=max_len).contains(&id.len()) && id.bytes().all(allowed) {
        return Ok(());
    }
    let reason = match MAX_CLIENT_REQUEST_ID_LEN - max_len {
        0 => String::new(),
        added => format!(" (retries append {added}, and the API accepts 128)"),
    };
    Err(Error::invalid_request(
        "client_request_id",
        format!(
            "`client_request_id` is {id:?}; must be 1 to {max_len} characters of \
             A-Z a-z 0-9 . _ : -{reason}"
        ),
    ))
}

/// The client request id of one attempt of a create.
pub(crate) fn attempt_id(client_request_id: &str) -> String {
    format!("{client_request_id}.{:016x}", random())
}

/// Whether [`attempt_id`] may have made `id` of `client_request_id`.
pub(crate) fn is_attempt_of(id: &str, client_request_id: &str) -> bool {
    id.strip_prefix(client_request_id).and_then(|suffix| suffix.strip_prefix('.')).is_some_and(
        |digits| {
            digits.len() + 1 == ATTEMPT_SUFFIX_LEN && digits.bytes().all(|b| b.is_ascii_hexdigit())
        },
    )
}
