//! The attributes of a rule, each with the fields that it stands in: one list for the translation and for what is
//! told of it, so that nothing can be in one and not in the other.

use crate::standalone::kinds::istio::authorization_condition::Attribute;
use crate::standalone::kinds::istio::authorization_rule::{Operation, Rule, Source};
use crate::standalone::translate::security::rbac_permission::PermissionName;
use crate::standalone::translate::security::rbac_principal::PrincipalName;

/// An attribute of a source or an operation.
pub(crate) struct Listed<'r, N> {
    pub name: N,
    /// Of the values, and of those that it must not have.
    pub fields: (&'static str, &'static str),
    pub values: &'r [String],
    pub not_values: &'r [String],
}

pub(crate) fn of_operation(operation: &Operation) -> [Listed<'_, PermissionName<'_>>; 4] {
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
pub(crate) fn of_source<'r>(
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

/// The side of an RBAC policy that an attribute belongs to.
pub(crate) enum Side<'r> {
    Permission(PermissionName<'r>),
    Principal(PrincipalName<'r>),
}

/// `namespace` is the policy's own.
pub(crate) fn of_condition<'r>(attribute: &'r Attribute, namespace: &'r str) -> Side<'r> {
    Side::Principal(match attribute {
        Attribute::DestinationIp => return Side::Permission(PermissionName::DestinationIp),
        Attribute::DestinationPort => return Side::Permission(PermissionName::Port),
        Attribute::ServerName => return Side::Permission(PermissionName::ServerName),
        Attribute::FilterMetadata { filter, key } => {
            return Side::Permission(PermissionName::FilterMetadata { filter, key });
        }
        Attribute::SourceIp => PrincipalName::SourceIp,
        Attribute::RemoteIp => PrincipalName::RemoteIp,
        Attribute::SourceNamespace => PrincipalName::Namespace,
        Attribute::SourcePrincipal => PrincipalName::Principal,
        Attribute::SourceServiceAccount => PrincipalName::ServiceAccount { namespace },
        Attribute::SourceTrustDomain => PrincipalName::TrustDomain,
        Attribute::RequestPrincipal => PrincipalName::RequestPrincipal,
        Attribute::RequestAudiences => PrincipalName::Claim(vec!["aud"]),
        Attribute::RequestPresenter => PrincipalName::Claim(vec!["azp"]),
        Attribute::RequestHeader(name) => PrincipalName::Header(name),
        Attribute::RequestClaim(path) => {
            PrincipalName::Claim(path.iter().map(String::as_str).collect())
        }
    })
}

/// A field of a rule that has values.
pub(crate) struct Given<'r> {
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
pub(crate) enum What {
    Port,
    Principal,
    Other,
}

/// All fields of a rule that have values, in order.
pub(crate) fn given<'r>(rule: &'r Rule, namespace: &'r str) -> Vec<Given<'r>> {
    let mut found = Vec::new();
    let several = rule.sources.len() > 1;
    for (index, source) in rule.sources.iter().enumerate() {
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
    let several = rule.operations.len() > 1;
    for (index, operation) in rule.operations.iter().enumerate() {
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
        let traits = match of_condition(&condition.attribute, namespace) {
            Side::Permission(name) => of_permission(&name),
            Side::Principal(name) => of_principal(&name),
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
