//! The API as a program without an SDK would write it down: typed, with an error type, and not a
//! line more than the job needs. All contenders but ours and Python's share it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::{Deserialize, Serialize};

pub const PATH: &str = "/v2/generate/video/kling/generation";
pub const AUTHORIZATION: &str = "Bearer sandbox-key";
/// Ours is told to send this one too: the requests are to be the same to the byte.
pub const USER_AGENT: &str = "kling-video-compare";
pub const LINK: &str = "https://example.com/cat.jpg";
pub const DATA_URI_HEAD: &str = "data:image/png;base64,";
/// What follows the picture in the body.
pub const TAIL: &[u8] = b"\"}";

/// A larger body asks the server first, as ours does: the requests are to be the same.
pub const ASK_FIRST: u64 = 1024 * 1024;

/// Raw bytes per step of those that stream: 128 KiB as base64, the largest buffer of ureq's.
pub const STEP: usize = 96 * 1024;

#[derive(Serialize)]
pub struct Create<'a> {
    model: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    prompt: &'a str,
    image_url: &'a str,
}

impl<'a> Create<'a> {
    pub fn new(image_url: &'a str) -> Self {
        Self {
            model: "kling-video/v2.1/pro/image-to-video",
            kind: "image-to-video",
            prompt: "the cat yawns",
            image_url,
        }
    }
}

/// The body up to where the picture's base64 goes.
pub fn body_head() -> Result<Vec<u8>, Error> {
    let mut head = serde_json::to_vec(&Create::new(DATA_URI_HEAD))?;
    head.truncate(head.len() - TAIL.len());
    Ok(head)
}

/// As long as the one of ours, and another one each time.
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
    #[error("the request failed: {0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
    #[error("the server answered {status}: {body}")]
    Status { status: u16, body: String },
    #[error("the answer cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Io(#[from] io::Error),
}

/// Reads an answer, or what the server says against the request.
pub fn read(status: u16, body: &[u8]) -> Result<Generation, Error> {
    if !(200..300).contains(&status) {
        let body = String::from_utf8_lossy(body).into_owned();
        return Err(Error::Status { status, body });
    }
    Ok(serde_json::from_slice(body)?)
}
