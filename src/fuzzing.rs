//! Everything that reads what somebody else wrote, as a fuzzer calls it: bytes in, and a panic
//! where a promise is broken. Not part of the crate: it exists with `cfg(fuzzing)` and in tests.
#![allow(missing_docs)]

use std::time::{Duration, SystemTime};

use crate::body::Progress;
use crate::endpoint::create::Outcome;
use crate::endpoint::{billing, create, logs, retrieve};
use crate::generation::{Generation, GenerationId};
use crate::http::{Failure, FailureKind, HEADERS, Headers, Reply};
use crate::image::Image;
use crate::retry::parse_retry_after;
use crate::{Error, ErrorKind, journal};

/// The statuses that something here tells apart from their neighbours, and some that it does not.
const STATUSES: [u16; 24] = [
    200, 200, 200, 201, 204, 299, 300, 302, 303, 308, 400, 401, 403, 404, 408, 425, 429, 499, 500,
    502, 503, 504, 524, 599,
];

/// A reply of any of the endpoints: one byte for its status, one for the rest about it, then the
/// body, before which may stand a line that is the value of every header.
pub fn reply(data: &[u8]) {
    let [status, about, rest @ ..] = data else { return };
    let status = STATUSES.get(usize::from(*status) % STATUSES.len()).copied().unwrap_or(200);
    let (header, body) = match rest.iter().position(|&byte| byte == b'\n') {
        Some(end) if about & 1 != 0 => rest.split_at(end),
        _ => (&[][..], rest),
    };
    let reply = || Reply {
        status,
        headers: headers(header, about & 1 != 0),
        body: body.to_vec(),
        end: match about & 2 {
            0 => Ok(()),
            _ => Err(Failure::new(FailureKind::Broken, "cut")),
        },
    };
    let committed = about & 4 != 0;
    check_create(reply(), committed);
    let Ok(asked) = "asked-for".parse::<GenerationId>() else { return };
    match retrieve::read(reply(), &asked) {
        Ok(generation) => {
            assert!(is_success(status) && about & 2 == 0);
            assert_eq!(generation.id, asked);
            check_generation(&generation);
        }
        Err(error) => check_error(&error),
    }
    match logs::read(reply()) {
        Ok(page) => {
            assert!(is_success(status) && about & 2 == 0);
            let _ = logs::pick(&page.rows, "asked-for");
        }
        Err(error) => check_error(&error),
    }
    match billing::read(reply()) {
        Ok(balance) => assert!(is_success(status) && balance.amount.is_finite()),
        Err(error) => check_error(&error),
    }
}

/// The body of a refusal.
pub fn refusal(data: &[u8]) {
    let [status, body @ ..] = data else { return };
    let status = STATUSES.get(7 + usize::from(*status) % 17).copied().unwrap_or(500);
    let reply = Reply { status, headers: Headers::default(), body: body.to_vec(), end: Ok(()) };
    let vendors = reply.has_vendor_body();
    let error = reply.refusal("retrieve");
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
    // Without a word of the vendor's there is nothing that could be shown as one.
    assert!(vendors || error.api_message().is_none() && !error.is_out_of_credits());
    check_error(&error);
}

/// A picture's bytes.
pub fn picture(data: &[u8]) {
    let image = Image::bytes(data);
    match image.open("image_url") {
        Ok(_) => assert!(data.len() >= 11, "no shorter picture has a size"),
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest);
            assert_eq!(error.field(), Some("image_url"));
        }
    }
    let _ = image.open_mask("static_mask");
}

/// The value of `Retry-After`: the first four bytes are the clock.
pub fn retry_after(data: &[u8]) {
    let Some((clock, value)) = data.split_first_chunk::<4>() else { return };
    let clock = u32::from_be_bytes(*clock);
    let Some(now) = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(clock.into())) else {
        return;
    };
    let value = String::from_utf8_lossy(value);
    let after = parse_retry_after(&value, now);
    assert!(after.is_none() || value.contains(|c: char| c.is_ascii_digit()));
}

/// A journal's text.
pub fn journal(data: &[u8]) {
    journal::check_parse(data);
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Header values arrive as visible ASCII.
fn headers(value: &[u8], any: bool) -> Headers {
    let value: String =
        value.iter().map(|byte| char::from(byte & 0x7F)).filter(|c| !c.is_control()).collect();
    let all = if any { &HEADERS[..] } else { &[] };
    Headers(all.iter().map(|name| (*name, value.clone())).collect())
}

fn check_create(reply: Reply, committed: bool) {
    let progress = if committed { Progress::Committed } else { Progress::Begun };
    let status = reply.status;
    match create::outcome(Ok(reply), progress) {
        Outcome::Accepted(generation) => {
            assert!(is_success(status));
            check_generation(&generation);
        }
        Outcome::Refused { error, .. } => {
            assert!(!is_success(status) || !committed);
            assert!(!error.may_have_been_billed());
            check_error(&error);
        }
        Outcome::Unknown(error) => {
            assert!(committed && error.kind() == ErrorKind::CreateUnknown);
            assert!(!error.is_retryable() && error.may_have_been_billed());
            check_error(&error);
        }
    }
}

/// It has an id, and can be written down and read back.
fn check_generation(generation: &Generation) {
    let id: &str = generation.id.as_ref();
    assert!(!id.is_empty() && !id.contains(char::is_control));
    let written = serde_json::to_vec(generation).unwrap_or_default();
    let read: Option<Generation> = serde_json::from_slice(&written).ok();
    let read = read.as_ref();
    assert_eq!(read.map(|read| &read.id), Some(&generation.id));
    assert_eq!(read.map(|read| &read.status), Some(&generation.status));
    let link = |of: &Generation| of.video.as_ref().map(|video| video.url.clone());
    assert_eq!(read.and_then(link), link(generation));
}

/// What a server says is shown in parts, on one line, and without pictures.
fn check_error(error: &Error) {
    for text in [error.body(), error.api_message()].into_iter().flatten() {
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

    /// The seeds of the fuzzer, and what it has found.
    #[test]
    fn what_was_found_once_stays_mended() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/fuzz");
        let run = |name: &str, target: fn(&[u8])| {
            for file in std::fs::read_dir(format!("{folder}/{name}")).unwrap() {
                target(&std::fs::read(file.unwrap().path()).unwrap());
            }
        };
        run("reply", reply);
        run("refusal", refusal);
        run("picture", picture);
        run("retry_after", retry_after);
        run("journal", journal);
    }
}
