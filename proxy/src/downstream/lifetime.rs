//! When a client's connection has lived long enough by its own limits: it was idle, it is old, it has carried as much as it may.
//!
//! What it carries holds a [`Use`]. One timer rings for idleness and age; when it rings, it is looked at what was due. So a
//! request costs two counters and no timer.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::{Instant, Sleep};
use waypoint_config::model::http::connection_limits::ConnectionLimits;

/// What a connection carries and has carried.
pub(crate) struct Uses {
    opened: Instant,
    most: u64,
    total: AtomicU64,
    active: AtomicU64,
    /// Since when nothing is active, in microseconds after it was opened.
    idle_since: AtomicU64,
    /// Whoever ends the connection, once it has carried as much as it may.
    full: AtomicWaker,
}

/// Something that a connection carries.
pub(crate) struct Use(Arc<Uses>);

impl Uses {
    pub(crate) fn new(limits: &ConnectionLimits) -> Arc<Uses> {
        Arc::new(Uses {
            opened: Instant::now(),
            most: limits.streams.unwrap_or(u64::MAX),
            total: AtomicU64::new(0),
            active: AtomicU64::new(0),
            idle_since: AtomicU64::new(0),
            full: AtomicWaker::new(),
        })
    }

    /// One more stream.
    pub(crate) fn begin(self: &Arc<Uses>) -> Use {
        self.active.fetch_add(1, Ordering::AcqRel);
        if self.total.fetch_add(1, Ordering::Relaxed) + 1 == self.most {
            self.full.wake();
        }
        Use(self.clone())
    }

    /// Whether further streams belong on another connection.
    pub(crate) fn is_full(&self) -> bool {
        self.total.load(Ordering::Relaxed) >= self.most
    }

    /// When it will have been idle for so long, if nothing comes until then.
    fn idle_for(&self, limit: Duration, now: Instant) -> Option<Instant> {
        let since = Duration::from_micros(self.idle_since.load(Ordering::Acquire));
        match self.active.load(Ordering::Acquire) {
            0 => (self.opened + since).checked_add(limit),
            _ => now.checked_add(limit),
        }
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        let elapsed = self.0.opened.elapsed().as_micros();
        let elapsed = u64::try_from(elapsed).unwrap_or(u64::MAX);
        // Before the count: whoever finds nothing active finds since when.
        self.0.idle_since.store(elapsed, Ordering::Release);
        self.0.active.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Why a connection is to end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    Idle,
    Old,
    Full,
}

/// Rings when a connection is to end.
pub(crate) struct Lifetime {
    uses: Arc<Uses>,
    idle: Option<Duration>,
    end: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Lifetime {
    /// `random` is below 1.
    pub(crate) fn new(uses: Arc<Uses>, limits: &ConnectionLimits, random: f64) -> Lifetime {
        let age = limits.age(random);
        let end = age.and_then(|age| uses.opened.checked_add(age));
        let mut lifetime = Lifetime {
            uses,
            idle: limits.idle,
            end,
            timer: None,
        };
        let due = lifetime.due(Instant::now());
        lifetime.timer = due.map(|(due, _)| Box::pin(tokio::time::sleep_until(due)));
        lifetime
    }

    /// What comes first, if nothing more is asked of the connection.
    fn due(&self, now: Instant) -> Option<(Instant, Reason)> {
        let idle = self.idle.and_then(|limit| self.uses.idle_for(limit, now));
        let idle = idle.map(|due| (due, Reason::Idle));
        let old = self.end.map(|due| (due, Reason::Old));
        idle.into_iter().chain(old).min_by_key(|(due, _)| *due)
    }

    /// Ready when the connection is to end. Not to be asked again then.
    pub(crate) fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<Reason> {
        if self.uses.most != u64::MAX {
            self.uses.full.register(cx.waker());
            if self.uses.is_full() {
                return Poll::Ready(Reason::Full);
            }
        }
        let Some(mut timer) = self.timer.take() else {
            return Poll::Pending;
        };
        while timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            match self.due(now) {
                None => return Poll::Pending,
                Some((due, reason)) if due <= now => return Poll::Ready(reason),
                Some((due, _)) => timer.as_mut().reset(due),
            }
        }
        self.timer = Some(timer);
        Poll::Pending
    }

    /// It is as old as it gets, and goes on all the same.
    pub(crate) fn outlives_its_age(&mut self) {
        self.end = None;
        let due = self.due(Instant::now());
        self.timer = due.map(|(due, _)| Box::pin(tokio::time::sleep_until(due)));
    }

    /// Returns when the connection is to end.
    pub(crate) async fn over(&mut self) -> Reason {
        std::future::poll_fn(|cx| self.poll_over(cx)).await
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions;
    use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager;
    use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};

    use super::*;

    fn limits(idle: i64, age: i64, streams: u32) -> ConnectionLimits {
        let seconds = |seconds| Some(DurationProto { seconds, nanos: 0 });
        let common = HttpProtocolOptions {
            idle_timeout: seconds(idle),
            max_connection_duration: seconds(age),
            max_requests_per_connection: Some(UInt32Value { value: streams }),
            ..HttpProtocolOptions::default()
        };
        ConnectionLimits::from_proto(&HttpConnectionManager::default(), &common).unwrap()
    }

    const fn secs(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_is_idle_from_the_end_of_its_last_stream_on() {
        let limits = limits(10, 0, 0);
        let uses = Uses::new(&limits);
        let mut lifetime = Lifetime::new(uses.clone(), &limits, 0.0);
        let start = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(secs(9)).await;
            let long = uses.begin();
            tokio::time::sleep(secs(1)).await;
            drop(uses.begin());
            tokio::time::sleep(secs(30)).await;
            drop(long);
        });
        assert_eq!(lifetime.over().await, Reason::Idle);
        assert_eq!(start.elapsed().as_secs(), 50);
    }

    #[tokio::test(start_paused = true)]
    async fn an_age_ends_what_is_in_use_too() {
        let limits = limits(100, 20, 0);
        let uses = Uses::new(&limits);
        let _long = uses.begin();
        let start = Instant::now();
        let mut lifetime = Lifetime::new(uses, &limits, 0.5);
        assert_eq!(lifetime.over().await, Reason::Old);
        assert_eq!(start.elapsed().as_secs(), 19, "drawn");
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_carries_so_many_streams() {
        let limits = limits(0, 0, 3);
        let uses = Uses::new(&limits);
        let mut lifetime = Lifetime::new(uses.clone(), &limits, 0.0);
        let ended = tokio::spawn(async move { lifetime.over().await });
        for full in [false, false, true] {
            drop(uses.begin());
            tokio::task::yield_now().await;
            assert_eq!(uses.is_full(), full);
        }
        assert_eq!(ended.await.unwrap(), Reason::Full);
    }

    #[tokio::test(start_paused = true)]
    async fn without_limits_a_connection_stays() {
        let limits = limits(0, 0, 0);
        let mut lifetime = Lifetime::new(Uses::new(&limits), &limits, 0.0);
        let over = tokio::time::timeout(secs(1 << 30), lifetime.over());
        assert!(over.await.is_err());
    }
}
