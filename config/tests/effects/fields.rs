//! Fields, labels and annotations that are read by somebody, and by a waypoint not.

use super::{BASE, PORTS, RULES, TO_WEB, check, route, service, told};

fn entry(meta: &str, spec: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {{name: out{meta}}}, spec: {{hosts: [out.test], addresses: [10.0.0.9], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], {spec}}}}}\n---\n"
    )
}

const ENDPOINTS: &str = "endpoints: [{address: 192.0.2.1}]";
const NEAR: &str = ", annotations: {networking.istio.io/traffic-distribution: PreferClose}";

#[test]
fn fields_of_service_entries() {
    assert_eq!(told(&entry("", ENDPOINTS)), Vec::<String>::new());
    let own = "ServiceEntry default/out (no effect): spec.endpoints[0].";
    let left_out = "ServiceEntry default/out (not honoured): spec.endpoints[1].";
    check(&[
        (
            entry("", &format!("location: MESH_EXTERNAL, {ENDPOINTS}")),
            &[
                "ServiceEntry (not for this waypoint): spec.location",
                ": default/out",
            ],
        ),
        (
            entry("", "endpoints: [{address: 192.0.2.1, serviceAccount: vm}]"),
            &[own, "serviceAccount: ", "nobody asks for its identity"],
        ),
        (
            entry("", "endpoints: [{address: 192.0.2.1, network: far}]"),
            &[
                "ServiceEntry default/out (not honoured): spec.endpoints[0].network: ",
                "its own address",
            ],
        ),
        (
            entry("", "endpoints: [{address: 192.0.2.1}, {network: far}]"),
            &[left_out, "without an address"],
        ),
        (
            entry(
                "",
                "endpoints: [{address: 192.0.2.1}, {address: 'unix:///run/a.sock'}]",
            ),
            &[left_out, "unix:///run/a.sock"],
        ),
        (
            entry(
                "",
                "endpoints: [{address: 192.0.2.1}, {address: 192.0.2.2, labels: {istio.io/draining: 'true'}}]",
            ),
            &[
                "ServiceEntry (not for this waypoint): ",
                "istio.io/draining",
                ": default/out endpoints[1]",
            ],
        ),
    ]);
}

#[test]
fn traffic_distribution_wherever_it_is_asked_for() {
    let field = "metadata.annotations[networking.istio.io/traffic-distribution]: ";
    let clear = format!("clusterIP: 10.0.0.9, {PORTS}");
    let unknown = "where the waypoint runs isn't known";
    check(&[
        (
            service(
                "s",
                "",
                &format!("trafficDistribution: PreferClose, {clear}"),
            ),
            &[
                "Service default/s (no effect): spec.trafficDistribution: ",
                unknown,
            ],
        ),
        (
            service("s", NEAR, &clear),
            &["Service default/s (no effect): ", field, unknown],
        ),
        (
            entry(NEAR, ENDPOINTS),
            &["ServiceEntry default/out (no effect): ", field, unknown],
        ),
        (
            service("s", "", &format!("internalTrafficPolicy: Local, {clear}")),
            &[
                "Service default/s (no effect): spec.internalTrafficPolicy: ",
                unknown,
            ],
        ),
        (
            service(
                "s",
                ", annotations: {networking.istio.io/traffic-distribution: Nearest}",
                &clear,
            ),
            &[
                "Service default/s (no effect): ",
                field,
                "\"Nearest\" is none of ",
            ],
        ),
        (
            service(
                "s",
                ", labels: {networking.istio.io/traffic-distribution: PreferClose}",
                &clear,
            ),
            &[
                "Service default/s (no effect): ",
                "metadata.labels[",
                "is an annotation, not a label",
            ],
        ),
    ]);
    let namespace = format!(
        "{{apiVersion: v1, kind: Namespace, metadata: {{name: default, labels: {{istio.io/use-waypoint: waypoint}}{NEAR}}}}}\n---\n"
    );
    let lines = told(&namespace);
    let about = |line: &&String| line.contains(field);
    let about: Vec<_> = lines.iter().filter(about).collect();
    assert_eq!(about.len(), 1, "{lines:#?}");
    assert!(
        about[0].starts_with("Namespace default (no effect): "),
        "{lines:#?}"
    );
    // Of a namespace of others it is not said.
    let plain =
        format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: plain{NEAR}}}}}\n---\n");
    let lines = told(&plain);
    assert!(!lines.iter().any(|line| line.contains(field)), "{lines:#?}");
}

