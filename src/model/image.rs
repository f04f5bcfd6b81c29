//! The image to send: a URL, a file or bytes, and the rules that it must follow.
//!
//! Format and dimensions are read from the data itself, never from a file name: the format from the
//! first bytes, the dimensions from the header.

mod header;
mod url;

use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use base64::Engine as _;

use crate::error::{Error, Result};
use crate::fs::read_up_to;
use crate::model::body::engine;
use crate::operation::Operation;

use self::header::{JPEG, MAGIC_LEN, PNG, detect, flaw, jpeg_dimensions, png_dimensions};
use self::url::{has_scheme, redact_data_uri, validate_url};

/// Kling's limits: 10 MB (read as MiB), at least 300 px on each side, a ratio of at most 2.5:1.
const MAX_BYTES: u64 = 10 * 1024 * 1024;
const MIN_DIMENSION: u32 = 300;
const MAX_RATIO: f64 = 2.5;

/// An image to send: a URL that the server fetches, a file, or bytes in memory.
///
/// For the default model, files and bytes must be JPEG or PNG, at most 10 MiB, at least 300 pixels on
/// each side, and have an aspect ratio between 1:2.5 and 2.5:1 (Kling's docs).
///
/// There is no conversion from strings, because a string could be a URL or a path.
///
/// ```
/// use kling_video::{Image, ImageToVideo};
/// use std::path::Path;
///
/// let from_url = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
/// let from_file = ImageToVideo::new(Image::file("cat.jpg"));
/// let from_path = ImageToVideo::new(Path::new("cat.jpg"));
/// assert_eq!(from_file, from_path);
/// assert_ne!(from_file, from_url);
///
/// // A URL given as a path, or a path given as a URL, is an error that says what to use instead.
/// let mistaken = ImageToVideo::new(Image::file("https://example.com/cat.jpg"));
/// let error = mistaken.validate().unwrap_err();
/// assert_eq!(error.to_string(), "https://example.com/cat.jpg is a URL: use Image::url");
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Image(ImageSource);

#[derive(Clone, PartialEq, Eq)]
enum ImageSource {
    Url(String),
    File(PathBuf),
    Bytes(Bytes),
}

/// Shared, so that clones of a request and its retries do not copy the image.
#[derive(Clone, PartialEq, Eq)]
struct Bytes(Arc<Vec<u8>>);

impl AsRef<[u8]> for Bytes {
    fn as_ref(&self) -> &[u8] {
        &self.0
    }
}

impl Image {
    /// Creates an image from an `http` or `https` URL, which the server fetches.
    ///
    /// The URL must lead directly to the image (the API's docs). Outside of its host, characters that
    /// a URI must not contain are sent percent-encoded.
    ///
    /// ```
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let image = Image::url("https://example.com/cat.jpg");
    /// ImageToVideo::new(image).validate()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    #[must_use]
    pub fn url(url: impl Into<String>) -> Image {
        Self(ImageSource::Url(url.into()))
    }

    /// Creates an image from a JPEG or PNG file.
    ///
    /// The file is opened when the request is validated or sent, and streamed from disk when it is
    /// sent.
    ///
    /// ```no_run
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let image = Image::file("images/cat.jpg");
    /// ImageToVideo::new(image).validate()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    #[must_use]
    pub fn file(path: impl Into<PathBuf>) -> Image {
        Self(ImageSource::File(path.into()))
    }

    /// Creates an image from the bytes of a JPEG or PNG, which its clones share.
    ///
    /// ```
    /// use kling_video::{Image, ImageToVideo};
    ///
    /// let png = b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR\0\0\x01\x90\0\0\x01\x2C";
    /// let image = Image::bytes(png);
    /// assert_eq!(format!("{image:?}"), "Image::bytes(24 bytes)");
    /// ImageToVideo::new(image).validate()?;
    /// # Ok::<(), kling_video::Error>(())
    /// ```
    #[must_use]
    pub fn bytes(data: impl Into<Vec<u8>>) -> Image {
        Self(ImageSource::Bytes(Bytes(Arc::new(data.into()))))
    }

    /// Validates the image of the request's `field` and opens it. Returns its URL, or the start of its
    /// data URI and its data.
    pub(crate) fn open(
        &self,
        field: &str,
        rules: ImageRules,
    ) -> Result<(String, Option<ImageReader>)> {
        let mut image = match &self.0 {
            ImageSource::Url(url) => return Ok((validate_url(field, url)?, None)),
            ImageSource::File(path) => open_file(field, path)?,
            ImageSource::Bytes(data) => ImageReader {
                len: data.0.len() as u64,
                // Bytes have no name of their own: the field says which image is meant.
                name: format!("image data for `{field}`"),
                data: ImageData::Bytes(Cursor::new(data.clone())),
            },
        };
        let media_type = image.validate(rules).map_err(|e| {
            let flaw = match e.kind() {
                io::ErrorKind::InvalidData => &e.to_string(),
                io::ErrorKind::UnexpectedEof => {
                    "is truncated within its header; must be a complete JPEG or PNG"
                }
                _ => return image.read_error(e),
            };
            Error::invalid_request(field, format!("{} {flaw}", image.name))
        })?;
        Ok((format!("data:{media_type};base64,"), Some(image)))
    }

