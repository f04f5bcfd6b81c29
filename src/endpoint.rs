//! The API's endpoints: one module each, a pair without I/O that builds the request's target and
//! reads the reply.

pub(crate) mod billing;
pub(crate) mod create;
pub(crate) mod logs;
pub(crate) mod retrieve;

/// Which of the API's two routes to use. Both take and answer the same JSON.
///
/// ```
/// use kling_video::{Client, Route};
///
/// let client = Client::builder("key").route(Route::Universal).build()?;
/// # Ok::<(), kling_video::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Route {
    /// `/v2/generate/video/kling/generation`, the route of the vendor's Kling models.
    #[default]
    Kling,
    /// `/v2/video/generations`, the route of all the vendor's video models.
    Universal,
}

impl Route {
    /// The path of both create and retrieve.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Kling => "/v2/generate/video/kling/generation",
            Self::Universal => "/v2/video/generations",
        }
    }
}
