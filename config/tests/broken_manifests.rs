//! Broken manifests, thousands of them: the reader refuses or translates and never panics.

#![allow(clippy::unwrap_used)]

use std::path::Path;

use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::ownership;
use waypoint_config::standalone::translate::translate;

/// What people write by hand and no recording has.
const BY_HAND: &str = "
{apiVersion: v1, kind: Service, metadata: {name: old}, spec: {type: ClusterIP, clusterIPs: [10.9.0.1, 'fd00::1'], ipFamilies: [IPv4, IPv6], ports: [{name: u, port: 53, protocol: UDP, targetPort: dns}, {name: t, port: 53.0, targetPort: ''}]}}
---
{apiVersion: v1, kind: Endpoints, metadata: {name: old}, subsets: [{addresses: [{ip: 10.1.0.1}], notReadyAddresses: [{ip: 10.1.0.2}], ports: [{name: t, port: 1}]}]}
---
{apiVersion: v1, kind: Pod, metadata: {name: p, labels: {app: a}}, spec: {hostNetwork: true, serviceAccount: a, initContainers: [{restartPolicy: Always, ports: [{name: in, containerPort: 1}]}]}, status: {podIPs: [{ip: 10.1.0.3}]}}
---
{apiVersion: networking.istio.io/v1, kind: ServiceEntry, metadata: {name: e}, spec: {hosts: [a.test], exportTo: ['.'], resolution: STATIC, ports: [{number: 80, name: http}], endpoints: [{address: 10.1.0.4, ports: {http: 1}}]}, status: {addresses: [{host: a.test, value: 240.240.0.1}]}}
---
{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {name: r}, spec: {hostnames: [a.test], parentRefs: [{kind: Service, name: old}, {group: '', kind: Service, name: old, port: 53}], rules: [{matches: [{path: {value: /a}}, {path: {value: /a}}], backendRefs: [{name: old, port: 1}]}, {backendRefs: [{name: gone, port: 1}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: v}, spec: {hosts: [old, '*.test'], gateways: [mesh, a/b], exportTo: ['.'], http: [{match: [{uri: {prefix: /a}, ignoreUriCase: true, headers: {x: {regex: a+}}, withoutHeaders: {z: {}}, port: 53}, {sourceNamespace: default}], delegate: {name: w}}, {route: [{destination: {host: old, subset: a, port: {number: 1}}, weight: 1, headers: {request: {set: {host: b}}}}, {destination: {host: gone}, weight: 2}], mirrors: [{destination: {host: old}, percentage: {value: 1.5}}], fault: {delay: {fixedDelay: 1s, percent: 5}, abort: {grpcStatus: OK}}, retries: {attempts: 1, retryOn: 5xx}, corsPolicy: {allowOrigins: [{prefix: a}], maxAge: 1s}, timeout: 1s}], tcp: [{match: [{port: 53, destinationSubnets: [10.0.0.0/8]}], route: [{destination: {host: old}}]}], tls: [{match: [{sniHosts: [a.test]}], route: [{destination: {host: old}}]}]}}
---
{apiVersion: networking.istio.io/v1, kind: VirtualService, metadata: {name: w}, spec: {http: [{match: [{uri: {exact: /a/b}}], redirect: {uri: /c, derivePort: FROM_REQUEST_PORT}}, {directResponse: {status: 200, body: {bytes: aGk=}}}]}}
---
{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {targetRefs: [{group: '', kind: Service, name: old}, {group: '', kind: Service, name: gone}], rules: [{}]}}
---
{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: t}, spec: {targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: waypoint}, jwtRules: [{jwks_uri: 'http://[::1]:80/x?y', timeout: 1s}, {issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\", \"k\": \"a\"}]}', fromHeaders: [{name: a, prefix: b}], outputClaimToHeaders: [{header: a, claim: b.c}], spaceDelimitedClaims: [d]}]}}
---
{apiVersion: v1, kind: ConfigMap, metadata: {name: istio, namespace: istio-system}, data: {mesh: '{extensionProviders: [{name: h, envoyExtAuthzHttp: {service: default/old.default.svc.cluster.local, port: 53, headersToUpstreamOnAllow: [x-*]}}, {name: z, zipkin: {service: z.test, port: 9411}}]}'}}
";

/// A small generator, so that a failure can be repeated by its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) as usize % bound.max(1)
    }
}

/// Replaces some words of the text by others that Kubernetes would trip over.
fn damage(text: &str, random: &mut Random) -> String {
    const WORDS: &[&str] = &[
        "y",
        "null",
        "[]",
        "{}",
        "-1",
        "65536",
        "\"\"",
        "'*'",
        "1.5",
        "/",
        "//",
        "x: y",
        "[[]]",
        "10.0.0.0/33",
        "\u{0}",
        "\u{e9}",
        "&a",
        "*a",
        "!!binary",
        "0x7fffffffffffffff",
        "1e400",
        "- ",
        "|",
        "\t",
    ];
    let mut damaged = text.to_owned();
    for _ in 0..=random.below(3) {
        let mut words: Vec<&str> = damaged
            .split_inclusive([' ', '\n', ',', '{', '}', '[', ']', ':'])
            .collect();
        let at = random.below(words.len());
        if random.below(4) == 0 {
            words.remove(at);
        } else if let Some(word) = words.get_mut(at) {
            *word = WORDS[random.below(WORDS.len())];
        }
        damaged = words.concat();
    }
    damaged
}

#[test]
fn never_panics() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
    let base = documents(Path::new("base.yaml"), &read("bookinfo.yaml")).unwrap();
    let scenarios = [
        "authorization",
        "dual-stack",
        "egress",
        "httproute",
        "jwt",
        "mesh-defaults",
        "ports",
        "traffic-policy",
    ];
    let (mut refused, mut translated) = (0, 0);
    let texts = scenarios.map(|scenario| read(&format!("{scenario}.yaml")));
    for text in texts.into_iter().chain([BY_HAND.to_owned()]) {
        for seed in 0..400 {
            let damaged = damage(&text, &mut Random(seed));
            let Ok(more) = documents(Path::new("a.yaml"), &damaged) else {
                refused += 1;
                continue;
            };
            let Ok(state) = ClusterState::read(base.iter().cloned().chain(more).collect()) else {
                refused += 1;
                continue;
            };
            let gateway = ownership::choose(&state, None).unwrap();
            if translate(&state, gateway, None).is_ok() {
                translated += 1;
            }
        }
    }
    assert!(
        refused > 100 && translated > 100,
        "{refused} refused, {translated} translated"
    );
}
