//! The images of create requests: HTTP URLs, or data URIs of the media type that they declare.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

const MAX_BYTES: usize = 10 * 1024 * 1024;
const MIN_DIMENSION: u32 = 300;
const PNG_MAGIC: &[u8] = b"\x89PNG\r\n\x1a\n";

/// Decodes the image of a data URI. Returns `None` for an HTTP URL, which is not fetched.
pub(super) fn decode(url: &str) -> Result<Option<Vec<u8>>, &'static str> {
    if is_http_url(url) {
        return Ok(None);
    }
    let rest = url.strip_prefix("data:").ok_or("Invalid url: expected http(s) or a data URI")?;
    let (media_type, payload) =
        rest.split_once(";base64,").ok_or("Invalid data URI: expected ;base64,")?;
    let magic: &[u8] = match media_type {
        "image/jpeg" => b"\xFF\xD8\xFF",
        "image/png" => PNG_MAGIC,
        _ => return Err("Unsupported image format: expected image/jpeg or image/png"),
    };
    let image = STANDARD.decode(payload).map_err(|_| "Invalid base64")?;
    if image.len() > MAX_BYTES {
        Err("Image too large: at most 10 MB")
    } else if !image.starts_with(magic) {
        Err("Image data does not match the media type of its data URI")
    } else {
        Ok(Some(image))
    }
}

fn is_http_url(url: &str) -> bool {
    let rest = url.split_once("://").filter(|(scheme, _)| {
        scheme.eq_ignore_ascii_case("https") || scheme.eq_ignore_ascii_case("http")
    });
    rest.is_some_and(|(_, rest)| !rest.starts_with('/') && !rest.is_empty())
        && !url.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// Checks the dimensions and the aspect ratio against Kling's limits.
pub(super) fn validate_dimensions(image: &[u8]) -> Result<(), String> {
    let (width, height) = dimensions(image).ok_or("Cannot read the dimensions of the image")?;
    if width.min(height) < MIN_DIMENSION {
        Err(format!("Image too small: {width}x{height}, at least {MIN_DIMENSION} px a side"))
    } else if !is_aspect_ratio_allowed(width, height) {
        Err(format!("Image aspect ratio {width}:{height} not in 1:2.5..2.5:1"))
    } else {
        Ok(())
    }
}

fn is_aspect_ratio_allowed(width: u32, height: u32) -> bool {
    let (width, height) = (u64::from(width), u64::from(height));
    2 * width <= 5 * height && 2 * height <= 5 * width
}

fn dimensions(image: &[u8]) -> Option<(u32, u32)> {
    match image.strip_prefix(PNG_MAGIC) {
        Some(chunks) => png_dimensions(chunks),
        None => jpeg_dimensions(image),
    }
}

/// Reads the dimensions from the first chunk, which must be `IHDR`.
fn png_dimensions(chunks: &[u8]) -> Option<(u32, u32)> {
    let (_length, rest) = chunks.split_first_chunk::<4>()?;
    let (width, rest) = rest.strip_prefix(b"IHDR")?.split_first_chunk::<4>()?;
    let (height, _) = rest.split_first_chunk::<4>()?;
    Some((u32::from_be_bytes(*width), u32::from_be_bytes(*height)))
}

/// Reads the dimensions from the first frame header, skipping the segments before it.
fn jpeg_dimensions(image: &[u8]) -> Option<(u32, u32)> {
    let mut rest = image.strip_prefix(b"\xFF\xD8")?;
    while let [0xFF, marker, after @ ..] = rest {
        rest = match *marker {
            0xFF => rest.get(1..)?, // fill byte
            0x01 | 0xD0..=0xD7 => after,
            // DHT, JPG and DAC are not frame headers, although they are in the same range.
            0xC0..=0xCF if !matches!(marker, 0xC4 | 0xC8 | 0xCC) => {
                let [_, _, _precision, h1, h2, w1, w2, ..] = after else {
                    return None;
                };
                let dimension = |high: &u8, low: &u8| u32::from(u16::from_be_bytes([*high, *low]));
                return Some((dimension(w1, w2), dimension(h1, h2)));
            }
            _ => {
                let (length, _) = after.split_first_chunk::<2>()?;
                after.get(usize::from(u16::from_be_bytes(*length))..)?
            }
        };
    }
    None
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) const JPEG: &[u8] =
        b"\xFF\xD8\xFF\xE0\x00\x04ab\xFF\xFF\xC0\x00\x0B\x08\x01\x68\x02\x80\x01";
    pub(in super::super) const PNG: &[u8] =
        b"\x89PNG\r\n\x1a\n\x00\x00\x00\x0DIHDR\x00\x00\x02\x80\x00\x00\x01\x68";

    pub(in super::super) fn data_uri(media_type: &str, image: &[u8]) -> String {
        format!("data:{media_type};base64,{}", STANDARD.encode(image))
    }

    #[test]
    fn dimensions_are_read_from_the_header() {
        assert_eq!(dimensions(JPEG), Some((640, 360)));
        assert_eq!(dimensions(PNG), Some((640, 360)));
        for end in 0..PNG.len() {
            assert_eq!(dimensions(&PNG[..end]), None);
        }
        assert_eq!(dimensions(b"\xFF\xD8\xFF\xE0\x00\x00\xFF\xE0\x00"), None);
        assert!(is_aspect_ratio_allowed(750, 300) && is_aspect_ratio_allowed(300, 750));
        assert!(!is_aspect_ratio_allowed(751, 300) && !is_aspect_ratio_allowed(300, 751));
    }
}
