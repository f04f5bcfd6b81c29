//! Create, wait and download: what a small program needs.

use kling_video::{Client, Image, ImageToVideo};

fn main() -> kling_video::Result<()> {
    let client = Client::from_env()?;
    let request = ImageToVideo::new(Image::file("cat.jpg")).prompt("the cat yawns");
    let generation = client.create(&request)?;
    let video = client.wait(&generation.id)?;
    client.download(&video, "cat.mp4")?;
    Ok(())
}
