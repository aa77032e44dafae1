//! HTTP/2 settings that both sides of HBONE share, and the liveness check of a connection.
//!
//! Windows: a stalled tunnel may hold its stream window in memory, so that is kept at 1 MiB (a 10 Gb/s link with a
//! round trip of 0.8 ms); the connection's is sixteen times as large, or one stalled tunnel would starve all
//! others on the connection, and applications that need two tunnels at once would deadlock.
//!
//! Small DATA frames: h2 charges each frame below 256 bytes against a budget until it is read, and ends the *connection* when it is
//! spent. A tunnel of a chatty protocol is nothing but small frames; with a budget as large as the
//! connection's window the charge bounds memory without ever biting honest traffic.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{Instant, Sleep};

/// What both sides of a connection agree on, or bound.
#[derive(Clone, Debug)]
pub struct Http2Options {
    /// Unread bytes that a peer may send on one stream. At least 64 KiB.
    pub stream_window: u32,
    /// Unread bytes that a peer may send on all streams together.
    pub connection_window: u32,
    /// The largest frame that a peer may send, 16 KiB to 16 MiB.
    pub max_frame_size: u32,
    /// Unsent bytes per stream that are kept beyond what the peer's window takes.
    pub max_send_buffer: usize,
    /// Overhead of small DATA frames that are kept unread, in bytes per connection.
    pub data_frame_budget: usize,
    /// The largest header list that is taken; the peer gets 431 for more.
    pub max_header_list: u32,
    /// How often the peer is asked for a sign of life; `None`: never.
    pub keepalive_interval: Option<Duration>,
    /// A connection whose peer says nothing for this long after that is closed.
    pub keepalive_timeout: Duration,
}

impl Default for Http2Options {
    fn default() -> Http2Options {
        Http2Options {
            stream_window: 1024 * 1024,
            connection_window: 16 * 1024 * 1024,
            max_frame_size: 64 * 1024,
            max_send_buffer: 256 * 1024,
            data_frame_budget: 16 * 1024 * 1024,
            max_header_list: 64 * 1024,
            // The numbers that istiod sends for its HBONE listeners.
            keepalive_interval: Some(Duration::from_secs(10)),
            keepalive_timeout: Duration::from_secs(20),
        }
    }
}

/// Consumed bytes are given back to the peer's window in steps of this many. Far below the smallest window that we
/// advertise, so that what is held back never stalls the peer.
pub(crate) const RELEASE_STEP: usize = 32 * 1024;

/// Streams that were reset and are remembered for late frames; also how many a peer may reset before they are
/// taken up (the "rapid reset" attack).
const MAX_RESET_STREAMS: usize = 128;

macro_rules! apply {
    ($options:expr, $builder:expr) => {{
        let options: &Http2Options = $options;
        $builder
            .initial_window_size(options.stream_window())
            .initial_connection_window_size(options.connection_window())
            .max_frame_size(options.max_frame_size.clamp(16 * 1024, (1 << 24) - 1))
            .max_send_buffer_size(options.max_send_buffer)
            .data_frame_budget(options.data_frame_budget)
            .max_header_list_size(options.max_header_list)
            .max_concurrent_reset_streams(MAX_RESET_STREAMS)
            .max_pending_accept_reset_streams(MAX_RESET_STREAMS);
    }};
}

impl Http2Options {
    /// The stream window as it is told: what is held back of it must never stall the peer.
    fn stream_window(&self) -> u32 {
        self.stream_window.max(2 * RELEASE_STEP as u32)
    }

    fn connection_window(&self) -> u32 {
        self.connection_window.max(self.stream_window)
    }

    pub(crate) fn server(&self, max_concurrent_streams: u32) -> h2::server::Builder {
        let mut builder = h2::server::Builder::new();
        apply!(self, builder);
        builder.max_concurrent_streams(max_concurrent_streams);
        builder
    }

    pub(crate) fn client(&self) -> h2::client::Builder {
        let mut builder = h2::client::Builder::new();
        apply!(self, builder);
        builder.enable_push(false);
        builder
    }
}

