//! Inner HTTP connections: their bytes before they are read, their life, and each exchange on them.

pub(crate) mod answering;
pub(crate) mod connection;
pub(crate) mod delayed_failure;
pub(crate) mod exchange;
pub(crate) mod head;
pub(crate) mod linger;
pub(crate) mod record;
pub(crate) mod request_reader;
pub(crate) mod serving;
pub(crate) mod stream_clock;
pub(crate) mod upgrade;
pub(crate) mod wire_count;
