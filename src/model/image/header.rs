//! Formats and dimensions of images, from their first bytes.

use std::io::{self, Read, Seek};
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::operation::Operation;

/// The image formats that Kling accepts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum ImageFormat {
    Jpeg,
    Png,
}

impl ImageFormat {
    pub(crate) fn data_uri_prefix(self) -> &'static str {
        match self {
            Self::Jpeg => "data:image/jpeg;base64,",
            Self::Png => "data:image/png;base64,",
        }
    }

    /// Detects the format by the first bytes. The error is another format, if it is a known one.
    pub(super) fn detect(magic: &[u8]) -> Result<Self, Option<&'static str>> {
        match magic {
            [0xFF, 0xD8, 0xFF, ..] => Ok(Self::Jpeg),
            [0x89, b'P', b'N', b'G', 0x0D, 0x0A, 0x1A, 0x0A, ..] => Ok(Self::Png),
            [b'G', b'I', b'F', b'8', ..] => Err(Some("a GIF")),
            [b'B', b'M', ..] => Err(Some("a BMP")),
            [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..] => Err(Some("a WebP")),
            [_, _, _, _, b'f', b't', b'y', b'p', b'a', b'v', b'i', b'f', ..] => {
                Err(Some("an AVIF"))
            }
            [_, _, _, _, b'f', b't', b'y', b'p', b'h', b'e', b'i', ..] => Err(Some("a HEIC")),
            [b'I', b'I', 0x2A, 0, ..] | [b'M', b'M', 0, 0x2A, ..] => Err(Some("a TIFF")),
            [b'<', ..] => Err(Some("text (SVG or HTML)")),
            _ => Err(None),
        }
    }
}

/// Why the dimensions could not be read from a header.
pub(super) enum HeaderError {
    Truncated,
    Malformed(&'static str),
    Io(io::Error),
}

impl HeaderError {
    pub(super) fn into_error(self, field: &str, name: &str) -> Error {
        match self {
            Self::Truncated => Error::invalid_request(
                field,
                format!("{name} is truncated within its header; must be a complete JPEG or PNG"),
            ),
            Self::Malformed(reason) => Error::invalid_request(
                field,
                format!("{name} has a malformed header: {reason}; must be a valid JPEG or PNG"),
            ),
            Self::Io(e) => read_error(name, e),
        }
    }
}

impl From<io::Error> for HeaderError {
    fn from(e: io::Error) -> Self {
        match e.kind() {
            io::ErrorKind::UnexpectedEof => Self::Truncated,
            _ => Self::Io(e),
        }
    }
}

/// Reads the width and the height from a header.
pub(super) fn dimensions(
    format: ImageFormat,
    header: &mut io::BufReader<impl Read + Seek>,
) -> Result<(u32, u32), HeaderError> {
    match format {
        ImageFormat::Png => png_dimensions(header),
        ImageFormat::Jpeg => jpeg_dimensions(header),
    }
}

/// Reads the IHDR chunk, which always comes first: length, type, width, height.
fn png_dimensions(data: &mut impl Read) -> Result<(u32, u32), HeaderError> {
    let mut signature = [0; 8];
    data.read_exact(&mut signature)?;
    if read_u32(data)? != 13 || read_u32(data)? != u32::from_be_bytes(*b"IHDR") {
        return Err(HeaderError::Malformed("the first chunk is not IHDR"));
    }
    Ok((read_u32(data)?, read_u32(data)?))
}

/// Skips segments (EXIF, color profiles, …) up to the frame header.
fn jpeg_dimensions(data: &mut io::BufReader<impl Read + Seek>) -> Result<(u32, u32), HeaderError> {
    const START_OF_IMAGE: u8 = 0xD8;
    const END_OF_IMAGE: u8 = 0xD9;
    const START_OF_SCAN: u8 = 0xDA;
    let mut start_of_image = [0; 2];
    data.read_exact(&mut start_of_image)?;
    loop {
        match next_marker(data)? {
            // Markers without a segment.
            0x01 | 0xD0..=0xD7 => {}
            // All frame headers. C4 (tables), C8 (reserved) and CC (arithmetic coding) are not.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => return frame_dimensions(data),
            START_OF_IMAGE | END_OF_IMAGE | START_OF_SCAN => {
                return Err(HeaderError::Malformed("image data before the frame header"));
            }
            _ => skip_segment(data)?,
        }
    }
}

fn next_marker(data: &mut impl Read) -> Result<u8, HeaderError> {
    if read_u8(data)? != 0xFF {
        return Err(HeaderError::Malformed("missing segment marker"));
    }
    // A marker may be preceded by any number of fill bytes.
    loop {
        match read_u8(data)? {
            0xFF => {}
            0 => return Err(HeaderError::Malformed("missing segment marker")),
            marker => return Ok(marker),
        }
    }
}

fn skip_segment(data: &mut io::BufReader<impl Read + Seek>) -> Result<(), HeaderError> {
    let length = read_u16(data)?;
    let remaining =
        length.checked_sub(2).ok_or(HeaderError::Malformed("invalid segment length"))?;
    // Unlike `seek`, this keeps the buffer: a file can have millions of short segments.
    data.seek_relative(remaining.into())?;
    Ok(())
}

fn frame_dimensions(data: &mut impl Read) -> Result<(u32, u32), HeaderError> {
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

pub(super) fn read_error(name: &str, e: io::Error) -> Error {
    Error::io(Operation::Validate, Some(PathBuf::from(name)), "failed to read the image", e)
}
