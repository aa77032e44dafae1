//! Clusters, and the slots through which routes refer to them.
//!
//! A slot may be *missing*: configuration may name a cluster that does not exist (yet). Its requests are
//! answered 503, or what the route says.

pub mod circuit_breakers;
pub mod dns;
pub(crate) mod transport_socket;
pub mod upstream_protocol;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::{ArcSwap, ArcSwapOption};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster as ClusterProto, cluster};
use envoy_types::pb::envoy::config::core::v3::address;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use waypoint_filters::callout::CalloutCluster;
use waypoint_filters::network::METADATA_EXCHANGE;
use waypoint_filters::stream::dynamic_metadata::{METADATA, Metadata};
use waypoint_filters::stream::stream_info::DestinationService;
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{OWN_COUNTERS, Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_filters::xds::typed_struct;

use crate::model::balance::endpoint_set::{CLUSTER_LOAD_ASSIGNMENT, EndpointSet};
use crate::model::balance::policy::{
    self, Balancing, COMMON_LB_CONFIG, LEAST_REQUEST_LB_CONFIG, ROUND_ROBIN_LB_CONFIG,
};
use crate::model::cluster::circuit_breakers::{CIRCUIT_BREAKERS, InUse, Thresholds};
use crate::model::cluster::dns::{DNS_RESOLVER, DnsDiscovery, DnsKind, LookupFamily, REFRESH_RATE};
use crate::model::cluster::transport_socket::{TRANSPORT_SOCKET, TRANSPORT_SOCKET_MATCH};
use crate::model::cluster::upstream_protocol::{
    HTTP_PROTOCOL_OPTIONS, ProtocolOptions, UpstreamProtocol,
};
use crate::model::config_source::CONFIG_SOURCE;
use crate::model::duration;
use crate::model::endpoint::CONNECT_ORIGINATE;

/// A named place for a cluster and its endpoints, which change apart from each other.
pub struct ClusterSlot {
    pub name: Arc<str>,
    cluster: ArcSwapOption<Cluster>,
    endpoints: ArcSwap<EndpointSet>,
    /// What the cluster's limits count.
    pub in_use: Arc<InUse>,
}

impl ClusterSlot {
    /// A slot without a cluster.
    pub fn missing(name: impl Into<Arc<str>>) -> ClusterSlot {
        ClusterSlot {
            name: name.into(),
            cluster: ArcSwapOption::empty(),
            endpoints: ArcSwap::from_pointee(EndpointSet::default()),
            in_use: Arc::default(),
        }
    }

    /// The slot that a callout is for, if it is one of ours.
    pub fn of(callout: &dyn CalloutCluster) -> Option<&ClusterSlot> {
        let any: &dyn std::any::Any = callout;
        any.downcast_ref()
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

impl CalloutCluster for ClusterSlot {
    fn name(&self) -> &Arc<str> {
        &self.name
    }
}

impl fmt::Debug for ClusterSlot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ClusterSlot").field(&self.name).finish()
    }
}

/// A compiled `Cluster`.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub discovery: Discovery,
    pub balancing: Balancing,
    pub connect_timeout: Duration,
    pub protocol: UpstreamProtocol,
    /// How long an idle connection lives; `None`: without end.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub metadata: Metadata,
    /// `istio.services[0]` of the metadata.
    pub service: Option<Arc<DestinationService>>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `None`: no limits.
    pub thresholds: Option<Thresholds>,
}

/// Where the endpoints come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Discovery {
    /// From EDS, under this name.
    Eds { service_name: Arc<str> },
    /// Listed in the cluster itself.
    Static,
    /// Listed in the cluster itself, by name.
    Dns(DnsDiscovery),
    /// The connection's own destination; `encap` and headless services.
    OriginalDst { port_override: Option<u16> },
    /// `encap`: the stream's own destination, carried there by HBONE.
    OriginalDstOverHbone,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

