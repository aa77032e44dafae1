//! What the translator makes of manifests beyond what the recordings show: closed chains, rules seen from
//! TCP, dry run, route precedence, filters that aren't honoured.

#![allow(clippy::unwrap_used)]

mod balancing;
mod guards;
mod mesh_settings;

use std::path::Path;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::config::route::v3 as route;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use prost::Message;
use waypoint_config::resource::ResourceType;
use waypoint_config::standalone::input::yaml::documents;
use waypoint_config::standalone::state::cluster_state::ClusterState;
use waypoint_config::standalone::state::ownership;
use waypoint_config::standalone::translate::{Translation, translate};
use waypoint_config::standalone::{Severity, difference};

const BASE: &str = "
{apiVersion: gateway.networking.k8s.io/v1, kind: Gateway, metadata: {name: waypoint}, spec: {gatewayClassName: istio-waypoint, listeners: [{name: mesh, port: 15008, protocol: HBONE}]}}
---
{apiVersion: v1, kind: Namespace, metadata: {name: default, labels: {istio.io/use-waypoint: waypoint}}}
---
{apiVersion: v1, kind: Pod, metadata: {name: pod, labels: {app: all}}, status: {podIP: 10.1.0.1, conditions: [{type: Ready, status: 'True'}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: web}, spec: {clusterIP: 10.0.0.1, selector: {app: all}, ports: [{name: http, port: 80}, {name: tcp, port: 81}, {name: any, port: 82}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: db}, spec: {clusterIP: 10.0.0.2, selector: {app: all}, ports: [{name: tcp, port: 5432}]}}
";
const GATEWAY: &str =
    "targetRefs: [{kind: Gateway, group: gateway.networking.k8s.io, name: waypoint}]";
const WEB: &str = "targetRefs: [{kind: Service, group: '', name: web}]";

fn translated(more: &str) -> Translation {
    let text = format!("{BASE}---\n{more}\n");
    let state = ClusterState::read(documents(Path::new("a.yaml"), &text).unwrap()).unwrap();
    translate(&state, ownership::choose(&state, None).unwrap(), None).unwrap()
}

fn policy(name: &str, meta: &str, spec: &str) -> String {
    format!(
        "---\n{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: {name}{meta}}}, spec: {{{spec}}}}}\n"
    )
}

fn http_route(name: &str, meta: &str, parent: &str, rules: &str) -> String {
    format!(
        "---\n{{apiVersion: gateway.networking.k8s.io/v1, kind: HTTPRoute, metadata: {{name: {name}{meta}}}, spec: {{parentRefs: [{{group: '', kind: Service, name: web{parent}}}], rules: [{rules}]}}}}\n"
    )
}

fn chain(translation: &Translation, name: &str) -> FilterChain {
    let resource = translation.resources.iter().find(|resource| {
        resource.kind == ResourceType::Listener && resource.name == "main_internal"
    });
    let listener = Listener::decode(resource.unwrap().body.clone()).unwrap();
    listener
        .filter_chains
        .into_iter()
        .find(|chain| chain.name == name)
        .unwrap()
}

fn service_chain(translation: &Translation, port: u16, subset: &str) -> FilterChain {
    chain(
        translation,
        &format!("inbound-vip|{port}|{subset}|web.default.svc.cluster.local"),
    )
}

fn manager(chain: &FilterChain) -> hcm::HttpConnectionManager {
    let Some(filter::ConfigType::TypedConfig(any)) = &chain.filters.last().unwrap().config_type
    else {
        panic!("no configuration")
    };
    hcm::HttpConnectionManager::decode(any.value.as_slice()).unwrap()
}

fn routes(chain: &FilterChain) -> Vec<route::Route> {
    match manager(chain).route_specifier {
        Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(mut config)) => {
            config.virtual_hosts.remove(0).routes
        }
        _ => panic!("no routes"),
    }
}

fn http_rbac(chain: &FilterChain) -> Vec<HttpRbac> {
    let filters = manager(chain).http_filters;
    let rbac = filters
        .into_iter()
        .filter(|filter| filter.name == "envoy.filters.http.rbac");
    rbac.map(|filter| match filter.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(any)) => {
            HttpRbac::decode(any.value.as_slice()).unwrap()
        }
        _ => panic!("no configuration"),
    })
    .collect()
}

