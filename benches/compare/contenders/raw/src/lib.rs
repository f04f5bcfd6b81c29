//! The floor: a socket, the base64 engine and serde_json, with no more of HTTP than this server
//! needs. No TLS, no proxies, no time-outs, no errors worth the name.

mod http;

use std::fs::File;
use std::io::{Read, Write};
use std::marker::PhantomData;
use std::path::Path;

use api::{ASK_FIRST, AUTHORIZATION, Create, Generation, LINK, PATH, STEP, TAIL, USER_AGENT};
use base64::Engine;
use base64::engine::{self, general_purpose};
use harness::{Contender, Outcome};

use crate::http::Connection;

/// One of base64's engines.
pub trait Encoder {
    fn encode(raw: &[u8], into: &mut [u8]) -> Outcome<usize>;
}

/// The one that base64 offers first.
pub struct Scalar;

impl Encoder for Scalar {
    fn encode(raw: &[u8], into: &mut [u8]) -> Outcome<usize> {
        Ok(general_purpose::STANDARD.encode_slice(raw, into)?)
    }
}

/// The one that has to be asked for by name.
pub struct Simd;

impl Encoder for Simd {
    fn encode(raw: &[u8], into: &mut [u8]) -> Outcome<usize> {
        Ok(engine::Simd::standard(general_purpose::PAD).encode_slice(raw, into)?)
    }
}

pub struct Raw<E> {
    /// With host and port, and without a scheme.
    host: String,
    connection: Option<Connection>,
    encoder: PhantomData<E>,
}

impl<E: Encoder> Raw<E> {
    /// One connection for everything, made when it is first needed.
    fn connection(&mut self) -> Outcome<&mut Connection> {
        match &mut self.connection {
            Some(connection) => Ok(connection),
            none => Ok(none.insert(Connection::open(&self.host)?)),
        }
    }

    fn begin_create(&mut self, length: u64) -> Outcome<&mut Connection> {
        let expect = if length > ASK_FIRST { "expect: 100-continue\r\n" } else { "" };
        let head = format!(
            "POST {PATH} HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\nhost: {host}\r\n\
             authorization: {AUTHORIZATION}\r\naccept: application/json\r\n\
             content-type: application/json\r\ncontent-length: {length}\r\n\
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

    fn create_link(&mut self) -> Outcome<Generation> {
        let body = serde_json::to_vec(&Create::new(LINK))?;
        let connection = self.begin_create(body.len() as u64)?;
        connection.write(&body)?;
        answer(connection)
    }

    fn create_file(&mut self, picture: &Path) -> Outcome<Generation> {
        let mut file = File::open(picture)?;
        let mut left = file.metadata()?.len() as usize;
        let head = api::body_head()?;
        let length = head.len() + left.div_ceil(3) * 4 + TAIL.len();
        let connection = self.begin_create(length as u64)?;
        connection.write(&head)?;
        let mut raw = vec![0; STEP.min(left)];
        let mut encoded = vec![0; raw.len().div_ceil(3) * 4];
        while left > 0 {
            let step = raw.len().min(left);
            file.read_exact(&mut raw[..step])?;
            let length = E::encode(&raw[..step], &mut encoded)?;
            connection.write(&encoded[..length])?;
            left -= step;
        }
        connection.write(TAIL)?;
        answer(connection)
    }

    fn retrieve(&mut self, id: &str) -> Outcome<Generation> {
        let head = format!(
            "GET {PATH}?generation_id={id} HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\nhost: {host}\r\n\
             authorization: {AUTHORIZATION}\r\naccept: application/json\r\n\r\n",
            host = self.host,
        );
        let connection = self.connection()?;
        connection.write(head.as_bytes())?;
        answer(connection)
    }

    /// The picture, encoded in the same steps and thrown away: what an upload cannot do without.
    fn encode(picture: &Path) -> Outcome {
        let mut file = File::open(picture)?;
        let mut left = file.metadata()?.len() as usize;
        let mut raw = vec![0; STEP.min(left)];
        let mut encoded = vec![0; raw.len().div_ceil(3) * 4];
        while left > 0 {
            let step = raw.len().min(left);
            file.read_exact(&mut raw[..step])?;
            E::encode(&raw[..step], &mut encoded)?;
            std::hint::black_box(&encoded);
            left -= step;
        }
        Ok(())
    }
}

fn answer(connection: &mut Connection) -> Outcome<Generation> {
    let (status, body) = connection.answer()?;
    Ok(api::read(status, body)?)
}

impl<E: Encoder> Contender for Raw<E> {
    fn new(base: &str) -> Outcome<Self> {
        let host = base.strip_prefix("http://").ok_or("plain HTTP only")?.to_owned();
        Ok(Self { host, connection: None, encoder: PhantomData })
    }

    fn link(&mut self) -> Outcome {
        let created = self.create_link()?;
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
        let path = url.strip_prefix("http://").and_then(|url| url.strip_prefix(&self.host));
        let head = format!(
            "GET {path} HTTP/1.1\r\nuser-agent: {USER_AGENT}\r\naccept: */*\r\nhost: {host}\r\n\
             accept-encoding: identity\r\n\r\n",
            path = path.ok_or("a video of another host")?,
            host = self.host,
        );
        let mut file = File::create(to)?;
        let connection = self.connection()?;
        connection.write(head.as_bytes())?;
        connection.receive(|piece| Ok(file.write_all(piece)?))?;
        if sync {
            file.sync_all()?;
        }
        Ok(())
    }

    fn extra(&mut self, job: &str, times: u32, arguments: &[String]) -> Outcome {
        match (job, arguments) {
            ("encode", [picture]) => (0..times).try_for_each(|_| Self::encode(picture.as_ref())),
            _ => Err(format!("no job {job}").into()),
        }
    }
}
