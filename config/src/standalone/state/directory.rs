//! The mesh as its ztunnels are told of it: services and workloads, each with the waypoint that it uses.

use std::collections::BTreeMap;

use crate::standalone::input::manifest::{Object, ObjectMeta, ObjectName};
use crate::standalone::kinds::core::pod::Pod;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::mesh_endpoint::MeshEndpoint;
use crate::standalone::state::mesh_service::{MeshService, Source};
use crate::standalone::state::taken::{Taken, Waypoints};

/// A service that clients may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceRow {
    pub namespace: String,
    pub name: String,
    pub hostname: String,
    pub addresses: Vec<String>,
    pub waypoint: Taken,
    /// Endpoints that are well, and all of them; those of a port are counted once.
    pub healthy: usize,
    pub endpoints: usize,
}

/// A workload that has an address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WorkloadRow {
    pub namespace: String,
    pub name: String,
    pub addresses: Vec<String>,
    pub node: String,
    pub waypoint: Taken,
    /// Whether its ztunnel takes tunnels for it.
    pub hbone: bool,
    pub healthy: bool,
}

/// All services, by namespace, name and host.
pub fn services(state: &ClusterState) -> Vec<ServiceRow> {
    let waypoints = Waypoints::of(state);
    let kubernetes = state.services.values().map(MeshService::of_service);
    let entries = state.service_entries.values();
    let all = kubernetes.chain(entries.flat_map(MeshService::of_entry));
    let mut rows: Vec<ServiceRow> = all
        .map(|service| row(state, &waypoints, &service))
        .collect();
    rows.sort_by(|a, b| {
        let key = |row: &ServiceRow| {
            (
                row.namespace.clone(),
                row.name.clone(),
                row.hostname.clone(),
            )
        };
        key(a).cmp(&key(b))
    });
    rows
}

fn row(state: &ClusterState, waypoints: &Waypoints<'_>, service: &MeshService<'_>) -> ServiceRow {
    let (meta, what): (&ObjectMeta, String) = match service.source {
        Source::Service(object) => (&object.meta, format!("Service {}", object.name())),
        Source::Entry(object) => (&object.meta, format!("ServiceEntry {}", object.name())),
    };
    let mut endpoints: BTreeMap<String, bool> = BTreeMap::new();
    for port in &service.ports {
        for MeshEndpoint {
            address, healthy, ..
        } in service.endpoints(state, port)
        {
            let well = endpoints.entry(address.to_string()).or_default();
            *well |= healthy.unwrap_or(true);
        }
    }
    let addresses = service.addresses.iter().map(|net| net.addr());
    let addresses = addresses.filter(|address| !address.is_unspecified());
    ServiceRow {
        namespace: service.namespace.to_owned(),
        name: match service.source {
            Source::Service(_) => service.name.clone(),
            Source::Entry(entry) => entry.meta.name.clone(),
        },
        hostname: service.hostname.clone(),
        addresses: addresses.map(|address| address.to_string()).collect(),
        waypoint: waypoints.of_service(&what, meta),
        healthy: endpoints.values().filter(|well| **well).count(),
        endpoints: endpoints.len(),
    }
}

/// All pods that have an address and run, and workload entries, by namespace and name.
pub fn workloads(state: &ClusterState) -> Vec<WorkloadRow> {
    let waypoints = Waypoints::of(state);
    let pods = state.pods.values();
    let pods = pods.filter(|pod| !pod.spec.terminal && !pod.spec.addresses.is_empty());
    let pods = pods.map(|pod| of_pod(&waypoints, pod));
    let entries = state.workload_entries.values().map(|entry| WorkloadRow {
        namespace: entry.meta.namespace.clone(),
        name: entry.meta.name.clone(),
        addresses: vec![entry.spec.address.to_string()],
        node: String::new(),
        waypoint: waypoints.of_pod(&format!("WorkloadEntry {}", entry.name()), &entry.meta),
        hbone: false,
        healthy: true,
    });
    let mut rows: Vec<WorkloadRow> = pods.chain(entries).collect();
    rows.sort_by_key(|row| ObjectName::new(&row.namespace, &row.name));
    rows
}

fn of_pod(waypoints: &Waypoints<'_>, pod: &Object<Pod>) -> WorkloadRow {
    WorkloadRow {
        namespace: pod.meta.namespace.clone(),
        name: pod.meta.name.clone(),
        addresses: pod.spec.addresses.iter().map(ToString::to_string).collect(),
        node: pod.spec.node.clone(),
        waypoint: waypoints.of_pod(&format!("Pod {}", pod.name()), &pod.meta),
        hbone: pod.takes_hbone(),
        healthy: pod.spec.ready || !pod.spec.says_whether_ready,
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::standalone::input::yaml::documents;

    const MESH: &str = "
apiVersion: v1
kind: Namespace
metadata: {name: shop, labels: {istio.io/use-waypoint: way}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: way, namespace: shop}
spec: {gatewayClassName: istio-waypoint, listeners: [{name: m, port: 15008, protocol: HBONE}]}
---
apiVersion: v1
kind: Service
metadata: {name: cart, namespace: shop}
spec: {clusterIP: 10.1.0.1, selector: {app: cart}, ports: [{port: 80, name: http}, {port: 81, name: other}]}
---
apiVersion: v1
kind: Service
metadata: {name: alone, namespace: shop, labels: {istio.io/use-waypoint: none}}
spec: {clusterIP: None, ports: [{port: 80}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-1, namespace: shop, labels: {app: cart}, annotations: {ambient.istio.io/redirection: enabled}}
spec: {nodeName: n1}
status: {phase: Running, podIP: 10.0.0.1, conditions: [{type: Ready, status: 'True'}]}
---
apiVersion: v1
kind: Pod
metadata: {name: cart-2, namespace: shop, labels: {app: cart}}
status: {phase: Running, podIP: 10.0.0.2, conditions: [{type: Ready, status: 'False'}]}
";

    #[test]
    fn services_and_workloads_with_the_waypoint_of_each() {
        let state = ClusterState::read(documents(Path::new("a.yaml"), MESH).unwrap()).unwrap();
        let told: Vec<_> = services(&state)
            .into_iter()
            .map(|row| {
                (
                    row.name,
                    row.addresses,
                    row.waypoint.by.map(|by| by.name),
                    row.healthy,
                    row.endpoints,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("alone".to_owned(), vec![], None, 0, 0),
                (
                    "cart".to_owned(),
                    vec!["10.1.0.1".to_owned()],
                    Some("way".to_owned()),
                    1,
                    2
                ),
            ]
        );
        let told: Vec<_> = workloads(&state)
            .into_iter()
            .map(|row| (row.name, row.node, row.hbone, row.healthy, row.waypoint.by))
            .collect();
        // The waypoint takes services, as one does by default.
        assert_eq!(
            told,
            [
                ("cart-1".to_owned(), "n1".to_owned(), true, true, None),
                ("cart-2".to_owned(), String::new(), false, false, None),
            ]
        );
    }
}
