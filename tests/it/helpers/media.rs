//! The bytes of images and videos.

// ---------------------------------------------------------------- PNG

/// The header of a PNG with these dimensions, padded with filler to `len` bytes.
pub fn png(width: u32, height: u32, len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(width.to_be_bytes());
    data.extend(height.to_be_bytes());
    pad(data, len)
}

/// A PNG of valid dimensions with `len` bytes.
pub fn png_of_len(len: usize) -> Vec<u8> {
    png(400, 300, len)
}

fn pad(mut data: Vec<u8>, len: usize) -> Vec<u8> {
    data.extend((data.len()..len).map(|at| (at * 7 + at / 251) as u8));
    data
}

// ---------------------------------------------------------------- JPEG

/// The marker at the start of every JPEG.
pub const JPEG_START: &[u8] = b"\xFF\xD8";

pub fn jpeg_segment(marker: u8, data: &[u8]) -> Vec<u8> {
    let length = u16::try_from(data.len() + 2).unwrap().to_be_bytes();
    [&[0xFF, marker], &length[..], data].concat()
}

/// The segment that contains the dimensions.
pub fn jpeg_frame(marker: u8, width: u16, height: u16) -> Vec<u8> {
    let [w1, w2] = width.to_be_bytes();
    let [h1, h2] = height.to_be_bytes();
    jpeg_segment(marker, &[8, h1, h2, w1, w2, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1])
}

pub fn jfif_segment() -> Vec<u8> {
    jpeg_segment(0xE0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0")
}

/// The header of a baseline JPEG with these dimensions.
pub fn jpeg(width: u16, height: u16) -> Vec<u8> {
    [JPEG_START, &jfif_segment(), &jpeg_frame(0xC0, width, height)].concat()
}

// ---------------------------------------------------------------- MP4

/// The boxes in front of the media data: `ftyp` and `moov`. Not a complete MP4.
pub const MP4_START: &[u8] = b"\0\0\0\x0cftypisom\0\0\0\x08moov";

/// The smallest file that passes for a complete MP4.
pub const TINY_MP4: &[u8] = b"\0\0\0\x0cftypisom\0\0\0\x08moov\0\0\0\x09mdat.";

/// A file of `len` bytes that passes for a complete MP4.
pub fn mp4(len: usize) -> Vec<u8> {
    let media_box_len = u32::try_from(len - MP4_START.len()).unwrap();
    pad([MP4_START, &media_box_len.to_be_bytes(), b"mdat"].concat(), len)
}

pub fn mp4_box(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let size = u32::try_from(8 + data.len()).unwrap().to_be_bytes();
    [&size[..], kind, data].concat()
}

/// A box with the 64-bit form of its size.
pub fn mp4_box_64(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    let size = (16 + data.len() as u64).to_be_bytes();
    [&1u32.to_be_bytes()[..], kind, &size, data].concat()
}

/// A box that reaches to the end of the file.
pub fn mp4_open_box(kind: &[u8; 4], data: &[u8]) -> Vec<u8> {
    [&[0; 4][..], kind, data].concat()
}
