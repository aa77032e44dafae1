//! `istio.metadata_exchange`: peers telling each other who they are over `istio-peer-exchange` ALPN.
//!
//! HBONE connections never speak that protocol, so the filter is accepted and has nothing to do.

use crate::http::filter::{Config, Registration};
use crate::network::filter::BuiltNetworkFilter;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: Config::Json {
        type_url: TYPE_URL,
        build: |config, _| build(config),
    },
    per_route: None,
};

pub const TYPE_URL: &str = "type.googleapis.com/envoy.tcp.metadataexchange.config.MetadataExchange";

fn build(config: &serde_json::Value) -> Result<BuiltNetworkFilter, Refusal> {
    typed_struct::only(config, &["protocol", "enable_discovery"])?;
    Ok(BuiltNetworkFilter::default())
}
