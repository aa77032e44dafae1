//! What the requests of an inner HTTP connection share, with whoever reads and ends it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};

use parking_lot::Mutex;
use waypoint_config::model::header_case::HeaderCase;
use waypoint_config::model::http::connection_manager::HttpConnectionManager;
use waypoint_config::model::listener::chain::ChainSlot;
use waypoint_filters::stream::connection::Connection;

use crate::downstream::http::delayed_failure::DelayedFailures;
use crate::downstream::http::head::bytes::Rejection;
use crate::downstream::http::head::clock::Heads;
use crate::downstream::http::wire_count::WireCount;
use crate::downstream::lifetime::Uses;
use crate::lifecycle::drain::Watch;
use crate::overload::Overload;
use crate::upstream::connection::informational::http1::Informational;

/// An inner HTTP connection, shared by its requests.
pub(crate) struct HttpConnection {
    pub(crate) info: Arc<Connection>,
    pub(crate) slot: Arc<ChainSlot>,
    pub(crate) overload: Arc<Overload>,
    /// The version that the connection began with: its recorders serve requests of a chain that is
    /// closed or of another kind by now.
    pub(crate) first: Arc<HttpConnectionManager>,
    /// Requests so far.
    pub(crate) requests: AtomicU64,
    /// What it carries, for its end.
    pub(crate) uses: Arc<Uses>,
    /// An answer could not be finished: the stream must not end as if it had been.
    pub(crate) failed: AtomicBool,
    /// The client is to go elsewhere with its next request.
    pub(crate) draining: AtomicBool,
    /// What follows on an HTTP/1.1 connection is another protocol's.
    pub(crate) switched: AtomicBool,
    /// What the client of an HTTP/1.1 connection is told before its answers.
    pub(crate) informational: Arc<Informational>,
    /// Why hyper was given a head that it can't take, instead of the client's.
    pub(crate) rejection: Mutex<Option<Rejection>>,
    /// Which requests' heads were late.
    pub(crate) heads: Heads,
    /// Of HTTP/1, where recorders want to know.
    pub(crate) wire: Option<WireCount>,
    /// Until all of it has ended, upgraded streams as well.
    pub(crate) drain: Watch,
    /// Answers that broke off.
    pub(crate) delayed_failures: Arc<DelayedFailures>,
}

impl HttpConnection {
    pub(crate) fn new(
        info: Arc<Connection>,
        slot: Arc<ChainSlot>,
        first: Arc<HttpConnectionManager>,
        drain: Watch,
        overload: Arc<Overload>,
    ) -> HttpConnection {
        let title_case = first.codec.header_case == HeaderCase::Title;
        HttpConnection {
            info,
            slot,
            overload,
            requests: AtomicU64::new(0),
            uses: Uses::new(&first.connections),
            failed: AtomicBool::new(false),
            draining: AtomicBool::new(false),
            switched: AtomicBool::new(false),
            informational: Arc::new(Informational::new(title_case)),
            rejection: Mutex::new(None),
            heads: Heads::default(),
            wire: first.capture.wire_bytes.then(WireCount::default),
            drain,
            delayed_failures: Arc::new(DelayedFailures::new(first.connections.delayed_close)),
            first,
        }
    }

    /// It has ended, and not in good order.
    pub(crate) fn log_end(&self, error: &dyn std::error::Error) {
        tracing::debug!(
            chain = %self.slot.name,
            source = %self.info.source,
            %error,
            "HTTP connection ended"
        );
    }
}
