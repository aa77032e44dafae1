//! Rules of policies that match nothing, or everything, where they apply; and a backend that is nobody.

use super::{PORTS, TO_WEB, check, route, service, told};

fn policy(target: &str, action: &str, rule: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {{targetRefs: [{target}], action: {action}, rules: [{rule}]}}}}\n---\n"
    )
}

/// Ports 80 (HTTP) and 81 (TCP).
const WEB: &str = "{group: '', kind: Service, name: web}";
/// Port 80 (HTTP).
const API: &str = "{group: '', kind: Service, name: api}";
const WAYPOINT: &str = "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}";

#[test]
fn http_in_rules_for_tcp_ports() {
    let paths = "{to: [{operation: {paths: [/x], ports: ['81']}}]}";
    let field = "AuthorizationPolicy default/p (no effect): spec.rules[0].to[0].operation.paths: ";
    check(&[
        (
            policy(WEB, "ALLOW", paths),
            &[
                field,
                "nothing but HTTP",
                "the rule allows nothing",
                "default/web port 81",
            ],
        ),
        (
            policy(WEB, "DENY", paths),
            &[
                field,
                "left out",
                "the rule denies whatever the rest of it matches",
                "default/web port 81",
            ],
        ),
        (
            policy(WEB, "DENY", "{to: [{operation: {methods: [GET]}}]}"),
            &[
                "operation.methods: ",
                "the rule denies everything",
                "default/web port 81",
            ],
        ),
        (
            policy(
                WAYPOINT,
                "ALLOW",
                "{from: [{source: {namespaces: [a]}}]}, {when: [{key: 'request.headers[x]', notValues: [a]}]}",
            ),
            &[
                "spec.rules[1].when[0].notValues: ",
                "allows nothing",
                "default/web port 81",
            ],
        ),
    ]);
    for quiet in [
        // No TCP port, and nothing of HTTP.
        policy(API, "ALLOW", "{to: [{operation: {paths: [/x]}}]}"),
        policy(
            WEB,
            "ALLOW",
            "{to: [{operation: {ports: ['81']}}], from: [{source: {namespaces: [a]}}]}",
        ),
    ] {
        assert_eq!(told(&quiet), Vec::<String>::new(), "{quiet}");
    }
    // Where the first bytes tell, ALLOW is as narrow as it should be.
    let any = |action| {
        let ports = "clusterIP: 10.0.0.9, selector: {app: web}, ports: [{name: any, port: 80}]";
        let target = "{group: '', kind: Service, name: any}";
        service("any", "", ports) + &policy(target, action, "{to: [{operation: {methods: [GET]}}]}")
    };
    assert_eq!(told(&any("ALLOW")), Vec::<String>::new());
    check(&[(
        any("DENY"),
        &[
            "operation.methods: ",
            "on other connections",
            "denies everything",
            "default/any port 80",
        ],
    )]);
}

#[test]
fn rules_that_never_match() {
    let begins = "AuthorizationPolicy default/p (no effect): spec.rules";
    check(&[
        (
            policy(API, "AUDIT", ""),
            &[begins, ": is empty: the policy never matches"],
        ),
        (
            policy(
                API,
                "ALLOW",
                "{to: [{operation: {ports: ['8080', '9090']}}]}",
            ),
            &[
                begins,
                "[0].to[0].operation.ports: ",
                "no port of what it applies to",
                "80",
            ],
        ),
        (
            policy(
                WEB,
                "DENY",
                "{when: [{key: destination.port, values: ['8080']}]}",
            ),
            &[
                begins,
                "[0].when[0].values: ",
                "no port of what it applies to",
                "80, 81",
            ],
        ),
        (
            policy(
                API,
                "ALLOW",
                "{from: [{source: {principals: ['spiffe://cluster.local/ns/a/sa/b']}}]}",
            ),
            &[
                begins,
                "[0].from[0].source.principals[0]: ",
                "without spiffe://",
            ],
        ),
        (
            policy(
                API,
                "ALLOW",
                "{when: [{key: source.principal, notValues: [a, 'spiffe://*']}]}",
            ),
            &[begins, "[0].when[0].notValues[1]: ", "without spiffe://"],
        ),
    ]);
    for quiet in [
        policy(WEB, "ALLOW", "{to: [{operation: {ports: ['8080', '81']}}]}"),
        policy(API, "ALLOW", "{to: [{operation: {notPorts: ['8080']}}]}"),
        policy(WAYPOINT, "ALLOW", "{to: [{operation: {ports: ['81']}}]}"),
        policy(API, "ALLOW", ""),
    ] {
        assert_eq!(told(&quiet), Vec::<String>::new(), "{quiet}");
    }
}

