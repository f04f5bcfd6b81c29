//! Create requests: what is sent, and which documented rules are checked before sending.

use kling_video::sandbox::{RecordedGeneration, Sandbox};
use kling_video::{
    CameraControl, Client, DynamicMask, Error, ErrorKind, Image, ImageToVideo, MODEL, Route,
    VideoDuration,
};
use serde_json::{Value, json};

use crate::helpers::clients::{no_retry_client, request, sandbox, test_client};
use crate::helpers::files::fixture;
use crate::helpers::media::png;

const CAT: &str = "https://example.com/cat.jpg";
const MASK: &str = "https://example.com/mask.png";

fn cat() -> ImageToVideo {
    ImageToVideo::new(Image::url(CAT))
}

fn mask() -> Image {
    Image::url(MASK)
}

/// Sends the request and returns what the sandbox recorded. The sandbox rejects every request that
/// is not documented.
fn recorded(request: &ImageToVideo) -> RecordedGeneration {
    let sandbox = sandbox();
    create_on(&sandbox, request)
}

fn create_on(sandbox: &Sandbox, request: &ImageToVideo) -> RecordedGeneration {
    no_retry_client(sandbox).create(request).unwrap();
    sandbox.generations().pop().unwrap()
}

fn sent(request: &ImageToVideo) -> Value {
    recorded(request).request
}

