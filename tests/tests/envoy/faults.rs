//! Faults: settings and requests made up at random, with the same answers and the same upstream as Envoy's.

use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{HeaderMatcher, RedirectAction};
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::FaultDelay;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::{
    FaultDelaySecifier, HeaderDelay,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::{
    ErrorType, HeaderAbort,
};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};
use fastrand::Rng;
use http::Method;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::route_changes::{changed, told};
use waypoint_tests::seeds::seed;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{Answer, ControlPlane, Mesh};

const FILTER: &str = "envoy.filters.http.fault";
const FAULTS: usize = 60;
const REQUESTS: usize = 300;
const DELAY: Duration = Duration::from_millis(250);
/// Envoy's timers may ring a little early.
const HELD_BACK: Duration = Duration::from_millis(200);

fn any<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

/// All or nothing, so that no answer is left to chance.
fn share(rng: &mut Rng) -> Option<FractionalPercent> {
    let numerator = any(rng, &[0, 1_000_000, 1_000_000, 1_000_000, 1_000_000]);
    (rng.u8(..10) > 0).then_some(FractionalPercent {
        numerator,
        denominator: 2,
    })
}

fn fault(rng: &mut Rng) -> HttpFault {
    let delay = (rng.u8(..3) == 0).then(|| FaultDelay {
        percentage: share(rng),
        fault_delay_secifier: Some(if rng.bool() {
            FaultDelaySecifier::HeaderDelay(HeaderDelay {})
        } else {
            FaultDelaySecifier::FixedDelay(DurationProto {
                seconds: 0,
                nanos: i32::try_from(DELAY.as_nanos()).unwrap(),
            })
        }),
    });
    let abort = (rng.u8(..3) > 0).then(|| FaultAbort {
        percentage: share(rng),
        error_type: Some(match rng.u8(..3) {
            0 => ErrorType::HeaderAbort(HeaderAbort {}),
            1 => ErrorType::GrpcStatus(any(rng, &[0, 5, 14])),
            _ => ErrorType::HttpStatus(any(rng, &[200, 404, 418, 503, 599])),
        }),
        response_body: any(rng, &["", "out of order"]).into(),
    });
    let matcher = HeaderMatcher {
        name: "x-kind".into(),
        header_match_specifier: Some(HeaderMatchSpecifier::PresentMatch(rng.bool())),
        ..HeaderMatcher::default()
    };
    HttpFault {
        delay,
        abort,
        headers: if rng.u8(..4) == 0 {
            vec![matcher]
        } else {
            Vec::new()
        },
        downstream_nodes: match rng.u8(..5) {
            0 => vec!["a".into(), "b".into()],
            _ => Vec::new(),
        },
        max_active_faults: (rng.u8(..5) == 0).then(|| UInt32Value {
            value: rng.u32(..2),
        }),
        ..HttpFault::default()
    }
}

fn headers(rng: &mut Rng) -> Vec<(&'static str, &'static str)> {
    let mut headers = Vec::new();
    for (name, chance, values) in [
        ("content-type", 0.3, &["application/grpc", "text/plain"][..]),
        ("x-kind", 0.5, &["blue"]),
        ("x-envoy-downstream-service-node", 0.4, &["a", "c"]),
        ("x-envoy-fault-delay-request", 0.5, &["250", "0", "soon"]),
        (
            "x-envoy-fault-delay-request-percentage",
            0.2,
            &["0", "1000000", "x"],
        ),
        (
            "x-envoy-fault-abort-request",
            0.5,
            &["503", "200", "199", "600", "x"],
        ),
        ("x-envoy-fault-abort-request", 0.1, &["404"]),
        ("x-envoy-fault-abort-grpc-request", 0.5, &["5", "0", "x"]),
        (
            "x-envoy-fault-abort-request-percentage",
            0.2,
            &["0", "1000000"],
        ),
    ] {
        if rng.f32() < chance {
            headers.push((name, any(rng, values)));
        }
    }
    headers
}

/// What was answered, without what time it is and how long it took.
fn essence(answer: &Answer) -> (u16, Vec<String>, String) {
    let mut headers = Vec::new();
    for (name, value) in &answer.headers {
        if !["date", "x-envoy-upstream-service-time"].contains(&name.as_str()) {
            headers.push(format!("{name}: {}", value.to_str().unwrap()));
        }
    }
    headers.sort();
    (answer.status.as_u16(), headers, answer.text())
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn faults_and_requests_at_random_are_answered_as_by_envoy() {
    let seed = seed();
    let mut rng = Rng::with_seed(seed);
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let faults: Vec<HttpFault> = (0..FAULTS).map(|_| fault(&mut rng)).collect();
    let resources = changed(mesh.resources(), |host| {
        let Some(default) = host.routes.first().cloned() else {
            return;
        };
        let routes = faults.iter().enumerate().map(|(n, fault)| {
            let mut route = told(&default, &format!("/{n}/"), FILTER, fault);
            if n % 10 == 9 {
                route.action = Some(Action::Redirect(RedirectAction::default()));
            }
            route
        });
        host.routes = routes.collect();
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
    let (mut delayed, mut aborted) = (0, 0);
    for n in 0..REQUESTS {
        // Behind the last there is no route.
        let route = rng.usize(..=FAULTS);
        let path = format!("/{route}/{n}");
        let headers = headers(&mut rng);
        let mut found = Vec::new();
        for connection in [&mut ours, &mut theirs] {
            app.forget();
            let began = Instant::now();
            let answer = connection
                .send(request(Method::POST, &path, &headers))
                .await;
            let held_back = began.elapsed() >= HELD_BACK;
            found.push((essence(&answer), app.seen().len(), held_back));
        }
        let own = faults.get(route);
        assert_eq!(
            found[0], found[1],
            "ours, Envoy's; WAYPOINT_SEED={seed}: {path} {headers:?}\n{own:?}"
        );
        delayed += usize::from(found[0].2);
        aborted += usize::from(found[0].1 == 0);
    }
    println!("of {REQUESTS} {delayed} were delayed, {aborted} didn't get upstream");
    assert!(delayed > 5 && aborted > 30);
}
