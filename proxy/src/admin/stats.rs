//! `/stats`: numbers by Envoy's names, and our own metrics with their labels in the name; and all of them as Prometheus'
//! text.
//!
//! Istio's readiness probe reads four of them as lines of text: what they say has to be so. Numbers of
//! updates count whole responses; one of which a part was refused counts as refused.

use std::io::{self, Write};

use http::StatusCode;
use regex::Regex;
use serde_json::{Value, json};
use waypoint_filters::metrics::exposition::{Distribution, Exposition, Kind, Labels, Sample};
use waypoint_filters::metrics::{Format, TextWriter};
use waypoint_filters::security::rbac::counters::RBAC_TOTAL;

use crate::admin::Admin;
use crate::admin::answer::{self, Answer, text};
use crate::admin::quantiles::{QUANTILES, quantiles};
use crate::admin::target::Target;

/// One number, or several that belong together.
#[derive(Clone, Debug, PartialEq)]
struct Stat {
    name: String,
    kind: Kind,
    sample: Sample,
}

impl Stat {
    /// A counter that never counted isn't in use; a gauge is.
    fn is_used(&self) -> bool {
        match &self.sample {
            Sample::Whole(value) => *value > 0 || self.kind == Kind::Gauge,
            Sample::Real(_) => true,
            Sample::Histogram(distribution) => distribution.count > 0,
        }
    }
}

/// What is asked for.
struct Asked {
    filter: Option<Regex>,
    used_only: bool,
    /// `None`: all kinds.
    kind: Option<Kind>,
    buckets: Buckets,
}

/// How a histogram is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Buckets {
    Quantiles,
    Cumulative,
    Disjoint,
}

impl Asked {
    fn parse(target: &Target) -> Result<Asked, String> {
        let filter = target.get("filter").map(Regex::new).transpose();
        let kind = match target.get("type") {
            None | Some("All") => None,
            Some("Counters") => Some(Kind::Counter),
            Some("Gauges") => Some(Kind::Gauge),
            Some("Histograms") => Some(Kind::Histogram),
            Some(other) => {
                return Err(format!(
                    "type {other}: not Counters, Gauges, Histograms or All"
                ));
            }
        };
        Ok(Asked {
            filter: filter.map_err(|error| format!("filter: {error}"))?,
            used_only: target.is_on("usedonly"),
            kind,
            buckets: match target.get("histogram_buckets") {
                None | Some("none" | "summary") => Buckets::Quantiles,
                Some("cumulative") => Buckets::Cumulative,
                Some("disjoint") => Buckets::Disjoint,
                Some(other) => {
                    return Err(format!(
                        "histogram_buckets {other}: not cumulative, disjoint, summary or none"
                    ));
                }
            },
        })
    }

    fn wants(&self, stat: &Stat) -> bool {
        (!self.used_only || stat.is_used())
            && self.kind.is_none_or(|kind| kind == stat.kind)
            && self.matches(&stat.name)
    }

    fn matches(&self, name: &str) -> bool {
        self.filter.as_ref().is_none_or(|f| f.is_match(name))
    }
}

impl Admin {
    pub(super) fn stats(&self, target: &Target) -> Answer {
        if target.get("format") == Some("prometheus") {
            return self.prometheus(target);
        }
        let asked = match Asked::parse(target) {
            Ok(asked) => asked,
            Err(reason) => return text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
        };
        let numbers = self.envoy.numbers(true).into_iter();
        let mut list = List {
            stats: numbers
                .map(|number| Stat {
                    name: number.dotted(),
                    kind: number.kind,
                    sample: Sample::Whole(number.value),
                })
                .collect(),
            ..List::default()
        };
        // Listing doesn't fail.
        let _ = self.metrics.tell(&mut list);
        let mut stats = list.stats;
        stats.retain(|stat| asked.wants(stat));
        // Histograms come last, as in Envoy.
        stats.sort_by(|a, b| {
            let last = |stat: &Stat| stat.kind == Kind::Histogram;
            last(a).cmp(&last(b)).then_with(|| a.name.cmp(&b.name))
        });
        if target.get("format") == Some("json") {
            return answer::json(&as_json(&stats));
        }
        let lines = stats.iter().map(|stat| line(stat, asked.buckets));
        text(StatusCode::OK, lines.collect::<String>())
    }

