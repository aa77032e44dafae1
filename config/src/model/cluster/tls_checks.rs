//! What of a cluster's TLS must fit together, and what of it isn't checked.

use std::sync::Arc;

use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::transport_socket::Sockets;
use crate::model::cluster::upstream_protocol::{ProtocolOptions, UpstreamProtocol};
use crate::model::cluster::upstream_tls::UpstreamTls;

/// What isn't checked of servers that are spoken TLS with; `checks_host`: the host of a request must be theirs.
pub(crate) fn unchecked(
    sockets: &Sockets,
    checks_host: bool,
) -> impl Iterator<Item = &'static str> {
    let tls = sockets.iter().filter_map(|socket| socket.tls.as_ref());
    tls.filter_map(move |tls| tls.unchecked(checks_host))
}

/// What options say of TLS must fit the sockets.
pub(crate) fn check_tls(sockets: &Sockets, options: &ProtocolOptions) -> Result<(), Refusal> {
    let within = |e: Refusal| e.within("typed_extension_protocol_options");
    let is_plain = sockets.iter().any(|socket| socket.tls.is_none());
    if options.protocol == UpstreamProtocol::Negotiated && is_plain {
        let reason = "what is spoken is agreed on in TLS (ALPN), and there is a socket without";
        return Err(within(Refusal::new("auto_config", reason)));
    }
    let has_roots = |tls: &Arc<UpstreamTls>| tls.roots.is_some();
    let mut tls = sockets.iter().filter_map(|socket| socket.tls.as_ref());
    if options.server_name.verified && !tls.any(has_roots) {
        let reason = "there are no roots that the server's certificate could be of";
        let field = "upstream_http_protocol_options.auto_san_validation";
        return Err(within(Refusal::new(field, reason)));
    }
    Ok(())
}
