//! What the client is answered in place of its upstream: status, headers and body, as the service has them.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};

use crate::security::ext_authz::told_headers::as_text;
use crate::security::ext_authz::verdict::changes::{Invalid, is_framing};
use crate::service::Response;
use crate::service::body::Body;
use crate::service::local_reply::{Local, LocalReply, is_grpc};
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::StreamInfo;

/// An answer in the upstream's place.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Denial {
    pub(crate) status: StatusCode,
    headers: Vec<(HeaderName, HeaderValue)>,
    body: Bytes,
}

impl Denial {
    pub(crate) fn new(status: StatusCode) -> Denial {
        Denial {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    #[must_use]
    pub(crate) fn with_body(mut self, body: impl Into<Bytes>) -> Denial {
        self.body = body.into();
        self
    }

    /// The same with this status, unless it `has` one of its own.
    #[must_use]
    pub(crate) fn or_status(mut self, has: bool, status: StatusCode) -> Denial {
        if !has {
            self.status = status;
        }
        self
    }

    /// At most so many bytes of the body are passed on.
    #[must_use]
    pub(crate) fn shortened(mut self, most: Option<usize>) -> Denial {
        if let Some(most) = most {
            self.body.truncate(most);
        }
        self
    }

    /// Adds a header, which stands in place of those of ours with this name.
    pub(crate) fn add(&mut self, name: &str, value: &[u8]) -> Result<(), Invalid> {
        let invalid = || Invalid(format!("header {name:?}"));
        let name = HeaderName::try_from(name).map_err(|_| invalid())?;
        let value = HeaderValue::from_bytes(value).map_err(|_| invalid())?;
        if !is_framing(&name) && name != header::HOST {
            self.headers.push((name, value));
        }
        Ok(())
    }

    /// Records it, and makes the answer. gRPC gets its status, and the body as its message.
    pub(crate) fn respond(
        self,
        details: &'static str,
        stream: &StreamInfo,
        request: &HeaderMap,
    ) -> Response {
        let grpc = is_grpc(request);
        let text = if grpc {
            as_text(&self.body).into_owned()
        } else {
            String::new()
        };
        let reply = LocalReply::new(self.status, text, details);
        let reply = reply.with_flags(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
        let mut response = reply.respond_as(stream, grpc);
        let headers = response.headers_mut();
        let ours = headers.get("grpc-message").cloned();
        let kept = |name: &HeaderName| match *name {
            header::CONTENT_TYPE => !grpc && !self.body.is_empty(),
            _ => ours.is_none() || *name != "grpc-message",
        };
        for (name, _) in self.headers.iter().filter(|(name, _)| kept(name)) {
            headers.remove(name);
        }
        for (name, value) in self.headers.iter().filter(|(name, _)| kept(name)) {
            headers.append(name.clone(), value.clone());
        }
        if grpc || self.body.is_empty() {
            return response;
        }
        headers.insert(header::CONTENT_LENGTH, self.body.len().into());
        let plain = HeaderValue::from_static("text/plain");
        headers.entry(header::CONTENT_TYPE).or_insert(plain);
        response.extensions_mut().insert(Local {
            status: self.status,
            body: self.body.clone(),
        });
        *response.body_mut() = Body::full(self.body);
        response
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    use http_body_util::BodyExt;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::Protocol;

    fn stream() -> Arc<StreamInfo> {
        let address = ([10, 0, 0, 1], 80).into();
        let connection = Connection::new(address, address, Instant::now());
        let now = (Instant::now(), SystemTime::now());
        StreamInfo::new(Arc::new(connection), Protocol::Http11, now.0, now.1)
    }

    fn denial(body: &'static [u8]) -> Denial {
        let mut denial = Denial::new(StatusCode::UNAUTHORIZED).with_body(body);
        for (name, value) in [
            ("set-cookie", "a=1"),
            ("Set-Cookie", "b=2"),
            ("content-type", "text/html"),
            ("content-length", "999"),
            ("grpc-status", "9"),
        ] {
            denial.add(name, value.as_bytes()).unwrap();
        }
        denial
    }

    #[tokio::test]
    async fn the_client_gets_what_the_service_says() {
        let stream = stream();
        let response = denial(b"\xffno").respond("ext_authz_denied", &stream, &HeaderMap::new());
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
        let headers = response.headers();
        assert_eq!(headers.get_all("set-cookie").iter().count(), 2);
        assert_eq!(headers["content-type"], "text/html");
        assert_eq!(headers["content-length"], "3");
        {
            let state = stream.state();
            let flag = ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE;
            assert!(state.flags.contains(flag));
            let details = state.response_code_details.as_deref();
            assert_eq!(details, Some("ext_authz_denied"));
        }
        let body = response.into_body().collect().await.unwrap().to_bytes();
        assert_eq!(&*body, b"\xffno");
    }

    #[test]
    fn without_a_body_there_is_no_type_of_it() {
        let response = denial(b"").respond("ext_authz_denied", &stream(), &HeaderMap::new());
        assert!(!response.headers().contains_key("content-type"));
        assert!(response.body().is_empty());
    }

    #[test]
    fn grpc_is_told_by_its_status() {
        let mut request = HeaderMap::new();
        request.insert("content-type", HeaderValue::from_static("application/grpc"));
        let response = denial(b"no way").respond("ext_authz_denied", &stream(), &request);
        assert_eq!(response.status(), StatusCode::OK);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(response.headers()["grpc-status"], "9");
        assert_eq!(response.headers()["grpc-message"], "no way");
        assert!(response.body().is_empty());
    }

    #[test]
    fn a_body_may_be_cut() {
        let cut = denial(b"abcdef").shortened(Some(2));
        assert_eq!(&*cut.body, b"ab");
        assert!(Denial::new(StatusCode::OK).add("a b", b"x").is_err());
    }
}
