//! Our dashboard: each of its queries has data, with the labels that its legends name.

use std::collections::BTreeSet;

use serde_json::Value;
use waypoint_tests::prometheus::Prometheus;
use waypoint_tests::wait::until;

use crate::scene::Scene;

const DASHBOARD: &str = include_str!("../../../deploy/grafana/waypoint.json");

/// A panel's query.
struct Target {
    panel: String,
    expression: String,
    /// Labels that its legend names.
    named: BTreeSet<String>,
}

/// As Grafana asks, where everything is selected.
fn filled_in(expression: &str) -> String {
    let filled = expression
        .replace("$__rate_interval", "5s")
        .replace("$instance", ".*")
        .replace("$service", ".*");
    assert!(!filled.contains('$'), "{filled}");
    filled
}

fn targets() -> Vec<Target> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let mut ids = BTreeSet::new();
    let mut targets = Vec::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{panel}");
        let title = panel["title"].as_str().unwrap();
        let none = Vec::new();
        for target in panel["targets"].as_array().unwrap_or(&none) {
            let legend = target["legendFormat"].as_str().unwrap_or_default();
            let named = legend.split("{{").skip(1);
            let named = named.filter_map(|rest| Some(rest.split_once("}}")?.0.to_owned()));
            targets.push(Target {
                panel: title.to_owned(),
                expression: filled_in(target["expr"].as_str().unwrap()),
                named: named.collect(),
            });
        }
    }
    assert!(targets.len() > 50, "{}", targets.len());
    targets
}

/// Waits until an expression has a number.
pub(crate) async fn until_data(
    prometheus: &Prometheus,
    what: &str,
    expression: &str,
) -> Vec<Value> {
    until(&format!("{what}: {expression}"), async || {
        let series = prometheus.query(expression).await;
        let is_number = |series: &Value| series["value"][1] != "NaN";
        series.iter().any(is_number).then_some(series)
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Prometheus: make test-prometheus"]
async fn every_query_of_the_dashboard_has_data() {
    let scene = Scene::start().await;
    let stats = scene.waypoint.running.stats_addr;
    let prometheus = Prometheus::start(&scene.mesh, &[("waypoints", stats)], None).await;
    scene
        .under_load(async {
            for target in targets() {
                let Target {
                    panel,
                    expression,
                    named,
                } = &target;
                let series = until_data(&prometheus, panel, expression).await;
                for label in named {
                    let has = |series: &Value| series["metric"].get(label).is_some();
                    assert!(series.iter().any(has), "{panel}: no {label} in {series:?}");
                }
            }
            for label in ["instance", "destination_service"] {
                let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
                let variables = dashboard["templating"]["list"].as_array().unwrap().clone();
                let of_label = format!(", {label})");
                let asks = |v: &Value| {
                    v["definition"]
                        .as_str()
                        .is_some_and(|d| d.ends_with(&of_label))
                };
                let variable = variables.into_iter().find(asks).unwrap();
                let definition = variable["definition"].as_str().unwrap();
                let metric = definition.strip_prefix("label_values(").unwrap();
                let metric = metric.strip_suffix(&of_label).unwrap();
                let series = until_data(&prometheus, label, metric).await;
                assert!(series[0]["metric"].get(label).is_some(), "{series:?}");
            }
        })
        .await;
}
