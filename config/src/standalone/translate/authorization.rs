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
use crate::standalone::translate::Mesh;
use crate::standalone::translate::proto::packed::any;
use crate::standalone::translate::proto::packed::http_filter;
use crate::standalone::translate::proto::packed::network_filter;
use crate::standalone::translate::rbac_policy::{RuleTranslator, never};

const HTTP_RBAC: &str = "envoy.filters.http.rbac";
pub(super) const NETWORK_RBAC: &str = "envoy.filters.network.rbac";

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
    pub(super) fn targets_chain(
        &self,
        targets: &[Target],
        namespace: &str,
        service: Option<&MeshService<'_>>,
    ) -> bool {
        let hits = |target: &&Target| match (target, service.map(|service| service.source)) {
            (Target::Gateway(name), _) => *name == self.waypoint.gateway.name(),
            // Only the root namespace speaks for all waypoints.
            (Target::GatewayClass(class), _) => {
                class == WAYPOINT_CLASS && namespace == self.config.root_namespace
            }
            (Target::Service(name), Some(Source::Service(service))) => *name == service.name(),
            (Target::ServiceEntry(name), Some(Source::Entry(entry))) => *name == entry.name(),
            (Target::Service(_) | Target::ServiceEntry(_), _) => false,
        };
        let hit = targets.iter().filter(hits);
        hit.inspect(|target| self.effects.mark(*target)).count() > 0
    }

    pub(super) fn http_rbac(&self, service: Option<&MeshService<'_>>) -> Vec<hcm::HttpFilter> {
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

    pub(super) fn network_rbac(&self, service: Option<&MeshService<'_>>) -> Vec<listener::Filter> {
        let filter = |rules: Rules| {
            let config = network_rbac::Rbac {
                stat_prefix: "tcp.".to_owned(),
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

    pub(super) fn rule_translator<'p>(
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
            let key = |rule: usize| {
                format!(
                    "ns[{}]-policy[{}]-rule[{rule}]",
                    policy.meta.namespace, policy.meta.name
                )
            };
            let translator = self.rule_translator(policy, for_tcp);
            for (index, rule) in policy.spec.rules.iter().enumerate() {
                if let Some(translated) = translator.policy(rule) {
                    engine.policies.insert(key(index), translated);
                }
            }
            if policy.spec.rules.is_empty() {
                engine.policies.insert(key(0), never());
            }
        }
        (rules.enforced.is_some() || rules.shadow.is_some()).then_some(rules)
    }
}
