//! Traces beside real Envoy: the same connection manager and the same requests. What the backend gets of a trace is the same up
//! to ids, and spans have the same names, parents and tags, with the same values where those aren't the proxy's own.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::trace::v3::ZipkinConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::Http;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use http::{HeaderMap, Request};
use http_body_util::Full;
use waypoint_tests::collector::{Collector, Span, otlp_grpc, otlp_http, to_zipkin, traced};
use waypoint_tests::envoy::Envoy;
use waypoint_tests::ext_authz_resources::cluster_of;
use waypoint_tests::route_changes::changed;
use waypoint_tests::ztunnel::{Ztunnel, get};
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

struct Scene {
    _mesh: Mesh,
    _istiod: ControlPlane,
    _waypoint: Waypoint,
    _envoy: Envoy,
    proxies: [Ztunnel; 2],
    to: SocketAddr,
    app: App,
    collector: Collector,
}

async fn scene(grpc: bool, tracer: fn(&str) -> Http, change: impl Fn(&mut Tracing)) -> Scene {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    mesh.describe_pod(2, "collector-1", "collector", false);
    let port = match grpc {
        true => "{name: grpc, port: 80, targetPort: 8080}",
        false => "{name: http, port: 80, targetPort: 8080}",
    };
    mesh.service_with_port(2, "collector", port);
    let collector = match grpc {
        true => Collector::grpc(mesh.backend(2)).await,
        false => Collector::http(mesh.backend(2)).await,
    };
    let cluster = cluster_of(&mesh, "collector");
    let resources = traced(&mesh, "web", &tracer(&cluster), |tracing| {
        tracing
            .custom_tags
            // Peers are objects of Istio's own build.
            .retain(|tag| {
                !tag.tag.starts_with("istio.destination_") && !tag.tag.starts_with("istio.source_")
            });
        change(tracing);
    });
    let resources = changed(resources, |host| {
        for route in &mut host.routes {
            if let Some(Action::Route(action)) = &mut route.action {
                action.retry_policy = Some(RetryPolicy {
                    retry_on: "5xx".into(),
                    num_retries: Some(UInt32Value { value: 1 }),
                    ..RetryPolicy::default()
                });
            }
        }
    });
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources.clone());
    let (waypoint, ours) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    let (envoy, address) = Envoy::beside(&mesh, &resources).await;
    let certificate = mesh.certificate("default", "curl");
    let theirs = Ztunnel::connect(address, &certificate).await.unwrap();
    Scene {
        _mesh: mesh,
        _istiod: istiod,
        _waypoint: waypoint,
        _envoy: envoy,
        proxies: [ours, theirs],
        to,
        app,
        collector,
    }
}

/// Headers that carry a trace, and ids.
fn context(headers: &HeaderMap) -> BTreeMap<String, String> {
    let carries = |name: &str| {
        name.contains("b3") || name.contains("trace") || matches!(name, "baggage" | "x-request-id")
    };
    let of = headers.iter().filter(|(name, _)| carries(name.as_str()));
    // Envoy writes an empty list, too.
    let of = of.filter(|(name, value)| *name != "tracestate" || !value.is_empty());
    of.map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .collect()
}

/// Names for ids, in the order in which they are met.
#[derive(Default)]
struct Ids(Vec<String>);

impl Ids {
    fn name(&mut self, id: &str) -> String {
        if matches!(id, "" | TRACE | SPAN) {
            return id.to_owned();
        }
        let known = self.0.iter().position(|known| known == id);
        let at = known.unwrap_or_else(|| {
            self.0.push(id.to_owned());
            self.0.len() - 1
        });
        format!("id{at}")
    }

    /// Every part of a value that is an id.
    fn hide(&mut self, value: &str) -> String {
        let part = |part: &str| match part.len() {
            16 | 32 if part.bytes().all(|b| b.is_ascii_hexdigit()) => self.name(part),
            _ => part.to_owned(),
        };
        value.split('-').map(part).collect::<Vec<_>>().join("-")
    }
}

type Story = (Vec<BTreeMap<String, String>>, Vec<String>);

