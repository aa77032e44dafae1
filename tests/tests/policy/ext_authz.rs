//! External authorization of requests: what services are told, what they may say, and what happens if they don't.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::header_value_option::HeaderAppendAction;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValue, HeaderValueOption, QueryParameter, address, socket_address::PortSpecifier,
};
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ExtAuthz;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::ext_authz::Services;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer};
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, DeniedHttpResponse, OkHttpResponse};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use envoy_types::pb::google::protobuf::{Struct, Value, value::Kind};
use http::{Method, StatusCode};
use tokio::io::AsyncWriteExt;
use waypoint_tests::ext_authz::{Authorizer, Reply, check};
use waypoint_tests::ext_authz_resources::{asks_grpc, cluster_of, guarded, http_filter, seconds};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

pub(super) const FILTER: &str = "envoy.filters.http.ext_authz";

pub(super) struct Scene {
    pub(super) _mesh: Mesh,
    pub(super) to: SocketAddr,
    pub(super) app: App,
    pub(super) authz: Authorizer,
    pub(super) _istiod: ControlPlane,
    pub(super) waypoint: Waypoint,
    pub(super) client: Ztunnel,
}

/// `web`, whose requests a gRPC service is asked about.
pub(super) async fn scene(change: impl FnOnce(&mut ExtAuthz)) -> Scene {
    scene_with(change, |_| ()).await
}

pub(super) async fn scene_with(
    change: impl FnOnce(&mut ExtAuthz),
    change_manager: impl Fn(&mut HttpConnectionManager),
) -> Scene {
    let mesh = Mesh::new();
    let format = "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
                  %DYNAMIC_METADATA(envoy.filters.http.ext_authz:who)% %REQ(X-USER)%\n";
    mesh.access_log_format(format);
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.describe_pod(2, "authz-1", "authz", false);
    mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
    let authz = Authorizer::start(mesh.backend(2)).await;
    let mut asks = asks_grpc(&cluster_of(&mesh, "authz"));
    change(&mut asks);
    let istiod = ControlPlane::start(&mesh).await;
    let filters = vec![http_filter(FILTER, &asks)];
    istiod
        .discovery
        .set(guarded(&mesh, "web", filters, change_manager));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    Scene {
        _mesh: mesh,
        to,
        app,
        authz,
        _istiod: istiod,
        waypoint,
        client,
    }
}

impl Scene {
    pub(super) async fn until_counted(&self, result: &str, value: f64) {
        let labels = [("filter", "http"), ("result", result)];
        self.waypoint
            .until_metric("waypoint_ext_authz_total", &labels, value)
            .await;
    }
}

pub(super) fn text(value: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(value.into())),
    }
}

pub(super) fn option(key: &str, value: &str) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: key.into(),
            value: value.into(),
            ..HeaderValue::default()
        }),
        append_action: HeaderAppendAction::OverwriteIfExistsOrAdd.into(),
        ..HeaderValueOption::default()
    }
}

pub(super) fn http_of(check: &CheckRequest) -> &HttpRequest {
    let request = check.attributes.as_ref().unwrap().request.as_ref();
    request.unwrap().http.as_ref().unwrap()
}

/// Address, port and principal.
pub(super) fn end(peer: &Peer) -> (String, u32, &str) {
    let Some(address::Address::SocketAddress(socket)) = &peer.address.as_ref().unwrap().address
    else {
        panic!("{peer:?}");
    };
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        panic!("{peer:?}");
    };
    (socket.address.clone(), port, &peer.principal)
}

#[tokio::test]
async fn a_service_is_told_who_asks_for_what() {
    let scene = scene(|asks| asks.include_peer_certificate = true).await;
    let asked = request(
        Method::PUT,
        "/a?b=c",
        &[
            ("host", "web:80"),
            ("x-user", "1"),
            ("x-envoy-downstream-service-cluster", "somebody"),
        ],
    );
    assert_eq!(
        scene.client.request(scene.to, asked).await.status,
        StatusCode::OK
    );
    let (head, check) = scene.authz.take().remove(0);
    assert_eq!(head["host"], "authz.default.svc.cluster.local");
    assert_eq!(head["te"], "trailers");
    assert_eq!(head["content-type"], "application/grpc");
    assert_eq!(head["grpc-timeout"], "5000m");
    let attributes = check.attributes.as_ref().unwrap();
    let (source, destination) = (
        attributes.source.as_ref().unwrap(),
        attributes.destination.as_ref().unwrap(),
    );
    let (address, _, principal) = end(source);
    assert_eq!(address, "127.0.0.1");
    assert_eq!(principal, "spiffe://cluster.local/ns/default/sa/curl");
    assert_eq!(source.service, "", "a header doesn't say who somebody is");
    assert!(source.certificate.starts_with("-----BEGIN%20CERTIFICATE"));
    let waypoint = "spiffe://cluster.local/ns/default/sa/waypoint";
    assert_eq!(end(destination), (scene.to.ip().to_string(), 80, waypoint));
    let http = http_of(&check);
    assert_eq!(
        (&*http.method, &*http.path, &*http.host),
        ("PUT", "/a?b=c", "web:80")
    );
    assert_eq!((&*http.scheme, &*http.protocol), ("http", "HTTP/1.1"));
    for (name, value) in [
        (":method", "PUT"),
        (":path", "/a?b=c"),
        (":authority", "web:80"),
        (":scheme", "http"),
        ("x-user", "1"),
        ("x-forwarded-proto", "http"),
    ] {
        assert_eq!(http.headers[name], value);
    }
    assert!(!http.headers.contains_key("host"));
    assert_eq!((http.size, &*http.query, &*http.body), (0, "", ""));
    assert!(attributes.request.as_ref().unwrap().time.is_some());
    assert!(attributes.tls_session.is_none());
    scene.until_counted("ok", 1.0).await;
}

