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
use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::{
    EnvoyInternalAddress, HealthStatus, SocketAddress, address,
    envoy_internal_address::AddressNameSpecifier, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    Endpoint as EndpointProto, LbEndpoint, endpoint::AdditionalAddress, lb_endpoint,
};
use waypoint_filters::stream::dynamic_metadata::{METADATA, Metadata};
use waypoint_filters::stream::peer::Peer;
use waypoint_filters::stream::session::SessionHost;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::active_health::ActiveHealth;
use crate::model::endpoint_check::{EndpointCheck, HEALTH_CHECK_CONFIG};
use crate::model::outlier::Monitor;

/// The listener behind which HBONE tunnels begin.
pub(crate) const CONNECT_ORIGINATE: &str = "connect_originate";

/// Finds the workload at an address.
pub(crate) type PeerAt<'a> = &'a dyn Fn(IpAddr) -> Option<Arc<Peer>>;

/// Endpoints of one place.
#[derive(Clone, Debug, Default)]
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
    /// Further addresses of the same endpoint, where it is reached plainly.
    pub additional: Box<[SocketAddr]>,
    pub transport: Transport,
    /// As configuration says.
    pub healthy: bool,
    pub weight: u32,
    pub metadata: Metadata,
    /// From the `istio.workload` metadata, or the workload data by address.
    pub peer: Option<Arc<Peer>>,
    /// What it says of how it is checked.
    pub check: Option<Box<EndpointCheck>>,
    pub state: Arc<EndpointState>,
}

#[cfg(test)]
impl Endpoint {
    /// One that is healthy and reached plainly, as unit tests choose among them.
    pub(crate) fn on_port(port: u16) -> Endpoint {
        Endpoint {
            address: ([10, 0, 0, 1], port).into(),
            additional: Box::default(),
            transport: Transport::Plain,
            healthy: true,
            weight: 1,
            metadata: Metadata::default(),
            peer: None,
            check: None,
            state: Arc::default(),
        }
    }
}

/// What lives as long as the endpoint does, whatever updates say of its weight, health or metadata.
pub struct EndpointState {
    /// When it came.
    pub since: Instant,
    /// Requests and TCP streams in flight.
    pub active: AtomicU32,
    /// What its answers say of it.
    pub monitor: Monitor,
    /// What checks say of it, where its cluster has some.
    pub health: ActiveHealth,
    /// The data path's own: connection pools. Dropped, and with it closed, when the endpoint goes.
    pub pools: OnceLock<Box<dyn Any + Send + Sync>>,
}

impl Default for EndpointState {
    fn default() -> EndpointState {
        EndpointState {
            since: Instant::now(),
            active: AtomicU32::default(),
            monitor: Monitor::default(),
            health: ActiveHealth::default(),
            pools: OnceLock::new(),
        }
    }
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
            .field("additional", &self.additional)
            .field("transport", &self.transport)
            .field("healthy", &self.healthy)
            .field("weight", &self.weight)
            .field("metadata", &self.metadata)
            .field("peer", &self.peer)
            .field("check", &self.check)
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
        honoured(2, "health_check_config").of(&HEALTH_CHECK_CONFIG),
        harmless(
            3,
            "hostname",
            "only auto_host_rewrite reads it, which is refused",
        ),
        honoured(4, "additional_addresses")
            .list()
            .of(&ADDITIONAL_ADDRESS),
    ],
    refused: "5 observability_name",
    required: &[required("address", &[1])],
};

static ADDITIONAL_ADDRESS: Table = Table {
    name: "envoy.config.endpoint.v3.Endpoint.AdditionalAddress",
    fields: &[honoured(1, "address").only("sockets").of(&ADDRESS)],
    refused: "",
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
    /// Whether it may be used: nobody says that it isn't well, it isn't ejected, and no check keeps it out.
    pub fn is_healthy(&self) -> bool {
        self.healthy && !self.state.monitor.is_ejected() && !self.state.health.is_failed()
    }

    /// Whether it takes part in its cluster's checks.
    pub(crate) fn is_checked(&self) -> bool {
        !self.check.as_ref().is_some_and(|check| check.disabled)
    }

    /// What sessions call it.
    pub fn session_host(&self) -> SessionHost {
        SessionHost {
            address: self.address,
            hbone: matches!(self.transport, Transport::Hbone { .. }),
        }
    }

    /// What consistent hashing hashes of it: `envoy.lb`'s `hash_key`, or the address as Envoy writes it.
    pub(crate) fn hash_key(&self) -> String {
        let told = self.metadata.get("envoy.lb", &["hash_key"]);
        match (told.and_then(|value| value.as_str()), self.transport) {
            (Some(told), _) if !told.is_empty() => told.to_owned(),
            (_, Transport::Plain) => self.address.to_string(),
            (_, Transport::Hbone { .. }) => format!("envoy://{CONNECT_ORIGINATE}/{}", self.address),
        }
    }

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
        let (address, transport) = reach(endpoint, &metadata)?;
        let additional = additional(endpoint, transport)?;
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
            additional,
            transport,
            healthy: healthy(proto.health_status)?,
            weight: proto.load_balancing_weight.as_ref().map_or(1, |w| w.value),
            metadata,
            peer,
            check: match &endpoint.health_check_config {
                None => None,
                Some(config) => EndpointCheck::from_proto(config)
                    .map_err(|e| e.within("endpoint.health_check_config"))?,
            },
            state: state.unwrap_or_default(),
        }))
    }
}

/// The endpoint's further addresses. One behind HBONE has none: its ztunnel is asked for the first.
fn additional(
    endpoint: &EndpointProto,
    transport: Transport,
) -> Result<Box<[SocketAddr]>, Refusal> {
    let address = |(i, proto): (usize, &AdditionalAddress)| {
        let field = || format!("endpoint.additional_addresses[{i}].address");
        let address = proto.address.as_ref().and_then(|a| a.address.as_ref());
        match (address, transport) {
            (Some(address::Address::SocketAddress(socket)), Transport::Plain) => {
                socket_address(socket).map_err(|e| e.within(format!("additional_addresses[{i}]")))
            }
            (None, _) => Err(Refusal::missing(field())),
            (Some(_), _) => Err(Refusal::unsupported(field())),
        }
    };
    let addresses = endpoint.additional_addresses.iter().enumerate();
    addresses.map(address).collect()
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
