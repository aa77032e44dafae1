//! The life of an inner HTTP connection: HTTP/1.1 or HTTP/2 with prior knowledge, told by the preface.

pub(crate) mod closed;
mod ending;
mod http1;
mod http2;

use std::sync::Arc;

use waypoint_config::model::http::codec::Codec;
use waypoint_hbone::frames::allowance::Allowance;
use waypoint_hbone::frames::frame_watch::Flood;
use waypoint_hbone::tunnel::stream::TunnelStream;

use crate::downstream::http::connection::HttpConnection;
use crate::downstream::http::serving::ending::last_call;
use crate::downstream::http::serving::http1::serve_http1;
use crate::downstream::http::serving::http2::serve_http2;
use crate::downstream::lifetime::Lifetime;
use crate::downstream::sniff;

/// Serves the connection to its end. The peer, which has this allowance, may have flooded it.
///
/// While the waypoint drains, HTTP/1.1's answers say `connection: close`, but an idle connection stays: closing it could lose
/// the request that is on its way. HTTP/2 has GOAWAY, which loses none.
pub(crate) async fn serve(
    connection: Arc<HttpConnection>,
    mut stream: TunnelStream,
    allowance: Arc<Allowance>,
) -> Option<Flood> {
    let codec = &connection.first.codec;
    let limits = &connection.first.connections;
    let mut lifetime = Lifetime::new(connection.uses.clone(), limits, fastrand::f64());
    let http2 = match codec.codec {
        Codec::Auto => tokio::select! {
            biased;
            http2 = sniff::is_http2(&mut stream) => http2,
            () = last_call(&connection, connection.drain.ending()) => return None,
            _ = lifetime.over() => return None,
        },
        Codec::Http1 => false,
        Codec::Http2 => true,
    };
    if http2 {
        serve_http2(&connection, stream, lifetime, allowance).await
    } else {
        serve_http1(&connection, stream, lifetime, &allowance).await;
        None
    }
}
