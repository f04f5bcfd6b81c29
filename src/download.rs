//! Downloads a video to a file. Interrupted downloads are resumed; a complete one is validated and
//! published: moved to its target in one step.

mod mp4;
mod partial_file;
mod target;

use std::time::Instant;

use crate::context::RequestContext;
use crate::error::{Error, Result};
use crate::event::EventKind;
use crate::model::generation::Video;
use crate::operation::Operation;
use crate::random::random;
use crate::transport::{DOWNLOAD_TIMEOUT, DownloadResponse, ResumeRange};

use self::partial_file::PartialFile;
pub(crate) use self::target::{Replace, Target, TargetState};

const OPERATION: Operation = Operation::Download;

/// No video comes close to this size, so a larger response is not one.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;

/// A server that sends less than this within the idle timeout counts as idle, and an attempt that
/// receives less counts as one without progress.
const MIN_PROGRESS: u64 = 4 * 1024;

const CHUNK_SIZE: usize = 128 * 1024;

/// Called with the length and the hash of a complete video right before its target is touched. An
/// error leaves the target as it is.
pub(crate) type BeforePublish<'a> = &'a mut dyn FnMut(u64, &str) -> Result<()>;

/// Downloads the video to `target`, which is not touched until the video is complete and durable,
/// and returns its length. `replace` says what may be at the target by then.
pub(crate) fn download(
    context: &RequestContext<'_>,
    video: &Video,
    target: &Target,
    replace: Replace<'_>,
    before_publish: Option<BeforePublish<'_>>,
) -> Result<u64> {
    let with_context = |error: Error| error.with_operation(OPERATION).with_id(&video.id);
    let partial_file = PartialFile::open(target).map_err(with_context)?;
    let mut download = Download {
        context,
        video,
        partial_file,
        url: video.url.clone(),
        url_refreshed: false,
        received: 0,
        max_received: 0,
        total: None,
        validator: None,
        started_at: Instant::now(),
        failures: 0,
    };
    download.run().and_then(|()| download.partial_file.sync()).map_err(with_context)?;
    let length = download.received;
    if let Some(before_publish) = before_publish {
        let hash = download.partial_file.hash().map_err(with_context)?;
        before_publish(length, &hash).map_err(|error| error.with_id(&video.id))?;
    }
    download.partial_file.publish(target, replace).map_err(with_context)?;
    Ok(length)
}

/// Checks that the partial file can be created, before anything is paid for, and removes what a
/// process that was killed while it published a video may have left: a second link to the video.
pub(crate) fn probe_partial_file(target: &Target) -> Result<()> {
    PartialFile::open(target).map(drop)
}

struct Download<'a> {
    context: &'a RequestContext<'a>,
    video: &'a Video,
    partial_file: PartialFile,
    url: String,
    url_refreshed: bool,
    received: u64,
    /// The high-water mark of `received` across restarts. Only bytes beyond it count as progress.
    max_received: u64,
    total: Option<u64>,
    /// The validator for `If-Range`, from which the server sees whether the file has changed.
    validator: Option<String>,
    started_at: Instant,
    /// The number of failed attempts since the last one with progress, which counts as well.
    failures: u32,
}

/// Why an attempt did not complete the video.
enum AttemptError {
    /// Another attempt would fail in the same way.
    Permanent(Error),
    /// The next attempt can resume at the first missing byte.
    Interrupted(Error),
    /// The received bytes are unusable: the next attempt must start from the beginning.
    RestartRequired(Error),
    /// The URL has expired: the next attempt needs a fresh one.
    UrlExpired(Error),
}

impl From<Error> for AttemptError {
    fn from(error: Error) -> Self {
        match error.is_transient() {
            true => Self::Interrupted(error),
            false => Self::Permanent(error),
        }
    }
}

