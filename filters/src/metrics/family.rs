//! Families: series with the same name, by their label values.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::metrics::exposition::{Exposition, Kind};
use crate::metrics::limits::Limits;
use crate::metrics::series::Series;
use crate::metrics::table::{Key, Room, Table};

/// What a label says of series that others are counted in.
const OVERFLOW: &str = "overflow";
/// These it says as they are: where traffic went is told of all of it, and sums over who reported stay whole.
const KEPT: &[&str] = &[
    "reporter",
    "destination_service",
    "destination_service_name",
    "destination_service_namespace",
    "request_protocol",
    "response_code",
];

/// Labels whose values are written out in the code. Series that have no others are few, and stay: one that counts failures
/// once a week has to be there before.
const OF_THE_CODE: &[&str] = &[
    "action",
    "connection",
    "kind",
    "port",
    "reason",
    "result",
    "state",
    "what",
];

/// Series by label values.
pub struct Family<S> {
    name: &'static str,
    help: &'static str,
    labels: &'static [&'static str],
    limits: Limits,
    series: Table<S>,
    /// Series with other labels than the family's: a name before each value.
    named: Table<S>,
    /// How often a series was asked for that there was no room for.
    folded: AtomicU64,
}

impl<S: Series> Family<S> {
    pub(crate) fn new(
        name: &'static str,
        help: &'static str,
        labels: &'static [&'static str],
        limits: Limits,
    ) -> Family<S> {
        Family {
            name,
            help,
            labels,
            limits,
            series: Table::default(),
            named: Table::default(),
            folded: AtomicU64::new(0),
        }
    }

    /// Whether series go that nobody uses. What a gauge says stays true, however long it has been so.
    fn forgets(&self) -> bool {
        let of_code = |label| OF_THE_CODE.contains(label);
        S::KIND != Kind::Gauge && !self.labels.iter().all(of_code)
    }

    /// The series with these label values, in the order of the family's labels.
    pub fn with(&self, values: &[Arc<str>]) -> S {
        let fold = |all| {
            let pairs = self.labels.iter().zip(values);
            pairs.map(|(n, v)| folded(n, v, all)).collect()
        };
        self.get(&self.series, values, fold)
    }

    /// The series with these labels instead of the family's. Those count for themselves; how many sets of names there are
    /// is the configuration's.
    pub fn with_names(&self, names: &[Arc<str>], values: &[Arc<str>]) -> S {
        let pairs = || names.iter().zip(values);
        let key: Vec<Arc<str>> = pairs().flat_map(|(n, v)| [n.clone(), v.clone()]).collect();
        let fold = |all| {
            let folded = pairs().map(|(n, v)| [n.clone(), folded(n, v, all)]);
            folded.flatten().collect()
        };
        self.get(&self.named, &key, fold)
    }

    fn get(&self, table: &Table<S>, key: &[Arc<str>], fold: impl Fn(bool) -> Key) -> S {
        let room = Room {
            series: self.limits.max_series,
            folded: self.limits.max_folded(),
        };
        let (series, folded) = table.get(key, room, fold);
        if folded {
            self.folded.fetch_add(1, Ordering::Relaxed);
        }
        series
    }

    pub fn len(&self) -> usize {
        self.series.len() + self.named.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

fn folded(name: &str, value: &Arc<str>, all: bool) -> Arc<str> {
    match !all && KEPT.contains(&name) {
        true => value.clone(),
        false => OVERFLOW.into(),
    }
}

/// A family, whatever its series are.
pub(crate) trait AnyFamily: std::any::Any + Send + Sync {
    fn name(&self) -> &'static str;
    fn series(&self) -> usize;
    fn folded(&self) -> u64;
    /// Whether it may have no room some time: its labels say what isn't the code's.
    fn folds(&self) -> bool;
    fn expire(&self, now: Instant, idle: Duration);
    fn tell(&self, out: &mut dyn Exposition) -> io::Result<()>;
    fn reset(&self);
}

impl<S: Series> AnyFamily for Family<S> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn series(&self) -> usize {
        self.len()
    }

    fn folded(&self) -> u64 {
        self.folded.load(Ordering::Relaxed)
    }

    fn folds(&self) -> bool {
        self.folded() > 0 || !self.labels.iter().all(|label| OF_THE_CODE.contains(label))
    }

    fn expire(&self, now: Instant, idle: Duration) {
        if !self.forgets() {
            return;
        }
        self.series.expire(now, idle);
        self.named.expire(now, idle);
    }

    fn reset(&self) {
        for entry in self.series.all().iter().chain(&self.named.all()) {
            entry.series.reset();
        }
    }

    fn tell(&self, out: &mut dyn Exposition) -> io::Result<()> {
        let (series, named) = (self.series.all(), self.named.all());
        if series.is_empty() && named.is_empty() {
            return Ok(());
        }
        out.family(self.name, self.help, S::KIND)?;
        for entry in series {
            let pairs = self.labels.iter().zip(&*entry.key);
            let labels: Vec<_> = pairs.map(|(name, value)| (*name, &**value)).collect();
            out.series(&labels, &entry.series.sample())?;
        }
        for entry in named {
            let pairs = entry.key.chunks_exact(2).filter_map(|both| match both {
                [name, value] => Some((&**name, &**value)),
                _ => None,
            });
            out.series(&pairs.collect::<Vec<_>>(), &entry.series.sample())?;
        }
        Ok(())
    }
}
