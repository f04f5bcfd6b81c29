//! Which proxy is used, and for what not.

use ureq::Proxy;

use super::url::has_unreadable_port;
use crate::error::{Error, Result};

/// Where proxies come from.
#[derive(Clone, Debug, Default)]
pub(crate) enum ProxyChoice {
    #[default]
    Environment,
    None,
    Url(String),
}

/// The environment's proxies, the ones meant for https first.
const PROXY_VARIABLES: [&str; 6] =
    ["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy", "HTTP_PROXY", "http_proxy"];

pub(super) fn find_proxy(choice: &ProxyChoice) -> Result<Option<Proxy>> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.trim().is_empty());
    match choice {
        ProxyChoice::None => Ok(None),
        ProxyChoice::Url(url) => parse_proxy("proxy", url, "").map(Some),
        ProxyChoice::Environment => {
            let found = PROXY_VARIABLES.iter().find_map(|&name| Some((name, variable(name)?)));
            let Some((name, url)) = found else { return Ok(None) };
            let exceptions = variable("NO_PROXY").or_else(|| variable("no_proxy"));
            parse_proxy(name, url.trim(), &exceptions.unwrap_or_default()).map(Some)
        }
    }
}

/// The messages do not quote the URL: it may hold a password.
fn parse_proxy(setting: &str, url: &str, exceptions: &str) -> Result<Proxy> {
    let refused =
        |_| Error::config(format!("{setting}: is no proxy URL: allowed is http://host:port"));
    let given = Proxy::new(url).map_err(refused)?;
    if given.uri().authority().is_some_and(has_unreadable_port) {
        let problem = "has no port that can be read: allowed is none, or 1 to 65535";
        return Err(Error::config(format!("{setting}: {problem}")));
    }
    let protocol = given.protocol();
    if !matches!(protocol, ureq::ProxyProtocol::Http | ureq::ProxyProtocol::Https) {
        return Err(Error::config(format!(
            "{setting}: is a {protocol} proxy: allowed is http or https"
        )));
    }
    let mut proxy = Proxy::builder(protocol).host(given.host()).port(given.port());
    if let Some(name) = given.username() {
        proxy = proxy.username(name);
    }
    if let Some(password) = given.password() {
        proxy = proxy.password(password);
    }
    // As other programs read NO_PROXY: with white space, and with what lies below a domain.
    for entry in exceptions.split(',').map(str::trim).filter(|entry| !entry.is_empty()) {
        let domain = entry.trim_start_matches('*').trim_start_matches('.');
        proxy = match domain {
            "" => proxy.no_proxy("*"),
            _ => proxy.no_proxy(domain).no_proxy(&format!(".{domain}")),
        };
    }
    proxy.build().map_err(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exceptions_from_the_proxy_are_read_as_other_programs_read_them() {
        let bypassed = |exceptions: &str, host: &str| {
            let proxy = parse_proxy("proxy", "http://proxy.example:8080", exceptions).unwrap();
            proxy.is_no_proxy(&format!("https://{host}/").parse().unwrap())
        };
        let listed = "internal.example , *.wild.example,.dot.example";
        for host in ["internal.example", "api.internal.example", "a.wild.example", "a.dot.example"]
        {
            assert!(bypassed(listed, host), "{host}");
            assert!(bypassed("*", host), "{host}");
            assert!(!bypassed("", host), "{host}");
        }
        assert!(!bypassed(listed, "api.aimlapi.com"));
        assert!(!bypassed(listed, "notinternal.example"));
    }

    #[test]
    fn a_proxys_password_is_kept_and_not_told() {
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
