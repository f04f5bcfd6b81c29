//! The API's endpoints, one module each: a function that builds the request target and one that
//! parses the response, both without I/O.

pub(crate) mod billing;
pub(crate) mod create;
pub(crate) mod logs;
pub(crate) mod models;
pub(crate) mod retrieve;

/// Which of the API's two equivalent routes to use; requests and responses are the same on both.
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
    /// `/v2/generate/video/kling/generation`, for the vendor's Kling models only.
    #[default]
    Kling,
    /// `/v2/video/generations`, for all of the vendor's video models.
    Universal,
}

impl Route {
    /// The path for both creating and retrieving.
    pub(crate) fn path(self) -> &'static str {
        match self {
            Self::Kling => "/v2/generate/video/kling/generation",
            Self::Universal => "/v2/video/generations",
        }
    }
}
