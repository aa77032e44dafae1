//! What a waypoint must survive: foreign identities, addresses that aren't its own, broken protocols.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use h2::Reason;
use http::{Method, Request, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::identity::Identity;
use waypoint_tests::pod_ztunnel::Behaviour;
use waypoint_tests::wait::within;
use waypoint_tests::ztunnel::{get, request, tls};
use waypoint_tests::{Mesh, Waypoint, Ztunnel};

/// The waypoint still serves others, and counted no panic.
async fn assert_fine(mesh: &Mesh, waypoint: &Waypoint, to: SocketAddr) {
    let client = mesh.client(waypoint, "default", "curl").await;
    assert_eq!(client.get(to, "/still-here").await.status, StatusCode::OK);
    assert!(waypoint.metrics().await.contains("waypoint_panics_total 0"));
}

#[tokio::test]
async fn strangers_to_the_mesh_get_no_connection() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let via = waypoint.address();
    let day = Duration::from_secs(86400);
    let mine = Identity::istio("cluster.local", "default", "curl").unwrap();

    // Nobody.
    if let Ok(mut tls) = tls(via, None, &[b"h2"]).await {
        let _ = tls.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
        assert!(within("the refusal", tls.read_u8()).await.is_err());
    }
    // Another trust domain, from our own CA.
    let foreign = Identity::istio("evil.example", "default", "curl").unwrap();
    let certificate = mesh.ca.mint(&foreign, day).unwrap();
    assert!(Ztunnel::connect(via, &certificate).await.is_err());
    // Our identity, from another CA.
    let certificate = DevCa::ephemeral().unwrap().mint(&mine, day).unwrap();
    assert!(Ztunnel::connect(via, &certificate).await.is_err());
    // Yesterday's.
    let now = SystemTime::now();
    let expired = mesh
        .ca
        .mint_between(&mine, now - 2 * day, now - day)
        .unwrap();
    assert!(Ztunnel::connect(via, &expired).await.is_err());
    // Another protocol.
    assert!(
        tls(
            via,
            Some(&mesh.certificate("default", "curl")),
            &[b"http/1.1"]
        )
        .await
        .is_err()
    );

    let metrics = waypoint.metrics().await;
    let refused =
        waypoint_tests::telemetry::metric(&metrics, "waypoint_connections_refused_total", &[]);
    assert!(refused >= 5.0, "{metrics}");
    assert!(app.seen().is_empty());
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn http1_and_noise_on_the_hbone_port() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    for noise in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x00\x05hello",
        &[0; 4096],
    ] {
        let mut tcp = TcpStream::connect(waypoint.address()).await.unwrap();
        let _ = tcp.write_all(noise).await;
        let mut rest = Vec::new();
        let _ = within("the end", tcp.read_to_end(&mut rest)).await;
    }
    // HTTP/1.1 inside proper TLS.
    let certificate = mesh.certificate("default", "curl");
    let mut tls = tls(waypoint.address(), Some(&certificate), &[b"h2"])
        .await
        .unwrap();
    let _ = tls
        .write_all(b"CONNECT 10.0.0.1:80 HTTP/1.1\r\nhost: x\r\n\r\n")
        .await;
    let mut rest = Vec::new();
    let _ = within("the end", tls.read_to_end(&mut rest)).await;
    assert!(!rest.starts_with(b"HTTP/1.1 200"));
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn only_owned_addresses_are_reached() {
    let mesh = Mesh::new();
    let (to, _, _ztunnel) = mesh.captured_service(1, "web").await;
    // Somebody else's: in a namespace without this waypoint, and one that opted out.
    mesh.manifest(
        "foreign.yaml",
        "apiVersion: v1\nkind: Service\nmetadata: {name: foreign, namespace: other}\n\
         spec: {clusterIP: 10.97.0.1, selector: {app: foreign}, ports: [{name: http, port: 80}]}\n---\n\
         apiVersion: v1\nkind: Service\nmetadata: {name: optout, namespace: default, labels: {istio.io/use-waypoint: none}}\n\
         spec: {clusterIP: 10.97.0.2, selector: {app: foreign}, ports: [{name: http, port: 80}]}\n",
    );
    let (waypoint, client) = mesh.started().await;
    let own = waypoint.address();
    for authority in [
        "10.97.0.1:80".to_owned(),
        "10.97.0.2:80".to_owned(),
        "10.99.99.99:80".to_owned(),
        format!("{}:81", to.ip()),
        "169.254.169.254:80".to_owned(),
        "[fe80::1]:80".to_owned(),
        "0.0.0.0:80".to_owned(),
        "127.0.0.1:15000".to_owned(),
        own.to_string(),
        waypoint.running.admin_addr.to_string(),
        waypoint.running.stats_addr.to_string(),
    ] {
        let (status, _) = client.connect_to(&authority, &[]).await.unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND, "{authority}");
    }
    let line = waypoint.until_logged("169.254.169.254").await;
    assert!(line.contains(" 404 NR filter_chain_not_found "), "{line}");
    // A pod is owned by itself here: `istio.io/waypoint-for: all`.
    let pod = mesh.backend(1);
    assert_eq!(client.get(pod, "/pod").await.status, StatusCode::OK);
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn authorities_that_are_no_address_and_methods_that_are_not_connect() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    for authority in [
        "web.default:80",
        "10.0.0.1",
        "10.0.0.1:0",
        "10.0.0.1:99999",
        "[::1]",
        "user@10.0.0.1:80",
    ] {
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(authority)
            .body(());
        let Ok(request) = request else { continue };
        match client.send(request).await {
            Ok((status, _)) => assert!(status.is_client_error(), "{authority}: {status}"),
            Err(error) => assert!(
                error.is_reset() || error.is_remote(),
                "{authority}: {error}"
            ),
        }
    }
    let client = mesh.client(&waypoint, "default", "curl").await;
    for method in [Method::GET, Method::POST] {
        let request = Request::builder()
            .method(method)
            .uri(format!("https://{to}/"))
            .body(())
            .unwrap();
        let (status, _) = client.send(request).await.unwrap();
        assert_eq!(status, StatusCode::NOT_FOUND);
    }
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn the_source_is_the_tunnels_peer_whatever_headers_say() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    mesh.manifest(
        "policy.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], rules: [{from: [{source: {ipBlocks: [10.0.0.0/8]}}]}]}\n",
    );
    let (_waypoint, client) = mesh.started().await;
    let forged = [
        ("forwarded", "for=10.0.0.1"),
        ("x-forwarded-for", "10.0.0.1"),
        ("baggage", "k8s.namespace.name=admin"),
    ];
    let (status, mut stream) = client.connect_to(&to.to_string(), &forged).await.unwrap();
    assert_eq!(status, StatusCode::OK);
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 10.0.0.1\r\n\r\n")
        .await
        .unwrap();
    let mut head = [0; 12];
    within("answer", stream.read_exact(&mut head))
        .await
        .unwrap();
    assert_eq!(&head, b"HTTP/1.1 403");
}

