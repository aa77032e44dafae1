//! `/stats`: numbers by Envoy's names, and our own metrics with their labels in the name.
//!
//! Istio's readiness probe reads four of them as lines of text: what they say has to be so. Numbers of
//! updates count whole responses; one of which a part was refused counts as refused.

use http::StatusCode;
use regex::Regex;
use serde_json::json;
use waypoint_config::resource::ResourceType;
use waypoint_config::store::received::Updates;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, text};
use crate::admin::target::Target;

/// One number.
#[derive(Clone, Debug, PartialEq)]
struct Stat {
    name: String,
    value: f64,
    /// A counter that never counted isn't in use; a gauge is.
    used: bool,
}

impl Stat {
    fn gauge(name: impl Into<String>, value: u64) -> Stat {
        Stat {
            name: name.into(),
            value: value as f64,
            used: true,
        }
    }

    fn counter(name: impl Into<String>, value: u64) -> Stat {
        Stat {
            used: value > 0,
            ..Stat::gauge(name, value)
        }
    }
}

impl Admin {
    pub(super) fn stats(&self, target: &Target) -> Answer {
        let format = target.get("format");
        if format == Some("prometheus") {
            return answer::metrics(self.metrics.encode());
        }
        let filter = match target.get("filter").map(Regex::new).transpose() {
            Ok(filter) => filter,
            Err(error) => return text(StatusCode::BAD_REQUEST, format!("filter: {error}\n")),
        };
        let used_only = target.is_on("usedonly");
        let mut stats = self.envoy_stats();
        stats.extend(self.metrics.encode().lines().filter_map(from_prometheus));
        stats.retain(|stat| {
            (stat.used || !used_only) && filter.as_ref().is_none_or(|f| f.is_match(&stat.name))
        });
        stats.sort_by(|a, b| a.name.cmp(&b.name));
        if format == Some("json") {
            let list: Vec<_> = stats
                .iter()
                .map(|stat| json!({"name": stat.name, "value": stat.value}))
                .collect();
            return answer::json(&json!({"stats": list}));
        }
        let line = |stat: &Stat| format!("{}: {}\n", stat.name, stat.value);
        text(StatusCode::OK, stats.iter().map(line).collect::<String>())
    }

    /// What Envoy has under these names.
    fn envoy_stats(&self) -> Vec<Stat> {
        let state = self.state().1;
        let listeners = self.received.entries(ResourceType::Listener);
        let active = listeners.iter().filter(|(_, l)| l.in_force.is_some());
        let clusters = self.received.clusters();
        let mut stats = vec![
            Stat::gauge("server.state", state),
            Stat::gauge("server.live", u64::from(state == 0)),
            Stat::gauge("server.uptime", self.started.instant.elapsed().as_secs()),
            Stat::gauge("server.concurrency", self.concurrency as u64),
            // Those for traffic run from the start.
            Stat::gauge("listener_manager.workers_started", 1),
            Stat::gauge(
                "listener_manager.total_listeners_active",
                active.count() as u64,
            ),
            Stat::gauge("cluster_manager.active_clusters", clusters.len() as u64),
        ];
        for (kind, prefix) in [
            (ResourceType::Cluster, "cluster_manager.cds"),
            (ResourceType::Listener, "listener_manager.lds"),
        ] {
            let Updates { accepted, refused } = self.received.updates(kind);
            stats.push(Stat::counter(format!("{prefix}.update_success"), accepted));
            stats.push(Stat::counter(format!("{prefix}.update_rejected"), refused));
        }
        for slot in clusters {
            let endpoints = slot.endpoints();
            let healthy = endpoints.iter().filter(|e| e.healthy).count();
            let prefix = format!("cluster.{}", slot.name);
            let total = endpoints.iter().count() as u64;
            stats.push(Stat::gauge(format!("{prefix}.membership_total"), total));
            stats.push(Stat::gauge(
                format!("{prefix}.membership_healthy"),
                healthy as u64,
            ));
        }
        stats
    }
}

/// A line of Prometheus' text, `name{label="value"} 5`, as `name.label.value`. Buckets are left out.
fn from_prometheus(line: &str) -> Option<Stat> {
    if line.starts_with('#') {
        return None;
    }
    let (series, value) = line.rsplit_once(' ')?;
    let value: f64 = value.parse().ok()?;
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    if name.ends_with("_bucket") {
        return None;
    }
    let mut full = name.to_owned();
    let mut rest = labels;
    while let Some((label, after)) = rest.split_once("=\"") {
        let end = end_of_value(after)?;
        let (value, after) = after.split_at(end);
        full.push_str(&format!(".{}.{value}", label.trim_start_matches(',')));
        rest = after.get(1..)?;
    }
    Some(Stat {
        name: full,
        value,
        used: value != 0.0,
    })
}

/// Where a label's value ends: at the first quote that isn't escaped.
fn end_of_value(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().find_map(|(at, c)| {
        let end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end.then_some(at)
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn prometheus_series_by_name_and_labels() {
        let stat = |line| from_prometheus(line).map(|stat| (stat.name, stat.value));
        assert_eq!(stat("# HELP a b"), None);
        assert_eq!(stat("a_total 3").unwrap(), ("a_total".into(), 3.0));
        assert_eq!(
            stat(r#"a_total{x="1",y="q\"}, z"} 0.5"#).unwrap(),
            (r#"a_total.x.1.y.q\"}, z"#.into(), 0.5)
        );
        assert_eq!(stat(r#"a_bucket{le="5"} 1"#), None);
        assert_eq!(stat(r#"broken{x="1"#), None);
    }
}
