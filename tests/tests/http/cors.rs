//! CORS: preflights are answered here, answers are marked for origins that may read them, and nothing is refused.

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::RedirectAction;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::extensions::filters::http::cors::v3::CorsPolicy;
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::BoolValue;
use http::{Method, StatusCode};
use waypoint_tests::route_changes::{changed, packed, told};
use waypoint_tests::ztunnel::request;
use waypoint_tests::{Answer, ControlPlane, Mesh};

const FILTER: &str = "envoy.filters.http.cors";
const ORIGINS: &str = "waypoint_cors_origins_total";

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - matches: [{path: {value: /shared}}]
    filters:
    - type: CORS
      cors:
        allowOrigins: ["https://a.example", "https://*.b.example"]
        allowMethods: [GET, PUT]
        allowHeaders: [x-one, x-two]
        exposeHeaders: [x-app]
        allowCredentials: true
        maxAge: 300
    backendRefs: [{name: web, port: 80}]
  - backendRefs: [{name: web, port: 80}]
"#;

/// The answer's headers that are about CORS.
fn marks(answer: &Answer) -> String {
    let mut marks: Vec<String> = answer
        .headers
        .iter()
        .filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("access-control-")?;
            Some(format!("{name}: {}", value.to_str().unwrap()))
        })
        .collect();
    marks.sort();
    marks.join("; ")
}

fn preflight<'a>(origin: &'a str, asks: &'a str) -> [(&'a str, &'a str); 2] {
    [("origin", origin), ("access-control-request-method", asks)]
}

#[tokio::test]
async fn preflights_are_answered_and_answers_are_marked() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.manifest("route.yaml", ROUTES);
    let (waypoint, client) = mesh.started().await;
    let ask = async |method: Method, path: &str, headers: &[(&str, &str)]| {
        client.request(to, request(method, path, headers)).await
    };
    let all = "allow-credentials: true; allow-headers: x-one,x-two; allow-methods: GET,PUT";
    for origin in ["https://a.example", "https://x.y.b.example"] {
        let answer = ask(Method::OPTIONS, "/shared/x", &preflight(origin, "PUT")).await;
        assert_eq!((answer.status, answer.body.len()), (StatusCode::OK, 0));
        let expected =
            format!("{all}; allow-origin: {origin}; expose-headers: x-app; max-age: 300");
        assert_eq!(marks(&answer), expected);
    }
    // A stranger's preflight says what could be, and not to whom.
    let stranger = preflight("https://c.example", "PUT");
    let answer = ask(Method::OPTIONS, "/shared", &stranger).await;
    assert_eq!(answer.status, StatusCode::OK);
    assert_eq!(marks(&answer), format!("{all}; max-age: 300"));
    assert!(app.seen().is_empty(), "a preflight got upstream");
    let line = waypoint.until_logged("OPTIONS /shared/x").await;
    assert!(line.contains(" 200 - cors_response "), "{line}");

    let marked = "allow-credentials: true; allow-origin: https://a.example; expose-headers: x-app";
    for (method, headers, expected) in [
        (Method::GET, vec![("origin", "https://a.example")], marked),
        (Method::GET, vec![("origin", "https://c.example")], ""),
        (Method::GET, vec![], ""),
        // Without `access-control-request-method` it's no preflight, nor with another method.
        (
            Method::OPTIONS,
            vec![("origin", "https://a.example")],
            marked,
        ),
        (
            Method::POST,
            preflight("https://a.example", "PUT").to_vec(),
            marked,
        ),
    ] {
        let answer = ask(method.clone(), "/shared", &headers).await;
        assert_eq!(answer.header("x-app"), "web", "{method} {headers:?}");
        assert_eq!(marks(&answer), expected, "{method} {headers:?}");
    }
    // A rule without the filter has nothing to do with it.
    let answer = ask(Method::OPTIONS, "/", &preflight("https://a.example", "PUT")).await;
    assert_eq!(
        (answer.header("x-app").as_str(), marks(&answer)),
        ("web", String::new())
    );
    for (result, count) in [("valid", 5.0), ("invalid", 2.0)] {
        waypoint
            .until_metric(ORIGINS, &[("result", result)], count)
            .await;
    }
}

