//! Where a picture comes from, what it must be like, and how it gets to the server.

use std::fs;
use std::path::Path;

use kling_video::{Client, Error, ErrorKind, Image, ImageToVideo, Sandbox};

use crate::child::{rerun, say};
#[cfg(unix)]
use crate::common::without_hanging;
use crate::common::{fixture, once, png, sandbox};

const MIB: usize = 1024 * 1024;

fn check(image: Image) -> Result<(), Error> {
    ImageToVideo::new(image).validate()
}

fn check_bytes(data: impl Into<Vec<u8>>) -> Result<(), Error> {
    check(Image::bytes(data))
}

/// The message of a picture that is refused.
fn refused(image: Image) -> String {
    let error = check(image).unwrap_err();
    assert_eq!((error.kind(), error.field()), (ErrorKind::InvalidRequest, Some("image_url")));
    let message = error.to_string();
    assert!(message.contains("allowed"), "{message}");
    message
}

fn refused_bytes(data: impl Into<Vec<u8>>) -> String {
    refused(Image::bytes(data))
}

// ---------------------------------------------------------------- parts of a JPEG

const START: &[u8] = b"\xFF\xD8";

fn segment(marker: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, marker], &length[..], data].concat()
}

fn frame(marker: u8, width: u16, height: u16) -> Vec<u8> {
    let [w1, w2] = width.to_be_bytes();
    let [h1, h2] = height.to_be_bytes();
    segment(marker, &[8, h1, h2, w1, w2, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
}

fn jfif() -> Vec<u8> {
    segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
}

/// An EXIF block with a thumbnail in it, whose own frame header is not the picture's.
fn exif() -> Vec<u8> {
    let thumbnail = [START, &frame(0xC0, 160, 120)].concat();
    segment(0xE1, &[b"Exif\0\0MM\0\x2A\0\0\0\x08", &thumbnail[..], &[0; 30_000]].concat())
}

fn jpeg(width: u16, height: u16) -> Vec<u8> {
    [START, &jfif(), &frame(0xC0, width, height)].concat()
}

// ---------------------------------------------------------------- media types

#[test]
fn real_pictures_are_taken() {
    for name in ["picture.jpg", "picture.png"] {
        check(Image::file(fixture(name))).unwrap();
        check_bytes(fs::read(fixture(name)).unwrap()).unwrap();
    }
}

#[test]
fn the_first_bytes_tell_the_media_type_and_not_the_name() {
    let folder = tempfile::tempdir().unwrap();
    let sandbox = sandbox();
    for (name, data, media) in [
        ("a.jpg", png(400, 300, 500), "data:image/png;base64,"),
        ("a.png", jpeg(400, 300), "data:image/jpeg;base64,"),
        ("noname", jpeg(400, 300), "data:image/jpeg;base64,"),
    ] {
        let path = folder.path().join(name);
        fs::write(&path, data).unwrap();
        once(&sandbox).create(&ImageToVideo::new(path)).unwrap();
        assert_eq!(sandbox.generations().pop().unwrap().request["image_url"], media, "{name}");
    }
}

#[test]
fn another_kind_of_picture_is_refused_by_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cat.png");
    for (start, kind) in [
        (&b"GIF89a"[..], "GIF"),
        (b"RIFF\x24\0\0\0WEBPVP8 ", "WebP"),
        (b"BM\x36\0\0\0", "BMP"),
        (b"\0\0\0\x1Cftypavif", "AVIF"),
        (b"\0\0\0\x18ftypheic", "HEIC"),
        (b"II\x2A\0\x08\0\0\0", "TIFF"),
        (b"<svg xmlns=\"a\"/>", "SVG"),
        (b"hello", "no picture"),
        (b"\x89PNG\r\n\x1a", "no picture"),
        (b"\xFF\xD8", "no picture"),
    ] {
        fs::write(&path, [start, &[0; 100]].concat()).unwrap();
        let message = refused(Image::file(&path));
        assert!(message.contains(kind) && message.contains("JPEG or PNG"), "{message}");
        assert!(message.contains("cat.png"), "{message}");
    }
}

// ---------------------------------------------------------------- dimensions

#[test]
fn a_side_has_at_least_300_pixels() {
    for (width, height) in [(300, 300), (300, 301), (750, 300)] {
        check_bytes(png(width, height, 0)).unwrap();
        check_bytes(jpeg(width as u16, height as u16)).unwrap();
    }
    for (width, height) in [(299, 300), (300, 299), (299, 299), (0, 0), (1, 1_000)] {
        let given = format!("{width}x{height}");
        for data in [png(width, height, 0), jpeg(width as u16, height as u16)] {
            let message = refused_bytes(data);
            assert!(message.contains(&given) && message.contains("300"), "{message}");
        }
    }
}

#[test]
fn a_ratio_lies_within_1_to_2_5_and_2_5_to_1() {
    for (width, height) in [(750, 300), (300, 750), (2_500, 1_000), (1_000, 2_500)] {
        check_bytes(png(width, height, 0)).unwrap();
    }
    for (width, height) in [(751, 300), (300, 751), (2_501, 1_000), (1_000, 2_501)] {
        let message = refused_bytes(png(width, height, 0));
        let given = format!("{width}x{height}");
        assert!(message.contains(&given) && message.contains("1:2.5 to 2.5:1"), "{message}");
    }
}

#[test]
fn huge_dimensions_are_compared_without_overflow() {
    check_bytes(png(u32::MAX, u32::MAX, 0)).unwrap();
    refused_bytes(png(u32::MAX, 300, 0));
}

#[test]
fn exif_may_stand_before_the_frame() {
    check_bytes([START, &exif(), &jfif(), &frame(0xC0, 400, 300)].concat()).unwrap();
    let small = [START, &exif(), &frame(0xC0, 200, 300)].concat();
    assert!(refused_bytes(small).contains("200x300"), "of the picture, not of its thumbnail");
}

#[test]
fn segments_may_stand_in_any_order() {
    let quantisation = segment(0xDB, &[1; 65]);
    // In the numbers' range of frames, but none.
    let huffman = segment(0xC4, &frame(0xC0, 1, 1));
    let arithmetic = segment(0xCC, &[0; 4]);
    let comment = segment(0xFE, b"made for a test");
    let empty = segment(0xED, b"");
    let full = segment(0xE2, &vec![0xFF; 65_533]);
    let frame = frame(0xC0, 400, 300);
    for parts in [
        vec![&huffman, &quantisation, &frame],
        vec![&comment, &arithmetic, &huffman, &empty, &frame],
        vec![&full, &full, &quantisation, &frame, &huffman],
        vec![&frame, &quantisation],
    ] {
        let parts: Vec<u8> = parts.into_iter().flatten().copied().collect();
        check_bytes([START, &parts[..]].concat()).unwrap();
    }
}

#[test]
fn every_kind_of_frame_tells_the_dimensions() {
    let kinds = (0xC0..=0xCF).filter(|marker| ![0xC4, 0xC8, 0xCC].contains(marker));
    for kind in kinds {
        let small = [START, &jfif(), &frame(kind, 400, 200)].concat();
        assert!(refused_bytes(small).contains("400x200"), "{kind:x}");
        check_bytes([START, &jfif(), &frame(kind, 400, 300)].concat()).unwrap();
    }
}

#[test]
fn a_progressive_picture_reaches_the_server() {
    let sandbox = sandbox();
    let progressive = [START, &jfif(), &frame(0xC2, 400, 300)].concat();
    let image = Image::bytes(progressive.clone());
    once(&sandbox).create(&ImageToVideo::new(image)).unwrap();
    assert_eq!(sandbox.generations()[0].picture, Some(progressive));
}

#[test]
fn fill_bytes_and_lone_markers_are_passed_over() {
    let frame = frame(0xC0, 400, 300);
    let fill = [0xFF; 5];
    check_bytes([START, &fill, &jfif(), &fill, &frame].concat()).unwrap();
    check_bytes([START, b"\xFF\x01\xFF\xD0\xFF\xD7", &frame].concat()).unwrap();
}

#[test]
fn a_png_header_cut_anywhere_is_refused() {
    let whole = png(400, 300, 0);
    check_bytes(whole.clone()).unwrap();
    for end in 0..whole.len() {
        refused_bytes(&whole[..end]);
    }
}

#[test]
fn a_jpeg_header_cut_anywhere_is_refused() {
    let quantisation = segment(0xDB, &[1; 65]);
    let head = [START, &jfif(), &segment(0xE1, b"Exif\0\0"), &quantisation].concat();
    // Marker, length, precision and four bytes of dimensions.
    let whole = [&head[..], &frame(0xC2, 400, 300)[..9]].concat();
    check_bytes(whole.clone()).unwrap();
    for end in 0..whole.len() {
        refused_bytes(&whole[..end]);
    }
}

#[test]
fn a_cut_header_is_told_from_another_kind_of_picture() {
    assert!(refused_bytes(&png(400, 300, 0)[..20]).contains("ends within its header"));
    assert!(refused_bytes(&jpeg(400, 300)[..20]).contains("ends within its header"));
}

#[test]
fn a_damaged_header_is_refused() {
    let frame = frame(0xC0, 400, 300);
    for damaged in [
        [START, b"\xFF\xE0\0\0", &frame].concat(),
        [START, b"\xFF\xE0\0\x01", &frame].concat(),
        [START, b"\xFF\0", &frame].concat(),
        [START, &jfif(), b"junk", &frame].concat(),
        [START, &segment(0xDA, &[0; 10]), &frame].concat(),
        [START, b"\xFF\xD9", &frame].concat(),
        b"\x89PNG\r\n\x1a\n\0\0\0\rIDAT\0\0\x01\x90\0\0\x01\x2c".to_vec(),
        b"\x89PNG\r\n\x1a\n\0\0\0\x0CIHDR\0\0\x01\x90\0\0\x01\x2c".to_vec(),
    ] {
        assert!(refused_bytes(damaged.clone()).contains("damaged"), "{damaged:?}");
    }
}

// ---------------------------------------------------------------- size

#[test]
fn a_picture_of_10_mib_is_the_largest() {
    check_bytes(png(400, 300, 10 * MIB)).unwrap();
    let message = refused_bytes(png(400, 300, 10 * MIB + 1));
    assert!(message.contains("10485761") && message.contains("10485760"), "{message}");
}

#[test]
fn the_limit_is_the_same_for_a_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.png");
    fs::write(&path, png(400, 300, 0)).unwrap();
    let file = fs::OpenOptions::new().write(true).open(&path).unwrap();
    file.set_len(10 * MIB as u64).unwrap();
    check(Image::file(&path)).unwrap();
    file.set_len(10 * MIB as u64 + 1).unwrap();
    let message = refused(Image::file(&path));
    assert!(message.contains("10485761") && message.contains("large.png"), "{message}");
}

