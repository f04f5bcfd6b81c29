//! The same with one durable call.

use kling_video::{Client, Image, ImageToVideo};

fn main() -> kling_video::Result<()> {
    let client = Client::from_env()?;
    let request = ImageToVideo::new(Image::file("cat.jpg")).prompt("the cat yawns");
    client.generate_to(&request, "cat.mp4")?;
    Ok(())
}
