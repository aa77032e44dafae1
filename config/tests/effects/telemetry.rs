//! Telemetry that says nothing here, and providers that nobody uses or that can't be told anything.

use super::{check, told};

const MESH: &str = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{defaultProviders: {metrics: [prometheus]}, extensionProviders: [{name: log, envoyOtelAls: {service: api.default.svc.cluster.local, port: 80}}, {name: spans, zipkin: {service: api.default.svc.cluster.local, port: 80}}]}'}}\n---\n";
const USES: &str =
    "accessLogging: [{providers: [{name: log}]}], tracing: [{providers: [{name: spans}]}]";
const WEB: &str = "targetRefs: [{group: '', kind: Service, name: web}], ";

fn telemetry(meta: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{{meta}}}, spec: {{{spec}}}}}\n---\n"
    )
}

/// All providers are used.
fn used(spec: &str) -> String {
    let own = telemetry("name: uses", USES);
    MESH.to_owned() + &own + &telemetry("name: t", &format!("{WEB}{spec}"))
}

#[test]
fn whom_it_is_not_for() {
    check(&[
        (
            telemetry("name: t", "selector: {matchLabels: {a: b}}"),
            &["Telemetry (not for this waypoint): with a selector"],
        ),
        (
            telemetry("name: t, namespace: plain", ""),
            &["Telemetry (not for this waypoint): for a namespace that has no service here"],
        ),
        (
            telemetry("name: a", "") + &telemetry("name: b", ""),
            &[
                "Telemetry default/b (no effect): spec: ",
                "the oldest counts, and that is default/a",
            ],
        ),
        (
            telemetry(
                "name: t",
                "targetRef: {group: '', kind: Service, name: wep}",
            ),
            &[
                "Telemetry default/t (no effect): spec.targetRef: no Service default/wep",
                "is \"web\" meant?",
            ],
        ),
        (
            telemetry(
                "name: t, namespace: istio-system",
                "targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}]",
            ),
            &[
                "Telemetry istio-system/t (no effect): spec.targetRefs[0]: a Telemetry with targets is looked for in the namespaces of services",
            ],
        ),
    ]);
    for quiet in [telemetry("name: t", ""), telemetry("name: t", WEB)] {
        assert_eq!(told(&quiet), Vec::<String>::new(), "{quiet}");
    }
}

#[test]
fn providers_that_do_nothing() {
    let begins = "Telemetry default/t (no effect): spec.";
    assert_eq!(told(&used("")), Vec::<String>::new());
    // Case says nothing in names.
    assert_eq!(
        told(&used("tracing: [{providers: [{name: SPANS}]}]")),
        Vec::<String>::new()
    );
    check(&[
        (
            used("").replace("zipkin: {service: api", "zipkin: {service: gone"),
            &[
                "ConfigMap istio-system/istio (no effect): data.mesh.extensionProviders[1].zipkin: no Service",
                "nothing is sent to it",
            ],
        ),
        (
            MESH.to_owned(),
            &[
                "ConfigMap (not for this waypoint): extension providers that no telemetry of this waypoint names: istio-system/istio log, istio-system/istio spans",
            ],
        ),
        (
            used("accessLogging: [{providers: [{name: lok}]}]"),
            &[
                begins,
                "accessLogging[0].providers[0]: MeshConfig has no provider \"lok\"; is \"log\" meant?",
            ],
        ),
        (
            used("metrics: [{providers: [{name: log}]}]"),
            &[
                begins,
                "metrics[0].providers[0]: log is a provider envoyOtelAls, which is for logs, not for metrics",
            ],
        ),
        (
            used("tracing: [{providers: [{name: spans}, {name: spans}]}]"),
            &[
                begins,
                "tracing[0].providers[1]: spans are sent to the first",
            ],
        ),
        (
            MESH.replace("metrics: [prometheus]", "tracing: [log]")
                + &telemetry("name: uses", USES),
            &[
                "ConfigMap istio-system/istio (no effect): data.mesh.defaultProviders.tracing: log is a provider envoyOtelAls",
            ],
        ),
    ]);
}

#[test]
fn a_clients_view_is_no_waypoints() {
    let begins = "Telemetry default/t (no effect): spec.";
    for (spec, field) in [
        (
            "metrics: [{overrides: [{match: {mode: CLIENT}}]}]",
            "metrics[0].overrides[0].match.mode: CLIENT",
        ),
        (
            "accessLogging: [{match: {mode: CLIENT}}]",
            "accessLogging[0].match.mode: CLIENT",
        ),
        (
            "tracing: [{match: {mode: CLIENT}}]",
            "tracing[0].match.mode: CLIENT",
        ),
    ] {
        check(&[(telemetry("name: t", spec), &[begins, field])]);
    }
}
