//! The attributes of a rule, each with the fields that it stands in: one list for the translation and for what is
//! told of it, so that nothing can be in one and not in the other.

use crate::standalone::kinds::istio::authorization_policy::{Operation, Rule, Source};
use crate::standalone::translate::rbac_attribute::{PermissionName, PrincipalName};

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
pub(super) struct Given<'r> {
    /// Its path in the rule.
    pub field: String,
    pub negated: bool,
    /// Only HTTP requests have the attribute.
    pub of_http: bool,
    /// It is of an identity that a RequestAuthentication checks.
    pub of_token: bool,
    /// It stands in one of several sources or operations, so that the others can match without it.
    pub one_of_several: bool,
    pub values: &'r [String],
    pub what: What,
}

/// What of an attribute matters to what is told of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Port,
    Principal,
    Other,
}

/// All fields of a rule that have values, in order.
pub(super) fn given<'r>(rule: &'r Rule, namespace: &'r str) -> Vec<Given<'r>> {
    let mut found = Vec::new();
    let several = rule.sources().count() > 1;
    for (index, source) in rule.sources().enumerate() {
        let place = format!("from[{index}].source");
        for listed in of_source(source, namespace) {
            let fields = [
                (listed.fields.0, listed.values, false),
                (listed.fields.1, listed.not_values, true),
            ];
            add(
                &mut found,
                &place,
                fields,
                &of_principal(&listed.name),
                several,
            );
        }
    }
    let several = rule.operations().count() > 1;
    for (index, operation) in rule.operations().enumerate() {
        let place = format!("to[{index}].operation");
        for listed in of_operation(operation) {
            let fields = [
                (listed.fields.0, listed.values, false),
                (listed.fields.1, listed.not_values, true),
            ];
            add(
                &mut found,
                &place,
                fields,
                &of_permission(&listed.name),
                several,
            );
        }
    }
    for (index, condition) in rule.when.iter().enumerate() {
        let permission = PermissionName::of_key(&condition.key);
        let principal = PrincipalName::of_key(&condition.key, namespace);
        let traits = match (permission, principal) {
            (Some(name), _) => of_permission(&name),
            (None, Some(name)) => of_principal(&name),
            (None, None) => continue,
        };
        let fields = [
            ("values", condition.values.as_slice(), false),
            ("notValues", condition.not_values.as_slice(), true),
        ];
        add(
            &mut found,
            &format!("when[{index}]"),
            fields,
            &traits,
            false,
        );
    }
    found
}

/// Of HTTP, of a token, and what it is.
type Traits = (bool, bool, What);

fn of_permission(name: &PermissionName<'_>) -> Traits {
    let what = match name {
        PermissionName::Port => What::Port,
        _ => What::Other,
    };
    (name.is_http(), false, what)
}

fn of_principal(name: &PrincipalName<'_>) -> Traits {
    let what = match name {
        PrincipalName::Principal => What::Principal,
        _ => What::Other,
    };
    (name.is_http(), name.is_of_token(), what)
}

fn add<'r>(
    found: &mut Vec<Given<'r>>,
    place: &str,
    fields: [(&str, &'r [String], bool); 2],
    (of_http, of_token, what): &Traits,
    one_of_several: bool,
) {
    let fields = fields
        .into_iter()
        .filter(|(_, values, _)| !values.is_empty());
    found.extend(fields.map(|(field, values, negated)| Given {
        field: format!("{place}.{field}"),
        negated,
        of_http: *of_http,
        of_token: *of_token,
        one_of_several,
        values,
        what: *what,
    }));
}
