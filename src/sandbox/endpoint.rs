//! Which endpoint a request is for.

use super::http::Head;

const KLING: &str = "/v2/generate/video/kling/generation";
const UNIVERSAL: &str = "/v2/video/generations";
const LOGS: &str = "/v2/logs";
const BILLING: &str = "/v2/billing";
pub(super) const VIDEOS: &str = "/videos/";

/// What a request is for. Both routes, Kling's and the universal one, are the same endpoints.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::Sandbox::start()?;
/// assert_eq!(sandbox.count(kling_video::Endpoint::Create), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST …/kling/generation`: a new generation.
    Create,
    /// `GET …/kling/generation`: how a generation stands.
    Retrieve,
    /// `GET /v2/logs`: the key's requests.
    Logs,
    /// `GET /v2/billing`: the key's balance.
    Billing,
    /// `GET /videos/…`: the link to a finished video.
    Video,
}

impl Endpoint {
    /// The endpoint of a request; else the status that refuses it.
    pub(super) fn of(head: &Head) -> Result<Endpoint, u16> {
        let (get, post) = match head.path() {
            KLING | UNIVERSAL => (Endpoint::Retrieve, Some(Endpoint::Create)),
            LOGS => (Endpoint::Logs, None),
            BILLING => (Endpoint::Billing, None),
            path if path.starts_with(VIDEOS) => (Endpoint::Video, None),
            _ => return Err(404),
        };
        match head.method.as_str() {
            "GET" => Ok(get),
            "POST" => post.ok_or(405),
            _ => Err(405),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let of = |method: &str, target: &str| {
            let (method, target) = (method.to_owned(), target.to_owned());
            Endpoint::of(&Head { method, target, ..Head::default() })
        };
        assert_eq!(of("GET", "/v2/video/generations?generation_id=1"), Ok(Endpoint::Retrieve));
        assert_eq!(of("POST", "/v2/video/generations"), Ok(Endpoint::Create));
        assert_eq!(of("GET", "/v2/logs?period=1h"), Ok(Endpoint::Logs));
        assert_eq!(of("GET", "/videos/1.mp4?sig=2"), Ok(Endpoint::Video));
        assert_eq!(of("GET", "/v2/Logs"), Err(404));
        assert_eq!(of("POST", "/v2/logs"), Err(405));
    }
}
