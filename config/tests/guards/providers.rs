//! Policies with the action CUSTOM: whom they ask, and what becomes of them where nobody can be asked.

use envoy_types::pb::envoy::config::core::v3::{grpc_service, http_uri};
use envoy_types::pb::envoy::config::listener::v3::filter;
use envoy_types::pb::envoy::config::rbac::v3::rbac::Action;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::extensions::filters::network::ext_authz::v3::ExtAuthz as NetworkExtAuthz;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use prost::Message;
use waypoint_config::standalone::Severity;
use waypoint_config::standalone::translate::Translation;

use super::{
    API_HTTP, GATEWAY, WEB, WEB_HTTP, WEB_TCP, chain, cluster, http_filters, told, translated,
};

const KEYS: &str = "outbound|8080||keys.plain.svc.cluster.local";

fn mesh(providers: &str) -> String {
    format!(
        "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: '{{extensionProviders: [{providers}]}}'}}}}\n---\n"
    )
}

fn grpc(name: &str, more: &str) -> String {
    format!(
        "{{name: {name}, envoyExtAuthzGrpc: {{service: keys.plain.svc.cluster.local, port: 8080{more}}}}}"
    )
}

fn http(name: &str, more: &str) -> String {
    grpc(name, more).replace("Grpc", "Http")
}

fn custom(name: &str, target: &str, provider: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}}}, spec: {{{target}, action: CUSTOM, provider: {{name: {provider}}}, rules: [{rules}]}}}}\n---\n"
    )
}

fn names(translation: &Translation, chain: &str) -> Vec<String> {
    let filters = http_filters(translation, chain).into_iter();
    let guards = filters.map(|(name, _)| name.replace("envoy.filters.http.", ""));
    guards
        .filter(|name| ["rbac", "ext_authz", "jwt_authn"].contains(&name.as_str()))
        .collect()
}

fn asks(translation: &Translation, chain: &str) -> ExtAuthz {
    let mut filters = http_filters(translation, chain).into_iter();
    let (_, config) = filters
        .find(|(name, _)| name == "envoy.filters.http.ext_authz")
        .unwrap();
    ExtAuthz::decode(config.as_slice()).unwrap()
}

fn first_rules(translation: &Translation, chain: &str) -> Rbac {
    let (_, config) = http_filters(translation, chain).remove(0);
    Rbac::decode(config.as_slice()).unwrap()
}

/// Names and configurations of a TCP chain's guards.
fn network_guards(translation: &Translation, name: &str) -> Vec<(String, Vec<u8>)> {
    let filters = chain(translation, name).filters.into_iter();
    let guards = filters
        .filter(|found| found.name.contains("rbac") || found.name.contains("ext_authz"))
        .map(|found| match found.config_type {
            Some(filter::ConfigType::TypedConfig(any)) => (found.name, any.value),
            _ => panic!("no configuration"),
        });
    guards.collect()
}

#[test]
fn the_provider_is_asked_before_tokens_and_other_policies() {
    let allow = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {TARGET, rules: [{}]}}\n---\n".replace("TARGET", WEB);
    let tokens = "{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {name: t}, spec: {TARGET, jwtRules: [{issuer: a, jwksUri: 'http://keys.plain.svc:8080'}]}}\n---\n".replace("TARGET", WEB);
    let found =
        translated(&(mesh(&grpc("ask", "")) + &custom("c", WEB, "ask", "{}") + &allow + &tokens));
    assert_eq!(
        names(&found, WEB_HTTP),
        ["rbac", "ext_authz", "jwt_authn", "rbac"]
    );
    assert_eq!(names(&found, API_HTTP), [""; 0]);
    assert!(cluster(&found, KEYS).is_some());
    assert_eq!(told(&found), []);
}

