//! Which DestinationRule holds for a host, as istiod finds it for a waypoint.
//!
//! First those of the waypoint's own namespace, then those of the service's, then those of the root namespace; in each
//! the rule whose host says most. Rules of one namespace, host and `exportTo` are one: the oldest with a
//! `trafficPolicy` gives it, and subsets are those of all, of one name the oldest. Rules with a `workloadSelector` are
//! for sidecars and count for nothing. What istiod makes of policies of the Gateway API is a rule, too, older than all: others
//! of its host override it field by field, and then the youngest of them stands, as istiod has it.

use std::collections::{BTreeMap, BTreeSet};

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::istio::destination_rule::{DestinationRule, Subset};
use crate::standalone::kinds::istio::export_to::{EVERYBODY, OWN};
use crate::standalone::kinds::traffic_policy::client_tls::TlsMode;
use crate::standalone::kinds::traffic_policy::{Effective, TrafficPolicy};
use crate::standalone::state::cluster_state::ClusterState;

/// Rules that are one.
#[derive(Clone, Debug)]
pub struct MergedRule<'a> {
    export_to: BTreeSet<&'a str>,
    /// The oldest first.
    pub rules: Vec<&'a Object<DestinationRule>>,
    /// What stands over the others first; one, unless some of it is of policies of the Gateway API.
    pub policies: Vec<&'a TrafficPolicy>,
    pub subsets: Vec<&'a Subset>,
}

/// Merged rules by host.
type ByHost<'a> = BTreeMap<&'a str, Vec<MergedRule<'a>>>;

/// All rules, as a waypoint of one namespace sees them.
#[derive(Debug, Default)]
pub struct DestinationRules<'a> {
    own_namespace: &'a str,
    root_namespace: String,
    /// Those of the waypoint's namespace; where that is the root namespace, what is for it alone.
    local: ByHost<'a>,
    /// By namespace, what is for others than the namespace alone.
    exported: BTreeMap<&'a str, ByHost<'a>>,
}

impl<'a> DestinationRules<'a> {
    /// `private`: rules that don't say where they count are for their own namespace alone.
    pub fn of(
        state: &'a ClusterState,
        own: &'a str,
        root: &str,
        private: bool,
    ) -> DestinationRules<'a> {
        let mut found = DestinationRules {
            own_namespace: own,
            root_namespace: root.to_owned(),
            ..DestinationRules::default()
        };
        let all = state.destination_rules.values().chain(&state.policy_rules);
        let mut all: Vec<_> = all.filter(|rule| !rule.spec.has_selector).collect();
        all.sort_by_key(|rule| {
            let meta = &rule.meta;
            let written = !rule.spec.of_policies;
            (written, meta.created, &meta.name, &meta.namespace)
        });
        for rule in all {
            let namespace = rule.meta.namespace.as_str();
            let to: BTreeSet<&str> = rule.spec.export_to.iter().map(String::as_str).collect();
            let only = |name: &str| to.len() == 1 && to.contains(name);
            let private = only(OWN) || only(namespace) || (private && to.is_empty());
            let here = to.is_empty() || [EVERYBODY, OWN, namespace].iter().any(|n| to.contains(n));
            if namespace == own && (if own == root { private } else { here }) {
                merge(&mut found.local, rule, &to);
            }
            if !private {
                merge(found.exported.entry(namespace).or_default(), rule, &to);
            }
        }
        found
    }

    /// The rule for a service of this namespace.
    pub fn for_host(&self, host: &str, namespace: &str) -> Option<&MergedRule<'a>> {
        if let Some(found) = most_specific(&self.local, host) {
            return found.last();
        }
        [namespace, &self.root_namespace]
            .into_iter()
            .find_map(|namespace| {
                let found = most_specific(self.exported.get(namespace)?, host)?;
                let mut visible = found.iter().filter(|rule| {
                    let to = &rule.export_to;
                    to.is_empty() || to.contains(EVERYBODY) || to.contains(self.own_namespace)
                });
                visible.next_back()
            })
    }
}

fn merge<'a>(hosts: &mut ByHost<'a>, rule: &'a Object<DestinationRule>, to: &BTreeSet<&'a str>) {
    let known = hosts.entry(rule.spec.host.as_str()).or_default();
    let mut alone = true;
    for merged in known.iter_mut() {
        let part = !merged.export_to.is_empty() && to.is_superset(&merged.export_to);
        if *to == merged.export_to || part {
            merged.add(rule);
            alone = false;
        } else {
            alone = true;
        }
    }
    if alone {
        let mut merged = MergedRule {
            export_to: to.clone(),
            rules: Vec::new(),
            policies: Vec::new(),
            subsets: Vec::new(),
        };
        merged.add(rule);
        known.push(merged);
    }
}

fn most_specific<'h, 'a>(hosts: &'h ByHost<'a>, host: &str) -> Option<&'h Vec<MergedRule<'a>>> {
    if let Some(exact) = hosts.get(host) {
        return Some(exact);
    }
    let covers = |pattern: &str| {
        let suffix = pattern.strip_prefix('*');
        suffix.is_some_and(|suffix| host.strip_prefix('*').unwrap_or(host).ends_with(suffix))
    };
    let wildcards = hosts.iter().filter(|(pattern, _)| covers(pattern));
    let longest = wildcards.max_by_key(|(pattern, _)| pattern.len());
    longest.map(|(_, found)| found)
}

impl<'a> MergedRule<'a> {
    fn add(&mut self, rule: &'a Object<DestinationRule>) {
        self.rules.push(rule);
        for subset in &rule.spec.subsets {
            if !self.subsets.iter().any(|own| own.name == subset.name) {
                self.subsets.push(subset);
            }
        }
        let layered = self
            .rules
            .first()
            .is_some_and(|first| first.spec.of_policies);
        let policy = rule.spec.traffic_policy.as_ref();
        if layered || self.policies.is_empty() {
            self.policies.splice(0..0, policy);
        }
    }

