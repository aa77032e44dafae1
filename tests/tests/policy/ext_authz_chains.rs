//! External authorization among other filters, routes and times: what a route says of it, several providers, the route
//! chosen anew, the upstream's time.

use std::time::Duration;
use envoy_types::pb::envoy::config::core::v3::Metadata;
use envoy_types::pb::envoy::extensions::filters::http::ext_authz::v3::{
    CheckSettings, ExtAuthz, ExtAuthzPerRoute, ext_authz_per_route::Override,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::RouteSpecifier;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::OkHttpResponse;
use envoy_types::pb::google::protobuf::{Any, Struct};
use http::{Method, StatusCode};
use prost::{Message, Name};
use waypoint_tests::ext_authz::{Authorizer, Reply, check};
use waypoint_tests::ext_authz_resources::{asks_grpc, cluster_of, custom, guarded, http_filter};
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{ControlPlane, Mesh};

use crate::ext_authz::{FILTER, http_of, option, scene, scene_with, text};
use crate::ext_authz_bodies::{post, with_body};

#[tokio::test]
async fn routes_say_more_less_or_nothing() {
    let of_route = |manager: &mut HttpConnectionManager| {
        let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
            panic!("no routes");
        };
        let config = |setting: Override| {
            let setting = ExtAuthzPerRoute {
                r#override: Some(setting),
            };
            let any = Any {
                type_url: ExtAuthzPerRoute::type_url(),
                value: setting.encode_to_vec(),
            };
            [(FILTER.to_owned(), any)].into()
        };
        let told = CheckSettings {
            context_extensions: [("route".to_owned(), "told".to_owned())].into(),
            with_request_body: with_body(100, false, false),
            ..CheckSettings::default()
        };
        let host = &mut routes.virtual_hosts[0];
        let mut route = host.routes[0].clone();
        route.metadata = Some(Metadata {
            filter_metadata: [(
                "team".to_owned(),
                Struct {
                    fields: [("name".to_owned(), text("web"))].into(),
                },
            )]
            .into(),
            ..Metadata::default()
        });
        let mut with = |prefix: &str, setting: Override| {
            use envoy_types::pb::envoy::config::route::v3::route_match::PathSpecifier;
            let mut route = route.clone();
            let matcher = route.r#match.as_mut().unwrap();
            matcher.path_specifier = Some(PathSpecifier::Prefix(prefix.into()));
            route.typed_per_filter_config = config(setting);
            host.routes.insert(0, route);
        };
        with("/open", Override::Disabled(true));
        with("/told", Override::CheckSettings(told));
    };
    let asks = |asks: &mut ExtAuthz| asks.route_metadata_context_namespaces = vec!["team".into()];
    let scene = scene_with(asks, of_route).await;
    scene.authz.says(check(7));
    assert_eq!(
        scene.client.get(scene.to, "/open").await.status,
        StatusCode::OK
    );
    assert!(scene.authz.take().is_empty());
    let denied = scene.client.request(scene.to, post("/told", "body")).await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let check = scene.authz.asked_once();
    assert_eq!(http_of(&check).body, "body");
    let attributes = check.attributes.unwrap();
    assert_eq!(attributes.context_extensions["route"], "told");
    let team = &attributes.route_metadata_context.unwrap().filter_metadata["team"];
    assert_eq!(team.fields["name"], text("web"));
}

#[tokio::test]
async fn several_providers_are_asked_about_what_their_own_rules_match() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let mut providers = Vec::new();
    let mut filters = Vec::new();
    for (n, name, path) in [
        (2, "one", "/one"),
        (3, "two", "/t"),
        (4, "three", "/two/three"),
    ] {
        mesh.describe_pod(n, &format!("{name}-1"), name, false);
        mesh.service_with_port(n, name, "{name: grpc, port: 80, targetPort: 8080}");
        let authz = Authorizer::start(mesh.backend(n)).await;
        filters.extend(custom(
            name,
            Some(path),
            asks_grpc(&cluster_of(&mesh, name)),
        ));
        providers.push(authz);
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(guarded(&mesh, "web", filters, |_| ()));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    for (path, asked) in [
        ("/", [0, 0, 0]),
        ("/one", [1, 0, 0]),
        ("/two", [0, 1, 0]),
        ("/two/three", [0, 1, 1]),
    ] {
        assert_eq!(client.get(to, path).await.status, StatusCode::OK);
        let were: Vec<_> = providers.iter().map(|p| p.take().len()).collect();
        assert_eq!(were, asked, "{path}");
    }
    providers[1].says(check(7));
    app.forget();
    let denied = client.get(to, "/two/three").await;
    assert_eq!(denied.status, StatusCode::FORBIDDEN);
    let were: Vec<_> = providers.iter().map(|p| p.take().len()).collect();
    assert_eq!(were, [0, 1, 0], "the next is not asked any more");
    assert!(app.seen().is_empty());
    let labels = [("result", "disabled")];
    waypoint
        .until_metric(
            "waypoint_ext_authz_total",
            &labels,
            3.0 + 2.0 + 2.0 + 1.0 + 1.0,
        )
        .await;
}

