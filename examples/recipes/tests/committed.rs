//! What the guide says of a build script whose video and journal are committed.

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{Client, ErrorKind, Image, ImageToVideo};

#[test]
fn committed_video_needs_neither_key_nor_network() {
    let dir = tempfile::tempdir().unwrap();
    let video = dir.path().join("cat.mp4");
    let request = ImageToVideo::new(Image::file("../../tests/fixtures/image.jpg"));
    let sandbox = Sandbox::start().unwrap();
    sandbox.client_builder().build().unwrap().generate_to(&request, &video).unwrap();
    let requests = sandbox.requests().len();

    // As in CI, where the sandbox stands for a server that must not be asked.
    let without_key = Client::builder("none").base_url(sandbox.url()).max_generations(0);
    let client = without_key.clone().build().unwrap();
    assert!(client.generate_to(&request, &video).unwrap().reused);
    let other_prompt = request.clone().prompt("the cat yawns");
    let error = client.generate_to(&other_prompt, &video).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error}");
    let client = without_key.replace_videos(true).build().unwrap();
    let error = client.generate_to(&other_prompt, &video).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit, "{error}");
    assert_eq!(sandbox.requests().len(), requests);

    // With a key and permission the new video replaces the old one.
    let client = sandbox.client_builder().replace_videos(true).build().unwrap();
    assert!(!client.generate_to(&other_prompt, &video).unwrap().reused);
    assert_eq!(sandbox.request_count(Endpoint::Create), 2);
}
