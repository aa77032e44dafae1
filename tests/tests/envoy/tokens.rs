//! The same tokens shown to the waypoint and to real Envoy: what is answered, and what the backend sees.

use std::net::SocketAddr;

use envoy_types::pb::envoy::extensions::filters::http::jwt_authn::v3::{
    JwtAuthentication, JwtRequirement, PerRouteConfig, RequirementRule,
    per_route_config::RequirementSpecifier, requirement_rule::RequirementType,
};
use http::HeaderMap;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::request_authentication::{self, authentication, by, rule};
use waypoint_tests::seeds::seed;
use waypoint_tests::tokens::{ALGORITHMS, Signer, claims, key_set};
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh};

use crate::token_cases::{Allowed, Case, TWO, by_algorithm, by_rule, good, malformed, on_purpose};
use crate::token_constraints::{by_constraint, by_target};
use crate::token_rules::{configuration, providers};

/// Metadata as formats print it.
const ROUTE: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set:
        - {name: x-meta-sub, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:sub)%"}
        - {name: x-meta-scope, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:scope)%"}
        - {name: x-meta-n, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:n)%"}
        - {name: x-meta-nested, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:payload:nested)%"}
        - {name: x-meta-header, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:header:alg)%"}
        - {name: x-meta-failure, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:failure:message)%"}
        - {name: x-meta-code, value: "%DYNAMIC_METADATA(envoy.filters.http.jwt_authn:failure:code)%"}
    backendRefs: [{name: web, port: 80}]
"#;

/// What came back, and what the backend saw.
#[derive(PartialEq, Eq)]
struct Outcome {
    status: u16,
    body: String,
    challenge: String,
    grpc: String,
    seen: Vec<String>,
}

impl std::fmt::Debug for Outcome {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Outcome {
            status,
            body,
            challenge,
            grpc,
            seen,
        } = self;
        write!(f, "{status} {body:?} {challenge:?} {grpc:?} {seen:#?}")
    }
}

async fn outcome(ztunnel: &Ztunnel, to: SocketAddr, app: &App, case: &Case) -> Outcome {
    app.forget();
    let headers: Vec<_> = case.headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let answer = ztunnel
        .request(to, request(case.method.clone(), &case.path, &headers))
        .await;
    let of = |headers: &HeaderMap| {
        let mut all: Vec<String> = headers
            .iter()
            // A format without a value is `-` here, and with Envoy no header.
            .filter(|(name, value)| *name != "x-request-id" && *value != "-")
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        all.sort();
        all
    };
    let seen = app.seen();
    let seen = seen.iter().flat_map(|seen| {
        let line = format!("{} {}", seen.method, seen.target);
        [vec![line], of(&seen.headers)].concat()
    });
    Outcome {
        status: answer.status.as_u16(),
        body: answer.text(),
        challenge: answer.header("www-authenticate"),
        grpc: format!(
            "{} {}",
            answer.header("grpc-status"),
            answer.header("grpc-message")
        ),
        seen: seen.collect(),
    }
}

/// What is different and shouldn't be, or isn't and should.
fn difference(case: &Case, got: &Outcome, expected: &Outcome) -> Option<String> {
    let both = || format!("\n  waypoint {got:?}\n  envoy    {expected:?}");
    let denies =
        |outcome: &Outcome| [401, 403].contains(&outcome.status) && outcome.seen.is_empty();
    let both_deny = denies(got) && denies(expected);
    match case.allowed {
        _ if got == expected => match case.allowed {
            Some(Allowed::Everything(reason)) => {
                Some(format!("is listed as different and isn't: {reason}"))
            }
            _ => None,
        },
        None => Some(both()),
        Some(Allowed::Words(reason)) => (!both_deny).then(|| format!("{reason}: {}", both())),
        Some(Allowed::Everything(_)) => None,
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_tokens_prove_the_same() {
    let seed = seed();
    let mut random = fastrand::Rng::with_seed(seed);
    let signers: Vec<Signer> = ALGORITHMS.map(|name| Signer::new(name, name)).into();
    let keys = key_set(&signers.iter().collect::<Vec<_>>());
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", ROUTE);
    let configuration = configuration(&keys);
    let resources = request_authentication::with_formats(mesh.resources());
    let resources = request_authentication::with(resources, "web", &configuration);
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (_waypoint, ours) = mesh.started_under(&istiod).await;
    let (_envoy, beside) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let mut theirs = Ztunnel::connect(beside, &certificate).await.unwrap();

    let es256 = &signers[6];
    let mut cases = by_algorithm(&signers, &mut random);
    cases.extend(malformed(es256));
    cases.extend(by_rule(es256));
    cases.extend(by_constraint(es256));
    cases.extend(by_target());
    cases.extend(on_purpose(es256));
    let mut differences = Vec::new();
    let count = cases.len();
    for (n, case) in cases.into_iter().enumerate() {
        // Of so many short tunnels Envoy thinks ill, and ends their connection.
        if n % 100 == 99 {
            theirs = Ztunnel::connect(beside, &certificate).await.unwrap();
        }
        // Twice: the second time it is known.
        for time in ["first", "again"] {
            let got = outcome(&ours, to, &app, &case).await;
            let expected = outcome(&theirs, to, &app, &case).await;
            if let Some(difference) = difference(&case, &got, &expected) {
                differences.push(format!("{} ({time}) {difference}", case.what));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "WAYPOINT_SEED={seed}: {} differences in {count} cases:\n{}",
        differences.len(),
        differences.join("\n")
    );
}

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {type: PathPrefix, value: /role}, headers: [{name: x-sub, value: spoofed}]}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: spoofed.example, statusCode: 302}}]
  - matches: [{path: {type: PathPrefix, value: /role}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /off}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /named}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /wrong}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /other}}]
    backendRefs: [{name: web, port: 80}]
