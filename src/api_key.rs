//! The API key, and its redaction from everything that a server sends.

use std::fmt;

use crate::error::{Error, Result};
use crate::redact::has_control;

/// A shorter key could be part of any word, so it is not redacted from responses.
const MIN_REDACTED_LEN: usize = 8;

/// A validated API key. Its `Debug` output is redacted.
#[derive(Clone)]
pub(crate) struct ApiKey {
    key: String,
}

impl ApiKey {
    /// Validates the key. Error messages do not quote it, since they end up in logs.
    pub(crate) fn new(key: String) -> Result<Self> {
        let problem = if key.is_empty() {
            "is empty"
        } else if key.trim() != key {
            "starts or ends with whitespace"
        } else if has_control(&key) {
            "contains control characters"
        } else if !key.is_ascii() {
            "contains non-ASCII characters"
        } else if key.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer ")) {
            "starts with `Bearer `, which is added automatically"
        } else if key.contains([' ', '"', '\'', '`']) {
            "contains a space or a quotation mark"
        } else {
            return Ok(Self { key });
        };
        Err(Error::config(format!(
            "the API key {problem}; must be printable ASCII without spaces and quotation marks"
        )))
    }

    /// The value of the `Authorization` header.
    pub(crate) fn authorization(&self) -> String {
        format!("Bearer {}", self.key)
    }

    /// Redacts the key from a response body, also where JSON escapes spell it. The JSON may be
    /// truncated.
    pub(crate) fn redact_json(&self, body: Vec<u8>) -> Vec<u8> {
        let body = if body.contains(&b'\\') { unescape_ascii(&body) } else { body };
        let invalid = match String::from_utf8(body) {
            Ok(text) => return self.redact(text).into_bytes(),
            Err(e) => e.into_bytes(),
        };
        let mut redacted = Vec::new();
        // The key is ASCII, so no part of it is in an invalid sequence.
        for chunk in invalid.utf8_chunks() {
            redacted.extend_from_slice(self.redact(chunk.valid().to_owned()).as_bytes());
            redacted.extend_from_slice(chunk.invalid());
        }
        redacted
    }

    /// Replaces every occurrence of the key, since a server may echo it.
    pub(crate) fn redact(&self, text: String) -> String {
        if self.key.len() >= MIN_REDACTED_LEN && text.contains(&self.key) {
            text.replace(&self.key, "[key]")
        } else {
            text
        }
    }
}

/// Returns equivalent JSON in which printable ASCII is escaped only where it must be.
fn unescape_ascii(json: &[u8]) -> Vec<u8> {
    let mut unescaped = Vec::with_capacity(json.len());
    let mut rest = json;
    while !rest.is_empty() {
        let (char, len) = match rest {
            [b'\\', b'/', ..] => (Some(b'/'), 2),
            [b'\\', b'u', a, b, c, d, ..] => {
                let char = decode_unicode_escape(&[*a, *b, *c, *d]);
                (char, if char.is_some() { 6 } else { 2 })
            }
            [b'\\', _, ..] => (None, 2),
            _ => (None, 1),
        };
        let (escape, after) = rest.split_at_checked(len).unwrap_or_default();
        match char {
            Some(char) => unescaped.push(char),
            None => unescaped.extend_from_slice(escape),
        }
        rest = after;
    }
    unescaped
}

/// Decodes four hexadecimal digits to a printable ASCII character, if JSON need not escape it.
fn decode_unicode_escape(digits: &[u8; 4]) -> Option<u8> {
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
    fn api_key_is_redacted_wherever_it_is_echoed() {
        let key = ApiKey::new("0123456789abcdef".into()).unwrap();
        let echo = "<0123456789abcdef> 0123456789abcde 0123456789abcdef".to_owned();
        assert_eq!(key.redact(echo), "<[key]> 0123456789abcde [key]");
        let echo = b"\xff0123456789abcdef\xc3 0123456789abcdef\xc3".to_vec();
        assert_eq!(key.redact_json(echo), b"\xff[key]\xc3 [key]\xc3");
        assert_eq!(format!("{key:?}"), "[key]");
    }

    #[test]
    fn api_key_is_redacted_where_json_escapes_it() {
        let key = ApiKey::new("0123456789abcde/".into()).unwrap();
        for (echo, expected) in [
            (r#"{"message":"\u0030123456789\u0061bcde\/"}"#, r#"{"message":"[key]"}"#),
            (r#"{"message":"\u0030123456789\u0061bcde\u002F"#, r#"{"message":"[key]"#),
            (r#"{"a":"\\u0041 \n\u0022\u005c\u00e9"}"#, r#"{"a":"\\u0041 \n\u0022\u005c\u00e9"}"#),
            (r#"\u00+1 \u004 \"#, r#"\u00+1 \u004 \"#),
        ] {
            let redacted = String::from_utf8(key.redact_json(echo.into())).unwrap();
            assert_eq!(redacted, expected);
        }
    }

    #[test]
    fn api_key_that_is_not_a_valid_header_value_is_rejected_without_quoting_it() {
        for invalid in ["", " secret", "secret\n", "sec\rret", "sec\0ret", "sécret", "secret\u{7f}"]
        {
            let error = ApiKey::new(invalid.into()).unwrap_err();
            assert_eq!(error.kind(), crate::ErrorKind::Config);
            assert!(!format!("{error:?} {error}").contains("cret"), "{error:?}");
        }
    }
}
