//! The Kubernetes kinds: what is done with each, where its objects are kept, and what is done with every other kind.
//!
//! A kind that is read is a file in `kinds/` and a row of [`KINDS`]. All served versions of a kind are one kind. A
//! version that isn't served is refused, as the API server would.

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::near;
use crate::standalone::input::problem::LoadError;
use crate::standalone::kinds::core::credential::{self, Credential};
use crate::standalone::kinds::core::endpoints::Endpoints;
use crate::standalone::kinds::core::pod::Pod;
use crate::standalone::kinds::core::service::Service;
use crate::standalone::kinds::core::{endpoint_slice, endpoints, pod, service};
use crate::standalone::kinds::gateway_api::backend_tls_policy::BackendTlsPolicy;
use crate::standalone::kinds::gateway_api::backend_traffic_policy::BackendTrafficPolicy;
use crate::standalone::kinds::gateway_api::gateway::{self, Gateway};
use crate::standalone::kinds::gateway_api::grpc_route;
use crate::standalone::kinds::gateway_api::http_route::HttpRoute;
use crate::standalone::kinds::gateway_api::stream_route::{StreamRoute, StreamRouteKind};
use crate::standalone::kinds::istio::destination_rule::DestinationRule;
use crate::standalone::kinds::istio::peer_authentication::{self, PeerAuthentication};
use crate::standalone::kinds::istio::service_entry_schema;
use crate::standalone::kinds::istio::virtual_service::VirtualService;
use crate::standalone::kinds::istio::workload_entry;
use crate::standalone::kinds::known_fields::{KnownFields, SPEC_AND_STATUS};
use crate::standalone::state::cluster_state::{ClusterState, Objects, keep_telemetry};
use crate::standalone::state::guards::{Guards, always, if_it_names_a_guard, unless_it_fails_open};

/// What is done with an object.
#[derive(Clone, Copy, Debug)]
pub(super) enum Treatment {
    /// It is read, and kept where the function puts it.
    Kept(fn(&mut ClusterState, &Manifest) -> Result<(), LoadError>),
    /// A security object that isn't honoured: it closes what its `targetRefs` name, if it guards anything.
    Closes(Guards),
    /// Could change what a waypoint does and is not honoured: named.
    Reported,
    /// A kind of the mesh that says nothing to a waypoint, as with istiod: named with this reason.
    ForOthers(&'static str),
    /// Has no influence on a waypoint.
    Unrelated,
}

/// A row of the table.
#[derive(Debug)]
struct Kind {
    group: &'static str,
    name: &'static str,
    /// Those that are served.
    versions: &'static [&'static str],
    namespaced: bool,
    /// Unless it refuses by itself what it doesn't know.
    fields: &'static [KnownFields],
    treatment: Treatment,
}

const fn kind(
    group: &'static str,
    name: &'static str,
    versions: &'static [&'static str],
    treatment: Treatment,
) -> Kind {
    Kind {
        group,
        name,
        versions,
        namespaced: true,
        fields: &[],
        treatment,
    }
}

impl Kind {
    const fn cluster_scoped(self) -> Kind {
        Kind {
            namespaced: false,
            ..self
        }
    }

    const fn with_fields(self, fields: &'static [KnownFields]) -> Kind {
        Kind { fields, ..self }
    }
}

const CORE: &str = "";
const DISCOVERY: &str = "discovery.k8s.io";
const GATEWAY: &str = "gateway.networking.k8s.io";
const GATEWAY_X: &str = "gateway.networking.x-k8s.io";
const NETWORKING: &str = "networking.istio.io";
const SECURITY: &str = "security.istio.io";
const TELEMETRY: &str = "telemetry.istio.io";
const EXTENSIONS: &str = "extensions.istio.io";

/// Served versions.
mod served {
    pub(super) const CORE: &[&str] = &["v1"];
    pub(super) const GATEWAY: &[&str] = &["v1", "v1beta1"];
    pub(super) const GATEWAY_EXPERIMENTAL: &[&str] = &["v1", "v1beta1", "v1alpha3", "v1alpha2"];
    pub(super) const BACKEND_TLS: &[&str] = &["v1", "v1alpha3"];
    pub(super) const ALPHA1: &[&str] = &["v1alpha1"];
    pub(super) const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
    pub(super) const SECURITY: &[&str] = &["v1", "v1beta1"];
    pub(super) const ALPHA: &[&str] = &["v1alpha1", "v1alpha3", "v1alpha2", "v1beta1", "v1"];
}

