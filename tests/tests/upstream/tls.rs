//! TLS to endpoints that aren't of the mesh: who is accepted, who is refused and how that is told, what is agreed on.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::{
    Http1ProtocolOptions, HttpProtocolOptions as CommonOptions, UpstreamHttpProtocolOptions,
};
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::{
    CertificateValidationContext, TlsCertificate, UpstreamTlsContext,
    certificate_validation_context::TrustChainVerification,
};
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions,
    http_protocol_options::{
        AutoHttpConfig, ExplicitHttpConfig, UpstreamProtocolOptions,
        explicit_http_config::ProtocolConfig,
    },
};
use http::{Method, StatusCode};
use waypoint_tests::tls_server::{Authority, Speech, TlsServer};
use waypoint_tests::upstream_tls::{changed, context, inline, socket, speak, trusting, with_tls};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

const FORMAT: &str = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %UPSTREAM_TLS_VERSION% \
    %UPSTREAM_PEER_DNS_SAN% %UPSTREAM_TRANSPORT_FAILURE_REASON%\n";

const NAME: &str = "api.example.test";

pub(crate) struct Scene {
    pub(crate) mesh: Mesh,
    pub(crate) to: SocketAddr,
    pub(crate) ca: Authority,
    pub(crate) server: TlsServer,
}

impl Scene {
    pub(crate) async fn new(speech: Speech) -> Scene {
        let mesh = Mesh::new();
        mesh.access_log_format(FORMAT);
        let (to, backend) = mesh.bare_service(1, "web");
        let ca = Authority::new("others");
        let server = TlsServer::start(backend, &ca.issue(&[NAME]), speech).await;
        Scene {
            mesh,
            to,
            ca,
            server,
        }
    }

    pub(crate) async fn started(
        &self,
        tls: &UpstreamTlsContext,
    ) -> (ControlPlane, Waypoint, Ztunnel) {
        let istiod = ControlPlane::start(&self.mesh).await;
        istiod.discovery.set(with_tls(&self.mesh, "web", tls));
        let (waypoint, client) = self.mesh.started_under(&istiod).await;
        (istiod, waypoint, client)
    }
}

#[tokio::test]
async fn a_server_is_spoken_to_with_its_name_and_connections_are_kept() {
    let scene = Scene::new(Speech::default()).await;
    let tls = context(NAME, trusting(scene.ca.root(), &[NAME]));
    let (_istiod, waypoint, client) = scene.started(&tls).await;
    for path in ["/one", "/two"] {
        let answer = client.get(scene.to, path).await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, "HTTP/1.1".into())
        );
    }
    let greeted = scene.server.greeted();
    assert_eq!(greeted.len(), 1, "the connection is used again");
    assert_eq!(greeted[0].sni.as_deref(), Some(NAME));
    assert_eq!(greeted[0].alpn, None);
    let line = waypoint.until_logged("/two").await;
    assert_eq!(line, format!("/two 200 - TLSv1.3 {NAME} -"));
    let name = "waypoint_upstream_tls_handshakes_total";
    waypoint
        .until_metric(name, &[("result", "done")], 1.0)
        .await;
}

#[tokio::test]
async fn servers_that_are_not_who_they_should_be_are_refused() {
    let scene = Scene::new(Speech::default()).await;
    let other = Authority::new("strangers");
    let good = scene.ca.issue(&["*.example.test"]);
    let verdict = "TLS_error:|268435581:SSL routines:OPENSSL_internal:CERTIFICATE_VERIFY_FAILED:verify cert failed: ";
    let chain = "X509_verify_cert: certificate verification error at depth 0: ";
    let tls = context(NAME, trusting(scene.ca.root(), &[NAME]));
    let (_istiod, waypoint, client) = scene.started(&tls).await;
    for (path, pair, told) in [
        (
            "/other-name",
            scene.ca.issue(&["other.example.test"]),
            "SAN matcher, certificate SANs are [other.example.test]".to_owned(),
        ),
        (
            "/expired",
            scene.ca.expired(&[NAME]),
            format!("{chain}certificate has expired"),
        ),
        (
            "/stranger",
            other.issue(&[NAME]),
            format!("{chain}unable to get local issuer certificate"),
        ),
    ] {
        scene.server.show(&pair, &Speech::default());
        let answer = client.get(scene.to, path).await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{path}");
        let reason = format!("{verdict}{told}:TLS_error_end");
        // Why is for logs.
        assert!(
            answer
                .text()
                .ends_with("reset reason: remote connection failure"),
            "{}",
            answer.text()
        );
        let line = waypoint.until_logged(path).await;
        let reason = reason.replace(' ', "_");
        assert_eq!(line, format!("{path} 503 URX,UF - - {reason}"));
    }
    assert_eq!(scene.server.requests(), Vec::<String>::new());
    scene.server.show(&good, &Speech::default());
    assert_eq!(client.get(scene.to, "/good").await.status, StatusCode::OK);
    let name = "waypoint_upstream_tls_handshakes_total";
    // Each is tried again, as istiod has it.
    assert!(waypoint.metric(name, &[("result", "failed")]).await >= 3.0);
}

