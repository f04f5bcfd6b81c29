//! The URLs of images: `http` or `https`, and valid as the API's universal route checks them.

use std::net::Ipv6Addr;

use crate::error::{Error, Result};
use crate::model::response::encode_uri;

/// Validates a URL and percent-encodes what a URI may not contain. A valid one, which may be signed,
/// stays as it is.
pub(super) fn validate_url(field: &str, url: &str) -> Result<String> {
    let (scheme, rest) = url.split_once(':').unwrap_or_default();
    let rest = rest.strip_prefix("//").unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
    let requirement = if has_scheme(url, "data:") {
        "must not be a data: URI: use Image::bytes or Image::file"
    } else if !has_scheme(url, "http:") && !has_scheme(url, "https:") {
        "must start with http:// or https://; for a file, use Image::file"
    } else if url.bytes().any(|byte| byte <= b' ' || byte == 0x7F) {
        "must not contain whitespace or control characters"
    } else if !is_valid_authority(authority) {
        "must have a valid host, in ASCII"
    } else {
        return Ok([scheme, "://", authority, &encode_uri(path)].concat());
    };
    let message = format!("`{field}` is {:?}; {requirement}", redact_data_uri(url));
    Err(Error::invalid_request(field, message))
}

/// A user, `@`, a host, `:` and a port, of which only the host is required.
fn is_valid_authority(authority: &str) -> bool {
    let (user, host) = authority.split_once('@').unwrap_or(("", authority));
    let (host, port) = match host.rsplit_once(':') {
        Some(host_and_port) if !host.ends_with(']') => host_and_port,
        _ => (host, ""),
    };
    let is_valid_host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => !host.is_empty() && !host.contains([':', '@']) && encode_uri(host) == host,
    };
    is_valid_host && encode_uri(user) == user && port.bytes().all(|byte| byte.is_ascii_digit())
}

/// A URL for messages: a `data:` URI given by mistake contains the complete image.
pub(super) fn redact_data_uri(url: &str) -> &str {
    if has_scheme(url, "data:") { "data:…" } else { url }
}

/// Whether a text starts with this scheme, in any case.
pub(super) fn has_scheme(text: &str, scheme: &str) -> bool {
    text.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme))
}
