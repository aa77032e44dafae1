//! Local rate limits. `make test-envoy` sends the same requests to Envoy; the lines are its.

use waypoint_tests::rate_limits::{Limit, lines, resources};
use waypoint_tests::{ControlPlane, Mesh};

async fn told(limit: Limit) -> Vec<String> {
    let mesh = Mesh::new();
    let (to, _app) = mesh.http_service(1, "web").await;
    let istiod = ControlPlane::start(&mesh).await;
    istiod.discovery.set(resources(&mesh, limit));
    let waypoint = mesh.start_under(&istiod).await;
    let client = mesh.client(&waypoint, "default", "curl").await;
    let lines = lines(&client, to, limit).await;
    if limit == Limit::All {
        waypoint.until_logged("503 RL local_rate_limited").await;
    }
    lines
}

fn statuses(lines: &[String]) -> Vec<&str> {
    let after = |line| str::split_once(line, "] ").map_or("", |(_, rest)| rest);
    lines.iter().map(|line| &after(line)[..3]).collect()
}

#[tokio::test]
async fn so_many_requests_pass_and_further_ones_are_answered() {
    let lines = told(Limit::All).await;
    assert_eq!(statuses(&lines), ["200", "200", "200", "503", "503"]);
    assert!(lines[3].contains("limited \"by HTTP/1.1\""), "{}", lines[3]);
    assert!(lines[3].ends_with("\"local_rate_limited\""), "{}", lines[3]);
    assert_eq!(statuses(&told(Limit::Shadow).await), ["200"; 5]);
    assert_eq!(
        lines,
        told(Limit::Route).await,
        "a virtual host's settings stand for the filter's"
    );
}

#[tokio::test]
async fn descriptors_have_buckets_of_their_own() {
    let lines = told(Limit::Descriptors).await;
    let right = [
        "200", "429", "429", "200", "429", "200", "200", "200", "200",
    ];
    assert_eq!(statuses(&lines), right, "{lines:#?}");
    assert!(lines[6].contains("grpc \"8\""), "{}", lines[6]);
}

#[tokio::test]
async fn each_connection_may_have_its_own() {
    let lines = told(Limit::Connection).await;
    assert_eq!(statuses(&lines[..5]), ["200", "200", "429", "429", "429"]);
    assert_eq!(lines[5], "another connection 200");
}
