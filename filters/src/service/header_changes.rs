//! Changes that routes make to heads: removals, then additions, whose values may hold `%OPERATORS%`. `http/header_mutation.rs`
//! makes them one by one.

use std::time::Instant;

use crate::format::{Format, FormatContext, RequestView};
use crate::service::body::Body;
use crate::stream::stream_info::{Capture, StreamInfo};
use crate::xds::coverage::well_known::BOOL_VALUE;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;
use envoy_types::pb::envoy::config::core::v3::{
    HeaderValueOption, header_value_option::HeaderAppendAction,
};
use http::{HeaderMap, HeaderName, HeaderValue, Request, header};

/// Changes to a head.
#[derive(Debug, Default)]
pub struct HeaderChanges {
    remove: Box<[HeaderName]>,
    add: Box<[Addition]>,
}

/// A header that is added, or replaces others.
#[derive(Debug)]
pub(crate) struct Addition {
    name: HeaderName,
    value: Value,
    action: HeaderAppendAction,
    keep_empty: bool,
}

/// A header's value: fixed, or made for each request.
#[derive(Debug)]
enum Value {
    Literal(HeaderValue),
    Format(Format),
}

pub static HEADER_VALUE_OPTION: Table = Table {
    name: "envoy.config.core.v3.HeaderValueOption",
    fields: &[
        honoured(1, "header").of(&HEADER_VALUE),
        honoured(2, "append").of(&BOOL_VALUE),
        honoured(3, "append_action"),
        honoured(4, "keep_empty_value"),
    ],
    refused: "",
    required: &[required("header", &[1])],
};

static HEADER_VALUE: Table = Table {
    name: "envoy.config.core.v3.HeaderValue",
    fields: &[honoured(1, "key"), honoured(2, "value")],
    refused: "3 raw_value",
    required: &[required("key", &[1])],
};

impl HeaderChanges {
    /// # Errors
    /// A name or a value that is none.
    pub fn from_proto(
        add: &[HeaderValueOption],
        remove: &[String],
    ) -> Result<HeaderChanges, Refusal> {
        let remove = remove
            .iter()
            .map(|name| header_name(name))
            .collect::<Result<_, _>>()?;
        let mut add = add
            .iter()
            .map(Addition::from_proto)
            .collect::<Result<Vec<_>, _>>()?;
        // As in Envoy, whatever their order: what replaces others comes before what is added to them.
        add.sort_by_key(|addition| !addition.overwrites());
        Ok(HeaderChanges {
            remove,
            add: add.into(),
        })
    }

    /// What their values want of a request whose head is gone.
    pub fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        for addition in &self.add {
            if let Value::Format(format) = &addition.value {
                capture.merge(&format.capture());
            }
        }
        capture
    }

    pub fn is_empty(&self) -> bool {
        self.remove.is_empty() && self.add.is_empty()
    }

    pub fn apply_to_request(&self, request: &mut Request<Body>, stream: &StreamInfo) {
        for name in &self.remove {
            request.headers_mut().remove(name);
        }
        for addition in &self.add {
            addition.apply_to_request(request, stream);
        }
    }

    pub fn apply_to_response(&self, headers: &mut HeaderMap, stream: &StreamInfo) {
        for name in &self.remove {
            headers.remove(name);
        }
        for addition in &self.add {
            addition.apply_to_response(headers, stream);
        }
    }
}

impl Addition {
    fn overwrites(&self) -> bool {
        matches!(
            self.action,
            HeaderAppendAction::OverwriteIfExists | HeaderAppendAction::OverwriteIfExistsOrAdd
        )
    }

