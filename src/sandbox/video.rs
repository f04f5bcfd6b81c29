//! The video: signed links that expire, and the host behind them, which honours `Range`.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::ops::Range;
use std::sync::Arc;

use super::endpoint::VIDEOS;
use super::fault::VideoOptions;
use super::http::{Body, Head, Reply, decimal};
use super::replies::storage_error;

pub(super) const VIDEO: &[u8] = include_bytes!("video.mp4");

/// What is served for every generation, to whom has a link of this epoch.
pub(super) struct StoredVideo {
    bytes: Arc<Vec<u8>>,
    /// Counts what was served before, so that no two have the same ETag.
    version: u32,
    link_epoch: u64,
}

impl StoredVideo {
    pub(super) fn new() -> StoredVideo {
        StoredVideo { bytes: Arc::new(VIDEO.to_vec()), version: 0, link_epoch: 0 }
    }

    pub(super) fn replace(&mut self, bytes: Vec<u8>) {
        self.bytes = Arc::new(bytes);
        self.version += 1;
    }

    pub(super) fn expire_links(&mut self) {
        self.link_epoch += 1;
    }

    pub(super) fn length(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn link(&self, origin: &str, id: &str) -> String {
        format!("{origin}{VIDEOS}{id}.mp4?{}", link_query(id, self.link_epoch))
    }

    /// Answers a request for the video of this generation.
    pub(super) fn answer(&self, id: &str, head: &Head, options: &VideoOptions) -> Reply {
        let query = head.raw_query();
        if query == link_query(id, self.link_epoch) {
            self.serve(head, options)
        } else if (0..self.link_epoch).any(|old| query == link_query(id, old)) {
            storage_error(403, "Request has expired")
        } else {
            storage_error(403, "The signature does not match the request")
        }
    }

    fn serve(&self, head: &Head, options: &VideoOptions) -> Reply {
        let length = self.length();
        let etag = options.etag.clone().unwrap_or_else(|| self.etag());
        let same = head.header("if-range").is_none_or(|known| known == etag);
        let range = head.header("range").filter(|_| same && !options.ranges_ignored);
        let reply = match Extent::of(range, length) {
            Extent::Whole => Reply::new(200, Body::part(&self.bytes, 0..length)),
            Extent::Part(range) => {
                let last = range.end.saturating_sub(1);
                let content_range = format!("bytes {}-{last}/{length}", range.start);
                Reply::new(206, Body::part(&self.bytes, range))
                    .header("Content-Range", content_range)
            }
            Extent::Unsatisfiable => {
                return storage_error(416, "The requested range cannot be met")
                    .header("Content-Range", format!("bytes */{length}"));
            }
        };
        reply
            .header("Content-Type", "video/mp4")
            .header("Accept-Ranges", "bytes")
            .header("ETag", etag)
    }

    /// Not a hash: that would take a while for the videos of a benchmark.
    fn etag(&self) -> String {
        format!("\"{:x}-{:x}\"", self.version, self.length())
    }
}

/// The generation whose video a path names.
pub(super) fn requested_id(path: &str) -> Option<&str> {
    path.strip_prefix(VIDEOS)?.strip_suffix(".mp4")
}

/// Looks like a cloud's signed link, and holds what a client might "normalise": both cases of
/// hex, an escaped and a bare plus, a tilde, an empty value.
fn link_query(id: &str, epoch: u64) -> String {
    let mut hasher = DefaultHasher::new();
    (id, epoch).hash(&mut hasher);
    let signature = hasher.finish();
    format!(
        "sig={signature:064x}&X-Amz-Algorithm=AWS4-HMAC-SHA256\
         &X-Amz-Credential=AKIASANDBOX%2f20260101%2Fauto%2Fs3%2Faws4_request&X-Amz-Expires=3600\
         &response-content-disposition=inline%3B+filename%3D%22output%2B1~.mp4%22&x-id="
    )
}

/// How much of the video a `Range` header asks for.
#[derive(Debug, PartialEq)]
enum Extent {
    Whole,
    Part(Range<usize>),
    Unsatisfiable,
}

impl Extent {
    /// A range that cannot be read is ignored, and so are several at once.
    fn of(range: Option<&str>, length: usize) -> Extent {
        match range.and_then(|range| read_range(range, length)) {
            None => Extent::Whole,
            Some(Range { start, end }) if start < length => Extent::Part(start..end.min(length)),
            Some(_) => Extent::Unsatisfiable,
        }
    }
}

/// `bytes=3-4`, `bytes=3-` or `bytes=-4`, the last four.
fn read_range(range: &str, length: usize) -> Option<Range<usize>> {
    match range.strip_prefix("bytes=")?.split_once('-')? {
        ("", tail) => Some(length.saturating_sub(decimal(tail)?)..length),
        (first, "") => Some(decimal(first)?..length),
        (first, last) => {
            let range = decimal(first)?..decimal::<usize>(last)?.saturating_add(1);
            (!range.is_empty()).then_some(range)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        let of = |range| Extent::of(Some(range), 10);
        assert_eq!(Extent::of(None, 10), Extent::Whole);
        assert_eq!(of("bytes=0-"), Extent::Part(0..10));
        assert_eq!(of("bytes=3-4"), Extent::Part(3..5));
        assert_eq!(of("bytes=9-99"), Extent::Part(9..10));
        assert_eq!(of("bytes=-4"), Extent::Part(6..10));
        assert_eq!(of("bytes=10-"), Extent::Unsatisfiable);
        assert_eq!(of("bytes=-0"), Extent::Unsatisfiable);
        for ignored in
            ["bytes=4-3", "bytes=-", "bytes=a-", "bytes=0-1,3-4", "lines=0-1", "bytes=+1-"]
        {
            assert_eq!(of(ignored), Extent::Whole, "{ignored}");
        }
    }
}
