//! Access log and metrics as Istio's dashboards and pipelines expect them.

use http::{Method, StatusCode};
use waypoint_tests::Mesh;
use waypoint_tests::ztunnel::{get, request};

fn mesh_config(mesh: &Mesh, settings: &str) {
    let indented: String = settings
        .lines()
        .map(|line| format!("    {line}\n"))
        .collect();
    mesh.manifest(
        "mesh.yaml",
        &format!("apiVersion: v1\nkind: ConfigMap\nmetadata: {{name: istio, namespace: istio-system}}\ndata:\n  mesh: |\n{indented}"),
    );
}

#[tokio::test]
async fn the_default_text_line() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let headers = [
        ("user-agent", "story/1"),
        ("x-request-id", "rid-1"),
        ("x-forwarded-for", "192.0.2.1"),
        ("host", "web:80"),
    ];
    let mut post = request(Method::POST, "/line?q=1", &headers);
    *post.body_mut() = "12345".into();
    client.request(to, post).await;
    let line = waypoint.until_logged("/line").await;
    // [start] "METHOD path PROTOCOL" code flags details termination "transport failure" received sent
    // duration upstream-time "xff" "agent" "request id" "authority" "upstream" cluster local dst src sni route
    let rest = line.split_once("] ").unwrap().1;
    assert!(
        rest.starts_with("\"POST /line?q=1 HTTP/1.1\" 200 - via_upstream - \"-\" 5 4 "),
        "{line}"
    );
    let pod = format!("\"{}:8080\"", mesh.pod_ip(1));
    let tail = format!(
        "\"192.0.2.1\" \"story/1\" \"rid-1\" \"web:80\" {pod} inbound-vip|80|http|web.default.svc.cluster.local 127.0.0.1:"
    );
    assert!(rest.contains(&tail), "{line}");
    assert!(rest.contains(&format!(" {to} 127.0.0.1:")), "{line}");
    assert!(rest.ends_with(" - default"), "{line}");
}

#[tokio::test]
async fn json_lines() {
    let mesh = Mesh::new();
    mesh.http_service(1, "web").await;
    mesh_config(&mesh, "accessLogFile: /dev/stdout\naccessLogEncoding: JSON");
    // One ConfigMap: the later file stands.
    mesh.remove_manifest("base.yaml");
    mesh.manifest(
        "rest.yaml",
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {name: waypoint, namespace: default}\n\
         spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}\n",
    );
    let (waypoint, client) = mesh.started().await;
    client
        .request(
            mesh.vip(1),
            request(Method::GET, "/json", &[("user-agent", "quo\"te")]),
        )
        .await;
    let line = waypoint.until_logged("/json").await;
    let json: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(json["method"], "GET");
    assert_eq!(json["path"], "/json");
    assert_eq!(json["response_code"], 200);
    assert_eq!(json["user_agent"], "quo\"te");
    assert_eq!(json["response_flags"], "-");
    assert_eq!(json["bytes_sent"], 4);
}

#[tokio::test]
async fn no_log_unless_asked_for() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let base = std::fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    mesh.manifest(
        "base.yaml",
        &base.replace("accessLogFile: /dev/stdout", "accessLogFile: ''"),
    );
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(to, "/quiet").await.status, StatusCode::OK);
    waypoint
        .until_metric("istio_requests_total", &[], 1.0)
        .await;
    assert_eq!(waypoint.log(), "");
}

#[tokio::test]
async fn request_metrics_name_both_ends() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    // The client is a known pod: its address is the tunnel's source.
    mesh.manifest(
        "curl.yaml",
        "apiVersion: v1\nkind: Pod\nmetadata: {name: curl-7d, namespace: default, labels: {app: curl, version: v3}}\n\
         spec: {serviceAccountName: curl, containers: [{name: a, image: a}]}\n\
         status: {phase: Running, podIP: 127.0.0.1}\n",
    );
    let (waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for _ in 0..3 {
        connection.send(get("/")).await;
    }
    connection
        .send(request(Method::GET, "/", &[("x-status", "503")]))
        .await;
    let labels = [
        ("reporter", "waypoint"),
        ("source_workload", "curl-7d"),
        ("source_workload_namespace", "default"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/default/sa/curl",
        ),
        ("source_app", "curl"),
        ("source_version", "v3"),
        ("source_canonical_service", "curl"),
        ("source_canonical_revision", "v3"),
        ("destination_workload", "web-1"),
        ("destination_workload_namespace", "default"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/web",
        ),
        ("destination_app", "web"),
        ("destination_version", "v1"),
        ("destination_service", "web.default.svc.cluster.local"),
        ("destination_service_name", "web"),
        ("destination_service_namespace", "default"),
        ("destination_canonical_service", "web"),
        ("request_protocol", "http"),
        ("connection_security_policy", "mutual_tls"),
        ("response_flags", "-"),
    ];
    let with = |code: &'static str| {
        labels
            .iter()
            .copied()
            .chain([("response_code", code)])
            .collect::<Vec<_>>()
    };
    waypoint
        .until_metric("istio_requests_total", &with("200"), 3.0)
        .await;
    waypoint
        .until_metric("istio_requests_total", &with("503"), 1.0)
        .await;
    waypoint
        .until_metric("istio_request_duration_milliseconds_count", &labels, 4.0)
        .await;
    waypoint
        .until_metric("istio_response_bytes_sum", &with("200"), 12.0)
        .await;
    waypoint
        .until_metric("istio_request_bytes_count", &with("200"), 3.0)
        .await;
}

