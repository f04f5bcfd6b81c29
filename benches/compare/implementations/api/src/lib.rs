//! The API's types as a program without an SDK would define them: typed responses, an error type,
//! and nothing that the job does not need. All implementations but kling-video and Python use it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

pub const PATH: &str = "/v2/generate/video/kling/generation";
pub const AUTHORIZATION: &str = "Bearer sandbox-key";
/// kling-video is configured to send it too, so that all requests are byte-identical.
pub const USER_AGENT: &str = "kling-video-compare";
pub const IMAGE_URL: &str = "https://example.com/cat.jpg";
pub const DATA_URI_PREFIX: &str = "data:image/png;base64,";
/// The part of the request body after the image's base64.
pub const JSON_SUFFIX: &[u8] = b"\"}";

/// Larger bodies are sent with `Expect: 100-continue`, as kling-video does, so that all requests
/// are identical.
pub const EXPECT_CONTINUE_THRESHOLD: u64 = 1024 * 1024;

/// Raw bytes per chunk of a streamed image: 128 KiB as base64, which is ureq's largest buffer.
pub const CHUNK_SIZE: usize = 96 * 1024;

#[derive(Serialize)]
pub struct CreateRequest<'a> {
    model: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    prompt: &'a str,
    image_url: &'a str,
}

impl<'a> CreateRequest<'a> {
    pub fn new(image_url: &'a str) -> Self {
        Self {
            model: "kling-video/v2.1/pro/image-to-video",
            kind: "image-to-video",
            prompt: "the cat yawns",
            image_url,
        }
    }
}

/// The part of the request body before the image's base64.
pub fn json_prefix() -> Result<Vec<u8>, Error> {
    let mut prefix = serde_json::to_vec(&CreateRequest::new(DATA_URI_PREFIX))?;
    prefix.truncate(prefix.len() - JSON_SUFFIX.len());
    Ok(prefix)
}

/// A new id for each request, of the same length as those that kling-video generates.
pub fn client_request_id() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    format!("kling-video-{:016x}{:016x}", std::process::id(), COUNT.fetch_add(1, Relaxed))
}

#[derive(Debug, Deserialize)]
pub struct Generation {
    pub id: String,
    pub status: String,
    pub video: Option<Video>,
    pub error: Option<GenerationError>,
    pub meta: Option<Meta>,
}

#[derive(Debug, Deserialize)]
pub struct Video {
    pub url: String,
    pub duration: Option<f64>,
    pub content_type: Option<String>,
    pub file_name: Option<String>,
    pub file_size: Option<u64>,
}

#[derive(Debug, Deserialize)]
pub struct GenerationError {
    pub name: Option<String>,
    pub message: String,
}

#[derive(Debug, Deserialize)]
pub struct Meta {
    pub usage: Option<Usage>,
}

#[derive(Debug, Deserialize)]
pub struct Usage {
    pub credits_used: Option<f64>,
    pub usd_spent: Option<f64>,
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("request failed: {0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
    #[error("server returned HTTP {status}: {body}")]
    Status { status: u16, body: String },
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Parses a response; an error status becomes an error with the server's body.
pub fn parse_response(status: u16, body: &[u8]) -> Result<Generation, Error> {
    if !(200..300).contains(&status) {
        let body = String::from_utf8_lossy(body).into_owned();
        return Err(Error::Status { status, body });
    }
    Ok(serde_json::from_slice(body)?)
}
