//! A program that embeds the video which its build script generated.

static VIDEO: &[u8] = include_bytes!(env!("VIDEO"));

fn main() {
    println!("{} bytes of video inside", VIDEO.len());
}
