//! Clusters: where endpoints come from, how they are reached, what limits them.

pub mod circuit_breakers;
pub mod delivered_secret;
pub mod dns;
pub mod dynamic_forward_proxy;
pub mod health_check;
pub mod outlier_detection;
pub(crate) mod outlier_detector;
mod recent_requests;
pub mod retry_budget;
pub mod secret;
pub mod secret_slot;
pub mod server_names;
pub mod slot;
pub mod tcp_keepalive;
pub(crate) mod tls_checks;
pub mod transport_socket;
pub mod upstream_http2;
pub mod upstream_protocol;
pub mod upstream_tls;

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::{Cluster as ClusterProto, cluster};
use envoy_types::pb::envoy::config::core::v3::address;
use envoy_types::pb::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint};
use waypoint_filters::network::METADATA_EXCHANGE;
use waypoint_filters::stream::dynamic_metadata::{METADATA, Metadata};
use waypoint_filters::stream::stream_info::DestinationService;
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;
use waypoint_filters::xds::typed_struct;

use crate::model::balance::endpoint_set::CLUSTER_LOAD_ASSIGNMENT;
use crate::model::balance::maglev::MAGLEV_LB_CONFIG;
use crate::model::balance::policy::{
    self, Balancing, COMMON_LB_CONFIG, LEAST_REQUEST_LB_CONFIG, ROUND_ROBIN_LB_CONFIG,
};
use crate::model::balance::ring_hash::RING_HASH_LB_CONFIG;
use crate::model::cluster::circuit_breakers::{CIRCUIT_BREAKERS, Thresholds};
use crate::model::cluster::dns::{DNS_RESOLVER, DnsDiscovery, DnsKind, LookupFamily, REFRESH_RATE};
use crate::model::cluster::dynamic_forward_proxy::{CUSTOM_CLUSTER_TYPE, DnsCache, is_of_wildcard};
use crate::model::cluster::health_check::{HEALTH_CHECK, HealthCheck};
use crate::model::cluster::outlier_detection::{OUTLIER_DETECTION, OutlierDetection};
use crate::model::cluster::secret_slot::SecretSlots;
use crate::model::cluster::tcp_keepalive::{CONNECTION_OPTIONS, TcpKeepalive};
use crate::model::cluster::tls_checks::check_tls;
use crate::model::cluster::transport_socket::{Sockets, TRANSPORT_SOCKET, TRANSPORT_SOCKET_MATCH};
use crate::model::cluster::upstream_http2::UpstreamHttp2;
use crate::model::cluster::upstream_protocol::{
    HTTP_PROTOCOL_OPTIONS, ProtocolOptions, ServerNameFrom, UpstreamProtocol,
};
use crate::model::config_source::CONFIG_SOURCE;
use crate::model::duration;
use crate::model::endpoint::CONNECT_ORIGINATE;
use crate::model::header_case::HeaderCase;

