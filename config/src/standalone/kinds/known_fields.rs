//! Fields of the core kinds that the API knows: one that isn't here is a misspelt one, or newer than this list.
//!
//! `kubectl apply` refuses it; the API server drops it. Here it is told, and the rest of the object counts: what a
//! newer cluster adds must not stop a waypoint. HTTPRoute and AuthorizationPolicy refuse such fields themselves.

use serde_json::{Map, Value};

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::metadata_fields::METADATA;
use crate::standalone::input::near::nearest;
use crate::standalone::input::problem::{Problem, Severity};

/// What is told of an unknown field.
#[derive(Clone, Copy, PartialEq)]
enum Told {
    Always,
    /// Only where it looks like one of these: the rest is for others.
    IfNear,
}

/// Kind, path of a mapping, its fields.
type Row = (&'static str, &'static str, Told, &'static [&'static str]);

const TABLE: &[Row] = &[
    ("Service", "", Told::Always, &["spec", "status"]),
    (
        "Service",
        "spec",
        Told::Always,
        &[
            "allocateLoadBalancerNodePorts",
            "clusterIP",
            "clusterIPs",
            "externalIPs",
            "externalName",
            "externalTrafficPolicy",
            "healthCheckNodePort",
            "internalTrafficPolicy",
            "ipFamilies",
            "ipFamilyPolicy",
            "loadBalancerClass",
            "loadBalancerIP",
            "loadBalancerSourceRanges",
            "ports",
            "publishNotReadyAddresses",
            "selector",
            "sessionAffinity",
            "sessionAffinityConfig",
            "trafficDistribution",
            "type",
        ],
    ),
    (
        "Service",
        "spec.ports[]",
        Told::Always,
        &[
            "appProtocol",
            "name",
            "nodePort",
            "port",
            "protocol",
            "targetPort",
        ],
    ),
    ("Endpoints", "", Told::Always, &["subsets"]),
    (
        "Endpoints",
        "subsets[]",
        Told::Always,
        &["addresses", "notReadyAddresses", "ports"],
    ),
    (
        "EndpointSlice",
        "",
        Told::Always,
        &["addressType", "endpoints", "ports"],
    ),
    (
        "EndpointSlice",
        "ports[]",
        Told::Always,
        &["appProtocol", "name", "port", "protocol"],
    ),
    (
        "EndpointSlice",
        "endpoints[]",
        Told::Always,
        &[
            "addresses",
            "conditions",
            "deprecatedTopology",
            "hints",
            "hostname",
            "nodeName",
            "targetRef",
            "zone",
        ],
    ),
    (
        "EndpointSlice",
        "endpoints[].conditions",
        Told::Always,
        &["ready", "serving", "terminating"],
    ),
    ("Namespace", "", Told::Always, &["spec", "status"]),
    ("Pod", "", Told::Always, &["spec", "status"]),
    (
        "Pod",
        "spec",
        Told::IfNear,
        &[
            "containers",
            "hostNetwork",
            "initContainers",
            "nodeName",
            "serviceAccountName",
        ],
    ),
    ("Pod", "spec.containers[]", Told::IfNear, &["ports"]),
    (
        "Pod",
        "spec.initContainers[]",
        Told::IfNear,
        &["ports", "restartPolicy"],
    ),
    (
        "Pod",
        "spec.containers[].ports[]",
        Told::Always,
        &["containerPort", "hostIP", "hostPort", "name", "protocol"],
    ),
    (
        "Pod",
        "status",
        Told::IfNear,
        &["conditions", "phase", "podIP", "podIPs"],
    ),
    ("Gateway", "", Told::Always, &["spec", "status"]),
    (
        "Gateway",
        "spec",
        Told::Always,
        &[
            "addresses",
            "allowedListeners",
            "defaultScope",
            "gatewayClassName",
            "infrastructure",
            "listeners",
            "tls",
        ],
    ),
    (
        "Gateway",
        "spec.listeners[]",
        Told::Always,
        &[
            "allowedRoutes",
            "hostname",
            "name",
            "port",
            "protocol",
            "tls",
        ],
    ),
    (
        "Gateway",
        "spec.listeners[].allowedRoutes",
        Told::Always,
        &["kinds", "namespaces"],
    ),
    (
        "Gateway",
        "spec.listeners[].allowedRoutes.namespaces",
        Told::Always,
        &["from", "selector"],
    ),
    (
        "Gateway",
        "spec.listeners[].allowedRoutes.namespaces.selector",
        Told::Always,
        &["matchExpressions", "matchLabels"],
    ),
    ("ServiceEntry", "", Told::Always, &["spec", "status"]),
    (
        "ServiceEntry",
        "spec",
        Told::Always,
        &[
            "addresses",
            "endpoints",
            "exportTo",
            "hosts",
            "location",
            "ports",
            "resolution",
            "subjectAltNames",
            "workloadSelector",
        ],
    ),
    (
        "ServiceEntry",
        "spec.ports[]",
        Told::Always,
        &["name", "number", "protocol", "targetPort"],
    ),
    (
        "ServiceEntry",
        "spec.endpoints[]",
        Told::Always,
        &[
            "address",
            "labels",
            "locality",
            "network",
            "ports",
            "serviceAccount",
            "weight",
        ],
    ),
];

/// Fields near a known one that are none the less known.
const ALSO: &[&str] = &[
    "hostIP",
    "hostIPs",
    "hostIPC",
    "hostPID",
    "hostUsers",
    "hostname",
    "serviceAccount",
    "nodeSelector",
    "restartPolicyRules",
    "priority",
];

/// The unknown fields of an object.
pub fn unknown(manifest: &Manifest) -> Vec<Problem> {
    let mut problems = Vec::new();
    for name in &manifest.unknown_metadata {
        let field = format!("metadata.{name}");
        problems.push(problem(manifest, &field, name, METADATA));
    }
    let rows = TABLE.iter().filter(|row| row.0 == manifest.kind);
    for (_, path, told, known) in rows {
        each(&manifest.body, path, String::new(), &mut |fields, place| {
            for name in fields.keys().filter(|name| !known.contains(&name.as_str())) {
                let near = nearest(name, known.iter().copied()).is_some();
                if *told == Told::Always || (near && !ALSO.contains(&name.as_str())) {
                    let field = format!("{place}{name}");
                    problems.push(problem(manifest, &field, name, known));
                }
            }
        });
    }
    problems
}

fn problem(manifest: &Manifest, field: &str, name: &str, known: &[&str]) -> Problem {
    let meant = crate::standalone::input::near::meant(name, known.iter().copied());
    manifest.problem(Severity::NoEffect, field, format!("unknown field{meant}"))
}

/// Visits the mappings at a path, with the place of their fields.
fn each(
    fields: &Map<String, Value>,
    path: &str,
    place: String,
    visit: &mut dyn FnMut(&Map<String, Value>, &str),
) {
    if path.is_empty() {
        return visit(fields, &place);
    }
    let (name, rest) = path.split_once('.').unwrap_or((path, ""));
    match name.strip_suffix("[]") {
        Some(name) => {
            let items = fields.get(name).and_then(Value::as_array);
            for (index, item) in items.into_iter().flatten().enumerate() {
                if let Value::Object(item) = item {
                    each(item, rest, format!("{place}{name}[{index}]."), visit);
                }
            }
        }
        None => {
            if let Some(Value::Object(inner)) = fields.get(name) {
                each(inner, rest, format!("{place}{name}."), visit);
            }
        }
    }
}
