//! Hosts below a wildcard: given the same resources and the same name server, Envoy and the waypoint answer alike.

use std::net::{IpAddr, SocketAddr};

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::ClusterDiscoveryType;
use envoy_types::pb::envoy::config::core::v3::{
    Address, DnsResolverOptions, SocketAddress, TypedExtensionConfig, address, socket_address,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, Listener, filter};
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::ClusterConfig;
use envoy_types::pb::envoy::extensions::clusters::dynamic_forward_proxy::v3::cluster_config::ClusterImplementationSpecifier;
use envoy_types::pb::envoy::extensions::common::dynamic_forward_proxy::v3::DnsCacheConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::FilterConfig as HttpConfig;
use envoy_types::pb::envoy::extensions::filters::http::dynamic_forward_proxy::v3::filter_config::ImplementationSpecifier;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_filter;
use envoy_types::pb::envoy::extensions::filters::network::sni_dynamic_forward_proxy::v3::FilterConfig as SniConfig;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;
use envoy_types::pb::google::protobuf::Any;
use http::Method;
use prost::{Message, Name};
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::name_server::NameServer;
use waypoint_tests::route_changes;
use waypoint_tests::server_names::{TlsApp, asks_for};
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh};

const DAY: u32 = 24 * 3600;

/// Has Envoy ask this name server, wherever it looks names up.
fn asking(mut resources: Vec<Resource>, server: SocketAddr) -> Vec<Resource> {
    for resource in &mut resources {
        match resource.kind {
            ResourceType::Cluster => {
                let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
                if let Some(ClusterDiscoveryType::ClusterType(kind)) =
                    &mut cluster.cluster_discovery_type
                {
                    let any = kind.typed_config.as_mut().unwrap();
                    change(any, |config: &mut ClusterConfig| {
                        match &mut config.cluster_implementation_specifier {
                            Some(ClusterImplementationSpecifier::DnsCacheConfig(cache)) => {
                                ask(cache, server);
                            }
                            other => panic!("{other:?}"),
                        }
                    });
                }
                resource.body = cluster.encode_to_vec().into();
            }
            ResourceType::Listener => {
                let mut listener = Listener::decode(resource.body.clone()).unwrap();
                let chains = listener.filter_chains.iter_mut();
                for filter in chains.flat_map(|chain| &mut chain.filters) {
                    of_filter(filter, server);
                }
                resource.body = listener.encode_to_vec().into();
            }
            _ => {}
        }
    }
    resources
}

fn of_filter(filter: &mut Filter, server: SocketAddr) {
    let Some(filter::ConfigType::TypedConfig(any)) = &mut filter.config_type else {
        return;
    };
    change(any, |config: &mut SniConfig| {
        ask(config.dns_cache_config.as_mut().unwrap(), server);
    });
    change(any, |manager: &mut HttpConnectionManager| {
        for filter in &mut manager.http_filters {
            if let Some(http_filter::ConfigType::TypedConfig(any)) = &mut filter.config_type {
                change(any, |config: &mut HttpConfig| {
                    match &mut config.implementation_specifier {
                        Some(ImplementationSpecifier::DnsCacheConfig(cache)) => ask(cache, server),
                        other => panic!("{other:?}"),
                    }
                });
            }
        }
    });
}

/// Changes the message, if it is of this type.
fn change<M: Message + Name + Default>(any: &mut Any, change: impl FnOnce(&mut M)) {
    if any.type_url.ends_with(&format!("/{}", M::full_name())) {
        let mut message = M::decode(&*any.value).unwrap();
        change(&mut message);
        any.value = message.encode_to_vec();
    }
}

