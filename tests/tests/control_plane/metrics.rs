//! Metrics as scrapers ask for them: how many there are, how long they stay, in which form they come.

use std::time::Duration;

use http::{Method, StatusCode};
use waypoint_filters::metrics::Limits;
use waypoint_tests::Mesh;
use waypoint_tests::circuit_breakers::{NONE, limited};
use waypoint_tests::telemetry::{http_request, metric, scrape};
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get as get_page, request};
use waypoint_tests::{ControlPlane, Waypoint};

use crate::admin::{WEB, get};

const REQUESTS: &str = "istio_requests_total";

fn principal(account: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{account}")
}

#[tokio::test]
async fn series_of_sources_that_are_gone_go_and_those_in_use_stay() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let limits = Limits {
        max_series: 5,
        idle: Duration::from_secs(2),
    };
    let waypoint = mesh.start_with(|options| options.metrics = limits).await;
    // Its tunnel with it: what a connection uses stays.
    let come = async |account: &str| {
        let client = mesh.client(&waypoint, "default", account).await;
        let mut connection = client.http1(web).await;
        let answer = connection.send(get_page("/")).await;
        assert_eq!(answer.status, StatusCode::OK);
        (client, connection)
    };
    let (_stays, mut held) = come("stays").await;
    let of = async |account: &str| {
        let principal = principal(account);
        let labels = [("source_principal", principal.as_str())];
        waypoint.metric(REQUESTS, &labels).await
    };
    until("the first", async || {
        (of("stays").await == 1.0).then_some(())
    })
    .await;

    // More than there is room for: all of it is told, and where it went.
    let mut others = Vec::new();
    for n in 0..8 {
        others.push(come(&format!("pod-{n}")).await);
    }
    let service = "web.default.svc.cluster.local";
    let to_web = [("reporter", "waypoint"), ("destination_service", service)];
    waypoint.until_metric(REQUESTS, &to_web, 9.0).await;
    let folded = [
        ("source_principal", "overflow"),
        ("destination_workload", "overflow"),
        ("destination_service", service),
        ("response_code", "200"),
    ];
    assert_eq!(waypoint.metric(REQUESTS, &folded).await, 4.0);
    let of_requests = [("metric", REQUESTS)];
    let times = waypoint.metric("waypoint_metric_series_folded_total", &of_requests);
    assert_eq!(times.await, 4.0);
    assert_eq!(of("pod-0").await, 1.0);

    drop(others);
    // Nobody asks for them any more; the one whose connection is there stays, idle as it is.
    until("the end of the others", async || {
        let left = waypoint.metric("waypoint_metric_series", &of_requests);
        (left.await == 1.0).then_some(())
    })
    .await;
    assert_eq!((of("pod-0").await, of("stays").await), (0.0, 1.0));
    held.send(get_page("/")).await;
    until("one more", async || {
        (of("stays").await == 2.0).then_some(())
    })
    .await;
    // What comes back begins again, and there is room for it.
    let _back = come("pod-7").await;
    until("its series", async || {
        (of("pod-7").await == 1.0).then_some(())
    })
    .await;
    // What the code names stays, however seldom it counts.
    let text = waypoint.metrics().await;
    assert!(text.contains("waypoint_config_updates_total{"), "{text}");
}

#[tokio::test]
async fn scrapes_come_in_the_form_that_is_asked_for() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    waypoint.until_metric(REQUESTS, &[], 1.0).await;
    let ask = async |headers: &[(&str, &str)]| {
        scrape(waypoint.running.stats_addr, "/stats/prometheus", headers).await
    };
    let (head, plain) = ask(&[]).await;
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(plain.contains("# TYPE istio_requests_total counter\n"));
    assert!(!plain.contains("# EOF"));

    let (head, packed) = ask(&[("accept-encoding", "gzip")]).await;
    assert!(head.contains("content-encoding: gzip"), "{head}");
    assert_eq!(metric(&packed, REQUESTS, &[]), 1.0);

    let open = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.2";
    let (head, open) = ask(&[("accept", open), ("accept-encoding", "gzip")]).await;
    assert!(
        head.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{head}"
    );
    assert!(open.contains("# TYPE istio_requests counter\n"), "{open}");
    assert!(open.ends_with("# EOF\n"));
    assert_eq!(metric(&open, REQUESTS, &[]), 1.0);

    let filtered = get(
        &waypoint,
        "/stats/prometheus?filter=%5Eistio_requests_total",
    )
    .await;
    assert_eq!(filtered.matches("# TYPE").count(), 1, "{filtered}");
    assert_eq!(metric(&filtered, REQUESTS, &[]), 1.0);
}

/// Waits until a number has Envoy's name in both of its forms.
async fn until_told(waypoint: &Waypoint, name: &str, value: f64) {
    let family = format!("envoy_cluster_{name}");
    waypoint
        .until_metric(&family, &[("cluster_name", WEB)], value)
        .await;
    let stats = get(waypoint, &format!("/stats?filter={name}$")).await;
    let line = format!("cluster.{WEB};.{name}: {value}\n");
    assert!(stats.contains(&line), "{line}{stats}");
}