/// The error for an invalid request: `validate` and `create` must return the same one, and nothing
/// may be sent.
fn validation_error(request: &ImageToVideo) -> Error {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let error = client.create(request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    assert!(!error.is_retryable() && !error.may_have_been_billed());
    assert!(sandbox.requests().is_empty(), "{:?}", sandbox.requests());
    assert_eq!(sandbox.connection_count(), 0);
    let validated = request.validate().unwrap_err();
    assert_eq!((validated.field(), validated.to_string()), (error.field(), error.to_string()));
    error
}

/// Asserts that the request is rejected because of `field`, with a message that contains all of
/// `parts`.
fn assert_invalid(request: &ImageToVideo, field: &str, parts: &[&str]) {
    let error = validation_error(request);
    assert_eq!(error.field(), Some(field), "{error}");
    let message = error.to_string();
    for part in [&[field, "must"], parts].concat() {
        assert!(message.contains(part), "{part:?} is not in {message:?}");
    }
}

// ---------------------------------------------------------------- on the wire

#[test]
fn unset_field_is_absent() {
    let expected = json!({ "model": MODEL, "type": "image-to-video", "image_url": CAT });
    assert_eq!(sent(&cat()), expected);
}

#[test]
fn set_fields_are_sent_under_documented_names() {
    let request = cat()
        .prompt("a \"cat\"\n stretches 🐈")
        .negative_prompt("blur")
        .duration(VideoDuration::TenSeconds)
        .cfg_scale(0.25)
        .external_task_id("task-1")
        .static_mask(mask())
        .dynamic_mask(DynamicMask::new(mask(), [(-1, 0), (120, 80)]))
        .dynamic_mask(DynamicMask::new(Image::url(CAT), [(1, 2), (3, 4), (i32::MAX, i32::MIN)]));
    let expected = json!({
        "model": MODEL,
        "type": "image-to-video",
        "image_url": CAT,
        "prompt": "a \"cat\"\n stretches 🐈",
        "negative_prompt": "blur",
        "duration": 10,
        "cfg_scale": 0.25,
        "external_task_id": "task-1",
        "static_mask": MASK,
        "dynamic_masks": [
            { "mask": MASK, "trajectories": [{ "x": -1, "y": 0 }, { "x": 120, "y": 80 }] },
            { "mask": CAT, "trajectories": [
                { "x": 1, "y": 2 }, { "x": 3, "y": 4 }, { "x": i32::MAX, "y": i32::MIN },
            ] },
        ],
    });
    assert_eq!(sent(&request), expected);
}

#[test]
fn duration_is_sent_as_integer() {
    for (duration, seconds) in [(VideoDuration::FiveSeconds, 5), (VideoDuration::TenSeconds, 10)] {
        let sent = sent(&cat().duration(duration));
        assert!(sent["duration"].is_u64());
        assert_eq!(sent["duration"], seconds);
    }
}

#[test]
fn simple_camera_movement_has_only_its_axis() {
    for (camera, axis, amount) in [
        (CameraControl::Horizontal(-10.0), "horizontal", -10.0),
        (CameraControl::Vertical(10.0), "vertical", 10.0),
        (CameraControl::Pan(0.5), "pan", 0.5),
        (CameraControl::Tilt(-0.5), "tilt", -0.5),
        (CameraControl::Roll(3.0), "roll", 3.0),
        (CameraControl::Zoom(9.99), "zoom", 9.99),
    ] {
        let expected = json!({ "type": "simple", "config": { axis: amount } });
        assert_eq!(sent(&cat().camera_control(camera))["camera_control"], expected);
    }
}

#[test]
fn preset_camera_movement_has_no_config() {
    for (camera, kind) in [
        (CameraControl::DownBack, "down_back"),
        (CameraControl::ForwardUp, "forward_up"),
        (CameraControl::RightTurnForward, "right_turn_forward"),
        (CameraControl::LeftTurnForward, "left_turn_forward"),
    ] {
        let expected = json!({ "type": kind });
        assert_eq!(sent(&cat().camera_control(camera))["camera_control"], expected);
    }
}

#[test]
fn masks_may_have_any_dimensions() {
    let small = Image::bytes(png(8, 8, 100));
    let points = [(0, 0), (1, 1)];
    let request = cat().static_mask(small.clone()).dynamic_mask(DynamicMask::new(small, points));
    let sent = sent(&request);
    assert_eq!(sent["static_mask"], "data:image/png;base64,");
    assert_eq!(sent["dynamic_masks"][0]["mask"], "data:image/png;base64,");
}

#[test]
fn image_file_is_sent_unchanged() {
    let file = fixture("image.jpg");
    let recorded = recorded(&ImageToVideo::new(Image::file(&file)).prompt("the cat yawns"));
    assert_eq!(recorded.image, Some(std::fs::read(&file).unwrap()));
    assert_eq!(
        recorded.request,
        json!({
            "model": MODEL, "type": "image-to-video", "prompt": "the cat yawns",
            "image_url": "data:image/jpeg;base64,",
        })
    );
}

#[test]
fn image_url_is_sent_unchanged() {
    let url = "https://example.com/a%2fb%2F+c?sig=%3d&x=~#part";
    assert_eq!(sent(&ImageToVideo::new(Image::url(url)))["image_url"], url);
}

#[test]
fn image_url_scheme_may_be_uppercase() {
    let url = "HTTPS://example.com/cat.jpg";
    let request = ImageToVideo::new(Image::url(url));
    request.validate().unwrap();
    assert_eq!(sent(&request)["image_url"], url);
}

#[test]
fn request_headers_describe_body() {
    let sandbox = sandbox();
    create_on(&sandbox, &request());
    let received = sandbox.requests().pop().unwrap();
    assert_eq!(received.header("authorization"), Some("Bearer sandbox-key"));
    assert_eq!(received.header("content-type"), Some("application/json"));
    assert_eq!(received.header("content-length"), Some(received.body_bytes.to_string().as_str()));
    assert_eq!(received.header("transfer-encoding"), None);
    assert_eq!(received.header("expect"), None);
    assert!(received.body_complete);
}

#[test]
fn client_request_id_of_caller_is_sent_as_header() {
    for id in ["order-4711", "a", "A.b_c:d-9", &"x".repeat(111)] {
        let sandbox = sandbox();
        let recorded = create_on(&sandbox, &cat().client_request_id(id));
        assert_eq!(recorded.client_request_id.as_deref(), Some(id));
        let header = sandbox.requests()[0].header("x-client-request-id").map(str::to_owned);
        assert_eq!(header.as_deref(), Some(id));
    }
}

#[test]
fn client_request_id_is_generated_and_unique() {
    let sandbox = sandbox();
    let ids = [0; 3].map(|_| create_on(&sandbox, &cat()).client_request_id.unwrap());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

// ---------------------------------------------------------------- extra fields and other models

#[test]
fn extra_field_may_have_any_value() {
    let sandbox = sandbox();
    let values =
        [json!("https://a/b"), json!(7), json!(0.5), json!(true), json!(null), json!({ "a": [1] })];
    for value in values {
        sandbox.allow_field("tail_image_url");
        let recorded = create_on(&sandbox, &cat().extra("tail_image_url", value.clone()));
        assert_eq!(recorded.request.get("tail_image_url"), Some(&value));
        assert_eq!(recorded.request["image_url"], CAT);
    }
}

#[test]
fn extra_field_is_validated_by_server_only() {
    let sandbox = sandbox();
    let error =
        no_retry_client(&sandbox).create(&cat().extra("tail_image_url", json!("x"))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
    assert!(error.server_message().unwrap().contains("tail_image_url"), "{error}");
}

#[test]
fn extra_field_may_not_replace_known_field() {
    for known in [
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
    ] {
        let request = cat().extra(known, json!("x"));
        assert_invalid(&request, known, &["extra field"]);
    }
}

#[test]
fn model_can_be_changed() {
    let sandbox = sandbox();
    let other = "kling-video/v2.1/standard/image-to-video";
    sandbox.allow_model(other);
    assert_eq!(create_on(&sandbox, &cat().model(other)).request["model"], other);
}

#[test]
fn model_is_validated_by_server_only() {
    let sandbox = sandbox();
    let error = no_retry_client(&sandbox).create(&cat().model("kling-video/v9")).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
}

// ---------------------------------------------------------------- routes

fn targets(client: &Client, sandbox: &Sandbox) -> Vec<(String, String)> {
    let created = client.create(&request()).unwrap();
    client.retrieve(&created.id).unwrap();
    let requests = sandbox.requests().into_iter();
    requests.map(|r| (r.method, r.target.replace(created.id.as_ref(), "ID"))).collect()
}

#[test]
fn route_defaults_to_kling() {
    let sandbox = sandbox();
    let path = "/v2/generate/video/kling/generation";
    assert_eq!(
        targets(&no_retry_client(&sandbox), &sandbox),
        [
            ("POST".to_owned(), path.to_owned()),
            ("GET".to_owned(), format!("{path}?generation_id=ID")),
        ]
    );
}

#[test]
fn route_universal_has_its_own_path() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().route(Route::Universal).build().unwrap();
    let path = "/v2/video/generations";
    assert_eq!(
        targets(&client, &sandbox),
        [
            ("POST".to_owned(), path.to_owned()),
            ("GET".to_owned(), format!("{path}?generation_id=ID")),
        ]
    );
}

#[test]
fn routes_send_the_same_body() {
    let sandbox = sandbox();
    let request = request().duration(VideoDuration::FiveSeconds).cfg_scale(1.0);
    for route in [Route::Kling, Route::Universal] {
        sandbox.client_builder().route(route).build().unwrap().create(&request).unwrap();
    }
    let [first, second] = &sandbox.generations()[..] else { panic!("not two generations") };
    assert_eq!(first.request, second.request);
}

// ---------------------------------------------------------------- rules of the API

#[test]
fn model_must_not_be_empty() {
    assert_invalid(&cat().model(""), "model", &["must not be empty"]);
}

#[test]
fn prompt_may_have_at_most_2500_characters() {
    recorded(&cat().prompt("é".repeat(2_500)));
    assert_invalid(&cat().prompt("é".repeat(2_501)), "prompt", &["2501", "2500"]);
}

#[test]
fn negative_prompt_may_have_at_most_2500_characters() {
    recorded(&cat().negative_prompt("é".repeat(2_500)));
    let long = cat().negative_prompt("é".repeat(2_501));
    assert_invalid(&long, "negative_prompt", &["2501", "2500"]);
}

#[test]
fn empty_prompt_is_sent() {
    let sent = sent(&cat().prompt("").negative_prompt(""));
    assert_eq!((&sent["prompt"], &sent["negative_prompt"]), (&json!(""), &json!("")));
}

#[test]
fn cfg_scale_must_be_between_0_and_1() {
    for edge in [0.0, 1.0] {
        recorded(&cat().cfg_scale(edge));
    }
    for (invalid, displayed) in [
        (-0.001, "-0.001"),
        (1.001, "1.001"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        assert_invalid(&cat().cfg_scale(invalid), "cfg_scale", &[displayed, "between 0.0 and 1.0"]);
    }
}

#[test]
fn client_request_id_must_have_1_to_111_allowed_characters() {
    for invalid in ["", "a b", "a/b", "é", "a\nb", &"x".repeat(112)] {
        let request = cat().client_request_id(invalid);
        assert_invalid(&request, "client_request_id", &[&format!("{invalid:?}"), "1 to 111"]);
    }
}

#[test]
fn image_url_must_be_http_or_https() {
    recorded(&ImageToVideo::new(Image::url("http://example.com/cat.jpg")));
    for invalid in ["ftp://example.com/cat.jpg", "file:///cat.jpg", "cat.jpg", "", "/cat.jpg"] {
        let request = ImageToVideo::new(Image::url(invalid));
        assert_invalid(&request, "image_url", &[&format!("{invalid:?}"), "https://"]);
    }
}

#[test]
fn image_url_must_be_complete() {
    for invalid in ["https:", "https://", "https:///cat.jpg", "https://?a", "https:/example.com/c"]
    {
        let error = validation_error(&ImageToVideo::new(Image::url(invalid)));
        assert_eq!(error.field(), Some("image_url"), "{error}");
        assert!(
            error.to_string().contains(&format!("is {invalid:?}; must have a valid host")),
            "{error}"
        );
    }
}

#[test]
fn image_url_must_not_contain_whitespace() {
    for invalid in
        ["https://example.com/a cat.jpg", "https://example.com/\ncat.jpg", "https://e.com/a "]
    {
        let error = validation_error(&ImageToVideo::new(Image::url(invalid)));
        assert_eq!(error.field(), Some("image_url"), "{error}");
    }
}

#[test]
fn data_uri_is_rejected_with_hint_and_without_image_data() {
    for scheme in ["data", "DATA"] {
        let uri = format!("{scheme}:image/png;base64,{}", "iVBORw0KGgo".repeat(1_000));
        let error = validation_error(&ImageToVideo::new(Image::url(uri)));
        let message = error.to_string();
        assert!(message.contains("Image::bytes") && message.contains("Image::file"), "{message}");
        assert!(!message.contains("iVBOR"), "{message}");
    }
}

#[test]
fn mask_must_be_valid_image() {
    let points = [(0, 0), (1, 1)];
    for invalid in [
        Image::url("ftp://example.com/mask.png"),
        Image::bytes(b"GIF89a".to_vec()),
        Image::bytes(Vec::new()),
    ] {
        let static_mask = validation_error(&cat().static_mask(invalid.clone()));
        assert_eq!(static_mask.field(), Some("static_mask"), "{static_mask}");
        let dynamic = validation_error(&cat().dynamic_mask(DynamicMask::new(invalid, points)));
        assert_eq!(dynamic.field(), Some("dynamic_masks"), "{dynamic}");
    }
}

#[test]
fn dynamic_masks_may_be_at_most_6() {
    let with_masks = |n: usize| {
        let mask = || DynamicMask::new(mask(), [(0, 0), (1, 1)]);
        (0..n).fold(cat(), |request, _| request.dynamic_mask(mask()))
    };
    recorded(&with_masks(6));
    assert_invalid(&with_masks(7), "dynamic_masks", &["7", "6"]);
}

#[test]
fn trajectory_must_have_2_to_77_points() {
    let with_points = |n: i32| cat().dynamic_mask(DynamicMask::new(mask(), (0..n).map(|i| (i, i))));
    recorded(&with_points(2));
    recorded(&with_points(77));
    for n in [0, 1, 78] {
        assert_invalid(&with_points(n), "dynamic_masks", &[&n.to_string(), "2 to 77"]);
    }
}

#[test]
fn camera_amount_must_be_within_10_and_not_zero() {
    let movements: [fn(f64) -> CameraControl; 6] = [
        CameraControl::Horizontal,
        CameraControl::Vertical,
        CameraControl::Pan,
        CameraControl::Tilt,
        CameraControl::Roll,
        CameraControl::Zoom,
    ];
    for camera in movements {
        for (amount, displayed) in
            [(10.01, "10.01"), (-10.01, "-10.01"), (0.0, "is 0;"), (-0.0, "0"), (f64::NAN, "NaN")]
        {
            let request = cat().camera_control(camera(amount));
            assert_invalid(&request, "camera_control", &[displayed, "between -10 and 10"]);
        }
    }
}

#[test]
fn masks_and_camera_control_are_mutually_exclusive() {
    let camera = cat().camera_control(CameraControl::ForwardUp);
    let dynamic_mask = DynamicMask::new(mask(), [(0, 0), (1, 1)]);
    assert_invalid(&camera.clone().static_mask(mask()), "camera_control", &["masks"]);
    assert_invalid(&camera.dynamic_mask(dynamic_mask), "camera_control", &["masks"]);
}

#[test]
fn request_can_be_cloned_compared_and_sent_again() {
    let sandbox = sandbox();
    let request = cat().prompt("first");
    let copy = request.clone();
    assert_eq!(copy, request);
    assert_ne!(copy.clone().prompt("second"), request);
    assert_eq!(create_on(&sandbox, &request).request, create_on(&sandbox, &copy).request);
}

#[test]
fn setter_called_twice_keeps_last_value() {
    let sent = sent(&cat().prompt("one").prompt("two").cfg_scale(0.1).cfg_scale(0.75));
    assert_eq!((&sent["prompt"], &sent["cfg_scale"]), (&json!("two"), &json!(0.75)));
}