fn network_rbac(chain: &FilterChain) -> Vec<NetworkRbac> {
    let rbac = chain
        .filters
        .iter()
        .filter(|filter| filter.name == "envoy.filters.network.rbac");
    rbac.map(|found| match &found.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => {
            NetworkRbac::decode(any.value.as_slice()).unwrap()
        }
        _ => panic!("no configuration"),
    })
    .collect()
}

fn denies_all(rules: &NetworkRbac) -> bool {
    rules.rules.as_ref().is_some_and(|rules| {
        rules.action() == rbac::rbac::Action::Allow && rules.policies.is_empty()
    })
}

fn closed_body(chain: &FilterChain) -> Option<String> {
    use envoy_types::pb::envoy::config::core::v3::data_source::Specifier;
    match routes(chain).first()?.action.clone()? {
        route::route::Action::DirectResponse(answer) if answer.status == 503 => {
            match answer.body?.specifier? {
                Specifier::InlineString(body) => Some(body),
                _ => None,
            }
        }
        _ => None,
    }
}

fn names(routes: &[route::Route]) -> Vec<&str> {
    routes.iter().map(|route| route.name.as_str()).collect()
}

#[test]
fn route_precedence_holds_across_routes() {
    let younger = ", creationTimestamp: '2026-02-01T00:00:00Z'";
    let older = ", creationTimestamp: '2026-01-01T00:00:00Z'";
    let to = "backendRefs: [{name: web, port: 80}]";
    let found = translated(
        &(http_route(
            "a",
            younger,
            "",
            &format!(
                "{{name: a-short, matches: [{{path: {{value: /x}}}}], {to}}}, {{name: a-exact, matches: [{{path: {{type: Exact, value: /x}}}}], {to}}}, {{name: a-all, {to}}}"
            ),
        ) + &http_route(
            "b",
            older,
            "",
            &format!(
                "{{name: b-long, matches: [{{path: {{value: /x/y}}}}], {to}}}, {{name: b-header, matches: [{{path: {{value: /x}}, headers: [{{name: h, value: v}}]}}], {to}}}, {{name: b-regex, matches: [{{path: {{type: RegularExpression, value: '/.*'}}}}], {to}}}, {{name: b-method, matches: [{{path: {{value: /x}}, method: GET}}], {to}}}"
            ),
        )),
    );
    let routes = routes(&service_chain(&found, 80, "http"));
    // What stands behind a route for everything can't be reached and is left out, as istiod does.
    assert_eq!(
        names(&routes),
        [
            "a-exact", "b-long", "b-method", "b-header", "a-short", "b-regex", "a-all"
        ]
    );
}

#[test]
fn grpc_routes_and_http_routes_are_one_list() {
    let to = "backendRefs: [{name: web, port: 80}]";
    let kind = |text: String| text.replace("kind: HTTPRoute", "kind: GRPCRoute");
    let meta = |month: u8| format!(", creationTimestamp: '2026-0{month}-01T00:00:00Z'");
    let found = translated(
        &(kind(http_route(
            "g",
            &meta(2),
            "",
            &format!(
                "{{name: g-method, matches: [{{method: {{method: Get}}}}], {to}}}, {{name: g-header, matches: [{{headers: [{{name: a, value: b}}]}}], {to}}}, {{name: g-service, matches: [{{method: {{service: shop.Cart}}}}], {to}}}"
            ),
        )) + &kind(http_route(
            "o",
            &meta(1),
            "",
            &format!(
                "{{name: o-all, {to}}}, {{name: o-exact, matches: [{{method: {{service: shop.Cart, method: Get}}}}], {to}}}, {{name: o-longer, matches: [{{method: {{service: shop.Carts}}}}], {to}}}"
            ),
        )) + &http_route(
            "h",
            &meta(3),
            "",
            &format!("{{name: h-exact, matches: [{{path: {{type: Exact, value: /x}}}}], {to}}}"),
        )),
    );
    let routes = routes(&service_chain(&found, 80, "http"));
    assert_eq!(
        names(&routes),
        [
            "o-exact",
            "h-exact",
            "o-longer",
            "g-service",
            "g-method",
            "g-header",
            "o-all"
        ]
    );
}

