//! Faults: requests are held back, or answered in an upstream's place, as many and as long as their route says.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::route::v3::Route;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::fault_delay::FaultDelaySecifier;
use envoy_types::pb::envoy::extensions::filters::common::fault::v3::{FaultDelay, FaultRateLimit};
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::fault_abort::ErrorType;
use envoy_types::pb::envoy::extensions::filters::http::fault::v3::{FaultAbort, HttpFault};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Duration as DurationProto, Struct, UInt32Value, Value};
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use waypoint_tests::route_changes::{changed, told};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

const FILTER: &str = "envoy.filters.http.fault";
const FAULTS: &str = "waypoint_faults_total";

fn percent(numerator: u32) -> Option<FractionalPercent> {
    Some(FractionalPercent {
        numerator,
        denominator: 0,
    })
}

fn delay(millis: i32, share: u32) -> Option<FaultDelay> {
    Some(FaultDelay {
        percentage: percent(share),
        fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(DurationProto {
            seconds: i64::from(millis / 1000),
            nanos: millis % 1000 * 1_000_000,
        })),
    })
}

fn abort(error_type: ErrorType, share: u32) -> Option<FaultAbort> {
    Some(FaultAbort {
        percentage: percent(share),
        error_type: Some(error_type),
        ..FaultAbort::default()
    })
}

/// A waypoint whose service has routes with these faults by prefix of the path; `change` has the last word on them.
async fn faulty(
    mesh: &Mesh,
    faults: &[(&str, HttpFault)],
    change: impl Fn(&mut Route),
) -> (ControlPlane, Waypoint, Ztunnel, SocketAddr, App) {
    let (to, app) = mesh.http_service(1, "web").await;
    let resources = changed(mesh.resources(), |host| {
        let Some(default) = host.routes.first().cloned() else {
            return;
        };
        let of_prefix = |(prefix, fault): &(&str, HttpFault)| {
            let mut route = told(&default, prefix, FILTER, fault);
            change(&mut route);
            route
        };
        let routes = faults.iter().map(of_prefix);
        host.routes = routes.chain([default.clone()]).collect();
    });
    let istiod = ControlPlane::start(mesh).await;
    istiod.discovery.set(resources);
    let (waypoint, client) = mesh.started_under(&istiod).await;
    (istiod, waypoint, client, to, app)
}

#[tokio::test]
async fn requests_are_answered_in_an_upstreams_place() {
    let mesh = Mesh::new();
    let teapot = HttpFault {
        abort: abort(ErrorType::HttpStatus(418), 100),
        ..HttpFault::default()
    };
    let late = HttpFault {
        delay: delay(120, 100),
        ..teapot.clone()
    };
    let grpc = HttpFault {
        abort: abort(ErrorType::GrpcStatus(8), 100),
        ..HttpFault::default()
    };
    let some = HttpFault {
        abort: abort(ErrorType::HttpStatus(418), 30),
        ..HttpFault::default()
    };
    let faults = [
        ("/teapot", teapot),
        ("/late", late),
        ("/grpc", grpc),
        ("/some", some),
    ];
    let (_istiod, waypoint, client, to, app) = faulty(&mesh, &faults, |_| {}).await;
    let answer = client.get(to, "/teapot/a").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::IM_A_TEAPOT, "fault filter abort")
    );
    let line = waypoint.until_logged("/teapot/a").await;
    assert!(line.contains(" 418 FI fault_filter_abort "), "{line}");

    let began = Instant::now();
    let answer = client.get(to, "/late/a").await;
    assert_eq!(answer.status, StatusCode::IM_A_TEAPOT);
    assert!(began.elapsed() >= Duration::from_millis(120));
    let line = waypoint.until_logged("/late/a").await;
    assert!(line.contains(" 418 DI,FI fault_filter_abort "), "{line}");

    // What gRPC can read, where it is gRPC.
    let content = [("content-type", "application/grpc")];
    let answer = client
        .request(to, request(Method::POST, "/grpc", &content))
        .await;
    let told = ["grpc-status", "grpc-message"].map(|name| answer.header(name));
    assert_eq!(
        (answer.status, told),
        (
            StatusCode::OK,
            ["8", "fault filter abort"].map(str::to_owned)
        )
    );
    let answer = client.get(to, "/grpc").await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::OK, "fault filter abort")
    );
    assert!(app.seen().is_empty(), "an aborted request got upstream");

    let mut connection = client.http1(to).await;
    let mut aborted = 0.0;
    for _ in 0..200 {
        let answer = connection.send(request(Method::GET, "/some", &[])).await;
        aborted += f64::from(u8::from(answer.status == StatusCode::IM_A_TEAPOT));
    }
    assert!((25.0..100.0).contains(&aborted), "three of ten: {aborted}");
    waypoint
        .until_metric(FAULTS, &[("kind", "abort")], aborted + 4.0)
        .await;
    waypoint
        .until_metric(FAULTS, &[("kind", "delay")], 1.0)
        .await;
}

