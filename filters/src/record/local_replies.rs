//! `local_reply_config`: what the answers that the waypoint gives itself look like.
//!
//! The first mapper whose filter lets the request through may change status, body and headers; a format makes the body of all.
//! Filters and formats are those of access logs, so what they want of the request is captured as for those.

use std::time::Instant;

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source, substitution_format_string,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    LocalReplyConfig, ResponseMapper,
};
use http::{HeaderValue, StatusCode, header};

use crate::format::FormatContext;
use crate::format::substitution::{SUBSTITUTION_FORMAT, Substitution};
use crate::record::log_filter::{FILTER, LogFilter};
use crate::service::Response;
use crate::service::body::Body;
use crate::service::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use crate::service::local_reply::{Local, grpc_status, is_grpc_type, percent_encode};
use crate::stream::stream_info::{Capture, StreamInfo};
use crate::xds::coverage::well_known::UINT32_VALUE;
use crate::xds::coverage::{Table, honoured, required};
use crate::xds::rejected::Refusal;

/// How local replies are changed.
#[derive(Debug)]
pub struct LocalReplies {
    mappers: Box<[Mapper]>,
    format: Option<BodyFormat>,
}

#[derive(Debug)]
struct Mapper {
    filter: LogFilter,
    status: Option<StatusCode>,
    body: Option<Bytes>,
    format: Option<BodyFormat>,
    headers: HeaderChanges,
}

#[derive(Debug)]
struct BodyFormat {
    format: Substitution,
    content_type: HeaderValue,
}

pub static LOCAL_REPLIES: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.LocalReplyConfig",
    fields: &[
        honoured(1, "mappers").list().of(&MAPPER),
        honoured(2, "body_format").of(&SUBSTITUTION_FORMAT),
    ],
    refused: "",
    required: &[],
};

static MAPPER: Table = Table {
    name: "envoy.extensions.filters.network.http_connection_manager.v3.ResponseMapper",
    fields: &[
        honoured(1, "filter").of(&FILTER),
        honoured(2, "status_code").of(&UINT32_VALUE),
        honoured(3, "body").of(&BODY),
        honoured(4, "body_format_override").of(&SUBSTITUTION_FORMAT),
        honoured(5, "headers_to_add")
            .list()
            .of(&HEADER_VALUE_OPTION),
    ],
    refused: "",
    required: &[required("filter", &[1])],
};

static BODY: Table = Table {
    name: "envoy.config.core.v3.DataSource",
    fields: &[honoured(2, "inline_bytes"), honoured(3, "inline_string")],
    refused: "1 filename, 4 environment_variable, 5 watched_directory",
    required: &[required("specifier", &[2, 3])],
};

impl LocalReplies {
    /// # Errors
    /// What can't be honoured.
    pub fn from_proto(proto: &LocalReplyConfig) -> Result<LocalReplies, Refusal> {
        let mappers = proto.mappers.iter().enumerate();
        let mappers = mappers.map(|(i, mapper)| {
            Mapper::from_proto(mapper).map_err(|e| e.within(format!("mappers[{i}]")))
        });
        Ok(LocalReplies {
            mappers: mappers.collect::<Result<_, _>>()?,
            format: body_format(proto.body_format.as_ref(), "body_format")?,
        })
    }

    /// What is wanted of a request for them.
    pub fn capture(&self) -> Capture {
        let mut capture = Capture::default();
        for mapper in &self.mappers {
            mapper.filter.capture(&mut capture);
            capture.merge(&mapper.headers.capture());
        }
        let own = self
            .mappers
            .iter()
            .filter_map(|mapper| mapper.format.as_ref());
        for format in own.chain(&self.format) {
            capture.merge(&format.format.capture());
        }
        capture
    }

