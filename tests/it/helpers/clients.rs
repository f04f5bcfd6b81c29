//! Sandboxes, their clients, and the arguments of their calls.

use std::net::SocketAddr;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{
    CancelToken, Client, ClientBuilder, EventKind, GenerationId, Image, ImageToVideo, RetryPolicy,
    Video, WaitOptions,
};

/// The idle timeout of tests that wait for it. No healthy response comes anywhere near it.
pub const IDLE_TIMEOUT: Duration = Duration::from_millis(600);

pub fn sandbox() -> Sandbox {
    Sandbox::start().unwrap()
}

pub fn sandbox_addr(sandbox: &Sandbox) -> SocketAddr {
    sandbox.url().trim_start_matches("http://").parse().unwrap()
}

/// A client of the sandbox with its default settings.
pub fn test_client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().build().unwrap()
}

/// A client of the sandbox that makes a single attempt at every request.
pub fn no_retry_client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().retry_policy(RetryPolicy::none()).build().unwrap()
}

/// A client builder whose client gives up on an idle connection after [`IDLE_TIMEOUT`].
pub fn short_idle_timeout(sandbox: &Sandbox) -> ClientBuilder {
    sandbox.client_builder().idle_timeout(IDLE_TIMEOUT)
}

/// A builder for a client of the sandbox of another process, as fast as that of
/// [`Sandbox::client_builder`].
pub fn remote_client_builder(url: String) -> ClientBuilder {
    Client::builder("sandbox-key")
        .base_url(url)
        .no_proxy()
        .idle_timeout(Duration::from_secs(30))
        .wait_options(quick_wait())
        .retry_policy(quick_retry())
}

/// A client that cancels the token when it is about to retry.
pub fn client_cancelling_at_retry(builder: ClientBuilder, token: &CancelToken) -> Client {
    let token = token.clone();
    let builder = builder.event_handler(move |event| {
        if let EventKind::Retrying { .. } = event.kind {
            token.cancel();
        }
    });
    builder.build().unwrap()
}

/// Wait options as fast as those of [`Sandbox::client_builder`], to be adjusted by the test.
pub fn quick_wait() -> WaitOptions {
    WaitOptions::new()
        .initial_delay(Duration::from_millis(1))
        .interval(Duration::from_millis(2))
        .timeout(Duration::from_secs(30))
}

/// A retry policy as fast as that of [`Sandbox::client_builder`], to be adjusted by the test.
pub fn quick_retry() -> RetryPolicy {
    RetryPolicy::new().base_delay(Duration::from_millis(1)).max_delay(Duration::from_millis(20))
}

/// A small, valid request with an image URL.
pub fn request() -> ImageToVideo {
    ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("the cat yawns")
}

pub fn id(text: &str) -> GenerationId {
    text.parse().unwrap()
}

/// A client, and the id of a generation that it created.
pub fn client_with_generation(sandbox: &Sandbox) -> (Client, GenerationId) {
    let client = test_client(sandbox);
    let id = client.create(&request()).unwrap().id;
    (client, id)
}

/// A video that the sandbox does not know, deserialized as a caller would from its own storage.
pub fn video_at(url: &str) -> Video {
    serde_json::from_value(serde_json::json!({ "id": "1", "url": url })).unwrap()
}

/// The numbers of create requests received and of generations accepted, which are paid for.
pub fn create_counts(sandbox: &Sandbox) -> (usize, usize) {
    (sandbox.request_count(Endpoint::Create), sandbox.generations().len())
}
