//! When things happened between us and the upstream, of a stream whose recorders want to know.

use std::time::{Duration, Instant};

/// Of the last attempt, but for the route's.
#[derive(Clone, Copy, Debug, Default)]
pub struct UpstreamTimes {
    /// How long all choices of a route took.
    pub route_resolution: Duration,
    begun: Option<Instant>,
    bodiless: bool,
    pool_ready: Option<Instant>,
    sent: Option<Instant>,
    received: Option<Instant>,
    received_body: Option<Instant>,
}

/// When a connection to an upstream was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionTimes {
    pub begin: Instant,
    pub end: Instant,
}

impl UpstreamTimes {
    /// An attempt begins.
    pub fn attempt(&mut self, bodiless: bool) {
        *self = UpstreamTimes {
            route_resolution: self.route_resolution,
            begun: Some(Instant::now()),
            bodiless,
            ..UpstreamTimes::default()
        };
    }

    /// It has its connection, to which the head of the request is handed at once.
    pub fn connected(&mut self) {
        self.pool_ready = Some(Instant::now());
    }

    /// It failed; maybe for want of a connection.
    pub fn failed(&mut self) {
        self.pool_ready.get_or_insert_with(Instant::now);
    }

    /// The end of the request's body was handed to the connection.
    pub fn sent(&mut self) {
        self.sent = Some(Instant::now());
    }

    /// The head of the answer came.
    pub fn answered(&mut self) {
        self.received = Some(Instant::now());
    }

    /// A part of the answer's body is on its way to the client.
    pub fn passed_body(&mut self) {
        if self.received.is_some() {
            self.received_body.get_or_insert_with(Instant::now);
        }
    }

    /// How long the attempt waited for a connection, or for there to be none.
    pub fn pool_ready_after(&self) -> Option<Duration> {
        self.pool_ready?.checked_duration_since(self.begun?)
    }

    pub fn sent_begin(&self) -> Option<Instant> {
        self.pool_ready
    }

    pub fn sent_end(&self) -> Option<Instant> {
        if self.bodiless {
            self.pool_ready
        } else {
            self.sent
        }
    }

    pub fn received_begin(&self) -> Option<Instant> {
        self.received
    }

    pub fn received_body_begin(&self) -> Option<Instant> {
        self.received_body
    }
}
