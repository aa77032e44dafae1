//! The HTTP/1.1 connections of one endpoint: those that are idle, and the requests that wait for one
//! because the cluster may open no more.
//!
//! Who waits is served in order: a connection that comes free, or the place of one that was closed, is
//! handed to the first. An endpoint without a connection may always open one, as in Envoy: else its
//! requests would wait for what other endpoints do. Nothing that is dropped under the lock may hold a
//! [`Place`], whose end takes the lock.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Weak};
use std::task::{Context, Waker};
use std::time::Instant;

use parking_lot::Mutex;
use tokio::sync::oneshot;
use waypoint_config::model::cluster::circuit_breakers::Resource;

use crate::upstream::connection::h1::H1Connection;
use crate::upstream::error::{UpstreamError, UpstreamErrorKind};
use crate::upstream::limits::Limits;
use crate::upstream::limits::place::{Place, Waiters};
use crate::upstream::pools::lifetimes::IdleLimits;

/// Idle connections kept; more are closed when they come back.
const MAX_IDLE: usize = 512;

#[derive(Default)]
pub(crate) struct H1Pool {
    state: Mutex<State>,
    /// Places in use: connections that count against a limit.
    places: AtomicU32,
}

#[derive(Default)]
struct State {
    /// Boxed: a connection is some hundred bytes, and moves between pool and exchange.
    #[allow(clippy::vec_box)]
    idle: Vec<Box<H1Connection>>,
    waiting: VecDeque<oneshot::Sender<Granted>>,
}

/// What a request gets that had to wait.
pub(crate) enum Granted {
    Connection(Box<H1Connection>),
    /// It may open one.
    Place(Place),
    /// A connection that others waited for couldn't be made; theirs wouldn't fare better.
    Failed(UpstreamErrorKind, Option<String>),
}

impl Waiters for H1Pool {
    /// Gives a place that came free to whoever waits longest.
    fn hand_on(self: Arc<Self>, limits: &Limits) {
        self.places.fetch_sub(1, Ordering::Relaxed);
        let mut place = None;
        loop {
            let first = {
                let mut state = self.state.lock();
                if state.waiting.is_empty() {
                    break;
                }
                place = place.or_else(|| self.place(limits));
                if place.is_none() {
                    break;
                }
                state.waiting.pop_front()
            };
            if let (Some(first), Some(free)) = (first, place.take())
                && let Err(Granted::Place(unwanted)) = first.send(Granted::Place(free))
            {
                place = Some(unwanted);
            }
        }
    }
}

impl H1Pool {
    /// An idle connection; it may have been closed by the upstream.
    pub(crate) fn pop(&self) -> Option<Box<H1Connection>> {
        self.state.lock().idle.pop()
    }

    /// Takes back a connection that can carry another request.
    pub(crate) fn put(&self, mut connection: Box<H1Connection>, now: Instant) {
        connection.idle_since = now;
        loop {
            let first = {
                let mut state = self.state.lock();
                match state.waiting.pop_front() {
                    Some(first) => first,
                    None if state.idle.len() < MAX_IDLE => return state.idle.push(connection),
                    None => break,
                }
            };
            match first.send(Granted::Connection(connection)) {
                Err(Granted::Connection(unwanted)) => connection = unwanted,
                _ => return,
            }
        }
    }

    /// Waits for a connection, or for the right to open one.
    pub(crate) async fn wait(self: &Arc<Self>, limits: &Limits) -> Result<Granted, UpstreamError> {
        let receiver = {
            let mut state = self.state.lock();
            if let Some(connection) = state.idle.pop() {
                return Ok(Granted::Connection(connection));
            }
            if let Some(place) = self.place(limits) {
                return Ok(Granted::Place(place));
            }
            if state.waiting.len() == state.waiting.capacity() {
                // Those that gave up; looked for whenever the queue would grow.
                state.waiting.retain(|waiting| !waiting.is_closed());
            }
            let (sender, receiver) = oneshot::channel();
            state.waiting.push_back(sender);
            receiver
        };
        let granted = receiver.await;
        granted.map_err(|_| UpstreamError::new(UpstreamErrorKind::Terminated))
    }

