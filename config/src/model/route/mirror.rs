//! Mirrors of a route: clusters that get a copy of its requests, and whose answers nobody waits for.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;
use waypoint_filters::xds::coverage::well_known::BOOL_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::ClusterSlot;
use crate::model::route::context::RouteContext;

/// A compiled `RequestMirrorPolicy`.
#[derive(Debug)]
pub struct Mirror {
    pub cluster: Arc<ClusterSlot>,
    /// Whether the copy's host says what it is, with `-shadow` at its end.
    pub marks_host: bool,
    share: Share,
}

/// `numerator` of `denominator`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Share {
    numerator: u32,
    denominator: u32,
}

pub(crate) static REQUEST_MIRROR_POLICY: Table = Table {
    name: "envoy.config.route.v3.RouteAction.RequestMirrorPolicy",
    fields: &[
        honoured(1, "cluster"),
        honoured(3, "runtime_fraction").of(&RUNTIME_FRACTION),
        harmless(4, "trace_sampled", "no tracer is built").of(&BOOL_VALUE),
        honoured(6, "disable_shadow_host_suffix_append"),
    ],
    refused: "5 cluster_header, 7 request_headers_mutations, 8 host_rewrite_literal",
    required: &[required("cluster", &[1])],
};

static RUNTIME_FRACTION: Table = Table {
    name: "envoy.config.core.v3.RuntimeFractionalPercent",
    fields: &[
        honoured(1, "default_value").of(&FRACTION),
        harmless(
            2,
            "runtime_key",
            "there is no runtime that could override the value",
        ),
    ],
    refused: "",
    required: &[required("default_value", &[1])],
};

static FRACTION: Table = Table {
    name: "envoy.type.v3.FractionalPercent",
    fields: &[honoured(1, "numerator"), honoured(2, "denominator")],
    refused: "",
    required: &[],
};

impl Mirror {
    pub(crate) fn from_proto(
        proto: &RequestMirrorPolicy,
        context: &RouteContext<'_>,
    ) -> Result<Mirror, Refusal> {
        let fraction = proto.runtime_fraction.as_ref();
        Ok(Mirror {
            cluster: (context.slot)(&proto.cluster),
            marks_host: !proto.disable_shadow_host_suffix_append,
            share: fraction
                .map_or(Ok(Share::ALL), Share::from_proto)
                .map_err(|e| e.within("runtime_fraction"))?,
        })
    }

    /// Whether a request is mirrored, by a random number.
    pub fn applies(&self, random: u64) -> bool {
        random % u64::from(self.share.denominator.max(1)) < u64::from(self.share.numerator)
    }
}

impl Share {
    const ALL: Share = Share {
        numerator: 1,
        denominator: 1,
    };

    fn from_proto(proto: &RuntimeFractionalPercent) -> Result<Share, Refusal> {
        let value = proto.default_value.as_ref();
        let value = value.ok_or_else(|| Refusal::missing("default_value"))?;
        let denominator = match DenominatorType::try_from(value.denominator) {
            Ok(DenominatorType::Hundred) => 100,
            Ok(DenominatorType::TenThousand) => 10_000,
            Ok(DenominatorType::Million) => 1_000_000,
            Err(_) => {
                let reason = format!("unknown value {}", value.denominator);
                return Err(Refusal::new("default_value.denominator", reason));
            }
        };
        Ok(Share {
            numerator: value.numerator,
            denominator,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;

    use super::*;

    fn mirror(numerator: u32, denominator: i32) -> Result<Mirror, Refusal> {
        let proto = RequestMirrorPolicy {
            cluster: "shadow".into(),
            runtime_fraction: Some(RuntimeFractionalPercent {
                default_value: Some(FractionalPercent {
                    numerator,
                    denominator,
                }),
                ..RuntimeFractionalPercent::default()
            }),
            ..RequestMirrorPolicy::default()
        };
        let context = RouteContext {
            slot: &|name| Arc::new(ClusterSlot::missing(name)),
            filters: &[],
            max_direct_response: 0,
        };
        Mirror::from_proto(&proto, &context)
    }

    #[test]
    fn as_many_are_mirrored_as_the_fraction_says() {
        let of_200 = |mirror: &Mirror| (0..200).filter(|random| mirror.applies(*random)).count();
        assert_eq!(
            of_200(&mirror(25, DenominatorType::Hundred as i32).unwrap()),
            50
        );
        assert_eq!(
            of_200(&mirror(0, DenominatorType::Hundred as i32).unwrap()),
            0
        );
        assert_eq!(
            of_200(&mirror(100, DenominatorType::Million as i32).unwrap()),
            100
        );
        assert_eq!(
            of_200(&mirror(300, DenominatorType::Hundred as i32).unwrap()),
            200
        );
        let refusal = mirror(1, 7).unwrap_err().to_string();
        assert!(
            refusal.contains("runtime_fraction.default_value.denominator"),
            "{refusal}"
        );
    }
}
