//! Retries: policies and answers made up at random lead to as many attempts as in Envoy, and to the same answer.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use envoy_types::pb::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, RetryBackOff,
};
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, HedgePolicy, RetryPolicy, RouteMatch, header_matcher::HeaderMatchSpecifier,
};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use fastrand::Rng;
use http::Method;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::route_changes::changed;
use waypoint_tests::seeds::{chance, one, seed};
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{App, ControlPlane, Mesh};

const POLICIES: usize = 80;
const REQUESTS: usize = 400;
/// How long an attempt may take where that is limited, and how long an application takes that is late.
const ATTEMPT: i32 = 150;
const LATE: &str = "900";

const CONDITIONS: [&str; 16] = [
    "5xx",
    "gateway-error",
    "reset",
    "reset-before-request",
    "connect-failure",
    "refused-stream",
    "retriable-4xx",
    "retriable-status-codes",
    "retriable-headers",
    "envoy-ratelimited",
    "http3-post-connect-failure",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

fn millis(millis: i32) -> Option<Duration> {
    Some(Duration {
        seconds: 0,
        nanos: millis * 1_000_000,
    })
}

fn header(name: &str, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PrefixMatch(value.into())),
        ..HeaderMatcher::default()
    }
}

fn policy(rng: &mut Rng) -> RetryPolicy {
    let mut conditions: Vec<&str> = (0..rng.usize(..6)).map(|_| one(rng, &CONDITIONS)).collect();
    conditions.dedup();
    let mut policy = RetryPolicy {
        retry_on: conditions.join(","),
        num_retries: Some(UInt32Value {
            value: rng.u32(..4).min(2),
        }),
        retry_back_off: Some(RetryBackOff {
            base_interval: millis(1),
            max_interval: millis(1),
        }),
        ..RetryPolicy::default()
    };
    if chance(rng, 60) {
        policy.retriable_status_codes = vec![418, 503];
    }
    if chance(rng, 60) {
        policy.retriable_headers = vec![header("x-again", "y"), header("grpc-status", "1")];
    }
    if chance(rng, 20) {
        policy.retriable_request_headers = vec![header("x-case", "1"), header("x-case", "3")];
    }
    if chance(rng, 20) {
        policy.rate_limited_retry_back_off = Some(RateLimitedRetryBackOff {
            reset_headers: vec![ResetHeader {
                name: "x-again".into(),
                format: 0,
            }],
            max_interval: millis(10),
        });
    }
    if chance(rng, 40) {
        policy.per_try_timeout = millis(ATTEMPT);
    }
    policy
}

/// What the application is to answer.
fn asked(rng: &mut Rng) -> Vec<(&'static str, String)> {
    let statuses = [
        "200", "200", "400", "409", "418", "429", "500", "502", "503", "504",
    ];
    let mut headers = vec![
        ("x-status", one(rng, &statuses).to_owned()),
        ("x-case", rng.u8(1..=3).to_string()),
    ];
    let marks = [
        "x-again=yes",
        "x-envoy-ratelimited=true",
        "grpc-status=0",
        "grpc-status=1",
        "grpc-status=4",
        "grpc-status=8",
        "grpc-status=13",
        "grpc-status=14",
    ];
    let mark = one(rng, &marks);
    let grpc = chance(rng, 40);
    if grpc {
        headers.push(("content-type", "application/grpc".to_owned()));
    }
    // Here gRPC's status says nothing of other requests.
    if chance(rng, 50) && (grpc || !mark.starts_with("grpc")) {
        headers.push(("x-answer-header", mark.to_owned()));
    }
    if chance(rng, 15) {
        headers.push(("x-delay-ms", LATE.to_owned()));
    }
    headers
}

