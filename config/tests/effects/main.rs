//! Nothing that is read is without effect in silence: one table of what people write, and what is told of it.

#![allow(clippy::unwrap_used)]

mod backend_policies;
mod destination_rules;
mod fields;
mod grpc_routes;
mod kinds;
mod policies;
mod routes;
mod services;
mod statuses;
mod stream_routes;
mod telemetry;
mod tokens;
mod virtual_services;

use std::path::Path;

use waypoint_config::standalone::ObjectName;
use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::ownership;
use waypoint_config::standalone::translate::{Translation, translate};

/// A mesh of which everything has an effect.
const BASE: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: plain}}
---
{apiVersion: v1, kind: Pod, metadata: {name: one, labels: {app: web}}, spec: {containers: [{ports: [{name: in, containerPort: 8080}]}]}, status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.0.0.1, selector: {app: web}, ports: [{name: http, port: 80, targetPort: in}, {name: tcp, port: 81}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: api}, spec: {clusterIP: 10.0.0.2, selector: {app: web}, ports: [{name: http, port: 80}]}}
---
";

fn translated(more: &str) -> Translation {
    let text = format!("{BASE}{more}\n");
    let state = ClusterState::read(documents(Path::new("a.yaml"), &text).unwrap()).unwrap();
    let own = ObjectName::new("default", "waypoint");
    let gateway = ownership::choose(&state, Some(&own)).unwrap();
    translate(&state, gateway, None).unwrap()
}

/// Problems and asides as lines, less the file.
fn told(more: &str) -> Vec<String> {
    let found = translated(more);
    let problems = found.problems.iter().map(ToString::to_string);
    let asides = found.asides.iter().map(ToString::to_string);
    let lines = problems
        .chain(asides)
        .map(|line| match line.split_once(": ") {
            Some((place, rest)) if place.starts_with("a.yaml document") => rest.to_owned(),
            _ => line,
        });
    lines.collect()
}

fn route(parent: &str, rules: &str) -> String {
    named_route("r", "", parent, rules)
}

fn named_route(name: &str, meta: &str, parent: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}{meta}}}, spec: {{parentRefs: [{parent}]{rules}}}}}\n---\n"
    )
}

fn policy(meta: &str, target: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p{meta}}}, spec: {{targetRefs: [{target}], rules: [{{}}]}}}}\n---\n"
    )
}

fn service(name: &str, meta: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: {name}{meta}}}, spec: {{{spec}}}}}\n---\n"
    )
}

const TO_WEB: &str = "group: '', kind: Service, name: web";
const RULES: &str = ", rules: [{backendRefs: [{name: api, port: 80}]}]";
const PORTS: &str = "selector: {app: web}, ports: [{name: http, port: 80}]";

/// Each case is told of in one line with these parts, and nothing else is.
fn check(cases: &[(String, &[&str])]) {
    for (more, parts) in cases {
        let lines = told(more);
        assert_eq!(lines.len(), 1, "{more}\n{lines:#?}");
        for part in *parts {
            assert!(lines[0].contains(part), "{part:?} in {:?}", lines[0]);
        }
    }
}

#[test]
fn what_has_an_effect_is_not_told() {
    for more in [
        String::new(),
        route(&format!("{{{TO_WEB}}}"), RULES),
        route(&format!("{{{TO_WEB}, port: 80, sectionName: http}}"), RULES),
        policy("", "{group: '', kind: Service, name: web}"),
        policy(
            "",
            "{group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}",
        ),
    ] {
        assert_eq!(told(&more), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn targets_that_hit_nothing() {
    let field = "AuthorizationPolicy default/p (no effect): spec.targetRefs[0]: ";
    check(&[
        (
            policy("", "{group: '', kind: Service, name: wep}"),
            &[field, "is \"web\" meant?"],
        ),
        (
            policy("", "{group: '', kind: Service, name: web}, {group: '', kind: Service, name: gone}"),
            &["spec.targetRefs[1]: ", "no Service default/gone"],
        ),
        (
            policy("", "{group: gateway.networking.k8s.io, kind: Gateway, name: waypont}"),
            &[field, "is \"waypoint\" meant?"],
        ),
        (
            policy("", "{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}"),
            &[field, "\"istio-system\", the root namespace"],
        ),
        (
            "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: jwt}, spec: {targetRefs: [{group: '', kind: Service, name: wep}]}}".to_owned(),
            &["RequestAuthentication default/jwt (no effect): spec.targetRefs[0]: ", "is \"web\" meant?"],
        ),
    ]);
    let lines = told(
        &(service("far", ", namespace: plain", PORTS)
            + &policy(
                ", namespace: plain",
                "{group: '', kind: Service, name: far}",
            )),
    );
    assert!(
        lines[0].contains("Service plain/far doesn't use this waypoint"),
        "{lines:#?}"
    );
}

#[test]
fn labels_that_lead_nowhere() {
    let namespace = |name: &str, meta: &str| {
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}, {meta}}}}}\n---\n")
    };
    let clear = format!("clusterIP: 10.0.0.9, {PORTS}");
    check(&[
        (
            namespace("shop", "labels: {istio.io/use-waypoint: waypoint}"),
            &["Namespace shop (no effect): metadata.labels[istio.io/use-waypoint]: no Gateway shop/waypoint"],
        ),
        (
            namespace(
                "shop",
                "labels: {istio.io/use-waypoint: waypoint, istio.io/use-waypoint-namespace: default}",
            ),
            &["Namespace shop (no effect): ", "Gateway default/waypoint doesn't admit this namespace"],
        ),
        (
            namespace("shop", "annotations: {istio.io/use-waypoint: waypoint}"),
            &["Namespace shop (no effect): ", "is a label, not an annotation"],
        ),
        (
            namespace("shop", "labels: {istio.io/use-waypoint-namespace: default}"),
            &["Namespace shop (no effect): ", "says nothing without istio.io/use-waypoint"],
        ),
        (
            service("s", ", labels: {istio.io/use-waypoint: waypont}", &clear),
            &["Service default/s (no effect): ", "no Gateway default/waypont", "is \"waypoint\" meant?"],
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {istio.io/use-waypoint: waypoint}}, status: {podIP: 10.1.0.7}}".to_owned(),
            &["Pod default/p (no effect): ", "takes no pods without istio.io/waypoint-for"],
        ),
        (
            "{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {istio.io/use-waypoint: waypont}}, status: {podIP: 10.1.0.7}}".to_owned(),
            &["Pod default/p (no effect): ", "no Gateway default/waypont", "is \"waypoint\" meant?"],
        ),
    ]);
    let machine = "{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {name: vm, labels: {istio.io/use-waypoint: waypoint}}, spec: {address: 10.1.0.7}}";
    let lines = told(machine);
    let parts = [
        "WorkloadEntry default/vm (no effect): ",
        "takes no WorkloadEntries without istio.io/waypoint-for",
    ];
    let tells = |line: &&String| parts.iter().all(|part| line.contains(part));
    assert_eq!(lines.iter().filter(tells).count(), 1, "{lines:#?}");
}

