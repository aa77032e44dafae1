//! Services, pods and endpoints that nobody reaches.

use super::*;

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

/// What the waypoint's namespace isn't to know of is neither served nor sent to.
#[test]
fn services_that_are_for_others_to_see() {
    let mesh = "{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{defaultServiceExportTo: [.]}'}}\n---\n";
    let far = |meta: &str| {
        format!(
            "{{apiVersion: v1, kind: Service, metadata: {{name: far, namespace: plain{meta}}}, spec: {{clusterIP: 10.0.0.9, {PORTS}}}}}\n---\n"
        )
    };
    let own = ", annotations: {networking.istio.io/exportTo: .}";
    let all = ", annotations: {networking.istio.io/exportTo: '*'}";
    let to_far = ", rules: [{backendRefs: [{name: far, namespace: plain, port: 80}]}]";
    let routed = |service: &str| format!("{service}{}", route(&format!("{{{TO_WEB}}}"), to_far));
    let virtual_service = |service: &str| {
        format!(
            "{service}{{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {{name: v}}, spec: {{hosts: [web.default.svc.cluster.local], http: [{{route: [{{destination: {{host: far.plain.svc.cluster.local}}}}]}}]}}}}\n---\n"
        )
    };
    let hidden = "Service plain/far is not exported to namespace default, where the waypoint is";
    for (manifests, place) in [
        (
            routed(&far(own)),
            "HTTPRoute default/r (no effect): spec.rules[0].backendRefs[0]: ",
        ),
        (virtual_service(&far(own)), "VirtualService default/v "),
        (
            format!("{mesh}{}", routed(&far(""))),
            "HTTPRoute default/r ",
        ),
    ] {
        let lines = told(&manifests);
        let line = lines.iter().find(|line| line.starts_with(place));
        assert!(line.is_some_and(|line| line.contains(hidden)), "{lines:#?}");
    }
    for seen in [routed(&far("")), routed(&format!("{mesh}{}", far(all)))] {
        let lines = told(&seen);
        assert!(
            !lines.iter().any(|line| line.contains(hidden)),
            "{lines:#?}"
        );
    }
    let nobody = "Service default/web (no effect): defaultServiceExportTo of MeshConfig doesn't let namespace default see it";
    let lines = told(&mesh.replace("[.]", "[plain]"));
    assert!(
        lines.iter().any(|line| line.starts_with(nobody)),
        "{lines:#?}"
    );
}
