//! What the tests share.

use std::path::PathBuf;

use kling_video::{Image, ImageToVideo, Sandbox};

/// A file of `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// A request with a link, which is small and always valid.
pub fn request() -> ImageToVideo {
    ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("the cat yawns")
}

pub fn sandbox() -> Sandbox {
    Sandbox::start().unwrap()
}
