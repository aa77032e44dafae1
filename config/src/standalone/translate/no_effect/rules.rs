//! Rules of policies that match nothing, or more than they say, where they apply.

use std::collections::BTreeSet;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::kinds::istio::authorization_policy::{Action, AuthorizationPolicy};
use crate::standalone::translate::no_effect::tokens::carries_http;
use crate::standalone::translate::no_effect::{Telling, Why};
use crate::standalone::translate::security::rbac_policy::matches_all;
use crate::standalone::translate::security::rule_attributes::{What, given};

const POLICY: &str = "AuthorizationPolicy";
/// Ports that a line names; of more it gives the number.
const NAMED: usize = 3;
const NAMED_PORTS: usize = 16;

impl Telling<'_, '_> {
    /// What of the rules of a policy that applies to something doesn't say what it seems to.
    pub(super) fn rules(&mut self, policy: &Object<AuthorizationPolicy>) {
        if policy.spec.rules.is_empty() && policy.spec.action != Action::Allow {
            let reason = "is empty: the policy never matches".to_owned();
            self.part(POLICY, policy, "spec.rules", Why::Mistake(reason));
        }
        let mut ports = self.ports_without_http(policy);
        if self.asks_of_requests_only(policy, &ports) {
            ports.clear();
        }
        for index in 0..policy.spec.rules.len() {
            if !ports.is_empty() {
                self.http_in_rule(policy, index, &ports);
            }
            self.tokens_in_rule(policy, index);
            self.ports_in_rule(policy, index);
            self.principals_in_rule(policy, index);
        }
    }

    /// Attributes of HTTP, for connections without it.
    fn http_in_rule(
        &mut self,
        policy: &Object<AuthorizationPolicy>,
        index: usize,
        ports: &[String],
    ) {
        let Some(rule) = policy.spec.rules.get(index) else {
            return;
        };
        let found = given(rule, &policy.meta.namespace);
        let Some(given) = found.iter().find(|given| given.of_http) else {
            return;
        };
        let translated = self.mesh.rule_translator(policy, true).policy(rule);
        let does = match policy.spec.action {
            Action::Deny => "denies",
            Action::Audit => "audits",
            Action::Allow => "allows",
            Action::Custom => "asks about",
        };
        let becomes = match translated {
            None => format!("the rule {does} nothing"),
            Some(all) if matches_all(&all) => {
                format!("it is left out, and the rule {does} everything")
            }
            Some(_) => {
                format!("it is left out, and the rule {does} whatever the rest of it matches")
            }
        };
        let named = first(ports);
        let reason = format!("nothing but HTTP has this: on other connections {becomes} ({named})");
        let field = format!("spec.rules[{index}].{}", given.field);
        self.part(POLICY, policy, &field, Why::Mistake(reason));
    }

    /// Identities that requests bring along, where nobody checks them.
    fn tokens_in_rule(&mut self, policy: &Object<AuthorizationPolicy>, index: usize) {
        let Some(rule) = policy.spec.rules.get(index) else {
            return;
        };
        let mut found = given(rule, &policy.meta.namespace);
        found.retain(|given| given.of_token);
        let given = found.iter().find(|given| !given.negated).or(found.first());
        let Some(given) = given else { return };
        let Some(unchecked) = self.chains_without_tokens(policy) else {
            return;
        };
        let follows = match (given.negated, given.one_of_several) {
            (true, _) => "so this holds for every request",
            (false, true) => "this part of the rule never matches",
            (false, false) => "the rule never matches",
        };
        let reason = format!(
            "no RequestAuthentication has rules for {unchecked}, so that no request has such an identity: {follows}"
        );
        let field = format!("spec.rules[{index}].{}", given.field);
        self.part(POLICY, policy, &field, Why::Mistake(reason));
    }

