//! Clusters of services that a route of an owned service names and that this waypoint doesn't own; and of those that
//! the waypoint itself asks, owned or not.
//!
//! Unlike an owned service's, such a cluster finds out by endpoint whether to go through HBONE, a sidecar's
//! TLS or plain text. A headless service has one, too, owned or not, where another service's route names it:
//! its own cluster goes where the client wanted to go, which here is an address of that other service.

use std::collections::{BTreeSet, HashMap};

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::google::protobuf::Struct;

use crate::resource::Resource;
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::destination_rule::Subset;
use crate::standalone::kinds::traffic_policy::Effective;
use crate::standalone::kinds::traffic_policy::client_tls::TlsMode;
use crate::standalone::state::destination_rules::MergedRule;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution, Source};
use crate::standalone::translate::clusters::endpoints::ORIGINAL_DST;
use crate::standalone::translate::clusters::protocol::Options;
use crate::standalone::translate::clusters::{
    Made, Scope, config_path, internal_upstream, istio_metadata, upstream_tls,
};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::fields;
use crate::standalone::translate::proto::packed::metadata;
use crate::standalone::translate::proto::packed::text;
use crate::standalone::translate::proto::packed::transport_socket;
use crate::standalone::translate::proto::packed::truth;
use crate::standalone::translate::proto::packed::typed_struct;
use crate::standalone::translate::proto::tls_context;

/// Name of a foreign service's cluster.
pub(crate) fn outbound(port: u16, hostname: &str) -> String {
    outbound_subset(port, "", hostname)
}

/// Name of the cluster of a subset of it.
pub(crate) fn outbound_subset(port: u16, subset: &str, hostname: &str) -> String {
    format!("outbound|{port}|{subset}|{hostname}")
}

/// Whether a service's own cluster would lead a route of `parent` astray.
pub(crate) fn is_elsewhere(service: &MeshService<'_>, parent: &str) -> bool {
    service.resolution() == Resolution::Passthrough && service.hostname != parent
}