    pub(crate) fn from_proto(proto: &HeaderValueOption) -> Result<Addition, Refusal> {
        let header = proto
            .header
            .as_ref()
            .ok_or_else(|| Refusal::missing("header"))?;
        let action = match (
            &proto.append,
            HeaderAppendAction::try_from(proto.append_action),
        ) {
            // The deprecated switch, where it is set.
            (Some(append), _) if append.value => HeaderAppendAction::AppendIfExistsOrAdd,
            (Some(_), _) => HeaderAppendAction::OverwriteIfExistsOrAdd,
            (None, Ok(action)) => action,
            (None, Err(_)) => return Err(Refusal::new("append_action", "unknown value")),
        };
        // Envoy would take no resource with a stray `%` in it. What was meant is plain all the same.
        let value = match Format::as_text(&header.value) {
            Some(text) => Value::Literal(HeaderValue::from_str(&text).map_err(|_| {
                Refusal::new(&header.key, format!("{text:?} is not a header value"))
            })?),
            None => {
                // Envoy's older name for it, in headers only.
                let text = header
                    .value
                    .replace("%PER_REQUEST_STATE(", "%FILTER_STATE(");
                let format = Format::parse(&text);
                Value::Format(format.map_err(|e| e.within(&header.key))?)
            }
        };
        Ok(Addition {
            name: header_name(&header.key)?,
            value,
            action,
            keep_empty: proto.keep_empty_value,
        })
    }

    pub(crate) fn apply_to_request(&self, request: &mut Request<Body>, stream: &StreamInfo) {
        let view = RequestView {
            method: request.method(),
            uri: request.uri(),
            headers: request.headers(),
        };
        if let Some(value) = self.value(stream, Some(view), None) {
            self.apply(request.headers_mut(), value);
        }
    }

    pub(crate) fn apply_to_response(&self, headers: &mut HeaderMap, stream: &StreamInfo) {
        if let Some(value) = self.value(stream, None, Some(headers)) {
            self.apply(headers, value);
        }
    }

    fn value(
        &self,
        stream: &StreamInfo,
        request: Option<RequestView<'_>>,
        response: Option<&HeaderMap>,
    ) -> Option<HeaderValue> {
        let value = match &self.value {
            Value::Literal(value) => value.clone(),
            Value::Format(format) => {
                let mut text = Vec::new();
                let state = stream.state();
                format.write(
                    &FormatContext {
                        stream,
                        state: &state,
                        request,
                        response,
                        end: Instant::now(),
                    },
                    &mut text,
                );
                HeaderValue::from_bytes(&text).ok()?
            }
        };
        (self.keep_empty || !value.is_empty()).then_some(value)
    }

    fn apply(&self, headers: &mut HeaderMap, value: HeaderValue) {
        match self.action {
            HeaderAppendAction::AppendIfExistsOrAdd => {
                headers.append(self.name.clone(), value);
            }
            HeaderAppendAction::AddIfAbsent => {
                headers.entry(self.name.clone()).or_insert(value);
            }
            HeaderAppendAction::OverwriteIfExistsOrAdd => {
                headers.insert(self.name.clone(), value);
            }
            HeaderAppendAction::OverwriteIfExists => {
                if headers.contains_key(&self.name) {
                    headers.insert(self.name.clone(), value);
                }
            }
        }
    }
}

pub(crate) fn header_name(name: &str) -> Result<HeaderName, Refusal> {
    if name.eq_ignore_ascii_case(":authority") {
        return Ok(header::HOST);
    }
    HeaderName::try_from(name)
        .map_err(|_| Refusal::new("header.key", format!("{name:?} is not a header name")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HeaderValue as HeaderValueProto;

    use super::*;

    fn value(value: &str) -> Result<Value, Refusal> {
        let proto = HeaderValueOption {
            header: Some(HeaderValueProto {
                key: "x".to_owned(),
                value: value.to_owned(),
                ..HeaderValueProto::default()
            }),
            ..HeaderValueOption::default()
        };
        Addition::from_proto(&proto).map(|addition| addition.value)
    }

    #[test]
    fn a_stray_sign_makes_a_text() {
        for (text, meant) in [
            ("50%", "50%"),
            ("50%%", "50%"),
            ("a%20b", "a%20b"),
            ("plain", "plain"),
        ] {
            match value(text).unwrap() {
                Value::Literal(found) => assert_eq!(found, meant),
                Value::Format(format) => panic!("{text}: {format:?}"),
            }
        }
        for format in [
            "%PROTOCOL%",
            "a %PER_REQUEST_STATE(x)%",
            "%DYNAMIC_METADATA([\"a\", \"b\"])%",
        ] {
            assert!(matches!(value(format), Ok(Value::Format(_))), "{format}");
        }
        // It may be what somebody relies on; nobody can tell what it would have said.
        for refused in ["%NOPE%", "50% of %PROTOCOL%", "line\nbreak"] {
            assert!(value(refused).is_err(), "{refused}");
        }
    }
}
