//! Local replies: answers that the waypoint gives itself, with Envoy's bodies and details.
//!
//! A gRPC request is answered with status 200 and `grpc-status`, as Envoy does (trailers-only).

use std::borrow::Cow;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, StatusCode, header};

use crate::service::Response;
use crate::service::body::Body;
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::StreamInfo;

/// In a response's extensions: the connection ends with it.
#[derive(Clone, Copy, Debug)]
pub struct Closing;

/// In the extensions of a response that the waypoint gives itself: its status, whatever gRPC is told, and its text.
#[derive(Clone, Debug)]
pub struct Local {
    pub status: StatusCode,
    pub body: Bytes,
}

/// What to answer, and how it is recorded.
#[derive(Clone, Debug)]
pub struct LocalReply {
    pub status: StatusCode,
    pub body: Cow<'static, str>,
    /// `%RESPONSE_CODE_DETAILS%`, in Envoy's names.
    pub details: Cow<'static, str>,
    pub flags: ResponseFlags,
    /// Whether the connection ends with the answer.
    pub close: bool,
    /// gRPC's status, where it isn't the one that stands for `status`.
    pub grpc_status: Option<u32>,
}

impl LocalReply {
    pub fn new(
        status: StatusCode,
        body: impl Into<Cow<'static, str>>,
        details: impl Into<Cow<'static, str>>,
    ) -> LocalReply {
        LocalReply {
            status,
            body: body.into(),
            details: details.into(),
            flags: ResponseFlags::default(),
            close: false,
            grpc_status: None,
        }
    }

    pub fn with_flags(mut self, flags: ResponseFlags) -> LocalReply {
        self.flags = flags;
        self
    }

    /// What gRPC is told.
    pub fn with_grpc_status(mut self, status: u32) -> LocalReply {
        self.grpc_status = Some(status);
        self
    }

    /// The connection ends with this answer (HTTP/1).
    pub fn closing(mut self) -> LocalReply {
        self.close = true;
        self
    }

    /// Records the reply on the stream and makes the response. `request` tells whether it is gRPC.
    pub fn respond(self, stream: &StreamInfo, request: &HeaderMap) -> Response {
        self.respond_as(stream, is_grpc(request))
    }

    /// As [`respond`](LocalReply::respond), where the request's head is gone already.
    pub fn respond_as(self, stream: &StreamInfo, grpc: bool) -> Response {
        {
            let mut state = stream.state();
            state.flags.insert(self.flags);
            state.response_code_details = Some(self.details);
        }
        let mut response = http::Response::new(Body::empty());
        let body = match &self.body {
            Cow::Borrowed(body) => Bytes::from_static(body.as_bytes()),
            Cow::Owned(body) => Bytes::from(body.clone()),
        };
        response.extensions_mut().insert(Local {
            status: self.status,
            body: body.clone(),
        });
        if grpc {
            let headers = response.headers_mut();
            headers.insert(
                header::CONTENT_TYPE,
                HeaderValue::from_static("application/grpc"),
            );
            let status = self.grpc_status.unwrap_or_else(|| grpc_status(self.status));
            headers.insert("grpc-status", status.into());
            if let Ok(message) = HeaderValue::from_str(&percent_encode(self.body.as_bytes()))
                && !self.body.is_empty()
            {
                headers.insert("grpc-message", message);
            }
            return response;
        }
        *response.status_mut() = self.status;
        if self.close {
            response.extensions_mut().insert(Closing);
        }
        if !self.body.is_empty() {
            let headers = response.headers_mut();
            headers.insert(header::CONTENT_LENGTH, self.body.len().into());
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
            *response.body_mut() = Body::full(body);
        }
        response
    }
}

/// Whether a request's content type is gRPC (`application/grpc`, with or without `+suffix`).
pub fn is_grpc(request: &HeaderMap) -> bool {
    request.get(header::CONTENT_TYPE).is_some_and(is_grpc_type)
}

/// Whether a `content-type` is gRPC's.
pub fn is_grpc_type(content_type: &HeaderValue) -> bool {
    let rest = content_type.as_bytes().strip_prefix(b"application/grpc");
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with(b"+") || rest.starts_with(b";"))
}

/// The gRPC status that stands for an HTTP status (gRPC's http-grpc-status-mapping).
pub fn grpc_status(status: StatusCode) -> u32 {
    match status.as_u16() {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// Percent-encoding of `grpc-message` (gRPC over HTTP/2, "Percent-Byte").
pub(crate) fn percent_encode(text: &[u8]) -> String {
    let mut out = String::with_capacity(text.len());
    for &byte in text {
        match byte {
            b' '..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_content_types() {
        let is = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            is_grpc(&headers)
        };
        assert!(is("application/grpc") && is("application/grpc+proto"));
        assert!(!is("application/grpc-web") && !is("text/plain"));
        assert_eq!(percent_encode("a%ü".as_bytes()), "a%25%C3%BC");
    }
}
