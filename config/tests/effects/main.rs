//! Nothing that is read is without effect in silence: one table of what people write, and what is told of it.

#![allow(clippy::unwrap_used)]

mod fields;
mod kinds;
mod policies;

use std::path::Path;

use waypoint_config::standalone::ObjectName;
use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::ownership;
use waypoint_config::standalone::translate::translate;

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

/// Problems and asides as lines, less the file.
fn told(more: &str) -> Vec<String> {
    let text = format!("{BASE}{more}\n");
    let state = ClusterState::read(documents(Path::new("a.yaml"), &text).unwrap()).unwrap();
    let own = ObjectName::new("default", "waypoint");
    let gateway = ownership::choose(&state, Some(&own)).unwrap();
    let found = translate(&state, gateway, None).unwrap();
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
            &["RequestAuthentication default/jwt (no effect): spec.targetRefs: ", "is \"web\" meant?"],
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
fn services_that_nobody_reaches() {
    check(&[
        (
            service("bare", "", PORTS),
            &[
                "Service default/bare (no effect): spec.clusterIP: ",
                "neither an address nor None",
            ],
        ),
        (
            service("twin", "", &format!("clusterIP: 10.0.0.1, {PORTS}")),
            &["Service default/web (no effect): spec: ", "twin.default"],
        ),
        (
            service(
                "lost",
                "",
                "clusterIP: 10.0.0.3, selector: {app: gone}, ports: [{port: 80}]",
            ),
            &[
                "Service default/lost (no effect): spec.ports[0]: ",
                "its selector matches no pod",
            ],
        ),
        (
            service(
                "lost",
                "",
                "clusterIP: 10.0.0.3, selector: {app: web}, ports: [{port: 80, targetPort: out}]",
            ),
            &["spec.ports[0]: ", "the port that targetPort names"],
        ),
        (
            service(
                "lost",
                "",
                "clusterIP: 'fd00::1', selector: {app: web}, ports: [{port: 80}]",
            ),
            &["spec.ports[0]: ", "an address of its families"],
        ),
        (
            service("lost", "", "clusterIP: 10.0.0.3, ports: [{port: 80}]"),
            &[
                "spec.ports[0]: ",
                "no selector, and no EndpointSlice and no Endpoints",
            ],
        ),
        (
            service(
                "lost",
                "",
                "clusterIP: 10.0.0.3, ports: [{name: http, port: 80}]",
            ) + "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: lost}}, addressType: IPv4, ports: [{name: http, port: 1}], endpoints: []}",
            &["spec.ports[0]: ", "terminate or drain, or there are none"],
        ),
        (
            service(
                "v6",
                "",
                &format!("clusterIP: 10.0.0.3, sessionAffinity: ClientIP, {PORTS}"),
            ),
            &["Service default/v6 (not honoured): spec.sessionAffinity: ClientIP"],
        ),
    ]);
}

#[test]
fn pods_that_take_nothing() {
    let pod = |status: &str| {
        format!(
            "{{apiVersion: v1, kind: Pod, metadata: {{name: p, labels: {{app: lost}}}}, status: {{{status}}}}}\n---\n"
        ) + &service(
            "lost",
            "",
            "clusterIP: 10.0.0.3, selector: {app: lost}, ports: [{port: 80}]",
        )
    };
    let quiet = "Pod (not for this waypoint): ";
    for (status, reason, aside) in [
        (
            "podIP: 10.1.0.5",
            "none of its 1 endpoints is ready",
            Some("without the condition Ready"),
        ),
        (
            "podIP: 10.1.0.5, conditions: [{type: Ready, status: 'False'}]",
            "none of its 1 endpoints is ready",
            None,
        ),
        (
            "phase: Pending",
            "an address of its families",
            Some("no address (status.podIP)"),
        ),
    ] {
        let lines = told(&pod(status));
        assert!(
            lines[0].contains("Service default/lost (no effect): spec.ports[0]: "),
            "{lines:#?}"
        );
        assert!(lines[0].contains(reason), "{lines:#?}");
        let asides: Vec<_> = lines
            .iter()
            .filter(|line| line.starts_with(quiet))
            .collect();
        assert_eq!(asides.len(), usize::from(aside.is_some()), "{lines:#?}");
        if let Some(aside) = aside {
            assert!(
                asides[0].contains(aside) && asides[0].ends_with(": default/p"),
                "{lines:#?}"
            );
        }
    }
}

#[test]
fn endpoints_that_no_service_takes() {
    let slice = |labels: &str, rest: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: x, labels: {{{labels}}}}}, {rest}}}"
        )
    };
    let (of_web, of_wep) = (
        "kubernetes.io/service-name: web",
        "kubernetes.io/service-name: wep",
    );
    let v4 = "addressType: IPv4, endpoints: [{addresses: [10.1.0.9]}]";
    let of = |name: &str| {
        format!(
            "{{apiVersion: v1, kind: Endpoints, metadata: {{name: {name}}}, subsets: [{{addresses: [{{ip: 10.1.0.9}}], ports: [{{port: 1}}]}}]}}"
        )
    };
    let field = "EndpointSlice default/x (no effect): ";
    check(&[
        (
            slice("", v4),
            &[field, "without the label kubernetes.io/service-name"],
        ),
        (
            slice(of_wep, v4),
            &[field, "no Service default/wep", "is \"web\" meant?"],
        ),
        (
            slice("", "addressType: FQDN, endpoints: []"),
            &[field, "addressType: FQDN"],
        ),
        (
            of("wep"),
            &["Endpoints default/wep (no effect): no Service default/wep"],
        ),
        (
            of("web"),
            &["Endpoints default/web (no effect): ", "has a selector"],
        ),
    ]);
    let lines = told(&slice(
        of_web,
        &format!("{v4}, ports: [{{name: http2, port: 1}}]"),
    ));
    let ports = lines.iter().find(|line| line.contains(field));
    assert!(
        ports.unwrap().contains("ports: none has the name"),
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
    ]);
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
