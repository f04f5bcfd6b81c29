//! Which addresses are used, and where a redirect leads.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::http::uri::Authority;

use crate::error::{Error, Result};

pub(super) fn check_base_url(base: &str) -> Result<Uri> {
    let refused = |problem: &str| Error::config(format!("base_url: {problem}"));
    let uri: Uri = base.parse().map_err(|e| Error::config_from("base_url: is no URL", e))?;
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err(refused("names no host"));
    }
    if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
        // Not quoted: what stands there is a password.
        return Err(refused("holds a user name: allowed is none, the key goes in a header"));
    }
    if uri.authority().is_some_and(has_unreadable_port) {
        return Err(refused("has no port that can be read: allowed is none, or 1 to 65535"));
    }
    if base.contains(['?', '#']) {
        return Err(refused("holds a query: allowed is a scheme, a host and perhaps a path"));
    }
    match uri.scheme_str() {
        Some("https") => Ok(uri),
        Some("http") if is_loopback(host) => Ok(uri),
        Some("http") => Err(refused("is http: allowed is https, and http on the loopback only")),
        _ => Err(refused("has no scheme that is known: allowed is https")),
    }
}

pub(super) fn bare_host(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = bare_host(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// ureq takes the scheme's own port instead, and would send the request to another server.
pub(super) fn has_unreadable_port(authority: &Authority) -> bool {
    let host_and_port = authority.as_str().rsplit('@').next().unwrap_or_default();
    let is_named = host_and_port.len() > authority.host().len();
    is_named && authority.port_u16().is_none_or(|port| port == 0)
}

/// A redirect's target, which may be relative (RFC 3986, without the dots nobody sends).
pub(super) fn resolve(base: &str, location: &str) -> String {
    let scheme_end = base.find("://").map_or(0, |at| at + 3);
    let authority_end = base
        .get(scheme_end..)
        .and_then(|rest| rest.find(['/', '?', '#']))
        .map_or(base.len(), |at| scheme_end + at);
    let up_to = |end: usize| base.get(..end).unwrap_or(base);
    let location = location.split('#').next().unwrap_or_default();
    let has_scheme = location.split(['/', '?']).next().is_some_and(|start| start.contains(':'));
    if has_scheme {
        location.to_owned()
    } else if location.starts_with("//") {
        format!("{}{location}", up_to(scheme_end.saturating_sub(2)))
    } else if location.starts_with('/') {
        format!("{}{location}", up_to(authority_end))
    } else {
        let path_end = base.find(['?', '#']).unwrap_or(base.len());
        let path = up_to(path_end);
        if location.starts_with('?') {
            format!("{path}{location}")
        } else {
            let folder = path.rfind('/').filter(|&at| at >= authority_end);
            format!("{}/{location}", path.get(..folder.unwrap_or(path.len())).unwrap_or(path))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_may_be_relative() {
        let base = "https://cdn.example/a/b.mp4?sig=1/2";
        for (location, resolved) in [
            ("https://other.example/x?y#z", "https://other.example/x?y"),
            ("file:///etc/passwd", "file:///etc/passwd"),
            ("//other.example/x", "https://other.example/x"),
            ("/x/y", "https://cdn.example/x/y"),
            ("c.mp4", "https://cdn.example/a/c.mp4"),
            ("c.mp4?to=https://x", "https://cdn.example/a/c.mp4?to=https://x"),
            ("?sig=2", "https://cdn.example/a/b.mp4?sig=2"),
        ] {
            assert_eq!(resolve(base, location), resolved, "{location}");
        }
        assert_eq!(resolve("https://cdn.example", "c.mp4"), "https://cdn.example/c.mp4");
        assert_eq!(resolve("https://cdn.example?x", "/c.mp4"), "https://cdn.example/c.mp4");
    }

    #[test]
    fn loopback_is_what_the_machine_keeps_to_itself() {
        for host in ["localhost", "LOCALHOST", "127.0.0.1", "127.8.9.10", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in
            ["", "localhost.example.com", "128.0.0.1", "127.0.0.1.nip.io", "[::2]", "0.0.0.0"]
        {
            assert!(!is_loopback(host), "{host}");
        }
    }

    #[test]
    fn a_base_url_is_https_or_on_the_loopback_and_nothing_but_an_address() {
        for good in [
            "https://api.aimlapi.com",
            "https://api.aimlapi.com:8443/behind/a/path",
            "http://127.0.0.1:80",
            "http://[::1]:8080",
        ] {
            assert!(check_base_url(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "api.aimlapi.com",
            "http://api.aimlapi.com",
            "ftp://api.aimlapi.com",
            "https://me:secret@api.aimlapi.com",
            "https://api.aimlapi.com?secret",
            "https://api.aimlapi.com:",
            "https://api.aimlapi.com:0",
            "https://api.aimlapi.com:port",
            "https://api.aimlapi.com:99999",
            "https://api.aimlapi.com:-1",
        ] {
            let error = check_base_url(bad).unwrap_err();
            assert!(error.to_string().contains("base_url"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
    }
}
