//! `connection.sni`: the name that a TLS client inside a tunnel asks for decides, and nobody gets around it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::server_names::{TlsApp, asks_for, says};
use waypoint_tests::tls::client_hello;
use waypoint_tests::wait::within;
use waypoint_tests::{App, Mesh, Waypoint, Ztunnel};

use crate::authorization::policy;

const TLS_PORT: &str = "{name: tls, port: 80, targetPort: 8080}";
const ONE_OR_WILD: &str = ", action: ALLOW, rules: [{when: [{key: connection.sni, values: [One.example.com, '*.wild.example.com']}]}]";
const NOT_SECRET: &str =
    ", action: DENY, rules: [{when: [{key: connection.sni, values: [secret.example.com]}]}]";

struct Scene {
    _mesh: Mesh,
    to: SocketAddr,
    app: TlsApp,
    waypoint: Waypoint,
    client: Ztunnel,
}

/// A TLS service behind a port of this name, and what guards it.
async fn scene(port: &str, spec: &str) -> Scene {
    let mesh = Mesh::new();
    mesh.access_log_format("%REQUESTED_SERVER_NAME% %CONNECTION_TERMINATION_DETAILS% tcp\n");
    mesh.describe_pod(1, "vault-1", "vault", false);
    let to = mesh.service_with_port(1, "vault", port);
    let app = TlsApp::start(mesh.backend(1)).await;
    mesh.manifest("policy.yaml", &policy("names", "vault", spec));
    let (waypoint, client) = mesh.started().await;
    assert!(!waypoint.problems().await.contains("requested_server_name"));
    Scene {
        _mesh: mesh,
        to,
        app,
        waypoint,
        client,
    }
}

impl Scene {
    async fn asks_for(&self, name: Option<&str>, piece: usize) -> Option<String> {
        asks_for(self.client.tunnel(self.to).await, name, piece).await
    }
}

#[tokio::test]
async fn the_name_that_a_client_asks_for_is_allowed_or_denied() {
    // On a port that istiod has no inspector for, too.
    for port in [TLS_PORT, "{name: tcp, port: 80, targetPort: 8080}"] {
        let scene = scene(port, ONE_OR_WILD).await;
        for (name, allowed) in [
            (Some("one.example.com"), true),
            (Some("ONE.example.COM"), true),
            (Some("a.b.wild.example.com"), true),
            (Some("wild.example.com"), false),
            (Some("two.example.com"), false),
            (Some("one.example.com.evil.com"), false),
            (None, false),
        ] {
            let before = scene.app.connections();
            let told = scene.asks_for(name, usize::MAX).await;
            let expected = name.filter(|_| allowed).map(str::to_ascii_lowercase);
            assert_eq!(told, expected, "{name:?}");
            let reached = scene.app.connections() - before;
            assert_eq!(reached, usize::from(allowed), "{name:?}");
        }
        let denied = "two.example.com rbac_access_denied_matched_policy[none] tcp";
        scene.waypoint.until_logged(denied).await;
        scene.waypoint.until_logged("one.example.com - tcp").await;
    }
}

#[tokio::test]
async fn a_denied_name_is_denied_however_its_hello_is_cut() {
    let scene = scene(TLS_PORT, NOT_SECRET).await;
    for piece in [1, 5, 6, 50, 700, usize::MAX] {
        let told = scene.asks_for(Some("secret.example.com"), piece).await;
        assert_eq!(told, None, "{piece}");
    }
    assert_eq!(scene.app.connections(), 0);
    for name in [Some("other.example.com"), None] {
        let told = scene.asks_for(name, 3).await;
        assert_eq!(told.as_deref(), name.or(Some("nobody")));
    }
}

/// The handshake of `hello`, in records of so many bytes.
fn in_records(hello: &[u8], size: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    };
    hello[5..].chunks(size).flat_map(record).collect()
}

