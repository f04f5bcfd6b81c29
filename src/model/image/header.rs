//! Kinds of files and dimensions of images, from their first bytes.

use std::io::{self, BufReader, Read, Seek};

pub(super) const JPEG: &str = "image/jpeg";
pub(super) const PNG: &str = "image/png";

/// How many bytes [`detect`] needs.
pub(super) const MAGIC_LEN: u64 = 16;

/// Kinds of files: where they have which bytes, what they are, and the media type of those that are
/// images. The first match counts.
const KINDS: [(usize, &[u8], &str, &str); 17] = [
    (0, b"\xFF\xD8\xFF", "a JPEG", JPEG),
    // Has image data that only Apple's decoders read.
    (12, b"CgBI", "an iPhone's CgBI PNG", ""),
    (0, b"\x89PNG\r\n\x1A\n", "a PNG", PNG),
    (0, b"GIF8", "a GIF", "image/gif"),
    (0, b"BM", "a BMP", "image/bmp"),
    (8, b"WEBP", "a WebP", "image/webp"),
    (4, b"ftypavif", "an AVIF", "image/avif"),
    (4, b"ftypavis", "an AVIF", "image/avif"),
    (4, b"ftyphei", "a HEIC", "image/heic"),
    (4, b"ftyphev", "a HEIC", "image/heic"),
    (4, b"ftypmif1", "a HEIF", "image/heif"),
    (4, b"ftypmsf1", "a HEIF", "image/heif"),
    (4, b"ftyp", "a video", ""),
    (0, b"II\x2A\0", "a TIFF", "image/tiff"),
    (0, b"MM\0\x2A", "a TIFF", "image/tiff"),
    (0, b"<", "text (SVG or HTML)", ""),
    (0, b"%PDF", "a PDF", ""),
];

/// What starts with these bytes, and its media type if it is an image. Empty if not known.
pub(super) fn detect(magic: &[u8]) -> (&'static str, &'static str) {
    let has = |at: usize, bytes| magic.get(at..).is_some_and(|rest| rest.starts_with(bytes));
    let kind = KINDS.iter().find(|(at, bytes, ..)| has(*at, bytes));
    kind.map_or(("", ""), |(_, _, name, media_type)| (*name, *media_type))
}

/// What is wrong with an image, to be read after its name. The system has no errors of this kind.
pub(super) fn flaw(problem: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, problem.into())
}

fn malformed(reason: &str) -> io::Error {
    flaw(format!("has a malformed header: {reason}; must be a valid JPEG or PNG"))
}

/// Reads width and height from the IHDR chunk, which always comes first: length, type, width, height.
pub(super) fn png_dimensions(data: &mut BufReader<impl Read + Seek>) -> io::Result<(u32, u32)> {
    data.seek_relative(8)?;
    if read_uint(data, 4)? != 13 || read_uint(data, 4)? != u32::from_be_bytes(*b"IHDR") {
        return Err(malformed("the first chunk is not IHDR"));
    }
    Ok((read_uint(data, 4)?, read_uint(data, 4)?))
}

/// Skips segments (EXIF, color profiles, …) up to the frame header: length, precision, height, width.
pub(super) fn jpeg_dimensions(data: &mut BufReader<impl Read + Seek>) -> io::Result<(u32, u32)> {
    data.seek_relative(2)?;
    loop {
        match next_marker(data)? {
            // Markers without a segment.
            0x01 | 0xD0..=0xD7 => {}
            // All frame headers. C4 (tables), C8 (reserved) and CC (arithmetic coding) are not.
            0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF => {
                read_uint(data, 3)?;
                let height = read_uint(data, 2)?;
                return Ok((read_uint(data, 2)?, height));
            }
            // Start and end of the image, start of its data.
            0xD8..=0xDA => return Err(malformed("image data before the frame header")),
            _ => {
                let length = read_uint(data, 2)?.checked_sub(2);
                let length = length.ok_or_else(|| malformed("invalid segment length"))?;
                // Unlike `seek`, this keeps the buffer: a file can have millions of short segments.
                data.seek_relative(length.into())?;
            }
        }
    }
}

/// Skips stray bytes, as decoders do, and any number of fill bytes.
fn next_marker(data: &mut impl Read) -> io::Result<u32> {
    let mut previous = 0;
    loop {
        match (previous, read_uint(data, 1)?) {
            (0xFF, marker @ 0x01..0xFF) => return Ok(marker),
            (_, byte) => previous = byte,
        }
    }
}

/// Reads a big-endian number of 1 to 4 bytes.
fn read_uint(data: &mut impl Read, len: usize) -> io::Result<u32> {
    let mut bytes = [0; 4];
    data.read_exact(bytes.get_mut(4 - len..).unwrap_or_default())?;
    Ok(u32::from_be_bytes(bytes))
}
