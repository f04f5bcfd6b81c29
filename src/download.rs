//! Downloads a video to a file. Interrupted downloads are resumed; a complete one is validated and
//! published: moved to its target in one step.

mod mp4;
mod partial_file;
mod target;

use std::mem;
use std::time::Instant;

use crate::context::RequestContext;
use crate::error::{Error, Result};
use crate::event::EventKind;
use crate::model::generation::Video;
use crate::operation::Operation;
use crate::random::random;
use crate::transport::{DOWNLOAD_TIMEOUT, ResumeRange, UnreadResponse};

use self::partial_file::PartialFile;
pub(crate) use self::target::{Replace, Target};

const OPERATION: Operation = Operation::Download;

/// No video comes close to this size, so a larger response is not one.
const MAX_BYTES: u64 = 1024 * 1024 * 1024;
const TOO_LARGE: &str = "video exceeds the 1 GiB limit";

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
    replace: &Replace,
    before_publish: Option<BeforePublish<'_>>,
) -> Result<u64> {
    let with_context = |error: Error| error.with_operation(OPERATION).with_id(&video.id);
    let partial_file = PartialFile::open(target).map_err(with_context)?;
    let mut download = Download {
        context,
        video,
        partial_file,
        fresh_url: None,
        is_repeated: false,
        received: 0,
        max_received: 0,
        total: None,
        validator: None,
        in_parts: false,
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
    /// Replaces the video's URL once that has expired.
    fresh_url: Option<String>,
    /// Whether a complete response was not a video, and was requested again.
    is_repeated: bool,
    received: u64,
    /// The high-water mark of `received` across restarts. Only bytes beyond it count as progress.
    max_received: u64,
    total: Option<u64>,
    /// The validator for `If-Range`, from which the server sees whether the file has changed.
    validator: Option<String>,
    /// The server sent a part of the file although all of it was requested. There is no way to the
    /// rest but to request it, even without a validator.
    in_parts: bool,
    started_at: Instant,
    /// The number of failed attempts since the last one with progress, which counts as well.
    failures: u32,
}

/// How an attempt ended. Errors are final, unless they are transient.
enum Attempt {
    Complete,
    /// The server sent less than was requested. If that is progress, the rest is requested at once.
    Partial,
    /// What was received is not the video, but another attempt may receive it.
    Unusable(Error),
}

impl Download<'_> {
    fn run(&mut self) -> Result<()> {
        let policy = &self.context.client.retry_policy;
        loop {
            let enough = self.max_received.saturating_add(MIN_PROGRESS);
            let attempted = self.attempt();
            let has_progressed = self.max_received >= enough;
            let (is_retryable, error) = match attempted {
                Ok(Attempt::Complete) => return Ok(()),
                Ok(Attempt::Partial) if has_progressed => continue,
                Ok(Attempt::Partial) => {
                    let message = "the server sent less of the video than requested";
                    (true, Error::decode(OPERATION, message))
                }
                Ok(Attempt::Unusable(error)) => (true, error),
                Err(error) => (error.is_transient(), error),
            };
            self.failures = if has_progressed { 1 } else { self.failures.saturating_add(1) };
            let attempt = self.failures;
            let error = error.with_attempts(attempt);
            let elapsed = self.started_at.elapsed();
            // Only responses of the video's host have a status here.
            let delay = match error.status() {
                // Hosts differ in what they return for a signature that is no longer valid.
                Some(status @ (400 | 401 | 403 | 404 | 410)) if self.fresh_url.is_none() => {
                    self.refresh_url(status)?;
                    continue;
                }
                // Some hosts have the video only a while after the generation is completed.
                Some(404) => policy.next_delay_in_grace(elapsed, attempt, &error, random()),
                _ if is_retryable => policy.next_delay(attempt, &error, random()),
                _ => None,
            };
            let delay = delay.filter(|_| elapsed <= DOWNLOAD_TIMEOUT);
            let Some(delay) = delay else { return Err(error) };
            let kind = EventKind::Retrying { operation: OPERATION, attempt, delay, error: &error };
            self.context.emit(&self.video.id, kind);
            if !self.context.sleep(delay) {
                return Err(Error::cancelled(OPERATION));
            }
        }
    }

    /// Requests and receives the missing bytes.
    fn attempt(&mut self) -> Result<Attempt> {
        let can_resume = self.received > 0 && (self.in_parts || self.validator.is_some());
        let range = can_resume
            .then(|| ResumeRange { from: self.received, validator: self.validator.clone() });
        let url = self.fresh_url.as_ref().unwrap_or(&self.video.url);
        let mut response = self.context.session.download(url, range.as_ref())?;
        match response.status {
            200 | 206 => {
                if !self.accept(&response, range.is_some())? {
                    return self.restart_with("Content-Range does not match the requested range");
                }
            }
            // The file ends at or before the requested byte, although Content-Length went beyond it.
            416 if range.is_some() => {
                return self.restart_with("range not satisfiable: file is shorter than announced");
            }
            _ => return Err(response.into_response().api_error()),
        }
        self.receive(&mut response)?;
        match self.total {
            Some(total) if self.received < total => Ok(Attempt::Partial),
            Some(total) if self.received > total => {
                self.restart_with("video length does not match Content-Length")
            }
            _ => self.validate(&response),
        }
    }

    /// Returns whether the body of the response continues what was received. If it starts with the
    /// first byte, what was received is discarded.
    fn accept(&mut self, response: &UnreadResponse<'_>, resuming: bool) -> Result<bool> {
        let from_start = response.status == 200 || !resuming;
        let range = match response.status {
            200 => Some((0, response.length)),
            _ => response.headers.get("content-range").and_then(parse_content_range),
        };
        match range {
            Some(range) if !from_start => Ok(range == (self.received, self.total)),
            Some((0, Some(total))) if total > MAX_BYTES => Err(Error::decode(OPERATION, TOO_LARGE)),
            Some((0, total)) => {
                self.restart()?;
                (self.total, self.validator) = (total, validator(response));
                self.in_parts = response.status == 206;
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Checks that what was received is a video.
    fn validate(&mut self, response: &UnreadResponse<'_>) -> Result<Attempt> {
        let problem = self.partial_file.validate(self.received, self.total.is_some())?;
        let Some(problem) = problem else { return Ok(Attempt::Complete) };
        let start = self.partial_file.start()?;
        let problem = match problem {
            _ if start.is_empty() => "empty response body".to_owned(),
            _ if starts_like_html(&start) => "the URL served HTML, not a video".to_owned(),
            problem => format!("not a complete MP4: {problem}"),
        };
        // Without a length, this may be a video whose connection was lost.
        let is_cut = self.total.is_none() && start.get(4..8) == Some(b"ftyp");
        // Otherwise, the response is complete, and the next one will hardly differ.
        let is_retryable = is_cut || !mem::replace(&mut self.is_repeated, true);
        self.restart()?;
        let error = response.not_a_video(&problem, start);
        if is_retryable { Ok(Attempt::Unusable(error)) } else { Err(error) }
    }

    fn receive(&mut self, response: &mut UnreadResponse<'_>) -> Result<()> {
        let idle = self.context.session.idle_timeout();
        let mut buf = vec![0; CHUNK_SIZE];
        let (mut window_start, mut enough) = (Instant::now(), self.received + MIN_PROGRESS);
        loop {
            let read = response.read(&mut buf)?;
            let Some(data) = buf.get(..read).filter(|data| !data.is_empty()) else { return Ok(()) };
            if self.received + read as u64 > MAX_BYTES {
                return Err(Error::decode(OPERATION, TOO_LARGE));
            }
            self.partial_file.append(data)?;
            self.received += read as u64;
            self.max_received = self.max_received.max(self.received);
            let kind = EventKind::Downloading { received: self.received, total: self.total };
            self.context.emit(&self.video.id, kind);
            if self.started_at.elapsed() > DOWNLOAD_TIMEOUT {
                return Err(Error::timeout(OPERATION, "download took longer than an hour".into()));
            }
            if window_start.elapsed() >= idle {
                if self.received < enough {
                    let message = "received less than 4 KiB within the idle timeout";
                    return Err(Error::timeout(OPERATION, message.into()));
                }
                (window_start, enough) = (Instant::now(), self.received + MIN_PROGRESS);
            }
        }
    }

    /// Fails because the received bytes are unusable: the next attempt starts from the beginning.
    fn restart_with(&mut self, message: &'static str) -> Result<Attempt> {
        self.restart()?;
        Ok(Attempt::Unusable(Error::decode(OPERATION, message)))
    }

    fn restart(&mut self) -> Result<()> {
        (self.received, self.total, self.validator, self.in_parts) = (0, None, None, false);
        self.partial_file.truncate()
    }

    /// Retrieves the generation to get a fresh URL after a response of this status to the first one.
    fn refresh_url(&mut self, status: u16) -> Result<()> {
        let retrieved = self.context.retrieve(&self.video.id).and_then(|mut generation| {
            generation.video.take().ok_or_else(|| {
                let message = "the generation has no video URL anymore";
                Error::decode(OPERATION, message).with_generation(Some(Box::new(generation)))
            })
        });
        let reason = format!("the video's host returned HTTP {status}; retrieving a fresh URL");
        self.fresh_url = Some(retrieved.map_err(|error| error.with_reason(reason))?.url);
        self.failures = 0;
        Ok(())
    }
}

fn starts_like_html(start: &[u8]) -> bool {
    let start = start.trim_ascii_start();
    [&b"<!doctype html"[..], b"<html", b"<head", b"<body"]
        .iter()
        .any(|tag| start.get(..tag.len()).is_some_and(|start| start.eq_ignore_ascii_case(tag)))
}

/// A validator that `If-Range` accepts: a strong entity tag, or else the modification date. A
/// weak tag may stand for different bytes (RFC 9110).
fn validator(response: &UnreadResponse<'_>) -> Option<String> {
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
