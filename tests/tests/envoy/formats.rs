//! Format strings: what Envoy takes and what it refuses, and the values that it prints.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::bootstrap::v3::{
    Admin, Bootstrap, bootstrap::DynamicResources,
};
use envoy_types::pb::envoy::config::core::v3::{
    ConfigSource, Node, PathConfigSource, config_source::ConfigSourceSpecifier,
};
use http::Method;
use serde_json::json;
use waypoint_filters::format::Format;
use waypoint_tests::envoy::{Envoy, asked, socket};
use waypoint_tests::ztunnel::{Ztunnel, get, request};
use waypoint_tests::{Mesh, Waypoint};

/// Every operator of Envoy 1.40.
const NAMES: &str = include_str!("operators.txt");
/// Ways to write them.
const FORMATS: &str = include_str!("formats.txt");
/// Refused here by name: an expression that asks for what nobody knows. Envoy takes it, and it never has a value.
const UNKNOWN: [&str; 4] = [
    "CEL(a)",
    "CEL(a):3",
    "CEL(nonsense here)",
    "CEL(nobody.knows)",
];
/// Taken here always; Envoy wants the formatter named beside the format, as istiod does.
const EXTENSION: &str = "REQ_WITHOUT_QUERY";

fn program() -> String {
    std::env::var("WAYPOINT_ENVOY").expect("WAYPOINT_ENVOY names Envoy's binary")
}

fn candidates() -> Vec<String> {
    let mut found: Vec<String> = FORMATS.lines().map(str::to_owned).collect();
    let unknown = [
        "NOPE",
        "DOWNSTREAM_LOCAL",
        "UPSTREAM_HOST_PORT",
        "REQS",
        "_",
    ];
    for name in NAMES.lines().chain(unknown) {
        for form in ["", "()", "(a)", "(a:b)", ":3", "(a):3", "(8)", "(a?b)"] {
            // Envoy crashes.
            if (name, form) == ("COALESCE", "(8)") {
                continue;
            }
            found.push(format!("%{name}{form}%"));
        }
    }
    found
}

/// What is long and written in capitals in Envoy's binary: the names of operators are among it.
fn capitals(binary: &Path) -> BTreeSet<String> {
    let bytes = std::fs::read(binary).unwrap();
    let is_name = |c: &u8| c.is_ascii_uppercase() || c.is_ascii_digit() || *c == b'_';
    bytes
        .split(|c| !is_name(c))
        .filter(|run| (6..=60).contains(&run.len()) && run.contains(&b'_'))
        .filter(|run| run[0].is_ascii_uppercase())
        .map(|run| String::from_utf8(run.to_vec()).unwrap())
        .collect()
}

#[test]
fn every_name_is_known() {
    for name in NAMES.lines() {
        let refused = [format!("%{name}%"), format!("%{name}(a)%")]
            .iter()
            .filter_map(|format| Format::parse(format).err())
            .any(|refusal| refusal.to_string().contains("unknown operator"));
        assert!(!refused, "{name}");
    }
}

