//! What entries of Envoy's access log service say of a request and its answer (`HTTPAccessLogEntry`).

use std::collections::HashMap;

use envoy_types::pb::envoy::config::core::v3::RequestMethod;
use envoy_types::pb::envoy::data::accesslog::v3::http_access_log_entry::HttpVersion;
use envoy_types::pb::envoy::data::accesslog::v3::{
    HttpAccessLogEntry, HttpRequestProperties, HttpResponseProperties,
};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig,
};
use envoy_types::pb::google::protobuf::UInt32Value;
use http::HeaderName;

use crate::format::{Format, FormatContext};
use crate::stream::stream_info::{Capture, Protocol};
use crate::telemetry::log_service::common_entry::{CommonEntry, number, text};
use crate::xds::rejected::Refusal;

#[derive(Debug)]
pub(super) struct HttpEntry {
    common: CommonEntry,
    /// Texts of the request's properties, in this order: scheme, authority, path, user agent, referer, forwarded for, request
    /// id, original path.
    texts: [Format; 8],
    /// Header bytes: sent up, received from the client, received from upstream, sent to the client.
    bytes: [Format; 4],
    request_headers: Vec<(HeaderName, Format)>,
    response_headers: Vec<(HeaderName, Format)>,
    response_trailers: Vec<(HeaderName, Format)>,
}

impl HttpEntry {
    pub(super) fn from_proto(
        proto: &HttpGrpcAccessLogConfig,
        common: &CommonGrpcAccessLogConfig,
    ) -> Result<HttpEntry, Refusal> {
        let empty = |format: &str| Ok(Format::parse(format)?.omitting_empty(true));
        let named = |names: &[String], operator: &str, field: &str| {
            let format = |name: &String| {
                let header = HeaderName::try_from(name.as_str());
                let header = header
                    .map_err(|_| Refusal::new(field, format!("{name:?} is no name of a header")))?;
                let format = empty(&format!("%{operator}({header})%"))?;
                Ok((header, format))
            };
            names
                .iter()
                .map(format)
                .collect::<Result<Vec<_>, Refusal>>()
        };
        Ok(HttpEntry {
            common: CommonEntry::from_proto(common)?,
            texts: [
                empty("%REQ(:SCHEME)%")?,
                empty("%REQ(:AUTHORITY)%")?,
                empty("%REQ(:PATH)%")?,
                empty("%REQ(USER-AGENT)%")?,
                empty("%REQ(REFERER)%")?,
                empty("%REQ(X-FORWARDED-FOR)%")?,
                empty("%REQ(X-REQUEST-ID)%")?,
                empty("%REQ(X-ENVOY-ORIGINAL-PATH)%")?,
            ],
            bytes: [
                Format::parse("%UPSTREAM_HEADER_BYTES_SENT%")?,
                Format::parse("%DOWNSTREAM_HEADER_BYTES_RECEIVED%")?,
                Format::parse("%UPSTREAM_HEADER_BYTES_RECEIVED%")?,
                Format::parse("%DOWNSTREAM_HEADER_BYTES_SENT%")?,
            ],
            request_headers: named(
                &proto.additional_request_headers_to_log,
                "REQ",
                "additional_request_headers_to_log",
            )?,
            response_headers: named(
                &proto.additional_response_headers_to_log,
                "RESP",
                "additional_response_headers_to_log",
            )?,
            response_trailers: named(
                &proto.additional_response_trailers_to_log,
                "TRAILER",
                "additional_response_trailers_to_log",
            )?,
        })
    }

    pub(super) fn capture(&self) -> Capture {
        let mut capture = self.common.capture();
        capture.head_sizes = true;
        capture.request_line = true;
        let headers = [
            &self.request_headers,
            &self.response_headers,
            &self.response_trailers,
        ];
        let headers = headers.into_iter().flatten().map(|(_, format)| format);
        let formats = self.texts.iter().chain(&self.bytes).chain(headers);
        formats.for_each(|format| capture.merge(&format.capture()));
        capture
    }

    pub(super) fn entry(&self, context: &FormatContext<'_>) -> HttpAccessLogEntry {
        let (stream, state) = (context.stream, context.state);
        let [
            scheme,
            authority,
            path,
            user_agent,
            referer,
            forwarded_for,
            request_id,
            original_path,
        ] = self.texts.each_ref().map(|format| text(format, context));
        let [sent_up, received, received_up, sent] = self
            .bytes
            .each_ref()
            .map(|format| number(format, context).unwrap_or(0));
        let method = state.request.method.as_ref();
        let method = method.and_then(|method| RequestMethod::from_str_name(method.as_str()));
        let request = HttpRequestProperties {
            request_method: method.unwrap_or(RequestMethod::MethodUnspecified).into(),
            scheme,
            authority,
            path,
            user_agent,
            referer,
            forwarded_for,
            request_id,
            original_path,
            request_headers_bytes: state.request.bytes,
            request_body_bytes: stream.bytes_received(),
            request_headers: values(&self.request_headers, context),
            upstream_header_bytes_sent: sent_up,
            downstream_header_bytes_received: received,
            ..HttpRequestProperties::default()
        };
        let code = state.response.code.map(u32::from);
        let response = HttpResponseProperties {
            response_code: code.map(|value| UInt32Value { value }),
            response_headers_bytes: state.response.bytes,
            response_body_bytes: stream.bytes_sent(),
            response_headers: values(&self.response_headers, context),
            response_trailers: values(&self.response_trailers, context),
            response_code_details: state
                .response_code_details
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            upstream_header_bytes_received: received_up,
            downstream_header_bytes_sent: sent,
        };
        HttpAccessLogEntry {
            common_properties: Some(self.common.entry(context)),
            protocol_version: match stream.protocol {
                Protocol::Tcp => HttpVersion::ProtocolUnspecified,
                Protocol::Http10 => HttpVersion::Http10,
                Protocol::Http11 => HttpVersion::Http11,
                Protocol::Http2 => HttpVersion::Http2,
            }
            .into(),
            request: Some(request),
            response: Some(response),
        }
    }
}

fn values(
    headers: &[(HeaderName, Format)],
    context: &FormatContext<'_>,
) -> HashMap<String, String> {
    let values = headers
        .iter()
        .map(|(name, format)| (name.as_str().to_owned(), text(format, context)));
    values.filter(|(_, value)| !value.is_empty()).collect()
}
