//! Who denied it: by policy, namespace and rule, for logs, metrics and, where a setting asks for it, the client.
//!
//! istiod names an RBAC policy after the object and the rule that it is made of, `ns[default]-policy[viewer]-rule[0]`.
//! What no ALLOW rule takes is denied by none of them, and by all of those policies together.

use std::sync::{Arc, OnceLock};

use http::HeaderName;

use crate::metrics::{Counter, CounterFamily, MetricRegistry};
use crate::security::rbac::action::Action;
use crate::security::rbac::counters::Counters;

/// Policies that are named where several deny together.
const NAMED: usize = 5;

/// A policy's name, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RuleName<'a> {
    pub namespace: &'a str,
    pub policy: &'a str,
    pub rule: &'a str,
}

impl<'a> RuleName<'a> {
    /// `None`: istiod didn't make it of a rule.
    #[must_use]
    pub fn of(name: &'a str) -> Option<RuleName<'a>> {
        // Of a CUSTOM policy the provider's name may stand before it.
        let start = name.find("ns[")?;
        let (namespace, rest) = name.get(start + 3..)?.split_once("]-policy[")?;
        let (policy, rest) = rest.split_once("]-rule[")?;
        Some(RuleName {
            namespace,
            policy,
            rule: rest.strip_suffix(']')?,
        })
    }
}

/// What may deny: a rule, or the want of one. It is there once for all that it denies.
#[derive(Debug)]
pub struct Denier {
    action: Action,
    /// `None`: no rule of ALLOW policies took it.
    rule: Option<Arc<str>>,
    words: Arc<str>,
    /// There once it has denied something.
    counter: OnceLock<Counter>,
}

impl Denier {
    pub(crate) fn rule(action: Action, name: &Arc<str>) -> Arc<Denier> {
        Denier::new(action, Some(name.clone()), by_rule(action, name).into())
    }

    pub(crate) fn no_rule<'a>(action: Action, names: impl Iterator<Item = &'a str>) -> Arc<Denier> {
        Denier::new(action, None, by_none(action, names))
    }

    fn new(action: Action, rule: Option<Arc<str>>, words: Arc<str>) -> Arc<Denier> {
        Arc::new(Denier {
            action,
            rule,
            words,
            counter: OnceLock::new(),
        })
    }

    /// Who it is, for people.
    #[must_use]
    pub fn words(&self) -> &Arc<str> {
        &self.words
    }

    /// It has denied something.
    pub(crate) fn count(&self, denials: &Denials) {
        self.count_in(&denials.made);
    }

    /// It is of a dry run, and would have denied something.
    pub(crate) fn count_dry_run(&self, denials: &Denials) {
        self.count_in(&denials.dry_run);
    }

    /// In one family always: rules decide or are in dry run, never both.
    fn count_in(&self, family: &CounterFamily) {
        let find = || counter(family, self.action, self.rule.as_deref());
        self.counter.get_or_init(find).add(1);
    }
}

/// What is told where a rule denies: `DENY default/deny rule 0`.
fn by_rule(action: Action, name: &str) -> String {
    let action = action.name();
    match RuleName::of(name) {
        Some(RuleName {
            namespace,
            policy,
            rule,
        }) => format!("{action} {namespace}/{policy} rule {rule}"),
        None => format!("{action} {name}"),
    }
}

/// What is told where no rule matches: `ALLOW default/viewer, default/editor`.
fn by_none<'a>(action: Action, names: impl Iterator<Item = &'a str>) -> Arc<str> {
    let mut policies: Vec<String> = Vec::new();
    for name in names {
        let policy = match RuleName::of(name) {
            Some(name) => format!("{}/{}", name.namespace, name.policy),
            None => name.to_owned(),
        };
        if !policies.contains(&policy) {
            policies.push(policy);
        }
    }
    let more = policies.len().saturating_sub(NAMED);
    policies.truncate(NAMED);
    let named = match (policies.join(", "), more) {
        (none, _) if none.is_empty() => "without a rule".to_owned(),
        (named, 0) => named,
        (named, more) => format!("{named} and {more} more"),
    };
    format!("{} {named}", action.name()).into()
}

