//! The image to send: a URL, a file or bytes, and the rules that it must follow.
//!
//! Format and dimensions are read from the data itself, never from a file name: the format from the
//! first bytes, the dimensions from the header.

mod header;

use std::fmt;
use std::fs::File;
use std::io::{self, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use crate::error::{Error, Result};
use crate::operation::Operation;

use self::header::{ImageFormat, dimensions, read_error};

/// Kling's limits: 10 MB (read as MiB), at least 300 px on each side, a ratio of at most 2.5:1.
const MAX_BYTES: u64 = 10 * 1024 * 1024;
const MIN_DIMENSION: u32 = 300;
const MAX_RATIO: f64 = 2.5;

/// An image to send: a URL that the server fetches, a file, or bytes in memory.
///
/// Files and bytes must be JPEG or PNG, at most 10 MiB, at least 300 pixels on each side, and have
/// an aspect ratio between 1:2.5 and 2.5:1 (Kling's docs).
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
    /// The URL must lead directly to the image (the API's docs).
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

    /// Validates the image of the request's `field` and opens it.
    pub(crate) fn open(&self, field: &str) -> Result<OpenImage> {
        self.open_with(field, validate_header)
    }

    /// Like [`open`](Self::open), for a mask: any dimensions are accepted, since none are
    /// documented. Returns its URL, or a data URI, for which the mask is read into memory since
    /// it is small. (The API's docs mention only URLs.)
    pub(crate) fn open_mask(&self, field: &str) -> Result<String> {
        match self.open_with(field, |_, _, _, _| Ok(()))? {
            OpenImage::Url(url) => Ok(url),
            OpenImage::Data(mut image) => {
                let mut data = Vec::new();
                image.read_to_end(&mut data).map_err(|e| read_error(&image.display_name(), e))?;
                Ok(format!("{}{}", image.format.data_uri_prefix(), STANDARD.encode(data)))
            }
        }
    }

    /// Opens the image at its start, after validating its header.
    fn open_with(&self, field: &str, validate_header: HeaderValidator) -> Result<OpenImage> {
        let (mut source, len) = match &self.0 {
            ImageSource::Url(url) => {
                validate_url(field, url)?;
                return Ok(OpenImage::Url(url.clone()));
            }
            ImageSource::File(path) => open_file(field, path)?,
            ImageSource::Bytes(data) => {
                (ImageData::Bytes(Cursor::new(data.clone())), data.as_ref().len() as u64)
            }
        };
        let name = match &source {
            ImageData::File { .. } => source.display_name(),
            // Bytes have no name of their own: the field says which image of the request is meant.
            ImageData::Bytes(_) => format!("{} for `{field}`", source.display_name()),
        };
        validate_length(field, &name, len)?;
        let mut header = HeaderReader::with_capacity(HEADER_BUFFER, &mut source);
        let magic = read_magic(&mut header).map_err(|e| read_error(&name, e))?;
        let format = ImageFormat::detect(&magic).map_err(|detected| {
            let detected = detected.map(|other| format!("{other}, ")).unwrap_or_default();
            let message = format!("{name} is {detected}not a JPEG or PNG image");
            Error::invalid_request(field, message)
        })?;
        validate_header(field, &name, format, &mut header)?;
        source.rewind().map_err(|e| read_error(&name, e))?;
        Ok(OpenImage::Data(ImageReader { format, len, source }))
    }

    /// The URL, if the server is to fetch the image.
    pub(crate) fn as_url(&self) -> Option<&str> {
        match &self.0 {
            ImageSource::Url(url) => Some(url),
            ImageSource::File(_) | ImageSource::Bytes(_) => None,
        }
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
            ImageSource::Bytes(data) => write!(f, "Image::bytes({} bytes)", data.as_ref().len()),
        }
    }
}

/// A URL for messages: a `data:` URI given by mistake contains the complete image.
fn redact_data_uri(url: &str) -> &str {
    match url.get(..5) {
        Some(scheme) if scheme.eq_ignore_ascii_case("data:") => "data:…",
        _ => url,
    }
}

fn validate_url(field: &str, url: &str) -> Result<()> {
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    let requirement = match scheme.to_ascii_lowercase().as_str() {
        "http" | "https" => {
            let authority = rest.strip_prefix("//").unwrap_or_default();
            if authority.is_empty() || authority.starts_with(['/', '?', '#', ':']) {
                "must have a host"
            } else if url.chars().any(|c| c.is_control() || c.is_whitespace()) {
                "must not contain whitespace or control characters"
            } else {
                return Ok(());
            }
        }
        "data" => "must not be a data: URI: use Image::bytes or Image::file",
        _ => "must start with http:// or https://; for a file, use Image::file",
    };
    let message = format!("`{field}` is {:?}; {requirement}", redact_data_uri(url));
    Err(Error::invalid_request(field, message))
}