#[tokio::test]
async fn what_is_not_tls_or_says_nothing_is_refused_in_time() {
    let mesh = Mesh::new();
    mesh.access_log_format(FORMAT);
    let (to, _app) = mesh.http_service(1, "web").await;
    let (silent, backend) = mesh.bare_service(2, "silent");
    App::tcp(backend, |tcp| async move {
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        drop(tcp);
    })
    .await;
    let tls = context(NAME, trusting(Authority::new("x").root(), &[NAME]));
    let istiod = ControlPlane::start(&mesh).await;
    let mut resources = with_tls(&mesh, "web", &tls);
    let quiet = changed(&mesh, "silent", |cluster| {
        cluster.transport_socket = Some(socket(&tls));
        let brief = envoy_types::pb::google::protobuf::Duration {
            seconds: 1,
            nanos: 0,
        };
        cluster.connect_timeout = Some(brief);
    });
    let of_silent = |name: &str| name.contains("|silent.");
    resources.retain(|r| !of_silent(&r.name));
    resources.extend(quiet.into_iter().filter(|r| of_silent(&r.name)));
    istiod.discovery.set(resources);
    let (waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(
        client.get(to, "/plain").await.status,
        StatusCode::SERVICE_UNAVAILABLE
    );
    let line = waypoint.until_logged("/plain").await;
    assert!(line.starts_with("/plain 503 URX,UF - - TLS_error:|268435703:SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER"), "{line}");
    let answer = client.get(silent, "/silent").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    assert!(
        answer.text().ends_with("reset reason: connection timeout"),
        "{}",
        answer.text()
    );
}

#[tokio::test]
async fn without_roots_anybody_is_accepted_and_that_is_told() {
    let scene = Scene::new(Speech::default()).await;
    scene.server.show(
        &Authority::new("strangers").expired(&["whoever"]),
        &Speech::default(),
    );
    for validation in [
        CertificateValidationContext::default(),
        CertificateValidationContext {
            trust_chain_verification: TrustChainVerification::AcceptUntrusted.into(),
            ..trusting(scene.ca.root(), &[NAME])
        },
    ] {
        let (_istiod, _waypoint, client) = scene.started(&context("", validation)).await;
        assert_eq!(client.get(scene.to, "/").await.status, StatusCode::OK);
    }
    assert_eq!(scene.server.greeted()[0].sni, None);
}

#[tokio::test]
async fn names_without_roots_and_secrets_of_other_servers_are_refused_by_name() {
    let scene = Scene::new(Speech::default()).await;
    let names = CertificateValidationContext {
        trusted_ca: None,
        ..trusting("", &[NAME])
    };
    let fetched = waypoint_tests::upstream_tls::named(NAME, None, "kubernetes://web-cacert", &[]);
    for (tls, told) in [
        (
            context(NAME, names),
            "trusted_ca: names are asked for and no roots",
        ),
        (fetched, "secret \"kubernetes://web-cacert\" is not fetched"),
    ] {
        let (_istiod, waypoint, client) = scene.started(&tls).await;
        waypoint.until_problem(told).await;
        assert_eq!(
            client.get(scene.to, "/").await.status,
            StatusCode::SERVICE_UNAVAILABLE
        );
    }
    assert_eq!(scene.server.greeted(), []);
}

#[tokio::test]
async fn alpn_decides_what_is_spoken_where_the_cluster_says_so() {
    let scene = Scene::new(Speech {
        alpn: &["h2", "http/1.1"],
        ..Speech::default()
    })
    .await;
    let tls = context(NAME, trusting(scene.ca.root(), &[NAME]));
    let auto = HttpProtocolOptions {
        common_http_protocol_options: Some(CommonOptions::default()),
        upstream_protocol_options: Some(UpstreamProtocolOptions::AutoConfig(
            AutoHttpConfig::default(),
        )),
        ..HttpProtocolOptions::default()
    };
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(changed(&scene.mesh, "web", |cluster| {
        cluster.transport_socket = Some(socket(&tls));
        speak(cluster, &auto);
    }));
    let (_waypoint, client) = scene.mesh.started_under(&istiod).await;
    for _ in 0..3 {
        let answer = client.get(scene.to, "/").await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, "HTTP/2.0".into())
        );
    }
    assert_eq!(scene.server.greeted().len(), 1);
    // It changes its mind: the next connections are asked again.
    let http1 = Speech {
        alpn: &["http/1.1"],
        ..Speech::default()
    };
    scene.server.show(&scene.ca.issue(&[NAME]), &http1);
    let (_other, client) = scene.mesh.started_under(&istiod).await;
    for _ in 0..3 {
        let answer = client.get(scene.to, "/").await;
        assert_eq!(
            (answer.status, answer.text()),
            (StatusCode::OK, "HTTP/1.1".into())
        );
    }
    assert_eq!(scene.server.greeted().len(), 2);
}

