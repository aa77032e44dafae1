//! Connection managers made up at random, with the same answers, and the same heads upstream, as Envoy's.

use std::collections::BTreeSet;

use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, ComparisonFilter, StatusCodeFilter, access_log_filter::FilterSpecifier,
    comparison_filter::Op,
};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HttpProtocolOptions, RuntimeUInt32, SubstitutionFormatString, data_source,
    substitution_format_string,
};
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, LocalReplyConfig, ResponseMapper,
    http_connection_manager::StripPortMode, http_filter,
};
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use fastrand::Rng;
use prost::Message;
use waypoint_tests::managers::{self, INNER};
use waypoint_tests::seeds::seed;
use waypoint_tests::ztunnel::Ztunnel;
use waypoint_tests::{App, ControlPlane, Mesh, Seen};

use crate::beside::envoy_with;

const MANAGERS: u8 = 16;
const REQUESTS: usize = 12;

fn any<T: Copy>(rng: &mut Rng, of: &[T]) -> T {
    of[rng.usize(..of.len())]
}

fn sometimes(rng: &mut Rng) -> bool {
    rng.u8(..3) == 0
}

/// Says something of a manager that istiod doesn't.
fn draw(rng: &mut Rng, manager: &mut HttpConnectionManager) {
    manager.use_remote_address = Some(BoolValue { value: rng.bool() });
    manager.xff_num_trusted_hops = any(rng, &[0, 0, 1, 2]);
    manager.skip_xff_append = sometimes(rng);
    manager.append_x_forwarded_port = sometimes(rng);
    manager.via = any(rng, &["", "", "wp", "1.1 edge"]).to_owned();
    manager.server_header_transformation = any(rng, &[0, 1, 2]);
    manager.server_name = any(rng, &["", "istio-envoy", "mine"]).to_owned();
    manager.preserve_external_request_id = rng.bool();
    manager.always_set_request_id_in_response = rng.bool();
    if sometimes(rng) {
        manager.generate_request_id = Some(BoolValue { value: rng.bool() });
    }
    match rng.u8(..4) {
        0 => manager.strip_matching_host_port = true,
        1 => manager.strip_port_mode = Some(StripPortMode::StripAnyHostPort(true)),
        _ => {}
    }
    manager.strip_trailing_host_dot = sometimes(rng);
    manager.common_http_protocol_options = Some(HttpProtocolOptions {
        headers_with_underscores_action: any(rng, &[0, 1, 2]),
        ..HttpProtocolOptions::default()
    });
    if sometimes(rng) {
        manager.local_reply_config = Some(local_replies(rng));
    }
    if sometimes(rng) {
        let router = manager.http_filters.last_mut().unwrap();
        if let Some(http_filter::ConfigType::TypedConfig(any)) = &mut router.config_type {
            let mut router = Router::decode(&*any.value).unwrap();
            router.suppress_envoy_headers = true;
            any.value = router.encode_to_vec();
        }
    }
}

fn local_replies(rng: &mut Rng) -> LocalReplyConfig {
    let inline = |text: &str| DataSource {
        specifier: Some(data_source::Specifier::InlineString(text.to_owned())),
        ..DataSource::default()
    };
    let text = |text: &str| SubstitutionFormatString {
        format: Some(substitution_format_string::Format::TextFormatSource(
            inline(text),
        )),
        ..SubstitutionFormatString::default()
    };
    let own = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::StatusCodeFilter(StatusCodeFilter {
            comparison: Some(ComparisonFilter {
                op: Op::Ge.into(),
                value: Some(RuntimeUInt32 {
                    default_value: any(rng, &[400, 500]),
                    runtime_key: "none".to_owned(),
                }),
            }),
        })),
    };
    let mapper = ResponseMapper {
        filter: Some(own),
        status_code: rng.bool().then_some(UInt32Value { value: 418 }),
        body: rng.bool().then(|| inline("no")),
        body_format_override: sometimes(rng)
            .then(|| text("%RESPONSE_CODE% %LOCAL_REPLY_BODY% %PROTOCOL%")),
        ..ResponseMapper::default()
    };
    LocalReplyConfig {
        mappers: vec![mapper],
        body_format: rng.bool().then(|| text("<%LOCAL_REPLY_BODY%>")),
    }
}