    /// Like [`open`](Self::open), for a mask: a data URI is complete, since masks are small. (The
    /// API's docs mention only URLs.)
    pub(crate) fn open_mask(&self, field: &str, rules: ImageRules) -> Result<String> {
        let (mut url, image) = self.open(field, rules)?;
        if let Some(mut image) = image {
            let mut data = Vec::new();
            read_up_to(&mut image, u64::MAX, &mut data).map_err(|e| image.read_error(e))?;
            engine().encode_string(data, &mut url);
        }
        Ok(url)
    }

    /// The URL, if the server is to fetch the image.
    pub(crate) fn as_url(&self) -> Option<&str> {
        let ImageSource::Url(url) = &self.0 else { return None };
        Some(url)
    }

    /// The name that a journal records: the URL or the path; bytes have none.
    pub(crate) fn journal_name(&self) -> Option<String> {
        match &self.0 {
            ImageSource::Url(url) => Some(url.clone()),
            ImageSource::File(path) => Some(path.display().to_string()),
            ImageSource::Bytes(_) => None,
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
            ImageSource::Url(url) => write!(f, "Image::url({:?})", redact_data_uri(url)),
            ImageSource::File(path) => write!(f, "Image::file({path:?})"),
            ImageSource::Bytes(data) => write!(f, "Image::bytes({} bytes)", data.0.len()),
        }
    }
}

/// The rules that an image must follow. With any of them it must not be empty.
#[derive(Clone, Copy)]
pub(crate) enum ImageRules {
    /// Those of Kling 2.1 for an image.
    Image,
    /// Those of Kling 2.1 for a mask, for which no dimensions are documented.
    Mask,
    /// Those of another model are left to the server, but a data URI needs a media type.
    DataUri,
}

fn open_file(field: &str, path: &Path) -> Result<ImageReader> {
    let name = path.display().to_string();
    let open_error =
        |e| Error::io(Operation::Validate, format!("{name}: failed to open the image"), e);
    // Checked before opening, because opening a FIFO blocks until it has a writer.
    let metadata = fs::metadata(path).map_err(|e| {
        let url = path.to_str().unwrap_or_default();
        let instead = match ["http://", "https://", "data:"].map(|scheme| has_scheme(url, scheme)) {
            [_, _, true] => "Image::bytes",
            [false, false, false] => return open_error(e),
            _ => "Image::url",
        };
        let message = format!("{} is a URL: use {instead}", redact_data_uri(url));
        Error::invalid_request(field, message)
    })?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        let message = format!("{name} is {kind}; must be a JPEG or PNG file");
        return Err(Error::invalid_request(field, message));
    }
    let file = File::open(path).map_err(open_error)?;
    let metadata = file.metadata().map_err(open_error)?;
    let (len, modified) = (metadata.len(), metadata.modified().ok());
    Ok(ImageReader { len, name, data: ImageData::File { file, modified } })
}

/// An open image, which can be read from its start any number of times.
pub(crate) struct ImageReader {
    pub(crate) len: u64,
    /// For messages.
    pub(crate) name: String,
    data: ImageData,
}

enum ImageData {
    File { file: File, modified: Option<SystemTime> },
    Bytes(Cursor<Bytes>),
}

impl ImageReader {
    pub(crate) fn read_error(&self, e: io::Error) -> Error {
        Error::io(Operation::Validate, format!("{}: failed to read the image", self.name), e)
    }

    /// Fails if the file's length or modification time is not that with which it was opened.
    pub(crate) fn ensure_unchanged(&self) -> io::Result<()> {
        let ImageData::File { file, modified } = &self.data else { return Ok(()) };
        let metadata = file.metadata()?;
        if metadata.len() == self.len && metadata.modified().ok() == *modified {
            return Ok(());
        }
        Err(io::Error::other("length or modification time has changed"))
    }

    /// Returns the media type. The reader is then at the start of the image.
    fn validate(&mut self, rules: ImageRules) -> io::Result<&'static str> {
        let len = self.len;
        if len == 0 {
            return Err(flaw("is empty; must be a JPEG or PNG image"));
        }
        let is_limited = !matches!(rules, ImageRules::DataUri);
        if is_limited && len > MAX_BYTES {
            let problem = format!("has {len} bytes; must have at most {MAX_BYTES} (10 MiB)");
            return Err(flaw(problem));
        }
        // What is buffered beyond the header is read again when it is sent.
        let mut header = BufReader::with_capacity(1024, &mut *self);
        let mut magic = Vec::with_capacity(MAGIC_LEN as usize);
        // Not `read`, which may return fewer bytes or be interrupted.
        read_up_to(&mut header, MAGIC_LEN, &mut magic)?;
        header.seek_relative(-(magic.len() as i64))?;
        let (kind, media_type) = detect(&magic);
        if media_type.is_empty() || is_limited && ![JPEG, PNG].contains(&media_type) {
            let comma = if kind.is_empty() { "" } else { ", " };
            return Err(flaw(format!("is {kind}{comma}not a JPEG or PNG image")));
        }
        if let ImageRules::Image = rules {
            let (width, height) = match media_type {
                PNG => png_dimensions(&mut header)?,
                _ => jpeg_dimensions(&mut header)?,
            };
            let (long, short) = (width.max(height), width.min(height));
            let wrong = |rule| Err(flaw(format!("is {width}x{height} pixels; {rule}")));
            if short < MIN_DIMENSION {
                return wrong("each side must be at least 300");
            }
            if f64::from(long) > f64::from(short) * MAX_RATIO {
                return wrong("its aspect ratio must be between 1:2.5 and 2.5:1");
            }
        }
        self.rewind()?;
        Ok(media_type)
    }
}

