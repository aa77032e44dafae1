//! HTTPRoute: matches and their precedence, weights, header changes, redirect, rewrite, timeouts, errors.

use std::net::SocketAddr;

use http::{Method, StatusCode};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{App, Mesh};

fn route(name: &str, rules: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: default}}\n\
         spec:\n  parentRefs: [{{group: '', kind: Service, name: web, port: 80}}]\n  rules:\n{rules}"
    )
}

/// Service `web`, and services `a` and `b` to route to.
async fn three(mesh: &Mesh) -> (SocketAddr, App, App) {
    mesh.http_service(1, "web").await;
    let (_, a) = mesh.http_service(2, "a").await;
    let (_, b) = mesh.http_service(3, "b").await;
    (mesh.vip(1), a, b)
}

#[tokio::test]
async fn every_core_match_and_its_precedence() {
    let mesh = Mesh::new();
    let (to, _, _) = three(&mesh).await;
    let rules = r#"
  - matches: [{path: {type: PathPrefix, value: /}}]
    backendRefs: [{name: web, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /seg}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: Exact, value: /seg/exact}}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: RegularExpression, value: "/re[0-9]+"}}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /h}, headers: [{name: X-Kind, value: blue}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /h}, headers: [{type: RegularExpression, name: x-kind, value: "gr.*"}]}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /q}, queryParams: [{name: v, value: "2"}]}]
    backendRefs: [{name: b, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /q}, queryParams: [{type: RegularExpression, name: w, value: "[a-z]+"}]}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /m}, method: PUT}]
    backendRefs: [{name: a, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    type Case = (
        Method,
        &'static str,
        &'static [(&'static str, &'static str)],
        &'static str,
    );
    let cases: &[Case] = &[
        (Method::GET, "/", &[], "web"),
        (Method::GET, "/seg", &[], "a"),
        (Method::GET, "/seg/", &[], "a"),
        (Method::GET, "/seg/more", &[], "a"),
        (Method::GET, "/segment", &[], "web"),
        (Method::GET, "/seg/exact", &[], "b"),
        (Method::GET, "/seg/exact?x=1", &[], "b"),
        (Method::GET, "/seg/exact/", &[], "a"),
        // A prefix before a regular expression, but for that of all paths, which would leave it nothing.
        (Method::GET, "/re42", &[], "b"),
        (Method::GET, "/h", &[("x-kind", "blue")], "a"),
        (Method::GET, "/h", &[("x-kind", "green")], "b"),
        (Method::GET, "/h", &[("x-kind", "bluebell")], "web"),
        (Method::GET, "/h", &[], "web"),
        (Method::GET, "/q?v=2", &[], "b"),
        (Method::GET, "/q?w=1&v=2", &[], "b"),
        (Method::GET, "/q?v=20", &[], "web"),
        (Method::GET, "/q?w=abc", &[], "a"),
        (Method::GET, "/q?w=abc1", &[], "web"),
        (Method::PUT, "/m", &[], "a"),
        (Method::GET, "/m", &[], "web"),
        (Method::GET, "/seg/../seg/exact", &[], "b"),
    ];
    for (method, path, headers, app) in cases {
        let answer = connection
            .send(request(method.clone(), path, headers))
            .await;
        assert_eq!(
            answer.header("x-app"),
            *app,
            "{method} {path} {headers:?}: {}",
            answer.status
        );
    }
}

#[tokio::test]
async fn regular_expressions_match_the_whole_path() {
    let mesh = Mesh::new();
    let (to, _, _) = three(&mesh).await;
    let rules = "  - matches: [{path: {type: RegularExpression, value: '/re[0-9]+'}}]\n    backendRefs: [{name: b, port: 80}]\n";
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    for (path, status) in [
        ("/re42", 200),
        ("/re42?q", 200),
        ("/re42x", 404),
        ("/x/re42", 404),
    ] {
        assert_eq!(client.get(to, path).await.status.as_u16(), status, "{path}");
    }
}

#[tokio::test]
async fn what_no_rule_matches_is_not_found() {
    let mesh = Mesh::new();
    let (to, a, _) = three(&mesh).await;
    let rules = "  - matches: [{path: {type: Exact, value: /only}}]\n    backendRefs: [{name: a, port: 80}]\n";
    mesh.manifest("route.yaml", &route("web", rules));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(to, "/only").await.status, StatusCode::OK);
    let answer = client.get(to, "/nothing").await;
    assert_eq!(
        (answer.status, answer.body.len()),
        (StatusCode::NOT_FOUND, 0)
    );
    let line = waypoint.until_logged("/nothing").await;
    assert!(line.contains(" 404 NR route_not_found "), "{line}");
    assert_eq!(a.seen().len(), 1);
}