fn ask(cache: &mut DnsCacheConfig, server: SocketAddr) {
    let socket = SocketAddress {
        address: server.ip().to_string(),
        port_specifier: Some(socket_address::PortSpecifier::PortValue(
            server.port().into(),
        )),
        ..SocketAddress::default()
    };
    let config = CaresDnsResolverConfig {
        resolvers: vec![Address {
            address: Some(address::Address::SocketAddress(socket)),
        }],
        dns_resolver_options: Some(DnsResolverOptions {
            no_default_search_domain: true,
            ..DnsResolverOptions::default()
        }),
        ..CaresDnsResolverConfig::default()
    };
    cache.typed_dns_resolver_config = Some(TypedExtensionConfig {
        name: "envoy.network.dns_resolver.cares".to_owned(),
        typed_config: Some(route_changes::packed(&config)),
    });
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn hosts_below_a_wildcard_are_found_as_by_envoy() {
    let mesh = Mesh::new();
    mesh.access_log_format("%REQ(:AUTHORITY)% %RESPONSE_CODE_DETAILS% %RESPONSE_FLAGS%|\n");
    let vip = mesh.vip(1).ip();
    let entry = format!(
        "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: wild, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
         spec: {{hosts: ['*.wild.test'], resolution: DYNAMIC_DNS, location: MESH_EXTERNAL, ports: [\
         {{number: 80, name: http, protocol: HTTP}}, {{number: 8080, name: any, protocol: HTTP}}, \
         {{number: 8443, name: tls, protocol: TLS}}]}}\n\
         status: {{addresses: [{{value: {vip}, host: '*.wild.test'}}]}}\n"
    );
    mesh.manifest("wild.yaml", &entry);
    // Of one of the ports any host has routes.
    let resources = route_changes::changed(mesh.resources(), |host| {
        if host.name.ends_with("|8080") {
            host.domains = vec!["*".to_owned()];
        }
    });
    let names = NameServer::start().await;
    let (here, there) = (mesh.pod_ip(1), mesh.pod_ip(2));
    let _app = App::http(SocketAddr::new(here, 8080), "here").await;
    let server = TlsApp::start(SocketAddr::new(here, 8443)).await;
    let v6: IpAddr = "fd00::1".parse().unwrap();
    for (name, addresses) in [
        ("one.wild.test", vec![here]),
        ("two.wild.test", vec![there, here]),
        ("closed.wild.test", vec![there]),
        ("v6.wild.test", vec![v6]),
    ] {
        names.set(name, &addresses, DAY);
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let mut options = mesh.options(istiod.source(), istiod.certificates());
    options.dns_servers = vec![names.address];
    options.near_allowed = vec!["127.0.0.0/8".parse().unwrap()];
    let waypoint = mesh.try_start_with(options).await.unwrap();
    waypoint.until_ready().await;
    let (_envoy, envoy) = Envoy::beside(&mesh, &asking(resources, names.address)).await;
    let certificate = mesh.certificate("default", "curl");
    let mut answers = Vec::new();
    for address in [waypoint.address(), envoy] {
        let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
        let mut seen = Vec::new();
        for (port, host) in [
            (80, "one.wild.test"),
            (80, "one.wild.test:80"),
            (80, "wild.test"),
            (80, "evil.test"),
            (80, "nobody.wild.test"),
            (80, "v6.wild.test"),
            (8080, "one.wild.test:8080"),
            (8080, "ONE.wild.test:8080"),
            (8080, "two.wild.test:8080"),
            (8080, "closed.wild.test:8080"),
            (8080, "nobody.wild.test:8080"),
        ] {
            let asked = request(Method::GET, "/", &[("host", host)]);
            let answer = ztunnel.request(SocketAddr::new(vip, port), asked).await;
            let app = answer.header("x-app");
            let text = if app.is_empty() { answer.text() } else { app };
            seen.push(format!("{host} at {port}: {} {text}", answer.status));
        }
        for name in ["one.wild.test", "nobody.wild.test"] {
            let tunnel = ztunnel.tunnel(SocketAddr::new(vip, 8443)).await;
            let greeted = asks_for(tunnel, Some(name), usize::MAX).await;
            seen.push(format!("{name} by TLS: {greeted:?}"));
        }
        answers.push(seen);
    }
    assert_eq!(answers[0], answers[1]);
    let answered = answers[0].iter().filter(|answer| answer.ends_with("here"));
    assert_eq!((answered.count(), server.connections()), (3, 2));
}
