//! The trace that a request belongs to: ids, whether spans of it are wanted, and its tries.
//!
//! Made when a request begins whose chain has a tracer; unsampled, it is only what goes on in headers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use http::HeaderValue;

use crate::stream::response_flags::ResponseFlags;

/// Tries that are told of at most, of one request.
pub const MAX_TRIES: usize = 64;

/// One request's place in its trace.
#[derive(Clone, Debug)]
pub struct RequestTrace {
    /// 64 bits only where the client's was so short.
    pub trace_id: u128,
    /// Of the span of the request itself.
    pub span_id: u64,
    /// The client's span.
    pub parent: Option<u64>,
    /// Whether its spans are sent.
    pub sampled: bool,
    /// `tracestate`, as it came.
    pub state: Option<HeaderValue>,
    pub propagation: Propagation,
    /// Whether B3 came in one header, and goes on in one.
    pub b3_in_one: bool,
    /// Whether every try has a span of its own.
    pub spans_of_tries: bool,
    /// The route's name for it.
    pub operation: Option<Arc<str>>,
    /// What the cluster is called where its statistics are.
    pub cluster_stat_name: Option<Arc<str>>,
    pub tries: Vec<Try>,
}

/// The headers that carry a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    W3c,
    B3,
    B3AndW3c,
    /// They go on as they came.
    Untouched,
}

/// A try of a request at an endpoint.
#[derive(Clone, Debug)]
pub struct Try {
    pub span_id: u64,
    pub number: u32,
    pub start: Instant,
    /// `None`: nobody waited for it to the end.
    pub outcome: Option<TryOutcome>,
}

/// What came of a try.
#[derive(Clone, Debug)]
pub struct TryOutcome {
    /// `None`: its answer lasts as long as the request.
    pub end: Option<Instant>,
    pub code: Option<u16>,
    pub flags: ResponseFlags,
    /// The endpoint.
    pub host: Option<SocketAddr>,
    /// Why there was no answer, in Envoy's words.
    pub error: Option<&'static str>,
    /// Nobody waited for the end of its answer.
    pub canceled: bool,
}

impl RequestTrace {
    /// The span that upstream's spans are children of.
    pub fn current_span(&self) -> u64 {
        self.tries.last().map_or(self.span_id, |last| last.span_id)
    }

    /// A try begins; it has a span where that is wanted.
    pub fn begin_try(&mut self, number: u32, id: impl FnOnce() -> u64, start: Instant) {
        if self.spans_of_tries && self.tries.len() < MAX_TRIES {
            self.tries.push(Try {
                span_id: id(),
                number,
                start,
                outcome: None,
            });
        }
    }

    /// Another try follows the last one: its answer, if there was one, is over.
    pub fn end_replaced_try(&mut self, now: Instant) {
        if let Some(outcome) = self.tries.last_mut().and_then(|t| t.outcome.as_mut()) {
            outcome.canceled = outcome.end.is_none();
            outcome.end.get_or_insert(now);
        }
    }

    /// What came of the last try.
    pub fn end_try(&mut self, outcome: TryOutcome) {
        if let Some(last) = self.tries.last_mut() {
            last.outcome = Some(outcome);
        }
    }
}
