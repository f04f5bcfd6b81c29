//! Where a picture comes from: a link, a file or bytes; what it must be like.
//!
//! Media type and size are read from the data itself, never from a name: the first bytes, and the
//! header that holds the dimensions.

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};

/// Kling's limits: 10 MB (taken as MiB), at least 300 px a side, no slimmer than 1:2.5.
const MAX_BYTES: u64 = 10 * 1024 * 1024;
const MIN_SIDE: u32 = 300;
const MAX_RATIO: f64 = 2.5;

/// A picture to send: a link the server fetches, a file, or bytes in memory.
///
/// Files and bytes must be JPEG or PNG, at most 10 MiB, at least 300 pixels on each side and with
/// a ratio between 1:2.5 and 2.5:1 (Kling's docs). A file is streamed from disk when it is sent.
///
/// There is no conversion from a string, since it could be a link or a path.
///
/// ```
/// use kling_video::Image;
/// use std::path::Path;
///
/// let link = Image::url("https://example.com/cat.jpg");
/// let file = Image::file("cat.jpg");
/// assert_eq!(file, Image::from(Path::new("cat.jpg")));
/// let bytes = Image::bytes(vec![0xFF, 0xD8, 0xFF]);
/// assert_eq!(format!("{bytes:?}"), "Image::bytes(3 bytes)");
/// # let _ = link;
/// ```
#[derive(Clone, PartialEq)]
pub struct Image(Origin);

#[derive(Clone, PartialEq)]
enum Origin {
    Url(String),
    File(PathBuf),
    Bytes(Bytes),
}

/// Shared, so that clones of a request and its retries copy no picture.
#[derive(Clone, PartialEq)]
struct Bytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Image {
    /// A picture that the server fetches itself: a direct `http` or `https` link.
    pub fn url(link: impl Into<String>) -> Image {
        Self(Origin::Url(link.into()))
    }

    /// A JPEG or PNG file. It is opened when the request is checked or sent.
    pub fn file(path: impl Into<PathBuf>) -> Image {
        Self(Origin::File(path.into()))
    }

    /// The bytes of a JPEG or PNG. Clones share them.
    pub fn bytes(data: impl Into<Vec<u8>>) -> Image {
        Self(Origin::Bytes(Bytes(Arc::new(data.into()))))
    }

    /// Checks the picture for the request's `field` and opens it.
    pub(crate) fn open(&self, field: &str) -> Result<Opened> {
        self.open_with(field, check_size)
    }

    /// The same for a mask, whose dimensions are not documented. It is small, so that it goes into
    /// memory, as a link or a data URI. (The API's docs speak of links only.)
    pub(crate) fn open_mask(&self, field: &str) -> Result<String> {
        match self.open_with(field, |_, _, _, _| Ok(()))? {
            Opened::Link(link) => Ok(link),
            Opened::Picture(mut picture) => {
                let mut data = Vec::new();
                picture.read_to_end(&mut data).map_err(|e| cannot_read(&picture.name(), e))?;
                Ok(format!("{}{}", picture.media.data_uri_head(), STANDARD.encode(data)))
            }
        }
    }

    /// Opens it at its start, after a look at its header.
    fn open_with(&self, field: &str, check: CheckHeader) -> Result<Opened> {
        let (mut source, len) = match &self.0 {
            Origin::Url(link) => {
                check_link(field, link)?;
                return Ok(Opened::Link(link.clone()));
            }
            Origin::File(path) => open_file(field, path)?,
            Origin::Bytes(data) => {
                (Source::Bytes(Cursor::new(data.clone())), data.as_ref().len() as u64)
            }
        };
        let name = source.name();
        check_length(field, &name, len)?;
        let mut header = Header::with_capacity(HEADER, &mut source);
        let start = peek(&mut header).map_err(|e| cannot_read(&name, e))?;
        let media = Media::of(&start).map_err(|found| {
            Error::invalid(field, format!("{name} is {found}: allowed is a JPEG or PNG"))
        })?;
        check(field, &name, media, &mut header)?;
        source.rewind().map_err(|e| cannot_read(&name, e))?;
        Ok(Opened::Picture(Picture { media, len, source }))
    }

