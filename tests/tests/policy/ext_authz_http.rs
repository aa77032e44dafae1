//! External authorization over HTTP: what the service is sent, and what of its answer is passed on.

use std::net::SocketAddr;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::HeaderValue;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    AuthorizationRequest, AuthorizationResponse, BufferSettings, ExtAuthz, HttpService,
};
use envoy_types::pb::envoy::r#type::v3::HttpStatus;
use http::{Method, StatusCode};
use http_body_util::Full;
use waypoint_tests::ext_authz::{HttpAuthorizer, HttpReply};
use waypoint_tests::ext_authz_resources::{
    asks_http, cluster_of, custom, guarded, http_service, names,
};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

struct Scene {
    _mesh: Mesh,
    to: SocketAddr,
    app: App,
    authz: HttpAuthorizer,
    _istiod: ControlPlane,
    waypoint: Waypoint,
    client: Ztunnel,
}

/// As istiod has it for a provider with everything set.
fn service(cluster: &str) -> HttpService {
    HttpService {
        path_prefix: "/check".into(),
        authorization_request: Some(AuthorizationRequest {
            headers_to_add: vec![HeaderValue {
                key: "x-from".into(),
                value: "waypoint".into(),
                ..HeaderValue::default()
            }],
            ..AuthorizationRequest::default()
        }),
        authorization_response: Some(AuthorizationResponse {
            allowed_upstream_headers: Some(names(&["x-auth-*"])),
            allowed_upstream_headers_to_append: Some(names(&["x-more"])),
            allowed_client_headers: Some(names(&["x-reason"])),
            allowed_client_headers_on_success: Some(names(&["set-cookie"])),
            dynamic_metadata_from_headers: Some(names(&["x-who"])),
        }),
        ..http_service(cluster)
    }
}