impl Download<'_> {
    fn run(&mut self) -> Result<()> {
        loop {
            let previous_max = self.max_received;
            match self.attempt() {
                Ok(()) => return Ok(()),
                Err(AttemptError::Permanent(error)) => return Err(error),
                Err(AttemptError::UrlExpired(error)) if self.url_refreshed => return Err(error),
                Err(AttemptError::UrlExpired(_)) => self.refresh_url()?,
                Err(AttemptError::Interrupted(error)) => self.back_off(error, previous_max)?,
                Err(AttemptError::RestartRequired(error)) => {
                    self.restart()?;
                    self.back_off(error, previous_max)?;
                }
            }
        }
    }

    fn attempt(&mut self) -> Result<(), AttemptError> {
        let range = match &self.validator {
            Some(validator) if self.received > 0 => {
                Some(ResumeRange { from: self.received, validator: validator.clone() })
            }
            _ => None,
        };
        let mut response = self.context.session.download(&self.url, range.as_ref())?;
        match (response.status, range) {
            (200, _) => self.restart()?,
            (206, Some(range)) => self.check_range(&response, &range)?,
            (_, range) => return Err(classify_status(response, range.is_some())),
        }
        self.record_length(&response)?;
        self.receive(&mut response)?;
        if self.total.is_some_and(|total| total != self.received) {
            let error = Error::decode(OPERATION, "video length does not match Content-Length");
            return Err(AttemptError::RestartRequired(error));
        }
        let Some(problem) = self.partial_file.validate(self.received)? else { return Ok(()) };
        let message = match self.partial_file.is_html()? {
            true => "the URL served HTML, not a video".to_owned(),
            false => format!("not a complete MP4: {problem}"),
        };
        Err(AttemptError::RestartRequired(Error::decode(OPERATION, message)))
    }

    /// Checks that the response starts at the requested byte and is part of a file of the same
    /// length.
    fn check_range(
        &self,
        response: &DownloadResponse,
        range: &ResumeRange,
    ) -> Result<(), AttemptError> {
        let content_range = response.headers.get("content-range").and_then(parse_content_range);
        match content_range {
            Some((from, total)) if from == range.from && total == self.total => Ok(()),
            _ => {
                let message = "Content-Range does not match the requested range";
                Err(AttemptError::RestartRequired(Error::decode(OPERATION, message)))
            }
        }
    }

    /// Records the length and the validator of a complete response, and rejects a file over the
    /// limit.
    fn record_length(&mut self, response: &DownloadResponse) -> Result<(), AttemptError> {
        if response.status == 200 {
            self.total = response.length;
            self.validator = validator(response);
        }
        match self.total {
            Some(total) if total > MAX_BYTES => Err(AttemptError::Permanent(too_large())),
            _ => Ok(()),
        }
    }

    fn receive(&mut self, response: &mut DownloadResponse) -> Result<(), AttemptError> {
        let idle = self.context.session.idle_timeout();
        let mut buf = vec![0; CHUNK_SIZE];
        let (mut window_start, mut window_bytes) = (Instant::now(), 0);
        loop {
            let read = response.read(&mut buf)?;
            let Some(data) = buf.get(..read).filter(|data| !data.is_empty()) else { return Ok(()) };
            if self.received + read as u64 > MAX_BYTES {
                return Err(AttemptError::Permanent(too_large()));
            }
            self.partial_file.append(data)?;
            self.received += read as u64;
            self.max_received = self.max_received.max(self.received);
            let kind = EventKind::Downloading { received: self.received, total: self.total };
            self.context.emit(&self.video.id, kind);
            window_bytes += read as u64;
            if self.started_at.elapsed() > DOWNLOAD_TIMEOUT {
                let error = timeout("download took longer than an hour");
                return Err(AttemptError::Permanent(error));
            }
            if window_start.elapsed() >= idle {
                if window_bytes < MIN_PROGRESS {
                    let message = "received less than 4 KiB within the idle timeout";
                    return Err(timeout(message).into());
                }
                (window_start, window_bytes) = (Instant::now(), 0);
            }
        }
    }

    fn restart(&mut self) -> Result<()> {
        (self.received, self.validator, self.total) = (0, None, None);
        self.partial_file.truncate()
    }

    /// Retrieves the generation to get a fresh URL after the first one expired.
    fn refresh_url(&mut self) -> Result<()> {
        self.url_refreshed = true;
        let generation = self.context.retrieve(&self.video.id)?;
        match generation.video {
            Some(video) => {
                self.url = video.url;
                Ok(())
            }
            None => {
                let message = "URL expired and no new URL is available";
                Err(Error::decode(OPERATION, message).with_generation(Box::new(generation)))
            }
        }
    }

    /// Sleeps before the next attempt, or returns the error after too many without progress.
    /// `previous_max` is `max_received` before the failed attempt.
    fn back_off(&mut self, error: Error, previous_max: u64) -> Result<()> {
        self.failures = match self.max_received >= previous_max.saturating_add(MIN_PROGRESS) {
            true => 1,
            false => self.failures.saturating_add(1),
        };
        let error = error.with_attempts(self.failures);
        let timed_out = self.started_at.elapsed() > DOWNLOAD_TIMEOUT;
        let attempt = self.failures;
        let delay = self.context.retry_policy.next_delay(attempt, &error, random());
        let Some(delay) = delay.filter(|_| !timed_out) else { return Err(error) };
        let operation = OPERATION;
        let kind = EventKind::Retrying { operation, attempt, delay, error: &error };
        self.context.emit(&self.video.id, kind);
        match self.context.sleep(delay) {
            true => Ok(()),
            false => Err(Error::cancelled(OPERATION)),
        }
    }
}

fn classify_status(response: DownloadResponse, resuming: bool) -> AttemptError {
    let status = response.status;
    let error = response.into_response().api_error();
    match status {
        403 | 404 | 410 => AttemptError::UrlExpired(error),
        // The file ends at or before the requested byte, although Content-Length went beyond it.
        416 if resuming => AttemptError::RestartRequired(Error::decode(
            OPERATION,
            "range not satisfiable: file is shorter than announced",
        )),
        _ if error.is_transient() => AttemptError::Interrupted(error),
        _ => AttemptError::Permanent(error),
    }
}

fn too_large() -> Error {
    Error::decode(OPERATION, "video exceeds the 1 GiB limit")
}

fn timeout(message: &'static str) -> Error {
    Error::timeout(OPERATION, message.into())
}

/// A validator that `If-Range` accepts: a strong entity tag, or else the modification date. A
/// weak tag may stand for different bytes (RFC 9110).
fn validator(response: &DownloadResponse) -> Option<String> {
    let etag = response.headers.get("etag").filter(|etag| etag.starts_with('"'));
    etag.or_else(|| response.headers.get("last-modified")).map(str::to_owned)
}

/// Parses `bytes 100-199/200` into the position of the first byte and the complete length, which
/// may be unknown (`*`).
fn parse_content_range(text: &str) -> Option<(u64, Option<u64>)> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (from, _) = range.split_once('-')?;
    let total = match total {
        "*" => None,
        total => Some(total.parse().ok()?),
    };
    Some((from.parse().ok()?, total))
}
