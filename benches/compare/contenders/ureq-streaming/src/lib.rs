//! ureq with care: the picture is encoded piece by piece into ureq's own buffer, by the engine that
//! base64 does not choose by itself, and the length is told.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use api::{ASK_FIRST, AUTHORIZATION, Create, Error, Generation, LINK, PATH, STEP, TAIL};
use base64::Engine;
use base64::engine::{Simd, general_purpose::PAD};
use harness::{Contender, Outcome};
use ureq::{Agent, SendBody};

pub struct UreqStreaming {
    agent: Agent,
    base: String,
}

impl UreqStreaming {
    fn create(&self, length: u64, mut body: impl Read) -> Result<Generation, Error> {
        let mut request = self
            .agent
            .post(format!("{}{PATH}", self.base))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("content-length", length)
            .header("x-client-request-id", api::client_request_id());
        if length > ASK_FIRST {
            request = request.header("expect", "100-continue");
        }
        read(request.send(SendBody::from_reader(&mut body)).map_err(failed)?)
    }

    fn create_link(&self, link: &str) -> Result<Generation, Error> {
        let body = serde_json::to_vec(&Create::new(link))?;
        self.create(body.len() as u64, &body[..])
    }

    fn create_file(&self, picture: &Path) -> Result<Generation, Error> {
        let file = File::open(picture)?;
        let head = api::body_head()?;
        let raw = file.metadata()?.len();
        let length = head.len() as u64 + raw.div_ceil(3) * 4 + TAIL.len() as u64;
        let encoder = Encoder { file, raw: vec![0; STEP.min(raw as usize)], left: raw as usize };
        self.create(length, head.chain(encoder).chain(TAIL))
    }

    fn retrieve(&self, id: &str) -> Result<Generation, Error> {
        let request = self
            .agent
            .get(format!("{}{PATH}?generation_id={id}", self.base))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        read(request.call().map_err(failed)?)
    }
}

/// A file as base64, a bufferful at a time.
struct Encoder {
    file: File,
    raw: Vec<u8>,
    left: usize,
}

impl Read for Encoder {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let step = self.raw.len().min(into.len() / 4 * 3).min(self.left);
        let raw = &mut self.raw[..step];
        self.file.read_exact(raw)?;
        self.left -= step;
        Simd::standard(PAD).encode_slice(raw, into).map_err(io::Error::other)
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Generation, Error> {
    let body = response.body_mut().read_to_vec().map_err(failed)?;
    api::read(response.status().as_u16(), &body)
}

fn failed(error: ureq::Error) -> Error {
    Error::Http(error.into())
}

impl Contender for UreqStreaming {
    fn new(base: &str) -> Outcome<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(api::USER_AGENT)
            .build();
        Ok(Self { agent: config.new_agent(), base: base.to_owned() })
    }

    fn link(&mut self) -> Outcome {
        let created = self.create_link(LINK)?;
        std::hint::black_box(self.retrieve(&created.id)?);
        Ok(())
    }

    fn file(&mut self, picture: &Path) -> Outcome {
        let created = self.create_file(picture)?;
        std::hint::black_box(self.retrieve(&created.id)?);
        Ok(())
    }

    fn upload(&mut self, picture: &Path) -> Outcome {
        self.create_file(picture)?;
        Ok(())
    }

    fn download(&mut self, url: &str, to: &Path, sync: bool) -> Outcome {
        let response = self.agent.get(url).header("accept-encoding", "identity").call()?;
        let mut body = response.into_body().into_reader();
        let mut file = File::create(to)?;
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
