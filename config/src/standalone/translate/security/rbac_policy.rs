//! One rule of an AuthorizationPolicy to one RBAC policy.
//!
//! Every `from` is a principal, every `to` a permission; `when` conditions are repeated in each of the side
//! that they belong to. Within one, every attribute must match: any of its values, and none of its
//! `not` values. On a TCP chain an HTTP attribute can't be told: an ALLOW rule with one is dropped, a DENY
//! or AUDIT rule loses the attribute and so becomes wider. Never the other way round.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use rbac::permission::{Rule as PermissionRule, Set as PermissionSet};
use rbac::principal::{Identifier, Set as PrincipalSet};
use rbac::{Permission, Principal};

use crate::standalone::kinds::istio::authorization_condition::Condition;
use crate::standalone::kinds::istio::authorization_rule::{Operation, Rule, Source};
use crate::standalone::translate::security::rbac_permission::PermissionName;
use crate::standalone::translate::security::rbac_principal::PrincipalName;
use crate::standalone::translate::security::rbac_rule::{CannotTell, permission, principal};
use crate::standalone::translate::security::rule_attributes::{
    Side, of_condition, of_operation, of_source,
};

/// How the rules of one policy are translated for one chain.
pub(crate) struct RuleTranslator<'a> {
    pub for_tcp: bool,
    /// DENY and AUDIT: what can't be told is left out of the rule.
    pub widens: bool,
    pub namespace: &'a str,
    /// The mesh's trust domain and its aliases.
    pub trust_domains: &'a [String],
}

/// A policy that matches nothing.
pub(crate) fn never() -> rbac::Policy {
    rbac::Policy {
        permissions: vec![not_permission(permission(PermissionRule::Any(true)))],
        principals: vec![not_principal(principal(Identifier::Any(true)))],
        ..rbac::Policy::default()
    }
}

impl RuleTranslator<'_> {
    /// `None`: the rule can't match anything on this chain.
    pub(crate) fn policy(&self, rule: &Rule) -> Option<rbac::Policy> {
        let mut permissions = Vec::new();
        for operation in &rule.operations {
            permissions.push(self.permission(Some(operation), &rule.when).ok()?);
        }
        if permissions.is_empty() {
            permissions.push(self.permission(None, &rule.when).ok()?);
        }
        let mut principals = Vec::new();
        for source in &rule.sources {
            principals.push(self.principal(Some(source), &rule.when).ok()?);
        }
        if principals.is_empty() {
            principals.push(self.principal(None, &rule.when).ok()?);
        }
        Some(rbac::Policy {
            permissions,
            principals,
            ..rbac::Policy::default()
        })
    }

    fn permission(
        &self,
        operation: Option<&Operation>,
        when: &[Condition],
    ) -> Result<Permission, CannotTell> {
        let mut rules = Vec::new();
        if let Some(operation) = operation {
            for listed in of_operation(operation) {
                let (values, not_values) = (listed.values, listed.not_values);
                self.one_permission(&listed.name, values, not_values, &mut rules)?;
            }
        }
        for condition in when {
            if let Side::Permission(name) = of_condition(&condition.attribute, self.namespace) {
                self.one_permission(&name, &condition.values, &condition.not_values, &mut rules)?;
            }
        }
        if rules.is_empty() {
            rules.push(permission(PermissionRule::Any(true)));
        }
        Ok(permission(PermissionRule::AndRules(PermissionSet {
            rules,
        })))
    }

    fn one_permission(
        &self,
        name: &PermissionName<'_>,
        values: &[String],
        not_values: &[String],
        rules: &mut Vec<Permission>,
    ) -> Result<(), CannotTell> {
        for (values, negated) in [(values, false), (not_values, true)] {
            if values.is_empty() {
                continue;
            }
            let any_of = match self.tell(name.is_http(), || name.any_of(values))? {
                Some(any_of) => any_of,
                None => continue,
            };
            rules.push(if negated {
                not_permission(any_of)
            } else {
                any_of
            });
        }
        Ok(())
    }

    fn principal(
        &self,
        source: Option<&Source>,
        when: &[Condition],
    ) -> Result<Principal, CannotTell> {
        let mut ids = Vec::new();
        if let Some(source) = source {
            for listed in of_source(source, self.namespace) {
                let (values, not_values) = (listed.values, listed.not_values);
                self.one_principal(&listed.name, values, not_values, &mut ids)?;
            }
        }
        for condition in when {
            if let Side::Principal(name) = of_condition(&condition.attribute, self.namespace) {
                self.one_principal(&name, &condition.values, &condition.not_values, &mut ids)?;
            }
        }
        if ids.is_empty() {
            ids.push(principal(Identifier::Any(true)));
        }
        Ok(principal(Identifier::AndIds(PrincipalSet { ids })))
    }

    fn one_principal(
        &self,
        name: &PrincipalName<'_>,
        values: &[String],
        not_values: &[String],
        ids: &mut Vec<Principal>,
    ) -> Result<(), CannotTell> {
        for (values, negated) in [(values, false), (not_values, true)] {
            if values.is_empty() {
                continue;
            }
            let any_of =
                match self.tell(name.is_http(), || name.any_of(values, self.trust_domains))? {
                    Some(any_of) => any_of,
                    None => continue,
                };
            ids.push(if negated {
                not_principal(any_of)
            } else {
                any_of
            });
        }
        Ok(())
    }

    /// `Ok(None)`: left out, which widens the rule.
    fn tell<T>(
        &self,
        is_http: bool,
        build: impl FnOnce() -> Result<T, CannotTell>,
    ) -> Result<Option<T>, CannotTell> {
        let told = if is_http && self.for_tcp {
            Err(CannotTell)
        } else {
            build()
        };
        match told {
            Ok(told) => Ok(Some(told)),
            Err(CannotTell) if self.widens => Ok(None),
            Err(CannotTell) => Err(CannotTell),
        }
    }
}

/// Whether a policy matches everything.
pub(crate) fn matches_all(policy: &rbac::Policy) -> bool {
    let any_permission = permission(PermissionRule::AndRules(PermissionSet {
        rules: vec![permission(PermissionRule::Any(true))],
    }));
    let any_principal = principal(Identifier::AndIds(PrincipalSet {
        ids: vec![principal(Identifier::Any(true))],
    }));
    policy.permissions.contains(&any_permission) && policy.principals.contains(&any_principal)
}

fn not_permission(inner: Permission) -> Permission {
    permission(PermissionRule::NotRule(Box::new(inner)))
}

fn not_principal(inner: Principal) -> Principal {
    principal(Identifier::NotId(Box::new(inner)))
}
