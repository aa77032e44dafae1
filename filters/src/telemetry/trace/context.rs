//! The context of a trace in a request's headers: taken from the client, given to the upstream. `baggage` is nobody's
//! business here and goes on as it came.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::stream::request_trace::{Propagation, RequestTrace};
use crate::telemetry::trace::b3::{self, Said};
use crate::telemetry::trace::w3c::{self, Parent};

pub(crate) const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");

/// How a tracer makes ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ids {
    OpenTelemetry,
    /// The first span has the trace's id; a server may share its client's span.
    Zipkin {
        bits_128: bool,
        shared: bool,
    },
}

/// Whose trace a request belongs to. `None`: what its client says is malformed, and it has none, as with Envoy.
pub(crate) fn start(
    headers: &HeaderMap,
    ids: Ids,
    propagation: Propagation,
    decided: bool,
    random: [u64; 3],
) -> Option<RequestTrace> {
    let said = match ids {
        Ids::OpenTelemetry => match headers.get(TRACEPARENT) {
            None => Said::Nothing { sampled: None },
            Some(value) => Said::Parent(w3c::parse(value)?),
        },
        Ids::Zipkin { .. } => {
            let said = b3::read(headers);
            let nothing = said == Said::Nothing { sampled: None };
            match headers.get(TRACEPARENT) {
                Some(value) if nothing && propagation == Propagation::B3AndW3c => {
                    Said::Parent(w3c::parse(value)?)
                }
                _ => said,
            }
        }
    };
    let state = match ids {
        Ids::OpenTelemetry => headers.get(TRACESTATE).cloned(),
        Ids::Zipkin { .. } => None,
    };
    let mut trace = RequestTrace {
        trace_id: 0,
        span_id: random[0],
        parent: None,
        sampled: decided,
        state: None,
        propagation,
        b3_in_one: headers.contains_key(b3::B3),
        spans_of_tries: false,
        operation: None,
        cluster_stat_name: None,
        tries: Vec::new(),
    };
    match said {
        Said::Malformed => return None,
        Said::Nothing { sampled } => {
            trace.sampled = sampled.unwrap_or(decided);
            let low = match ids {
                Ids::OpenTelemetry => random[1],
                Ids::Zipkin { .. } => random[0],
            };
            let high = match ids {
                Ids::Zipkin {
                    bits_128: false, ..
                } => 0,
                _ => random[2],
            };
            trace.trace_id = (u128::from(high) << 64) | u128::from(low);
        }
        Said::Parent(parent) => {
            trace.state = state;
            of_parent(&mut trace, parent, ids, decided);
        }
    }
    Some(trace)
}

fn of_parent(trace: &mut RequestTrace, parent: Parent, ids: Ids, decided: bool) {
    trace.trace_id = parent.trace_id;
    trace.sampled = parent.sampled.unwrap_or(decided);
    if let Ids::Zipkin { shared: true, .. } = ids {
        trace.span_id = parent.span_id;
        trace.parent = parent.grandparent;
    } else {
        trace.parent = Some(parent.span_id);
    }
}

/// Writes the context that the next try of a request goes out with.
pub fn inject(trace: &RequestTrace, headers: &mut HeaderMap) {
    let current = trace.current_span();
    let parent = match trace.tries.is_empty() {
        true => trace.parent,
        false => Some(trace.span_id),
    };
    write(trace, current, parent, trace.sampled, headers);
}

/// Writes the context of a request's copy: a span of the same trace that nobody sends, so that nothing of what the copy sets
/// off is counted as the request's.
pub fn inject_copy(trace: &RequestTrace, span_id: u64, headers: &mut HeaderMap) {
    write(trace, span_id, Some(trace.span_id), false, headers);
}

fn write(
    trace: &RequestTrace,
    span_id: u64,
    parent: Option<u64>,
    sampled: bool,
    headers: &mut HeaderMap,
) {
    let mut set = |name: HeaderName, value: String| {
        if let Ok(value) = HeaderValue::try_from(value) {
            headers.insert(name, value);
        }
    };
    if matches!(trace.propagation, Propagation::B3 | Propagation::B3AndW3c) {
        let trace_id = b3::trace_text(trace.trace_id);
        let span_id = format!("{span_id:016x}");
        let parent = parent.map(|parent| format!("{parent:016x}"));
        let sampled = u8::from(sampled).to_string();
        if trace.b3_in_one {
            let parent = parent.map_or_else(String::new, |parent| format!("-{parent}"));
            set(b3::B3, format!("{trace_id}-{span_id}-{sampled}{parent}"));
        } else {
            set(b3::TRACE_ID, trace_id);
            set(b3::SPAN_ID, span_id);
            if let Some(parent) = parent {
                set(b3::PARENT_SPAN_ID, parent);
            }
            set(b3::SAMPLED, sampled);
        }
    }
    if matches!(trace.propagation, Propagation::W3c | Propagation::B3AndW3c) {
        set(TRACEPARENT, w3c::write(trace.trace_id, span_id, sampled));
    }
    if trace.propagation == Propagation::W3c && trace.state.is_none() {
        // One without a trace belongs to none.
        headers.remove(TRACESTATE);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Instant;

    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    const ZIPKIN: Ids = Ids::Zipkin {
        bits_128: true,
        shared: false,
    };
    const TRACEPARENT_TEXT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00";

    #[test]
    fn a_clients_trace_goes_on_with_its_decision() {
        let came = headers(&[
            ("traceparent", TRACEPARENT_TEXT),
            ("tracestate", "a=b"),
            ("baggage", "k=v"),
        ]);
        let trace = start(&came, Ids::OpenTelemetry, Propagation::W3c, true, [1, 2, 3]).unwrap();
        assert!(!trace.sampled);
        assert_eq!(trace.parent, Some(0xb7ad_6b71_6920_3331));
        let mut out = came.clone();
        inject(&trace, &mut out);
        assert_eq!(
            out["traceparent"],
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000001-00"
        );
        assert_eq!(
            (&out["tracestate"], &out["baggage"]),
            (&came["tracestate"], &came["baggage"])
        );
    }

    #[test]
    fn tries_have_spans_of_their_own() {
        let mut trace = start(
            &HeaderMap::new(),
            ZIPKIN,
            Propagation::B3AndW3c,
            true,
            [1, 2, 3],
        )
        .unwrap();
        assert_eq!(trace.trace_id, (3 << 64) | 1);
        trace.spans_of_tries = true;
        trace.begin_try(1, || 0xaa, Instant::now());
        let mut out = HeaderMap::new();
        inject(&trace, &mut out);
        assert_eq!(out["x-b3-spanid"], "00000000000000aa");
        assert_eq!(out["x-b3-parentspanid"], "0000000000000001");
        assert_eq!(out["x-b3-sampled"], "1");
        assert_eq!(
            out["traceparent"],
            "00-00000000000000030000000000000001-00000000000000aa-01"
        );
    }

    #[test]
    fn what_is_malformed_has_no_trace_and_zipkin_may_share_a_span() {
        let broken = headers(&[("traceparent", "00-1-2-3")]);
        assert!(start(&broken, Ids::OpenTelemetry, Propagation::W3c, true, [1; 3]).is_none());
        let shared = Ids::Zipkin {
            bits_128: true,
            shared: true,
        };
        let b3 = headers(&[("b3", "000000000000000a-000000000000000b-1-000000000000000c")]);
        let trace = start(&b3, shared, Propagation::B3, false, [1, 2, 3]).unwrap();
        assert!(trace.sampled);
        assert_eq!((trace.span_id, trace.parent), (0xb, Some(0xc)));
    }
}