    /// Prometheus' text, or OpenMetrics where that is asked for; written while it is made.
    pub(super) fn prometheus(&self, target: &Target) -> Answer {
        let asked = match Asked::parse(target) {
            Ok(asked) => asked,
            Err(reason) => return text(StatusCode::BAD_REQUEST, format!("{reason}\n")),
        };
        let format = match target.wants().open_metrics {
            true => Format::OpenMetrics,
            false => Format::Prometheus,
        };
        let metrics = self.metrics.clone();
        let write = move |out: &mut dyn Write| {
            let mut writer = TextWriter::new(out, format);
            if asked.filter.is_none() && !asked.used_only {
                metrics.tell(&mut writer)?;
            } else {
                metrics.tell(&mut Filtered::new(&mut writer, &asked))?;
            }
            writer.finish().map(drop)
        };
        let (kind, gzip) = (format.content_type(), target.wants().gzip);
        answer::stream(kind, gzip, Some(self.large.clone()), write)
    }
}

/// Keeps what is told. Envoy's numbers are told by their own names, so those for Prometheus are left out.
#[derive(Default)]
struct List {
    stats: Vec<Stat>,
    family: String,
    kind: Option<Kind>,
}

impl Exposition for List {
    fn family(&mut self, name: &str, _help: &str, kind: Kind) -> io::Result<()> {
        name.clone_into(&mut self.family);
        self.kind = (!name.starts_with("envoy_")).then_some(kind);
        Ok(())
    }

    fn series(&mut self, labels: &Labels<'_>, sample: &Sample) -> io::Result<()> {
        if let Some(kind) = self.kind {
            self.stats.push(Stat {
                name: dotted(&self.family, labels),
                kind,
                sample: sample.clone(),
            });
        }
        Ok(())
    }
}

/// `name{label="value"}` as `name.label.value`, or as Envoy names it.
fn dotted(family: &str, labels: &Labels<'_>) -> String {
    if family == RBAC_TOTAL
        && let Some(name) = of_rbac(labels)
    {
        return name;
    }
    let mut name = family.to_owned();
    for (label, value) in labels {
        name.extend([".", label, ".", value]);
    }
    name
}

/// Envoy's name of what an RBAC filter counts.
fn of_rbac(labels: &Labels<'_>) -> Option<String> {
    let label = |name: &str| {
        let found = labels.iter().find(|(label, _)| *label == name)?;
        Some(found.1)
    };
    let (prefix, result) = (label("stat_prefix")?, label("result")?);
    Some(match label("filter")? {
        "http" => format!("http.{prefix}.rbac.{result}"),
        _ => format!("{prefix}rbac.{result}"),
    })
}

/// Hands on what is asked for. A family is told with its first series that is.
struct Filtered<'a> {
    out: &'a mut dyn Exposition,
    asked: &'a Asked,
    family: String,
    help: String,
    kind: Kind,
    told: bool,
}

impl<'a> Filtered<'a> {
    fn new(out: &'a mut dyn Exposition, asked: &'a Asked) -> Filtered<'a> {
        Filtered {
            out,
            asked,
            family: String::new(),
            help: String::new(),
            kind: Kind::Gauge,
            told: false,
        }
    }
}

impl Exposition for Filtered<'_> {
    fn family(&mut self, name: &str, help: &str, kind: Kind) -> io::Result<()> {
        name.clone_into(&mut self.family);
        help.clone_into(&mut self.help);
        (self.kind, self.told) = (kind, false);
        Ok(())
    }

    fn series(&mut self, labels: &Labels<'_>, sample: &Sample) -> io::Result<()> {
        let stat = Stat {
            name: dotted(&self.family, labels),
            kind: self.kind,
            sample: sample.clone(),
        };
        if !self.asked.wants(&stat) {
            return Ok(());
        }
        if !std::mem::replace(&mut self.told, true) {
            self.out.family(&self.family, &self.help, self.kind)?;
        }
        self.out.series(labels, sample)
    }
}

fn line(stat: &Stat, buckets: Buckets) -> String {
    let name = &stat.name;
    match &stat.sample {
        Sample::Whole(value) => format!("{name}: {value}\n"),
        Sample::Real(value) => format!("{name}: {value}\n"),
        Sample::Histogram(distribution) => {
            format!("{name}: {}\n", histogram(distribution, buckets))
        }
    }
}

/// Envoy writes what came in the last interval, and all of it; here there are no intervals.
fn histogram(distribution: &Distribution, buckets: Buckets) -> String {
    if buckets == Buckets::Quantiles {
        let Some(values) = quantiles(distribution) else {
            return "No recorded values".to_owned();
        };
        let values = QUANTILES.iter().zip(values);
        let told: Vec<String> = values
            .map(|(quantile, value)| format!("P{quantile}(nan,{value})"))
            .collect();
        return told.join(" ");
    }
    let mut before = 0;
    let told: Vec<String> = distribution
        .buckets
        .iter()
        .map(|(bound, count)| {
            let below = match buckets {
                Buckets::Disjoint => before,
                _ => 0,
            };
            before = *count;
            format!("B{bound}(0,{})", count - below)
        })
        .collect();
    told.join(" ")
}

