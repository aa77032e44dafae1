//! The rules of a filter: those that decide, and shadow rules (Istio's dry run), which decide nothing. What they would
//! have said becomes dynamic metadata under the filter's name, for logs and spans.

use envoy_types::pb::envoy::config::rbac::v3::Rbac;

use crate::rbac::engine::Decision;
use crate::stream::stream_info::StreamInfo;
use crate::xds::rejected::Refusal;

/// Rules, each compiled to an `E`.
#[derive(Debug)]
pub(crate) struct Rules<E> {
    pub(crate) enforced: Option<E>,
    shadow: Option<E>,
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
            namespace,
            policy_key: format!("{prefix}shadow_effective_policy_id"),
            result_key: format!("{prefix}shadow_engine_result"),
        })
    }

    /// Notes what the shadow says, if there is one: `decide` asks it.
    pub(crate) fn note_shadow(&self, stream: &StreamInfo, decide: impl FnOnce(&E) -> Decision) {
        let Some(shadow) = &self.shadow else {
            return;
        };
        let decision = decide(shadow);
        let metadata = &mut stream.state().metadata;
        if let Some(policy) = &decision.policy {
            metadata.set(self.namespace, &self.policy_key, policy.as_ref().into());
        }
        let verdict = match decision.allowed {
            true => "allowed",
            false => "denied",
        };
        metadata.set(self.namespace, &self.result_key, verdict.into());
    }
}
