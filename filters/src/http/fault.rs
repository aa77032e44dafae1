//! `envoy.filters.http.fault`: istiod puts it on every chain, empty; a route may fill it.
//!
//! The empty filter has nothing to do. Delays and aborts are not built: a route that asks for one is
//! refused by name.

use envoy_types::pb::envoy::extensions::filters::http::fault::v3::HttpFault;

use crate::http::HttpFilter;
use crate::rejected::Refusal;

pub(super) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";

pub(super) fn build(proto: &HttpFault) -> Result<HttpFilter, Refusal> {
    empty(proto)?;
    Ok(HttpFilter::inert())
}

/// A route's configuration; only an empty one is honoured.
pub(super) fn empty(proto: &HttpFault) -> Result<(), Refusal> {
    if proto.delay.is_some() {
        return Err(Refusal::unsupported("delay"));
    }
    if proto.abort.is_some() {
        return Err(Refusal::unsupported("abort"));
    }
    if proto.response_rate_limit.is_some() {
        return Err(Refusal::unsupported("response_rate_limit"));
    }
    Ok(())
}
