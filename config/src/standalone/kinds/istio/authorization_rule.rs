//! The rules of an AuthorizationPolicy.

use serde::Deserialize;
use serde_json::Value;

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema;
use crate::standalone::kinds::istio::authorization_condition::{Condition, WireCondition};
use crate::standalone::kinds::istio::authorization_value::{
    check_lists, filled, ip_block, path, port, service_account, trust_domain,
};
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// One rule: any of `from`, and any of `to`, and all of `when`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Rule {
    /// One of these must match; none means any.
    pub sources: Vec<Source>,
    /// One of these must match; none means any.
    pub operations: Vec<Operation>,
    pub when: Vec<Condition>,
}

/// A rule as it is written.
#[derive(Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(super) struct WireRule {
    from: Option<Vec<From>>,
    to: Option<Vec<To>>,
    when: Vec<WireCondition>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct From {
    source: Source,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct To {
    operation: Operation,
}

impl WireRule {
    pub(super) fn read(self) -> Result<Rule, Refusal> {
        for (name, empty) in [
            ("from", self.from.as_ref().is_some_and(Vec::is_empty)),
            ("to", self.to.as_ref().is_some_and(Vec::is_empty)),
        ] {
            if empty {
                return Err(refusal(name, "must not be empty"));
            }
        }
        let from = self.from.into_iter().flatten().map(|from| from.source);
        let to = self.to.into_iter().flatten().map(|to| to.operation);
        let (sources, operations): (Vec<_>, Vec<_>) = (from.collect(), to.collect());
        for (index, source) in sources.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("from[{index}].source{field}"), reason);
            check_source(source).map_err(at)?;
        }
        for (index, operation) in operations.iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("to[{index}].operation{field}"), reason);
            check_operation(operation).map_err(at)?;
        }
        let mut when = Vec::new();
        for (index, condition) in self.when.into_iter().enumerate() {
            let at = |(field, reason): Refusal| (format!("when[{index}].{field}"), reason);
            when.push(condition.read().map_err(at)?);
        }
        Ok(Rule {
            sources,
            operations,
            when,
        })
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

/// Service accounts are principals and namespaces in one; an empty list counts as given, as in the CRD.
pub(super) fn check_accounts(manifest: &Manifest) -> Result<(), LoadError> {
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
