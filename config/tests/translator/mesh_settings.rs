//! What MeshConfig says of all clusters: HTTP/2, distance, limits of what isn't the waypoint's own.

use envoy_types::pb::envoy::config::cluster::v3::cluster::common_lb_config::LocalityConfigSpecifier;
use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::tls_parameters;

use super::*;

const HTTP: &str = "inbound-vip|80|http|web.default.svc.cluster.local";

pub(crate) fn mesh(settings: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{{settings}}}'}}}}\n---\n"
    )
}

pub(crate) fn rule(policy: &str) -> String {
    format!(
        "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r}}, spec: {{host: web, trafficPolicy: {{{policy}}}}}}}\n---\n"
    )
}

pub(crate) fn cluster(found: &Translation, name: &str) -> Cluster {
    let mut all = found.resources.iter();
    let one = all.find(|one| one.kind == ResourceType::Cluster && one.name == name);
    Cluster::decode(one.unwrap().body.clone()).unwrap()
}

fn speaks_http2(found: &Translation, name: &str) -> bool {
    use envoy_types::pb::envoy::extensions::upstreams::http::v3 as http;
    use http::http_protocol_options::{
        ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
    };
    let options = cluster(found, name).typed_extension_protocol_options;
    let options = options.values().next().map(|any| {
        let options = http::HttpProtocolOptions::decode(any.value.as_slice()).unwrap();
        options.upstream_protocol_options
    });
    matches!(
        options.flatten(),
        Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_))
            }
        ))
    )
}

#[test]
fn the_mesh_upgrades_ports_that_say_http_unless_a_rule_says_otherwise() {
    let upgrade = mesh("h2UpgradePolicy: UPGRADE");
    let found = translated(&upgrade);
    let host = "web.default.svc.cluster.local";
    assert!(speaks_http2(&found, HTTP));
    for other in ["81|tcp", "82|http", "82|tcp"] {
        let name = format!("inbound-vip|{other}|{host}");
        assert!(!speaks_http2(&found, &name), "{name}");
    }
    for (policy, expected) in [
        (
            "connectionPool: {http: {h2UpgradePolicy: DO_NOT_UPGRADE}}",
            false,
        ),
        ("connectionPool: {http: {useClientProtocol: true}}", false),
        ("connectionPool: {http: {maxRetries: 1}}", true),
        ("connectionPool: {tcp: {maxConnections: 1}}", true),
    ] {
        let found = translated(&(upgrade.clone() + &rule(policy)));
        assert_eq!(speaks_http2(&found, HTTP), expected, "{policy}");
    }
}

/// Weights and priorities by zone, and whether the cluster looks at the first.
fn zones(more: &str) -> (Vec<(String, u32, u32)>, bool) {
    let found = translated(&format!(
        "{more}{{apiVersion: v1, kind: Node, metadata: {{name: n1, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: a}}}}}}
---
{{apiVersion: v1, kind: Node, metadata: {{name: n2, labels: {{topology.kubernetes.io/region: r, topology.kubernetes.io/zone: b}}}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: way, labels: {{gateway.networking.k8s.io/gateway-name: waypoint}}}}, spec: {{nodeName: n1}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: near, labels: {{app: all}}}}, spec: {{nodeName: n1}}, status: {{podIP: 10.1.0.2, conditions: [{{type: Ready, status: 'True'}}]}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: far, labels: {{app: all}}}}, spec: {{nodeName: n2}}, status: {{podIP: 10.1.0.3, conditions: [{{type: Ready, status: 'True'}}]}}}}"
    ));
    let mut all = found.resources.iter();
    let one = all.find(|one| one.kind == ResourceType::Endpoints && one.name == HTTP);
    let all = ClusterLoadAssignment::decode(one.unwrap().body.clone()).unwrap();
    let zones = all.endpoints.into_iter().filter_map(|found| {
        let zone = found.locality.unwrap_or_default().zone;
        let weight = found.load_balancing_weight.map_or(0, |weight| weight.value);
        (!zone.is_empty()).then_some((zone, weight, found.priority))
    });
    let common = cluster(&found, HTTP).common_lb_config.unwrap();
    let weighs = matches!(
        common.locality_config_specifier,
        Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
    );
    (zones.collect(), weighs)
}

