//! Mirrors of a route: another service gets a copy of its requests, and whatever it does with them, nobody feels it.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::Full;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::mirrors::{marking_hosts, mirrored};
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, ControlPlane, Mesh, Seen, Waypoint};

/// The cluster of the service that gets copies.
const SHADOW: &str = "inbound-vip|80|http|shadow.default.svc.cluster.local";
const CALLOUTS: &str = "waypoint_callouts_total";
const DROPPED: &str = "waypoint_mirrors_dropped_total";

fn post(path: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let body = body.into();
    request(Method::POST, path, &[("x-mine", "1")]).map(|_| Full::new(body))
}

/// What came of the callouts to the shadow.
async fn callouts(waypoint: &Waypoint, result: &str) -> f64 {
    let labels = [("cluster", SHADOW), ("result", result)];
    waypoint.metric(CALLOUTS, &labels).await
}

async fn until_seen(app: &App, requests: usize) -> Vec<Seen> {
    until(&format!("{requests} copies"), async || {
        Some(app.seen()).filter(|seen| seen.len() >= requests)
    })
    .await
}

#[tokio::test]
async fn the_shadow_gets_what_the_service_gets() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let (waypoint, client) = mesh.started().await;
    let large = vec![b'u'; 300_000];
    let requests = [
        get("/a?b=c"),
        post("/small", "abc"),
        post("/empty", ""),
        post("/large", large),
    ];
    let (mut http1, http2) = (client.http1(to).await, client.http2(to).await);
    for asked in requests {
        for over_http2 in [false, true] {
            web.forget();
            shadow.forget();
            let asked = asked.clone();
            let answer = match over_http2 {
                true => http2.send(asked).await,
                false => http1.send(asked).await,
            };
            assert_eq!(answer.text(), "web\n");
            let copy = until_seen(&shadow, 1).await.remove(0);
            let original = web.last();
            assert_eq!(
                (&copy.method, &copy.target),
                (&original.method, &original.target)
            );
            assert_eq!(copy.headers, original.headers);
            assert_eq!(copy.header("x-route"), "changed");
            assert_eq!(copy.body, original.body);
        }
    }
    let labels = [("cluster", SHADOW), ("result", "answered")];
    waypoint.until_metric(CALLOUTS, &labels, 8.0).await;
    assert!(shadow.connections() <= 8);
    // Its answers are nobody's: they aren't in the records.
    let shadows = [("destination_service_name", "shadow")];
    assert_eq!(waypoint.metric("istio_requests_total", &shadows).await, 0.0);
}

#[tokio::test]
async fn a_body_in_pieces_comes_as_it_went_on() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let (_waypoint, client) = mesh.started().await;
    let asked =
        b"POST /pieces HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
                  connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
    let answer = client.raw(to, asked).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let copy = until_seen(&shadow, 1).await.remove(0);
    assert_eq!((&copy.body[..], web.last().body.len()), (&b"abcde"[..], 5));
    // Trailers of HTTP/1 are dropped on the way.
    assert_eq!((copy.trailers, web.last().trailers), (None, None));
}

