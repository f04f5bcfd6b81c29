//! The video to a file: resumed where it broke off, checked, and put in place at once.

use std::path::Path;
use std::time::Instant;

use crate::call::Call;
use crate::error::{Error, Result};
use crate::event::Event;
use crate::generation::Video;
use crate::http::{Failure, FailureKind};
use crate::part::Part;
use crate::random::random;
use crate::transport::{LONGEST_DOWNLOAD, Range, Stream};

const OPERATION: &str = "download";

/// No video is larger, whatever a server says.
const MOST_BYTES: u64 = 1024 * 1024 * 1024;

/// An idle period that brings less than this is as good as silence.
const LEAST_PROGRESS: u64 = 4 * 1024;

const CHUNK: usize = 128 * 1024;

/// Writes the video to `target`, which stays as it is until the whole video is there.
pub(crate) fn download(call: &Call<'_>, video: &Video, target: &Path) -> Result<u64> {
    let dress = |error: Error| error.during(OPERATION).with_id(&video.id);
    let part = Part::open(target).map_err(dress)?;
    let mut download = Download {
        call,
        video,
        part,
        link: video.url.clone(),
        renewed: false,
        received: 0,
        furthest: 0,
        total: None,
        validator: None,
        begun: Instant::now(),
        failures: 0,
    };
    match download.run() {
        Ok(()) => {
            let length = download.received;
            download.part.publish().map_err(dress)?;
            Ok(length)
        }
        Err(error) => {
            download.part.discard();
            Err(dress(error))
        }
    }
}

struct Download<'a> {
    call: &'a Call<'a>,
    video: &'a Video,
    part: Part,
    link: String,
    renewed: bool,
    received: u64,
    /// The most that was received so far: less is no progress.
    furthest: u64,
    total: Option<u64>,
    /// By what the server tells that the file is still the same.
    validator: Option<String>,
    begun: Instant,
    /// Attempts in a row that brought no progress.
    failures: u32,
}

/// Why an attempt did not bring the rest of the video.
enum Setback {
    /// Another attempt cannot help.
    Final(Error),
    /// Go on from where it broke off.
    Resume(Error),
    /// What there is does not fit: begin again.
    Restart(Error),
    /// The link has expired.
    Expired(Error),
}

impl From<Error> for Setback {
    fn from(error: Error) -> Self {
        Self::Final(error)
    }
}

impl From<Failure> for Setback {
    fn from(failure: Failure) -> Self {
        match failure.kind {
            FailureKind::Cancelled | FailureKind::Unusable => {
                Self::Final(failure.into_error(OPERATION))
            }
            _ => Self::Resume(failure.into_error(OPERATION)),
        }
    }
}

