//! The video host: signed URLs that expire, and range requests.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::endpoint::VIDEOS;
use super::fault::VideoOptions;
use super::http::{Body, RequestHead, Response, parse_decimal};
use super::responses::storage_error;

pub(super) const DEFAULT_VIDEO: &[u8] = include_bytes!("video.mp4");

/// The video that is served for every generation, at the URLs of the current epoch.
pub(super) struct StoredVideo {
    bytes: Arc<Vec<u8>>,
    /// How often the bytes were replaced, so that different videos have different ETags.
    version: u32,
    url_epoch: u64,
    /// The last segment of the path of URLs.
    pub(super) url_file_name: String,
}

impl StoredVideo {
    pub(super) fn new() -> StoredVideo {
        let bytes = Arc::new(DEFAULT_VIDEO.to_vec());
        StoredVideo { bytes, version: 0, url_epoch: 0, url_file_name: "output.mp4".to_owned() }
    }

    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.bytes = Arc::new(bytes);
        self.version += 1;
    }

    pub(super) fn expire_urls(&mut self) {
        self.url_epoch += 1;
    }

    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn url(&self, origin: &str, id: &str) -> String {
        let (name, query) = (&self.url_file_name, signed_query(id, self.url_epoch));
        format!("{origin}{VIDEOS}{id}/{name}?{query}")
    }

    /// Responds to a request for the video of this generation.
    pub(super) fn respond(&self, id: &str, head: &RequestHead, options: &VideoOptions) -> Response {
        let query = head.raw_query();
        if query == signed_query(id, self.url_epoch) {
            self.serve(head, options)
        } else if (0..self.url_epoch).any(|old| query == signed_query(id, old)) {
            storage_error(403, "Request has expired")
        } else {
            storage_error(403, "The signature does not match the request")
        }
    }

    fn serve(&self, head: &RequestHead, options: &VideoOptions) -> Response {
        let length = self.length();
        let etag = options.etag.clone().unwrap_or_else(|| self.etag());
        let is_current = head.header("if-range").is_none_or(|validator| validator == etag);
        let range = head.header("range").filter(|_| is_current && !options.ignore_range);
        let response = match RangeResult::new(range, length) {
            RangeResult::Full => Response::new(200, Body::slice_of(&self.bytes, 0..length)),
            RangeResult::Partial(range) => {
                let last = range.end.saturating_sub(1);
                let content_range = format!("bytes {}-{last}/{length}", range.start);
                Response::new(206, Body::slice_of(&self.bytes, range))
                    .header("Content-Range", content_range)
            }
            RangeResult::Unsatisfiable => {
                return storage_error(416, "The requested range is not satisfiable")
                    .header("Content-Range", format!("bytes */{length}"));
            }
        };
        response
            .header("Content-Type", "video/mp4")
            .header("Accept-Ranges", "bytes")
            .header("ETag", etag)
    }

    /// Not a hash of the bytes, which would be slow for the large videos of benchmarks.
    fn etag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.version, self.length())
    }
}

/// Returns the generation id in the path of a video URL. The file name after it does not matter.
pub(super) fn generation_id_of(path: &str) -> Option<&str> {
    path.strip_prefix(VIDEOS)?.split('/').next()
}

/// Returns the query of a signed URL, in the style of cloud storage.
///
/// It contains what a client might wrongly normalize: upper and lower case hex digits, an escaped
/// and a bare plus, a tilde, and an empty value.
fn signed_query(id: &str, epoch: u64) -> String {
    let mut hasher = DefaultHasher::new();
    (id, epoch).hash(&mut hasher);
    let signature = hasher.finish();
    format!(
        "sig={signature:064x}&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIASANDBOX%2f20260101%2Fauto%2Fs3%2Faws4_request&X-Amz-Expires=3600\
         &response-content-disposition=inline%3B+filename%3D%22output%2B1~.mp4%22&x-id="
    )
}

/// What a `Range` header selects of the video.
#[derive(Debug, PartialEq)]
enum RangeResult {
    Full,
    Partial(Range<usize>),
    Unsatisfiable,
}

impl RangeResult {
    /// Ignores a range that is invalid, and multiple ranges.
    fn new(range: Option<&str>, length: usize) -> RangeResult {
        match range.and_then(|range| parse_range(range, length)) {
            None => RangeResult::Full,
            Some(Range { start, end }) if start < length => {
                RangeResult::Partial(start..end.min(length))
            }
            Some(_) => RangeResult::Unsatisfiable,
        }
    }
}

/// Parses `bytes=3-4`, `bytes=3-` or `bytes=-4`, which means the last four bytes.
fn parse_range(range: &str, length: usize) -> Option<Range<usize>> {
    match range.strip_prefix("bytes=")?.split_once('-')? {
        ("", tail) => Some(length.saturating_sub(parse_decimal(tail)?)..length),
        (first, "") => Some(parse_decimal(first)?..length),
        (first, last) => {
            let range = parse_decimal(first)?..parse_decimal::<usize>(last)?.saturating_add(1);
            (!range.is_empty()).then_some(range)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn range_selects_part_of_the_video() {
        let result = |range| RangeResult::new(Some(range), 10);
        assert_eq!(RangeResult::new(None, 10), RangeResult::Full);
        assert_eq!(result("bytes=0-"), RangeResult::Partial(0..10));
        assert_eq!(result("bytes=3-4"), RangeResult::Partial(3..5));
        assert_eq!(result("bytes=9-99"), RangeResult::Partial(9..10));
        assert_eq!(result("bytes=-4"), RangeResult::Partial(6..10));
        assert_eq!(result("bytes=10-"), RangeResult::Unsatisfiable);
        assert_eq!(result("bytes=-0"), RangeResult::Unsatisfiable);
        for ignored in
            ["bytes=4-3", "bytes=-", "bytes=a-", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-"]
        {
            assert_eq!(result(ignored), RangeResult::Full, "{ignored}");
        }
    }
}
