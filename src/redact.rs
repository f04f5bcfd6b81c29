//! Sanitizes untrusted text for errors and logs: short, on one line, and without the images that
//! servers echo.

use std::fmt;

use serde_json::{Map, Value};

/// The maximum length of sanitized text, in bytes.
const MAX_LEN: usize = 2 * 1024;

/// A longer run of base64 characters is not a word, and probably an image.
const MAX_BASE64_RUN: usize = 128;

/// Whether a text contains control characters.
pub(crate) fn has_control(text: &str) -> bool {
    // Most texts are printable ASCII, which is quickly seen.
    let is_printable = text.bytes().all(|byte| matches!(byte, b' '..=b'~'));
    !is_printable && text.contains(char::is_control)
}

/// Sanitizes the start of a body.
pub(crate) fn snippet(body: &[u8]) -> String {
    // More than the output limit, since image data is dropped from it.
    let start = body.get(..8 * MAX_LEN).unwrap_or(body);
    sanitize(&String::from_utf8_lossy(start))
}

/// Replaces control characters with spaces and image data with `…`, and truncates to 2 KiB.
pub(crate) fn sanitize(text: &str) -> String {
    let mut output = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|c| !is_base64_char(c)).unwrap_or(rest.len());
        let consumed = if run > MAX_BASE64_RUN || (run > 0 && output.ends_with("base64,")) {
            output.push('…');
            base64_len(rest)
        } else if run > 0 {
            output.push_str(rest.get(..run).unwrap_or_default());
            run
        } else {
            output.push(if first.is_control() { ' ' } else { first });
            first.len_utf8()
        };
        rest = rest.get(consumed..).unwrap_or_default();
    }
    let mut lengths = (0..=MAX_LEN.min(output.len())).rev();
    output.truncate(lengths.find(|&len| output.is_char_boundary(len)).unwrap_or_default());
    output.trim().to_owned()
}

/// Base64 characters, and those with which JSON, HTML and URLs escape its `+`, `/` and `=`.
fn is_base64_char(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '+' | '/' | '=' | '\\' | '%' | '&' | '#' | ';')
}

/// The length of the base64 data at the start of `text`, including line breaks in the data.
fn base64_len(text: &str) -> usize {
    let mut in_line_break = false;
    let end = text.find(|c: char| {
        in_line_break = matches!(c, '\r' | '\n') || (in_line_break && c == ' ');
        !in_line_break && !is_base64_char(c)
    });
    end.unwrap_or(text.len())
}

/// `Debug` output for JSON that a server sent.
pub(crate) struct Sanitized<'a>(pub(crate) &'a Map<String, Value>);

impl fmt::Debug for Sanitized<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let json = serde_json::to_string(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&sanitize(&json))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::arbitrary::{Seed, cases, from_seed, is_sanitized};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

    #[test]
    fn image_data_is_removed() {
        let base64 = "iVBORw0KGgo".repeat(99);
        let text = format!("bad image data:image/png;base64,{base64}\" \r\n{}", "é".repeat(2_000));
        let output = sanitize(&text);
        assert!(output.starts_with("bad image data:image/png;base64,…\"   é"), "{output}");
        assert!(output.len() <= MAX_LEN);
        assert_eq!(sanitize(&format!("bare {base64} too")), "bare … too");
        assert_eq!(sanitize("base64,aGk= short"), "base64,… short");
        assert_eq!(sanitize("not/image=data+here"), "not/image=data+here");
    }

    #[test]
    fn escaped_image_data_is_removed() {
        for escape in ["&#x2F;", "&#43;", "&#x3D;", "%2B", "\n", "\r\n  "] {
            let text =
                format!("not an image: data:image/png;base64,AAAA{escape}{}", "iVBOR".repeat(50));
            assert!(!sanitize(&text).contains("iVBOR"), "{escape:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn server_text_is_sanitized(
            part in from_seed(|seed| [seed.string(), seed.string(), seed.string()].concat()),
            times in prop_oneof![4 => Just(1usize), 1 => 1usize..500],
            bytes in from_seed(Seed::bytes),
        ) {
            let text = part.repeat(times);
            prop_assert!(is_sanitized(&sanitize(&text)));
            let body = [text.as_bytes(), &bytes].concat();
            prop_assert!(is_sanitized(&snippet(&body)));
        }

        #[test]
        fn snippet_contains_no_part_of_an_image(
            before in from_seed(Seed::string),
            separators in vec(select(vec!["", "+", "/", "=", "\\/", "\\n", "\\u002b"]), 1..40),
            after in from_seed(Seed::string),
        ) {
            let data: String =
                separators.iter().flat_map(|separator| ["KGgo", *separator]).collect();
            let text = format!("{before}\"data:image/png;base64,{data}\" {after}");
            let output = snippet(text.as_bytes());
            prop_assert!(!output.contains("KGgo"), "{}", output);
            prop_assert!(output.contains("base64,…\""), "{}", output);
        }
    }
}