// ---------------------------------------------------------------- files that are none

#[test]
fn a_missing_file_is_an_io_error_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("no-such-cat.jpg");
    let sandbox = sandbox();
    let error = once(&sandbox).create(&ImageToVideo::new(path.as_path())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io);
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    let cause = std::error::Error::source(&error).unwrap();
    let cause = cause.downcast_ref::<std::io::Error>().unwrap();
    assert_eq!(cause.kind(), std::io::ErrorKind::NotFound);
    assert_eq!(sandbox.connections(), 0);
}

#[test]
fn a_directory_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let message = refused(Image::file(folder.path()));
    assert!(message.contains("directory"), "{message}");
    assert!(message.contains(folder.path().to_str().unwrap()), "{message}");
}

#[test]
fn an_empty_file_is_refused_with_its_path() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.jpg");
    fs::write(&path, b"").unwrap();
    let message = refused(Image::file(&path));
    assert!(message.contains("empty.jpg is empty"), "{message}");
    assert!(refused_bytes(b"").contains("is empty"));
}

#[cfg(unix)]
#[test]
fn a_fifo_is_refused_without_waiting_for_its_writer() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fifo.jpg");
    let made = std::process::Command::new("mkfifo").arg(&path).status().unwrap();
    assert!(made.success());
    let message = without_hanging(move || refused(Image::file(path)));
    assert!(message.contains("no regular file"), "{message}");
}

