//! The client method or step that an error or event belongs to.

use std::fmt;

/// What was being done when an [`Error`](crate::Error) occurred or a retry was scheduled.
///
/// Displays as the name of the method: `create`, `wait`, `generate_to`, ….
///
/// ```
/// use kling_video::{Client, Operation};
///
/// let error = Client::new("").unwrap_err();
/// assert_eq!(error.operation(), Operation::Build);
/// assert_eq!(error.operation().to_string(), "build");
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Operation {
    /// Building a client, with [`ClientBuilder::build`](crate::ClientBuilder::build) or one of
    /// [`Client`](crate::Client)'s constructors; also starting the sandbox.
    Build,
    /// Validating a request, which every call that creates a generation does first.
    Validate,
    /// [`Client::create`](crate::Client::create), also on behalf of another call.
    Create,
    /// [`Client::retrieve`](crate::Client::retrieve), also on behalf of another call.
    Retrieve,
    /// [`Client::wait`](crate::Client::wait), also on behalf of another call.
    Wait,
    /// [`Client::download`](crate::Client::download), also on behalf of another call.
    Download,
    /// [`Client::generate_to`](crate::Client::generate_to).
    GenerateTo,
    /// [`Client::generate_all_to`](crate::Client::generate_all_to).
    GenerateAllTo,
    /// [`Client::generate_recorded`](crate::Client::generate_recorded).
    GenerateRecorded,
    /// [`Client::find`](crate::Client::find), also on behalf of another call.
    Find,
    /// [`Client::list`](crate::Client::list).
    List,
    /// [`Client::pricing`](crate::Client::pricing).
    Pricing,
    /// [`Client::balance`](crate::Client::balance).
    Balance,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Build => "build",
            Self::Validate => "validate",
            Self::Create => "create",
            Self::Retrieve => "retrieve",
            Self::Wait => "wait",
            Self::Download => "download",
            Self::GenerateTo => "generate_to",
            Self::GenerateAllTo => "generate_all_to",
            Self::GenerateRecorded => "generate_recorded",
            Self::Find => "find",
            Self::List => "list",
            Self::Pricing => "pricing",
            Self::Balance => "balance",
        })
    }
}
