//! Has the video made that the program shows, once, and keeps it with the sources.
//!
//! `KLING_VIDEO=make cargo build` with a key in `AIML_API_KEY` pays for `assets/video.mp4`. Commit
//! that and the journal beside it: all other builds, also those with `KLING_VIDEO=make`, then find
//! the video there, offline and at no cost. A build never pays unless it is told to; while there is
//! no video, it makes do with a sample from the sandbox.

use std::error::Error;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::{env, io};

use kling_video::{Client, Image, ImageToVideo, Sandbox, Saved};

const PICTURE: &str = "picture.jpg";

fn main() -> Result<(), Box<dyn Error>> {
    // Cargo looks at these before each build, and runs this script again only if one of them has
    // changed. A file that is gone has changed: so a deleted video comes back. Not among them are
    // the key, as another one makes no other video, and the journal, which is no input.
    println!("cargo::rerun-if-changed={PICTURE}");
    println!("cargo::rerun-if-env-changed=KLING_VIDEO");
    println!("cargo::rerun-if-env-changed=KLING_BASE_URL");

    let assets = PathBuf::from(env::var("CARGO_MANIFEST_DIR")?).join("assets");
    let mut video = assets.join("video.mp4");
    match env::var("KLING_VIDEO").as_deref() {
        Ok("make") => make(&video)?,
        Ok(other) => return Err(format!("KLING_VIDEO={other}: allowed is `make`").into()),
        // What was paid for is never replaced by a sample.
        Err(_) if video.exists() => {}
        Err(_) => {
            video = assets.join("sample.mp4");
            make_sample(&video)?;
        }
    }
    println!("cargo::rerun-if-changed={}", video.display());
    println!("cargo::rustc-env=VIDEO={}", video.display());
    Ok(())
}

/// Pays for the video, if that was not done before: `generate_to` keeps a journal beside it.
fn make(video: &Path) -> Result<(), Box<dyn Error>> {
    let mut builder = Client::builder_from_env()?;
    if let Ok(url) = env::var("KLING_BASE_URL") {
        builder = builder.base_url(url);
    }
    // A build that is stopped while it waits goes on with the same generation the next time.
    save(&builder.max_creates(1).build()?, video)
}

/// The same against a stand-in for the API that runs in this process, offline.
fn make_sample(video: &Path) -> Result<(), Box<dyn Error>> {
    println!("cargo::warning=the video is a sample; KLING_VIDEO=make has one made, for money");
    let sandbox = Sandbox::start()?;
    save(&sandbox.client_builder().build()?, video)
}

fn save(client: &Client, video: &Path) -> Result<(), Box<dyn Error>> {
    let request = ImageToVideo::new(Image::file(PICTURE)).prompt("the camera moves in slowly");
    fs::create_dir_all(video.parent().unwrap_or(video))?;
    let Saved { reused, .. } = client.generate_to(&request, video)?;
    if !reused {
        set_as_old_as_picture(video)?;
    }
    Ok(())
}

/// Cargo compares the files above with the time at which this script was *started*. A video that
/// is written while it runs is newer, so that the next build would run it once more, for nothing,
/// and compile the program again. As old as the picture it is made from, it is not.
fn set_as_old_as_picture(video: &Path) -> io::Result<()> {
    let time = fs::metadata(PICTURE)?.modified()?;
    File::options().write(true).open(video)?.set_modified(time)
}
