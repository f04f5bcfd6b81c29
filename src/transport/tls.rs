//! Which TLS library and whose certificates are used.

#[cfg(any(feature = "rustls", feature = "native-tls"))]
pub(crate) use on::Tls;

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
pub(crate) use off::Tls;

#[cfg(any(feature = "rustls", feature = "native-tls"))]
mod on {
    use crate::error::{Error, Result};
    use crate::transport::AgentConfig;

    #[derive(Clone)]
    pub(crate) struct Tls(ureq::tls::TlsConfig);

    impl Tls {
        /// With the certificate authorities that the features choose.
        pub(crate) fn usual() -> Self {
            use ureq::tls::RootCerts;
            let bundled = cfg!(all(feature = "rustls", not(feature = "platform-verifier")));
            Self::with(if bundled { RootCerts::WebPki } else { RootCerts::PlatformVerifier })
        }

        /// With these certificate authorities instead.
        pub(crate) fn trusting(pem: &[u8]) -> Result<Self> {
            let certificates = parse_certificates(pem)?;
            Ok(Self::with(ureq::tls::RootCerts::Specific(std::sync::Arc::new(certificates))))
        }

        fn with(roots: ureq::tls::RootCerts) -> Self {
            use ureq::tls::{TlsConfig, TlsProvider};
            let provider =
                if cfg!(feature = "rustls") { TlsProvider::Rustls } else { TlsProvider::NativeTls };
            Self(TlsConfig::builder().provider(provider).root_certs(roots).build())
        }

        pub(in crate::transport) fn check(&self) -> Result<()> {
            Ok(())
        }

        pub(in crate::transport) fn apply(&self, config: AgentConfig) -> AgentConfig {
            config.tls_config(self.0.clone())
        }
    }

    fn parse_certificates(pem: &[u8]) -> Result<Vec<ureq::tls::Certificate<'static>>> {
        use ureq::tls::{PemItem, parse_pem};
        let mut certificates = Vec::new();
        for item in parse_pem(pem) {
            let item =
                item.map_err(|e| Error::config_from("root_certificates_pem: is no PEM", e))?;
            if let PemItem::Certificate(certificate) = item {
                // The TLS library ignores what it cannot read, and would then trust nobody.
                if !is_certificate(certificate.der()) {
                    return Err(Error::config(
                        "root_certificates_pem: holds a damaged certificate",
                    ));
                }
                certificates.push(certificate);
            }
        }
        if certificates.is_empty() {
            return Err(Error::config("root_certificates_pem: holds no certificate"));
        }
        Ok(certificates)
    }

    /// Whether the bytes have the shape of a certificate: a sequence of what is signed, how, and the
    /// signature (X.509). Whether it is a sound one is for the TLS library to say.
    fn is_certificate(der: &[u8]) -> bool {
        const SEQUENCE: u8 = 0x30;
        const BIT_STRING: u8 = 0x03;
        let Some((SEQUENCE, mut rest, [])) = element(der) else { return false };
        for expected in [SEQUENCE, SEQUENCE, BIT_STRING] {
            rest = match element(rest) {
                Some((tag, [_, ..], after)) if tag == expected => after,
                _ => return false,
            };
        }
        rest.is_empty()
    }

    /// The first ASN.1 element: its tag, its content, and what follows it.
    fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
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
        fn a_certificate_has_three_parts() {
            let part = |tag: u8, length: u8| [vec![tag, length], vec![0; length.into()]].concat();
            let sequence = |parts: &[Vec<u8>]| {
                let content = parts.concat();
                [vec![0x30, 0x82, 0, content.len() as u8], content].concat()
            };
            let sound = [part(0x30, 9), part(0x30, 2), part(0x03, 5)];
            assert!(is_certificate(&sequence(&sound)));
            let whole = sequence(&sound);
            for cut in 0..whole.len() {
                assert!(!is_certificate(&whole[..cut]), "{cut}");
            }
            assert!(!is_certificate(&[whole, vec![0]].concat()));
            assert!(!is_certificate(&sequence(&[part(0x02, 1)])));
            assert!(!is_certificate(&sequence(&[part(0x30, 9), part(0x30, 2)])));
            assert!(!is_certificate(&sequence(&[part(0x30, 9), part(0x30, 2), part(0x03, 0)])));
        }
    }
}

#[cfg(not(any(feature = "rustls", feature = "native-tls")))]
mod off {
    use crate::error::{Error, Result};
    use crate::transport::AgentConfig;

    #[derive(Clone)]
    pub(crate) struct Tls;

    impl Tls {
        pub(crate) fn usual() -> Self {
            Self
        }

        pub(crate) fn trusting(_pem: &[u8]) -> Result<Self> {
            Self.check().map(|()| Self)
        }

        pub(in crate::transport) fn check(&self) -> Result<()> {
            Err(Error::config(
                "https needs one of the features `rustls` (the default), `platform-verifier` or `native-tls`",
            ))
        }

        pub(in crate::transport) fn apply(&self, config: AgentConfig) -> AgentConfig {
            config
        }
    }
}
