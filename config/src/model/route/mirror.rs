//! Mirrors of a route: clusters that get a copy of its requests, and whose answers nobody waits for.

use std::sync::Arc;

use envoy_types::pb::envoy::config::route::v3::route_action::RequestMirrorPolicy;
use waypoint_filters::matcher::fraction::{Fraction, RUNTIME_FRACTION};
use waypoint_filters::xds::coverage::well_known::BOOL_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::slot::ClusterSlot;
use crate::model::route::context::RouteContext;

/// A compiled `RequestMirrorPolicy`.
#[derive(Debug)]
pub struct Mirror {
    pub cluster: Arc<ClusterSlot>,
    /// Whether the copy's host says what it is, with `-shadow` at its end.
    pub marks_host: bool,
    share: Fraction,
}

pub(crate) static REQUEST_MIRROR_POLICY: Table = Table {
    name: "envoy.config.route.v3.RouteAction.RequestMirrorPolicy",
    fields: &[
        honoured(1, "cluster"),
        honoured(3, "runtime_fraction").of(&RUNTIME_FRACTION),
        harmless(
            4,
            "trace_sampled",
            "copies have no spans, and the context that they carry is never sampled",
        )
        .of(&BOOL_VALUE),
        honoured(6, "disable_shadow_host_suffix_append"),
    ],
    refused: "5 cluster_header, 7 request_headers_mutations, 8 host_rewrite_literal",
    required: &[required("cluster", &[1])],
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
                .map_or(Ok(Fraction::ALL), Fraction::of_runtime)
                .map_err(|e| e.within("runtime_fraction"))?,
        })
    }

    /// Whether a request is mirrored, by a random number.
    pub fn applies(&self, random: u64) -> bool {
        self.share.applies(random)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::RuntimeFractionalPercent;
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
    use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

    use waypoint_filters::xds::omitted::Omissions;

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
            omissions: &Omissions::default(),
            max_direct_response: 0,
            takes_connect: false,
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
