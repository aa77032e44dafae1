//! Inner HTTP connections: their bytes before hyper reads them, their life, and each exchange on them.

pub(crate) mod answering;
pub(crate) mod connection;
pub(crate) mod exchange;
pub(crate) mod farewell;
pub(crate) mod framing;
pub(crate) mod head_clock;
pub(crate) mod linger;
pub(crate) mod path_normalization;
pub(crate) mod record;
pub(crate) mod request_head;
pub(crate) mod request_head_bytes;
pub(crate) mod request_reader;
pub(crate) mod serving;
pub(crate) mod upgrade;
pub(crate) mod wire_count;
