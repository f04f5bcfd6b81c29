//! Request fingerprints, which tell whether a journal belongs to a request.
//!
//! A fingerprint consists of two 128-bit hashes: one of everything but the image, and one of the
//! image's bytes. They are not cryptographic: they do not resist deliberate collisions.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::model::request::ImageToVideo;

/// Part of the hash. It changes whenever the canonical form of requests does.
const VERSION: &str = "kling-video 2";

/// Identifies a request in a journal.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Fingerprint {
    /// `image` is the hash of the image's bytes, `None` if it is a URL or cannot be read.
    /// `endpoint_url` is included, so the same request to another endpoint does not match.
    pub(crate) fn new(
        request: &ImageToVideo,
        image: Option<String>,
        endpoint_url: &str,
    ) -> Result<Self> {
        let mut hash = Hash::new();
        for part in [VERSION.as_bytes(), endpoint_url.as_bytes(), &request.canonical_fields()?] {
            hash.update(part);
            // Without the lengths, different lists of parts could hash as the same bytes.
            hash.update(&(part.len() as u64).to_be_bytes());
        }
        Ok(Self { request: hash.hex(), image, source: request.image().journal_name() })
    }

    /// Compares the images by hash if both hashes are known, and by path or URL otherwise.
    pub(crate) fn matches(&self, other: &Self) -> bool {
        self.request == other.request
            && match (&self.image, &other.image) {
                (Some(image), Some(other)) => image == other,
                _ => self.source == other.source,
            }
    }
}

/// Hashes all bytes up to EOF.
pub(crate) fn hash_reader(data: &mut impl Read) -> io::Result<String> {
    // A multiple of the hash's block size, and read completely whatever the reader returns, so that
    // the hash depends on the bytes alone.
    const CHUNK_SIZE: usize = 64 * 1024;
    let mut hash = Hash::new();
    let mut chunk = Vec::with_capacity(CHUNK_SIZE);
    loop {
        chunk.clear();
        let len = data.by_ref().take(CHUNK_SIZE as u64).read_to_end(&mut chunk)?;
        hash.update(&chunk);
        if len < CHUNK_SIZE {
            return Ok(hash.hex());
        }
    }
}

/// Multiplies the halves of each 16-byte block with each other, after mixing in the state, as wyhash
/// does: an image has millions of bytes, so FNV's multiplication per byte would cost more than the
/// upload. The previous state is added, so that a product of zero does not erase it.
struct Hash {
    state: u128,
    len: u64,
}

impl Hash {
    fn new() -> Self {
        Self { state: 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d, len: 0 }
    }

    fn update(&mut self, data: &[u8]) {
        self.len += data.len() as u64;
        let (blocks, rest) = data.as_chunks();
        for block in blocks {
            self.add(u128::from_le_bytes(*block));
        }
        if !rest.is_empty() {
            self.add(rest.iter().rev().fold(0, |block, &byte| block << 8 | u128::from(byte)));
        }
    }

    fn add(&mut self, block: u128) {
        let mixed = self.state ^ block;
        let (low, high) = (u128::from(mixed as u64), mixed >> 64);
        self.state = self.state.rotate_left(64).wrapping_add(low * high);
    }

    fn hex(mut self) -> String {
        // The length tells apart data that differ only in trailing zeros.
        self.add(self.len.into());
        format!("{:032x}", self.state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;
    use std::collections::HashSet;

    /// A reader that returns at most `n` bytes at a time.
    struct ShortReads<'a>(&'a [u8], usize);

    impl Read for ShortReads<'_> {
        fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
            let len = buf.len().min(self.1);
            self.0.read(&mut buf[..len])
        }
    }

    #[test]
    fn hash_does_not_depend_on_how_much_a_read_returns() {
        let data: Vec<u8> = (0..200_000u32).map(|i| (i * 31 + i / 7) as u8).collect();
        let expected = hash_reader(&mut data.as_slice()).unwrap();
        for n in [1, 7, 16, 65_535, 65_536, 65_537] {
            assert_eq!(hash_reader(&mut ShortReads(&data, n)).unwrap(), expected, "{n}");
        }
    }

    #[test]
    fn hash_changes_with_every_bit_and_with_the_length() {
        let data = vec![0; 70_000];
        let mut hashes = HashSet::from([hash_reader(&mut data.as_slice()).unwrap()]);
        for bit in (0..8 * data.len()).step_by(1009).chain(0..300) {
            let mut data = data.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            hashes.insert(hash_reader(&mut data.as_slice()).unwrap());
        }
        // The same bit in neighboring blocks.
        for bit in 0..128 {
            let mut data = data.clone();
            data[bit / 8] ^= 1 << (bit % 8);
            data[16 + bit / 8] ^= 1 << (bit % 8);
            hashes.insert(hash_reader(&mut data.as_slice()).unwrap());
        }
        for len in [0, 1, 15, 16, 17, 65_535, 65_536, 69_999] {
            hashes.insert(hash_reader(&mut &data[..len]).unwrap());
        }
        let bits = (0..8 * data.len()).step_by(1009).chain(0..300).collect::<HashSet<_>>().len();
        assert_eq!(hashes.len(), 1 + bits + 128 + 8);
    }

    #[test]
    fn fingerprint_depends_on_the_request_but_not_on_its_client_request_id() {
        let request = || ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("x");
        let fingerprint =
            |request: ImageToVideo, endpoint| Fingerprint::new(&request, None, endpoint).unwrap();
        let first = fingerprint(request(), "https://a/v2");
        assert!(first.matches(&fingerprint(request().client_request_id("mine"), "https://a/v2")));
        assert!(!first.matches(&fingerprint(request(), "https://b/v2")));
        assert!(!first.matches(&fingerprint(request().prompt("y"), "https://a/v2")));
        let other_image = ImageToVideo::new(Image::url("https://example.com/dog.jpg")).prompt("x");
        assert!(!first.matches(&fingerprint(other_image, "https://a/v2")));
    }
}
