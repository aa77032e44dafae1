//! `xds.type.matcher.v3.IPMatcher`: the message that the published crate leaves out.

use envoy_types::pb::xds::core::v3 as xds;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
use prost::Name;
use waypoint_filters::coverage::well_known::UINT32_VALUE;
use waypoint_filters::coverage::{Table, honoured, required};

use crate::model::filter_chain_matcher::ON_MATCH;

/// `xds.type.matcher.v3.IPMatcher`, which the published crate leaves out.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IpMatcher {
    #[prost(message, repeated, tag = "1")]
    pub(crate) range_matchers: Vec<IpRangeMatcher>,
}

/// Ranges and what they lead to.
#[derive(Clone, PartialEq, prost::Message)]
pub(crate) struct IpRangeMatcher {
    #[prost(message, repeated, tag = "1")]
    pub(crate) ranges: Vec<xds::CidrRange>,
    #[prost(message, optional, tag = "2")]
    pub(crate) on_match: Option<OnMatch>,
}

pub(crate) static IP_MATCHER: Table = Table {
    name: "xds.type.matcher.v3.IPMatcher",
    fields: &[honoured(1, "range_matchers").list().of(&RANGE_MATCHER)],
    refused: "",
    required: &[],
};

static RANGE_MATCHER: Table = Table {
    name: "xds.type.matcher.v3.IPMatcher.IPRangeMatcher",
    fields: &[
        honoured(1, "ranges").list().of(&RANGE),
        honoured(2, "on_match").of(&ON_MATCH),
    ],
    refused: "3 exclusive",
    required: &[required("ranges", &[1]), required("on_match", &[2])],
};

static RANGE: Table = Table {
    name: "xds.core.v3.CidrRange",
    fields: &[
        honoured(1, "address_prefix"),
        honoured(2, "prefix_len").of(&UINT32_VALUE),
    ],
    refused: "",
    required: &[required("address_prefix", &[1])],
};

impl Name for IpMatcher {
    const NAME: &'static str = "IPMatcher";
    const PACKAGE: &'static str = "xds.type.matcher.v3";

    fn full_name() -> String {
        "xds.type.matcher.v3.IPMatcher".to_owned()
    }

    fn type_url() -> String {
        "type.googleapis.com/xds.type.matcher.v3.IPMatcher".to_owned()
    }
}
