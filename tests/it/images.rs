//! Images: where they come from, which ones are valid, and how they are sent.

use std::fs;
use std::path::{Path, PathBuf};

use kling_video::sandbox::Sandbox;
use kling_video::{Client, Error, ErrorKind, Image, ImageToVideo};

use crate::helpers::clients::{no_retry_client, request, sandbox, test_client};
use crate::helpers::files::{TestDir, fixture};
use crate::helpers::media::{
    JPEG_START, jfif_segment, jpeg, jpeg_frame, jpeg_segment, png, png_of_len,
};
#[cfg(target_os = "linux")]
use crate::helpers::process_status;
use crate::helpers::subprocess::{emit_result, run_in_subprocess};
use crate::helpers::timing::with_timeout;

const MIB: usize = 1024 * 1024;

fn validate(image: Image) -> Result<(), Error> {
    ImageToVideo::new(image).validate()
}

fn validate_bytes(data: impl Into<Vec<u8>>) -> Result<(), Error> {
    validate(Image::bytes(data))
}

/// The error message for an invalid image.
fn rejection(image: Image) -> String {
    let error = validate(image).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("image_url")));
    let message = error.to_string();
    assert!(states_rule(&message), "{message}");
    message
}

fn states_rule(message: &str) -> bool {
    message.contains("must") || message.contains("not a JPEG or PNG image")
}

fn rejection_of_bytes(data: impl Into<Vec<u8>>) -> String {
    rejection(Image::bytes(data))
}

/// An EXIF segment with a thumbnail, whose frame header has other dimensions than the image.
fn exif() -> Vec<u8> {
    let thumbnail = [JPEG_START, &jpeg_frame(0xC0, 160, 120)].concat();
    jpeg_segment(0xE1, &[b"Exif\0\0MM\0\x2A\0\0\0\x08", &thumbnail[..], &[0; 30_000]].concat())
}

// ---------------------------------------------------------------- media types

#[test]
fn images_of_both_formats_are_valid() {
    for name in ["image.jpg", "image.png"] {
        validate(Image::file(fixture(name))).unwrap();
        validate_bytes(fs::read(fixture(name)).unwrap()).unwrap();
    }
}

#[test]
fn media_type_comes_from_first_bytes_not_file_name() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox();
    for (name, data, data_uri) in [
        ("a.jpg", png(400, 300, 500), "data:image/png;base64,"),
        ("a.png", jpeg(400, 300), "data:image/jpeg;base64,"),
        ("noname", jpeg(400, 300), "data:image/jpeg;base64,"),
    ] {
        let path = dir.path().join(name);
        fs::write(&path, data).unwrap();
        no_retry_client(&sandbox).create(&ImageToVideo::new(path)).unwrap();
        assert_eq!(sandbox.generations().pop().unwrap().request["image_url"], data_uri, "{name}");
    }
}

