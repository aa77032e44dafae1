//! Clusters, and the slots through which routes refer to them.
//!
//! A slot may be *missing*: configuration may name a cluster that does not exist (yet). Its requests are
//! answered 503, or what the route says.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers as CircuitBreakersProto, Cluster as ClusterProto, circuit_breakers, cluster,
};
use envoy_types::pb::envoy::config::core::v3::{
    HttpProtocolOptions as CommonProtocolOptions, address,
};
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options,
};
use waypoint_filters::dynamic_metadata::Metadata;
use waypoint_filters::rejected::Refusal;
use waypoint_filters::stream_info::DestinationService;
use waypoint_filters::whole;

use crate::honoured::nothing_left;
use crate::model::duration;
use crate::model::endpoint::{CONNECT_ORIGINATE, EndpointSet};
use crate::model::transport_socket;

/// A named place for a cluster and its endpoints, which change apart from each other.
pub struct ClusterSlot {
    pub name: Arc<str>,
    cluster: ArcSwapOption<Cluster>,
    endpoints: ArcSwap<EndpointSet>,
}

impl ClusterSlot {
    /// A slot without a cluster.
    pub fn missing(name: impl Into<Arc<str>>) -> ClusterSlot {
        ClusterSlot {
            name: name.into(),
            cluster: ArcSwapOption::empty(),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
        }
    }

    /// `None`: there is no such cluster.
    pub fn cluster(&self) -> Option<Arc<Cluster>> {
        self.cluster.load_full()
    }

    /// A cheap borrow of the endpoints, not to be held over an await.
    pub fn endpoints(&self) -> arc_swap::Guard<Arc<EndpointSet>> {
        self.endpoints.load()
    }

    pub fn set_cluster(&self, cluster: Option<Arc<Cluster>>) {
        self.cluster.store(cluster);
    }

    pub fn set_endpoints(&self, endpoints: Arc<EndpointSet>) {
        self.endpoints.store(endpoints);
    }
}

/// A compiled `Cluster`.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub discovery: Discovery,
    pub lb_policy: LbPolicy,
    pub connect_timeout: Duration,
    pub protocol: UpstreamProtocol,
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub circuit_breakers: CircuitBreakers,
    pub metadata: Metadata,
    /// `istio.services[0]` of the metadata.
    pub service: Option<Arc<DestinationService>>,
    /// Percent of healthy endpoints below which all are used; istiod sends 0: never.
    pub healthy_panic_threshold: f64,
    pub tcp_keepalive: Option<TcpKeepalive>,
}

/// Where the endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// From EDS, under this name.
    Eds { service_name: Arc<str> },
    /// Listed in the cluster itself.
    Static,
    /// The connection's own destination; `encap` and headless services.
    OriginalDst { port_override: Option<u16> },
    /// `encap`: the stream's own destination, carried there by HBONE.
    OriginalDstOverHbone,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LbPolicy {
    RoundRobin,
    /// `choice_count` random endpoints are compared (Envoy: 2).
    LeastRequest {
        choice_count: u32,
    },
    Random,
    /// The discovery type decides.
    ClusterProvided,
}

/// HTTP spoken to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// What the client spoke.
    Downstream,
}

/// Limits of the one threshold that istiod sends; `u32::MAX` is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CircuitBreakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const METADATA_EXCHANGE: &str = "istio.metadata_exchange";
/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

impl Discovery {
    /// Whether endpoints are listed (and not taken from the connection).
    pub fn lists_endpoints(&self) -> bool {
        matches!(self, Discovery::Eds { .. } | Discovery::Static)
    }
}

