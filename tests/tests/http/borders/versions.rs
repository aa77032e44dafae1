//! Every version of HTTP to every other, with every framing of a body and of an answer.

use std::net::SocketAddr;

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::core::v3::Http1ProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use envoy_types::pb::google::protobuf::Any;
use prost::Message;
use waypoint_config::resource::{Resource, ResourceType};
use waypoint_tests::backend::{Backend, Got, Speaks};
use waypoint_tests::versions::{Answered, Sends, Version, send};
use waypoint_tests::wire::Framing;
use waypoint_tests::{ControlPlane, Mesh, Ztunnel};

use super::{changed, envoy_beside, scene};

const PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
const CLIENTS: [Version; 3] = [Version::Http10, Version::Http11, Version::Http2];
const METHODS: [&str; 8] = [
    "GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "PURGE",
];
const BODIES: [Sends; 7] = [
    Sends::Nothing,
    Sends::Length("hello"),
    Sends::Length(""),
    Sends::Unknown("hello"),
    Sends::Unknown(""),
    Sends::Trailers("hello"),
    Sends::Upgrade("ping"),
];
const ANSWERS: [&str; 6] = ["length", "unknown", "close", "trailers", "none", "413"];

/// Every request of the matrix: `(client, method, body, answer)`.
fn requests() -> Vec<(Version, &'static str, Sends, &'static str)> {
    let mut all = Vec::new();
    for client in CLIENTS {
        for method in METHODS {
            for sends in BODIES {
                // HTTP/2 upgrades otherwise.
                if client != Version::Http2 || !matches!(sends, Sends::Upgrade(_)) {
                    all.push((client, method, sends, "length"));
                }
            }
        }
        for method in ["GET", "HEAD", "POST"] {
            for answer in ANSWERS {
                all.push((client, method, Sends::Nothing, answer));
            }
        }
    }
    all
}

async fn exchange(
    ztunnel: &Ztunnel,
    to: &(Speaks, SocketAddr, Backend),
    request: (Version, &'static str, Sends, &'static str),
) -> (Answered, Vec<Got>) {
    let (client, method, sends, answer) = request;
    let headers = [("x-answer", answer)];
    let answered = send(ztunnel, to.1, client, method, sends, &headers).await;
    let mut got = to.2.take();
    got.retain(|got| !got.line.contains("/again"));
    (answered, got)
}

/// Whether trailers of HTTP/1.1 pass at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Trailers {
    Dropped,
    Pass,
}

/// What has to come of a request.
fn expected(
    request: (Version, &'static str, Sends, &'static str),
    upstream: Speaks,
    trailers: Trailers,
) -> (Answered, Vec<Got>) {
    let (client, method, sends, answer) = request;
    let answered = |status: &str, framing, body: &str| Answered {
        status: status.to_owned(),
        framing: if method == "HEAD" {
            Framing::None
        } else {
            framing
        },
        body: if method == "HEAD" { "" } else { body }.to_owned(),
        trailers: Vec::new(),
        kept: true,
    };
    let open = matches!(sends, Sends::Unknown(_) | Sends::Trailers(_));
    if client == Version::Http10 {
        // Codings are unknown to it, and istiod doesn't let it in.
        let mut answered = match open {
            true => answered("1.1 400", Framing::Length(0), ""),
            false => answered("1.0 426", Framing::Length(16), "Upgrade Required"),
        };
        answered.kept = false;
        return (answered, Vec::new());
    }
    let upgrade = matches!(sends, Sends::Upgrade(_)) && client == Version::Http11;
    if upgrade && upstream == Speaks::Http2 {
        let text = "upstream connect error or disconnect/reset before headers. reset reason: protocol error";
        return (answered("1.1 502", Framing::Length(87), text), Vec::new());
    }
    let version = if client == Version::Http2 { "2" } else { "1.1" };
    let mut answered = match answer {
        _ if upgrade => Answered {
            kept: false,
            body: "ping".to_owned(),
            ..answered("1.1 101", Framing::None, "")
        },
        "length" => answered(&format!("{version} 200"), Framing::Length(5), "hello"),
        "413" => answered(&format!("{version} 413"), Framing::Length(5), "hello"),
        "none" => answered(&format!("{version} 204"), Framing::None, ""),
        _ => answered(&format!("{version} 200"), Framing::Unknown, "hello"),
    };
    // In HTTP/1.1 only trailers pass that were announced; nothing in HTTP/2 announces them.
    let pass = match (client, upstream) {
        (Version::Http2, Speaks::Http2) => true,
        (_, Speaks::Http11) => trailers == Trailers::Pass,
        _ => false,
    };
    let pass = pass && method != "HEAD";
    let end = || vec![("x-end".to_owned(), "1".to_owned())];
    if answer == "trailers" && pass {
        answered.trailers = end();
    }
    (
        answered,
        vec![expected_upstream(request, upstream, trailers)],
    )
}

