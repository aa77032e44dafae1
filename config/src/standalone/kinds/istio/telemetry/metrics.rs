//! `metrics` of a Telemetry: metrics that are off, labels that are removed, added, or have another value.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::standalone::input::duration::{optional_duration, parse_duration};
use crate::standalone::kinds::istio::telemetry::scope::{Mode, ProviderRef};
use crate::standalone::kinds::refusal::{Refusal, refusal};

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Metrics {
    /// None: those of what stands above, or the mesh's.
    pub providers: Vec<ProviderRef>,
    pub overrides: Vec<MetricsOverride>,
    /// How often open TCP streams report their bytes.
    #[serde(deserialize_with = "optional_duration")]
    pub reporting_interval: Option<Duration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MetricsOverride {
    #[serde(rename = "match")]
    pub matches: MetricSelector,
    /// `None`: as it was.
    pub disabled: Option<bool>,
    /// By the label's name.
    pub tag_overrides: BTreeMap<String, TagOverride>,
}

/// Which metrics are meant: all, unless one is named.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct MetricSelector {
    metric: Option<IstioMetric>,
    custom_metric: Option<String>,
    pub mode: Mode,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
enum IstioMetric {
    AllMetrics,
    RequestCount,
    RequestDuration,
    RequestSize,
    ResponseSize,
    TcpOpenedConnections,
    TcpClosedConnections,
    TcpSentBytes,
    TcpReceivedBytes,
    GrpcRequestMessages,
    GrpcResponseMessages,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TagOverride {
    operation: Operation,
    value: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Operation {
    #[default]
    Upsert,
    Remove,
}

impl IstioMetric {
    const ALL: [IstioMetric; 10] = [
        IstioMetric::GrpcRequestMessages,
        IstioMetric::GrpcResponseMessages,
        IstioMetric::RequestCount,
        IstioMetric::RequestDuration,
        IstioMetric::RequestSize,
        IstioMetric::ResponseSize,
        IstioMetric::TcpClosedConnections,
        IstioMetric::TcpOpenedConnections,
        IstioMetric::TcpReceivedBytes,
        IstioMetric::TcpSentBytes,
    ];

    /// As the filter knows it.
    fn name(self) -> &'static str {
        match self {
            IstioMetric::AllMetrics => "",
            IstioMetric::RequestCount => "requests_total",
            IstioMetric::RequestDuration => "request_duration_milliseconds",
            IstioMetric::RequestSize => "request_bytes",
            IstioMetric::ResponseSize => "response_bytes",
            IstioMetric::TcpOpenedConnections => "tcp_connections_opened_total",
            IstioMetric::TcpClosedConnections => "tcp_connections_closed_total",
            IstioMetric::TcpSentBytes => "tcp_sent_bytes_total",
            IstioMetric::TcpReceivedBytes => "tcp_received_bytes_total",
            IstioMetric::GrpcRequestMessages => "request_messages_total",
            IstioMetric::GrpcResponseMessages => "response_messages_total",
        }
    }

    /// By which istiod puts metrics in order: as the API calls it.
    fn rank(self) -> &'static str {
        match self {
            IstioMetric::AllMetrics => "ALL_METRICS",
            IstioMetric::RequestCount => "REQUEST_COUNT",
            IstioMetric::RequestDuration => "REQUEST_DURATION",
            IstioMetric::RequestSize => "REQUEST_SIZE",
            IstioMetric::ResponseSize => "RESPONSE_SIZE",
            IstioMetric::TcpOpenedConnections => "TCP_OPENED_CONNECTIONS",
            IstioMetric::TcpClosedConnections => "TCP_CLOSED_CONNECTIONS",
            IstioMetric::TcpSentBytes => "TCP_SENT_BYTES",
            IstioMetric::TcpReceivedBytes => "TCP_RECEIVED_BYTES",
            IstioMetric::GrpcRequestMessages => "GRPC_REQUEST_MESSAGES",
            IstioMetric::GrpcResponseMessages => "GRPC_RESPONSE_MESSAGES",
        }
    }
}

/// A metric of the filter, ordered as istiod orders them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct MetricName {
    rank: String,
    pub name: String,
}

impl MetricSelector {
    /// Whether all are meant.
    pub fn is_all(&self) -> bool {
        self.custom_metric.is_none() && matches!(self.metric, None | Some(IstioMetric::AllMetrics))
    }

    pub fn names(&self) -> Vec<MetricName> {
        if let Some(custom) = &self.custom_metric {
            return vec![MetricName {
                rank: custom.clone(),
                name: custom.clone(),
            }];
        }
        let known = |metric: IstioMetric| MetricName {
            rank: metric.rank().to_owned(),
            name: metric.name().to_owned(),
        };
        match self.metric {
            None | Some(IstioMetric::AllMetrics) => IstioMetric::ALL.map(known).into(),
            Some(metric) => vec![known(metric)],
        }
    }
}

impl TagOverride {
    /// The expression that the label's value is of; `None`: the label is removed.
    pub fn expression(&self) -> Option<&str> {
        match self.operation {
            Operation::Upsert => Some(&self.value),
            Operation::Remove => None,
        }
    }
}

pub(super) fn check_match(value: &Value) -> Result<(), Refusal> {
    if value.get("metric").is_some() && value.get("customMetric").is_some() {
        return Err(refusal(
            "",
            "only one of metric and customMetric may be given",
        ));
    }
    Ok(())
}

pub(super) fn check_tag(value: &Value) -> Result<(), Refusal> {
    let removes = value.get("operation").and_then(Value::as_str) == Some("REMOVE");
    let text = value.get("value");
    if removes && text.is_some() {
        return Err(refusal("value", "must not be set with REMOVE"));
    }
    if !removes && text.and_then(Value::as_str).is_none_or(str::is_empty) && !odd(text) {
        return Err(refusal(
            "value",
            "must be set, unless the operation is REMOVE",
        ));
    }
    Ok(())
}

/// A value of another type is the reader's affair.
fn odd(value: Option<&Value>) -> bool {
    value.is_some_and(|value| !value.is_string())
}

pub(super) fn check_interval(value: &Value) -> Result<(), Refusal> {
    let time = value.as_str().and_then(parse_duration);
    match time {
        Some(time) if time < Duration::from_millis(1) => {
            Err(refusal("", "must be a duration of 1ms at least"))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn all_metrics_are_in_istiods_order() {
        let selector: MetricSelector = serde_json::from_value(json!({})).unwrap();
        assert!(selector.is_all());
        let names = selector.names();
        assert!(names.is_sorted());
        assert_eq!(names.len(), 10);
        let one: MetricSelector =
            serde_json::from_value(json!({"metric": "TCP_SENT_BYTES"})).unwrap();
        assert!(!one.is_all());
        assert_eq!(one.names()[0].name, "tcp_sent_bytes_total");
        let own: MetricSelector = serde_json::from_value(json!({"customMetric": "x"})).unwrap();
        assert_eq!(own.names()[0].name, "x");
    }
}
