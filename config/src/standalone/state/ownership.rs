//! Which waypoint this process is, and which services and pods it owns.
//!
//! A waypoint owns what points to it with `istio.io/use-waypoint` (and `-namespace`): the object's own
//! label, else that of its namespace; `none` on the object opts out. The waypoint's `istio.io/waypoint-for`
//! says whether it takes services, workloads (pods and WorkloadEntries), both or nothing, and its listener which
//! namespaces may point to it. Gateways themselves have no waypoint.

use std::net::IpAddr;

use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::kinds::core::pod::{GATEWAY_MANAGED, Pod};
use crate::standalone::kinds::gateway_api::gateway::{Gateway, TrafficType, WAYPOINT_CLASS};
use crate::standalone::kinds::istio::workload_entry::EntryEndpoint;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::exports;
use crate::standalone::state::mesh_service::MeshService;

pub(crate) const USE_WAYPOINT: &str = "istio.io/use-waypoint";
pub(crate) const USE_WAYPOINT_NAMESPACE: &str = "istio.io/use-waypoint-namespace";

/// This process's Gateway and what it owns.
#[derive(Debug)]
pub struct Waypoint<'a> {
    pub gateway: &'a Object<Gateway>,
    /// Ordered by age, then name, then namespace, as istiod orders filter chains.
    pub services: Vec<MeshService<'a>>,
    /// Ordered by namespace and name.
    pub pods: Vec<&'a Object<Pod>>,
    /// WorkloadEntries that have an address.
    pub machines: Vec<&'a Object<EntryEndpoint>>,
    pub traffic: TrafficType,
}

/// Whether an object uses this waypoint; if not, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Enrolment {
    Own,
    /// Neither it nor its namespace names a waypoint.
    Unlabelled,
    OptedOut,
    /// Another Gateway, which needn't be among the manifests.
    Other(ObjectName),
    /// This waypoint doesn't admit its namespace.
    NotAdmitted,
    /// This waypoint takes no traffic of its kind.
    OtherTraffic,
    /// It belongs to a gateway.
    OfGateway,
}

/// What carries the label that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Labelled {
    Object,
    Namespace,
}

/// Why no Gateway could be chosen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoWaypoint {
    #[error("the manifests hold no Gateway {0}")]
    Absent(ObjectName),
    #[error("Gateway {name} is of class {class:?}, not {WAYPOINT_CLASS:?}")]
    OtherClass { name: ObjectName, class: String },
    #[error("the manifests hold no Gateway of class {WAYPOINT_CLASS:?}")]
    None,
    #[error("the manifests hold several waypoints, choose one of: {}", names(.0))]
    Several(Vec<ObjectName>),
}

fn names(names: &[ObjectName]) -> String {
    names
        .iter()
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(", ")
}

/// The Gateway that was asked for, else the only waypoint.
pub fn choose<'a>(
    state: &'a ClusterState,
    wanted: Option<&ObjectName>,
) -> Result<&'a Object<Gateway>, NoWaypoint> {
    if let Some(name) = wanted {
        let gateway = state
            .gateways
            .get(name)
            .ok_or_else(|| NoWaypoint::Absent(name.clone()))?;
        if gateway.spec.class != WAYPOINT_CLASS {
            let class = gateway.spec.class.clone();
            return Err(NoWaypoint::OtherClass {
                name: name.clone(),
                class,
            });
        }
        return Ok(gateway);
    }
    let mut waypoints = state
        .gateways
        .values()
        .filter(|gateway| gateway.spec.class == WAYPOINT_CLASS);
    match (waypoints.next(), waypoints.next()) {
        (None, _) => Err(NoWaypoint::None),
        (Some(only), None) => Ok(only),
        (Some(first), Some(second)) => {
            let all = [first, second].into_iter().chain(waypoints);
            Err(NoWaypoint::Several(all.map(Object::name).collect()))
        }
    }
}