#[test]
fn unsupported_format_is_named_in_error() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("cat.png");
    for (start, format) in [
        (&b"GIF89a"[..], "GIF"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WebP"),
        (b"BM\x36\0\0\0", "BMP"),
        (b"\0\0\0\x1Cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"II\x2A\0\x08\0\0\0", "TIFF"),
        (b"<svg xmlns=\"a\"/>", "SVG"),
        (b"hello", "is not a JPEG or PNG image"),
        (b"\x89PNG\r\n\x1a", "is not a JPEG or PNG image"),
        (b"\xFF\xD8", "is not a JPEG or PNG image"),
    ] {
        fs::write(&path, [start, &[0; 100]].concat()).unwrap();
        let message = rejection(Image::file(&path));
        assert!(message.contains(format) && message.contains("JPEG or PNG"), "{message}");
        assert!(message.contains("cat.png"), "{message}");
    }
}

// ---------------------------------------------------------------- dimensions

#[test]
fn image_side_must_be_at_least_300_pixels() {
    for (width, height) in [(300, 300), (300, 301), (750, 300)] {
        validate_bytes(png(width, height, 0)).unwrap();
        validate_bytes(jpeg(width as u16, height as u16)).unwrap();
    }
    for (width, height) in [(299, 300), (300, 299), (299, 299), (0, 0), (1, 1_000)] {
        let dimensions = format!("{width}x{height}");
        for data in [png(width, height, 0), jpeg(width as u16, height as u16)] {
            let message = rejection_of_bytes(data);
            assert!(message.contains(&dimensions) && message.contains("300"), "{message}");
        }
    }
}

#[test]
fn aspect_ratio_must_be_within_1_to_2_5_and_2_5_to_1() {
    for (width, height) in [(750, 300), (300, 750), (2_500, 1_000), (1_000, 2_500)] {
        validate_bytes(png(width, height, 0)).unwrap();
    }
    for (width, height) in [(751, 300), (300, 751), (2_501, 1_000), (1_000, 2_501)] {
        let message = rejection_of_bytes(png(width, height, 0));
        let dimensions = format!("{width}x{height}");
        assert!(
            message.contains(&dimensions) && message.contains("between 1:2.5 and 2.5:1"),
            "{message}"
        );
    }
}

#[test]
fn aspect_ratio_of_huge_dimensions_does_not_overflow() {
    validate_bytes(png(u32::MAX, u32::MAX, 0)).unwrap();
    rejection_of_bytes(png(u32::MAX, 300, 0));
}

#[test]
fn exif_before_frame_is_skipped() {
    validate_bytes([JPEG_START, &exif(), &jfif_segment(), &jpeg_frame(0xC0, 400, 300)].concat())
        .unwrap();
    let small = [JPEG_START, &exif(), &jpeg_frame(0xC0, 200, 300)].concat();
    assert!(
        rejection_of_bytes(small).contains("200x300"),
        "dimensions of the image, not of its thumbnail"
    );
}

#[test]
fn jpeg_segments_may_be_in_any_order() {
    let quantization = jpeg_segment(0xDB, &[1; 65]);
    // Its marker is in the range of the frame markers, but it is not a frame.
    let huffman = jpeg_segment(0xC4, &jpeg_frame(0xC0, 1, 1));
    let arithmetic = jpeg_segment(0xCC, &[0; 4]);
    let comment = jpeg_segment(0xFE, b"made for a test");
    let empty = jpeg_segment(0xED, b"");
    let full = jpeg_segment(0xE2, &vec![0xFF; 65_533]);
    let frame = jpeg_frame(0xC0, 400, 300);
    for parts in [
        vec![&huffman, &quantization, &frame],
        vec![&comment, &arithmetic, &huffman, &empty, &frame],
        vec![&full, &full, &quantization, &frame, &huffman],
        vec![&frame, &quantization],
    ] {
        let parts: Vec<u8> = parts.into_iter().flatten().copied().collect();
        validate_bytes([JPEG_START, &parts[..]].concat()).unwrap();
    }
}

#[test]
fn jpeg_dimensions_are_read_from_every_frame_type() {
    let markers = (0xC0..=0xCF).filter(|marker| ![0xC4, 0xC8, 0xCC].contains(marker));
    for marker in markers {
        let small = [JPEG_START, &jfif_segment(), &jpeg_frame(marker, 400, 200)].concat();
        assert!(rejection_of_bytes(small).contains("400x200"), "{marker:x}");
        validate_bytes([JPEG_START, &jfif_segment(), &jpeg_frame(marker, 400, 300)].concat())
            .unwrap();
    }
}

#[test]
fn progressive_jpeg_is_sent_unchanged() {
    let sandbox = sandbox();
    let progressive = [JPEG_START, &jfif_segment(), &jpeg_frame(0xC2, 400, 300)].concat();
    let image = Image::bytes(progressive.clone());
    no_retry_client(&sandbox).create(&ImageToVideo::new(image)).unwrap();
    assert_eq!(sandbox.generations()[0].image, Some(progressive));
}

#[test]
fn jpeg_fill_bytes_and_standalone_markers_are_skipped() {
    let frame = jpeg_frame(0xC0, 400, 300);
    let fill = [0xFF; 5];
    validate_bytes([JPEG_START, &fill, &jfif_segment(), &fill, &frame].concat()).unwrap();
    validate_bytes([JPEG_START, b"\xFF\x01\xFF\xD0\xFF\xD7", &frame].concat()).unwrap();
}

#[test]
fn truncated_png_header_is_rejected() {
    let complete = png(400, 300, 0);
    validate_bytes(complete.clone()).unwrap();
    for end in 0..complete.len() {
        rejection_of_bytes(&complete[..end]);
    }
}

#[test]
fn truncated_jpeg_header_is_rejected() {
    let quantization = jpeg_segment(0xDB, &[1; 65]);
    let head =
        [JPEG_START, &jfif_segment(), &jpeg_segment(0xE1, b"Exif\0\0"), &quantization].concat();
    // Marker, length, precision and four bytes of dimensions.
    let complete = [&head[..], &jpeg_frame(0xC2, 400, 300)[..9]].concat();
    validate_bytes(complete.clone()).unwrap();
    for end in 0..complete.len() {
        rejection_of_bytes(&complete[..end]);
    }
}

#[test]
fn truncated_header_is_distinguished_from_unsupported_format() {
    assert!(rejection_of_bytes(&png(400, 300, 0)[..20]).contains("truncated within its header"));
    assert!(rejection_of_bytes(&jpeg(400, 300)[..20]).contains("truncated within its header"));
}

#[test]
fn damaged_header_is_rejected() {
    let frame = jpeg_frame(0xC0, 400, 300);
    for damaged in [
        [JPEG_START, b"\xFF\xE0\0\0", &frame].concat(),
        [JPEG_START, b"\xFF\xE0\0\x01", &frame].concat(),
        [JPEG_START, &jpeg_segment(0xDA, &[0; 10]), &frame].concat(),
        [JPEG_START, b"\xFF\xD9", &frame].concat(),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT\0\0\x01\x90\0\0\x01\x2c".to_vec(),
        b"\x89PNG\r\n\x1a\n\0\0\0\x0CIHDR\0\0\x01\x90\0\0\x01\x2c".to_vec(),
    ] {
        assert!(rejection_of_bytes(damaged.clone()).contains("malformed header"), "{damaged:?}");
    }
}

// ---------------------------------------------------------------- size

#[test]
fn image_may_be_at_most_10_mib() {
    validate_bytes(png_of_len(10 * MIB)).unwrap();
    let message = rejection_of_bytes(png_of_len(10 * MIB + 1));
    assert!(message.contains("10485761") && message.contains("10485760"), "{message}");
}

#[test]
fn image_file_may_be_at_most_10_mib() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.png");
    fs::write(&path, png(400, 300, 0)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(10 * MIB as u64).unwrap();
    validate(Image::file(&path)).unwrap();
    file.set_len(10 * MIB as u64 + 1).unwrap();
    let message = rejection(Image::file(&path));
    assert!(message.contains("10485761") && message.contains("large.png"), "{message}");
}

// ---------------------------------------------------------------- paths that are not image files

#[test]
fn missing_file_is_io_error_with_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("no-such-cat.jpg");
    let sandbox = sandbox();
    let request = ImageToVideo::new(path.as_path());
    for error in
        [request.validate().unwrap_err(), no_retry_client(&sandbox).create(&request).unwrap_err()]
    {
        assert_eq!(error.kind(), ErrorKind::Io);
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        let cause = std::error::Error::source(&error).unwrap();
        let cause = cause.downcast_ref::<std::io::Error>().unwrap();
        assert_eq!(cause.kind(), std::io::ErrorKind::NotFound);
    }
    assert_eq!(sandbox.connection_count(), 0);
}

