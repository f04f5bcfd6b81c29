//! Reads responses: an API response as a whole, a download in pieces.

use std::io::Read;

use ureq::http::{HeaderMap, HeaderValue, header};

use crate::api_key::ApiKey;
use crate::cancel::{CancelToken, is_cancelled};
use crate::error::{Error, ErrorResponse, Result};
use crate::fs::read_up_to;
use crate::model::response::{Headers, RESPONSE_HEADERS, Response};
use crate::operation::Operation;
use crate::redact::{sanitize, snippet};

use super::error::body_error;
use super::url::encode_url;

/// A larger API response is rejected.
const MAX_RESPONSE_BODY: u64 = 1024 * 1024;

pub(super) type HttpResponse = ureq::http::Response<ureq::Body>;

/// The response to a download request; its body is read in pieces.
pub(crate) struct DownloadResponse {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    /// The length of the body. `None` if the transfer encoding overrides `Content-Length`.
    pub(crate) length: Option<u64>,
    body: ureq::BodyReader<'static>,
    key: ApiKey,
    token: Option<CancelToken>,
}

impl DownloadResponse {
    pub(super) fn new(response: HttpResponse, key: &ApiKey, token: Option<&CancelToken>) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: filter_headers(&parts.headers, key),
            length: body.content_length(),
            body: body.into_reader(),
            key: key.clone(),
            token: token.cloned(),
        }
    }

    /// Reads the next bytes of the body and returns their number, 0 at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let read = self.body.read(buf);
        // A connection that cancelling has shut down can look like the end of the body.
        if is_cancelled(self.token.as_ref()) {
            return Err(Error::cancelled(Operation::Download));
        }
        read.map_err(|e| body_error(e, Operation::Download))
    }

    /// The error for a body that is not a video. `start` is the start of the body.
    pub(crate) fn not_a_video(&self, problem: &str, start: Vec<u8>) -> Error {
        let header = |name| sanitize(self.headers.get(name).unwrap_or("none"));
        let (kind, encoding) = (header("content-type"), header("content-encoding"));
        let message = format!("{problem} (Content-Type: {kind}, Content-Encoding: {encoding})");
        let body = snippet(&self.key.redact_json(start));
        let response =
            ErrorResponse { status: Some(self.status), body, ..ErrorResponse::default() };
        Error::invalid_response(Operation::Download, message, response, None)
    }

    /// Reads the body of an error response, to its end or as far as possible.
    pub(crate) fn into_response(self) -> Response {
        let Self { status, headers, body, key, .. } = self;
        let operation = Operation::Download;
        let (body, body_result) = read_body(body, None, true, operation);
        Response { operation, status, headers, body: key.redact_json(body), body_result }
    }
}

/// Reads an API response. One on a pooled connection is read to EOF.
pub(super) fn read_response(
    response: HttpResponse,
    operation: Operation,
    key: &ApiKey,
    pooled: bool,
) -> Response {
    let (parts, body) = response.into_parts();
    let length = body.content_length();
    let (body, body_result) = read_body(body.into_reader(), length, pooled, operation);
    Response {
        operation,
        status: parts.status.as_u16(),
        headers: filter_headers(&parts.headers, key),
        body: key.redact_json(body),
        body_result,
    }
}

/// Reads a body of at most [`MAX_RESPONSE_BODY`].
///
/// A pooled connection is reused only after the body is read to EOF, when ureq also checks that the
/// connection is still open. Without a pool, a body of known length is not read any further.
fn read_body(
    mut body: ureq::BodyReader<'_>,
    length: Option<u64>,
    pooled: bool,
    operation: Operation,
) -> (Vec<u8>, Result<()>) {
    let expected = length.unwrap_or_default().min(MAX_RESPONSE_BODY) as usize;
    let max_len = length.filter(|_| !pooled).unwrap_or(u64::MAX).min(MAX_RESPONSE_BODY + 1);
    let mut data = Vec::with_capacity(expected);
    let result = match read_up_to(&mut body, max_len, &mut data) {
        Ok(_) if data.len() as u64 > MAX_RESPONSE_BODY => {
            data.truncate(MAX_RESPONSE_BODY as usize);
            Err(Error::decode(operation, "response body exceeds the 1 MiB limit"))
        }
        Ok(_) => Ok(()),
        Err(e) => Err(body_error(e, operation)),
    };
    (data, result)
}

fn filter_headers(headers: &HeaderMap, key: &ApiKey) -> Headers {
    let text = |value: &HeaderValue| {
        let value = key.redact(value.as_bytes().to_vec());
        String::from_utf8(value).ok().filter(|value| !value.contains(char::is_control))
    };
    let mut found = Headers::default();
    // A response usually has fewer headers than there are names to search for.
    for (name, value) in headers {
        let known = RESPONSE_HEADERS.iter().find(|known| **known == name.as_str());
        if let Some((known, text)) = known.and_then(|known| Some((*known, text(value)?))) {
            found.0.push((known, text));
        }
    }
    found
}

/// The target of a redirect, which servers also send as raw UTF-8.
pub(super) fn location(response: &HttpResponse) -> Option<String> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| is_redirect)?;
    Some(encode_url(location.as_bytes()))
}
