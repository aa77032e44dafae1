//! The annotation `istio.io/dry-run`: a policy is evaluated and told, not enforced.

use crate::standalone::input::manifest::Manifest;
use crate::standalone::input::problem::LoadError;

const DRY_RUN: &str = "istio.io/dry-run";

/// What the annotation says. Where it isn't `allowed` it may not stand at all: the author would think that
/// nothing is enforced.
pub(super) fn read(manifest: &Manifest, allowed: Result<(), &str>) -> Result<bool, LoadError> {
    let Some(value) = manifest.meta.annotation(DRY_RUN) else {
        return Ok(false);
    };
    let refused = |reason: String| {
        let field = format!("metadata.annotations[{DRY_RUN}]");
        Err(manifest.refused(field, reason))
    };
    match (allowed, value) {
        (Err(reason), _) => refused(reason.to_owned()),
        (Ok(()), "true" | "True" | "TRUE" | "1" | "t" | "T") => Ok(true),
        (Ok(()), "false" | "False" | "FALSE" | "0" | "f" | "F") => Ok(false),
        (Ok(()), other) => refused(format!("{other:?} is no boolean")),
    }
}
