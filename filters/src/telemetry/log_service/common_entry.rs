//! What entries of Envoy's access log service say of every stream, as Envoy says it (`AccessLogCommon`).
//!
//! Times and bytes come from the operators of formats, so that they are what a line of a log would say.

use std::net::SocketAddr;
use std::time::{SystemTime, UNIX_EPOCH};

use envoy_types::pb::envoy::config::core::v3::socket_address::PortSpecifier;
use envoy_types::pb::envoy::config::core::v3::{
    Address, Metadata as MetadataProto, SocketAddress, address,
};
use envoy_types::pb::envoy::data::accesslog::v3::response_flags::Unauthorized;
use envoy_types::pb::envoy::data::accesslog::v3::response_flags::unauthorized::Reason;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::SubjectAltName;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::certificate_properties::subject_alt_name::San;
use envoy_types::pb::envoy::data::accesslog::v3::tls_properties::{
    CertificateProperties, TlsVersion,
};
use envoy_types::pb::envoy::data::accesslog::v3::{
    AccessLogCommon, AccessLogType, ConnectionProperties, ResponseFlags as FlagsProto,
    TcpAccessLogEntry, TlsProperties,
};
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::CommonGrpcAccessLogConfig;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{Any, Duration, Struct, Timestamp, Value};
use prost::{Message as _, Name as _};
use waypoint_hbone::identity::Identity;

use crate::format::{Format, FormatContext};
use crate::stream::dynamic_metadata::Metadata;
use crate::stream::filter_state::{FilterValue, UPSTREAM_PEER};
use crate::stream::peer::Peer;
use crate::stream::response_flags::ResponseFlags;
use crate::stream::stream_info::{Capture, Protocol};
use crate::xds::rejected::Refusal;
use crate::xds::struct_json::object_to_struct;

/// From the request's first byte to these.
const TIMES: [&str; 8] = [
    "DS_RX_END",
    "US_TX_BEG",
    "US_TX_END",
    "US_RX_BEG",
    "US_RX_END",
    "DS_TX_BEG",
    "DS_TX_END",
    "DS_TX_END",
];
const BYTES: [&str; 4] = [
    "%DOWNSTREAM_WIRE_BYTES_SENT%",
    "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
    "%UPSTREAM_WIRE_BYTES_SENT%",
    "%UPSTREAM_WIRE_BYTES_RECEIVED%",
];

#[derive(Debug)]
pub(super) struct CommonEntry {
    times: [Format; 8],
    bytes: [Format; 4],
    stream_id: Format,
    objects: Vec<String>,
}

impl CommonEntry {
    pub(super) fn from_proto(proto: &CommonGrpcAccessLogConfig) -> Result<CommonEntry, Refusal> {
        let time = |to: &str| Format::parse(&format!("%COMMON_DURATION(DS_RX_BEG:{to}:ns)%"));
        let [a, b, c, d, e, f, g, h] = TIMES;
        let [i, j, k, l] = BYTES;
        Ok(CommonEntry {
            times: [
                time(a)?,
                time(b)?,
                time(c)?,
                time(d)?,
                time(e)?,
                time(f)?,
                time(g)?,
                time(h)?,
            ],
            bytes: [
                Format::parse(i)?,
                Format::parse(j)?,
                Format::parse(k)?,
                Format::parse(l)?,
            ],
            stream_id: Format::parse("%STREAM_ID%")?.omitting_empty(true),
            objects: proto.filter_state_objects_to_log.clone(),
        })
    }

    pub(super) fn capture(&self) -> Capture {
        let mut capture = self.stream_id.capture();
        let formats = self.times.iter().chain(&self.bytes);
        formats.for_each(|format| capture.merge(&format.capture()));
        capture
    }

    pub(super) fn tcp_entry(&self, context: &FormatContext<'_>) -> TcpAccessLogEntry {
        TcpAccessLogEntry {
            common_properties: Some(self.entry(context)),
            connection_properties: Some(ConnectionProperties {
                received_bytes: context.stream.bytes_received(),
                sent_bytes: context.stream.bytes_sent(),
            }),
        }
    }

