//! Rules of `tls` and `tcp` of VirtualServices: the one that the connections of a port follow.
//!
//! As with istiod no name of a server chooses a chain: a rule of `tls` counts where its only name is the service's. Networks
//! that a match names say nothing; labels and namespaces of a source leave it out.

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;

use crate::standalone::kinds::istio::virtual_service::gateways::takes_in_mesh;
use crate::standalone::kinds::istio::virtual_service::stream_route::{StreamMatch, StreamRule};
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::state::virtual_services::Order;
use crate::standalone::translate::context::Mesh;

/// A rule that may take a port's connections; rules of `tls` stand before those of `tcp`, whatever their age.
pub(super) type StreamPlace = (bool, Order);

impl Mesh<'_> {
    /// Of each VirtualService of a service the first rules for connections to this port.
    pub(super) fn virtual_streams(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> Vec<(StreamPlace, &StreamRule)> {
        let mut rules = Vec::new();
        for found in self.virtual_services_of(service) {
            let spec = &found.object.spec;
            let takes = |rule: &&StreamRule, name: Option<&str>| {
                let mut matches = rule.r#match.iter();
                rule.r#match.is_empty() || matches.any(|found| found.takes(port.number, name))
            };
            let own = Some(service.hostname.as_str());
            let tls = spec.tls.iter().find(|rule| takes(rule, own));
            let tcp = spec.tcp.iter().find(|rule| takes(rule, None));
            rules.extend(tls.map(|rule| ((false, found.order()), rule)));
            rules.extend(tcp.map(|rule| ((true, found.order()), rule)));
        }
        rules
    }

    /// Where a rule's connections go.
    pub(super) fn virtual_stream(
        &self,
        rule: &StreamRule,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> tcp_proxy::ClusterSpecifier {
        use tcp_proxy::weighted_cluster::ClusterWeight;
        self.effects.mark(rule);
        let name = |to: &_| self.cluster_of(to, &service.hostname, port.number);
        if let [only] = rule.route.as_slice() {
            return tcp_proxy::ClusterSpecifier::Cluster(name(&only.destination));
        }
        let taking = rule.route.iter().filter(|to| to.weight > 0);
        let clusters = taking.map(|to| ClusterWeight {
            name: name(&to.destination),
            weight: to.weight.unsigned_abs(),
            ..ClusterWeight::default()
        });
        tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
            clusters: clusters.collect(),
        })
    }
}

impl StreamMatch {
    /// Whether it takes connections to a port; `name`: of the service, where names of servers are asked for.
    pub(crate) fn takes(&self, port: u16, name: Option<&str>) -> bool {
        let by_name = match (name, self.sni_hosts.as_deref()) {
            (None, _) => true,
            (Some(name), Some([only])) => only == name,
            (Some(_), _) => false,
        };
        by_name
            && takes_in_mesh(&self.gateways)
            && (self.port == 0 || self.port == u32::from(port))
            && self.source_labels.is_empty()
            && self.source_namespace.is_empty()
    }
}
