//! What is wrong with an expression, and where.

use std::fmt;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// In bytes from its begin.
    at: usize,
    reason: String,
}

impl Fault {
    pub(super) fn new(at: usize, reason: impl Into<String>) -> Fault {
        Fault {
            at,
            reason: reason.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (at {})", self.reason, self.at)
    }
}
