//! Which HTTP an endpoint agreed on in TLS, once one was asked.

use std::sync::atomic::{AtomicU8, Ordering};

use waypoint_config::model::cluster::upstream_protocol::UpstreamProtocol;

/// What was agreed on with an endpoint.
#[derive(Default)]
pub(crate) struct Agreed(AtomicU8);

const HTTP1: u8 = 1;
const HTTP2: u8 = 2;

impl Agreed {
    pub(crate) fn known(&self) -> Option<UpstreamProtocol> {
        match self.0.load(Ordering::Relaxed) {
            HTTP1 => Some(UpstreamProtocol::Http1),
            HTTP2 => Some(UpstreamProtocol::Http2),
            _ => None,
        }
    }

    pub(crate) fn tell(&self, protocol: UpstreamProtocol) {
        let told = match protocol {
            UpstreamProtocol::Http2 => HTTP2,
            _ => HTTP1,
        };
        self.0.store(told, Ordering::Relaxed);
    }

    pub(crate) fn forget(&self) {
        self.0.store(0, Ordering::Relaxed);
    }
}