#[tokio::test]
async fn a_delay_comes_before_the_routes_own_time() {
    let mesh = Mesh::new();
    let slow = HttpFault {
        delay: delay(600, 100),
        ..HttpFault::default()
    };
    let in_time = |route: &mut Route| {
        if let Some(Action::Route(action)) = &mut route.action {
            action.timeout = Some(DurationProto {
                seconds: 0,
                nanos: 400_000_000,
            });
        }
    };
    let faults = [("/slow", slow)];
    let (_istiod, waypoint, client, to, app) = faulty(&mesh, &faults, in_time).await;
    let body = request(Method::POST, "/slow/a", &[]).map(|_| "sent at once".into());
    let began = Instant::now();
    let answer = client.request(to, body).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(began.elapsed() >= Duration::from_millis(600));
    assert_eq!(app.last().body, "sent at once");
    let line = waypoint.until_logged("/slow/a").await;
    assert!(line.contains(" 200 DI via_upstream "), "{line}");
    // What the application takes counts as ever.
    let late = [("x-delay-ms", "5000")];
    let answer = client
        .request(to, request(Method::GET, "/slow/b", &late))
        .await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_delay_ends_with_its_client_and_makes_room_for_others() {
    let mesh = Mesh::new();
    let long = HttpFault {
        delay: delay(3_600_000, 100),
        max_active_faults: Some(UInt32Value { value: 1 }),
        ..HttpFault::default()
    };
    let faults = [("/long", long)];
    let (_istiod, waypoint, client, to, app) = faulty(&mesh, &faults, |_| {}).await;
    let delayed = [("kind", "delay")];
    for (n, head) in [
        "GET /long/a HTTP/1.1\r\nhost: web\r\n\r\n",
        "POST /long/b HTTP/1.1\r\nhost: web\r\ncontent-length: 9\r\n\r\nwhole one",
        "POST /long/c HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\n\r\n3\r\nand\r\n",
    ]
    .iter()
    .enumerate()
    {
        let mut tunnel = client.tunnel(to).await;
        tunnel.write_all(head.as_bytes()).await.unwrap();
        let count = f64::from(u8::try_from(n).unwrap());
        waypoint.until_metric(FAULTS, &delayed, count + 1.0).await;
        // The one that may be is there: another one passes, at once.
        assert_eq!(client.get(to, "/long/other").await.status, StatusCode::OK);
        waypoint
            .until_metric(FAULTS, &[("kind", "overflow")], count + 1.0)
            .await;
        assert_eq!(app.last().target, "/long/other");
        drop(tunnel);
        let path = head.split(' ').nth(1).unwrap();
        let line = waypoint.until_logged(path).await;
        assert!(line.contains("DI") && line.contains("DC"), "{line}");
    }
    assert_eq!(app.seen().len(), 3, "one that was held back got upstream");
}

#[tokio::test]
async fn a_fault_tells_of_itself_and_what_is_not_built_is_refused_by_name() {
    let mesh = Mesh::new();
    let why = "%DYNAMIC_METADATA(envoy.filters.http.fault:why)%";
    mesh.access_log_format(&format!("%REQ(:PATH)% {why} %RESPONSE_FLAGS%\n"));
    let text = Value {
        kind: Some(Kind::StringValue("drill".into())),
    };
    let mut drill = HttpFault {
        abort: abort(ErrorType::HttpStatus(500), 100),
        filter_metadata: Some(Struct {
            fields: [("why".to_owned(), text)].into(),
        }),
        ..HttpFault::default()
    };
    if let Some(abort) = &mut drill.abort {
        abort.response_body = "a drill".into();
    }
    let faults = [("/drill", drill.clone())];
    let (istiod, waypoint, client, to, _app) = faulty(&mesh, &faults, |_| {}).await;
    assert_eq!(client.get(to, "/drill").await.text(), "a drill");
    assert_eq!(waypoint.until_logged("/drill").await, "/drill drill FI");
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    assert_eq!(waypoint.until_logged("/ ").await, "/ - -");

    let of_one = HttpFault {
        upstream_cluster: "elsewhere".into(),
        ..drill.clone()
    };
    let slow = HttpFault {
        response_rate_limit: Some(FaultRateLimit::default()),
        ..drill
    };
    for (fault, field) in [(of_one, "upstream_cluster"), (slow, "response_rate_limit")] {
        let resources = changed(mesh.resources(), |host| {
            for route in &mut host.routes {
                *route = told(route, "/", FILTER, &fault);
            }
        });
        istiod.discovery.set(resources);
        let field = format!("typed_per_filter_config[\"{FILTER}\"].{field}");
        waypoint.until_problem(&field).await;
        // The last good version stays.
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
    }
}