    /// How a journal names it: the link, the path, or nothing for bytes.
    pub(crate) fn name(&self) -> Option<String> {
        match &self.0 {
            Origin::Url(link) => Some(link.clone()),
            Origin::File(path) => Some(path.display().to_string()),
            Origin::Bytes(_) => None,
        }
    }
}

impl From<&Path> for Image {
    fn from(path: &Path) -> Self {
        Self::file(path)
    }
}

impl From<PathBuf> for Image {
    fn from(path: PathBuf) -> Self {
        Self::file(path)
    }
}

impl fmt::Debug for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Origin::Url(link) => write!(f, "Image::url({:?})", shorten(link)),
            Origin::File(path) => write!(f, "Image::file({path:?})"),
            Origin::Bytes(data) => write!(f, "Image::bytes({} bytes)", data.as_ref().len()),
        }
    }
}

/// A link as it may be shown: a `data:` URI given by mistake carries the whole picture.
fn shorten(link: &str) -> &str {
    match link.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("data:") => "data:…",
        _ => link,
    }
}

fn check_link(field: &str, link: &str) -> Result<()> {
    let problem = match link.split_once(':').map(|(scheme, _)| scheme.to_ascii_lowercase()) {
        Some(scheme) if scheme == "http" || scheme == "https" => {
            let host = link.get(scheme.len() + 3..).unwrap_or_default();
            let sound = link.get(scheme.len()..).is_some_and(|rest| rest.starts_with("://"))
                && !host.is_empty()
                && !host.starts_with(['/', '?', '#', ':'])
                && !link.chars().any(|c| c.is_control() || c.is_whitespace());
            if sound {
                return Ok(());
            }
            "is not a complete link"
        }
        Some(scheme) if scheme == "data" => {
            "is a data: URI: give the picture with Image::bytes or Image::file instead"
        }
        _ => "is no link: allowed is http:// or https:// (a path goes with Image::file)",
    };
    Err(Error::invalid(field, format!("{:?} {problem}", shorten(link))))
}

fn open_file(field: &str, path: &Path) -> Result<(Source, u64)> {
    let failed =
        |e| Error::io("validate", Some(path.to_owned()), "the picture cannot be opened", e);
    // Asked before it is opened: opening a FIFO would wait for a writer.
    let kind = std::fs::metadata(path).map_err(failed)?;
    if !kind.is_file() {
        let what = if kind.is_dir() { "a directory" } else { "no regular file" };
        let problem = format!("{} is {what}: allowed is a JPEG or PNG file", path.display());
        return Err(Error::invalid(field, problem));
    }
    let file = File::open(path).map_err(failed)?;
    let len = file.metadata().map_err(failed)?.len();
    Ok((Source::File { file, path: path.to_owned() }, len))
}

fn check_length(field: &str, name: &str, len: u64) -> Result<()> {
    let problem = match len {
        0 => format!("{name} is empty: allowed is a JPEG or PNG"),
        1..=MAX_BYTES => return Ok(()),
        _ => format!("{name} has {len} bytes: allowed are at most {MAX_BYTES} (10 MiB)"),
    };
    Err(Error::invalid(field, problem))
}

fn cannot_read(name: &str, e: io::Error) -> Error {
    Error::io("validate", Some(PathBuf::from(name)), "the picture cannot be read", e)
}

/// The first bytes, which stay to be read. Over short and interrupted reads, as any file may have.
fn peek(header: &mut Header<'_>) -> io::Result<Vec<u8>> {
    let mut start = Vec::with_capacity(16);
    header.by_ref().take(16).read_to_end(&mut start)?;
    header.seek_relative(-(start.len() as i64))?;
    Ok(start)
}