#[test]
fn fields_of_services() {
    let clear = format!("clusterIP: 10.0.0.9, {PORTS}");
    let outside = "Service (not for this waypoint): spec.";
    check(&[
        (
            service("s", "", &format!("externalIPs: [192.0.2.7], {clear}")),
            &[
                outside,
                "externalIPs",
                "pass the waypoint by",
                ": default/s",
            ],
        ),
        (
            service(
                "s",
                "",
                &format!("type: LoadBalancer, loadBalancerSourceRanges: [192.0.2.0/24], {clear}"),
            ),
            &[outside, "loadBalancerSourceRanges", ": default/s"],
        ),
        (
            service(
                "s",
                ", annotations: {networking.istio.io/exportTo: other}",
                &clear,
            ),
            &[
                "Service default/s (no effect): metadata.annotations[networking.istio.io/exportTo]: ",
                "doesn't let namespace default see it",
            ],
        ),
        (
            service(
                "s",
                "",
                "clusterIP: 10.0.0.9, publishNotReadyAddresses: true, ports: [{name: http, port: 80}]",
            ) + "{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: x, labels: {kubernetes.io/service-name: s}}, addressType: IPv4, ports: [{name: http, port: 1}], endpoints: [{addresses: [10.1.0.8]}, {addresses: [10.1.0.9], conditions: {ready: false, terminating: false}}]}\n---\n",
            &[
                "Service default/s (no effect): spec.publishNotReadyAddresses: ",
                "EndpointSlices",
            ],
        ),
    ]);
}

#[test]
fn default_gateways_are_nobody_in_a_mesh() {
    let field = "HTTPRoute default/r (no effect): spec.useDefaultGateways: ";
    let asks = |what: &str| format!(", useDefaultGateways: {what}{RULES}");
    check(&[
        (
            route(&format!("{{{TO_WEB}}}"), &asks("All")),
            &[field, "a route is attached by parentRefs"],
        ),
        (route("", &asks("All")), &[field]),
    ]);
    assert_eq!(
        told(&route(&format!("{{{TO_WEB}}}"), &asks("None"))),
        Vec::<String>::new()
    );
}

#[test]
fn fields_of_the_gateway() {
    let gateway = |spec: &str, listener: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {{name: waypoint}}, spec: {{gatewayClassName: istio-waypoint{spec}, listeners: [{{name: mesh, port: 15008, protocol: HBONE{listener}}}]}}}}\n---\n"
        )
    };
    for (spec, listener, begins) in [
        (
            ", addresses: [{value: 192.0.2.1}]",
            "",
            "Gateway (not for this waypoint): spec.addresses",
        ),
        (
            ", infrastructure: {labels: {a: b}}",
            "",
            "Gateway (not for this waypoint): spec.infrastructure",
        ),
        (
            ", defaultScope: All",
            "",
            "Gateway default/waypoint (no effect): spec.defaultScope: ",
        ),
        (
            ", allowedListeners: {namespaces: {from: All}}",
            "",
            "Gateway default/waypoint (no effect): spec.allowedListeners: ",
        ),
        (
            ", tls: {backend: {clientCertificateRef: {name: c}}}",
            "",
            "Gateway default/waypoint (no effect): spec.tls: ",
        ),
        (
            "",
            ", hostname: a.test",
            "Gateway default/waypoint (no effect): spec.listeners[0].hostname: ",
        ),
        (
            "",
            ", tls: {mode: Passthrough}",
            "Gateway default/waypoint (no effect): spec.listeners[0].tls: ",
        ),
        (
            "",
            ", allowedRoutes: {kinds: [{kind: GRPCRoute}]}",
            "Gateway default/waypoint (no effect): spec.listeners[0].allowedRoutes.kinds: ",
        ),
    ] {
        let lines = told(&gateway(spec, listener));
        // The one in the base is replaced, which is told, too.
        let others = |line: &&String| !line.contains("replaced by");
        let others: Vec<_> = lines.iter().filter(others).collect();
        assert_eq!(others.len(), 1, "{spec}{listener}: {lines:#?}");
        assert!(
            others[0].starts_with(begins),
            "{begins:?} in {:?}",
            others[0]
        );
    }
}