#[test]
fn image_must_be_a_regular_file() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    #[cfg_attr(not(unix), allow(unused_mut))]
    let mut paths = vec![(dir.path().to_owned(), "directory")];
    #[cfg(unix)]
    let _listener = {
        let file = |name: &str| dir.path().join(name);
        let (fifo, socket, link) = (file("fifo.jpg"), file("socket.jpg"), file("link.jpg"));
        assert!(std::process::Command::new("mkfifo").arg(&fifo).status().unwrap().success());
        std::os::unix::fs::symlink(&fifo, &link).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        let devices = ["/dev/zero", "/dev/null"].map(PathBuf::from);
        let special = [fifo, socket, link].into_iter().chain(devices);
        paths.extend(special.map(|path| (path, "not a regular file")));
        listener
    };
    for (path, reason) in paths {
        let client = sandbox.client_builder().max_generations(1).build().unwrap();
        let (target, displayed) = (dir.target.clone(), path.display().to_string());
        // Opening a FIFO blocks until somebody writes to it.
        let errors = with_timeout(move || {
            let request = ImageToVideo::new(Image::file(&path));
            [
                request.validate().unwrap_err(),
                client.create(&request).unwrap_err(),
                client.generate(&request).unwrap_err(),
                client.generate_to(&request, &target).unwrap_err(),
            ]
        });
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{displayed}");
            assert_eq!(error.field(), Some("image_url"), "{displayed}");
            let message = error.to_string();
            assert!(message.contains(&displayed) && message.contains(reason), "{message}");
            assert!(states_rule(&message), "{message}");
        }
        // The journal has no entry that would prevent another run with this target.
        assert!(!dir.journal_text().contains("sending"), "{displayed}: {}", dir.journal_text());
    }
    assert!(sandbox.requests().is_empty());
    test_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
}

