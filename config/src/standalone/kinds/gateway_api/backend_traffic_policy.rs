//! XBackendTrafficPolicy as the Gateway API's CRD (experimental channel) lets it through: how many retries a service's clients may make.
//!
//! Unknown fields are refused by name. `sessionPersistence` is read as far as the API server checks it.

use std::collections::HashSet;
use std::time::Duration;

use serde::Deserialize;

use crate::standalone::input::duration::parse_duration;
use crate::standalone::input::manifest::{Manifest, Object};
use crate::standalone::input::problem::LoadError;
use crate::standalone::input::schema::{self, Row, Rule};
use crate::standalone::kinds::gateway_api::http_route_schema::is_duration;
use crate::standalone::kinds::gateway_api::policy_target::{PolicyTarget, TARGETS, is_ignored};
use crate::standalone::kinds::gateway_api::session_persistence::SessionPersistence;
use crate::standalone::kinds::refusal::{Refusal, below, refusal};

#[derive(Clone, Debug, PartialEq)]
pub struct BackendTrafficPolicy {
    pub targets: Vec<PolicyTarget>,
    pub retries: Option<RetryConstraint>,
    pub has_session_persistence: bool,
    /// It asks not to be looked at.
    pub ignored: bool,
}

/// How many retries there may be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RetryConstraint {
    /// Of the requests of an interval.
    pub percent: u32,
    pub interval: Duration,
    /// So many at least, in an interval of their own, which counts for nothing with istiod.
    pub least: u32,
    pub has_least_interval: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    target_refs: Vec<PolicyTarget>,
    #[serde(default)]
    retry_constraint: Option<WireConstraint>,
    #[serde(default)]
    session_persistence: Option<SessionPersistence>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct WireConstraint {
    #[serde(default)]
    budget: Budget,
    #[serde(default)]
    min_retry_rate: Option<Rate>,
}

#[derive(Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Budget {
    percent: Option<u32>,
    interval: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Rate {
    count: Option<u32>,
    interval: Option<String>,
}

/// What the API has where a rate is given without, and where there is none.
const LEAST: u32 = 10;
const PERCENT: u32 = 20;
const INTERVAL: Duration = Duration::from_secs(10);

const SPEC: &[Row] = &[
    ("retryConstraint.budget.percent", Rule::Between(0, 100)),
    (
        "retryConstraint.budget.interval",
        Rule::Form(is_duration, "duration"),
    ),
    (
        "retryConstraint.minRetryRate.count",
        Rule::Between(1, 1_000_000),
    ),
    (
        "retryConstraint.minRetryRate.interval",
        Rule::Form(is_duration, "duration"),
    ),
    (
        "sessionPersistence.absoluteTimeout",
        Rule::Form(is_duration, "duration"),
    ),
    ("sessionPersistence.sessionName", Rule::Length(0, 128)),
];

impl BackendTrafficPolicy {
    /// # Errors
    /// What the API server would refuse, and fields that nobody knows.
    pub fn read(manifest: &Manifest) -> Result<Object<BackendTrafficPolicy>, LoadError> {
        manifest.has_only_spec_and_status()?;
        let spec: Spec = manifest.part("spec")?;
        schema::check(manifest, "spec", TARGETS)?;
        schema::check(manifest, "spec", SPEC)?;
        let at = |(field, reason): Refusal| manifest.refused(format!("spec.{field}"), reason);
        check_targets(&spec.target_refs).map_err(at)?;
        if let Some(persistence) = &spec.session_persistence {
            persistence
                .check()
                .map_err(below("sessionPersistence"))
                .map_err(at)?;
        }
        let retries = spec.retry_constraint.map(WireConstraint::read);
        Ok(manifest.object(BackendTrafficPolicy {
            targets: spec.target_refs,
            retries: retries.transpose().map_err(at)?,
            has_session_persistence: spec.session_persistence.is_some(),
            ignored: is_ignored(&manifest.meta),
        }))
    }
}

