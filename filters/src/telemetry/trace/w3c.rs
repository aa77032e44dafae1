//! W3C Trace Context: `traceparent`, read as Envoy's OpenTelemetry tracer reads it, and written.

use http::HeaderValue;

/// What a client says of its trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Parent {
    pub(crate) trace_id: u128,
    pub(crate) span_id: u64,
    pub(crate) sampled: Option<bool>,
    /// The parent's own parent, where B3 tells it.
    pub(crate) grandparent: Option<u64>,
}

/// Reads a `traceparent`; `None`: it is malformed.
pub(crate) fn parse(value: &HeaderValue) -> Option<Parent> {
    let text = value.to_str().ok()?;
    // version-traceid-spanid-flags; what a later version adds at the end isn't taken, as by Envoy.
    if text.len() != 55 {
        return None;
    }
    let mut parts = text.split('-');
    let (version, trace, span, flags) =
        (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
    if parts.next().is_some() || version.len() != 2 || flags.len() != 2 {
        return None;
    }
    hex(version)?;
    let trace_id = (trace.len() == 32).then(|| hex(trace))??;
    let span_id = (span.len() == 16).then(|| hex(span))??;
    let flags = hex(flags)?;
    if trace_id == 0 || span_id == 0 {
        return None;
    }
    Some(Parent {
        trace_id,
        span_id: u64::try_from(span_id).ok()?,
        sampled: Some(flags & 1 == 1),
        grandparent: None,
    })
}

/// A number in hexadecimal digits alone.
pub(crate) fn hex(text: &str) -> Option<u128> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
        return None;
    }
    u128::from_str_radix(text, 16).ok()
}

pub(crate) fn write(trace_id: u128, span_id: u64, sampled: bool) -> String {
    format!("00-{trace_id:032x}-{span_id:016x}-0{}", u8::from(sampled))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn read(text: &'static str) -> Option<Parent> {
        parse(&HeaderValue::from_static(text))
    }

    #[test]
    fn what_is_written_is_read() {
        let text = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let parent = read(text).unwrap();
        assert_eq!(parent.span_id, 0xb7ad_6b71_6920_3331);
        assert_eq!(parent.sampled, Some(true));
        assert_eq!(write(parent.trace_id, parent.span_id, true), text);
        let not = read("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-00");
        assert_eq!(not.unwrap().sampled, Some(false));
    }

    #[test]
    fn what_is_malformed_is_no_parent() {
        for text in [
            "",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331",
            "00-00000000000000000000000000000000-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01",
            "00-0af7651916cd43dd8448eb211c80319z-b7ad6b7169203331-01",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-+1",
            "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-02",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
