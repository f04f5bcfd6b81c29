//! Text that others wrote, as it may be shown in errors and logs: short, on one line, and without
//! the pictures that servers echo.

use std::fmt;

use serde_json::{Map, Value};

/// What is kept of a text.
const MOST_BYTES: usize = 2 * 1024;

/// A longer run of base64 characters is no word, and probably a picture.
const LONGEST_RUN: usize = 128;

/// The start of a body, as it may be shown.
pub(crate) fn snippet(body: &[u8]) -> String {
    // More than is kept, since what stands for a picture is dropped from it.
    let start = body.get(..8 * MOST_BYTES).unwrap_or(body);
    shorten(&String::from_utf8_lossy(start))
}

/// Text as it may be shown: no control characters, no pictures, at most 2 KiB.
pub(crate) fn shorten(text: &str) -> String {
    let mut shown = String::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let run = rest.find(|c| !is_base64(c)).unwrap_or(rest.len());
        let is_payload = run > LONGEST_RUN || (run > 0 && shown.ends_with("base64,"));
        let taken = if is_payload {
            shown.push('…');
            run
        } else if run > 0 {
            shown.push_str(rest.get(..run).unwrap_or_default());
            run
        } else {
            shown.push(if first.is_control() { ' ' } else { first });
            first.len_utf8()
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    let mut ends = (0..=MOST_BYTES.min(shown.len())).rev();
    shown.truncate(ends.find(|&end| shown.is_char_boundary(end)).unwrap_or_default());
    shown.trim().to_owned()
}

/// The backslash is how JSON may write the slash.
fn is_base64(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=\\".contains(c)
}

/// JSON that a server sent, for `Debug`.
pub(crate) struct Shown<'a>(pub(crate) &'a Map<String, Value>);

impl fmt::Debug for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = serde_json::to_string(self.0).map_err(|_| fmt::Error)?;
        f.write_str(&shorten(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pictures_are_left_out() {
        let picture = "iVBORw0KGgo".repeat(99);
        let text = format!("bad image data:image/png;base64,{picture}\" \r\n{}", "é".repeat(2_000));
        let shown = shorten(&text);
        assert!(shown.starts_with("bad image data:image/png;base64,…\"   é"), "{shown}");
        assert!(shown.len() <= MOST_BYTES);
        assert_eq!(shorten(&format!("bare {picture} too")), "bare … too");
        assert_eq!(shorten("base64,aGk= short"), "base64,… short");
        assert_eq!(shorten("no/picture=here+ever"), "no/picture=here+ever");
    }
}
