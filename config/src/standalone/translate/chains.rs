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
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3 as filter_state;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use envoy_types::pb::envoy::extensions::request_id::uuid::v3::UuidRequestIdConfig;
use envoy_types::pb::google::protobuf::Any;
use hcm::http_connection_manager::{PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig};

use crate::standalone::kinds::core::config_map::Normalization;
use crate::standalone::kinds::core::service::Protocol;
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::translate::Mesh;
use crate::standalone::translate::access_log::Logged;
use crate::standalone::translate::authorization::NETWORK_RBAC;
use crate::standalone::translate::listeners::{
    HTTP_CONNECTION_MANAGER, LOCAL_IP, PEER_METADATA, SERVER_NAME, TCP_PROXY, state,
};
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::istio_stats;
use crate::standalone::translate::proto::packed::list;
use crate::standalone::translate::proto::packed::nested;
use crate::standalone::translate::proto::packed::network_filter;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::truth;
use crate::standalone::translate::proto::packed::typed_struct;

/// Cluster of the chains for pod addresses.
const ENCAP: &str = "encap";

const CORS: &str = "envoy.filters.http.cors";

/// The HTTP filters of every chain that routes have configuration for.
pub(super) fn per_route_filters() -> [(String, Any); 1] {
    [(CORS.to_owned(), any(&Cors {}))]
}

impl Mesh<'_> {
    pub(super) fn service_tcp_chain(
        &self,
        service: &MeshService<'_>,
        cluster: &str,
    ) -> listener::FilterChain {
        chain(cluster, self.tcp_filters(Some(service), cluster))
    }

    pub(super) fn service_http_chain(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        cluster: &str,
    ) -> listener::FilterChain {
        let routes = self.service_routes(service, port, cluster);
        let manager = self.connection_manager(Some(service), port.number, port.protocol, routes);
        chain(
            cluster,
            vec![network_filter(HTTP_CONNECTION_MANAGER, any(&manager))],
        )
    }

    pub(super) fn direct_tcp_chain(&self) -> listener::FilterChain {
        let mut filters = vec![connect_authority()];
        filters.extend(self.tcp_filters(None, ENCAP));
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
            None => filters.extend(self.network_rbac(service)),
        }
        if self.config.prometheus() {
            filters.push(network_filter("istio.stats", istio_stats()));
        }
        let proxy = tcp_proxy::TcpProxy {
            stat_prefix: cluster.to_owned(),
            access_log: self.access_log.logs(Logged::All),
            cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
                cluster.to_owned(),
            )),
            ..tcp_proxy::TcpProxy::default()
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
        let mut filters = Vec::new();
        if closed.is_none() {
            filters.extend(self.http_rbac(service));
        }
        filters.extend(self.common_http_filters(protocol));
        let routes = match &closed {
            Some(reason) => closed_routes(routes, reason),
            None => routes,
        };
        let normalization = self.config.path_normalization.normalization;
        let request_id = UuidRequestIdConfig {
            use_request_id_for_trace_sampling: boolean(true),
            ..UuidRequestIdConfig::default()
        };
        hcm::HttpConnectionManager {
            stat_prefix: format!("inbound_0.0.0.0_{port};"),
            http_filters: filters,
            tracing: self.tracing(),
            http2_protocol_options: protocol
                .is_http2()
                .then(core::Http2ProtocolOptions::default),
            server_name: SERVER_NAME.to_owned(),
            stream_idle_timeout: seconds(0),
            access_log: self.access_log.logs(Logged::All),
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
        }
    }

    /// What stands behind the policies on every HTTP chain.
    fn common_http_filters(&self, protocol: Protocol) -> Vec<hcm::HttpFilter> {
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
            http_filter("waypoint_upstream_peer_metadata", peer_metadata),
        ]);
        if self.config.prometheus() {
            filters.push(http_filter("istio.stats", istio_stats()));
        }
        filters.push(http_filter(
            "envoy.filters.http.router",
            any(&Router::default()),
        ));
        filters
    }

    /// The text that a closed chain answers with, naming every object that closes it.
    fn closed_by(&self, service: Option<&MeshService<'_>>) -> Option<String> {
        let closing =
            self.state.closures.iter().filter(|closure| {
                self.targets_chain(&closure.targets, &closure.namespace, service)
            });
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
        r#match: Some(crate::standalone::translate::routes::everything()),
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
