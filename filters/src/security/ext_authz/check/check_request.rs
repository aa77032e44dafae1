//! `CheckRequest`: what a gRPC service is told of a stream.
//!
//! Who the peer is comes from its certificate and from nothing else. (Envoy's inner listener has no TLS, and tells no
//! principal there; and it takes the name of the client's service from a header.)

use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::config::core::v3::{
    Address, HeaderMap as HeaderMapProto, HeaderValue as HeaderValueProto,
    Metadata as MetadataProto, SocketAddress, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{
    HttpRequest as HttpRequestProto, Peer, Request as RequestProto, TlsSession,
};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::Timestamp;
use http::Request;
use waypoint_hbone::identity::Identity;

use crate::security::ext_authz::told_headers::{
    PARTIAL_BODY, ToldHeaders, as_text, host, path, scheme,
};
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::stream_info::StreamInfo;
use crate::xds::struct_json::object_to_struct;

/// The service's method.
pub(crate) const METHOD: &str = "/envoy.service.auth.v3.Authorization/Check";

/// What is told of any stream.
#[derive(Debug, Default)]
pub(crate) struct ToldStream {
    pub(crate) peer_certificate: bool,
    pub(crate) tls_session: bool,
    /// Namespaces of dynamic metadata.
    pub(crate) metadata: Vec<String>,
}

/// The beginning of a body, and whether there is more.
#[derive(Debug)]
pub(crate) struct ToldBody {
    pub(crate) data: Vec<u8>,
    pub(crate) partial: bool,
    pub(crate) as_bytes: bool,
}

impl ToldStream {
    /// Of a connection.
    pub(crate) fn of(&self, stream: &StreamInfo) -> CheckRequest {
        let connection = &stream.connection;
        let mut source = peer(connection.source, connection.peer.as_ref());
        if self.peer_certificate
            && let Some(session) = connection.tls.as_ref().and_then(|tls| tls.session())
            && let Some(certificate) = session.chain.first()
        {
            source.certificate = certificate.url_encoded_pem();
        }
        let session = connection.tls.as_ref().filter(|_| self.tls_session);
        let sni = connection.server_name.known();
        let attributes = AttributeContext {
            source: Some(source),
            destination: Some(peer(connection.destination, connection.local.as_ref())),
            metadata_context: Some(selected(&stream.state().metadata, &self.metadata)),
            tls_session: session.map(|_| TlsSession {
                sni: sni.unwrap_or_default().to_owned(),
            }),
            ..AttributeContext::default()
        };
        CheckRequest {
            attributes: Some(attributes),
        }
    }
}

fn peer(address: SocketAddr, identity: Option<&Identity>) -> Peer {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    };
    Peer {
        address: Some(Address {
            address: Some(address::Address::SocketAddress(socket)),
        }),
        principal: identity.map_or_else(String::new, |identity| identity.as_str().to_owned()),
        ..Peer::default()
    }
}

/// The namespaces that are there of those that are told.
pub(crate) fn selected(metadata: &Metadata, namespaces: &[String]) -> MetadataProto {
    let found = namespaces.iter().filter_map(|namespace| {
        let object = metadata.get(namespace, &[] as &[&str])?.as_object()?;
        Some((namespace.clone(), object_to_struct(object)))
    });
    MetadataProto {
        filter_metadata: found.collect(),
        ..MetadataProto::default()
    }
}