use Treatment::{Closes, ForOthers, Kept, Reported};

const KINDS: &[Kind] = &[
    kind(
        CORE,
        "Namespace",
        served::CORE,
        Kept(ClusterState::add_namespace),
    )
    .cluster_scoped()
    .with_fields(SPEC_AND_STATUS),
    kind(CORE, "Node", served::CORE, Kept(ClusterState::add_node)).cluster_scoped(),
    kind(
        CORE,
        "Pod",
        served::CORE,
        Kept(|state, manifest| keep(&mut state.pods, Pod::read(manifest)?)),
    )
    .with_fields(pod::FIELDS),
    kind(
        CORE,
        "Service",
        served::CORE,
        Kept(|state, manifest| keep(&mut state.services, Service::read(manifest)?)),
    )
    .with_fields(service::FIELDS),
    kind(
        CORE,
        "Endpoints",
        served::CORE,
        Kept(|state, manifest| keep(&mut state.endpoints, Endpoints::read(manifest)?)),
    )
    .with_fields(endpoints::FIELDS),
    kind(
        CORE,
        "ConfigMap",
        served::CORE,
        Kept(ClusterState::add_config_map),
    ),
    kind(
        CORE,
        "Secret",
        served::CORE,
        Kept(|state, manifest| keep(&mut state.secrets, Credential::of_secret(manifest)?)),
    )
    .with_fields(credential::SECRET_FIELDS),
    kind(
        DISCOVERY,
        "EndpointSlice",
        served::CORE,
        Kept(ClusterState::add_slice),
    )
    .with_fields(endpoint_slice::FIELDS),
    kind(
        NETWORKING,
        "ServiceEntry",
        served::NETWORKING,
        Kept(ClusterState::add_service_entry),
    )
    .with_fields(service_entry_schema::FIELDS),
    kind(
        GATEWAY,
        "Gateway",
        served::GATEWAY,
        Kept(|state, manifest| keep(&mut state.gateways, Gateway::read(manifest)?)),
    )
    .with_fields(gateway::FIELDS),
    kind(
        GATEWAY,
        "GatewayClass",
        served::GATEWAY,
        Kept(ClusterState::add_gateway_class),
    )
    .cluster_scoped(),
    kind(
        GATEWAY,
        "HTTPRoute",
        served::GATEWAY,
        Kept(|state, manifest| keep(&mut state.http_routes, HttpRoute::read(manifest)?)),
    ),
    kind(
        GATEWAY,
        "GRPCRoute",
        served::GATEWAY_EXPERIMENTAL,
        Kept(|state, manifest| keep(&mut state.grpc_routes, grpc_route::read(manifest)?)),
    ),
    kind(
        GATEWAY,
        "TCPRoute",
        served::GATEWAY_EXPERIMENTAL,
        Kept(|state, manifest| {
            let route = StreamRoute::read(StreamRouteKind::Tcp, manifest)?;
            keep(&mut state.tcp_routes, route)
        }),
    ),
    kind(
        GATEWAY,
        "TLSRoute",
        served::GATEWAY_EXPERIMENTAL,
        Kept(|state, manifest| {
            let route = StreamRoute::read(StreamRouteKind::Tls, manifest)?;
            keep(&mut state.tls_routes, route)
        }),
    ),
    kind(
        SECURITY,
        "AuthorizationPolicy",
        served::SECURITY,
        Kept(ClusterState::add_policy),
    ),
    kind(
        SECURITY,
        "RequestAuthentication",
        served::SECURITY,
        Kept(ClusterState::add_request_authentication),
    ),
    kind(
        SECURITY,
        "PeerAuthentication",
        served::SECURITY,
        Kept(|state, manifest| {
            let read = PeerAuthentication::read(manifest)?;
            keep(&mut state.peer_authentications, read)
        }),
    )
    .with_fields(peer_authentication::FIELDS),
    kind(
        EXTENSIONS,
        "WasmPlugin",
        served::ALPHA,
        Closes(unless_it_fails_open),
    ),
    kind(
        EXTENSIONS,
        "TrafficExtension",
        served::ALPHA,
        Closes(unless_it_fails_open),
    ),
    kind(
        NETWORKING,
        "EnvoyFilter",
        served::NETWORKING,
        Closes(if_it_names_a_guard),
    ),
    kind(
        NETWORKING,
        "VirtualService",
        served::NETWORKING,
        Kept(|state, manifest| {
            let read = VirtualService::read(manifest)?;
            keep(&mut state.virtual_services, read)
        }),
    ),
    kind(
        NETWORKING,
        "DestinationRule",
        served::NETWORKING,
        Kept(|state, manifest| {
            let rule = DestinationRule::read(manifest)?;
            keep(&mut state.destination_rules, rule)
        }),
    )
    .with_fields(SPEC_AND_STATUS),
    kind(
        NETWORKING,
        "WorkloadEntry",
        served::NETWORKING,
        Kept(ClusterState::add_workload_entry),
    )
    .with_fields(workload_entry::FIELDS),
    kind(
        NETWORKING,
        "WorkloadGroup",
        served::NETWORKING,
        ForOthers("istiod makes WorkloadEntries of it where machines register"),
    ),
    kind(
        NETWORKING,
        "Sidecar",
        served::NETWORKING,
        ForOthers("for sidecars: a waypoint knows its services whatever it says"),
    ),
    kind(
        NETWORKING,
        "Gateway",
        served::NETWORKING,
        ForOthers("of networking.istio.io: for ingress and egress gateways"),
    ),
    kind(NETWORKING, "ProxyConfig", served::ALPHA, Reported),
    kind(TELEMETRY, "Telemetry", served::ALPHA, Kept(keep_telemetry)),
    kind(
        GATEWAY,
        "BackendTLSPolicy",
        served::BACKEND_TLS,
        Kept(|state, manifest| {
            let policy = BackendTlsPolicy::read(manifest)?;
            keep(&mut state.backend_tls_policies, policy)
        }),
    ),
    kind(
        GATEWAY_X,
        "XBackendTrafficPolicy",
        served::ALPHA1,
        Kept(|state, manifest| {
            let policy = BackendTrafficPolicy::read(manifest)?;
            keep(&mut state.backend_traffic_policies, policy)
        }),
    ),
    kind(
        GATEWAY,
        "ReferenceGrant",
        served::GATEWAY,
        Kept(ClusterState::add_reference_grant),
    ),
];

