//! Images as people have them: kinds of files, odd URLs, files that change, and the rules of models.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, SystemTime};

use kling_video::sandbox::Sandbox;
use kling_video::{
    CameraControl, Client, DynamicMask, Error, ErrorKind, EventKind, Image, ImageToVideo, MODEL,
};
use serde_json::json;

use crate::helpers::clients::{no_retry_client, request, sandbox};
use crate::helpers::files::TestDir;
use crate::helpers::media::{JPEG_START, jfif_segment, jpeg_frame, png, png_of_len};
use crate::helpers::tcp_server::RawServer;

const OTHER_MODEL: &str = "kling-video/v9/pro/image-to-video";

fn validate_bytes(data: impl Into<Vec<u8>>) -> Result<(), Error> {
    ImageToVideo::new(Image::bytes(data)).validate()
}

fn invalid(request: &ImageToVideo) -> String {
    let error = request.validate().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{error}");
    error.to_string()
}

// ---------------------------------------------------------------- files

#[test]
fn stray_bytes_between_jpeg_segments_are_skipped() {
    let frame = jpeg_frame(0xC0, 400, 300);
    for stray in [&b"\0"[..], b"junk", b"\xFF\0", b"\xFF\xFF\0\0\xFF\0", &[7; 5_000]] {
        let jpeg = [JPEG_START, &jfif_segment(), stray, &frame, stray].concat();
        validate_bytes(jpeg).unwrap();
        let small = [JPEG_START, &jfif_segment(), stray, &jpeg_frame(0xC2, 200, 300)].concat();
        assert!(invalid(&ImageToVideo::new(Image::bytes(small))).contains("200x300"));
    }
    let only_stray = [JPEG_START, &jfif_segment(), &[7; 5_000]].concat();
    assert!(invalid(&ImageToVideo::new(Image::bytes(only_stray))).contains("truncated"));
}