/// What is told of a request; `random` names it.
pub(crate) fn of_request<B>(
    request: &Request<B>,
    stream: &StreamInfo,
    headers: &ToldHeaders,
    body: Option<ToldBody>,
    random: u64,
) -> RequestProto {
    let start = stream.start_time.duration_since(UNIX_EPOCH);
    let time = start.ok().map(|since| Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    });
    let mut told = headers.of(request);
    let mut http = HttpRequestProto {
        id: random.to_string(),
        method: request.method().to_string(),
        path: path(request).to_owned(),
        host: host(request.headers()).to_owned(),
        scheme: scheme(request).to_owned(),
        protocol: stream.protocol.name().unwrap_or_default().to_owned(),
        size: i64::try_from(stream.bytes_received()).unwrap_or(i64::MAX),
        ..HttpRequestProto::default()
    };
    if let Some(body) = body {
        told.push((PARTIAL_BODY.to_owned(), body.partial.to_string().into()));
        match body.as_bytes {
            true => http.raw_body = body.data,
            false => http.body = as_text(body.data),
        }
    }
    if headers.raw {
        let raw = told.into_iter().map(|(key, raw_value)| HeaderValueProto {
            key,
            raw_value,
            ..HeaderValueProto::default()
        });
        http.header_map = Some(HeaderMapProto {
            headers: raw.collect(),
        });
    } else {
        let text = told.into_iter();
        http.headers = text.map(|(name, value)| (name, as_text(value))).collect();
    }
    RequestProto {
        time,
        http: Some(http),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use serde_json::json;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::Protocol;

    fn stream() -> Arc<StreamInfo> {
        let source = ([10, 0, 0, 9], 999).into();
        let mut connection = Connection::new(source, ([10, 96, 0, 1], 80).into(), Instant::now());
        connection.peer = Some("spiffe://td/ns/a/sa/client".parse().unwrap());
        connection.local = Some("spiffe://td/ns/a/sa/waypoint".parse().unwrap());
        let start = UNIX_EPOCH + Duration::from_millis(1_500);
        StreamInfo::new(
            Arc::new(connection),
            Protocol::Http11,
            Instant::now(),
            start,
        )
    }

    fn request() -> Request<()> {
        let request = Request::builder()
            .method("PUT")
            .uri("/a?b=c")
            .header("host", "web:80")
            .header("x-envoy-downstream-service-cluster", "somebody-else");
        request.body(()).unwrap()
    }

    #[test]
    fn a_stream_is_its_ends_and_who_is_there() {
        let told = ToldStream {
            metadata: vec!["a".into(), "none".into()],
            tls_session: true,
            ..ToldStream::default()
        };
        let stream = stream();
        stream
            .state()
            .metadata
            .set("a", "n", json!({"x": [1, null]}));
        stream.state().metadata.set("b", "n", json!(1));
        let attributes = told.of(&stream).attributes.unwrap();
        let source = attributes.source.unwrap();
        assert_eq!(source.principal, "spiffe://td/ns/a/sa/client");
        assert_eq!((source.service, source.certificate), ("".into(), "".into()));
        let destination = attributes.destination.unwrap();
        assert_eq!(destination.principal, "spiffe://td/ns/a/sa/waypoint");
        let Some(address::Address::SocketAddress(socket)) = destination.address.unwrap().address
        else {
            panic!("no socket");
        };
        assert_eq!(socket.address, "10.96.0.1");
        assert_eq!(socket.port_specifier, Some(PortSpecifier::PortValue(80)));
        let metadata = attributes.metadata_context.unwrap().filter_metadata;
        assert_eq!(metadata.keys().collect::<Vec<_>>(), ["a"]);
        // Not on TLS of ours.
        assert!(attributes.tls_session.is_none() && attributes.request.is_none());
    }

    #[test]
    fn a_request_is_its_head_and_what_is_wanted_of_its_body() {
        let body = |as_bytes| {
            Some(ToldBody {
                data: b"a\xffb".into(),
                partial: true,
                as_bytes,
            })
        };
        let stream = stream();
        let headers = ToldHeaders::default();
        let told = of_request(&request(), &stream, &headers, body(false), 7);
        assert_eq!(told.time.unwrap().nanos, 500_000_000);
        let http = told.http.unwrap();
        assert_eq!(
            (&*http.id, &*http.method, &*http.path),
            ("7", "PUT", "/a?b=c")
        );
        assert_eq!((&*http.host, &*http.scheme), ("web:80", "http"));
        assert_eq!((&*http.protocol, http.size), ("HTTP/1.1", 0));
        assert_eq!((&*http.body, http.raw_body.len()), ("a!b", 0));
        assert_eq!(http.headers[PARTIAL_BODY], "true");
        assert_eq!(http.headers[":path"], "/a?b=c");
        let raw = ToldHeaders {
            raw: true,
            ..ToldHeaders::default()
        };
        let told = of_request(&request(), &stream, &raw, body(true), 7);
        let http = told.http.unwrap();
        assert_eq!((http.body.len(), &*http.raw_body), (0, &b"a\xffb"[..]));
        assert!(http.headers.is_empty());
        assert_eq!(http.header_map.unwrap().headers.len(), 6);
    }
}
