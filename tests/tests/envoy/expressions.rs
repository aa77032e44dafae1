//! CEL and filters of logs: the same requests give the same lines through Envoy and through the waypoint.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use envoy_types::pb::envoy::config::accesslog::v3::extension_filter::ConfigType;
use envoy_types::pb::envoy::config::accesslog::v3::{
    AccessLogFilter, AndFilter, ExtensionFilter, GrpcStatusFilter, HeaderFilter, LogTypeFilter,
    MetadataFilter, RuntimeFilter,
};
use envoy_types::pb::envoy::config::core::v3::substitution_format_string::Format;
use envoy_types::pb::envoy::config::route::v3::HeaderMatcher;
use envoy_types::pb::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use envoy_types::pb::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::{PathSegment, path_segment};
use envoy_types::pb::envoy::r#type::matcher::v3::{MetadataMatcher, ValueMatcher, value_matcher};
use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
use envoy_types::pb::google::protobuf::{Any, BoolValue, Struct, Value, value};
use http::Method;
use prost::Message;
use waypoint_tests::envoy::Envoy;
use waypoint_tests::recorded_telemetry::{log, text, with_logs};
use waypoint_tests::ztunnel::{Ztunnel, get, request};
use waypoint_tests::{ControlPlane, Mesh};

/// One in a line; what Envoy takes without `cel_config`.
const EXPRESSIONS: &str = include_str!("expressions.txt");

/// Of the tunnel's connection here; Envoy's inner one has no TLS.
const OF_TUNNELS: [&str; 2] = ["connection.mtls", "connection.uri_san_peer_certificate"];

const FILTERS: [&str; 6] = [
    "response.code >= 400 || request.headers['x-log'] == 'yes'",
    "request.url_path.startsWith('/old') && source.port > 0",
    "has(request.headers.missing)",
    "response.grpc_status == 12",
    "'x-a' in request.headers && request.headers['X-A'].matches('^v.*e$')",
    "request.path",
];

fn expressions() -> impl Iterator<Item = &'static str> {
    EXPRESSIONS.lines()
}

fn expression(text: &str) -> FilterSpecifier {
    let filter = ExpressionFilter {
        expression: text.into(),
        ..ExpressionFilter::default()
    };
    FilterSpecifier::ExtensionFilter(ExtensionFilter {
        name: "envoy.access_loggers.extension_filters.cel".into(),
        config_type: Some(ConfigType::TypedConfig(Any {
            type_url: "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter".into(),
            value: filter.encode_to_vec(),
        })),
    })
}

fn metadata(missing: bool) -> FilterSpecifier {
    FilterSpecifier::MetadataFilter(MetadataFilter {
        matcher: Some(MetadataMatcher {
            filter: "nobody".into(),
            path: vec![PathSegment {
                segment: Some(path_segment::Segment::Key("k".into())),
            }],
            value: Some(ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::BoolMatch(true)),
            }),
            invert: false,
        }),
        match_if_key_not_found: Some(BoolValue { value: missing }),
    })
}

fn filters() -> Vec<FilterSpecifier> {
    let header = |name: &str, specifier| {
        FilterSpecifier::HeaderFilter(HeaderFilter {
            header: Some(HeaderMatcher {
                name: name.into(),
                header_match_specifier: specifier,
                ..HeaderMatcher::default()
            }),
        })
    };
    let grpc = |statuses: &[i32], exclude| {
        FilterSpecifier::GrpcStatusFilter(GrpcStatusFilter {
            statuses: statuses.to_vec(),
            exclude,
        })
    };
    let share = |numerator| {
        FilterSpecifier::RuntimeFilter(RuntimeFilter {
            runtime_key: "k".into(),
            percent_sampled: Some(FractionalPercent {
                numerator,
                denominator: 0,
            }),
            use_independent_randomness: false,
        })
    };
    let log_type = |kind, exclude| {
        FilterSpecifier::LogTypeFilter(LogTypeFilter {
            types: vec![kind],
            exclude,
        })
    };
    let both = FilterSpecifier::AndFilter(AndFilter {
        filters: [expression(FILTERS[0]), grpc(&[12], true)]
            .map(|specifier| AccessLogFilter {
                filter_specifier: Some(specifier),
            })
            .into(),
    });
    let mut all: Vec<_> = FILTERS.iter().map(|text| expression(text)).collect();
    all.extend([
        header("x-a", None),
        header(
            ":path",
            Some(HeaderMatchSpecifier::PrefixMatch("/new".into())),
        ),
        header("x-none", Some(HeaderMatchSpecifier::PresentMatch(false))),
        grpc(&[2, 12], false),
        grpc(&[0], true),
        metadata(true),
        metadata(false),
        share(50),
        share(100),
        // DownstreamEnd, TcpConnectionEnd.
        log_type(4, false),
        log_type(1, false),
        log_type(1, true),
        both,
    ]);
    all
}

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
  - name: moved
    matches: [{path: {value: /moved}}]
    filters: [{type: RequestRedirect, requestRedirect: {hostname: h.example}}]
  - name: rest
    backendRefs: [{name: web, port: 80}]
"#;

