//! RequestAuthentications: which rules a chain has, and where keys come from.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use envoy_types::pb::envoy::config::core::v3::http_uri::HttpUpstreamType;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::jwt_provider::JwksSourceSpecifier;
use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, RemoteJwks,
};
use prost::Message;
use waypoint_config::standalone::Severity;
use waypoint_config::standalone::kinds::istio::jwks::JwksUri;
use waypoint_config::standalone::state::issuers::Issuers;
use waypoint_config::standalone::translate::Translation;

use super::{
    API_HTTP, GATEWAY, WEB, WEB_HTTP, WEB_TCP, chain, cluster, http_filters, is_closed, told,
    translated, translated_by,
};

const KEYS: &str = r#"jwks: '{"keys": [{"kty": "EC", "crv": "P-256", "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4", "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM"}]}'"#;

fn tokens(meta: &str, target: &str, rules: &str) -> String {
    format!(
        "{{apiVersion: security.istio.io/v1, kind: RequestAuthentication, metadata: {{{meta}}}, spec: {{{target}, jwtRules: [{rules}]}}}}\n---\n"
    )
}

fn jwt_authn(translation: &Translation, chain: &str) -> Option<JwtAuthentication> {
    let mut filters = http_filters(translation, chain).into_iter();
    let (_, config) = filters.find(|(name, _)| name == "envoy.filters.http.jwt_authn")?;
    Some(JwtAuthentication::decode(config.as_slice()).unwrap())
}

/// Issuers in order of their providers' names.
fn issuers(translation: &Translation, chain: &str) -> Vec<String> {
    let Some(found) = jwt_authn(translation, chain) else {
        return Vec::new();
    };
    let provider = |index| {
        let provider = found.providers.get(&format!("origins-{index}"));
        let key = provider.unwrap().audiences.join("+");
        format!("{}{key}", provider.unwrap().issuer)
    };
    (0..found.providers.len()).map(provider).collect()
}

#[test]
fn rules_of_all_objects_stand_together() {
    let rule = |issuer: &str, audience: &str| {
        format!("{{issuer: {issuer}, audiences: ['{audience}'], {KEYS}}}")
    };
    let class = "targetRefs: [{kind: GatewayClass, group: gateway.networking.k8s.io, name: istio-waypoint}]";
    let found = translated(
        &(tokens("name: a", WEB, &(rule("b.", "1") + ", " + &rule("c.", "1")))
            + &tokens(
                "name: b",
                GATEWAY,
                &(rule("c.", "2") + ", " + &rule("a.", "2")),
            )
            + &tokens(
                "name: c, namespace: istio-system, creationTimestamp: '2020-01-01T00:00:00Z'",
                class,
                &rule("c.", "3"),
            )
            + &tokens("name: d, namespace: plain", class, &rule("d.", "4"))),
    );
    assert_eq!(
        issuers(&found, WEB_HTTP),
        ["a.2", "b.1", "c.1", "c.2", "c.3"]
    );
    for everywhere in [API_HTTP, "direct-http"] {
        assert_eq!(issuers(&found, everywhere), ["a.2", "c.2", "c.3"]);
    }
    let tcp = chain(&found, WEB_TCP).encode_to_vec();
    assert!(!tcp.windows(9).any(|part| part == b"jwt_authn"));
    // Tokens are checked before policies look at them.
    let policy = "{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {name: p}, spec: {TARGET, rules: [{}]}}";
    let found =
        translated(&(tokens("name: a", WEB, &rule("a", "1")) + &policy.replace("TARGET", WEB)));
    let names: Vec<String> = http_filters(&found, WEB_HTTP)
        .into_iter()
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        names[..2],
        ["envoy.filters.http.jwt_authn", "envoy.filters.http.rbac"]
    );
}

#[test]
fn equal_manifests_give_equal_bytes() {
    let rules: Vec<String> = (0..16)
        .map(|n| format!("{{issuer: i{n}, {KEYS}}}"))
        .collect();
    let text = tokens("name: a", WEB, &rules.join(", "));
    let (first, second) = (translated(&text), translated(&text));
    assert_eq!(chain(&first, WEB_HTTP), chain(&second, WEB_HTTP));
}

fn by_uri(uri: &str) -> Translation {
    let rule = format!("{{issuer: a, jwksUri: '{uri}', timeout: 2s}}");
    translated(&tokens("name: t", WEB, &rule))
}

fn remote(translation: &Translation) -> (RemoteJwks, Option<Cluster>) {
    let found = jwt_authn(translation, WEB_HTTP).unwrap();
    let Some(JwksSourceSpecifier::RemoteJwks(remote)) =
        found.providers["origins-0"].jwks_source_specifier.clone()
    else {
        panic!("no address of keys");
    };
    let uri = remote.http_uri.clone().unwrap();
    let Some(HttpUpstreamType::Cluster(name)) = uri.http_upstream_type else {
        panic!("no cluster");
    };
    (remote, cluster(translation, &name))
}

