//! The body of a create: JSON, with the picture streamed into it as base64, and its commit point.
//!
//! A server cannot act on a body that is not whole. So the last piece, the closing `"}`, is held
//! back until everything else was handed over, and handing it over is the commit point: before it
//! the create certainly has not happened, after it only the answer tells.

use std::io::{self, Read};
use std::path::PathBuf;

use base64::Engine;
use base64::engine::general_purpose;

use crate::error::{Error, Result};
use crate::image::{Opened, Picture};
use crate::request::{Checked, LAST_PIECE};

/// Base64 works on groups: 3 bytes become 4 characters.
const GROUP: usize = 3;
const ENCODED_GROUP: usize = 4;

/// Raw bytes per step, whole groups of them: encoded they fill the transport's largest buffer.
const STEP: usize = 72 * 1024;

/// Several times faster than the default engine, which does not choose it by itself.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
fn engine() -> impl Engine {
    base64::engine::Simd::standard(general_purpose::PAD)
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
fn engine() -> impl Engine {
    general_purpose::STANDARD
}

/// A checked request, ready to be sent as often as it takes.
pub(crate) struct Body {
    head: Vec<u8>,
    picture: Option<Picture>,
}

impl Body {
    pub(crate) fn new(checked: Checked) -> Self {
        let picture = match checked.picture {
            Opened::Link(_) => None,
            Opened::Picture(picture) => Some(picture),
        };
        Self { head: checked.head, picture }
    }

    /// Its exact length on the wire.
    pub(crate) fn len(&self) -> u64 {
        let raw = self.picture.as_ref().map_or(0, |picture| picture.len);
        let encoded = raw.div_ceil(GROUP as u64) * ENCODED_GROUP as u64;
        self.head.len() as u64 + encoded + LAST_PIECE.len() as u64
    }

    /// The picture, for a look at its bytes before it is sent.
    pub(crate) fn picture(&mut self) -> Option<&mut Picture> {
        self.picture.as_mut()
    }

    /// The body from its start. `hooks` see it go and may stop it before the commit point.
    pub(crate) fn reader<'a>(&'a mut self, hooks: &'a mut dyn Hooks) -> Result<Reader<'a>> {
        let total = self.len();
        let picture = match &mut self.picture {
            Some(picture) => {
                picture.rewind()?;
                Some(Encoder::new(picture))
            }
            None => None,
        };
        Ok(Reader {
            head: &self.head,
            picture,
            last: LAST_PIECE,
            sent: 0,
            total,
            committed: false,
            stopped: None,
            hooks,
        })
    }
}

/// How far a body has come.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Progress {
    /// No byte of it was handed over.
    NotBegun,
    /// A part was: the server cannot act on it.
    Begun,
    /// All of it was: the server may have acted.
    Committed,
}

/// What happens while a body is sent.
pub(crate) trait Hooks {
    /// So many bytes of `total` are about to be handed over.
    fn sending(&mut self, sent: u64, total: u64);

    /// Everything but the last piece was handed over. An error stops the body for good.
    fn before_commit(&mut self) -> Result<()>;
}

/// A body on its way. It never ends early with success: one that cannot go on fails.
pub(crate) struct Reader<'a> {
    head: &'a [u8],
    picture: Option<Encoder<'a>>,
    last: &'static [u8],
    sent: u64,
    total: u64,
    committed: bool,
    stopped: Option<Error>,
    hooks: &'a mut dyn Hooks,
}

