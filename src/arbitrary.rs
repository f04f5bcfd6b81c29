//! What the property tests are fed with.
//!
//! Replies grow from a random number, not from proptest's strategies, of which a JSON value needs
//! so many that ten thousand cases took five seconds. They still shrink: by how much there may be
//! of them.

use std::fmt::Debug;

use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Map, Value, json};

use crate::http::{Failure, FailureKind, HEADERS, Headers, Reply};

/// So many cases, unless the environment variable `PROPTEST_CASES` says otherwise.
pub(crate) fn cases(cases: u32) -> ProptestConfig {
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    match std::env::var_os("PROPTEST_CASES") {
        Some(_) => config,
        None => ProptestConfig { cases, ..config },
    }
}

/// The names of fields, and other words, that something in this crate looks for.
const WORDS: [&str; 42] = [
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

/// Where something grows from.
pub(crate) struct Seed {
    state: u64,
    /// How many parts that need not be may still be made: what a failing case shrinks by.
    left: usize,
}

/// Something that grows from a seed.
pub(crate) fn grown<T: Debug>(grow: impl Fn(&mut Seed) -> T) -> impl Strategy<Value = T> {
    (any::<u64>(), 0usize..20).prop_map(move |(state, left)| grow(&mut Seed { state, left }))
}

impl Seed {
    /// SplitMix64, as its authors publish it.
    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mixed = (self.state ^ (self.state >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        mixed ^ (mixed >> 31)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub(crate) fn pick<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }

    /// Whether to make a part that need not be.
    pub(crate) fn wants(&mut self, percent: usize) -> bool {
        let wanted = self.left > 0 && self.below(100) < percent;
        self.left -= usize::from(wanted);
        wanted
    }

    pub(crate) fn bytes(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.wants(85) {
            bytes.push(self.next() as u8);
        }
        bytes
    }

    pub(crate) fn text(&mut self) -> String {
        if self.below(4) > 0 {
            return self.pick(&WORDS).to_owned();
        }
        let mut text = String::new();
        while self.wants(60) {
            let among = self.pick(&[0x80, 0x800, 0x11_0000]);
            text.extend(char::from_u32(self.below(among) as u32));
        }
        text
    }

    pub(crate) fn scalar(&mut self) -> Value {
        match self.below(10) {
            0 => Value::Null,
            1 => (self.below(2) == 0).into(),
            2 => self.next().into(),
            3 => (self.next() as i64).into(),
            4 => f64::from_bits(self.next()).into(),
            5 => (self.below(1000) as f64 / 8.0).into(),
            _ => self.text().into(),
        }
    }

    pub(crate) fn json(&mut self) -> Value {
        self.nested(3)
    }

    fn nested(&mut self, depth: usize) -> Value {
        match self.below(6) {
            0 if depth > 0 => {
                let mut items = Vec::new();
                while self.wants(60) {
                    items.push(self.nested(depth - 1));
                }
                items.into()
            }
            1..=3 if depth > 0 => {
                let mut fields = Map::new();
                while self.wants(60) {
                    fields.insert(self.text(), self.nested(depth - 1));
                }
                fields.into()
            }
            _ => self.scalar(),
        }
    }

    fn extra(&mut self) -> Map<String, Value> {
        let mut fields = Map::new();
        while self.wants(40) {
            fields.insert(self.text(), self.json());
        }
        fields
    }

    fn add(
        &mut self,
        fields: &mut Map<String, Value>,
        percent: usize,
        name: &str,
        grow: impl Fn(&mut Self) -> Value,
    ) {
        if self.wants(percent) {
            fields.insert(name.to_owned(), grow(self));
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
            self.add(&mut fields, 50, name, Self::scalar);
        }
        fields.into()
    }

    /// An object as the API describes a video, more or less.
    pub(crate) fn video(&mut self) -> Map<String, Value> {
        let mut fields = self.extra();
        self.add(&mut fields, 90, "url", |seed| match seed.below(4) {
            0 => seed.scalar(),
            _ => "https://cdn.example/a.mp4".into(),
        });
        for name in ["duration", "content_type", "file_name", "file_size"] {
            self.add(&mut fields, 40, name, Self::scalar);
        }
        self.add(&mut fields, 40, "usage", Self::usage);
        fields
    }

    fn videos(&mut self) -> Value {
        match self.below(6) {
            0 => self.scalar(),
            1 => {
                let mut items = Vec::new();
                while self.wants(50) {
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

    /// An object as the API describes a generation, more or less.
    pub(crate) fn generation(&mut self) -> Map<String, Value> {
        let mut fields = self.extra();
        self.add(&mut fields, 80, "id", Self::id);
        self.add(&mut fields, 30, "generation_id", Self::id);
        self.add(&mut fields, 90, "status", |seed| match seed.below(5) {
            0 => seed.scalar(),
            _ => seed.pick(&["queued", "completed", "succeeded", "failed", "waiting"]).into(),
        });
        self.add(&mut fields, 70, "video", Self::videos);
        self.add(&mut fields, 40, "error", Self::json);
        self.add(&mut fields, 20, "duration", Self::scalar);
        self.add(&mut fields, 50, "meta", |seed| match seed.below(4) {
            0 => seed.json(),
            _ => json!({"usage": seed.usage()}),
        });
        fields
    }

    /// What may stand where a body belongs.
    pub(crate) fn body(&mut self) -> Vec<u8> {
        let mut body = match self.below(8) {
            0 => return self.bytes(),
            1..=3 => self.json().to_string().into_bytes(),
            _ => Value::from(self.generation()).to_string().into_bytes(),
        };
        let at = self.below(body.len());
        match self.below(8) {
            0 => body.truncate(at),
            1 => body[at] = self.next() as u8,
            _ => {}
        }
        body
    }

    fn parts(&mut self, grow_body: impl Fn(&mut Self) -> Vec<u8>) -> Parts {
        let status = match self.below(9) {
            0 => self.next() as u16,
            1 | 2 => self.pick(&[302, 303, 400, 401, 403, 404, 429, 500, 502, 503, 504, 524]),
            _ => self.pick(&[200, 201, 202, 204, 299]),
        };
        let body = grow_body(self);
        let mut headers = Vec::new();
        while self.wants(40) {
            headers.push((self.pick(&HEADERS), self.text()));
        }
        let end = (self.below(10) == 0).then(|| self.pick(&FAILURES));
        Parts { status, headers, body, end }
    }
}

/// A reply before it is one: it cannot be cloned, and what a strategy makes must be.
#[derive(Clone, Debug)]
pub(crate) struct Parts {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: Vec<u8>,
    pub(crate) end: Option<FailureKind>,
}

/// An answer with such a body.
pub(crate) fn reply(body: impl Fn(&mut Seed) -> Vec<u8>) -> impl Strategy<Value = Parts> {
    grown(move |seed| seed.parts(&body))
}

impl Parts {
    pub(crate) fn reply(&self) -> Reply {
        Reply {
            status: self.status,
            headers: Headers(self.headers.clone()),
            body: self.body.clone(),
            end: self.end.map_or(Ok(()), |kind| Err(Failure::new(kind, "cut"))),
        }
    }

    pub(crate) fn is_whole_success(&self) -> bool {
        (200..300).contains(&self.status) && self.end.is_none()
    }

    pub(crate) fn json(&self) -> Option<Map<String, Value>> {
        serde_json::from_slice(&self.body).ok()
    }
}

const FAILURES: [FailureKind; 5] = [
    FailureKind::Connect,
    FailureKind::Broken,
    FailureKind::Silent,
    FailureKind::Unusable,
    FailureKind::Cancelled,
];

pub(crate) fn failure() -> impl Strategy<Value = FailureKind> {
    select(&FAILURES[..])
}

/// Server text in an error: short, on one line, without a picture.
pub(crate) fn is_presentable(text: &str) -> bool {
    let mut after_marker = text.split("base64,").skip(1);
    text.len() <= 2048
        && !text.contains(char::is_control)
        && !after_marker.any(|rest| rest.starts_with(|c: char| c.is_ascii_alphanumeric()))
}
