//! How metrics are told: family by family, series by series, to whoever writes them down.

use std::io;
use std::time::SystemTime;

/// What a family's numbers are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// What a series says.
#[derive(Clone, Debug, PartialEq)]
pub enum Sample {
    Whole(u64),
    Real(f64),
    Histogram(Distribution),
}

/// A histogram as it stood when it was asked.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    /// Upper bounds with how many were at or below; not those above all bounds.
    pub buckets: Vec<(f64, u64)>,
    pub count: u64,
    pub sum: f64,
    /// By bucket, the one above all bounds last; sorted.
    pub exemplars: Vec<(usize, Exemplar)>,
}

/// One value that somebody can look up: the trace in which it came about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Exemplar {
    pub trace_id: u128,
    pub value: f64,
    pub at: SystemTime,
}

/// Label names and values.
pub type Labels<'a> = [(&'a str, &'a str)];

/// Writes metrics down.
pub trait Exposition {
    /// A family begins; its series follow.
    ///
    /// # Errors
    /// Whoever reads is gone, as below.
    fn family(&mut self, name: &str, help: &str, kind: Kind) -> io::Result<()>;

    /// A series of the family that began last.
    ///
    /// # Errors
    /// As above.
    fn series(&mut self, labels: &Labels<'_>, sample: &Sample) -> io::Result<()>;
}

/// What knows its numbers only when it is asked.
pub trait Collector: Send + Sync {
    /// # Errors
    /// Those of `out`.
    fn collect(&self, out: &mut dyn Exposition) -> io::Result<()>;
}

impl<F: Fn(&mut dyn Exposition) -> io::Result<()> + Send + Sync> Collector for F {
    fn collect(&self, out: &mut dyn Exposition) -> io::Result<()> {
        self(out)
    }
}