/// Says whether memory is short: peers may send little ahead then, on connections that are open already, too. Clones
/// are the same.
#[derive(Clone, Debug, Default)]
pub struct Squeeze(Arc<AtomicBool>);

/// Stream windows while memory is short.
const SQUEEZED_STREAM: u32 = 64 * 1024;
/// Connection windows while memory is short: as many streams of it as before.
const SQUEEZED_CONNECTION: u32 = 16 * SQUEEZED_STREAM;

impl Squeeze {
    pub fn set(&self, short: bool) {
        self.0.store(short, Ordering::Relaxed);
    }

    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// The windows of one server connection, which follow a [`Squeeze`].
pub(crate) struct Windows {
    squeeze: Squeeze,
    squeezed: bool,
    stream: u32,
    connection: u32,
}

impl Windows {
    pub(crate) fn new(options: &Http2Options, squeeze: Squeeze) -> Windows {
        Windows {
            squeeze,
            squeezed: false,
            stream: options.stream_window(),
            connection: options.connection_window(),
        }
    }

    /// Brings the connection's windows to where they should be now. What was sent before is taken all the same.
    pub(crate) fn follow<T>(&mut self, connection: &mut h2::server::Connection<T, bytes::Bytes>)
    where
        T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    {
        let squeezed = self.squeeze.is_on();
        if squeezed == self.squeezed {
            return;
        }
        let (stream, whole) = if squeezed {
            (SQUEEZED_STREAM, SQUEEZED_CONNECTION)
        } else {
            (self.stream, self.connection)
        };
        // Refused while the peer hasn't acknowledged the settings before: it is tried again at the next turn.
        if connection.set_initial_window_size(stream).is_ok() {
            connection.set_target_window_size(whole);
            self.squeezed = squeezed;
        }
    }
}

/// Asks the peer for signs of life.
pub(crate) struct KeepAlive {
    ping: Option<PingPong>,
    interval: Duration,
    timeout: Duration,
    timer: Pin<Box<Sleep>>,
    waiting: bool,
}

impl KeepAlive {
    pub(crate) fn new(options: &Http2Options, ping: Option<PingPong>) -> Option<KeepAlive> {
        let interval = options.keepalive_interval?;
        Some(KeepAlive::every(interval, options.keepalive_timeout, ping))
    }

    pub(crate) fn every(
        interval: Duration,
        timeout: Duration,
        ping: Option<PingPong>,
    ) -> KeepAlive {
        KeepAlive {
            ping,
            interval,
            timeout,
            timer: Box::pin(tokio::time::sleep(interval)),
            waiting: false,
        }
    }

    /// Ready when the peer is taken for dead, at most interval and timeout after its last byte. `received` says whether
    /// anything has arrived since it was last asked; bytes are as good a sign of life as an answer.
    pub(crate) fn poll_dead(
        &mut self,
        cx: &mut Context<'_>,
        received: impl Fn() -> bool,
    ) -> Poll<()> {
        let Some(ping) = &mut self.ping else {
            return Poll::Pending;
        };
        if self.waiting {
            match ping.poll_pong(cx) {
                Poll::Ready(Ok(_)) => {
                    self.waiting = false;
                    self.timer.as_mut().reset(Instant::now() + self.interval);
                }
                // The connection itself reports what broke it.
                Poll::Ready(Err(_)) => return Poll::Pending,
                Poll::Pending => {}
            }
        }
        while self.timer.as_mut().poll(cx).is_ready() {
            let alive = received();
            if self.waiting {
                if !alive {
                    return Poll::Ready(());
                }
                self.timer.as_mut().reset(Instant::now() + self.timeout);
                continue;
            }
            // Bytes that came since the last PING may have come long ago: another one bounds the silence.
            if ping.send_ping(Ping::opaque()).is_err() {
                return Poll::Pending;
            }
            self.waiting = true;
            self.timer.as_mut().reset(Instant::now() + self.timeout);
            // Registers for the answer.
            let _ = ping.poll_pong(cx);
        }
        Poll::Pending
    }
}
