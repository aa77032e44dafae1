//! Parts of HTTPRoutes that nothing comes of.

use super::*;

#[test]
fn parents_that_are_nobody_here() {
    let field = "HTTPRoute default/r (no effect): spec.parentRefs[0]: ";
    check(&[
        (
            route("{kind: Service, name: web}", RULES),
            &[field, "write group: \"\""],
        ),
        (
            route("{name: web}", RULES),
            &[field, "for a Service write group: \"\""],
        ),
        (
            route("{name: waypoint}", RULES),
            &[field, "by Services, not by its Gateway"],
        ),
        (
            route("{group: '', kind: service, name: web}", RULES),
            &[field, "kind \"service\"", "is \"Service\" meant?"],
        ),
        (
            route("{group: apps, kind: Deployment, name: web}", RULES),
            &[field, "no parent that a waypoint knows"],
        ),
        (
            route("{group: '', kind: Service, name: wep}", RULES),
            &[field, "no Service default/wep", "is \"web\" meant?"],
        ),
        (
            route("{group: '', kind: Service, name: web, port: 8080}", RULES),
            &[
                field,
                "has no port 8080; it has 80/TCP \"http\", 81/TCP \"tcp\"",
            ],
        ),
        (
            route(
                "{group: '', kind: Service, name: web, sectionName: web}",
                RULES,
            ),
            &[field, "no port of the name \"web\""],
        ),
        (
            route(
                "{group: '', kind: Service, name: web, port: 80, sectionName: tcp}",
                RULES,
            ),
            &[field, "has no such port"],
        ),
        (
            route("{group: '', kind: Service, name: web, port: 81}", RULES),
            &[field, "no HTTP is spoken there", "81/TCP"],
        ),
        (
            route(
                "{group: networking.istio.io, kind: ServiceEntry, name: web}",
                RULES,
            ),
            &[field, "no ServiceEntry default/web"],
        ),
        (route("", RULES), &["spec.parentRefs: is empty"]),
    ]);
    // Another namespace's route, and one for a service that uses no waypoint.
    check(&[(
        named_route(
            "r",
            ", namespace: plain",
            "{group: '', kind: Service, name: web, namespace: default}",
            ", rules: [{backendRefs: [{name: api, namespace: default, port: 80}]}]",
        ),
        &[
            "HTTPRoute plain/r (no effect): spec.parentRefs[0]: ",
            "another namespace",
        ],
    )]);
    let lines = told(
        &(service("far", ", namespace: plain", PORTS)
            + &named_route(
                "r",
                ", namespace: plain",
                "{group: '', kind: Service, name: far}",
                "",
            )),
    );
    assert!(
        lines[0].contains(
            "Service plain/far doesn't use this waypoint: no label istio.io/use-waypoint"
        ),
        "{lines:#?}"
    );
}

#[test]
fn matches_that_no_request_reaches() {
    let parent = format!("{{{TO_WEB}, port: 80}}");
    let older = ", creationTimestamp: '2026-01-01T00:00:00Z'";
    let younger = ", creationTimestamp: '2026-02-01T00:00:00Z'";
    let to = "backendRefs: [{name: api, port: 80}]";
    let rule = |matches: &str| format!("{{matches: [{matches}], {to}}}");
    let rules = |all: &[String]| format!(", rules: [{}]", all.join(", "));
    let (x, y) = ("{path: {value: /x}}", "{path: {value: /x/}}");
    check(&[
        (
            named_route("a", older, &parent, &rules(&[rule(x)]))
                + &named_route("b", younger, &parent, &rules(&[rule(y)])),
            &[
                "HTTPRoute default/b (no effect): spec.rules[0]: ",
                "spec.rules[0] of HTTPRoute default/a",
            ],
        ),
        (
            named_route("a", older, &parent, &rules(&[rule(x)]))
                + &named_route(
                    "b",
                    younger,
                    &parent,
                    &rules(&[rule("{path: {value: /x}}, {path: {value: /z}}")]),
                ),
            &["HTTPRoute default/b (no effect): spec.rules[0].matches[0]: "],
        ),
        (
            named_route("a", older, &parent, &rules(&[rule("{}"), rule("{}")])),
            &["HTTPRoute default/a (no effect): spec.rules[1]: "],
        ),
    ]);
    // The same twice, but not for the same requests.
    let other = format!("{{{TO_WEB}, port: 80}}, {{group: '', kind: Service, name: api}}");
    let seen = told(
        &(named_route("a", older, &parent, &rules(&[rule(x)]))
            + &named_route("b", younger, &other, &rules(&[rule(x)]))),
    );
    assert_eq!(seen, Vec::<String>::new());
}

