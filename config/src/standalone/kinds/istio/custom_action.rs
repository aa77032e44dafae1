//! What rules of a policy with the action CUSTOM may say.
//!
//! The provider is asked before tokens are checked, and istiod's admission check lets such rules say nothing of who
//! sends but addresses.

use serde_json::Value;

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema;
use crate::standalone::kinds::refusal::{Refusal, refusal};

const SOURCE: &[&str] = &[
    "namespaces",
    "notNamespaces",
    "notPrincipals",
    "notRequestPrincipals",
    "notServiceAccounts",
    "notTrustDomains",
    "principals",
    "requestPrincipals",
    "serviceAccounts",
    "trustDomains",
];
const KEYS: &[&str] = &[
    "source.namespace",
    "source.principal",
    "source.serviceAccount",
    "source.trustDomain",
];
const REASON: &str = "is not for the action CUSTOM";

pub(super) fn check(manifest: &Manifest) -> Result<(), LoadError> {
    schema::each(manifest, "spec", "rules[].from[].source", source)?;
    schema::each(manifest, "spec", "rules[].when[].key", key)
}

fn source(value: &Value, field: &str) -> Result<(), Refusal> {
    let given = |name: &&&str| {
        let list = value.get(**name).and_then(Value::as_array);
        list.is_some_and(|values| !values.is_empty())
    };
    match SOURCE.iter().find(given) {
        Some(name) => Err(refusal(format!("{field}.{name}"), REASON)),
        None => Ok(()),
    }
}

fn key(value: &Value, field: &str) -> Result<(), Refusal> {
    let key = value.as_str().unwrap_or_default();
    if KEYS.contains(&key) || key.starts_with("request.auth.") {
        return Err(refusal(field, format!("{key} {REASON}")));
    }
    Ok(())
}
