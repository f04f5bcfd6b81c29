//! Turns an image into a video: `interruptible IMAGE VIDEO`. After Ctrl-C, the same command
//! continues and does not pay again.

use std::process::ExitCode;

use kling_video::{BoxError, ErrorKind, Image, ImageToVideo, SavedVideo};

fn main() -> ExitCode {
    let error = match run() {
        Ok(saved) => {
            println!("{} bytes in {}", saved.bytes, saved.path.display());
            return ExitCode::SUCCESS;
        }
        Err(error) => error,
    };
    eprintln!("{error}");
    let kling_error = error.downcast_ref::<kling_video::Error>();
    match kling_error.is_some_and(|error| error.kind() == ErrorKind::Cancelled) {
        true => ExitCode::from(130),
        false => ExitCode::FAILURE,
    }
}

fn run() -> Result<SavedVideo, BoxError> {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let [image, video] = args.as_slice() else { return Err("expected: IMAGE VIDEO".into()) };
    let client = recipes::client()?.with_cancel_token(recipes::ctrl_c::cancelled_by_ctrl_c()?);
    let request = ImageToVideo::new(Image::file(image));
    Ok(client.generate_to(&request, video)?)
}
