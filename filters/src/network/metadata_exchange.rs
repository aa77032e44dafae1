//! `istio.metadata_exchange`: peers telling each other who they are over `istio-peer-exchange` ALPN.
//!
//! HBONE connections never speak that protocol, so the filter is accepted and has nothing to do.

use crate::network::BuiltNetworkFilter;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub const TYPE_URL: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

pub(super) fn build(config: &serde_json::Value) -> Result<BuiltNetworkFilter, Refusal> {
    typed_struct::only(config, &["protocol", "enable_discovery"])?;
    Ok(BuiltNetworkFilter::default())
}
