//! reqwest's blocking client as most programs would use it: default features, the complete body in
//! memory. The header order is reqwest's.

use std::fs::{self, File};
use std::path::Path;

use api::{
    AUTHORIZATION, CreateRequest, DATA_URI_PREFIX, EXPECT_CONTINUE_THRESHOLD, Error, Generation,
    IMAGE_URL, PATH,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use harness::{Implementation, Result};
use reqwest::blocking::{Client, Response};

pub struct Reqwest {
    client: Client,
    base_url: String,
}

impl Reqwest {
    fn create(&self, image_url: &str) -> Result<Generation, Error> {
        let body = serde_json::to_vec(&CreateRequest::new(image_url))?;
        let mut request = self
            .client
            .post(format!("{}{PATH}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json")
            .header("content-type", "application/json")
            .header("x-client-request-id", api::client_request_id());
        if body.len() as u64 > EXPECT_CONTINUE_THRESHOLD {
            request = request.header("expect", "100-continue");
        }
        parse_response(request.body(body).send().map_err(http_error)?)
    }

    fn retrieve(&self, id: &str) -> Result<Generation, Error> {
        let request = self
            .client
            .get(format!("{}{PATH}?generation_id={id}", self.base_url))
            .header("authorization", AUTHORIZATION)
            .header("accept", "application/json");
        parse_response(request.send().map_err(http_error)?)
    }

    fn create_from_file(&self, image: &Path) -> Result<Generation, Error> {
        let base64 = STANDARD.encode(fs::read(image)?);
        self.create(&format!("{DATA_URI_PREFIX}{base64}"))
    }
}

fn parse_response(response: Response) -> Result<Generation, Error> {
    let status = response.status().as_u16();
    api::parse_response(status, &response.bytes().map_err(http_error)?)
}

fn http_error(error: reqwest::Error) -> Error {
    Error::Http(error.into())
}

impl Implementation for Reqwest {
    fn new(base_url: &str) -> Result<Self> {
        let client = Client::builder().no_proxy().user_agent(api::USER_AGENT).build()?;
        Ok(Self { client, base_url: base_url.to_owned() })
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
        let mut response = self.client.get(url).header("accept-encoding", "identity").send()?;
        let mut file = File::create(path)?;
        response.copy_to(&mut file)?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }
}
