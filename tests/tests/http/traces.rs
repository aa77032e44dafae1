//! Distributed traces: whose trace a request is in, which spans a collector gets, and that nobody waits for it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use envoy_types::pb::envoy::config::route::v3::RetryPolicy;
use envoy_types::pb::envoy::config::route::v3::route::Action;
use envoy_types::pb::envoy::config::trace::v3::DatadogConfig;
use envoy_types::pb::envoy::config::trace::v3::tracing::Http;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::{BoolValue, UInt32Value};
use http::StatusCode;
use waypoint_config::resource::Resource;
use waypoint_tests::collector::{
    Collector, Mood, otlp_grpc, otlp_http, provider, to_zipkin, traced,
};
use waypoint_tests::ext_authz_resources::cluster_of;
use waypoint_tests::route_changes::changed;
use waypoint_tests::telemetry::scrape;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::get;
use waypoint_tests::{App, ControlPlane, Mesh, Waypoint, Ztunnel};

const SPANS: &str = "waypoint_trace_spans_total";
const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331";

struct Scene {
    mesh: Mesh,
    to: SocketAddr,
    app: App,
    collector: Collector,
    istiod: ControlPlane,
    waypoint: Waypoint,
    client: Ztunnel,
}

/// `web`, whose requests are traced.
async fn scene(grpc: bool, tracer: fn(&str) -> Http, change: impl Fn(&mut Tracing)) -> Scene {
    scene_with(grpc, tracer, change, |resources| resources).await
}

async fn scene_with(
    grpc: bool,
    tracer: fn(&str) -> Http,
    change: impl Fn(&mut Tracing),
    more: impl Fn(Vec<Resource>) -> Vec<Resource>,
) -> Scene {
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
    let istiod = ControlPlane::start(&mesh).await;
    let cluster = cluster_of(&mesh, "collector");
    istiod
        .discovery
        .set(more(traced(&mesh, "web", &tracer(&cluster), change)));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    assert_eq!(istiod.discovery.refusals(), Vec::<String>::new());
    Scene {
        mesh,
        to,
        app,
        collector,
        istiod,
        waypoint,
        client,
    }
}

fn zipkin(cluster: &str) -> Http {
    to_zipkin(cluster, |_| ())
}

