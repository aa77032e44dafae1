//! RequestAuthentications that hit nothing, and what of their rules does nothing.

use super::{check, told};

fn tokens(target: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{name: t}}, spec: {{{target}jwtRules: [{rules}]}}}}\n---\n"
    )
}

fn policy(target: &str, action: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p}}, spec: {{{target}action: {action}}}}}\n---\n"
    )
}

/// Ports 80 (HTTP) and 81 (TCP).
const WEB: &str = "targetRefs: [{group: '', kind: Service, name: web}], ";
/// Port 80 (HTTP).
const API: &str = "targetRefs: [{group: '', kind: Service, name: api}], ";
const WAYPOINT: &str =
    "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}], ";
const RULE: &str = r#"{issuer: a, jwks: '{"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'}"#;

#[test]
fn where_no_token_is_looked_for() {
    let tcp = "{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 10.0.0.3, selector: {app: web}, ports: [{name: tcp, port: 5432}]}}\n---\n";
    let begins = "RequestAuthentication default/t (no effect): spec";
    check(&[
        (
            tokens("", RULE),
            &[begins, ": without targetRefs no waypoint enforces it"],
        ),
        (
            tokens("selector: {matchLabels: {app: web}}, ", RULE),
            &[begins, ": without targetRefs no waypoint enforces it"],
        ),
        (
            tokens("targetRef: {group: '', kind: Service, name: wep}, ", RULE),
            &[
                begins,
                ".targetRef: no Service default/wep",
                "is \"web\" meant?",
            ],
        ),
        (
            tokens(WEB, ""),
            &[begins, ".jwtRules: is empty: no token is looked for"],
        ),
        (
            tcp.to_owned() + &tokens(&WEB.replace("web", "db"), RULE),
            &[begins, ": nothing but HTTP has tokens"],
        ),
    ]);
    for quiet in [tokens(WEB, RULE), tokens(WAYPOINT, RULE)] {
        assert_eq!(told(&quiet), Vec::<String>::new(), "{quiet}");
    }
}

#[test]
fn providers_that_nobody_asks() {
    let mesh = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{extensionProviders: [{name: ask, envoyExtAuthzGrpc: {service: api.default.svc.cluster.local, port: 80}}]}'}}\n---\n";
    let custom = |target: &str| policy(target, "CUSTOM, provider: {name: ask}, rules: [{}]");
    assert_eq!(
        told(&(mesh.to_owned() + &custom(WEB))),
        Vec::<String>::new()
    );
    check(&[(
        mesh.to_owned(),
        &[
            "ConfigMap (not for this waypoint): extension providers that no policy of this waypoint asks: istio-system/istio ask",
        ],
    )]);
}

#[test]
fn what_of_a_rule_does_nothing() {
    let begins = "RequestAuthentication default/t (no effect): spec.jwtRules[0].";
    let rule = |more: &str| tokens(API, &RULE.replace("issuer: a", &format!("issuer: a{more}")));
    check(&[
        (
            rule(", timeout: 1s"),
            &[begins, "timeout: is for fetching keys"],
        ),
        (
            tokens(
                API,
                &RULE.replace(
                    "[{",
                    "[{\"kty\": \"RSA\", \"n\": \"AQAB\", \"e\": \"AQAB\"}, {",
                ),
            ),
            &[begins, "jwks: a key is left out: "],
        ),
        (
            tokens(API, &RULE.replace("[{", "[{\"d\": \"x\", ")),
            &[begins, "jwks: key 0 is a private key"],
        ),
    ]);
}

#[test]
fn identities_are_of_chains_that_check_tokens() {
    let who = ", rules: [{from: [{source: {requestPrincipals: ['*']}}]}]";
    let allow = |target: &str| policy(target, &format!("ALLOW{who}"));
    let field = "AuthorizationPolicy default/p (no effect): spec.rules[0].from[0].source.requestPrincipals: ";
    for quiet in [
        tokens(API, RULE) + &allow(API),
        tokens(WAYPOINT, RULE) + &allow(API),
    ] {
        assert_eq!(told(&quiet), Vec::<String>::new(), "{quiet}");
    }
    check(&[(
        tokens(WEB, RULE) + &allow(API),
        &[
            field,
            "no RequestAuthentication has rules for what it targets",
            "the rule never matches",
        ],
    )]);
    // Where some of what a policy applies to has tokens, the rest of it is named.
    let lines = told(&(tokens(WEB, RULE) + &allow(WAYPOINT)));
    let names = format!("{field}no RequestAuthentication has rules for default/api, so that");
    let about = lines.iter().any(|line| line.starts_with(&names));
    assert!(about, "{lines:#?}");
}