#[cfg(unix)]
#[test]
fn image_symlink_is_followed() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(fixture("image.jpg"), &link).unwrap();
    test_client(&sandbox).create(&ImageToVideo::new(Image::file(link))).unwrap();
    let sent = sandbox.generations()[0].image.clone().unwrap();
    assert_eq!(sent, fs::read(fixture("image.jpg")).unwrap());
}

#[test]
fn empty_file_is_rejected_with_path() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("empty.jpg");
    fs::write(&path, b"").unwrap();
    let message = rejection(Image::file(&path));
    assert!(message.contains("empty.jpg is empty"), "{message}");
    assert!(rejection_of_bytes(b"").contains("is empty"));
}

// ---------------------------------------------------------------- on the wire

#[test]
fn file_and_bytes_send_same_body() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for name in ["image.jpg", "image.png"] {
        let path = fixture(name);
        let data = fs::read(&path).unwrap();
        client.create(&ImageToVideo::new(Image::file(&path))).unwrap();
        client.create(&ImageToVideo::new(Image::bytes(data.clone()))).unwrap();
        let [.., from_file, from_bytes] = &sandbox.generations()[..] else {
            panic!("fewer than two")
        };
        assert_eq!(from_file.image.as_ref(), Some(&data));
        assert_eq!(from_bytes.image.as_ref(), Some(&data));
        assert_eq!(from_file.request, from_bytes.request);
        let [.., first, second] = &sandbox.requests()[..] else { panic!("fewer than two") };
        assert_eq!(first.body_bytes, second.body_bytes);
    }
}

#[test]
fn base64_is_complete_for_every_length_remainder() {
    let sandbox = sandbox();
    for len in [24, 25, 26, 49_151, 49_152, 49_153, 98_304, 98_305] {
        let data = png_of_len(len);
        no_retry_client(&sandbox).create(&ImageToVideo::new(Image::bytes(data.clone()))).unwrap();
        assert_eq!(sandbox.generations().pop().unwrap().image, Some(data), "{len}");
    }
}

