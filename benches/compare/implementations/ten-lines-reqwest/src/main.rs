//! The README's ten-line program, written with reqwest instead of this crate.

use std::fs::{self, File};
use std::thread::sleep;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use reqwest::blocking::{Client, Response};
use serde::{Deserialize, Serialize};

const URL: &str = "https://api.aimlapi.com/v2/generate/video/kling/generation";

#[derive(Serialize)]
struct CreateRequest<'a> {
    model: &'a str,
    prompt: &'a str,
    image_url: &'a str,
}

#[derive(Deserialize)]
struct Generation {
    id: String,
    status: String,
    video: Option<Video>,
    error: Option<GenerationError>,
}

#[derive(Deserialize)]
struct Video {
    url: String,
}

#[derive(Deserialize)]
struct GenerationError {
    message: String,
}

#[derive(Debug, thiserror::Error)]
enum Error {
    #[error("request failed: {0}")]
    Http(#[from] reqwest::Error),
    #[error("server returned HTTP {status}: {body}")]
    Status { status: u16, body: String },
    #[error("invalid JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("{0}")]
    Io(#[from] std::io::Error),
    #[error("AIML_API_KEY is not set")]
    MissingApiKey,
    #[error("generation failed: {0}")]
    Failed(String),
}

fn main() -> Result<(), Error> {
    let key = std::env::var("AIML_API_KEY").map_err(|_| Error::MissingApiKey)?;
    let authorization = format!("Bearer {key}");
    let client = Client::new();
    let image = format!("data:image/jpeg;base64,{}", STANDARD.encode(fs::read("cat.jpg")?));
    let body = serde_json::to_vec(&CreateRequest {
        model: "kling-video/v2.1/pro/image-to-video",
        prompt: "the cat yawns",
        image_url: &image,
    })?;
    let created = client
        .post(URL)
        .header("authorization", &authorization)
        .header("content-type", "application/json")
        .body(body)
        .send()?;
    let id = parse_response(created)?.id;
    let url = loop {
        sleep(Duration::from_secs(10));
        let polled = client
            .get(format!("{URL}?generation_id={id}"))
            .header("authorization", &authorization)
            .send()?;
        let generation = parse_response(polled)?;
        if let Some(error) = generation.error {
            return Err(Error::Failed(error.message));
        }
        match (generation.status.as_str(), generation.video) {
            ("completed", Some(video)) => break video.url,
            ("error", _) => return Err(Error::Failed(generation.status)),
            _ => {}
        }
    };
    let mut response = client.get(url).send()?;
    if !response.status().is_success() {
        let status = response.status().as_u16();
        return Err(Error::Status { status, body: String::new() });
    }
    response.copy_to(&mut File::create("cat.mp4")?)?;
    Ok(())
}

fn parse_response(response: Response) -> Result<Generation, Error> {
    let status = response.status();
    let body = response.bytes()?;
    if !status.is_success() {
        let body = String::from_utf8_lossy(&body).into_owned();
        return Err(Error::Status { status: status.as_u16(), body });
    }
    Ok(serde_json::from_slice(&body)?)
}
