//! Metrics: `istio.stats` for each provider of the kind `prometheus`, with what Telemetry changes.
//!
//! Of lists of providers the last one that stands anywhere counts; overrides add to each other, the later above the
//! earlier.

use std::collections::BTreeMap;
use std::time::Duration;

use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::xds::proto::{
    STATS_PLUGIN_CONFIG, StatsMetricConfig, StatsPluginConfig, StatsReporter,
};

use crate::standalone::kinds::core::telemetry_provider::TelemetryProvider;
use crate::standalone::kinds::istio::telemetry::metrics::{MetricName, Metrics, MetricsOverride};
use crate::standalone::state::mesh_service::MeshService;
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::duration;
use crate::standalone::translate::proto::stable_encoding;

/// What is said for one provider.
#[derive(Default)]
struct Merged<'t> {
    all_disabled: bool,
    interval: Option<Duration>,
    metrics: BTreeMap<MetricName, Changes<'t>>,
}

/// What is said of one metric.
#[derive(Default)]
struct Changes<'t> {
    disabled: bool,
    /// By label: an expression, or that it is removed.
    labels: BTreeMap<&'t str, Option<&'t str>>,
}

impl Mesh<'_> {
    /// Configurations of `istio.stats`.
    pub(crate) fn stats_filters(&self, service: Option<&MeshService<'_>>) -> Vec<Any> {
        let objects = self.telemetries(service);
        let metrics: Vec<&Metrics> = objects.iter().flat_map(|o| &o.spec.metrics).collect();
        let merged = merge(&metrics, &self.config.default_providers.metrics);
        let is_prometheus = |name: &str| {
            let provider = self.config.provider_named(name);
            provider.and_then(|p| p.telemetry()) == Some(TelemetryProvider::Prometheus)
        };
        let on = merged.iter().filter(|(_, merged)| !merged.all_disabled);
        on.filter(|(name, _)| is_prometheus(name))
            .map(|(_, merged)| config(merged))
            .collect()
    }
}

/// By the providers' names.
fn merge<'t>(metrics: &[&'t Metrics], defaults: &'t [String]) -> BTreeMap<&'t str, Merged<'t>> {
    let names = |metrics: &'t Metrics| -> Vec<&'t str> {
        metrics.providers.iter().map(|p| p.name.as_str()).collect()
    };
    let defaults: Vec<&str> = defaults.iter().map(String::as_str).collect();
    if metrics.is_empty() {
        let alone = |name| (name, Merged::default());
        return defaults.into_iter().map(alone).collect();
    }
    let said = metrics.iter().rev().map(|metrics| names(metrics));
    let in_scope = said.into_iter().find(|names| !names.is_empty());
    let in_scope = in_scope.unwrap_or_else(|| defaults.clone());
    let mut above = defaults;
    let mut found: BTreeMap<&str, Merged<'_>> = BTreeMap::new();
    for metrics in metrics {
        let own = names(metrics);
        if !own.is_empty() {
            above = own;
        }
        for name in above.iter().filter(|name| in_scope.contains(name)) {
            let merged = found.entry(name).or_default();
            merged.interval = metrics.reporting_interval.or(merged.interval);
            for change in &metrics.overrides {
                merged.add(change);
            }
        }
    }
    found
}

impl<'t> Merged<'t> {
    fn add(&mut self, change: &'t MetricsOverride) {
        if !change.matches.mode.is_of_servers() {
            return;
        }
        self.all_disabled = change.matches.is_all() && change.disabled == Some(true);
        if self.all_disabled {
            return;
        }
        for name in change.matches.names() {
            let changes = self.metrics.entry(name).or_default();
            changes.disabled = change.disabled.unwrap_or(changes.disabled);
            let labels = change.tag_overrides.iter();
            changes
                .labels
                .extend(labels.map(|(label, tag)| (label.as_str(), tag.expression())));
        }
    }
}

fn config(merged: &Merged<'_>) -> Any {
    let metric = |(metric, changes): (&MetricName, &Changes<'_>)| {
        let mut config = StatsMetricConfig {
            name: metric.name.clone(),
            drop: changes.disabled,
            ..StatsMetricConfig::default()
        };
        for (label, expression) in &changes.labels {
            match expression {
                Some(expression) => {
                    let (label, expression) = ((*label).to_owned(), (*expression).to_owned());
                    config.dimensions.insert(label, expression);
                }
                None => config.tags_to_remove.push((*label).to_owned()),
            }
        }
        config
    };
    let message = StatsPluginConfig {
        disable_host_header_fallback: true,
        tcp_reporting_duration: merged.interval.map(duration),
        metrics: merged.metrics.iter().map(metric).collect(),
        reporter: StatsReporter::ServerGateway.into(),
    };
    Any {
        type_url: STATS_PLUGIN_CONFIG.to_owned(),
        value: stable_encoding::encode(STATS_PLUGIN_CONFIG, &message),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(value: Value) -> Vec<Metrics> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_last_list_of_providers_counts_and_overrides_add_up() {
        let said = read(json!([
            {"overrides": [{"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {"a": {"value": "'b'"}}}]},
            {"providers": [{"name": "own"}], "overrides": [
                {"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {"a": {"value": "'c'"}}},
                {"match": {"mode": "CLIENT"}, "disabled": true},
            ]},
            {"overrides": [{"match": {"metric": "REQUEST_COUNT"}, "tagOverrides": {"d": {"operation": "REMOVE"}}}]},
        ]));
        let said: Vec<&Metrics> = said.iter().collect();
        let defaults = ["prometheus".to_owned()];
        let found = merge(&said, &defaults);
        assert_eq!(found.keys().copied().collect::<Vec<_>>(), ["own"]);
        let own = &found["own"];
        assert!(!own.all_disabled);
        let changes = own.metrics.values().next().unwrap();
        assert_eq!(changes.labels["a"], Some("'c'"));
        assert_eq!(changes.labels["d"], None);
        // What was said before it was a list of its own was said of others.
        assert_eq!(merge(&said[..1], &defaults)["prometheus"].metrics.len(), 1);
    }

    #[test]
    fn all_are_off_until_something_is_said_again() {
        let off = json!({"overrides": [{"disabled": true}]});
        let on = json!({"overrides": [{"match": {"metric": "REQUEST_SIZE"}, "disabled": false}]});
        let defaults = ["p".to_owned()];
        let is_off = |said: Value| {
            let said = read(said);
            merge(&said.iter().collect::<Vec<_>>(), &defaults)["p"].all_disabled
        };
        assert!(is_off(json!([off])));
        assert!(!is_off(json!([off, on])));
        assert!(is_off(json!([on, off])));
    }
}