#[test]
fn identities_of_requests_that_nobody_checks() {
    let begins = "AuthorizationPolicy default/p (no effect): spec.rules[0].";
    check(&[
        (
            policy(
                API,
                "ALLOW",
                "{from: [{source: {requestPrincipals: ['*']}}]}",
            ),
            &[
                begins,
                "from[0].source.requestPrincipals: ",
                "no RequestAuthentication",
                "the rule never matches",
            ],
        ),
        (
            policy(
                API,
                "DENY",
                "{from: [{source: {notRequestPrincipals: ['*']}}]}",
            ),
            &[
                begins,
                "from[0].source.notRequestPrincipals: ",
                "so this holds for every request",
            ],
        ),
        (
            policy(
                API,
                "ALLOW",
                "{when: [{key: 'request.auth.claims[iss]', values: [a]}]}",
            ),
            &[begins, "when[0].values: ", "the rule never matches"],
        ),
        (
            policy(
                API,
                "ALLOW",
                "{from: [{source: {namespaces: [a]}}, {source: {requestPrincipals: [a]}}]}",
            ),
            &[
                begins,
                "from[1].source.requestPrincipals: ",
                "this part of the rule never matches",
            ],
        ),
    ]);
}

#[test]
fn a_headless_backend_without_endpoints() {
    let heads = |selector: &str| {
        service(
            "heads",
            ", labels: {istio.io/use-waypoint: none}",
            &format!(
                "clusterIP: None, selector: {{app: {selector}}}, ports: [{{name: http, port: 80}}]"
            ),
        )
    };
    let own =
        |selector: &str| heads(selector).replace(", labels: {istio.io/use-waypoint: none}", "");
    let to = route(
        &format!("{{{TO_WEB}}}"),
        ", rules: [{backendRefs: [{name: heads, port: 80}]}]",
    );
    let field = "HTTPRoute default/r (no effect): spec.rules[0].backendRefs[0]: ";
    let about = |lines: &[String]| {
        let about = lines.iter().filter(|line| line.starts_with(field));
        about.cloned().collect::<Vec<_>>()
    };
    for headless in [heads("gone"), own("gone")] {
        let lines = told(&(headless + &to));
        let about = about(&lines);
        assert_eq!(about.len(), 1, "{lines:#?}");
        assert!(
            about[0].contains("leads to nobody") && about[0].contains("503"),
            "{lines:#?}"
        );
    }
    for headless in [heads("web"), own("web")] {
        let lines = told(&(headless + &to));
        assert!(about(&lines).is_empty(), "{lines:#?}");
    }
    assert!(PORTS.contains("selector"));
}

fn named(name: &str, target: &str, action: &str, rule: &str) -> String {
    policy(target, action, rule).replace(
        "metadata: {name: p}",
        &format!("metadata: {{name: {name}}}"),
    )
}

#[test]
fn rules_that_others_leave_nothing_to_do() {
    let get = "{to: [{operation: {methods: [GET]}}]}";
    let from = "{from: [{source: {namespaces: [a]}}], to: [{operation: {methods: [GET]}}]}";
    let contradiction = named("allow", API, "ALLOW", from) + &named("deny", API, "DENY", get);
    let twice = named("one", API, "ALLOW", get) + &named("two", API, "ALLOW", get);
    let wider = named("a", API, "DENY", from)
        + &named(
            "b",
            WAYPOINT,
            "DENY",
            "{from: [{source: {namespaces: [a]}}]}",
        );
    check(&[
        (
            contradiction,
            &[
                "AuthorizationPolicy default/allow (no effect): spec.rules[0]: contradicts spec.rules[0] of \
                 AuthorizationPolicy default/deny",
                "allows nothing",
            ],
        ),
        (
            twice,
            &[
                "AuthorizationPolicy default/two (no effect): spec.rules[0]: adds nothing: spec.rules[0] of \
                 AuthorizationPolicy default/one allows all of it",
            ],
        ),
        (
            wider,
            &[
                "AuthorizationPolicy default/a (no effect): spec.rules[0]: adds nothing",
                "default/b denies",
            ],
        ),
    ]);
    for quiet in [
        // Elsewhere the other doesn't hold.
        named(
            "a",
            WAYPOINT,
            "ALLOW",
            "{from: [{source: {namespaces: [a]}}]}",
        ) + &named("b", API, "DENY", "{from: [{source: {namespaces: [a]}}]}"),
        // An exception of what is denied.
        named("a", API, "ALLOW", get) + &named("b", API, "DENY", from),
    ] {
        assert_eq!(told(&quiet), Vec::<String>::new(), "{quiet}");
    }
}