#[cfg(unix)]
#[test]
fn a_device_is_refused() {
    assert!(refused(Image::file("/dev/zero")).contains("no regular file"));
}

#[cfg(unix)]
#[test]
fn a_link_to_a_file_is_that_file() {
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(fixture("picture.jpg"), &link).unwrap();
    check(Image::file(link)).unwrap();
}

// ---------------------------------------------------------------- on the wire

#[test]
fn file_and_bytes_send_the_same() {
    let sandbox = sandbox();
    let client = once(&sandbox);
    for name in ["picture.jpg", "picture.png"] {
        let path = fixture(name);
        let data = fs::read(&path).unwrap();
        client.create(&ImageToVideo::new(Image::file(&path))).unwrap();
        client.create(&ImageToVideo::new(Image::bytes(data.clone()))).unwrap();
        let [.., of_file, of_bytes] = &sandbox.generations()[..] else { panic!("not two") };
        assert_eq!(of_file.picture.as_ref(), Some(&data));
        assert_eq!(of_bytes.picture.as_ref(), Some(&data));
        assert_eq!(of_file.request, of_bytes.request);
        let [.., one, other] = &sandbox.requests()[..] else { panic!("not two") };
        assert_eq!(one.body_bytes, other.body_bytes);
    }
}

#[test]
fn every_remainder_of_the_encoding_arrives() {
    let sandbox = sandbox();
    for len in [24, 25, 26, 49_151, 49_152, 49_153, 98_304, 98_305] {
        let data = png(400, 300, len);
        once(&sandbox).create(&ImageToVideo::new(Image::bytes(data.clone()))).unwrap();
        assert_eq!(sandbox.generations().pop().unwrap().picture, Some(data), "{len}");
    }
}

