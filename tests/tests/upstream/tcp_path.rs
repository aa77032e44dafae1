//! Raw TCP through the waypoint: half-close, servers that speak first, policy, and policy that changes.

use std::net::SocketAddr;
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::wait::{until, within};
use waypoint_tests::{App, Mesh};

const TCP_PORT: &str = "{name: tcp, port: 80, targetPort: 8080}";

fn policy(rules: &str) -> String {
    format!(
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\n\
         spec: {{targetRefs: [{{group: '', kind: Service, name: db}}], {rules}}}\n"
    )
}

async fn echo(mut tcp: TcpStream) {
    let (mut read, mut write) = tcp.split();
    let _ = tokio::io::copy(&mut read, &mut write).await;
    let _ = write.shutdown().await;
}

async fn echo_service(mesh: &Mesh) -> SocketAddr {
    mesh.describe_pod(1, "db-1", "db", false);
    App::tcp(mesh.backend(1), echo).await;
    mesh.service_with_port(1, "db", TCP_PORT)
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_direction_ends_on_its_own() {
    const SIZE: usize = 8 << 20;
    let mesh = Mesh::new();
    let to = echo_service(&mesh).await;
    let (waypoint, client) = mesh.started().await;
    let (mut read, mut write) = tokio::io::split(client.tunnel(to).await);
    let writer = tokio::spawn(async move {
        write.write_all(&vec![b'z'; SIZE]).await.unwrap();
        write.shutdown().await.unwrap();
        write
    });
    let mut all = Vec::new();
    within("the echo", read.read_to_end(&mut all))
        .await
        .unwrap();
    assert_eq!(all.len(), SIZE);
    drop(writer.await.unwrap());

    let labels = [
        ("reporter", "waypoint"),
        ("destination_service", "db.default.svc.cluster.local"),
        ("request_protocol", "tcp"),
    ];
    waypoint
        .until_metric("istio_tcp_connections_opened_total", &labels, 1.0)
        .await;
    waypoint
        .until_metric("istio_tcp_connections_closed_total", &labels, 1.0)
        .await;
    waypoint
        .until_metric("istio_tcp_received_bytes_total", &labels, SIZE as f64)
        .await;
    waypoint
        .until_metric("istio_tcp_sent_bytes_total", &labels, SIZE as f64)
        .await;
    let line = waypoint.until_logged("db.default").await;
    assert!(line.contains(&format!(" {SIZE} {SIZE} ")), "{line}");
}

#[tokio::test]
async fn a_server_that_speaks_first_is_heard() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "db-1", "db", true);
    App::tcp(mesh.backend(1), |mut tcp| async move {
        let _ = tcp.write_all(b"220 ready\r\n").await;
        echo(tcp).await;
    })
    .await;
    let ztunnel = PodZtunnel::start(mesh.pod_ip(1), &mesh.certificate("default", "db")).await;
    let to = mesh.service_with_port(1, "db", TCP_PORT);
    let (_waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    let mut greeting = [0; 11];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"220 ready\r\n");
    assert_eq!(
        ztunnel.connects()[0].authority,
        format!("{}:8080", mesh.pod_ip(1))
    );
}

#[tokio::test]
async fn an_unnamed_port_is_sniffed_and_a_silent_client_is_not_waited_for_for_long() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "db-1", "db", false);
    App::tcp(mesh.backend(1), |mut tcp| async move {
        let _ = tcp.write_all(b"hello").await;
        echo(tcp).await;
    })
    .await;
    let (web, app) = mesh.http_service(2, "web").await;
    mesh.service_with_port(2, "web", "{port: 80, targetPort: 8080}");
    let to = mesh.service_with_port(1, "db", "{port: 80, targetPort: 8080}");
    let (_waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    let mut greeting = [0; 5];
    within("the greeting", stream.read_exact(&mut greeting))
        .await
        .unwrap();
    assert_eq!(&greeting, b"hello");
    assert_eq!(client.get(web, "/sniffed").await.status, StatusCode::OK);
    assert_eq!(
        app.last().header("x-forwarded-proto"),
        "http",
        "taken for HTTP"
    );
}

#[tokio::test]
async fn who_is_denied_gets_no_byte_through() {
    let mesh = Mesh::new();
    let to = echo_service(&mesh).await;
    mesh.manifest(
        "policy.yaml",
        &policy("action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/other/sa/stranger]}}]}]"),
    );
    let (waypoint, friend) = mesh.started().await;
    let mut stream = friend.tunnel(to).await;
    stream.write_all(b"ping").await.unwrap();
    let mut echoed = [0; 4];
    within("echo", stream.read_exact(&mut echoed))
        .await
        .unwrap();

    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    if let Ok((_, mut stream)) = stranger.connect_to(&to.to_string(), &[]).await {
        let _ = stream.write_all(b"ping").await;
        let mut got = Vec::new();
        let _ = within("the end", stream.read_to_end(&mut got)).await;
        assert!(got.is_empty());
    }
    let line = waypoint.until_logged("rbac_access_denied").await;
    assert!(line.contains(&format!(" {to} ")), "{line}");
}

