//! Scrapes of all the series that a metric may have: traffic beside them doesn't wait.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use tokio::task::JoinSet;
use waypoint_filters::metrics::Limits;
use waypoint_tests::recorded_telemetry::with_recorded;
use waypoint_tests::telemetry::scrape;
use waypoint_tests::wait::until;
use waypoint_tests::ztunnel::{get, request};
use waypoint_tests::{ControlPlane, Mesh, Ztunnel};

const SERIES: usize = Limits::DEFAULT.max_series;
const CLIENTS: usize = 8;
const REQUESTS: usize = 2000;

/// The slowest of a hundred, of many one after the other.
async fn p99(client: &Ztunnel, to: SocketAddr) -> Duration {
    let mut connection = client.http1(to).await;
    let mut took = Vec::with_capacity(REQUESTS);
    for _ in 0..REQUESTS {
        let started = Instant::now();
        assert_eq!(connection.send(get("/")).await.status, StatusCode::OK);
        took.push(started.elapsed());
    }
    took.sort_unstable();
    took[REQUESTS * 99 / 100]
}

/// A series for each: the recorded Telemetry has the method as a label, and clients choose that.
async fn make_series(client: &Arc<Ztunnel>, to: SocketAddr) {
    let mut clients = JoinSet::new();
    for n in 0..CLIENTS {
        let client = client.clone();
        clients.spawn(async move {
            let mut connection = client.http1(to).await;
            for method in (n..SERIES).step_by(CLIENTS) {
                let method = Method::from_bytes(format!("M{method}").as_bytes()).unwrap();
                connection.send(request(method, "/", &[])).await;
            }
        });
    }
    clients.join_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scrapes_of_twenty_thousand_series_hold_nobody_up() {
    let mesh = Mesh::alone().await;
    let (to, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(with_recorded(mesh.resources()));
    let (waypoint, client) = mesh.started_under(&istiod).await;
    let client = Arc::new(client);
    make_series(&client, to).await;
    let stats = waypoint.running.stats_addr;
    let of_requests = [("metric", "istio_requests_total")];
    until("all series", async || {
        let series = waypoint.metric("waypoint_metric_series", &of_requests);
        (series.await >= SERIES as f64).then_some(())
    })
    .await;

    let alone = p99(&client, to).await;
    let (over, scrapes) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let scraping = tokio::spawn({
        let (over, scrapes) = (over.clone(), scrapes.clone());
        async move {
            let mut bytes = 0;
            while !over.load(Ordering::Relaxed) {
                let (_, text) = scrape(stats, "/stats/prometheus", &[]).await;
                bytes = text.len();
                scrapes.fetch_add(1, Ordering::Relaxed);
            }
            bytes
        }
    });
    let beside = p99(&client, to).await;
    over.store(true, Ordering::Relaxed);
    let bytes = scraping.await.unwrap();
    let scrapes = scrapes.load(Ordering::Relaxed);
    println!(
        "p99 {alone:?}; {beside:?} beside {scrapes} scrapes of {bytes} bytes each, one after the other"
    );
    assert!(scrapes > 0 && bytes > SERIES * 200, "{scrapes}, {bytes}");
    // Client, backend, scraper and waypoint share this process's threads and cores.
    let bound = alone * 20 + Duration::from_millis(200);
    assert!(beside < bound, "{beside:?}, and {alone:?} alone");
}
