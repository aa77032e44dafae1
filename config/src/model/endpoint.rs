//! Endpoints: where a cluster's streams may go, and what the data path keeps for each.
//!
//! An endpoint whose address and transport stay the same keeps its `Arc` across updates, and with it its
//! load and its connection pools.

use std::any::Any;
use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::AtomicU32;
use std::sync::{Arc, OnceLock};

use envoy_types::pb::envoy::config::core::v3::{
    EnvoyInternalAddress, HealthStatus, SocketAddress, address,
    envoy_internal_address::AddressNameSpecifier, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    Endpoint as EndpointProto, LbEndpoint, lb_endpoint,
};
use waypoint_filters::stream::dynamic_metadata::{METADATA, Metadata};
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

/// The listener behind which HBONE tunnels begin.
pub(crate) const CONNECT_ORIGINATE: &str = "connect_originate";

/// Finds the workload at an address.
pub(crate) type PeerAt<'a> = &'a dyn Fn(IpAddr) -> Option<Arc<Peer>>;

/// Endpoints of one place.
#[derive(Debug, Default)]
pub struct Locality {
    pub region: Arc<str>,
    pub zone: Arc<str>,
    pub sub_zone: Arc<str>,
    /// Where localities are chosen by weight; 0: it gets nothing.
    pub weight: u32,
    pub endpoints: Vec<Arc<Endpoint>>,
}

/// One endpoint.
pub struct Endpoint {
    /// The workload's own address and port, also behind HBONE.
    pub address: SocketAddr,
    pub transport: Transport,
    pub healthy: bool,
    pub weight: u32,
    pub metadata: Metadata,
    /// From the `istio.workload` metadata, or the workload data by address.
    pub peer: Option<Arc<Peer>>,
    pub state: Arc<EndpointState>,
}

/// What lives as long as the endpoint does, whatever updates say of its weight, health or metadata.
#[derive(Default)]
pub struct EndpointState {
    /// Requests and TCP streams in flight.
    pub active: AtomicU32,
    /// The data path's own: connection pools. Dropped, and with it closed, when the endpoint goes.
    pub pools: OnceLock<Box<dyn Any + Send + Sync>>,
}

/// How an endpoint is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// TCP to its address.
    Plain,
    /// A CONNECT for its address to the ztunnel there (`hop`, port 15008).
    Hbone { hop: SocketAddr },
}

impl fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Endpoint")
            .field("address", &self.address)
            .field("transport", &self.transport)
            .field("healthy", &self.healthy)
            .field("weight", &self.weight)
            .field("metadata", &self.metadata)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for EndpointState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EndpointState")
            .field("active", &self.active)
            .finish_non_exhaustive()
    }
}

pub(crate) static LB_ENDPOINT: Table = Table {
    name: "envoy.config.endpoint.v3.LbEndpoint",
    fields: &[
        honoured(1, "endpoint").of(&ENDPOINT),
        honoured(2, "health_status"),
        honoured(3, "metadata").of(&METADATA),
        honoured(4, "load_balancing_weight").of(&UINT32_VALUE),
    ],
    refused: "5 endpoint_name",
    required: &[required("host_identifier", &[1])],
};

static ENDPOINT: Table = Table {
    name: "envoy.config.endpoint.v3.Endpoint",
    fields: &[
        honoured(1, "address").of(&ADDRESS),
        harmless(
            3,
            "hostname",
            "only auto_host_rewrite reads it, which is refused",
        ),
        harmless(
            4,
            "additional_addresses",
            "the same endpoint; it is reached by its first address",
        )
        .list(),
    ],
    refused: "2 health_check_config, 5 observability_name",
    required: &[required("address", &[1])],
};

static ADDRESS: Table = Table {
    name: "envoy.config.core.v3.Address",
    fields: &[
        honoured(1, "socket_address").of(&SOCKET_ADDRESS),
        honoured(3, "envoy_internal_address").of(&INTERNAL_ADDRESS),
    ],
    refused: "2 pipe",
    required: &[required("address", &[1, 3])],
};

static SOCKET_ADDRESS: Table = Table {
    name: "envoy.config.core.v3.SocketAddress",
    fields: &[
        honoured(2, "address"),
        honoured(3, "port_value"),
        harmless(6, "ipv4_compat", "an address says what it is"),
    ],
    refused: "1 protocol, 4 named_port, 5 resolver_name, 7 network_namespace_filepath",
    required: &[required("address", &[2]), required("port_specifier", &[3])],
};

static INTERNAL_ADDRESS: Table = Table {
    name: "envoy.config.core.v3.EnvoyInternalAddress",
    fields: &[
        honoured(1, "server_listener_name").only(CONNECT_ORIGINATE),
        honoured(2, "endpoint_id"),
    ],
    refused: "",
    required: &[required("address_name_specifier", &[1])],
};

