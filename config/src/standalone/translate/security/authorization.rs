//! AuthorizationPolicies to RBAC filters: which policies a chain has, and one filter for each action that
//! occurs, AUDIT first, then DENY, then ALLOW.
//!
//! An ALLOW filter without any policy left denies everything: that is what becomes of HTTP-only rules on a
//! TCP chain. Dry-run policies are shadow rules.

use std::collections::HashMap;

use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3 as http_rbac;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::filters::network::rbac::v3 as network_rbac;

use crate::standalone::input::manifest::Object;
use crate::standalone::kinds::gateway_api::gateway::WAYPOINT_CLASS;
use crate::standalone::kinds::istio::authorization_policy::{Action, AuthorizationPolicy};
use crate::standalone::kinds::target_ref::Target;
use crate::standalone::state::mesh_service::{MeshService, Source};
use crate::standalone::translate::context::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::network_filter;
use crate::standalone::translate::security::rbac_policy::{RuleTranslator, never};

pub(super) const HTTP_RBAC: &str = "envoy.filters.http.rbac";
pub(crate) const NETWORK_RBAC: &str = "envoy.filters.network.rbac";
/// With what the counters of network filters begin.
pub(super) const TCP_STATS: &str = "tcp.";

/// The rules of one filter.
struct Rules {
    enforced: Option<rbac::Rbac>,
    shadow: Option<rbac::Rbac>,
}

impl Rules {
    fn shadow_stat_prefix(&self) -> String {
        let action = self
            .shadow
            .as_ref()
            .map_or(rbac::rbac::Action::Allow, rbac::Rbac::action);
        match action {
            rbac::rbac::Action::Allow => "istio_dry_run_allow_".to_owned(),
            rbac::rbac::Action::Deny => "istio_dry_run_deny_".to_owned(),
            rbac::rbac::Action::Log => String::new(),
        }
    }
}

impl Mesh<'_> {
    /// Whether an object with these targets applies to a chain; `None` is a chain for pod addresses.
    pub(crate) fn targets_chain(
        &self,
        targets: &[Target],
        namespace: &str,
        service: Option<&MeshService<'_>>,
    ) -> bool {
        let hit = self.hits(targets, namespace, service);
        hit.inspect(|target| self.effects.mark(*target)).count() > 0
    }

    /// Whether it applies to any chain that there may be.
    pub(crate) fn applies_anywhere(&self, targets: &[Target], namespace: &str) -> bool {
        let chains = self.waypoint.services.iter().map(Some).chain([None]);
        let mut hit = chains.filter(|service| {
            let mut hits = self.hits(targets, namespace, *service);
            hits.next().is_some()
        });
        hit.next().is_some()
    }

    fn hits<'t>(
        &self,
        targets: &'t [Target],
        namespace: &str,
        service: Option<&MeshService<'_>>,
    ) -> impl Iterator<Item = &'t Target> {
        let source = service.map(|service| service.source);
        let hits = move |target: &&Target| match (target, source) {
            (Target::Gateway(name), _) => *name == self.waypoint.gateway.name(),
            // Only the root namespace speaks for all waypoints.
            (Target::GatewayClass(class), _) => {
                class == WAYPOINT_CLASS && namespace == self.config.root_namespace
            }
            (Target::Service(name), Some(Source::Service(service))) => *name == service.name(),
            (Target::ServiceEntry(name), Some(Source::Entry(entry))) => *name == entry.name(),
            (Target::Service(_) | Target::ServiceEntry(_), _) => false,
        };
        targets.iter().filter(hits)
    }

    pub(crate) fn http_rbac(&self, service: Option<&MeshService<'_>>) -> Vec<hcm::HttpFilter> {
        let filter = |rules: Rules| {
            let config = http_rbac::Rbac {
                shadow_rules_stat_prefix: rules.shadow_stat_prefix(),
                rules: rules.enforced,
                shadow_rules: rules.shadow,
                ..http_rbac::Rbac::default()
            };
            http_filter(HTTP_RBAC, any(&config))
        };
        self.rules(service, false).into_iter().map(filter).collect()
    }

    pub(crate) fn network_rbac(&self, service: Option<&MeshService<'_>>) -> Vec<listener::Filter> {
        let filter = |rules: Rules| {
            let config = network_rbac::Rbac {
                stat_prefix: TCP_STATS.to_owned(),
                shadow_rules_stat_prefix: rules.shadow_stat_prefix(),
                rules: rules.enforced,
                shadow_rules: rules.shadow,
                ..network_rbac::Rbac::default()
            };
            network_filter(NETWORK_RBAC, any(&config))
        };
        self.rules(service, true).into_iter().map(filter).collect()
    }

    fn rules(&self, service: Option<&MeshService<'_>>, for_tcp: bool) -> Vec<Rules> {
        let applies = |policy: &&Object<AuthorizationPolicy>| {
            self.targets_chain(&policy.spec.targets, &policy.meta.namespace, service)
        };
        let policies: Vec<_> = self.state.policies.values().filter(applies).collect();
        [Action::Audit, Action::Deny, Action::Allow]
            .into_iter()
            .filter_map(|action| {
                let of_action = policies
                    .iter()
                    .filter(|policy| policy.spec.action == action);
                self.rules_of_action(action, of_action.copied(), for_tcp)
            })
            .collect()
    }

    pub(crate) fn rule_translator<'p>(
        &'p self,
        policy: &'p Object<AuthorizationPolicy>,
        for_tcp: bool,
    ) -> RuleTranslator<'p> {
        RuleTranslator {
            for_tcp,
            widens: policy.spec.action != Action::Allow,
            namespace: &policy.meta.namespace,
            trust_domains: &self.trust_domains,
        }
    }

    /// The rules of a policy that can match on a chain, with their names; one that never does for a policy without.
    pub(super) fn translated_rules(
        &self,
        policy: &Object<AuthorizationPolicy>,
        for_tcp: bool,
    ) -> Vec<(String, rbac::Policy)> {
        let key = |rule: usize| {
            let (namespace, name) = (&policy.meta.namespace, &policy.meta.name);
            format!("ns[{namespace}]-policy[{name}]-rule[{rule}]")
        };
        if policy.spec.rules.is_empty() {
            return vec![(key(0), never())];
        }
        let translator = self.rule_translator(policy, for_tcp);
        let rules = policy.spec.rules.iter().enumerate();
        rules
            .filter_map(|(index, rule)| Some((key(index), translator.policy(rule)?)))
            .collect()
    }

    fn rules_of_action<'p>(
        &self,
        action: Action,
        policies: impl Iterator<Item = &'p Object<AuthorizationPolicy>>,
        for_tcp: bool,
    ) -> Option<Rules> {
        let envoy_action = match action {
            Action::Audit => rbac::rbac::Action::Log,
            Action::Deny => rbac::rbac::Action::Deny,
            Action::Allow | Action::Custom => rbac::rbac::Action::Allow,
        };
        let mut rules = Rules {
            enforced: None,
            shadow: None,
        };
        for policy in policies {
            let side = if policy.spec.dry_run {
                &mut rules.shadow
            } else {
                &mut rules.enforced
            };
            let engine = side.get_or_insert_with(|| rbac::Rbac {
                action: envoy_action.into(),
                policies: HashMap::new(),
                ..rbac::Rbac::default()
            });
            engine
                .policies
                .extend(self.translated_rules(policy, for_tcp));
        }
        (rules.enforced.is_some() || rules.shadow.is_some()).then_some(rules)
    }
}
