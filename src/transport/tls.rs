//! Selects the TLS library and the trusted root certificates.

#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod enabled;

use std::sync::Arc;

use crate::error::{Error, Result};

#[cfg(any(feature = "rustls", feature = "native-tls"))]
pub(crate) use self::enabled::Tls;

/// Parses PEM. A closure, so that programs that set no certificates are linked without a parser.
pub(crate) type RootCertificates = Arc<dyn Fn() -> Result<Tls> + Send + Sync>;

pub(crate) fn root_certificates(pem: &[u8]) -> RootCertificates {
    let pem = pem.to_vec();
    Arc::new(move || Tls::with_root_certs(&pem))
}

/// Fails if the crate was built without a TLS library.
pub(super) fn ensure_enabled() -> Result<()> {
    if cfg!(any(feature = "rustls", feature = "native-tls")) {
        return Ok(());
    }
    Err(Error::config(
        "https requires one of the features `rustls` (the default), `platform-verifier` or `native-tls`",
    ))
}

/// Without a TLS library, there is nothing to configure.
#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
#[derive(Clone, Default)]
pub(crate) struct Tls;

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
impl Tls {
    fn with_root_certs(_pem: &[u8]) -> Result<Self> {
        ensure_enabled().map(|()| Self)
    }

    pub(super) fn apply<T>(&self, config: T) -> T {
        config
    }
}