#[test]
fn keys_come_from_where_the_author_said() {
    let kind = |cluster: &Cluster| match cluster.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).unwrap(),
        _ => DiscoveryType::Static,
    };
    for (uri, name, discovery) in [
        (
            "http://keys.plain.svc.cluster.local:8080/keys?x=y",
            "outbound|8080||keys.plain.svc.cluster.local",
            DiscoveryType::Eds,
        ),
        (
            "http://keys.plain.svc:8080",
            "outbound|8080||keys.plain.svc.cluster.local",
            DiscoveryType::Eds,
        ),
        (
            "http://KEYS.plain:8080/",
            "outbound|8080||keys.plain.svc.cluster.local",
            DiscoveryType::Eds,
        ),
        (
            "https://keys.plain.svc.cluster.local:8080/keys",
            "outbound|8080|tls|keys.plain.svc.cluster.local",
            DiscoveryType::Eds,
        ),
        // Its own services are asked as any other is.
        (
            "http://api.default.svc/",
            "outbound|80||api.default.svc.cluster.local",
            DiscoveryType::Eds,
        ),
        (
            "http://idp.test",
            "outbound|80||idp.test",
            DiscoveryType::Eds,
        ),
        (
            "http://out.test:81/x",
            "outbound|81||out.test",
            DiscoveryType::StrictDns,
        ),
        (
            "http://192.0.2.7/x",
            "outbound|80||192.0.2.7",
            DiscoveryType::Static,
        ),
        ("http://[::1]:8/x", "outbound|8||::1", DiscoveryType::Static),
    ] {
        let found = by_uri(uri);
        assert_eq!(told(&found), [], "{uri}");
        let (remote, cluster) = remote(&found);
        let cluster = cluster.unwrap_or_else(|| panic!("{uri}: no cluster"));
        assert_eq!(
            (cluster.name.as_str(), kind(&cluster)),
            (name, discovery),
            "{uri}"
        );
        let asked = remote.http_uri.unwrap();
        assert_eq!(
            (asked.uri.as_str(), asked.timeout.unwrap().seconds),
            (uri, 2)
        );
        assert!(remote.async_fetch.is_some());
    }
}

#[test]
fn an_issuer_says_where_its_keys_are() {
    let text = tokens(
        "name: t",
        WEB,
        "{issuer: 'https://issuer.test/', timeout: 2s}",
    );
    let found = translated(&text);
    assert_eq!(told(&found), []);
    let [question] = &found.issuers[..] else {
        panic!("{:?}", found.issuers);
    };
    let address = "https://issuer.test/.well-known/openid-configuration";
    assert_eq!(question.address.text, address);
    assert_eq!(question.cluster, "outbound|443|tls|issuer.test");
    assert_eq!(question.timeout.as_secs(), 2);
    assert!(cluster(&found, &question.cluster).is_some());
    // Until it has said so no token is good, and nothing is closed.
    let provider = &jwt_authn(&found, WEB_HTTP).unwrap().providers["origins-0"];
    let source = provider.jwks_source_specifier.as_ref().unwrap();
    assert!(matches!(source, JwksSourceSpecifier::LocalJwks(_)));
    assert!(!is_closed(&found, WEB_HTTP));

    let mut issuers = Issuers::default();
    let keys = JwksUri::parse("https://keys.test:8443/v1").unwrap();
    assert!(issuers.tell(&question.address, keys));
    let found = translated_by(&text, &issuers);
    let (remote, keys) = remote(&found);
    assert_eq!(remote.http_uri.unwrap().uri, "https://keys.test:8443/v1");
    assert_eq!(keys.unwrap().name, "outbound|8443|tls|keys.test");
    assert!(cluster(&found, "outbound|443|tls|issuer.test").is_some());
    assert_eq!(found.issuers.len(), 1);
}

#[test]
fn keys_that_nobody_can_be_asked_for_close_what_they_are_for() {
    for (rule, field, reason) in [
        (
            "issuer: a, jwks: '{\"keys\": []}'",
            "jwks",
            "no key that can be used",
        ),
        (
            "issuer: a, jwks: '{\"kty\": \"oct\", \"k\": \"a\"}'",
            "jwks",
            "no list [keys]",
        ),
        (
            "issuer: somebody@a.test",
            "issuer",
            "can't be asked for its keys",
        ),
        (
            "issuer: 'http://gone.plain.svc'",
            "issuer",
            "where it would be asked for its keys: no Service with the host",
        ),
        (
            "issuer: a, jwksUri: 'https://keys.plain.svc:81'",
            "jwksUri",
            "has no TCP port 81; it has 8080",
        ),
        (
            "issuer: a, jwksUri: 'http://keys.plain.svc:81'",
            "jwksUri",
            "has no TCP port 81; it has 8080",
        ),
        (
            "issuer: a, jwksUri: 'http://gone.plain.svc:81'",
            "jwksUri",
            "no Service with the host",
        ),
    ] {
        let sound = format!("{{issuer: b, {KEYS}}}");
        let found = translated(&tokens("name: t", WEB, &format!("{sound}, {{{rule}}}")));
        let [(severity, line)] = &told(&found)[..] else {
            panic!("{rule}: {:?}", told(&found));
        };
        assert_eq!(*severity, Severity::FailClosed);
        let begins = format!("RequestAuthentication default/t: spec.jwtRules[1].{field}: ");
        assert!(line.starts_with(&begins) && line.contains(reason), "{line}");
        assert!(is_closed(&found, WEB_HTTP), "{rule}");
        assert!(!is_closed(&found, API_HTTP), "{rule}");
        assert_eq!(issuers(&found, WEB_HTTP), [""; 0]);
    }
    // Nobody else's business.
    let other = GATEWAY.replace("name: waypoint", "name: other");
    let found = translated(&tokens("name: t", &other, "{issuer: a}"));
    assert!(!is_closed(&found, WEB_HTTP));
    assert!(told(&found).iter().all(|(s, _)| *s == Severity::NoEffect));
}

#[test]
fn what_the_api_server_would_refuse_closes_what_it_is_for() {
    let found = translated(&tokens("name: t", WEB, "{issuer: a, jwks: '{}'}"));
    let (severity, line) = &told(&found)[0];
    assert_eq!(*severity, Severity::Broken);
    assert!(
        line.contains("spec.jwtRules[0].jwks: kty is required"),
        "{line}"
    );
    assert!(is_closed(&found, WEB_HTTP) && !is_closed(&found, API_HTTP));
}
