//! Clusters: the five that every waypoint has, one or two for each port of an owned service, and
//! `outbound|…` for services that a route names but the waypoint doesn't own.

mod credentials;
mod dynamic;
pub(super) mod endpoints;
pub(super) mod extension_providers;
pub(super) mod jwks_source;
mod load_balancing;
mod locality;
pub(super) mod outbound;
mod peers;
mod protocol;
mod service_clusters;
pub(crate) mod service_lookup;
mod traffic_policy;
mod upstream_tls;

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3 as internal_upstream;
use envoy_types::pb::envoy::r#type::metadata::v3 as metadata_type;
use envoy_types::pb::google::protobuf::Any;

use crate::resource::{Resource, ResourceType};
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::state::destination_rules::MergedRule;
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::clusters::endpoints::{ORIGINAL_DST, internal_address};
use crate::standalone::translate::clusters::protocol::{
    explicit_http2, protocol_options, use_downstream,
};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::list;
use crate::standalone::translate::proto::packed::nested;
use crate::standalone::translate::proto::packed::raw_buffer;
use crate::standalone::translate::proto::packed::resource;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::transport_socket;
use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::proto::tls_context;

/// Idle time of a pool that leads to an internal listener.
const INTERNAL_IDLE: Duration = Duration::from_secs(300);
const HBONE_IDLE: Duration = Duration::from_secs(3600);

/// Name of an owned service's cluster; `subset` is `http` or `tcp`.
pub(super) fn inbound_vip(port: u16, subset: &str, hostname: &str) -> String {
    format!("inbound-vip|{port}|{subset}|{hostname}")
}

/// The subsets under which a port of this protocol is served.
pub(super) fn subsets(protocol: Protocol) -> &'static [&'static str] {
    match protocol {
        Protocol::Udp => &[],
        Protocol::Unknown => &["tcp", "http"],
        protocol if protocol.is_http() => &["http"],
        _ => &["tcp"],
    }
}

/// A cluster, and its endpoints where they are no part of it.
pub(super) struct Made {
    pub cluster: cluster::Cluster,
    pub assignment: Option<endpoint::ClusterLoadAssignment>,
}

impl Made {
    pub(super) fn resources(&self) -> Vec<Resource> {
        let name = &self.cluster.name;
        let cluster = resource(ResourceType::Cluster, name, &self.cluster);
        let endpoints = self.assignment.as_ref();
        let endpoints = endpoints.map(|found| resource(ResourceType::Endpoints, name, found));
        std::iter::once(cluster).chain(endpoints).collect()
    }
}

/// The object that a cluster's settings are of.
fn config_path(rule: &MergedRule<'_>) -> String {
    let Some(first) = rule.first() else {
        return String::new();
    };
    let (namespace, name) = (&first.meta.namespace, &first.meta.name);
    format!("/apis/networking.istio.io/v1/namespaces/{namespace}/destination-rule/{name}")
}

impl Mesh<'_> {
    /// `main_internal`, `encap` and the three ways to originate HBONE.
    pub(super) fn infrastructure_clusters(&self) -> Vec<cluster::Cluster> {
        let domains = &self.trust_domains;
        let own = &self.waypoint.gateway.meta;
        let also = format!(
            "spiffe://{}/ns/{}/sa/",
            self.config.trust_domain, own.namespace
        );
        let idle = self.config.hbone_idle_timeout.unwrap_or(HBONE_IDLE);
        let internal_options = |idle| protocol_options(idle, None, use_downstream());
        let metadata_key = metadata_type::MetadataKey {
            key: ORIGINAL_DST.to_owned(),
            path: vec![metadata_type::metadata_key::PathSegment {
                segment: Some(metadata_type::metadata_key::path_segment::Segment::Key(
                    "waypoint".to_owned(),
                )),
            }],
        };
        let originate = |name, key, also, requests| {
            self.original_dst_cluster(
                name,
                key,
                tls_context::upstream(domains, also),
                protocol_options(Some(idle), requests, explicit_http2(true)),
            )
        };
        vec![
            internal_cluster(
                "main_internal",
                "main_internal",
                internal_upstream("internal_upstream", &[], raw_buffer()),
                internal_options(Some(INTERNAL_IDLE)),
            ),
            internal_cluster(
                "encap",
                "connect_originate",
                internal_upstream("internal_upstream", &[], raw_buffer()),
                internal_options(Some(INTERNAL_IDLE)),
            ),
            originate("connect_originate", Some(metadata_key), Some(also), None),
            internal_cluster(
                "inner_connect_originate",
                "outer_connect_originate",
                internal_upstream(
                    "internal_upstream_with_tls",
                    &[],
                    tls_context::upstream(domains, None),
                ),
                protocol_options(Some(idle), Some(1), explicit_http2(true)),
            ),
            originate("outer_connect_originate", None, None, Some(1)),
        ]
    }

    fn original_dst_cluster(
        &self,
        name: &str,
        metadata_key: Option<metadata_type::MetadataKey>,
        socket: core::TransportSocket,
        options: HashMap<String, Any>,
    ) -> cluster::Cluster {
        let lb_config = cluster::cluster::OriginalDstLbConfig {
            upstream_port_override: uint32(waypoint_hbone::PORT.into()),
            metadata_key,
            ..Default::default()
        };
        cluster::Cluster {
            connect_timeout: Some(duration(self.config.connect_timeout)),
            lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
            cleanup_interval: seconds(60),
            transport_socket: Some(socket),
            typed_extension_protocol_options: options,
            cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
                cluster::cluster::DiscoveryType::OriginalDst.into(),
            )),
            lb_config: Some(cluster::cluster::LbConfig::OriginalDstLbConfig(lb_config)),
            ..base(name)
        }
    }

    fn keepalive(&self) -> Option<cluster::UpstreamConnectionOptions> {
        let keepalive = self.config.tcp_keepalive.as_ref()?;
        let whole = |time: Option<Duration>| {
            uint32(u32::try_from(time?.as_secs()).unwrap_or(u32::MAX))
                .filter(|seconds| seconds.value > 0)
        };
        Some(cluster::UpstreamConnectionOptions {
            tcp_keepalive: Some(core::TcpKeepalive {
                keepalive_probes: uint32(keepalive.probes).filter(|probes| probes.value > 0),
                keepalive_time: whole(keepalive.time),
                keepalive_interval: whole(keepalive.interval),
            }),
            ..Default::default()
        })
    }
}