/// Envoy's default.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub static CLUSTER: Table = Table {
    name: "envoy.config.cluster.v3.Cluster",
    fields: &[
        honoured(1, "name"),
        honoured(2, "type"),
        honoured(3, "eds_cluster_config").of(&EDS_CONFIG),
        honoured(4, "connect_timeout").of(&DURATION),
        honoured(6, "lb_policy").only(policy::HONOURED),
        honoured(10, "circuit_breakers").of(&CIRCUIT_BREAKERS),
        honoured(16, "dns_refresh_rate").of(&DURATION),
        honoured(17, "dns_lookup_family"),
        harmless(
            20,
            "cleanup_interval",
            "destinations that are not used are swept",
        ),
        honoured(24, "transport_socket").of(&TRANSPORT_SOCKET),
        honoured(25, "metadata").of(&METADATA),
        honoured(27, "common_lb_config").of(&COMMON_LB_CONFIG),
        harmless(28, "alt_stat_name", OWN_COUNTERS),
        honoured(30, "upstream_connection_options").of(&CONNECTION_OPTIONS),
        honoured(33, "load_assignment").of(&CLUSTER_LOAD_ASSIGNMENT),
        honoured(34, "original_dst_lb_config").of(&ORIGINAL_DST_LB_CONFIG),
        honoured(36, "typed_extension_protocol_options")
            .map()
            .any(&[&[&HTTP_PROTOCOL_OPTIONS]]),
        honoured(37, "least_request_lb_config").of(&LEAST_REQUEST_LB_CONFIG),
        honoured(39, "respect_dns_ttl"),
        honoured(40, "filters")
            .only("istio.metadata_exchange")
            .named(1)
            .of(&FILTER),
        honoured(43, "transport_socket_matches")
            .named(1)
            .of(&TRANSPORT_SOCKET_MATCH),
        honoured(44, "dns_failure_refresh_rate").of(&REFRESH_RATE),
        honoured(55, "typed_dns_resolver_config").of(&DNS_RESOLVER),
        honoured(56, "round_robin_lb_config").of(&ROUND_ROBIN_LB_CONFIG),
        honoured(58, "dns_jitter").of(&DURATION),
    ],
    refused: "5 per_connection_buffer_limit_bytes, 8 health_checks, 9 max_requests_per_connection, \
              13 http_protocol_options, 14 http2_protocol_options, 18 dns_resolvers, \
              19 outlier_detection, \
              21 upstream_bind_config, 22 lb_subset_config, 23 ring_hash_lb_config, \
              26 protocol_selection, 29 common_http_protocol_options, \
              31 close_connections_on_host_health_failure, 32 ignore_health_on_host_removal, \
              38 cluster_type, 41 load_balancing_policy, 42 lrs_server, 45 use_tcp_for_dns_lookups, \
              46 upstream_http_protocol_options, 47 track_timeout_budgets, 48 upstream_config, \
              49 track_cluster_stats, 50 preconnect_policy, \
              51 connection_pool_per_downstream_connection, 52 maglev_lb_config, \
              53 dns_resolution_config, \
              54 wait_for_warm_on_init, 57 lrs_report_endpoint_metrics, \
              59 transport_socket_matcher, 60 per_connection_buffer_high_watermark_timeout, \
              61 stats_matcher, 62 queuing_policies",
    required: &[],
};

static EDS_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.EdsClusterConfig",
    fields: &[
        honoured(1, "eds_config").of(&CONFIG_SOURCE),
        honoured(2, "service_name"),
    ],
    refused: "",
    required: &[required("eds_config", &[1])],
};

static ORIGINAL_DST_LB_CONFIG: Table = Table {
    name: "envoy.config.cluster.v3.Cluster.OriginalDstLbConfig",
    fields: &[
        honoured(3, "upstream_port_override").of(&UINT32_VALUE),
        honoured(4, "metadata_key")
            .only("on the clusters behind which tunnels begin")
            .of(&METADATA_KEY),
    ],
    refused: "1 use_http_header, 2 http_header_name",
    required: &[],
};

static METADATA_KEY: Table = Table {
    name: "envoy.type.metadata.v3.MetadataKey",
    fields: &[
        harmless(1, "key", NEXT_HOP),
        harmless(2, "path", NEXT_HOP).list(),
    ],
    refused: "",
    required: &[],
};