#[tokio::test]
async fn what_a_service_says_is_done() {
    let scene = scene(|_| ()).await;
    let mut answer = check(0);
    answer.dynamic_metadata = Some(Struct {
        fields: [("who".to_owned(), text("ana"))].into(),
    });
    answer.http_response = Some(HttpResponse::OkResponse(OkHttpResponse {
        headers: vec![option("x-user", "ana"), option("content-length", "7")],
        headers_to_remove: vec!["authorization".into(), ":path".into(), "host".into()],
        response_headers_to_add: vec![option("x-seen", "yes")],
        query_parameters_to_set: vec![QueryParameter {
            key: "role".into(),
            value: "admin".into(),
        }],
        query_parameters_to_remove: vec!["debug".into()],
        ..OkHttpResponse::default()
    }));
    scene.authz.says(answer);
    let headers = [
        ("x-user", "spoofed"),
        ("x-user", "twice"),
        ("authorization", "secret"),
    ];
    let asked = request(Method::GET, "/a?role=none&debug=1&b", &headers);
    let answer = scene.client.request(scene.to, asked).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(answer.header("x-seen"), "yes");
    let seen = scene.app.last();
    assert_eq!(seen.target, "/a?b=&role=admin");
    assert_eq!(seen.header("x-user"), "ana");
    assert_eq!(seen.header("authorization"), "");
    assert_eq!(seen.header("host"), "test");
    assert_eq!(seen.header("content-length"), "");
    let line = scene.waypoint.until_logged("/a?").await;
    assert!(line.ends_with("200 - via_upstream ana ana"), "{line}");
}

#[tokio::test]
async fn a_denial_is_the_services_own() {
    let scene = scene(|_| ()).await;
    let mut answer = check(7);
    scene.authz.says(answer.clone());
    let plain = scene.client.get(scene.to, "/plain").await;
    assert_eq!(
        (plain.status, plain.text()),
        (StatusCode::FORBIDDEN, String::new())
    );
    answer.http_response = Some(HttpResponse::DeniedResponse(DeniedHttpResponse {
        status: Some(HttpStatus { code: 401 }),
        headers: vec![
            option("www-authenticate", "Basic"),
            option("set-cookie", "a=1"),
            option("set-cookie", "b=2"),
            option("content-type", "text/html"),
            option("content-length", "1000"),
        ],
        body: "<p>Who?".into(),
    }));
    scene.authz.says(answer);
    let mut http1 = scene.client.http1(scene.to).await;
    let http2 = scene.client.http2(scene.to).await;
    for answer in [http1.send(get("/own")).await, http2.send(get("/own")).await] {
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
        assert_eq!(answer.text(), "<p>Who?");
        assert_eq!(answer.header("content-type"), "text/html");
        assert_eq!(answer.header("content-length"), "7");
        assert_eq!(answer.header("www-authenticate"), "Basic");
        assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
    }
    let head = http1.send(request(Method::HEAD, "/own", &[])).await;
    assert_eq!(
        (head.text(), head.header("content-length")),
        ("".into(), "7".into())
    );
    let grpc = request(
        Method::POST,
        "/own",
        &[("content-type", "application/grpc")],
    );
    let grpc = http2.send(grpc).await;
    assert_eq!(grpc.status, StatusCode::OK);
    assert_eq!(grpc.header("grpc-status"), "16");
    assert_eq!(grpc.header("grpc-message"), "<p>Who?");
    assert!(scene.app.seen().is_empty());
    let line = scene.waypoint.until_logged("/plain").await;
    assert!(line.ends_with("403 UAEX ext_authz_denied - -"), "{line}");
    scene.until_counted("denied", 5.0).await;
}