/// Which of these Envoy takes as the format of an access log: a listener each.
async fn taken_by_envoy(mesh: &Mesh, formats: &[String]) -> Vec<bool> {
    let listener = |index: usize, format: &String| {
        let log = json!({
            "name": "log",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "/dev/null",
                "log_format": {"text_format_source": {"inline_string": format}}
            }
        });
        let proxy = json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": "a",
            "access_log": [log],
            "route_config": {"name": "r"},
            "http_filters": [{"name": "router", "typed_config":
                {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"}}]
        });
        json!({
            "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
            "name": format!("l{index}"),
            "bind_to_port": false,
            "address": {"socket_address": {"address": "127.0.0.1", "port_value": 1000 + index}},
            "filter_chains": [{"filters": [{"name": "hcm", "typed_config": proxy}]}]
        })
    };
    let resources: Vec<_> = formats
        .iter()
        .enumerate()
        .map(|(i, f)| listener(i, f))
        .collect();
    let file = mesh.folder().join("lds.json");
    std::fs::write(&file, json!({ "resources": resources }).to_string()).unwrap();
    let admin = SocketAddr::new(mesh.pod_ip(253), 15000);
    let bootstrap = Bootstrap {
        node: Some(Node {
            id: "a".into(),
            cluster: "a".into(),
            ..Node::default()
        }),
        dynamic_resources: Some(DynamicResources {
            lds_config: Some(ConfigSource {
                config_source_specifier: Some(ConfigSourceSpecifier::PathConfigSource(
                    PathConfigSource {
                        path: file.to_string_lossy().into_owned(),
                        ..PathConfigSource::default()
                    },
                )),
                ..ConfigSource::default()
            }),
            ..DynamicResources::default()
        }),
        admin: Some(Admin {
            address: Some(socket(admin)),
            ..Admin::default()
        }),
        ..Bootstrap::default()
    };
    let folder = mesh.folder().to_path_buf();
    let envoy = tokio::task::spawn_blocking(move || {
        Envoy::start(&[&program()], &bootstrap, &folder, admin)
    });
    let _envoy = envoy.await.unwrap();
    let deadline = Instant::now() + Duration::from_secs(120);
    loop {
        let stats = told(admin, "/stats?filter=lds.update_");
        let done = |name: &str| stats.contains(&format!("listener_manager.lds.{name}: 1"));
        if done("update_rejected") || done("update_success") {
            break;
        }
        assert!(Instant::now() < deadline, "{stats}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let listeners = told(admin, "/listeners");
    let taken: BTreeSet<&str> = listeners
        .lines()
        .filter_map(|line| line.split("::").next())
        .collect();
    (0..formats.len())
        .map(|index| taken.contains(format!("l{index}").as_str()))
        .collect()
}

fn told(admin: SocketAddr, path: &str) -> String {
    asked(admin, path, Duration::from_secs(60)).unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn envoy_and_the_waypoint_take_the_same_formats() {
    let mesh = Mesh::new();
    let formats = candidates();
    let taken = taken_by_envoy(&mesh, &formats).await;
    let mut differences = Vec::new();
    for (format, envoy) in formats.iter().zip(taken) {
        let is_unknown = UNKNOWN.iter().any(|unknown| format.contains(unknown));
        if is_unknown || format.contains(EXTENSION) {
            continue;
        }
        let ours = Format::parse(format);
        if ours.is_ok() != envoy {
            differences.push(format!("{format}: envoy {envoy}, waypoint {ours:?}"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn no_operator_of_envoys_is_missing() {
    let mesh = Mesh::new();
    let names: Vec<String> = capitals(Path::new(&program())).into_iter().collect();
    assert!(names.len() > 1_000, "{} names", names.len());
    let mut formats = Vec::new();
    for name in &names {
        formats.push(format!("%{name}%"));
        formats.push(format!("%{name}(a)%"));
    }
    let mut missing = BTreeSet::new();
    for formats in formats.chunks(1_500) {
        let taken = taken_by_envoy(&mesh, formats).await;
        for (format, taken) in formats.iter().zip(taken) {
            if taken && Format::parse(format).is_err() && !format.contains("CEL(") {
                missing.insert(format.clone());
            }
        }
    }
    assert!(missing.is_empty(), "{missing:?}");
}

/// Operators whose values must be the same for the same requests.
const SAME: &[&str] = &[
    "REQ(X-A)",
    "REQ(x-missing?X-A):2",
    "REQ(:METHOD)",
    "REQ(:PATH)",
    "REQ(:AUTHORITY)",
    "REQ(:SCHEME)",
    "REQ(:Host)",
    "REQ(X-ENVOY-ORIGINAL-PATH?:PATH)",
    "REQUEST_HEADER(x-a)",
    "STREAM_INFO_REQ(x-a)",
    "RESP(x-app)",
    "RESP(x-none?x-app):1",
    "RESP(:STATUS)",
    "RESPONSE_HEADER(x-app)",
    "TRAILER(x-none)",
    "PROTOCOL",
    "UPSTREAM_PROTOCOL",
    "RESPONSE_CODE",
    "RESPONSE_CODE_DETAILS",
    "RESPONSE_FLAGS",
    "RESPONSE_FLAGS_LONG",
    "CONNECTION_TERMINATION_DETAILS",
    "BYTES_RECEIVED",
    "BYTES_SENT",
    "BYTES_RETRANSMITTED",
    "PACKETS_RETRANSMITTED",
    "UPSTREAM_CLUSTER_RAW",
    "UPSTREAM_REQUEST_ATTEMPT_COUNT",
    "UPSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_DETECTED_CLOSE_TYPE",
    "DOWNSTREAM_LOCAL_ADDRESS",
    "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(16)",
    "DOWNSTREAM_LOCAL_PORT",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)",
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID",
    "ROUTE_NAME",
    "VIRTUAL_CLUSTER_NAME",
    "FILTER_CHAIN_NAME",
    "LISTENER_NAME",
    "ACCESS_LOG_TYPE",
    "LOCAL_REPLY_BODY",
    "CUSTOM_FLAGS",
    "HOSTNAME",
    "ENVIRONMENT(HOME):3",
    "ENVIRONMENT(NOT_SET_ANYWHERE)",
    "PATH",
    "PATH(NQ)",
    "PATH(WQ:ORIG)",
    "PATH(NQ:PATH)",
    "PATH(WQ:ORIG_OR_PATH):5",
    "QUERY_PARAM(a)",
    "QUERY_PARAM(b)",
    "QUERY_PARAM(none)",
    "QUERY_PARAMS",
    "QUERY_PARAMS(DECODED)",
    "METADATA(ROUTE:istio:config)",
    "METADATA(ROUTE:nothing)",
    "METADATA(CLUSTER:istio:subset)",
    "CLUSTER_METADATA(istio:services)",
    "UPSTREAM_METADATA(istio:workload)",
    "DYNAMIC_METADATA(nothing:here)",
    "REQUESTED_SERVER_NAME",
    "REQUESTED_SERVER_NAME(HOST_FIRST)",
    "REQUESTED_SERVER_NAME(SNI_FIRST:HOST)",
    "GRPC_STATUS",
    "GRPC_STATUS(SNAKE_STRING)",
    "GRPC_STATUS_NUMBER",
    "STREAM_ID",
    "TRACE_ID",
    "SPAN_ID",
    "ROUTE_RESOLUTION_COUNT",
    "FILTER_STATE(io.istio.peer_principal:PLAIN)",
    "FILTER_STATE(io.istio.peer_principal:PLAIN):9",
    "FILTER_STATE(nothing)",
    "UPSTREAM_FILTER_STATE(nothing)",
    "COALESCE({\"operators\":[{\"command\":\"REQ\",\"param\":\"x-none\"},\"PROTOCOL\"]})",
    "START_TIME(%Y-%m-%d)",
    "START_TIME_LOCAL(%Y%%)",
    "EMIT_TIME(%Y-%m-%d)",
    "UPSTREAM_HOST",
    "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
    "UPSTREAM_REMOTE_PORT",
    "UPSTREAM_HOSTS_ATTEMPTED",
    "UPSTREAM_TRANSPORT_FAILURE_REASON",
    "UPSTREAM_TLS_VERSION",
    "UPSTREAM_PEER_URI_SAN",
    "TLS_JA3_FINGERPRINT",
];

/// Operators that both give a number for, or both don't.
const NUMBERS: &[&str] = &[
    "DURATION",
    "REQUEST_DURATION",
    "RESPONSE_DURATION",
    "RESPONSE_TX_DURATION",
    "COMMON_DURATION(DS_RX_BEG:DS_RX_END:us)",
    "COMMON_DURATION(DS_RX_BEG:US_RX_BEG)",
    "COMMON_DURATION(US_RX_BEG:US_RX_END:ns)",
    "COMMON_DURATION(US_CX_BEG:US_CX_END:ns)",
    "COMMON_DURATION(US_CX_BEG:US_HS_END:ns)",
    "COMMON_DURATION(DS_RX_BEG:US_CX_BEG:ns)",
    "COMMON_DURATION(US_CX_END:US_TX_BEG:ns)",
    "COMMON_DURATION(DS_RX_BEG:US_TX_BEG:ns)",
    "COMMON_DURATION(US_TX_BEG:US_TX_END:ns)",
    "COMMON_DURATION(US_TX_END:US_RX_BEG:ns)",
    "COMMON_DURATION(US_TX_END:DS_TX_END:ns)",
    "COMMON_DURATION(US_RX_BEG:US_RX_BODY_BEG:ns)",
    "REQUEST_TX_DURATION",
    "ROUNDTRIP_DURATION",
    "DOWNSTREAM_HANDSHAKE_DURATION",
    "UPSTREAM_CONNECTION_POOL_READY_DURATION",
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED",
    "ROUTE_RESOLUTION_TIME_US",
    "COMMON_DURATION(DS_TX_BEG:DS_TX_END)",
    "COMMON_DURATION(own:DS_TX_END)",
    "CONNECTION_ID",
    "UPSTREAM_CONNECTION_ID",
    "REQUEST_HEADERS_BYTES",
    "RESPONSE_HEADERS_BYTES",
    "RESPONSE_TRAILERS_BYTES",
    "DOWNSTREAM_REMOTE_PORT",
];

const ROUTES: &str = r#"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: web, namespace: default}
spec:
  parentRefs: [{group: "", kind: Service, name: web, port: 80}]
  rules:
  - name: rewritten
    matches: [{path: {value: /old}}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /new}}}]
    backendRefs: [{name: web, port: 80}]
  - name: nowhere
    matches: [{path: {value: /nowhere}}]
    backendRefs: [{name: nowhere, port: 80}]
  - name: closed
    matches: [{path: {value: /closed}}]
    backendRefs: [{name: closed, port: 80}]
  - name: moved
    matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: h.example}}]
  - name: rest
    backendRefs: [{name: web, port: 80}]
"#;

fn fields() -> impl Iterator<Item = &'static &'static str> {
    SAME.iter().chain(NUMBERS)
}

/// One line for each request, told apart by `rid`.
async fn sent(ztunnel: &Ztunnel, to: SocketAddr) {
    for (rid, method, path, body) in [
        ("plain", Method::GET, "/x", ""),
        ("old", Method::POST, "/old/it?a=1&b=x%20y&a=2", "0123456789"),
        ("nowhere", Method::GET, "/nowhere", ""),
        ("closed", Method::GET, "/closed", ""),
        ("moved", Method::GET, "/moved?a=1", ""),
        ("denied", Method::GET, "/denied", ""),
    ] {
        let mut head = request(method, path, &[("x-a", "value"), ("x-request-id", rid)]);
        *head.body_mut() = body.into();
        ztunnel.request(to, head).await;
    }
    ztunnel.http2(to).await.send(get("/h2?rid=h2")).await;
}

fn lines(log: &str) -> BTreeMap<String, BTreeMap<String, String>> {
    let mut found = BTreeMap::new();
    for line in log.lines().filter(|line| line.contains('¦')) {
        let mut values = line.split('¦');
        let rid = values.next().unwrap().to_owned();
        let pairs = fields().map(|field| (*field).to_owned());
        found.insert(rid, pairs.zip(values.map(str::to_owned)).collect());
    }
    found
}

async fn until_lines(
    what: &str,
    read: impl Fn() -> String,
) -> BTreeMap<String, BTreeMap<String, String>> {
    // Envoy writes its file every ten seconds.
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let found = lines(&read());
        if found.len() >= 7 {
            return found;
        }
        assert!(
            Instant::now() < deadline,
            "{what} logged {:?}",
            found.keys()
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

fn is_number(value: &str) -> bool {
    !value.is_empty() && value.bytes().all(|c| c.is_ascii_digit())
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_requests_give_the_same_values() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    mesh.bare_service(2, "closed");
    mesh.manifest("routes.yaml", ROUTES);
    mesh.manifest(
        "deny.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}\n",
    );
    let values: Vec<String> = fields().map(|field| format!("%{field}%")).collect();
    let format = format!("%QUERY_PARAM(rid)%%REQ(X-REQUEST-ID)%¦{}", values.join("¦"));
    mesh.access_log_format(&format);
    let waypoint: Waypoint = mesh.start().await;
    let problems = waypoint.problems().await;
    assert!(!problems.contains("operator"), "{problems}");
    let (envoy, address) = Envoy::beside(&mesh, &mesh.resources()).await;
    let certificate = mesh.certificate("default", "curl");
    for address in [waypoint.address(), address] {
        let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
        sent(&ztunnel, to).await;
    }
    let ours = until_lines("the waypoint", || waypoint.log()).await;
    let theirs = until_lines("Envoy", || envoy.log()).await;
    let mut differences = Vec::new();
    for ((ours_id, ours), (theirs_id, theirs)) in ours.iter().zip(&theirs) {
        for field in fields() {
            let (ours, theirs) = (&ours[*field], &theirs[*field]);
            let same = if NUMBERS.contains(field) {
                is_number(ours) == is_number(theirs)
            } else if *field == "UPSTREAM_CLUSTER_RAW" && ours_id.ends_with("nowhere") {
                // What the route names is said here, whether it is there or not.
                ours.ends_with("nowhere.default.svc.cluster.local") && theirs == "-"
            } else if *field == "UPSTREAM_HOSTS_ATTEMPTED" && ours_id.ends_with("closed") {
                // Envoy lists those alone that it reached.
                ours.split(',').count() == 3 && theirs == "-"
            } else if *field == "STREAM_ID" {
                // Where the client gave none it is random.
                ours == theirs || ours_id.starts_with("h2")
            } else {
                ours == theirs
            };
            if !same {
                differences.push(format!(
                    "{ours_id} {theirs_id} {field}: {ours:?}, envoy {theirs:?}"
                ));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}
