//! What a peer's HTTP/2 frames and streams may cost.

pub mod allowance;
pub(crate) mod foresight;
pub(crate) mod frame_budget;
pub(crate) mod frame_head;
pub mod frame_watch;
pub(crate) mod open_streams;
pub(crate) mod rounds;
pub(crate) mod stream_budget;
