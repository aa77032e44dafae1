//! How often the rules of a filter matched, for those who look: since their configuration is in force.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::security::rbac::action::Action;
use crate::stream::explanation::Purpose;

/// The numbers of one set of rules.
#[derive(Debug)]
pub struct Tally {
    pub action: Action,
    /// In the order in which they are tried.
    pub rules: Box<[RuleTally]>,
    unmatched: AtomicU64,
}

/// How often one rule matched.
#[derive(Debug)]
pub struct RuleTally {
    /// As istiod names it ([`RuleName`](crate::security::rbac::denial::RuleName)).
    pub name: Arc<str>,
    matched: AtomicU64,
}

/// A set of rules in a chain, with its numbers.
#[derive(Clone, Debug)]
pub struct TalliedRules {
    pub purpose: Purpose,
    pub tally: Arc<Tally>,
}

impl Tally {
    pub(crate) fn new(action: Action, names: impl Iterator<Item = Arc<str>>) -> Tally {
        let rules = names.map(|name| RuleTally {
            name,
            matched: AtomicU64::new(0),
        });
        Tally {
            action,
            rules: rules.collect(),
            unmatched: AtomicU64::new(0),
        }
    }

    /// Counts a decision: by the rule at this place, or by none.
    pub(crate) fn count(&self, rule: Option<usize>) {
        let counter = match rule {
            Some(rule) => self.rules.get(rule).map(|rule| &rule.matched),
            None => Some(&self.unmatched),
        };
        if let Some(counter) = counter {
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests and TCP streams that no rule matched.
    pub fn unmatched(&self) -> u64 {
        self.unmatched.load(Ordering::Relaxed)
    }
}

impl RuleTally {
    pub fn matched(&self) -> u64 {
        self.matched.load(Ordering::Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_decision_counts_for_one_rule_or_for_none() {
        let tally = Tally::new(Action::Allow, ["a", "b"].into_iter().map(Arc::from));
        for rule in [Some(1), None, Some(1), Some(7)] {
            tally.count(rule);
        }
        let matched: Vec<u64> = tally.rules.iter().map(RuleTally::matched).collect();
        assert_eq!((matched, tally.unmatched()), (vec![0, 2], 1));
    }
}