#[tokio::test]
async fn what_is_in_flight_and_what_waits_has_envoys_names() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let _unused = mesh.http_service(2, "unused").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(limited(&mesh, [1, NONE, NONE, NONE]));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let slow = || request(Method::GET, "/", &[("x-delay-ms", "8000")]);
    let (mut first, mut second) = (client.http1(web).await, client.http1(web).await);
    let seen = async {
        until_told(&waypoint, "upstream_rq_active", 1.0).await;
        until_told(&waypoint, "upstream_rq_pending_active", 1.0).await;
        until_told(&waypoint, "upstream_cx_active", 1.0).await;
        waypoint.metrics().await
    };
    let (one, two, text) = tokio::join!(first.send(slow()), second.send(slow()), seen);
    assert_eq!((one.status, two.status), (StatusCode::OK, StatusCode::OK));
    let told = |name: &str, labels: &[(&str, &str)]| metric(&text, name, labels);
    assert_eq!(told("waypoint_connections_active", &[]), 1.0);
    assert_eq!(told("waypoint_tunnels_active", &[]), 2.0);
    assert_eq!(told("waypoint_requests_active", &[]), 2.0);
    let terminates = [("http_conn_manager_prefix", "connect_terminate")];
    assert_eq!(told("envoy_http_downstream_rq_active", &terminates), 2.0);
    let web = [("cluster_name", WEB)];
    assert_eq!(told("envoy_cluster_upstream_cx_total", &web), 1.0);
    assert_eq!(
        told("envoy_cluster_circuit_breakers_default_cx_open", &web),
        1.0
    );
    assert_eq!(
        told("envoy_cluster_circuit_breakers_default_rq_open", &web),
        0.0
    );
    assert!(!text.contains("|unused."), "nobody called it");
    // The control plane's part.
    let istiod = [("cluster_name", "xds-grpc")];
    assert_eq!(told("envoy_cluster_upstream_cx_active", &istiod), 1.0);
    assert_eq!(told("envoy_control_plane_connected_state", &[]), 1.0);
    assert_eq!(told("waypoint_xds_connected", &[]), 1.0);
    assert_eq!(told("envoy_server_live", &[]), 1.0);
    assert_eq!(told("istio_build", &[("component", "proxy")]), 1.0);
    let accepted = [("type", "Cluster"), ("result", "accepted")];
    assert_eq!(told("waypoint_xds_updates_total", &accepted), 1.0);
    assert_eq!(told("envoy_cluster_manager_cds_update_success", &[]), 1.0);
    until_told(&waypoint, "upstream_rq_active", 0.0).await;
    until_told(&waypoint, "upstream_rq_pending_active", 0.0).await;
}

/// `increase()` doesn't see the first count of a series that begins with it.
#[tokio::test]
async fn counters_that_alerts_read_are_there_before_they_count() {
    let mesh = Mesh::new();
    let istiod = ControlPlane::of(&mesh).await;
    let waypoint = mesh.start_under(&istiod).await;
    let text = waypoint.metrics().await;
    for series in [
        "waypoint_config_updates_total{result=\"refused\"}",
        "waypoint_config_refused{what=\"resource\"}",
        "waypoint_filter_chains{state=\"closed\"}",
        "waypoint_ca_requests_total{result=\"failed\"}",
        "waypoint_connections_refused_total{reason=\"limit\"}",
        "waypoint_dns_lookups_total{result=\"failed\"}",
        "waypoint_metric_series_folded_total{metric=\"istio_requests_total\"}",
        "waypoint_overload_actions_total{action=\"shrink_windows\"}",
        "waypoint_overload_refused_total{what=\"tunnel\"}",
        "waypoint_panics_total",
        "waypoint_access_log_dropped_total",
        "waypoint_log_lines_lost_total{reason=\"rate\"}",
        "waypoint_upstream_tls_handshakes_total{result=\"failed\"}",
    ] {
        assert!(
            text.contains(&format!("\n{series} 0\n")),
            "{series}: {text}"
        );
    }
}

#[tokio::test]
async fn pages_that_tools_collect_are_there() {
    let mesh = Mesh::new();
    let (web, _app) = mesh.http_service(1, "web").await;
    let (waypoint, client) = mesh.started().await;
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    waypoint.until_metric(REQUESTS, &[], 1.0).await;
    for (page, says) in [
        ("/contention", "Mutex contention tracing is not there.\n"),
        ("/hot_restart_version", "disabled\n"),
        ("/init_dump", "{}\n"),
        (
            "/stats/recentlookups",
            "Lookup tracking is not there.\n\ntotal: 0\n",
        ),
    ] {
        assert_eq!(get(&waypoint, page).await, says, "{page}");
    }
    let name = "istio_request_duration_milliseconds";
    let histograms = get(&waypoint, &format!("/stats?type=Histograms&filter={name}")).await;
    assert_eq!(histograms.lines().count(), 1, "{histograms}");
    assert!(histograms.contains(": P0(nan,"), "{histograms}");
    let buckets = get(
        &waypoint,
        "/stats?histogram_buckets=cumulative&type=Histograms",
    )
    .await;
    assert!(buckets.contains(" B3600000(0,1)"), "{buckets}");

    let admin = waypoint.running.admin_addr;
    // What isn't made is told, whoever asks how: tools of Envoy's, of Go's and of ztunnel's.
    for page in [
        "/cpuprofiler?enable=y",
        "/peak_heap_dump",
        "/allocprofiler?enable=y",
        "/stats/recentlookups/enable",
    ] {
        let (status, _, says) = http_request(admin, "POST", page).await;
        assert_eq!(status, 501, "{page}");
        assert!(says.contains(" not "), "{page}: {says}");
    }
    assert_eq!(http_request(admin, "GET", "/reset_counters").await.0, 405);
    let (status, _, body) = http_request(admin, "POST", "/reset_counters").await;
    assert_eq!((status, body.as_str()), (200, "OK\n"));
    assert_eq!(waypoint.metric(REQUESTS, &[]).await, 0.0);
    assert_eq!(client.get(web, "/").await.status, StatusCode::OK);
    waypoint.until_metric(REQUESTS, &[], 1.0).await;
    http_request(admin, "POST", "/healthcheck/fail").await;
    let dump = get(&waypoint, "/init_dump").await;
    assert!(dump.contains("/healthcheck/fail"), "{dump}");
}
