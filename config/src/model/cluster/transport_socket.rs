//! Transport sockets of clusters: what is between an endpoint's connection and what is spoken on it.
//!
//! A waypoint reaches endpoints plain, or through HBONE: `internal_upstream` around another socket is both, the endpoint's address
//! decides. Inside of that there may be TLS, and the PROXY protocol before it. `transport_socket_matches` are
//! asked in order, by endpoints' metadata, before the cluster's own is taken.

use std::sync::Arc;

use envoy_types::pb::envoy::config::cluster::v3::{
    Cluster as ClusterProto, cluster::TransportSocketMatch,
};
use envoy_types::pb::envoy::config::core::v3::{
    ProxyProtocolConfig, TransportSocket, proxy_protocol_config, transport_socket::ConfigType,
};
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::stream::dynamic_metadata::Metadata;
use waypoint_filters::xds::coverage::well_known::STRUCT;
use waypoint_filters::xds::coverage::{Table, decode_any, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_filters::xds::struct_json::struct_to_json;

use crate::model::cluster::secret_slot::SecretSlots;
use crate::model::cluster::upstream_tls::{UPSTREAM_TLS, UpstreamTls};
use crate::model::endpoint::CONNECT_ORIGINATE;

pub(crate) static TRANSPORT_SOCKET: Table = Table {
    name: "envoy.config.core.v3.TransportSocket",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(3, "typed_config").any(&[&[
            &INTERNAL_UPSTREAM,
            &RAW_BUFFER,
            &UPSTREAM_TLS,
            &PROXY_PROTOCOL,
        ]]),
    ],
    refused: "",
    required: &[required("typed_config", &[3])],
};

static INTERNAL_UPSTREAM: Table = Table {
    name: "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
    fields: &[
        harmless(
            1,
            "passthrough_metadata",
            "endpoints' metadata is read where they are chosen",
        )
        .list(),
        honoured(3, "transport_socket").of(&TRANSPORT_SOCKET),
    ],
    refused: "",
    required: &[required("transport_socket", &[3])],
};

static RAW_BUFFER: Table = Table {
    name: "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
    fields: &[],
    refused: "",
    required: &[],
};

static PROXY_PROTOCOL: Table = Table {
    name: "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
    fields: &[
        honoured(1, "config").of(&PROXY_PROTOCOL_CONFIG),
        honoured(2, "transport_socket").of(&TRANSPORT_SOCKET),
    ],
    refused: "3 allow_unspecified_address, 4 tlv_as_pool_key",
    required: &[required("transport_socket", &[2])],
};

static PROXY_PROTOCOL_CONFIG: Table = Table {
    name: "envoy.config.core.v3.ProxyProtocolConfig",
    fields: &[honoured(1, "version")],
    refused: "2 pass_through_tlvs, 3 added_tlvs",
    required: &[],
};

pub(crate) static TRANSPORT_SOCKET_MATCH: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.TransportSocketMatch",
    fields: &[
        harmless(1, "name", "names it in refusals"),
        honoured(2, "match").of(&STRUCT),
        honoured(3, "transport_socket").of(&TRANSPORT_SOCKET),
    ],
    refused: "",
    required: &[],
};

/// Clusters of the HBONE machinery itself: their TLS is HBONE's.
const INFRASTRUCTURE: [&str; 3] = [
    CONNECT_ORIGINATE,
    "inner_connect_originate",
    "outer_connect_originate",
];

/// Whether a cluster only holds Envoy's way to open tunnels.
pub(crate) fn is_infrastructure(cluster: &str) -> bool {
    INFRASTRUCTURE.contains(&cluster)
}

/// What endpoints are spoken to through.
#[derive(Clone, Debug, Default)]
pub struct Socket {
    pub tls: Option<Arc<UpstreamTls>>,
    /// Said first, before TLS.
    pub proxy_protocol: Option<ProxyProtocol>,
}

/// A version of the PROXY protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyProtocol {
    V1,
    V2,
}

/// The sockets of a cluster.
#[derive(Debug, Default)]
pub struct Sockets {
    own: Socket,
    matches: Vec<Matching>,
}

#[derive(Debug)]
struct Matching {
    /// All of it must be in the endpoint's metadata.
    wanted: Vec<(String, serde_json::Value)>,
    socket: Socket,
}

/// The namespace of endpoints' metadata that says which socket is theirs.
const MATCHED: &str = "envoy.transport_socket_match";

