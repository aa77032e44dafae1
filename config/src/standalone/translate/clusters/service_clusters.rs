//! The clusters of owned services: one or two for each port, and as many for each subset of it.

use envoy_types::pb::envoy::config::cluster::v3 as cluster;
use envoy_types::pb::envoy::config::endpoint::v3 as endpoint;
use envoy_types::pb::envoy::r#type::v3 as percent;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::network::dns_resolver::cares::v3::CaresDnsResolverConfig;

use cluster::cluster::{ClusterDiscoveryType, DiscoveryType};

use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::destination_rule::Subset;
use crate::standalone::kinds::traffic_policy::Effective;
use crate::standalone::state::destination_rules::MergedRule;
use crate::standalone::state::mesh_service::{MeshPort, MeshService, Resolution};
use crate::standalone::translate::clusters::endpoints::{ORIGINAL_DST, load_assignment};
use crate::standalone::translate::clusters::protocol::{Options, explicit_http1};
use crate::standalone::translate::clusters::{
    Made, Scope, base, config_path, dynamic, inbound_vip, internal_upstream, istio_metadata,
    load_balancing, locality, subsets, traffic_policy, upstream_tls,
};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::{
    ads, any, duration, metadata, preserving_case, text, uint32,
};

/// How far pauses between lookups are spread.
const DNS_JITTER: std::time::Duration = std::time::Duration::from_millis(100);
/// Queries that one of Envoy's sockets sends.
const UDP_QUERIES: u32 = 100;

