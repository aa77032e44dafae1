//! The filter chains of `main_internal`.
//!
//! A chain that a security object closes has the same name and place: HTTP answers 503 and names the
//! object, TCP denies every connection.

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::SharedWithUpstream;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::Cors;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;
use envoy_types::pb::envoy::extensions::filters::http::grpc_stats::v3 as grpc_stats;
use envoy_types::pb::envoy::extensions::filters::http::grpc_web::v3::GrpcWeb;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3 as filter_state;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use hcm::http_connection_manager::{PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig};

use crate::standalone::kinds::core::config_map::Normalization;
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::access_log::Logged;
use crate::standalone::translate::listeners::{
    HTTP_CONNECTION_MANAGER, LOCAL_IP, PEER_METADATA, TCP_PROXY, state,
};
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::list;
use crate::standalone::translate::proto::packed::nested;
use crate::standalone::translate::proto::packed::network_filter;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::truth;
use crate::standalone::translate::proto::packed::typed_struct;
use crate::standalone::translate::routes::sessions::SESSIONS;
use crate::standalone::translate::routes::{CORS, everything};
use crate::standalone::translate::security::authorization::NETWORK_RBAC;

/// Cluster of the chains for pod addresses.
const ENCAP: &str = "encap";

impl Mesh<'_> {
    pub(super) fn service_tcp_chain(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        cluster: &str,
    ) -> listener::FilterChain {
        let to = self.stream_destination(service, port, cluster);
        let settings = self.stream_settings(service);
        let mut filters = self.tcp_filters(Some(service), cluster, to, settings);
        if service.resolution() == Resolution::Dynamic {
            filters.insert(
                0,
                self.dynamic_network_filter(&service.hostname, port.number),
            );
        }
        chain(cluster, filters)
    }

    pub(super) fn service_http_chain(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        cluster: &str,
    ) -> listener::FilterChain {
        let mut routes = self.service_routes(service, port, cluster);
        if service.resolution() == Resolution::Dynamic {
            // Nobody gets elsewhere by the host that they name.
            for host in &mut routes.virtual_hosts {
                host.domains = vec![service.hostname.clone()];
            }
        }
        let manager = self.connection_manager(Some(service), port.number, port.protocol, routes);
        chain(
            cluster,
            vec![network_filter(HTTP_CONNECTION_MANAGER, any(&manager))],
        )
    }

    pub(super) fn direct_tcp_chain(&self) -> listener::FilterChain {
        let mut filters = vec![connect_authority()];
        let to = tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(ENCAP.to_owned());
        filters.extend(self.tcp_filters(None, ENCAP, to, tcp_proxy::TcpProxy::default()));
        chain("direct-tcp", filters)
    }

    pub(super) fn direct_http_chain(&self) -> listener::FilterChain {
        let routes = self.default_routes(ENCAP, "", 0);
        let manager = self.connection_manager(None, 0, Protocol::Unknown, routes);
        let filters = vec![
            connect_authority(),
            network_filter(HTTP_CONNECTION_MANAGER, any(&manager)),
        ];
        chain("direct-http", filters)
    }

    fn tcp_filters(
        &self,
        service: Option<&MeshService<'_>>,
        cluster: &str,
        to: tcp_proxy::tcp_proxy::ClusterSpecifier,
        settings: tcp_proxy::TcpProxy,
    ) -> Vec<listener::Filter> {
        let exchange = fields([
            ("protocol", text("istio-peer-exchange")),
            ("enable_discovery", truth(true)),
        ]);
        let exchange = typed_struct(
            "envoy.tcp.metadataexchange.config.MetadataExchange",
            exchange,
        );
        let mut filters = vec![network_filter("istio.metadata_exchange", exchange)];
        match self.closed_by(service) {
            Some(_) => filters.push(deny_all()),
            None => {
                filters.extend(self.network_ext_authz(service));
                filters.extend(self.network_rbac(service));
            }
        }
        let stats = self.stats_filters(service).into_iter();
        filters.extend(stats.map(|config| network_filter("istio.stats", config)));
        let proxy = tcp_proxy::TcpProxy {
            stat_prefix: cluster.to_owned(),
            access_log: self.access_logs(service, Logged::All),
            cluster_specifier: Some(to),
            ..settings
        };
        filters.push(network_filter(TCP_PROXY, any(&proxy)));
        filters
    }

    fn connection_manager(
        &self,
        service: Option<&MeshService<'_>>,
        port: u16,
        protocol: Protocol,
        routes: route::RouteConfiguration,
    ) -> hcm::HttpConnectionManager {
        let closed = self.closed_by(service);
        let mut filters: Vec<_> = self.client_identity_filter().into_iter().collect();
        if closed.is_none() {
            filters.extend(self.http_ext_authz(service));
            filters.extend(self.jwt_authn(service));
            filters.extend(self.http_rbac(service));
        }
        filters.extend(self.common_http_filters(service, protocol, keeps_sessions(&routes)));
        let routes = match &closed {
            Some(reason) => closed_routes(routes, reason),
            None => routes,
        };
        let normalization = self.config.path_normalization.normalization;
        let tracing = self.tracing(service);
        let request_id = UuidRequestIdConfig {
            use_request_id_for_trace_sampling: boolean(tracing.by_request_id),
            ..UuidRequestIdConfig::default()
        };
        let mut manager = hcm::HttpConnectionManager {
            stat_prefix: format!("inbound_0.0.0.0_{port};"),
            http_filters: filters,
            tracing: tracing.block,
            http2_protocol_options: protocol
                .is_http2()
                .then(core::Http2ProtocolOptions::default),
            stream_idle_timeout: seconds(0),
            access_log: self.access_logs(service, Logged::All),
            use_remote_address: boolean(false),
            proxy_100_continue: true,
            upgrade_configs: vec![UpgradeConfig {
                upgrade_type: "websocket".to_owned(),
                ..UpgradeConfig::default()
            }],
            normalize_path: boolean(normalization != Normalization::None),
            merge_slashes: matches!(
                normalization,
                Normalization::MergeSlashes | Normalization::DecodeAndMergeSlashes
            ),
            path_with_escaped_slashes_action: match normalization {
                Normalization::DecodeAndMergeSlashes => {
                    PathWithEscapedSlashesAction::UnescapeAndForward
                }
                _ => PathWithEscapedSlashesAction::KeepUnchanged,
            }
            .into(),
            request_id_extension: Some(hcm::RequestIdExtension {
                typed_config: Some(any(&request_id)),
            }),
            route_specifier: Some(RouteSpecifier::RouteConfig(routes)),
            ..hcm::HttpConnectionManager::default()
        };
        self.set_up(&mut manager);
        manager
    }

    /// What stands behind the policies on every HTTP chain.
    fn common_http_filters(
        &self,
        service: Option<&MeshService<'_>>,
        protocol: Protocol,
        sessions: bool,
    ) -> Vec<hcm::HttpFilter> {
        let discovery = nested(fields([("workload_discovery", nested(fields([])))]));
        let peer_metadata = typed_struct(
            PEER_METADATA,
            fields([("upstream_discovery", list(vec![discovery]))]),
        );
        let stats = grpc_stats::FilterConfig {
            emit_filter_state: true,
            per_method_stat_specifier: Some(
                grpc_stats::filter_config::PerMethodStatSpecifier::StatsForAllMethods(
                    envoy_types::pb::google::protobuf::BoolValue { value: false },
                ),
            ),
            ..grpc_stats::FilterConfig::default()
        };
        let mut filters = Vec::new();
        if protocol == Protocol::GrpcWeb {
            filters.push(http_filter("envoy.filters.http.grpc_web", any(&GrpcWeb {})));
        }
        filters.extend([
            http_filter("envoy.filters.http.grpc_stats", any(&stats)),
            http_filter("envoy.filters.http.fault", any(&HttpFault::default())),
            http_filter(CORS, any(&Cors {})),
        ]);
        let dynamic = service.filter(|service| service.resolution() == Resolution::Dynamic);
        filters.extend(dynamic.map(|service| self.dynamic_http_filter(&service.hostname)));
        if sessions {
            filters.push(http_filter(SESSIONS, any(&StatefulSession::default())));
        }
        filters.push(http_filter(
            "waypoint_upstream_peer_metadata",
            peer_metadata,
        ));
        let stats = self.stats_filters(service).into_iter();
        filters.extend(stats.map(|config| http_filter("istio.stats", config)));
        let headers = &self.config.default_config.proxy_headers;
        let router = Router {
            suppress_envoy_headers: headers.envoy_debug_headers.is_disabled(),
            ..Router::default()
        };
        filters.push(http_filter("envoy.filters.http.router", any(&router)));
        filters
    }

    /// How many of the chains a security object closes.
    pub(in crate::standalone::translate) fn closed_chains(&self) -> usize {
        if self.closures.is_empty() {
            return 0;
        }
        let of_port = |port: &MeshPort| match port.protocol {
            Protocol::Udp => 0,
            Protocol::Unknown => 2,
            _ => 1,
        };
        let services = self.waypoint.services.iter();
        let closed = services
            .filter(|service| service.resolution() != Resolution::None)
            .filter(|service| self.closed_by(Some(service)).is_some());
        let of_services: usize = closed.flat_map(|s| s.ports.iter().map(of_port)).sum();
        // Those for addresses of pods: HTTP and TCP.
        of_services + 2 * usize::from(self.closed_by(None).is_some())
    }

    /// The text that a closed chain answers with, naming every object that closes it.
    fn closed_by(&self, service: Option<&MeshService<'_>>) -> Option<String> {
        let closing = self
            .closures
            .iter()
            .filter(|closure| self.targets_chain(&closure.targets, &closure.namespace, service));
        let lines: Vec<String> = closing
            .map(|closure| {
                let problem = &closure.problem;
                let field = if problem.field.is_empty() {
                    ""
                } else {
                    &format!("{}: ", problem.field)
                };
                format!(
                    "waypoint: closed by {}: {field}{}\n",
                    problem.resource, problem.reason
                )
            })
            .collect();
        (!lines.is_empty()).then(|| lines.concat())
    }
}