impl Read for ImageReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match &mut self.data {
            ImageData::File { file, .. } => file.read(buf),
            ImageData::Bytes(data) => data.read(buf),
        }
    }
}

impl Seek for ImageReader {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match &mut self.data {
            ImageData::File { file, .. } => file.seek(to),
            ImageData::Bytes(data) => data.seek(to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ErrorKind;
    use crate::arbitrary::cases;
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    fn dimension() -> impl Strategy<Value = u16> {
        prop_oneof![
            2 => select(vec![0u16, 1, 299, 300, 301, 749, 750, 751, 752, 65_535]),
            2 => 300u16..2_000,
            1 => any::<u16>(),
        ]
    }

    /// A JPEG segment, valid or not.
    fn segment() -> impl Strategy<Value = Vec<u8>> {
        let frame =
            (0xC0u8..=0xCF, dimension(), dimension()).prop_map(|(marker, height, width)| {
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
            2 => select(vec![0x01u8, 0xD0, 0xD7, 0xD8]).prop_map(|marker| vec![0xFF, marker]),
            1 => select(vec![0xD9u8, 0xDA, 0x00]).prop_map(|marker| vec![0xFF, marker]),
            1 => (any::<u8>(), any::<u16>()).prop_map(|(marker, length)| {
                let [high, low] = length.to_be_bytes();
                vec![0xFF, marker, high, low]
            }),
            1 => (1usize..700).prop_map(|fill| vec![0xFF; fill]),
            1 => vec(any::<u8>(), 0..6),
        ]
    }

    fn image() -> impl Strategy<Value = Vec<u8>> {
        let jpeg = vec(segment(), 1..5)
            .prop_map(|segments| [&b"\xFF\xD8"[..], &segments.concat()].concat());
        let png = (
            select(vec![13u32, 13, 13, 12, 0]),
            dimension(),
            dimension(),
            any::<bool>(),
            vec(any::<u8>(), 0..4),
        )
            .prop_map(|(length, width, height, huge, rest)| {
                let field =
                    |side: u16| (u32::from(side) << if huge { 16 } else { 0 }).to_be_bytes();
                let header = [*b"IHDR", field(width), field(height)].concat();
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
        let truncate = |data: Vec<u8>, at: Option<prop::sample::Index>| match at {
            Some(at) => data[..at.index(data.len() + 1)].to_vec(),
            None => data,
        };
        let complete = prop_oneof![5 => jpeg, 2 => png, 1 => other];
        (complete, proptest::option::weighted(0.2, any::<prop::sample::Index>()))
            .prop_map(move |(data, at)| truncate(data, at))
    }

    /// The dimensions as the two standards define them. Independent of the code under test: it
    /// works on slices.
    fn expected_dimensions(data: &[u8]) -> Option<(u64, u64)> {
        let number = |bytes: &[u8]| bytes.iter().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        if let Some(rest) = data.strip_prefix(b"\x89PNG\r\n\x1A\n\0\0\0\x0DIHDR") {
            return Some((number(rest.get(..4)?), number(rest.get(4..8)?)));
        }
        let mut rest = data.strip_prefix(b"\xFF\xD8").filter(|rest| rest.starts_with(b"\xFF"))?;
        loop {
            // Everything up to a marker is stray.
            let at =
                rest.windows(2).position(|pair| pair[0] == 0xFF && !b"\0\xFF".contains(&pair[1]));
            let (marker, after) = rest.get(at? + 1..)?.split_first()?;
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
        fn image_is_accepted_if_and_only_if_its_dimensions_are_valid(data in image()) {
            let image = Image::bytes(data.clone());
            let dimensions = expected_dimensions(&data);
            let are_valid = |(width, height): (u64, u64)| {
                width >= 300 && height >= 300 && 2 * width <= 5 * height && 2 * height <= 5 * width
            };
            match image.open("image_url", ImageRules::Image) {
                Ok(_) => prop_assert!(dimensions.is_some_and(are_valid), "{:?}", dimensions),
                Err(error) => {
                    prop_assert!(!dimensions.is_some_and(are_valid), "{}", error);
                    prop_assert_eq!(error.kind(), ErrorKind::InvalidRequest);
                    prop_assert_eq!(error.field(), Some("image_url"));
                }
            }
        }
    }
}
