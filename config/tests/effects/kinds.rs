//! Kinds that are sound and say nothing to a waypoint.

use super::told;

#[test]
fn kinds_that_are_for_others_are_one_quiet_line_each() {
    for (group, kind, spec, reason) in [
        (
            "security.istio.io",
            "PeerAuthentication",
            "{mtls: {mode: STRICT}}",
            "ztunnel enforces it; a waypoint takes nothing but mutual TLS",
        ),
        (
            "networking.istio.io",
            "Gateway",
            "{selector: {istio: ingressgateway}, servers: [{hosts: [a.test], port: {name: http, number: 80, protocol: HTTP}}]}",
            "of networking.istio.io: for ingress and egress gateways",
        ),
        (
            "networking.istio.io",
            "Sidecar",
            "{egress: [{hosts: ['./*']}]}",
            "for sidecars",
        ),
        (
            "networking.istio.io",
            "WorkloadGroup",
            "{template: {serviceAccount: vm}}",
            "istiod makes WorkloadEntries of it",
        ),
        (
            "gateway.networking.k8s.io",
            "ReferenceGrant",
            "{from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: a}], to: [{group: '', kind: Service}]}",
            "in a mesh a route needs no grant",
        ),
    ] {
        let version = if kind == "ReferenceGrant" {
            "v1beta1"
        } else {
            "v1"
        };
        let object = |name: &str| {
            format!(
                "{{apiVersion: {group}/{version}, kind: {kind}, metadata: {{name: {name}}}, spec: {spec}}}\n---\n"
            )
        };
        let lines = told(&(object("a") + &object("b")));
        assert_eq!(lines.len(), 1, "{kind}: {lines:#?}");
        let begins = format!("{kind} (not for this waypoint): {reason}");
        assert!(
            lines[0].starts_with(&begins),
            "{begins:?} in {:?}",
            lines[0]
        );
        assert!(lines[0].ends_with(": default/a, default/b"), "{lines:#?}");
    }
}

#[test]
fn a_kind_that_is_not_honoured_is_named() {
    let lines = told(
        "{apiVersion: gateway.networking.k8s.io/v1alpha2, kind: UDPRoute, metadata: {name: dns}, \
         spec: {parentRefs: [{group: '', kind: Service, name: web, port: 53}], rules: [{backendRefs: [{name: web, port: 53}]}]}}",
    );
    assert_eq!(lines.len(), 1, "{lines:#?}");
    let begins = "UDPRoute default/dns (not honoured): ";
    assert!(lines[0].starts_with(begins), "{lines:#?}");
}