impl Mesh<'_> {
    /// The rule for a service.
    pub(in crate::standalone::translate) fn rule_for(
        &self,
        service: &MeshService<'_>,
    ) -> Option<&MergedRule<'_>> {
        self.rules.for_host(&service.hostname, service.namespace)
    }

    pub(super) fn mark_rule(&self, rule: Option<&MergedRule<'_>>) {
        let rules = rule.iter().flat_map(|rule| &rule.rules);
        rules.for_each(|object| self.effects.mark(*object));
    }

    /// The clusters of an owned service with their endpoints: one for each port, and one for each subset of it. None
    /// for an alias.
    pub(in crate::standalone::translate) fn service_clusters(
        &self,
        service: &MeshService<'_>,
    ) -> Vec<Made> {
        if service.resolution() == Resolution::None {
            return Vec::new();
        }
        let rule = self.rule_for(service);
        self.mark_rule(rule);
        let mut made = Vec::new();
        for port in &service.ports {
            let of_rule = rule
                .iter()
                .flat_map(|rule| &rule.subsets)
                .map(|subset| Some(*subset));
            for subset in std::iter::once(None).chain(of_rule) {
                for form in subsets(port.protocol) {
                    made.push(self.service_cluster(service, port, form, rule, subset));
                }
            }
        }
        made
    }

    fn service_cluster(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        form: &str,
        rule: Option<&MergedRule<'_>>,
        subset: Option<&Subset>,
    ) -> Made {
        let form = match subset {
            Some(subset) => &format!("{form}/{}", subset.name),
            None => form,
        };
        let name = inbound_vip(port.number, form, &service.hostname);
        let policy = rule.and_then(|rule| rule.policy(subset, port.number));
        self.ask_for_credential(policy.as_ref().and_then(|policy| policy.tls));
        let found_by = service.resolution();
        let has_policy = policy.is_some();
        let policy = Effective {
            of_endpoints: rule.and_then(|rule| rule.tls_mode(subset, port.number)),
            ..self.with_defaults(policy, service, port)
        };
        let (mut cluster, mut options) =
            self.upstream_cluster(&name, port, Some(&policy), found_by, false);
        if found_by == Resolution::Passthrough
            && let Some(target) = service.target_port(port)
        {
            let config = cluster::cluster::OriginalDstLbConfig {
                upstream_port_override: uint32(target.into()),
                ..Default::default()
            };
            cluster.lb_config = Some(cluster::cluster::LbConfig::OriginalDstLbConfig(config));
        }
        let mut istio = istio_metadata(service, Some(form));
        if let Some(rule) = rule.filter(|_| has_policy) {
            istio
                .fields
                .insert("config".to_owned(), text(&config_path(rule)));
        }
        let hops = [(Scope::Host, ORIGINAL_DST), (Scope::Host, "istio")];
        let choice = &self.config.tls_defaults;
        let inner = upstream_tls::inner_socket(&policy, choice, &mut options);
        cluster.transport_socket = Some(internal_upstream("internal_upstream", &hops, inner));
        let by_name = matches!(found_by, Resolution::Dns | Resolution::LogicalDns);
        if by_name && service.races() {
            cluster.dns_lookup_family = cluster::cluster::DnsLookupFamily::All.into();
        }
        if found_by == Resolution::Dynamic {
            let tls = policy.tls.filter(|tls| tls.originates());
            let checked = tls.is_none_or(|tls| dynamic::names_hosts(tls, &mut options));
            cluster.cluster_discovery_type = Some(self.dynamic_hosts(&service.hostname, !checked));
        }
        cluster.metadata = Some(metadata([("istio", istio)]));
        cluster.typed_extension_protocol_options = options.packed();
        self.place_endpoints(cluster, service, port, &policy, subset)
    }

    /// A rule's policy, with what the service itself prefers and what holds in the mesh.
    pub(super) fn with_defaults<'r>(
        &'r self,
        policy: Option<Effective<'r>>,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> Effective<'r> {
        Effective {
            distribution: service.traffic_distribution(self.state),
            mesh: self.config.of_clusters(port.protocol.is_http()),
            ..policy.unwrap_or_default()
        }
    }

    /// How names are looked up, as istiod has it: answers hold as long as they say.
    pub(super) fn look_up(&self, found: &mut cluster::Cluster) {
        let resolver = CaresDnsResolverConfig {
            udp_max_queries: uint32(UDP_QUERIES),
            ..CaresDnsResolverConfig::default()
        };
        found.typed_dns_resolver_config = Some(core::TypedExtensionConfig {
            name: "envoy.network.dns_resolver.cares".to_owned(),
            typed_config: Some(any(&resolver)),
        });
        found.dns_refresh_rate = Some(duration(self.config.dns_refresh_rate));
        found.dns_jitter = Some(duration(DNS_JITTER));
        found.respect_dns_ttl = true;
        found.dns_lookup_family = self.lookup_family().into();
    }

    /// The endpoints of a cluster: its own where they are looked up, beside it where they are discovered.
    pub(super) fn place_endpoints(
        &self,
        mut cluster: cluster::Cluster,
        service: &MeshService<'_>,
        port: &MeshPort,
        policy: &Effective<'_>,
        subset: Option<&Subset>,
    ) -> Made {
        let original = DiscoveryType::OriginalDst.into();
        let looked_up = matches!(
            service.resolution(),
            Resolution::Dns | Resolution::LogicalDns
        );
        if looked_up && cluster.cluster_discovery_type != Some(ClusterDiscoveryType::Type(original))
        {
            // As with istiod subsets of names have all endpoints.
            let endpoints = self.endpoints_of(service, port, policy);
            let groups = locality::groups(&endpoints, policy, &self.place);
            cluster.load_assignment = Some(load_assignment(&cluster.name, &groups));
        }
        let assignment = self.assignment(&cluster, service, port, policy, subset);
        Made {
            cluster,
            assignment,
        }
    }

    /// The endpoints of a cluster that has them by discovery.
    fn assignment(
        &self,
        cluster: &cluster::Cluster,
        service: &MeshService<'_>,
        port: &MeshPort,
        policy: &Effective<'_>,
        subset: Option<&Subset>,
    ) -> Option<endpoint::ClusterLoadAssignment> {
        cluster.eds_cluster_config.as_ref()?;
        let mut endpoints = self.endpoints_of(service, port, policy);
        if let Some(subset) = subset {
            endpoints.retain(|endpoint| {
                let mut labels = subset.labels.iter();
                labels.all(|(name, value)| endpoint.label(name) == Some(value))
            });
        }
        if service.is_node_local()
            && let Some(node) = self.place.node()
        {
            endpoints.retain(|endpoint| endpoint.node == node);
        }
        // Below the limit that the rule gives, Envoy sends to those, too, that aren't well.
        if policy.distribution.is_none()
            && policy
                .outlier_detection
                .is_some_and(|outlier| outlier.min_health_percent > 0)
        {
            endpoints.retain(|endpoint| endpoint.healthy != Some(false));
        }
        let groups = locality::groups(&endpoints, policy, &self.place);
        Some(load_assignment(&cluster.name, &groups))
    }

    /// The cluster of a service whose hosts requests name. Nothing is balanced there.
    fn dynamic_cluster(
        &self,
        name: &str,
        port: &MeshPort,
        policy: Option<&Effective<'_>>,
    ) -> (cluster::Cluster, Options) {
        let mut options = Options::of(port.protocol);
        let mut found = cluster::Cluster {
            connect_timeout: Some(duration(self.config.connect_timeout)),
            lb_policy: cluster::cluster::LbPolicy::ClusterProvided.into(),
            upstream_connection_options: self.keepalive(),
            ..base(name)
        };
        if let Some(policy) = policy {
            traffic_policy::apply(&mut found, &mut options, policy, false);
        }
        (found, options)
    }

    /// What owned and foreign services' clusters share, and their protocol.
    pub(super) fn upstream_cluster(
        &self,
        name: &str,
        port: &MeshPort,
        policy: Option<&Effective<'_>>,
        found_by: Resolution,
        upgrade_first: bool,
    ) -> (cluster::Cluster, Options) {
        use cluster::cluster::{DiscoveryType, LbPolicy};
        let (discovery, lb_policy) = match found_by {
            Resolution::Passthrough => (DiscoveryType::OriginalDst, LbPolicy::ClusterProvided),
            Resolution::Dns => (DiscoveryType::StrictDns, LbPolicy::LeastRequest),
            Resolution::LogicalDns => (DiscoveryType::LogicalDns, LbPolicy::LeastRequest),
            Resolution::Dynamic => return self.dynamic_cluster(name, port, policy),
            Resolution::Endpoints | Resolution::None => {
                (DiscoveryType::Eds, LbPolicy::LeastRequest)
            }
        };
        let eds = cluster::cluster::EdsClusterConfig {
            eds_config: Some(ads()),
            service_name: name.to_owned(),
        };
        let mut options = Options::of(port.protocol);
        let mut found = cluster::Cluster {
            eds_cluster_config: (discovery == DiscoveryType::Eds).then_some(eds),
            connect_timeout: Some(duration(self.config.connect_timeout)),
            lb_policy: lb_policy.into(),
            common_lb_config: Some(cluster::cluster::CommonLbConfig {
                healthy_panic_threshold: Some(percent::Percent { value: 0.0 }),
                ..Default::default()
            }),
            upstream_connection_options: self.keepalive(),
            cluster_discovery_type: Some(cluster::cluster::ClusterDiscoveryType::Type(
                discovery.into(),
            )),
            ..base(name)
        };
        if matches!(found_by, Resolution::Dns | Resolution::LogicalDns) {
            self.look_up(&mut found);
        }
        if let Some(policy) = policy {
            traffic_policy::apply(&mut found, &mut options, policy, upgrade_first);
            load_balancing::apply(&mut found, policy);
        }
        let headers = &self.config.default_config.proxy_headers;
        let http1 = matches!(port.protocol, Protocol::Http | Protocol::HttpProxy);
        if http1 && headers.preserve_http1_header_case == Some(true) {
            options.protocol = Some(explicit_http1(preserving_case()));
        }
        (found, options)
    }
}
