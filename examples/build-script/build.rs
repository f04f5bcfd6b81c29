//! Generates the video that the program embeds, once, and keeps it with the sources.
//!
//! `KLING_VIDEO=make cargo build` with an API key in `AIML_API_KEY` pays for `assets/video.mp4`.
//! Commit that file and the journal next to it: every other build, also with `KLING_VIDEO=make`,
//! then uses it, offline and at no cost. Without `KLING_VIDEO` a build never pays: as long as there
//! is no video, it uses a sample from the sandbox.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{env, io};

use kling_video::sandbox::Sandbox;
use kling_video::{Client, Image, ImageToVideo};

const IMAGE: &str = "image.jpg";

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo runs this script again only if one of these has changed. A missing file counts as
    // changed, so a deleted video is restored. The list excludes the API key, since the video does
    // not depend on it, and the journal, since it is not an input.
    println!("cargo::rerun-if-changed={IMAGE}");
    println!("cargo::rerun-if-env-changed=KLING_VIDEO");
    println!("cargo::rerun-if-env-changed=KLING_BASE_URL");

    let assets = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("assets");
    let mut video = assets.join("video.mp4");
    match env::var("KLING_VIDEO").as_deref() {
        Ok("make") => generate(&video)?,
        Ok(other) => {
            return Err(format!("KLING_VIDEO must be `make` or unset, got `{other}`").into());
        }
        // A sample never replaces a video that was paid for.
        Err(_) if video.exists() => {}
        Err(_) => {
            video = assets.join("sample.mp4");
            if !video.exists() {
                generate_sample(&video)?;
            }
        }
    }
    println!("cargo::rerun-if-changed={}", video.display());
    println!("cargo::rustc-env=VIDEO={}", video.display());
    Ok(())
}

/// Generates the video with the API. `generate_to` keeps a journal next to it, and so pays once.
fn generate(video: &Path) -> Result<(), Box<dyn Error>> {
    let mut builder = Client::builder_from_env()?;
    if let Ok(url) = env::var("KLING_BASE_URL") {
        builder = builder.base_url(url);
    }
    // A changed image replaces the video. If this build is interrupted while it waits, the next one
    // continues with the same generation.
    let client = builder.max_generations(1).replace_videos(true).build()?;
    fs::create_dir_all(video.parent().unwrap_or(video))?;
    let saved = client.generate_to(&request(), video)?;
    if !saved.reused {
        set_modified_like_image(video)?;
    }
    Ok(())
}

/// Generates a sample with a mock server that runs in this process, offline.
fn generate_sample(video: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::warning=the video is a sample; to pay for a real one, set KLING_VIDEO=make");
    let sandbox = Sandbox::start()?;
    let client = sandbox.client_builder().build()?;
    fs::create_dir_all(video.parent().unwrap_or(video))?;
    client.download(&client.generate(&request())?, video)?;
    set_modified_like_image(video)?;
    Ok(())
}

fn request() -> ImageToVideo {
    ImageToVideo::new(Image::file(IMAGE)).prompt("the camera moves in slowly")
}

/// Gives the video the modification time of the image.
///
/// Cargo compares modification times with the time at which this script was *started*. A video that
/// the script writes would be newer, so the next build would needlessly run the script again and
/// recompile the program.
fn set_modified_like_image(video: &Path) -> io::Result<()> {
    let time = fs::metadata(IMAGE)?.modified()?;
    File::options().write(true).open(video)?.set_modified(time)
}
