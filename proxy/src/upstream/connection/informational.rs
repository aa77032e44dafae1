//! What an upstream says before its answer (RFC 9110 §15.2), on its way to an HTTP/1.1 client: 100, 102, 103 and 104, as Envoy passes
//! them on.
//!
//! hyper's client tells of them, and its server sends none. So they are bytes of our own, between two of hyper's answers: they are
//! written when nothing of hyper's is left to be written, and the answer waits until they are.
//!
//! An HTTP/1.1 connection has one request at a time; the request's number keeps apart what is said too late. Of attempts beside
//! each other, the first one that speaks is heard.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Poll, Waker};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use parking_lot::Mutex;

/// What the client is told when its body is wanted, and the upstream has nothing to add.
const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";
/// Bytes that may wait for a client that doesn't read. What is beyond them is dropped: it is no part of the answer.
const MAX_UNWRITTEN: usize = 64 * 1024;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

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

/// Who may be told what is said for a request; in its extensions.
#[derive(Clone)]
pub(crate) struct Relay {
    informational: Arc<Informational>,
    request: u64,
    attempt: u32,
}

impl Informational {
    pub(crate) fn new(title_case: bool) -> Informational {
        Informational {
            title_case,
            ..Informational::default()
        }
    }

    /// A request begins, the one with this number on its connection.
    pub(crate) fn begin(self: &Arc<Self>, number: u64) -> Relay {
        let request = number + 1;
        self.awaited.store(request, Ordering::Relaxed);
        Relay {
            informational: self.clone(),
            request,
            attempt: 0,
        }
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

    fn say(&self, of: &Relay, head: impl FnOnce() -> Bytes, by_upstream: bool) {
        let mut said = self.said.lock();
        if self.awaited.load(Ordering::Relaxed) != of.request {
            return;
        }
        if by_upstream {
            if of.has_spoken() && said.speaker != of.attempt {
                return;
            }
            said.speaker = of.attempt;
            self.spoken_for.store(of.request, Ordering::Relaxed);
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
}

impl Relay {
    /// Has hyper tell what the upstream says before its answer. `heard` is called for each.
    pub(crate) fn listen<B>(
        &self,
        request: &mut Request<B>,
        heard: impl Fn() + Send + Sync + 'static,
    ) {
        let relay = self.clone();
        hyper::ext::on_informational(request, move |response| {
            heard();
            relay.tell(response.status(), response.headers());
        });
    }

    fn tell(&self, status: StatusCode, headers: &HeaderMap) {
        let Some(line) = status_line(status) else {
            return;
        };
        if status == StatusCode::CONTINUE {
            self.wait_no_more();
        }
        let case = self.informational.title_case;
        self.informational
            .say(self, || written(line, headers, case), true);
    }

    /// Whether a request on the connection has expected 100.
    pub(crate) fn was_expected(&self) -> bool {
        self.informational.expected.load(Ordering::Relaxed)
    }

    /// The client waits with its body.
    pub(crate) fn wait(&self) {
        let waiting = &self.informational.waiting;
        waiting.store(self.request, Ordering::Relaxed);
    }

    /// Whether the client waits with its body.
    pub(crate) fn is_waiting(&self) -> bool {
        self.informational.waiting.load(Ordering::Relaxed) == self.request
    }

    fn wait_no_more(&self) -> bool {
        let waiting = &self.informational.waiting;
        waiting
            .compare_exchange(self.request, 0, Ordering::Relaxed, Ordering::Relaxed)
            .is_ok()
    }

    /// Tells a client that waits with its body to send it, whatever the upstream says.
    pub(crate) fn go_on(&self) {
        if self.wait_no_more() {
            self.informational
                .say(self, || Bytes::from_static(CONTINUE), false);
        }
    }

    /// Whether an upstream has said something for this request: the client has heard of that one.
    pub(crate) fn has_spoken(&self) -> bool {
        self.informational.spoken_for.load(Ordering::Relaxed) == self.request
    }

    /// Which attempt it was.
    pub(crate) fn speaker(&self) -> Option<u32> {
        self.has_spoken()
            .then(|| self.informational.said.lock().speaker)
    }

    /// A number that changes whenever something is said.
    pub(crate) fn spoken(&self) -> u64 {
        self.informational.spoken.load(Ordering::Relaxed)
    }

    /// The request is an attempt among others.
    pub(crate) fn number<B>(request: &mut Request<B>, attempt: u32) {
        if let Some(relay) = request.extensions_mut().get_mut::<Relay>() {
            relay.attempt = attempt;
        }
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

/// Without what belongs to the upstream's connection, and what would say that there is a body.
fn written(line: &[u8], headers: &HeaderMap, title_case: bool) -> Bytes {
    let mut head = Vec::with_capacity(line.len() + headers.len() * 32 + 2);
    head.extend_from_slice(line);
    for (name, value) in headers {
        if is_hop_by_hop(name) {
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

fn is_hop_by_hop(name: &HeaderName) -> bool {
    *name == header::CONNECTION
        || *name == header::TRANSFER_ENCODING
        || *name == header::CONTENT_LENGTH
        || *name == header::UPGRADE
        || *name == KEEP_ALIVE
        || *name == PROXY_CONNECTION
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn headers() -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::LINK, HeaderValue::from_static("</a>"));
        headers.insert("x-some-thing", HeaderValue::from_static("1"));
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static("5"));
        headers
    }

    fn text(informational: &Informational) -> String {
        let mut text = String::new();
        while let Some(head) = informational.next() {
            text.push_str(&String::from_utf8_lossy(&head));
        }
        text
    }

    #[test]
    fn what_is_said_is_the_clients_and_not_the_connections() {
        for (title, told) in [
            (false, "link: </a>\r\nx-some-thing: 1\r\n"),
            (true, "Link: </a>\r\nX-Some-Thing: 1\r\n"),
        ] {
            let informational = Arc::new(Informational::new(title));
            let relay = informational.begin(0);
            for (status, line) in [
                (StatusCode::EARLY_HINTS, "103 Early Hints"),
                (StatusCode::PROCESSING, "102 Processing"),
            ] {
                relay.tell(status, &headers());
                assert!(informational.is_unwritten());
                assert_eq!(
                    text(&informational),
                    format!("HTTP/1.1 {line}\r\n{told}\r\n")
                );
                assert!(!informational.is_unwritten());
            }
            relay.tell(StatusCode::SWITCHING_PROTOCOLS, &headers());
            assert!(!informational.is_unwritten());
        }
    }

    #[test]
    fn nothing_is_said_after_the_answer_or_for_another_request() {
        let informational = Arc::new(Informational::default());
        let first = informational.begin(0);
        assert!(!first.has_spoken());
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert!(first.has_spoken() && !informational.end());
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert_eq!(text(&informational).matches("HTTP/1.1").count(), 1);
        let second = informational.begin(1);
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert_eq!(
            (text(&informational), second.has_spoken()),
            (String::new(), false)
        );
    }

    #[test]
    fn a_client_waits_until_it_is_told_to_go_on_or_has_its_answer() {
        let informational = Arc::new(Informational::default());
        let relay = informational.begin(0);
        relay.wait();
        assert!(relay.is_waiting());
        relay.go_on();
        relay.go_on();
        assert_eq!(text(&informational), "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(!relay.is_waiting() && !relay.has_spoken() && !informational.end());
        let relay = informational.begin(1);
        relay.wait();
        assert!(informational.end(), "its body never comes");
        relay.go_on();
        assert_eq!(text(&informational), "");
    }

    #[test]
    fn of_attempts_beside_each_other_one_is_heard_and_only_so_much() {
        let informational = Arc::new(Informational::default());
        let mut first = informational.begin(0);
        first.attempt = 1;
        let mut second = first.clone();
        second.attempt = 2;
        second.tell(StatusCode::PROCESSING, &headers());
        first.tell(StatusCode::EARLY_HINTS, &headers());
        assert_eq!(first.speaker(), Some(2));
        assert!(text(&informational).starts_with("HTTP/1.1 102"));
        let mut large = HeaderMap::new();
        large.insert(
            header::LINK,
            HeaderValue::from_bytes(&[b'a'; 40_000]).unwrap(),
        );
        for _ in 0..9 {
            second.tell(StatusCode::EARLY_HINTS, &large);
        }
        assert!((40_000..MAX_UNWRITTEN).contains(&text(&informational).len()));
    }
}