#[test]
fn a_parent_that_names_nothing_costs_no_other_parent() {
    let gone = "{group: '', kind: Service, name: gone}";
    let no_port = "{group: '', kind: Service, name: web, port: 9}";
    let rule = "{name: only, backendRefs: [{name: web, port: 80}]}";
    let route = http_route("r", "", ", port: 80", rule);
    let route = route.replace(
        "parentRefs: [",
        &format!("parentRefs: [{gone}, {no_port}, "),
    );
    let found = translated(&route);
    assert_eq!(names(&routes(&service_chain(&found, 80, "http"))), ["only"]);
    let told = found.problems.iter().map(|problem| problem.field.as_str());
    let told: Vec<_> = told.collect();
    assert_eq!(told, ["spec.parentRefs[0]", "spec.parentRefs[1]"]);
}

#[test]
fn a_route_for_one_port_is_for_no_other() {
    let found = translated(&http_route(
        "r",
        "",
        ", port: 82",
        "{name: only, backendRefs: [{name: web, port: 80}]}",
    ));
    assert_eq!(
        names(&routes(&service_chain(&found, 80, "http"))),
        ["default"]
    );
    assert_eq!(names(&routes(&service_chain(&found, 82, "http"))), ["only"]);
    let found = translated(&http_route(
        "r",
        "",
        ", sectionName: any",
        "{name: only, backendRefs: [{name: web, port: 80}]}",
    ));
    assert_eq!(
        names(&routes(&service_chain(&found, 80, "http"))),
        ["default"]
    );
    assert_eq!(names(&routes(&service_chain(&found, 82, "http"))), ["only"]);
}

#[test]
fn a_filter_that_is_not_honoured_must_not_be_passed_by() {
    for rule in [
        "{filters: [{type: ExtensionRef, extensionRef: {group: a, kind: b, name: c}}], backendRefs: [{name: web, port: 80}]}",
        "{backendRefs: [{name: web, port: 80, filters: [{type: URLRewrite, urlRewrite: {hostname: a.test}}]}]}",
        "{backendRefs: [{name: web, port: 80, filters: [{type: RequestRedirect, requestRedirect: {hostname: a.test}}]}]}",
        "{filters: [{type: ExternalAuth, externalAuth: {protocol: HTTP, http: {path: /a}, backendRef: {name: web, port: 80}}}], backendRefs: [{name: web, port: 80}]}",
    ] {
        let found = translated(&http_route("r", "", "", rule));
        let routes = routes(&service_chain(&found, 80, "http"));
        let Some(route::route::Action::DirectResponse(answer)) = &routes[0].action else {
            panic!("{:?}", routes[0])
        };
        assert_eq!(answer.status, 500);
        assert_eq!(found.problems[0].severity, Severity::FailClosed);
        assert!(
            found.problems[0].field.starts_with("spec.rules[0]."),
            "{}",
            found.problems[0]
        );
    }
}

#[test]
fn backends() {
    let found = translated(&http_route(
        "r",
        "",
        ", port: 80",
        "{name: tcp, matches: [{path: {value: /a}}], backendRefs: [{name: db, port: 5432}]},
         {name: kind, matches: [{path: {value: /bb}}], backendRefs: [{group: example.com, kind: Bucket, name: b}]},
         {name: host, matches: [{path: {value: /hostname}}], backendRefs: [{group: networking.istio.io, kind: Hostname, name: db.default.svc.cluster.local, port: 5432}]},
         {name: pool, matches: [{path: {value: /pools}}], backendRefs: [{group: inference.networking.k8s.io, kind: InferencePool, name: p, port: 80}]},
         {name: none, matches: [{path: {value: /ccc}}]},
         {name: zero, matches: [{path: {value: /dddd}}], backendRefs: [{name: web, port: 80, weight: 0}]}",
    ));
    let routes = routes(&service_chain(&found, 80, "http"));
    assert_eq!(
        names(&routes),
        ["host", "pool", "zero", "none", "kind", "tcp"]
    );
    let target = |route: &route::Route| match &route.action {
        Some(route::route::Action::DirectResponse(answer)) => answer.status.to_string(),
        Some(route::route::Action::Route(action)) => match &action.cluster_specifier {
            Some(route::route_action::ClusterSpecifier::Cluster(name)) => name.clone(),
            other => format!("{other:?}"),
        },
        other => format!("{other:?}"),
    };
    let targets: Vec<String> = routes.iter().map(target).collect();
    assert_eq!(
        targets,
        [
            "inbound-vip|5432|tcp|db.default.svc.cluster.local",
            "UnknownService",
            "500",
            "500",
            "UnknownService",
            "inbound-vip|5432|tcp|db.default.svc.cluster.local"
        ]
    );
}

