//! Mirrors: what the shadow gets of Envoy, given the same resources, it gets of the waypoint.

use std::collections::BTreeMap;

use http::{Method, StatusCode};
use http_body_util::Full;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::mirrors::{marking_hosts, mirrored};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Ztunnel, get, request};
use waypoint_tests::{App, ControlPlane, Mesh, Seen};

/// What Envoy's client for shadows adds to a request that comes from nobody.
const ENVOYS_OWN: [&str; 2] = ["x-envoy-internal", "x-forwarded-for"];

/// A request without what is random, and without trailers: Envoy's HTTP/1 drops them.
fn essence(seen: &Seen) -> (String, BTreeMap<String, String>, String) {
    let headers = seen.headers.keys().map(|name| name.as_str());
    let headers = headers.filter(|name| *name != "x-request-id" && !ENVOYS_OWN.contains(name));
    (
        format!("{} {} {:?}", seen.method, seen.target, seen.version),
        headers
            .map(|name| (name.to_owned(), seen.header(name)))
            .collect(),
        format!("{} bytes", seen.body.len()),
    )
}

async fn copy(shadow: &App) -> Seen {
    until("a copy", async || shadow.seen().pop()).await
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_shadow_gets_what_it_gets_of_envoy() {
    let mesh = Mesh::new();
    let (to, _web) = mesh.http_service(1, "web").await;
    let (_, shadow) = mesh.http_service(2, "shadow").await;
    mirrored(&mesh, "");
    let resources = marking_hosts(&mesh, None);
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, _client) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    let (_envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let mut copies = Vec::new();
    for address in [waypoint.address(), address] {
        let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
        let mut seen = Vec::new();
        for length in [0, 3, 300_000, 1024 * 1024] {
            shadow.forget();
            let asked = request(Method::POST, "/a?b", &[("host", "web:80"), ("x-mine", "1")]);
            let asked = asked.map(|_| Full::new(vec![b'u'; length].into()));
            assert_eq!(ztunnel.request(to, asked).await.status, StatusCode::OK);
            seen.push(essence(&copy(&shadow).await));
        }
        shadow.forget();
        assert_eq!(
            ztunnel.http2(to).await.send(get("/two")).await.status,
            StatusCode::OK
        );
        seen.push(essence(&copy(&shadow).await));
        shadow.forget();
        let pieces = b"POST /pieces HTTP/1.1\r\nhost: web\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\
                       connection: close\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nx-sum: 5\r\n\r\n";
        assert!(ztunnel.raw(to, pieces).await.starts_with("HTTP/1.1 200"));
        seen.push(essence(&copy(&shadow).await));
        // One byte more than is copied passes alone.
        shadow.forget();
        let large = request(Method::POST, "/large", &[]);
        let large = large.map(|_| Full::new(vec![b'u'; 1024 * 1024 + 1].into()));
        assert_eq!(ztunnel.request(to, large).await.status, StatusCode::OK);
        assert_eq!(ztunnel.get(to, "/after").await.status, StatusCode::OK);
        seen.push(essence(&copy(&shadow).await));
        assert_eq!(seen.last().unwrap().0, "GET /after HTTP/1.1");
        copies.push(seen);
    }
    assert_eq!(copies[0], copies[1]);
}