fn open_file(field: &str, path: &Path) -> Result<(ImageData, u64)> {
    let open_error =
        |e| Error::io(Operation::Validate, Some(path.to_owned()), "failed to open the image", e);
    // Checked before opening, because opening a FIFO blocks until it has a writer.
    let metadata = std::fs::metadata(path).map_err(|e| {
        if is_http_url(path) {
            Error::invalid_request(field, format!("{} is a URL: use Image::url", path.display()))
        } else {
            open_error(e)
        }
    })?;
    if !metadata.is_file() {
        let kind = if metadata.is_dir() { "a directory" } else { "not a regular file" };
        let message = format!("{} is {kind}; must be a JPEG or PNG file", path.display());
        return Err(Error::invalid_request(field, message));
    }
    let file = File::open(path).map_err(open_error)?;
    let len = file.metadata().map_err(open_error)?.len();
    Ok((ImageData::File { file, path: path.to_owned() }, len))
}

fn is_http_url(path: &Path) -> bool {
    let has_prefix = |path: &str, prefix: &str| {
        path.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    path.to_str().is_some_and(|path| has_prefix(path, "http://") || has_prefix(path, "https://"))
}

fn validate_length(field: &str, name: &str, len: u64) -> Result<()> {
    let message = match len {
        0 => format!("{name} is empty; must be a JPEG or PNG image"),
        1..=MAX_BYTES => return Ok(()),
        _ => format!("{name} has {len} bytes; must have at most {MAX_BYTES} (10 MiB)"),
    };
    Err(Error::invalid_request(field, message))
}

/// Reads the first bytes without consuming them. Uses `read_to_end`, because a single `read` may
/// return fewer bytes or be interrupted.
fn read_magic(header: &mut HeaderReader<'_>) -> io::Result<Vec<u8>> {
    let mut magic = Vec::with_capacity(16);
    header.by_ref().take(16).read_to_end(&mut magic)?;
    header.seek_relative(-(magic.len() as i64))?;
    Ok(magic)
}

/// Validates a header, for the request's field and the image's name in messages.
type HeaderValidator = fn(&str, &str, ImageFormat, &mut HeaderReader<'_>) -> Result<()>;

fn validate_header(
    field: &str,
    name: &str,
    format: ImageFormat,
    header: &mut HeaderReader<'_>,
) -> Result<()> {
    let (width, height) =
        dimensions(format, header).map_err(|error| error.into_error(field, name))?;
    validate_dimensions(field, name, width, height)
}

fn validate_dimensions(field: &str, name: &str, width: u32, height: u32) -> Result<()> {
    if width < MIN_DIMENSION || height < MIN_DIMENSION {
        return Err(Error::invalid_request(
            field,
            format!(
                "{name} is {width}x{height} pixels; each side must be at least {MIN_DIMENSION}"
            ),
        ));
    }
    let (long, short) = (f64::from(width.max(height)), f64::from(width.min(height)));
    if long > short * MAX_RATIO {
        return Err(Error::invalid_request(
            field,
            format!(
                "{name} is {width}x{height} pixels; its aspect ratio must be between 1:2.5 and \
                 2.5:1"
            ),
        ));
    }
    Ok(())
}

/// A validated image: the URL or the data that goes into the request.
pub(crate) enum OpenImage {
    Url(String),
    Data(ImageReader),
}

/// An open image, which can be read from its start any number of times.
pub(crate) struct ImageReader {
    pub(crate) format: ImageFormat,
    pub(crate) len: u64,
    source: ImageData,
}

/// Buffers the start of an image; what is buffered beyond the header is read again when it is sent.
type HeaderReader<'a> = io::BufReader<&'a mut ImageData>;
const HEADER_BUFFER: usize = 1024;

enum ImageData {
    File { file: File, path: PathBuf },
    Bytes(Cursor<Bytes>),
}

impl ImageData {
    fn display_name(&self) -> String {
        match self {
            Self::File { path, .. } => path.display().to_string(),
            Self::Bytes(_) => "image data".to_owned(),
        }
    }
}

impl ImageReader {
    /// The name of the image in messages.
    pub(crate) fn display_name(&self) -> String {
        self.source.display_name()
    }

    pub(crate) fn rewind(&mut self) -> Result<()> {
        self.source.rewind().map_err(|e| read_error(&self.display_name(), e))
    }
}

impl Read for ImageReader {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.source.read(buf)
    }
}

impl Read for ImageData {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File { file, .. } => file.read(buf),
            Self::Bytes(data) => data.read(buf),
        }
    }
}

impl Seek for ImageData {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        match self {
            Self::File { file, .. } => file.seek(to),
            Self::Bytes(data) => data.seek(to),
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
        fn image_is_accepted_if_and_only_if_its_dimensions_are_valid(data in image()) {
            let image = Image::bytes(data.clone());
            let dimensions = expected_dimensions(&data);
            let are_valid = |(width, height): (u64, u64)| {
                width >= 300 && height >= 300 && 2 * width <= 5 * height && 2 * height <= 5 * width
            };
            match image.open("image_url") {
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