#[test]
fn other_kinds_of_files_are_named() {
    let cgbi = b"\x89PNG\r\n\x1a\n\0\0\0\x04CgBI\x50\0\x20\x02\0\0\0\0\0\0\0\rIHDR";
    for (start, name) in [
        (&cgbi[..], "CgBI"),
        (b"RIFF\x24\0\0\0WEBPVP8X", "a WebP"),
        (b"\0\0\0\x1Cftypavif\0\0\0\0", "an AVIF"),
        (b"\0\0\0\x1Cftypavis\0\0\0\0", "an AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "a HEIC"),
        (b"\0\0\0\x18ftypheix\0\0\0\0", "a HEIC"),
        (b"\0\0\0\x18ftyphevc\0\0\0\0", "a HEIC"),
        (b"\0\0\0\x18ftypmif1\0\0\0\0", "a HEIF"),
        (b"\0\0\0\x18ftypmsf1\0\0\0\0", "a HEIF"),
        (b"\0\0\0\x18ftypisom\0\0\0\0", "a video"),
        (b"\0\0\0\x14ftypqt  \0\0\0\0", "a video"),
    ] {
        let message = invalid(&ImageToVideo::new(Image::bytes([start, &[0; 100]].concat())));
        assert!(message.contains(name) && message.contains("not a JPEG or PNG image"), "{message}");
    }
}

#[test]
fn path_and_url_that_are_mistaken_for_each_other_say_so() {
    for url in ["https://example.com/cat.jpg", "HTTP://example.com/cat.jpg"] {
        assert!(invalid(&ImageToVideo::new(Path::new(url))).contains("use Image::url"));
    }
    for path in ["cat.jpg", "/home/me/cat.jpg", "./cat.jpg", r"C:\cat.jpg", "file:///cat.jpg", ""] {
        assert!(
            invalid(&ImageToVideo::new(Image::url(path))).contains("use Image::file"),
            "{path}"
        );
    }
    let data_uri = format!("data:image/png;base64,{}", "iVBORw0KGgo".repeat(1_000));
    let message = invalid(&ImageToVideo::new(Image::file(data_uri)));
    assert!(message.contains("use Image::bytes") && !message.contains("iVBOR"), "{message}");
}

// ---------------------------------------------------------------- URLs

#[test]
fn url_is_percent_encoded_where_it_is_not_a_valid_uri() {
    let sandbox = sandbox();
    for (url, sent) in [
        ("https://example.com/vidéo.jpg", "https://example.com/vid%C3%A9o.jpg"),
        ("https://example.com/a|b{c}.jpg", "https://example.com/a%7Cb%7Bc%7D.jpg"),
        (r#"https://example.com/"a"\b`^.jpg"#, "https://example.com/%22a%22%5Cb%60%5E.jpg"),
        ("https://example.com/<a>[1].jpg", "https://example.com/%3Ca%3E%5B1%5D.jpg"),
        (
            "https://example.com/100%.jpg?a=%zz&b=%4",
            "https://example.com/100%25.jpg?a=%25zz&b=%254",
        ),
        ("https://example.com?a=[b#c#d", "https://example.com?a=%5Bb#c%23d"),
        ("https://[::1]:8080/a.jpg", "https://[::1]:8080/a.jpg"),
        // Signed URLs are valid and stay as they are, to the byte.
        (
            "https://me:pw@example.com:443/a%2fb%2F+c;d=(1)/?sig=%3d&x=~!$'*,@:#part?/",
            "https://me:pw@example.com:443/a%2fb%2F+c;d=(1)/?sig=%3d&x=~!$'*,@:#part?/",
        ),
    ] {
        no_retry_client(&sandbox)
            .create(&ImageToVideo::new(Image::url(url)).static_mask(Image::url(url)))
            .unwrap();
        let recorded = sandbox.generations().pop().unwrap().request;
        assert_eq!(
            (&recorded["image_url"], &recorded["static_mask"]),
            (&json!(sent), &json!(sent))
        );
    }
}

#[test]
fn url_with_an_invalid_host_is_rejected() {
    for url in [
        "https://[::1/cat.jpg",
        "https://::1]/cat.jpg",
        "https://[example.com]/cat.jpg",
        "https://[::1]x/cat.jpg",
        "https://bücher.example/cat.jpg",
        "https://exa|mple.com/cat.jpg",
        "https://{host}/cat.jpg",
        "https://example.com:port/cat.jpg",
        r"https://example.com\cat.jpg",
        "https://me@/cat.jpg",
        "https://%zz/cat.jpg",
    ] {
        let message = invalid(&ImageToVideo::new(Image::url(url)));
        assert!(message.contains("must have a valid host"), "{url}: {message}");
    }
}

// ---------------------------------------------------------------- rules of models

/// Requests that break one rule of Kling 2.1 each.
fn invalid_for_the_default_model() -> Vec<ImageToVideo> {
    let mask = || Image::url("https://example.com/mask.png");
    let points = |n| DynamicMask::new(mask(), (0..n).map(|i| (i, i)));
    vec![
        request().prompt("é".repeat(2_501)),
        request().negative_prompt("é".repeat(2_501)),
        request().cfg_scale(1.5),
        request().camera_control(CameraControl::Zoom(11.0)),
        request().camera_control(CameraControl::Pan(0.0)),
        request().camera_control(CameraControl::DownBack).static_mask(mask()),
        request().dynamic_mask(points(1)),
        (0..7).fold(request(), |request, _| request.dynamic_mask(points(2))),
        request().static_mask(Image::bytes(png_of_len(10 * 1024 * 1024 + 1))),
        ImageToVideo::new(Image::bytes(png_of_len(10 * 1024 * 1024 + 1))),
        ImageToVideo::new(Image::bytes(png(299, 300, 0))),
        ImageToVideo::new(Image::bytes(png(751, 300, 0))),
        ImageToVideo::new(Image::bytes(png(400, 300, 0)[..20].to_vec())),
        ImageToVideo::new(Image::bytes(b"RIFF\x24\0\0\0WEBPVP8X".to_vec())),
    ]
}

#[test]
fn rules_of_the_model_are_left_to_the_server_for_other_models() {
    let sandbox = sandbox();
    sandbox.allow_model(OTHER_MODEL);
    for request in invalid_for_the_default_model() {
        invalid(&request.clone().model(MODEL));
        let other = request.model(OTHER_MODEL);
        other.validate().unwrap_or_else(|error| panic!("{error}"));
        // The server's word, which here is no.
        let error = no_retry_client(&sandbox).create(&other).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(400)), "{error}");
    }
}

#[test]
fn request_that_json_cannot_hold_is_rejected_for_every_model() {
    for request in [
        request().model(""),
        request().cfg_scale(f64::NAN),
        request().camera_control(CameraControl::Zoom(f64::INFINITY)),
        request().static_mask(Image::bytes(Vec::new())),
        request().client_request_id("a b"),
        request().extra("prompt", json!("x")),
        ImageToVideo::new(Image::bytes(Vec::new())),
        ImageToVideo::new(Image::bytes(b"hello".to_vec())),
        ImageToVideo::new(Image::bytes(b"\0\0\0\x18ftypisom\0\0\0\0".to_vec())),
        ImageToVideo::new(Image::url("cat.jpg")),
    ] {
        invalid(&request);
        let is_empty_model = invalid(&request.clone()).contains("`model`");
        if !is_empty_model {
            invalid(&request.model(OTHER_MODEL));
        }
    }
}

