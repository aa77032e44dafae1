//! What Telemetry changes of Istio's metrics: metrics that are off, labels that are removed, added, or have another value.
//!
//! A value is an expression, evaluated when a stream has ended; where it has none the label says `unknown`, as Istio's do. What
//! can't be honoured is told of, and its label says that as well. Values are bounded in length; how many there are is
//! bounded by the family of series (`metrics/family.rs`).

use std::sync::Arc;

use crate::cel::Expression;
use crate::format::FormatContext;
use crate::record::istio_labels::{HTTP_LABELS, TCP_LABELS};
use crate::stream::stream_info::Capture;
use crate::xds::omitted::{Omissions, OmittedKind};
use crate::xds::proto::StatsMetricConfig;
use crate::xds::rejected::Refusal;

/// Istio's standard metrics, as overrides name them: of requests, and of TCP streams.
const HTTP_METRICS: [&str; 6] = [
    "requests_total",
    "request_duration_milliseconds",
    "request_bytes",
    "response_bytes",
    "request_messages_total",
    "response_messages_total",
];
const TCP_METRICS: [&str; 4] = [
    "tcp_connections_opened_total",
    "tcp_connections_closed_total",
    "tcp_received_bytes_total",
    "tcp_sent_bytes_total",
];

/// Labels of one metric, and expressions of one configuration.
const MAX_LABELS: usize = 64;
/// Bytes of a value.
const MAX_VALUE: usize = 256;

#[derive(Debug, Default)]
pub(super) struct Overrides {
    expressions: Vec<(String, Expression)>,
    dropped: Vec<&'static str>,
    labels: Vec<(&'static str, Labels)>,
}

/// The labels of one metric whose labels aren't the standard ones.
#[derive(Clone, Debug)]
pub(super) struct Labels {
    pub(super) names: Arc<[Arc<str>]>,
    sources: Vec<Source>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// The standard label with this index.
    Standard(usize),
    Expression(usize),
    Unknown,
}

/// Labels while they are put together.
type Draft = Vec<(Arc<str>, Source)>;

impl Overrides {
    /// What can't be honoured goes to `omissions`.
    pub(super) fn from_proto(metrics: &[StatsMetricConfig], omissions: &Omissions) -> Overrides {
        let mut overrides = Overrides::default();
        let mut drafts: Vec<(&'static str, Draft)> = Vec::new();
        for (i, metric) in metrics.iter().enumerate() {
            let mut tell = |field: &str, reason: String| {
                let refusal = Refusal::new(field, reason).within(format!("metrics[{i}]"));
                omissions.add(OmittedKind::MetricOverride, refusal);
            };
            let named: Vec<&'static str> = HTTP_METRICS
                .into_iter()
                .chain(TCP_METRICS)
                .filter(|known| metric.name.is_empty() || metric.name == *known)
                .collect();
            if named.is_empty() {
                tell("name", format!("{} is no metric of Istio's", metric.name));
            }
            if !metric.r#match.is_empty() {
                tell("match", "is not supported".to_owned());
            }
            if metric.drop {
                overrides.dropped.extend(named);
                continue;
            }
            if metric.tags_to_remove.is_empty() && metric.dimensions.is_empty() {
                continue;
            }
            let added = overrides.dimensions(metric, &mut tell);
            for tag in &metric.tags_to_remove {
                if !HTTP_LABELS.contains(&tag.as_str()) {
                    tell("tags_to_remove", format!("{tag} is no standard label"));
                }
            }
            for name in named {
                let at = drafts.iter().position(|(known, _)| *known == name);
                let at = at.unwrap_or_else(|| {
                    drafts.push((name, standard(name)));
                    drafts.len() - 1
                });
                if let Some((_, draft)) = drafts.get_mut(at) {
                    change(name, draft, &metric.tags_to_remove, &added);
                }
            }
        }
        let labels = drafts.into_iter().map(|(name, draft)| {
            let (names, sources): (Vec<_>, Vec<_>) = draft.into_iter().unzip();
            let names = names.into();
            (name, Labels { names, sources })
        });
        overrides.labels = labels.collect();
        overrides
    }

