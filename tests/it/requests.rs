//! What goes out: exactly what was asked for, and nothing that breaks a documented rule.

use kling_video::{
    CameraControl, Client, DynamicMask, Error, ErrorKind, Image, ImageToVideo, MODEL, Route,
    Sandbox, SandboxGeneration, VideoLength,
};
use serde_json::{Value, json};

use crate::common::{fixture, once, png, request, sandbox};

const CAT: &str = "https://example.com/cat.jpg";
const MASK: &str = "https://example.com/mask.png";

fn cat() -> ImageToVideo {
    ImageToVideo::new(Image::url(CAT))
}

fn mask() -> Image {
    Image::url(MASK)
}

/// What the sandbox has kept of a request, which is strict about what it takes.
fn kept(request: &ImageToVideo) -> SandboxGeneration {
    let sandbox = sandbox();
    create_on(&sandbox, request)
}

fn create_on(sandbox: &Sandbox, request: &ImageToVideo) -> SandboxGeneration {
    once(sandbox).create(request).unwrap();
    sandbox.generations().pop().unwrap()
}

fn sent(request: &ImageToVideo) -> Value {
    kept(request).request
}

/// The error of a request that breaks a rule: the same from a check and from a create, and the
/// server never hears of it.
fn refused(request: &ImageToVideo) -> Error {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let error = client.create(request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    assert!(!error.is_retryable() && !error.may_have_been_billed());
    assert!(sandbox.requests().is_empty(), "{:?}", sandbox.requests());
    assert_eq!(sandbox.connections(), 0);
    let checked = request.validate().unwrap_err();
    assert_eq!((checked.field(), checked.to_string()), (error.field(), error.to_string()));
    error
}

/// It is refused because of `field`, and the message tells all of `words`.
fn assert_refused(request: &ImageToVideo, field: &str, words: &[&str]) {
    let error = refused(request);
    assert_eq!(error.field(), Some(field), "{error}");
    let message = error.to_string();
    for word in [&[field, "allowed"], words].concat() {
        assert!(message.contains(word), "{word:?} is not in {message:?}");
    }
}

// ---------------------------------------------------------------- on the wire

#[test]
fn a_field_that_is_not_set_is_absent() {
    let expected = json!({ "model": MODEL, "type": "image-to-video", "image_url": CAT });
    assert_eq!(sent(&cat()), expected);
}

#[test]
fn everything_that_is_set_goes_out_under_its_documented_name() {
    let request = cat()
        .prompt("a \"cat\"\n stretches 🐈")
        .negative_prompt("blur")
        .duration(VideoLength::TenSeconds)
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
fn the_length_is_an_integer() {
    for (length, seconds) in [(VideoLength::FiveSeconds, 5), (VideoLength::TenSeconds, 10)] {
        let sent = sent(&cat().duration(length));
        assert!(sent["duration"].is_u64());
        assert_eq!(sent["duration"], seconds);
    }
}

#[test]
fn a_simple_camera_movement_has_its_axis_alone() {
    for (camera, axis, by) in [
        (CameraControl::Horizontal(-10.0), "horizontal", -10.0),
        (CameraControl::Vertical(10.0), "vertical", 10.0),
        (CameraControl::Pan(0.5), "pan", 0.5),
        (CameraControl::Tilt(-0.5), "tilt", -0.5),
        (CameraControl::Roll(3.0), "roll", 3.0),
        (CameraControl::Zoom(9.99), "zoom", 9.99),
    ] {
        let expected = json!({ "type": "simple", "config": { axis: by } });
        assert_eq!(sent(&cat().camera_control(camera))["camera_control"], expected);
    }
}

#[test]
fn a_composed_camera_movement_has_no_config() {
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
fn masks_may_be_pictures_of_any_dimensions() {
    let small = Image::bytes(png(8, 8, 100));
    let points = [(0, 0), (1, 1)];
    let request = cat().static_mask(small.clone()).dynamic_mask(DynamicMask::new(small, points));
    let sent = sent(&request);
    assert_eq!(sent["static_mask"], "data:image/png;base64,");
    assert_eq!(sent["dynamic_masks"][0]["mask"], "data:image/png;base64,");
}

#[test]
fn the_picture_arrives_as_it_is() {
    let file = fixture("picture.jpg");
    let kept = kept(&ImageToVideo::new(Image::file(&file)).prompt("the cat yawns"));
    assert_eq!(kept.picture, Some(std::fs::read(&file).unwrap()));
    assert_eq!(
        kept.request,
        json!({
            "model": MODEL, "type": "image-to-video", "prompt": "the cat yawns",
            "image_url": "data:image/jpeg;base64,",
        })
    );
}

#[test]
fn a_link_to_a_picture_goes_out_byte_for_byte() {
    let link = "https://example.com/a%2fb%2F+c?sig=%3d&x=é~#part";
    assert_eq!(sent(&ImageToVideo::new(Image::url(link)))["image_url"], link);
}

#[test]
fn a_links_scheme_may_be_in_capitals() {
    let link = "HTTPS://example.com/cat.jpg";
    let request = ImageToVideo::new(Image::url(link));
    request.validate().unwrap();
    assert_eq!(sent(&request)["image_url"], link);
}

#[test]
fn the_headers_say_what_the_body_is() {
    let sandbox = sandbox();
    create_on(&sandbox, &request());
    let seen = sandbox.requests().pop().unwrap();
    assert_eq!(seen.header("authorization"), Some("Bearer sandbox-key"));
    assert_eq!(seen.header("content-type"), Some("application/json"));
    assert_eq!(seen.header("content-length"), Some(seen.body_bytes.to_string().as_str()));
    assert_eq!(seen.header("transfer-encoding"), None);
    assert_eq!(seen.header("expect"), None);
    assert!(seen.complete);
}

#[test]
fn a_client_request_id_of_ones_own_is_the_header() {
    for own in ["order-4711", "a", "A.b_c:d-9", &"x".repeat(128)] {
        let sandbox = sandbox();
        let kept = create_on(&sandbox, &cat().client_request_id(own));
        assert_eq!(kept.client_request_id.as_deref(), Some(own));
        let header = sandbox.requests()[0].header("x-client-request-id").map(str::to_owned);
        assert_eq!(header.as_deref(), Some(own));
    }
}

#[test]
fn every_create_has_a_client_request_id_and_another_one_each_time() {
    let sandbox = sandbox();
    let ids = [0; 3].map(|_| create_on(&sandbox, &cat()).client_request_id.unwrap());
    assert!(ids[0] != ids[1] && ids[1] != ids[2] && ids[0] != ids[2], "{ids:?}");
}

// ---------------------------------------------------------------- what this crate does not know

#[test]
fn an_unknown_field_is_sent_with_any_value() {
    let sandbox = sandbox();
    let values =
        [json!("https://a/b"), json!(7), json!(0.5), json!(true), json!(null), json!({ "a": [1] })];
    for value in values {
        sandbox.allow_field("tail_image_url");
        let kept = create_on(&sandbox, &cat().extra("tail_image_url", value.clone()));
        assert_eq!(kept.request.get("tail_image_url"), Some(&value));
        assert_eq!(kept.request["image_url"], CAT);
    }
}

#[test]
fn an_unknown_field_is_the_servers_to_refuse() {
    let sandbox = sandbox();
    let error = once(&sandbox).create(&cat().extra("tail_image_url", json!("x"))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
    assert!(error.api_message().unwrap().contains("tail_image_url"), "{error}");
}

#[test]
fn an_extra_field_may_not_overwrite_a_known_one() {
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
        assert_refused(&request, known, &["extra field"]);
    }
}

#[test]
fn another_model_of_the_route_can_be_named() {
    let sandbox = sandbox();
    let other = "kling-video/v2.1/standard/image-to-video";
    sandbox.allow_model(other);
    assert_eq!(create_on(&sandbox, &cat().model(other)).request["model"], other);
}

#[test]
fn an_unknown_model_is_the_servers_to_refuse() {
    let sandbox = sandbox();
    let error = once(&sandbox).create(&cat().model("kling-video/v9")).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)));
}

