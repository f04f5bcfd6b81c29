//! The body of a create request: JSON with the image streamed into it as base64, and its commit
//! point.
//!
//! A server cannot act on an incomplete body. So the last bytes, the closing quote and brace, are
//! held back until everything else has been written to the transport. Writing them is the commit
//! point: before it, nothing can have been created; after it, only the response shows whether
//! something was.
//!
//! They are written one by one, because rustls reports a failed write only at the next one. If the
//! server has closed the connection by then, the last byte is never written, which proves that
//! nothing was created.

use std::io::{self, Read, Seek};

use base64::Engine;
use base64::engine::general_purpose;

use crate::error::{Error, Result};
use crate::model::image::ImageReader;
use crate::operation::Operation;

/// The end of every request's JSON: the closing quote of `image_url` and the closing brace. Three
/// bytes, for three writes.
const JSON_SUFFIX: &[u8] = b"\"\n}";

/// Base64 encodes blocks of 3 bytes as 4 characters.
const RAW_BLOCK: usize = 3;
const ENCODED_BLOCK: usize = 4;

/// Raw bytes read at once, a multiple of [`RAW_BLOCK`]. Encoded, they fill the transport's largest
/// buffer.
const CHUNK_SIZE: usize = 72 * 1024;

/// SIMD is several times faster than the default engine, and not selected automatically.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
pub(super) fn engine() -> impl Engine {
    base64::engine::Simd::standard(general_purpose::PAD)
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
pub(super) fn engine() -> impl Engine {
    general_purpose::STANDARD
}

/// The body of a validated request, which can be sent any number of times.
pub(crate) struct RequestBody {
    /// The JSON up to the data of the image.
    pub(crate) json_prefix: Vec<u8>,
    /// An image that is not a URL, to be hashed before it is sent.
    pub(crate) image: Option<ImageReader>,
}

impl RequestBody {
    /// The exact length on the wire.
    pub(crate) fn len(&self) -> u64 {
        let raw = self.image.as_ref().map_or(0, |image| image.len);
        let encoded = raw.div_ceil(RAW_BLOCK as u64) * ENCODED_BLOCK as u64;
        self.json_prefix.len() as u64 + encoded + JSON_SUFFIX.len() as u64
    }

    /// Returns a reader at the start of the body. Before each write to the transport it calls
    /// `on_progress` with the bytes that will then have been sent, and the total. The last call,
    /// when both are equal, is right before the commit point. An error aborts the upload.
    pub(crate) fn reader<'a>(
        &'a mut self,
        on_progress: &'a mut OnProgress<'a>,
    ) -> Result<BodyReader<'a>> {
        let total = self.len();
        Ok(BodyReader {
            json_prefix: &self.json_prefix,
            image: self.image.as_mut().map(Base64Encoder::new).transpose()?,
            suffix: JSON_SUFFIX,
            sent: 0,
            total,
            is_cut: false,
            error: None,
            on_progress,
        })
    }
}

/// How much of a body has been written to the transport.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum UploadState {
    /// Nothing.
    NotStarted,
    /// A part: the server cannot act on it.
    InProgress,
    /// Everything: the server may have acted on it.
    Committed,
    /// The commit point was passed, but the end certainly was not written: the server cannot act
    /// on it.
    Cut,
}

type OnProgress<'a> = dyn FnMut(u64, u64) -> Result<()> + 'a;

/// Reads a body once. It never reports EOF early: if the body cannot be completed, reading fails.
pub(crate) struct BodyReader<'a> {
    json_prefix: &'a [u8],
    image: Option<Base64Encoder<'a>>,
    suffix: &'static [u8],
    sent: u64,
    pub(crate) total: u64,
    /// Whether the transport has proof that it did not write the end of the body.
    pub(crate) is_cut: bool,
    /// The error of the image or of `on_progress` that aborted the upload.
    pub(crate) error: Option<Error>,
    on_progress: &'a mut OnProgress<'a>,
}

