//! The API key, and its redaction from everything that a server sends.

use std::fmt;

use crate::error::{Error, Result};

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
        } else if key.chars().any(char::is_control) {
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
        self.redact(if body.contains(&b'\\') { unescape_ascii(&body) } else { body })
    }

    /// Replaces every occurrence of the key, since a server may echo it.
    pub(crate) fn redact(&self, text: Vec<u8>) -> Vec<u8> {
        let Some(first) = self.find(&text) else { return text };
        let mut redacted = Vec::with_capacity(text.len());
        let (mut rest, mut found) = (text.as_slice(), Some(first));
        while let Some((before, from_key)) = found.and_then(|start| rest.split_at_checked(start)) {
            redacted.extend_from_slice(before);
            redacted.extend_from_slice(b"[key]");
            rest = from_key.get(self.key.len()..).unwrap_or_default();
            found = self.find(rest);
        }
        redacted.extend_from_slice(rest);
        redacted
    }

    /// Finds the key as Boyer, Moore and Horspool do: most bytes of a text are never examined.
    fn find(&self, text: &[u8]) -> Option<usize> {
        let key = self.key.as_bytes();
        let (last, before) = key.split_last().filter(|_| key.len() >= MIN_REDACTED_LEN)?;
        let mut start = 0;
        loop {
            let window = text.get(start..start + key.len())?;
            let end = window.last()?;
            if end == last && window == key {
                return Some(start);
            }
            // On to where the key has this byte.
            start += 1 + before.iter().rev().position(|b| b == end).unwrap_or(before.len());
        }
    }
}

/// Returns equivalent JSON in which printable ASCII is escaped only where it must be.
fn unescape_ascii(json: &[u8]) -> Vec<u8> {
    let mut unescaped = Vec::with_capacity(json.len());
    let mut rest = json;
    loop {
        rest = match rest {
            [b'\\', b'/', after @ ..] => {
                unescaped.push(b'/');
                after
            }
            [b'\\', b'u', a, b, c, d, after @ ..]
                if decode_unicode_escape(&[*a, *b, *c, *d]).is_some() =>
            {
                unescaped.extend(decode_unicode_escape(&[*a, *b, *c, *d]));
                after
            }
            [b'\\', next, after @ ..] => {
                unescaped.extend([b'\\', *next]);
                after
            }
            [first, after @ ..] => {
                unescaped.push(*first);
                after
            }
            [] => return unescaped,
        }
    }
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
        let echo = b"<0123456789abcdef> 0123456789abcde 0123456789abcdef".to_vec();
        assert_eq!(key.redact(echo), b"<[key]> 0123456789abcde [key]");
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
