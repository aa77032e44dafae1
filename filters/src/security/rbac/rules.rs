//! The rules of a filter: those that decide, and shadow rules, which decide nothing. What they would have said becomes
//! dynamic metadata under the filter's name. Shadow rules are Istio's dry run, which logs and metrics tell of; and under a
//! prefix of their own those of CUSTOM policies, which say whether somebody is asked.

use std::sync::Arc;

use envoy_types::pb::envoy::config::rbac::v3::Rbac;

use crate::security::rbac::denial::Denials;
use crate::security::rbac::engine::Decision;
use crate::security::rbac::tally::{TalliedRules, Tally};
use crate::stream::explanation::{Purpose, RulesStep};
use crate::stream::stream_info::StreamInfo;
use crate::xds::rejected::Refusal;

/// What istiod's keys begin with where shadow rules are those of CUSTOM policies.
const ASKS: &str = "istio_ext_authz_";

/// Rules, each compiled to an `E`.
#[derive(Debug)]
pub(crate) struct Rules<E> {
    pub(crate) enforced: Option<E>,
    pub(crate) shadow: Option<E>,
    /// What the shadow is for.
    shadow_purpose: Purpose,
    /// Where the shadow says it: under the filter's name, with these keys.
    namespace: &'static str,
    policy_key: String,
    result_key: String,
}

impl<E> Rules<E> {
    /// `prefix` is what the shadow's keys begin with.
    pub(crate) fn new(
        namespace: &'static str,
        rules: Option<&Rbac>,
        shadow_rules: Option<&Rbac>,
        prefix: &str,
        compile: impl Fn(&Rbac) -> Result<E, Refusal>,
    ) -> Result<Rules<E>, Refusal> {
        let engine = |rules: Option<&Rbac>, field: &str| {
            let engine = rules.map(&compile).transpose();
            engine.map_err(|e| e.within(field))
        };
        Ok(Rules {
            enforced: engine(rules, "rules")?,
            shadow: engine(shadow_rules, "shadow_rules")?,
            shadow_purpose: match prefix.starts_with(ASKS) {
                true => Purpose::Asks,
                false => Purpose::DryRun,
            },
            namespace,
            policy_key: format!("{prefix}shadow_effective_policy_id"),
            result_key: format!("{prefix}shadow_engine_result"),
        })
    }

    /// Both with their numbers; `tally` has those of each.
    pub(crate) fn tallied(&self, tally: impl Fn(&E) -> &Arc<Tally>) -> Vec<TalliedRules> {
        let both = [
            (Purpose::Decides, &self.enforced),
            (self.shadow_purpose, &self.shadow),
        ];
        let tallied = both.into_iter().filter_map(|(purpose, rules)| {
            Some(TalliedRules {
                purpose,
                tally: tally(rules.as_ref()?).clone(),
            })
        });
        tallied.collect()
    }

    /// Writes down how both fare, where somebody asks why: `explain` tells it of each.
    pub(crate) fn explain(&self, stream: &StreamInfo, explain: impl Fn(&E, Purpose) -> RulesStep) {
        let Some(explanation) = stream.explanation() else {
            return;
        };
        let shadow = self.shadow.as_ref();
        let shadow = shadow.map(|rules| explain(rules, self.shadow_purpose));
        let enforced = self.enforced.as_ref();
        let enforced = enforced.map(|rules| explain(rules, Purpose::Decides));
        shadow
            .into_iter()
            .chain(enforced)
            .for_each(|step| explanation.rules(step));
    }

    /// Notes what the shadow says, if there is one: `decide` asks it.
    pub(crate) fn note_shadow(
        &self,
        stream: &StreamInfo,
        denials: &Denials,
        decide: impl FnOnce(&E) -> Decision,
    ) {
        let Some(shadow) = &self.shadow else {
            return;
        };
        let decision = decide(shadow);
        let verdict = match decision.allowed {
            true => "allowed",
            false => "denied",
        };
        let policy = decision.policy.as_deref();
        tracing::debug!(
            "shadow {verdict}, matched policy {}",
            policy.unwrap_or("none")
        );
        // Questions count for nothing.
        let counts = stream.explanation().is_none();
        if counts {
            denials.counters.shadow(decision.allowed);
        }
        let mut state = stream.state();
        if let Some(policy) = policy {
            let policy = policy.into();
            state.metadata.set(self.namespace, &self.policy_key, policy);
        }
        state
            .metadata
            .set(self.namespace, &self.result_key, verdict.into());
        if !decision.allowed && self.shadow_purpose == Purpose::DryRun {
            let denier = decision.denied_by.as_ref();
            if counts && let Some(denier) = denier {
                denier.count_dry_run(denials);
            }
            // The first that would have denied it, as nobody is asked after that.
            if state.dry_run_denied_by.is_none() {
                state.dry_run_denied_by = denier.map(|by| by.words().clone());
            }
        }
    }
}
