//! What an attribute of a policy becomes: a permission or a principal, or that it can't be told.

use envoy_types::pb::envoy::config::rbac::v3 as rbac;
use rbac::permission::Rule as PermissionRule;
use rbac::principal::Identifier;
use rbac::{Permission, Principal};

/// The attribute can't be told on this chain, or isn't understood.
pub(crate) struct CannotTell;

pub(crate) fn permission(rule: PermissionRule) -> Permission {
    Permission { rule: Some(rule) }
}

pub(crate) fn principal(identifier: Identifier) -> Principal {
    Principal {
        identifier: Some(identifier),
    }
}
