//! Whether a filter asks at all: a share of all streams, those with certain metadata, and what becomes of the others.

use envoy_types::pb::envoy::config::core::v3::{RuntimeFeatureFlag, RuntimeFractionalPercent};
use envoy_types::pb::envoy::r#type::matcher::v3::MetadataMatcher as MetadataMatcherProto;
use envoy_types::pb::envoy::r#type::v3::fractional_percent::DenominatorType;

use crate::matcher::metadata::MetadataMatcher;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

const NO_RUNTIME: &str = "there is no runtime that could override the value";

pub(crate) static RUNTIME_FRACTION: Table = Table {
    name: "envoy.config.core.v3.RuntimeFractionalPercent",
    fields: &[
        honoured(1, "default_value").of(&FRACTION),
        harmless(2, "runtime_key", NO_RUNTIME),
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

pub(crate) static FEATURE_FLAG: Table = Table {
    name: "envoy.config.core.v3.RuntimeFeatureFlag",
    fields: &[
        honoured(1, "default_value").of(&BOOL_VALUE),
        harmless(2, "runtime_key", NO_RUNTIME),
    ],
    refused: "",
    required: &[required("default_value", &[1])],
};

/// Whom a filter asks about.
#[derive(Debug, Default)]
pub(crate) struct Enabled {
    /// So many of so many; `None`: all.
    share: Option<(u32, u32)>,
    /// What an earlier filter has noted: istiod's way to ask about what a policy's rules match.
    metadata: Option<MetadataMatcher>,
    /// Whether the others are denied.
    denies_others: bool,
}

/// What is to be done with a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Yes,
    /// It may pass.
    No,
    Denied,
}

impl Enabled {
    pub(crate) fn from_proto(
        share: Option<&RuntimeFractionalPercent>,
        metadata: Option<&MetadataMatcherProto>,
        denies_others: Option<&RuntimeFeatureFlag>,
    ) -> Result<Enabled, Refusal> {
        let metadata = metadata.map(MetadataMatcher::from_proto).transpose();
        let denies = denies_others.and_then(|flag| flag.default_value.as_ref());
        Ok(Enabled {
            share: share
                .map(fraction)
                .transpose()
                .map_err(|e| e.within("filter_enabled"))?,
            metadata: metadata.map_err(|e| e.within("filter_enabled_metadata"))?,
            denies_others: denies.is_some_and(|flag| flag.value),
        })
    }

    /// By what is known of the stream, and a random number.
    pub(crate) fn asks(&self, stream: &StreamInfo, random: u64) -> Asked {
        let in_share = self.share.is_none_or(|(numerator, denominator)| {
            random % u64::from(denominator.max(1)) < u64::from(numerator)
        });
        let noted = |matcher: &MetadataMatcher| matcher.matches(&stream.state().metadata);
        match in_share && self.metadata.as_ref().is_none_or(noted) {
            true => Asked::Yes,
            false if self.denies_others => Asked::Denied,
            false => Asked::No,
        }
    }
}

fn fraction(proto: &RuntimeFractionalPercent) -> Result<(u32, u32), Refusal> {
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
    Ok((value.numerator, denominator))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::{Instant, SystemTime};

    use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::PathSegment;
    use envoy_types::pb::envoy::r#type::matcher::v3::metadata_matcher::path_segment::Segment;
    use envoy_types::pb::envoy::r#type::matcher::v3::string_matcher::MatchPattern;
    use envoy_types::pb::envoy::r#type::matcher::v3::value_matcher;
    use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, ValueMatcher};
    use envoy_types::pb::envoy::r#type::v3::FractionalPercent;
    use envoy_types::pb::google::protobuf::BoolValue;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::Protocol;

    const NAMESPACE: &str = "envoy.filters.http.rbac";
    const KEY: &str = "istio_ext_authz_shadow_effective_policy_id";

    fn stream() -> Arc<StreamInfo> {
        let address = ([10, 0, 0, 1], 80).into();
        let connection = Connection::new(address, address, Instant::now());
        let now = (Instant::now(), SystemTime::now());
        StreamInfo::new(Arc::new(connection), Protocol::Http11, now.0, now.1)
    }

    /// As istiod has it for a provider.
    fn noted_for(provider: &str) -> MetadataMatcherProto {
        let prefix = StringMatcher {
            match_pattern: Some(MatchPattern::Prefix(format!("istio-ext-authz-{provider}"))),
            ..StringMatcher::default()
        };
        MetadataMatcherProto {
            filter: NAMESPACE.into(),
            path: vec![PathSegment {
                segment: Some(Segment::Key(KEY.into())),
            }],
            value: Some(ValueMatcher {
                match_pattern: Some(value_matcher::MatchPattern::StringMatch(prefix)),
            }),
            ..MetadataMatcherProto::default()
        }
    }

    #[test]
    fn a_policy_that_matched_has_its_provider_asked() {
        let matcher = noted_for("b");
        let enabled = Enabled::from_proto(None, Some(&matcher), None).unwrap();
        let stream = stream();
        assert_eq!(enabled.asks(&stream, 0), Asked::No);
        for (policy, asked) in [("a-ns[x]", Asked::No), ("b-ns[x]", Asked::Yes)] {
            let policy = format!("istio-ext-authz-{policy}");
            stream.state().metadata.set(NAMESPACE, KEY, policy.into());
            assert_eq!(enabled.asks(&stream, 0), asked);
        }
    }

    #[test]
    fn the_others_pass_or_are_denied() {
        let share = RuntimeFractionalPercent {
            default_value: Some(FractionalPercent {
                numerator: 25,
                denominator: DenominatorType::Hundred as i32,
            }),
            ..RuntimeFractionalPercent::default()
        };
        let flag = RuntimeFeatureFlag {
            default_value: Some(BoolValue { value: true }),
            ..RuntimeFeatureFlag::default()
        };
        let stream = stream();
        for (deny, others) in [(None, Asked::No), (Some(&flag), Asked::Denied)] {
            let enabled = Enabled::from_proto(Some(&share), None, deny).unwrap();
            let asked = (0..100).filter(|n| enabled.asks(&stream, *n) == Asked::Yes);
            assert_eq!(asked.count(), 25);
            assert_eq!(enabled.asks(&stream, 99), others);
        }
    }
}
