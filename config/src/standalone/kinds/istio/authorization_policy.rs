//! AuthorizationPolicy as Istio's CRD and admission check let it through.
//!
//! Unknown fields are refused by name. Empty lists where the check wants an entry are refused, too: whether
//! `from: []` means everybody or nobody must not depend on the reader.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use waypoint_filters::matcher::uri_template::is_literal;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema;
use crate::standalone::kinds::target_ref::{self, Target, TargetRef};

#[derive(Clone, Debug, PartialEq)]
pub struct AuthorizationPolicy {
    pub action: Action,
    /// Empty when the policy has a selector or none: no waypoint enforces it then.
    pub targets: Vec<Target>,
    /// The target was written as `targetRef`.
    pub single_target: bool,
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

/// One rule: any of `from`, and any of `to`, and all of `when`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Rule {
    from: Option<Vec<From>>,
    to: Option<Vec<To>>,
    pub when: Vec<Condition>,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    source: Source,
}

#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    operation: Operation,
}

impl Rule {
    /// The sources, one of which must match; none means any.
    pub fn sources(&self) -> impl Iterator<Item = &Source> {
        self.from.iter().flatten().map(|from| &from.source)
    }

    /// The operations, one of which must match; none means any.
    pub fn operations(&self) -> impl Iterator<Item = &Operation> {
        self.to.iter().flatten().map(|to| &to.operation)
    }
}

/// Who sends: all lists that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Source {
    pub principals: Vec<String>,
    pub not_principals: Vec<String>,
    pub request_principals: Vec<String>,
    pub not_request_principals: Vec<String>,
    pub namespaces: Vec<String>,
    pub not_namespaces: Vec<String>,
    pub service_accounts: Vec<String>,
    pub not_service_accounts: Vec<String>,
    pub trust_domains: Vec<String>,
    pub not_trust_domains: Vec<String>,
    pub ip_blocks: Vec<String>,
    pub not_ip_blocks: Vec<String>,
    pub remote_ip_blocks: Vec<String>,
    pub not_remote_ip_blocks: Vec<String>,
}

/// What is asked for: all lists that are given must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Operation {
    pub hosts: Vec<String>,
    pub not_hosts: Vec<String>,
    pub ports: Vec<String>,
    pub not_ports: Vec<String>,
    pub methods: Vec<String>,
    pub not_methods: Vec<String>,
    pub paths: Vec<String>,
    pub not_paths: Vec<String>,
}

/// One more attribute that must match.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub struct Condition {
    pub key: String,
    pub values: Vec<String>,
    pub not_values: Vec<String>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    selector: Option<Selector>,
    target_ref: Option<TargetRef>,
    target_refs: Option<Vec<TargetRef>>,
    action: Action,
    provider: Option<Provider>,
    rules: Option<Vec<Rule>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Selector {
    #[serde(default)]
    match_labels: BTreeMap<String, String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Provider {
    name: String,
}

const DRY_RUN: &str = "istio.io/dry-run";

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
        check_accounts(manifest)?;
        check(&spec)
            .map_err(|(field, reason)| manifest.refused(format!("spec.{field}"), reason))?;
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
        let dry_run = match manifest.meta.annotation(DRY_RUN) {
            None => false,
            Some("true" | "True" | "TRUE" | "1" | "t" | "T") => true,
            Some("false" | "False" | "FALSE" | "0" | "f" | "F") => false,
            Some(other) => {
                let field = format!("metadata.annotations[{DRY_RUN}]");
                return Err(manifest.refused(field, format!("{other:?} is no boolean")));
            }
        };
        let rules = spec.rules.unwrap_or_default();
        Ok(manifest.object(AuthorizationPolicy {
            action: spec.action,
            targets,
            single_target: spec.target_ref.is_some(),
            rules,
            dry_run,
        }))
    }
}

type Refusal = (String, String);

fn refusal(field: impl Into<String>, reason: impl Into<String>) -> Refusal {
    (field.into(), reason.into())
}

/// Service accounts are principals and namespaces in one; an empty list counts as given, as in the CRD.
fn check_accounts(manifest: &Manifest) -> Result<(), LoadError> {
    let check = |value: &Value, field: &str| {
        let given = |names: &[&str]| names.iter().any(|name| value.get(name).is_some());
        let accounts = given(&["serviceAccounts", "notServiceAccounts"]);
        if accounts && given(&["principals", "notPrincipals", "namespaces", "notNamespaces"]) {
            let field = format!("{field}.serviceAccounts");
            return Err(refusal(
                field,
                "may not stand beside principals or namespaces",
            ));
        }
        Ok(())
    };
    schema::each(manifest, "spec", "rules[].from[].source", check)
}