#[test]
fn the_mesh_says_what_is_near_where_neither_rule_nor_service_does() {
    let shares =
        mesh("localityLbSetting: {distribute: [{from: r/a/*, to: {r/a/*: 80, r/b/*: 20}}]}");
    let failover = mesh("localityLbSetting: {failoverPriority: [topology.kubernetes.io/zone]}");
    let zone_aware = mesh("zoneAwareLbSetting: {minClusterSize: 1}");
    let ejects = rule("outlierDetection: {}");
    let of =
        |a: (u32, u32), b: (u32, u32)| vec![("a".to_owned(), a.0, a.1), ("b".to_owned(), b.0, b.1)];
    let flat = || of((1, 0), (1, 0));
    for (text, expected) in [
        (String::new(), (flat(), false)),
        (shares.clone(), (of((80, 0), (20, 0)), true)),
        // Nothing would be left for what is farther off.
        (failover.clone(), (flat(), false)),
        (failover.clone() + &ejects, (of((1, 0), (1, 1)), true)),
        (ejects.clone(), (of((1, 0), (1, 1)), false)),
        (
            mesh("localityLbSetting: {enabled: false}") + &ejects,
            (flat(), false),
        ),
        // As with istiod zone-aware balancing leaves a waypoint without any distance.
        (zone_aware.clone() + &ejects, (flat(), false)),
        (
            shares.clone() + &rule("loadBalancer: {zoneAwareLbSetting: {enabled: false}}"),
            (flat(), false),
        ),
        (
            shares + &rule("loadBalancer: {localityLbSetting: {enabled: false}}"),
            (flat(), false),
        ),
    ] {
        assert_eq!(zones(&text), expected, "{text}");
    }
}

#[test]
fn the_meshs_limits_are_for_services_that_are_not_the_waypoints() {
    let other = "---
{apiVersion: v1, kind: Namespace, metadata: {name: other}}
---
{apiVersion: v1, kind: Service, metadata: {name: far, namespace: other}, spec: {clusterIP: 10.0.0.9, ports: [{name: http, port: 80}]}}
";
    let route = http_route(
        "r",
        "",
        ", port: 80",
        "{backendRefs: [{name: far, namespace: other, port: 80}]}",
    );
    let limits = mesh(
        "defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}, outlierDetection: {consecutive5xxErrors: 3}}",
    );
    let own_limit = rule("connectionPool: {http: {http2MaxRequests: 9}}")
        .replace("host: web", "host: far.other.svc.cluster.local");
    let limit = |found: &Translation, name: &str| {
        let cluster = cluster(found, name);
        let limits = cluster.circuit_breakers.unwrap().thresholds;
        let connections = limits[0].max_connections.map(|limit| limit.value);
        (connections, cluster.outlier_detection.is_some())
    };
    let far = "outbound|80||far.other.svc.cluster.local";
    let none = Some(u32::MAX);
    let found = translated(&(limits.clone() + &route + other));
    assert_eq!(limit(&found, far), (Some(7), true));
    assert_eq!(limit(&found, HTTP), (none, false));
    // A rule's pool stands for all of it.
    let found = translated(&(limits + &own_limit + &route + other));
    assert_eq!(limit(&found, far), (none, true));
}

/// A service of others that the route of `web` leads to, whose pods have a sidecar.
fn sided(rule: &str) -> String {
    let route = http_route(
        "r",
        "",
        ", port: 80",
        "{backendRefs: [{name: far, namespace: other, port: 80}]}",
    );
    format!(
        "---
{{apiVersion: v1, kind: Namespace, metadata: {{name: other}}}}
---
{{apiVersion: v1, kind: Pod, metadata: {{name: far, namespace: other, labels: {{app: far, security.istio.io/tlsMode: istio}}}}, status: {{podIP: 10.1.0.9, conditions: [{{type: Ready, status: 'True'}}]}}}}
---
{{apiVersion: v1, kind: Service, metadata: {{name: far, namespace: other}}, spec: {{clusterIP: 10.0.0.9, selector: {{app: far}}, ports: [{{name: http, port: 80}}]}}}}
---
{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: r, namespace: other}}, spec: {{host: far{rule}}}}}
{route}"
    )
}

const FAR: &str = "outbound|80||far.other.svc.cluster.local";