impl Cluster {
    pub(crate) fn from_proto(proto: &ClusterProto) -> Result<Cluster, Refusal> {
        nothing_left(&ClusterProto {
            name: String::new(),
            // Names Envoy's own counters.
            alt_stat_name: String::new(),
            eds_cluster_config: None,
            connect_timeout: None,
            lb_policy: 0,
            load_assignment: None,
            circuit_breakers: None,
            typed_extension_protocol_options: HashMap::new(),
            // How long Envoy remembers an original destination; unused ones are swept here.
            cleanup_interval: None,
            common_lb_config: None,
            transport_socket: None,
            transport_socket_matches: Vec::new(),
            metadata: None,
            upstream_connection_options: None,
            filters: Vec::new(),
            cluster_discovery_type: None,
            lb_config: None,
            ..proto.clone()
        })?;
        for filter in &proto.filters {
            // Peers that speak HBONE never exchange metadata this way.
            if filter.name != METADATA_EXCHANGE {
                return Err(Refusal::unsupported(format!("filters[{}]", filter.name)));
            }
        }
        transport_socket::check(proto)?;
        let options = ProtocolOptions::from_proto(proto)?;
        let metadata = Metadata::from_proto(proto.metadata.as_ref());
        Ok(Cluster {
            name: proto.name.as_str().into(),
            discovery: discovery(proto)?,
            lb_policy: lb_policy(proto)?,
            connect_timeout: duration::limit(&proto.connect_timeout, "connect_timeout")?
                .unwrap_or(CONNECT_TIMEOUT),
            protocol: options.protocol,
            idle_timeout: options.idle_timeout,
            max_connection_duration: options.max_connection_duration,
            max_requests_per_connection: options.max_requests_per_connection,
            circuit_breakers: circuit_breakers(proto.circuit_breakers.as_ref())?,
            service: service(&metadata),
            metadata,
            healthy_panic_threshold: panic_threshold(proto)?,
            tcp_keepalive: tcp_keepalive(proto)?,
        })
    }
}

fn discovery(proto: &ClusterProto) -> Result<Discovery, Refusal> {
    use cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match &proto.cluster_discovery_type {
        // Proto3: the type's zero value is STATIC.
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Refusal::new("type", format!("unknown value {kind}")))?,
        Some(ClusterDiscoveryType::ClusterType(kind)) => {
            return Err(Refusal::unsupported(format!("cluster_type {}", kind.name)));
        }
    };
    Ok(match kind {
        DiscoveryType::Static if leads_into_hbone(proto.load_assignment.as_ref()) => {
            Discovery::OriginalDstOverHbone
        }
        DiscoveryType::Static => Discovery::Static,
        DiscoveryType::Eds => {
            let own = proto
                .eds_cluster_config
                .as_ref()
                .map(|c| c.service_name.as_str());
            let name = own.filter(|name| !name.is_empty()).unwrap_or(&proto.name);
            Discovery::Eds {
                service_name: name.into(),
            }
        }
        DiscoveryType::OriginalDst => Discovery::OriginalDst {
            port_override: port_override(proto)?,
        },
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            return Err(Refusal::unsupported(format!("type {}", kind.as_str_name())));
        }
    })
}

/// `encap`: one endpoint without an address of its own, behind which the tunnels begin.
fn leads_into_hbone(assignment: Option<&ClusterLoadAssignment>) -> bool {
    let endpoints = assignment
        .iter()
        .flat_map(|a| &a.endpoints)
        .flat_map(|l| &l.lb_endpoints);
    endpoints.into_iter().any(|endpoint| {
        let Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)) = &endpoint.host_identifier
        else {
            return false;
        };
        match endpoint.address.as_ref().and_then(|a| a.address.as_ref()) {
            Some(address::Address::EnvoyInternalAddress(internal)) => {
                internal.endpoint_id.is_empty()
                    && crate::model::endpoint::internal_listener(internal)
                        == Some(CONNECT_ORIGINATE)
            }
            _ => false,
        }
    })
}