/// Requests, each told by its id: none that Envoy would trace, for it writes that into the id.
async fn sent(ztunnel: &Ztunnel, to: SocketAddr) {
    for (id, method, path, body, headers) in [
        (
            "00001010-0000-4000-8000-000000000001",
            Method::GET,
            "/x",
            "",
            &[("x-a", "value")][..],
        ),
        (
            "00001020-0000-4000-8000-000000000002",
            Method::POST,
            "/old/it?a=1&b=2",
            "0123456789",
            &[("x-a", "1"), ("x-a", "2"), ("user-agent", "story/1")],
        ),
        (
            "00001030-0000-4000-8000-000000000003",
            Method::GET,
            "/moved?a=1",
            "",
            &[("referer", "there")],
        ),
        (
            "00001040-0000-4000-8000-000000000004",
            Method::GET,
            "/x",
            "",
            &[("x-status", "404")],
        ),
        (
            "00001050-0000-4000-8000-000000000005",
            Method::GET,
            "/x?q",
            "",
            &[("x-status", "503"), ("x-log", "yes")],
        ),
        (
            "ffffffff-0000-4000-8000-000000000006",
            Method::PUT,
            "/denied",
            "",
            &[("x-log", "yes")],
        ),
        (
            "00001070-0000-4000-8000-000000000007",
            Method::DELETE,
            "/",
            "",
            &[("x-log", "yes")],
        ),
    ] {
        let mut head = request(method, path, headers);
        let id = http::HeaderValue::from_static(id);
        head.headers_mut().insert("x-request-id", id);
        *head.body_mut() = body.into();
        ztunnel.request(to, head).await;
    }
    let mut head = get("/h2");
    let id = "00001060-0000-4000-8000-000000000008".parse().unwrap();
    head.headers_mut().insert("x-request-id", id);
    ztunnel.http2(to).await.send(head).await;
}

const REQUESTS: usize = 8;

/// What was logged, by what begins a line: the log's number and the request's id.
fn lines(log: &str) -> BTreeMap<String, String> {
    let lines = log.lines().filter_map(|line| line.split_once('¦'));
    lines
        .map(|(key, rest)| {
            // Ours alone.
            let (rest, _) = rest.split_once(",\"denied_by\"").unwrap_or((rest, ""));
            (key.to_owned(), rest.trim_end_matches('}').to_owned())
        })
        .collect()
}

async fn until_lines(what: &str, read: impl Fn() -> String) -> BTreeMap<String, String> {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        // The last log takes all.
        let log = read();
        let found = log.matches("last ").count();
        if found >= REQUESTS {
            return lines(&log);
        }
        assert!(Instant::now() < deadline, "{what} logged {log}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

/// The same expressions as values of JSON, with their types.
fn typed() -> Format {
    let field = |text: String| Value {
        kind: Some(value::Kind::StringValue(text)),
    };
    let same = expressions().filter(|text| !OF_TUNNELS.contains(text));
    let fields = same.enumerate().map(|(i, text)| {
        let value = field(format!("%TYPED_CEL({text})%"));
        (format!("{i:03}"), value)
    });
    let id = ("!".to_owned(), field("json %REQ(x-request-id)%¦".into()));
    Format::JsonFormat(Struct {
        fields: fields.chain([id]).collect(),
    })
}

#[tokio::test]
#[ignore = "needs Envoy"]
async fn the_same_requests_give_the_same_lines() {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    mesh.manifest("routes.yaml", ROUTES);
    mesh.manifest(
        "deny.yaml",
        "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\n\
         spec: {targetRefs: [{group: '', kind: Service, name: web}], action: DENY, rules: [{to: [{operation: {paths: [/denied]}}]}]}\n",
    );
    let values: Vec<String> = expressions().map(|text| format!("%CEL({text})%")).collect();
    let values = format!("values %REQ(x-request-id)%¦{}\n", values.join("¦"));
    let mut logs = vec![log(text(&values), None), log(typed(), None)];
    for (i, specifier) in filters().into_iter().enumerate() {
        let filter = AccessLogFilter {
            filter_specifier: Some(specifier),
        };
        let format = format!("filter {i} %REQ(x-request-id)%¦\n");
        logs.push(log(text(&format), Some(filter)));
    }
    logs.push(log(text("last %REQ(x-request-id)%¦\n"), None));
    let resources = with_logs(mesh.resources(), &logs);
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let waypoint = mesh.start_under(&istiod).await;
    let kind = [("kind", "access_log")];
    assert_eq!(waypoint.metric("waypoint_config_omitted", &kind).await, 0.0);
    let (envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    for address in [waypoint.address(), address] {
        let ztunnel = Ztunnel::connect(address, &certificate).await.unwrap();
        sent(&ztunnel, to).await;
    }
    let ours = until_lines("the waypoint", || waypoint.log()).await;
    let theirs = until_lines("Envoy", || envoy.log()).await;
    let differences = differences(&ours, &theirs);
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert!(ours.len() > 4 * REQUESTS, "{ours:?}");
}

fn differences(ours: &BTreeMap<String, String>, theirs: &BTreeMap<String, String>) -> Vec<String> {
    let mut found = Vec::new();
    for key in ours
        .keys()
        .chain(theirs.keys())
        .collect::<std::collections::BTreeSet<_>>()
    {
        match (ours.get(key), theirs.get(key)) {
            (Some(ours), Some(theirs)) if key.starts_with("values") => {
                let pairs = ours.split('¦').zip(theirs.split('¦')).zip(expressions());
                let differ = |((ours, theirs), text): &((&str, &str), &str)| {
                    ours != theirs && !OF_TUNNELS.contains(text)
                };
                for ((ours, theirs), text) in pairs.filter(differ) {
                    found.push(format!("{key} {text}: {ours:?}, envoy {theirs:?}"));
                }
            }
            (Some(ours), Some(theirs)) if ours == theirs => {}
            (Some(ours), Some(theirs)) => found.push(format!("{key}: {ours}, envoy {theirs}")),
            (ours, _) => {
                let who = if ours.is_some() {
                    "the waypoint"
                } else {
                    "Envoy"
                };
                found.push(format!("{key}: logged by {who} alone"));
            }
        }
    }
    found
}
