//! Request fingerprints, which tell whether a journal belongs to a request.
//!
//! A fingerprint consists of two 128-bit hashes: one of everything but the image, and one of the
//! image's bytes. They are not cryptographic: they do not resist deliberate collisions.

use serde::{Deserialize, Serialize};

use crate::error::Result;
use crate::hash::Hash;
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Image;

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