#[tokio::test]
async fn the_upstreams_time_begins_when_the_check_is_over() {
    let scene = scene_with(
        |_| (),
        |manager| {
            use envoy_types::pb::envoy::config::route::v3::route::Action;
            let Some(RouteSpecifier::RouteConfig(routes)) = &mut manager.route_specifier else {
                panic!("no routes");
            };
            for route in &mut routes.virtual_hosts[0].routes {
                if let Some(Action::Route(action)) = &mut route.action {
                    action.timeout = Some(envoy_types::pb::google::protobuf::Duration {
                        seconds: 1,
                        nanos: 0,
                    });
                }
            }
        },
    )
    .await;
    // The service takes longer than the route allows its own.
    let late = Duration::from_millis(1500);
    scene.authz.replies(Reply::Late(late, Box::new(check(0))));
    let slow = request(Method::GET, "/", &[("x-delay-ms", "100")]);
    let answer = scene.client.request(scene.to, slow).await;
    assert_eq!(answer.status, StatusCode::OK);
    let slow = request(Method::GET, "/", &[("x-delay-ms", "3000")]);
    let answer = scene.client.request(scene.to, slow).await;
    assert_eq!(answer.status, StatusCode::GATEWAY_TIMEOUT);
}

#[tokio::test]
async fn a_service_may_choose_the_route_where_it_is_let() {
    for clear in [false, true] {
        let mesh = Mesh::new();
        let (to, web) = mesh.http_service(1, "web").await;
        let (_, gold) = mesh.http_service(3, "gold").await;
        mesh.manifest(
            "route.yaml",
            "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: default}\n\
             spec:\n  parentRefs: [{group: '', kind: Service, name: web, port: 80}]\n  rules:\n  \
             - matches: [{headers: [{name: x-tier, value: gold}]}]\n    backendRefs: [{name: gold, port: 80}]\n  \
             - backendRefs: [{name: web, port: 80}]\n",
        );
        mesh.describe_pod(2, "authz-1", "authz", false);
        mesh.service_with_port(2, "authz", "{name: grpc, port: 80, targetPort: 8080}");
        let authz = Authorizer::start(mesh.backend(2)).await;
        let mut asks = asks_grpc(&cluster_of(&mesh, "authz"));
        asks.clear_route_cache = clear;
        let istiod = ControlPlane::start(&mesh).await;
        let filters = vec![http_filter(FILTER, &asks)];
        istiod.discovery.set(guarded(&mesh, "web", filters, |_| ()));
        let (_waypoint, client) = mesh.started_under(&istiod).await;
        let mut answer = check(0);
        answer.http_response = Some(HttpResponse::OkResponse(OkHttpResponse {
            headers: vec![option("x-tier", "gold")],
            ..OkHttpResponse::default()
        }));
        authz.says(answer);
        assert_eq!(client.get(to, "/").await.status, StatusCode::OK);
        let seen = (web.seen().len(), gold.seen().len());
        assert_eq!(seen, (usize::from(!clear), usize::from(clear)));
    }
}

#[tokio::test]
async fn a_service_that_starts_anew_refuses_nobody() {
    let scene = scene(|_| ()).await;
    let mut http1 = scene.client.http1(scene.to).await;
    let mut cut = 0;
    for _ in 0..50 {
        assert_eq!(http1.send(get("/")).await.status, StatusCode::OK);
        cut += scene.authz.cut();
    }
    assert!(cut >= 50, "{cut}");
}