#[tokio::test]
async fn half_of_the_requests() {
    let mesh = Mesh::new();
    let (to, _web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, ", percent: 50");
    let (waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for _ in 0..400 {
        assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
    }
    // Whatever is on its way comes in.
    let mut before = -1.0;
    until("all that come", async || {
        let now = callouts(&waypoint, "answered").await;
        let rests = now > 0.0 && now == std::mem::replace(&mut before, now);
        rests.then_some(())
    })
    .await;
    let copies = shadow.seen().len();
    assert!((140..260).contains(&copies), "{copies} of 400");
}

#[tokio::test]
async fn nobody_feels_a_shadow_that_is_not_there_or_breaks_off() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, backend) = mesh.bare_service(2, "shadow");
    mirrored(&mesh, "");
    let (waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    let mut ask = async |n: usize| {
        web.forget();
        for _ in 0..n {
            let answer = within("the answer", connection.send(post("/", "abc"))).await;
            assert_eq!(
                (answer.status, answer.text().as_str()),
                (StatusCode::OK, "web\n")
            );
        }
        assert_eq!(web.seen().len(), n);
    };
    ask(20).await;
    let refused = [("cluster", SHADOW), ("result", "connect")];
    waypoint.until_metric(CALLOUTS, &refused, 20.0).await;

    App::tcp(backend, |mut tcp: TcpStream| async move {
        let _ = tcp.read(&mut [0; 64]).await;
        let _ = tcp
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nabc")
            .await;
    })
    .await;
    ask(20).await;
    until("all broke off", async || {
        (callouts(&waypoint, "broken_off").await == 20.0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn nobody_feels_a_shadow_that_never_answers_and_there_is_a_bound() {
    let mesh = Mesh::new();
    let (to, _web) = mesh.http_service(1, "web").await;
    let (_, backend) = mesh.bare_service(2, "shadow");
    let stalled: Arc<Mutex<Vec<TcpStream>>> = Arc::default();
    let kept = stalled.clone();
    App::tcp(backend, move |tcp| {
        kept.lock().push(tcp);
        std::future::ready(())
    })
    .await;
    mirrored(&mesh, "");
    let (waypoint, client) = mesh.started().await;
    let connection = client.http2(to).await;
    // More than may be under way.
    for _ in 0..1_100 {
        let answer = within("the answer", connection.send(get("/"))).await;
        assert_eq!(answer.status, StatusCode::OK);
    }
    until("what is too much fails", async || {
        (callouts(&waypoint, "overflow").await >= 1.0).then_some(())
    })
    .await;
    assert_eq!(callouts(&waypoint, "answered").await, 0.0);
    assert!(!stalled.lock().is_empty());
}

#[tokio::test]
async fn a_body_of_more_than_is_copied_passes_alone() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let (waypoint, client) = mesh.started().await;
    let length = 1024 * 1024;
    let asked = post("/", vec![b'u'; length + 1]);
    assert_eq!(client.request(to, asked).await.status, StatusCode::OK);
    assert_eq!(web.last().body.len(), length + 1);
    let dropped = [("cluster", SHADOW), ("reason", "too_large")];
    waypoint.until_metric(DROPPED, &dropped, 1.0).await;
    assert!(shadow.seen().is_empty());
    // As much as may be.
    let asked = post("/", vec![b'u'; length]);
    assert_eq!(client.request(to, asked).await.status, StatusCode::OK);
    assert_eq!(until_seen(&shadow, 1).await[0].body.len(), length);
}

#[tokio::test]
async fn a_request_that_never_comes_whole_has_no_copy() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let (waypoint, client) = mesh.started().await;
    let mut tunnel = client.tunnel(to).await;
    let begun = b"POST / HTTP/1.1\r\nhost: web\r\ncontent-length: 10\r\n\r\nabc";
    tunnel.write_all(begun).await.unwrap();
    until("it is on its way", async || {
        (web.connections() == 1).then_some(())
    })
    .await;
    drop(tunnel);
    let dropped = [("cluster", SHADOW), ("reason", "incomplete")];
    waypoint.until_metric(DROPPED, &dropped, 1.0).await;
    assert!(shadow.seen().is_empty());
}

#[tokio::test]
async fn the_host_says_what_it_is_and_a_cluster_may_be_missing() {
    let mesh = Mesh::new();
    let (to, web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(marking_hosts(&mesh, Some("nowhere")));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let asked = request(Method::GET, "/", &[("host", "web:80")]);
    assert_eq!(client.request(to, asked).await.status, StatusCode::OK);
    let copy = until_seen(&shadow, 1).await.remove(0);
    assert_eq!(
        (copy.header("host"), web.last().header("host")),
        ("web-shadow:80".into(), "web:80".into())
    );
    let missing = [("cluster", "nowhere"), ("result", "no_cluster")];
    waypoint.until_metric(CALLOUTS, &missing, 1.0).await;
}