impl<'a> Waypoint<'a> {
    /// Resolves ownership. An error is a `waypoint-for` label that says nothing known.
    pub fn resolve(
        state: &'a ClusterState,
        gateway: &'a Object<Gateway>,
    ) -> Result<Waypoint<'a>, String> {
        let class = state.gateway_classes.get(&gateway.spec.class);
        let traffic = TrafficType::of(&gateway.meta, class)?;
        let owned = |meta: &ObjectMeta| enrolment(state, gateway, meta).0 == Enrolment::Own;
        let own = gateway.meta.namespace.as_str();
        let mut services: Vec<MeshService<'a>> = Vec::new();
        if traffic.services() {
            let in_kubernetes = state
                .services
                .values()
                .filter(|service| owned(&service.meta))
                .filter(|service| exports::sees_service(state, own, service));
            services.extend(in_kubernetes.map(MeshService::of_service));
            let outside = state
                .service_entries
                .values()
                .filter(|entry| owned(&entry.meta) && exports::sees_entry(state, own, entry));
            services.extend(outside.flat_map(MeshService::of_entry));
        }
        services.sort_by(|a, b| a.order().cmp(&b.order()));
        let pods = state.pods.values().filter(|pod| {
            let serves = !pod.spec.terminal && !pod.spec.addresses.is_empty();
            traffic.workloads() && serves && owned(&pod.meta)
        });
        let machines = state.workload_entries.values().filter(|entry| {
            traffic.workloads() && entry.spec.address.ip().is_some() && owned(&entry.meta)
        });
        Ok(Waypoint {
            gateway,
            services,
            pods: pods.collect(),
            machines: machines.collect(),
            traffic,
        })
    }

    /// The addresses of workloads that it takes by their own.
    pub fn workload_addresses(&self) -> impl Iterator<Item = IpAddr> {
        let of_pods = self.pods.iter().flat_map(|pod| &pod.spec.addresses);
        let of_machines = self.machines.iter().filter_map(|m| m.spec.address.ip());
        of_pods.copied().chain(of_machines)
    }

    /// Whether there is any workload that it takes by its own address.
    pub fn takes_workloads(&self) -> bool {
        !self.pods.is_empty() || !self.machines.is_empty()
    }

    /// Whether a service's `exportTo`, or the mesh's, lets this waypoint know of it.
    pub fn sees(&self, state: &ClusterState, service: &MeshService<'_>) -> bool {
        exports::sees(state, &self.gateway.meta.namespace, service)
    }

    /// Whether a Service or ServiceEntry uses this waypoint, and what carries the label that says so.
    pub fn enrolment(&self, state: &ClusterState, meta: &ObjectMeta) -> (Enrolment, Labelled) {
        match enrolment(state, self.gateway, meta) {
            (Enrolment::Own, labelled) if !self.traffic.services() => {
                (Enrolment::OtherTraffic, labelled)
            }
            found => found,
        }
    }

    /// As [`Waypoint::enrolment`], for a Pod or a WorkloadEntry.
    pub fn workload_enrolment(
        &self,
        state: &ClusterState,
        meta: &ObjectMeta,
    ) -> (Enrolment, Labelled) {
        match enrolment(state, self.gateway, meta) {
            (Enrolment::Own, labelled) if !self.traffic.workloads() => {
                (Enrolment::OtherTraffic, labelled)
            }
            found => found,
        }
    }

    pub fn owns(&self, hostname: &str) -> bool {
        self.services
            .iter()
            .any(|service| service.hostname == hostname)
    }
}