impl Sockets {
    /// # Errors
    /// Endpoints are to be reached in a way that isn't built.
    pub(crate) fn from_proto(
        cluster: &ClusterProto,
        slots: &SecretSlots,
    ) -> Result<Sockets, Refusal> {
        let own = cluster.transport_socket.as_ref();
        let own = own.map(|socket| Socket::from_proto(socket, slots));
        let matches = cluster.transport_socket_matches.iter().map(|candidate| {
            Matching::from_proto(candidate, slots).map_err(|e| {
                let name = &candidate.name;
                e.within(format!("transport_socket_matches[{name:?}]"))
            })
        });
        let own = own.transpose().map_err(|e| e.within("transport_socket"))?;
        let sockets = Sockets {
            matches: matches.collect::<Result<_, _>>()?,
            own: own.unwrap_or_default(),
        };
        Ok(match is_infrastructure(&cluster.name) {
            true => Sockets::default(),
            false => sockets,
        })
    }

    /// The socket of an endpoint with this metadata.
    pub fn of(&self, endpoint: &Metadata) -> &Socket {
        let found = self
            .matches
            .iter()
            .find(|candidate| candidate.fits(endpoint));
        found.map_or(&self.own, |found| &found.socket)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Socket> {
        let matches = self.matches.iter().map(|candidate| &candidate.socket);
        matches.chain([&self.own])
    }
}

impl Matching {
    fn from_proto(proto: &TransportSocketMatch, slots: &SecretSlots) -> Result<Matching, Refusal> {
        let wanted = match proto.r#match.as_ref().map(struct_to_json) {
            Some(serde_json::Value::Object(wanted)) => wanted.into_iter().collect(),
            _ => Vec::new(),
        };
        let socket = proto.transport_socket.as_ref();
        let socket = socket.map(|socket| Socket::from_proto(socket, slots));
        let socket = socket
            .transpose()
            .map_err(|e| e.within("transport_socket"))?;
        Ok(Matching {
            wanted,
            socket: socket.unwrap_or_default(),
        })
    }

    fn fits(&self, endpoint: &Metadata) -> bool {
        let mut wanted = self.wanted.iter();
        wanted.all(|(key, value)| endpoint.get(MATCHED, &[key]) == Some(value))
    }
}

impl Socket {
    fn from_proto(proto: &TransportSocket, slots: &SecretSlots) -> Result<Socket, Refusal> {
        let any = typed(proto)?;
        if RAW_BUFFER.has_type_url(&any.type_url) {
            return Ok(Socket::default());
        }
        let socket = if UPSTREAM_TLS.has_type_url(&any.type_url) {
            let context: UpstreamTlsContext = decode_any(any)?;
            UpstreamTls::from_proto(&context, slots).map(|tls| Socket {
                tls: Some(Arc::new(tls)),
                proxy_protocol: None,
            })
        } else if PROXY_PROTOCOL.has_type_url(&any.type_url) {
            let proto: ProxyProtocolUpstreamTransport = decode_any(any)?;
            inner(proto.transport_socket.as_ref(), slots).and_then(|inner| {
                let version = version(proto.config.as_ref())?;
                if inner.proxy_protocol.is_some() {
                    return Err(Refusal::unsupported("transport_socket"));
                }
                Ok(Socket {
                    proxy_protocol: Some(version),
                    ..inner
                })
            })
        } else if INTERNAL_UPSTREAM.has_type_url(&any.type_url) {
            let proto: InternalUpstreamTransport = decode_any(any)?;
            inner(proto.transport_socket.as_ref(), slots)
        } else {
            let reason = format!("type {} is not built in", any.type_url);
            return Err(Refusal::new("typed_config", reason));
        };
        socket.map_err(|e| e.within("typed_config"))
    }
}

fn inner(socket: Option<&TransportSocket>, slots: &SecretSlots) -> Result<Socket, Refusal> {
    let socket = socket.ok_or_else(|| Refusal::missing("transport_socket"))?;
    Socket::from_proto(socket, slots).map_err(|e| e.within("transport_socket"))
}

fn version(config: Option<&ProxyProtocolConfig>) -> Result<ProxyProtocol, Refusal> {
    use proxy_protocol_config::Version;
    let version = config.map_or(0, |config| config.version);
    match Version::try_from(version) {
        Ok(Version::V1) => Ok(ProxyProtocol::V1),
        Ok(Version::V2) => Ok(ProxyProtocol::V2),
        Err(_) => Err(Refusal::new("config.version", "unknown value")),
    }
}

pub(crate) fn typed(socket: &TransportSocket) -> Result<&Any, Refusal> {
    match &socket.config_type {
        Some(ConfigType::TypedConfig(any)) => Ok(any),
        None => Err(Refusal::missing("typed_config")),
    }
}