#[test]
fn every_field_of_a_provider_is_said() {
    let body = "includeRequestBodyInCheck: {maxRequestBytes: 7, packAsBytes: true}";
    let common =
        format!(", failOpen: true, clearRouteCache: true, statusOnError: \\\"502\\\", {body}")
            .replace("\\\"", "\"");
    let ask = |provider: &str| {
        let found = translated(&(mesh(provider) + &custom("c", WEB, "ask", "{}")));
        asks(&found, WEB_HTTP)
    };
    for provider in [grpc("ask", &common), http("ask", &common)] {
        let found = ask(&provider);
        assert!(found.failure_mode_allow && found.clear_route_cache);
        assert_eq!(found.status_on_error.unwrap().code, 502);
        let body = found.with_request_body.unwrap();
        assert_eq!(
            (
                body.max_request_bytes,
                body.allow_partial_message,
                body.pack_as_bytes
            ),
            (7, false, true)
        );
    }
    let Some(Services::GrpcService(service)) = ask(&grpc("ask", "")).services else {
        panic!("not by gRPC");
    };
    assert_eq!(service.timeout.unwrap().seconds, 600);
    let Some(grpc_service::TargetSpecifier::EnvoyGrpc(to)) = service.target_specifier else {
        panic!("no cluster");
    };
    assert_eq!(
        (to.cluster_name.as_str(), to.authority.as_str()),
        (KEYS, "keys.plain.svc.cluster.local")
    );
    let found = ask(&http(
        "ask",
        ", timeout: 2s, includeHeadersInCheck: [x-old]",
    ));
    assert_eq!(found.allowed_headers.unwrap().patterns.len(), 1);
    let Some(Services::HttpService(service)) = found.services else {
        panic!("not by HTTP");
    };
    let uri = service.server_uri.unwrap();
    assert_eq!(uri.timeout.unwrap().seconds, 2);
    assert_eq!(
        uri.http_upstream_type,
        Some(http_uri::HttpUpstreamType::Cluster(KEYS.to_owned()))
    );
    assert!(service.authorization_request.is_none() && service.authorization_response.is_none());
}

#[test]
fn connections_are_asked_about_by_grpc_only() {
    let login = "{to: [{operation: {paths: [/login]}}]}";
    let found =
        translated(&(mesh(&grpc("ask", ", failOpen: true")) + &custom("c", WEB, "ask", login)));
    let [(rules, tells), (asks, asked)] = &network_guards(&found, WEB_TCP)[..] else {
        panic!("not two guards");
    };
    assert_eq!(
        [rules.as_str(), asks.as_str()],
        [
            "envoy.filters.network.rbac",
            "envoy.filters.network.ext_authz"
        ]
    );
    let tells = NetworkRbac::decode(tells.as_slice()).unwrap();
    assert!(tells.rules.is_none());
    assert_eq!(tells.shadow_rules_stat_prefix, "istio_ext_authz_");
    // Paths are for HTTP: every connection is asked about.
    let policies = tells.shadow_rules.unwrap().policies;
    let rule = &policies["istio-ext-authz-ask-ns[default]-policy[c]-rule[0]"];
    assert!(format!("{:?}", rule.permissions).contains("Any(true)"));
    let asked = NetworkExtAuthz::decode(asked.as_slice()).unwrap();
    assert!(asked.failure_mode_allow && asked.grpc_service.is_some());
    assert_eq!(
        asked.filter_enabled_metadata.unwrap().filter,
        "envoy.filters.network.rbac"
    );

    let found = translated(&(mesh(&http("ask", "")) + &custom("c", WEB, "ask", login)));
    assert_eq!(network_guards(&found, WEB_TCP), []);
    assert_eq!(names(&found, WEB_HTTP), ["rbac", "ext_authz"]);
    let [(severity, line)] = &told(&found)[..] else {
        panic!("{:?}", told(&found));
    };
    assert_eq!(*severity, Severity::NoEffect);
    assert!(
        line.starts_with("AuthorizationPolicy default/c: spec.provider.name: a provider over HTTP")
            && line.ends_with("(default/web port 81, default/web port 82)"),
        "{line}"
    );
}