fn check_targets(targets: &[PolicyTarget]) -> Result<(), Refusal> {
    let mut seen = HashSet::new();
    for (index, target) in targets.iter().enumerate() {
        if target.section_name.is_some() {
            let field = format!("targetRefs[{index}].sectionName");
            return Err(refusal(field, "unknown field"));
        }
        if !seen.insert((&target.group, &target.kind, &target.name)) {
            let reason = "names what another target names";
            return Err(refusal(format!("targetRefs[{index}]"), reason));
        }
    }
    Ok(())
}

impl WireConstraint {
    fn read(self) -> Result<RetryConstraint, Refusal> {
        let hour = Duration::from_secs(3600);
        let parsed = |text: Option<&String>| text.and_then(|text| parse_duration(text));
        let interval = parsed(self.budget.interval.as_ref()).unwrap_or(INTERVAL);
        if !(Duration::from_secs(1)..=hour).contains(&interval) {
            let field = "retryConstraint.budget.interval";
            return Err(refusal(field, "must be between 1s and 1h"));
        }
        let rate = self.min_retry_rate;
        let of_rate = rate.as_ref().and_then(|rate| rate.interval.as_ref());
        if parsed(of_rate).is_some_and(|interval| interval.is_zero() || interval > hour) {
            let field = "retryConstraint.minRetryRate.interval";
            return Err(refusal(field, "must be more than 0s and at most 1h"));
        }
        Ok(RetryConstraint {
            percent: self.budget.percent.unwrap_or(PERCENT),
            interval,
            least: rate.as_ref().and_then(|rate| rate.count).unwrap_or(LEAST),
            has_least_interval: of_rate.is_some(),
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn policy(spec: &str) -> Result<BackendTrafficPolicy, String> {
        let text = format!(
            "{{apiVersion: gateway.networking.x-k8s.io/v1alpha1, kind: XBackendTrafficPolicy, metadata: {{name: p}}, \
              spec: {{targetRefs: [{{group: '', kind: Service, name: s}}], {spec}}}}}"
        );
        let read = BackendTrafficPolicy::read(&Manifest::of(&text));
        read.map(|object| object.spec)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn what_is_left_out_is_what_the_api_says() {
        let found = policy("retryConstraint: {}").unwrap().retries.unwrap();
        assert_eq!((found.percent, found.least), (20, 10));
        assert_eq!(found.interval, INTERVAL);
        let given = "retryConstraint: {budget: {percent: 5, interval: 1m30s}, minRetryRate: {count: 2, interval: 1s}}";
        let found = policy(given).unwrap().retries.unwrap();
        assert_eq!((found.percent, found.least), (5, 2));
        assert_eq!(found.interval, Duration::from_secs(90));
        assert!(found.has_least_interval);
        assert_eq!(policy("").unwrap().retries, None);
    }

    #[test]
    fn what_the_api_server_refuses_is_no_policy() {
        for (spec, field) in [
            (
                "retryConstraint: {budget: {percent: 101}}",
                "spec.retryConstraint.budget.percent",
            ),
            (
                "retryConstraint: {budget: {interval: 500ms}}",
                "spec.retryConstraint.budget.interval",
            ),
            (
                "retryConstraint: {budget: {interval: 1.5s}}",
                "spec.retryConstraint.budget.interval",
            ),
            (
                "retryConstraint: {minRetryRate: {interval: 0s}}",
                "spec.retryConstraint.minRetryRate.interval",
            ),
            (
                "retryConstraint: {minRetryRate: {count: 0}}",
                "spec.retryConstraint.minRetryRate.count",
            ),
            (
                "sessionPersistence: {type: Header, cookieConfig: {}}",
                "spec.sessionPersistence.cookieConfig",
            ),
            (
                "sessionPersistence: {cookieConfig: {lifetimeType: Permanent}}",
                "spec.sessionPersistence.absoluteTimeout",
            ),
            ("retries: {}", "retries"),
        ] {
            let error = policy(spec).unwrap_err();
            assert!(error.contains(field), "{spec}: {error}");
        }
    }
}