impl Download<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let before = self.furthest;
            match self.attempt() {
                Ok(()) => return Ok(()),
                Err(Setback::Final(error)) => return Err(error),
                Err(Setback::Expired(error)) if self.renewed => return Err(error),
                Err(Setback::Expired(_)) => self.renew()?,
                Err(Setback::Resume(error)) => self.pause(error, before)?,
                Err(Setback::Restart(error)) => {
                    self.restart()?;
                    self.pause(error, before)?;
                }
            }
        }
    }

    fn attempt(&mut self) -> Result<(), Setback> {
        let range = match &self.validator {
            Some(validator) if self.received > 0 => {
                Some(Range { from: self.received, validator: validator.clone() })
            }
            _ => None,
        };
        let mut stream = self.call.session.fetch(&self.link, range.as_ref())?;
        match (stream.status, range) {
            (200, _) => self.restart()?,
            (206, Some(range)) => self.check_range(&stream, &range)?,
            (_, range) => return Err(refused(stream, range.is_some())),
        }
        self.take_length(&stream)?;
        self.receive(&mut stream)?;
        if self.total.is_some_and(|total| total != self.received) {
            let error = Error::decode(OPERATION, "the video is not as long as the server said");
            return Err(Setback::Restart(error));
        }
        match self.part.flaw(self.received)? {
            Some(flaw) => {
                let problem = format!("what was received is no whole MP4: {flaw}");
                Err(Setback::Restart(Error::decode(OPERATION, problem)))
            }
            None => Ok(()),
        }
    }

    /// A part of the file has to go on where this side broke off, in a file of the same length.
    fn check_range(&self, stream: &Stream, range: &Range) -> Result<(), Setback> {
        let content_range = stream.headers.get("content-range").and_then(parse_content_range);
        match content_range {
            Some((from, total)) if from == range.from && total == self.total => Ok(()),
            _ => {
                let problem = "the server sent another part of the video than was asked for";
                Err(Setback::Restart(Error::decode(OPERATION, problem)))
            }
        }
    }

    fn take_length(&mut self, stream: &Stream) -> Result<(), Setback> {
        if stream.status == 200 {
            self.total = stream.length;
            self.validator = validator(stream);
        }
        match self.total {
            Some(total) if total > MOST_BYTES => Err(Setback::Final(too_large())),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, stream: &mut Stream) -> Result<(), Setback> {
        let idle = self.call.session.idle_timeout();
        let mut buf = vec![0; CHUNK];
        let (mut period, mut in_period) = (Instant::now(), 0);
        loop {
            let read = stream.read(&mut buf)?;
            let Some(data) = buf.get(..read).filter(|data| !data.is_empty()) else { return Ok(()) };
            if self.received + read as u64 > MOST_BYTES {
                return Err(Setback::Final(too_large()));
            }
            self.part.append(data)?;
            self.received += read as u64;
            self.furthest = self.furthest.max(self.received);
            self.call.report(&Event::Downloading {
                id: &self.video.id,
                received: self.received,
                total: self.total,
            });
            in_period += read as u64;
            if self.begun.elapsed() > LONGEST_DOWNLOAD {
                let late = too_slow("the video took longer than an hour");
                return Err(Setback::Final(late.into_error(OPERATION)));
            }
            if period.elapsed() >= idle {
                if in_period < LEAST_PROGRESS {
                    return Err(too_slow("less than 4 KiB came in an idle period").into());
                }
                (period, in_period) = (Instant::now(), 0);
            }
        }
    }

    fn restart(&mut self) -> Result<()> {
        (self.received, self.validator, self.total) = (0, None, None);
        self.part.clear()
    }

    /// Links expire; the generation has a fresh one.
    fn renew(&mut self) -> Result<()> {
        self.renewed = true;
        let generation = self.call.retrieve(&self.video.id)?;
        match generation.video {
            Some(video) => {
                self.link = video.url;
                Ok(())
            }
            None => {
                let problem = "the link has expired and the generation has no other";
                Err(Error::decode(OPERATION, problem).with_generation(Box::new(generation)))
            }
        }
    }

    /// Waits before the next attempt, or gives up after too many that brought nothing.
    fn pause(&mut self, error: Error, before: u64) -> Result<()> {
        self.failures = match self.furthest >= before.saturating_add(LEAST_PROGRESS) {
            true => 1,
            false => self.failures.saturating_add(1),
        };
        let error = error.with_attempts(self.failures);
        let late = self.begun.elapsed() > LONGEST_DOWNLOAD;
        let after = self.call.retry.delay(self.failures, &error, random()).filter(|_| !late);
        let Some(after) = after else { return Err(error) };
        self.call.report(&Event::Retrying {
            operation: OPERATION,
            id: Some(&self.video.id),
            client_request_id: None,
            attempt: self.failures,
            after,
            error: &error,
        });
        match self.call.sleep(after) {
            true => Ok(()),
            false => Err(Error::cancelled(OPERATION)),
        }
    }
}

fn refused(stream: Stream, asked_for_rest: bool) -> Setback {
    let status = stream.status;
    let error = stream.into_reply().refusal(OPERATION);
    match status {
        403 | 404 | 410 => Setback::Expired(error),
        // There is no rest of the video, although it was announced to be longer.
        416 if asked_for_rest => Setback::Restart(Error::decode(
            OPERATION,
            "the server has less of the video than it has announced",
        )),
        _ if error.is_transient() => Setback::Resume(error),
        _ => Setback::Final(error),
    }
}

fn too_large() -> Error {
    Error::decode(OPERATION, "the video is larger than 1 GiB, which none is")
}

fn too_slow(why: &'static str) -> Failure {
    Failure::new(FailureKind::Silent, why)
}

/// A strong validator: a weak one may stand for different bytes (HTTP).
fn validator(stream: &Stream) -> Option<String> {
    let etag = stream.headers.get("etag").filter(|etag| etag.starts_with('"'));
    etag.or_else(|| stream.headers.get("last-modified")).map(str::to_owned)
}

/// `bytes 100-199/200` as where it begins and the whole length, if that is told.
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((from.parse().ok()?, total))
}