#[test]
fn sidecars_are_found_out_unless_the_mesh_does_without() {
    let ways = |settings: &str| {
        let found = translated(&(mesh(settings) + &sided("")));
        let ways = cluster(&found, FAR).transport_socket_matches;
        let names: Vec<String> = ways.into_iter().map(|way| way.name).collect();
        names
    };
    let all = ["hbone", "tlsMode-istio", "tlsMode-disabled"];
    assert_eq!(ways("enableAutoMtls: true"), all);
    assert_eq!(ways(""), all);
    assert_eq!(ways("enableAutoMtls: false"), ["hbone", "tlsMode-disabled"]);
}

#[test]
fn settings_of_a_subsets_port_stand_without_the_meshs_limits() {
    let limits = mesh("defaultTrafficPolicy: {connectionPool: {tcp: {maxConnections: 7}}}");
    let subsets = ", subsets: [{name: plain}, {name: own, trafficPolicy: {retryBudget: {}}}, \
                   {name: port, trafficPolicy: {portLevelSettings: [{port: {number: 80}, loadBalancer: {simple: RANDOM}}]}}]";
    let found = translated(&(limits + &sided(subsets)));
    let limit = |subset: &str| {
        let name = format!("outbound|80|{subset}|far.other.svc.cluster.local");
        let limits = cluster(&found, &name).circuit_breakers.unwrap().thresholds;
        limits[0].max_connections.map(|limit| limit.value)
    };
    assert_eq!(limit(""), Some(7));
    assert_eq!(limit("plain"), Some(7));
    assert_eq!(limit("own"), Some(7));
    assert_eq!(limit("port"), Some(u32::MAX));
}

#[test]
fn ciphers_of_tls_that_a_waypoint_begins_are_the_meshs() {
    use envoy_types::pb::envoy::extensions::transport_sockets::internal_upstream::v3::InternalUpstreamTransport;
    use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
    let defaults = "tlsDefaults: {minProtocolVersion: TLSV1_3, cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384], ecdhCurves: [P-256]}";
    let found = translated(
        &(mesh(&format!(
            "{defaults}, meshMTLS: {{cipherSuites: [AES128-GCM-SHA256]}}"
        )) + &rule("tls: {mode: SIMPLE, sni: a.test}")),
    );
    let packed = |socket: Option<core::TransportSocket>| match socket.unwrap().config_type {
        Some(core::transport_socket::ConfigType::TypedConfig(any)) => any.value,
        _ => panic!("no configuration"),
    };
    let hop = packed(cluster(&found, HTTP).transport_socket);
    let hop = InternalUpstreamTransport::decode(hop.as_slice()).unwrap();
    let context = packed(hop.transport_socket);
    let context = UpstreamTlsContext::decode(context.as_slice()).unwrap();
    let parameters = context.common_tls_context.unwrap().tls_params.unwrap();
    assert_eq!(parameters.cipher_suites, ["ECDHE-RSA-AES256-GCM-SHA384"]);
    assert_eq!(parameters.ecdh_curves, ["P-256"]);
    // As with istiod the least version is for servers.
    let tls12 = tls_parameters::TlsProtocol::TlSv12;
    assert_eq!(parameters.tls_minimum_protocol_version(), tls12);
    assert!(found.problems.is_empty(), "{:?}", found.problems);
    let told: Vec<_> = found.asides.iter().flat_map(|a| &a.objects).collect();
    assert_eq!(
        told,
        [
            "istio-system/istio meshMTLS",
            "istio-system/istio tlsDefaults.minProtocolVersion"
        ]
    );
}

#[test]
fn ciphers_that_are_not_spoken_are_named() {
    for (settings, field, word) in [
        (
            "cipherSuites: [AES256-GCM-SHA384]",
            "cipherSuites",
            "AES256-GCM-SHA384",
        ),
        ("ecdhCurves: [P-256, P-521]", "ecdhCurves", "P-521"),
    ] {
        let found = translated(&mesh(&format!("tlsDefaults: {{{settings}}}")));
        let problem = &found.problems[0];
        assert_eq!(problem.severity, Severity::FailClosed);
        assert_eq!(problem.field, format!("data.mesh.tlsDefaults.{field}"));
        assert!(problem.reason.contains(word), "{problem}");
    }
}
