//! What a network filter is, says, and is built as.

use std::borrow::Cow;
use std::fmt::Debug;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use crate::security::rbac::tally::TalliedRules;
use crate::stream::recorder::Recorder;
use crate::stream::stream_info::StreamInfo;

/// What a network filter says of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Continue,
    /// Close it; the text is `%CONNECTION_TERMINATION_DETAILS%`, if there is any.
    Close(Cow<'static, str>),
}

/// A verdict, or the way to one: somebody is asked. Dropping it ends that.
pub enum Decision {
    Made(Verdict),
    Awaited(Pin<Box<dyn Future<Output = Verdict> + Send>>),
}

impl From<Verdict> for Decision {
    fn from(verdict: Verdict) -> Decision {
        Decision::Made(verdict)
    }
}

/// A network filter: looks at a connection when it is new, and again when its chain has changed.
pub trait NetworkFilter: Debug + Send + Sync + 'static {
    fn on_connection(&self, stream: &Arc<StreamInfo>) -> Decision;
}

/// What a filter does with the server name that the client asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum NameUse {
    #[default]
    Unused,
    /// It tells it.
    Noted,
    /// Whether the connection goes on may depend on it.
    Decides,
}

/// A filter that was built from its configuration.
#[derive(Default)]
pub struct BuiltNetworkFilter {
    pub filter: Option<Box<dyn NetworkFilter>>,
    pub server_name: NameUse,
    pub recorder: Option<Arc<dyn Recorder>>,
    /// How often the recorder is to be told of an open stream's progress, where it asks for it.
    pub reporting_interval: Option<Duration>,
    /// Its rules of access, with their numbers.
    pub tallied: Vec<TalliedRules>,
}
