//! CORS: policies and requests made up at random, with the same answers and the same upstream as Envoy's.

use std::collections::BTreeMap;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::RedirectAction;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
use envoy_types::pb::envoy::r#type::matcher::v3::{RegexMatcher, StringMatcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::BoolValue;
use fastrand::Rng;
use http::Method;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::route_changes::{changed, packed, told};
use waypoint_tests::seeds::seed;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{Answer, App, ControlPlane, Mesh};

const FILTER: &str = "envoy.filters.http.cors";
const POLICIES: usize = 60;
const REQUESTS: usize = 600;

const ORIGINS: [&str; 8] = [
    "https://a.example",
    "https://x.b.example",
    "https://b.example",
    "HTTPS://A.EXAMPLE",
    "http://a.example:8080",
    "null",
    "*",
    "",
];

fn any<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn matcher(rng: &mut Rng) -> StringMatcher {
    let pattern = any(
        rng,
        &[
            "https://a.example",
            "https://",
            ".example",
            "a.example",
            "*",
            r"^https://.*\.b\.example$",
            ".*",
        ],
    );
    let is_regex = pattern.contains(".*");
    let pattern = pattern.to_owned();
    StringMatcher {
        ignore_case: !is_regex && rng.bool(),
        match_pattern: Some(match rng.u8(..4) {
            _ if is_regex => MatchPattern::SafeRegex(RegexMatcher {
                regex: pattern,
                ..RegexMatcher::default()
            }),
            0 => MatchPattern::Exact(pattern),
            1 => MatchPattern::Prefix(pattern),
            2 => MatchPattern::Suffix(pattern),
            _ => MatchPattern::Contains(pattern),
        }),
    }
}

/// All or nothing, so that no answer is left to chance; a part of the shadow is, in Envoy, a part of the filter.
fn switch(rng: &mut Rng) -> Option<RuntimeFractionalPercent> {
    rng.bool().then(|| RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator: any(rng, &[0, 100, 100]),
            denominator: 0,
        }),
        ..RuntimeFractionalPercent::default()
    })
}

fn policy(rng: &mut Rng) -> CorsPolicy {
    let boolean = |rng: &mut Rng| rng.bool().then(|| BoolValue { value: rng.bool() });
    CorsPolicy {
        allow_origin_string_match: (0..rng.usize(..3)).map(|_| matcher(rng)).collect(),
        allow_methods: any(rng, &["", "GET,PUT", "*", "GET, *"]).into(),
        allow_headers: any(rng, &["", "x-one,x-two", "*"]).into(),
        expose_headers: any(rng, &["", "x-app", "*"]).into(),
        max_age: any(rng, &["", "300", "soon"]).into(),
        allow_credentials: boolean(rng),
        filter_enabled: switch(rng),
        shadow_enabled: switch(rng),
        allow_private_network_access: boolean(rng),
        forward_not_matching_preflights: boolean(rng),
    }
}

/// Headers in their order; some come twice.
fn headers(rng: &mut Rng) -> Vec<(&'static str, &'static str)> {
    let mut headers = Vec::new();
    for (name, chance, values) in [
        ("origin", 0.9, &ORIGINS[..]),
        ("origin", 0.1, &ORIGINS[..]),
        ("access-control-request-method", 0.7, &["PUT", "get", ""]),
        ("access-control-request-method", 0.1, &["DELETE", "GET"]),
        (
            "access-control-request-headers",
            0.5,
            &["x-one", "x-one, X-Other", ""],
        ),
        (
            "access-control-request-private-network",
            0.4,
            &["true", "True", "false"],
        ),
    ] {
        if rng.f32() < chance {
            headers.push((name, any(rng, values)));
        }
    }
    headers
}

/// Status and headers, without what time it is and how long it took.
fn essence(answer: &Answer) -> (u16, BTreeMap<String, Vec<String>>) {
    let mut headers: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (name, value) in &answer.headers {
        if !["date", "x-envoy-upstream-service-time"].contains(&name.as_str()) {
            let value = value.to_str().unwrap().to_owned();
            headers.entry(name.to_string()).or_default().push(value);
        }
    }
    (answer.status.as_u16(), headers)
}

/// What got to the application. Envoy makes one line of two of these headers, and leaves out empty ones.
fn upstream(app: &App) -> Vec<String> {
    let seen = app.seen();
    app.forget();
    let told = seen.iter().map(|seen| {
        let mut headers: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, value) in &seen.headers {
            if name != "x-request-id" {
                let values = headers.entry(name.as_str()).or_default();
                values.push(value.to_str().unwrap());
            }
        }
        let headers: Vec<String> = headers
            .iter()
            .map(|(name, values)| {
                let values: Vec<&str> = values.iter().copied().filter(|v| !v.is_empty()).collect();
                format!("{name}: {}", values.join(","))
            })
            .collect();
        format!("{} {} {headers:?}", seen.method, seen.target)
    });
    told.collect()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn policies_and_requests_at_random_are_answered_as_by_envoy() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let policies: Vec<CorsPolicy> = (0..POLICIES).map(|_| policy(&mut rng)).collect();
    let general = policy(&mut rng);
    let resources = changed(mesh.resources(), |host| {
        let Some(default) = host.routes.first().cloned() else {
            return;
        };
        let routes = policies.iter().enumerate().map(|(n, own)| {
            let mut route = told(&default, &format!("/{n}/"), FILTER, own);
            if n % 10 == 9 {
                route.action = Some(Action::Redirect(RedirectAction::default()));
            }
            route
        });
        host.routes = routes.chain([default.clone()]).collect();
        let general = (FILTER.to_owned(), packed(&general));
        host.typed_per_filter_config = [general].into();
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    let (_envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let ours = Ztunnel::connect(waypoint.address(), &certificate)
        .await
        .unwrap();
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    let (mut ours, mut theirs) = (ours.http1(to).await, theirs.http1(to).await);
    let mut kinds: BTreeMap<String, usize> = BTreeMap::new();
    for n in 0..REQUESTS {
        // The last is the virtual host's own policy.
        let route = rng.usize(..=POLICIES);
        let path = format!("/{route}/{n}");
        let methods = [Method::OPTIONS, Method::OPTIONS, Method::GET, Method::PUT];
        let method = methods[rng.usize(..methods.len())].clone();
        let headers = headers(&mut rng);
        let mut found = Vec::new();
        for connection in [&mut ours, &mut theirs] {
            let asked = request(method.clone(), &path, &headers);
            let answer = connection.send(asked).await;
            found.push((essence(&answer), upstream(&app)));
        }
        let own = policies.get(route);
        assert_eq!(
            found[0], found[1],
            "ours, Envoy's; WAYPOINT_SEED={seed}: {method} {path} {headers:?}\n{own:?}\nin {general:?}"
        );
        let ((status, headers), upstream) = &found[0];
        let marks = headers
            .keys()
            .filter(|name| name.starts_with("access-control"))
            .count();
        let kind = format!(
            "{status}, marked {}, upstream {}",
            marks > 0,
            upstream.len()
        );
        *kinds.entry(kind).or_default() += 1;
    }
    println!("{kinds:#?}");
    assert!(kinds.len() >= 4, "{kinds:?}");
}
