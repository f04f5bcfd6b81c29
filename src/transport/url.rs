//! Validates the base URL and resolves redirects.

use std::net::IpAddr;

use ureq::http::Uri;
use ureq::http::uri::Authority;

use crate::api_key::ApiKey;
use crate::error::{Error, Result};
use crate::model::response::percent_encode;

pub(super) fn validate_base_url(base_url: &str, key: &ApiKey) -> Result<Uri> {
    let uri = base_url
        .parse::<Uri>()
        .map_err(|e| Error::config("base_url is not a valid URL").with_source(e.into()))?;
    let host = uri.host().unwrap_or_default();
    let https_only = || quote_origin(&uri, key).unwrap_or_default() + "must start with https://";
    let problem = match uri.scheme_str() {
        _ if host.is_empty() => "has no host",
        _ if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) => {
            "must not contain credentials; the API key is sent in a header"
        }
        _ if uri.authority().is_some_and(has_invalid_port) => {
            "has an invalid port; must be 1 to 65535 or omitted"
        }
        _ if base_url.contains(['?', '#']) => "must not contain a query or a fragment",
        Some("https") => return Ok(uri),
        Some("http") if is_loopback(host) => return Ok(uri),
        Some("http") => &(https_only() + "; http:// is for loopback hosts only"),
        _ => &https_only(),
    };
    Err(Error::config(format!("base_url {problem}")))
}

/// The URL's scheme and host in quotation marks, without its path, which may contain a secret.
/// `None` if the host has no dot and so may be an API key that was passed by mistake.
fn quote_origin(uri: &Uri, key: &ApiKey) -> Option<String> {
    let authority = uri.authority()?.as_str();
    let scheme = uri.scheme_str().map(|scheme| format!("{scheme}://")).unwrap_or_default();
    let origin = key.redact(format!("{scheme}{authority}"));
    authority.contains('.').then(|| format!("\"{origin}\" "))
}

pub(super) fn strip_brackets(host: &str) -> &str {
    host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host)
}

pub(super) fn is_loopback(host: &str) -> bool {
    let host = strip_brackets(host);
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Whether a host is this machine or on its link: no video is there, but maybe services that trust
/// whoever can reach them.
pub(super) fn is_local(host: &str) -> bool {
    // Without an IPv6 zone and the root's dot.
    let host = strip_brackets(host).split('%').next().unwrap_or_default().trim_end_matches('.');
    let Ok(address) = host.parse::<IpAddr>() else {
        // No top-level domain starts with a digit: this is another notation of an IPv4 address,
        // such as `127.1`, which system resolvers accept.
        let label = host.rsplit('.').next().unwrap_or_default();
        return label.eq_ignore_ascii_case("localhost")
            || label.starts_with(|c: char| c.is_ascii_digit());
    };
    match address.to_canonical() {
        IpAddr::V4(ip) => ip.is_loopback() || ip.is_link_local() || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.is_unicast_link_local() || ip.is_unspecified(),
    }
}

/// Trims a URL and percent-encodes the bytes that a URI must not contain, as browsers and curl do.
/// All others stay as they are, since the URL may be signed.
pub(super) fn encode_url(url: &[u8]) -> String {
    percent_encode(url.trim_ascii(), &mut |byte, _| {
        byte.is_ascii_graphic() && !br#""<>\^`{|}"#.contains(&byte)
    })
}

/// For an invalid port ureq uses the default one, and would send the request to another server.
pub(super) fn has_invalid_port(authority: &Authority) -> bool {
    let host_and_port = authority.as_str().rsplit('@').next().unwrap_or_default();
    let has_port = host_and_port.len() > authority.host().len();
    has_port && authority.port_u16().is_none_or(|port| port == 0)
}

/// Resolves a redirect's `Location`, which may be relative (RFC 3986, but without `.` and `..`,
/// which servers do not send).
pub(super) fn resolve_redirect(base: &Uri, location: &str) -> String {
    let scheme = base.scheme_str().unwrap_or_default();
    let authority = base.authority().map_or("", Authority::as_str);
    let path = base.path();
    let dir = path.rsplit_once('/').map_or("", |(dir, _)| dir);
    match location {
        _ if location.split(['/', '?', '#']).next().is_some_and(|start| start.contains(':')) => {
            location.to_owned()
        }
        _ if location.starts_with("//") => format!("{scheme}:{location}"),
        _ if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        _ if location.starts_with('?') => format!("{scheme}://{authority}{path}{location}"),
        _ => format!("{scheme}://{authority}{dir}/{location}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirect_may_be_relative() {
        let resolve = |base: &str, location| resolve_redirect(&base.parse().unwrap(), location);
        let base = "https://cdn.example/a/b.mp4?sig=1/2";
        for (location, resolved) in [
            ("https://other.example/x?y#z", "https://other.example/x?y#z"),
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
        assert_eq!(resolve("https://cdn.example?x", "c.mp4"), "https://cdn.example/c.mp4");
    }

    #[test]
    fn loopback_hosts_are_recognized() {
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
    fn hosts_elsewhere_are_not_local() {
        for host in ["cdn.aimlapi.com", "1.2.3.4.example.com", "10.0.0.1", "169.253.1.1", "[::2]"] {
            assert!(!is_local(host), "{host}");
        }
        for host in ["[fec0::1]", "[::ffff:10.0.0.1]", "localhost.example.com.", "x.xn--p1ai"] {
            assert!(!is_local(host), "{host}");
        }
        for host in ["a.localhost", "127.0.0.1.", "[::ffff:169.254.1.1]", "[fe80::1%eth0]", "0"] {
            assert!(is_local(host), "{host}");
        }
    }

    #[test]
    fn base_url_is_https_or_loopback_without_credentials_and_query() {
        let key = ApiKey::new("api-key-of-the-test".to_owned()).unwrap();
        for valid in [
            "https://api.aimlapi.com",
            "https://api.aimlapi.com:8443/behind/a/path",
            "http://127.0.0.1:80",
            "http://[::1]:8080",
        ] {
            assert!(validate_base_url(valid, &key).is_ok(), "{valid}");
        }
        for invalid in [
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
            let error = validate_base_url(invalid, &key).unwrap_err();
            assert!(error.to_string().contains("base_url"), "{error}");
            assert!(!format!("{error:?}").contains("secret"), "{error:?}");
        }
        let https_only = "must start with https://";
        let loopback_only = "must start with https://; http:// is for loopback hosts only";
        for (invalid, message) in [
            ("api.aimlapi.com", format!("base_url \"api.aimlapi.com\" {https_only}")),
            (
                "http://api.aimlapi.com",
                format!("base_url \"http://api.aimlapi.com\" {loopback_only}"),
            ),
            ("ftp://10.0.0.1:80/secret", format!("base_url \"ftp://10.0.0.1:80\" {https_only}")),
            (
                "http://api-key-of-the-test.x",
                format!("base_url \"http://[key].x\" {loopback_only}"),
            ),
            // A key where the URL should be.
            ("0123456789abcdef", format!("base_url {https_only}")),
        ] {
            assert_eq!(validate_base_url(invalid, &key).unwrap_err().to_string(), message);
        }
    }
}
