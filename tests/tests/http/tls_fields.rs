//! Access logs that print certificates: whoever asks gets them, of the tunnel and of HBONE upstream, also when the connection is
//! gone by the time the line is written. How they are spelt is compared with Envoy (`make test-envoy`).

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_hbone::identity::Identity;
use waypoint_tests::scripted_ca::Signer;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{Shown, get, request};
use waypoint_tests::{App, Mesh, Ztunnel};

const FORMAT: &str = "%REQ(:PATH)% peer[%DOWNSTREAM_PEER_SUBJECT%|%DOWNSTREAM_PEER_SERIAL%|%DOWNSTREAM_PEER_DNS_SAN%] \
    local[%DOWNSTREAM_LOCAL_SUBJECT%|%DOWNSTREAM_LOCAL_URI_SAN%] \
    up[%UPSTREAM_TLS_VERSION%|%UPSTREAM_TLS_CIPHER%|%UPSTREAM_PEER_URI_SAN%|%UPSTREAM_LOCAL_URI_SAN%|%UPSTREAM_PEER_ISSUER%]\n";

const SUBJECT: &str = r"1.2.3.4=#0C07756E6B6E6F776E,emailAddress=a@b.example,CN=curl=a\\b,OU=\#1,O=\ K\C3\A4se \+ S\C3\B6hne\; \<GmbH\>\ ,C=DE";

fn downstream() -> String {
    format!(
        "peer[{SUBJECT}|0fff01|one.example,two.example] local[-|spiffe://cluster.local/ns/default/sa/waypoint]"
    )
}

/// A client whose certificate says a lot.
async fn talkative(mesh: &Mesh, via: SocketAddr) -> Ztunnel {
    let identity = Identity::istio("cluster.local", "default", "curl").unwrap();
    let (chain, key) = Signer::open(&mesh.folder().join("ca")).talkative(&identity);
    let shown = Shown {
        chain: &chain,
        key: &key,
    };
    Ztunnel::connect_showing(via, shown).await.unwrap()
}

#[tokio::test]
async fn both_ends_of_a_request_are_told_of() {
    let mesh = Mesh::new();
    mesh.access_log_format(FORMAT);
    let (plain, _plain) = mesh.http_service(1, "plain").await;
    let (captured, _app, _ztunnel) = mesh.captured_service(2, "captured").await;
    let waypoint = mesh.start().await;
    assert!(!waypoint.problems().await.contains("operator"));
    let client = talkative(&mesh, waypoint.address()).await;
    for (to, path) in [(plain, "/plain"), (captured, "/captured")] {
        assert_eq!(client.get(to, path).await.status, StatusCode::OK);
    }
    assert_eq!(
        waypoint.until_logged("/plain").await,
        format!("/plain {} up[-|-|-|-|-]", downstream())
    );
    assert_eq!(
        waypoint.until_logged("/captured").await,
        format!(
            "/captured {} up[TLSv1.3|TLS_AES_256_GCM_SHA384|spiffe://cluster.local/ns/default/sa/captured|\
             spiffe://cluster.local/ns/default/sa/waypoint|O=waypoint development CA]",
            downstream()
        )
    );
}

#[tokio::test]
async fn a_tcp_stream_has_them_too() {
    let mesh = Mesh::new();
    mesh.access_log_format(FORMAT);
    mesh.describe_pod(1, "echo-1", "echo", false);
    App::tcp(
        SocketAddr::new(mesh.pod_ip(1), 8080),
        |mut tcp| async move {
            let mut byte = [0];
            while tcp.read_exact(&mut byte).await.is_ok() && tcp.write_all(&byte).await.is_ok() {}
        },
    )
    .await;
    let to = mesh.service_with_port(1, "echo", "{name: tcp, port: 80, targetPort: 8080}");
    let waypoint = mesh.start().await;
    let client = talkative(&mesh, waypoint.address()).await;
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"x").await.unwrap();
    stream.read_exact(&mut [0]).await.unwrap();
    client.kill();
    let line = waypoint.until_logged("peer[").await;
    assert_eq!(line, format!("- {} up[-|-|-|-|-]", downstream()));
}

#[tokio::test]
async fn a_client_that_is_gone_is_remembered() {
    let mesh = Mesh::new();
    mesh.access_log_format(FORMAT);
    let (to, app) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let client = talkative(&mesh, waypoint.address()).await;
    let slow = request(Method::GET, "/slow", &[("x-delay-ms", "60000")]);
    let mut connection = client.http1(to).await;
    let asking = tokio::spawn(async move { connection.send(slow).await });
    until("the request at the application", async || {
        (!app.seen().is_empty()).then_some(())
    })
    .await;
    client.kill();
    asking.abort();
    let line = waypoint.until_logged("/slow").await;
    assert!(line.contains(&downstream()), "{line}");
    // Another client's line has its own.
    let other = mesh.client(&waypoint, "default", "other").await;
    other.http1(to).await.send(get("/other")).await;
    let line = waypoint.until_logged("/other").await;
    assert!(line.contains(" peer[-|"), "{line}");
}
