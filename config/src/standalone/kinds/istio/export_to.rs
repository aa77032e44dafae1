//! `exportTo` of Istio's objects: the namespaces whose proxies an object is for.

use std::collections::HashSet;

use crate::standalone::input::labels::is_dns_label;
use crate::standalone::kinds::refusal::{Refusal, refusal};

/// All namespaces.
pub const EVERYBODY: &str = "*";
/// The object's own.
pub const OWN: &str = ".";

/// No namespace, whatever stands beside it.
pub(super) const NOBODY: &str = "~";

/// Whether what is exported to these from the namespace `own` reaches another; an empty list does.
pub fn reaches(to: &[String], own: &str, namespace: &str) -> bool {
    let has = |name: &str| to.iter().any(|to| to == name);
    to.is_empty()
        || has(EVERYBODY)
        || (!has(NOBODY) && (has(namespace) || (has(OWN) && own == namespace)))
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn namespaces_that_are_reached() {
        for (to, own, namespace, expected) in [
            (&[][..], "a", "b", true),
            (&["*"], "a", "b", true),
            (&["*", "~"], "a", "b", true),
            (&["."], "a", "a", true),
            (&["."], "a", "b", false),
            (&["b", "c"], "a", "b", true),
            (&["b"], "a", "a", false),
            (&["~"], "a", "a", false),
            (&["~", "b"], "a", "b", false),
        ] {
            let to: Vec<String> = to.iter().map(|to| (*to).to_owned()).collect();
            assert_eq!(
                reaches(&to, own, namespace),
                expected,
                "{to:?} {own} {namespace}"
            );
        }
    }
}
