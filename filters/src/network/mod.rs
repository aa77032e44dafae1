//! The registry of network (TCP) filters. The terminal filters (`tcp_proxy`, the connection manager)
//! are not here: `config` compiles them, `proxy` runs them.

mod filter;
mod metadata_exchange;
mod mongo_proxy;
mod rbac;
mod set_filter_state;

use envoy_types::pb::google::protobuf::Any;

use crate::http::FilterContext;
use crate::record::istio_stats::{self, STATS_CONFIG};
use crate::xds::coverage::{Table, decode_any as decode};
use crate::xds::proto::STATS_PLUGIN_CONFIG;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

pub use filter::{BuiltNetworkFilter, NetworkFilter, Verdict};
pub use metadata_exchange::TYPE_URL as METADATA_EXCHANGE;
pub use set_filter_state::only_shares_destination;

/// The tables of all configurations that [`build`] takes.
pub static TABLES: &[&Table] = &[
    &rbac::CONFIG,
    &set_filter_state::CONFIG,
    &mongo_proxy::CONFIG,
    &STATS_CONFIG,
    &typed_struct::UDPA,
    &typed_struct::XDS,
];

/// Builds the network filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(config: &Any, context: &FilterContext<'_>) -> Result<BuiltNetworkFilter, Refusal> {
    let unknown = |type_url: &str| {
        Refusal::new(
            "typed_config",
            format!("filter {} ({type_url}) is not built in", context.name),
        )
    };
    if let Some((type_url, value)) = typed_struct::unwrap(config)? {
        return match type_url.as_str() {
            metadata_exchange::TYPE_URL => metadata_exchange::build(&value),
            other => Err(unknown(other)),
        };
    }
    match config.type_url.as_str() {
        rbac::TYPE_URL => rbac::build(&decode(config)?),
        set_filter_state::TYPE_URL => set_filter_state::build(&decode(config)?),
        mongo_proxy::TYPE_URL => Ok(mongo_proxy::build(context)),
        STATS_PLUGIN_CONFIG => {
            let config = decode(config)?;
            Ok(BuiltNetworkFilter {
                filter: None,
                reporting_interval: istio_stats::reporting_interval(&config),
                recorder: Some(istio_stats::recorder(
                    config,
                    context.host,
                    context.omissions,
                )?),
            })
        }
        other => Err(unknown(other)),
    }
}