#[tokio::test]
async fn without_an_answer_nobody_passes() {
    let scene = scene(|asks| {
        asks.status_on_error = Some(HttpStatus { code: 503 });
    })
    .await;
    let replies = [
        Reply::Status(14),
        Reply::Status(0),
        Reply::Http(200),
        Reply::Http(503),
        Reply::Reset,
        Reply::Noise(4),
        Reply::Noise(100),
        Reply::Noise(2 * 1024 * 1024),
    ];
    let count = replies.len();
    for reply in replies {
        scene.authz.replies(reply.clone());
        let answer = scene.client.get(scene.to, "/lost").await;
        assert_eq!(answer.status, StatusCode::SERVICE_UNAVAILABLE, "{reply:?}");
        assert_eq!(answer.text(), "");
    }
    assert!(scene.app.seen().is_empty());
    let line = scene.waypoint.until_logged("/lost").await;
    assert!(line.ends_with("503 UAEX ext_authz_error - -"), "{line}");
    scene.until_counted("error", count as f64).await;
}

#[tokio::test]
async fn a_service_may_say_that_it_failed_and_what_its_client_gets() {
    let scene = scene(|_| ()).await;
    let mut answer = check(13);
    answer.http_response = Some(HttpResponse::ErrorResponse(DeniedHttpResponse {
        status: Some(HttpStatus { code: 502 }),
        headers: vec![option("x-why", "database")],
        body: "later".into(),
    }));
    scene.authz.says(answer);
    let answer = scene.client.get(scene.to, "/failed").await;
    assert_eq!(
        (answer.status, answer.text()),
        (StatusCode::BAD_GATEWAY, "later".into())
    );
    assert_eq!(answer.header("x-why"), "database");
    let line = scene.waypoint.until_logged("/failed").await;
    assert!(line.ends_with("502 UAEX ext_authz_error - -"), "{line}");
}

#[tokio::test]
async fn what_can_not_be_done_is_not_half_done() {
    let scene = scene(|_| ()).await;
    for bad in [
        ("a b", "x"),
        ("x", "a\nb"),
        (":path", "no path"),
        (":scheme", "x"),
    ] {
        let mut answer = check(0);
        answer.http_response = Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![option("x-first", "1"), option(bad.0, bad.1)],
            ..OkHttpResponse::default()
        }));
        scene.authz.says(answer);
        let answer = scene.client.get(scene.to, "/bad").await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{bad:?}");
    }
    assert!(scene.app.seen().is_empty());
    let line = scene.waypoint.until_logged("/bad").await;
    assert!(line.ends_with("500 UAEX ext_authz_invalid - -"), "{line}");
}

#[tokio::test]
async fn a_slow_service_has_so_much_time_and_no_more() {
    let scene = scene(|asks| {
        asks.failure_mode_allow = true;
        asks.failure_mode_allow_header_add = true;
    })
    .await;
    scene.authz.replies(Reply::Never);
    let answer = scene.client.get(scene.to, "/slow").await;
    assert_eq!(answer.status, StatusCode::OK);
    let allowed = scene.app.last().header("x-envoy-auth-failure-mode-allowed");
    assert_eq!(allowed, "true");
    until("the call's end", async || {
        (scene.authz.cancelled() == 1).then_some(())
    })
    .await;
    scene.until_counted("error", 1.0).await;
    scene.until_counted("failure_mode_allowed", 1.0).await;
}

#[tokio::test]
async fn a_client_that_leaves_takes_its_check_along() {
    let scene = scene(|asks| {
        let long = seconds(600);
        if let Some(Services::GrpcService(grpc)) = &mut asks.services {
            grpc.timeout = Some(long);
        }
    })
    .await;
    scene.authz.replies(Reply::Never);
    let http2 = scene.client.http2(scene.to).await;
    let asking = tokio::spawn(async move { http2.start(get("/left")).await.is_ok() });
    scene.authz.until_asked().await;
    asking.abort();
    until("the call's end", async || {
        (scene.authz.cancelled() == 1).then_some(())
    })
    .await;
    // And with its tunnel, or with all tunnels.
    for cancelled in [2, 3] {
        let _ = scene.authz.take();
        let mut stream = scene.client.tunnel(scene.to).await;
        let head = b"GET /left HTTP/1.1\r\nhost: web\r\n\r\n";
        stream.write_all(head).await.unwrap();
        scene.authz.until_asked().await;
        match cancelled {
            2 => drop(stream),
            _ => scene.client.kill(),
        }
        until("the call's end", async || {
            (scene.authz.cancelled() == cancelled).then_some(())
        })
        .await;
    }
    assert!(scene.app.seen().is_empty());
}
