//! The registry of network (TCP) filters. The terminal filters (`tcp_proxy`, the connection manager)
//! are not here: `config` compiles them, `proxy` runs them.

mod metadata_exchange;
mod mongo_proxy;
mod rbac;
mod set_filter_state;

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::google::protobuf::Any;

use crate::coverage::{Table, decode_any as decode};
use crate::http::FilterContext;
use crate::istio_stats::{self, STATS_CONFIG};
use crate::proto::STATS_PLUGIN_CONFIG;
use crate::recorder::Recorder;
use crate::rejected::Refusal;
use crate::stream_info::StreamInfo;
use crate::typed_struct;

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

/// What a network filter says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    /// Close it; the text is `%CONNECTION_TERMINATION_DETAILS%`.
    Close(Cow<'static, str>),
}

/// A network filter: looks at a connection when it is new, and again when its chain has changed.
pub trait NetworkFilter: Debug + Send + Sync + 'static {
    fn on_connection(&self, stream: &StreamInfo) -> Verdict;
}

/// A filter that was built from its configuration.
#[derive(Default)]
pub struct BuiltNetworkFilter {
    pub filter: Option<Box<dyn NetworkFilter>>,
    pub recorder: Option<Arc<dyn Recorder>>,
    /// How often the recorder is to be told of an open stream's progress, where it asks for it.
    pub reporting_interval: Option<Duration>,
}

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