/// `services` and, for owned services, `subset`: what telemetry knows of a cluster.
pub(super) fn istio_metadata(
    service: &MeshService<'_>,
    subset: Option<&str>,
) -> envoy_types::pb::google::protobuf::Struct {
    let of_service = fields([
        ("host", text(&service.hostname)),
        ("name", text(&service.name)),
        ("namespace", text(service.namespace)),
    ]);
    let mut istio = fields([("services", list(vec![nested(of_service)]))]);
    if let Some(subset) = subset {
        istio.fields.insert("subset".to_owned(), text(subset));
    }
    istio
}

/// Every cluster's name and its limits, which are none.
fn base(name: &str) -> cluster::Cluster {
    let thresholds = cluster::circuit_breakers::Thresholds {
        max_connections: uint32(u32::MAX),
        max_pending_requests: uint32(u32::MAX),
        max_requests: uint32(u32::MAX),
        max_retries: uint32(u32::MAX),
        ..Default::default()
    };
    cluster::Cluster {
        name: name.to_owned(),
        alt_stat_name: format!("{name};"),
        circuit_breakers: Some(cluster::CircuitBreakers {
            thresholds: vec![thresholds],
            ..Default::default()
        }),
        ..cluster::Cluster::default()
    }
}

fn internal_cluster(
    name: &str,
    listener: &str,
    socket: core::TransportSocket,
    options: HashMap<String, Any>,
) -> cluster::Cluster {
    let lb_endpoint = endpoint::LbEndpoint {
        host_identifier: Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(
            endpoint::Endpoint {
                address: Some(internal_address(listener, "")),
                ..endpoint::Endpoint::default()
            },
        )),
        ..endpoint::LbEndpoint::default()
    };
    cluster::Cluster {
        load_assignment: Some(endpoint::ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: vec![endpoint::LocalityLbEndpoints {
                lb_endpoints: vec![lb_endpoint],
                ..endpoint::LocalityLbEndpoints::default()
            }],
            ..endpoint::ClusterLoadAssignment::default()
        }),
        transport_socket: Some(socket),
        typed_extension_protocol_options: options,
        cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
            cluster::cluster::DiscoveryType::Static.into(),
        )),
        ..base(name)
    }
}

/// Whose metadata crosses an internal hop.
#[derive(Clone, Copy)]
pub(super) enum Scope {
    Host,
    Cluster,
}

pub(super) fn internal_upstream(
    name: &str,
    passthrough: &[(Scope, &str)],
    inner: core::TransportSocket,
) -> core::TransportSocket {
    let source = |(scope, name): &(Scope, &str)| {
        let kind = match scope {
            Scope::Host => {
                metadata_type::metadata_kind::Kind::Host(metadata_type::metadata_kind::Host {})
            }
            Scope::Cluster => metadata_type::metadata_kind::Kind::Cluster(
                metadata_type::metadata_kind::Cluster {},
            ),
        };
        internal_upstream::internal_upstream_transport::MetadataValueSource {
            kind: Some(metadata_type::MetadataKind { kind: Some(kind) }),
            name: (*name).to_owned(),
        }
    };
    let transport = internal_upstream::InternalUpstreamTransport {
        passthrough_metadata: passthrough.iter().map(source).collect(),
        transport_socket: Some(inner),
    };
    transport_socket(name, any(&transport))
}
