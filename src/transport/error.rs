//! Classifies ureq's errors.
//!
//! Whether a generation may have been created does not depend on the class of an error, but on
//! whether the request's body has passed its commit point.

use std::io;

use ureq::Timeout;

use crate::error::{Error, Source};
use crate::operation::Operation;

/// The error of a request that got no response. `peer` is the host it was sent to.
#[cold]
pub(super) fn send_error(e: ureq::Error, operation: Operation, peer: String) -> Error {
    if !is_connect_error(&e) {
        return receive_error(e, operation);
    }
    Error::connect(operation, &peer, connect_hint(&e.to_string()), source(e))
}

/// `ureq::Error` has no `source`, so an I/O error is unwrapped to keep its own.
fn source(e: ureq::Error) -> Source {
    match e {
        ureq::Error::Io(e) => e.into(),
        other => other.into(),
    }
}

/// What to change if the message of a failed connection says that the certificate or the proxy does
/// not allow it. The error types of the TLS libraries are not in ureq's versioned API.
fn connect_hint(message: &str) -> Option<&'static str> {
    if let Some((_, response)) = message.split_once("proxy server responded ") {
        return match response.get(..3)? {
            "407" => Some("the proxy requires valid credentials in its URL"),
            "408" | "429" => None,
            status if status.starts_with(['3', '4']) => Some("the proxy does not permit it"),
            _ => None,
        };
    }
    let message = message.to_ascii_lowercase();
    // An alert is about a certificate of the client.
    let untrusted = message.contains("certificate") && !message.contains("alert");
    untrusted.then_some("its certificate is not trusted; see `root_certificates_pem`")
}

/// The error of a response that could not be received completely.
#[cold]
pub(super) fn receive_error(e: ureq::Error, operation: Operation) -> Error {
    match e {
        ureq::Error::Timeout(_) => Error::timeout(operation, e.into()),
        ureq::Error::LargeResponseHeader(..) => Error::decode(operation, e.to_string()),
        other => Error::transport(operation, source(other)),
    }
}

fn is_connect_error(e: &ureq::Error) -> bool {
    use ureq::Error as E;
    match e {
        E::Io(e) => is_io_connect_error(e),
        E::BadUri(_)
        | E::HostNotFound
        | E::ConnectionFailed
        | E::ConnectProxyFailed(_)
        | E::Tls(_)
        | E::TlsRequired
        | E::Timeout(Timeout::Resolve | Timeout::Connect) => true,
        #[cfg(feature = "rustls")]
        E::Rustls(_) => true,
        #[cfg(feature = "native-tls")]
        E::NativeTls(_) => true,
        _ => false,
    }
}

fn is_io_connect_error(e: &io::Error) -> bool {
    use io::ErrorKind as K;
    match e.kind() {
        K::ConnectionRefused
        | K::HostUnreachable
        | K::NetworkUnreachable
        | K::NetworkDown
        | K::AddrNotAvailable
        // rustls reports an untrusted certificate like this.
        | K::InvalidData => true,
        // std has no error kind for a failed DNS lookup: it is a code on Windows (WSAHOST_NOT_FOUND,
        // WSATRY_AGAIN, WSANO_RECOVERY, WSANO_DATA), and a message elsewhere.
        _ => match e.raw_os_error() {
            Some(code) => (11_001..=11_004).contains(&code),
            None => e.to_string().contains("failed to lookup address"),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_dns_lookup_is_a_connect_error_on_every_system() {
        let is_connect = |e: io::Error| {
            let error = send_error(e.into(), Operation::Create, String::new());
            error.kind() == crate::ErrorKind::Connect
        };
        for code in 11_001..=11_004 {
            assert!(is_connect(io::Error::from_raw_os_error(code)), "{code}");
        }
        assert!(is_connect(io::Error::other("failed to lookup address information: no such host")));
        // EIO of Unix or ERROR_GEN_FAILURE of Windows, WSABASEERR, and a message of something else.
        for e in [5, 31, 10_000].map(io::Error::from_raw_os_error) {
            assert!(!is_connect(e));
        }
        assert!(!is_connect(io::Error::other("connection lost")));
    }
}