#[test]
fn what_is_for_others_is_told_in_one_line() {
    let gateway = |name: &str, class: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: {name}, namespace: plain}}, spec: {{gatewayClassName: {class}, listeners: [{{name: m, port: 15008, protocol: HBONE}}]}}}}\n---\n"
        )
    };
    let ingress = gateway("ingress", "istio");
    let far: String = (0..3)
        .map(|n| service(&format!("far{n}"), ", namespace: plain", PORTS))
        .collect();
    let to_ingress = named_route("in", "", "{name: ingress, namespace: plain}", RULES)
        + &named_route("in2", "", "{name: ingress, namespace: plain}", RULES);
    assert_eq!(
        told(&(ingress + &far + &to_ingress)),
        [
            "Gateway (not for this waypoint): of class \"istio\": plain/ingress",
            "HTTPRoute (not for this waypoint): for Gateway plain/ingress: default/in, default/in2",
            "Service (not for this waypoint): no label istio.io/use-waypoint on it or its namespace: plain/far0, plain/far1, plain/far2",
        ]
    );
    let other = gateway("other", "istio-waypoint");
    let lines = told(
        &(other
            + &service(
                "there",
                ", namespace: plain, labels: {istio.io/use-waypoint: other}",
                PORTS,
            )
            + &named_route(
                "r",
                ", namespace: plain",
                "{group: '', kind: Service, name: there}",
                "",
            )
            + &policy(
                ", namespace: plain",
                "{group: '', kind: Service, name: there}",
            )),
    );
    assert_eq!(
        lines,
        [
            "AuthorizationPolicy (not for this waypoint): for a Service of waypoint plain/other: plain/p",
            "Gateway (not for this waypoint): another waypoint: plain/other",
            "HTTPRoute (not for this waypoint): for a Service of waypoint plain/other: plain/r",
            "Service (not for this waypoint): uses waypoint plain/other: plain/there",
        ]
    );
    check(&[
        (
            service(
                "dns",
                "",
                "clusterIP: 10.0.0.9, selector: {app: web}, ports: [{name: tcp-dns, port: 53}, {name: dns, port: 53, protocol: UDP}]",
            ),
            &["Service (not for this waypoint): a waypoint doesn't carry UDP: default/dns port 53"],
        ),
        (
            service(
                "s",
                ", labels: {istio.io/use-waypoint: none}",
                &format!("clusterIP: 10.0.0.9, {PORTS}"),
            ),
            &[
                "Service (not for this waypoint): its label istio.io/use-waypoint is none: default/s",
            ],
        ),
        (
            service("alias", "", "type: ExternalName, externalName: a.test"),
            &["Service (not for this waypoint): an alias (ExternalName)"],
        ),
        (
            service("heads", "", &format!("clusterIP: None, {PORTS}")),
            &["Service (not for this waypoint): headless: "],
        ),
    ]);
}

#[test]
fn listeners_that_a_waypoint_has_not() {
    let gateway = |listeners: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: waypoint}}, spec: {{gatewayClassName: istio-waypoint, listeners: [{listeners}]}}}}\n---\n"
        )
    };
    let told_of = |listeners: &str| {
        let lines = told(&gateway(listeners));
        // The one in the base is replaced, which is told, too.
        let about = |line: &&String| line.contains("spec.listeners");
        lines.iter().filter(about).cloned().collect::<Vec<_>>()
    };
    let hbone = "{name: mesh, port: 15008, protocol: HBONE}";
    let http = "{name: web, port: 80, protocol: HTTP}";
    assert!(told_of(hbone).is_empty());
    let lines = told_of(&format!("{hbone}, {http}"));
    assert_eq!(lines.len(), 1, "{lines:#?}");
    assert!(
        lines[0].contains("spec.listeners[1]: HTTP:80"),
        "{lines:#?}"
    );
    assert_eq!(told_of(http).len(), 2);
}
