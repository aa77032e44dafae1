//! Istio's annotations on namespaces, services and pods: those that Istio doesn't know, and those that say nothing on such an
//! object. What those of sidecars say is left to sidecars.

use crate::standalone::input::manifest::{ObjectMeta, resource};
use crate::standalone::input::near::meant;
use crate::standalone::input::problem::Origin;
use crate::standalone::translate::no_effect::Telling;

/// What may stand on any object, and what controllers write on any.
const ANYWHERE: &[&str] = &[
    "galley.istio.io/analyze-suppress",
    "gateway.istio.io/controller-version",
    "istio.io/rev",
    "sidecar.istio.io/status",
];

/// Kinds, and the annotations that are for them alone.
const KNOWN: &[(&[&str], &[&str])] = &[
    (
        &["Pod"],
        &[
            "ambient.istio.io/bypass-inbound-capture",
            "ambient.istio.io/dns-capture",
            "ambient.istio.io/redirection",
            "inject.istio.io/templates",
            "istio.io/reroute-virtual-interfaces",
            "prometheus.istio.io/merge-metrics",
            "proxy.istio.io/config",
            "proxy.istio.io/overrides",
            "readiness.status.sidecar.istio.io/applicationPorts",
            "readiness.status.sidecar.istio.io/failureThreshold",
            "readiness.status.sidecar.istio.io/initialDelaySeconds",
            "readiness.status.sidecar.istio.io/periodSeconds",
            "sidecar.istio.io/agentLogLevel",
            "sidecar.istio.io/bootstrapOverride",
            "sidecar.istio.io/componentLogLevel",
            "sidecar.istio.io/discoveryAddress",
            "sidecar.istio.io/extraStatTags",
            "sidecar.istio.io/inject",
            "sidecar.istio.io/interceptionMode",
            "sidecar.istio.io/logLevel",
            "sidecar.istio.io/nativeSidecar",
            "sidecar.istio.io/proxyCPU",
            "sidecar.istio.io/proxyCPULimit",
            "sidecar.istio.io/proxyImage",
            "sidecar.istio.io/proxyImageType",
            "sidecar.istio.io/proxyMemory",
            "sidecar.istio.io/proxyMemoryLimit",
            "sidecar.istio.io/rewriteAppHTTPProbers",
            "sidecar.istio.io/statsCompression",
            "sidecar.istio.io/statsEvictionInterval",
            "sidecar.istio.io/statsFlushInterval",
            "sidecar.istio.io/statsHistogramBins",
            "sidecar.istio.io/statsHistogramBuckets",
            "sidecar.istio.io/statsInclusionPrefixes",
            "sidecar.istio.io/statsInclusionRegexps",
            "sidecar.istio.io/statsInclusionSuffixes",
            "sidecar.istio.io/userVolume",
            "sidecar.istio.io/userVolumeMount",
            "status.sidecar.istio.io/port",
            "traffic.sidecar.istio.io/excludeInboundPorts",
            "traffic.sidecar.istio.io/excludeInterfaces",
            "traffic.sidecar.istio.io/excludeOutboundIPRanges",
            "traffic.sidecar.istio.io/excludeOutboundPorts",
            "traffic.sidecar.istio.io/includeInboundPorts",
            "traffic.sidecar.istio.io/includeOutboundIPRanges",
            "traffic.sidecar.istio.io/includeOutboundPorts",
            "traffic.sidecar.istio.io/kubevirtInterfaces",
        ],
    ),
    (
        &["Service"],
        &[
            "alpha.istio.io/canonical-serviceaccounts",
            "alpha.istio.io/kubernetes-serviceaccounts",
            "networking.istio.io/exportTo",
            "traffic.istio.io/nodeSelector",
        ],
    ),
    (&["Namespace"], &["topology.istio.io/controlPlaneClusters"]),
    (
        &["Namespace", "Service", "ServiceEntry"],
        &[
            "istio.io/use-waypoint-canary-weight",
            "networking.istio.io/traffic-distribution",
        ],
    ),
    (&["Service", "ServiceEntry"], &["istio.io/connect-strategy"]),
    (
        &["Gateway"],
        &[
            "ambient.istio.io/waypoint-inbound-binding",
            "ambient.istio.io/xfcc-include-client-identity",
            "gateway.istio.io/name-override",
            "gateway.istio.io/service-account",
            "networking.istio.io/service-type",
        ],
    ),
    (
        &["WorkloadEntry"],
        &[
            "istio.io/autoRegistrationGroup",
            "istio.io/connectedAt",
            "istio.io/disconnectedAt",
            "istio.io/workloadController",
        ],
    ),
    (&["AuthorizationPolicy"], &["istio.io/dry-run"]),
    (&["Ingress"], &["kubernetes.io/ingress.class"]),
];

