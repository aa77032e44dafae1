//! The services that this waypoint serves, and the workloads of the mesh that it is told of, as `waypoint services` and
//! `waypoint workloads` print them.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};
use waypoint_config::model::listener::snapshot::Snapshot;
use waypoint_config::store::received::Received;
use waypoint_config::store::workloads::WorkloadIndex;
use waypoint_filters::stream::peer::Peer;
use waypoint_hbone::identity::Identity;

use crate::view::bounded;

/// Services, or workloads, that are told.
const MAX_ROWS: usize = 10_000;

/// One service over all of its ports.
#[derive(Default)]
struct Service {
    namespace: String,
    name: String,
    addresses: BTreeSet<String>,
    /// Whether an endpoint is well, by its address.
    endpoints: BTreeMap<String, bool>,
}

/// The services of a waypoint with this identity, whose account is named as its Gateway.
pub(crate) fn services(snapshot: &Snapshot, received: &Received, own: Option<&Identity>) -> Value {
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    for slot in snapshot.main.chains.values() {
        let Some((_, host)) = slot.service_port() else {
            continue;
        };
        let address = snapshot
            .main
            .matcher
            .address_of(&|name| *name == *slot.name);
        let service = services.entry(host.to_owned()).or_default();
        service
            .addresses
            .extend(address.map(|address| address.to_string()));
    }
    for slot in received.clusters() {
        let host = slot.name.rsplit('|').next().unwrap_or_default();
        let Some(service) = services.get_mut(host) else {
            continue;
        };
        if let Some(known) = slot.cluster().and_then(|cluster| cluster.service.clone()) {
            service.name = known.name.to_string();
            service.namespace = known.namespace.to_string();
        }
        for endpoint in slot.endpoints().iter() {
            let well = service
                .endpoints
                .entry(endpoint.address.ip().to_string())
                .or_default();
            *well |= endpoint.is_healthy();
        }
    }
    let by = own.and_then(|own| Some((own.namespace()?, own.service_account()?)));
    let mut rows: Vec<(String, Service)> = services.into_iter().collect();
    rows.sort_by(|(_, a), (_, b)| (&a.namespace, &a.name).cmp(&(&b.namespace, &b.name)));
    let rows = rows.iter().map(|(host, service)| {
        json!({
            "namespace": service.namespace,
            "name": service.name,
            "hostname": host,
            "addresses": service.addresses,
            "waypoint": by.map(|(_, name)| name),
            "waypointNamespace": by.map(|(namespace, _)| namespace),
            "healthy": service.endpoints.values().filter(|well| **well).count(),
            "endpoints": service.endpoints.len(),
        })
    });
    let (services, left_out) = bounded(rows, MAX_ROWS);
    json!({"services": services, "leftOut": left_out})
}

/// The workloads that have addresses of their own.
pub(crate) fn workloads(index: &WorkloadIndex) -> Value {
    let all = index.all();
    let rows = all.iter().map(|(peer, addresses)| {
        let (namespace, host) = waypoint(peer);
        json!({
            "namespace": &*peer.namespace,
            "name": &*peer.name,
            "addresses": addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "node": &*peer.node,
            "waypoint": host,
            "waypointNamespace": namespace,
            "protocol": if peer.hbone { "HBONE" } else { "TCP" },
            "principal": &*peer.principal,
        })
    });
    let (workloads, left_out) = bounded(rows, MAX_ROWS);
    json!({"workloads": workloads, "leftOut": left_out})
}

/// Namespace and name of the waypoint's service, which is called as its Gateway.
fn waypoint(peer: &Peer) -> (Option<&str>, Option<&str>) {
    let parts = peer.waypoint.split_once('/');
    let name = parts.and_then(|(_, host)| host.split('.').next());
    (parts.map(|(namespace, _)| namespace), name)
}