    /// What the first of its policies says that says something.
    pub fn of_policies<T>(&self, of: impl Fn(&'a TrafficPolicy) -> Option<T>) -> Option<T> {
        self.policies.iter().find_map(|policy| of(policy))
    }

    /// Under whose name it stands.
    pub fn first(&self) -> Option<&'a Object<DestinationRule>> {
        self.rules.first().copied()
    }

    pub fn subset(&self, name: &str) -> Option<&'a Subset> {
        self.subsets
            .iter()
            .find(|subset| subset.name == name)
            .copied()
    }

    /// The policy of a port's cluster, or of that of a subset.
    pub fn policy(&self, subset: Option<&'a Subset>, port: u16) -> Option<Effective<'a>> {
        let of_subset = subset.and_then(|subset| subset.traffic_policy.as_ref());
        Effective::of(&self.policies, of_subset, port)
    }

    /// What is said of TLS to the endpoints of a port, or of those of a subset.
    pub fn tls_mode(&self, subset: Option<&Subset>, port: u16) -> Option<TlsMode> {
        let of_subset = subset.and_then(|subset| subset.traffic_policy.as_ref());
        let own = of_subset.and_then(|policy| policy.tls_mode(port));
        own.or_else(|| self.of_policies(|policy| policy.tls_mode(port)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::standalone::input::yaml::documents;

    /// Names of the rules that hold for a host of namespace `svc`, for a waypoint in `way`.
    fn found(rules: &[(&str, &str, &str)], host: &str) -> (Vec<String>, Vec<String>) {
        found_of(rules, host, false)
    }

    fn found_of(
        rules: &[(&str, &str, &str)],
        host: &str,
        private: bool,
    ) -> (Vec<String>, Vec<String>) {
        let texts = rules.iter().map(|(name, namespace, spec)| format!(
            "{{apiVersion: networking.istio.io/v1, kind: DestinationRule, metadata: {{name: {name}, namespace: {namespace}}}, spec: {{{spec}}}}}\n---\n"
        ));
        let text: String = texts.collect();
        let state = ClusterState::read(documents("a.yaml".as_ref(), &text).unwrap()).unwrap();
        let all = DestinationRules::of(&state, "way", "root", private);
        let found = all.for_host(host, "svc");
        let rules = found.iter().flat_map(|found| &found.rules);
        let subsets = found.iter().flat_map(|found| &found.subsets);
        (
            rules.map(|rule| rule.meta.name.clone()).collect(),
            subsets.map(|subset| subset.name.clone()).collect(),
        )
    }

    #[test]
    fn namespaces_and_hosts() {
        let host = "a.svc.test";
        for (rules, expected) in [
            (
                &[
                    ("r", "root", "host: a.svc.test"),
                    ("s", "svc", "host: a.svc.test"),
                    ("w", "way", "host: '*.test'"),
                ][..],
                "w",
            ),
            (
                &[
                    ("r", "root", "host: a.svc.test"),
                    ("s", "svc", "host: '*.svc.test'"),
                    ("t", "svc", "host: '*'"),
                ],
                "s",
            ),
            (
                &[("r", "root", "host: '*'"), ("s", "svc", "host: b.svc.test")],
                "r",
            ),
            (
                &[
                    ("r", "root", "host: '*'"),
                    ("s", "svc", "host: a.svc.test, exportTo: ['.']"),
                ],
                "r",
            ),
            (
                &[
                    ("s", "svc", "host: a.svc.test, exportTo: [way]"),
                    ("r", "root", "host: '*'"),
                ],
                "s",
            ),
            (&[("s", "svc", "host: a.svc.test, exportTo: [other]")], ""),
            (&[("w", "way", "host: a.svc.test, exportTo: [other]")], ""),
            (&[("x", "else", "host: a.svc.test")], ""),
            (
                &[
                    (
                        "w",
                        "way",
                        "host: a.svc.test, workloadSelector: {matchLabels: {a: b}}",
                    ),
                    ("r", "root", "host: '*'"),
                ],
                "r",
            ),
        ] {
            assert_eq!(found(rules, host).0.concat(), expected, "{rules:?}");
        }
    }

    #[test]
    fn the_mesh_may_keep_rules_in_their_namespace() {
        for (rules, private, expected) in [
            (&[("s", "svc", "host: a.svc.test")][..], false, "s"),
            (&[("s", "svc", "host: a.svc.test")], true, ""),
            (&[("w", "way", "host: a.svc.test")], true, "w"),
            (
                &[("s", "svc", "host: a.svc.test, exportTo: ['*']")],
                true,
                "s",
            ),
        ] {
            let found = found_of(rules, "a.svc.test", private);
            assert_eq!(found.0.concat(), expected, "{rules:?} {private}");
        }
    }

    #[test]
    fn rules_of_one_host_are_one() {
        let (rules, subsets) = found(
            &[
                ("a", "way", "host: h.test, subsets: [{name: v1}]"),
                (
                    "b",
                    "way",
                    "host: h.test, subsets: [{name: v1}, {name: v2}]",
                ),
            ],
            "h.test",
        );
        assert_eq!(
            (rules.concat(), subsets.concat()),
            ("ab".to_owned(), "v1v2".to_owned())
        );
        // Of those for different namespaces the last one stands.
        let (rules, _) = found(
            &[
                ("a", "svc", "host: h.test, exportTo: [way]"),
                ("b", "svc", "host: h.test"),
            ],
            "h.test",
        );
        assert_eq!(rules, ["b"]);
    }
}
