//! The listeners around `main_internal`: `connect_terminate`, where tunnels arrive, and the three where
//! they are originated.

mod chains;
mod filter_chain_matcher;
mod main_internal;
mod proxy_settings;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3 as filter_state;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::http::set_filter_state::v3 as http_filter_state;
use envoy_types::pb::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3 as network_filter_state;
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use filter_state::filter_state_value::SharedWithUpstream;

use crate::standalone::translate::clusters::endpoints::ORIGINAL_DST;
use crate::standalone::translate::clusters::endpoints::socket_address;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::context::access_log::Logged;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::boolean;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::format_string;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::list;
use crate::standalone::translate::proto::packed::nested;
use crate::standalone::translate::proto::packed::network_filter;
use crate::standalone::translate::proto::packed::seconds;
use crate::standalone::translate::proto::packed::truth;
use crate::standalone::translate::proto::packed::typed_struct;
use crate::standalone::translate::proto::packed::uint32;
use crate::standalone::translate::proto::tls_context;

const HASHABLE: &str = "istio.hashable_string";
pub(super) const LOCAL_IP: &str = "envoy.filters.listener.original_dst.local_ip";
pub(super) const SERVER_NAME: &str = "istio-envoy";
pub(super) const HTTP_CONNECTION_MANAGER: &str = "envoy.filters.network.http_connection_manager";
pub(super) const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
pub(super) const PEER_METADATA: &str = "io.istio.http.peer_metadata.Config";

impl Mesh<'_> {
    pub(super) fn connect_terminate(&self) -> listener::Listener {
        let chain = listener::FilterChain {
            name: "default".to_owned(),
            filters: vec![network_filter(
                HTTP_CONNECTION_MANAGER,
                any(&self.terminating_manager()),
            )],
            transport_socket: Some(tls_context::downstream(&self.trust_domains)),
            ..listener::FilterChain::default()
        };
        let mut addresses = Vec::new();
        if self.families.v4 {
            addresses.push(socket_address("0.0.0.0", waypoint_hbone::PORT));
        }
        if self.families.v6 {
            addresses.push(socket_address("::", waypoint_hbone::PORT));
        }
        let mut addresses = addresses.into_iter();
        let balance = listener::listener::connection_balance_config::ExactBalance {};
        listener::Listener {
            name: "connect_terminate".to_owned(),
            address: addresses.next(),
            additional_addresses: addresses
                .map(|address| listener::AdditionalAddress {
                    address: Some(address),
                    ..listener::AdditionalAddress::default()
                })
                .collect(),
            filter_chains: vec![chain],
            connection_balance_config: Some(listener::listener::ConnectionBalanceConfig {
                balance_type: Some(
                    listener::listener::connection_balance_config::BalanceType::ExactBalance(
                        balance,
                    ),
                ),
            }),
            access_log: self.access_logs(None, Logged::NoRoute),
            ..listener::Listener::default()
        }
    }

    fn terminating_manager(&self) -> hcm::HttpConnectionManager {
        let keepalive = core::KeepaliveSettings {
            interval: seconds(10),
            timeout: seconds(20),
            ..core::KeepaliveSettings::default()
        };
        let mut manager = hcm::HttpConnectionManager {
            stat_prefix: "connect_terminate".to_owned(),
            http_filters: vec![
                http_filter(
                    "waypoint_downstream_peer_metadata",
                    downstream_peer_metadata(),
                ),
                http_filter("connect_authority", any(&connect_authority())),
                http_filter("envoy.filters.http.router", any(&Router::default())),
            ],
            http2_protocol_options: Some(core::Http2ProtocolOptions {
                allow_connect: true,
                max_concurrent_streams: uint32(100),
                connection_keepalive: Some(keepalive),
                ..core::Http2ProtocolOptions::default()
            }),
            stream_idle_timeout: seconds(0),
            access_log: self.access_logs(None, Logged::Errors),
            use_remote_address: boolean(false),
            forward_client_cert_details:
                hcm::http_connection_manager::ForwardClientCertDetails::AppendForward.into(),
            set_current_client_cert_details: Some(
                hcm::http_connection_manager::SetCurrentClientCertDetails {
                    subject: boolean(true),
                    dns: true,
                    uri: true,
                    ..Default::default()
                },
            ),
            upgrade_configs: vec![hcm::http_connection_manager::UpgradeConfig {
                upgrade_type: "CONNECT".to_owned(),
                ..Default::default()
            }],
            route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(
                connect_routes(),
            )),
            ..hcm::HttpConnectionManager::default()
        };
        self.set_headers(&mut manager);
        manager
    }

    pub(super) fn connect_originate(&self) -> listener::Listener {
        let tunnel = tcp_proxy::tcp_proxy::TunnelingConfig {
            hostname: "%DOWNSTREAM_LOCAL_ADDRESS%".to_owned(),
            ..Default::default()
        };
        self.originating("connect_originate", Vec::new(), tunnel, true)
    }

    pub(super) fn inner_connect_originate(&self) -> listener::Listener {
        let shared = SharedWithUpstream::Transitive;
        let config = network_filter_state::Config {
            on_new_connection: vec![
                state(
                    LOCAL_IP,
                    "",
                    "%DYNAMIC_METADATA(envoy.filters.listener.original_dst:local)%",
                    shared,
                ),
                state(
                    "istio.double_hbone.hbone_target_address",
                    HASHABLE,
                    "%DYNAMIC_METADATA(istio:double_hbone:hbone_target_address)%",
                    shared,
                ),
            ],
            ..network_filter_state::Config::default()
        };
        let filters = vec![network_filter("propagate_endpoint_metadata", any(&config))];
        // The waypoint's own network has no name here.
        let tunnel = double_hbone("x-forwarded-network", "");
        self.originating("inner_connect_originate", filters, tunnel, false)
    }

    pub(super) fn outer_connect_originate(&self) -> listener::Listener {
        let tunnel = double_hbone("x-istio-source", "waypoint");
        self.originating("outer_connect_originate", Vec::new(), tunnel, true)
    }

    fn originating(
        &self,
        name: &str,
        mut filters: Vec<listener::Filter>,
        tunnel: tcp_proxy::tcp_proxy::TunnelingConfig,
        original_dst: bool,
    ) -> listener::Listener {
        let proxy = tcp_proxy::TcpProxy {
            stat_prefix: name.to_owned(),
            access_log: self.access_logs(None, Logged::UpstreamFailure),
            tunneling_config: Some(tunnel),
            cluster_specifier: Some(tcp_proxy::tcp_proxy::ClusterSpecifier::Cluster(
                name.to_owned(),
            )),
            ..tcp_proxy::TcpProxy::default()
        };
        filters.push(network_filter(TCP_PROXY, any(&proxy)));
        listener::Listener {
            name: name.to_owned(),
            filter_chains: vec![listener::FilterChain {
                filters,
                ..Default::default()
            }],
            use_original_dst: boolean(false),
            listener_filters: original_dst.then(original_dst_filter).into_iter().collect(),
            access_log: self.access_logs(None, Logged::NoRoute),
            listener_specifier: Some(internal()),
            ..listener::Listener::default()
        }
    }
}