/// Keeps an object under its name.
fn keep<T>(objects: &mut Objects<T>, object: Object<T>) -> Result<(), LoadError> {
    objects.insert(object.name(), object);
    Ok(())
}

/// Groups whose kinds all speak to the mesh: one that isn't in the table is named, not skipped.
const MESH_GROUPS: &[&str] = &[
    "networking.istio.io",
    "security.istio.io",
    "telemetry.istio.io",
    "extensions.istio.io",
    "gateway.networking.k8s.io",
    "gateway.networking.x-k8s.io",
    "inference.networking.k8s.io",
];

/// All kinds of the core group: another one is a misspelt kind or group.
const CORE_KINDS: &[&str] = &[
    "Binding",
    "ComponentStatus",
    "ConfigMap",
    "Endpoints",
    "Event",
    "LimitRange",
    "List",
    "Namespace",
    "Node",
    "PersistentVolume",
    "PersistentVolumeClaim",
    "Pod",
    "PodTemplate",
    "ReplicationController",
    "ResourceQuota",
    "Secret",
    "Service",
    "ServiceAccount",
];

/// Kinds outside the table that have no namespace; only their names in messages depend on it.
const CLUSTER_SCOPED: &[&str] = &[
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "MutatingWebhookConfiguration",
    "PersistentVolume",
    "PriorityClass",
    "StorageClass",
    "ValidatingWebhookConfiguration",
];

