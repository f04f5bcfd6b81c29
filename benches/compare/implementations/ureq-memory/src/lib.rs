//! ureq as most programs would use it: one agent, the complete body in memory.

use std::fs::{self, File};
use std::path::Path;

use api::{
    AUTHORIZATION, CreateRequest, DATA_URI_PREFIX, EXPECT_CONTINUE_THRESHOLD, Error, Generation,
    IMAGE_URL, PATH,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Implementation, Result};
use ureq::Agent;

pub struct UreqInMemory {
    agent: Agent,
    base_url: String,
}

impl UreqInMemory {
    fn create(&self, image_url: &str) -> Result<Generation, Error> {
        let body = serde_json::to_vec(&CreateRequest::new(image_url))?;
        let mut request = self
            .agent
            .post(format!("{}{PATH}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("content-length", body.len())
            .header("x-client-request-id", api::client_request_id());
        if body.len() as u64 > EXPECT_CONTINUE_THRESHOLD {
            request = request.header("expect", "100-continue");
        }
        parse_response(request.send(&body[..]).map_err(http_error)?)
    }

    fn retrieve(&self, id: &str) -> Result<Generation, Error> {
        let request = self
            .agent
            .get(format!("{}{PATH}?generation_id={id}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        parse_response(request.call().map_err(http_error)?)
    }

    fn create_from_file(&self, image: &Path) -> Result<Generation, Error> {
        let base64 = STANDARD.encode(fs::read(image)?);
        self.create(&format!("{DATA_URI_PREFIX}{base64}"))
    }
}

fn parse_response(mut response: ureq::http::Response<ureq::Body>) -> Result<Generation, Error> {
    let body = response.body_mut().read_to_vec().map_err(http_error)?;
    api::parse_response(response.status().as_u16(), &body)
}

fn http_error(error: ureq::Error) -> Error {
    Error::Http(error.into())
}

impl Implementation for UreqInMemory {
    fn new(base_url: &str) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(api::USER_AGENT)
            .build();
        Ok(Self { agent: config.new_agent(), base_url: base_url.to_owned() })
    }

    fn create_and_poll_url(&mut self) -> Result {
        let created = self.create(IMAGE_URL)?;
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
        let mut file = File::create(path)?;
        std::io::copy(&mut response.into_body().into_reader(), &mut file)?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }
}
