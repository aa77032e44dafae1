//! AuthorizationPolicy as Istio's CRD and admission check let it through.
//!
//! Unknown fields are refused by name. Empty lists where the check wants an entry are refused, too: whether
//! `from: []` means everybody or nobody must not depend on the reader.

use serde::Deserialize;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema;
use crate::standalone::kinds::istio::authorization_rule::{self, Rule, WireRule};
use crate::standalone::kinds::istio::selector::Selector;
use crate::standalone::kinds::istio::{custom_action, dry_run};
use crate::standalone::kinds::refusal::{Refusal, refusal};
use crate::standalone::kinds::target_ref::{self, Target, TargetRef};

#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    pub action: Action,
    /// Empty when the policy has a selector or none: no waypoint enforces it then.
    pub targets: Vec<Target>,
    /// The target was written as `targetRef`.
    pub single_target: bool,
    /// Whom CUSTOM asks: the name of an extension provider of MeshConfig. Other actions have none.
    pub provider: Option<String>,
    /// No rules at all: the policy never matches.
    pub rules: Vec<Rule>,
    /// Annotation `istio.io/dry-run`: evaluated and told, not enforced.
    pub dry_run: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Action {
    #[default]
    Allow,
    Deny,
    Audit,
    Custom,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    selector: Option<Selector>,
    target_ref: Option<TargetRef>,
    target_refs: Option<Vec<TargetRef>>,
    action: Action,
    provider: Option<Provider>,
    rules: Option<Vec<WireRule>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: String,
}

/// What the CRD says of single fields.
const SCHEMA: &[schema::Row] = &[
    ("rules", schema::Rule::Items(0, 512)),
    ("rules[].from", schema::Rule::Items(0, 512)),
    (
        "rules[].from[].source.serviceAccounts",
        schema::Rule::Items(0, 16),
    ),
    (
        "rules[].from[].source.notServiceAccounts",
        schema::Rule::Items(0, 16),
    ),
    ("selector.matchLabels", schema::Rule::Fields(4096)),
];

impl AuthorizationPolicy {
    pub fn read(manifest: &Manifest) -> Result<Object<AuthorizationPolicy>, LoadError> {
        if let Some(field) = manifest
            .body
            .keys()
            .find(|key| !matches!(key.as_str(), "spec" | "status"))
        {
            return Err(manifest.refused(field.clone(), "unknown field"));
        }
        let spec: Spec = manifest.part("spec")?;
        schema::check(manifest, "spec", SCHEMA)?;
        target_ref::check(manifest)?;
        authorization_rule::check_accounts(manifest)?;
        if spec.action == Action::Custom {
            custom_action::check(manifest)?;
        }
        let refused = |(field, reason)| manifest.refused(format!("spec.{field}"), reason);
        check(&spec).map_err(refused)?;
        let mut rules = Vec::new();
        for (index, rule) in spec.rules.into_iter().flatten().enumerate() {
            let at = |(field, reason)| refused((format!("rules[{index}].{field}"), reason));
            rules.push(rule.read().map_err(at)?);
        }
        let mut targets = Vec::new();
        for (index, target) in spec
            .target_refs
            .iter()
            .flatten()
            .chain(&spec.target_ref)
            .enumerate()
        {
            targets.push(target.target(&manifest.meta.namespace).map_err(|reason| {
                let field = match &spec.target_ref {
                    Some(_) => "spec.targetRef".to_owned(),
                    None => format!("spec.targetRefs[{index}]"),
                };
                manifest.refused(field, reason)
            })?);
        }
        let may = match spec.action {
            Action::Allow | Action::Deny => Ok(()),
            Action::Audit | Action::Custom => Err("is for the actions ALLOW and DENY only"),
        };
        let dry_run = dry_run::read(manifest, may)?;
        Ok(manifest.object(AuthorizationPolicy {
            action: spec.action,
            targets,
            single_target: spec.target_ref.is_some(),
            provider: spec.provider.map(|provider| provider.name),
            rules,
            dry_run,
        }))
    }
}