impl Mesh<'_> {
    /// Clusters and endpoints of every service that a route names and whose own cluster won't do, or that is
    /// asked; all ports of it.
    pub(crate) fn outbound(&self) -> Vec<Resource> {
        let mut found: Vec<MeshService<'_>> = Vec::new();
        for parent in &self.waypoint.services {
            let routed = self.route_backends(parent);
            let named = routed
                .into_iter()
                .chain(self.virtual_service_destinations(parent));
            found.extend(named.filter(|service| {
                !self.waypoint.owns(&service.hostname) || is_elsewhere(service, &parent.hostname)
            }));
        }
        found.extend(self.key_services());
        found.extend(self.provider_services());
        found.sort_by(|a, b| a.hostname.cmp(&b.hostname));
        found.dedup_by(|a, b| a.hostname == b.hostname);
        let mut resources = Vec::new();
        for service in found {
            match service.source {
                Source::Service(object) => self.effects.mark(object),
                Source::Entry(object) => self.effects.mark(object),
            }
            // Nor is there a way to hosts that only requests name but through the service's own chain.
            if matches!(service.resolution(), Resolution::None | Resolution::Dynamic) {
                continue;
            }
            let rule = self.rule_for(&service);
            self.mark_rule(rule);
            for port in service.ports.iter().filter(|p| p.protocol != Protocol::Udp) {
                let of_rule = rule.iter().flat_map(|rule| &rule.subsets).map(|s| Some(*s));
                for subset in std::iter::once(None).chain(of_rule) {
                    let made = self.outbound_cluster(&service, port, rule, subset);
                    resources.extend(made.resources());
                }
            }
        }
        resources
    }

    fn outbound_cluster(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        rule: Option<&MergedRule<'_>>,
        subset: Option<&Subset>,
    ) -> Made {
        let subset_name = subset.map_or("", |subset| subset.name.as_str());
        let name = outbound_subset(port.number, subset_name, &service.hostname);
        self.outbound_as(name, service, port, rule, subset, None)
    }

    /// A cluster of a service that is asked through TLS of its own, whatever rules say of that.
    pub(super) fn outbound_over_tls(
        &self,
        name: String,
        service: &MeshService<'_>,
        port: &MeshPort,
        tls: core::TransportSocket,
    ) -> Made {
        let rule = self.rule_for(service);
        self.outbound_as(name, service, port, rule, None, Some(tls))
    }

    fn outbound_as(
        &self,
        name: String,
        service: &MeshService<'_>,
        port: &MeshPort,
        rule: Option<&MergedRule<'_>>,
        subset: Option<&Subset>,
        tls: Option<core::TransportSocket>,
    ) -> Made {
        let policy = rule.and_then(|rule| rule.policy(subset, port.number));
        self.ask_for_credential(policy.as_ref().and_then(|policy| policy.tls));
        // A headless service has its own endpoints here.
        let found_by = match service.resolution() {
            Resolution::Passthrough => Resolution::Endpoints,
            found_by => found_by,
        };
        let policy = Effective {
            of_endpoints: rule.and_then(|rule| rule.tls_mode(subset, port.number)),
            sidecars_first: true,
            ..self.with_defaults(policy, service, port)
        };
        let of_cluster = match subset.is_some_and(|subset| subset.has_port(port.number)) {
            // As with istiod settings of a subset's port stand alone.
            true => policy,
            false => self.with_limits_of_mesh(policy),
        };
        let (mut cluster, mut options) =
            self.upstream_cluster(&name, port, Some(&of_cluster), found_by, true);
        let exchange = fields([
            ("protocol", text("istio-peer-exchange")),
            ("enable_discovery", truth(true)),
        ]);
        let exchange = typed_struct(
            "envoy.tcp.metadataexchange.config.MetadataExchange",
            exchange,
        );
        let mut istio = istio_metadata(service, subset.map(|subset| subset.name.as_str()));
        if let Some(rule) = rule {
            istio
                .fields
                .insert("config".to_owned(), text(&config_path(rule)));
        }
        if service.is_outside() {
            istio.fields.insert("external".to_owned(), truth(true));
        } else if self.all_take_hbone(service, port) {
            istio.fields.insert("disable_mx".to_owned(), truth(true));
        }
        let rule_tls = policy.tls.filter(|tls| tls.originates());
        if rule_tls.is_some() {
            let not = text("false");
            istio.fields.insert("alpn_override".to_owned(), not);
        }
        let choice = &self.config.tls_defaults;
        let tls =
            tls.or_else(|| rule_tls.map(|tls| upstream_tls::originated(tls, choice, &mut options)));
        let subset_name = subset.map_or("", |subset| subset.name.as_str());
        cluster.transport_socket_matches =
            self.ways(service, port, subset_name, &policy, tls, &options);
        cluster.metadata = Some(metadata([("istio", istio)]));
        cluster.filters = vec![cluster::Filter {
            name: "istio.metadata_exchange".to_owned(),
            typed_config: Some(exchange),
            ..cluster::Filter::default()
        }];
        cluster.typed_extension_protocol_options = options.packed();
        // As with istiod the mesh's default makes endpoints that are discovered no less near.
        let by_name = matches!(found_by, Resolution::Dns | Resolution::LogicalDns);
        let policy = if by_name { &of_cluster } else { &policy };
        let mut made = self.place_endpoints(cluster, service, port, policy, subset);
        let localities = made
            .assignment
            .iter_mut()
            .flat_map(|all| &mut all.endpoints);
        localities
            .flat_map(|l| &mut l.lb_endpoints)
            .for_each(tunnel_match);
        made
    }

    /// What the mesh says of limits and ejection, where the rule says nothing of these.
    fn with_limits_of_mesh<'r>(&'r self, policy: Effective<'r>) -> Effective<'r> {
        let mesh = &self.config.default_traffic_policy;
        let (pool, outlier) = (&mesh.connection_pool, &mesh.outlier_detection);
        Effective {
            connection_pool: policy.connection_pool.or(pool.as_ref()),
            outlier_detection: policy.outlier_detection.or(outlier.as_ref()),
            ..policy
        }
    }

    fn all_take_hbone(&self, service: &MeshService<'_>, port: &MeshPort) -> bool {
        let endpoints = service.endpoints(self.state, port);
        !endpoints.is_empty() && endpoints.iter().all(|endpoint| endpoint.hbone)
    }

    /// The ways to an endpoint, of which its metadata chooses: HBONE, a sidecar's TLS, plain text.
    fn ways(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        subset: &str,
        policy: &Effective<'_>,
        tls: Option<core::TransportSocket>,
        options: &Options,
    ) -> Vec<cluster::cluster::TransportSocketMatch> {
        let hops = [
            (Scope::Host, ORIGINAL_DST),
            (Scope::Cluster, "istio"),
            (Scope::Host, "istio"),
        ];
        let proxied = |socket| upstream_tls::behind_proxy_protocol(policy.proxy_protocol, socket);
        let inner = tls.clone().unwrap_or_else(raw_buffer);
        let hbone = internal_upstream("envoy.transport_sockets.internal_upstream", &hops, inner);
        let tunnel = Some(&[("tunnel", "http")][..]);
        let mut ways = vec![socket_match("hbone", tunnel, proxied(hbone))];
        if let Some(tls) = tls {
            ways.push(socket_match("user", None, proxied(tls)));
            return ways;
        }
        let mode = policy.tls.map(|tls| tls.mode);
        let detected = mode.is_none() && self.detects_sidecars(service);
        let mutual = mode == Some(TlsMode::IstioMutual);
        if detected || mutual {
            let http2 = options.speaks_http2();
            let sni = format!("outbound_.{}_.{subset}_.{}", port.number, service.hostname);
            let identities = self.identities(service, port);
            let sidecar = tls_context::sidecar(&sni, identities, http2);
            let labels = (!mutual).then_some(&[("tlsMode", "istio")][..]);
            ways.push(socket_match("tlsMode-istio", labels, proxied(sidecar)));
        }
        if !mutual {
            ways.push(socket_match(
                "tlsMode-disabled",
                Some(&[]),
                proxied(raw_buffer()),
            ));
        }
        ways
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
                        .any(|endpoint| endpoint.address.ip() == Some(*address))
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

/// For endpoints that have these labels. As istiod writes it, some that are for all have no match, and others an empty one.
fn socket_match(
    name: &str,
    labels: Option<&[(&str, &str)]>,
    socket: core::TransportSocket,
) -> cluster::cluster::TransportSocketMatch {
    let fields = labels.map(|labels| {
        let labels = labels.iter();
        let labels = labels.map(|(name, value)| ((*name).to_owned(), text(value)));
        labels.collect::<HashMap<_, _>>()
    });
    cluster::cluster::TransportSocketMatch {
        name: name.to_owned(),
        r#match: fields.map(|fields| Struct { fields }),
        transport_socket: Some(socket),
    }
}