/// What the client gets, and how many attempts the backends of each service saw.
async fn outcome(
    via: &Ztunnel,
    to: SocketAddr,
    path: &str,
    headers: &[(&str, String)],
    backends: &Backends,
) -> (u16, String, usize) {
    let before = backends.attempts();
    let headers: Vec<(&str, &str)> = headers.iter().map(|(n, v)| (*n, v.as_str())).collect();
    let mut asked = request(Method::POST, path, &headers);
    *asked.body_mut() = "a body".into();
    let answer = via.request(to, asked).await;
    let told = answer.header("grpc-message");
    let text = match told.is_empty() {
        true => String::from_utf8_lossy(&answer.body).into_owned(),
        false => told,
    };
    (answer.status.as_u16(), text, backends.attempts() - before)
}

struct Backends {
    web: App,
    shut: Arc<AtomicUsize>,
}

impl Backends {
    fn attempts(&self) -> usize {
        self.web.seen().len() + self.shut.load(Ordering::Relaxed)
    }
}

/// A service whose pod hangs up as soon as it was asked.
async fn hanging_up(mesh: &Mesh, n: u8) -> (SocketAddr, Arc<AtomicUsize>) {
    let (to, backend) = mesh.bare_service(n, "shut");
    let asked = Arc::new(AtomicUsize::default());
    let counter = asked.clone();
    App::tcp(backend, move |mut tcp| {
        let counter = counter.clone();
        async move {
            let mut head = [0; 4096];
            if tcp.read(&mut head).await.is_ok_and(|read| read > 0) {
                counter.fetch_add(1, Ordering::Relaxed);
            }
            let _ = tcp.shutdown().await;
        }
    })
    .await;
    (to, asked)
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn policies_and_answers_at_random_lead_to_the_same_attempts() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let mesh = Mesh::new();
    let (web, app) = mesh.http_service(1, "web").await;
    let (shut, hung_up) = hanging_up(&mesh, 2).await;
    let (gone, _) = mesh.bare_service(3, "gone");
    let backends = Backends {
        web: app,
        shut: hung_up,
    };
    let policies: Vec<(RetryPolicy, bool)> = (0..POLICIES)
        .map(|_| (policy(&mut rng), rng.bool()))
        .collect();
    let resources = changed(mesh.resources(), |host| {
        let Some(default) = host.routes.first().cloned() else {
            return;
        };
        // What routes don't say is the virtual host's.
        host.retry_policy = policies.first().map(|(policy, _)| policy.clone());
        host.hedge_policy = Some(HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..HedgePolicy::default()
        });
        let routes = policies.iter().enumerate().map(|(n, (policy, hedges))| {
            let mut route = default.clone();
            route.r#match = Some(RouteMatch {
                path_specifier: Some(PathSpecifier::Prefix(format!("/{n}/"))),
                ..RouteMatch::default()
            });
            if let Some(Action::Route(action)) = &mut route.action {
                let own = n % 5 > 0;
                action.retry_policy = own.then(|| policy.clone());
                action.hedge_policy = own.then(|| HedgePolicy {
                    hedge_on_per_try_timeout: *hedges,
                    ..HedgePolicy::default()
                });
            }
            route
        });
        host.routes = routes.collect();
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, ours) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let (_envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    let (mut retried, mut hedged) = (0, 0);
    let mut different = Vec::new();
    for n in 0..REQUESTS {
        let route = rng.usize(..POLICIES);
        let path = format!("/{route}/{n}");
        let to = [web, web, web, web, shut, gone][rng.usize(..6)];
        let headers = asked(&mut rng);
        let envoys = outcome(&theirs, to, &path, &headers, &backends).await;
        let found = outcome(&ours, to, &path, &headers, &backends).await;
        let (policy, hedges) = &policies[route];
        if found != envoys {
            different.push(format!(
                "{found:?}, Envoy {envoys:?}: {to} {headers:?} hedges {hedges} {policy:?}"
            ));
        }
        retried += usize::from(envoys.2 > 1);
        hedged += usize::from(*hedges && policy.per_try_timeout.is_some() && envoys.2 > 1);
    }
    drop(waypoint);
    println!("{retried} were retried, {hedged} perhaps beside each other");
    assert!(different.is_empty(), "{}: {different:#?}", different.len());
    assert!(retried > 8 && hedged > 0, "{retried} {hedged}");
}