fn port_override(proto: &ClusterProto) -> Result<Option<u16>, Refusal> {
    let Some(cluster::LbConfig::OriginalDstLbConfig(config)) = &proto.lb_config else {
        return Ok(None);
    };
    if config.use_http_header {
        return Err(Refusal::unsupported(
            "original_dst_lb_config.use_http_header",
        ));
    }
    config
        .upstream_port_override
        .as_ref()
        .map(|port| u16::try_from(port.value))
        .transpose()
        .map_err(|_| {
            Refusal::new(
                "original_dst_lb_config.upstream_port_override",
                "is no port",
            )
        })
}

fn lb_policy(proto: &ClusterProto) -> Result<LbPolicy, Refusal> {
    let policy = cluster::LbPolicy::try_from(proto.lb_policy)
        .map_err(|_| Refusal::new("lb_policy", format!("unknown value {}", proto.lb_policy)))?;
    match &proto.lb_config {
        None | Some(cluster::LbConfig::OriginalDstLbConfig(_)) => {}
        Some(cluster::LbConfig::LeastRequestLbConfig(config))
            if config.slow_start_config.is_none() => {}
        Some(cluster::LbConfig::RoundRobinLbConfig(config))
            if config.slow_start_config.is_none() => {}
        Some(_) => return Err(Refusal::unsupported("lb_config")),
    }
    Ok(match policy {
        cluster::LbPolicy::RoundRobin => LbPolicy::RoundRobin,
        cluster::LbPolicy::Random => LbPolicy::Random,
        cluster::LbPolicy::ClusterProvided => LbPolicy::ClusterProvided,
        cluster::LbPolicy::LeastRequest => {
            let count = match &proto.lb_config {
                Some(cluster::LbConfig::LeastRequestLbConfig(config)) => {
                    config.choice_count.as_ref()
                }
                _ => None,
            };
            LbPolicy::LeastRequest {
                choice_count: count.map_or(2, |c| c.value),
            }
        }
        other => {
            return Err(Refusal::unsupported(format!(
                "lb_policy {}",
                other.as_str_name()
            )));
        }
    })
}

/// Limits of istiod's default are none; others would have to be enforced, and are refused until they are.
fn circuit_breakers(proto: Option<&CircuitBreakersProto>) -> Result<CircuitBreakers, Refusal> {
    let field = |e: Refusal| e.within("circuit_breakers.thresholds");
    for threshold in proto.iter().flat_map(|p| &p.thresholds) {
        for (name, limit) in [
            ("max_connections", &threshold.max_connections),
            ("max_pending_requests", &threshold.max_pending_requests),
            ("max_requests", &threshold.max_requests),
            ("max_retries", &threshold.max_retries),
        ] {
            if limit.as_ref().is_some_and(|limit| limit.value != u32::MAX) {
                return Err(field(Refusal::unsupported(name)));
            }
        }
        nothing_left(&circuit_breakers::Thresholds {
            max_connections: None,
            max_pending_requests: None,
            max_requests: None,
            max_retries: None,
            ..*threshold
        })
        .map_err(field)?;
    }
    if proto.is_some_and(|p| !p.per_host_thresholds.is_empty()) {
        return Err(Refusal::unsupported("circuit_breakers.per_host_thresholds"));
    }
    Ok(CircuitBreakers {
        max_connections: u32::MAX,
        max_pending_requests: u32::MAX,
        max_requests: u32::MAX,
        max_retries: u32::MAX,
    })
}

fn service(metadata: &Metadata) -> Option<Arc<DestinationService>> {
    let first = metadata.get("istio", &["services"])?.get(0)?;
    let text = |key: &str| {
        first
            .get(key)
            .and_then(|v| v.as_str())
            .unwrap_or_default()
            .into()
    };
    Some(Arc::new(DestinationService {
        host: text("host"),
        name: text("name"),
        namespace: text("namespace"),
    }))
}

