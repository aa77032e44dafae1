//! Clusters of services that a route of an owned service names and that this waypoint doesn't own.
//!
//! Unlike an owned service's, such a cluster finds out by endpoint whether to go through HBONE, a sidecar's
//! TLS or plain text. A headless service has one, too, owned or not, where another service's route names it:
//! its own cluster goes where the client wanted to go, which here is an address of that other service.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::Struct;

use crate::resource::{Resource, ResourceType};
use crate::standalone::kinds::core::service::Protocol;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::translate::Mesh;
use crate::standalone::translate::clusters::{Scope, internal_upstream, istio_metadata};
use crate::standalone::translate::endpoints::ORIGINAL_DST;
use crate::standalone::translate::endpoints::load_assignment;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::metadata;
use crate::standalone::translate::proto::packed::resource;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::transport_socket;
use crate::standalone::translate::proto::packed::truth;
use crate::standalone::translate::proto::packed::typed_struct;
use crate::standalone::translate::tls_context;

/// Name of a foreign service's cluster.
pub(super) fn outbound(port: u16, hostname: &str) -> String {
    format!("outbound|{port}||{hostname}")
}

/// Whether a service's own cluster would lead a route of `parent` astray.
pub(super) fn is_elsewhere(service: &MeshService<'_>, parent: &str) -> bool {
    service.resolution() == Resolution::Passthrough && service.hostname != parent
}

impl Mesh<'_> {
    /// Clusters and endpoints of every service that a route names and whose own cluster won't do, all ports
    /// of it.
    pub(super) fn outbound(&self) -> Vec<Resource> {
        let mut named: BTreeSet<_> = BTreeSet::new();
        for parent in &self.waypoint.services {
            named.extend(self.route_backends(parent).into_iter().filter(|name| {
                let service = self.state.services.get(name).map(MeshService::of_service);
                service.is_some_and(|service| {
                    !self.waypoint.owns(&service.hostname)
                        || is_elsewhere(&service, &parent.hostname)
                })
            }));
        }
        let found = named
            .iter()
            .filter_map(|name| self.state.services.get(name))
            .inspect(|service| self.effects.mark(*service));
        let mut resources = Vec::new();
        for service in found.map(MeshService::of_service) {
            if service.resolution() == Resolution::None {
                continue;
            }
            for port in service
                .ports
                .iter()
                .filter(|port| port.protocol != Protocol::Udp)
            {
                let cluster = self.outbound_cluster(&service, port);
                resources.push(resource(ResourceType::Cluster, &cluster.name, &cluster));
                if cluster.eds_cluster_config.is_some() {
                    let mut assignment =
                        load_assignment(&cluster.name, &service.endpoints(self.state, port));
                    assignment
                        .endpoints
                        .iter_mut()
                        .flat_map(|l| &mut l.lb_endpoints)
                        .for_each(tunnel_match);
                    resources.push(resource(
                        ResourceType::Endpoints,
                        &cluster.name,
                        &assignment,
                    ));
                }
            }
        }
        resources
    }

    fn outbound_cluster(&self, service: &MeshService<'_>, port: &MeshPort) -> cluster::Cluster {
        let name = outbound(port.number, &service.hostname);
        let exchange = fields([
            ("protocol", text("istio-peer-exchange")),
            ("enable_discovery", truth(true)),
        ]);
        let exchange = typed_struct(
            "envoy.tcp.metadataexchange.config.MetadataExchange",
            exchange,
        );
        let hops = [
            (Scope::Host, ORIGINAL_DST),
            (Scope::Cluster, "istio"),
            (Scope::Host, "istio"),
        ];
        let sni = format!("outbound_.{}_._.{}", port.number, service.hostname);
        let sidecar = tls_context::sidecar(
            &sni,
            self.identities(service, port),
            port.protocol.is_http2(),
        );
        cluster::Cluster {
            transport_socket_matches: vec![
                socket_match(
                    "hbone",
                    &[("tunnel", "http")],
                    internal_upstream(
                        "envoy.transport_sockets.internal_upstream",
                        &hops,
                        raw_buffer(),
                    ),
                ),
                socket_match("tlsMode-istio", &[("tlsMode", "istio")], sidecar),
                socket_match("tlsMode-disabled", &[], raw_buffer()),
            ],
            metadata: Some(metadata([("istio", istio_metadata(service, None))])),
            filters: vec![cluster::Filter {
                name: "istio.metadata_exchange".to_owned(),
                typed_config: Some(exchange),
                ..cluster::Filter::default()
            }],
            ..self.upstream_cluster(&name, port, false)
        }
    }

    /// SPIFFE identities that the service's pods may have, in all trust domains.
    fn identities(&self, service: &MeshService<'_>, port: &MeshPort) -> Vec<String> {
        let endpoints = service.endpoints(self.state, port);
        let accounts: BTreeSet<(&str, &str)> = self
            .state
            .pods
            .values()
            .filter(|pod| {
                let serves = |address: &std::net::IpAddr| {
                    endpoints
                        .iter()
                        .any(|endpoint| endpoint.address == *address)
                };
                pod.spec.addresses.iter().any(serves)
            })
            .map(|pod| {
                (
                    pod.meta.namespace.as_str(),
                    pod.spec.service_account.as_str(),
                )
            })
            .collect();
        let of_domain = |domain: &String| {
            let identities = accounts.iter();
            identities
                .map(|(namespace, account)| {
                    format!("spiffe://{domain}/ns/{namespace}/sa/{account}")
                })
                .collect::<Vec<_>>()
        };
        self.trust_domains.iter().flat_map(of_domain).collect()
    }
}

/// Marks an endpoint that is reached over HBONE.
fn tunnel_match(endpoint: &mut envoy_types::pb::envoy::config::endpoint::v3::LbEndpoint) {
    if let Some(metadata) = &mut endpoint.metadata
        && metadata.filter_metadata.contains_key(ORIGINAL_DST)
    {
        let tunnel = fields([("tunnel", text("http"))]);
        metadata
            .filter_metadata
            .insert("envoy.transport_socket_match".to_owned(), tunnel);
    }
}

fn raw_buffer() -> core::TransportSocket {
    use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
    transport_socket("envoy.transport_sockets.raw_buffer", any(&RawBuffer {}))
}

fn socket_match(
    name: &str,
    labels: &[(&str, &str)],
    socket: core::TransportSocket,
) -> cluster::cluster::TransportSocketMatch {
    let fields: HashMap<_, _> = labels
        .iter()
        .map(|(name, value)| ((*name).to_owned(), text(value)))
        .collect();
    cluster::cluster::TransportSocketMatch {
        name: name.to_owned(),
        r#match: Some(Struct { fields }),
        transport_socket: Some(socket),
    }
}