#[tokio::test]
async fn the_host_of_a_request_may_be_sni_and_what_the_certificate_must_be_for() {
    let scene = Scene::new(Speech::default()).await;
    scene.server.show(
        &scene.ca.issue(&["a.example.test", "b.example.test"]),
        &Speech::default(),
    );
    let tls = context("", trusting(scene.ca.root(), &[]));
    let by_host = HttpProtocolOptions {
        upstream_http_protocol_options: Some(UpstreamHttpProtocolOptions {
            auto_sni: true,
            auto_san_validation: true,
            ..UpstreamHttpProtocolOptions::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::HttpProtocolOptions(
                    Http1ProtocolOptions::default(),
                )),
            },
        )),
        ..HttpProtocolOptions::default()
    };
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(changed(&scene.mesh, "web", |cluster| {
        cluster.transport_socket = Some(socket(&tls));
        speak(cluster, &by_host);
    }));
    let (waypoint, client) = scene.mesh.started_under(&istiod).await;
    for (host, status) in [
        ("a.example.test", StatusCode::OK),
        ("b.example.test:8443", StatusCode::OK),
        ("a.example.test", StatusCode::OK),
        ("c.example.test", StatusCode::SERVICE_UNAVAILABLE),
    ] {
        let path = format!("/{}", &host[..1]);
        let asked = request(Method::GET, &path, &[("host", host)]);
        assert_eq!(
            client.request(scene.to, asked).await.status,
            status,
            "{host}"
        );
    }
    let line = waypoint.until_logged("/c").await;
    assert!(line.ends_with("_expected_SANs:_[c.example.test],_certificate_SANs:_[a.example.test,_b.example.test]:TLS_error_end"), "{line}");
    let snis: Vec<_> = scene
        .server
        .greeted()
        .into_iter()
        .map(|greeted| greeted.sni.unwrap())
        .collect();
    assert_eq!(snis[..2], ["a.example.test", "b.example.test"]);
}

#[tokio::test]
async fn a_client_certificate_is_shown_to_who_asks_for_it() {
    let clients = Authority::new("clients");
    let scene = Scene::new(Speech {
        clients: Some(clients.root().to_owned()),
        ..Speech::default()
    })
    .await;
    let pair = clients.issue(&["waypoint.test"]);
    let plain = context(NAME, trusting(scene.ca.root(), &[NAME]));
    let mut mutual = plain.clone();
    mutual.common_tls_context.as_mut().unwrap().tls_certificates = vec![TlsCertificate {
        certificate_chain: Some(inline(&pair.chain)),
        private_key: Some(inline(&pair.key)),
        ..TlsCertificate::default()
    }];
    let (istiod, waypoint, client) = scene.started(&plain).await;
    let answer = client.get(scene.to, "/without").await;
    assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE);
    let line = waypoint.until_logged("/without").await;
    assert!(line.contains("TLSV1_ALERT_CERTIFICATE_REQUIRED"), "{line}");
    istiod.discovery.set(with_tls(&scene.mesh, "web", &mutual));
    until("the certificate is shown", async || {
        let answer = client.get(scene.to, "/with").await;
        (answer.status == StatusCode::OK).then_some(())
    })
    .await;
    assert!(scene.server.greeted().last().unwrap().client.is_some());
}
