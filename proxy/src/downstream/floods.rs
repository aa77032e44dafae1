//! Counts and tells of HTTP/2 connections that were ended because their peer did nothing but keep us busy.

use std::net::SocketAddr;
use std::sync::Arc;

use waypoint_filters::metrics::{CounterFamily, MetricRegistry};
use waypoint_hbone::frames::frame_watch::Flood;

/// The connections that were ended for it. Clones count together.
#[derive(Clone)]
pub(crate) struct Floods(Arc<CounterFamily>);

impl Floods {
    pub(crate) fn new(metrics: &MetricRegistry) -> Floods {
        Floods(metrics.counters(
            "waypoint_connections_flooded_total",
            "HTTP/2 connections that were ended because of too many frames or streams that do no work, by where they were, and by the last frame's kind.",
            &["connection", "reason"],
        ))
    }

    /// `connection` says where: `hbone`, `tunnel` for HTTP/2 in one, or `upstream` for HBONE to a server, which is `peer` then.
    pub(crate) fn count(&self, connection: &'static str, peer: SocketAddr, flood: Flood) {
        let labels = [connection.into(), flood.label().into()];
        self.0.with(&labels).add(1);
        tracing::warn!(%peer, connection, reason = flood.label(), "a connection was ended: {flood}");
    }
}
