//! HTTP/1 and HTTP/2 of the server side: which is spoken, and within which limits.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::{
    HttpProtocolOptions, http_protocol_options::HeadersWithUnderscoresAction,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager as HttpConnectionManagerProto, http_connection_manager::CodecType,
};
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::header_case::{HEADER_KEY_FORMAT, HeaderCase};
use crate::model::http2_keepalive::{KEEPALIVE, keepalive};

/// HTTP/1 and HTTP/2 settings of the server side.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CodecOptions {
    /// Whether only HTTP/2 or only HTTP/1 is spoken; `Auto` tells by the preface.
    pub codec: Codec,
    /// Bytes of a request's head that are accepted; more is answered 431.
    pub max_request_headers_bytes: u32,
    pub max_request_headers_count: u32,
    pub accept_http_10: bool,
    /// Whether trailers pass over HTTP/1.1, of requests and of answers.
    pub http1_trailers: bool,
    /// Of answers over HTTP/1; `Preserved` also keeps what requests have.
    pub header_case: HeaderCase,
    /// Whether upgrades come over HTTP/2, too (RFC 8441). An HBONE port is there for CONNECT, whatever it says.
    pub http2_allow_connect: bool,
    pub http2_max_concurrent_streams: Option<u32>,
    pub http2_initial_stream_window: Option<u32>,
    pub http2_initial_connection_window: Option<u32>,
    pub http2_keepalive: Option<(Duration, Duration)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Codec {
    Auto,
    Http1,
    Http2,
}

/// What becomes of headers whose names have a `_`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HeadersWithUnderscores {
    #[default]
    Allow,
    RejectRequest,
    DropHeader,
}

/// Envoy's defaults.
const MAX_REQUEST_HEADERS_KB: u32 = 60;
const MAX_HEADERS_COUNT: u32 = 100;

pub(crate) static HTTP2_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.Http2ProtocolOptions",
    fields: &[
        honoured(2, "max_concurrent_streams").of(&UINT32_VALUE),
        honoured(3, "initial_stream_window_size").of(&UINT32_VALUE),
        honoured(4, "initial_connection_window_size").of(&UINT32_VALUE),
        honoured(5, "allow_connect"),
        honoured(15, "connection_keepalive").of(&KEEPALIVE),
    ],
    refused: "1 hpack_table_size, 6 allow_metadata, 7 max_outbound_frames, \
              8 max_outbound_control_frames, 9 max_consecutive_inbound_frames_with_empty_payload, \
              10 max_inbound_priority_frames_per_stream, \
              11 max_inbound_window_update_frames_per_data_frame_sent, \
              12 stream_error_on_invalid_http_messaging, 13 custom_settings_parameters, \
              14 override_stream_error_on_invalid_http_message, 16 use_oghttp2_codec, \
              17 max_metadata_size, 18 enable_huffman_encoding, 19 max_header_field_size_kb, \
              20 disallow_obs_text, 21 stream_reset_burst, 22 stream_reset_rate",
    required: &[],
};

pub(crate) static HTTP1_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.Http1ProtocolOptions",
    fields: &[
        honoured(2, "accept_http_10"),
        honoured(4, "header_key_format").of(&HEADER_KEY_FORMAT),
        honoured(5, "enable_trailers"),
    ],
    refused: "1 allow_absolute_url, 3 default_host_for_http_10, 6 allow_chunked_length, \
              7 override_stream_error_on_invalid_http_message, 8 send_fully_qualified_url, \
              9 use_balsa_parser, 10 allow_custom_methods, 11 ignore_http_11_upgrade",
    required: &[],
};

impl CodecOptions {
    pub(crate) fn from_proto(
        proto: &HttpConnectionManagerProto,
        common: &HttpProtocolOptions,
    ) -> Result<CodecOptions, Refusal> {
        let codec = match CodecType::try_from(proto.codec_type) {
            Ok(CodecType::Auto) => Codec::Auto,
            Ok(CodecType::Http1) => Codec::Http1,
            Ok(CodecType::Http2) => Codec::Http2,
            _ => return Err(Refusal::unsupported("codec_type")),
        };
        let http2 = proto.http2_protocol_options.clone().unwrap_or_default();
        let kb = proto
            .max_request_headers_kb
            .as_ref()
            .map_or(MAX_REQUEST_HEADERS_KB, |kb| kb.value);
        Ok(CodecOptions {
            codec,
            max_request_headers_bytes: kb.saturating_mul(1024),
            max_request_headers_count: common
                .max_headers_count
                .as_ref()
                .map_or(MAX_HEADERS_COUNT, |count| count.value),
            accept_http_10: proto
                .http_protocol_options
                .as_ref()
                .is_some_and(|http1| http1.accept_http_10),
            http1_trailers: proto
                .http_protocol_options
                .as_ref()
                .is_some_and(|http1| http1.enable_trailers),
            header_case: HeaderCase::from_proto(proto.http_protocol_options.as_ref())
                .map_err(|e| e.within("http_protocol_options"))?,
            http2_allow_connect: http2.allow_connect,
            http2_max_concurrent_streams: http2.max_concurrent_streams.as_ref().map(|n| n.value),
            http2_initial_stream_window: http2.initial_stream_window_size.as_ref().map(|n| n.value),
            http2_initial_connection_window: http2
                .initial_connection_window_size
                .as_ref()
                .map(|n| n.value),
            http2_keepalive: keepalive(&http2)?,
        })
    }
}

impl HeadersWithUnderscores {
    pub(crate) fn from_proto(
        common: &HttpProtocolOptions,
    ) -> Result<HeadersWithUnderscores, Refusal> {
        use HeadersWithUnderscoresAction as Action;
        Ok(
            match Action::try_from(common.headers_with_underscores_action) {
                Ok(Action::Allow) => HeadersWithUnderscores::Allow,
                Ok(Action::RejectRequest) => HeadersWithUnderscores::RejectRequest,
                Ok(Action::DropHeader) => HeadersWithUnderscores::DropHeader,
                Err(_) => {
                    return Err(Refusal::new(
                        "headers_with_underscores_action",
                        "unknown value",
                    ));
                }
            },
        )
    }
}