#[tokio::test]
async fn an_open_stream_is_closed_when_it_is_denied_and_others_stay() {
    let mesh = Mesh::new();
    let to = echo_service(&mesh).await;
    let (waypoint, friend) = mesh.started().await;
    let stranger = mesh.client(&waypoint, "other", "stranger").await;
    let (mut kept, mut closed) = (friend.tunnel(to).await, stranger.tunnel(to).await);
    let mut byte = [0; 1];
    for stream in [&mut kept, &mut closed] {
        stream.write_all(b"a").await.unwrap();
        within("echo", stream.read_exact(&mut byte)).await.unwrap();
    }
    mesh.manifest(
        "policy.yaml",
        &policy("action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}]}]"),
    );
    let mut rest = Vec::new();
    let _ = within("the denied stream's end", closed.read_to_end(&mut rest)).await;
    for _ in 0..5 {
        kept.write_all(b"b").await.unwrap();
        within("echo", kept.read_exact(&mut byte)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn a_pod_that_is_gone_ends_the_stream() {
    let mesh = Mesh::new();
    let (to, _) = mesh.bare_tcp_service(1, "db");
    let (waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    let mut rest = Vec::new();
    let _ = within("the end", stream.read_to_end(&mut rest)).await;
    assert!(rest.is_empty());
    let line = waypoint.until_logged("db.default").await;
    assert!(line.contains(" UF"), "{line}");
}

#[tokio::test]
async fn open_streams_report_their_bytes_before_they_end() {
    let mesh = Mesh::new();
    let to = echo_service(&mesh).await;
    let (waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"twelve bytes").await.unwrap();
    let mut echoed = [0; 12];
    within("echo", stream.read_exact(&mut echoed))
        .await
        .unwrap();
    until("bytes of an open stream", async || {
        let received = waypoint.metric("istio_tcp_received_bytes_total", &[]).await;
        (received == 12.0).then_some(())
    })
    .await;
    drop(stream);
}

#[tokio::test]
async fn a_pod_that_resets_is_not_taken_to_have_finished() {
    let mesh = Mesh::new();
    let (to, address) = mesh.bare_tcp_service(1, "db");
    App::tcp(address, |mut tcp| async move {
        let _ = tcp.read_u8().await;
        let _ = tcp.write_all(b"half an ans").await;
        tokio::time::sleep(Duration::from_millis(300)).await;
        let _ = tcp.set_zero_linger();
    })
    .await;
    let (_waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"?").await.unwrap();
    let mut got = Vec::new();
    let end = within("the reset", stream.read_to_end(&mut got)).await;
    assert!(end.is_err(), "{}", String::from_utf8_lossy(&got));
}

#[tokio::test]
async fn a_client_that_resets_is_not_taken_to_have_finished() {
    let mesh = Mesh::new();
    let (to, address) = mesh.bare_tcp_service(1, "db");
    let (ended, mut ends) = tokio::sync::mpsc::unbounded_channel();
    App::tcp(address, move |mut tcp| {
        let ended = ended.clone();
        async move {
            let mut all = Vec::new();
            let _ = tcp.write_all(b"go").await;
            let _ = ended.send(tcp.read_to_end(&mut all).await);
        }
    })
    .await;
    let (_waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    let mut go = [0; 2];
    within("go", stream.read_exact(&mut go)).await.unwrap();
    stream.write_all(b"half of what I").await.unwrap();
    stream.reset(h2::Reason::CANCEL);
    let end = within("the pod's end", ends.recv()).await.unwrap();
    assert!(end.is_err(), "a proper end for a reset: {end:?}");
}

#[tokio::test]
async fn http_rules_on_a_tcp_port_never_let_more_in() {
    // What TCP can't know is dropped from ALLOW, and taken for granted in DENY.
    for (rules, open) in [
        (
            "action: ALLOW, rules: [{to: [{operation: {methods: [GET]}}]}]",
            false,
        ),
        (
            "action: ALLOW, rules: [{to: [{operation: {ports: ['80']}}]}]",
            true,
        ),
        (
            "action: ALLOW, rules: [{from: [{source: {namespaces: [default]}}], to: [{operation: {methods: [GET]}}]}]",
            false,
        ),
        (
            "action: DENY, rules: [{to: [{operation: {methods: [GET]}}]}]",
            false,
        ),
        (
            "action: DENY, rules: [{to: [{operation: {ports: ['81']}}]}]",
            true,
        ),
        (
            "action: DENY, rules: [{from: [{source: {namespaces: [other]}}], to: [{operation: {paths: [/x]}}]}]",
            true,
        ),
        ("rules: []", false),
        ("rules: [{}]", true),
    ] {
        let mesh = Mesh::new();
        let to = echo_service(&mesh).await;
        mesh.manifest("policy.yaml", &policy(rules));
        let (_waypoint, client) = mesh.started().await;
        let mut got = Vec::new();
        if let Ok((StatusCode::OK, mut stream)) = client.connect_to(&to.to_string(), &[]).await {
            let _ = stream
                .write_all(b"GET / HTTP/1.1\r\nhost: db\r\n\r\n")
                .await;
            let _ = stream.shutdown().await;
            let _ = within("the end", stream.read_to_end(&mut got)).await;
        }
        assert_eq!(!got.is_empty(), open, "{rules}: {got:?}");
    }
}

#[tokio::test]
async fn changes_elsewhere_leave_an_open_stream_alone() {
    let mesh = Mesh::new();
    let to = echo_service(&mesh).await;
    let (web, _) = mesh.http_service(2, "web").await;
    let (_waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    let mut byte = [0; 1];
    for n in 0..3 {
        mesh.manifest(
            "route.yaml",
            &format!(
                "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: web, namespace: default}}\n\
                 spec: {{parentRefs: [{{group: '', kind: Service, name: web, port: 80}}], rules: [{{filters: [{{type: ResponseHeaderModifier, \
                 responseHeaderModifier: {{set: [{{name: x-version, value: '{n}'}}]}}}}], backendRefs: [{{name: web, port: 80}}]}}]}}\n"
            ),
        );
        until("the change", async || {
            let answer = client.get(web, "/").await;
            (answer.header("x-version") == n.to_string()).then_some(())
        })
        .await;
        stream.write_all(b"a").await.unwrap();
        within("echo", stream.read_exact(&mut byte)).await.unwrap();
    }
}
