//! `CheckRequest`: what a gRPC service is told of a stream.
//!
//! Who the peer is comes from its certificate and from nothing else. (Envoy's inner listener has no TLS, and tells no
//! principal there; and it takes the name of the client's service from a header.)
//!
//! It is written as it is sent, for it is made with every request: the numbers are those of the API's fields.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::UNIX_EPOCH;

use envoy_types::pb::envoy::config::core::v3::Metadata as MetadataProto;
use http::Request;
use prost::Message as _;
use waypoint_hbone::identity::Identity;

use crate::callout::grpc_service::Framed;
use crate::decimal;
use crate::security::ext_authz::told_headers::{
    PARTIAL_BODY, ToldHeaders, as_text, host, path, scheme,
};
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::stream_info::StreamInfo;
use crate::xds::encoding::Fields;
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

/// What is told of a request.
pub(crate) struct ToldRequest<'a, B> {
    pub(crate) http: &'a Request<B>,
    pub(crate) headers: &'a ToldHeaders,
    pub(crate) body: Option<ToldBody>,
    /// Names it.
    pub(crate) random: u64,
    pub(crate) route_metadata: MetadataProto,
    /// What the route adds.
    pub(crate) extensions: Option<&'a HashMap<String, String>>,
}

/// For a message of which nobody knows how long it is.
const ROOM: usize = 1024;

impl ToldStream {
    /// Of a connection.
    pub(crate) fn check(&self, stream: &StreamInfo) -> Framed {
        Framed::of(ROOM, |check| {
            check.message(1, |attributes| {
                self.write_ends(stream, attributes);
                self.write_metadata(stream, attributes);
            });
        })
    }

    /// Of a request.
    pub(crate) fn check_request<B>(
        &self,
        stream: &StreamInfo,
        request: &ToldRequest<'_, B>,
    ) -> Framed {
        let body = request.body.as_ref().map_or(0, |body| body.data.len());
        Framed::of(ROOM.saturating_add(body), |check| {
            check.message(1, |attributes| {
                self.write_ends(stream, attributes);
                attributes.message(4, |told| {
                    write_time(stream, told);
                    told.message(2, |http| request.write(stream, http));
                });
                for (key, value) in request.extensions.into_iter().flatten() {
                    write_pair(10, key, value, attributes);
                }
                self.write_metadata(stream, attributes);
                attributes.always(13, request.route_metadata.encode_to_vec());
            });
        })
    }

    fn write_ends(&self, stream: &StreamInfo, attributes: &mut Fields<'_>) {
        let connection = &stream.connection;
        attributes.message(1, |source| {
            write_peer(connection.source, connection.peer.as_ref(), source);
            if self.peer_certificate
                && let Some(session) = connection.tls.as_ref().and_then(|tls| tls.session())
                && let Some(certificate) = session.chain.first()
            {
                source.bytes(5, certificate.url_encoded_pem());
            }
        });
        attributes.message(2, |destination| {
            write_peer(
                connection.destination,
                connection.local.as_ref(),
                destination,
            );
        });
    }

    fn write_metadata(&self, stream: &StreamInfo, attributes: &mut Fields<'_>) {
        let metadata = selected(&stream.state().metadata, &self.metadata);
        attributes.always(11, metadata.encode_to_vec());
        if self.tls_session && stream.connection.tls.is_some() {
            let sni = stream.connection.server_name.known();
            attributes.message(12, |session| session.bytes(1, sni.unwrap_or_default()));
        }
    }
}

/// `Peer`, up to its principal.
fn write_peer(address: SocketAddr, identity: Option<&Identity>, peer: &mut Fields<'_>) {
    peer.message(1, |told| {
        told.message(1, |socket| {
            socket.message(2, |text| decimal::ip(text.0, address.ip()));
            socket.number_always(3, address.port().into());
        });
    });
    peer.bytes(4, identity.map_or("", Identity::as_str));
}

/// When the stream began.
fn write_time(stream: &StreamInfo, told: &mut Fields<'_>) {
    if let Ok(since) = stream.start_time.duration_since(UNIX_EPOCH) {
        told.message(1, |time| {
            time.number(1, since.as_secs());
            time.number(2, since.subsec_nanos().into());
        });
    }
}

/// An entry of a map of texts.
fn write_pair(field: u32, key: &str, value: &str, fields: &mut Fields<'_>) {
    fields.message(field, |pair| {
        pair.bytes(1, key);
        pair.bytes(2, value);
    });
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

impl<B> ToldRequest<'_, B> {
    fn write(&self, stream: &StreamInfo, http: &mut Fields<'_>) {
        let request = self.http;
        http.message(1, |id| decimal::number(id.0, self.random));
        http.bytes(2, request.method().as_str());
        if !self.headers.raw {
            self.each(&mut |name, value| write_pair(3, name, &as_text(value), http));
        }
        http.bytes(4, path(request));
        http.bytes(5, host(request.headers()));
        http.bytes(6, scheme(request));
        http.number(9, stream.bytes_received());
        http.bytes(10, stream.protocol.name().unwrap_or_default());
        if let Some(body) = &self.body {
            match body.as_bytes {
                true => http.bytes(12, &body.data),
                false => http.bytes(11, &*as_text(&body.data)),
            }
        }
        if self.headers.raw {
            http.message(13, |map| {
                self.each(&mut |name, value| {
                    map.message(1, |header| {
                        header.bytes(1, name);
                        header.bytes(3, value);
                    });
                });
            });
        }
    }

    /// Names and values of what is told, and whether that is all of the body.
    fn each(&self, tell: &mut dyn FnMut(&str, &[u8])) {
        self.headers.each(self.http, tell);
        if let Some(body) = &self.body {
            let partial = if body.partial { "true" } else { "false" };
            tell(PARTIAL_BODY, partial.as_bytes());
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use envoy_types::pb::envoy::config::core::v3::address;
    use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
    use envoy_types::pb::envoy::service::auth::v3::attribute_context::Request as RequestProto;
    use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
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

    /// What a service reads.
    fn read(check: &Framed) -> AttributeContext {
        let check = CheckRequest::decode(check.message()).unwrap();
        check.attributes.unwrap()
    }

    fn of_request(headers: &ToldHeaders, body: Option<ToldBody>) -> RequestProto {
        let request = request();
        let extensions = HashMap::from([("a".to_owned(), "b".to_owned())]);
        let told = ToldRequest {
            http: &request,
            headers,
            body,
            random: 7,
            route_metadata: MetadataProto::default(),
            extensions: Some(&extensions),
        };
        let attributes = read(&ToldStream::default().check_request(&stream(), &told));
        assert_eq!(attributes.context_extensions, extensions);
        assert!(attributes.route_metadata_context.is_some());
        assert_eq!(
            attributes.source.unwrap().principal,
            "spiffe://td/ns/a/sa/client"
        );
        attributes.request.unwrap()
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
        let attributes = read(&told.check(&stream));
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
        let headers = ToldHeaders::default();
        let told = of_request(&headers, body(false));
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
        let told = of_request(&raw, body(true));
        let http = told.http.unwrap();
        assert_eq!((http.body.len(), &*http.raw_body), (0, &b"a\xffb"[..]));
        assert!(http.headers.is_empty());
        assert_eq!(http.header_map.unwrap().headers.len(), 6);
    }
}
