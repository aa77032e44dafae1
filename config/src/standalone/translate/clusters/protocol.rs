//! Which HTTP a cluster's connections speak, and how long they live: `HttpProtocolOptions`.

use std::collections::HashMap;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::extensions::upstreams::http::v3 as upstream_http;
use envoy_types::pb::google::protobuf::Any;
use upstream_http::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, UseDownstreamHttpConfig,
    explicit_http_config::ProtocolConfig,
};

use crate::standalone::kinds::core::protocol::Protocol;
use crate::standalone::translate::proto::packed::{any, duration, uint32};

const HTTP_PROTOCOL_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// The options of one cluster, until all that has a say in them was heard.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Options {
    pub common: Option<core::HttpProtocolOptions>,
    /// `None`: HTTP/1.1.
    pub protocol: Option<UpstreamProtocolOptions>,
    /// Names of servers that TLS takes from requests.
    pub upstream: Option<core::UpstreamHttpProtocolOptions>,
}

impl Options {
    /// What a port's protocol asks for.
    pub(super) fn of(protocol: Protocol) -> Options {
        Options {
            protocol: match protocol {
                Protocol::Unknown => Some(use_downstream()),
                protocol if protocol.is_http2() => Some(explicit_http2(false)),
                _ => None,
            },
            ..Options::default()
        }
    }

    pub(super) fn speaks_http2(&self) -> bool {
        matches!(
            &self.protocol,
            Some(UpstreamProtocolOptions::ExplicitHttpConfig(
                ExplicitHttpConfig {
                    protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(_)),
                }
            ))
        )
    }

    /// Empty where there is nothing to say.
    pub(super) fn packed(self) -> HashMap<String, Any> {
        if self == Options::default() {
            return HashMap::new();
        }
        let protocol = self
            .protocol
            .unwrap_or_else(|| explicit_http1(core::Http1ProtocolOptions::default()));
        let options = upstream_http::HttpProtocolOptions {
            common_http_protocol_options: self.common,
            upstream_http_protocol_options: self.upstream,
            upstream_protocol_options: Some(protocol),
            ..upstream_http::HttpProtocolOptions::default()
        };
        HashMap::from([(HTTP_PROTOCOL_OPTIONS.to_owned(), any(&options))])
    }
}

pub(super) fn protocol_options(
    idle: Option<Duration>,
    max_requests: Option<u32>,
    protocol: UpstreamProtocolOptions,
) -> HashMap<String, Any> {
    let common = core::HttpProtocolOptions {
        idle_timeout: idle.map(duration),
        max_requests_per_connection: max_requests.and_then(uint32),
        ..core::HttpProtocolOptions::default()
    };
    let options = Options {
        common: idle.is_some().then_some(common),
        protocol: Some(protocol),
        upstream: None,
    };
    options.packed()
}

pub(super) fn use_downstream() -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::UseDownstreamProtocolConfig(UseDownstreamHttpConfig {
        http_protocol_options: Some(core::Http1ProtocolOptions::default()),
        http2_protocol_options: Some(core::Http2ProtocolOptions::default()),
        ..UseDownstreamHttpConfig::default()
    })
}

pub(super) fn explicit_http1(options: core::Http1ProtocolOptions) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::HttpProtocolOptions(options)),
    })
}

pub(super) fn explicit_http2(allow_connect: bool) -> UpstreamProtocolOptions {
    UpstreamProtocolOptions::ExplicitHttpConfig(ExplicitHttpConfig {
        protocol_config: Some(ProtocolConfig::Http2ProtocolOptions(
            core::Http2ProtocolOptions {
                allow_connect,
                ..core::Http2ProtocolOptions::default()
            },
        )),
    })
}
