//! DestinationRules that hold for nothing, and settings that say nothing.

use crate::{check, told};

fn rule(name: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}}}, spec: {{{spec}}}}}\n---\n"
    )
}

fn policy(spec: &str) -> String {
    rule("r", &format!("host: web, trafficPolicy: {{{spec}}}"))
}

#[test]
fn what_holds_is_not_told() {
    for more in [
        policy("loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 10s}}"),
        policy("loadBalancer: {consistentHash: {useSourceIp: true}}"),
        policy("outlierDetection: {consecutive5xxErrors: 1, minHealthPercent: 10}"),
        policy(
            "portLevelSettings: [{port: {number: 81}, connectionPool: {tcp: {maxConnections: 1}}}]",
        ),
        rule(
            "r",
            "host: '*.default.svc.cluster.local', trafficPolicy: {retryBudget: {}}",
        ),
        rule("r", "host: web, subsets: [{name: all, labels: {app: web}}]"),
    ] {
        assert_eq!(told(&more), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn rules_that_hold_for_nothing() {
    let own = "DestinationRule default/r (no effect): ";
    check(&[
        (rule("r", "host: wep"), &[own, "spec.host: ", "is \"web.default.svc.cluster.local\" meant?"]),
        (
            rule("r", "host: web, workloadSelector: {matchLabels: {app: web}}"),
            &["DestinationRule (not for this waypoint): with a workloadSelector it is for sidecars"],
        ),
        (
            rule("r", "host: '*.default.svc.cluster.local'") + &rule("s", "host: web") + &rule("t", "host: api"),
            &[own, "for api.default.svc.cluster.local the DestinationRule default/t holds"],
        ),
        (
            "{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {name: r, namespace: plain}, spec: {host: web.default.svc.cluster.local}}".to_owned(),
            &["DestinationRule plain/r (no effect): ", "rules of namespace plain don't hold"],
        ),
        (
            policy("retryBudget: {}") + &rule("s", "host: web, trafficPolicy: {retryBudget: {}}"),
            &["DestinationRule default/s (no effect): spec.trafficPolicy: that of default/r stands"],
        ),
        (
            rule("r", "host: web, subsets: [{name: a, labels: {app: web}}]")
                + &rule("s", "host: web, subsets: [{name: a, labels: {app: web}}]"),
            &["DestinationRule default/s (no effect): spec.subsets[0]: the subset \"a\" is that of default/r"],
        ),
        (
            rule("r", "host: web, subsets: [{name: v2, labels: {version: v2}}]"),
            &[own, "spec.subsets[0].labels: no endpoint is in the subset \"v2\""],
        ),
    ]);
}

#[test]
fn settings_that_say_nothing() {
    let cases: &[(&str, &str, &str)] = &[
        (
            "tunnel: {targetHost: a.test, targetPort: 1}",
            "tunnel",
            "sidecars",
        ),
        (
            "loadBalancer: {simple: RANDOM, warmup: {duration: 1s}}",
            "loadBalancer.warmup",
            "only LEAST_REQUEST",
        ),
        (
            "loadBalancer: {consistentHash: {ringHash: {}}}",
            "loadBalancer.consistentHash",
            "nothing to hash by",
        ),
        (
            "loadBalancer: {zoneAwareLbSetting: {}}",
            "loadBalancer.zoneAwareLbSetting",
            "sidecars",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}",
            "loadBalancer.localityLbSetting",
            "without outlierDetection",
        ),
        (
            "loadBalancer: {localityLbSetting: {failover: [{from: a, to: b}]}}, outlierDetection: {}",
            "loadBalancer.localityLbSetting",
            "isn't known",
        ),
        (
            "loadBalancer: {localityLbSetting: {distribute: [{from: a, to: {b: 100}}]}}",
            "loadBalancer.localityLbSetting.distribute",
            "isn't known",
        ),
        (
            "connectionPool: {http: {maxConcurrentStreams: 1}}",
            "connectionPool.http.maxConcurrentStreams",
            "HTTP/2",
        ),
        (
            "connectionPool: {http: {h2UpgradePolicy: UPGRADE, http2KeepAlive: {interval: 1s, timeout: 1s}}}",
            "connectionPool.http.http2KeepAlive",
            "h2UpgradePolicy",
        ),
        (
            "outlierDetection: {consecutiveErrors: 1}",
            "outlierDetection.consecutiveErrors",
            "consecutive5xxErrors",
        ),
        (
            "outlierDetection: {outlierDetectionHttpErrorCodes: [500]}",
            "outlierDetection.outlierDetectionHttpErrorCodes",
            "sidecars",
        ),
        (
            "portLevelSettings: [{port: {number: 82}, loadBalancer: {simple: RANDOM}}]",
            "portLevelSettings[0].port",
            "has the port 82",
        ),
        (
            "portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}, {port: {number: 80}, loadBalancer: {simple: RANDOM}}]",
            "portLevelSettings[1].port",
            "stand above it",
        ),
    ];
    for (spec, field, reason) in cases {
        let begins = format!("DestinationRule default/r (no effect): spec.trafficPolicy.{field}: ");
        check(&[(policy(spec), &[&begins, reason])]);
    }
    let own = "DestinationRule default/r (no effect): spec.trafficPolicy: ";
    let by_header = "loadBalancer: {consistentHash: {httpHeaderName: x-user}}";
    check(&[
        (
            policy(by_header),
            &[
                own,
                "port 81 of web.default.svc.cluster.local carries no HTTP",
            ],
        ),
        (
            policy(&format!(
                "portLevelSettings: [{{port: {{number: 80}}, {by_header}}}]"
            )),
            &[
                own,
                "the default route of web.default.svc.cluster.local looks at",
            ],
        ),
    ]);
    let sidecars = "DestinationRule (not for this waypoint): tls.mode ISTIO_MUTUAL is for sidecars";
    check(&[(policy("tls: {mode: ISTIO_MUTUAL}"), &[sidecars])]);
}