async fn scene(change: impl FnOnce(&mut ExtAuthz)) -> Scene {
    let mesh = Mesh::new();
    mesh.access_log_format(
        "%REQ(:PATH)% %RESPONSE_CODE% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS% \
         %DYNAMIC_METADATA(envoy.filters.http.ext_authz:x-who)%\n",
    );
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.bare_service(2, "authz");
    let authz = HttpAuthorizer::start(mesh.backend(2)).await;
    let mut asks = asks_http(service(&cluster_of(&mesh, "authz")));
    asks.allowed_headers = Some(names(&["x-user"]));
    change(&mut asks);
    let filters = custom("ext-http", None, asks).into();
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(guarded(&mesh, "web", filters, |_| ()));
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

#[tokio::test]
async fn a_service_gets_the_head_under_a_path_of_its_own() {
    let scene = scene(|_| ()).await;
    let headers = [
        ("host", "web:80"),
        ("x-user", "a"),
        ("x-user", "b"),
        ("x-other", "o"),
        ("x-from", "client"),
        ("authorization", "secret"),
    ];
    let asked = request(Method::DELETE, "/a?b=c", &headers);
    let answer = scene.client.request(scene.to, asked).await;
    assert_eq!(answer.status, StatusCode::OK);
    let check = scene.authz.take().remove(0);
    assert_eq!(
        (&check.method, &*check.target),
        (&Method::DELETE, "/check/a?b=c")
    );
    let mut told: Vec<_> = check
        .headers
        .iter()
        .map(|(name, value)| (name.as_str(), value.to_str().unwrap()))
        .collect();
    told.sort_unstable();
    let expected = [
        ("authorization", "secret"),
        ("content-length", "0"),
        ("host", "web:80"),
        ("x-from", "waypoint"),
        ("x-user", "a,b"),
    ];
    assert_eq!(told, expected);
    assert_eq!(scene.app.last().target, "/a?b=c");
}

#[tokio::test]
async fn what_is_listed_of_an_answer_is_passed_on() {
    let scene = scene(|_| ()).await;
    let said = [
        ("x-auth-user", "ana"),
        ("x-more", "2"),
        ("x-reason", "none"),
        ("set-cookie", "a=1"),
        ("set-cookie", "b=2"),
        ("x-who", "ana"),
        ("x-secret", "s"),
        ("x-envoy-auth-headers-to-remove", "authorization, x-gone"),
    ];
    scene.authz.replies(HttpReply::new(200, &said, "yes"));
    let headers = [
        ("x-auth-user", "spoofed"),
        ("x-more", "1"),
        ("authorization", "secret"),
        ("x-gone", "1"),
    ];
    let asked = request(Method::GET, "/yes", &headers);
    let answer = scene.client.request(scene.to, asked).await;
    assert_eq!((answer.status, &*answer.text()), (StatusCode::OK, "web\n"));
    assert_eq!(answer.headers.get_all("set-cookie").iter().count(), 2);
    assert_eq!(answer.header("x-reason"), "");
    let seen = scene.app.last();
    assert_eq!(seen.header("x-auth-user"), "ana");
    assert_eq!(seen.header("x-more"), "1,2");
    for gone in ["authorization", "x-gone", "x-secret", "x-who"] {
        assert_eq!(seen.header(gone), "", "{gone}");
    }
    let line = scene.waypoint.until_logged("/yes").await;
    assert!(line.ends_with("200 - via_upstream ana"), "{line}");

    scene.authz.replies(HttpReply::new(
        302,
        &[
            ("location", "/login"),
            ("x-reason", "who?"),
            ("x-secret", "s"),
        ],
        "go",
    ));
    let asked = request(Method::GET, "/no", &[]);
    let answer = scene.client.request(scene.to, asked).await;
    assert_eq!((answer.status, &*answer.text()), (StatusCode::FOUND, "go"));
    assert_eq!(answer.header("location"), "/login");
    assert_eq!(answer.header("x-reason"), "who?");
    assert_eq!(answer.header("x-secret"), "");
    let line = scene.waypoint.until_logged("/no").await;
    assert!(line.ends_with("302 UAEX ext_authz_denied -"), "{line}");
}

#[tokio::test]
async fn only_200_lets_pass_and_5xx_is_a_failure() {
    let scene = scene(|asks| {
        asks.status_on_error = Some(HttpStatus { code: 504 });
    })
    .await;
    for (status, answered) in [(204, 204), (206, 206), (404, 404), (500, 504), (503, 504)] {
        scene.authz.replies(HttpReply::new(status, &[], ""));
        let asked = request(Method::GET, "/", &[]);
        let answer = scene.client.request(scene.to, asked).await;
        assert_eq!(answer.status, answered, "{status}");
    }
    assert!(scene.app.seen().is_empty());
    let labels = |result| [("filter", "http"), ("result", result)];
    for (result, count) in [("denied", 3.0), ("error", 2.0)] {
        scene
            .waypoint
            .until_metric("waypoint_ext_authz_total", &labels(result), count)
            .await;
    }
}

#[tokio::test]
async fn a_body_is_the_checks_body() {
    let scene = scene(|asks| {
        asks.with_request_body = Some(BufferSettings {
            max_request_bytes: 4,
            allow_partial_message: true,
            ..BufferSettings::default()
        });
    })
    .await;
    for (body, told, partial) in [("abc", "abc", "false"), ("abcdef", "abcd", "true")] {
        let asked = request(Method::POST, "/", &[]).map(|_| Full::new(body.into()));
        let answer = scene.client.request(scene.to, asked).await;
        assert_eq!(answer.status, StatusCode::OK);
        let check = scene.authz.take().remove(0);
        assert_eq!(check.body, told);
        assert_eq!(check.header("content-length"), told.len().to_string());
        assert_eq!(check.header("x-envoy-auth-partial-body"), partial);
        assert_eq!(scene.app.last().body, body);
    }
}

#[tokio::test]
async fn nobody_there_and_nobody_in_time() {
    for allow in [false, true] {
        let mesh = Mesh::new();
        let (to, app) = mesh.http_service(1, "web").await;
        mesh.bare_service(2, "authz");
        let mut asks = asks_http(http_service(&cluster_of(&mesh, "authz")));
        asks.failure_mode_allow = allow;
        let filters = custom("ext-http", None, asks).into();
        let istiod = ControlPlane::start(&mesh).await;
        istiod.discovery.set(guarded(&mesh, "web", filters, |_| ()));
        let (_waypoint, client) = mesh.started_under(&istiod).await;
        let status = match allow {
            false => StatusCode::FORBIDDEN,
            true => StatusCode::OK,
        };
        assert_eq!(client.get(to, "/dead").await.status, status);
        let authz = HttpAuthorizer::start(mesh.backend(2)).await;
        let mut late = HttpReply::new(200, &[], "");
        late.after = Duration::from_secs(60);
        authz.replies(late);
        assert_eq!(client.get(to, "/late").await.status, status);
        assert_eq!(app.seen().len(), 2 * usize::from(allow));
    }
}
