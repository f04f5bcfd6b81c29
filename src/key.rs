//! The API key: kept out of every text.

use std::fmt;

use crate::error::{Error, Result};

/// A key shorter than this could be part of any word, and is not searched for in replies.
const SHORTEST_SEARCHED: usize = 8;

/// A key that was checked. Its `Debug` never shows it.
#[derive(Clone)]
pub(crate) struct ApiKey {
    text: String,
    skip: [u8; 256],
}

impl ApiKey {
    /// The messages do not quote the key: they end up in logs.
    pub(crate) fn new(key: String) -> Result<Self> {
        let problem = if key.is_empty() {
            "is empty"
        } else if key.trim() != key {
            "begins or ends with white space"
        } else if key.chars().any(char::is_control) {
            "holds control characters"
        } else if !key.is_ascii() {
            "holds characters outside ASCII"
        } else {
            return Ok(Self { skip: skips(key.as_bytes()), text: key });
        };
        Err(Error::config(format!("the API key {problem}: allowed is visible ASCII text")))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.text)
    }

    /// Replaces the key in a reply's body, also where JSON, whole or cut, spells it in escapes.
    pub(crate) fn scrub_reply(&self, body: Vec<u8>) -> Vec<u8> {
        self.scrub(if body.contains(&b'\\') { without_escapes(&body) } else { body })
    }

    /// Replaces the key wherever a server has echoed it.
    pub(crate) fn scrub(&self, text: Vec<u8>) -> Vec<u8> {
        let Some(first) = self.find(&text) else { return text };
        let mut scrubbed = Vec::with_capacity(text.len());
        let (mut rest, mut found) = (text.as_slice(), Some(first));
        while let Some((before, from_key)) = found.and_then(|at| rest.split_at_checked(at)) {
            scrubbed.extend_from_slice(before);
            scrubbed.extend_from_slice(b"[key]");
            rest = from_key.get(self.text.len()..).unwrap_or_default();
            found = self.find(rest);
        }
        scrubbed.extend_from_slice(rest);
        scrubbed
    }

    /// Where the key is (Horspool's search): most bytes of a text are never looked at.
    fn find(&self, text: &[u8]) -> Option<usize> {
        let key = self.text.as_bytes();
        let (last, _) = key.split_last().filter(|_| key.len() >= SHORTEST_SEARCHED)?;
        let mut start = 0;
        loop {
            let part = text.get(start..start + key.len())?;
            let end = part.last()?;
            if end == last && part == key {
                return Some(start);
            }
            start += usize::from(*self.skip.get(usize::from(*end))?);
        }
    }
}

/// How far the key can be moved on when this byte stands at its end: to where the key has it.
fn skips(key: &[u8]) -> [u8; 256] {
    let clamped = |n: usize| u8::try_from(n).unwrap_or(u8::MAX);
    let mut skips = [clamped(key.len()); 256];
    let (_, before) = key.split_last().unwrap_or((&0, &[]));
    for (at, byte) in before.iter().enumerate() {
        if let Some(skip) = skips.get_mut(usize::from(*byte)) {
            *skip = clamped(before.len() - at);
        }
    }
    skips
}

/// Writes out what JSON need not escape: the same JSON, with visible ASCII as it is.
fn without_escapes(json: &[u8]) -> Vec<u8> {
    let mut plain = Vec::with_capacity(json.len());
    let mut rest = json;
    loop {
        rest = match rest {
            [b'\\', b'/', after @ ..] => {
                plain.push(b'/');
                after
            }
            [b'\\', b'u', a, b, c, d, after @ ..] if visible(&[*a, *b, *c, *d]).is_some() => {
                plain.extend(visible(&[*a, *b, *c, *d]));
                after
            }
            [b'\\', next, after @ ..] => {
                plain.extend([b'\\', *next]);
                after
            }
            [first, after @ ..] => {
                plain.push(*first);
                after
            }
            [] => return plain,
        }
    }
}

/// The character of four hexadecimal digits, if JSON takes it as it is.
fn visible(digits: &[u8; 4]) -> Option<u8> {
    let code =
        u8::from_str_radix(std::str::from_utf8(digits).ok()?.strip_prefix("00")?, 16).ok()?;
    ((b' '..=b'~').contains(&code) && !b"\"\\".contains(&code)).then_some(code)
}

impl fmt::Debug for ApiKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[key]")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_echo_is_replaced() {
        let key = ApiKey::new("0123456789abcdef".into()).unwrap();
        let echo = b"<0123456789abcdef> 0123456789abcde 0123456789abcdef".to_vec();
        assert_eq!(key.scrub(echo), b"<[key]> 0123456789abcde [key]");
        assert_eq!(format!("{key:?}"), "[key]");
    }

    #[test]
    fn escapes_do_not_hide_it() {
        let key = ApiKey::new("0123456789abcde/".into()).unwrap();
        for (echo, shown) in [
            (r#"{"message":"\u0030123456789\u0061bcde\/"}"#, r#"{"message":"[key]"}"#),
            (r#"{"message":"\u0030123456789\u0061bcde\u002F"#, r#"{"message":"[key]"#),
            (r#"{"a":"\\u0041 \n\u0022\u005c\u00e9"}"#, r#"{"a":"\\u0041 \n\u0022\u005c\u00e9"}"#),
            (r#"\u00+1 \u004 \"#, r#"\u00+1 \u004 \"#),
        ] {
            let scrubbed = String::from_utf8(key.scrub_reply(echo.into())).unwrap();
            assert_eq!(scrubbed, shown);
        }
    }

    #[test]
    fn what_no_header_can_carry_is_refused_without_being_shown() {
        for bad in ["", " secret", "secret\n", "sec\rret", "sec\0ret", "sécret", "secret\u{7f}"] {
            let error = ApiKey::new(bad.into()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Config);
            assert!(!format!("{error:?} {error}").contains("cret"), "{error:?}");
        }
    }
}