/// Reads on in a header; the words are the request's field and the picture's name.
type CheckHeader = fn(&str, &str, Media, &mut Header<'_>) -> Result<()>;

fn check_size(field: &str, name: &str, media: Media, header: &mut Header<'_>) -> Result<()> {
    let dimensions = match media {
        Media::Png => png_dimensions(header),
        Media::Jpeg => jpeg_dimensions(header),
    };
    let (width, height) = dimensions.map_err(|problem| problem.into_error(field, name))?;
    check_dimensions(field, width, height)
}

fn check_dimensions(field: &str, width: u32, height: u32) -> Result<()> {
    if width < MIN_SIDE || height < MIN_SIDE {
        return Err(Error::invalid(
            field,
            format!("is {width}x{height} pixels: allowed are at least {MIN_SIDE} on each side"),
        ));
    }
    let (long, short) = (f64::from(width.max(height)), f64::from(width.min(height)));
    if long > short * MAX_RATIO {
        return Err(Error::invalid(
            field,
            format!("is {width}x{height} pixels: allowed are ratios from 1:2.5 to 2.5:1"),
        ));
    }
    Ok(())
}

/// A picture that was checked: what goes into the request.
pub(crate) enum Opened {
    Link(String),
    Picture(Picture),
}

/// An open picture, to be read from its start as often as needed.
pub(crate) struct Picture {
    pub(crate) media: Media,
    pub(crate) len: u64,
    source: Source,
}

/// The start of a picture, read in one go: what is read beyond a header is read again.
type Header<'a> = io::BufReader<&'a mut Source>;
const HEADER: usize = 1024;

enum Source {
    File { file: File, path: PathBuf },
    Bytes(Cursor<Bytes>),
}

impl Source {
    fn name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Bytes(_) => "the picture".to_owned(),
        }
    }
}

impl Picture {
    pub(crate) fn name(&self) -> String {
        self.source.name()
    }

    pub(crate) fn rewind(&mut self) -> Result<()> {
        self.source.rewind().map_err(|e| cannot_read(&self.name(), e))
    }
}

impl Read for Picture {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read(buf)
    }
}

impl Read for Source {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.read(buf),
            Self::Bytes(data) => data.read(buf),
        }
    }
}

impl Seek for Source {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File { file, .. } => file.seek(to),
            Self::Bytes(data) => data.seek(to),
        }
    }
}

/// The media types that Kling takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Media {
    Jpeg,
    Png,
}

impl Media {
    pub(crate) fn data_uri_head(self) -> &'static str {
        match self {
            Self::Jpeg => "data:image/jpeg;base64,",
            Self::Png => "data:image/png;base64,",
        }
    }

    /// By the first bytes; the error is what it is instead.
    fn of(start: &[u8]) -> Result<Self, &'static str> {
        match start {
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Self::Png),
            [b'G', b'I', b'F', b'8', ..] => Err("a GIF"),
            [b'B', b'M', ..] => Err("a BMP"),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Err("a WebP"),
            [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f', ..] => Err("an AVIF"),
            [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', b'i', ..] => Err("a HEIC"),
            [b'I', b'I', 0x2A, 0, ..] | [b'M', b'M', 0, 0x2A, ..] => Err("a TIFF"),
            [b'<', ..] => Err("text (SVG or HTML)"),
            _ => Err("no picture of a known kind"),
        }
    }
}

/// Why a header does not tell the dimensions.
enum BadHeader {
    Truncated,
    Malformed(&'static str),
    Io(io::Error),
}

impl BadHeader {
    fn into_error(self, field: &str, name: &str) -> Error {
        match self {
            Self::Truncated => Error::invalid(
                field,
                format!("{name} ends within its header: allowed is a whole JPEG or PNG"),
            ),
            Self::Malformed(what) => Error::invalid(
                field,
                format!("{name} is damaged ({what}): allowed is a JPEG or PNG"),
            ),
            Self::Io(e) => cannot_read(name, e),
        }
    }
}

impl From<io::Error> for BadHeader {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(e),
        }
    }
}