fn request(rng: &mut Rng) -> String {
    let version = "HTTP/1.1";
    let host = any(
        rng,
        &[
            "web", "web:80", "web.", "web.:80", "web:81", "[::1]:80", "10.0.0.1",
        ],
    );
    let path = any(rng, &["/", "/a?b=c", "/a/../b"]);
    let mut text = format!("GET {path} {version}\r\nhost: {host}\r\n");
    let fields: &[(&str, &[&str])] = &[
        (
            "x-forwarded-for",
            &[
                "10.1.1.1",
                "10.1.1.1, 10.2.2.2",
                "10.1.1.1,10.2.2.2, 1.2.3.4",
                "::1",
                "unknown",
                "10.1.1.1, x",
            ],
        ),
        ("x-forwarded-proto", &["http", "https", "ftp"]),
        ("x-forwarded-port", &["443", "x"]),
        ("x-forwarded-host", &["other"]),
        (
            "x-request-id",
            &["mine", "00000000-0000-4000-8000-000000000000"],
        ),
        ("via", &["1.0 before", "a, b"]),
        ("x-envoy-external-address", &["9.9.9.9"]),
        ("x-envoy-internal", &["true"]),
        ("x-envoy-downstream-service-cluster", &["c"]),
        ("x-envoy-downstream-service-node", &["n"]),
        ("x-envoy-retry-on", &["5xx"]),
        ("x-envoy-upstream-rq-timeout-ms", &["1"]),
        ("x_under", &["score"]),
        ("referer", &["http://a.test/b", "nonsense", "/relative"]),
        ("te", &["trailers", "gzip", "trailers, gzip"]),
        ("connection", &["keep-alive", "x-hop"]),
        ("x-hop", &["by hop"]),
        ("keep-alive", &["timeout=5"]),
        ("proxy-connection", &["keep-alive"]),
        ("x-status", &["200", "503"]),
        (
            "x-answer-header",
            &[
                "server=theirs",
                "via=1.1 app",
                "x-request-id=theirs",
                "keep-alive=1",
                "proxy-connection=x",
            ],
        ),
    ];
    for (name, values) in fields {
        if rng.u8(..4) == 0 {
            text.push_str(&format!("{name}: {}\r\n", any(rng, values)));
        }
    }
    text.push_str("\r\n");
    text
}

/// An id that the client didn't send is some id. Of a client on this host Envoy tells its own address, here the waypoint the client's.
fn masked(name: &str, value: &str, request: &str) -> String {
    if name == "x-request-id" && !request.contains(value) && value != "theirs" {
        return "some".to_owned();
    }
    if name == "x-forwarded-for" {
        let (before, last) = value.rsplit_once(',').unwrap_or(("", value));
        if !request.contains(last) {
            return format!("{before}, here");
        }
    }
    value.to_owned()
}

fn head_of(seen: &Seen, request: &str) -> BTreeSet<String> {
    let fields = seen.headers.iter().map(|(name, value)| {
        let value = String::from_utf8_lossy(value.as_bytes());
        format!("{name}: {}", masked(name.as_str(), &value, request))
    });
    fields.chain([seen.target.clone()]).collect()
}

async fn exchange(client: &Ztunnel, to: std::net::SocketAddr, app: &App, request: &str) -> String {
    app.forget();
    let (answer, _) = client.exchange(to, request.as_bytes()).await;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    let mut lines: Vec<String> = head
        .split("\r\n")
        .map(|line| match line.split_once(": ") {
            Some((name, value)) => {
                let name = name.to_ascii_lowercase();
                format!("{name}: {}", masked(&name, value, request))
            }
            // What stands behind a code is nobody's business (RFC 9112 4), and not the same: docs/differences.md.
            None => line.split(' ').take(2).collect::<Vec<_>>().join(" "),
        })
        .filter(|line| {
            !line.starts_with("date:") && !line.starts_with("x-envoy-upstream-service-time")
        })
        .collect();
    lines[1..].sort();
    // Whether it is there.
    let times = head
        .to_ascii_lowercase()
        .contains("x-envoy-upstream-service-time");
    let seen: Vec<_> = app
        .seen()
        .iter()
        .map(|seen| head_of(seen, request))
        .collect();
    format!("{lines:?} times {times} {body:?}\n    saw {seen:?}")
}

#[tokio::test]
#[ignore = "needs WAYPOINT_ENVOY"]
async fn connection_managers_treat_heads_as_envoys_do() {
    let mut rng = Rng::with_seed(seed());
    let mesh = Mesh::new();
    let mut services = Vec::new();
    for n in 1..=MANAGERS {
        services.push(mesh.http_service(n, &format!("web{n}")).await);
    }
    let mut resources = mesh.resources();
    let mut drawn = Vec::new();
    managers::change(&mut resources, INNER, |manager| {
        draw(&mut rng, manager);
        let mut drawn_for = String::new();
        managers::change_routes(manager, |route| {
            drawn_for = format!("{:?}", route.cluster_specifier)
        });
        let said = HttpConnectionManager {
            http_filters: Vec::new(),
            tracing: None,
            route_specifier: None,
            access_log: Vec::new(),
            ..manager.clone()
        };
        drawn.push((drawn_for, said));
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let waypoint = mesh.start_under(&istiod).await;
    let (_envoy, address) = envoy_with(&mesh, &resources).await;
    let ours = mesh.client(&waypoint, "default", "curl").await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    let asked: Vec<Vec<String>> = services
        .iter()
        .map(|_| (0..REQUESTS).map(|_| request(&mut rng)).collect())
        .collect();
    // An answer ends when nothing more comes: services wait for theirs side by side.
    let (ours, theirs, drawn) = (&ours, &theirs, &drawn);
    let compared = services.iter().zip(asked).enumerate();
    let compared = compared.map(|(n, ((to, app), requests))| async move {
        let mut differences = Vec::new();
        for request in requests {
            let expected = exchange(theirs, *to, app, &request).await;
            let found = exchange(ours, *to, app, &request).await;
            if found != expected {
                differences.push(format!(
                    "{request:?}\n  waypoint {found}\n  envoy    {expected}\n"
                ));
            }
        }
        if !differences.is_empty() {
            let name = format!("|web{}.", n + 1);
            let drawn = drawn.iter().find(|(of, _)| of.contains(&name));
            differences.push(format!("under {drawn:?}\n"));
        }
        differences
    });
    let differences = futures_util::future::join_all(compared).await.concat();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