#[tokio::test]
async fn a_hello_that_cannot_be_read_reaches_nobody() {
    let scene = scene(TLS_PORT, NOT_SECRET).await;
    let hello = client_hello();
    let name = hello.windows(8).position(|at| at == b"waypoint").unwrap();
    let with = |change: &dyn Fn(&mut Vec<u8>)| {
        let mut changed = hello.clone();
        change(&mut changed);
        changed
    };
    for (what, bytes) in [
        ("a NUL in the name", with(&|hello| hello[name] = 0)),
        ("a dot at its end", with(&|hello| hello[name + 7] = b'.')),
        ("a longer name", with(&|hello| hello[name - 1] += 1)),
        ("two names", with(&|hello| hello[name - 6] += 1)),
        ("SSL 2", with(&|hello| hello[1] = 2)),
        ("another message", with(&|hello| hello[5] = 2)),
        ("a part of one", in_records(&hello, 1)[..8000].to_vec()),
        (
            "an endless hello",
            [&[22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff][..], &[0; 20_000]].concat(),
        ),
        ("nothing but the first byte", vec![22]),
    ] {
        let mut stream = scene.client.tunnel(scene.to).await;
        stream.write_all(&bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        assert_eq!(says(&mut stream, b"").await, b"", "{what}");
        assert_eq!(scene.app.connections(), 0, "{what}");
    }
    scene
        .waypoint
        .until_logged("- rbac_server_name_unknown tcp")
        .await;
    // In records of seven bytes it can be.
    let mut stream = scene.client.tunnel(scene.to).await;
    stream.write_all(&in_records(&hello, 7)).await.unwrap();
    let mut answer = [0];
    within("the server's hello", stream.read_exact(&mut answer))
        .await
        .unwrap();
    assert_eq!(answer, [22]);
}

#[tokio::test]
async fn a_server_may_speak_first_and_tls_may_not_come_later() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "mail");
    App::tcp(backend, |mut tcp| async move {
        let _ = tcp.write_all(b"220 ready\r\n").await;
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    mesh.manifest("policy.yaml", &policy("names", "mail", NOT_SECRET));
    let (_waypoint, client) = mesh.started().await;
    let greeted = async || {
        let mut stream = client.tunnel(to).await;
        let mut greeting = [0; 11];
        within("the greeting", stream.read_exact(&mut greeting))
            .await
            .unwrap();
        stream
    };
    let mut stream = greeted().await;
    stream.write_all(b"EHLO me\r\n").await.unwrap();
    let mut echo = [0; 9];
    within("the echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
    // Nobody keeps silent until the decision is made, and asks for the name then.
    let mut stream = greeted().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(says(&mut stream, &client_hello()).await, b"");
}

#[tokio::test]
async fn a_policy_that_comes_later_closes_whom_nobody_asked() {
    let mesh = Mesh::new();
    let (to, backend) = mesh.bare_tcp_service(1, "db");
    App::tcp(backend, |mut tcp| async move {
        let (mut read, mut write) = tcp.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let (_waypoint, client) = mesh.started().await;
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"x").await.unwrap();
    let mut echo = [0];
    within("the echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
    mesh.manifest("policy.yaml", &policy("names", "db", NOT_SECRET));
    assert_eq!(says(&mut stream, b"").await, b"");
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"x").await.unwrap();
    within("the echo", stream.read_exact(&mut echo))
        .await
        .unwrap();
}

#[tokio::test]
async fn a_dry_run_and_plain_http_close_nobody() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(2, "web").await;
    mesh.manifest("web.yaml", &policy("web", "web", NOT_SECRET));
    mesh.describe_pod(1, "vault-1", "vault", false);
    let to = mesh.service_with_port(1, "vault", TLS_PORT);
    let _app = TlsApp::start(mesh.backend(1)).await;
    let dry = policy("names", "vault", NOT_SECRET).replace(
        "namespace: default}",
        "namespace: default, annotations: {istio.io/dry-run: 'true'}}",
    );
    mesh.manifest("policy.yaml", &dry);
    let (_waypoint, client) = mesh.started().await;
    let name = Some("secret.example.com");
    let told = asks_for(client.tunnel(to).await, name, 9).await;
    assert_eq!(told.as_deref(), name);
    // There is no name in plain text: DENY by name matches nobody.
    assert_eq!(client.get(web, "/").await.status, 200);
}
