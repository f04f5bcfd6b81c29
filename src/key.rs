//! The API key: kept out of every text.

use std::fmt;

use crate::error::{Error, Result};

/// A key shorter than this could be part of any word, and is not searched for in replies.
const SHORTEST_SEARCHED: usize = 8;

/// A key that was checked. Its `Debug` never shows it.
#[derive(Clone)]
pub(crate) struct ApiKey(String);

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
            return Ok(Self(key));
        };
        Err(Error::config(format!("the API key {problem}: allowed is visible ASCII text")))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.0)
    }

    /// Replaces the key wherever a server has echoed it.
    pub(crate) fn scrub(&self, text: Vec<u8>) -> Vec<u8> {
        let key = self.0.as_bytes();
        if key.len() < SHORTEST_SEARCHED || !text.windows(key.len()).any(|part| part == key) {
            return text;
        }
        let mut scrubbed = Vec::with_capacity(text.len());
        let mut rest = text.as_slice();
        while let Some((first, after)) = rest.split_first() {
            rest = match rest.strip_prefix(key) {
                Some(after_key) => {
                    scrubbed.extend_from_slice(b"[key]");
                    after_key
                }
                None => {
                    scrubbed.push(*first);
                    after
                }
            };
        }
        scrubbed
    }
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
    fn what_no_header_can_carry_is_refused_without_being_shown() {
        for bad in ["", " secret", "secret\n", "sec\rret", "sec\0ret", "sécret", "secret\u{7f}"] {
            let error = ApiKey::new(bad.into()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Config);
            assert!(!format!("{error:?} {error}").contains("cret"), "{error:?}");
        }
    }
}
