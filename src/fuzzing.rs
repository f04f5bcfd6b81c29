//! Fuzz targets for everything that parses untrusted input: each takes bytes and panics if an
//! invariant is violated.
//!
//! Not part of the public API: compiled only with `cfg(fuzzing)` and in tests.
#![allow(missing_docs)]

use std::time::Duration;

use crate::endpoint::create::Outcome;
use crate::endpoint::{billing, create, logs, models, retrieve};
use crate::model::body::UploadState;
use crate::model::generation::{Generation, GenerationId};
use crate::model::image::Image;
use crate::model::image::ImageRules;
use crate::model::request::ImageToVideo;
use crate::model::response::{Headers, RESPONSE_HEADERS, Response};
use crate::model::retry_after::parse_retry_after;
use crate::operation::Operation;
use crate::run::file_journal;
use crate::{Error, ErrorKind};

/// Statuses that this crate handles specially, and some that it does not.
const STATUSES: [u16; 24] = [
    200, 200, 200, 201, 204, 299, 300, 302, 303, 308, 400, 401, 403, 404, 408, 425, 429, 499, 500,
    502, 503, 504, 524, 599,
];

/// Parses a response with every endpoint's parser.
///
/// The input is one byte for the status, one byte of flags and the body. With the lowest flag set,
/// the text before the first newline is the value of every header.
pub fn response(data: &[u8]) {
    let [status, flags, rest @ ..] = data else { return };
    let status = STATUSES.get(usize::from(*status) % STATUSES.len()).copied().unwrap_or(200);
    let (header, body) = match rest.iter().position(|&byte| byte == b'\n') {
        Some(end) if flags & 1 != 0 => rest.split_at(end),
        _ => (&[][..], rest),
    };
    let response = || Response {
        operation: Operation::Retrieve,
        status,
        headers: headers(header, flags & 1 != 0),
        body: body.to_vec(),
        body_result: match flags & 2 {
            0 => Ok(()),
            _ => Err(Error::transport(Operation::Retrieve, "truncated".into())),
        },
    };
    let committed = flags & 4 != 0;
    check_create(response(), committed);
    // Only a response that names the generation is parsed.
    let named = serde_json::from_slice(body).map(|generation: Generation| generation.id);
    let Ok(requested) = named.or_else(|_| "asked-for".parse::<GenerationId>()) else { return };
    match retrieve::parse_response(response(), &requested) {
        Ok(generation) => {
            assert!(is_success(status) && flags & 2 == 0);
            assert_eq!(generation.id, requested);
            check_generation(&generation);
        }
        Err(error) => check_error(&error),
    }
    check_lists(response);
}

/// Parses a response that belongs to no generation.
fn check_lists(response: impl Fn() -> Response) {
    let is_complete = || is_success(response().status) && response().body_result.is_ok();
    match logs::parse_response(response()) {
        Ok(page) => {
            assert!(is_complete());
            for entry in &page.entries {
                let _ = entry.matches("asked-for", true);
            }
        }
        Err(error) => check_error(&error),
    }
    match models::parse_response(response(), "asked-for") {
        Ok(pricing) => {
            let request = ImageToVideo::new(Image::url("https://a.example")).model("asked-for");
            let cost = pricing.and_then(|pricing| pricing.estimate(&request));
            assert!(is_complete() && cost.is_none_or(|cost| cost.is_finite() && cost >= 0.0));
        }
        Err(error) => check_error(&error),
    }
    match billing::parse_response(response()) {
        Ok(balance) => assert!(is_complete() && balance.amount.is_finite()),
        Err(error) => check_error(&error),
    }
}

/// Parses an error response: the input is one byte for the status, then the body.
pub fn api_error(data: &[u8]) {
    let [status, body @ ..] = data else { return };
    let status = STATUSES.get(7 + usize::from(*status) % 17).copied().unwrap_or(500);
    let response = Response {
        operation: Operation::Retrieve,
        status,
        headers: Headers::default(),
        body: body.to_vec(),
        body_result: Ok(()),
    };
    let error = response.api_error();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
    check_error(&error);
}

/// Validates an image, as `image_url` and as a mask.
pub fn image(data: &[u8]) {
    let image = Image::bytes(data);
    match image.open("image_url", ImageRules::Image) {
        Ok(_) => assert!(data.len() >= 11, "a shorter image has no dimensions"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert_eq!(error.field(), Some("image_url"));
        }
    }
    let _ = image.open_mask("static_mask", ImageRules::DataUri);
}