    pub(super) fn entry(&self, context: &FormatContext<'_>) -> AccessLogCommon {
        let (stream, state) = (context.stream, context.state);
        let connection = &stream.connection;
        let upstream = state.upstream.as_deref();
        let [
            last_rx,
            first_up_tx,
            last_up_tx,
            first_up_rx,
            last_up_rx,
            first_tx,
            last_tx,
            whole,
        ] = self.times.each_ref().map(|time| duration(time, context));
        let [
            downstream_wire_bytes_sent,
            downstream_wire_bytes_received,
            upstream_wire_bytes_sent,
            upstream_wire_bytes_received,
        ] = self
            .bytes
            .each_ref()
            .map(|bytes| number(bytes, context).unwrap_or(0));
        let owned = |text: Option<&str>| text.unwrap_or_default().to_owned();
        AccessLogCommon {
            downstream_remote_address: Some(socket(connection.source)),
            downstream_direct_remote_address: Some(socket(connection.source)),
            downstream_local_address: Some(socket(connection.destination)),
            tls_properties: tls(context),
            start_time: Some(timestamp(stream.start_time)),
            time_to_last_rx_byte: last_rx,
            time_to_first_upstream_tx_byte: first_up_tx,
            time_to_last_upstream_tx_byte: last_up_tx,
            time_to_first_upstream_rx_byte: first_up_rx,
            time_to_last_upstream_rx_byte: last_up_rx,
            time_to_first_downstream_tx_byte: first_tx,
            time_to_last_downstream_tx_byte: last_tx,
            duration: whole,
            upstream_remote_address: upstream.map(|upstream| socket(upstream.host)),
            upstream_local_address: upstream.and_then(|upstream| upstream.local).map(socket),
            upstream_cluster: owned(state.cluster.as_deref()),
            response_flags: flags(state.flags),
            metadata: metadata(&state.metadata),
            upstream_transport_failure_reason: owned(
                state.upstream_transport_failure_reason.as_deref(),
            ),
            route_name: state
                .route
                .as_ref()
                .map_or_else(String::new, |route| route.info().name.to_string()),
            filter_state_objects: self.objects(context),
            upstream_request_attempt_count: state.attempts,
            connection_termination_details: owned(state.connection_termination_details.as_deref()),
            stream_id: text(&self.stream_id, context),
            downstream_wire_bytes_sent,
            downstream_wire_bytes_received,
            upstream_wire_bytes_sent,
            upstream_wire_bytes_received,
            access_log_type: match stream.protocol {
                Protocol::Tcp => AccessLogType::TcpConnectionEnd,
                _ => AccessLogType::DownstreamEnd,
            }
            .into(),
            ..AccessLogCommon::default()
        }
    }

    fn objects(&self, context: &FormatContext<'_>) -> std::collections::HashMap<String, Any> {
        let found = self.objects.iter().filter_map(|name| {
            let own = context.state.filter_state.get(name);
            let own = own.or_else(|| context.stream.connection.filter_state.get(name));
            let upstream = context.state.upstream.as_ref();
            let peer = upstream.and_then(|upstream| upstream.peer.clone());
            let peer = peer
                .filter(|_| name == UPSTREAM_PEER)
                .map(FilterValue::Peer);
            Some((name.clone(), object(own.or(peer.as_ref())?)))
        });
        found.collect()
    }
}

/// Peers as Istio's own filters have them: a structure.
fn object(value: &FilterValue) -> Any {
    let fields = match value {
        FilterValue::Peer(peer) => peer_fields(peer),
        other => {
            let value = envoy_types::pb::google::protobuf::StringValue {
                value: other.to_plain(),
            };
            return Any {
                type_url: envoy_types::pb::google::protobuf::StringValue::type_url(),
                value: value.encode_to_vec(),
            };
        }
    };
    Any {
        type_url: "type.googleapis.com/google.protobuf.Struct".to_owned(),
        value: fields.encode_to_vec(),
    }
}

fn peer_fields(peer: &Peer) -> Struct {
    let fields = [
        "name",
        "namespace",
        "workload",
        "type",
        "service",
        "revision",
        "app",
        "version",
        "cluster",
        "identity",
    ];
    let known = fields.into_iter().filter_map(|name| {
        let value = peer.field(name).filter(|value| !value.is_empty())?;
        let kind = Some(Kind::StringValue(value.to_owned()));
        Some((name.to_owned(), Value { kind }))
    });
    Struct {
        fields: known.collect(),
    }
}

pub(super) fn text(format: &Format, context: &FormatContext<'_>) -> String {
    let mut text = Vec::new();
    format.write(context, &mut text);
    String::from_utf8_lossy(&text).into_owned()
}

/// `None`: there is no value.
pub(super) fn number(format: &Format, context: &FormatContext<'_>) -> Option<u64> {
    text(format, context).parse().ok()
}

