//! What is said of a check to the endpoint: who asks, and what the endpoint is called.

use std::sync::Arc;
use std::time::{Instant, SystemTime};

use http::uri::{Authority, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Uri, Version, header};
use waypoint_filters::service::body::Body;
use waypoint_filters::service::header_changes::HeaderChanges;
use waypoint_filters::stream::stream_info::{Protocol, StreamInfo};

use crate::upstream::health::check::Check;

/// As Envoy's, which endpoints may know.
const USER_AGENT: HeaderValue = HeaderValue::from_static("Envoy/HC");

/// A request of a check.
pub(super) struct Asked<'a> {
    pub(super) method: Method,
    pub(super) path: PathAndQuery,
    /// What the checks say that endpoints are called.
    pub(super) name: Option<&'a str>,
    pub(super) http2: bool,
    pub(super) body: Body,
    pub(super) changes: &'a HeaderChanges,
}

impl Check<'_> {
    /// What the endpoint is called: as it says, as the checks say, or as its cluster is called.
    pub(super) fn name<'a>(&'a self, told: Option<&'a str>) -> &'a str {
        let own = self.endpoint.check.as_ref();
        let own = own.and_then(|check| check.hostname.as_deref());
        own.or(told).unwrap_or(&self.cluster.name)
    }

    pub(super) fn request(&self, asked: Asked<'_>) -> Request<Body> {
        let name = self.name(asked.name);
        let mut request = Request::new(asked.body);
        *request.method_mut() = asked.method;
        let headers = request.headers_mut();
        headers.insert(header::USER_AGENT, USER_AGENT);
        if asked.http2 {
            *request.version_mut() = Version::HTTP_2;
            let mut parts = http::uri::Parts::default();
            let socket = self.cluster.sockets.of(&self.endpoint.metadata);
            let speaks_tls = socket.tls.is_some();
            parts.scheme = Some(if speaks_tls {
                Scheme::HTTPS
            } else {
                Scheme::HTTP
            });
            parts.authority = authority(name, &self.target.address.to_string());
            parts.path_and_query = Some(asked.path);
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        } else {
            if let Ok(host) = HeaderValue::from_str(name) {
                headers.insert(header::HOST, host);
            }
            *request.uri_mut() = asked.path.into();
        }
        if !asked.changes.is_empty() {
            asked
                .changes
                .apply_to_request(&mut request, &self.stream(asked.http2));
        }
        request
    }

    /// A stream of its own, which nobody records.
    fn stream(&self, http2: bool) -> Arc<StreamInfo> {
        let protocol = if http2 {
            Protocol::Http2
        } else {
            Protocol::Http11
        };
        let connection = self.shared.connection.clone();
        StreamInfo::new(connection, protocol, Instant::now(), SystemTime::now())
    }
}

/// Names of istiod's clusters have bars in them, which no authority may have: the endpoint's address, then.
fn authority(name: &str, address: &str) -> Option<Authority> {
    let named = Authority::try_from(name);
    named.or_else(|_| Authority::try_from(address)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_that_is_no_authority_gives_way_to_the_address() {
        let of = |name| authority(name, "10.0.0.1:80").map(|a| a.to_string());
        assert_eq!(of("web.test:8080").as_deref(), Some("web.test:8080"));
        assert_eq!(
            of("outbound|80||web.default.svc.cluster.local").as_deref(),
            Some("10.0.0.1:80")
        );
    }
}