/// What is to be the same of one request.
fn story(seen: &[HeaderMap], mut spans: Vec<Span>) -> Story {
    let mut ids = Ids::default();
    let mut heads = Vec::new();
    for headers in seen {
        let mut of = context(headers);
        if let Some(id) = of.get_mut("x-request-id") {
            // The mark of the id is what was decided.
            *id = id.get(14..15).unwrap_or_default().to_owned();
        }
        of.values_mut().for_each(|value| *value = ids.hide(value));
        heads.push(of);
    }
    spans.sort_by_key(|span| (span.server, span.start));
    let told = spans.iter().map(|span| {
        let (trace, id, parent) = (
            ids.name(&span.trace_id),
            ids.name(&span.id),
            ids.name(&span.parent),
        );
        let mut tags = span.tags.clone();
        for own in [
            "node_id",
            "guid:x-request-id",
            "peer.address",
            "upstream_address",
        ] {
            if let Some(value) = tags.get_mut(own) {
                *value = "…".to_owned();
            }
        }
        let (server, error, state) = (span.server, span.error, &span.state);
        let name = &span.name;
        format!("{trace} {id} < {parent} {name} {server} {error} {state:?} {tags:#?}")
    });
    (heads, told.collect())
}

/// A request of the story.
fn asked(headers: &[(&'static str, &str)]) -> Request<Full<Bytes>> {
    let mut request = get("/a/path?with=a-query");
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    request
}

impl Scene {
    async fn same(&self, requests: Vec<Request<Full<Bytes>>>) {
        let mut stories = [Vec::new(), Vec::new()];
        for (proxy, stories) in self.proxies.iter().zip(&mut stories) {
            let mut all = Vec::new();
            for (n, request) in requests.iter().enumerate() {
                self.app.forget();
                let mut request = request.clone();
                let headers = request.headers_mut();
                headers.insert("user-agent", n.to_string().parse().unwrap());
                proxy.request(self.to, request).await;
                let seen: Vec<_> = self.app.seen().into_iter().map(|s| s.headers).collect();
                all.push(seen);
            }
            // Both send what they have after 5 s, and nobody says when that is all.
            tokio::time::sleep(Duration::from_secs(7)).await;
            let spans = self.collector.take(0).await;
            for (n, seen) in all.iter().enumerate() {
                let of_request =
                    |span: &&Span| span.server && span.tag("user_agent") == n.to_string();
                let mine: Vec<_> = spans.iter().filter(of_request).collect();
                let mut whole: Vec<Span> = mine.iter().copied().cloned().collect();
                for server in mine {
                    let tries = spans.iter().filter(|s| !s.server && s.parent == server.id);
                    whole.extend(tries.cloned());
                }
                stories.push(story(seen, whole));
            }
        }
        let [ours, theirs] = stories;
        let mut wrong = Vec::new();
        for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            if ours != theirs {
                wrong.push(format!("request {n}\nOURS {ours:#?}\nTHEIRS {theirs:#?}"));
            }
        }
        assert!(
            wrong.is_empty(),
            "{}",
            wrong.join("\n").replace("\\n", "\n")
        );
    }
}

/// Ids that decide: 0 and 5000 of 10000.
const FIRST: &str = "00000000-1111-4222-8333-444444444444";
const MIDDLE: &str = "00001388-1111-4222-8333-444444444444";
const MARKED: &str = "00001388-1111-9222-8333-444444444444";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy"]
async fn opentelemetry() {
    let scene = scene(true, otlp_grpc, |tracing| {
        tracing.random_sampling = Some(Percent { value: 50.0 });
        tracing.max_path_tag_length = Some(UInt32Value { value: 10 });
    })
    .await;
    let parent = |flags| format!("00-{TRACE}-{SPAN}-{flags}");
    let (sampled, not) = (parent("01"), parent("00"));
    let short = format!("00-{TRACE}-{SPAN}");
    scene
        .same(vec![
            asked(&[("x-request-id", FIRST), ("baggage", "a=b")]),
            asked(&[("x-request-id", MIDDLE)]),
            asked(&[("x-request-id", MARKED)]),
            asked(&[("x-request-id", MIDDLE), ("x-client-trace-id", "me")]),
            asked(&[("x-request-id", "not-an-id")]),
            asked(&[("x-request-id", FIRST), ("traceparent", &sampled)]),
            asked(&[
                ("x-request-id", FIRST),
                ("traceparent", &sampled),
                ("tracestate", "a=b,c=d"),
            ]),
            asked(&[
                ("x-request-id", FIRST),
                ("traceparent", &not),
                ("tracestate", "a=b"),
            ]),
            asked(&[("x-request-id", FIRST), ("traceparent", &short)]),
            asked(&[("x-request-id", FIRST), ("traceparent", "nonsense")]),
            asked(&[("x-request-id", FIRST), ("tracestate", "alone=1")]),
            asked(&[("x-request-id", FIRST), ("x-status", "404")]),
            asked(&[("x-request-id", FIRST), ("x-status", "500")]),
            asked(&[
                ("x-request-id", FIRST),
                ("content-type", "application/grpc"),
            ]),
            asked(&[
                ("x-request-id", FIRST),
                ("x-b3-traceid", TRACE),
                ("x-b3-spanid", SPAN),
            ]),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy"]
async fn spans_of_tries() {
    let scene = scene(false, otlp_http, |tracing| {
        tracing.spawn_upstream_span = Some(BoolValue { value: true });
    })
    .await;
    scene
        .same(vec![
            asked(&[]),
            asked(&[("x-status", "404")]),
            asked(&[("x-status", "503")]),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy"]
async fn zipkin() {
    let scene = scene(false, zipkin_of, |_| ()).await;
    let multi = |more: &[(&'static str, &'static str)]| {
        let mut all = vec![("x-b3-traceid", TRACE), ("x-b3-spanid", SPAN)];
        all.extend_from_slice(more);
        all
    };
    let single = |end: &str| format!("{TRACE}-{SPAN}{end}");
    scene
        .same(vec![
            asked(&[]),
            asked(&multi(&[])),
            asked(&multi(&[("x-b3-sampled", "1")])),
            asked(&multi(&[("x-b3-sampled", "0")])),
            asked(&multi(&[
                ("x-b3-parentspanid", "00f067aa0ba902b7"),
                ("x-b3-flags", "1"),
            ])),
            asked(&[("x-b3-sampled", "0")]),
            asked(&[("x-b3-traceid", "64fe8b2a57d3eff7"), ("x-b3-spanid", SPAN)]),
            asked(&[("b3", &single("-1"))]),
            asked(&[("b3", &single(""))]),
            asked(&[("b3", &single("-0"))]),
            asked(&[("b3", "0")]),
            asked(&[("b3", "nonsense")]),
            asked(&[("x-b3-traceid", "nonsense"), ("x-b3-spanid", SPAN)]),
        ])
        .await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Envoy"]
async fn zipkin_with_w3c() {
    let scene = scene(false, zipkin_w3c_of, |_| ()).await;
    let parent = |flags| format!("00-{TRACE}-{SPAN}-{flags}");
    scene
        .same(vec![
            asked(&[]),
            asked(&[("traceparent", &parent("01")), ("tracestate", "a=b")]),
            asked(&[("traceparent", &parent("00"))]),
            asked(&[("b3", "1"), ("traceparent", &parent("00"))]),
        ])
        .await;
}

/// The older way to say where the collector is, which every Envoy has.
fn older(cluster: &str, config: &mut ZipkinConfig) {
    config.collector_service = None;
    config.collector_cluster = cluster.to_owned();
    config.collector_endpoint = "/api/v2/spans".to_owned();
    config.collector_hostname = "zipkin.test".to_owned();
}

fn zipkin_of(cluster: &str) -> Http {
    to_zipkin(cluster, |config| older(cluster, config))
}

fn zipkin_w3c_of(cluster: &str) -> Http {
    to_zipkin(cluster, |config| {
        older(cluster, config);
        config.trace_context_option = 1;
    })
}
