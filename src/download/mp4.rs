//! Checks that an MP4 file is complete, by its top-level boxes, each of which starts with its size.

use std::io::{self, Read, Seek, SeekFrom};

use crate::fs::read_up_to;

/// Returns why the first `length` bytes of the file are not a complete MP4, or `None` if they are:
/// `ftyp` in front, and complete `moov` and `mdat` boxes.
///
/// If the server announced the length, the file ends where it should: any bytes may follow the last
/// box, as phones and servers append them, and the `mdat` box may be the one without a size, which
/// extends to the end of the file. Otherwise the connection may have been lost at any byte, so every
/// box must end where it says.
pub(crate) fn validate(
    file: &mut (impl Read + Seek),
    length: u64,
    is_length_announced: bool,
) -> io::Result<Option<&'static str>> {
    let (mut at, mut has_moov, mut has_media) = (0, false, false);
    while at < length {
        // The 32-bit size, the kind, and the 64-bit size, if the first one is 1.
        let mut start = Vec::with_capacity(16);
        file.seek(SeekFrom::Start(at))?;
        read_up_to(file, 16, &mut start)?;
        start.resize(16, 0);
        let start = u128::from_be_bytes(start.try_into().unwrap_or_default());
        let kind = &((start >> 64) as u32).to_be_bytes();
        if at == 0 && kind != b"ftyp" {
            return Ok(Some("missing `ftyp` box"));
        }
        let (size, header) = match start >> 96 {
            0 => (length - at, 8),
            1 => (start as u64, 16),
            size => (size as u64, 8),
        };
        let is_essential = matches!(kind, b"moov" | b"moof" | b"mdat");
        let has_end = start >> 96 != 0 || !is_essential || is_length_announced;
        if !has_end || !(header..=length - at).contains(&size) {
            if is_essential || !is_length_announced {
                return Ok(Some("truncated box"));
            }
            break;
        }
        match kind {
            b"moov" => has_moov = true,
            // A fragment, whose media data follows.
            b"moof" => has_media &= is_length_announced,
            b"mdat" => has_media |= size > header,
            _ => {}
        }
        at += size;
    }
    Ok(match (has_moov, has_media) {
        (false, _) => Some("missing `moov` box"),
        (true, false) => Some("missing media data"),
        (true, true) => None,
    })
}
