//! `exportTo` of Istio's objects: the namespaces whose proxies an object is for.

use std::collections::HashSet;

use crate::standalone::input::labels::is_dns_label;
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// All namespaces.
pub const EVERYBODY: &str = "*";
/// The object's own.
pub const OWN: &str = ".";

/// Istio's admission check.
pub(super) fn check(to: &[String], namespace: &str) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for name in to {
        let whole = if name == OWN { namespace } else { name };
        if !seen.insert(whole) {
            return Err(refusal("exportTo", format!("{name:?} is given twice")));
        }
        if whole != EVERYBODY && !is_dns_label(whole) {
            return Err(refusal("exportTo", format!("{name:?} is no namespace")));
        }
    }
    match seen.contains(EVERYBODY) && to.len() > 1 {
        true => Err(refusal("exportTo", "\"*\" may have nothing beside it")),
        false => Ok(()),
    }
}
