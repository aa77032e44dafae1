//! The stream to istiod, in numbers: whether it is there, how often it came about, ended, or didn't come about.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Clones are the same one.
#[derive(Clone, Default)]
pub(crate) struct Link {
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    is_up: AtomicBool,
    opened: AtomicU64,
    ended: AtomicU64,
    failed: AtomicU64,
}

/// What it says at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LinkNumbers {
    pub(crate) is_up: bool,
    pub(crate) opened: u64,
    /// Of those that were opened.
    pub(crate) ended: u64,
    /// Attempts that came to nothing.
    pub(crate) failed: u64,
}

impl Link {
    /// A stream began.
    pub(super) fn opened(&self) {
        self.state.is_up.store(true, Ordering::Relaxed);
        self.state.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// It ended, or there was none to be had.
    pub(super) fn ended(&self) {
        match self.state.is_up.swap(false, Ordering::Relaxed) {
            true => &self.state.ended,
            false => &self.state.failed,
        }
        .fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn numbers(&self) -> LinkNumbers {
        LinkNumbers {
            is_up: self.state.is_up.load(Ordering::Relaxed),
            opened: self.state.opened.load(Ordering::Relaxed),
            ended: self.state.ended.load(Ordering::Relaxed),
            failed: self.state.failed.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_a_failure_where_nothing_had_begun() {
        let link = Link::default();
        link.ended();
        link.opened();
        assert!(link.numbers().is_up);
        link.ended();
        link.ended();
        let numbers = LinkNumbers {
            is_up: false,
            opened: 1,
            ended: 1,
            failed: 2,
        };
        assert_eq!(link.numbers(), numbers);
    }
}
