//! What may be left out: telemetry that isn't built, and sessions where nothing keeps any. No traffic depends on it, so the
//! rest of its chain is honoured, and what was left out is told of by name.
//!
//! Everything else that isn't built closes the chain it stands in, or leaves it at its last good version:
//! it may decide or change traffic, whatever the configuration says of its being optional.

use std::cell::RefCell;
use std::fmt;

use crate::xds::rejected::Refusal;

/// What kind of thing was left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum OmittedKind {
    /// A sink, or a filter of one.
    AccessLog,
    /// A dimension of a standard metric.
    MetricOverride,
    /// Where spans are sent.
    Tracer,
    /// A filter that only counts.
    Statistics,
    /// Sessions that a route wants to have kept, in a chain without a filter that keeps any.
    Session,
}

impl OmittedKind {
    pub const ALL: [OmittedKind; 5] = [
        OmittedKind::AccessLog,
        OmittedKind::MetricOverride,
        OmittedKind::Tracer,
        OmittedKind::Statistics,
        OmittedKind::Session,
    ];

    /// For metric labels.
    pub fn label(self) -> &'static str {
        match self {
            OmittedKind::AccessLog => "access_log",
            OmittedKind::MetricOverride => "metric_override",
            OmittedKind::Tracer => "tracer",
            OmittedKind::Statistics => "statistics",
            OmittedKind::Session => "session",
        }
    }
}

/// One thing that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Omitted {
    pub kind: OmittedKind,
    pub refusal: Refusal,
}

impl fmt::Display for Omitted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "left out ({}): {}", self.kind.label(), self.refusal)
    }
}

/// What a compilation leaves out.
#[derive(Debug, Default)]
pub struct Omissions(RefCell<Vec<Omitted>>);

impl Omissions {
    pub fn add(&self, kind: OmittedKind, refusal: Refusal) {
        self.0.borrow_mut().push(Omitted { kind, refusal });
    }

    pub fn into_vec(self) -> Vec<Omitted> {
        self.0.into_inner()
    }
}
