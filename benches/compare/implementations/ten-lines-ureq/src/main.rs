//! Create, wait and download, written carefully with ureq instead of this crate.

use std::fs::{self, File};
use std::thread::sleep;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use ureq::Agent;
use ureq::http::Response;

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
    Http(#[from] ureq::Error),
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
    let agent: Agent = Agent::config_builder().http_status_as_error(false).build().into();
    let image = format!("data:image/jpeg;base64,{}", STANDARD.encode(fs::read("cat.jpg")?));
    let body = serde_json::to_vec(&CreateRequest {
        model: "kling-video/v2.1/pro/image-to-video",
        prompt: "the cat yawns",
        image_url: &image,
    })?;
    let created = agent
        .post(URL)
        .header("authorization", &authorization)
        .header("content-type", "application/json")
        .send(&body[..])?;
    let id = parse_response(created)?.id;
    let url = loop {
        sleep(Duration::from_secs(10));
        let polled = agent
            .get(URL)
            .query("generation_id", &id)
            .header("authorization", &authorization)
            .call()?;
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
    let response = agent.get(url).call()?;
    if !response.status().is_success() {
        let status = response.status().as_u16();
        return Err(Error::Status { status, body: String::new() });
    }
    std::io::copy(&mut response.into_body().into_reader(), &mut File::create("cat.mp4")?)?;
    Ok(())
}

fn parse_response(mut response: Response<ureq::Body>) -> Result<Generation, Error> {
    let body = response.body_mut().read_to_vec()?;
    if !response.status().is_success() {
        let body = String::from_utf8_lossy(&body).into_owned();
        return Err(Error::Status { status: response.status().as_u16(), body });
    }
    Ok(serde_json::from_slice(&body)?)
}