    /// The labels that a metric's entry sets, in the order of their names.
    fn dimensions(
        &mut self,
        metric: &StatsMetricConfig,
        tell: &mut dyn FnMut(&str, String),
    ) -> Draft {
        let mut all: Vec<_> = metric.dimensions.iter().collect();
        all.sort();
        let mut added = Draft::new();
        for (name, text) in all {
            let field = format!("dimensions[{name:?}]");
            if !is_label(name) || added.len() >= MAX_LABELS {
                tell(&field, "is no name for a label, or one too many".to_owned());
                continue;
            }
            let known = self.expressions.iter().position(|(known, _)| known == text);
            let source = match known {
                Some(at) => Source::Expression(at),
                None if self.expressions.len() >= MAX_LABELS => {
                    tell(&field, format!("more than {MAX_LABELS} expressions"));
                    Source::Unknown
                }
                None => match Expression::parse(text) {
                    Ok(expression) => {
                        self.expressions.push((text.clone(), expression));
                        Source::Expression(self.expressions.len() - 1)
                    }
                    Err(refusal) => {
                        tell(&field, refusal.to_string());
                        Source::Unknown
                    }
                },
            };
            added.push((name.as_str().into(), source));
        }
        added
    }

    pub(super) fn is_dropped(&self, metric: &str) -> bool {
        self.dropped.contains(&metric)
    }

    /// `None`: the standard ones.
    pub(super) fn labels(&self, metric: &str) -> Option<&Labels> {
        let found = self.labels.iter().find(|(name, _)| *name == metric);
        found.map(|(_, labels)| labels)
    }

    pub(super) fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        for (_, expression) in &self.expressions {
            expression.capture(&mut capture);
        }
        capture
    }

    /// Appends what the expressions say of a stream, in their order, each with its length before it; nothing where there are
    /// none.
    pub(super) fn say(&self, context: &FormatContext<'_>, said: &mut Vec<u8>) {
        for (_, expression) in &self.expressions {
            let length = said.len();
            said.extend_from_slice(&[0; 2]);
            let start = said.len();
            if !expression.write(context, said) {
                said.truncate(start);
                said.extend_from_slice(b"unknown");
            }
            said.truncate(start + MAX_VALUE);
            let bytes = u16::try_from(said.len() - start).unwrap_or(u16::MAX);
            if let Some(place) = said.get_mut(length..start) {
                place.copy_from_slice(&bytes.to_le_bytes());
            }
        }
    }

    /// What was said, as the values of labels.
    pub(super) fn told(mut said: &[u8]) -> Vec<Arc<str>> {
        let mut told = Vec::new();
        while let Some((length, rest)) = said.split_first_chunk() {
            let Some((value, rest)) = rest.split_at_checked(u16::from_le_bytes(*length).into())
            else {
                break;
            };
            told.push(String::from_utf8_lossy(value).into());
            said = rest;
        }
        told
    }
}

impl Labels {
    /// Values in the order of the names.
    pub(super) fn values(&self, standard: &[Arc<str>], expressions: &[Arc<str>]) -> Vec<Arc<str>> {
        let value = |source: &Source| {
            let found = match source {
                Source::Standard(at) => standard.get(*at),
                Source::Expression(at) => expressions.get(*at),
                Source::Unknown => None,
            };
            found.cloned().unwrap_or_else(|| "unknown".into())
        };
        self.sources.iter().map(value).collect()
    }
}

fn labels_of(metric: &str) -> &'static [&'static str] {
    match TCP_METRICS.contains(&metric) {
        true => TCP_LABELS,
        false => HTTP_LABELS,
    }
}

fn standard(metric: &str) -> Draft {
    let labels = labels_of(metric).iter().enumerate();
    labels
        .map(|(at, label)| ((*label).into(), Source::Standard(at)))
        .collect()
}

/// A standard label that the metric doesn't have anyway is neither removed nor set, as in Istio.
fn change(metric: &str, draft: &mut Draft, removed: &[String], added: &Draft) {
    draft.retain(|(name, _)| !removed.iter().any(|removed| **removed == **name));
    for (name, source) in added {
        let is_standard = HTTP_LABELS.contains(&&**name);
        if is_standard && !labels_of(metric).contains(&&**name) {
            continue;
        }
        if let Some((_, old)) = draft.iter_mut().find(|(known, _)| known == name) {
            *old = *source;
        } else if draft.len() < MAX_LABELS {
            draft.push((name.clone(), *source));
        }
    }
}