fn check(spec: &Spec) -> Result<(), Refusal> {
    if let Some(selector) = &spec.selector
        && let Some(key) = selector
            .match_labels
            .keys()
            .find(|key| key.is_empty() || key.contains('*'))
    {
        return Err(refusal(
            "selector.matchLabels",
            format!("{key:?} is no label"),
        ));
    }
    let labels = spec
        .selector
        .iter()
        .flat_map(|selector| &selector.match_labels);
    for (key, value) in labels {
        if value.contains('*') || value.len() > 63 {
            let reason = format!("{value:?} is no value of a label");
            return Err(refusal(format!("selector.matchLabels.{key}"), reason));
        }
    }
    match (spec.action, &spec.provider) {
        (Action::Custom, None) => return Err(refusal("provider", "is required for CUSTOM")),
        (Action::Custom, Some(provider)) if provider.name.is_empty() => {
            return Err(refusal("provider.name", "is required"));
        }
        (Action::Custom, _) => {}
        (_, Some(_)) => return Err(refusal("provider", "is only for CUSTOM")),
        (_, None) => {}
    }
    if matches!(spec.action, Action::Deny | Action::Custom) && spec.rules.is_none() {
        return Err(refusal(
            "rules",
            "is required: without a rule the policy would never match",
        ));
    }
    for (index, rule) in spec.rules.iter().flatten().enumerate() {
        check_rule(rule).map_err(|(field, reason)| (format!("rules[{index}].{field}"), reason))?;
    }
    Ok(())
}

fn check_rule(rule: &Rule) -> Result<(), Refusal> {
    for (name, empty) in [
        ("from", rule.from.as_ref().is_some_and(Vec::is_empty)),
        ("to", rule.to.as_ref().is_some_and(Vec::is_empty)),
    ] {
        if empty {
            return Err(refusal(name, "must not be empty"));
        }
    }
    for (index, source) in rule.sources().enumerate() {
        let at = |(field, reason): Refusal| (format!("from[{index}].source{field}"), reason);
        check_source(source).map_err(at)?;
    }
    for (index, operation) in rule.operations().enumerate() {
        let at = |(field, reason): Refusal| (format!("to[{index}].operation{field}"), reason);
        check_operation(operation).map_err(at)?;
    }
    for (index, condition) in rule.when.iter().enumerate() {
        check_condition(condition)
            .map_err(|(field, reason)| (format!("when[{index}].{field}"), reason))?;
    }
    Ok(())
}

type Check = fn(&str) -> Result<(), String>;

/// Every value of every list; at least one list must have a value.
fn check_lists(lists: &[(&str, &[String], Check)]) -> Result<(), Refusal> {
    if lists.iter().all(|(_, values, _)| values.is_empty()) {
        return Err(refusal("", "must not be empty"));
    }
    for (name, values, check) in lists {
        for (index, value) in values.iter().enumerate() {
            check(value).map_err(|reason| (format!(".{name}[{index}]"), reason))?;
        }
    }
    Ok(())
}

fn check_source(source: &Source) -> Result<(), Refusal> {
    check_lists(&[
        ("principals", &source.principals, filled),
        ("notPrincipals", &source.not_principals, filled),
        ("requestPrincipals", &source.request_principals, filled),
        (
            "notRequestPrincipals",
            &source.not_request_principals,
            filled,
        ),
        ("namespaces", &source.namespaces, filled),
        ("notNamespaces", &source.not_namespaces, filled),
        ("serviceAccounts", &source.service_accounts, service_account),
        (
            "notServiceAccounts",
            &source.not_service_accounts,
            service_account,
        ),
        ("trustDomains", &source.trust_domains, trust_domain),
        ("notTrustDomains", &source.not_trust_domains, trust_domain),
        ("ipBlocks", &source.ip_blocks, ip_block),
        ("notIpBlocks", &source.not_ip_blocks, ip_block),
        ("remoteIpBlocks", &source.remote_ip_blocks, ip_block),
        ("notRemoteIpBlocks", &source.not_remote_ip_blocks, ip_block),
    ])
}

