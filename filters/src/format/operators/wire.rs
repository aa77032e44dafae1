//! Bytes as connections carry them: of HTTP/1 and of TCP. Of HTTP/2 there is no value.

use super::print::number;
use crate::format::FormatContext;
use crate::stream::stream_info::Protocol;

/// Which bytes.
#[derive(Clone, Copy, Debug)]
pub(in crate::format) struct WireField {
    downstream: bool,
    sent: bool,
    /// Header lines' alone.
    headers: bool,
}

impl WireField {
    /// `None`: the name is none of these.
    pub(super) fn parse(name: &str) -> Option<WireField> {
        let (downstream, headers, sent) = match name {
            "DOWNSTREAM_WIRE_BYTES_RECEIVED" => (true, false, false),
            "DOWNSTREAM_WIRE_BYTES_SENT" => (true, false, true),
            "DOWNSTREAM_HEADER_BYTES_RECEIVED" => (true, true, false),
            "DOWNSTREAM_HEADER_BYTES_SENT" => (true, true, true),
            "UPSTREAM_WIRE_BYTES_RECEIVED" => (false, false, false),
            "UPSTREAM_WIRE_BYTES_SENT" => (false, false, true),
            "UPSTREAM_HEADER_BYTES_RECEIVED" => (false, true, false),
            "UPSTREAM_HEADER_BYTES_SENT" => (false, true, true),
            _ => return None,
        };
        Some(WireField {
            downstream,
            sent,
            headers,
        })
    }

    pub(super) fn write(self, context: &FormatContext<'_>, out: &mut Vec<u8>) -> bool {
        let stream = context.stream;
        if stream.protocol == Protocol::Tcp {
            // What came from the client went up as it was.
            let bytes = match self.downstream == self.sent {
                true => stream.bytes_sent(),
                false => stream.bytes_received(),
            };
            return !self.headers && number(out, bytes);
        }
        let Some(wire) = stream.wire() else {
            return false;
        };
        if !self.downstream && context.state.connected_upstream().is_none() {
            return number(out, 0);
        }
        let side = match self.downstream {
            true => &wire.downstream,
            false => &wire.upstream,
        };
        let count = match (self.sent, self.headers) {
            (false, false) => &side.received,
            (false, true) => &side.received_headers,
            (true, false) => &side.sent,
            (true, true) => &side.sent_headers,
        };
        side.is_counted() && number(out, count.get())
    }
}
