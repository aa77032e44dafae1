//! What a network filter is, says, and is built as.

use std::borrow::Cow;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use crate::record::recorder::Recorder;
use crate::stream::stream_info::StreamInfo;

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
