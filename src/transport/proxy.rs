//! Selects the proxy and the hosts that bypass it.

use std::env::VarError;

use ureq::http::Uri;
use ureq::http::uri::Scheme;
use ureq::{Proxy, ProxyProtocol};

use super::url::{has_invalid_port, is_loopback, strip_brackets};
use crate::error::{Error, Result};

/// Where the proxy is configured.
#[derive(Clone, Default)]
pub(crate) enum ProxyChoice {
    #[default]
    Environment,
    None,
    Url(String),
}

/// In order of precedence: the variables for https come first.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];

/// A proxy and the hosts that bypass it.
pub(super) struct ProxyConfig {
    pub(super) proxy: Proxy,
    /// As in curl and other programs, entries are separated by commas or whitespace.
    no_proxy: String,
}

impl ProxyConfig {
    /// The proxy to use for this URL, which is none on the loopback.
    pub(super) fn for_uri(&self, uri: &Uri) -> Option<&Proxy> {
        let host = strip_brackets(uri.host().unwrap_or_default()).to_ascii_lowercase();
        let default_port = if uri.scheme() == Some(&Scheme::HTTP) { 80 } else { 443 };
        let port = uri.port_u16().unwrap_or(default_port);
        let mut entries = self.no_proxy.split(|c: char| c == ',' || c.is_whitespace());
        let direct = is_loopback(&host) || entries.any(|entry| includes(entry, &host, port));
        (!direct).then_some(&self.proxy)
    }
}

/// Whether an entry is for this host: a domain includes its subdomains, `*` every host, and an entry
/// without a port all ports.
fn includes(entry: &str, host: &str, port: u16) -> bool {
    let (domain, own_port) = match entry.rsplit_once(':') {
        // In an IPv6 address without brackets, what follows the last colon is no port.
        Some((domain, port)) if !domain.contains(':') || domain.ends_with(']') => {
            (domain, port.parse::<u16>().ok())
        }
        _ => (entry, None),
    };
    let domain = domain.trim_start_matches('*').trim_start_matches('.');
    let domain = strip_brackets(domain).to_ascii_lowercase();
    let is_in = host
        .strip_suffix(&*domain)
        .is_some_and(|before| domain.is_empty() || before.is_empty() || before.ends_with('.'));
    is_in && !entry.is_empty() && own_port.is_none_or(|own_port| own_port == port)
}

pub(super) fn resolve_proxy(choice: ProxyChoice) -> Result<Option<ProxyConfig>> {
    let (setting, url, no_proxy) = match choice {
        ProxyChoice::None => return Ok(None),
        ProxyChoice::Url(url) => ("proxy", url, None),
        ProxyChoice::Environment => {
            let Some((name, url)) = first_variable(&PROXY_VARIABLES)? else { return Ok(None) };
            (name, url.trim().to_owned(), first_variable(&["NO_PROXY", "no_proxy"])?)
        }
    };
    let no_proxy = no_proxy.map(|(_, list)| list).unwrap_or_default();
    Ok(Some(ProxyConfig { proxy: parse_proxy(setting, &url)?, no_proxy }))
}

/// The first of these environment variables that is set and not blank, with its value.
pub(crate) fn first_variable(names: &[&'static str]) -> Result<Option<(&'static str, String)>> {
    for &name in names {
        match std::env::var(name) {
            Ok(value) if !value.trim().is_empty() => return Ok(Some((name, value))),
            Err(VarError::NotUnicode(_)) => {
                return Err(Error::config(format!("the variable {name} is not valid UTF-8")));
            }
            _ => {}
        }
    }
    Ok(None)
}

/// Error messages name the setting and never quote the URL, which may contain a password.
fn parse_proxy(setting: &str, url: &str) -> Result<Proxy> {
    let error = |message: &str| Error::config(format!("{setting} {message}"));
    let proxy = Proxy::new(url).map_err(|_| error("must be a URL of the form http://host:port"))?;
    if proxy.uri().authority().is_some_and(has_invalid_port) {
        return Err(error("has an invalid port; must be 1 to 65535 or omitted"));
    }
    match proxy.protocol() {
        ProxyProtocol::Http | ProxyProtocol::Https => Ok(proxy),
        other => Err(error(&format!("is a {other} proxy; must be an HTTP or HTTPS proxy"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bypasses_proxy(no_proxy: &str, authority: &str) -> bool {
        let proxy = parse_proxy("proxy", "http://proxy.example:8080").unwrap();
        let config = ProxyConfig { proxy, no_proxy: no_proxy.to_owned() };
        config.for_uri(&format!("https://{authority}/").parse().unwrap()).is_none()
    }

    #[test]
    fn no_proxy_entries_include_subdomains() {
        for entries in [
            "internal.example , *.wild.example,.dot.example",
            "internal.example\t*.wild.example \n .dot.example",
        ] {
            for host in
                ["internal.example", "API.internal.example", "a.wild.example", "a.dot.example"]
            {
                assert!(bypasses_proxy(entries, host), "{host}");
                assert!(bypasses_proxy("*", host), "{host}");
                assert!(!bypasses_proxy("", host), "{host}");
            }
            assert!(!bypasses_proxy(entries, "api.aimlapi.com"));
            assert!(!bypasses_proxy(entries, "notinternal.example"));
        }
    }

    #[test]
    fn no_proxy_entry_with_a_port_is_only_for_that_port() {
        for (entry, authority, bypassed) in [
            ("api.example:8443", "api.example:8443", true),
            ("api.example:8443", "v2.api.example:8443", true),
            ("api.example:8443", "api.example", false),
            ("api.example:443", "api.example", true),
            ("*:8443", "api.example:8443", true),
            ("[2001:db8::1]:8443", "[2001:db8::1]:8443", true),
            ("[2001:db8::1]:8443", "[2001:db8::1]", false),
            ("[2001:db8::1]", "[2001:db8::1]:1", true),
            ("2001:db8::1", "[2001:db8::1]", true),
        ] {
            assert_eq!(bypasses_proxy(entry, authority), bypassed, "{entry} {authority}");
        }
    }

    #[test]
    fn proxy_password_is_decoded_and_not_in_errors() {
        let proxy = parse_proxy("proxy", "http://me:p%40ss@proxy.example:8080").unwrap();
        assert_eq!((proxy.username(), proxy.password()), (Some("me"), Some("p@ss")));
        for url in [
            "socks5://me:secret@proxy.example",
            "http://me:secret@",
            "gopher://me:secret@x",
            "http://me:secret@x:99999",
        ] {
            let error = parse_proxy("proxy", url).unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
