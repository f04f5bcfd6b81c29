//! The endpoints, and the routing of requests to them.

use super::http::RequestHead;

const KLING_ROUTE: &str = "/v2/generate/video/kling/generation";
const UNIVERSAL_ROUTE: &str = "/v2/video/generations";
const LOGS: &str = "/v2/logs";
const BILLING: &str = "/v2/billing";
const MODELS: &str = "/v1/models";
pub(super) const VIDEOS: &str = "/videos/";

/// An endpoint of the API, or the host that serves the videos.
///
/// The sandbox serves both routes of the API, `/v2/generate/video/kling/generation` and
/// `/v2/video/generations`, and does not distinguish between them.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// use kling_video::sandbox::{Endpoint, Sandbox};
///
/// let sandbox = Sandbox::start()?;
/// assert_eq!(sandbox.request_count(Endpoint::Create), 0);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Endpoint {
    /// `POST …/kling/generation`: creates a generation.
    Create,
    /// `GET …/kling/generation`: returns the state of a generation.
    Retrieve,
    /// `GET /v2/logs`: lists the requests made with the key.
    Logs,
    /// `GET /v2/billing`: returns the account balance.
    Billing,
    /// `GET /v1/models`: lists models and prices, and needs no key.
    Models,
    /// `GET /videos/…`: serves the video of a generation.
    Video,
}

impl Endpoint {
    /// Returns the endpoint of a request, or the error status to reject it with.
    pub(super) fn from_head(head: &RequestHead) -> Result<Endpoint, u16> {
        let (get, post) = match head.path() {
            KLING_ROUTE | UNIVERSAL_ROUTE => (Endpoint::Retrieve, Some(Endpoint::Create)),
            LOGS => (Endpoint::Logs, None),
            BILLING => (Endpoint::Billing, None),
            MODELS => (Endpoint::Models, None),
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
    fn endpoint_follows_method_and_path() {
        let endpoint = |method: &str, target: &str| {
            let (method, target) = (method.to_owned(), target.to_owned());
            Endpoint::from_head(&RequestHead { method, target, ..RequestHead::default() })
        };
        assert_eq!(
            endpoint("GET", "/v2/video/generations?generation_id=1"),
            Ok(Endpoint::Retrieve)
        );
        assert_eq!(endpoint("POST", "/v2/video/generations"), Ok(Endpoint::Create));
        assert_eq!(endpoint("GET", "/v2/logs?period=1h"), Ok(Endpoint::Logs));
        assert_eq!(endpoint("GET", "/videos/1.mp4?sig=2"), Ok(Endpoint::Video));
        assert_eq!(endpoint("GET", "/v2/Logs"), Err(404));
        assert_eq!(endpoint("POST", "/v2/logs"), Err(405));
    }
}
