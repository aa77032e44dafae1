//! The server name that a TLS client inside a tunnel asks for, where the configuration wants to know it.
//!
//! Policy must not be got around by keeping silent: a client that is taken for one whose server speaks first may not
//! begin a handshake later. Half a hello is waited for longer, and then counts as none that could be read.

use std::time::Duration;

use bytes::BytesMut;
use waypoint_filters::network::client_hello::{ClientHello, HANDSHAKE, look};
use waypoint_filters::stream::connection::ServerName;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::sniff::{FIRST_BYTES, put_back};

/// How long a hello may take once it has begun: Envoy's limit of listener filters.
const WHOLE_HELLO: Duration = Duration::from_secs(15);

/// Reads the hello; its bytes go back to the stream. A client that says nothing isn't waited for long, and where policy
/// `decides` by the name, it may not begin TLS afterwards.
pub(crate) async fn read(stream: &mut TunnelStream, decides: bool) -> ServerName {
    let mut seen = BytesMut::new();
    let first = tokio::time::timeout(FIRST_BYTES, more(stream, &mut seen)).await;
    let name = match first {
        Ok(true) => {
            let whole = tokio::time::timeout(WHOLE_HELLO, whole(stream, &mut seen));
            whole.await.unwrap_or(ServerName::Unread)
        }
        Ok(false) => ServerName::Absent,
        Err(_silent) if !decides => ServerName::Unread,
        Err(_silent) => {
            stream.refuse_first(HANDSHAKE);
            ServerName::Absent
        }
    };
    put_back(stream, seen.freeze());
    name
}

/// Until the hello is whole, or is none.
async fn whole(stream: &mut TunnelStream, seen: &mut BytesMut) -> ServerName {
    loop {
        match look(seen) {
            ClientHello::NotTls | ClientHello::Complete(None) => return ServerName::Absent,
            ClientHello::Complete(Some(name)) => return ServerName::Name(name),
            ClientHello::Malformed(reason) => {
                tracing::debug!(reason, "a ClientHello can't be read");
                return ServerName::Unread;
            }
            ClientHello::Needs(length) => {
                while seen.len() < length {
                    if !more(stream, seen).await {
                        return ServerName::Unread;
                    }
                }
            }
        }
    }
}

/// Whether more bytes have come. Cancelling it loses nothing.
async fn more(stream: &mut TunnelStream, seen: &mut BytesMut) -> bool {
    match stream.data().await {
        Some(Ok(bytes)) => {
            seen.extend_from_slice(&bytes);
            true
        }
        _ => false,
    }
}