/// Labels of this mesh that are easily written as annotations.
const LABELS: &[&str] = &[
    "istio.io/dataplane-mode",
    "istio.io/global",
    "istio.io/ingress-use-waypoint",
    "istio.io/persistent-session",
    "istio.io/persistent-session-header",
    "istio.io/use-waypoint",
    "istio.io/use-waypoint-namespace",
    "istio.io/waypoint-for",
];

impl Telling<'_, '_> {
    pub(super) fn annotations(&self) {
        let state = self.mesh.state;
        for (meta, origin) in state.namespaces_and_origins() {
            self.of_object("Namespace", meta, origin);
        }
        for service in state.services.values() {
            self.of_object("Service", &service.meta, &service.origin);
        }
        for pod in state.pods.values() {
            self.of_object("Pod", &pod.meta, &pod.origin);
        }
    }

    fn of_object(&self, kind: &str, meta: &ObjectMeta, origin: &Origin) {
        for name in meta.annotations.keys().filter(|name| is_istios(name)) {
            if let Some(reason) = in_vain(kind, name) {
                let field = format!("metadata.annotations[{name}]");
                self.no_effect(resource(kind, meta), origin, &field, reason);
            }
        }
    }
}

fn is_istios(name: &str) -> bool {
    let domain = name.split('/').next().unwrap_or_default();
    domain.ends_with("istio.io") || name == "kubernetes.io/ingress.class"
}

/// Why an annotation says nothing on an object of this kind.
fn in_vain(kind: &str, name: &str) -> Option<String> {
    if ANYWHERE.contains(&name) {
        return None;
    }
    if let Some((kinds, _)) = KNOWN.iter().find(|(_, names)| names.contains(&name)) {
        let kinds: &[&str] = kinds;
        let misplaced = !kinds.contains(&kind);
        return misplaced.then(|| format!("says nothing here, it is for {}", kinds.join(", ")));
    }
    if LABELS.contains(&name) {
        return Some("is a label, not an annotation".to_owned());
    }
    let for_it = KNOWN.iter().filter(|(kinds, _)| kinds.contains(&kind));
    let names = for_it.flat_map(|(_, names)| names.iter().copied());
    let meant = meant(name, names);
    Some(format!("Istio knows no such annotation{meant}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_says_nothing_on_an_object_and_why() {
        for (kind, name, reason) in [
            ("Service", "networking.istio.io/exportTo", None),
            ("Pod", "sidecar.istio.io/proxyCPU", None),
            ("Namespace", "istio.io/rev", None),
            (
                "Service",
                "sidecar.istio.io/proxyCPU",
                Some("says nothing here, it is for Pod"),
            ),
            (
                "Service",
                "networking.istio.io/exporTo",
                Some("Istio knows no such annotation; is \"networking.istio.io/exportTo\" meant?"),
            ),
            (
                "Namespace",
                "istio.io/use-waypoint",
                Some("is a label, not an annotation"),
            ),
        ] {
            assert_eq!(in_vain(kind, name).as_deref(), reason, "{kind} {name}");
        }
        assert!(is_istios("sidecar.istio.io/inject") && !is_istios("example.com/istio.io"));
    }
}
