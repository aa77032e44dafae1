//! `xds.type.matcher.v3.IPMatcher`: the message that the published crate leaves out.

use envoy_types::pb::xds::core::v3 as xds;
use envoy_types::pb::xds::r#type::matcher::v3::matcher::OnMatch;
use prost::Name;

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
