//! Envoy as the waypoint's neighbour: before it as the client, behind it as the ztunnel of a pod.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Mesh};

use super::beside::program;

#[tokio::test]
#[ignore = "needs Envoy"]
async fn envoy_in_front_as_the_client() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let waypoint = mesh.start().await;
    let certs = mesh.folder().join("front");
    mesh.certificate("default", "curl").write(&certs).unwrap();
    let (listen, admin) = (mesh.backend(252), SocketAddr::new(mesh.pod_ip(252), 15000));
    let config = mesh.folder().join("front.yaml");
    std::fs::write(
        &config,
        front(listen, admin, waypoint.address(), to, &certs),
    )
    .unwrap();
    let folder = mesh.folder().to_path_buf();
    let _envoy = tokio::task::spawn_blocking(move || {
        Envoy::with_config(&[&program()], &config, &folder, admin)
    })
    .await
    .unwrap();
    for n in 0..20 {
        let mut tcp = tokio::net::TcpStream::connect(listen).await.unwrap();
        tcp.write_all(
            format!("GET /{n} HTTP/1.1\r\nhost: web\r\nconnection: close\r\n\r\n").as_bytes(),
        )
        .await
        .unwrap();
        let mut answer = String::new();
        let ended = tcp.read_to_string(&mut answer).await;
        assert!(ended.is_ok(), "{ended:?} after {answer:?}");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    }
    let labels = [(
        "source_principal",
        "spiffe://cluster.local/ns/default/sa/curl",
    )];
    waypoint
        .until_metric("istio_requests_total", &labels, 20.0)
        .await;
}

/// As Envoy's configuration has it.
fn address(a: SocketAddr) -> String {
    format!(
        "{{socket_address: {{address: '{}', port_value: {}}}}}",
        a.ip(),
        a.port()
    )
}

fn front(
    listen: SocketAddr,
    admin: SocketAddr,
    via: SocketAddr,
    to: SocketAddr,
    certs: &std::path::Path,
) -> String {
    format!(
        r#"
admin: {{address: {admin}}}
static_resources:
  listeners:
  - name: in
    address: {listen}
    filter_chains:
    - filters:
      - name: tcp
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy
          stat_prefix: tcp
          cluster: waypoint
          tunneling_config: {{hostname: "{to}"}}
  clusters:
  - name: waypoint
    type: STATIC
    load_assignment: {{cluster_name: waypoint, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {via}}}}}]}}]}}
    typed_extension_protocol_options:
      envoy.extensions.upstreams.http.v3.HttpProtocolOptions:
        "@type": type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions
        explicit_http_config: {{http2_protocol_options: {{}}}}
    transport_socket:
      name: tls
      typed_config:
        "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext
        common_tls_context:
          # Envoy's own default as a client ends at 1.2.
          tls_params: {{tls_maximum_protocol_version: TLSv1_3}}
          alpn_protocols: [h2]
          tls_certificates:
          - certificate_chain: {{filename: {certs}/cert-chain.pem}}
            private_key: {{filename: {certs}/key.pem}}
          validation_context: {{trusted_ca: {{filename: {certs}/root-cert.pem}}}}
"#,
        admin = address(admin),
        listen = address(listen),
        via = address(via),
        certs = certs.display(),
    )
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn envoy_behind_as_the_pods_ztunnel() {
    let mesh = Mesh::new();
    mesh.describe_pod(1, "web-1", "web", true);
    let app = App::http(mesh.backend(1), "web").await;
    let to = mesh.service(1, "web");
    let certs = mesh.folder().join("behind");
    mesh.certificate("default", "web").write(&certs).unwrap();
    let (listen, admin) = (
        SocketAddr::new(mesh.pod_ip(1), 15008),
        SocketAddr::new(mesh.pod_ip(1), 15000),
    );
    let config = mesh.folder().join("behind.yaml");
    std::fs::write(&config, behind(listen, admin, mesh.backend(1), &certs)).unwrap();
    let folder = mesh.folder().to_path_buf();
    let _envoy = tokio::task::spawn_blocking(move || {
        Envoy::with_config(&[&program()], &config, &folder, admin)
    })
    .await
    .unwrap();
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for n in 0..20 {
        assert_eq!(
            connection.send(get(&format!("/{n}"))).await.status,
            StatusCode::OK
        );
    }
    const SIZE: usize = 4 << 20;
    let answer = client
        .request(
            to,
            request(
                Method::GET,
                "/big",
                &[("x-answer-bytes", &SIZE.to_string())],
            ),
        )
        .await;
    assert_eq!(answer.body.len(), SIZE);
    let mut upload = request(Method::POST, "/up", &[]);
    *upload.body_mut() = vec![b'x'; SIZE].into();
    assert_eq!(client.request(to, upload).await.status, StatusCode::OK);
    assert_eq!(app.last().body.len(), SIZE);
}

fn behind(
    listen: SocketAddr,
    admin: SocketAddr,
    app: SocketAddr,
    certs: &std::path::Path,
) -> String {
    format!(
        r#"
admin: {{address: {admin}}}
static_resources:
  listeners:
  - name: hbone
    address: {listen}
    filter_chains:
    - filters:
      - name: http
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: hbone
          http2_protocol_options: {{allow_connect: true}}
          upgrade_configs: [{{upgrade_type: CONNECT}}]
          route_config:
            virtual_hosts:
            - name: all
              domains: ["*"]
              routes:
              - match: {{connect_matcher: {{}}}}
                route: {{cluster: app, timeout: 0s, upgrade_configs: [{{upgrade_type: CONNECT, connect_config: {{}}}}]}}
          http_filters:
          - name: router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
      transport_socket:
        name: tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          require_client_certificate: true
          common_tls_context:
            alpn_protocols: [h2]
            tls_certificates:
            - certificate_chain: {{filename: {certs}/cert-chain.pem}}
              private_key: {{filename: {certs}/key.pem}}
            validation_context: {{trusted_ca: {{filename: {certs}/root-cert.pem}}}}
  clusters:
  - name: app
    type: STATIC
    load_assignment: {{cluster_name: app, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {app}}}}}]}}]}}
"#,
        admin = address(admin),
        listen = address(listen),
        app = address(app),
        certs = certs.display(),
    )
}