#[test]
fn a_large_file_arrives_whole_and_asks_first() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("large.png");
    let data = png(400, 300, 10 * MIB);
    fs::write(&path, &data).unwrap();
    let sandbox = sandbox();
    once(&sandbox).create(&ImageToVideo::new(path)).unwrap();
    assert!(sandbox.generations()[0].picture.as_ref() == Some(&data));
    let seen = sandbox.requests().pop().unwrap();
    assert_eq!(seen.header("expect"), Some("100-continue"));
    assert_eq!(seen.header("content-length"), Some(seen.body_bytes.to_string().as_str()));
    assert_eq!(seen.header("transfer-encoding"), None);
    assert!(seen.body_bytes > data.len().div_ceil(3) as u64 * 4);
}

#[test]
fn a_file_is_read_when_it_is_sent() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("later.png");
    let request = ImageToVideo::new(Image::file(&path));
    let sandbox = sandbox();
    for height in [300, 301] {
        fs::write(&path, png(400, height, 100)).unwrap();
        once(&sandbox).create(&request).unwrap();
        assert_eq!(sandbox.generations().pop().unwrap().picture, Some(png(400, height, 100)));
    }
}

// ---------------------------------------------------------------- the type

#[test]
fn debug_shows_no_bytes() {
    let data = vec![171; 1_000];
    let image = Image::bytes(data);
    assert_eq!(format!("{image:?}"), "Image::bytes(1000 bytes)");
    let request = ImageToVideo::new(image.clone()).static_mask(image);
    assert!(!format!("{request:#?}").contains("171"), "{request:#?}");
    let uri = Image::url(format!("data:image/png;base64,{}", "iVBOR".repeat(100)));
    assert!(!format!("{uri:?}").contains("iVBOR"), "{uri:?}");
}

#[test]
fn a_path_is_a_file() {
    let path = Path::new("cat.jpg");
    assert_eq!(Image::from(path), Image::file("cat.jpg"));
    assert_eq!(Image::from(path.to_owned()), Image::file("cat.jpg"));
    assert_ne!(Image::file("cat.jpg"), Image::url("cat.jpg"));
}

#[test]
fn equal_bytes_are_equal_pictures() {
    assert_eq!(Image::bytes(vec![1, 2]), Image::bytes([1, 2]));
    assert_ne!(Image::bytes(vec![1, 2]), Image::bytes([1, 3]));
}

// ---------------------------------------------------------------- memory

/// The most memory that this process has had, in KiB.
#[cfg(target_os = "linux")]
fn peak_memory() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

#[cfg(target_os = "linux")]
#[test]
fn memory_does_not_grow_with_the_picture() {
    const URL: &str = "KLING_VIDEO_TEST_URL";
    const PICTURE: &str = "KLING_VIDEO_TEST_PICTURE";
    if let (Ok(url), Ok(picture)) = (std::env::var(URL), std::env::var(PICTURE)) {
        let client = Client::builder("sandbox-key").base_url(url).no_proxy().build().unwrap();
        client.create(&ImageToVideo::new(Image::file(picture))).unwrap();
        return say(&peak_memory().to_string());
    }
    let folder = tempfile::tempdir().unwrap();
    let sandbox: Sandbox = sandbox();
    let peak = |len: usize| -> u64 {
        let path = folder.path().join(format!("{len}.png"));
        fs::write(&path, png(400, 300, len)).unwrap();
        let variables = [(URL, sandbox.url()), (PICTURE, path.to_str().unwrap().to_owned())];
        let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
        let said = rerun("pictures::memory_does_not_grow_with_the_picture", &variables);
        said.parse().unwrap()
    };
    let (small, large) = (peak(10 * 1024), peak(10 * MIB));
    assert_eq!(sandbox.generations()[1].picture.as_ref().map(Vec::len), Some(10 * MIB));
    assert!(large <= small + 1024, "{small} KiB for 10 KiB and {large} KiB for 10 MiB");
}
