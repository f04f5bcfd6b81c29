//! Checks that an MP4 file is complete: its top-level boxes, each of which starts with its size,
//! must end exactly at the end of the file and include the index, `moov`.

use std::io::{self, Read, Seek, SeekFrom};

/// Returns why the first `length` bytes of the file are not a complete MP4, or `None` if they are.
pub(crate) fn validate(
    file: &mut (impl Read + Seek),
    length: u64,
) -> io::Result<Option<&'static str>> {
    const HEADER: u64 = 8;
    const LONG_HEADER: u64 = 16;
    let (mut at, mut has_moov) = (0, false);
    while at < length {
        if length - at < HEADER {
            return Ok(Some("truncated box"));
        }
        file.seek(SeekFrom::Start(at))?;
        let kind_and_size = read_u64(file)?;
        let kind = (kind_and_size as u32).to_be_bytes();
        if at == 0 && &kind != b"ftyp" {
            return Ok(Some("missing `ftyp` box"));
        }
        let (size, min_size) = match kind_and_size >> 32 {
            0 => (length - at, HEADER),
            1 if length - at < LONG_HEADER => return Ok(Some("truncated box")),
            1 => (read_u64(file)?, LONG_HEADER),
            size => (size, HEADER),
        };
        if size < min_size {
            return Ok(Some("box is shorter than its header"));
        }
        has_moov |= &kind == b"moov";
        at = match at.checked_add(size) {
            Some(end) if end <= length => end,
            _ => return Ok(Some("truncated box")),
        };
    }
    Ok(match (length, has_moov) {
        (0, _) => Some("file is empty"),
        (_, false) => Some("missing `moov` box"),
        (_, true) => None,
    })
}

fn read_u64(file: &mut impl Read) -> io::Result<u64> {
    let mut bytes = [0; 8];
    file.read_exact(&mut bytes)?;
    Ok(u64::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Cursor;

    fn problem(parts: &[&[u8]]) -> Option<&'static str> {
        let file = parts.concat();
        validate(&mut Cursor::new(&file), file.len() as u64).unwrap()
    }

    #[test]
    fn mp4_is_valid_only_if_complete() {
        let ftyp: &[u8] = b"\0\0\0\x0cftypisom";
        let moov: &[u8] = b"\0\0\0\x08moov";
        let long: &[u8] = b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x12xx";
        let open: &[u8] = b"\0\0\0\0mdat to the end";
        assert_eq!(problem(&[ftyp, moov, long]), None);
        assert_eq!(problem(&[ftyp, moov, open]), None);
        assert_eq!(problem(&[]), Some("file is empty"));
        assert_eq!(problem(&[ftyp, long]), Some("missing `moov` box"));
        assert_eq!(problem(&[b"<html>not found</html>"]), Some("missing `ftyp` box"));
        assert_eq!(problem(&[ftyp, moov, &long[..17]]), Some("truncated box"));
        assert_eq!(problem(&[ftyp, moov, &long[..9]]), Some("truncated box"));
        assert_eq!(problem(&[ftyp, moov, b"\0\0\0"]), Some("truncated box"));
        assert_eq!(problem(&[ftyp, b"\0\0\0\x07moov"]), Some("box is shorter than its header"));
        let huge = [&b"\0\0\0\x01mdat"[..], &[0xFF; 8]].concat();
        assert_eq!(problem(&[ftyp, moov, &huge]), Some("truncated box"));
    }
}