#[test]
fn backends_that_are_not_there() {
    let parent = format!("{{{TO_WEB}}}");
    let to = |backend: &str| route(&parent, &format!(", rules: [{{backendRefs: [{backend}]}}]"));
    let field = "HTTPRoute default/r (no effect): spec.rules[0].backendRefs[0]: ";
    check(&[
        (
            to("{name: apj, port: 80}"),
            &[field, "no Service default/apj", "is \"api\" meant?", "500"],
        ),
        (
            to("{name: api, port: 81}"),
            &[field, "has no TCP port 81; it has 80/TCP \"http\""],
        ),
        (
            to("{group: example.com, kind: Bucket, name: b}"),
            &[field, "kind \"Bucket\""],
        ),
        (
            to("{group: inference.networking.k8s.io, kind: InferencePool, name: pool, port: 80}"),
            &[field, "kind \"InferencePool\""],
        ),
        (
            to("{group: networking.istio.io, kind: Hostname, name: a.test, port: 80}"),
            &[field, "has the host \"a.test\"", "500"],
        ),
        (
            to("{group: networking.istio.io, kind: Hostname, name: api.default.svc.cluster.local}"),
            &[field, "port is required in backendRef", "500"],
        ),
        (
            to(
                "{group: networking.istio.io, kind: Hostname, name: api.default.svc.cluster.local, namespace: default, port: 80}",
            ),
            &[field, "namespace may not be set", "500"],
        ),
        (
            to(
                "{group: networking.istio.io, kind: Hostname, name: api.default.svc.cluster.local, port: 81}",
            ),
            &[field, "Service default/api has no TCP port 81", "500"],
        ),
        (
            route(
                &parent,
                ", hostnames: [a.test], rules: [{backendRefs: [{name: api, port: 80}]}]",
            ),
            &["spec.hostnames: play no part"],
        ),
    ]);
    // A mirror that isn't there costs the rule nothing else.
    let mirror = told(&route(
        &parent,
        ", rules: [{filters: [{type: RequestMirror, requestMirror: {backendRef: {name: gone, port: 80}}}], backendRefs: [{name: api, port: 80}]}]",
    ));
    assert_eq!(mirror.len(), 1, "{mirror:#?}");
    assert!(mirror[0].contains("no Service default/gone"), "{mirror:#?}");
    assert!(mirror[0].contains("nothing is mirrored"), "{mirror:#?}");
    // Services of others are in force as backends, and told of where nobody is behind them.
    let far = |pods: &str| {
        service(
            "far",
            ", namespace: plain",
            &format!("clusterIP: 10.0.0.8, selector: {{app: {pods}}}, ports: [{{port: 80}}]"),
        ) + "{apiVersion: v1, kind: Pod, metadata: {name: p, namespace: plain, labels: {app: far}}, status: {podIP: 10.1.0.6, conditions: [{type: Ready, status: 'True'}]}}\n---\n"
            + &to("{name: far, namespace: plain, port: 80}")
    };
    assert_eq!(told(&far("far")), Vec::<String>::new());
    check(&[(
        far("gone"),
        &[
            field,
            "port 80 of Service plain/far leads to nobody",
            "answered 503",
        ],
    )]);
    // A share of nothing is nothing.
    assert_eq!(
        told(&to(
            "{name: gone, port: 80, weight: 0}, {name: api, port: 80}"
        )),
        Vec::<String>::new()
    );
}
