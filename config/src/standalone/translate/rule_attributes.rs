//! The attributes of a rule, each with the fields that it stands in: one list for the translation and for what is
//! told of it, so that nothing can be in one and not in the other.

use super::rbac_attribute::{PermissionName, PrincipalName};
use crate::standalone::kinds::authorization_policy::{Operation, Rule, Source};

/// An attribute of a source or an operation.
pub(super) struct Listed<'r, N> {
    pub name: N,
    /// Of the values, and of those that it must not have.
    pub fields: (&'static str, &'static str),
    pub values: &'r [String],
    pub not_values: &'r [String],
}

pub(super) fn of_operation(operation: &Operation) -> [Listed<'_, PermissionName<'_>>; 4] {
    [
        Listed {
            name: PermissionName::Host,
            fields: ("hosts", "notHosts"),
            values: &operation.hosts,
            not_values: &operation.not_hosts,
        },
        Listed {
            name: PermissionName::Method,
            fields: ("methods", "notMethods"),
            values: &operation.methods,
            not_values: &operation.not_methods,
        },
        Listed {
            name: PermissionName::Path,
            fields: ("paths", "notPaths"),
            values: &operation.paths,
            not_values: &operation.not_paths,
        },
        Listed {
            name: PermissionName::Port,
            fields: ("ports", "notPorts"),
            values: &operation.ports,
            not_values: &operation.not_ports,
        },
    ]
}

/// `namespace` is the policy's own.
pub(super) fn of_source<'r>(
    source: &'r Source,
    namespace: &'r str,
) -> [Listed<'r, PrincipalName<'r>>; 7] {
    [
        Listed {
            name: PrincipalName::Principal,
            fields: ("principals", "notPrincipals"),
            values: &source.principals,
            not_values: &source.not_principals,
        },
        Listed {
            name: PrincipalName::RequestPrincipal,
            fields: ("requestPrincipals", "notRequestPrincipals"),
            values: &source.request_principals,
            not_values: &source.not_request_principals,
        },
        Listed {
            name: PrincipalName::ServiceAccount { namespace },
            fields: ("serviceAccounts", "notServiceAccounts"),
            values: &source.service_accounts,
            not_values: &source.not_service_accounts,
        },
        Listed {
            name: PrincipalName::TrustDomain,
            fields: ("trustDomains", "notTrustDomains"),
            values: &source.trust_domains,
            not_values: &source.not_trust_domains,
        },
        Listed {
            name: PrincipalName::Namespace,
            fields: ("namespaces", "notNamespaces"),
            values: &source.namespaces,
            not_values: &source.not_namespaces,
        },
        Listed {
            name: PrincipalName::RemoteIp,
            fields: ("remoteIpBlocks", "notRemoteIpBlocks"),
            values: &source.remote_ip_blocks,
            not_values: &source.not_remote_ip_blocks,
        },
        Listed {
            name: PrincipalName::SourceIp,
            fields: ("ipBlocks", "notIpBlocks"),
            values: &source.ip_blocks,
            not_values: &source.not_ip_blocks,
        },
    ]
}

/// A field of a rule that has values.
pub(super) struct Given {
    /// Its path in the rule.
    pub field: String,
    pub negated: bool,
    /// Only HTTP requests have the attribute.
    pub of_http: bool,
    /// It is of an identity that a RequestAuthentication checks.
    pub of_token: bool,
    /// It stands in one of several sources, so that the others can match without it.
    pub one_of_several: bool,
}

/// All fields of a rule that have values, in order.
pub(super) fn given(rule: &Rule, namespace: &str) -> Vec<Given> {
    let mut found = Vec::new();
    let mut add = |place: &str, fields, values: (bool, bool), of_http, of_token, several| {
        let (plain, not): (&str, &str) = fields;
        for (name, given, negated) in [(plain, values.0, false), (not, values.1, true)] {
            if given {
                found.push(Given {
                    field: format!("{place}.{name}"),
                    negated,
                    of_http,
                    of_token,
                    one_of_several: several,
                });
            }
        }
    };
    let some = |values: &[String], not: &[String]| (!values.is_empty(), !not.is_empty());
    let several = rule.sources().count() > 1;
    for (index, source) in rule.sources().enumerate() {
        let place = format!("from[{index}].source");
        for listed in of_source(source, namespace) {
            let values = some(listed.values, listed.not_values);
            let (http, token) = (listed.name.is_http(), listed.name.is_of_token());
            add(&place, listed.fields, values, http, token, several);
        }
    }
    for (index, operation) in rule.operations().enumerate() {
        let place = format!("to[{index}].operation");
        for listed in of_operation(operation) {
            let values = some(listed.values, listed.not_values);
            add(
                &place,
                listed.fields,
                values,
                listed.name.is_http(),
                false,
                false,
            );
        }
    }
    for (index, condition) in rule.when.iter().enumerate() {
        let place = format!("when[{index}]");
        let values = some(&condition.values, &condition.not_values);
        let permission = PermissionName::of_key(&condition.key);
        let principal = PrincipalName::of_key(&condition.key, namespace);
        let http = permission.is_some_and(|name| name.is_http())
            || principal.as_ref().is_some_and(PrincipalName::is_http);
        let token = principal.as_ref().is_some_and(PrincipalName::is_of_token);
        add(&place, ("values", "notValues"), values, http, token, false);
    }
    found
}