fn chain(name: &str, filters: Vec<listener::Filter>) -> listener::FilterChain {
    listener::FilterChain {
        name: name.to_owned(),
        filters,
        ..listener::FilterChain::default()
    }
}

/// Whether any route keeps sessions: only then there is a filter for them.
fn keeps_sessions(routes: &route::RouteConfiguration) -> bool {
    let hosts = routes.virtual_hosts.iter();
    let mut routes = hosts.flat_map(|host| &host.routes);
    routes.any(|route| route.typed_per_filter_config.contains_key(SESSIONS))
}

/// Shares the pod's address with the hop that originates the tunnel.
fn connect_authority() -> listener::Filter {
    let format = "%FILTER_STATE(envoy.filters.listener.original_dst.local_ip:PLAIN)%";
    let config = filter_state::Config {
        on_new_connection: vec![state(LOCAL_IP, "", format, SharedWithUpstream::Once)],
        ..filter_state::Config::default()
    };
    network_filter("connect_authority", any(&config))
}

/// An ALLOW filter without policies.
fn deny_all() -> listener::Filter {
    let config = network_rbac::Rbac {
        stat_prefix: "tcp.".to_owned(),
        rules: Some(rbac::Rbac::default()),
        ..network_rbac::Rbac::default()
    };
    network_filter(NETWORK_RBAC, any(&config))
}

/// One route that answers 503 to everything.
fn closed_routes(routes: route::RouteConfiguration, reason: &str) -> route::RouteConfiguration {
    let body = core::DataSource {
        specifier: Some(core::data_source::Specifier::InlineString(
            reason.to_owned(),
        )),
        ..core::DataSource::default()
    };
    let answer = route::Route {
        name: "closed".to_owned(),
        r#match: Some(everything()),
        action: Some(route::route::Action::DirectResponse(
            route::DirectResponseAction {
                status: 503,
                body: Some(body),
                ..route::DirectResponseAction::default()
            },
        )),
        ..route::Route::default()
    };
    let hosts = routes
        .virtual_hosts
        .into_iter()
        .map(|host| route::VirtualHost {
            routes: vec![answer.clone()],
            ..host
        });
    route::RouteConfiguration {
        virtual_hosts: hosts.collect(),
        // Reasons may be longer than the 4 KiB that Envoy grants a body.
        max_direct_response_body_size_bytes: crate::standalone::translate::proto::packed::uint32(
            1 << 20,
        ),
        ..routes
    }
}
