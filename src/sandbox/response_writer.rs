//! Writes responses to the socket: complete, truncated or throttled.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;

use super::fault::{ResponseDelivery, Throttle};
use super::shutdown::ShutdownSignal;

pub(super) struct ResponseWriter<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) shutdown: &'a ShutdownSignal,
}

impl ResponseWriter<'_> {
    pub(super) fn write_response(
        &self,
        head: &[u8],
        body: &[u8],
        delivery: &ResponseDelivery,
    ) -> io::Result<()> {
        let (head, body) = truncate(head, body, delivery.truncate_after);
        match delivery.throttle {
            Some(throttle) => {
                self.write_throttled(head, body, delivery.unthrottled_bytes, throttle)
            }
            None => self.write(head, body),
        }
    }

    /// Writes the first `unthrottled_bytes` at once and the others in parts.
    fn write_throttled(
        &self,
        head: &[u8],
        body: &[u8],
        unthrottled_bytes: usize,
        throttle: Throttle,
    ) -> io::Result<()> {
        let (first_head, first_body) = truncate(head, body, Some(unthrottled_bytes));
        self.write(first_head, first_body)?;
        let rest = |part: &[u8], written: usize| part.get(written..).unwrap_or_default().to_vec();
        let rest = [rest(head, first_head.len()), rest(body, first_body.len())].concat();
        for part in rest.chunks(throttle.bytes) {
            self.write(part, b"")?;
            self.shutdown.sleep(throttle.interval)?;
        }
        Ok(())
    }

    /// Writes `chunk` repeatedly, `total` bytes in all.
    pub(super) fn write_repeated(&self, chunk: &[u8], total: u64) -> io::Result<()> {
        let mut remaining = if chunk.is_empty() { 0 } else { total };
        while remaining > 0 {
            let last_part = usize::try_from(remaining).ok().and_then(|len| chunk.get(..len));
            let part = last_part.unwrap_or(chunk);
            self.write(part, b"")?;
            remaining -= part.len() as u64;
        }
        Ok(())
    }

    /// Writes head and body without copying them, in one system call if the socket takes both.
    pub(super) fn write(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        let written = loop {
            match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => break result?,
            }
        };
        let body_written = written.saturating_sub(head.len());
        stream.write_all(head.get(written..).unwrap_or_default())?;
        stream.write_all(body.get(body_written..).unwrap_or_default())
    }
}

/// Returns the first `max_len` bytes of head and body, or all of both without a limit.
fn truncate<'a>(head: &'a [u8], body: &'a [u8], max_len: Option<usize>) -> (&'a [u8], &'a [u8]) {
    let max_len = max_len.unwrap_or(usize::MAX);
    let body_len = max_len.saturating_sub(head.len());
    (head.get(..max_len).unwrap_or(head), body.get(..body_len).unwrap_or(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncation_counts_head_and_body() {
        let truncated = |max_len| {
            let (head, body) = truncate(b"head", b"body", max_len);
            [head, body].concat()
        };
        assert_eq!(truncated(Some(0)), b"");
        assert_eq!(truncated(Some(3)), b"hea");
        assert_eq!(truncated(Some(6)), b"headbo");
        assert_eq!(truncated(Some(99)), b"headbody");
        assert_eq!(truncated(None), b"headbody");
    }
}
