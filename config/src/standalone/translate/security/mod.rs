//! Guards as filters: what an AuthorizationPolicy says, as Envoy's RBAC, and what a RequestAuthentication does.

pub(super) mod authorization;
mod ext_authz;
mod jwt;
mod rbac_permission;
pub(super) mod rbac_policy;
pub(super) mod rbac_principal;
mod rbac_rule;
pub(super) mod rule_attributes;
mod value_matcher;
