//! The lower bound: a socket, a base64 engine, serde_json, and only as much HTTP as the benchmark
//! server needs. No TLS, no proxies, no timeouts, no useful errors.

mod http;

use std::fs::File;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::path::Path;

use api::{
    AUTHORIZATION, CHUNK_SIZE, CreateRequest, EXPECT_CONTINUE_THRESHOLD, Generation, IMAGE_URL,
    JSON_SUFFIX, PATH, USER_AGENT,
};
use base64::Engine;
use base64::engine::{self, general_purpose};
use harness::{Implementation, Result};

use crate::http::Connection;

/// One of base64's engines.
pub trait Encoder {
    fn encode(raw: &[u8], out: &mut [u8]) -> Result<usize>;
}

/// base64's default engine.
pub struct Scalar;

impl Encoder for Scalar {
    fn encode(raw: &[u8], out: &mut [u8]) -> Result<usize> {
        Ok(general_purpose::STANDARD.encode_slice(raw, out)?)
    }
}

/// base64's SIMD engine, which has to be selected explicitly.
pub struct Simd;

impl Encoder for Simd {
    fn encode(raw: &[u8], out: &mut [u8]) -> Result<usize> {
        Ok(engine::Simd::standard(general_purpose::PAD).encode_slice(raw, out)?)
    }
}

pub struct Socket<E> {
    /// Host and port.
    host: String,
    connection: Option<Connection>,
    encoder: PhantomData<E>,
}

impl<E: Encoder> Socket<E> {
    /// The one connection for all requests, opened when it is first needed.
    fn connection(&mut self) -> Result<&mut Connection> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            slot => Ok(slot.insert(Connection::open(&self.host)?)),
        }
    }

    /// Sends the head of a create request, and waits until its body may be sent.
    fn start_create(&mut self, content_length: u64) -> Result<&mut Connection> {
        let expect = if content_length > EXPECT_CONTINUE_THRESHOLD {
            "expect: 100-continue\r\n"
        } else {
            ""
        };
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\nhost: {host}\r\n\
             authorization: {AUTHORIZATION}\r\naccept: application/json\r\n\
             content-type: application/json\r\ncontent-length: {content_length}\r\n\
             x-client-request-id: {id}\r\n{expect}\r\n",
            host = self.host,
            id = api::client_request_id(),
        );
        let connection = self.connection()?;
        connection.write(head.as_bytes())?;
        if !expect.is_empty() {
            connection.await_continue()?;
        }
        Ok(connection)
    }

    fn create_from_url(&mut self) -> Result<Generation> {
        let body = serde_json::to_vec(&CreateRequest::new(IMAGE_URL))?;
        let connection = self.start_create(body.len() as u64)?;
        connection.write(&body)?;
        read_generation(connection)
    }

    fn create_from_file(&mut self, image: &Path) -> Result<Generation> {
        let mut file = File::open(image)?;
        let mut remaining = file.metadata()?.len() as usize;
        let prefix = api::json_prefix()?;
        let content_length = prefix.len() + remaining.div_ceil(3) * 4 + JSON_SUFFIX.len();
        let connection = self.start_create(content_length as u64)?;
        connection.write(&prefix)?;
        let mut raw = vec![0; CHUNK_SIZE.min(remaining)];
        let mut encoded = vec![0; raw.len().div_ceil(3) * 4];
        while remaining > 0 {
            let chunk_len = raw.len().min(remaining);
            file.read_exact(&mut raw[..chunk_len])?;
            let encoded_len = E::encode(&raw[..chunk_len], &mut encoded)?;
            connection.write(&encoded[..encoded_len])?;
            remaining -= chunk_len;
        }
        connection.write(JSON_SUFFIX)?;
        read_generation(connection)
    }

    fn retrieve(&mut self, id: &str) -> Result<Generation> {
        let head = format!(
            "GET {PATH}?generation_id={id} HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\nhost: {host}\r\n\
             authorization: {AUTHORIZATION}\r\naccept: application/json\r\n\r\n",
            host = self.host,
        );
        let connection = self.connection()?;
        connection.write(head.as_bytes())?;
        read_generation(connection)
    }

    /// Encodes an image in the same chunks as an upload and discards the result: the work that no
    /// upload can avoid.
    fn encode(image: &Path) -> Result {
        let mut file = File::open(image)?;
        let mut remaining = file.metadata()?.len() as usize;
        let mut raw = vec![0; CHUNK_SIZE.min(remaining)];
        let mut encoded = vec![0; raw.len().div_ceil(3) * 4];
        while remaining > 0 {
            let chunk_len = raw.len().min(remaining);
            file.read_exact(&mut raw[..chunk_len])?;
            E::encode(&raw[..chunk_len], &mut encoded)?;
            std::hint::black_box(&encoded);
            remaining -= chunk_len;
        }
        Ok(())
    }
}

fn read_generation(connection: &mut Connection) -> Result<Generation> {
    let (status, body) = connection.read_response()?;
    Ok(api::parse_response(status, body)?)
}

impl<E: Encoder> Implementation for Socket<E> {
    fn new(base_url: &str) -> Result<Self> {
        let host = base_url.strip_prefix("http://").ok_or("only http:// is supported")?.to_owned();
        Ok(Self { host, connection: None, encoder: PhantomData })
    }

    fn create_and_poll_url(&mut self) -> Result {
        let created = self.create_from_url()?;
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

    fn download(&mut self, url: &str, target: &Path, sync: bool) -> Result {
        let path = url.strip_prefix("http://").and_then(|url| url.strip_prefix(&self.host));
        let head = format!(
            "GET {path} HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\naccept: */*\r\nhost: {host}\r\n\
             accept-encoding: identity\r\n\r\n",
            path = path.ok_or("the video is on another host")?,
            host = self.host,
        );
        let mut file = File::create(target)?;
        let connection = self.connection()?;
        connection.write(head.as_bytes())?;
        connection.read_video(|chunk| Ok(file.write_all(chunk)?))?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }

    fn run_extra(&mut self, job: &str, times: u32, arguments: &[String]) -> Result {
        match (job, arguments) {
            ("encode", [image]) => (0..times).try_for_each(|_| Self::encode(image.as_ref())),
            _ => Err(format!("unknown job `{job}`").into()),
        }
    }
}
