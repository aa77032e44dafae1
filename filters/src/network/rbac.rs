//! `envoy.filters.network.rbac`: lets a connection pass, or closes it.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::network::rbac::v3::Rbac;

use crate::coverage::{OWN_COUNTERS, Table, harmless, honoured};
use crate::network::{BuiltNetworkFilter, NetworkFilter, Verdict};
use crate::rbac::engine::{Engine, RBAC};
use crate::rejected::Refusal;
use crate::stream_info::StreamInfo;

pub(super) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
const NAMESPACE: &str = "envoy.filters.network.rbac";

pub(super) static CONFIG: Table = Table {
    name: "envoy.extensions.filters.network.rbac.v3.RBAC",
    fields: &[
        honoured(1, "rules").of(&RBAC),
        honoured(2, "shadow_rules").of(&RBAC),
        harmless(3, "stat_prefix", OWN_COUNTERS),
        honoured(5, "shadow_rules_stat_prefix"),
    ],
    refused: "4 enforcement_type, 6 matcher, 7 shadow_matcher, 8 delay_deny",
    required: &[],
};

#[derive(Debug)]
struct RbacFilter {
    enforced: Option<Engine>,
    shadow: Option<Engine>,
    shadow_prefix: Arc<str>,
}

pub(super) fn build(proto: &Rbac) -> Result<BuiltNetworkFilter, Refusal> {
    let engine = |rules: &Option<_>, field: &str| {
        rules
            .as_ref()
            .map(Engine::from_proto)
            .transpose()
            .map_err(|e: Refusal| e.within(field))
    };
    Ok(BuiltNetworkFilter {
        filter: Some(Box::new(RbacFilter {
            enforced: engine(&proto.rules, "rules")?,
            shadow: engine(&proto.shadow_rules, "shadow_rules")?,
            shadow_prefix: proto.shadow_rules_stat_prefix.as_str().into(),
        })),
        ..BuiltNetworkFilter::default()
    })
}

impl NetworkFilter for RbacFilter {
    fn on_connection(&self, stream: &StreamInfo) -> Verdict {
        if let Some(shadow) = &self.shadow {
            let decision = shadow.bind(&stream.connection).decide_connection();
            let mut state = stream.state();
            let prefix = &self.shadow_prefix;
            if let Some(policy) = &decision.policy {
                let key = format!("{prefix}shadow_effective_policy_id");
                state.metadata.set(NAMESPACE, &key, policy.as_ref().into());
            }
            let verdict = if decision.allowed {
                "allowed"
            } else {
                "denied"
            };
            state.metadata.set(
                NAMESPACE,
                &format!("{prefix}shadow_engine_result"),
                verdict.into(),
            );
        }
        let Some(engine) = &self.enforced else {
            return Verdict::Continue;
        };
        let decision = engine.bind(&stream.connection).decide_connection();
        if decision.allowed {
            Verdict::Continue
        } else {
            Verdict::Close(decision.details().into())
        }
    }
}