/// A compiled `Cluster`.
#[derive(Debug)]
pub struct Cluster {
    pub name: Arc<str>,
    pub discovery: Discovery,
    pub balancing: Balancing,
    pub connect_timeout: Duration,
    pub protocol: UpstreamProtocol,
    pub server_name: ServerNameFrom,
    /// What its endpoints are spoken to through.
    pub sockets: Sockets,
    /// How long an idle connection lives; `None`: without end.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    pub http2: UpstreamHttp2,
    /// Of requests over HTTP/1; `Preserved` also keeps what answers have.
    pub header_case: HeaderCase,
    /// Whether trailers pass over HTTP/1.1, of requests and of answers.
    pub http1_trailers: bool,
    pub metadata: Metadata,
    /// What spans call it besides its name (`alt_stat_name`).
    pub stat_name: Option<Arc<str>>,
    /// `istio.services[0]` of the metadata.
    pub service: Option<Arc<DestinationService>>,
    pub tcp_keepalive: Option<TcpKeepalive>,
    /// `None`: no limits.
    pub thresholds: Option<Thresholds>,
    /// `None`: nobody is ejected, and nothing counted.
    pub outlier_detection: Option<Arc<OutlierDetection>>,
    /// `None`: nobody is checked.
    pub health_check: Option<Arc<HealthCheck>>,
    /// Whether endpoints go when nobody lists them any more, and not when a check fails.
    pub ignores_health_on_removal: bool,
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
    /// The hosts that requests name.
    Dynamic(DnsCache),
    /// The connection's own destination; `encap` and headless services.
    OriginalDst { port_override: Option<u16> },
    /// `encap`: the stream's own destination, carried there by HBONE.
    OriginalDstOverHbone,
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
        honoured(8, "health_checks")
            .list()
            .only("one, on a cluster that has a list of endpoints")
            .of(&HEALTH_CHECK),
        honoured(10, "circuit_breakers").of(&CIRCUIT_BREAKERS),
        honoured(16, "dns_refresh_rate").of(&DURATION),
        honoured(17, "dns_lookup_family"),
        honoured(19, "outlier_detection").of(&OUTLIER_DETECTION),
        harmless(
            20,
            "cleanup_interval",
            "destinations that are not used are swept",
        ),
        honoured(23, "ring_hash_lb_config").of(&RING_HASH_LB_CONFIG),
        honoured(24, "transport_socket").of(&TRANSPORT_SOCKET),
        honoured(25, "metadata").of(&METADATA),
        honoured(27, "common_lb_config").of(&COMMON_LB_CONFIG),
        honoured(28, "alt_stat_name"),
        honoured(30, "upstream_connection_options").of(&CONNECTION_OPTIONS),
        honoured(32, "ignore_health_on_host_removal"),
        honoured(33, "load_assignment").of(&CLUSTER_LOAD_ASSIGNMENT),
        honoured(34, "original_dst_lb_config").of(&ORIGINAL_DST_LB_CONFIG),
        honoured(36, "typed_extension_protocol_options")
            .map()
            .any(&[&[&HTTP_PROTOCOL_OPTIONS]]),
        honoured(37, "least_request_lb_config").of(&LEAST_REQUEST_LB_CONFIG),
        honoured(38, "cluster_type").of(&CUSTOM_CLUSTER_TYPE),
        honoured(39, "respect_dns_ttl"),
        honoured(40, "filters")
            .only("istio.metadata_exchange")
            .named(1)
            .of(&FILTER),
        honoured(43, "transport_socket_matches")
            .named(1)
            .of(&TRANSPORT_SOCKET_MATCH),
        honoured(44, "dns_failure_refresh_rate").of(&REFRESH_RATE),
        honoured(52, "maglev_lb_config").of(&MAGLEV_LB_CONFIG),
        honoured(55, "typed_dns_resolver_config").of(&DNS_RESOLVER),
        honoured(56, "round_robin_lb_config").of(&ROUND_ROBIN_LB_CONFIG),
        honoured(58, "dns_jitter").of(&DURATION),
    ],
    refused: "5 per_connection_buffer_limit_bytes, 9 max_requests_per_connection, \
              13 http_protocol_options, 14 http2_protocol_options, 18 dns_resolvers, \
              21 upstream_bind_config, 22 lb_subset_config, \
              26 protocol_selection, 29 common_http_protocol_options, \
              31 close_connections_on_host_health_failure, \
              41 load_balancing_policy, 42 lrs_server, 45 use_tcp_for_dns_lookups, \
              46 upstream_http_protocol_options, 47 track_timeout_budgets, 48 upstream_config, \
              49 track_cluster_stats, 50 preconnect_policy, \
              51 connection_pool_per_downstream_connection, \
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
    /// Whether its hosts are found when requests name them, how, and at which port where they name none.
    pub fn dynamic(&self) -> Option<(&DnsCache, u16)> {
        let Discovery::Dynamic(cache) = &self.discovery else {
            return None;
        };
        let speaks_tls = self.sockets.of(&Metadata::default()).tls.is_some();
        Some((cache, if speaks_tls { 443 } else { 80 }))
    }

    /// Whether endpoints that nobody lists any more are used until a check fails, as Envoy does with those that come and go.
    pub(crate) fn keeps_those_that_pass(&self) -> bool {
        let comes_and_goes = match &self.discovery {
            Discovery::Eds { .. } => true,
            Discovery::Dns(how) => how.kind == DnsKind::Strict,
            _ => false,
        };
        comes_and_goes && self.health_check.is_some() && !self.ignores_health_on_removal
    }

    /// Whether it may lead to this host: any, but where its service has hosts of one kind.
    pub fn is_for(&self, host: &str) -> bool {
        let wildcard = self.service.as_ref().map(|service| &*service.host);
        let wildcard = wildcard.filter(|wildcard| wildcard.starts_with('*'));
        wildcard.is_none_or(|wildcard| is_of_wildcard(wildcard, host))
    }

    pub(crate) fn from_proto(
        proto: &ClusterProto,
        secrets: &SecretSlots,
    ) -> Result<Cluster, Refusal> {
        for filter in &proto.filters {
            // Peers that speak HBONE never exchange metadata this way.
            let any = filter.typed_config.as_ref();
            let inner = any.map(typed_struct::unwrap).transpose()?.flatten();
            if inner.is_none_or(|(type_url, _)| type_url != METADATA_EXCHANGE) {
                return Err(Refusal::unsupported(format!("filters[{:?}]", filter.name)));
            }
        }
        let sockets = Sockets::from_proto(proto, secrets)?;
        let options = ProtocolOptions::from_proto(proto)?;
        check_tls(&sockets, &options)?;
        let metadata = Metadata::from_proto(proto.metadata.as_ref());
        let speaks_tls = sockets.of(&Metadata::default()).tls.is_some();
        let discovery = discovery(proto, speaks_tls.then_some(options.server_name))?;
        let health_check = HealthCheck::from_list(&proto.health_checks)?;
        if health_check.is_some() && !discovery.lists_endpoints() {
            return Err(Refusal::unsupported("health_checks"));
        }
        Ok(Cluster {
            name: proto.name.as_str().into(),
            discovery,
            balancing: Balancing::from_proto(proto)?,
            connect_timeout: duration::limit(&proto.connect_timeout, "connect_timeout")?
                .unwrap_or(CONNECT_TIMEOUT),
            protocol: options.protocol,
            server_name: options.server_name,
            sockets,
            idle_timeout: options.idle_timeout,
            max_connection_duration: options.max_connection_duration,
            max_requests_per_connection: options.max_requests_per_connection,
            http2: options.http2,
            header_case: options.header_case,
            http1_trailers: options.http1_trailers,
            stat_name: Some(proto.alt_stat_name.as_str())
                .filter(|name| !name.is_empty())
                .map(Into::into),
            service: service(&metadata),
            metadata,
            tcp_keepalive: TcpKeepalive::from_proto(proto),
            thresholds: Thresholds::from_proto(proto.circuit_breakers.as_ref())
                .map_err(|e| e.within("circuit_breakers.thresholds[0]"))?,
            outlier_detection: proto
                .outlier_detection
                .as_ref()
                .map(|proto| OutlierDetection::from_proto(proto).map(Arc::new))
                .transpose()
                .map_err(|e| e.within("outlier_detection"))?,
            health_check,
            ignores_health_on_removal: proto.ignore_health_on_host_removal,
        })
    }
}

/// `names` is what TLS with the endpoints says and checks, where it is spoken.
fn discovery(proto: &ClusterProto, names: Option<ServerNameFrom>) -> Result<Discovery, Refusal> {
    use cluster::{ClusterDiscoveryType, DiscoveryType};
    let kind = match &proto.cluster_discovery_type {
        // Proto3: the type's zero value is STATIC.
        None => DiscoveryType::Static,
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(*kind)
            .map_err(|_| Refusal::new("type", format!("unknown value {kind}")))?,
        Some(ClusterDiscoveryType::ClusterType(kind)) => {
            let cache = DnsCache::from_proto(kind, names);
            return cache
                .map(Discovery::Dynamic)
                .map_err(|e| e.within("cluster_type"));
        }
    };
    let family = LookupFamily::from_number(proto.dns_lookup_family)?;
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