fn panic_threshold(proto: &ClusterProto) -> Result<f64, Refusal> {
    let Some(config) = &proto.common_lb_config else {
        return Ok(50.0);
    };
    nothing_left(&cluster::CommonLbConfig {
        healthy_panic_threshold: None,
        ..config.clone()
    })
    .map_err(|e| e.within("common_lb_config"))?;
    Ok(config
        .healthy_panic_threshold
        .as_ref()
        .map_or(50.0, |p| p.value))
}

fn tcp_keepalive(proto: &ClusterProto) -> Result<Option<TcpKeepalive>, Refusal> {
    let Some(options) = &proto.upstream_connection_options else {
        return Ok(None);
    };
    nothing_left(
        &envoy_types::pb::envoy::config::cluster::v3::UpstreamConnectionOptions {
            tcp_keepalive: None,
            ..*options
        },
    )
    .map_err(|e| e.within("upstream_connection_options"))?;
    let seconds = |value: u32| Duration::from_secs(u64::from(value));
    Ok(options
        .tcp_keepalive
        .as_ref()
        .map(|keepalive| TcpKeepalive {
            probes: keepalive.keepalive_probes.as_ref().map(|v| v.value),
            time: keepalive.keepalive_time.as_ref().map(|v| seconds(v.value)),
            interval: keepalive
                .keepalive_interval
                .as_ref()
                .map(|v| seconds(v.value)),
        }))
}

struct ProtocolOptions {
    protocol: UpstreamProtocol,
    idle_timeout: Option<Duration>,
    max_connection_duration: Option<Duration>,
    max_requests_per_connection: Option<u32>,
}

impl ProtocolOptions {
    fn from_proto(cluster: &ClusterProto) -> Result<ProtocolOptions, Refusal> {
        let mut options = ProtocolOptions {
            protocol: UpstreamProtocol::Http1,
            idle_timeout: None,
            max_connection_duration: None,
            max_requests_per_connection: None,
        };
        for (name, any) in &cluster.typed_extension_protocol_options {
            if name != HTTP_PROTOCOL_OPTIONS {
                return Err(Refusal::unsupported(format!(
                    "typed_extension_protocol_options[{name:?}]"
                )));
            }
            let proto = whole::decode::<HttpProtocolOptions>(&any.value)
                .map_err(|e| e.within("typed_extension_protocol_options"))?;
            options
                .read(&proto)
                .map_err(|e| e.within("typed_extension_protocol_options"))?;
        }
        Ok(options)
    }

    fn read(&mut self, proto: &HttpProtocolOptions) -> Result<(), Refusal> {
        use http_protocol_options::{
            UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
        };
        nothing_left(&HttpProtocolOptions {
            common_http_protocol_options: None,
            upstream_protocol_options: None,
            ..proto.clone()
        })?;
        self.protocol = match &proto.upstream_protocol_options {
            None => UpstreamProtocol::Http1,
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => {
                UpstreamProtocol::Downstream
            }
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
                match &config.protocol_config {
                    None | Some(ProtocolConfig::HttpProtocolOptions(_)) => UpstreamProtocol::Http1,
                    Some(ProtocolConfig::Http2ProtocolOptions(_)) => UpstreamProtocol::Http2,
                    Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                        return Err(Refusal::unsupported("http3_protocol_options"));
                    }
                }
            }
            Some(UpstreamProtocolOptions::AutoConfig(_)) => {
                return Err(Refusal::unsupported("auto_config"));
            }
        };
        if let Some(common) = &proto.common_http_protocol_options {
            nothing_left(&CommonProtocolOptions {
                idle_timeout: None,
                max_connection_duration: None,
                max_requests_per_connection: None,
                ..*common
            })
            .map_err(|e| e.within("common_http_protocol_options"))?;
            self.idle_timeout = duration::limit(&common.idle_timeout, "idle_timeout")?;
            self.max_connection_duration =
                duration::limit(&common.max_connection_duration, "max_connection_duration")?;
            self.max_requests_per_connection =
                common.max_requests_per_connection.as_ref().map(|n| n.value);
        }
        Ok(())
    }
}
