//! The Kubernetes kinds that are read, one file each, and what is done with every other kind.
//!
//! All served versions of a kind are one kind. A version that isn't served is refused, as the API server
//! would. Security objects and routes deny unknown fields: what isn't known can't be honoured.

pub mod core;
pub mod gateway_api;
pub mod istio;
pub mod known_fields;
mod refusal;
pub mod target_ref;

use crate::standalone::input::near;

/// What is done with an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Treatment {
    Namespace,
    Node,
    Pod,
    Service,
    EndpointSlice,
    Endpoints,
    ConfigMap,
    ServiceEntry,
    Gateway,
    GatewayClass,
    HttpRoute,
    AuthorizationPolicy,
    /// A security object that isn't honoured: it closes what its `targetRefs` name.
    Closes,
    /// Could change what a waypoint does and is not honoured: named.
    Reported,
    /// A kind of the mesh that says nothing to a waypoint, as with istiod: named with this reason.
    ForOthers(&'static str),
    /// Has no influence on a waypoint.
    Unrelated,
}

const CORE: &[&str] = &["v1"];
const GATEWAY: &[&str] = &["v1", "v1beta1"];
const GATEWAY_EXPERIMENTAL: &[&str] = &["v1", "v1beta1", "v1alpha3", "v1alpha2"];
const NETWORKING: &[&str] = &["v1", "v1beta1", "v1alpha3"];
const SECURITY: &[&str] = &["v1", "v1beta1"];
const ALPHA: &[&str] = &["v1alpha1", "v1alpha3", "v1alpha2", "v1beta1", "v1"];

/// Group, kind, served versions, namespaced, treatment.
type Row = (
    &'static str,
    &'static str,
    &'static [&'static str],
    bool,
    Treatment,
);

