//! The server side of HTTP/1.1, as far as well-behaved clients need it, over any byte stream.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};

/// Large, so that the speed of an upload depends on the client.
const BUFFER_LEN: usize = 1024 * 1024;

/// A request whose body was read and discarded.
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body_len: u64,
    /// A hash of the body, if one was requested.
    pub(super) body_hash: Option<u64>,
}

impl Request {
    pub(super) fn method(&self) -> &str {
        self.head.split(' ').next().unwrap_or_default()
    }

    pub(super) fn target(&self) -> &str {
        self.head.split(' ').nth(1).unwrap_or_default()
    }
}

/// The server's end of a connection.
pub(super) struct Connection<S> {
    stream: S,
    buffer: Vec<u8>,
    filled: usize,
}

impl<S: Read + Write> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; BUFFER_LEN], filled: 0 }
    }

    /// Reads the next request; `None` when the client has closed the connection.
    pub(super) fn next_request(&mut self, hash_body: bool) -> io::Result<Option<Request>> {
        let end = loop {
            let received = &self.buffer[..self.filled];
            if let Some(index) = received.windows(4).position(|window| window == b"\r\n\r\n") {
                break index + 4;
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        let content_length = header(&head, "content-length").and_then(|value| value.parse().ok());
        let body_len: u64 = content_length.unwrap_or(0);
        if header(&head, "expect").is_some() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.stream.flush()?;
        }
        let mut hasher = hash_body.then(DefaultHasher::new);
        self.discard_body(body_len, hasher.as_mut())?;
        let body_hash = hasher.map(|hasher| hasher.finish());
        Ok(Some(Request { head, body_len, body_hash }))
    }

    fn discard_body(&mut self, len: u64, mut hasher: Option<&mut DefaultHasher>) -> io::Result<()> {
        let mut remaining = len;
        loop {
            let chunk_len = remaining.min(self.filled as u64) as usize;
            if let Some(hasher) = &mut hasher {
                hasher.write(&self.buffer[..chunk_len]);
            }
            self.buffer.copy_within(chunk_len..self.filled, 0);
            self.filled -= chunk_len;
            remaining -= chunk_len as u64;
            if remaining == 0 {
                return Ok(());
            }
            if self.fill()? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }

    fn fill(&mut self) -> io::Result<usize> {
        let read = self.stream.read(&mut self.buffer[self.filled..])?;
        self.filled += read;
        Ok(read)
    }

    pub(super) fn respond(&mut self, content_type: &str, body: &[u8]) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        // A small response is sent in one packet.
        if body.len() < 4096 {
            self.stream.write_all(&[head.as_bytes(), body].concat())?;
        } else {
            self.stream.write_all(head.as_bytes())?;
            self.stream.write_all(body)?;
        }
        self.stream.flush()
    }
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let lines = head.split("\r\n").filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
