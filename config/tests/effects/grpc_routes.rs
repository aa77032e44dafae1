//! GRPCRoutes: told of as HTTPRoutes are, under their own name.

use super::{TO_WEB, check, named_route, told};

fn grpc_route(name: &str, meta: &str, parent: &str, rules: &str) -> String {
    named_route(name, meta, parent, rules).replace("kind: HTTPRoute", "kind: GRPCRoute")
}

const OLDER: &str = ", creationTimestamp: '2026-01-01T00:00:00Z'";
const YOUNGER: &str = ", creationTimestamp: '2026-02-01T00:00:00Z'";

fn rule(matches: &str) -> String {
    format!(", rules: [{{matches: [{matches}], backendRefs: [{{name: api, port: 80}}]}}]")
}

#[test]
fn what_has_an_effect_is_not_told() {
    let parent = format!("{{{TO_WEB}, port: 80, sectionName: http}}");
    for matches in [
        "{}",
        "{method: {service: shop.Cart}}",
        "{method: {method: Get}}, {headers: [{name: a, value: b}]}",
    ] {
        let text = grpc_route("g", "", &parent, &rule(matches));
        assert_eq!(told(&text), Vec::<String>::new(), "{text}");
    }
    // A route of each kind.
    let both = grpc_route("g", YOUNGER, &parent, &rule("{}"))
        + &named_route("h", OLDER, &parent, &rule("{path: {value: /x}}"));
    assert_eq!(told(&both), Vec::<String>::new());
}

#[test]
fn what_has_no_effect_is_told() {
    let parent = format!("{{{TO_WEB}}}");
    let cart = "{method: {service: shop.Cart}}";
    let field = "GRPCRoute default/g (no effect): spec.";
    check(&[
        (
            grpc_route("g", "", "{kind: Service, name: web}", &rule("{}")),
            &[field, "parentRefs[0]: ", "write group: \"\""],
        ),
        (
            grpc_route("g", "", &format!("{{{TO_WEB}, port: 81}}"), &rule("{}")),
            &[field, "parentRefs[0]: ", "no HTTP is spoken there"],
        ),
        (
            grpc_route("g", "", "", &rule("{}")),
            &[field, "parentRefs: is empty"],
        ),
        (
            grpc_route(
                "g",
                "",
                &parent,
                ", hostnames: [a.test], rules: [{backendRefs: [{name: api, port: 80}]}]",
            ),
            &[field, "hostnames: play no part"],
        ),
        (
            grpc_route("a", OLDER, &parent, &rule(cart))
                + &grpc_route("g", YOUNGER, &parent, &rule(cart)),
            &[field, "rules[0]: ", "spec.rules[0] of GRPCRoute default/a"],
        ),
        (
            // A method is a path.
            named_route(
                "h",
                OLDER,
                &parent,
                &rule("{path: {type: Exact, value: /a/B}}"),
            ) + &grpc_route(
                "g",
                YOUNGER,
                &parent,
                &rule("{method: {service: a, method: B}}"),
            ),
            &[field, "rules[0]: ", "spec.rules[0] of HTTPRoute default/h"],
        ),
        (
            grpc_route(
                "g",
                "",
                &parent,
                ", rules: [{backendRefs: [{name: apj, port: 80}]}]",
            ),
            &[
                field,
                "rules[0].backendRefs[0]: ",
                "is \"api\" meant?",
                "500",
            ],
        ),
    ]);
    let without_rules = told(&grpc_route("g", "", &parent, ""));
    assert_eq!(without_rules.len(), 1, "{without_rules:#?}");
    assert!(
        without_rules[0].contains("GRPCRoute default/g (no effect): spec.rules: "),
        "{without_rules:#?}"
    );
    let not_honoured = told(&grpc_route(
        "g",
        "",
        &parent,
        ", rules: [{filters: [{type: ExtensionRef, extensionRef: {group: a.b, kind: C, name: d}}], sessionPersistence: {absoluteTimeout: 1h}, backendRefs: [{name: api, port: 80}]}]",
    ));
    for part in [
        "GRPCRoute default/g (closed what it targets): spec.rules[0].filters[0]: ",
        "spec.rules[0].sessionPersistence.absoluteTimeout: is not honoured",
    ] {
        assert!(
            not_honoured.iter().any(|line| line.contains(part)),
            "{part}: {not_honoured:#?}"
        );
    }
}