fn as_json(stats: &[Stat]) -> Value {
    let mut list = Vec::new();
    let mut histograms = Vec::new();
    for Stat { name, sample, .. } in stats {
        match sample {
            Sample::Whole(value) => list.push(json!({"name": name, "value": value})),
            Sample::Real(value) => list.push(json!({"name": name, "value": value})),
            Sample::Histogram(distribution) => {
                let values = quantiles(distribution);
                let value = |at: usize| values.and_then(|values| values.get(at).copied());
                let values: Vec<Value> = (0..QUANTILES.len())
                    .map(|at| json!({"interval": null, "cumulative": value(at)}))
                    .collect();
                histograms.push(json!({"name": name, "values": values}));
            }
        }
    }
    if !histograms.is_empty() {
        list.push(json!({"histograms": {
            "supported_quantiles": QUANTILES,
            "computed_quantiles": histograms,
        }}));
    }
    json!({"stats": list})
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn asked(uri: &str) -> Result<Asked, String> {
        Asked::parse(&Target::new(&uri.parse().unwrap()))
    }

    fn stat(name: &str, kind: Kind, value: u64) -> Stat {
        Stat {
            name: name.to_owned(),
            kind,
            sample: Sample::Whole(value),
        }
    }

    #[test]
    fn what_is_asked_for() {
        let all = asked("/stats").unwrap();
        assert!(all.wants(&stat("a", Kind::Counter, 0)));
        let used = asked("/stats?usedonly&filter=%5Ea").unwrap();
        assert!(!used.wants(&stat("a", Kind::Counter, 0)));
        assert!(used.wants(&stat("a", Kind::Gauge, 0)) && used.wants(&stat("a", Kind::Counter, 1)));
        assert!(!used.wants(&stat("b", Kind::Gauge, 1)));
        let gauges = asked("/stats?type=Gauges").unwrap();
        assert!(!gauges.wants(&stat("a", Kind::Counter, 1)));
        for bad in ["filter=(", "type=Gauge", "histogram_buckets=all"] {
            assert!(asked(&format!("/stats?{bad}")).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_filter_keeps_families_whole_and_leaves_empty_ones_out() {
        let asked = asked("/stats/prometheus?filter=x.1").unwrap();
        let mut writer = TextWriter::new(Vec::new(), Format::Prometheus);
        let mut filtered = Filtered::new(&mut writer, &asked);
        for family in ["a", "b"] {
            filtered.family(family, "-", Kind::Gauge).unwrap();
            for value in ["0", family] {
                let labels = [("x", if value == "a" { "1" } else { value })];
                filtered.series(&labels, &Sample::Whole(7)).unwrap();
            }
        }
        let text = String::from_utf8(writer.finish().unwrap()).unwrap();
        assert_eq!(text, "# HELP a -\n# TYPE a gauge\na{x=\"1\"} 7\n");
    }

    #[test]
    fn what_rbac_filters_count_has_envoys_names() {
        let rbac = |filter: &str, prefix: &str| {
            let labels = [
                ("filter", filter),
                ("result", "denied"),
                ("stat_prefix", prefix),
            ];
            dotted(RBAC_TOTAL, &labels)
        };
        assert_eq!(rbac("http", "in_80;"), "http.in_80;.rbac.denied");
        assert_eq!(rbac("network", "tcp."), "tcp.rbac.denied");
        assert_eq!(dotted("a_total", &[("x", "1")]), "a_total.x.1");
    }

    #[test]
    fn histograms_in_envoys_forms() {
        let distribution = Distribution {
            buckets: vec![(1.0, 0), (5.0, 4), (10.0, 4)],
            count: 4,
            sum: 12.0,
            exemplars: Vec::new(),
        };
        let told = |buckets| histogram(&distribution, buckets);
        assert_eq!(told(Buckets::Cumulative), "B1(0,0) B5(0,4) B10(0,4)");
        assert_eq!(told(Buckets::Disjoint), "B1(0,0) B5(0,4) B10(0,0)");
        let quantiles = told(Buckets::Quantiles);
        assert!(
            quantiles.starts_with("P0(nan,1) P25(nan,2) P50(nan,3) "),
            "{quantiles}"
        );
        let stats = [
            stat("a", Kind::Counter, u64::MAX),
            Stat {
                name: "h".to_owned(),
                kind: Kind::Histogram,
                sample: Sample::Histogram(distribution),
            },
        ];
        let json = as_json(&stats);
        assert_eq!(json["stats"][0], json!({"name": "a", "value": u64::MAX}));
        let histograms = &json["stats"][1]["histograms"];
        assert_eq!(histograms["supported_quantiles"][3], json!(75.0));
        let values = &histograms["computed_quantiles"][0]["values"];
        assert_eq!(values[1], json!({"interval": null, "cumulative": 2.0}));
    }
}
