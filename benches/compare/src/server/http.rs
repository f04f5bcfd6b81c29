//! Just enough of HTTP/1.1 for well-behaved clients, over anything that can be read and written.

use std::hash::{DefaultHasher, Hasher};
use std::io::{self, Read, Write};

/// Large reads: what is measured is how fast a client sends.
const READ: usize = 1024 * 1024;

/// A request, without its body.
pub(super) struct Request {
    pub(super) head: String,
    pub(super) body_bytes: u64,
    /// Tells two bodies apart; only where it was asked for.
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

/// One connection, from its first request to its last.
pub(super) struct Connection<S> {
    stream: S,
    buffer: Vec<u8>,
    filled: usize,
}

impl<S: Read + Write> Connection<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, buffer: vec![0; READ], filled: 0 }
    }

    /// The next request, or none when the client has gone.
    pub(super) fn next(&mut self, hash: bool) -> io::Result<Option<Request>> {
        let end = loop {
            let known = &self.buffer[..self.filled];
            if let Some(at) = known.windows(4).position(|window| window == b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill()? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&self.buffer[..end]).into_owned();
        self.buffer.copy_within(end..self.filled, 0);
        self.filled -= end;
        let length = header(&head, "content-length").and_then(|value| value.parse().ok());
        let body_bytes: u64 = length.unwrap_or(0);
        if header(&head, "expect").is_some() {
            self.stream.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
            self.stream.flush()?;
        }
        let mut hasher = hash.then(DefaultHasher::new);
        self.read_body(body_bytes, hasher.as_mut())?;
        let body_hash = hasher.map(|hasher| hasher.finish());
        Ok(Some(Request { head, body_bytes, body_hash }))
    }

    fn read_body(&mut self, length: u64, mut hasher: Option<&mut DefaultHasher>) -> io::Result<()> {
        let mut left = length;
        loop {
            let part = left.min(self.filled as u64) as usize;
            if let Some(hasher) = &mut hasher {
                hasher.write(&self.buffer[..part]);
            }
            self.buffer.copy_within(part..self.filled, 0);
            self.filled -= part;
            left -= part as u64;
            if left == 0 {
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

    pub(super) fn answer(&mut self, content_type: &str, body: &[u8]) -> io::Result<()> {
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {content_type}\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
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
    lines.into_iter().find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}
