//! Whether a file is a whole MP4: its top-level boxes, each with its length before it, have to end
//! where the file ends, and the index of the film has to be among them.

use std::io::{self, Read, Seek, SeekFrom};

/// What is wrong with the file, if anything.
pub(crate) fn check(
    file: &mut (impl Read + Seek),
    length: u64,
) -> io::Result<Option<&'static str>> {
    const HEADER: u64 = 8;
    const LONG_HEADER: u64 = 16;
    let (mut at, mut has_index) = (0, false);
    while at < length {
        if length - at < HEADER {
            return Ok(Some("it ends within a box"));
        }
        file.seek(SeekFrom::Start(at))?;
        let kind_and_size = read_u64(file)?;
        let kind = (kind_and_size as u32).to_be_bytes();
        if at == 0 && &kind != b"ftyp" {
            return Ok(Some("it does not begin like one"));
        }
        let (size, least) = match kind_and_size >> 32 {
            0 => (length - at, HEADER),
            1 if length - at < LONG_HEADER => return Ok(Some("it ends within a box")),
            1 => (read_u64(file)?, LONG_HEADER),
            size => (size, HEADER),
        };
        if size < least {
            return Ok(Some("a box is shorter than its header"));
        }
        has_index |= &kind == b"moov";
        at = match at.checked_add(size) {
            Some(end) if end <= length => end,
            _ => return Ok(Some("it ends within a box")),
        };
    }
    Ok(match (length, has_index) {
        (0, _) => Some("it is empty"),
        (_, false) => Some("it has no index of its film"),
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

    fn verdict(parts: &[&[u8]]) -> Option<&'static str> {
        let file = parts.concat();
        check(&mut Cursor::new(&file), file.len() as u64).unwrap()
    }

    #[test]
    fn whole_files_pass_and_others_do_not() {
        let ftyp: &[u8] = b"\0\0\0\x0cftypisom";
        let moov: &[u8] = b"\0\0\0\x08moov";
        let long: &[u8] = b"\0\0\0\x01mdat\0\0\0\0\0\0\0\x12xx";
        let open: &[u8] = b"\0\0\0\0mdat to the end";
        assert_eq!(verdict(&[ftyp, moov, long]), None);
        assert_eq!(verdict(&[ftyp, moov, open]), None);
        assert_eq!(verdict(&[]), Some("it is empty"));
        assert_eq!(verdict(&[ftyp, long]), Some("it has no index of its film"));
        assert_eq!(verdict(&[b"<html>not found</html>"]), Some("it does not begin like one"));
        assert_eq!(verdict(&[ftyp, moov, &long[..17]]), Some("it ends within a box"));
        assert_eq!(verdict(&[ftyp, moov, &long[..9]]), Some("it ends within a box"));
        assert_eq!(verdict(&[ftyp, moov, b"\0\0\0"]), Some("it ends within a box"));
        assert_eq!(verdict(&[ftyp, b"\0\0\0\x07moov"]), Some("a box is shorter than its header"));
        let huge = [&b"\0\0\0\x01mdat"[..], &[0xFF; 8]].concat();
        assert_eq!(verdict(&[ftyp, moov, &huge]), Some("it ends within a box"));
    }
}
