//! Telemetry of telemetry.istio.io as Istio's CRD and admission check let it through: what is measured, logged and traced.
//!
//! Unknown fields are refused by name. Which objects count where, and how they are merged, is the translator's affair
//! (`translate/telemetry/`).

pub mod access_logging;
pub mod metrics;
pub mod scope;
pub mod tracing;

use serde::Deserialize;
use serde_json::Value;

use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{self, Row, Rule};
use crate::standalone::kinds::istio::selector::Selector;
use crate::standalone::kinds::istio::telemetry::access_logging::AccessLogging;
use crate::standalone::kinds::istio::telemetry::metrics::Metrics;
use crate::standalone::kinds::istio::telemetry::tracing::Tracing;
use crate::standalone::kinds::target_ref::{self, Target, TargetRef};

#[derive(Clone, Debug, PartialEq)]
pub struct Telemetry {
    pub targets: Vec<Target>,
    /// The target was written as `targetRef`.
    pub single_target: bool,
    /// It selects pods: those of sidecars, for a waypoint knows targets only.
    pub selects: bool,
    pub metrics: Vec<Metrics>,
    pub access_logging: Vec<AccessLogging>,
    pub tracing: Vec<Tracing>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Spec {
    selector: Option<Selector>,
    target_ref: Option<TargetRef>,
    #[serde(rename = "targetRefs")]
    _target_refs: Option<Vec<TargetRef>>,
    metrics: Vec<Metrics>,
    access_logging: Vec<AccessLogging>,
    tracing: Vec<Tracing>,
}

const SOME: Rule = Rule::Length(1, usize::MAX);

/// What the CRD says of single fields.
const SCHEMA: &[Row] = &[
    ("metrics[].providers[].name", SOME),
    ("metrics[].overrides[].match.customMetric", SOME),
    ("accessLogging[].providers[].name", SOME),
    ("tracing[].providers[].name", SOME),
    ("tracing[].customTags{}.literal.value", SOME),
    ("tracing[].customTags{}.environment.name", SOME),
    ("tracing[].customTags{}.header.name", SOME),
    ("tracing[].customTags{}.formatter.value", SOME),
];

impl Telemetry {
    /// # Errors
    /// What the API server and istiod's admission check refuse, with its field.
    pub fn read(manifest: &Manifest) -> Result<Object<Telemetry>, LoadError> {
        target_ref::check(manifest)?;
        schema::check(manifest, "spec", SCHEMA)?;
        let part = |path, check: fn(&Value) -> Result<(), (String, String)>| {
            schema::each(manifest, "spec", path, |value, field| {
                check(value).map_err(|(inner, reason)| match inner.as_str() {
                    "" => (field.to_owned(), reason),
                    inner => (format!("{field}.{inner}"), reason),
                })
            })
        };
        part("metrics[].overrides[].match", metrics::check_match)?;
        part("metrics[].overrides[].tagOverrides{}", metrics::check_tag)?;
        part("metrics[].reportingInterval", metrics::check_interval)?;
        part("accessLogging[].filter", access_logging::check_filter)?;
        part("tracing[]", tracing::check)?;
        part("tracing[].customTags{}", tracing::check_tag)?;
        let spec: Spec = match manifest.body.get("spec") {
            Some(_) => manifest.part("spec")?,
            None => Spec::default(),
        };
        if let Some(selector) = &spec.selector {
            let refused = |(field, reason)| manifest.refused(format!("spec.{field}"), reason);
            selector.check().map_err(refused)?;
        }
        let targets = target_ref::of_unknown(manifest)
            .map_err(|(field, reason)| manifest.refused(field, reason))?;
        Ok(manifest.object(Telemetry {
            targets,
            single_target: spec.target_ref.is_some(),
            selects: spec.selector.is_some_and(|selector| selector.selects()),
            metrics: spec.metrics,
            access_logging: spec.access_logging,
            tracing: spec.tracing,
        }))
    }

    /// Whether it is for all of a namespace, or of the mesh.
    pub fn is_wide(&self) -> bool {
        self.targets.is_empty() && !self.selects
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(spec: &str) -> Result<Telemetry, LoadError> {
        let text = format!(
            "{{apiVersion: telemetry.istio.io/v1, kind: Telemetry, metadata: {{name: t}}, spec: {spec}}}"
        );
        Telemetry::read(&Manifest::of(&text)).map(|object| object.spec)
    }

    #[test]
    fn whom_it_is_for() {
        assert!(read("{}").unwrap().is_wide());
        assert!(read("{selector: {}}").unwrap().is_wide());
        assert!(!read("{selector: {matchLabels: {a: b}}}").unwrap().is_wide());
        let web = read("{targetRef: {group: '', kind: Service, name: web}}").unwrap();
        assert!(!web.is_wide() && web.single_target);
    }

    #[test]
    fn what_istiod_refuses_is_refused_by_field() {
        for (spec, field) in [
            ("{metric: []}", "metric"),
            ("{selector: {}, targetRefs: []}", "targetRefs"),
            (
                "{targetRefs: [{kind: Pod, group: '', name: x}]}",
                "targetRefs[0]",
            ),
            ("{metrics: [{providers: [{}]}]}", "metrics[0].providers[0]"),
            (
                "{metrics: [{providers: [{name: ''}]}]}",
                "metrics[0].providers[0].name",
            ),
            (
                "{metrics: [{overrides: [{match: {metric: REQUESTS}}]}]}",
                "metrics[0].overrides[0].match.metric",
            ),
            (
                "{metrics: [{overrides: [{match: {metric: REQUEST_COUNT, customMetric: x}}]}]}",
                "metrics[0].overrides[0].match",
            ),
            (
                "{metrics: [{overrides: [{match: {mode: BOTH}}]}]}",
                "metrics[0].overrides[0].match.mode",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {a: {}}}]}]}",
                "metrics[0].overrides[0].tagOverrides.a",
            ),
            (
                "{metrics: [{overrides: [{tagOverrides: {a: {operation: REMOVE, value: b}}}]}]}",
                "metrics[0].overrides[0].tagOverrides.a.value",
            ),
            (
                "{metrics: [{reportingInterval: 100us}]}",
                "metrics[0].reportingInterval",
            ),
            (
                "{accessLogging: [{filter: {expression: 'a b'}}]}",
                "accessLogging[0].filter.expression",
            ),
            (
                "{accessLogging: [{disabled: 1}]}",
                "accessLogging[0].disabled",
            ),
            (
                "{tracing: [{randomSamplingPercentage: 100.5}]}",
                "tracing[0].randomSamplingPercentage",
            ),
            (
                "{tracing: [{customTags: {'': {literal: {value: x}}}}]}",
                "tracing[0].customTags",
            ),
            (
                "{tracing: [{customTags: {a: {literal: {value: x}, header: {name: y}}}}]}",
                "tracing[0].customTags.a",
            ),
            (
                "{tracing: [{customTags: {a: {header: {}}}}]}",
                "tracing[0].customTags.a.header",
            ),
        ] {
            let found = read(spec).unwrap_err().field.unwrap();
            assert!(
                found.starts_with(&format!("spec.{field}")),
                "{spec}: {found}"
            );
        }
    }
}
