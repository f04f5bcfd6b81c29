//! As much HTTP/1.1 as a server needs that always tells the length of its answers.

use std::io::{Read, Write};
use std::net::TcpStream;

use harness::Outcome;

/// What is read at once of a video.
const READ: usize = 128 * 1024;
/// Enough for any answer of the API's.
const SMALL: usize = 16 * 1024;

pub struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
}

struct Head {
    status: u16,
    /// Where the body begins.
    body: usize,
    length: usize,
}

impl Connection {
    pub fn open(host: &str) -> Outcome<Self> {
        let stream = TcpStream::connect(host)?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: vec![0; SMALL] })
    }

    pub fn write(&mut self, bytes: &[u8]) -> Outcome {
        Ok(self.stream.write_all(bytes)?)
    }

    pub fn await_continue(&mut self) -> Outcome {
        match self.read_head()? {
            (Head { status: 100, .. }, _) => Ok(()),
            (Head { status, .. }, _) => Err(format!("{status} instead of 100").into()),
        }
    }

    pub fn answer(&mut self) -> Outcome<(u16, &[u8])> {
        let (head, mut filled) = self.read_head()?;
        let end = head.body + head.length;
        if end > self.buffer.len() {
            return Err("an answer that is too long".into());
        }
        while filled < end {
            filled += self.read_more(filled)?;
        }
        Ok((head.status, &self.buffer[head.body..end]))
    }

    /// A video, in pieces.
    pub fn receive(&mut self, mut take: impl FnMut(&[u8]) -> Outcome) -> Outcome {
        self.buffer.resize(READ, 0);
        let (head, filled) = self.read_head()?;
        if head.status != 200 {
            return Err(format!("status {}", head.status).into());
        }
        take(&self.buffer[head.body..filled])?;
        let mut left = head.length - (filled - head.body);
        while left > 0 {
            let read = self.read_more(0)?;
            take(&self.buffer[..read])?;
            left -= read;
        }
        Ok(())
    }

    fn read_more(&mut self, at: usize) -> Outcome<usize> {
        match self.stream.read(&mut self.buffer[at..])? {
            0 => Err("the server has closed the connection".into()),
            read => Ok(read),
        }
    }

    fn read_head(&mut self) -> Outcome<(Head, usize)> {
        let mut filled = 0;
        loop {
            filled += self.read_more(filled)?;
            if let Some(body) = self.buffer[..filled].windows(4).position(|w| w == b"\r\n\r\n") {
                let text = std::str::from_utf8(&self.buffer[..body])?;
                let mut lines = text.split("\r\n");
                let status = lines.next().and_then(|line| line.get(9..12)).unwrap_or_default();
                let length =
                    lines.filter_map(|line| line.split_once(':')).find_map(|(name, value)| {
                        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse())
                    });
                let length = length.transpose()?.unwrap_or(0);
                return Ok((Head { status: status.parse()?, body: body + 4, length }, filled));
            }
        }
    }
}
