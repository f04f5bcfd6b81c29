//! Generators of random responses for the property tests.
//!
//! Responses are generated from a random seed and not by composed proptest strategies, which took
//! five seconds for ten thousand JSON values. Failing cases still shrink, in the number of their
//! optional parts.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::error::{Error, ErrorKind};
use crate::model::response::{Headers, RESPONSE_HEADERS, Response};
use crate::operation::Operation;

/// Runs `cases` cases, unless the environment variable `PROPTEST_CASES` sets another number.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases, ..config },
    }
}

/// Field names and other strings that have a meaning somewhere in this crate.
const STRINGS: [&str; 42] = [
    "",
    "id",
    "generation_id",
    "status",
    "video",
    "url",
    "duration",
    "content_type",
    "file_name",
    "file_size",
    "usage",
    "meta",
    "credits_used",
    "tokens_used",
    "usd_spent",
    "error",
    "name",
    "message",
    "detail",
    "msg",
    "data",
    "kind",
    "requestId",
    "pagination",
    "has_more",
    "inference_id",
    "client_request_id",
    "current_balance",
    "currency",
    "queued",
    "completed",
    "succeeded",
    "failed",
    "https://cdn.example/a.mp4",
    "OutOfFundsException",
    "err_insufficent_credits",
    "data:image/png;base64,iVBORw0AAAA=",
    "base64,",
    "AAAA+/=\\/AA",
    "0.5",
    "\u{7}\r\n",
    "60",
];

/// A random number generator with a budget of optional parts.
pub(crate) struct Seed {
    state: u64,
    /// How many more optional parts may be generated. Failing cases shrink in this number.
    remaining: usize,
}

/// A strategy whose values `generate` produces from a random seed.
pub(crate) fn from_seed<T: Debug>(generate: impl Fn(&mut Seed) -> T) -> impl Strategy<Value = T> {
    (any::<u64>(), 0usize..20)
        .prop_map(move |(state, remaining)| generate(&mut Seed { state, remaining }))
}

impl Seed {
    /// The next number of the SplitMix64 generator.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    /// A random number less than `end`.
    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Whether to generate an optional part: true with this probability while the budget lasts.
    pub(crate) fn chance(&mut self, percent: usize) -> bool {
        let included = self.remaining > 0 && self.below(100) < percent;
        self.remaining -= usize::from(included);
        included
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.chance(85) {
            bytes.push(self.next() as u8);
        }
        bytes
    }

    pub(crate) fn string(&mut self) -> String {
        if self.below(4) > 0 {
            return self.pick(&STRINGS).to_owned();
        }
        let mut string = String::new();
        while self.chance(60) {
            let end = self.pick(&[0x80, 0x800, 0x11_0000]);
            string.extend(char::from_u32(self.below(end) as u32));
        }
        string
    }