#[test]
fn large_file_is_sent_completely() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("large.png");
    let data = png_of_len(10 * MIB);
    fs::write(&path, &data).unwrap();
    let sandbox = sandbox();
    no_retry_client(&sandbox).create(&ImageToVideo::new(path)).unwrap();
    assert!(sandbox.generations()[0].image.as_ref() == Some(&data));
    let received = sandbox.requests().pop().unwrap();
    assert_eq!(received.header("content-length"), Some(received.body_bytes.to_string().as_str()));
    assert_eq!(received.header("transfer-encoding"), None);
    assert!(received.body_bytes > data.len().div_ceil(3) as u64 * 4);
}

#[test]
fn file_is_read_when_request_is_sent() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("later.png");
    let request = ImageToVideo::new(Image::file(&path));
    let sandbox = sandbox();
    for height in [300, 301] {
        fs::write(&path, png(400, height, 100)).unwrap();
        no_retry_client(&sandbox).create(&request).unwrap();
        assert_eq!(sandbox.generations().pop().unwrap().image, Some(png(400, height, 100)));
    }
}

// ---------------------------------------------------------------- the type

#[test]
fn debug_output_omits_image_data() {
    let data = vec![171; 1_000];
    let image = Image::bytes(data);
    assert_eq!(format!("{image:?}"), "Image::bytes(1000 bytes)");
    let request = ImageToVideo::new(image.clone()).static_mask(image);
    assert!(!format!("{request:#?}").contains("171"), "{request:#?}");
    let uri = Image::url(format!("data:image/png;base64,{}", "iVBOR".repeat(100)));
    assert!(!format!("{uri:?}").contains("iVBOR"), "{uri:?}");
}

#[test]
fn path_converts_to_image_file() {
    let path = Path::new("cat.jpg");
    assert_eq!(Image::from(path), Image::file("cat.jpg"));
    assert_eq!(Image::from(path.to_owned()), Image::file("cat.jpg"));
    assert_ne!(Image::file("cat.jpg"), Image::url("cat.jpg"));
}

#[test]
fn image_equality_compares_bytes() {
    assert_eq!(Image::bytes(vec![1, 2]), Image::bytes([1, 2]));
    assert_ne!(Image::bytes(vec![1, 2]), Image::bytes([1, 3]));
}

// ---------------------------------------------------------------- memory

#[cfg(target_os = "linux")]
#[test]
fn memory_use_does_not_grow_with_image_size() {
    const URL: &str = "KLING_VIDEO_TEST_URL";
    const IMAGE: &str = "KLING_VIDEO_TEST_IMAGE";
    if let (Ok(url), Ok(path)) = (std::env::var(URL), std::env::var(IMAGE)) {
        let client = Client::builder("sandbox-key").base_url(url).no_proxy().build().unwrap();
        client.create(&ImageToVideo::new(Image::file(path))).unwrap();
        return emit_result(&process_status::peak_memory().to_string());
    }
    let dir = tempfile::tempdir().unwrap();
    let sandbox: Sandbox = sandbox();
    let peak = |len: usize| -> usize {
        let path = dir.path().join(format!("{len}.png"));
        fs::write(&path, png_of_len(len)).unwrap();
        let variables = [(URL, sandbox.url()), (IMAGE, path.to_str().unwrap().to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let result =
            run_in_subprocess("images::memory_use_does_not_grow_with_image_size", &variables);
        result.parse().unwrap()
    };
    // Three times at most: on a busy machine, how many pages of the program itself are resident can
    // vary by more than that.
    let mut peaks = Vec::new();
    while peaks.last().is_none_or(|(small, large)| *large > small + 1024) {
        assert!(peaks.len() < 3, "KiB for 10 KiB and for 10 MiB: {peaks:?}");
        peaks.push((peak(10 * 1024), peak(10 * MIB)));
    }
    assert_eq!(sandbox.generations()[1].image.as_ref().map(Vec::len), Some(10 * MIB));
}