#[test]
fn media_type_of_every_image_is_declared_to_other_models() {
    let (sender, bodies) = mpsc::channel();
    let server = RawServer::start(move |mut stream| {
        let mut body = Vec::new();
        while !body.ends_with(b"}") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            body.push(byte[0]);
        }
        sender.send(String::from_utf8(body).unwrap()).unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").unwrap();
    });
    let client = Client::builder("key").base_url(server.url()).build().unwrap();
    for (start, prefix) in [
        (&b"\xFF\xD8\xFF"[..], "data:image/jpeg;base64,/9j/"),
        (b"\x89PNG\r\n\x1a\n", "data:image/png;base64,iVBORw0KGgo"),
        (b"GIF89a", "data:image/gif;base64,R0lGODlh"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "data:image/webp;base64,UklGR"),
        (b"BM\x36\0\0\0", "data:image/bmp;base64,Qk02"),
        (b"\0\0\0\x1Cftypavif", "data:image/avif;base64,AAAAHGZ0eXBhdmlm"),
        (b"\0\0\0\x18ftypheic", "data:image/heic;base64,AAAAGGZ0eXBoZWlj"),
        (b"\0\0\0\x18ftypmif1", "data:image/heif;base64,AAAAGGZ0eXBtaWYx"),
        (b"II\x2A\0\x08\0\0\0", "data:image/tiff;base64,SUkqAAgA"),
    ] {
        let image = Image::bytes([start, &[0; 100]].concat());
        let error = client.create(&ImageToVideo::new(image).model(OTHER_MODEL)).unwrap_err();
        assert_eq!(error.status(), Some(400), "{error}");
        let body = bodies.recv().unwrap();
        assert!(body.contains(&format!("\"image_url\":\"{prefix}")), "{body}");
    }
}

#[test]
fn empty_external_task_id_is_sent() {
    let sandbox = sandbox();
    let sent = no_retry_client(&sandbox).create(&request().external_task_id(""));
    assert!(sent.is_ok() || sent.unwrap_err().status() == Some(400));
    assert_eq!(sandbox.requests().len(), 1);
}

// ---------------------------------------------------------------- files that change

/// How a file changes while it is sent.
const CHANGES: [fn(&Path); 3] = [
    // Another length.
    |path| fs::write(path, png_of_len(300_001)).unwrap(),
    |path| File::options().write(true).open(path).unwrap().set_len(299_999).unwrap(),
    // Other bytes, of the same length.
    |path| fs::write(path, [png_of_len(200_000), vec![7; 100_000]].concat()).unwrap(),
];

/// A client that changes the image file when it has sent some of it.
fn changing_client(sandbox: &Sandbox, image: &Path, change: fn(&Path)) -> Client {
    let image = image.to_owned();
    let changed = std::sync::Once::new();
    let handler = move |event: &kling_video::Event<'_>| {
        if let EventKind::Uploading { sent, total, .. } = event.kind {
            assert!(sent < total, "the last byte is about to be sent");
            changed.call_once(|| change(&image));
        }
    };
    sandbox.client_builder().event_handler(handler).build().unwrap()
}

fn old_image(path: &Path) {
    fs::write(path, png_of_len(300_000)).unwrap();
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(60)).unwrap();
}

#[test]
fn image_file_that_changes_during_the_upload_is_not_sent() {
    for (n, change) in CHANGES.into_iter().enumerate() {
        let (sandbox, dir) = (sandbox(), TestDir::new());
        let image = dir.path().join("cat.png");
        let request = ImageToVideo::new(image.as_path());

        old_image(&image);
        let client = changing_client(&sandbox, &image, change);
        let error = client.create(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{n}: {error}");
        assert!(error.to_string().contains("cat.png") && error.to_string().contains("changed"));
        assert!(!error.may_have_been_billed(), "{n}");

        old_image(&image);
        let client = changing_client(&sandbox, &image, change);
        let error = client.generate_to(&request, &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{n}: {error}");
        assert_eq!(dir.journal_steps(), ["intent"], "{n}");
        assert!(sandbox.generations().is_empty(), "{n}: {:?}", sandbox.requests());

        // Nothing is in the way of the next run.
        old_image(&image);
        let client = no_retry_client(&sandbox);
        client.generate_to(&request, &dir.target).unwrap();
    }
}

#[test]
fn image_file_that_is_only_touched_before_it_is_opened_is_sent() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let image = dir.path().join("cat.png");
    old_image(&image);
    let client = no_retry_client(&sandbox);
    client.create(&ImageToVideo::new(image.as_path())).unwrap();
    fs::write(&image, png_of_len(5_000)).unwrap();
    client.create(&ImageToVideo::new(image.as_path())).unwrap();
    assert_eq!(sandbox.generations().len(), 2);
}
