//! Real Envoy as the same waypoint, configured over delta ADS by the scripted istiod.
//!
//! As in [`crate::envoy`], what only Istio's build knows is left out of its resources.

use std::fs;

use envoy_types::pb::envoy::config::bootstrap::v3::{
    Admin, Bootstrap,
    bootstrap::{DynamicResources, StaticResources},
};
use envoy_types::pb::envoy::config::cluster::v3::{Cluster, cluster};
use envoy_types::pb::envoy::config::core::v3::{
    AggregatedConfigSource, ApiConfigSource, ApiVersion, ConfigSource, DataSource, GrpcService,
    HeaderValue, Http2ProtocolOptions, Node, TransportSocket,
    api_config_source::ApiType,
    config_source::ConfigSourceSpecifier,
    data_source,
    grpc_service::{EnvoyGrpc, TargetSpecifier},
    transport_socket,
};
use envoy_types::pb::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, lb_endpoint,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, CommonTlsContext, TlsParameters, UpstreamTlsContext,
    common_tls_context::ValidationContextType, tls_parameters::TlsProtocol,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    },
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_config::sources::xds::channel::ControlPlane as Address;

use crate::envoy::{Settings, UPSTREAM_TLS, cluster, decode, internal_listeners, listener, socket};

const CONTROL_PLANE: &str = "xds-grpc";
const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The resources as Envoy can take them.
#[must_use]
pub fn resources(all: Vec<Resource>, settings: &Settings) -> Vec<Resource> {
    let change = |mut resource: Resource| {
        resource.body = match resource.kind {
            ResourceType::Listener => listener(decode(&resource.body), settings)
                .encode_to_vec()
                .into(),
            ResourceType::Cluster => cluster(decode(&resource.body), settings)
                .encode_to_vec()
                .into(),
            _ => resource.body,
        };
        resource
    };
    all.into_iter().map(change).collect()
}

/// A bootstrap that gets everything from `istiod`.
#[must_use]
pub fn bootstrap(settings: &Settings, istiod: &Address) -> Bootstrap {
    let token = fs::read_to_string(&istiod.token).unwrap_or_default();
    let ads = Some(ConfigSource {
        config_source_specifier: Some(ConfigSourceSpecifier::Ads(AggregatedConfigSource {})),
        resource_api_version: ApiVersion::V3 as i32,
        ..ConfigSource::default()
    });
    Bootstrap {
        node: Some(Node {
            id: "waypoint".into(),
            cluster: "waypoint".into(),
            ..Node::default()
        }),
        dynamic_resources: Some(DynamicResources {
            ads_config: Some(ApiConfigSource {
                api_type: ApiType::DeltaGrpc as i32,
                transport_api_version: ApiVersion::V3 as i32,
                set_node_on_first_message_only: true,
                grpc_services: vec![GrpcService {
                    target_specifier: Some(TargetSpecifier::EnvoyGrpc(EnvoyGrpc {
                        cluster_name: CONTROL_PLANE.into(),
                        ..EnvoyGrpc::default()
                    })),
                    initial_metadata: vec![HeaderValue {
                        key: "authorization".into(),
                        value: format!("Bearer {}", token.trim()),
                        ..HeaderValue::default()
                    }],
                    ..GrpcService::default()
                }],
                ..ApiConfigSource::default()
            }),
            lds_config: ads.clone(),
            cds_config: ads,
            ..DynamicResources::default()
        }),
        static_resources: Some(StaticResources {
            clusters: vec![control_plane(istiod)],
            ..StaticResources::default()
        }),
        admin: Some(Admin {
            address: Some(socket(settings.admin)),
            ..Admin::default()
        }),
        bootstrap_extensions: internal_listeners(),
        ..Bootstrap::default()
    }
}

/// The cluster of istiod itself: HTTP/2 in TLS.
fn control_plane(istiod: &Address) -> Cluster {
    let endpoint = Endpoint {
        address: Some(socket(istiod.address.parse().unwrap())),
        ..Endpoint::default()
    };
    let options = HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
                    Http2ProtocolOptions::default(),
                )),
            },
        )),
        ..HttpProtocolOptions::default()
    };
    let options = Any {
        type_url: format!("type.googleapis.com/{PROTOCOL_OPTIONS}"),
        value: options.encode_to_vec(),
    };
    Cluster {
        name: CONTROL_PLANE.into(),
        cluster_discovery_type: Some(cluster::ClusterDiscoveryType::Type(
            cluster::DiscoveryType::Static as i32,
        )),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: CONTROL_PLANE.into(),
            endpoints: vec![LocalityLbEndpoints {
                lb_endpoints: vec![LbEndpoint {
                    host_identifier: Some(lb_endpoint::HostIdentifier::Endpoint(endpoint)),
                    ..LbEndpoint::default()
                }],
                ..LocalityLbEndpoints::default()
            }],
            ..ClusterLoadAssignment::default()
        }),
        typed_extension_protocol_options: [(PROTOCOL_OPTIONS.to_owned(), options)].into(),
        transport_socket: Some(tls(istiod)),
        ..Cluster::default()
    }
}

fn tls(istiod: &Address) -> TransportSocket {
    let root = istiod.root.as_ref().unwrap().to_string_lossy().into_owned();
    let context = UpstreamTlsContext {
        sni: istiod.server_name.clone().unwrap_or_default(),
        common_tls_context: Some(CommonTlsContext {
            alpn_protocols: vec!["h2".into()],
            // Its clients stop at TLS 1.2 unless told.
            tls_params: Some(TlsParameters {
                tls_maximum_protocol_version: TlsProtocol::TlSv13 as i32,
                ..TlsParameters::default()
            }),
            validation_context_type: Some(ValidationContextType::ValidationContext(
                CertificateValidationContext {
                    trusted_ca: Some(DataSource {
                        specifier: Some(data_source::Specifier::Filename(root)),
                        ..DataSource::default()
                    }),
                    ..CertificateValidationContext::default()
                },
            )),
            ..CommonTlsContext::default()
        }),
        ..UpstreamTlsContext::default()
    };
    TransportSocket {
        name: "envoy.transport_sockets.tls".into(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(Any {
            type_url: UPSTREAM_TLS.into(),
            value: context.encode_to_vec(),
        })),
    }
}