impl Reader<'_> {
    pub(crate) fn total(&self) -> u64 {
        self.total
    }

    pub(crate) fn progress(&self) -> Progress {
        match (self.committed, self.sent) {
            (true, _) => Progress::Committed,
            (false, 0) => Progress::NotBegun,
            (false, _) => Progress::Begun,
        }
    }

    /// Why this side stopped the body, if it did.
    pub(crate) fn take_stop(&mut self) -> Option<Error> {
        self.stopped.take()
    }

    fn fill(&mut self, buf: &mut [u8]) -> Result<usize> {
        let from_head = self.head.read(buf).unwrap_or_default();
        let rest = buf.get_mut(from_head..).unwrap_or_default();
        let encoded = match &mut self.picture {
            Some(picture) => picture.encode(rest)?,
            None => 0,
        };
        Ok(from_head + encoded)
    }

    fn commit(&mut self, buf: &mut [u8]) -> Result<usize> {
        if !self.committed {
            // Told before the hook, so that nothing lies between the hook and the commit.
            self.hooks.sending(self.total, self.total);
            self.hooks.before_commit()?;
            self.committed = true;
        }
        Ok(self.last.read(buf).unwrap_or_default())
    }

    fn next(&mut self, buf: &mut [u8]) -> Result<usize> {
        let filled = self.fill(buf)?;
        if filled == 0 {
            return self.commit(buf);
        }
        self.sent += filled as u64;
        self.hooks.sending(self.sent, self.total);
        Ok(filled)
    }
}

impl Read for Reader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.next(buf).map_err(|stop| {
            self.stopped = Some(stop);
            io::Error::other("the body was stopped")
        })
    }
}

/// A picture as base64, in steps of fixed size.
struct Encoder<'a> {
    picture: &'a mut Picture,
    left: u64,
    raw: Vec<u8>,
    /// An encoded group that did not fit into the reader's buffer.
    pending: io::Cursor<Vec<u8>>,
}

impl<'a> Encoder<'a> {
    fn new(picture: &'a mut Picture) -> Self {
        let left = picture.len;
        let step = usize::try_from(left).map_or(STEP, |left| left.min(STEP));
        Self { picture, left, raw: vec![0; step], pending: io::Cursor::default() }
    }

    /// Fills `buf` as far as whole groups go; 0 only at the end of the picture.
    fn encode(&mut self, buf: &mut [u8]) -> Result<usize> {
        let pending = self.pending.read(buf).unwrap_or_default();
        if pending > 0 || self.left == 0 || buf.is_empty() {
            return Ok(pending);
        }
        let groups = buf.len() / ENCODED_GROUP;
        if groups > 0 {
            let raw = self.read_raw(groups * GROUP)?;
            return encode_slice(raw, buf);
        }
        let mut group = vec![0; ENCODED_GROUP];
        let encoded = encode_slice(self.read_raw(GROUP)?, &mut group)?;
        group.truncate(encoded);
        self.pending = io::Cursor::new(group);
        Ok(self.pending.read(buf).unwrap_or_default())
    }

    /// The next raw bytes, at most `most`: whole groups but at the end.
    fn read_raw(&mut self, most: usize) -> Result<&[u8]> {
        let most = most.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let step = self.raw.len().min(most);
        let raw = self.raw.get_mut(..step).unwrap_or_default();
        let read = self.picture.read_exact(raw).and_then(|()| {
            self.left -= raw.len() as u64;
            if self.left == 0 && self.picture.read(&mut [0])? > 0 {
                return Err(io::Error::other("it has grown"));
            }
            Ok(())
        });
        match read {
            Ok(()) => Ok(raw),
            Err(e) => {
                let path = Some(PathBuf::from(self.picture.name()));
                Err(Error::io(
                    "create",
                    path,
                    "the picture changed or broke off while it was sent",
                    e,
                ))
            }
        }
    }
}