fn parts(traceparent: &str) -> (&str, &str, &str) {
    let mut parts = traceparent.split('-').skip(1);
    let mut next = || parts.next().unwrap_or_default();
    (next(), next(), next())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_has_a_span_and_the_backend_its_context() {
    let scene = scene(true, otlp_grpc, |_| ()).await;
    let mut request = get("/a?b=c");
    let headers = request.headers_mut();
    headers.insert("user-agent", "curl/8".parse().unwrap());
    headers.insert("baggage", "k=v".parse().unwrap());
    let answer = scene.client.request(scene.to, request).await;
    assert_eq!(answer.status, 200);
    let seen = scene.app.last();
    let [span] = &scene.collector.take(1).await[..] else {
        panic!("one span");
    };
    let text = seen.header("traceparent");
    assert_eq!(
        parts(&text),
        (span.trace_id.as_str(), span.id.as_str(), "01")
    );
    assert_eq!(
        (
            seen.header("baggage").as_str(),
            seen.header("tracestate").as_str()
        ),
        ("k=v", "")
    );
    assert_eq!(seen.header("x-request-id").as_bytes()[14], b'9');
    assert!(span.server && !span.error && span.parent.is_empty());
    assert!(span.start > 0 && span.end > span.start);
    // Who looks at durations finds it.
    let accept = [("accept", "application/openmetrics-text; version=1.0.0")];
    let stats = scene.waypoint.running.stats_addr;
    let exemplar = format!(" 1 # {{trace_id=\"{}\"}} ", span.trace_id);
    until("the exemplar", async || {
        let (_, text) = scrape(stats, "/stats/prometheus", &accept).await;
        let mut lines = text.lines();
        let found = lines.find(|line| line.contains(&exemplar))?;
        found
            .starts_with("istio_request_duration_milliseconds_bucket{")
            .then_some(())
    })
    .await;
    assert_eq!(span.service, "waypoint.default");
    assert_eq!(span.name, "web.default.svc.cluster.local:80/*");
    for (tag, value) in [
        ("component", "proxy"),
        ("http.method", "GET"),
        ("http.protocol", "HTTP/1.1"),
        ("http.status_code", "200"),
        ("downstream_cluster", "-"),
        ("user_agent", "curl/8"),
        ("request_size", "0"),
        ("response_flags", "-"),
        ("guid:x-request-id", &seen.header("x-request-id")),
        ("istio.canonical_service", "waypoint"),
        ("istio.mesh_id", "cluster.local"),
        ("istio.namespace", "default"),
        ("istio.destination_workload", "web-1"),
        ("istio.destination_namespace", "default"),
    ] {
        assert_eq!(span.tag(tag), value, "{tag}: {span:?}");
    }
    assert!(span.tag("http.url").ends_with("/a?b=c"), "{span:?}");
    assert!(span.tag("node_id").starts_with("waypoint~"), "{span:?}");
    assert!(span.tag("upstream_cluster").contains("|web.default."));
    assert!(!span.tags.contains_key("error"));
    let (path, _) = scene.collector.head();
    assert_eq!(
        path,
        "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
    );
    scene
        .waypoint
        .until_metric(SPANS, &[("result", "sent")], 1.0)
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clients_trace_and_its_decision_go_on() {
    let scene = scene(false, otlp_http, |tracing| {
        // The client's decision stands against it.
        tracing.random_sampling = Some(Percent { value: 0.0 });
    })
    .await;
    for (flags, sent) in [("00", 0), ("01", 1)] {
        let mut request = get("/");
        let headers = request.headers_mut();
        headers.insert(
            "traceparent",
            format!("{TRACEPARENT}-{flags}").parse().unwrap(),
        );
        headers.insert("tracestate", "a=b".parse().unwrap());
        scene.client.request(scene.to, request).await;
        let seen = scene.app.last();
        let text = seen.header("traceparent");
        let (trace, id, now) = parts(&text);
        assert_eq!((trace, now), (parts(TRACEPARENT).0, flags));
        assert_ne!(id, parts(TRACEPARENT).1);
        assert_eq!(seen.header("tracestate"), "a=b");
        assert_eq!(seen.header("x-request-id").as_bytes()[14], b'4');
        if sent == 1 {
            let spans = scene.collector.take(1).await;
            assert_eq!(spans.len(), 1);
            assert_eq!(spans[0].parent, parts(TRACEPARENT).1);
            assert_eq!((spans[0].id.as_str(), spans[0].state.as_str()), (id, "a=b"));
        }
    }
    let (path, headers) = scene.collector.head();
    assert_eq!(path, "/v1/traces");
    assert_eq!(headers["host"], "otel.test");
    assert_eq!(headers["x-token"], "secret");
    // Without a client's, nothing is sampled.
    scene.client.request(scene.to, get("/")).await;
    assert!(scene.app.last().header("traceparent").ends_with("-00"));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_try_has_a_span_where_that_is_wanted() {
    let retried = |resources| {
        changed(resources, |host| {
            for route in &mut host.routes {
                if let Some(Action::Route(action)) = &mut route.action {
                    action.retry_policy = Some(RetryPolicy {
                        retry_on: "5xx".into(),
                        num_retries: Some(UInt32Value { value: 2 }),
                        ..RetryPolicy::default()
                    });
                }
            }
        })
    };
    let spawn = |tracing: &mut Tracing| {
        tracing.spawn_upstream_span = Some(BoolValue { value: true });
    };
    let scene = scene_with(true, otlp_grpc, spawn, retried).await;
    scene.app.fail(Some(StatusCode::SERVICE_UNAVAILABLE));
    let answer = scene.client.request(scene.to, get("/")).await;
    assert_eq!(answer.status, 503);
    let spans = scene.collector.take(4).await;
    let (servers, tries): (Vec<_>, Vec<_>) = spans.iter().partition(|span| span.server);
    let [server] = servers[..] else {
        panic!("{spans:?}")
    };
    assert!(server.error);
    assert_eq!(server.tag("error"), "true");
    assert_eq!(server.tag("http.status_code"), "503");
    let seen = scene.app.seen();
    assert_eq!((tries.len(), seen.len()), (3, 3), "{spans:?}");
    for (n, (one, seen)) in tries.iter().zip(&seen).enumerate() {
        assert_eq!(one.parent, server.id);
        assert_eq!(one.trace_id, server.trace_id);
        assert_eq!(parts(&seen.header("traceparent")).1, one.id);
        assert!(one.name.starts_with("router ") && one.name.ends_with(" egress"));
        assert!(one.error && one.tag("error") == "true");
        assert_eq!(one.tag("http.status_code"), "503");
        let count = if n == 0 { String::new() } else { n.to_string() };
        assert_eq!(one.tag("retry.count"), count);
        assert_eq!(
            one.tag("upstream_address"),
            scene.mesh.backend(1).to_string()
        );
        assert!(
            one.start >= server.start && one.end <= server.end,
            "{spans:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn zipkin_gets_its_json_and_the_backend_b3() {
    let scene = scene(false, zipkin, |_| ()).await;
    let mut request = get("/");
    let single = "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1";
    request.headers_mut().insert("b3", single.parse().unwrap());
    scene.client.request(scene.to, request).await;
    let seen = scene.app.last();
    let b3 = seen.header("b3");
    let said: Vec<_> = b3.split('-').collect();
    let [trace, id, "1", "e457b5a2e4d86bd1"] = said[..] else {
        panic!("{b3}");
    };
    assert_eq!(trace, "80f198ee56343ba864fe8b2a57d3eff7");
    let spans = scene.collector.take(1).await;
    assert_eq!(
        (spans[0].trace_id.as_str(), spans[0].id.as_str()),
        (trace, id)
    );
    assert_eq!(spans[0].parent, "e457b5a2e4d86bd1");
    assert_eq!(spans[0].name, "web.default.svc.cluster.local:80/*");
    assert_eq!(scene.collector.head().0, "/api/v2/spans");
    // Not sampled, and told on.
    let mut request = get("/");
    request
        .headers_mut()
        .insert("x-b3-sampled", "0".parse().unwrap());
    scene.client.request(scene.to, request).await;
    assert_eq!(scene.app.last().header("x-b3-sampled"), "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_slow_or_refuses_holds_nobody_up() {
    let scene = scene(true, otlp_grpc, |_| ()).await;
    scene.collector.mood(Mood::Refuses);
    scene.client.request(scene.to, get("/")).await;
    scene
        .waypoint
        .until_metric(SPANS, &[("result", "failed")], 1.0)
        .await;
    scene.collector.mood(Mood::Never);
    let begun = Instant::now();
    for _ in 0..20 {
        let answer = scene.client.request(scene.to, get("/")).await;
        assert_eq!(answer.status, 200);
    }
    assert!(begun.elapsed() < Duration::from_secs(20));
    scene
        .waypoint
        .until_metric(SPANS, &[("result", "failed")], 21.0)
        .await;
    scene.collector.mood(Mood::Takes);
    scene.client.request(scene.to, get("/")).await;
    assert_eq!(scene.collector.take(1).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_traced_is_sent_before_the_end_and_after_a_change() {
    let scene = scene(true, otlp_grpc, |_| ()).await;
    scene.client.request(scene.to, get("/first")).await;
    // Traces are no longer wanted: what there is of them is sent all the same.
    scene.istiod.discovery.set(scene.mesh.resources());
    let spans = scene.collector.take(1).await;
    assert!(spans[0].tag("http.url").ends_with("/first"));
    scene.client.request(scene.to, get("/untraced")).await;
    assert_eq!(scene.app.last().header("traceparent"), "");
    let cluster = cluster_of(&scene.mesh, "collector");
    let again = traced(&scene.mesh, "web", &otlp_grpc(&cluster), |_| ());
    scene.istiod.discovery.set(again);
    waypoint_tests::wait::until("a trace", async || {
        scene.client.request(scene.to, get("/last")).await;
        (!scene.app.last().header("traceparent").is_empty()).then_some(())
    })
    .await;
    let before = scene.collector.batches();
    scene.waypoint.running.shutdown_soon().await;
    let spans = scene.collector.take(1).await;
    assert!(spans[0].tag("http.url").ends_with("/last"));
    assert!(scene.collector.batches() > before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tracer_that_is_not_built_is_told_of_and_traffic_goes_on() {
    fn datadog(cluster: &str) -> Http {
        let config = DatadogConfig {
            collector_cluster: cluster.to_owned(),
            service_name: "waypoint".into(),
            ..DatadogConfig::default()
        };
        provider("envoy.tracers.datadog", &config)
    }
    let scene = scene(false, datadog, |_| ()).await;
    let problem = scene.waypoint.until_problem("DatadogConfig").await;
    assert!(problem.contains("tracing.provider"), "{problem}");
    let answer = scene.client.request(scene.to, get("/")).await;
    assert_eq!(answer.status, 200);
    assert_eq!(scene.app.last().header("traceparent"), "");
    // The request's id says all the same that it is traced, as Envoy's would.
    assert_eq!(scene.app.last().header("x-request-id").as_bytes()[14], b'9');
}