// ---------------------------------------------------------------- both routes

fn targets(client: &Client, sandbox: &Sandbox) -> Vec<(String, String)> {
    let created = client.create(&request()).unwrap();
    client.retrieve(&created.id).unwrap();
    let seen = sandbox.requests().into_iter();
    seen.map(|seen| (seen.method, seen.target.replace(created.id.as_ref(), "ID"))).collect()
}

#[test]
fn klings_route_is_the_default() {
    let sandbox = sandbox();
    let path = "/v2/generate/video/kling/generation";
    assert_eq!(
        targets(&once(&sandbox), &sandbox),
        [
            ("POST".to_owned(), path.to_owned()),
            ("GET".to_owned(), format!("{path}?generation_id=ID")),
        ]
    );
}

#[test]
fn the_universal_route_is_another_path_for_both() {
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
fn both_routes_send_the_same_body() {
    let sandbox = sandbox();
    let request = request().duration(VideoLength::FiveSeconds).cfg_scale(1.0);
    for route in [Route::Kling, Route::Universal] {
        sandbox.client_builder().route(route).build().unwrap().create(&request).unwrap();
    }
    let [one, other] = &sandbox.generations()[..] else { panic!("not two") };
    assert_eq!(one.request, other.request);
}

// ---------------------------------------------------------------- each rule of the API

#[test]
fn a_model_has_a_name() {
    assert_refused(&cat().model(""), "model", &["is empty"]);
}

#[test]
fn a_prompt_has_at_most_2500_characters() {
    kept(&cat().prompt("é".repeat(2_500)));
    assert_refused(&cat().prompt("é".repeat(2_501)), "prompt", &["2501", "2500"]);
}

#[test]
fn a_negative_prompt_has_at_most_2500_characters() {
    kept(&cat().negative_prompt("é".repeat(2_500)));
    let long = cat().negative_prompt("é".repeat(2_501));
    assert_refused(&long, "negative_prompt", &["2501", "2500"]);
}

#[test]
fn an_empty_prompt_is_one() {
    let sent = sent(&cat().prompt("").negative_prompt(""));
    assert_eq!((&sent["prompt"], &sent["negative_prompt"]), (&json!(""), &json!("")));
}

#[test]
fn a_cfg_scale_lies_between_0_and_1() {
    for edge in [0.0, 1.0] {
        kept(&cat().cfg_scale(edge));
    }
    for (outside, shown) in [
        (-0.001, "-0.001"),
        (1.001, "1.001"),
        (f64::NAN, "NaN"),
        (f64::INFINITY, "inf"),
        (f64::NEG_INFINITY, "-inf"),
    ] {
        assert_refused(&cat().cfg_scale(outside), "cfg_scale", &[shown, "0.0 to 1.0"]);
    }
}

#[test]
fn an_external_task_id_is_not_empty() {
    assert_refused(&cat().external_task_id(""), "external_task_id", &["is empty"]);
}

#[test]
fn a_client_request_id_has_1_to_128_of_the_headers_characters() {
    for bad in ["", "a b", "a/b", "é", "a\nb", &"x".repeat(129)] {
        let request = cat().client_request_id(bad);
        assert_refused(&request, "client_request_id", &[&format!("{bad:?}"), "1 to 128"]);
    }
}

#[test]
fn a_picture_link_is_http_or_https() {
    kept(&ImageToVideo::new(Image::url("http://example.com/cat.jpg")));
    for bad in ["ftp://example.com/cat.jpg", "file:///cat.jpg", "cat.jpg", "", "/cat.jpg"] {
        let request = ImageToVideo::new(Image::url(bad));
        assert_refused(&request, "image_url", &[&format!("{bad:?}"), "https://"]);
    }
}

#[test]
fn a_picture_link_is_complete() {
    for bad in ["https:", "https://", "https:///cat.jpg", "https://?a", "https:/example.com/c"] {
        let error = refused(&ImageToVideo::new(Image::url(bad)));
        assert_eq!(error.field(), Some("image_url"), "{error}");
        assert!(error.to_string().contains(&format!("{bad:?} is not a complete link")), "{error}");
    }
}

#[test]
fn a_picture_link_holds_no_white_space() {
    for bad in
        ["https://example.com/a cat.jpg", "https://example.com/\ncat.jpg", "https://e.com/a "]
    {
        let error = refused(&ImageToVideo::new(Image::url(bad)));
        assert_eq!(error.field(), Some("image_url"), "{error}");
    }
}

#[test]
fn a_data_uri_is_refused_with_a_hint_and_without_the_picture() {
    for scheme in ["data", "DATA"] {
        let uri = format!("{scheme}:image/png;base64,{}", "iVBORw0KGgo".repeat(1_000));
        let error = refused(&ImageToVideo::new(Image::url(uri)));
        let message = error.to_string();
        assert!(message.contains("Image::bytes") && message.contains("Image::file"), "{message}");
        assert!(!message.contains("iVBOR"), "{message}");
    }
}

#[test]
fn masks_follow_the_rules_of_links_and_pictures() {
    let points = [(0, 0), (1, 1)];
    for bad in [
        Image::url("ftp://example.com/mask.png"),
        Image::bytes(b"GIF89a".to_vec()),
        Image::bytes(Vec::new()),
    ] {
        let static_mask = refused(&cat().static_mask(bad.clone()));
        assert_eq!(static_mask.field(), Some("static_mask"), "{static_mask}");
        let dynamic = refused(&cat().dynamic_mask(DynamicMask::new(bad, points)));
        assert_eq!(dynamic.field(), Some("dynamic_masks"), "{dynamic}");
    }
}

#[test]
fn at_most_6_parts_move() {
    let moving = |n: usize| {
        let mask = || DynamicMask::new(mask(), [(0, 0), (1, 1)]);
        (0..n).fold(cat(), |request, _| request.dynamic_mask(mask()))
    };
    kept(&moving(6));
    assert_refused(&moving(7), "dynamic_masks", &["7", "6"]);
}

#[test]
fn a_trajectory_has_2_to_77_points() {
    let along = |n: i32| cat().dynamic_mask(DynamicMask::new(mask(), (0..n).map(|i| (i, i))));
    kept(&along(2));
    kept(&along(77));
    for n in [0, 1, 78] {
        assert_refused(&along(n), "dynamic_masks", &[&n.to_string(), "2 to 77"]);
    }
}

#[test]
fn a_camera_moves_by_up_to_10_and_not_by_0() {
    let moves: [fn(f64) -> CameraControl; 6] = [
        CameraControl::Horizontal,
        CameraControl::Vertical,
        CameraControl::Pan,
        CameraControl::Tilt,
        CameraControl::Roll,
        CameraControl::Zoom,
    ];
    for camera in moves {
        for (by, shown) in
            [(10.01, "10.01"), (-10.01, "-10.01"), (0.0, "by 0"), (-0.0, "0"), (f64::NAN, "NaN")]
        {
            let request = cat().camera_control(camera(by));
            assert_refused(&request, "camera_control", &[shown, "-10 to 10"]);
        }
    }
}

#[test]
fn masks_and_camera_exclude_each_other() {
    let camera = cat().camera_control(CameraControl::ForwardUp);
    let moving = DynamicMask::new(mask(), [(0, 0), (1, 1)]);
    assert_refused(&camera.clone().static_mask(mask()), "camera_control", &["masks"]);
    assert_refused(&camera.dynamic_mask(moving), "camera_control", &["masks"]);
}

#[test]
fn a_request_can_be_kept_compared_and_sent_again() {
    let sandbox = sandbox();
    let request = cat().prompt("again");
    let copy = request.clone();
    assert_eq!(copy, request);
    assert_ne!(copy.clone().prompt("not again"), request);
    assert_eq!(create_on(&sandbox, &request).request, create_on(&sandbox, &copy).request);
}

#[test]
fn a_setter_called_twice_keeps_the_last_value() {
    let sent = sent(&cat().prompt("one").prompt("two").cfg_scale(0.1).cfg_scale(0.75));
    assert_eq!((&sent["prompt"], &sent["cfg_scale"]), (&json!("two"), &json!(0.75)));
}