fn encode_slice(raw: &[u8], into: &mut [u8]) -> Result<usize> {
    // Cannot happen, since `raw` has as many groups as fit; but a wrong body must not be sent.
    engine().encode_slice(raw, into).map_err(|e| Error::invalid("image_url", e.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, ImageToVideo};
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    #[derive(Default)]
    struct Seen {
        sent: Vec<u64>,
        commits: u32,
        refuse: bool,
    }

    impl Hooks for Seen {
        fn sending(&mut self, sent: u64, _total: u64) {
            self.sent.push(sent);
        }

        fn before_commit(&mut self) -> Result<()> {
            self.commits += 1;
            if self.refuse { Err(Error::cancelled("create")) } else { Ok(()) }
        }
    }

    /// A PNG header of 400x300 pixels and then whatever follows.
    fn png(len: usize) -> Vec<u8> {
        let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x90\0\0\x01\x2c".to_vec();
        data.extend((0..len.saturating_sub(data.len())).map(|i| (i * 7 + i / 251) as u8));
        data
    }

    fn body_of(image: Image) -> Body {
        Body::new(ImageToVideo::new(image).prompt("a \"quoted\" prompt\n").check().unwrap())
    }

    fn read_in_steps(reader: &mut Reader<'_>, sizes: &[usize]) -> io::Result<Vec<u8>> {
        let mut all = Vec::new();
        for size in sizes.iter().cycle() {
            let mut buf = vec![0; *size];
            match reader.read(&mut buf)? {
                0 => break,
                n => all.extend_from_slice(&buf[..n]),
            }
        }
        Ok(all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn the_bytes_are_those_of_base64_and_serde_json(
            len in prop_oneof![24usize..400, 73_500usize..74_000, 147_400usize..147_500],
            sizes in prop::collection::vec(prop_oneof![1usize..9, 1usize..70_000], 1..6),
            from_file: bool,
        ) {
            let data = png(len);
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("picture");
            std::fs::write(&path, &data).unwrap();
            let image = if from_file { Image::file(&path) } else { Image::bytes(data.clone()) };
            let mut body = body_of(image);
            let mut seen = Seen::default();
            let mut reader = body.reader(&mut seen).unwrap();
            let total = reader.total();
            let sent = read_in_steps(&mut reader, &sizes).unwrap();
            let expected = format!(
                r#"{{"model":{},"type":"image-to-video","prompt":{},"image_url":{}}}"#,
                serde_json::to_string(crate::MODEL).unwrap(),
                serde_json::to_string("a \"quoted\" prompt\n").unwrap(),
                serde_json::to_string(&format!("data:image/png;base64,{}", STANDARD.encode(&data))).unwrap(),
            );
            prop_assert!(sent == expected.as_bytes());
            prop_assert_eq!(total, expected.len() as u64);
            prop_assert_eq!(seen.commits, 1);
            prop_assert_eq!(seen.sent.last(), Some(&total));
        }
    }

    #[test]
    fn the_last_piece_waits_for_the_hook() {
        let mut body = body_of(Image::url("https://example.com/cat.jpg"));
        let mut seen = Seen { refuse: true, ..Seen::default() };
        let mut reader = body.reader(&mut seen).unwrap();
        let mut buf = [0; 1024];
        let n = reader.read(&mut buf).unwrap();
        assert!(buf[..n].ends_with(b"https://example.com/cat.jpg"));
        assert_eq!(reader.progress(), Progress::Begun);
        assert!(reader.read(&mut buf).is_err());
        assert_eq!(reader.progress(), Progress::Begun);
        assert_eq!(reader.take_stop().unwrap().kind(), crate::ErrorKind::Cancelled);
        assert_eq!(seen.commits, 1);
    }

    #[test]
    fn a_file_that_changes_its_size_stops_the_body() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("picture.png");
        for new_length in [150_000, 250_000] {
            std::fs::write(&path, png(200_000)).unwrap();
            let mut body = body_of(Image::file(&path));
            std::fs::write(&path, png(new_length)).unwrap();
            let mut seen = Seen::default();
            let mut reader = body.reader(&mut seen).unwrap();
            assert!(read_in_steps(&mut reader, &[65_536]).is_err());
            assert_eq!(reader.progress(), Progress::Begun);
            let stop = reader.take_stop().unwrap();
            assert_eq!(stop.kind(), crate::ErrorKind::Io);
            assert!(stop.to_string().contains("picture.png"), "{stop}");
        }
    }
}