#[test]
fn what_nobody_can_be_asked_about_is_denied() {
    let missing =
        "{name: ask, envoyExtAuthzHttp: {service: gone.plain.svc.cluster.local, port: 8080}}";
    let login = "{to: [{operation: {paths: [/login]}}]}";
    for (providers, reason) in [
        (
            String::new(),
            "MeshConfig has no provider envoyExtAuthzGrpc or",
        ),
        (grpc("other", ""), "MeshConfig has no provider \"ask\" of"),
        (
            "{name: ask, zipkin: {service: spans.plain.svc.cluster.local, port: 9411}}".to_owned(),
            "MeshConfig has no provider",
        ),
        (
            missing.to_owned(),
            "has the host \"gone.plain.svc.cluster.local\"",
        ),
        (
            missing.replace("gone.plain", "elsewhere/keys.plain"),
            "has the host \"elsewhere/keys.plain.svc.cluster.local\"",
        ),
        (
            http("ask", "").replace("8080", "81"),
            "has no TCP port 81; it has 8080",
        ),
        (
            http("ask", ", headersToUpstreamOnAllow: [\"*\"]"),
            "headersToUpstreamOnAllow",
        ),
    ] {
        let found = translated(&(mesh(&providers) + &custom("c", WEB, "ask", login)));
        let problems = told(&found);
        let closed: Vec<&String> = problems
            .iter()
            .filter(|(severity, _)| *severity == Severity::FailClosed)
            .map(|(_, line)| line)
            .collect();
        let [line] = &closed[..] else {
            panic!("{providers}: {problems:?}");
        };
        assert!(
            line.starts_with("AuthorizationPolicy default/c: spec.provider.name: ")
                && line.contains(reason)
                && line.ends_with(": what its rules match is denied"),
            "{line}"
        );
        assert_eq!(names(&found, WEB_HTTP), ["rbac"]);
        let rules = first_rules(&found, WEB_HTTP);
        assert_eq!(rules.shadow_rules_stat_prefix, "");
        let rules = rules.rules.unwrap();
        assert_eq!(rules.action(), Action::Deny);
        let key = "istio-ext-authz-ask-ns[default]-policy[c]-rule[0]-deny-due-to-bad-CUSTOM-action";
        assert!(
            rules.policies.contains_key(key),
            "{:?}",
            rules.policies.keys()
        );
        // Connections as well.
        assert_eq!(network_guards(&found, WEB_TCP).len(), 1);
    }
    // The namespace that the author gave.
    let own = http("ask", "").replace("service: keys", "service: plain/keys");
    let found = translated(&(mesh(&own) + &custom("c", WEB, "ask", login)));
    assert_eq!(names(&found, WEB_HTTP), ["rbac", "ext_authz"]);
}

#[test]
fn one_chain_asks_one_provider() {
    let providers = grpc("a", "") + ", " + &grpc("b", "");
    let found = translated(
        &(mesh(&providers)
            + &custom("one", WEB, "a", "{}")
            + &custom("two", GATEWAY, "b", "{}")
            + &custom("three", GATEWAY, "b", "{}")),
    );
    assert_eq!(names(&found, WEB_HTTP), ["rbac", "rbac"]);
    for chain in [API_HTTP, "direct-http"] {
        assert_eq!(names(&found, chain), ["rbac", "ext_authz"]);
        let rules = first_rules(&found, chain).shadow_rules.unwrap();
        assert_eq!(rules.policies.len(), 2);
    }
    let lines = told(&found);
    assert_eq!(lines.len(), 3, "{lines:?}");
    for (severity, line) in lines {
        assert_eq!(severity, Severity::FailClosed);
        assert!(line.contains("ask several providers (a, b)"), "{line}");
    }
}
