//! Sessions: what clients are given leads them back, through Envoy or through the waypoint, whichever gave it.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::core::v3::TypedExtensionConfig;
use envoy_types::pb::envoy::extensions::filters::http::stateful_session::v3::StatefulSession;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter::ConfigType,
};
use envoy_types::pb::envoy::extensions::http::stateful_session::cookie::v3::CookieBasedSessionState;
use envoy_types::pb::envoy::extensions::http::stateful_session::header::v3::HeaderBasedSessionState;
use envoy_types::pb::envoy::r#type::http::v3::{Cookie, CookieAttribute};
use envoy_types::pb::google::protobuf::{Any, Duration};
use http::Method;
use waypoint_tests::balancing::{managers, service_of_web};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::pod_ztunnel::PodZtunnel;
use waypoint_tests::route_changes::packed;
use waypoint_tests::ztunnel::{Ztunnel, request};
use waypoint_tests::{Answer, App, ControlPlane, Mesh};

const PORT: &str = "{name: http, port: 80, targetPort: 8080}";
const PODS: u8 = 4;

fn by_cookie(ttl: Option<i64>, path: &str) -> Any {
    packed(&CookieBasedSessionState {
        cookie: Some(Cookie {
            name: "at".into(),
            ttl: ttl.map(|seconds| Duration { seconds, nanos: 0 }),
            path: path.into(),
            attributes: vec![CookieAttribute {
                name: "SameSite".into(),
                value: "Lax".into(),
            }],
        }),
    })
}

fn by_header() -> Any {
    packed(&HeaderBasedSessionState {
        name: "x-at".into(),
    })
}

/// How sessions are kept: where, whether strictly, and what is answered for an endpoint that is gone.
type Kept = (&'static str, fn() -> Any, bool, u32);

const KEPT: [Kept; 6] = [
    ("session", || by_cookie(None, "/"), false, 0),
    ("lasting", || by_cookie(Some(3600), "/"), false, 0),
    ("below", || by_cookie(None, "/shop"), false, 0),
    ("header", by_header, false, 0),
    ("strict", by_header, true, 0),
    ("gone", || by_cookie(None, "/"), true, 410),
];

fn is_header(state: &Any) -> bool {
    state.type_url.contains(".header.")
}

fn keep(manager: &mut HttpConnectionManager, (_, state, strict, gone): Kept) {
    let filter = HttpFilter {
        name: "envoy.filters.http.stateful_session".into(),
        config_type: Some(ConfigType::TypedConfig(packed(&StatefulSession {
            session_state: Some(TypedExtensionConfig {
                name: match is_header(&state()) {
                    true => "envoy.http.stateful_session.header".into(),
                    false => "envoy.http.stateful_session.cookie".into(),
                },
                typed_config: Some(state()),
            }),
            strict,
            status_on_strict_destination_not_found: gone,
            ..StatefulSession::default()
        }))),
        ..HttpFilter::default()
    };
    let router = manager.http_filters.len() - 1;
    manager.http_filters.insert(router, filter);
}

/// The header that the client is to send, if it was given one; without what only one answer says.
fn given(answer: &Answer) -> Option<(&'static str, String)> {
    let cookie = answer.header("set-cookie");
    if let Some((pair, _)) = cookie.split_once(';') {
        return Some(("cookie", pair.to_owned()));
    }
    let header = answer.header("x-at");
    (!header.is_empty()).then_some(("x-at", header))
}

fn attributes(answer: &Answer) -> String {
    let cookie = answer.header("set-cookie");
    cookie.split_once(';').unwrap_or_default().1.to_owned()
}

async fn ask(via: &Ztunnel, to: SocketAddr, path: &str, header: Option<(&str, &str)>) -> Answer {
    let headers: Vec<(&str, &str)> = header.into_iter().chain([("host", "web")]).collect();
    via.request(to, request(Method::GET, path, &headers)).await
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn what_either_gives_leads_back_through_both() {
    let mesh = Mesh::new();
    let mut ztunnels = Vec::new();
    for n in 1..=PODS {
        let name = format!("web-{n}");
        // Some by HBONE, some as they are.
        mesh.describe_pod(n, &name, "web", n % 2 == 0);
        App::http(mesh.backend(n), &name).await;
        if n % 2 == 0 {
            let certificate = mesh.certificate("default", "web");
            ztunnels.push(PodZtunnel::start(mesh.pod_ip(n), &certificate).await);
        }
    }
    let to: Vec<_> = (1..)
        .zip(KEPT)
        .map(|(n, (name, ..))| service_of_web(&mesh, n, name, PORT))
        .collect();
    let mut resources = mesh.resources();
    for kept in KEPT {
        managers(&mut resources, kept.0, |manager| keep(manager, kept));
    }
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, ours) = mesh.started_under(&istiod).await;
    istiod.discovery.until_answered().await;
    assert_eq!(istiod.discovery.refusals(), [""; 0]);
    let (_envoy, envoy) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let envoys = Ztunnel::connect(envoy, &certificate).await.unwrap();
    for ((name, ..), to) in KEPT.iter().zip(to) {
        let (mut begun, mut told) = (Vec::new(), Vec::new());
        for via in [&ours, &envoys] {
            for _ in 0..8 {
                let first = ask(via, to, "/shop/x", None).await;
                let given = given(&first).unwrap();
                told.push(attributes(&first));
                begun.push((given, first.header("x-app")));
            }
        }
        told.dedup();
        assert_eq!(told.len(), 1, "{name}: {told:?}");
        for ((header, value), pod) in &begun {
            for via in [&ours, &envoys] {
                let again = ask(via, to, "/shop", Some((header, value))).await;
                assert_eq!(again.header("x-app"), *pod, "{name}: {value}");
                assert_eq!(given(&again), None, "{name}");
            }
        }
        // Paths that a cookie isn't for, and what is no session, or nobody's.
        let nobody = match name.contains("header") || *name == "strict" {
            true => ("x-at", "MTkyLjAuMi4xOjgw".to_owned()),
            false => ("cookie", "at=\"CgwxOTIuMC4yLjE6ODA=\"".to_owned()),
        };
        let old = ("cookie", "at=\"MTkyLjAuMi4xOjgw\"".to_owned());
        let odd = (nobody.0, "at=???".to_owned());
        for (path, (header, value)) in [
            ("/other", nobody.clone()),
            ("/shopping", nobody.clone()),
            ("/shop", nobody),
            ("/shop", odd),
            ("/shop", old),
        ] {
            let mut found = Vec::new();
            for via in [&ours, &envoys] {
                let answer = ask(via, to, path, Some((header, &value))).await;
                let body = match answer.status.as_u16() {
                    200 => String::new(),
                    _ => String::from_utf8_lossy(&answer.body).into_owned(),
                };
                found.push((answer.status, body, given(&answer).is_some()));
            }
            assert_eq!(
                found[0], found[1],
                "ours, Envoy's; {name}: {path} {header}: {value}"
            );
        }
    }
    drop(waypoint);
}