#[test]
fn a_headless_backend_is_reached_at_its_own_endpoints() {
    let headless = "---
{apiVersion: v1, kind: Service, metadata: {name: pods}, spec: {clusterIP: None, ports: [{name: http, port: 80}]}}
---
{apiVersion: v1, kind: Service, metadata: {name: far, namespace: other}, spec: {clusterIP: None, ports: [{name: http, port: 80}]}}
---
{apiVersion: discovery.k8s.io/v1, kind: EndpointSlice, metadata: {name: pods-1, labels: {kubernetes.io/service-name: pods}}, addressType: IPv4, ports: [{name: http, port: 8080}], endpoints: [{addresses: [10.1.0.1]}]}
";
    let rule = "{name: to-pods, matches: [{path: {value: /p}}], backendRefs: [{name: pods, port: 80}]},
         {name: to-far, matches: [{path: {value: /f}}], backendRefs: [{name: far, namespace: other, port: 80}]}";
    let own = http_route(
        "own",
        "",
        "",
        "{name: own, backendRefs: [{name: pods, port: 80}]}",
    )
    .replace("name: web", "name: pods");
    let found = translated(&(headless.to_owned() + &http_route("r", "", "", rule) + &own));
    let target = |route: &route::Route| match &route.action {
        Some(route::route::Action::Route(action)) => action.cluster_specifier.clone(),
        _ => None,
    };
    let cluster = |name: &str| {
        Some(route::route_action::ClusterSpecifier::Cluster(
            name.to_owned(),
        ))
    };
    let routes_of_web = routes(&service_chain(&found, 80, "http"));
    let (pods, far) = (
        "outbound|80||pods.default.svc.cluster.local",
        "outbound|80||far.other.svc.cluster.local",
    );
    assert_eq!(target(&routes_of_web[0]), cluster(pods));
    assert_eq!(target(&routes_of_web[1]), cluster(far));
    // Its own route goes where the client wanted to go: to one of its pods.
    let own = "inbound-vip|80|http|pods.default.svc.cluster.local";
    assert_eq!(target(&routes(&chain(&found, own))[0]), cluster(own));
    for (name, eds) in [(pods, true), (far, true), (own, false)] {
        let resource = found
            .resources
            .iter()
            .find(|resource| resource.kind == ResourceType::Cluster && resource.name == name);
        let cluster = Cluster::decode(resource.unwrap().body.clone()).unwrap();
        assert_eq!(cluster.eds_cluster_config.is_some(), eds, "{name}");
    }
    let endpoints = found.resources.iter().any(|resource| {
        resource.kind == ResourceType::Endpoints
            && resource.name == pods
            && String::from_utf8_lossy(&resource.body).contains("10.1.0.1")
    });
    assert!(endpoints);
}

#[test]
fn equal_manifests_give_equal_bytes() {
    let text = policy(
        "p",
        "",
        &format!(
            "{GATEWAY}, rules: [{{to: [{{operation: {{methods: [GET]}}}}]}}, {{}}, {{when: [{{key: source.ip, values: [10.0.0.0/8]}}]}}]"
        ),
    );
    let first = translated(&text);
    for _ in 0..5 {
        let update = difference(&first.resources, &translated(&text).resources);
        assert!(update.added.is_empty() && update.removed.is_empty());
    }
}