/// Which waypoint an object's traffic goes through, and where that is written.
fn enrolment(
    state: &ClusterState,
    gateway: &Object<Gateway>,
    meta: &ObjectMeta,
) -> (Enrolment, Labelled) {
    let namespace = state.namespaces.get(&meta.namespace);
    let (bearer, labelled) = match (meta.label(USE_WAYPOINT), namespace) {
        (None, Some(namespace)) => (namespace, Labelled::Namespace),
        _ => (meta, Labelled::Object),
    };
    let own = &gateway.meta;
    let found = match bearer.label(USE_WAYPOINT) {
        _ if meta.label(GATEWAY_MANAGED).is_some() => Enrolment::OfGateway,
        None => Enrolment::Unlabelled,
        Some("none") if labelled == Labelled::Object => Enrolment::OptedOut,
        Some("none") => Enrolment::Unlabelled,
        Some(name) => {
            let other = bearer.label(USE_WAYPOINT_NAMESPACE);
            let named = ObjectName::new(other.unwrap_or(&meta.namespace), name);
            let labels = namespace.map(|namespace| &namespace.labels);
            let allowed = &gateway.spec.allowed;
            if named != gateway.name() {
                Enrolment::Other(named)
            } else if allowed.admit(&own.namespace, &meta.namespace, labels) {
                Enrolment::Own
            } else {
                Enrolment::NotAdmitted
            }
        }
    };
    (found, labelled)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    fn state(text: &str) -> ClusterState {
        ClusterState::read(documents(Path::new("a.yaml"), text).unwrap()).unwrap()
    }

    fn gateway(namespace: &str, name: &str, labels: &str, from: &str) -> String {
        format!(
            "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}, spec: {{gatewayClassName: istio-waypoint, listeners: [{{name: m, port: 15008, protocol: HBONE, allowedRoutes: {{namespaces: {{from: {from}}}}}}}]}}}}\n"
        )
    }

    fn object(kind: &str, namespace: &str, name: &str, labels: &str) -> String {
        let rest = match kind {
            "Pod" => ", status: {podIP: 10.0.0.1}",
            "WorkloadEntry" => ", spec: {address: 192.0.2.1}",
            "Service" => ", spec: {clusterIP: 10.1.0.1, ports: [{port: 80}]}",
            _ => "",
        };
        let version = match kind {
            "WorkloadEntry" => "networking.istio.io/v1",
            _ => "v1",
        };
        format!(
            "---\n{{apiVersion: {version}, kind: {kind}, metadata: {{name: {name}, namespace: {namespace}, labels: {{{labels}}}}}{rest}}}\n"
        )
    }

    fn owned(text: &str) -> (Vec<String>, Vec<String>) {
        let state = state(text);
        let waypoint = Waypoint::resolve(&state, choose(&state, None).unwrap()).unwrap();
        let services = waypoint
            .services
            .iter()
            .map(|s| s.hostname.clone())
            .collect();
        (
            services,
            waypoint
                .workload_addresses()
                .map(|address| address.to_string())
                .collect(),
        )
    }

    #[test]
    fn labels_of_object_and_namespace() {
        let base = object("Namespace", "own", "own", "istio.io/use-waypoint: w")
            + &object("Service", "own", "a", "")
            + &object("Service", "own", "b", "istio.io/use-waypoint: none")
            + &object("Service", "own", "c", "istio.io/use-waypoint: other")
            + &object(
                "Service",
                "own",
                "own",
                "gateway.istio.io/managed: istio.io-mesh-controller",
            )
            + &object("Pod", "own", "p", "")
            + &object("Pod", "own", "q", "istio.io/use-waypoint: none")
            + &object("WorkloadEntry", "own", "vm", "")
            + &object(
                "WorkloadEntry",
                "own",
                "vm-2",
                "istio.io/use-waypoint: none",
            );
        for (label, services, pods) in [
            ("", 1, 0),
            ("istio.io/waypoint-for: service", 1, 0),
            ("istio.io/waypoint-for: workload", 0, 2),
            ("istio.io/waypoint-for: all", 1, 2),
            ("istio.io/waypoint-for: none", 0, 0),
        ] {
            let found = owned(&(gateway("own", "w", label, "Same") + &base));
            assert_eq!((found.0.len(), found.1.len()), (services, pods), "{label}");
        }
    }

    #[test]
    fn other_namespaces_need_leave() {
        let label = "istio.io/use-waypoint: w, istio.io/use-waypoint-namespace: own";
        let base = object("Namespace", "m", "m", label) + &object("Service", "m", "a", "");
        assert_eq!(owned(&(gateway("own", "w", "", "Same") + &base)).0.len(), 0);
        assert_eq!(
            owned(&(gateway("own", "w", "", "All") + &base)).0,
            ["a.m.svc.cluster.local"]
        );
        // Without `-namespace` the waypoint is looked for in the object's own namespace.
        let base = object("Namespace", "m", "m", "istio.io/use-waypoint: w")
            + &object("Service", "m", "a", "");
        assert_eq!(owned(&(gateway("own", "w", "", "All") + &base)).0.len(), 0);
    }

    #[test]
    fn choosing_the_gateway() {
        let two = state(&(gateway("own", "a", "", "Same") + &gateway("own", "b", "", "Same")));
        let error = choose(&two, None).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the manifests hold several waypoints, choose one of: own/a, own/b"
        );
        let wanted = ObjectName::new("own", "b");
        assert_eq!(choose(&two, Some(&wanted)).unwrap().meta.name, "b");
        assert!(choose(&two, Some(&ObjectName::new("own", "c"))).is_err());
        assert_eq!(choose(&state(""), None).unwrap_err(), NoWaypoint::None);
    }
}