impl BodyReader<'_> {
    pub(crate) fn state(&self) -> UploadState {
        match self.sent {
            0 => UploadState::NotStarted,
            sent if sent < self.total => UploadState::InProgress,
            _ if self.is_cut || !self.suffix.is_empty() => UploadState::Cut,
            _ => UploadState::Committed,
        }
    }

    fn read_next(&mut self, buf: &mut [u8]) -> Result<usize> {
        let mut filled = self.json_prefix.read(buf).unwrap_or_default();
        if let Some(image) = &mut self.image {
            filled += image.encode(buf.get_mut(filled..).unwrap_or_default())?;
        }
        if filled > 0 {
            self.sent += filled as u64;
            (self.on_progress)(self.sent, self.total)?;
            return Ok(filled);
        }
        if self.sent < self.total {
            if let Some(Base64Encoder { image, .. }) = &self.image {
                image.ensure_unchanged().map_err(|e| upload_error(image, e))?;
            }
            (self.on_progress)(self.total, self.total)?;
            self.sent = self.total;
        }
        let next = buf.get_mut(..1).unwrap_or_default();
        Ok(self.suffix.read(next).unwrap_or_default())
    }
}

impl Read for BodyReader<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        self.read_next(buf).map_err(|error| {
            self.error = Some(error);
            io::Error::other("upload aborted")
        })
    }
}

/// Encodes an image as base64, in chunks of a fixed size.
struct Base64Encoder<'a> {
    image: &'a mut ImageReader,
    remaining: u64,
    raw: Vec<u8>,
    /// The part of an encoded block that did not fit into the caller's buffer.
    pending: io::Cursor<Vec<u8>>,
}

impl<'a> Base64Encoder<'a> {
    fn new(image: &'a mut ImageReader) -> Result<Self> {
        image.rewind().map_err(|e| image.read_error(e))?;
        let remaining = image.len;
        let chunk = usize::try_from(remaining).map_or(CHUNK_SIZE, |len| len.min(CHUNK_SIZE));
        Ok(Self { image, remaining, raw: vec![0; chunk], pending: io::Cursor::default() })
    }

    /// Writes as many complete blocks as fit into `buf`. Returns 0 only at the end of the image.
    fn encode(&mut self, buf: &mut [u8]) -> Result<usize> {
        let pending = self.pending.read(buf).unwrap_or_default();
        if pending > 0 || self.remaining == 0 || buf.is_empty() {
            return Ok(pending);
        }
        let blocks = buf.len() / ENCODED_BLOCK;
        if blocks > 0 {
            let raw = self.read_raw(blocks * RAW_BLOCK)?;
            // Cannot fail, since these blocks fit; but a wrong body must not be sent.
            return engine().encode_slice(raw, buf).map_err(|e| {
                let message = format!("`image_url` cannot be encoded as base64: {e}");
                Error::invalid_request("image_url", message)
            });
        }
        let block = engine().encode(self.read_raw(RAW_BLOCK)?);
        self.pending = io::Cursor::new(block.into_bytes());
        Ok(self.pending.read(buf).unwrap_or_default())
    }

    /// Reads the next raw bytes, at most `max_len`: complete blocks, except at the end.
    fn read_raw(&mut self, max_len: usize) -> Result<&[u8]> {
        let max_len = max_len.min(usize::try_from(self.remaining).unwrap_or(usize::MAX));
        let len = self.raw.len().min(max_len);
        let raw = self.raw.get_mut(..len).unwrap_or_default();
        self.image.read_exact(raw).map_err(|e| upload_error(self.image, e))?;
        self.remaining -= raw.len() as u64;
        Ok(raw)
    }
}

