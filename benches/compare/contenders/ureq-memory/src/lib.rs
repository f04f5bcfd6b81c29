//! ureq as most programs would use it: one agent, the whole body in memory.

use std::fs::{self, File};
use std::path::Path;

use api::{ASK_FIRST, AUTHORIZATION, Create, DATA_URI_HEAD, Error, Generation, LINK, PATH};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Contender, Outcome};
use ureq::Agent;

pub struct UreqInMemory {
    agent: Agent,
    base: String,
}

impl UreqInMemory {
    fn create(&self, image_url: &str) -> Result<Generation, Error> {
        let body = serde_json::to_vec(&Create::new(image_url))?;
        let mut request = self
            .agent
            .post(format!("{}{PATH}", self.base))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("content-length", body.len())
            .header("x-client-request-id", api::client_request_id());
        if body.len() as u64 > ASK_FIRST {
            request = request.header("expect", "100-continue");
        }
        read(request.send(&body[..]).map_err(failed)?)
    }

    fn retrieve(&self, id: &str) -> Result<Generation, Error> {
        let request = self
            .agent
            .get(format!("{}{PATH}?generation_id={id}", self.base))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        read(request.call().map_err(failed)?)
    }

    fn create_file(&self, picture: &Path) -> Result<Generation, Error> {
        let base64 = STANDARD.encode(fs::read(picture)?);
        self.create(&format!("{DATA_URI_HEAD}{base64}"))
    }
}

fn read(mut response: ureq::http::Response<ureq::Body>) -> Result<Generation, Error> {
    let body = response.body_mut().read_to_vec().map_err(failed)?;
    api::read(response.status().as_u16(), &body)
}

fn failed(error: ureq::Error) -> Error {
    Error::Http(error.into())
}

impl Contender for UreqInMemory {
    fn new(base: &str) -> Outcome<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(api::USER_AGENT)
            .build();
        Ok(Self { agent: config.new_agent(), base: base.to_owned() })
    }

    fn link(&mut self) -> Outcome {
        let created = self.create(LINK)?;
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
        let mut file = File::create(to)?;
        std::io::copy(&mut response.into_body().into_reader(), &mut file)?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }
}