const ORIGINAL_DST: &str = "envoy.filters.listener.original_dst";

impl Endpoint {
    /// `kept` has what lives on with endpoints that stay.
    pub(crate) fn from_proto(
        proto: &LbEndpoint,
        kept: &HashMap<(SocketAddr, Transport), &Arc<EndpointState>>,
        peer: PeerAt<'_>,
    ) -> Result<Arc<Endpoint>, Refusal> {
        let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &proto.host_identifier else {
            return Err(Refusal::missing("endpoint"));
        };
        let metadata = Metadata::from_proto(proto.metadata.as_ref());
        if metadata.get("envoy.transport_socket_match", &["tlsMode"]) == Some(&"istio".into())
            && metadata
                .get("envoy.transport_socket_match", &["tunnel"])
                .is_none()
            && !matches!(
                address_of(endpoint),
                Some(address::Address::EnvoyInternalAddress(_))
            )
        {
            return Err(Refusal::unsupported(
                "metadata tlsMode istio (a sidecar's mutual TLS)",
            ));
        }
        let (address, transport) = reach(endpoint, &metadata)?;
        let state = kept
            .get(&(address, transport))
            .map(|state| (*state).clone());
        let told = metadata
            .get("istio", &["workload"])
            .and_then(|v| v.as_str());
        let peer = peer(address.ip())
            .or_else(|| told.and_then(Peer::from_endpoint_metadata).map(Arc::new));
        Ok(Arc::new(Endpoint {
            address,
            transport,
            healthy: healthy(proto.health_status)?,
            weight: proto.load_balancing_weight.as_ref().map_or(1, |w| w.value),
            metadata,
            peer,
            state: state.unwrap_or_default(),
        }))
    }
}

/// Whether an endpoint may be used; one that is draining gets nothing new.
fn healthy(status: i32) -> Result<bool, Refusal> {
    match HealthStatus::try_from(status) {
        Ok(status) => Ok(matches!(
            status,
            HealthStatus::Unknown | HealthStatus::Healthy
        )),
        Err(_) => Err(Refusal::new("health_status", "unknown value")),
    }
}

fn address_of(endpoint: &EndpointProto) -> Option<&address::Address> {
    endpoint.address.as_ref()?.address.as_ref()
}

/// The listener that an internal address names.
pub(crate) fn internal_listener(address: &EnvoyInternalAddress) -> Option<&str> {
    match address.address_name_specifier.as_ref()? {
        AddressNameSpecifier::ServerListenerName(name) => Some(name),
    }
}

fn reach(
    endpoint: &EndpointProto,
    metadata: &Metadata,
) -> Result<(SocketAddr, Transport), Refusal> {
    match address_of(endpoint) {
        None => Err(Refusal::missing("endpoint.address")),
        Some(address::Address::Pipe(_)) => Err(Refusal::unsupported("endpoint.address.pipe")),
        Some(address::Address::SocketAddress(socket)) => {
            Ok((socket_address(socket)?, Transport::Plain))
        }
        Some(address::Address::EnvoyInternalAddress(internal)) => {
            if internal_listener(internal) != Some(CONNECT_ORIGINATE) {
                return Err(Refusal::unsupported(
                    "endpoint.address.envoy_internal_address",
                ));
            }
            let text = |key: &str| metadata.get(ORIGINAL_DST, &[key]).and_then(|v| v.as_str());
            let local: SocketAddr = text("local")
                .unwrap_or(&internal.endpoint_id)
                .parse()
                .map_err(|_| Refusal::new("metadata", "original_dst.local is no address"))?;
            let hop = match text("waypoint").map(str::parse::<SocketAddr>) {
                Some(Ok(waypoint)) => SocketAddr::new(waypoint.ip(), waypoint_hbone::PORT),
                Some(Err(_)) => {
                    return Err(Refusal::new(
                        "metadata",
                        "original_dst.waypoint is no address",
                    ));
                }
                None => SocketAddr::new(local.ip(), waypoint_hbone::PORT),
            };
            Ok((local, Transport::Hbone { hop }))
        }
    }
}

fn socket_address(proto: &SocketAddress) -> Result<SocketAddr, Refusal> {
    let ip: IpAddr = proto.address.parse().map_err(|_| {
        Refusal::new(
            "endpoint.address",
            format!("{:?} is no IP address", proto.address),
        )
    })?;
    match &proto.port_specifier {
        Some(PortSpecifier::PortValue(port)) => u16::try_from(*port)
            .map(|port| SocketAddr::new(ip, port))
            .map_err(|_| Refusal::new("endpoint.address.port_value", "is no port")),
        _ => Err(Refusal::missing("endpoint.address.port_value")),
    }
}