fn duration(format: &Format, context: &FormatContext<'_>) -> Option<Duration> {
    let time = std::time::Duration::from_nanos(number(format, context)?);
    Some(Duration {
        seconds: i64::try_from(time.as_secs()).unwrap_or(i64::MAX),
        nanos: time.subsec_nanos().cast_signed(),
    })
}

fn timestamp(time: SystemTime) -> Timestamp {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp {
        seconds: i64::try_from(since.as_secs()).unwrap_or(i64::MAX),
        nanos: since.subsec_nanos().cast_signed(),
    }
}

fn socket(address: SocketAddr) -> Address {
    let socket = SocketAddress {
        address: address.ip().to_string(),
        port_specifier: Some(PortSpecifier::PortValue(address.port().into())),
        ..SocketAddress::default()
    };
    Address {
        address: Some(address::Address::SocketAddress(socket)),
    }
}

/// Of the tunnel's connection.
fn tls(context: &FormatContext<'_>) -> Option<TlsProperties> {
    let connection = &context.stream.connection;
    let tls = connection.tls.as_ref()?;
    let version = match tls.version() {
        Some("TLSv1.3") => TlsVersion::TlSv13,
        Some("TLSv1.2") => TlsVersion::TlSv12,
        _ => TlsVersion::VersionUnspecified,
    };
    let named = |identity: Option<&Identity>| {
        let identity = identity?;
        Some(CertificateProperties {
            subject_alt_name: vec![SubjectAltName {
                san: Some(San::Uri(identity.as_str().to_owned())),
            }],
            ..CertificateProperties::default()
        })
    };
    Some(TlsProperties {
        tls_version: version.into(),
        tls_sni_hostname: connection
            .server_name
            .known()
            .unwrap_or_default()
            .to_owned(),
        local_certificate_properties: named(connection.local.as_ref()),
        peer_certificate_properties: named(connection.peer.as_ref()),
        ..TlsProperties::default()
    })
}

fn metadata(metadata: &Metadata) -> Option<MetadataProto> {
    let spaces = metadata.iter().filter_map(|(namespace, value)| {
        let object = value.as_object()?;
        Some((namespace.to_owned(), object_to_struct(object)))
    });
    (!metadata.is_empty()).then(|| MetadataProto {
        filter_metadata: spaces.collect(),
        ..MetadataProto::default()
    })
}

fn flags(flags: ResponseFlags) -> Option<FlagsProto> {
    let has = |flag| flags.contains(flag);
    let refused = has(ResponseFlags::UNAUTHORIZED_EXTERNAL_SERVICE);
    (!flags.is_empty()).then(|| FlagsProto {
        no_healthy_upstream: has(ResponseFlags::NO_HEALTHY_UPSTREAM),
        upstream_request_timeout: has(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT),
        local_reset: has(ResponseFlags::LOCAL_RESET),
        upstream_remote_reset: has(ResponseFlags::UPSTREAM_REMOTE_RESET),
        upstream_connection_failure: has(ResponseFlags::UPSTREAM_CONNECTION_FAILURE),
        upstream_connection_termination: has(ResponseFlags::UPSTREAM_CONNECTION_TERMINATION),
        upstream_overflow: has(ResponseFlags::UPSTREAM_OVERFLOW),
        no_route_found: has(ResponseFlags::NO_ROUTE),
        delay_injected: has(ResponseFlags::DELAY_INJECTED),
        fault_injected: has(ResponseFlags::FAULT_INJECTED),
        rate_limited: has(ResponseFlags::RATE_LIMITED),
        unauthorized_details: refused.then(|| Unauthorized {
            reason: Reason::ExternalService.into(),
        }),
        downstream_connection_termination: has(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION),
        upstream_retry_limit_exceeded: has(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED),
        stream_idle_timeout: has(ResponseFlags::STREAM_IDLE_TIMEOUT),
        invalid_envoy_request_headers: has(ResponseFlags::INVALID_REQUEST_HEADERS),
        downstream_protocol_error: has(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR),
        duration_timeout: has(ResponseFlags::DURATION_TIMEOUT),
        upstream_protocol_error: has(ResponseFlags::UPSTREAM_PROTOCOL_ERROR),
        no_cluster_found: has(ResponseFlags::NO_CLUSTER),
        overload_manager: has(ResponseFlags::OVERLOAD_MANAGER),
        downstream_remote_reset: has(ResponseFlags::DOWNSTREAM_REMOTE_RESET),
        ..FlagsProto::default()
    })
}
