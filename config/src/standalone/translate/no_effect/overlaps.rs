//! Rules of policies that others leave nothing to do: an ALLOW of what a DENY denies, and a rule that allows, denies or
//! audits what another one does already.

use crate::standalone::input::manifest::{Object, resource};
use crate::standalone::kinds::istio::authorization_policy::{Action, AuthorizationPolicy};
use crate::standalone::kinds::istio::authorization_rule::Rule;
use crate::standalone::translate::no_effect::rule_cover::covers;
use crate::standalone::translate::no_effect::{Telling, Why};

const POLICY: &str = "AuthorizationPolicy";
/// Rules that are held against each other, at most: the work grows with their square.
const MOST: usize = 2000;

/// A rule that is enforced here.
struct Placed<'m> {
    policy: &'m Object<AuthorizationPolicy>,
    index: usize,
    rule: &'m Rule,
    /// For each chain, whether it holds there.
    chains: std::rc::Rc<[bool]>,
}

impl<'m> Telling<'m, '_> {
    pub(super) fn overlaps(&mut self) {
        let rules = self.placed_rules();
        if rules.len() > MOST {
            return;
        }
        for (at, narrow) in rules.iter().enumerate() {
            if let Some(reason) = overlapped(&rules, at, narrow) {
                let field = format!("spec.rules[{}]", narrow.index);
                self.part(POLICY, narrow.policy, &field, Why::Mistake(reason));
            }
        }
    }

    /// The rules of all policies that are enforced by this waypoint, older policies first.
    fn placed_rules(&self) -> Vec<Placed<'m>> {
        let mesh = self.mesh;
        let services = mesh.waypoint.services.iter();
        let pods = (!mesh.waypoint.pods.is_empty()).then_some(None);
        let chains: Vec<_> = services.map(Some).chain(pods).collect();
        let enforced = mesh.state.policies.values();
        let enforced =
            enforced.filter(|policy| !policy.spec.dry_run && policy.spec.action != Action::Custom);
        let mut policies: Vec<&Object<AuthorizationPolicy>> = enforced.collect();
        policies.sort_by_key(|policy| (policy.meta.created, policy.name()));
        let mut placed = Vec::new();
        for policy in policies {
            let (targets, namespace) = (&policy.spec.targets, &policy.meta.namespace);
            let holds = chains.iter();
            let holds: std::rc::Rc<[bool]> = holds
                .map(|service| mesh.targets_chain(targets, namespace, *service))
                .collect();
            if !holds.contains(&true) {
                continue;
            }
            for (index, rule) in policy.spec.rules.iter().enumerate() {
                placed.push(Placed {
                    policy,
                    index,
                    rule,
                    chains: holds.clone(),
                });
            }
        }
        placed
    }
}

/// What leaves nothing to do for a rule, if something does. Of two that say the same the first stands.
fn overlapped(rules: &[Placed<'_>], at: usize, narrow: &Placed<'_>) -> Option<String> {
    let action = narrow.policy.spec.action;
    let wide = |wide: &&Placed<'_>| {
        let mut chains = wide.chains.iter().zip(&*narrow.chains);
        chains.all(|(wide, narrow)| *wide || !*narrow) && covers(wide.rule, narrow.rule)
    };
    let named = |by: &Placed<'_>| {
        let policy = resource(POLICY, &by.policy.meta);
        format!("spec.rules[{}] of {policy}", by.index)
    };
    if action == Action::Allow {
        let denying = rules.iter();
        let mut denying = denying.filter(|rule| rule.policy.spec.action == Action::Deny);
        if let Some(by) = denying.find(wide) {
            return Some(format!(
                "contradicts {}, which denies all that this allows: DENY comes first, so that this allows nothing. Take one of them away, \
                 or have the DENY leave out what is meant to pass",
                named(by)
            ));
        }
    }
    let does = match action {
        Action::Allow => "allows",
        Action::Deny => "denies",
        Action::Audit => "audits",
        Action::Custom => return None,
    };
    let mut others = rules
        .iter()
        .enumerate()
        .filter(|(other, by)| *other != at && by.policy.spec.action == action && wide(by));
    let stands = |(other, by): &(usize, &Placed<'_>)| *other < at || !covers(narrow.rule, by.rule);
    let (_, by) = others.find(stands)?;
    Some(format!(
        "adds nothing: {} {does} all of it already. It can be taken away, or the other is wider than was meant",
        named(by)
    ))
}
