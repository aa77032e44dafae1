//! `MetadataMatcher`: a value at a path of a filter's metadata.

use envoy_types::pb::envoy::r#type::matcher::v3::{
    MetadataMatcher as MetadataMatcherProto, metadata_matcher::path_segment::Segment,
};

use crate::matcher::value::{VALUE_MATCHER, ValueMatcher};
use crate::stream::dynamic_metadata::Metadata;
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Compares one value of metadata.
#[derive(Clone, Debug)]
pub struct MetadataMatcher {
    filter: Box<str>,
    path: Box<[String]>,
    value: ValueMatcher,
    invert: bool,
}

pub static METADATA_MATCHER: Table = Table {
    name: "envoy.type.matcher.v3.MetadataMatcher",
    fields: &[
        honoured(1, "filter"),
        honoured(2, "path").list().of(&PATH_SEGMENT),
        honoured(3, "value").of(&VALUE_MATCHER),
        honoured(4, "invert"),
    ],
    refused: "",
    required: &[
        required("filter", &[1]),
        required("path", &[2]),
        required("value", &[3]),
    ],
};

static PATH_SEGMENT: Table = Table {
    name: "envoy.type.matcher.v3.MetadataMatcher.PathSegment",
    fields: &[honoured(1, "key")],
    refused: "",
    required: &[required("segment", &[1])],
};

impl MetadataMatcher {
    pub fn from_proto(proto: &MetadataMatcherProto) -> Result<MetadataMatcher, Refusal> {
        let path = proto
            .path
            .iter()
            .map(|segment| match &segment.segment {
                Some(Segment::Key(key)) => Ok(key.clone()),
                None => Err(Refusal::missing("path.segment")),
            })
            .collect::<Result<_, _>>()?;
        let value = proto
            .value
            .as_ref()
            .ok_or_else(|| Refusal::missing("value"))?;
        Ok(MetadataMatcher {
            filter: proto.filter.as_str().into(),
            path,
            value: ValueMatcher::from_proto(value).map_err(|e| e.within("value"))?,
            invert: proto.invert,
        })
    }

    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.get(&self.filter, &self.path)) != self.invert
    }
}
