//! Policies: what each of their rules let pass and denied since it is in force, and the last denials.
//!
//! istiod writes all policies of one action that concern a service into one filter. An ALLOW policy allows what its
//! rules match; what none of them matches is denied by all of them together. A DENY policy denies what its rules match,
//! and what they don't passes it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};
use waypoint_config::model::listener::chain::FilterChain;
use waypoint_config::model::listener::snapshot::Snapshot;
use waypoint_filters::security::rbac::action::Action;
use waypoint_filters::security::rbac::denial::RuleName;
use waypoint_filters::security::rbac::tally::{TalliedRules, Tally};
use waypoint_filters::stream::explanation::Purpose;

use crate::view::bounded;

/// Policies that are told.
const MAX_POLICIES: usize = 1000;
/// Rules of one policy, and services that it concerns, that are told.
const MAX_PARTS: usize = 50;

/// One policy, in all chains together.
#[derive(Default)]
struct Policy {
    /// By number or, of what isn't made of a rule, by name.
    rules: BTreeMap<String, u64>,
    /// What none of its rules matched, nor another's in the same filter.
    unmatched: u64,
    chains: BTreeSet<Arc<str>>,
}

/// By namespace, name and action; a dry run stands apart.
type Policies = BTreeMap<(String, String, &'static str, bool), Policy>;

/// All policies by namespace and name; `denials` are the last ones.
pub(crate) fn policies(snapshot: &Snapshot, denials: Vec<Value>) -> Value {
    let mut policies = Policies::new();
    let mut without_rules = Vec::new();
    for slot in snapshot.main.chains.values() {
        let chain = slot.load();
        let tallied: &[TalliedRules] = match &*chain {
            FilterChain::Http(manager) => &manager.tallied,
            FilterChain::Tcp(chain) => &chain.tallied,
            FilterChain::Closed(_) => &[],
        };
        let name: Arc<str> = match slot.service_port() {
            Some((port, host)) => format!("{host}:{port}").into(),
            None => slot.name.clone(),
        };
        for TalliedRules { purpose, tally } in tallied {
            let decides = *purpose == Purpose::Decides;
            if tally.rules.is_empty() && tally.action == Action::Allow && decides {
                without_rules.push((name.clone(), tally.unmatched()));
            }
            add(&mut policies, &name, *purpose, tally);
        }
    }
    without_rules.sort();
    let closed = without_rules.iter();
    let closed = closed.map(|(name, denied)| json!({"service": &**name, "denied": denied}));
    let (closed, closed_left_out) = bounded(closed, MAX_PARTS);
    let all = policies.iter().map(|(key, policy)| policy.to_json(key));
    let (policies, left_out) = bounded(all, MAX_POLICIES);
    json!({
        "policies": policies,
        "leftOut": left_out,
        "deniesAll": closed,
        "deniesAllLeftOut": closed_left_out,
        "denials": denials,
    })
}

fn add(policies: &mut Policies, chain: &Arc<str>, purpose: Purpose, tally: &Tally) {
    let mut here = BTreeSet::new();
    // Those of a CUSTOM policy say whether its provider is asked.
    let action = match purpose {
        Purpose::Asks => "CUSTOM",
        Purpose::Decides | Purpose::DryRun => tally.action.name(),
    };
    let enforced = purpose != Purpose::DryRun;
    for rule in &tally.rules {
        let (namespace, name, number) = match RuleName::of(&rule.name) {
            Some(name) => (name.namespace, name.policy, name.rule),
            None => ("", &*rule.name, ""),
        };
        let key = (namespace.to_owned(), name.to_owned(), action, enforced);
        let policy = policies.entry(key.clone()).or_default();
        *policy.rules.entry(number.to_owned()).or_default() += rule.matched();
        policy.chains.insert(chain.clone());
        // Several rules of a policy share what none of them matched.
        if here.insert(key) {
            policy.unmatched += tally.unmatched();
        }
    }
}

impl Policy {
    fn to_json(&self, (namespace, name, action, enforced): &(String, String, &str, bool)) -> Value {
        let matched: u64 = self.rules.values().sum();
        let (allowed, denied) = match *action {
            "ALLOW" => (matched, self.unmatched),
            "DENY" => (self.unmatched, matched),
            _ => (matched + self.unmatched, 0),
        };
        let rules = self.rules.iter();
        let rules = rules.map(|(rule, matched)| json!({"rule": rule, "matched": matched}));
        let (rules, rules_left_out) = bounded(rules, MAX_PARTS);
        let chains = self.chains.iter().map(|chain| Value::from(&**chain));
        let (services, services_left_out) = bounded(chains, MAX_PARTS);
        json!({
            "namespace": namespace,
            "name": name,
            "action": action,
            "enforced": enforced,
            "allowed": allowed,
            "denied": denied,
            "matched": matched,
            "rules": rules,
            "rulesLeftOut": rules_left_out,
            "services": services,
            "servicesLeftOut": services_left_out,
        })
    }
}
