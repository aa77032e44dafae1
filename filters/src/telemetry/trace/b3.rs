//! B3, Zipkin's headers: one (`b3`) or several (`x-b3-…`), read as Envoy's Zipkin tracer reads them, and written as they came;
//! several, where none did.

use http::{HeaderMap, HeaderName, HeaderValue};

use crate::telemetry::trace::w3c::{Parent, hex};

pub(crate) const B3: HeaderName = HeaderName::from_static("b3");
pub(crate) const TRACE_ID: HeaderName = HeaderName::from_static("x-b3-traceid");
pub(crate) const SPAN_ID: HeaderName = HeaderName::from_static("x-b3-spanid");
pub(crate) const PARENT_SPAN_ID: HeaderName = HeaderName::from_static("x-b3-parentspanid");
pub(crate) const SAMPLED: HeaderName = HeaderName::from_static("x-b3-sampled");
const FLAGS: HeaderName = HeaderName::from_static("x-b3-flags");

/// What a client says in B3.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Parent(Parent),
    /// No trace, but perhaps whether there is to be one.
    Nothing {
        sampled: Option<bool>,
    },
    /// Envoy traces such a request not at all.
    Malformed,
}

pub(crate) fn read(headers: &HeaderMap) -> Said {
    if let Some(single) = headers.get(B3) {
        return match single.to_str().ok() {
            Some(text) => read_single(text),
            None => Said::Malformed,
        };
    }
    let text = |name| {
        headers
            .get(name)
            .map(|v: &HeaderValue| v.to_str().unwrap_or_default())
    };
    let sampled = match (text(SAMPLED), text(FLAGS)) {
        (Some(sampled), _) => Some(sampled == "1" || sampled == "true"),
        (None, Some("1")) => Some(true),
        (None, _) => None,
    };
    let (Some(trace), Some(span)) = (text(TRACE_ID), text(SPAN_ID)) else {
        return Said::Nothing { sampled };
    };
    let grandparent = match text(PARENT_SPAN_ID) {
        None | Some("") => None,
        Some(parent) => match id(parent) {
            Some(parent) => Some(parent),
            None => return Said::Malformed,
        },
    };
    match (trace_id(trace), id(span)) {
        (Some(trace_id), Some(span_id)) => Said::Parent(Parent {
            trace_id,
            span_id,
            sampled,
            grandparent: grandparent.filter(|id| *id != 0),
        }),
        _ => Said::Malformed,
    }
}

/// `{trace}-{span}[-{sampled}[-{parent}]]`, or the decision alone.
fn read_single(text: &str) -> Said {
    let decided = |text: &str| match text {
        "0" => Some(false),
        "1" | "d" => Some(true),
        _ => None,
    };
    if text.len() == 1 {
        return match decided(text) {
            Some(sampled) => Said::Nothing {
                sampled: Some(sampled),
            },
            None => Said::Malformed,
        };
    }
    let mut parts = text.split('-');
    let (Some(trace), Some(span)) = (
        parts.next().and_then(trace_id),
        parts.next().filter(|s| s.len() == 16).and_then(id),
    ) else {
        return Said::Malformed;
    };
    let sampled = match parts.next() {
        None => None,
        Some(text) => match decided(text) {
            Some(sampled) => Some(sampled),
            None => return Said::Malformed,
        },
    };
    let grandparent = match parts.next() {
        None => None,
        Some(text) => match id(text).filter(|_| text.len() == 16) {
            Some(id) => Some(id),
            None => return Said::Malformed,
        },
    };
    if parts.next().is_some() {
        return Said::Malformed;
    }
    Said::Parent(Parent {
        trace_id: trace,
        span_id: span,
        sampled,
        grandparent,
    })
}

fn id(text: &str) -> Option<u64> {
    if text.len() > 16 {
        return None;
    }
    u64::try_from(hex(text)?).ok()
}

/// 128 or 64 bits.
fn trace_id(text: &str) -> Option<u128> {
    if text.len() > 32 {
        return None;
    }
    hex(text).filter(|id| *id != 0)
}

/// A trace id as Zipkin has it: as long as it must be.
pub(crate) fn trace_text(trace_id: u128) -> String {
    match trace_id >> 64 {
        0 => format!("{trace_id:016x}"),
        _ => format!("{trace_id:032x}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                (
                    HeaderName::from_static(name),
                    HeaderValue::from_static(value),
                )
            })
            .collect()
    }

    const MULTI: [(&str, &str); 3] = [
        ("x-b3-traceid", "80f198ee56343ba864fe8b2a57d3eff7"),
        ("x-b3-spanid", "e457b5a2e4d86bd1"),
        ("x-b3-sampled", "1"),
    ];

    #[test]
    fn one_header_or_several_say_the_same() {
        let parent = Parent {
            trace_id: 0x80f1_98ee_5634_3ba8_64fe_8b2a_57d3_eff7,
            span_id: 0xe457_b5a2_e4d8_6bd1,
            sampled: Some(true),
            grandparent: None,
        };
        assert_eq!(read(&headers(&MULTI)), Said::Parent(parent));
        let single = headers(&[("b3", "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1")]);
        assert_eq!(read(&single), Said::Parent(parent));
        let short = headers(&[("b3", "64fe8b2a57d3eff7-e457b5a2e4d86bd1")]);
        let Said::Parent(short) = read(&short) else {
            panic!("a parent");
        };
        assert_eq!(
            (trace_text(short.trace_id).as_str(), short.sampled),
            ("64fe8b2a57d3eff7", None)
        );
    }

    #[test]
    fn a_decision_may_come_alone() {
        for (name, value, sampled) in [
            ("b3", "0", Some(false)),
            ("b3", "d", Some(true)),
            ("x-b3-sampled", "true", Some(true)),
            ("x-b3-sampled", "0", Some(false)),
            ("x-b3-flags", "1", Some(true)),
            ("x-b3-flags", "0", None),
        ] {
            let said = read(&headers(&[(name, value)]));
            assert_eq!(said, Said::Nothing { sampled }, "{name}: {value}");
        }
    }

    #[test]
    fn what_is_malformed_is_told_from_what_is_not_there() {
        for value in [
            "",
            "x",
            "1-2-3",
            "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-x",
            "80f198ee56343ba864fe8b2a57d3eff7-e457b5a2e4d86bd1-1-2",
        ] {
            assert_eq!(read(&headers(&[("b3", value)])), Said::Malformed, "{value}");
        }
        let broken = headers(&[("x-b3-traceid", "nope"), ("x-b3-spanid", "1")]);
        assert_eq!(read(&broken), Said::Malformed);
    }
}
