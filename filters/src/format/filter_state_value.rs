//! `FilterStateValue`: one object that `set_filter_state` sets, on a request or on a connection.
//!
//! The objects that name addresses are parsed; where their text is no `ip:port` (a CONNECT to a host name)
//! they are silently absent, as in Envoy.

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue as FilterStateValueProto,
    filter_state_value::{Key, SharedWithUpstream, Value},
};

use crate::format::FormatContext;
use crate::format::substitution::{SUBSTITUTION_FORMAT, Substitution};
use crate::stream::filter_state::{
    FilterState, FilterValue, ORIGINAL_DST_LOCAL, ORIGINAL_DST_REMOTE, Sharing,
};
use crate::xds::coverage::Table;
use crate::xds::coverage::honoured;
use crate::xds::coverage::required;
use crate::xds::rejected::Refusal;

/// Factories of string objects; the hashable ones decide on pooling in Envoy.
const STRING_FACTORIES: [&str; 3] = [
    "envoy.string",
    "istio.hashable_string",
    "envoy.hashable_string",
];

pub(crate) static FILTER_STATE_VALUE: Table = Table {
    name: "envoy.extensions.filters.common.set_filter_state.v3.FilterStateValue",
    fields: &[
        honoured(1, "object_key"),
        honoured(2, "format_string").of(&SUBSTITUTION_FORMAT),
        honoured(4, "shared_with_upstream"),
        honoured(5, "skip_if_empty"),
        honoured(6, "factory_key").only("strings, and the objects that name addresses"),
    ],
    refused: "3 read_only",
    required: &[
        required("object_key", &[1]),
        required("format_string", &[2]),
    ],
};

/// A compiled object.
#[derive(Debug)]
pub(crate) struct FilterStateValue {
    key: Arc<str>,
    format: Substitution,
    sharing: Sharing,
    is_address: bool,
    skip_if_empty: bool,
}

impl FilterStateValue {
    pub(crate) fn from_proto(proto: &FilterStateValueProto) -> Result<FilterStateValue, Refusal> {
        let Some(Key::ObjectKey(key)) = &proto.key else {
            return Err(Refusal::missing("object_key"));
        };
        let factory = if proto.factory_key.is_empty() {
            key.as_str()
        } else {
            proto.factory_key.as_str()
        };
        let is_address = match factory {
            ORIGINAL_DST_LOCAL | ORIGINAL_DST_REMOTE => true,
            factory if STRING_FACTORIES.contains(&factory) => false,
            _ => return Err(Refusal::unsupported(format!("factory_key {factory}"))),
        };
        let Some(Value::FormatString(format)) = &proto.value else {
            return Err(Refusal::missing("format_string"));
        };
        let sharing = match SharedWithUpstream::try_from(proto.shared_with_upstream) {
            Ok(SharedWithUpstream::None) => Sharing::None,
            Ok(SharedWithUpstream::Once) => Sharing::Once,
            Ok(SharedWithUpstream::Transitive) => Sharing::Transitive,
            Err(_) => return Err(Refusal::new("shared_with_upstream", "unknown value")),
        };
        Ok(FilterStateValue {
            key: key.as_str().into(),
            format: Substitution::from_proto(format).map_err(|e| e.within("format_string"))?,
            sharing,
            is_address,
            skip_if_empty: proto.skip_if_empty,
        })
    }

    /// The object for what `context` shows, ready for [`FilterStateValue::set`].
    pub(crate) fn evaluate(&self, context: &FormatContext<'_>) -> Option<FilterValue> {
        let mut text = Vec::new();
        self.format.write(context, &mut text);
        let text = String::from_utf8(text).ok()?;
        if self.is_address {
            return text.parse().ok().map(FilterValue::Address);
        }
        if text == "-" || (text.is_empty() && self.skip_if_empty) {
            return None;
        }
        Some(FilterValue::String(text.into()))
    }

    pub(crate) fn set(&self, value: FilterValue, state: &mut FilterState) {
        state.set(&self.key, value, self.sharing);
    }
}