fn check(spec: &Spec) -> Result<(), Refusal> {
    spec.selector.as_ref().map_or(Ok(()), Selector::check)?;
    match (spec.action, &spec.provider) {
        (Action::Custom, None) => return Err(refusal("provider", "is required for CUSTOM")),
        (Action::Custom, Some(provider)) if provider.name.is_empty() => {
            return Err(refusal("provider.name", "is required"));
        }
        (Action::Custom, _) => {}
        (_, Some(_)) => return Err(refusal("provider", "is only for CUSTOM")),
        (_, None) => {}
    }
    let empty = spec.rules.as_ref().is_none_or(Vec::is_empty);
    if matches!(spec.action, Action::Deny | Action::Custom) && empty {
        return Err(refusal(
            "rules",
            "is required: without a rule the policy would never match",
        ));
    }
    Ok(())
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {

    use super::*;

    fn policy(spec: &str) -> Result<Object<AuthorizationPolicy>, LoadError> {
        let text = format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p}}\nspec: {spec}"
        );
        AuthorizationPolicy::read(&Manifest::of(&text))
    }

    #[test]
    fn defaults() {
        let found = policy("{}").unwrap().spec;
        assert_eq!(
            (found.action, found.rules.len(), found.targets.len()),
            (Action::Allow, 0, 0)
        );
        assert_eq!(
            policy("{rules: [{}]}").unwrap().spec.rules,
            [Rule::default()]
        );
    }

    #[test]
    fn dry_runs_are_of_allow_and_deny() {
        let read = |action: &str, value: &str| {
            let text = format!(
                "{{apiVersion: security.istio.io/v1, kind: AuthorizationPolicy, metadata: {{name: p, annotations: {{istio.io/dry-run: {value}}}}}, spec: {{{action}, rules: [{{}}]}}}}"
            );
            AuthorizationPolicy::read(&Manifest::of(&text)).map(|policy| policy.spec.dry_run)
        };
        assert_eq!(read("action: DENY", "'true'"), Ok(true));
        assert_eq!(read("action: ALLOW", "f"), Ok(false));
        for (action, value) in [
            ("action: ALLOW", "maybe"),
            ("action: AUDIT", "'true'"),
            ("action: CUSTOM, provider: {name: x}", "'true'"),
        ] {
            let error = read(action, value).unwrap_err();
            assert_eq!(
                error.field.as_deref(),
                Some("metadata.annotations[istio.io/dry-run]")
            );
        }
    }

    #[test]
    fn what_cannot_be_understood_is_refused_by_name() {
        for (spec, field) in [
            ("{action: PERMIT}", "spec.action"),
            ("{rulez: []}", "spec.rulez"),
            ("{action: DENY}", "spec.rules"),
            ("{action: DENY, rules: []}", "spec.rules"),
            ("{action: CUSTOM, rules: [{}]}", "spec.provider"),
            ("{provider: {name: x}}", "spec.provider"),
            (
                "{action: CUSTOM, provider: {name: x}, rules: [{from: [{source: {notNamespaces: [a]}}]}]}",
                "spec.rules[0].from[0].source.notNamespaces",
            ),
            (
                "{action: CUSTOM, provider: {name: x}, rules: [{when: [{key: 'request.auth.claims[a]', values: [a]}]}]}",
                "spec.rules[0].when[0].key",
            ),
            ("{rules: [{from: []}]}", "spec.rules[0].from"),
            ("{rules: [{from: [{}]}]}", "spec.rules[0].from[0]"),
            (
                "{rules: [{from: [{source: {}}]}]}",
                "spec.rules[0].from[0].source",
            ),
            (
                "{rules: [{from: [{source: {principal: [a]}}]}]}",
                "spec.rules[0].from[0].source.principal",
            ),
            (
                "{rules: [{from: [{source: {namespaces: [on]}}]}]}",
                "spec.rules[0].from[0].source.namespaces[0]",
            ),
            (
                "{rules: [{from: [{source: {ipBlocks: [10.0.0.0/33]}}]}]}",
                "spec.rules[0].from[0].source.ipBlocks[0]",
            ),
            (
                "{rules: [{to: [{operation: {ports: ['http']}}]}]}",
                "spec.rules[0].to[0].operation.ports[0]",
            ),
            (
                "{rules: [{to: [{operation: {paths: ['/{**}/{*}']}}]}]}",
                "spec.rules[0].to[0].operation.paths[0]",
            ),
            (
                "{rules: [{to: [{operation: {paths: ['/x|y', '/a|b/{*}']}}]}]}",
                "spec.rules[0].to[0].operation.paths[1]",
            ),
            (
                "{rules: [{when: [{key: source.ip}]}]}",
                "spec.rules[0].when[0].values",
            ),
            (
                "{rules: [{when: [{key: source.mac, values: [a]}]}]}",
                "spec.rules[0].when[0].key",
            ),
            (
                "{rules: [{when: [{key: 'request.headers[]', values: [a]}]}]}",
                "spec.rules[0].when[0].key",
            ),
            (
                "{targetRefs: [{kind: Pod, group: '', name: x}]}",
                "spec.targetRefs[0]",
            ),
            (
                "{selector: {}, targetRefs: [{kind: Service, group: '', name: x}]}",
                "spec.targetRefs",
            ),
            ("{selector: {}, targetRefs: []}", "spec.targetRefs"),
            (
                "{targetRef: {kind: Service, name: x}, targetRefs: []}",
                "spec.targetRefs",
            ),
            (
                "{targetRefs: [{kind: Service, group: A, name: x}]}",
                "spec.targetRefs[0].group",
            ),
            (
                "{targetRefs: [{kind: Service, name: x, namespace: default}]}",
                "spec.targetRefs[0]",
            ),
            (
                "{rules: [{from: [{source: {serviceAccounts: [], principals: [a]}}]}]}",
                "spec.rules[0].from[0].source.serviceAccounts",
            ),
            (
                "{selector: {matchLabels: {a: 'b*'}}, rules: [{}]}",
                "spec.selector.matchLabels.a",
            ),
            (
                "{rules: [{from: [{source: {serviceAccounts: [a1, a2, a3, a4, a5, a6, a7, a8, a9, b1, b2, b3, b4, b5, b6, b7, b8]}}]}]}",
                "spec.rules[0].from[0].source.serviceAccounts",
            ),
        ] {
            assert_eq!(
                policy(spec).unwrap_err().field.as_deref(),
                Some(field),
                "{spec}"
            );
        }
    }
}
