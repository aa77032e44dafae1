//! The status that istiod would write of each parent: conditions, reasons and messages as in its source.

use super::*;

fn statuses(more: &str) -> Vec<String> {
    let found = translated(more).statuses;
    found.iter().map(ToString::to_string).collect()
}

const GOOD: &str = "Accepted (Accepted: Route was valid)";
const RESOLVED: &str = "ResolvedRefs (ResolvedRefs: All references resolved)";
const WAYPOINTS: &str = "ResolvedWaypoints (ResolvedWaypoints: All waypoints resolved)";

#[test]
fn a_good_route_is_accepted_by_each_parent() {
    let parents = format!("{{{TO_WEB}, port: 80}}, {{{TO_WEB}, port: 81}}");
    assert_eq!(
        statuses(&route(&parents, RULES)),
        [80, 81].map(|port| format!(
            "HTTPRoute default/r of Service default/web port {port}: {GOOD}, {RESOLVED}, {WAYPOINTS}"
        ))
    );
    // Gateways write of their own.
    let gateway = route("{name: gateway}", RULES);
    assert_eq!(statuses(&gateway), Vec::<String>::new());
}

#[test]
fn what_is_wrong_is_said_in_istiods_words() {
    let to = |backends: &str| format!(", rules: [{{backendRefs: [{backends}]}}]");
    let other = "{apiVersion: v1, kind: Service, metadata: {name: far, namespace: plain}, spec: {clusterIP: 10.0.0.9, ports: [{port: 80}]}}\n---\n";
    for (parent, rules, said) in [
        (
            "group: '', kind: Service, name: gone",
            RULES.to_owned(),
            [
                "not Accepted (NoMatchingParent: parent service: \"gone\" not found)",
                RESOLVED,
                "ResolvedWaypoints (ResolvedWaypoints: parent not found)",
            ],
        ),
        (
            "group: networking.istio.io, kind: ServiceEntry, name: gone",
            RULES.to_owned(),
            [
                "not Accepted (NoMatchingParent: parent service entry: \"gone\" not found)",
                RESOLVED,
                "ResolvedWaypoints (ResolvedWaypoints: parent not found)",
            ],
        ),
        (
            TO_WEB,
            to("{name: gone, port: 80}, {name: api, port: 80}"),
            [
                GOOD,
                "not ResolvedRefs (BackendNotFound: backend(gone.default.svc.cluster.local) not found)",
                WAYPOINTS,
            ],
        ),
        (
            TO_WEB,
            to("{group: a.b, kind: C, name: gone}"),
            [
                GOOD,
                "not ResolvedRefs (InvalidKind: referencing unsupported backendRef: group \"a.b\" kind \"C\")",
                WAYPOINTS,
            ],
        ),
        (
            TO_WEB,
            to("{group: networking.istio.io, kind: Hostname, name: api.default.svc.cluster.local, port: 80}"),
            [GOOD, RESOLVED, WAYPOINTS],
        ),
        (
            TO_WEB,
            to("{group: networking.istio.io, kind: Hostname, name: a.test, port: 80}"),
            [
                GOOD,
                "not ResolvedRefs (BackendNotFound: backend(a.test) not found)",
                WAYPOINTS,
            ],
        ),
        (
            TO_WEB,
            to("{group: networking.istio.io, kind: Hostname, name: a.test}"),
            [
                GOOD,
                "not ResolvedRefs (InvalidDestination: port is required in backendRef)",
                WAYPOINTS,
            ],
        ),
        (
            TO_WEB,
            ", rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], backendRefs: [{name: gone, port: 80}]}]".to_owned(),
            [
                GOOD,
                "not ResolvedRefs (InvalidFilter: unsupported filter type \"ExtensionRef\")",
                WAYPOINTS,
            ],
        ),
        (
            "group: '', kind: Service, name: far, namespace: plain",
            to("{name: far, namespace: plain, port: 80}"),
            [
                GOOD,
                RESOLVED,
                "ResolvedWaypoints (ResolvedWaypoints: istio.io/use-waypoint label missing from parent and parent namespace; in ambient mode, route will not be respected)",
            ],
        ),
    ] {
        let found = statuses(&format!("{other}{}", route(&format!("{{{parent}}}"), &rules)));
        assert_eq!(found.len(), 1, "{found:?}");
        let conditions = found[0].split_once(": ").unwrap().1;
        assert_eq!(conditions, said.join(", "), "{parent} {rules}");
    }
}