fn policy(origin: &str) -> CorsPolicy {
    CorsPolicy {
        allow_origin_string_match: vec![StringMatcher {
            match_pattern: Some(MatchPattern::Exact(origin.into())),
            ..StringMatcher::default()
        }],
        ..CorsPolicy::default()
    }
}

fn percent(numerator: u32) -> Option<RuntimeFractionalPercent> {
    Some(RuntimeFractionalPercent {
        default_value: Some(FractionalPercent {
            numerator,
            denominator: 0,
        }),
        runtime_key: "nobody.says.otherwise".into(),
    })
}

#[tokio::test]
async fn a_route_says_field_by_field_what_its_virtual_host_leaves_to_it() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let resources = changed(mesh.resources(), |host| {
        let Some(default) = host.routes.first().cloned() else {
            return;
        };
        let own = CorsPolicy {
            allow_methods: "PUT".into(),
            forward_not_matching_preflights: Some(BoolValue { value: false }),
            ..CorsPolicy::default()
        };
        let shadow = CorsPolicy {
            filter_enabled: percent(0),
            shadow_enabled: percent(100),
            ..CorsPolicy::default()
        };
        let mut redirect = told(&default, "/moved", FILTER, &own);
        redirect.action = Some(Action::Redirect(RedirectAction::default()));
        host.routes = vec![
            told(&default, "/own", FILTER, &own),
            told(&default, "/shadow", FILTER, &shadow),
            redirect,
            default,
        ];
        let general = CorsPolicy {
            allow_methods: "GET".into(),
            allow_headers: "*".into(),
            ..policy("https://a.example")
        };
        host.typed_per_filter_config = [(FILTER.to_owned(), packed(&general))].into();
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources);
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let ask = async |path: &str, origin: &str| {
        let headers = [
            ("origin", origin),
            ("access-control-request-method", "PUT"),
            ("access-control-request-headers", "x-asked"),
        ];
        client
            .request(to, request(Method::OPTIONS, path, &headers))
            .await
    };
    let known = "https://a.example";
    for (path, methods) in [("/own", "PUT"), ("/", "GET")] {
        let answer = ask(path, known).await;
        let expected =
            format!("allow-headers: x-asked; allow-methods: {methods}; allow-origin: {known}");
        assert_eq!(
            (answer.status, marks(&answer)),
            (StatusCode::OK, expected),
            "{path}"
        );
    }
    let stranger = "https://c.example";
    let answer = ask("/own", stranger).await;
    assert_eq!(marks(&answer), "allow-headers: x-asked; allow-methods: PUT");
    assert!(app.seen().is_empty());
    // Strangers' preflights go to the application, unless the policy says otherwise.
    let answer = ask("/", stranger).await;
    assert_eq!(
        (answer.header("x-app").as_str(), marks(&answer)),
        ("web", String::new())
    );
    // In the shadow origins are counted, and that is all.
    let counted = waypoint.metric(ORIGINS, &[("result", "valid")]).await;
    let answer = ask("/shadow", known).await;
    assert_eq!(
        (answer.header("x-app").as_str(), marks(&answer)),
        ("web", String::new())
    );
    let valid = [("result", "valid")];
    waypoint.until_metric(ORIGINS, &valid, counted + 1.0).await;
    // A route that leads nowhere has no CORS.
    let answer = ask("/moved", known).await;
    assert_eq!(
        (answer.status, marks(&answer)),
        (StatusCode::MOVED_PERMANENTLY, String::new())
    );
}

#[tokio::test]
async fn a_policy_that_is_no_header_is_refused_by_name() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let resources = changed(mesh.resources(), |host| {
        let broken = CorsPolicy {
            max_age: "1\n2".into(),
            ..policy("https://a.example")
        };
        for route in &mut host.routes {
            *route = told(route, "/", FILTER, &broken);
        }
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(mesh.resources());
    let (waypoint, client) = mesh.started_under(&istiod).await;
    istiod.discovery.set(resources);
    let field = r#"typed_per_filter_config["envoy.filters.http.cors"].max_age"#;
    waypoint.until_problem(field).await;
    // The last good version stays.
    assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
}