/// The IHDR chunk is always the first: length, type, width, height.
fn png_dimensions(data: &mut impl Read) -> Result<(u32, u32), BadHeader> {
    let mut signature = [0; 8];
    data.read_exact(&mut signature)?;
    if read_u32(data)? != 13 || read_u32(data)? != u32::from_be_bytes(*b"IHDR") {
        return Err(BadHeader::Malformed("no IHDR chunk at its start"));
    }
    Ok((read_u32(data)?, read_u32(data)?))
}

/// Walks over the segments (EXIF, colour profiles, …) to the frame header.
fn jpeg_dimensions(data: &mut io::BufReader<impl Read + Seek>) -> Result<(u32, u32), BadHeader> {
    const START_OF_IMAGE: u8 = 0xD8;
    const END_OF_IMAGE: u8 = 0xD9;
    const START_OF_SCAN: u8 = 0xDA;
    let mut start_of_image = [0; 2];
    data.read_exact(&mut start_of_image)?;
    loop {
        match next_marker(data)? {
            // Markers that stand alone.
            0x01 | 0xD0..=0xD7 => {}
            // Every frame header, C4 (tables), C8 (reserved) and CC (arithmetic coding) not being any.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => return frame_size(data),
            START_OF_IMAGE | END_OF_IMAGE | START_OF_SCAN => {
                return Err(BadHeader::Malformed("no frame header before its data"));
            }
            _ => skip_segment(data)?,
        }
    }
}

fn next_marker(data: &mut impl Read) -> Result<u8, BadHeader> {
    if read_u8(data)? != 0xFF {
        return Err(BadHeader::Malformed("no marker where one belongs"));
    }
    // Any number of fill bytes may stand before a marker.
    loop {
        match read_u8(data)? {
            0xFF => {}
            0 => return Err(BadHeader::Malformed("no marker where one belongs")),
            marker => return Ok(marker),
        }
    }
}

fn skip_segment(data: &mut io::BufReader<impl Read + Seek>) -> Result<(), BadHeader> {
    let length = read_u16(data)?;
    let rest = length.checked_sub(2).ok_or(BadHeader::Malformed("a segment of no length"))?;
    // Keeps what is buffered: a file can have millions of short segments.
    data.seek_relative(rest.into())?;
    Ok(())
}

fn frame_size(data: &mut impl Read) -> Result<(u32, u32), BadHeader> {
    let _length = read_u16(data)?;
    let _precision = read_u8(data)?;
    let height = read_u16(data)?;
    let width = read_u16(data)?;
    Ok((width.into(), height.into()))
}

fn read_u8(data: &mut impl Read) -> io::Result<u8> {
    let mut bytes = [0; 1];
    data.read_exact(&mut bytes)?;
    Ok(u8::from_be_bytes(bytes))
}

fn read_u16(data: &mut impl Read) -> io::Result<u16> {
    let mut bytes = [0; 2];
    data.read_exact(&mut bytes)?;
    Ok(u16::from_be_bytes(bytes))
}