    pub(crate) fn scalar(&mut self) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => self.next().into(),
            3 => (self.next() as i64).into(),
            4 => f64::from_bits(self.next()).into(),
            5 => (self.below(1000) as f64 / 8.0).into(),
            _ => self.string().into(),
        }
    }

    pub(crate) fn json(&mut self) -> Value {
        self.json_of_depth(3)
    }

    fn json_of_depth(&mut self, depth: usize) -> Value {
        match self.below(6) {
            0 if depth > 0 => {
                let mut items = Vec::new();
                while self.chance(60) {
                    items.push(self.json_of_depth(depth - 1));
                }
                items.into()
            }
            1..=3 if depth > 0 => {
                let mut fields = Map::new();
                while self.chance(60) {
                    fields.insert(self.string(), self.json_of_depth(depth - 1));
                }
                fields.into()
            }
            _ => self.scalar(),
        }
    }

    fn extra(&mut self) -> Map<String, Value> {
        let mut fields = Map::new();
        while self.chance(40) {
            fields.insert(self.string(), self.json());
        }
        fields
    }

    fn maybe_insert(
        &mut self,
        fields: &mut Map<String, Value>,
        percent: usize,
        name: &str,
        generate: impl Fn(&mut Self) -> Value,
    ) {
        if self.chance(percent) {
            fields.insert(name.to_owned(), generate(self));
        }
    }

    fn id(&mut self) -> Value {
        match self.below(4) {
            0 => self.scalar(),
            _ => self.next().to_string().into(),
        }
    }

    fn usage(&mut self) -> Value {
        if self.below(5) == 0 {
            return self.json();
        }
        let mut fields = self.extra();
        for name in ["credits_used", "tokens_used", "usd_spent"] {
            self.maybe_insert(&mut fields, 50, name, Self::scalar);
        }
        fields.into()
    }

    /// A JSON object that resembles the API's `video`.
    pub(crate) fn video(&mut self) -> Map<String, Value> {
        let mut fields = self.extra();
        self.maybe_insert(&mut fields, 90, "url", |seed| match seed.below(4) {
            0 => seed.scalar(),
            _ => "https://cdn.example/a.mp4".into(),
        });
        for name in ["duration", "content_type", "file_name", "file_size"] {
            self.maybe_insert(&mut fields, 40, name, Self::scalar);
        }
        self.maybe_insert(&mut fields, 40, "usage", Self::usage);
        fields
    }

    fn videos(&mut self) -> Value {
        match self.below(7) {
            0 => self.scalar(),
            2 => "https://cdn.example/a.mp4".into(),
            1 => {
                let mut items = Vec::new();
                while self.chance(50) {
                    items.push(if self.below(3) == 0 {
                        self.scalar()
                    } else {
                        self.video().into()
                    });
                }
                items.into()
            }
            _ => self.video().into(),
        }
    }

    /// A JSON object that resembles the API's description of a generation.
    pub(crate) fn generation(&mut self) -> Map<String, Value> {
        let mut fields = self.extra();
        self.maybe_insert(&mut fields, 80, "id", Self::id);
        self.maybe_insert(&mut fields, 30, "generation_id", Self::id);
        self.maybe_insert(&mut fields, 90, "status", |seed| match seed.below(5) {
            0 => seed.scalar(),
            _ => seed.pick(&["queued", "completed", "succeeded", "failed", "waiting"]).into(),
        });
        self.maybe_insert(&mut fields, 70, "video", Self::videos);
        self.maybe_insert(&mut fields, 40, "error", Self::json);
        self.maybe_insert(&mut fields, 20, "duration", Self::scalar);
        self.maybe_insert(&mut fields, 50, "meta", |seed| match seed.below(4) {
            0 => seed.json(),
            _ => json!({"usage": seed.usage()}),
        });
        fields
    }

    /// A response body: arbitrary bytes, JSON or a generation, sometimes truncated or corrupted.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let mut body = match self.below(8) {
            0 => return self.bytes(),
            1..=3 => self.json().to_string().into_bytes(),
            _ => Value::from(self.generation()).to_string().into_bytes(),
        };
        let index = self.below(body.len());
        match self.below(8) {
            0 => body.truncate(index),
            1 => body[index] = self.next() as u8,
            _ => {}
        }
        body
    }

    fn response_parts(&mut self, generate_body: impl Fn(&mut Self) -> Vec<u8>) -> ResponseParts {
        let status = match self.below(9) {
            0 => self.next() as u16,
            1 | 2 => self.pick(&[302, 303, 400, 401, 403, 404, 429, 500, 502, 503, 504, 524]),
            _ => self.pick(&[200, 201, 202, 204, 299]),
        };
        let body = generate_body(self);
        let mut headers = Vec::new();
        while self.chance(40) {
            headers.push((self.pick(&RESPONSE_HEADERS), self.string()));
        }
        let body_error = (self.below(10) == 0).then(|| self.pick(&TRANSPORT_ERROR_KINDS));
        ResponseParts { status, headers, body, body_error }
    }
}

/// The parts of a [`Response`], which is not `Clone` as values of a strategy must be.
#[derive(Clone, Debug)]
pub(crate) struct ResponseParts {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) body_error: Option<ErrorKind>,
}

/// A response with a random status, headers and the body that `body` generates.
pub(crate) fn response(
    body: impl Fn(&mut Seed) -> Vec<u8>,
) -> impl Strategy<Value = ResponseParts> {
    from_seed(move |seed| seed.response_parts(&body))
}

impl ResponseParts {
    pub(crate) fn response(&self) -> Response {
        Response {
            operation: Operation::Retrieve,
            status: self.status,
            headers: Headers(self.headers.clone()),
            body: self.body.clone(),
            body_result: self.body_error.map_or(Ok(()), |kind| Err(transport_error(kind))),
        }
    }

    pub(crate) fn is_complete_success(&self) -> bool {
        (200..300).contains(&self.status) && self.body_error.is_none()
    }

    /// The body, where it is a JSON object.
    pub(crate) fn json(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&self.body).ok()
    }
}

const TRANSPORT_ERROR_KINDS: [ErrorKind; 5] = [
    ErrorKind::Connect,
    ErrorKind::Transport,
    ErrorKind::Timeout,
    ErrorKind::Decode,
    ErrorKind::Cancelled,
];

pub(crate) fn transport_error(kind: ErrorKind) -> Error {
    let operation = Operation::Retrieve;
    match kind {
        ErrorKind::Connect => Error::connect(operation, "localhost", None, "test".into()),
        ErrorKind::Transport => Error::transport(operation, "test".into()),
        ErrorKind::Timeout => Error::timeout(operation, "test".into()),
        ErrorKind::Decode => Error::decode(operation, "test"),
        _ => Error::cancelled(operation),
    }
}

pub(crate) fn transport_error_kind() -> impl Strategy<Value = ErrorKind> {
    select(&TRANSPORT_ERROR_KINDS[..])
}

/// Whether server text in an error is at most 2 KiB, on one line and without image data.
pub(crate) fn is_sanitized(text: &str) -> bool {
    let mut after_prefix = text.split("base64,").skip(1);
    text.len() <= 2048
        && !text.contains(char::is_control)
        && !after_prefix.any(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
}
