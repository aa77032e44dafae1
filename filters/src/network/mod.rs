//! The registry of network (TCP) filters. The terminal filters (`tcp_proxy`, the connection manager)
//! are not here: `config` compiles them, `proxy` runs them.

mod rbac;

use std::borrow::Cow;
use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::host::Host;
use crate::recorder::Recorder;
use crate::rejected::Refusal;
use crate::stream_info::StreamInfo;

/// What a network filter says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    /// Close it; the text is `%CONNECTION_TERMINATION_DETAILS%`.
    Close(Cow<'static, str>),
}

/// A network filter: looks at a connection when it is new, and again when its chain has changed.
pub trait NetworkFilter: Send + Sync + 'static {
    fn on_connection(&self, stream: &StreamInfo) -> Verdict;

    /// Changes the connection's filter state before anything reads it.
    fn prepare(
        &self,
        _connection: &crate::connection::Connection,
        _filter_state: &mut crate::filter_state::FilterState,
    ) {
    }
}

/// A filter that was built from its configuration.
#[derive(Default)]
pub struct BuiltNetworkFilter {
    pub filter: Option<Box<dyn NetworkFilter>>,
    pub recorder: Option<Arc<dyn Recorder>>,
}

/// Builds the network filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(name: &str, config: &Any, _host: &Arc<dyn Host>) -> Result<BuiltNetworkFilter, Refusal> {
    Err(Refusal::new(
        "typed_config",
        format!("unknown network filter {name} ({})", config.type_url),
    ))
}
