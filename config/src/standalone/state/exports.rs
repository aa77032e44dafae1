//! Whether proxies of a namespace know of a Service or a ServiceEntry: by its own words, or by MeshConfig's `defaultServiceExportTo`.

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::core::service::Service;
use crate::standalone::kinds::istio::export_to;
use crate::standalone::kinds::istio::service_entry::ServiceEntry;
use crate::standalone::state::cluster_state::ClusterState;
use crate::standalone::state::mesh_service::{MeshService, Source};

/// Whether proxies of this namespace know of it.
pub fn sees(state: &ClusterState, namespace: &str, service: &MeshService<'_>) -> bool {
    match service.source {
        Source::Service(object) => sees_service(state, namespace, object),
        Source::Entry(entry) => sees_entry(state, namespace, entry),
    }
}

pub fn sees_service(state: &ClusterState, namespace: &str, service: &Object<Service>) -> bool {
    let own = &service.meta.namespace;
    export_to::reaches(words(state, &service.spec.export_to), own, namespace)
}

pub fn sees_entry(state: &ClusterState, namespace: &str, entry: &Object<ServiceEntry>) -> bool {
    let own = &entry.meta.namespace;
    export_to::reaches(words(state, &entry.spec.export_to), own, namespace)
}

/// An object's own words, else the mesh's.
fn words<'s>(state: &'s ClusterState, own: &'s [String]) -> &'s [String] {
    match (own, &state.mesh_config) {
        ([], Some(mesh)) => &mesh.default_service_export_to,
        (own, _) => own,
    }
}
