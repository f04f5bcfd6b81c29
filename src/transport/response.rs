//! Reads responses: an API response as a whole, a download in pieces.

use std::io::Read;

use ureq::http::{HeaderMap, header};

use crate::api_key::ApiKey;
use crate::cancel::{CancelToken, is_cancelled};
use crate::error::{Error, ErrorResponse, Result};
use crate::fs::read_up_to;
use crate::model::response::{Headers, RESPONSE_HEADERS, Response};
use crate::operation::Operation;
use crate::redact::{has_control, sanitize, snippet};

use super::error::receive_error;
use super::url::encode_url;

/// A larger API response is rejected.
const MAX_RESPONSE_BODY: u64 = 1024 * 1024;

pub(super) type HttpResponse = ureq::http::Response<ureq::Body>;

/// A response whose body is still to be read, in pieces or as a whole.
pub(crate) struct UnreadResponse<'a> {
    pub(crate) status: u16,
    pub(crate) headers: Headers,
    /// The length of the body. `None` if the transfer encoding overrides `Content-Length`.
    pub(crate) length: Option<u64>,
    operation: Operation,
    body: ureq::BodyReader<'static>,
    key: &'a ApiKey,
    token: Option<&'a CancelToken>,
}

impl<'a> UnreadResponse<'a> {
    pub(super) fn new(
        response: HttpResponse,
        operation: Operation,
        key: &'a ApiKey,
        token: Option<&'a CancelToken>,
    ) -> Self {
        let (parts, body) = response.into_parts();
        Self {
            status: parts.status.as_u16(),
            headers: filter_headers(&parts.headers, key),
            length: body.content_length(),
            operation,
            body: body.into_reader(),
            key,
            token,
        }
    }

    /// Reads the next bytes of the body and returns their number, 0 at the end.
    pub(crate) fn read(&mut self, buf: &mut [u8]) -> Result<usize> {
        let read = self.body.read(buf);
        // A connection that cancelling has shut down can look like the end of the body.
        if is_cancelled(self.token) {
            return Err(Error::cancelled(self.operation));
        }
        read.map_err(|e| receive_error(e.into(), self.operation))
    }

    /// Reads the whole body, or as much of it as possible and at most [`MAX_RESPONSE_BODY`].
    ///
    /// A pooled connection is reused only after the body is read to EOF, when ureq also checks that
    /// the connection is still open. A create's is not pooled, so that a body of known length is not
    /// read any further.
    pub(crate) fn into_response(mut self) -> Response {
        let operation = self.operation;
        let expected = self.length.unwrap_or_default().min(MAX_RESPONSE_BODY) as usize;
        let known_len = self.length.filter(|_| operation == Operation::Create);
        let max_len = known_len.unwrap_or(u64::MAX).min(MAX_RESPONSE_BODY + 1);
        let mut body = Vec::with_capacity(expected);
        let body_result = match read_up_to(&mut self.body, max_len, &mut body) {
            Ok(_) if body.len() as u64 > MAX_RESPONSE_BODY => {
                body.truncate(MAX_RESPONSE_BODY as usize);
                Err(Error::decode(operation, "response body exceeds the 1 MiB limit"))
            }
            Ok(_) => Ok(()),
            Err(e) => Err(receive_error(e.into(), operation)),
        };
        let body = self.key.redact_json(body);
        Response { operation, status: self.status, headers: self.headers, body, body_result }
    }

    /// The error for a body that is not a video. `start` is the start of the body.
    pub(crate) fn not_a_video(&self, problem: &str, start: Vec<u8>) -> Error {
        let header = |name| sanitize(self.headers.get(name).unwrap_or("none"));
        let (kind, encoding) = (header("content-type"), header("content-encoding"));
        let message = format!("{problem} (Content-Type: {kind}, Content-Encoding: {encoding})");
        let body = snippet(&self.key.redact_json(start));
        let response =
            ErrorResponse { status: Some(self.status), body, ..ErrorResponse::default() };
        Error::decode(self.operation, message).with_response(response)
    }
}

fn filter_headers(headers: &HeaderMap, key: &ApiKey) -> Headers {
    // A response usually has fewer headers than there are names to search for.
    let known = headers.iter().filter_map(|(name, value)| {
        let name = name.as_str();
        let name = *RESPONSE_HEADERS.iter().find(|known| **known == name)?;
        let value = key.redact(String::from_utf8(value.as_bytes().to_vec()).ok()?);
        (!has_control(&value)).then_some((name, value))
    });
    Headers(known.collect())
}

/// The target of a redirect, which servers also send as raw UTF-8.
pub(super) fn location(response: &HttpResponse) -> Option<String> {
    let is_redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
    let location = response.headers().get(header::LOCATION).filter(|_| is_redirect)?;
    Some(encode_url(location.as_bytes()))
}
