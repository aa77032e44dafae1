//! `expect: 100-continue` of an HTTP/1.1 client: it waits with its body until it is told to go on.
//!
//! hyper's server would say 100 by itself as soon as anybody asks for the body. So the reader of the bytes
//! hides the expectation from hyper ([`WAITS`]), the exchange finds it and sends it on, and the upstream's
//! 100 comes back as whatever else it says before its answer ([`crate::upstream::connection::informational`]).

use std::pin::pin;
use std::time::Duration;

use http::{HeaderValue, Request, header};

use crate::upstream::connection::informational::relay::Relay;

/// The first byte of an expectation's value as hyper sees it: the client waits, or its body came at once.
/// No client means anything by such a byte.
pub(crate) const WAITS: u8 = 0xff;
pub(crate) const BEGUN: u8 = 0xfe;
const EXPECTED: &str = "100-continue";

/// So long an HTTP/2 upstream has to refuse a request before its body is asked for.
const REFUSAL: Duration = Duration::from_millis(100);

/// Finds what the reader has hidden from hyper, and makes it again what the client has sent.
pub(crate) fn find<B>(request: &mut Request<B>, relay: &Relay) {
    if !relay.was_expected() {
        return;
    }
    let headers = request.headers_mut();
    let waits = match headers.get(header::EXPECT).map(HeaderValue::as_bytes) {
        Some([WAITS, ..]) => true,
        Some([BEGUN, ..]) => false,
        _ => return,
    };
    headers.insert(header::EXPECT, HeaderValue::from_static(EXPECTED));
    if waits {
        relay.wait();
    }
}

/// Waits for the answer, and tells the client to go on if neither that nor a 100 comes soon: many servers of HTTP/2
/// never say 100.
pub(crate) async fn go_on_unless_refused<T>(relay: &Relay, answer: impl Future<Output = T>) -> T {
    let mut answer = pin!(answer);
    if let Ok(answer) = tokio::time::timeout(REFUSAL, &mut answer).await {
        return answer;
    }
    relay.go_on();
    answer.await
}
