//! Families: series by their label values.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use prometheus::core::Desc;
use prometheus::proto::{LabelPair, Metric, MetricFamily};

use crate::metrics::series::Series;

/// Series of one family.
pub const MAX_SERIES: usize = 20_000;

/// Series by label values.
pub struct Family<S> {
    pub(crate) desc: Desc,
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    series: Mutex<Table<S>>,
}

type Table<S> = HashMap<Box<[Arc<str>]>, Entry<S>>;

struct Entry<S> {
    series: S,
    mark: u64,
    /// When the mark was last seen to change; `None` until the first sweep.
    since: Option<Instant>,
}

impl<S: Series> Family<S> {
    pub(crate) fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
    ) -> Family<S> {
        let names = labels.iter().map(|label| (*label).to_owned()).collect();
        let desc = Desc::new(name.to_owned(), help.to_owned(), names, HashMap::new());
        Family {
            // Names are literals of ours; `unnamed` stands for one that is no metric name.
            desc: desc.unwrap_or_else(|_| fallback_desc()),
            name,
            help,
            labels,
            series: Mutex::default(),
        }
    }

    /// The series with these label values, in the order of the family's labels.
    pub fn with(&self, values: &[Arc<str>]) -> S {
        let mut all = self.series.lock();
        if let Some(entry) = all.get(values) {
            return entry.series.clone();
        }
        let key: Box<[Arc<str>]> = if all.len() >= MAX_SERIES {
            let overflow: Arc<str> = "overflow".into();
            self.labels.iter().map(|_| overflow.clone()).collect()
        } else {
            values.into()
        };
        let entry = all.entry(key).or_insert_with(|| Entry {
            series: S::default(),
            mark: 0,
            since: None,
        });
        entry.series.clone()
    }

    pub fn len(&self) -> usize {
        self.series.lock().len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn expire(&self, now: Instant, idle: Duration) {
        self.series.lock().retain(|_, entry| {
            let mark = entry.series.mark();
            if entry.series.held() || entry.mark != mark || entry.since.is_none() {
                entry.mark = mark;
                entry.since = Some(now);
                return true;
            }
            entry
                .since
                .is_some_and(|since| now.saturating_duration_since(since) < idle)
        });
    }

    pub(crate) fn collect(&self) -> Vec<MetricFamily> {
        let metrics: Vec<Metric> = self
            .series
            .lock()
            .iter()
            .map(|(values, entry)| {
                let mut metric = entry.series.metric();
                metric.set_label(self.label_pairs(values));
                metric
            })
            .collect();
        let mut family = MetricFamily::default();
        family.set_name(self.name.to_owned());
        family.set_help(self.help.to_owned());
        family.set_field_type(S::TYPE);
        family.set_metric(metrics);
        vec![family]
    }

    fn label_pairs(&self, values: &[Arc<str>]) -> Vec<LabelPair> {
        self.labels
            .iter()
            .zip(values)
            .map(|(name, value)| {
                let mut pair = LabelPair::default();
                pair.set_name((*name).to_owned());
                pair.set_value(value.to_string());
                pair
            })
            .collect()
    }
}

#[allow(clippy::expect_used)]
fn fallback_desc() -> Desc {
    Desc::new(
        "unnamed".to_owned(),
        "-".to_owned(),
        Vec::new(),
        HashMap::new(),
    )
    .expect("a valid name and help")
}
