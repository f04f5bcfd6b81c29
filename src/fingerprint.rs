//! Request fingerprints, which tell whether a journal belongs to a request.
//!
//! A fingerprint consists of two 128-bit FNV-1a hashes: one of everything but the image, and one of
//! the image's bytes. FNV is not cryptographic: it does not resist deliberate collisions.

use std::io::{self, Read};

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::image::{ImageReader, OpenImage};
use crate::operation::Operation;
use crate::request::ImageToVideo;

/// Part of the hash. It changes whenever the canonical form of requests does.
const VERSION: &str = "kling-video 1";

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
    /// `endpoint_url` is included, so the same request to another endpoint does not match.
    pub(crate) fn compute(request: &ImageToVideo, endpoint_url: &str) -> Result<Self> {
        let mut hash = Fnv::new();
        for part in [VERSION.as_bytes(), endpoint_url.as_bytes(), &request.canonical_fields()?] {
            hash.update(part);
            // Without the lengths, different lists of parts could hash as the same bytes.
            hash.update(&(part.len() as u64).to_be_bytes());
        }
        // An image that is missing or unreadable has no hash. Whether that matters depends on the
        // state of the run.
        let image = match request.image().open("image_url") {
            Ok(OpenImage::Data(mut image)) => hash_reader(&mut image).ok(),
            Ok(OpenImage::Url(_)) | Err(_) => None,
        };
        Ok(Self { request: hash.hex(), image, source: request.image().journal_name() })
    }

    /// Replaces the image hash by that of `image`, which is read to EOF.
    pub(crate) fn with_image(self, image: &mut ImageReader) -> Result<Self> {
        let hash = hash_reader(image).map_err(|e| {
            let name = image.display_name().into();
            Error::io(Operation::GenerateTo, Some(name), "failed to read the image", e)
        })?;
        Ok(Self { image: Some(hash), ..self })
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

fn hash_reader(data: &mut impl Read) -> io::Result<String> {
    let mut hash = Fnv::new();
    let mut buf = vec![0; 64 * 1024];
    loop {
        match data.read(&mut buf) {
            Ok(0) => return Ok(hash.hex()),
            Ok(n) => hash.update(buf.get(..n).unwrap_or_default()),
            Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// 128-bit FNV-1a with the published parameters.
struct Fnv(u128);

impl Fnv {
    fn new() -> Self {
        Self(0x6c62_272e_07bb_0142_62b8_2175_6295_c58d)
    }

    fn update(&mut self, data: &[u8]) {
        const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013B;
        for &byte in data {
            self.0 = (self.0 ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }

    fn hex(&self) -> String {
        format!("{:032x}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;

    #[test]
    fn hash_matches_published_fnv_1a_vectors() {
        for (text, hash) in [
            ("", "6c62272e07bb014262b821756295c58d"),
            ("a", "d228cb696f1a8caf78912b704e4a8964"),
            ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
        ] {
            assert_eq!(hash_reader(&mut text.as_bytes()).unwrap(), hash);
        }
    }

    #[test]
    fn fingerprint_depends_on_the_request_but_not_on_its_client_request_id() {
        let request = || ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("x");
        let compute =
            |request: ImageToVideo, endpoint| Fingerprint::compute(&request, endpoint).unwrap();
        let first = compute(request(), "https://a/v2");
        assert!(first.matches(&compute(request().client_request_id("mine"), "https://a/v2")));
        assert!(!first.matches(&compute(request(), "https://b/v2")));
        assert!(!first.matches(&compute(request().prompt("y"), "https://a/v2")));
        let other_image = ImageToVideo::new(Image::url("https://example.com/dog.jpg")).prompt("x");
        assert!(!first.matches(&compute(other_image, "https://a/v2")));
    }
}
