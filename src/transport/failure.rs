//! Classifies ureq's errors.

use std::io;

use ureq::Timeout;

use crate::http::{TransportError, TransportErrorKind};

/// Maps ureq's error to the kind that it is for this crate.
///
/// Whether a generation may have been created does not depend on the kind, but on whether the
/// request's body has passed its commit point.
pub(super) fn classify_error(e: ureq::Error) -> TransportError {
    use ureq::Error as E;
    let kind = match &e {
        E::BadUri(_)
        | E::HostNotFound
        | E::ConnectionFailed
        | E::ConnectProxyFailed(_)
        | E::Tls(_)
        | E::TlsRequired
        | E::Timeout(Timeout::Resolve | Timeout::Connect) => TransportErrorKind::Connect,
        E::Timeout(_) => TransportErrorKind::Timeout,
        E::Io(e) if is_connect_error(e) => TransportErrorKind::Connect,
        E::LargeResponseHeader(..) => TransportErrorKind::InvalidResponse,
        #[cfg(feature = "rustls")]
        E::Rustls(_) => TransportErrorKind::Connect,
        #[cfg(feature = "native-tls")]
        E::NativeTls(_) => TransportErrorKind::Connect,
        _ => TransportErrorKind::ConnectionLost,
    };
    match e {
        // `ureq::Error` has no `source`, so the I/O error is unwrapped to keep its own.
        E::Io(e) => TransportError::new(kind, e),
        other => TransportError::new(kind, other),
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
        // rustls reports an untrusted certificate like this.
        | K::InvalidData => true,
        // std has no error kind for a failed DNS lookup.
        _ => e.raw_os_error().is_none() && e.to_string().contains("failed to lookup address"),
    }
}
