//! TCPRoutes and TLSRoutes of a service's port: the one rule that its connections follow.
//!
//! As with istiod: TLSRoutes come before TCPRoutes, rules of `tls` of a VirtualService with the first and of `tcp` with the
//! second, and the oldest takes all. Names of servers choose no chain: a TLSRoute counts where its
//! one host name is the service's.

use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::gateway_api::http_route::{Backend, ParentRef};
use crate::standalone::kinds::gateway_api::stream_route::{
    StreamRoute, StreamRouteKind, StreamRule,
};
use crate::standalone::state::mesh_service::{MeshPort, MeshService};
use crate::standalone::state::virtual_services::Order;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::routes::http_routes::{is_parent, parent_port};
use crate::standalone::translate::routes::virtual_service_streams::StreamPlace;

/// Cluster of a rule without a backend that takes anything: it doesn't exist.
const ZERO_WEIGHT: &str = "inbound-vip|65535|http/zero-weight|internal.cluster.local";

impl Mesh<'_> {
    /// Where the connections of a port go; `cluster` is its own.
    pub(crate) fn stream_destination(
        &self,
        service: &MeshService<'_>,
        port: &MeshPort,
        cluster: &str,
    ) -> tcp_proxy::ClusterSpecifier {
        use tcp_proxy::weighted_cluster::ClusterWeight;
        let own = || tcp_proxy::ClusterSpecifier::Cluster(cluster.to_owned());
        let mut routes = self.stream_routes(service, port);
        routes.sort_by_cached_key(|route| self.stream_place(route));
        for route in &routes {
            for parent in parents(route, service, port) {
                self.effects.mark(parent);
            }
        }
        let mut virtual_streams = self.virtual_streams(service, port);
        virtual_streams.sort_by(|a, b| a.0.cmp(&b.0));
        if let Some((place, rule)) = virtual_streams.first()
            && routes
                .first()
                .is_none_or(|route| *place < self.stream_place(route))
        {
            return self.virtual_stream(rule, service, port);
        }
        let Some((route, rule)) = routes
            .first()
            .and_then(|r| Some((*r, r.spec.rules.first()?)))
        else {
            return own();
        };
        self.effects.mark(rule);
        let name = |backend: &Backend| {
            let namespace = &route.meta.namespace;
            let kind = route.spec.kind.name();
            self.backend_cluster(&backend.object, kind, namespace, &service.hostname)
        };
        let taking = rule.backends.iter().filter(|backend| backend.weight > 0);
        match taking.collect::<Vec<_>>().as_slice() {
            [] => tcp_proxy::ClusterSpecifier::Cluster(ZERO_WEIGHT.to_owned()),
            [only] => tcp_proxy::ClusterSpecifier::Cluster(name(only)),
            several => {
                let clusters = several.iter().map(|backend| ClusterWeight {
                    name: name(backend),
                    weight: backend.weight,
                    ..ClusterWeight::default()
                });
                tcp_proxy::ClusterSpecifier::WeightedClusters(tcp_proxy::WeightedCluster {
                    clusters: clusters.collect(),
                })
            }
        }
    }

    fn stream_place(&self, route: &Object<StreamRoute>) -> StreamPlace {
        let kind = route.spec.kind;
        let meta = &route.meta;
        // As istiod calls the VirtualService that it makes of it.
        let name = match kind {
            StreamRouteKind::Tcp => format!("{}~tcp~", meta.name),
            StreamRouteKind::Tls => format!("{}~tls~", meta.name),
        };
        let near = self.nearness(&meta.namespace);
        let order = Order::new(near, meta.created, &name, &meta.namespace);
        (kind != StreamRouteKind::Tls, order)
    }

    /// Routes for connections to this port.
    fn stream_routes<'r>(
        &'r self,
        service: &MeshService<'_>,
        port: &MeshPort,
    ) -> Vec<&'r Object<StreamRoute>> {
        let all = self.streams_of(service);
        all.filter(|route| parents(route, service, port).next().is_some())
            .collect()
    }

    /// Routes for connections to any port of this service, from the namespaces that count.
    pub(crate) fn streams_of<'r>(
        &'r self,
        service: &MeshService<'_>,
    ) -> impl Iterator<Item = &'r Object<StreamRoute>> {
        let all = self.state.stream_routes();
        all.filter(|route| {
            let mut parents = route.spec.parents.iter();
            self.counts(&route.meta, service)
                && parents.any(|parent| is_parent(parent, &route.meta, service))
                && has_name_of(&route.spec, &service.hostname)
        })
    }
}

/// The parent references that mean this port.
fn parents<'r>(
    route: &'r Object<StreamRoute>,
    service: &MeshService<'_>,
    port: &MeshPort,
) -> impl Iterator<Item = &'r ParentRef> {
    let all = route.spec.parents.iter();
    all.filter(|parent| {
        is_parent(parent, &route.meta, service) && parent_port(parent, port).is_some()
    })
}

/// Whether the names of a TLSRoute are this one; a TCPRoute has none. Of several, those that have nothing to do with it
/// are no names of its.
pub(crate) fn has_name_of(route: &StreamRoute, hostname: &str) -> bool {
    let related = |name: &&String| match name.strip_prefix('*') {
        Some(suffix) => hostname.ends_with(suffix),
        None => *name == hostname,
    };
    match route.hostnames.as_slice() {
        [] => true,
        [only] => only == hostname,
        several => {
            let mut own = several.iter().filter(related);
            own.next().is_some_and(|name| name == hostname) && own.next().is_none()
        }
    }
}

/// Whether a rule has nobody who takes anything.
pub(crate) fn takes_nothing(rule: &StreamRule) -> bool {
    rule.backends.iter().all(|backend| backend.weight == 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_has_the_name_of_its_service_or_none() {
        let own = "a.default.svc.cluster.local";
        for (hostnames, expected) in [
            (&[][..], true),
            (&[own], true),
            (&["other.test"], false),
            (&["*.cluster.local"], false),
            (&[own, "other.test"], true),
            (&[own, "*.cluster.local"], false),
        ] {
            let route = StreamRoute {
                kind: StreamRouteKind::Tls,
                parents: Vec::new(),
                hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
                default_gateways: false,
                rules: Vec::new(),
            };
            assert_eq!(has_name_of(&route, own), expected, "{hostnames:?}");
        }
    }
}
