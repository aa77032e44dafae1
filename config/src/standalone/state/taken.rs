//! Which waypoint takes what a client sends to a host, and why; or why none does.

use std::net::IpAddr;

use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::kinds::gateway_api::gateway::{Gateway, WAYPOINT_CLASS};
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::mesh_service::{MeshService, Source, resolver_names};
use crate::standalone::state::ownership::{Enrolment, Labelled, USE_WAYPOINT, Waypoint};

/// Who takes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Taken {
    /// The Gateway; `None`: nobody, so ztunnel carries it without a waypoint.
    pub by: Option<ObjectName>,
    pub reason: String,
}

/// Who takes what a client of this namespace sends to a host. `None`: the manifests have no such host.
pub fn taken(state: &ClusterState, host: &str, namespace: &str) -> Option<Taken> {
    let address = host.parse::<IpAddr>().ok();
    let (what, meta, is_pod) = match find_service(state, host, namespace, address) {
        Some(found) => found,
        None => {
            let pods = state.pods.values();
            let mut pods =
                pods.filter(|pod| address.is_some_and(|ip| pod.spec.addresses.contains(&ip)));
            let pod = pods.next()?;
            (format!("Pod {}", pod.name()), &pod.meta, true)
        }
    };
    let waypoints = Waypoints::of(state);
    Some(match is_pod {
        true => waypoints.of_pod(&what, meta),
        false => waypoints.of_service(&what, meta),
    })
}

/// All waypoints of the manifests, to be asked whose something is.
pub(crate) struct Waypoints<'s> {
    state: &'s ClusterState,
    all: Vec<Waypoint<'s>>,
}

impl<'s> Waypoints<'s> {
    pub(crate) fn of(state: &'s ClusterState) -> Waypoints<'s> {
        let gateways = state.gateways.values();
        let gateways = gateways.filter(|gateway| gateway.spec.class == WAYPOINT_CLASS);
        let all = gateways.filter_map(|gateway| Waypoint::resolve(state, gateway).ok());
        Waypoints {
            state,
            all: all.collect(),
        }
    }

    /// Whose a Service or ServiceEntry is; `what` names it.
    pub(crate) fn of_service(&self, what: &str, meta: &ObjectMeta) -> Taken {
        self.taken(what, meta, |waypoint| waypoint.enrolment(self.state, meta))
    }

    /// Whose a Pod is; `what` names it.
    pub(crate) fn of_pod(&self, what: &str, meta: &ObjectMeta) -> Taken {
        self.taken(what, meta, |waypoint| {
            waypoint.workload_enrolment(self.state, meta)
        })
    }

    fn taken(
        &self,
        what: &str,
        meta: &ObjectMeta,
        enrolment: impl Fn(&Waypoint<'_>) -> (Enrolment, Labelled),
    ) -> Taken {
        let mut why_not = None;
        for waypoint in &self.all {
            let gateway = waypoint.gateway;
            let (enrolment, labelled) = enrolment(waypoint);
            let bearer = bearer(what, meta, labelled);
            let reason = match &enrolment {
                Enrolment::Own => {
                    return Taken {
                        by: Some(gateway.name()),
                        reason: format!("{bearer} has the label {USE_WAYPOINT} for it"),
                    };
                }
                other => not(other, what, &bearer, gateway),
            };
            // That another one is meant says less than why the one that is meant doesn't take it.
            match enrolment {
                Enrolment::Other(_) if why_not.is_some() => {}
                _ => why_not = Some(reason),
            }
        }
        Taken {
            by: None,
            reason: why_not.unwrap_or_else(|| "the manifests hold no waypoint".to_owned()),
        }
    }
}

fn find_service<'a>(
    state: &'a ClusterState,
    host: &str,
    namespace: &str,
    address: Option<IpAddr>,
) -> Option<(String, &'a ObjectMeta, bool)> {
    let services = state.services.values().map(MeshService::of_service);
    let entries = state
        .service_entries
        .values()
        .flat_map(MeshService::of_entry);
    let names = resolver_names(host, namespace);
    let mut all = services.chain(entries);
    let found = all.find(|service| {
        let here = |ip: IpAddr| service.addresses.iter().any(|net| net.contains(&ip));
        names.contains(&service.hostname) || address.is_some_and(here)
    })?;
    Some(match found.source {
        Source::Service(service) => (format!("Service {}", service.name()), &service.meta, false),
        Source::Entry(entry) => (format!("ServiceEntry {}", entry.name()), &entry.meta, false),
    })
}

/// What carries the label.
fn bearer(what: &str, meta: &ObjectMeta, labelled: Labelled) -> String {
    match labelled {
        Labelled::Object => what.to_owned(),
        Labelled::Namespace => format!("Namespace {}", meta.namespace),
    }
}

fn not(enrolment: &Enrolment, what: &str, bearer: &str, gateway: &Object<Gateway>) -> String {
    let name = gateway.name();
    match enrolment {
        Enrolment::Own => String::new(),
        Enrolment::Unlabelled => {
            format!("neither {what} nor its namespace has the label {USE_WAYPOINT}")
        }
        Enrolment::OptedOut => format!("{what} has the label {USE_WAYPOINT}: none"),
        Enrolment::Other(other) => {
            format!(
                "{bearer} names the Gateway {other}, which the manifests don't hold as a waypoint"
            )
        }
        Enrolment::NotAdmitted => format!(
            "{bearer} names the Gateway {name}, whose listener doesn't admit the namespace (allowedRoutes)"
        ),
        Enrolment::OtherTraffic => format!(
            "{bearer} names the Gateway {name}, whose istio.io/waypoint-for doesn't include it"
        ),
        Enrolment::OfGateway => format!("{what} belongs to a gateway"),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    fn told(service_labels: &str, namespace_labels: &str, host: &str) -> Option<Taken> {
        let text = format!(
            "{{apiVersion: v1, kind: Namespace, metadata: {{name: shop, labels: {{{namespace_labels}}}}}}}\n---\n\
             {{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: way, namespace: shop}}, \
             spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: m, port: 15008, protocol: HBONE}}]}}}}\n---\n\
             {{apiVersion: v1, kind: Service, metadata: {{name: cart, namespace: shop, labels: {{{service_labels}}}}}, \
             spec: {{clusterIP: 10.1.0.1, ports: [{{port: 80}}]}}}}\n"
        );
        let state = ClusterState::read(documents(Path::new("a.yaml"), &text).unwrap()).unwrap();
        taken(&state, host, "shop")
    }

    #[test]
    fn the_label_that_counts_is_told() {
        let way = Some(ObjectName::new("shop", "way"));
        let own = told("istio.io/use-waypoint: way", "", "cart").unwrap();
        assert_eq!(
            (own.by, own.reason.contains("Service shop/cart")),
            (way.clone(), true)
        );
        let inherited = told("", "istio.io/use-waypoint: way", "cart.shop").unwrap();
        assert_eq!(inherited.by, way);
        assert!(inherited.reason.contains("Namespace shop"));
        let by_address = told("istio.io/use-waypoint: way", "", "10.1.0.1").unwrap();
        assert_eq!(by_address.by, way);
        for (labels, says) in [
            ("", "neither Service shop/cart"),
            ("istio.io/use-waypoint: none", "none"),
            ("istio.io/use-waypoint: other", "shop/other"),
        ] {
            let taken = told(labels, "", "cart").unwrap();
            assert_eq!(taken.by, None);
            assert!(taken.reason.contains(says), "{}", taken.reason);
        }
        assert_eq!(told("", "", "nothing"), None);
    }
}
