//! A minimal HTTP/1.1 client for servers that send `Content-Length` with every response.

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::Result;

/// Read buffer for a video.
const VIDEO_BUFFER: usize = 128 * 1024;
/// Read buffer for everything else; any API response fits.
const RESPONSE_BUFFER: usize = 16 * 1024;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

struct ResponseHead {
    status: u16,
    /// Offset of the body in the buffer.
    body: usize,
    content_length: usize,
}

impl Connection {
    pub fn open(host: &str) -> Result<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; RESPONSE_BUFFER] })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Result {
        Ok(self.stream.write_all(bytes)?)
    }

    pub fn await_continue(&mut self) -> Result {
        match self.read_head()? {
            (ResponseHead { status: 100, .. }, _) => Ok(()),
            (ResponseHead { status, .. }, _) => {
                Err(format!("expected HTTP 100, received {status}").into())
            }
        }
    }

    /// The status and the body of the next response.
    pub fn read_response(&mut self) -> Result<(u16, &[u8])> {
        let (head, mut filled) = self.read_head()?;
        let end = head.body + head.content_length;
        if end > self.buffer.len() {
            return Err("response does not fit the buffer".into());
        }
        while filled < end {
            filled += self.fill(filled)?;
        }
        Ok((head.status, &self.buffer[head.body..end]))
    }

    /// Passes the body of the next response to `write`, chunk by chunk.
    pub fn read_video(&mut self, mut write: impl FnMut(&[u8]) -> Result) -> Result {
        self.buffer.resize(VIDEO_BUFFER, 0);
        let (head, filled) = self.read_head()?;
        if head.status != 200 {
            return Err(format!("server returned HTTP {}", head.status).into());
        }
        write(&self.buffer[head.body..filled])?;
        let mut remaining = head.content_length - (filled - head.body);
        while remaining > 0 {
            let read = self.fill(0)?;
            write(&self.buffer[..read])?;
            remaining -= read;
        }
        Ok(())
    }

    /// Reads into the buffer from `offset` on.
    fn fill(&mut self, offset: usize) -> Result<usize> {
        match self.stream.read(&mut self.buffer[offset..])? {
            0 => Err("server closed the connection".into()),
            read => Ok(read),
        }
    }

    /// The next response's head, and how many bytes of the buffer are filled.
    fn read_head(&mut self) -> Result<(ResponseHead, usize)> {
        let mut filled = 0;
        loop {
            filled += self.fill(filled)?;
            if let Some(body) = self.buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
                let head = std::str::from_utf8(&self.buffer[..body])?;
                let mut lines = head.split("\r\n");
                let status = lines.next().and_then(|line| line.get(9..12)).unwrap_or_default();
                let content_length =
                    lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
                        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
                    });
                let head = ResponseHead {
                    status: status.parse()?,
                    body: body + 4,
                    content_length: content_length.transpose()?.unwrap_or(0),
                };
                return Ok((head, filled));
            }
        }
    }
}
