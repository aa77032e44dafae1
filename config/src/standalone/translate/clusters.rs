//! Clusters: the five that every waypoint has, one or two for each port of an owned service, and
//! `outbound|…` for services that a route names but the waypoint doesn't own.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3 as internal_upstream;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
use envoy_types::pb::envoy::r#type::metadata::v3 as metadata_type;
use envoy_types::pb::envoy::r#type::v3 as percent;
use envoy_types::pb::google::protobuf::Any;

use crate::standalone::kinds::core::service::Protocol;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::translate::endpoints::{ORIGINAL_DST, internal_address};
use crate::standalone::translate::proto::packed::ads;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::list;
use crate::standalone::translate::proto::packed::metadata;
use crate::standalone::translate::proto::packed::nested;
use crate::standalone::translate::proto::packed::raw_buffer;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::transport_socket;
use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::{Mesh, tls_context};

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
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

    /// The clusters of an owned service, with the port behind each. None for an alias.
    pub(super) fn service_clusters<'s>(
        &self,
        service: &'s MeshService<'_>,
    ) -> Vec<(cluster::Cluster, &'s MeshPort)> {
        if service.resolution() == Resolution::None {
            return Vec::new();
        }
        let of_port = |port: &'s MeshPort| {
            subsets(port.protocol)
                .iter()
                .map(move |subset| (self.service_cluster(service, port, subset), port))
        };
        service.ports.iter().flat_map(of_port).collect()
    }

    fn service_cluster(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        subset: &str,
    ) -> cluster::Cluster {
        let name = inbound_vip(port.number, subset, &service.hostname);
        let hops = [(Scope::Host, ORIGINAL_DST), (Scope::Host, "istio")];
        let passthrough = service.resolution() == Resolution::Passthrough;
        cluster::Cluster {
            transport_socket: Some(internal_upstream("internal_upstream", &hops, raw_buffer())),
            metadata: Some(metadata([("istio", istio_metadata(service, Some(subset)))])),
            ..self.upstream_cluster(&name, port, passthrough)
        }
    }

    /// What owned and foreign services' clusters share. `passthrough`: to where the client wanted to go.
    pub(super) fn upstream_cluster(
        &self,
        name: &str,
        port: &MeshPort,
        passthrough: bool,
    ) -> cluster::Cluster {
        let (discovery, lb_policy) = if passthrough {
            (
                cluster::cluster::DiscoveryType::OriginalDst,
                cluster::cluster::LbPolicy::ClusterProvided,
            )
        } else {
            (
                cluster::cluster::DiscoveryType::Eds,
                cluster::cluster::LbPolicy::LeastRequest,
            )
        };
        let eds = cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: name.to_owned(),
        };
        let options = match port.protocol {
            Protocol::Unknown => protocol_options(None, None, use_downstream()),
            protocol if protocol.is_http2() => protocol_options(None, None, explicit_http2(false)),
            _ => HashMap::new(),
        };
        cluster::Cluster {
            eds_cluster_config: (!passthrough).then_some(eds),
            connect_timeout: Some(duration(self.config.connect_timeout)),
            lb_policy: lb_policy.into(),
            common_lb_config: Some(cluster::cluster::CommonLbConfig {
                healthy_panic_threshold: Some(percent::Percent { value: 0.0 }),
                ..Default::default()
            }),
            upstream_connection_options: self.keepalive(),
            typed_extension_protocol_options: options,
            cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
                discovery.into(),
            )),
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

fn protocol_options(
    idle: Option<Duration>,
    max_requests: Option<u32>,
    protocol: upstream_http::http_protocol_options::UpstreamProtocolOptions,
) -> HashMap<String, Any> {
    let common = core::HttpProtocolOptions {
        idle_timeout: idle.map(duration),
        max_requests_per_connection: max_requests.and_then(uint32),
        ..core::HttpProtocolOptions::default()
    };
    let options = upstream_http::HttpProtocolOptions {
        common_http_protocol_options: idle.is_some().then_some(common),
        upstream_protocol_options: Some(protocol),
        ..upstream_http::HttpProtocolOptions::default()
    };
    HashMap::from([(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&options))])
}

fn use_downstream() -> upstream_http::http_protocol_options::UpstreamProtocolOptions {
    use upstream_http::http_protocol_options::{UpstreamProtocolOptions, UseDownstreamHttpConfig};
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..UseDownstreamHttpConfig::default()
    })
}

fn explicit_http2(
    allow_connect: bool,
) -> upstream_http::http_protocol_options::UpstreamProtocolOptions {
    use upstream_http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions {
                allow_connect,
                ..core::Http2ProtocolOptions::default()
            },
        )),
    })
}