#[tokio::test]
async fn headers_are_changed_on_the_way_in_and_out() {
    let mesh = Mesh::new();
    let (to, a, _) = three(&mesh).await;
    let rules = r#"
  - filters:
    - type: RequestHeaderModifier
      requestHeaderModifier:
        set: [{name: x-set, value: new}]
        add: [{name: x-add, value: second}]
        remove: [x-gone]
    - type: ResponseHeaderModifier
      responseHeaderModifier:
        set: [{name: x-app, value: hidden}]
        add: [{name: x-more, value: "1"}]
        remove: [x-secret]
    backendRefs: [{name: a, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let headers = [
        ("x-set", "old"),
        ("x-add", "first"),
        ("x-gone", "1"),
        ("x-answer-header", "x-secret=1"),
    ];
    let answer = client
        .request(to, request(Method::GET, "/", &headers))
        .await;
    let seen = a.last();
    assert_eq!(seen.header("x-set"), "new");
    assert_eq!(seen.header("x-add"), "first,second");
    assert_eq!(seen.header("x-gone"), "");
    assert_eq!(answer.header("x-app"), "hidden");
    assert_eq!(answer.header("x-more"), "1");
    assert_eq!(answer.header("x-secret"), "");
}

#[tokio::test]
async fn redirects_and_rewrites() {
    let mesh = Mesh::new();
    let (to, a, _) = three(&mesh).await;
    let rules = r#"
  - matches: [{path: {type: PathPrefix, value: /old}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, hostname: new.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /fresh}, statusCode: 301}}]
  - matches: [{path: {type: PathPrefix, value: /full}}]
    filters: [{type: RequestRedirect, requestRedirect: {path: {type: ReplaceFullPath, replaceFullPath: /there}}}]
  - matches: [{path: {type: PathPrefix, value: /api/v1}}]
    filters: [{type: URLRewrite, urlRewrite: {hostname: inner.example, path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    backendRefs: [{name: a, port: 80}]
  - matches: [{path: {type: PathPrefix, value: /fixed}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplaceFullPath, replaceFullPath: /const}}}]
    backendRefs: [{name: a, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;

    let answer = connection.send(get("/old/page?x=1")).await;
    assert_eq!(answer.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(
        answer.header("location"),
        "https://new.example/fresh/page?x=1"
    );
    let answer = connection
        .send(request(Method::GET, "/full/x", &[("host", "web.example")]))
        .await;
    assert_eq!(answer.status, StatusCode::FOUND);
    assert_eq!(answer.header("location"), "http://web.example/there");

    for (path, target) in [
        ("/api/v1/users?x=1", "/users?x=1"),
        ("/api/v1", "/"),
        ("/fixed/a?y=2", "/const?y=2"),
    ] {
        assert_eq!(connection.send(get(path)).await.status, StatusCode::OK);
        let seen = a.last();
        assert_eq!(seen.target, target, "{path}");
        assert_eq!(seen.header("x-envoy-original-path"), path);
    }
    connection.send(get("/api/v1/host")).await;
    assert_eq!(a.last().header("host"), "inner.example");
}

#[tokio::test]
async fn a_slow_backend_is_given_up_on_in_time() {
    let mesh = Mesh::new();
    let (to, _, _) = three(&mesh).await;
    let rules = "  - timeouts: {request: 150ms}\n    backendRefs: [{name: a, port: 80}]\n";
    mesh.manifest("route.yaml", &route("web", rules));
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(to, "/quick").await.status, StatusCode::OK);
    let answer = client
        .request(to, request(Method::GET, "/slow", &[("x-delay-ms", "3000")]))
        .await;
    assert_eq!(
        (answer.status, answer.text().as_str()),
        (StatusCode::GATEWAY_TIMEOUT, "upstream request timeout")
    );
    let line = waypoint.until_logged("/slow").await;
    assert!(line.contains(" 504 UT response_timeout "), "{line}");
}

#[tokio::test]
async fn a_backend_that_does_not_exist_fails_its_share_only() {
    let mesh = Mesh::new();
    let (to, _, _) = three(&mesh).await;
    let rules = "  - backendRefs: [{name: a, port: 80, weight: 1}, {name: absent, port: 80, weight: 1}, {name: b, port: 80, weight: 0}]\n";
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    let mut failed = 0;
    for _ in 0..200 {
        match connection.send(get("/")).await {
            answer if answer.status == StatusCode::INTERNAL_SERVER_ERROR => failed += 1,
            answer => assert_eq!(answer.header("x-app"), "a"),
        }
    }
    assert!((60..=140).contains(&failed), "half of it: {failed}");
}

#[tokio::test]
async fn connections_that_fail_are_tried_at_another_endpoint() {
    let mesh = Mesh::new();
    // Two pods of one service; nobody listens at the second.
    let (to, backend) = mesh.bare_service(1, "web");
    mesh.describe_pod(2, "web-2", "web", false);
    let app = App::http(backend, "web").await;
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for n in 0..60 {
        let mut post = request(Method::POST, &format!("/{n}"), &[]);
        *post.body_mut() = "body".into();
        let answer = connection.send(post).await;
        assert_eq!(answer.status, StatusCode::OK, "{n}");
        assert_eq!(app.last().body, "body");
    }
}

/// An HTTPRoute of service `web` with an age.
fn aged(name: &str, created: &str, rules: &str) -> String {
    route(name, rules).replace(
        &format!("name: {name}, namespace: default"),
        &format!("name: {name}, namespace: default, creationTimestamp: '{created}'"),
    )
}

#[tokio::test]
async fn routes_of_one_service_are_ordered_by_match_then_age_then_name() {
    let mesh = Mesh::new();
    let (to, _, _) = three(&mesh).await;
    let rule = |path: &str, backend: &str| {
        format!(
            "  - matches: [{{path: {{type: PathPrefix, value: {path}}}}}]\n    backendRefs: [{{name: {backend}, port: 80}}]\n"
        )
    };
    // The younger has the longer match, which counts first.
    let old = rule("/p", "a") + &rule("/same", "a");
    let young = rule("/p/long", "b") + &rule("/same", "b");
    mesh.manifest("z-old.yaml", &aged("z-old", "2020-01-01T00:00:00Z", &old));
    mesh.manifest(
        "a-young.yaml",
        &aged("a-young", "2024-01-01T00:00:00Z", &young),
    );
    // Equal in age: the name counts.
    let date = "2022-01-01T00:00:00Z";
    mesh.manifest("one.yaml", &aged("one", date, &rule("/name", "a")));
    mesh.manifest("two.yaml", &aged("two", date, &rule("/name", "b")));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for (path, app) in [
        ("/p", "a"),
        ("/p/long", "b"),
        ("/p/longer", "a"),
        ("/same", "a"),
        ("/name", "a"),
    ] {
        let answer = connection.send(get(path)).await;
        assert_eq!(answer.header("x-app"), app, "{path}");
    }
}

#[tokio::test]
async fn more_conditions_come_first_and_matches_are_alternatives() {
    let mesh = Mesh::new();
    let (to, _, _) = three(&mesh).await;
    let rules = r#"
  - matches:
    - {path: {type: PathPrefix, value: /x}, headers: [{name: one, value: "1"}]}
    - {path: {type: Exact, value: /alternative}}
    backendRefs: [{name: a, port: 80}]
  - matches:
    - {path: {type: PathPrefix, value: /x}, headers: [{name: one, value: "1"}, {name: two, value: "2"}]}
    - {path: {type: PathPrefix, value: /x}, method: GET}
    backendRefs: [{name: b, port: 80}]
  - backendRefs: [{name: web, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    let one: &[(&str, &str)] = &[("one", "1")];
    let both: &[(&str, &str)] = &[("one", "1"), ("two", "2")];
    for (method, path, headers, app) in [
        (Method::POST, "/x", one, "a"),
        (Method::POST, "/x", both, "b"),
        // A method counts before headers.
        (Method::GET, "/x", one, "b"),
        (Method::GET, "/x", &[][..], "b"),
        (Method::POST, "/x", &[][..], "web"),
        (Method::POST, "/alternative", &[][..], "a"),
        (Method::POST, "/else", &[][..], "web"),
    ] {
        let answer = connection
            .send(request(method.clone(), path, headers))
            .await;
        assert_eq!(answer.header("x-app"), app, "{method} {path} {headers:?}");
    }
}

#[tokio::test]
async fn a_share_of_nothing_gets_nothing_and_a_rule_without_backends_is_an_error() {
    let mesh = Mesh::new();
    let (to, a, b) = three(&mesh).await;
    let rules = r#"
  - matches: [{path: {value: /share}}]
    backendRefs: [{name: a, port: 80, weight: 0}, {name: b, port: 80, weight: 3}]
  - matches: [{path: {value: /none}}]
    backendRefs: [{name: a, port: 80, weight: 0}]
  - matches: [{path: {value: /empty}}]
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for _ in 0..30 {
        assert_eq!(connection.send(get("/share")).await.status, StatusCode::OK);
    }
    assert_eq!((a.seen().len(), b.seen().len()), (0, 30));
    for path in ["/none", "/empty"] {
        let answer = connection.send(get(path)).await;
        assert_eq!(answer.status, StatusCode::INTERNAL_SERVER_ERROR, "{path}");
    }
    assert_eq!(a.seen().len(), 0);
}

#[tokio::test]
async fn a_shares_header_changes_are_its_own() {
    let mesh = Mesh::new();
    let (to, a, b) = three(&mesh).await;
    let rules = r#"
  - backendRefs:
    - name: a
      port: 80
      filters: [{type: RequestHeaderModifier, requestHeaderModifier: {set: [{name: x-share, value: a}]}}]
    - {name: b, port: 80}
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for _ in 0..40 {
        connection.send(get("/")).await;
    }
    assert!(!a.seen().is_empty() && !b.seen().is_empty());
    assert!(a.seen().iter().all(|seen| seen.header("x-share") == "a"));
    assert!(
        b.seen()
            .iter()
            .all(|seen| seen.header("x-share").is_empty())
    );
}

#[tokio::test]
async fn redirects_know_ports_and_keep_what_they_are_not_told() {
    let mesh = Mesh::new();
    let (to, a, _) = three(&mesh).await;
    let rules = r#"
  - matches: [{path: {value: /port}}]
    filters: [{type: RequestRedirect, requestRedirect: {port: 8443}}]
  - matches: [{path: {value: /scheme}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https}}]
  - matches: [{path: {value: /host}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: other.example, statusCode: 302}}]
  - matches: [{path: {value: /303}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 303}}]
  - matches: [{path: {value: /307}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 307}}]
  - matches: [{path: {value: /308}}]
    filters: [{type: RequestRedirect, requestRedirect: {scheme: https, statusCode: 308}}]
  - backendRefs: [{name: a, port: 80}]
"#;
    mesh.manifest("route.yaml", &route("web", rules));
    let (_waypoint, client) = mesh.started().await;
    let mut connection = client.http1(to).await;
    for (path, location) in [
        ("/port/x?q=1", "http://web.example:8443/port/x?q=1"),
        ("/scheme/x", "https://web.example/scheme/x"),
        ("/host/x", "http://other.example/host/x"),
    ] {
        let answer = connection
            .send(request(Method::GET, path, &[("host", "web.example")]))
            .await;
        assert_eq!(answer.status, StatusCode::FOUND, "{path}");
        assert_eq!(answer.header("location"), location, "{path}");
    }
    for code in ["303", "307", "308"] {
        let path = format!("/{code}");
        let answer = connection
            .send(request(Method::GET, &path, &[("host", "web.example")]))
            .await;
        assert_eq!(answer.status.as_str(), code);
        assert_eq!(
            answer.header("location"),
            format!("https://web.example/{code}")
        );
    }
    assert!(a.seen().is_empty());
}

#[tokio::test]
async fn a_backends_time_is_limited_per_attempt() {
    let mesh = Mesh::new();
    let (to, a, _) = three(&mesh).await;
    let rule = |path: &str, limits: &str| {
        format!(
            "  - matches: [{{path: {{value: {path}}}}}]\n    timeouts: {{{limits}}}\n    backendRefs: [{{name: a, port: 80}}]\n"
        )
    };
    let rules = rule("/slow", "request: 300s, backendRequest: 100ms")
        + &rule("/endless/slow", "request: 0s, backendRequest: 100ms")
        + &rule("/endless", "request: 0s, backendRequest: 0s");
    mesh.manifest("route.yaml", &route("web", &rules));
    let (waypoint, client) = mesh.started().await;
    // It waits for neither the backend nor the whole request's time.
    let slow = request(Method::GET, "/slow", &[("x-delay-ms", "300000")]);
    let answer = client.request(to, slow).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
    let line = waypoint.until_logged("/slow").await;
    assert!(line.contains(" 504 U"), "{line}");
    assert!(!a.seen().is_empty());
    // No time is no limit, and leaves the other one.
    for (path, status) in [
        ("/endless/slow", StatusCode::GATEWAY_TIMEOUT),
        ("/endless", StatusCode::OK),
    ] {
        let late = request(Method::GET, path, &[("x-delay-ms", "400")]);
        assert_eq!(client.request(to, late).await.status, status, "{path}");
    }
}