fn expected_upstream(
    (client, method, sends, answer): (Version, &'static str, Sends, &'static str),
    upstream: Speaks,
    trailers: Trailers,
) -> Got {
    let bodiless = ["GET", "HEAD", "DELETE"].contains(&method);
    let upgrade = matches!(sends, Sends::Upgrade(_)) && client == Version::Http11;
    let (framing, body) = match sends {
        Sends::Length(body) => (Framing::Length(body.len()), body),
        Sends::Unknown(body) | Sends::Trailers(body) => (Framing::Unknown, body),
        _ if bodiless || upgrade => (Framing::None, ""),
        _ => (Framing::Length(0), ""),
    };
    let sent = matches!(sends, Sends::Trailers(_));
    let announced = sent && client == Version::Http11;
    let pass = match client {
        Version::Http2 => sent && upstream == Speaks::Http2,
        _ => announced && trailers == Trailers::Pass,
    };
    let mut headers = vec![("host", "web"), ("te", "trailers"), ("x-answer", answer)];
    if announced {
        headers.push(("trailer", "x-end"));
    }
    if upgrade {
        headers.extend([("connection", "Upgrade"), ("upgrade", "websocket")]);
    }
    headers.sort_unstable();
    let owned = |(name, value): (&str, &str)| (name.to_owned(), value.to_owned());
    let version = if upstream == Speaks::Http2 {
        "2"
    } else {
        "1.1"
    };
    Got {
        line: format!("{method} /x {version}"),
        headers: headers.into_iter().map(owned).collect(),
        framing,
        body: body.to_owned(),
        trailers: if pass {
            vec![("x-end".to_owned(), "1".to_owned())]
        } else {
            Vec::new()
        },
    }
}

#[tokio::test]
async fn every_version_to_every_version() {
    let scene = scene().await;
    for to in &scene.to {
        for request in requests() {
            let came = exchange(&scene.client, to, request).await;
            let expected = expected(request, to.0, Trailers::Dropped);
            assert_eq!(came, expected, "{request:?} to {:?}", to.0);
        }
    }
    // An upstream that ends its connections costs no client its own, and one that doesn't is used again.
    let connections = |n: usize| scene.to[n].2.connections();
    assert!(
        connections(0) > 100 && connections(1) < 40,
        "{} {}",
        connections(0),
        connections(1)
    );
    let metrics = scene.waypoint.metrics().await;
    assert!(metrics.contains("waypoint_panics_total 0"));
}

/// The mesh's resources, where all sides of HTTP/1 have trailers.
pub(crate) fn passing_trailers(mesh: &Mesh) -> Vec<Resource> {
    let http1 = Http1ProtocolOptions {
        enable_trailers: true,
        ..Default::default()
    };
    let mut resources = changed(mesh, |manager| {
        manager.http_protocol_options = Some(http1.clone());
    });
    let clusters = resources
        .iter_mut()
        .filter(|resource| resource.kind == ResourceType::Cluster);
    for resource in clusters {
        let mut cluster = Cluster::decode(resource.body.clone()).unwrap();
        let all = cluster
            .typed_extension_protocol_options
            .entry(PROTOCOL_OPTIONS.to_owned());
        let any = all.or_insert_with(|| Any {
            type_url: format!("type.googleapis.com/{PROTOCOL_OPTIONS}"),
            value: Vec::new(),
        });
        let mut options = HttpProtocolOptions::decode(&any.value[..]).unwrap();
        match &mut options.upstream_protocol_options {
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
                protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
            })) => {}
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => {
                config.http_protocol_options = Some(http1.clone());
            }
            other => {
                *other = Some(UpstreamProtocolOptions::ExplicitHttpConfig(
                    ExplicitHttpConfig {
                        protocol_config: Some(ProtocolConfig::HttpProtocolOptions(http1.clone())),
                    },
                ));
            }
        }
        any.value = options.encode_to_vec();
        resource.body = cluster.encode_to_vec().into();
    }
    resources
}

/// Requests and answers with trailers.
fn requests_with_trailers() -> Vec<(Version, &'static str, Sends, &'static str)> {
    let with = |(_, _, sends, answer): &(_, _, Sends, &str)| {
        matches!(sends, Sends::Trailers(_)) || *answer == "trailers"
    };
    let mut all: Vec<_> = requests().into_iter().filter(with).collect();
    all.retain(|(client, ..)| *client != Version::Http10);
    all
}

