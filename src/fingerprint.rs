//! Whether a request is the one that a journal was begun for.
//!
//! Two FNV-1a hashes of 128 bits: one of everything but the picture, one of the picture's bytes.
//! They tell requests apart; they are no protection against somebody who wants them to collide.

use serde::{Deserialize, Serialize};
use std::io::{self, Read};

use crate::error::{Error, Result};
use crate::image::{Opened, Picture};
use crate::request::ImageToVideo;

/// Goes into the hash: another way of writing requests down is another version.
const VERSION: &str = "kling-video 1";

/// What a journal keeps of a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fingerprint {
    request: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    picture: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    source: Option<String>,
}

impl Fingerprint {
    /// `route` is the address that the request goes to: the same request elsewhere is another.
    pub(crate) fn of(request: &ImageToVideo, route: &str) -> Result<Self> {
        let mut hash = Fnv::new();
        for part in [VERSION.as_bytes(), route.as_bytes(), &request.canonical_fields()?] {
            hash.update(part);
            // So that no two lists of parts run together into the same bytes.
            hash.update(&(part.len() as u64).to_be_bytes());
        }
        // A picture that is gone or cannot be read has no hash; whether that matters depends on
        // how far the run is.
        let picture = match request.image().open("image_url") {
            Ok(Opened::Picture(mut picture)) => hash_of(&mut picture).ok(),
            Ok(Opened::Link(_)) | Err(_) => None,
        };
        Ok(Self { request: hash.hex(), picture, source: request.image().name() })
    }

    /// The same with the hash of this very picture, which is read to its end.
    pub(crate) fn with_picture(self, picture: &mut Picture) -> Result<Self> {
        let failed = |name: String, e| {
            Error::io("generate_to", Some(name.into()), "the picture cannot be read", e)
        };
        let hash = hash_of(picture).map_err(|e| failed(picture.name(), e))?;
        Ok(Self { picture: Some(hash), ..self })
    }

    /// The picture's bytes decide while both are known, where it comes from otherwise.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.request == other.request
            && match (&self.picture, &other.picture) {
                (Some(own), Some(other)) => own == other,
                _ => self.source == other.source,
            }
    }
}

fn hash_of(data: &mut impl Read) -> io::Result<String> {
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

/// FNV-1a of 128 bits, as its authors publish it.
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
    fn the_hash_is_fnv_1a() {
        // The test vectors of the hash's authors.
        for (text, hash) in [
            ("", "6c62272e07bb014262b821756295c58d"),
            ("a", "d228cb696f1a8caf78912b704e4a8964"),
            ("foobar", "343e1662793c64bf6f0d3597ba446f18"),
        ] {
            assert_eq!(hash_of(&mut text.as_bytes()).unwrap(), hash);
        }
    }

    #[test]
    fn what_is_asked_for_counts_and_who_asks_does_not() {
        let request = || ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("x");
        let of = |request: ImageToVideo, route| Fingerprint::of(&request, route).unwrap();
        let first = of(request(), "https://a/v2");
        assert!(first.is_same(&of(request().client_request_id("mine"), "https://a/v2")));
        assert!(!first.is_same(&of(request(), "https://b/v2")));
        assert!(!first.is_same(&of(request().prompt("y"), "https://a/v2")));
        let other_picture =
            ImageToVideo::new(Image::url("https://example.com/dog.jpg")).prompt("x");
        assert!(!first.is_same(&of(other_picture, "https://a/v2")));
    }
}