const NEXT_HOP: &str = "HBONE's next hop is found by the endpoint's own metadata";

static CONNECTION_OPTIONS: Table = Table {
    name: "envoy.config.cluster.v3.UpstreamConnectionOptions",
    fields: &[honoured(1, "tcp_keepalive").of(&TCP_KEEPALIVE)],
    refused: "2 set_local_interface_name_on_upstream_connections, 3 happy_eyeballs_config",
    required: &[],
};

static TCP_KEEPALIVE: Table = Table {
    name: "envoy.config.core.v3.TcpKeepalive",
    fields: &[
        honoured(1, "keepalive_probes").of(&UINT32_VALUE),
        honoured(2, "keepalive_time").of(&UINT32_VALUE),
        honoured(3, "keepalive_interval").of(&UINT32_VALUE),
    ],
    refused: "",
    required: &[],
};

static FILTER: Table = Table {
    name: "envoy.config.cluster.v3.Filter",
    fields: &[
        harmless(1, "name", "the type decides"),
        honoured(2, "typed_config").any(&[&[&typed_struct::UDPA, &typed_struct::XDS]]),
    ],
    refused: "3 config_discovery",
    required: &[required("typed_config", &[2])],
};

impl Discovery {
    /// Whether endpoints are listed (and not taken from the connection).
    pub fn lists_endpoints(&self) -> bool {
        matches!(
            self,
            Discovery::Eds { .. } | Discovery::Static | Discovery::Dns(_)
        )
    }
}

impl Cluster {
    pub(crate) fn from_proto(proto: &ClusterProto) -> Result<Cluster, Refusal> {
        for filter in &proto.filters {
            // Peers that speak HBONE never exchange metadata this way.
            let any = filter.typed_config.as_ref();
            let inner = any.map(typed_struct::unwrap).transpose()?.flatten();
            if inner.is_none_or(|(type_url, _)| type_url != METADATA_EXCHANGE) {
                return Err(Refusal::unsupported(format!("filters[{:?}]", filter.name)));
            }
        }
        transport_socket::check(proto)?;
        let options = ProtocolOptions::from_proto(proto)?;
        let metadata = Metadata::from_proto(proto.metadata.as_ref());
        Ok(Cluster {
            name: proto.name.as_str().into(),
            discovery: discovery(proto)?,
            balancing: Balancing::from_proto(proto)?,
            connect_timeout: duration::limit(&proto.connect_timeout, "connect_timeout")?
                .unwrap_or(CONNECT_TIMEOUT),
            protocol: options.protocol,
            idle_timeout: options.idle_timeout,
            max_connection_duration: options.max_connection_duration,
            max_requests_per_connection: options.max_requests_per_connection,
            service: service(&metadata),
            metadata,
            tcp_keepalive: tcp_keepalive(proto),
            thresholds: Thresholds::from_proto(proto.circuit_breakers.as_ref()),
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
    let family = LookupFamily::from_proto(proto)?;
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
        DiscoveryType::StrictDns => {
            Discovery::Dns(DnsDiscovery::from_proto(DnsKind::Strict, family, proto)?)
        }
        DiscoveryType::LogicalDns => {
            Discovery::Dns(DnsDiscovery::from_proto(DnsKind::Logical, family, proto)?)
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
    // Where HBONE's next hop is, for Envoy; elsewhere it would be another destination than the stream's.
    if config.metadata_key.is_some() && !transport_socket::is_infrastructure(&proto.name) {
        return Err(Refusal::unsupported("original_dst_lb_config.metadata_key"));
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

fn tcp_keepalive(proto: &ClusterProto) -> Option<TcpKeepalive> {
    let options = proto.upstream_connection_options.as_ref()?;
    let keepalive = options.tcp_keepalive.as_ref()?;
    let seconds = |value: u32| Duration::from_secs(u64::from(value));
    Some(TcpKeepalive {
        probes: keepalive.keepalive_probes.as_ref().map(|v| v.value),
        time: keepalive.keepalive_time.as_ref().map(|v| seconds(v.value)),
        interval: keepalive
            .keepalive_interval
            .as_ref()
            .map(|v| seconds(v.value)),
    })
}
