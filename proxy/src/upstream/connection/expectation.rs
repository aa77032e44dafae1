//! `expect: 100-continue` of an HTTP/1.1 client: it waits with its body until it is told to go on.
//!
//! hyper's server would say 100 by itself as soon as anybody asks for the body. So the reader of the bytes
//! hides the expectation from hyper ([`WAITS`]), the exchange finds it and sends it on, and the upstream's
//! 100 comes back as bytes of our own, between two of hyper's answers: when nothing of hyper's is left to
//! be written, and before the final answer has come.
//!
//! An HTTP/1.1 connection has one request at a time, all in one task; the request's number keeps a late
//! 100 of an earlier one apart.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http::{HeaderValue, Request, header};

/// The first byte of an expectation's value as hyper sees it: the client waits, or its body came at once.
/// No client means anything by such a byte.
pub(crate) const WAITS: u8 = 0xff;
pub(crate) const BEGUN: u8 = 0xfe;
const EXPECTED: &str = "100-continue";

/// What the client is told when its body is wanted.
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// So long an HTTP/2 upstream has to refuse a request before its body is asked for.
const REFUSAL: Duration = Duration::from_millis(100);

const WAITING: u64 = 1;
const WANTED: u64 = 2;
const PHASE: u64 = 3;

/// Where the current request of a connection stands with its body.
#[derive(Debug, Default)]
pub(crate) struct Expectation {
    /// The request's number, and a phase in the two lowest bits; 0: nobody waits.
    state: AtomicU64,
    /// Whether a head on this connection was marked.
    marked: AtomicBool,
}

impl Expectation {
    /// A head was marked.
    pub(crate) fn mark(&self) {
        self.marked.store(true, Ordering::Relaxed);
    }

    /// Bytes of the body have come: the client doesn't wait any more.
    pub(crate) fn body_came(&self) {
        if self.state.load(Ordering::Relaxed) & PHASE == WAITING {
            self.state.store(0, Ordering::Relaxed);
        }
    }

    /// Whether the client is to be told now that its body is wanted; true once.
    pub(crate) fn take_wanted(&self) -> bool {
        let wanted = self.state.load(Ordering::Relaxed) & PHASE == WANTED;
        if wanted {
            self.state.store(0, Ordering::Relaxed);
        }
        wanted
    }

    /// The final answer has come. Says whether the client still waits: then its body never comes.
    pub(crate) fn end(&self) -> bool {
        let state = self.state.load(Ordering::Relaxed);
        if state != 0 {
            self.state.store(0, Ordering::Relaxed);
        }
        state & PHASE == WAITING
    }

    fn begin(&self, request: u64) {
        self.state.store(request << 2 | WAITING, Ordering::Relaxed);
    }

    fn want(&self, request: u64) {
        let waits = request << 2 | WAITING;
        let wanted = request << 2 | WANTED;
        let _ = self
            .state
            .compare_exchange(waits, wanted, Ordering::Relaxed, Ordering::Relaxed);
    }
}

/// A client that waits for 100; in its request's extensions.
#[derive(Clone)]
pub(crate) struct Waiting {
    expectation: Arc<Expectation>,
    request: u64,
}

impl Waiting {
    /// Finds what the reader has hidden from hyper, and makes it again what the client has sent.
    /// `number` is the request's on its connection.
    pub(crate) fn find<B>(expectation: &Arc<Expectation>, request: &mut Request<B>, number: u64) {
        if !expectation.marked.load(Ordering::Relaxed) {
            return;
        }
        let headers = request.headers_mut();
        let waits = match headers.get(header::EXPECT).map(HeaderValue::as_bytes) {
            Some([WAITS, ..]) => true,
            Some([BEGUN, ..]) => false,
            _ => return,
        };
        headers.insert(header::EXPECT, HeaderValue::from_static(EXPECTED));
        if !waits {
            return;
        }
        expectation.begin(number);
        request.extensions_mut().insert(Waiting {
            expectation: expectation.clone(),
            request: number,
        });
    }

    /// The upstream's 100 is to come back to the client.
    pub(crate) fn relay<B>(request: &mut Request<B>) -> Option<Waiting> {
        let waiting = request.extensions().get::<Waiting>()?.clone();
        let told = waiting.clone();
        hyper::ext::on_informational(request, move |response| {
            if response.status() == http::StatusCode::CONTINUE {
                told.go_on();
            }
        });
        Some(waiting)
    }

    /// Tells the client to go on.
    pub(crate) fn go_on(&self) {
        self.expectation.want(self.request);
    }

    /// Waits for the answer, and tells the client to go on if that doesn't come soon: hyper doesn't tell
    /// of an HTTP/2 upstream's 100.
    pub(crate) async fn go_on_unless_refused<T>(&self, answer: impl Future<Output = T>) -> T {
        let mut answer = pin!(answer);
        if let Ok(answer) = tokio::time::timeout(REFUSAL, &mut answer).await {
            return answer;
        }
        self.go_on();
        answer.await
    }

    /// Whether the client still waits.
    pub(crate) fn is_waiting(&self) -> bool {
        self.expectation.state.load(Ordering::Relaxed) == self.request << 2 | WAITING
    }
}
