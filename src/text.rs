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
        let run = rest.find(|c| !may_be_payload(c)).unwrap_or(rest.len());
        let taken = if run > LONGEST_RUN || (run > 0 && shown.ends_with("base64,")) {
            shown.push('…');
            payload_length(rest)
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

/// Base64, as it is or as JSON, HTML or a URL may write its `+`, `/` and `=`.
fn may_be_payload(c: char) -> bool {
    c.is_ascii_alphanumeric() || "+/=\\%&#;".contains(c)
}

/// How far a payload goes, over the line ends that may be in it.
fn payload_length(text: &str) -> usize {
    let mut after_line_end = false;
    let end = text.find(|c: char| {
        after_line_end = matches!(c, '\r' | '\n') || (after_line_end && c == ' ');
        !after_line_end && !may_be_payload(c)
    });
    end.unwrap_or(text.len())
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
    use crate::arbitrary::{Seed, cases, grown, is_presentable};
    use proptest::collection::vec;
    use proptest::prelude::*;
    use proptest::sample::select;

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

    #[test]
    fn an_escaped_picture_is_not_shown_either() {
        for escape in ["&#x2F;", "&#43;", "&#x3D;", "%2B", "\n", "\r\n  "] {
            let text =
                format!("not an image: data:image/png;base64,AAAA{escape}{}", "iVBOR".repeat(50));
            assert!(!shorten(&text).contains("iVBOR"), "{escape:?}");
        }
    }

    proptest! {
        #![proptest_config(cases(10_000))]

        #[test]
        fn any_server_text_can_be_shown(
            part in grown(|seed| [seed.text(), seed.text(), seed.text()].concat()),
            length in prop_oneof![4 => Just(1usize), 1 => 1usize..500],
            bytes in grown(Seed::bytes),
        ) {
            let words = part.repeat(length);
            prop_assert!(is_presentable(&shorten(&words)));
            let body = [words.as_bytes(), &bytes].concat();
            prop_assert!(is_presentable(&snippet(&body)));
        }

        #[test]
        fn no_part_of_a_picture_is_shown(
            before in grown(Seed::text),
            joints in vec(select(vec!["", "+", "/", "=", "\\/", "\\n", "\\u002b"]), 1..40),
            after in grown(Seed::text),
        ) {
            let data: String = joints.iter().flat_map(|joint| ["KGgo", *joint]).collect();
            let text = format!("{before}\"data:image/png;base64,{data}\" {after}");
            let shown = snippet(text.as_bytes());
            prop_assert!(!shown.contains("KGgo"), "{}", shown);
            prop_assert!(shown.contains("base64,…\""), "{}", shown);
        }
    }
}
