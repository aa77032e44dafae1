//! Whom a stream is for: pods themselves, services outside of the mesh, two families of addresses, endpoints that
//! aren't ready.

use std::collections::BTreeMap;
use std::fs;
use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::net::TcpStream;
use waypoint_tests::name_server::NameServer;
use waypoint_tests::scenario::{BOOKINFO, Scenario, service, without_objects};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Ztunnel};

async fn echo(mut tcp: TcpStream) {
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn waypoint_for_all() {
    let scenario = Scenario::start("waypoint-for-all").await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    let client = scenario.client("curl").await;
    let pod = scenario.pod_address("ratings-v1", 9080);
    let answer = client.get(pod, "/by-address").await;
    assert_eq!(
        (answer.status, answer.header("x-app").as_str()),
        (StatusCode::OK, "ratings-v1")
    );
    let tunnels = scenario.ztunnel("ratings-v1").connects();
    assert_eq!(tunnels.last().unwrap().authority, pod.to_string());
    scenario
        .until_logged(&["GET /by-address", " encap ", &format!(" {pod} ")])
        .await;
    scenario
        .until_metric(
            "istio_requests_total",
            &[
                ("source_workload", "curl"),
                ("destination_workload", "ratings-v1"),
                ("destination_service_name", "unknown"),
                ("response_code", "200"),
            ],
            1.0,
        )
        .await;
    // Its service goes the service's way; a policy on the Gateway holds for both.
    let ratings = service("ratings");
    assert_eq!(client.get(ratings, "/").await.status, StatusCode::OK);
    for to in [pod, ratings] {
        let post = request(Method::POST, "/", &[]);
        let denied = client.request(to, post).await;
        assert_eq!(denied.status, StatusCode::FORBIDDEN, "{to}");
    }

    // Bytes that aren't HTTP. On a policy's port there is no method to look at: nobody passes.
    let other = scenario.pod_address("ratings-v1", 9000);
    for to in [pod, other] {
        if to == other {
            App::tcp(to, echo).await;
        }
        let (answer, _) = client.exchange(to, b"\0\0\0\0").await;
        let expected = if to == other { "\0\0\0\0" } else { "" };
        assert_eq!(answer, expected, "{to}");
    }

    // A service that has no waypoint, though its namespace has; its pod has.
    let (status, _) = client
        .connect_to(&service("details").to_string(), &[])
        .await
        .unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
    let details = scenario.pod_address("details-v1", 9080);
    assert_eq!(client.get(details, "/").await.status, StatusCode::OK);
    // A pod of another namespace.
    let legacy = scenario.pod_address("legacy", 8080).to_string();
    let (status, _) = client.connect_to(&legacy, &[]).await.unwrap();
    assert_eq!(status, StatusCode::NOT_FOUND);
}

fn external(n: u8) -> SocketAddr {
    SocketAddr::from(([240, 240, 0, n], 80))
}

/// A service outside that has no addresses but those of its name.
fn named(n: u8, resolution: &str) -> String {
    format!(
        "\n---\napiVersion: networking.istio.io/v1\nkind: ServiceEntry\n\
         metadata: {{name: named-{n}, namespace: default, labels: {{istio.io/use-waypoint: waypoint}}}}\n\
         spec:\n  hosts: [named-{n}.external.test]\n  addresses: [{}]\n  resolution: {resolution}\n\
         \x20 ports: [{{number: 80, name: http, protocol: HTTP, targetPort: 8080}}]\n  location: MESH_EXTERNAL\n",
        external(n).ip()
    )
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn egress() {
    // Ports that anybody may listen on.
    let names = NameServer::start().await;
    let server = names.address.to_string();
    let variables = [("WAYPOINT_DNS_SERVERS", server.as_str())];
    let mut scenario = Scenario::start_with("egress", &variables, |text| {
        // The names lead to the farther one of the static addresses.
        let far = text.split(", locality: r2/r2-a").next().unwrap();
        let far = far.rsplit("address: ").next().unwrap().parse().unwrap();
        names.set("named-4.external.test", &[far], 3600);
        names.set("named-5.external.test", &[far], 3600);
        let text = text + &named(4, "DNS") + &named(5, "DNS_ROUND_ROBIN");
        text.replace(
            ", locality: r2/r2-a",
            ", ports: {http: 8080}, locality: r2/r2-a",
        )
        .replace(
            "serviceAccount: vm,",
            "serviceAccount: vm, ports: {http: 9080},",
        )
    })
    .await;
    scenario.pod.until_ready().await;
    scenario.until_refused(&[]).await;
    let client = scenario.client("curl").await;
    // A name that nobody knows is unavailable; who may not ask isn't told so much.
    assert_eq!(
        client.get(external(1), "/").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    scenario
        .until_logged(&[" 503 UH ", "inbound-vip|80|http|api.external.test"])
        .await;
    let post = request(Method::POST, "/", &[]);
    let denied = client.request(external(1), post).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let stranger = scenario.client("stranger").await;
    let denied = stranger.get(external(1), "/").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);

    // Addresses by weight: three to one.
    let mut connection = client.http1(external(2)).await;
    let mut answered = BTreeMap::new();
    for _ in 0..100 {
        let answer = connection.send(get("/")).await;
        assert_eq!(answer.status, StatusCode::OK);
        *answered.entry(answer.header("x-app")).or_insert(0) += 1;
    }
    assert!((10..45).contains(&answered["static-far"]), "{answered:?}");
    scenario
        .until_metric(
            "istio_requests_total",
            &[("destination_service", "static.external.test")],
            100.0,
        )
        .await;
    // Addresses by name.
    for n in [4, 5] {
        let answer = client.get(external(n), "/").await;
        assert_eq!(answer.header("x-app"), "static-far", "{n}");
    }
    // A machine of the mesh outside of Kubernetes.
    let answer = client.get(external(3), "/").await;
    assert_eq!(answer.header("x-app"), "vm");
    let tunnels = scenario.ztunnel("vm").connects();
    assert_eq!(
        tunnels[0].authority,
        scenario.pod_address("vm", 9080).to_string()
    );

    scenario.change(|text| without_objects(text, &["name: dns", "name: wildcard"]));
    scenario.until_refused(&[]).await;
    scenario.istiod.until_synced().await;
}

/// What slices say of an endpoint. Istiod sends those that are ready, and those that are not and stay: as unhealthy.
const READY: &str = "{ready: true}";
const UNREADY: &str = "{ready: false, terminating: false}";
const LEAVING: &str = "{ready: false, serving: true, terminating: true}";
/// Whether it stays isn't said: not sent.
const UNTOLD: &str = "{ready: false}";

const DISTRIBUTE: &str = r#"
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata: {name: dual, namespace: default}
spec:
  host: dual.default.svc.cluster.local
  trafficPolicy:
    loadBalancer:
      localityLbSetting:
        enabled: true
        distribute: [{from: r1/*, to: {r1/r1-a/*: 20, r1/r1-b/*: 80}}]
"#;

/// Two zones; the waypoint is in that of `reviews-v1`, `reviews-v2` is in the other.
async fn traffic_distribution(scenario: &mut Scenario, client: &Ztunnel, to: SocketAddr) {
    // `PreferClose`. Of two that are near one is ready: 0.7 stay, the rest goes to the other zone.
    scenario.change(|text| text.replace(LEAVING, READY).replace(UNTOLD, UNREADY));
    until_answered_by(client, to, "reviews-v2", 1).await;
    let far = share_of(client, to, "reviews-v2").await;
    assert!((30..95).contains(&far), "60 of 200: {far}");
    // All stays while all that are near are ready, goes when nobody is, and comes back.
    scenario.change(|text| text.replace(UNREADY, LEAVING));
    until_answered_by(client, to, "reviews-v1", 30).await;
    scenario.change(|text| text.replacen(READY, UNREADY, 1));
    until_answered_by(client, to, "reviews-v2", 30).await;
    scenario.change(|text| text.replace(UNREADY, READY));
    until_answered_by(client, to, "reviews-v1", 30).await;
    // A DestinationRule's weights come before that.
    scenario.change(|text| format!("{text}{DISTRIBUTE}"));
    until_answered_by(client, to, "reviews-v2", 1).await;
    let far = share_of(client, to, "reviews-v2").await;
    assert!((130..185).contains(&far), "160 of 200: {far}");
    scenario.until_refused(&[]).await;
}

/// How many of 200 requests an app answers.
async fn share_of(client: &Ztunnel, to: SocketAddr, app: &str) -> usize {
    let mut connection = client.http1(to).await;
    let mut share = 0;
    for _ in 0..200 {
        share += usize::from(connection.send(get("/")).await.header("x-app") == app);
    }
    share
}

/// Waits until this app answers `times` in a row.
async fn until_answered_by(client: &Ztunnel, to: SocketAddr, app: &str, times: usize) {
    let mut connection = client.http1(to).await;
    until(app, async || {
        for _ in 0..times {
            if connection.send(get("/")).await.header("x-app") != app {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
#[ignore = "needs istiod"]
async fn dual_stack() {
    let both = [("INSTANCE_IP", "10.1.250.1,fd00:250::1")];
    let mut scenario = Scenario::start_with("dual-stack", &both, |text| text).await;
    scenario.until_refused(&[]).await;
    scenario.pod.until_ready().await;
    let client = scenario.client("curl").await;
    let (v4, v6) = (
        "10.43.60.1:80".parse().unwrap(),
        "[fd00::60:1]:80".parse().unwrap(),
    );
    // One of three endpoints is ready; both families lead to it.
    for to in [v4, v6] {
        let mut connection = client.http1(to).await;
        for _ in 0..20 {
            let answer = connection.send(get("/")).await;
            assert_eq!(answer.header("x-app"), "reviews-v1");
        }
    }
    scenario.until_logged(&[" [fd00::60:1]:80 "]).await;

    traffic_distribution(&mut scenario, &client, v4).await;
    // A headless service has no address but its pods', and those only a waypoint for all of it serves.
    let details = scenario.pod_address("details-v1", 9080);
    let refused = client.connect_to(&details.to_string(), &[]).await;
    assert_eq!(refused.unwrap().0, StatusCode::NOT_FOUND);
    let bookinfo = fs::read_to_string(scenario.mesh.manifests().join(BOOKINFO)).unwrap();
    let for_all = bookinfo.replace("waypoint-for: service", "waypoint-for: all");
    scenario.mesh.manifest(BOOKINFO, &for_all);
    scenario.until_status(&client, details, "/", 200).await;
    scenario.istiod.until_synced().await;
}