fn read_u32(data: &mut impl Read) -> io::Result<u32> {
    let mut bytes = [0; 4];
    data.read_exact(&mut bytes)?;
    Ok(u32::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::arbitrary::cases;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn side() -> impl Strategy<Value = u16> {
        prop_oneof![
            2 => select(vec![0u16, 1, 299, 300, 301, 749, 750, 751, 752, 65_535]),
            2 => 300u16..2_000,
            1 => any::<u16>(),
        ]
    }

    /// A piece of a JPEG, sound or not.
    fn segment() -> impl Strategy<Value = Vec<u8>> {
        let frame = (0xC0u8..=0xCF, side(), side()).prop_map(|(marker, height, width)| {
            let [h1, h2] = height.to_be_bytes();
            let [w1, w2] = width.to_be_bytes();
            vec![0xFF, marker, 0, 11, 8, h1, h2, w1, w2, 1, 1]
        });
        let tables = (
            select(vec![0xC4u8, 0xC8, 0xCC, 0xDB, 0xE0, 0xE1, 0xFE, 0x02]),
            vec(any::<u8>(), 0..9),
        )
            .prop_map(|(marker, data)| {
                [&[0xFF, marker, 0, data.len() as u8 + 2], &data[..]].concat()
            });
        prop_oneof![
            4 => frame,
            6 => tables,
            2 => select(vec![0x01u8, 0xD0, 0xD7, 0xD8]).prop_map(|alone| vec![0xFF, alone]),
            1 => select(vec![0xD9u8, 0xDA, 0x00]).prop_map(|end| vec![0xFF, end]),
            1 => (any::<u8>(), any::<u16>()).prop_map(|(marker, length)| {
                let [high, low] = length.to_be_bytes();
                vec![0xFF, marker, high, low]
            }),
            1 => (1usize..700).prop_map(|fill| vec![0xFF; fill]),
            1 => vec(any::<u8>(), 0..6),
        ]
    }

    fn picture() -> impl Strategy<Value = Vec<u8>> {
        let jpeg = vec(segment(), 1..5)
            .prop_map(|segments| [&b"\xFF\xD8"[..], &segments.concat()].concat());
        let png = (
            select(vec![13u32, 13, 13, 12, 0]),
            side(),
            side(),
            any::<bool>(),
            vec(any::<u8>(), 0..4),
        )
            .prop_map(|(length, width, height, huge, rest)| {
                let side = |side: u16| (u32::from(side) << if huge { 16 } else { 0 }).to_be_bytes();
                let header = [*b"IHDR", side(width), side(height)].concat();
                [&b"\x89PNG\r\n\x1A\n"[..], &length.to_be_bytes(), &header, &rest].concat()
            });
        let start = select(vec![
            &b""[..],
            b"\xFF\xD8\xFF",
            b"\x89PNG\r\n\x1A\n",
            b"GIF89a",
            b"RIFF----WEBP",
        ]);
        let other =
            (start, vec(any::<u8>(), 0..40)).prop_map(|(start, rest)| [start, &rest].concat());
        let cut = |data: Vec<u8>, at: Option<prop::sample::Index>| match at {
            Some(at) => data[..at.index(data.len() + 1)].to_vec(),
            None => data,
        };
        let whole = prop_oneof![5 => jpeg, 2 => png, 1 => other];
        (whole, proptest::option::weighted(0.2, any::<prop::sample::Index>()))
            .prop_map(move |(data, at)| cut(data, at))
    }

    /// The size as the two standards define it, by another way than the code: over slices.
    fn size(data: &[u8]) -> Option<(u64, u64)> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if let Some(rest) = data.strip_prefix(b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR") {
            return Some((number(rest.get(..4)?), number(rest.get(4..8)?)));
        }
        let mut rest = data.strip_prefix(b"\xFF\xD8").filter(|rest| rest.starts_with(b"\xFF"))?;
        loop {
            let fill = rest.iter().take_while(|byte| **byte == 0xFF).count();
            let (marker, after) = rest.get(fill..)?.split_first().filter(|_| fill > 0)?;
            rest = match marker {
                0x00 | 0xD8..=0xDA => return None,
                0x01 | 0xD0..=0xD7 => after,
                0xC4 | 0xC8 | 0xCC | 0x02..=0xBF | 0xDB..=0xFF => {
                    let length = number(after.get(..2)?);
                    after.get(usize::try_from(length).ok().filter(|length| *length >= 2)?..)?
                }
                0xC0..=0xCF => return Some((number(after.get(5..7)?), number(after.get(3..5)?))),
            };
        }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn a_picture_is_accepted_by_its_size_alone(data in picture()) {
            let image = Image::bytes(data.clone());
            let fits = |(width, height): (u64, u64)| {
                width >= 300 && height >= 300 && 2 * width <= 5 * height && 2 * height <= 5 * width
            };
            match image.open("image_url") {
                Ok(_) => prop_assert!(size(&data).is_some_and(fits), "{:?}", size(&data)),
                Err(error) => {
                    prop_assert!(!size(&data).is_some_and(fits), "{}", error);
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                    prop_assert_eq!(error.field(), Some("image_url"));
                }
            }
        }
    }
}