#[tokio::test]
async fn trailers_of_http1_pass_where_they_are_configured() {
    let scene = scene().await;
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(passing_trailers(&scene.mesh));
    let (_waypoint, client) = scene.mesh.started_under(&istiod).await;
    for to in &scene.to {
        for request in requests_with_trailers() {
            let came = exchange(&client, to, request).await;
            let expected = expected(request, to.0, Trailers::Pass);
            assert_eq!(came, expected, "{request:?} to {:?}", to.0);
        }
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn configured_trailers_beside_envoy() {
    let scene = scene().await;
    let resources = passing_trailers(&scene.mesh);
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(resources.clone());
    let (_waypoint, ours) = scene.mesh.started_under(&istiod).await;
    let (_envoy, envoy) = envoy_beside(&scene.mesh, &resources).await;
    let mut differences = Vec::new();
    for to in &scene.to {
        for request in requests_with_trailers() {
            let mut ours = exchange(&ours, to, request).await;
            let mut theirs = exchange(&envoy, to, request).await;
            if to.0 == Speaks::Http2 && request.0 == Version::Http11 {
                // Nothing in HTTP/2 announces them.
                ours.0.trailers.clear();
                theirs.0.trailers.clear();
            }
            if to.0 != Speaks::Http2 && request.0 == Version::Http2 {
                ours.1.iter_mut().for_each(|got| got.trailers.clear());
                theirs.1.iter_mut().for_each(|got| got.trailers.clear());
            }
            allowed(request, to.0, &mut ours, &mut theirs);
            if ours != theirs {
                differences.push(format!(
                    "{request:?} to {:?}\n  waypoint {ours:?}\n  envoy    {theirs:?}",
                    to.0
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// Why an answer may differ from Envoy's; the other differences are faults.
fn allowed(
    (client, _, sends, _): (Version, &'static str, Sends, &'static str),
    upstream: Speaks,
    ours: &mut (Answered, Vec<Got>),
    theirs: &mut (Answered, Vec<Got>),
) {
    let both = [ours, theirs];
    for (answered, got) in both {
        if client == Version::Http10 {
            // hyper answers HTTP/1.0 in HTTP/1.0, and codings there with 400.
            *answered = Answered {
                status: String::new(),
                framing: Framing::None,
                body: String::new(),
                ..answered.clone()
            };
        }
        if upstream == Speaks::Http2 && matches!(sends, Sends::Upgrade(_)) {
            // Envoy ends the connection where an upgrade failed.
            answered.kept = true;
        }
        for got in got {
            if upstream == Speaks::Http2 && got.framing == Framing::Length(0) {
                // hyper says that a POST is empty.
                got.framing = Framing::None;
            }
            for (_, value) in &mut got.headers {
                *value = value.to_ascii_lowercase();
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn every_version_to_every_version_beside_envoy() {
    let scene = scene().await;
    let (_envoy, envoy) = envoy_beside(&scene.mesh, &scene.mesh.resources()).await;
    let mut differences = Vec::new();
    for to in &scene.to {
        for request in requests() {
            let mut ours = exchange(&scene.client, to, request).await;
            let mut theirs = exchange(&envoy, to, request).await;
            allowed(request, to.0, &mut ours, &mut theirs);
            if ours != theirs {
                differences.push(format!(
                    "{request:?} to {:?}\n  waypoint {ours:?}\n  envoy    {theirs:?}",
                    to.0
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

/// As istiod does with `PILOT_HTTP10`.
fn accepting_http_10(mesh: &Mesh) -> Vec<Resource> {
    changed(mesh, |manager| {
        manager.http_protocol_options = Some(Http1ProtocolOptions {
            accept_http_10: true,
            ..Default::default()
        });
    })
}

/// `(method, body, answer)` of an HTTP/1.0 client.
fn requests_of_http_10() -> Vec<(Version, &'static str, Sends, &'static str)> {
    requests()
        .into_iter()
        .filter(|(client, _, sends, _)| {
            let known = matches!(sends, Sends::Nothing | Sends::Length(_));
            *client == Version::Http10 && known
        })
        .collect()
}

#[tokio::test]
async fn http_10_is_let_in_where_istiod_says_so() {
    let scene = scene().await;
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(accepting_http_10(&scene.mesh));
    let (_waypoint, client) = scene.mesh.started_under(&istiod).await;
    for to in &scene.to {
        for request in requests_of_http_10() {
            let (answered, got) = exchange(&client, to, request).await;
            let (mut expected, upstream) = expected(
                (Version::Http11, request.1, request.2, request.3),
                to.0,
                Trailers::Dropped,
            );
            expected.status = expected.status.replace("1.1 ", "1.0 ");
            if expected.framing == Framing::Unknown {
                expected.framing = Framing::Close;
            }
            expected.trailers.clear();
            expected.kept = false;
            assert_eq!(
                (answered, got),
                (expected, upstream),
                "{request:?} to {:?}",
                to.0
            );
        }
    }
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn http_10_beside_envoy() {
    let scene = scene().await;
    let resources = accepting_http_10(&scene.mesh);
    let istiod = ControlPlane::start(&scene.mesh).await;
    istiod.discovery.set(resources.clone());
    let (_waypoint, ours) = scene.mesh.started_under(&istiod).await;
    let (_envoy, theirs) = envoy_beside(&scene.mesh, &resources).await;
    for to in &scene.to {
        for request in requests_of_http_10() {
            if !["length", "none", "413"].contains(&request.3) {
                // Envoy resets the tunnel where its answer is to end with the connection.
                continue;
            }
            let mut pair = Vec::new();
            for ztunnel in [&ours, &theirs] {
                let (answered, mut got) = exchange(ztunnel, to, request).await;
                for got in &mut got {
                    if to.0 == Speaks::Http2 && got.framing == Framing::Length(0) {
                        got.framing = Framing::None;
                    }
                }
                pair.push((answered, got));
            }
            assert_eq!(pair[0], pair[1], "{request:?} to {:?}", to.0);
        }
    }
}
