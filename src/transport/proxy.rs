//! Selects the proxy and the hosts that bypass it.

use ureq::Proxy;

use super::url::has_invalid_port;
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

pub(super) fn resolve_proxy(choice: &ProxyChoice) -> Result<Option<Proxy>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    match choice {
        ProxyChoice::None => Ok(None),
        ProxyChoice::Url(url) => parse_proxy("proxy", url, "").map(Some),
        ProxyChoice::Environment => {
            let found = PROXY_VARIABLES.iter().find_map(|&name| Some((name, variable(name)?)));
            let Some((name, url)) = found else { return Ok(None) };
            let no_proxy = variable("NO_PROXY").or_else(|| variable("no_proxy"));
            parse_proxy(name, url.trim(), &no_proxy.unwrap_or_default()).map(Some)
        }
    }
}

/// Error messages name the setting and never quote the URL, which may contain a password.
fn parse_proxy(setting: &str, url: &str, no_proxy: &str) -> Result<Proxy> {
    let error = |message: &str| Error::config(format!("{setting} {message}"));
    let invalid = |_| error("must be a URL of the form http://host:port");
    let parsed = Proxy::new(url).map_err(invalid)?;
    if parsed.uri().authority().is_some_and(has_invalid_port) {
        return Err(error("has an invalid port; must be 1 to 65535 or omitted"));
    }
    let protocol = parsed.protocol();
    if !matches!(protocol, ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) {
        return Err(error(&format!("is a {protocol} proxy; must be an HTTP or HTTPS proxy")));
    }
    let mut builder = Proxy::builder(protocol).host(parsed.host()).port(parsed.port());
    if let Some(username) = parsed.username() {
        builder = builder.username(username);
    }
    if let Some(password) = parsed.password() {
        builder = builder.password(password);
    }
    // As in curl and other programs, entries may be padded with spaces, and a domain includes its
    // subdomains.
    for entry in no_proxy.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        builder = match domain {
            "" => builder.no_proxy("*"),
            _ => builder.no_proxy(domain).no_proxy(&format!(".{domain}")),
        };
    }
    builder.build().map_err(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_proxy_entries_include_subdomains() {
        let bypasses_proxy = |no_proxy: &str, host: &str| {
            let proxy = parse_proxy("proxy", "http://proxy.example:8080", no_proxy).unwrap();
            proxy.is_no_proxy(&format!("https://{host}/").parse().unwrap())
        };
        let entries = "internal.example , *.wild.example,.dot.example";
        for host in ["internal.example", "api.internal.example", "a.wild.example", "a.dot.example"]
        {
            assert!(bypasses_proxy(entries, host), "{host}");
            assert!(bypasses_proxy("*", host), "{host}");
            assert!(!bypasses_proxy("", host), "{host}");
        }
        assert!(!bypasses_proxy(entries, "api.aimlapi.com"));
        assert!(!bypasses_proxy(entries, "notinternal.example"));
    }

    #[test]
    fn proxy_password_is_decoded_and_not_in_errors() {
        let proxy = parse_proxy("proxy", "http://me:p%40ss@proxy.example:8080", "").unwrap();
        assert_eq!((proxy.username(), proxy.password()), (Some("me"), Some("p@ss")));
        for url in [
            "socks5://me:secret@proxy.example",
            "http://me:secret@",
            "gopher://me:secret@x",
            "http://me:secret@x:99999",
        ] {
            let error = parse_proxy("proxy", url, "").unwrap_err();
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