/// Parses a `Retry-After` header: the input is the Unix time in four bytes, then the value.
pub fn retry_after(data: &[u8]) {
    let Some((time, value)) = data.split_first_chunk::<4>() else { return };
    let time = u32::from_be_bytes(*time);
    let value = String::from_utf8_lossy(value);
    let delay = parse_retry_after(&value, Duration::from_secs(time.into()));
    assert!(delay.is_none() || value.contains(|c: char| c.is_ascii_digit()));
}

/// Parses a journal file.
pub fn journal(data: &[u8]) {
    match file_journal::parse(data) {
        Ok(journal) => {
            let len = data.len() as u64;
            assert!(journal.valid_len <= len);
            assert!(!journal.missing_newline || journal.valid_len == len);
            // Only a torn line follows the valid part, which parses the same without it.
            let valid_len = usize::try_from(journal.valid_len).unwrap_or(data.len());
            let (valid, torn) = data.split_at(valid_len);
            assert!(!torn.contains(&b'\n'));
            assert!(file_journal::parse(valid).is_ok_and(|again| {
                again.entries == journal.entries && again.missing_newline == journal.missing_newline
            }));
        }
        Err(error) => {
            let lines = data.iter().filter(|&&byte| byte == b'\n').count();
            assert!((1..=lines).contains(&error.line));
        }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Every header with this value as visible ASCII, which is all that the HTTP library passes on.
fn headers(value: &[u8], present: bool) -> Headers {
    let value: String =
        value.iter().map(|byte| char::from(byte & 0x7F)).filter(|c| !c.is_control()).collect();
    let names = if present { &RESPONSE_HEADERS[..] } else { &[] };
    Headers(names.iter().map(|name| (*name, value.clone())).collect())
}

fn check_create(response: Response, committed: bool) {
    let upload = if committed { UploadState::Committed } else { UploadState::InProgress };
    let status = response.status;
    match create::outcome(Ok(response), upload) {
        Outcome::Accepted(generation) => {
            assert!(is_success(status));
            check_generation(&generation);
        }
        Outcome::Rejected { error, .. } => {
            assert!(!is_success(status) || !committed);
            assert!(!error.may_have_been_billed());
            check_error(&error);
        }
        Outcome::Indeterminate(error) => {
            assert!(committed && error.kind() == ErrorKind::CreateUnknown);
            assert!(!error.is_retryable() && error.may_have_been_billed());
            check_error(&error);
        }
    }
}

/// Asserts that the generation has a valid id and survives a round trip through JSON.
fn check_generation(generation: &Generation) {
    let id = generation.id.as_str();
    assert!(!id.is_empty() && !id.contains(char::is_control));
    let json = serde_json::to_vec(generation).unwrap_or_default();
    let parsed: Option<Generation> = serde_json::from_slice(&json).ok();
    let parsed = parsed.as_ref();
    assert_eq!(parsed.map(|parsed| &parsed.id), Some(&generation.id));
    assert_eq!(parsed.map(|parsed| &parsed.status), Some(&generation.status));
    let url = |generation: &Generation| generation.video.as_ref().map(|video| video.url.clone());
    assert_eq!(parsed.and_then(url), url(generation));
}

/// Asserts that server text in an error is at most 2 KiB, on one line and without image data.
fn check_error(error: &Error) {
    for text in [error.body(), error.server_message()].into_iter().flatten() {
        assert!(text.len() <= 2048 && !text.contains(char::is_control));
        assert!(
            text.split("base64,")
                .skip(1)
                .all(|rest| !rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
        );
    }
    let _ = (error.to_string(), format!("{error:?}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The fuzzer's seed inputs and its findings so far.
    #[test]
    fn fuzz_fixtures_violate_no_invariant() {
        let dir = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fuzz");
        let run = |name: &str, target: fn(&[u8])| {
            for file in std::fs::read_dir(format!("{dir}/{name}")).unwrap() {
                target(&std::fs::read(file.unwrap().path()).unwrap());
            }
        };
        run("response", response);
        run("api_error", api_error);
        run("image", image);
        run("retry_after", retry_after);
        run("journal", journal);
    }
}