fn upload_error(image: &ImageReader, e: io::Error) -> Error {
    let message = format!("{}: image file changed or could not be read during upload", image.name);
    Error::io(Operation::Create, message, e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Image, ImageToVideo};
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    /// The header of a PNG with 400x300 pixels, followed by arbitrary data.
    fn png(len: usize) -> Vec<u8> {
        let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\0\0\x01\x90\0\0\x01\x2c".to_vec();
        data.extend((0..len.saturating_sub(data.len())).map(|i| (i * 7 + i / 251) as u8));
        data
    }

    fn body_of(image: Image) -> RequestBody {
        ImageToVideo::new(image).prompt("a \"quoted\" prompt\n").body().unwrap()
    }

    fn read_in_chunks(reader: &mut BodyReader<'_>, sizes: &[usize]) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        for size in sizes.iter().cycle() {
            let mut buf = vec![0; *size];
            match reader.read(&mut buf)? {
                0 => break,
                n => body.extend_from_slice(&buf[..n]),
            }
        }
        Ok(body)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(300))]
        #[test]
        fn body_equals_the_output_of_base64_and_serde_json(
            len in prop_oneof![24usize..400, 73_500usize..74_000, 147_400usize..147_500],
            sizes in prop::collection::vec(prop_oneof![1usize..9, 1usize..70_000], 1..6),
            from_file: bool,
        ) {
            let data = png(len);
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("image");
            std::fs::write(&path, &data).unwrap();
            let image = if from_file { Image::file(&path) } else { Image::bytes(data.clone()) };
            let mut body = body_of(image);
            let mut progress = Vec::new();
            let mut on_progress = |sent, _total| {
                progress.push(sent);
                Ok(())
            };
            let mut reader = body.reader(&mut on_progress).unwrap();
            let total = reader.total;
            let sent = read_in_chunks(&mut reader, &sizes).unwrap();
            let expected = format!(
                "{{\"model\":{},\"type\":\"image-to-video\",\"prompt\":{},\"image_url\":{}\n}}",
                serde_json::to_string(crate::MODEL).unwrap(),
                serde_json::to_string("a \"quoted\" prompt\n").unwrap(),
                serde_json::to_string(&format!("data:image/png;base64,{}", STANDARD.encode(&data))).unwrap(),
            );
            prop_assert!(sent == expected.as_bytes());
            prop_assert_eq!(total, expected.len() as u64);
            prop_assert!(progress.is_sorted_by(|one, next| one < next));
            prop_assert_eq!(progress.last(), Some(&total));
        }
    }

    #[test]
    fn body_suffix_is_held_back_until_the_last_call_of_on_progress_returns() {
        let mut body = body_of(Image::url("https://example.com/cat.jpg"));
        let mut commits = 0;
        let mut on_progress = |sent, total| {
            if sent < total {
                return Ok(());
            }
            commits += 1;
            Err(Error::cancelled(Operation::Create))
        };
        let mut reader = body.reader(&mut on_progress).unwrap();
        let mut buf = [0; 1024];
        let n = reader.read(&mut buf).unwrap();
        assert!(buf[..n].ends_with(b"https://example.com/cat.jpg"));
        assert_eq!(reader.state(), UploadState::InProgress);
        assert!(reader.read(&mut buf).is_err());
        assert_eq!(reader.state(), UploadState::InProgress);
        assert_eq!(reader.error.take().unwrap().kind(), crate::ErrorKind::Cancelled);
        assert_eq!(commits, 1);
    }

    #[test]
    fn file_that_changes_its_size_aborts_the_upload() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("image.png");
        for new_len in [150_000, 250_000] {
            std::fs::write(&path, png(200_000)).unwrap();
            let mut body = body_of(Image::file(&path));
            std::fs::write(&path, png(new_len)).unwrap();
            let mut on_progress = |_, _| Ok(());
            let mut reader = body.reader(&mut on_progress).unwrap();
            assert!(read_in_chunks(&mut reader, &[65_536]).is_err());
            assert_eq!(reader.state(), UploadState::InProgress);
            let error = reader.error.take().unwrap();
            assert_eq!(error.kind(), crate::ErrorKind::Io);
            assert!(error.to_string().contains("image.png"), "{error}");
        }
    }
}
