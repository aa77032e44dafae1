//! TCPRoutes and TLSRoutes: what of them has no effect.

use super::{TO_WEB, check, named_route, told};

const OLDER: &str = ", creationTimestamp: '2026-01-01T00:00:00Z'";
const YOUNGER: &str = ", creationTimestamp: '2026-02-01T00:00:00Z'";
const OWN: &str = ", hostnames: [web.default.svc.cluster.local]";
const TO_API: &str = ", rules: [{backendRefs: [{name: api, port: 80}]}]";

fn tcp_route(name: &str, meta: &str, parent: &str, rules: &str) -> String {
    named_route(name, meta, parent, rules).replace("kind: HTTPRoute", "kind: TCPRoute")
}

fn tls_route(name: &str, meta: &str, parent: &str, rules: &str) -> String {
    named_route(name, meta, parent, rules).replace("kind: HTTPRoute", "kind: TLSRoute")
}

fn tcp_port() -> String {
    format!("{{{TO_WEB}, port: 81}}")
}

#[test]
fn what_has_an_effect_is_not_told() {
    for text in [
        tcp_route("t", "", &tcp_port(), TO_API),
        tcp_route("t", "", &format!("{{{TO_WEB}, sectionName: tcp}}"), TO_API),
        tcp_route("t", "", &format!("{{{TO_WEB}}}"), TO_API),
        tls_route("t", "", &tcp_port(), &format!("{OWN}{TO_API}")),
        // A part of nothing is nothing.
        tcp_route(
            "t",
            "",
            &tcp_port(),
            ", rules: [{backendRefs: [{name: gone, port: 80, weight: 0}, {name: api, port: 80}]}]",
        ),
    ] {
        assert_eq!(told(&text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn what_has_no_effect_is_told() {
    let field = "TCPRoute default/t (no effect): spec.";
    check(&[
        (
            tcp_route("t", "", &format!("{{{TO_WEB}, port: 80}}"), TO_API),
            &[field, "parentRefs[0]: ", "nothing but HTTP is spoken there"],
        ),
        (
            tcp_route("t", "", "{group: '', kind: Service, name: wep}", TO_API),
            &[field, "parentRefs[0]: ", "is \"web\" meant?"],
        ),
        (
            tcp_route("t", "", "", TO_API),
            &[field, "parentRefs: is empty"],
        ),
        (
            tcp_route("a", OLDER, &tcp_port(), TO_API)
                + &tcp_route("t", YOUNGER, &tcp_port(), TO_API),
            &[field, "rules[0]: ", "another route of the service"],
        ),
        (
            // Whatever their age.
            tls_route("a", YOUNGER, &tcp_port(), &format!("{OWN}{TO_API}"))
                + &tcp_route("t", OLDER, &tcp_port(), TO_API),
            &[field, "rules[0]: ", "another route of the service"],
        ),
        (
            tcp_route(
                "t",
                "",
                &tcp_port(),
                ", rules: [{backendRefs: [{name: apj, port: 80}]}]",
            ),
            &[
                field,
                "rules[0].backendRefs[0]: ",
                "is \"api\" meant?",
                "closed",
            ],
        ),
        (
            tcp_route(
                "t",
                "",
                &tcp_port(),
                ", rules: [{backendRefs: [{name: api, port: 80, weight: 0}]}]",
            ),
            &[field, "rules[0]: ", "no backend has a weight"],
        ),
        (
            tls_route(
                "t",
                "",
                &tcp_port(),
                &format!(", hostnames: [a.test]{TO_API}"),
            ),
            &[
                "TLSRoute default/t (no effect): spec.hostnames: ",
                "web.default.svc.cluster.local alone",
            ],
        ),
    ]);
}
