//! Hedged requests: an attempt that takes too long goes on beside another one, and the first good answer is given.

use std::sync::atomic::{AtomicUsize, Ordering};

use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::route::v3::{HedgePolicy, RetryPolicy};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use http::{Method, StatusCode};
use waypoint_config::resource::Resource;
use waypoint_tests::balancing::routes;
use waypoint_tests::route_changes::changed;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{ControlPlane, Mesh, Script, Then};

/// Each attempt has so many milliseconds, and two may follow the first.
fn limited(mesh: &Mesh, service: &str, millis: i32, hedges: bool) -> Vec<Resource> {
    let mut resources = mesh.resources();
    routes(&mut resources, service, |route| {
        route.retry_policy = Some(RetryPolicy {
            retry_on: "5xx".into(),
            num_retries: Some(UInt32Value { value: 2 }),
            per_try_timeout: Some(Duration {
                seconds: 0,
                nanos: millis * 1_000_000,
            }),
            ..RetryPolicy::default()
        });
        route.hedge_policy = hedges.then(|| HedgePolicy {
            hedge_on_per_try_timeout: true,
            ..HedgePolicy::default()
        });
    });
    resources
}

#[tokio::test]
async fn what_a_route_does_not_say_its_virtual_host_says() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let own = |retries| RetryPolicy {
        retry_on: "5xx".into(),
        num_retries: Some(UInt32Value { value: retries }),
        ..RetryPolicy::default()
    };
    for (of_route, of_host, attempts) in [
        (None, Some(own(2)), 3),
        (Some(own(1)), Some(own(2)), 2),
        (Some(RetryPolicy::default()), Some(own(2)), 1),
        (None, None, 1),
    ] {
        let resources = changed(mesh.resources(), |host| {
            host.retry_policy.clone_from(&of_host);
            for route in &mut host.routes {
                if let Some(Action::Route(action)) = &mut route.action {
                    action.retry_policy.clone_from(&of_route);
                }
            }
        });
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(resources);
        let (_waypoint, client) = mesh.started_under(&istiod).await;
        app.forget();
        let asked = request(Method::GET, "/", &[("host", "web"), ("x-status", "500")]);
        client.request(to, asked).await;
        assert_eq!(app.seen().len(), attempts, "{of_route:?} {of_host:?}");
    }
}

#[tokio::test]
async fn who_answers_first_answers() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let asked = AtomicUsize::default();
    // Every first attempt is never answered.
    let script = Script::start(backend, move |_| {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nsecond";
        match asked.fetch_add(1, Ordering::Relaxed) % 2 {
            0 => (Vec::new(), Then::Wait),
            _ => (answer.to_vec(), Then::Wait),
        }
    })
    .await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(limited(&mesh, "web", 200, true));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    for n in 1..=3 {
        let asked = request(Method::GET, &format!("/{n}"), &[("host", "web")]);
        let answer = client.request(to, asked).await;
        assert_eq!(answer.status, StatusCode::OK);
        assert_eq!(&*answer.body, b"second");
        assert_eq!(script.heads().len(), 2 * n);
        let line = waypoint.until_logged(&format!("GET /{n} ")).await;
        assert!(line.contains(" 200 - via_upstream "), "{line}");
    }
}

#[tokio::test]
async fn a_late_answer_is_still_an_answer_and_a_body_goes_with_each_attempt() {
    for (hedges, status) in [(true, StatusCode::OK), (false, StatusCode::GATEWAY_TIMEOUT)] {
        let mesh = Mesh::new();
        let (to, app) = mesh.http_service(1, "web").await;
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(limited(&mesh, "web", 200, hedges));
        let (waypoint, client) = mesh.started_under(&istiod).await;
        let late = [("host", "web"), ("x-delay-ms", "1500")];
        let mut asked = request(Method::POST, "/late", &late);
        *asked.body_mut() = "the whole body".into();
        let answer = client.request(to, asked).await;
        assert_eq!(answer.status, status, "{hedges}");
        let seen = app.seen();
        assert_eq!(seen.len(), 3, "{hedges}");
        assert!(seen.iter().all(|seen| &*seen.body == b"the whole body"));
        let line = waypoint.until_logged("POST /late ").await;
        let told = match hedges {
            true => " 200 URX via_upstream ",
            false => " 504 URX,UT upstream_per_try_timeout ",
        };
        assert!(line.contains(told), "{line}");
    }
}

#[tokio::test]
async fn a_bad_answer_waits_for_a_better_one() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_service(1, "web");
    let asked = AtomicUsize::default();
    let script = Script::start(backend, move |_| {
        let answer = |status: &str| format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\n\r\n");
        match asked.fetch_add(1, Ordering::Relaxed) {
            0 => (Vec::new(), Then::Wait),
            1 => (answer("503 Bad").into_bytes(), Then::Wait),
            _ => (answer("200 OK").into_bytes(), Then::Wait),
        }
    })
    .await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(limited(&mesh, "web", 200, true));
    let (_waypoint, client) = mesh.started_under(&istiod).await;
    let answer = client.get(to, "/").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(script.heads().len(), 3);
}