#[test]
fn conditions_that_say_nothing_beside_ready() {
    let slice = |service: &str, conditions: &str| {
        format!(
            "{{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {{name: x, labels: {{kubernetes.io/service-name: {service}}}}}, addressType: IPv4, ports: [{{name: http, port: 1}}], endpoints: [{{addresses: [10.1.0.8]}}, {{addresses: [10.1.0.9], conditions: {{{conditions}}}}}]}}\n---\n"
        )
    };
    let api = "{apiVersion: v1, kind: Service, metadata: {name: late}, spec: {clusterIP: 10.0.0.9, publishNotReadyAddresses: true, ports: [{name: http, port: 80}]}}\n---\n";
    let plain = service(
        "s",
        "",
        "clusterIP: 10.0.0.9, ports: [{name: http, port: 80}]",
    );
    let field = "EndpointSlice default/x (no effect): endpoints[1].conditions.";
    check(&[
        (
            plain.clone() + &slice("s", "serving: false"),
            &[field, "serving: ", "takes requests"],
        ),
        (
            plain.clone() + &slice("s", "ready: true, terminating: true"),
            &[field, "terminating: ", "takes requests"],
        ),
        (
            plain.clone() + &slice("s", "ready: false, serving: true, terminating: true"),
            &[
                "EndpointSlice (not for this waypoint): ",
                "serve until they have ended",
                ": default/x",
            ],
        ),
    ]);
    for more in [
        plain.clone() + &slice("s", "ready: true, serving: true, terminating: false"),
        plain.clone() + &slice("s", "ready: false, serving: false, terminating: true"),
        plain.clone() + &slice("s", "ready: false, serving: false, terminating: false"),
        // What the controller writes where readiness doesn't count.
        api.to_owned() + &slice("late", "ready: true, serving: false, terminating: true"),
    ] {
        assert_eq!(told(&more), Vec::<String>::new(), "{more}");
    }
}

#[test]
fn settings_of_the_mesh() {
    let mesh = |text: &str| {
        format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{defaultProviders: {{metrics: [prometheus]}}, {text}}}'}}}}\n---\n"
        )
    };
    let of = |what: &str| format!("ConfigMap istio-system/istio ({what}): data.mesh.");
    let (not_honoured, no_effect) = (of("not honoured"), of("no effect"));
    let quiet = "ConfigMap (not for this waypoint): settings of other parts of the mesh: ";
    check(&[
        (
            mesh("localityLbSetting: {distribute: [{from: r/a, to: {r/b: 100}}]}"),
            &[
                &no_effect,
                "localityLbSetting.distribute: where the waypoint runs isn't known",
            ],
        ),
        (
            mesh("zoneAwareLbSetting: {enabled: true}"),
            &[
                "ConfigMap (not for this waypoint): is for sidecars",
                ": istio-system/istio zoneAwareLbSetting",
            ],
        ),
        (
            mesh("discoverySelectors: [{matchLabels: {a: b}}]"),
            &[&not_honoured, "discoverySelectors: "],
        ),
        (
            mesh("defaultConfig: {tracing: {sampling: 5, datadog: {address: b}}}"),
            &[&not_honoured, "defaultConfig.tracing.datadog: "],
        ),
        (
            mesh("defaultConfig: {drainDuraton: 5s}"),
            &[
                &no_effect,
                "defaultConfig.drainDuraton: ",
                "is \"drainDuration\" meant?",
            ],
        ),
        (
            mesh(
                "ingressClass: istio, enablePrometheusMerge: true, defaultConfig: {drainDuration: 5s}",
            ),
            &[
                quiet,
                "istio-system/istio defaultConfig.drainDuration, istio-system/istio enablePrometheusMerge, istio-system/istio ingressClass",
            ],
        ),
        (
            mesh("meshMTLS: {minProtocolVersion: TLSV1_3}"),
            &[quiet, ": istio-system/istio meshMTLS"],
        ),
        (
            mesh("accessLogFormat: x"),
            &[
                &no_effect,
                "accessLogFormat: without accessLogFile, or a Telemetry, no access log is written",
            ],
        ),
        (
            mesh("serviceEntryVisibility: {defaultVisibility: NAMESPACE}"),
            &[&of("not honoured"), "serviceEntryVisibility: "],
        ),
        (
            mesh("inboundClusterStatName: x_%SERVICE%"),
            &[&of("not honoured"), "inboundClusterStatName: "],
        ),
        (
            mesh("tlsDefaults: {cipherSuits: [a]}"),
            &[
                &no_effect,
                "tlsDefaults.cipherSuits: ",
                "is \"cipherSuites\" meant?",
            ],
        ),
        (
            mesh("tlsDefaults: {ecdhCurves: [P-521]}"),
            &[
                &of("closed what it targets"),
                "tlsDefaults.ecdhCurves: ",
                "\"P-521\" is not spoken",
            ],
        ),
    ]);
    let plain = mesh(
        "enableAutoMtls: false, trustDomain: cluster.local, defaultConfig: {tracing: {sampling: 5}}",
    );
    assert_eq!(told(&plain), Vec::<String>::new());
}

