//! Policies and what closes: seen from HTTP and from TCP, dry run, targets, what has no effect.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use waypoint_config::standalone::Severity;

use super::*;

#[test]
fn a_guard_that_is_not_honoured_closes_what_it_targets_and_no_more() {
    let guard = |target: &str| {
        format!(
            "{{apiVersion: extensions.istio.io/v1alpha1, kind: WasmPlugin, metadata: {{name: guard}}, spec: {{{target}}}}}\n{}",
            policy("reader", "", &format!("{WEB}, rules: [{{}}]"))
        )
    };
    let found = translated(&guard(WEB));
    for (port, subset) in [(80, "http"), (82, "http")] {
        let chain = service_chain(&found, port, subset);
        let body = closed_body(&chain).unwrap();
        assert!(
            body.starts_with("waypoint: closed by WasmPlugin default/guard: "),
            "{body}"
        );
        assert_eq!(routes(&chain).len(), 1);
        // The answer must be 503 whoever asks.
        assert!(http_rbac(&chain).is_empty());
    }
    for port in [81, 82] {
        assert!(denies_all(
            &network_rbac(&service_chain(&found, port, "tcp"))[0]
        ));
    }
    assert!(closed_body(&chain(&found, "direct-http")).is_none());
    assert!(
        network_rbac(&chain(
            &found,
            "inbound-vip|5432|tcp|db.default.svc.cluster.local"
        ))
        .is_empty()
    );
    let named: Vec<_> = found
        .problems
        .iter()
        .map(|p| (p.severity, p.resource.as_str()))
        .collect();
    assert_eq!(named, [(Severity::FailClosed, "WasmPlugin default/guard")]);

    let found = translated(&guard(GATEWAY));
    for name in [
        "direct-http",
        "inbound-vip|80|http|web.default.svc.cluster.local",
    ] {
        assert!(closed_body(&chain(&found, name)).is_some());
    }
    for name in [
        "direct-tcp",
        "inbound-vip|5432|tcp|db.default.svc.cluster.local",
    ] {
        assert!(denies_all(&network_rbac(&chain(&found, name))[0]));
    }

    // Another waypoint's guard is no business of this one.
    let other = guard(&GATEWAY.replace("name: waypoint", "name: other"));
    let found = translated(&other);
    assert!(closed_body(&service_chain(&found, 80, "http")).is_none());
    let reasons: Vec<_> = found.problems.iter().map(|p| p.reason.as_str()).collect();
    assert_eq!(reasons, ["no Gateway default/other is among the manifests"]);
}

#[test]
fn only_the_root_namespace_speaks_for_all_waypoints() {
    let class = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]";
    let count = |meta: &str| {
        let found = translated(&policy("p", meta, &format!("{class}, rules: [{{}}]")));
        http_rbac(&service_chain(&found, 80, "http")).len()
    };
    assert_eq!(count(", namespace: istio-system"), 1);
    assert_eq!(count(""), 0);
}

#[test]
fn http_rules_seen_from_tcp_only_become_stricter() {
    let get = "rules: [{to: [{operation: {methods: [GET], ports: ['81']}}]}]";
    let found = translated(&policy("p", "", &format!("{WEB}, {get}")));
    assert!(
        denies_all(&network_rbac(&service_chain(&found, 81, "tcp"))[0]),
        "ALLOW is dropped"
    );
    assert_eq!(
        http_rbac(&service_chain(&found, 80, "http"))[0]
            .rules
            .as_ref()
            .unwrap()
            .policies
            .len(),
        1
    );

    let found = translated(&policy("p", "", &format!("{WEB}, action: DENY, {get}")));
    let rules = network_rbac(&service_chain(&found, 81, "tcp"))[0]
        .rules
        .clone()
        .unwrap();
    let denied = &rules.policies["ns[default]-policy[p]-rule[0]"];
    let text = format!("{:?}", denied.permissions);
    assert!(
        text.contains("DestinationPort(81)") && !text.contains("GET"),
        "DENY widens: {text}"
    );

    // Only HTTP: on TCP everything is denied.
    let header = "rules: [{when: [{key: 'request.headers[x-a]', values: [b]}]}]";
    let found = translated(&policy("p", "", &format!("{WEB}, action: DENY, {header}")));
    let rules = network_rbac(&service_chain(&found, 81, "tcp"))[0]
        .rules
        .clone()
        .unwrap();
    let denied = &rules.policies["ns[default]-policy[p]-rule[0]"];
    assert!(format!("{:?}", denied.principals).contains("Any(true)"));
}

#[test]
fn empty_rules() {
    // No rules: nothing is allowed. One empty rule: everything is.
    let nothing = translated(&policy("p", "", WEB));
    let rules = http_rbac(&service_chain(&nothing, 80, "http"))[0]
        .rules
        .clone()
        .unwrap();
    let never = &rules.policies["ns[default]-policy[p]-rule[0]"];
    assert!(format!("{never:?}").contains("NotRule") && format!("{never:?}").contains("NotId"));
    let everything = translated(&policy("p", "", &format!("{WEB}, rules: [{{}}]")));
    let rules = http_rbac(&service_chain(&everything, 80, "http"))[0]
        .rules
        .clone()
        .unwrap();
    let always = &rules.policies["ns[default]-policy[p]-rule[0]"];
    assert!(!format!("{always:?}").contains("Not") && format!("{always:?}").contains("Any(true)"));
}

#[test]
fn dry_run_is_told_and_not_enforced() {
    let meta = ", annotations: {istio.io/dry-run: 'true'}";
    let found = translated(&policy(
        "p",
        meta,
        &format!("{WEB}, action: DENY, rules: [{{}}]"),
    ));
    let filters = http_rbac(&service_chain(&found, 80, "http"));
    assert_eq!(filters.len(), 1);
    assert!(filters[0].rules.is_none());
    assert_eq!(filters[0].shadow_rules_stat_prefix, "istio_dry_run_deny_");
    assert_eq!(
        filters[0].shadow_rules.as_ref().unwrap().action(),
        rbac::rbac::Action::Deny
    );
}

#[test]
fn policies_without_effect_are_named() {
    let found = translated(
        &(policy("selector", "", "selector: {matchLabels: {app: a}}")
            + &policy("typo", "", &WEB.replace("name: web", "name: wep"))),
    );
    let named: Vec<_> = found
        .problems
        .iter()
        .map(|p| (p.severity, p.resource.as_str()))
        .collect();
    assert_eq!(
        named,
        [
            (Severity::NoEffect, "AuthorizationPolicy default/selector"),
            (Severity::NoEffect, "AuthorizationPolicy default/typo")
        ]
    );
}
