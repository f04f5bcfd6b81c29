//! Puts bytes on the wire as a [`Delivery`] wants them: whole, cut, or one at a time.

use std::io::{self, ErrorKind, IoSlice, Write};
use std::net::TcpStream;
use std::time::Duration;

use super::fault::Delivery;
use super::stop::Stop;

pub(super) struct Sender<'a> {
    pub(super) stream: &'a TcpStream,
    pub(super) stop: &'a Stop,
}

impl Sender<'_> {
    pub(super) fn deliver(&self, head: &[u8], body: &[u8], delivery: &Delivery) -> io::Result<()> {
        let (head, body) = cut(head, body, delivery.cut_after);
        match delivery.trickle {
            Some(every) => self.trickle(head, body, delivery.at_once, every),
            None => self.send(head, body),
        }
    }

    /// The first bytes at once, the others one at a time.
    fn trickle(&self, head: &[u8], body: &[u8], at_once: usize, every: Duration) -> io::Result<()> {
        let (quick_head, quick_body) = cut(head, body, Some(at_once));
        self.send(quick_head, quick_body)?;
        for byte in head.iter().chain(body).skip(at_once) {
            self.send(std::slice::from_ref(byte), b"")?;
            self.stop.sleep(every)?;
        }
        Ok(())
    }

    /// `chunk` over and over, up to `total` bytes.
    pub(super) fn repeat(&self, chunk: &[u8], total: u64) -> io::Result<()> {
        let mut left = if chunk.is_empty() { 0 } else { total };
        while left > 0 {
            let piece = usize::try_from(left).ok().and_then(|left| chunk.get(..left));
            let piece = piece.unwrap_or(chunk);
            self.send(piece, b"")?;
            left -= piece.len() as u64;
        }
        Ok(())
    }

    /// Head and body in one system call, if the socket takes them, and without copying either.
    pub(super) fn send(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut stream = self.stream;
        let sent = loop {
            match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => break sent?,
            }
        };
        let of_body = sent.saturating_sub(head.len());
        stream.write_all(head.get(sent..).unwrap_or_default())?;
        stream.write_all(body.get(of_body..).unwrap_or_default())
    }
}

/// The first `total` bytes, if there is such a limit.
fn cut<'a>(head: &'a [u8], body: &'a [u8], total: Option<usize>) -> (&'a [u8], &'a [u8]) {
    let total = total.unwrap_or(usize::MAX);
    let of_body = total.saturating_sub(head.len());
    (head.get(..total).unwrap_or(head), body.get(..of_body).unwrap_or(body))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_counts_head_and_body() {
        let at = |total| {
            let (head, body) = cut(b"head", b"body", total);
            [head, body].concat()
        };
        assert_eq!(at(Some(0)), b"");
        assert_eq!(at(Some(3)), b"hea");
        assert_eq!(at(Some(6)), b"headbo");
        assert_eq!(at(Some(99)), b"headbody");
        assert_eq!(at(None), b"headbody");
    }
}