/// What is done with objects of this kind; an error names the versions that are served.
pub(super) fn treatment(group: &str, version: &str, kind: &str) -> Result<Treatment, String> {
    if let Some(row) = row(group, kind) {
        if row.versions.contains(&version) {
            return Ok(row.treatment);
        }
        let served = row.versions.join(", ");
        return Err(format!(
            "{kind} of version {version:?} is not served, only {served}"
        ));
    }
    if group.is_empty() && !CORE_KINDS.contains(&kind) {
        let known = CORE_KINDS.iter().copied();
        return Err(format!("v1 has no kind {kind}{}", near::meant(kind, known)));
    }
    if group == "discovery.k8s.io" {
        return Err(format!("{group} has no kind {kind}{}", meant(group, kind)));
    }
    // The API server knows all kinds of its own groups: there a kind of the mesh is a misspelt group. In other
    // groups it may be somebody else's, unless the group looks like one of the mesh's.
    let own = !group.contains('.') || group.ends_with(".k8s.io") || group.ends_with(".istio.io");
    let misspelt = own || near::nearest(group, MESH_GROUPS.iter().copied()).is_some();
    let mut mesh_kinds = KINDS.iter().filter(|row| MESH_GROUPS.contains(&row.group));
    if let Some(row) = mesh_kinds.find(|row| row.name.eq_ignore_ascii_case(kind))
        && misspelt
        && !MESH_GROUPS.contains(&group)
    {
        return Err(format!(
            "group {group:?} has no kind {kind}, is {} of {:?} meant?",
            row.name, row.group
        ));
    }
    Ok(match group {
        // Whatever it is, it guards something.
        SECURITY => Closes(always),
        group if MESH_GROUPS.contains(&group) || group.ends_with(".istio.io") => Reported,
        _ => Treatment::Unrelated,
    })
}

/// The kind that is honoured and that a misspelt one of the mesh's groups may have meant.
pub(super) fn meant(group: &str, kind: &str) -> String {
    if row(group, kind).is_some() {
        return String::new();
    }
    let known = KINDS.iter().filter(|row| row.group == group);
    near::meant(kind, known.map(|row| row.name))
}

/// The name of a kind in the table.
pub(super) fn known_kind(group: &str, kind: &str) -> Option<&'static str> {
    row(group, kind).map(|row| row.name)
}

/// Whether objects of this kind live in a namespace.
pub(super) fn namespaced(group: &str, kind: &str) -> bool {
    row(group, kind).map_or(!CLUSTER_SCOPED.contains(&kind), |row| row.namespaced)
}

/// The fields of objects of this kind, where those that aren't known are named.
pub(super) fn fields(group: &str, kind: &str) -> &'static [KnownFields] {
    row(group, kind).map_or(&[], |row| row.fields)
}

fn row(group: &str, kind: &str) -> Option<&'static Kind> {
    KINDS
        .iter()
        .find(|row| row.group == group && row.name == kind)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_unknown_kinds() {
        for version in ["v1", "v1beta1"] {
            assert!(matches!(
                treatment("security.istio.io", version, "AuthorizationPolicy"),
                Ok(Treatment::Kept(_))
            ));
        }
        assert!(
            treatment("security.istio.io", "v2", "AuthorizationPolicy")
                .unwrap_err()
                .contains("v1beta1")
        );
        assert!(matches!(
            treatment("security.istio.io", "v1", "Novelty"),
            Ok(Treatment::Closes(_))
        ));
        assert!(matches!(
            treatment("gateway.networking.k8s.io", "v1", "Novelty"),
            Ok(Treatment::Reported)
        ));
        assert!(matches!(
            treatment("apps", "v1", "Deployment"),
            Ok(Treatment::Unrelated)
        ));
        for (group, kind) in [
            ("gateway.networking.k8.io", "HTTPRoute"),
            ("networking.k8s.io", "HttpRoute"),
            ("security.isto.io", "AuthorizationPolicy"),
            ("discovery.k8s.io", "EndpointSlices"),
        ] {
            let error = treatment(group, "v1", kind).unwrap_err();
            assert!(error.contains("meant?"), "{group} {kind}: {error}");
        }
        // Others may call their kinds as the mesh does.
        assert!(matches!(
            treatment("networking.internal.example.com", "v1", "Gateway"),
            Ok(Treatment::Unrelated)
        ));
        assert!(!namespaced("", "Node") && namespaced("apps", "Deployment"));
        for (kind, meant) in [
            ("service", "; is \"Service\" meant?"),
            ("EndpointSlice", ""),
        ] {
            let error = treatment("", "v1", kind).unwrap_err();
            assert!(
                error.ends_with(&format!("no kind {kind}{meant}")),
                "{error}"
            );
        }
    }
}
