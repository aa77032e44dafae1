//! `MetadataMatcher`: a value at a path of a filter's metadata.

use std::fmt;

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

    /// Whether there is a value to compare.
    pub fn is_there(&self, metadata: &Metadata) -> bool {
        let value = metadata.get(&self.filter, &self.path);
        value.is_some_and(|value| !value.is_null())
    }

    pub fn matches(&self, metadata: &Metadata) -> bool {
        self.value.matches(metadata.get(&self.filter, &self.path)) != self.invert
    }
}

/// What it asks for; the metadata that Istio's policies speak of by their names there.
impl fmt::Display for MetadataMatcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let not = if self.invert { "not " } else { "" };
        match (&*self.filter, &*self.path) {
            ("envoy.filters.http.jwt_authn", [payload, claims @ ..]) if payload == "payload" => {
                write!(f, "claim {}", claims.join("."))?;
            }
            (filter, path) => write!(f, "metadata {filter}:{}", path.join("."))?,
        }
        write!(f, " is {not}{}", self.value)
    }
}

impl MetadataMatcher {
    /// What it would look at, as JSON; `None`: there is nothing.
    pub fn seen(&self, metadata: &Metadata) -> Option<String> {
        let value = metadata.get(&self.filter, &self.path)?;
        Some(value.to_string())
    }
}
