//! What ureq's errors mean.

use std::io;

use ureq::Timeout;

use crate::http::{Failure, FailureKind};

/// What ureq's error means. Whether a create may have happened does not hang on this: the body's
/// commit point tells.
pub(super) fn failure(e: ureq::Error) -> Failure {
    use ureq::Error as E;
    let kind = match &e {
        E::BadUri(_)
        | E::HostNotFound
        | E::ConnectionFailed
        | E::ConnectProxyFailed(_)
        | E::Tls(_)
        | E::TlsRequired
        | E::Timeout(Timeout::Resolve | Timeout::Connect) => FailureKind::Connect,
        E::Timeout(_) => FailureKind::Silent,
        E::Io(e) if is_connect_error(e) => FailureKind::Connect,
        E::LargeResponseHeader(..) => FailureKind::Unusable,
        #[cfg(feature = "rustls")]
        E::Rustls(_) => FailureKind::Connect,
        #[cfg(feature = "native-tls")]
        E::NativeTls(_) => FailureKind::Connect,
        _ => FailureKind::Broken,
    };
    match e {
        // ureq's own wrapper hides the cause.
        E::Io(e) => Failure::new(kind, e),
        other => Failure::new(kind, other),
    }
}

fn is_connect_error(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    match e.kind() {
        K::ConnectionRefused
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::AddrNotAvailable
        // What rustls says of a certificate it does not trust.
        | K::InvalidData => true,
        // A look-up has no kind of its own in std.
        _ => e.raw_os_error().is_none() && e.to_string().contains("failed to lookup address"),
    }
}
