//! What is said before an answer, to an HTTP/1.1 client.
//!
//! hyper's server sends nothing of it. So they are bytes of our own, between two of hyper's answers: they are
//! written when nothing of hyper's is left to be written, and the answer waits until they are.
//!
//! An HTTP/1.1 connection has one request at a time; the request's number keeps apart what is said too late. Of attempts beside
//! each other, the first one that speaks is heard.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, StatusCode};
use parking_lot::Mutex;

use crate::upstream::connection::informational::heads::{MAX_UNWRITTEN, is_clients};

/// What the client is told when its body is wanted, and the upstream has nothing to add.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// What is said on a client's connection beside its answers.
#[derive(Default)]
pub(crate) struct Informational {
    /// Whether names are written as `Content-Type`.
    title_case: bool,
    /// The request whose answer is awaited, from 1; 0: there is none that may be told anything.
    awaited: AtomicU64,
    /// The request whose client waits with its body.
    waiting: AtomicU64,
    /// The last request for which an upstream has spoken.
    spoken_for: AtomicU64,
    /// How often one has.
    spoken: AtomicU64,
    /// Whether a request expected 100.
    expected: AtomicBool,
    /// Something is still to be written.
    unwritten: AtomicBool,
    /// And was said since this was last asked.
    fresh: AtomicBool,
    said: Mutex<Said>,
}

#[derive(Default)]
struct Said {
    heads: VecDeque<Bytes>,
    /// Theirs.
    bytes: usize,
    /// The attempt that has spoken.
    speaker: u32,
    /// The answer, which waits for its turn.
    answer: Option<Waker>,
}

impl Informational {
    pub(crate) fn new(title_case: bool) -> Informational {
        Informational {
            title_case,
            ..Informational::default()
        }
    }

    /// A request begins, the one with this number on its connection; what it is called here.
    pub(super) fn begin(&self, number: u64) -> u64 {
        let request = number + 1;
        self.awaited.store(request, Ordering::Relaxed);
        request
    }

    /// A request expects 100.
    pub(crate) fn expect(&self) {
        self.expected.store(true, Ordering::Relaxed);
    }

    /// The answer has come: nothing more is said for its request. Says whether the client still waits with its body, which never
    /// comes then.
    pub(crate) fn end(&self) -> bool {
        if self.awaited.load(Ordering::Relaxed) == 0 {
            return false;
        }
        // Who speaks just now has spoken before the answer, or not at all.
        let _said = self.said.lock();
        self.awaited.store(0, Ordering::Relaxed);
        self.waiting.swap(0, Ordering::Relaxed) != 0
    }

    /// Bytes of the body have come: the client doesn't wait any more.
    pub(crate) fn body_came(&self) {
        if self.waiting.load(Ordering::Relaxed) != 0 {
            self.waiting.store(0, Ordering::Relaxed);
        }
    }

    pub(crate) fn is_unwritten(&self) -> bool {
        self.unwritten.load(Ordering::Relaxed)
    }

    /// Whether something was said since this was last asked.
    pub(crate) fn take_fresh(&self) -> bool {
        self.fresh.load(Ordering::Relaxed) && self.fresh.swap(false, Ordering::Relaxed)
    }

    /// The next head that is to be written; those before it were.
    pub(crate) fn next(&self) -> Option<Bytes> {
        let mut said = self.said.lock();
        let next = said.heads.pop_front();
        said.bytes -= next.as_ref().map_or(0, Bytes::len);
        if next.is_none() {
            self.unwritten.store(false, Ordering::Relaxed);
            if let Some(answer) = said.answer.take() {
                answer.wake();
            }
        }
        next
    }

    /// Returns when all that was said is written.
    pub(crate) async fn written(&self) {
        std::future::poll_fn(|cx| {
            let mut said = self.said.lock();
            if !self.is_unwritten() {
                return Poll::Ready(());
            }
            said.answer = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }

    /// The upstream of this attempt says something for this request.
    pub(super) fn tell(&self, request: u64, attempt: u32, status: StatusCode, headers: &HeaderMap) {
        let Some(line) = status_line(status) else {
            return;
        };
        if status == StatusCode::CONTINUE {
            self.wait_no_more(request);
        }
        let head = || written(line, headers, self.title_case);
        self.say(request, Some(attempt), head);
    }

    /// `attempt`: whose upstream says it.
    fn say(&self, request: u64, attempt: Option<u32>, head: impl FnOnce() -> Bytes) {
        let mut said = self.said.lock();
        if self.awaited.load(Ordering::Relaxed) != request {
            return;
        }
        if let Some(attempt) = attempt {
            if self.has_spoken(request) && said.speaker != attempt {
                return;
            }
            said.speaker = attempt;
            self.spoken_for.store(request, Ordering::Relaxed);
            self.spoken.fetch_add(1, Ordering::Relaxed);
        }
        let head = head();
        if said.bytes + head.len() <= MAX_UNWRITTEN {
            said.bytes += head.len();
            said.heads.push_back(head);
            self.unwritten.store(true, Ordering::Relaxed);
            self.fresh.store(true, Ordering::Relaxed);
        }
    }

    pub(super) fn was_expected(&self) -> bool {
        self.expected.load(Ordering::Relaxed)
    }

    pub(super) fn wait(&self, request: u64) {
        self.waiting.store(request, Ordering::Relaxed);
    }

    pub(super) fn is_waiting(&self, request: u64) -> bool {
        self.waiting.load(Ordering::Relaxed) == request
    }

    fn wait_no_more(&self, request: u64) -> bool {
        self.waiting
            .compare_exchange(request, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    pub(super) fn go_on(&self, request: u64) {
        if self.wait_no_more(request) {
            self.say(request, None, || Bytes::from_static(CONTINUE));
        }
    }

    pub(super) fn has_spoken(&self, request: u64) -> bool {
        self.spoken_for.load(Ordering::Relaxed) == request
    }

    pub(super) fn speaker(&self) -> u32 {
        self.said.lock().speaker
    }

    pub(super) fn spoken(&self) -> u64 {
        self.spoken.load(Ordering::Relaxed)
    }
}

/// `None`: it isn't passed on. 101 is an answer.
fn status_line(status: StatusCode) -> Option<&'static [u8]> {
    Some(match status.as_u16() {
        100 => b"HTTP/1.1 100 Continue\r\n",
        102 => b"HTTP/1.1 102 Processing\r\n",
        103 => b"HTTP/1.1 103 Early Hints\r\n",
        104 => b"HTTP/1.1 104 Upload Resumption Supported\r\n",
        _ => return None,
    })
}

fn written(line: &[u8], headers: &HeaderMap, title_case: bool) -> Bytes {
    let mut head = Vec::with_capacity(line.len() + headers.len() * 32 + 2);
    head.extend_from_slice(line);
    for (name, value) in headers {
        if !is_clients(name) {
            continue;
        }
        if title_case {
            let mut first = true;
            head.extend(name.as_str().bytes().map(|byte| {
                match std::mem::replace(&mut first, byte == b'-') {
                    true => byte.to_ascii_uppercase(),
                    false => byte,
                }
            }));
        } else {
            head.extend_from_slice(name.as_str().as_bytes());
        }
        head.extend_from_slice(b": ");
        head.extend_from_slice(value.as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    head.extend_from_slice(b"\r\n");
    head.into()
}
