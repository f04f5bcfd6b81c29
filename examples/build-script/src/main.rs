//! A program with a video inside that its build script has made.

static VIDEO: &[u8] = include_bytes!(env!("VIDEO"));

fn main() {
    println!("{} bytes of video inside", VIDEO.len());
}
