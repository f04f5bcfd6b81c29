//! reqwest's blocking client as most programs would use it: default features, the whole body in
//! memory. Its order of headers is its own.

use std::fs::{self, File};
use std::path::Path;

use api::{ASK_FIRST, AUTHORIZATION, Create, DATA_URI_HEAD, Error, Generation, LINK, PATH};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Contender, Outcome};
use reqwest::blocking::{Client, Response};

pub struct Reqwest {
    client: Client,
    base: String,
}

impl Reqwest {
    fn create(&self, image_url: &str) -> Result<Generation, Error> {
        let body = serde_json::to_vec(&Create::new(image_url))?;
        let mut request = self
            .client
            .post(format!("{}{PATH}", self.base))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("x-client-request-id", api::client_request_id());
        if body.len() as u64 > ASK_FIRST {
            request = request.header("expect", "100-continue");
        }
        read(request.body(body).send().map_err(failed)?)
    }

    fn retrieve(&self, id: &str) -> Result<Generation, Error> {
        let request = self
            .client
            .get(format!("{}{PATH}?generation_id={id}", self.base))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        read(request.send().map_err(failed)?)
    }

    fn create_file(&self, picture: &Path) -> Result<Generation, Error> {
        let base64 = STANDARD.encode(fs::read(picture)?);
        self.create(&format!("{DATA_URI_HEAD}{base64}"))
    }
}

fn read(response: Response) -> Result<Generation, Error> {
    let status = response.status().as_u16();
    api::read(status, &response.bytes().map_err(failed)?)
}

fn failed(error: reqwest::Error) -> Error {
    Error::Http(error.into())
}

impl Contender for Reqwest {
    fn new(base: &str) -> Outcome<Self> {
        let client = Client::builder().no_proxy().user_agent(api::USER_AGENT).build()?;
        Ok(Self { client, base: base.to_owned() })
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
        let mut response = self.client.get(url).header("accept-encoding", "identity").send()?;
        let mut file = File::create(to)?;
        response.copy_to(&mut file)?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }
}