const KINDS: &[Row] = &[
    ("", "Namespace", CORE, false, Treatment::Namespace),
    ("", "Node", CORE, false, Treatment::Node),
    ("", "Pod", CORE, true, Treatment::Pod),
    ("", "Service", CORE, true, Treatment::Service),
    ("", "Endpoints", CORE, true, Treatment::Endpoints),
    ("", "ConfigMap", CORE, true, Treatment::ConfigMap),
    (
        "discovery.k8s.io",
        "EndpointSlice",
        CORE,
        true,
        Treatment::EndpointSlice,
    ),
    (
        "networking.istio.io",
        "ServiceEntry",
        NETWORKING,
        true,
        Treatment::ServiceEntry,
    ),
    (
        "gateway.networking.k8s.io",
        "Gateway",
        GATEWAY,
        true,
        Treatment::Gateway,
    ),
    (
        "gateway.networking.k8s.io",
        "GatewayClass",
        GATEWAY,
        false,
        Treatment::GatewayClass,
    ),
    (
        "gateway.networking.k8s.io",
        "HTTPRoute",
        GATEWAY,
        true,
        Treatment::HttpRoute,
    ),
    (
        "security.istio.io",
        "AuthorizationPolicy",
        SECURITY,
        true,
        Treatment::AuthorizationPolicy,
    ),
    (
        "security.istio.io",
        "RequestAuthentication",
        SECURITY,
        true,
        Treatment::Closes,
    ),
    (
        "security.istio.io",
        "PeerAuthentication",
        SECURITY,
        true,
        Treatment::ForOthers("ztunnel enforces it; a waypoint takes nothing but mutual TLS"),
    ),
    (
        "extensions.istio.io",
        "WasmPlugin",
        ALPHA,
        true,
        Treatment::Closes,
    ),
    (
        "extensions.istio.io",
        "TrafficExtension",
        ALPHA,
        true,
        Treatment::Closes,
    ),
    (
        "networking.istio.io",
        "EnvoyFilter",
        NETWORKING,
        true,
        Treatment::Closes,
    ),
    (
        "networking.istio.io",
        "VirtualService",
        NETWORKING,
        true,
        Treatment::Reported,
    ),
    (
        "networking.istio.io",
        "DestinationRule",
        NETWORKING,
        true,
        Treatment::Reported,
    ),
    (
        "networking.istio.io",
        "WorkloadEntry",
        NETWORKING,
        true,
        Treatment::Reported,
    ),
    (
        "networking.istio.io",
        "WorkloadGroup",
        NETWORKING,
        true,
        Treatment::ForOthers("istiod makes WorkloadEntries of it where machines register"),
    ),
    (
        "networking.istio.io",
        "Sidecar",
        NETWORKING,
        true,
        Treatment::ForOthers("for sidecars: a waypoint knows its services whatever it says"),
    ),
    (
        "networking.istio.io",
        "Gateway",
        NETWORKING,
        true,
        Treatment::ForOthers("of networking.istio.io: for ingress and egress gateways"),
    ),
    (
        "networking.istio.io",
        "ProxyConfig",
        ALPHA,
        true,
        Treatment::Reported,
    ),
    (
        "telemetry.istio.io",
        "Telemetry",
        ALPHA,
        true,
        Treatment::Reported,
    ),
    (
        "gateway.networking.k8s.io",
        "GRPCRoute",
        GATEWAY_EXPERIMENTAL,
        true,
        Treatment::Reported,
    ),
    (
        "gateway.networking.k8s.io",
        "TCPRoute",
        GATEWAY_EXPERIMENTAL,
        true,
        Treatment::Reported,
    ),
    (
        "gateway.networking.k8s.io",
        "TLSRoute",
        GATEWAY_EXPERIMENTAL,
        true,
        Treatment::Reported,
    ),
    (
        "gateway.networking.k8s.io",
        "BackendTLSPolicy",
        GATEWAY_EXPERIMENTAL,
        true,
        Treatment::Reported,
    ),
    (
        "gateway.networking.k8s.io",
        "ReferenceGrant",
        GATEWAY,
        true,
        Treatment::ForOthers("in a mesh a route needs no grant for other namespaces"),
    ),
];

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
pub fn treatment(group: &str, version: &str, kind: &str) -> Result<Treatment, String> {
    if let Some((_, _, versions, _, treatment)) = row(group, kind) {
        if versions.contains(&version) {
            return Ok(*treatment);
        }
        let served = versions.join(", ");
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
    let mut mesh_kinds = KINDS.iter().filter(|row| MESH_GROUPS.contains(&row.0));
    if let Some(row) = mesh_kinds.find(|row| row.1.eq_ignore_ascii_case(kind))
        && misspelt
        && !MESH_GROUPS.contains(&group)
    {
        return Err(format!(
            "group {group:?} has no kind {kind}, is {} of {:?} meant?",
            row.1, row.0
        ));
    }
    Ok(match group {
        // Whatever it is, it guards something.
        "security.istio.io" => Treatment::Closes,
        group if MESH_GROUPS.contains(&group) || group.ends_with(".istio.io") => {
            Treatment::Reported
        }
        _ => Treatment::Unrelated,
    })
}

/// The kind that is honoured and that a misspelt one of the mesh's groups may have meant.
pub fn meant(group: &str, kind: &str) -> String {
    if row(group, kind).is_some() {
        return String::new();
    }
    let known = KINDS.iter().filter(|row| row.0 == group);
    near::meant(kind, known.map(|row| row.1))
}

/// The name of a kind in the table.
pub fn known_kind(group: &str, kind: &str) -> Option<&'static str> {
    row(group, kind).map(|row| row.1)
}

/// Whether objects of this kind live in a namespace.
pub fn namespaced(group: &str, kind: &str) -> bool {
    row(group, kind).map_or(!CLUSTER_SCOPED.contains(&kind), |row| row.3)
}

fn row(group: &str, kind: &str) -> Option<&'static Row> {
    KINDS.iter().find(|row| row.0 == group && row.1 == kind)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn versions_and_unknown_kinds() {
        for version in ["v1", "v1beta1"] {
            assert_eq!(
                treatment("security.istio.io", version, "AuthorizationPolicy"),
                Ok(Treatment::AuthorizationPolicy)
            );
        }
        assert!(
            treatment("security.istio.io", "v2", "AuthorizationPolicy")
                .unwrap_err()
                .contains("v1beta1")
        );
        assert_eq!(
            treatment("security.istio.io", "v1", "Novelty"),
            Ok(Treatment::Closes)
        );
        assert_eq!(
            treatment("gateway.networking.k8s.io", "v1", "Novelty"),
            Ok(Treatment::Reported)
        );
        assert_eq!(
            treatment("apps", "v1", "Deployment"),
            Ok(Treatment::Unrelated)
        );
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
        assert_eq!(
            treatment("networking.internal.example.com", "v1", "Gateway"),
            Ok(Treatment::Unrelated)
        );
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