    /// Changes an answer, if it is the waypoint's own.
    pub fn apply(&self, response: Response, stream: &StreamInfo) -> Response {
        let (mut parts, body) = response.into_parts();
        let Some(local) = parts.extensions.get::<Local>().cloned() else {
            return Response::from_parts(parts, body);
        };
        let content_type = parts.headers.get(header::CONTENT_TYPE);
        let grpc = content_type.is_some_and(is_grpc_type);
        let (mut status, mut text) = (local.status, local.body.clone());
        stream.state().response.code = Some(status.as_u16());
        let mapper = self.mappers.iter().find(|mapper| mapper.is_for(stream));
        if let Some(mapper) = mapper {
            text = mapper.body.clone().unwrap_or(text);
            mapper.headers.apply_to_response(&mut parts.headers, stream);
            if let Some(own) = mapper.status {
                status = own;
                stream.state().response.code = Some(own.as_u16());
            }
        }
        let format = mapper.and_then(|mapper| mapper.format.as_ref());
        let format = format.or(self.format.as_ref());
        if let Some(format) = format {
            text = format.body(&text, stream, &parts.headers);
        }
        if grpc {
            let json =
                format.is_some_and(|format| matches!(format.format, Substitution::Json { .. }));
            let text = text.strip_suffix(b"\n").filter(|_| json).unwrap_or(&text);
            if status != local.status {
                parts
                    .headers
                    .insert("grpc-status", grpc_status(status).into());
            }
            match HeaderValue::from_str(&percent_encode(text)) {
                Ok(message) if !text.is_empty() => {
                    parts.headers.insert("grpc-message", message);
                }
                _ => {}
            }
            return Response::from_parts(parts, body);
        }
        parts.status = status;
        if text == local.body {
            return Response::from_parts(parts, body);
        }
        parts.headers.remove(header::CONTENT_LENGTH);
        if text.is_empty() {
            parts.headers.remove(header::CONTENT_TYPE);
        } else {
            parts
                .headers
                .insert(header::CONTENT_LENGTH, text.len().into());
            let plain = HeaderValue::from_static("text/plain");
            let content_type = format.map_or(plain, |format| format.content_type.clone());
            parts.headers.insert(header::CONTENT_TYPE, content_type);
        }
        Response::from_parts(parts, Body::full(text))
    }
}

impl Mapper {
    fn from_proto(proto: &ResponseMapper) -> Result<Mapper, Refusal> {
        let filter = proto.filter.as_ref();
        let filter = LogFilter::from_proto(filter.ok_or_else(|| Refusal::missing("filter"))?)?;
        let status = proto.status_code.as_ref().map(|code| code.value);
        let status = status.map(|code| match u16::try_from(code) {
            Ok(code @ 200..=599) => StatusCode::from_u16(code).map_err(|_| ()),
            _ => Err(()),
        });
        let status = status.transpose();
        let status = status.map_err(|()| Refusal::new("status_code", "must be from 200 to 599"))?;
        Ok(Mapper {
            filter,
            status,
            body: proto.body.as_ref().map(inline).transpose()?,
            format: body_format(proto.body_format_override.as_ref(), "body_format_override")?,
            headers: HeaderChanges::from_proto(&proto.headers_to_add, &[])
                .map_err(|e| e.within("headers_to_add"))?,
        })
    }

    fn is_for(&self, stream: &StreamInfo) -> bool {
        let state = stream.state();
        self.filter
            .passes(&FormatContext::recorded(stream, &state, Instant::now()))
    }
}

fn inline(source: &DataSource) -> Result<Bytes, Refusal> {
    match &source.specifier {
        Some(data_source::Specifier::InlineBytes(bytes)) => Ok(bytes.clone().into()),
        Some(data_source::Specifier::InlineString(text)) => Ok(text.clone().into()),
        _ => Err(Refusal::unsupported("body")),
    }
}

fn body_format(
    proto: Option<&SubstitutionFormatString>,
    field: &str,
) -> Result<Option<BodyFormat>, Refusal> {
    let Some(proto) = proto else {
        return Ok(None);
    };
    let format = Substitution::from_proto(proto).map_err(|e| e.within(field))?;
    let default = match &proto.format {
        Some(substitution_format_string::Format::JsonFormat(_)) => "application/json",
        _ => "text/plain",
    };
    let content_type = match proto.content_type.as_str() {
        "" => default,
        own => own,
    };
    let content_type = HeaderValue::from_str(content_type)
        .map_err(|_| Refusal::new(format!("{field}.content_type"), "is no header value"))?;
    Ok(Some(BodyFormat {
        format,
        content_type,
    }))
}

impl BodyFormat {
    fn body(&self, text: &Bytes, stream: &StreamInfo, headers: &http::HeaderMap) -> Bytes {
        let mut out = Vec::new();
        let mut state = stream.state();
        state.local_reply_body = Some(text.clone());
        self.format.write(
            &FormatContext {
                stream,
                state: &state,
                request: None,
                response: Some(headers),
                end: Instant::now(),
            },
            &mut out,
        );
        state.local_reply_body = None;
        out.into()
    }
}