"#;

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_tokens_prove_the_same_on_routes_with_a_requirement_of_their_own() {
    let signer = Signer::new("RS256", "k1");
    let keys = key_set(&[&signer]);
    for strip in [false, true] {
        let mesh = Mesh::new();
        let (to, app) = mesh.http_service(1, "web").await;
        mesh.manifest("routes.yaml", ROUTES);
        let configuration = JwtAuthentication {
            requirement_map: [
                ("two", by("origins-1")),
                ("none", JwtRequirement::default()),
            ]
            .map(|(name, requirement)| (name.to_owned(), requirement))
            .into(),
            rules: vec![RequirementRule {
                requirement_type: Some(RequirementType::RequirementName("two".into())),
                ..rule("/other/two", None)
            }]
            .into_iter()
            .chain([rule("/role", None), rule("/", Some(by("origins-0")))])
            .collect(),
            strip_failure_response: strip,
            ..authentication(providers(&keys))
        };
        let mut resources = request_authentication::with(mesh.resources(), "web", &configuration);
        for (prefix, specifier) in [
            ("/off", RequirementSpecifier::Disabled(true)),
            (
                "/named",
                RequirementSpecifier::RequirementName("two".into()),
            ),
            (
                "/wrong",
                RequirementSpecifier::RequirementName("three".into()),
            ),
        ] {
            let config = PerRouteConfig {
                requirement_specifier: Some(specifier),
            };
            resources = request_authentication::with_route(resources, prefix, &config);
        }
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources.clone());
        let (_waypoint, ours) = mesh.started_under(&istiod).await;
        let (_envoy, beside) = Envoy::beside(&mesh, &resources).await;
        let certificate = mesh.certificate("default", "curl");
        let theirs = Ztunnel::connect(beside, &certificate).await.unwrap();
        let bearer = ("authorization", format!("Bearer {}", signer.token(&good())));
        let second = (
            "x-token",
            format!("Token {}", signer.token(&claims(TWO, "x"))),
        );
        let spoofed = ("x-sub", "spoofed".to_owned());
        let mut statuses = Vec::new();
        for path in ["/off", "/named", "/wrong", "/other", "/other/two"] {
            for headers in [vec![], vec![bearer.clone()], vec![second.clone()]] {
                let headers = [headers, vec![spoofed.clone()]].concat();
                let case = Case::new(path, path, headers);
                let got = outcome(&ours, to, &app, &case).await;
                let expected = outcome(&theirs, to, &app, &case).await;
                assert_eq!(got, expected, "{path}, stripped: {strip}");
                statuses.push(got.status);
            }
        }
        // Envoy takes the header away, and keeps the route that it chose.
        let role = Case::new("/role", "/role", vec![spoofed]);
        let got = outcome(&ours, to, &app, &role).await.status;
        let expected = outcome(&theirs, to, &app, &role).await.status;
        assert_eq!((got, expected), (200, 302));
        let [open, one, two, none] = [
            [200, 200, 200],
            [401, 200, 401],
            [401, 401, 200],
            [403, 403, 403],
        ];
        assert_eq!(statuses, [open, two, none, one, two].concat());
    }
}
