//! ureq used carefully: the image is encoded chunk by chunk into ureq's own buffer with base64's
//! SIMD engine, which is not its default, and `Content-Length` is set.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use api::{
    AUTHORIZATION, CHUNK_SIZE, CreateRequest, EXPECT_CONTINUE_THRESHOLD, Error, Generation,
    IMAGE_URL, JSON_SUFFIX, PATH,
};
use base64::Engine;
use base64::engine::{Simd, general_purpose::PAD};
use harness::{Implementation, Result};
use ureq::{Agent, SendBody};

pub struct UreqStreaming {
    agent: Agent,
    base_url: String,
}

impl UreqStreaming {
    fn create(&self, content_length: u64, mut body: impl Read) -> Result<Generation, Error> {
        let mut request = self
            .agent
            .post(format!("{}{PATH}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("content-length", content_length)
            .header("x-client-request-id", api::client_request_id());
        if content_length > EXPECT_CONTINUE_THRESHOLD {
            request = request.header("expect", "100-continue");
        }
        parse_response(request.send(SendBody::from_reader(&mut body)).map_err(http_error)?)
    }

    fn create_from_url(&self, image_url: &str) -> Result<Generation, Error> {
        let body = serde_json::to_vec(&CreateRequest::new(image_url))?;
        self.create(body.len() as u64, &body[..])
    }

    fn create_from_file(&self, image: &Path) -> Result<Generation, Error> {
        let file = File::open(image)?;
        let prefix = api::json_prefix()?;
        let raw_len = file.metadata()?.len() as usize;
        let content_length = prefix.len() + raw_len.div_ceil(3) * 4 + JSON_SUFFIX.len();
        let encoder = Encoder { file, raw: vec![0; CHUNK_SIZE.min(raw_len)], remaining: raw_len };
        self.create(content_length as u64, prefix.chain(encoder).chain(JSON_SUFFIX))
    }

    fn retrieve(&self, id: &str) -> Result<Generation, Error> {
        let request = self
            .agent
            .get(format!("{}{PATH}?generation_id={id}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        parse_response(request.call().map_err(http_error)?)
    }
}

/// Reads a file as base64, one buffer at a time.
struct Encoder {
    file: File,
    raw: Vec<u8>,
    remaining: usize,
}

impl Read for Encoder {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let chunk_len = self.raw.len().min(out.len() / 4 * 3).min(self.remaining);
        let raw = &mut self.raw[..chunk_len];
        self.file.read_exact(raw)?;
        self.remaining -= chunk_len;
        Simd::standard(PAD).encode_slice(raw, out).map_err(io::Error::other)
    }
}

fn parse_response(mut response: ureq::http::Response<ureq::Body>) -> Result<Generation, Error> {
    let body = response.body_mut().read_to_vec().map_err(http_error)?;
    api::parse_response(response.status().as_u16(), &body)
}

fn http_error(error: ureq::Error) -> Error {
    Error::Http(error.into())
}

impl Implementation for UreqStreaming {
    fn new(base_url: &str) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(api::USER_AGENT)
            .build();
        Ok(Self { agent: config.new_agent(), base_url: base_url.to_owned() })
    }

    fn create_and_poll_url(&mut self) -> Result {
        let created = self.create_from_url(IMAGE_URL)?;
        std::hint::black_box(self.retrieve(&created.id)?);
        Ok(())
    }

    fn create_and_poll_file(&mut self, image: &Path) -> Result {
        let created = self.create_from_file(image)?;
        std::hint::black_box(self.retrieve(&created.id)?);
        Ok(())
    }

    fn upload(&mut self, image: &Path) -> Result {
        self.create_from_file(image)?;
        Ok(())
    }

    fn download(&mut self, url: &str, path: &Path, sync: bool) -> Result {
        let response = self.agent.get(url).header("accept-encoding", "identity").call()?;
        let mut body = response.into_body().into_reader();
        let mut file = File::create(path)?;
        let mut buffer = vec![0; 128 * 1024];
        loop {
            match body.read(&mut buffer)? {
                0 => break,
                read => file.write_all(&buffer[..read])?,
            }
        }
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }
}
