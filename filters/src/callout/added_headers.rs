//! Headers that configuration adds to checks; their values may hold `%OPERATORS%`.

use std::time::Instant;

use envoy_types::pb::envoy::config::core::v3::HeaderValue as HeaderValueProto;
use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::format::{Format, FormatContext, RequestView};
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static HEADER_VALUE: Table = Table {
    name: "envoy.config.core.v3.HeaderValue",
    fields: &[honoured(1, "key"), honoured(2, "value")],
    refused: "3 raw_value",
    required: &[required("key", &[1])],
};

/// Headers in place of those with the same names.
#[derive(Debug, Default)]
pub(crate) struct AddedHeaders(Box<[(HeaderName, Value)]>);

#[derive(Debug)]
enum Value {
    Literal(HeaderValue),
    Format(Format),
}

impl AddedHeaders {
    pub(crate) fn from_proto(
        proto: &[HeaderValueProto],
        field: &str,
    ) -> Result<AddedHeaders, Refusal> {
        let headers = proto.iter().enumerate().map(|(index, header)| {
            addition(header).map_err(|e| e.within(format!("{field}[{index}]")))
        });
        Ok(AddedHeaders(headers.collect::<Result<_, _>>()?))
    }

    /// Sets them for a check of `stream`. What has no value is left out.
    pub(crate) fn set(
        &self,
        stream: &StreamInfo,
        request: Option<RequestView<'_>>,
        headers: &mut HeaderMap,
    ) {
        for (name, value) in &self.0 {
            let value = match value {
                Value::Literal(value) => Some(value.clone()),
                Value::Format(format) => evaluate(format, stream, request),
            };
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                headers.insert(name.clone(), value);
            }
        }
    }
}

fn addition(header: &HeaderValueProto) -> Result<(HeaderName, Value), Refusal> {
    let name = if header.key.eq_ignore_ascii_case(":authority") {
        header::HOST
    } else {
        HeaderName::try_from(&header.key)
            .map_err(|_| Refusal::new("key", format!("{:?} is not a header name", header.key)))?
    };
    let value = match Format::as_text(&header.value) {
        Some(text) => Value::Literal(
            HeaderValue::from_str(&text)
                .map_err(|_| Refusal::new("value", format!("{text:?} is not a header value")))?,
        ),
        None => Value::Format(Format::parse(&header.value).map_err(|e| e.within("value"))?),
    };
    Ok((name, value))
}

fn evaluate(
    format: &Format,
    stream: &StreamInfo,
    request: Option<RequestView<'_>>,
) -> Option<HeaderValue> {
    let mut text = Vec::new();
    let state = stream.state();
    let context = FormatContext {
        stream,
        state: &state,
        request,
        response: None,
        end: Instant::now(),
    };
    format.write(&context, &mut text);
    HeaderValue::from_bytes(&text).ok()
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::sync::Arc;
    use std::time::SystemTime;

    use super::*;
    use crate::stream::connection::Connection;
    use crate::stream::stream_info::Protocol;

    fn header(key: &str, value: &str) -> HeaderValueProto {
        HeaderValueProto {
            key: key.into(),
            value: value.into(),
            ..HeaderValueProto::default()
        }
    }

    #[test]
    fn values_may_tell_of_the_stream() {
        let proto = [
            header("x-from", "waypoint"),
            header("X-Version", "%PROTOCOL%"),
            header("x-half", "50%"),
        ];
        let added = AddedHeaders::from_proto(&proto, "headers_to_add").unwrap();
        let address = ([10, 0, 0, 1], 80).into();
        let connection = Connection::new(address, address, Instant::now());
        let stream = StreamInfo::new(
            Arc::new(connection),
            Protocol::Http2,
            Instant::now(),
            SystemTime::now(),
        );
        let mut headers = HeaderMap::new();
        headers.append("x-from", HeaderValue::from_static("client"));
        added.set(&stream, None, &mut headers);
        assert_eq!(headers["x-from"], "waypoint");
        assert_eq!(headers["x-version"], "HTTP/2");
        assert_eq!(headers["x-half"], "50%");
        for broken in [
            header("a b", "c"),
            header("x", "%NOPE%"),
            header("x", "a\nb"),
        ] {
            let refusal = AddedHeaders::from_proto(&[broken], "headers_to_add").unwrap_err();
            assert!(refusal.field.starts_with("headers_to_add[0]."), "{refusal}");
        }
    }
}
