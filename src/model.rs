//! What is asked of the API and what it responds, as plain values.

pub(crate) mod body;
pub(crate) mod generation;
pub(crate) mod image;
pub(crate) mod pricing;
pub(crate) mod request;
pub(crate) mod response;
pub(crate) mod retry_after;