/// Where denials are counted, also those that a dry run only would have made, and told to clients.
#[derive(Clone)]
pub(crate) struct Denials {
    made: Arc<CounterFamily>,
    dry_run: Arc<CounterFamily>,
    /// What the filter decided, by result.
    pub(crate) counters: Counters,
    pub(crate) header: Option<HeaderName>,
}

impl Denials {
    /// `header`: how clients are told, if they are.
    pub(crate) fn counted_in(
        metrics: &MetricRegistry,
        counters: Counters,
        header: Option<HeaderName>,
    ) -> Denials {
        Denials {
            made: made(metrics),
            dry_run: dry_run(metrics),
            counters,
            header,
        }
    }
}

/// The counter of a rule in this family; `None`: that of no rule.
fn counter(family: &CounterFamily, action: Action, name: Option<&str>) -> Counter {
    let name = name.unwrap_or_default();
    let RuleName {
        namespace,
        policy,
        rule,
    } = RuleName::of(name).unwrap_or(RuleName {
        namespace: "",
        policy: name,
        rule: "",
    });
    let labels = [action.name(), namespace, policy, rule];
    family.with(&labels.map(Arc::from))
}

const LABELS: &[&str] = &["action", "policy_namespace", "policy", "rule"];

fn made(metrics: &MetricRegistry) -> Arc<CounterFamily> {
    metrics.counters(
        "waypoint_policy_denials_total",
        "Requests and TCP streams that a policy denied, by the rule that did; without one: no rule of ALLOW policies took it.",
        LABELS,
    )
}

fn dry_run(metrics: &MetricRegistry) -> Arc<CounterFamily> {
    metrics.counters(
        "waypoint_policy_dry_run_denials_total",
        "Requests and TCP streams that a policy in dry run would have denied, by the rule that would; without one: no rule of \
         ALLOW policies in dry run took it.",
        LABELS,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_named_as_people_know_them() {
        let name = |policy: &str, rule| format!("ns[default]-policy[{policy}]-rule[{rule}]");
        assert_eq!(
            by_rule(Action::Deny, &name("deny", 3)),
            "DENY default/deny rule 3"
        );
        assert_eq!(by_rule(Action::Deny, "bad-action"), "DENY bad-action");
        let two = [name("a", 0), name("a", 1), name("b", 0)];
        assert_eq!(
            &*by_none(Action::Allow, two.iter().map(String::as_str)),
            "ALLOW default/a, default/b"
        );
        let many: Vec<String> = (0..7).map(|n| name(&format!("p{n}"), 0)).collect();
        let told = by_none(Action::Allow, many.iter().map(String::as_str));
        assert!(told.ends_with("default/p4 and 2 more"), "{told}");
        assert_eq!(
            &*by_none(Action::Allow, [].into_iter()),
            "ALLOW without a rule"
        );
        assert_eq!(RuleName::of("ns[a]-policy[b]"), None);
    }

    #[test]
    fn a_rule_looks_its_counter_up_once_and_has_none_before_it_denies() {
        let metrics = MetricRegistry::default();
        let counters = Counters::new(&metrics, "http", "", "");
        let denials = Denials::counted_in(&metrics, counters, None);
        let name: Arc<str> = "ns[default]-policy[deny]-rule[0]".into();
        let (rule, none) = (
            Denier::rule(Action::Deny, &name),
            Denier::no_rule(Action::Allow, [].into_iter()),
        );
        assert_eq!(denials.made.len(), 0);
        for _ in 0..3 {
            rule.count(&denials);
        }
        none.count(&denials);
        let text = metrics.encode();
        for told in [
            "action=\"DENY\",policy_namespace=\"default\",policy=\"deny\",rule=\"0\"} 3\n",
            "action=\"ALLOW\",policy_namespace=\"\",policy=\"\",rule=\"\"} 1\n",
        ] {
            assert!(text.contains(told), "{told}{text}");
        }
        assert!(rule.counter.get().is_some());
    }
}