#[tokio::test]
async fn what_failed_is_told_by_flags_in_log_and_metrics() {
    let mesh = Mesh::new();
    let (refused, _) = mesh.bare_service(1, "nobody");
    let empty = mesh.service(2, "empty");
    let (web, _) = mesh.http_service(3, "web").await;
    mesh.manifest(
        "route.yaml",
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: default}\n\
         spec: {parentRefs: [{group: '', kind: Service, name: web, port: 80}], rules: [{matches: [{path: {value: /known}}], \
         timeouts: {request: 100ms}, backendRefs: [{name: web, port: 80}]}]}\n",
    );
    let (waypoint, client) = mesh.started().await;
    let slow = [("x-delay-ms", "3000")];
    for (to, path, headers, code, flags) in [
        (refused, "/a", &[][..], "503", "URX,UF"),
        (empty, "/b", &[][..], "503", "UH"),
        (web, "/c", &[][..], "404", "NR"),
        (web, "/known/d", &slow[..], "504", "UT"),
    ] {
        let answer = client
            .request(to, request(Method::GET, path, headers))
            .await;
        assert_eq!(answer.status.as_str(), code, "{path}");
        let line = waypoint.until_logged(&format!("GET {path} ")).await;
        assert!(line.contains(&format!(" {code} {flags} ")), "{line}");
        let labels = [("response_code", code), ("response_flags", flags)];
        waypoint
            .until_metric("istio_requests_total", &labels, 1.0)
            .await;
    }
}

#[tokio::test]
async fn tcp_metrics_name_both_ends() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mesh = Mesh::new();
    mesh.describe_pod(1, "db-1", "db", true);
    let address = mesh.backend(1);
    waypoint_tests::App::tcp(address, |mut tcp| async move {
        let mut asked = [0; 3];
        let _ = tcp.read_exact(&mut asked).await;
        let _ = tcp.write_all(b"answer").await;
    })
    .await;
    let certificate = mesh.certificate("default", "db");
    waypoint_tests::pod_ztunnel::PodZtunnel::start(mesh.pod_ip(1), &certificate).await;
    let to = mesh.service_with_port(1, "db", "{name: tcp, port: 80, targetPort: 8080}");
    let waypoint = mesh.start().await;
    let client = mesh.client(&waypoint, "other", "stranger").await;
    let mut stream = client.tunnel(to).await;
    stream.write_all(b"ask").await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    drop(stream);
    let labels = [
        ("reporter", "waypoint"),
        (
            "source_principal",
            "spiffe://cluster.local/ns/other/sa/stranger",
        ),
        ("destination_workload", "db-1"),
        ("destination_workload_namespace", "default"),
        (
            "destination_principal",
            "spiffe://cluster.local/ns/default/sa/db",
        ),
        ("destination_service", "db.default.svc.cluster.local"),
        ("destination_service_name", "db"),
        ("destination_service_namespace", "default"),
        ("destination_canonical_service", "db"),
        ("request_protocol", "tcp"),
        ("response_flags", "-"),
        ("connection_security_policy", "mutual_tls"),
    ];
    for (name, value) in [
        ("istio_tcp_connections_opened_total", 1.0),
        ("istio_tcp_connections_closed_total", 1.0),
        ("istio_tcp_received_bytes_total", 3.0),
        ("istio_tcp_sent_bytes_total", 6.0),
    ] {
        waypoint.until_metric(name, &labels, value).await;
    }
    let requests = waypoint.metric("istio_requests_total", &[]).await;
    assert_eq!(requests, 0.0, "a stream is no request");
}

#[tokio::test]
async fn what_clients_send_makes_no_series() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    connection.send(get("/")).await;
    waypoint
        .until_metric("istio_requests_total", &[], 1.0)
        .await;
    let series = |text: &str| text.lines().filter(|line| !line.starts_with('#')).count();
    let before = series(&waypoint.metrics().await);
    for n in 0..100 {
        let (host, agent) = (format!("h{n}.example"), format!("agent/{n}"));
        let headers = [("host", &*host), ("user-agent", &*agent), ("x-n", &*agent)];
        connection
            .send(request(Method::GET, &format!("/{n}?{n}"), &headers))
            .await;
    }
    waypoint
        .until_metric("istio_requests_total", &[], 101.0)
        .await;
    assert_eq!(series(&waypoint.metrics().await), before);
}

#[tokio::test]
async fn a_line_is_one_line_and_json_is_json_whatever_clients_send() {
    let mesh = Mesh::new();
    let (to, _) = mesh.http_service(1, "web").await;
    let base = std::fs::read_to_string(mesh.manifests().join("base.yaml")).unwrap();
    let json = "accessLogFile: /dev/stdout\n    accessLogEncoding: JSON";
    mesh.manifest(
        "base.yaml",
        &base.replace("accessLogFile: /dev/stdout", json),
    );
    let (waypoint, client) = mesh.started().await;
    for (n, agent) in [
        &b"back\\slash \"quote\" {brace} %REQ(X)%"[..],
        b"tab\there",
        b"latin \xe9\xff",
        "unicode \u{2028} \u{1f600}".as_bytes(),
    ]
    .into_iter()
    .enumerate()
    {
        let mut raw = format!("GET /odd/{n} HTTP/1.1\r\nhost: web\r\nuser-agent: ").into_bytes();
        raw.extend_from_slice(agent);
        raw.extend_from_slice(b"\r\n\r\n");
        client.raw(to, &raw).await;
        let line = waypoint.until_logged(&format!("/odd/{n}\"")).await;
        let json: serde_json::Value = serde_json::from_str(&line).unwrap();
        assert!(json["user_agent"].is_string(), "{line}");
        if let Ok(text) = std::str::from_utf8(agent) {
            assert_eq!(json["user_agent"], text);
        }
    }
    for line in waypoint.log().lines() {
        assert!(
            serde_json::from_str::<serde_json::Value>(line).is_ok(),
            "{line}"
        );
    }
}
