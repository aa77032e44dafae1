//! Which HTTP is spoken to a cluster's endpoints, and how long their connections live.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use envoy_types::pb::envoy::extensions::upstreams::http::v3::{
    HttpProtocolOptions, http_protocol_options,
};
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{Table, decode_any, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::upstream_http2::{HTTP2_OPTIONS, UpstreamHttp2};
use crate::model::duration;
use crate::model::header_case::{HEADER_KEY_FORMAT, HeaderCase};

const NAME: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// HTTP spoken to the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpstreamProtocol {
    Http1,
    Http2,
    /// What the client spoke.
    Downstream,
    /// What is agreed on in TLS (ALPN).
    Negotiated,
}

/// What the host that a request is for has to do with TLS.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ServerNameFrom {
    /// It is SNI.
    pub host: bool,
    /// It must be a name of the server's certificate.
    pub verified: bool,
}

/// How long an idle connection lives where nothing is said (Envoy's default).
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);

/// What of a cluster's options the data path needs.
pub(crate) struct ProtocolOptions {
    pub(crate) protocol: UpstreamProtocol,
    pub(crate) server_name: ServerNameFrom,
    /// `None`: without end.
    pub(crate) idle_timeout: Option<Duration>,
    pub(crate) max_connection_duration: Option<Duration>,
    pub(crate) max_requests_per_connection: Option<u32>,
    pub(crate) header_case: HeaderCase,
    pub(crate) http1_trailers: bool,
    pub(crate) http2: UpstreamHttp2,
}

pub(crate) static HTTP_PROTOCOL_OPTIONS: Table = Table {
    name: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
    fields: &[
        honoured(1, "common_http_protocol_options").of(&COMMON_OPTIONS),
        honoured(2, "upstream_http_protocol_options").of(&UPSTREAM_OPTIONS),
        honoured(3, "explicit_http_config").of(&EXPLICIT),
        honoured(4, "use_downstream_protocol_config").of(&USE_DOWNSTREAM),
        honoured(5, "auto_config").of(&AUTO),
    ],
    refused: "6 http_filters, \
              7 header_validation_config, 8 outlier_detection, 9 request_mirror_policies, \
              10 hash_policy, 11 retry_policy",
    required: &[],
};

static COMMON_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.HttpProtocolOptions",
    fields: &[
        honoured(1, "idle_timeout").of(&DURATION),
        honoured(3, "max_connection_duration").of(&DURATION),
        honoured(6, "max_requests_per_connection").of(&UINT32_VALUE),
    ],
    refused: "2 max_headers_count, 4 max_stream_duration, 5 headers_with_underscores_action, \
              7 max_response_headers_kb, 8 max_connection_duration_jitter",
    required: &[],
};

static EXPLICIT: Table = Table {
    name: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.ExplicitHttpConfig",
    fields: &[
        honoured(1, "http_protocol_options").of(&HTTP1_OPTIONS),
        honoured(2, "http2_protocol_options").of(&HTTP2_OPTIONS),
    ],
    refused: "3 http3_protocol_options",
    required: &[],
};

static USE_DOWNSTREAM: Table = Table {
    name: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig",
    fields: &[
        honoured(1, "http_protocol_options").of(&HTTP1_OPTIONS),
        honoured(2, "http2_protocol_options").of(&HTTP2_OPTIONS),
    ],
    refused: "3 http3_protocol_options",
    required: &[],
};

static AUTO: Table = Table {
    name: "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.AutoHttpConfig",
    fields: &[
        honoured(1, "http_protocol_options").of(&HTTP1_OPTIONS),
        honoured(2, "http2_protocol_options").of(&HTTP2_OPTIONS),
    ],
    refused: "3 http3_protocol_options, 4 alternate_protocols_cache_options",
    required: &[],
};

static UPSTREAM_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.UpstreamHttpProtocolOptions",
    fields: &[honoured(1, "auto_sni"), honoured(2, "auto_san_validation")],
    refused: "3 override_auto_sni_header",
    required: &[],
};

static HTTP1_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.Http1ProtocolOptions",
    fields: &[
        honoured(4, "header_key_format").of(&HEADER_KEY_FORMAT),
        honoured(5, "enable_trailers"),
    ],
    refused: "1 allow_absolute_url, 2 accept_http_10, 3 default_host_for_http_10, 6 allow_chunked_length, \
              7 override_stream_error_on_invalid_http_message, 8 send_fully_qualified_url, \
              9 use_balsa_parser, 10 allow_custom_methods, 11 ignore_http_11_upgrade",
    required: &[],
};

