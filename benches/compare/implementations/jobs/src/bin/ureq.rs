//! ureq as most programs would use it: typed responses, an error type, the complete body in memory,
//! and nothing that the job does not need.

use std::fs::{self, File};
use std::io;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jobs::{IMAGE_URL, Implementation, PROMPT, Result, USER_AGENT};
use serde::{Deserialize, Serialize};
use ureq::Agent;

const PATH: &str = "/v2/generate/video/kling/generation";
const AUTHORIZATION: &str = "Bearer sandbox-key";

#[derive(Serialize)]
struct CreateRequest<'a> {
    model: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    prompt: &'a str,
    image_url: &'a str,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed, as a program would that needs them")]
struct Generation {
    id: String,
    status: String,
    video: Option<Video>,
    error: Option<GenerationError>,
    meta: Option<Meta>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "see above")]
struct Video {
    url: String,
    duration: Option<f64>,
    content_type: Option<String>,
    file_name: Option<String>,
    file_size: Option<u64>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "see above")]
struct GenerationError {
    name: Option<String>,
    message: String,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "see above")]
struct Meta {
    usage: Option<Usage>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "see above")]
struct Usage {
    credits_used: Option<f64>,
    usd_spent: Option<f64>,
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
    Io(#[from] io::Error),
}

struct Ureq {
    base_url: String,
    agent: Agent,
    /// Never reuses a connection, as kling-video's creates never do.
    fresh: Agent,
}

impl Ureq {
    fn create(&self, fresh: bool, image_url: &str) -> Result<Generation, Error> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let mut body = serde_json::to_vec(&CreateRequest {
            model: "kling-video/v2.1/pro/image-to-video",
            kind: "image-to-video",
            prompt: PROMPT,
            image_url,
        })?;
        // kling-video has it there, too.
        body.insert(body.len() - 1, b'\n');
        // A new id for each request, as long as kling-video's.
        let (process, count) = (std::process::id(), COUNT.fetch_add(1, Relaxed));
        let agent = if fresh { &self.fresh } else { &self.agent };
        let mut request = agent
            .post(format!("{}{PATH}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("content-length", body.len())
            .header("x-client-request-id", format!("kling-video-{process:016x}{count:016x}"));
        if fresh {
            request = request.header("connection", "close");
        }
        parse_response(request.send(&body[..])?)
    }

    fn create_and_poll(&self, fresh: bool) -> Result<(), Error> {
        let created = self.create(fresh, IMAGE_URL)?;
        let request = self
            .agent
            .get(format!("{}{PATH}?generation_id={}", self.base_url, created.id))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        std::hint::black_box(parse_response(request.call()?)?);
        Ok(())
    }

    fn upload(&self, image: &str) -> Result<(), Error> {
        let base64 = STANDARD.encode(fs::read(image)?);
        self.create(true, &format!("data:image/png;base64,{base64}"))?;
        Ok(())
    }

    fn download(&self, url: &str, path: &str) -> Result<(), Error> {
        let response = self.agent.get(url).call()?;
        io::copy(&mut response.into_body().into_reader(), &mut File::create(path)?)?;
        Ok(())
    }
}

/// Parses a response; an error status becomes an error with the server's body.
fn parse_response(mut response: ureq::http::Response<ureq::Body>) -> Result<Generation, Error> {
    let body = response.body_mut().read_to_vec()?;
    if !response.status().is_success() {
        let body = String::from_utf8_lossy(&body).into_owned();
        return Err(Error::Status { status: response.status().as_u16(), body });
    }
    Ok(serde_json::from_slice(&body)?)
}

impl Implementation for Ureq {
    fn new(base_url: &str) -> Result<Self> {
        let config = || {
            Agent::config_builder()
                .http_status_as_error(false)
                .proxy(None)
                .user_agent(USER_AGENT)
                .accept_encoding("identity")
        };
        Ok(Self {
            base_url: base_url.to_owned(),
            agent: config().build().into(),
            fresh: config().max_idle_connections(0).build().into(),
        })
    }

    fn run(&self, job: &str, _round: u32, arguments: &[String]) -> Result {
        match (job, arguments) {
            ("create-poll", []) => self.create_and_poll(false)?,
            ("create-poll-fresh", []) => self.create_and_poll(true)?,
            ("upload", [image]) => self.upload(image)?,
            ("download", [url, path]) => self.download(url, path)?,
            _ => return Err(format!("unknown job `{job}`").into()),
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    jobs::main::<Ureq>()
}