pub(super) fn internal() -> listener::listener::ListenerSpecifier {
    listener::listener::ListenerSpecifier::InternalListener(
        listener::listener::InternalListenerConfig {},
    )
}

pub(super) fn original_dst_filter() -> listener::ListenerFilter {
    listener::ListenerFilter {
        name: ORIGINAL_DST.to_owned(),
        config_type: Some(listener::listener_filter::ConfigType::TypedConfig(any(
            &OriginalDst {},
        ))),
        ..listener::ListenerFilter::default()
    }
}

/// Everything goes to `main_internal`.
fn connect_routes() -> route::RouteConfiguration {
    let connect = route::route_action::UpgradeConfig {
        upgrade_type: "CONNECT".to_owned(),
        connect_config: Some(route::route_action::upgrade_config::ConnectConfig::default()),
        ..Default::default()
    };
    let to_main_internal = route::Route {
        r#match: Some(route::RouteMatch {
            path_specifier: Some(route::route_match::PathSpecifier::ConnectMatcher(
                route::route_match::ConnectMatcher {},
            )),
            ..route::RouteMatch::default()
        }),
        action: Some(route::route::Action::Route(route::RouteAction {
            upgrade_configs: vec![connect],
            cluster_specifier: Some(route::route_action::ClusterSpecifier::Cluster(
                "main_internal".to_owned(),
            )),
            ..route::RouteAction::default()
        })),
        ..route::Route::default()
    };
    route::RouteConfiguration {
        name: "default".to_owned(),
        virtual_hosts: vec![route::VirtualHost {
            name: "default".to_owned(),
            domains: vec!["*".to_owned()],
            routes: vec![to_main_internal],
            ..route::VirtualHost::default()
        }],
        ..route::RouteConfiguration::default()
    }
}

fn downstream_peer_metadata() -> envoy_types::pb::google::protobuf::Any {
    let discovery = nested(fields([("workload_discovery", nested(fields([])))]));
    let value = fields([
        ("downstream_discovery", list(vec![discovery])),
        ("shared_with_upstream", truth(true)),
    ]);
    typed_struct(PEER_METADATA, value)
}

/// What the join hands on: destination, source and the identities of both ends of the tunnel.
fn connect_authority() -> http_filter_state::Config {
    let once = SharedWithUpstream::Once;
    http_filter_state::Config {
        on_request_headers: vec![
            state(LOCAL_IP, "", "%REQ(:AUTHORITY)%", once),
            state(
                "io.istio.connect_authority",
                HASHABLE,
                "%REQ(:AUTHORITY)%",
                once,
            ),
            state(
                "envoy.filters.listener.original_dst.remote_ip",
                "",
                "%DOWNSTREAM_REMOTE_ADDRESS%",
                once,
            ),
            state(
                "io.istio.peer_principal",
                HASHABLE,
                "%DOWNSTREAM_PEER_URI_SAN%",
                once,
            ),
            state(
                "io.istio.local_principal",
                HASHABLE,
                "%DOWNSTREAM_LOCAL_URI_SAN%",
                once,
            ),
        ],
        ..http_filter_state::Config::default()
    }
}

pub(super) fn state(
    key: &str,
    factory: &str,
    format: &str,
    shared: SharedWithUpstream,
) -> filter_state::FilterStateValue {
    filter_state::FilterStateValue {
        factory_key: factory.to_owned(),
        shared_with_upstream: shared.into(),
        key: Some(filter_state::filter_state_value::Key::ObjectKey(
            key.to_owned(),
        )),
        value: Some(filter_state::filter_state_value::Value::FormatString(
            format_string(format),
        )),
        ..filter_state::FilterStateValue::default()
    }
}

fn double_hbone(header: &str, value: &str) -> tcp_proxy::tcp_proxy::TunnelingConfig {
    use core::header_value_option::HeaderAppendAction;
    tcp_proxy::tcp_proxy::TunnelingConfig {
        hostname: "%FILTER_STATE(istio.double_hbone.hbone_target_address:PLAIN)%".to_owned(),
        headers_to_add: vec![core::HeaderValueOption {
            header: Some(core::HeaderValue {
                key: header.to_owned(),
                value: value.to_owned(),
                ..core::HeaderValue::default()
            }),
            append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
            ..core::HeaderValueOption::default()
        }],
        ..Default::default()
    }
}