fn check_operation(operation: &Operation) -> Result<(), Refusal> {
    check_lists(&[
        ("hosts", &operation.hosts, filled),
        ("notHosts", &operation.not_hosts, filled),
        ("ports", &operation.ports, port),
        ("notPorts", &operation.not_ports, port),
        ("methods", &operation.methods, filled),
        ("notMethods", &operation.not_methods, filled),
        ("paths", &operation.paths, path),
        ("notPaths", &operation.not_paths, path),
    ])
}

fn check_condition(condition: &Condition) -> Result<(), Refusal> {
    if condition.values.is_empty() && condition.not_values.is_empty() {
        return Err(refusal("values", "values or notValues is required"));
    }
    let key = condition.key.as_str();
    let in_brackets = |key: &str| {
        key.ends_with(']')
            && key
                .find('[')
                .is_some_and(|open| open > 0 && open + 2 < key.len())
    };
    let check: Check = match key {
        "source.ip" | "remote.ip" | "destination.ip" => ip_block,
        "source.serviceAccount" => service_account,
        "source.trustDomain" => trust_domain,
        "destination.port" => port,
        "source.namespace"
        | "source.principal"
        | "request.auth.principal"
        | "request.auth.audiences"
        | "request.auth.presenter"
        | "connection.sni" => filled,
        key if [
            "request.headers[",
            "request.auth.claims[",
            "experimental.envoy.filters.",
        ]
        .iter()
        .any(|prefix| key.starts_with(prefix)) =>
        {
            if !in_brackets(key) {
                return Err(refusal("key", format!("{key:?} should have the form a[b]")));
            }
            filled
        }
        key => return Err(refusal("key", format!("unknown attribute {key:?}"))),
    };
    check_lists(&[
        ("values", &condition.values, check),
        ("notValues", &condition.not_values, check),
    ])
    .map_err(|(field, reason)| (field.trim_start_matches('.').to_owned(), reason))
}

fn filled(value: &str) -> Result<(), String> {
    if value.is_empty() {
        Err("must not be empty".to_owned())
    } else {
        Ok(())
    }
}

fn port(value: &str) -> Result<(), String> {
    value
        .parse::<u16>()
        .map(drop)
        .map_err(|_| format!("{value:?} is no port"))
}

fn ip_block(value: &str) -> Result<(), String> {
    let block = value.parse::<ipnet::IpNet>().is_ok() || value.parse::<std::net::IpAddr>().is_ok();
    if block {
        Ok(())
    } else {
        Err(format!("{value:?} is no IP address or CIDR range"))
    }
}

fn service_account(value: &str) -> Result<(), String> {
    let parts: Vec<&str> = value.split('/').collect();
    if parts.len() > 2
        || parts.iter().any(|part| part.is_empty())
        || value.contains('*')
        || value.len() > 320
    {
        return Err(format!(
            "{value:?} is not of the form [namespace/]serviceAccount"
        ));
    }
    Ok(())
}

fn trust_domain(value: &str) -> Result<(), String> {
    let stars = value.matches('*').count();
    let placed = stars == 0 || value.starts_with('*') || value.ends_with('*');
    if value.is_empty() || value.contains('/') || stars > 1 || !placed {
        return Err(format!("{value:?} is no trust domain"));
    }
    Ok(())
}

/// A literal or wildcard path, or a template with `{*}` and, last, `{**}`.
fn path(value: &str) -> Result<(), String> {
    filled(value)?;
    let is_template = value.contains("{*}") || value.contains("{**}");
    let mut ended = false;
    for part in value.trim_matches('/').split('/') {
        match part {
            "{*}" | "{**}" if ended => {
                return Err(format!("{value:?}: {{**}} must be the last operator"));
            }
            "{*}" => {}
            "{**}" => ended = true,
            part if part.contains(['{', '}']) || (is_template && part.contains('*')) => {
                return Err(format!("{value:?} is no path template"));
            }
            part if is_template => {
                if let Some(c) = part.chars().find(|c| !is_literal(*c)) {
                    return Err(format!("{value:?}: a template can't have {c:?}"));
                }
            }
            _ => {}
        }
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
    fn what_cannot_be_understood_is_refused_by_name() {
        for (spec, field) in [
            ("{action: PERMIT}", "spec.action"),
            ("{rulez: []}", "spec.rulez"),
            ("{action: DENY}", "spec.rules"),
            ("{action: CUSTOM, rules: [{}]}", "spec.provider"),
            ("{provider: {name: x}}", "spec.provider"),
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
