//! What people and tools exec in the pod: the commands of `pilot-agent` by their names.

pub(crate) mod local_http;
pub(crate) mod request;
pub(crate) mod version;
pub(crate) mod wait;
