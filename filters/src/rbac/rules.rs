//! The rules of a filter: those that decide, and shadow rules (Istio's dry run), which decide nothing. What they would
//! have said becomes dynamic metadata under the filter's name, for logs and spans.

use envoy_types::pb::envoy::config::rbac::v3::Rbac;

use crate::rbac::engine::Decision;
use crate::rejected::Refusal;
use crate::stream_info::StreamInfo;

/// Rules, each compiled to an `E`.
#[derive(Debug)]
pub(crate) struct Rules<E> {
    pub(crate) enforced: Option<E>,
    shadow: Option<Shadow<E>>,
}

#[derive(Debug)]
struct Shadow<E> {
    engine: E,
    /// The filter's name.
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
        let shadow = |engine| Shadow {
            engine,
            namespace,
            policy_key: format!("{prefix}shadow_effective_policy_id"),
            result_key: format!("{prefix}shadow_engine_result"),
        };
        Ok(Rules {
            enforced: engine(rules, "rules")?,
            shadow: engine(shadow_rules, "shadow_rules")?.map(shadow),
        })
    }

    /// Notes what the shadow says, if there is one: `decide` asks it.
    pub(crate) fn note_shadow(&self, stream: &StreamInfo, decide: impl FnOnce(&E) -> Decision) {
        let Some(shadow) = &self.shadow else {
            return;
        };
        let decision = decide(&shadow.engine);
        let metadata = &mut stream.state().metadata;
        if let Some(policy) = &decision.policy {
            metadata.set(shadow.namespace, &shadow.policy_key, policy.as_ref().into());
        }
        let verdict = match decision.allowed {
            true => "allowed",
            false => "denied",
        };
        metadata.set(shadow.namespace, &shadow.result_key, verdict.into());
    }
}