#[tokio::test]
async fn heads_have_their_limits() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let big = "a".repeat(200 * 1024);
    let answer = client
        .raw(
            to,
            format!("GET / HTTP/1.1\r\nhost: x\r\nbig: {big}\r\n\r\n").as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let many: String = (0..2000).map(|n| format!("h{n}: x\r\n")).collect();
    let answer = client
        .raw(
            to,
            format!("GET / HTTP/1.1\r\nhost: x\r\n{many}\r\n").as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 431 "), "{answer}");
    let answer = client
        .raw(
            to,
            format!("GET /{big} HTTP/1.1\r\nhost: x\r\n\r\n").as_bytes(),
        )
        .await;
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    let line = waypoint.until_logged(" 431 ").await;
    assert!(line.contains(" DPE "), "{line}");
    // A bomb in the CONNECT itself ends that connection at most.
    let bomb = "b".repeat(500 * 1024);
    let sent = client.connect_to(&to.to_string(), &[("bomb", &bomb)]).await;
    assert!(sent.is_err() || sent.is_ok_and(|(status, _)| status.is_client_error()));
    assert!(app.seen().is_empty());
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn nothing_is_smuggled_upstream() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
    for (what, text) in [
        (
            "both lengths",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "both, reversed",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\ncontent-length: {}\r\n\r\n0\r\n\r\n{smuggled}",
                smuggled.len() + 5
            ),
        ),
        (
            "two lengths",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\ncontent-length: {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
        ),
        (
            "a list of lengths",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: 0, {}\r\n\r\n{smuggled}",
                smuggled.len()
            ),
        ),
        (
            "a signed length",
            format!("POST /1 HTTP/1.1\r\nhost: x\r\ncontent-length: +0\r\n\r\n{smuggled}"),
        ),
        (
            "chunked twice",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked, identity\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "a bad chunk",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n{smuggled}"
            ),
        ),
        (
            "a chunk without end",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab{smuggled}"
            ),
        ),
        (
            "a folded header",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\nx: 1\r\n transfer-encoding: chunked\r\n\r\n{smuggled}"
            ),
        ),
        (
            "a space before the colon",
            format!(
                "POST /1 HTTP/1.1\r\nhost: x\r\ntransfer-encoding : chunked\r\n\r\n0\r\n\r\n{smuggled}"
            ),
        ),
        (
            "a bare CR",
            format!("POST /1 HTTP/1.1\r\nhost: x\rtransfer-encoding: chunked\r\n\r\n{smuggled}"),
        ),
        (
            "a NUL",
            "GET /1 HTTP/1.1\r\nhost: x\r\nx: a\0b\r\n\r\n".to_owned(),
        ),
        (
            "two hosts",
            "GET /1 HTTP/1.1\r\nhost: x\r\nhost: y\r\n\r\n".to_owned(),
        ),
        ("no host", "GET /1 HTTP/1.1\r\n\r\n".to_owned()),
        (
            "a broken version",
            "GET /1 HTTP/9.9\r\nhost: x\r\n\r\n".to_owned(),
        ),
        (
            "a space in the target",
            "GET /1 2 HTTP/1.1\r\nhost: x\r\n\r\n".to_owned(),
        ),
    ] {
        app.forget();
        let answer = client.raw(to, text.as_bytes()).await;
        let seen = app.seen();
        // Where the first request is valid it may pass; then what follows it is a request like any other,
        // and counted, logged and authorized as such. What may not be is an answer to one less than seen.
        let answers = answer.matches("HTTP/1.1 ").count();
        assert!(
            seen.len() <= answers,
            "{what}: {} requests seen, {answers} answered\n{answer}",
            seen.len()
        );
        for request in &seen {
            let lengths = request.headers.get_all("content-length").iter().count();
            let chunked = request.headers.contains_key("transfer-encoding");
            assert!(
                lengths <= 1 && !(lengths == 1 && chunked),
                "{what}: {:?}",
                request.headers
            );
        }
        if !["a chunk without end", "a bad chunk"].contains(&what) {
            assert!(
                seen.iter().all(|request| request.target != "/smuggled"),
                "{what}: {answer}"
            );
        }
    }
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn peers_that_reset_or_stall_hold_up_nobody_else() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (stalling, _, ztunnel) = mesh.captured_service(2, "stall").await;
    let (waypoint, client) = mesh.started().await;
    // Tunnels that are reset in the middle of a request.
    for _ in 0..20 {
        let mut stream = client.tunnel(to).await;
        stream
            .write_all(b"POST /reset HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\nabc")
            .await
            .unwrap();
        stream.reset(Reason::CANCEL);
    }
    // Tunnels that say nothing, and half a request.
    let silent = client.tunnel(to).await;
    let mut half = client.tunnel(to).await;
    half.write_all(b"GET / HT").await.unwrap();
    // An upstream that takes a request and never answers.
    ztunnel.behave(Behaviour::Stall);
    let mut stalled = client.tunnel(stalling).await;
    stalled
        .write_all(b"GET /stalled HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    for _ in 0..20 {
        assert_eq!(
            client.get(to, "/").await.status,
            StatusCode::OK,
            "on the same connection"
        );
    }
    assert!(!waypoint.log().contains("/stalled"));
    drop((silent, half, stalled));
    let line = waypoint.until_logged("/stalled").await;
    assert!(line.contains(" 0 DC "), "{line}");
    assert_fine(&mesh, &waypoint, to).await;
}

#[tokio::test]
async fn http2_inside_keeps_to_its_limits() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let connection = client.http2(to).await;
    let big = "a".repeat(100 * 1024);
    let answer = connection
        .send(request(Method::GET, "/", &[("big", &big)]))
        .await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(connection.send(get("/after")).await.status, StatusCode::OK);
    // A preface and then noise.
    let answer = client
        .raw(to, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\nnoisenoisenoisenoise")
        .await;
    assert!(!answer.contains("200"));
    assert_fine(&mesh, &waypoint, to).await;
}
