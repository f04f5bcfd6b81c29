//! TLS with rustls or native-tls.

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, TlsProvider, parse_pem};

use crate::error::{Error, Result};
use crate::transport::config::AgentConfig;

#[derive(Clone)]
pub(crate) struct Tls(TlsConfig);

impl Default for Tls {
    /// Trusts the root certificates that the cargo features select: Mozilla's, which are
    /// bundled, or the system trust store.
    fn default() -> Self {
        let bundled = cfg!(all(feature = "rustls", not(feature = "platform-verifier")));
        Self::new(if bundled { RootCerts::WebPki } else { RootCerts::PlatformVerifier })
    }
}

impl Tls {
    /// Trusts only these root certificates.
    pub(in crate::transport) fn with_root_certs(pem: &[u8]) -> Result<Self> {
        Ok(Self::new(parse_certificates(pem)?.into()))
    }

    fn new(roots: RootCerts) -> Self {
        let provider =
            if cfg!(feature = "rustls") { TlsProvider::Rustls } else { TlsProvider::NativeTls };
        Self(TlsConfig::builder().provider(provider).root_certs(roots).build())
    }

    pub(in crate::transport) fn apply(&self, config: AgentConfig) -> AgentConfig {
        config.tls_config(self.0.clone())
    }
}

fn parse_certificates(pem: &[u8]) -> Result<Vec<Certificate<'static>>> {
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        let item = item.map_err(|e| {
            Error::config("root_certificates_pem is not valid PEM").with_source(e.into())
        })?;
        if let PemItem::Certificate(certificate) = item {
            // The TLS library skips invalid certificates, and would then trust no server.
            if !is_certificate(certificate.der()) {
                return Err(Error::config("root_certificates_pem contains an invalid certificate"));
            }
            certificates.push(certificate);
        }
    }
    if certificates.is_empty() {
        return Err(Error::config("root_certificates_pem contains no certificate"));
    }
    Ok(certificates)
}

/// Whether the bytes have the structure of an X.509 certificate: a sequence of the signed data,
/// the signature algorithm and the signature. The TLS library checks whether it is valid.
fn is_certificate(der: &[u8]) -> bool {
    const SEQUENCE: u8 = 0x30;
    const BIT_STRING: u8 = 0x03;
    let Some((SEQUENCE, mut rest, [])) = split_element(der) else { return false };
    for expected in [SEQUENCE, SEQUENCE, BIT_STRING] {
        rest = match split_element(rest) {
            Some((tag, [_, ..], after)) if tag == expected => after,
            _ => return false,
        };
    }
    rest.is_empty()
}

/// Splits off the first DER element: its tag, its content, and the bytes after it.
fn split_element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, length, rest) = match der {
        [tag, short @ 0..=0x7F, rest @ ..] => (tag, usize::from(*short), rest),
        [tag, 0x81, a, rest @ ..] => (tag, usize::from(*a), rest),
        [tag, 0x82, a, b, rest @ ..] => (tag, usize::from(u16::from_be_bytes([*a, *b])), rest),
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(length)?;
    Some((*tag, content, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificate_is_a_sequence_of_three_elements() {
        let element = |tag: u8, length: u8| [vec![tag, length], vec![0; length.into()]].concat();
        let sequence = |elements: &[Vec<u8>]| {
            let content = elements.concat();
            [vec![0x30, 0x82, 0, content.len() as u8], content].concat()
        };
        let (data, algorithm) = (element(0x30, 9), element(0x30, 2));
        let valid = sequence(&[data.clone(), algorithm.clone(), element(0x03, 5)]);
        assert!(is_certificate(&valid));
        for len in 0..valid.len() {
            assert!(!is_certificate(&valid[..len]), "{len}");
        }
        assert!(!is_certificate(&[valid, vec![0]].concat()));
        assert!(!is_certificate(&sequence(&[element(0x02, 1)])));
        assert!(!is_certificate(&sequence(&[data.clone(), algorithm.clone()])));
        assert!(!is_certificate(&sequence(&[data, algorithm, element(0x03, 0)])));
    }
}