    /// Called under the lock: else two could be the endpoint's first.
    fn place(self: &Arc<Self>, limits: &Limits) -> Option<Place> {
        let permit = match limits.take(Resource::Connections) {
            Ok(permit) => permit,
            Err(_) if self.places.load(Ordering::Relaxed) == 0 => {
                limits.take_always(Resource::Connections)
            }
            Err(_) => return None,
        };
        self.places.fetch_add(1, Ordering::Relaxed);
        let waiters: Weak<dyn Waiters> = Arc::<H1Pool>::downgrade(self);
        Some(Place::of(permit, waiters, limits))
    }

    /// Tells those who wait that no connection can be made.
    pub(crate) fn fail(&self, error: &UpstreamError) {
        let waiting = std::mem::take(&mut self.state.lock().waiting);
        for waiting in waiting {
            let _ = waiting.send(Granted::Failed(error.kind, error.reason.clone()));
        }
    }

    /// Closes what was closed by the upstream, or may not be kept any longer.
    pub(crate) fn sweep(&self, now: Instant, limits: IdleLimits) {
        // Taken out in one go: a request that finds the list empty meanwhile opens a connection.
        let idle = std::mem::take(&mut self.state.lock().idle);
        let mut cx = Context::from_waker(Waker::noop());
        for mut connection in idle {
            let since = connection.idle_since;
            if limits.allow(connection.opened, since, now) && connection.poll_alive(&mut cx) {
                self.put(connection, since);
            }
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::upstream::limits::tests::one_connection;

    fn place(granted: Granted) -> Place {
        match granted {
            Granted::Place(place) => place,
            _ => panic!("no place"),
        }
    }

    #[tokio::test]
    async fn a_place_goes_to_who_waits_longest_and_not_to_who_left() {
        let (pool, limits) = (Arc::new(H1Pool::default()), one_connection());
        let first = place(pool.wait(&limits).await.ok().unwrap());
        let mut left = Box::pin(pool.wait(&limits));
        let mut second = Box::pin(pool.wait(&limits));
        let mut third = Box::pin(pool.wait(&limits));
        for waiting in [&mut left, &mut second, &mut third] {
            assert!(poll_once(waiting).is_none());
        }
        drop(left);
        drop(first);
        assert!(poll_once(&mut third).is_none());
        // It was handed over already; who has it leaves without having looked.
        drop(second);
        let third = place(third.await.ok().unwrap());
        drop(third);
        assert!(limits.take(Resource::Connections).is_ok());
    }

    #[tokio::test]
    async fn an_endpoint_without_a_connection_may_open_one() {
        let limits = one_connection();
        let (one, other) = (Arc::new(H1Pool::default()), Arc::new(H1Pool::default()));
        let _first = place(one.wait(&limits).await.ok().unwrap());
        let _beyond = place(other.wait(&limits).await.ok().unwrap());
        let mut waiting = Box::pin(other.wait(&limits));
        assert!(poll_once(&mut waiting).is_none());
        other.fail(&UpstreamError::new(UpstreamErrorKind::Connect));
        assert!(matches!(waiting.await, Ok(Granted::Failed(..))));
    }

    #[tokio::test]
    async fn those_who_gave_up_do_not_pile_up() {
        let (pool, limits) = (Arc::new(H1Pool::default()), one_connection());
        let _first = pool.wait(&limits).await;
        for _ in 0..1000 {
            assert!(poll_once(&mut Box::pin(pool.wait(&limits))).is_none());
        }
        assert!(pool.state.lock().waiting.capacity() < 16);
    }

    fn poll_once<F: Future + Unpin>(future: &mut F) -> Option<F::Output> {
        let mut cx = Context::from_waker(Waker::noop());
        match std::pin::Pin::new(future).poll(&mut cx) {
            std::task::Poll::Ready(output) => Some(output),
            std::task::Poll::Pending => None,
        }
    }
}