    /// Whose requests bring no identity along that is checked, of what a policy applies to.
    fn chains_without_tokens(&self, policy: &Object<AuthorizationPolicy>) -> Option<String> {
        let mesh = self.mesh;
        let (targets, namespace) = (&policy.spec.targets, &policy.meta.namespace);
        let hit = mesh.waypoint.services.iter().filter(|service| {
            carries_http(mesh, service) && mesh.targets_chain(targets, namespace, Some(service))
        });
        let (with, without): (Vec<_>, Vec<_>) =
            hit.partition(|service| !mesh.jwt_rules(Some(service)).is_empty());
        let mut names: Vec<String> = without
            .iter()
            .map(|service| service.declared_as().to_string())
            .collect();
        let mut any_with = !with.is_empty();
        if mesh.waypoint.takes_workloads() && mesh.targets_chain(targets, namespace, None) {
            match mesh.jwt_rules(None).is_empty() {
                true => names.push("pods".to_owned()),
                false => any_with = true,
            }
        }
        if !any_with {
            return Some("what it targets".to_owned());
        }
        (!names.is_empty()).then(|| first(&names))
    }

    /// Ports that nothing has which the policy applies to. A waypoint sees a service's own ports, not its pods'.
    fn ports_in_rule(&mut self, policy: &Object<AuthorizationPolicy>, index: usize) {
        let mesh = self.mesh;
        let Some(rule) = policy.spec.rules.get(index) else {
            return;
        };
        let (targets, namespace) = (&policy.spec.targets, &policy.meta.namespace);
        let mut asks = given(rule, namespace);
        asks.retain(|given| given.what == What::Port && !given.negated);
        let of_pods = mesh.waypoint.takes_workloads();
        if asks.is_empty() || (of_pods && mesh.targets_chain(targets, namespace, None)) {
            return;
        }
        let services = mesh.waypoint.services.iter();
        let hit = services.filter(|service| mesh.targets_chain(targets, namespace, Some(service)));
        let ports = hit.flat_map(|service| &service.ports);
        let ports: BTreeSet<u16> = ports.map(|port| port.number).collect();
        let unknown = |value: &String| value.parse().is_ok_and(|port| !ports.contains(&port));
        for given in asks.iter().filter(|given| given.values.iter().all(unknown)) {
            let known: Vec<String> = ports.iter().take(NAMED_PORTS).map(u16::to_string).collect();
            let reason = format!(
                "no port of what it applies to: a waypoint sees the ports of services, here {}",
                known.join(", ")
            );
            let field = format!("spec.rules[{index}].{}", given.field);
            self.part(POLICY, policy, &field, Why::Mistake(reason));
        }
    }

    /// Principals that begin with what stands before every one.
    fn principals_in_rule(&mut self, policy: &Object<AuthorizationPolicy>, index: usize) {
        let Some(rule) = policy.spec.rules.get(index) else {
            return;
        };
        for given in given(rule, &policy.meta.namespace) {
            let odd = given
                .values
                .iter()
                .position(|value| value.starts_with("spiffe://"));
            let Some(odd) = odd.filter(|_| given.what == What::Principal) else {
                continue;
            };
            let field = format!("spec.rules[{index}].{}[{odd}]", given.field);
            let reason = "nobody is called so: principals are written without spiffe://".to_owned();
            self.part(POLICY, policy, &field, Why::Mistake(reason));
        }
    }

    /// Ports that a policy applies to and that carry more than HTTP. Those that are told by their first bytes count
    /// where a rule would become wider there; that ALLOW lets nothing else in is what its author wants.
    fn ports_without_http(&self, policy: &Object<AuthorizationPolicy>) -> Vec<String> {
        let mesh = self.mesh;
        let widens = policy.spec.action != Action::Allow;
        let (targets, namespace) = (&policy.spec.targets, &policy.meta.namespace);
        let services = mesh.waypoint.services.iter();
        let hit = services.filter(|service| mesh.targets_chain(targets, namespace, Some(service)));
        let ports = hit.flat_map(|service| {
            let ports = service.ports.iter().filter(move |port| {
                let without = match port.protocol {
                    Protocol::Unknown => widens,
                    protocol => !protocol.is_http(),
                };
                without && mesh.effects.shows(*port)
            });
            ports.map(|port| format!("{} port {}", service.declared_as(), port.number))
        });
        ports.collect()
    }
}

/// The first of a list, and how many more there are.
pub(super) fn first(all: &[String]) -> String {
    let named = all.get(..NAMED).unwrap_or(all).join(", ");
    match all.len().saturating_sub(NAMED) {
        0 => named,
        more => format!("{named} and {more} more"),
    }
}