/// What Prometheus takes; names that begin with `__` are its own, and `le` is its histograms'.
fn is_label(name: &str) -> bool {
    let mut bytes = name.bytes();
    let begins = bytes
        .next()
        .is_some_and(|c| c.is_ascii_alphabetic() || c == b'_');
    begins
        && bytes.all(|c| c.is_ascii_alphanumeric() || c == b'_')
        && !name.starts_with("__")
        && name != "le"
        && name.len() <= MAX_VALUE
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn metric(name: &str, dimensions: &[(&str, &str)], removed: &[&str]) -> StatsMetricConfig {
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        StatsMetricConfig {
            name: name.into(),
            dimensions: dimensions.iter().map(owned).collect::<HashMap<_, _>>(),
            tags_to_remove: removed.iter().map(|tag| (*tag).to_owned()).collect(),
            ..StatsMetricConfig::default()
        }
    }

    fn built(metrics: &[StatsMetricConfig]) -> (Overrides, Vec<String>) {
        let omissions = Omissions::default();
        let overrides = Overrides::from_proto(metrics, &omissions);
        let told = omissions.into_vec();
        (overrides, told.iter().map(ToString::to_string).collect())
    }

    fn names(overrides: &Overrides, metric: &str) -> Vec<String> {
        let labels = overrides.labels(metric).unwrap();
        labels.names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn labels_are_removed_added_and_changed() {
        let (overrides, told) = built(&[metric(
            "requests_total",
            &[("method", "request.method"), ("reporter", "'me'")],
            &["source_app"],
        )]);
        assert!(told.is_empty(), "{told:?}");
        let found = names(&overrides, "requests_total");
        assert_eq!(found.len(), HTTP_LABELS.len());
        assert!(!found.contains(&"source_app".to_owned()));
        assert_eq!(found.first().unwrap(), "reporter");
        assert_eq!(found.last().unwrap(), "method");
        assert!(overrides.labels("request_bytes").is_none());
        assert!(overrides.capture().request_line);
        let standard: Vec<Arc<str>> = HTTP_LABELS.iter().map(|label| (*label).into()).collect();
        let labels = overrides.labels("requests_total").unwrap();
        let values = labels.values(&standard, &["GET".into(), "me".into()]);
        assert_eq!(values.first().unwrap().as_ref(), "me");
        assert_eq!(values.last().unwrap().as_ref(), "GET");
        assert_eq!(values[1].as_ref(), "source_workload");
    }

    #[test]
    fn no_name_means_all_and_tcp_has_its_own_labels() {
        let (overrides, told) = built(&[
            metric(
                "",
                &[("response_code", "'x'"), ("a", "'b'")],
                &["grpc_response_status"],
            ),
            StatsMetricConfig {
                name: "request_bytes".into(),
                drop: true,
                ..StatsMetricConfig::default()
            },
        ]);
        assert!(told.is_empty(), "{told:?}");
        assert_eq!(names(&overrides, "requests_total").len(), HTTP_LABELS.len());
        let tcp = names(&overrides, "tcp_sent_bytes_total");
        assert_eq!(tcp.len(), TCP_LABELS.len() + 1);
        assert!(!tcp.contains(&"response_code".to_owned()));
        assert!(overrides.is_dropped("request_bytes"));
    }

    #[test]
    fn what_is_not_honoured_is_told_of_and_says_unknown() {
        let (overrides, told) = built(&[
            metric(
                "requests_total",
                &[("a", "nope.b"), ("le", "'x'"), ("b-c", "'x'")],
                &["other"],
            ),
            metric("nope", &[], &[]),
        ]);
        let all = told.join("\n");
        for part in [
            "nope",
            "\"le\"",
            "b-c",
            "other is no standard label",
            "metrics[1].name",
        ] {
            assert!(all.contains(part), "{part}: {all}");
        }
        assert_eq!(told.len(), 5, "{all}");
        let labels = overrides.labels("requests_total").unwrap();
        assert_eq!(labels.values(&[], &[]).last().unwrap().as_ref(), "unknown");
        assert_eq!(labels.names.last().unwrap().as_ref(), "a");
    }
}
