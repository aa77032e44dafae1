//! Small constructors for the protobuf shapes that every resource is made of.

use std::time::Duration as StdDuration;

use envoy_types::pb::envoy::config::core::v3 as core;
use envoy_types::pb::envoy::config::listener::v3 as listener;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use envoy_types::pb::envoy::extensions::http::header_formatters::preserve_case::v3::PreserveCaseFormatterConfig;
use envoy_types::pb::envoy::extensions::transport_sockets::raw_buffer::v3::RawBuffer;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{
    Any, BoolValue, Duration, ListValue, Struct, UInt32Value, Value,
};
use prost::{Message, Name};
use waypoint_filters::xds::proto::{TYPED_STRUCT, TypedStruct};

use crate::resource::{Resource, ResourceType};
use crate::standalone::translate::proto::stable_encoding;

/// A message as `Any`, with the same bytes for equal messages.
pub(crate) fn any<T: Name + Message>(message: &T) -> Any {
    let type_url = T::type_url();
    let value = stable_encoding::encode(&type_url, message);
    Any { type_url, value }
}

/// A message as a resource, with the same bytes for equal messages.
pub(crate) fn resource<T: Message>(kind: ResourceType, name: &str, message: &T) -> Resource {
    let body = stable_encoding::encode(kind.type_url(), message).into();
    Resource {
        kind,
        name: name.to_owned(),
        body,
    }
}

pub(crate) fn network_filter(name: &str, config: Any) -> listener::Filter {
    listener::Filter {
        name: name.to_owned(),
        config_type: Some(listener::filter::ConfigType::TypedConfig(config)),
    }
}

pub(crate) fn http_filter(name: &str, config: Any) -> hcm::HttpFilter {
    hcm::HttpFilter {
        name: name.to_owned(),
        config_type: Some(hcm::http_filter::ConfigType::TypedConfig(config)),
        ..hcm::HttpFilter::default()
    }
}

pub(crate) fn transport_socket(name: &str, config: Any) -> core::TransportSocket {
    core::TransportSocket {
        name: name.to_owned(),
        config_type: Some(core::transport_socket::ConfigType::TypedConfig(config)),
    }
}

pub(crate) fn raw_buffer() -> core::TransportSocket {
    transport_socket("raw_buffer", any(&RawBuffer {}))
}

/// How istiod wraps the configuration of Istio's own filters.
pub(crate) fn typed_struct(type_name: &str, value: Struct) -> Any {
    let message = TypedStruct {
        type_url: format!("type.googleapis.com/{type_name}"),
        value: Some(value),
    };
    Any {
        type_url: TYPED_STRUCT.to_owned(),
        value: stable_encoding::encode(TYPED_STRUCT, &message),
    }
}

pub(crate) fn fields<const N: usize>(fields: [(&str, Value); N]) -> Struct {
    Struct {
        fields: fields
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    }
}

pub(crate) fn text(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

pub(crate) fn truth(truth: bool) -> Value {
    Value {
        kind: Some(Kind::BoolValue(truth)),
    }
}

pub(crate) fn nested(fields: Struct) -> Value {
    Value {
        kind: Some(Kind::StructValue(fields)),
    }
}

pub(crate) fn list(values: Vec<Value>) -> Value {
    Value {
        kind: Some(Kind::ListValue(ListValue { values })),
    }
}

pub(crate) fn metadata<const N: usize>(filters: [(&str, Struct); N]) -> core::Metadata {
    core::Metadata {
        filter_metadata: filters
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
        ..core::Metadata::default()
    }
}

pub(crate) fn seconds(seconds: i64) -> Option<Duration> {
    Some(Duration { seconds, nanos: 0 })
}

pub(crate) fn duration(duration: StdDuration) -> Duration {
    Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: duration.subsec_nanos().cast_signed(),
    }
}

pub(crate) fn uint32(value: u32) -> Option<UInt32Value> {
    Some(UInt32Value { value })
}

pub(crate) fn boolean(value: bool) -> Option<BoolValue> {
    Some(BoolValue { value })
}

/// Configuration by ADS, waited for without end.
pub(crate) fn ads() -> core::ConfigSource {
    core::ConfigSource {
        initial_fetch_timeout: seconds(0),
        resource_api_version: core::ApiVersion::V3.into(),
        config_source_specifier: Some(core::config_source::ConfigSourceSpecifier::Ads(
            core::AggregatedConfigSource {},
        )),
        ..core::ConfigSource::default()
    }
}

/// A format string with `%OPERATORS%`.
pub(crate) fn format_string(text: &str) -> core::SubstitutionFormatString {
    core::SubstitutionFormatString {
        format: Some(core::substitution_format_string::Format::TextFormatSource(
            core::DataSource {
                specifier: Some(core::data_source::Specifier::InlineString(text.to_owned())),
                ..core::DataSource::default()
            },
        )),
        ..core::SubstitutionFormatString::default()
    }
}

/// HTTP/1 whose names of headers stay as they came.
pub(crate) fn preserving_case() -> core::Http1ProtocolOptions {
    use core::http1_protocol_options::{HeaderKeyFormat, header_key_format::HeaderFormat};
    let formatter = core::TypedExtensionConfig {
        name: "preserve_case".to_owned(),
        typed_config: Some(any(&PreserveCaseFormatterConfig::default())),
    };
    core::Http1ProtocolOptions {
        header_key_format: Some(HeaderKeyFormat {
            header_format: Some(HeaderFormat::StatefulFormatter(formatter)),
        }),
        ..core::Http1ProtocolOptions::default()
    }
}
