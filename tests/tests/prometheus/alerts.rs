//! Each alert fires: those whose cause can be had quickly in running waypoints, all of them by `promtool` over time.

use std::collections::BTreeSet;
use std::time::Duration;

use waypoint_tests::Mesh;
use waypoint_tests::prometheus::{Prometheus, promtool};
use waypoint_tests::wait::{PATIENCE, until};

use crate::troubles::{Left, Troubled, poor};

const RULES: &str = include_str!("../../../deploy/prometheus/waypoint-rules.yaml");
const OVER_TIME: &str = include_str!("../../../deploy/prometheus/waypoint-rules.test.yaml");
/// What a running waypoint isn't brought to here: a fault of its own, a list that is overdue, and to refuse one thing for want of
/// memory while it takes others.
const NOT_PLAYED: [&str; 3] = [
    "WaypointCrlOverdue",
    "WaypointPanicked",
    "WaypointRefusesForMemory",
];

fn names() -> BTreeSet<&'static str> {
    let lines = RULES.lines();
    lines
        .filter_map(|line| line.trim().strip_prefix("- alert: "))
        .collect()
}

/// The same rules for a story: nothing has to last, and minutes are seconds.
fn hurried() -> String {
    let lines = RULES.lines().map(|line| {
        if line.trim().starts_with("for: ") {
            return line.split_once("for: ").unwrap().0.to_owned() + "for: 0s";
        }
        let mut line = line.to_owned();
        for range in ["[5m]", "[10m]", "[15m]", "[1h]"] {
            line = line.replace(range, "[5s]");
        }
        line
    });
    lines.map(|line| line + "\n").collect()
}

fn path(name: &str) -> String {
    format!("{}/../deploy/prometheus/{name}", env!("CARGO_MANIFEST_DIR"))
}

#[test]
#[ignore = "needs Prometheus: make test-prometheus"]
fn every_alert_fires_over_time_and_is_quiet_before() {
    let checked = promtool(&["check", "rules", &path("waypoint-rules.yaml")]);
    assert!(checked.contains(&format!("{} rules found", names().len())));
    let tested = promtool(&["test", "rules", &path("waypoint-rules.test.yaml")]);
    assert!(tested.contains("SUCCESS"), "{tested}");
    // Each has a test of its own, in which it is quiet at first.
    let tests: Vec<&str> = OVER_TIME.split("\n- interval: ").skip(1).collect();
    for name in names() {
        let fires = format!("exp_samples: [{{labels: '{{alertname=\"{name}\"}}', value: 1}}]");
        let of_alert = tests.iter().filter(|test| test.contains(&fires));
        let quiet = of_alert.filter(|test| test.contains("exp_samples: []}"));
        assert_eq!(quiet.count(), 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: make test-prometheus"]
async fn alerts_fire_for_what_happens_in_running_waypoints() {
    let meshes = [Mesh::new(), Mesh::new(), Mesh::new()];
    let troubled = Troubled::start(&meshes[0]).await;
    let poor = poor(&meshes[1]).await;
    let left = Left::start(&meshes[2]).await;
    let targets = [
        ("troubled", troubled.waypoint.running.stats_addr),
        ("full", troubled.full.running.stats_addr),
        ("poor", poor.running.stats_addr),
        ("left", left.waypoint.running.stats_addr),
    ];
    let prometheus = Prometheus::start(&meshes[0], &targets, Some(&hurried())).await;
    // What was counted before the first scrape rises for nobody.
    for (job, _) in targets {
        until(&format!("the first scrape of {job}"), async || {
            let chains = format!("waypoint_filter_chains{{job=\"{job}\"}}");
            (!prometheus.query(&chains).await.is_empty()).then_some(())
        })
        .await;
    }
    left.spoil_and_leave(&meshes[2]).await;
    let mut silent: BTreeSet<_> = names();
    for name in NOT_PLAYED {
        assert!(silent.remove(name), "{name}");
    }
    let watching = async {
        while !silent.is_empty() {
            // Somebody knocks.
            let knock = tokio::net::TcpStream::connect(poor.running.hbone_addr);
            let _ = tokio::time::timeout(Duration::from_millis(200), knock).await;
            for (name, alert) in prometheus.firing().await {
                if silent.remove(name.as_str()) {
                    let told = alert["annotations"]["summary"].as_str().unwrap_or_default();
                    assert!(!told.is_empty() && !told.contains("<no value>"), "{alert}");
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        _ = tokio::time::timeout(2 * PATIENCE, watching) => {}
        () = troubled.load() => unreachable!("it sends for ever"),
    }
    assert!(silent.is_empty(), "silent: {silent:?}");
}
