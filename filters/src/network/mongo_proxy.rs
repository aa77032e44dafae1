//! `envoy.filters.network.mongo_proxy`: istiod puts it before the bytes of ports that are called `mongo`.
//!
//! It counts commands. That isn't built and is left out; what else it can be told (delays, an access log of
//! its own) is refused.

use envoy_types::pb::envoy::extensions::filters::network::mongo_proxy::v3::MongoProxy;

use crate::http::FilterContext;
use crate::network::BuiltNetworkFilter;
use crate::omitted::OmittedKind;
use crate::rejected::Refusal;

pub(super) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy";

pub(super) fn build(
    proto: &MongoProxy,
    context: &FilterContext<'_>,
) -> Result<BuiltNetworkFilter, Refusal> {
    if proto.delay.is_some() {
        return Err(Refusal::unsupported("delay"));
    }
    if !proto.access_log.is_empty() {
        return Err(Refusal::unsupported("access_log"));
    }
    if proto.emit_dynamic_metadata {
        return Err(Refusal::unsupported("emit_dynamic_metadata"));
    }
    let reason = "commands are not counted";
    context.omissions.add(
        OmittedKind::Statistics,
        Refusal::new(format!("filters[{:?}]", context.name), reason),
    );
    Ok(BuiltNetworkFilter::default())
}