impl ProtocolOptions {
    pub(crate) fn from_proto(cluster: &ClusterProto) -> Result<ProtocolOptions, Refusal> {
        let mut options = ProtocolOptions {
            protocol: UpstreamProtocol::Http1,
            server_name: ServerNameFrom::default(),
            idle_timeout: Some(IDLE_TIMEOUT),
            max_connection_duration: None,
            max_requests_per_connection: None,
            header_case: HeaderCase::Lower,
            http1_trailers: false,
            http2: UpstreamHttp2::default(),
        };
        for (name, any) in &cluster.typed_extension_protocol_options {
            if name != NAME {
                return Err(Refusal::unsupported(format!(
                    "typed_extension_protocol_options[{name:?}]"
                )));
            }
            let proto: HttpProtocolOptions = decode_any(any)?;
            options
                .read(&proto)
                .map_err(|e| e.within("typed_extension_protocol_options"))?;
        }
        Ok(options)
    }

    fn read(&mut self, proto: &HttpProtocolOptions) -> Result<(), Refusal> {
        use http_protocol_options::{
            UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
        };
        self.protocol = match &proto.upstream_protocol_options {
            None => UpstreamProtocol::Http1,
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(_)) => {
                UpstreamProtocol::Downstream
            }
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
                match &config.protocol_config {
                    None | Some(ProtocolConfig::HttpProtocolOptions(_)) => UpstreamProtocol::Http1,
                    Some(ProtocolConfig::Http2ProtocolOptions(_)) => UpstreamProtocol::Http2,
                    Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                        return Err(Refusal::unsupported("http3_protocol_options"));
                    }
                }
            }
            Some(UpstreamProtocolOptions::AutoConfig(_)) => UpstreamProtocol::Negotiated,
        };
        let (http1, http2) = match &proto.upstream_protocol_options {
            Some(UpstreamProtocolOptions::UseDownstreamProtocolConfig(config)) => (
                config.http_protocol_options.as_ref(),
                config.http2_protocol_options.as_ref(),
            ),
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(config)) => {
                match &config.protocol_config {
                    Some(ProtocolConfig::HttpProtocolOptions(http1)) => (Some(http1), None),
                    Some(ProtocolConfig::Http2ProtocolOptions(http2)) => (None, Some(http2)),
                    _ => (None, None),
                }
            }
            Some(UpstreamProtocolOptions::AutoConfig(config)) => (
                config.http_protocol_options.as_ref(),
                config.http2_protocol_options.as_ref(),
            ),
            None => (None, None),
        };
        self.header_case = HeaderCase::from_proto(http1)?;
        self.http1_trailers = http1.is_some_and(|http1| http1.enable_trailers);
        if let Some(http2) = http2 {
            self.http2 =
                UpstreamHttp2::from_proto(http2).map_err(|e| e.within("http2_protocol_options"))?;
        }
        if let Some(upstream) = &proto.upstream_http_protocol_options {
            self.server_name = ServerNameFrom {
                host: upstream.auto_sni,
                verified: upstream.auto_san_validation,
            };
        }
        if let Some(common) = &proto.common_http_protocol_options {
            self.idle_timeout = match duration::optional(&common.idle_timeout, "idle_timeout")? {
                None => Some(IDLE_TIMEOUT),
                limit => limit.filter(|limit| !limit.is_zero()),
            };
            self.max_connection_duration =
                duration::limit(&common.max_connection_duration, "max_connection_duration")?;
            self.max_requests_per_connection =
                common.max_requests_per_connection.as_ref().map(|n| n.value);
        }
        Ok(())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::HttpProtocolOptions as CommonOptions;
    use envoy_types::pb::google::protobuf::Duration as DurationProto;

    use super::*;

    fn idle(seconds: Option<i64>) -> Option<Duration> {
        let common = CommonOptions {
            idle_timeout: seconds.map(|seconds| DurationProto { seconds, nanos: 0 }),
            ..CommonOptions::default()
        };
        let proto = HttpProtocolOptions {
            common_http_protocol_options: Some(common),
            upstream_protocol_options: Some(
                http_protocol_options::UpstreamProtocolOptions::ExplicitHttpConfig(
                    http_protocol_options::ExplicitHttpConfig::default(),
                ),
            ),
            ..HttpProtocolOptions::default()
        };
        let mut options = ProtocolOptions::from_proto(&ClusterProto::default()).unwrap();
        options.read(&proto).unwrap();
        options.idle_timeout
    }

    #[test]
    fn no_idle_timeout_is_an_hour_and_zero_is_none() {
        assert_eq!(idle(None), Some(IDLE_TIMEOUT));
        assert_eq!(idle(Some(0)), None);
        assert_eq!(idle(Some(7)), Some(Duration::from_secs(7)));
    }
}