#[test]
fn classes_that_say_nothing() {
    let class = |name: &str| {
        format!(
            "{{apiVersion: gateway.networking.k8s.io/v1, kind: GatewayClass, metadata: {{name: {name}}}, spec: {{controllerName: istio.io/mesh-controller}}}}\n---\n"
        )
    };
    assert_eq!(told(&class("istio-waypoint")), Vec::<String>::new());
    check(&[(
        class("istio"),
        &["GatewayClass (not for this waypoint): not the class of this waypoint: istio"],
    )]);
}

#[test]
fn pods_that_drain_take_nothing() {
    let pod = "{apiVersion: v1, kind: Pod, metadata: {name: two, labels: {app: web, istio.io/draining: 'true'}}, spec: {containers: [{ports: [{name: in, containerPort: 8080}]}]}, status: {podIP: 10.1.0.2, conditions: [{type: Ready, status: 'True'}]}}\n---\n";
    check(&[(
        pod.to_owned(),
        &[
            "Pod (not for this waypoint): ",
            "istio.io/draining",
            ": default/two",
        ],
    )]);
    assert!(!BASE.contains("draining"));
}

#[test]
fn workload_entries_and_who_selects_them() {
    let machine = |name: &str, labels: &str, address: &str| {
        format!(
            "{{apiVersion: networking.istio.io/v1, kind: WorkloadEntry, metadata: {{name: {name}}}, spec: {{address: {address}, labels: {{{labels}}}}}}}\n---\n"
        )
    };
    let selecting = entry("", "workloadSelector: {labels: {app: vm}}");
    let lines = told(&(selecting.clone() + &machine("vm", "app: vm", "192.0.2.1")));
    assert_eq!(lines, Vec::<String>::new());
    let of_service = told(&machine("vm", "app: web", "192.0.2.1"));
    assert_eq!(of_service, Vec::<String>::new());
    check(&[
        (
            selecting.clone(),
            &[
                "ServiceEntry default/out (no effect): spec.ports[0]: ",
                "selects no WorkloadEntry",
            ],
        ),
        (
            machine("vm", "app: vm", "192.0.2.1"),
            &["WorkloadEntry (not for this waypoint): nothing of this waypoint selects it"],
        ),
        (
            machine("vm", "app: web", "vm.test"),
            &[
                "WorkloadEntry default/vm (no effect): spec.address: vm.test is no IP address: as an endpoint of a Service it must be",
            ],
        ),
        (
            machine("vm", "app: web", "192.0.2.1").replace("address:", "network: far, address:"),
            &["WorkloadEntry default/vm (not honoured): spec.network: "],
        ),
        (
            selecting + &machine("vm", "app: vm", "192.0.2.1") + &machine("b", "app: vm", "b.test"),
            &["WorkloadEntry default/b (no effect): spec.address: b.test is no IP address"],
        ),
        (
            entry("", &format!("exportTo: [plain], {ENDPOINTS}")),
            &[
                "ServiceEntry default/out (no effect): spec.exportTo: doesn't let namespace default see it",
            ],
        ),
    ]);
}
