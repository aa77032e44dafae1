//! `envoy.access_loggers.http_grpc` and `tcp_grpc`: entries for Envoy's access log service (ALS).
//!
//! Envoy keeps one stream of messages open. Here a batch is a stream of its own: one message, which says whose logs they are,
//! and the service's answer. So it is known what arrived, and nothing is left over at the end.

use std::sync::Arc;

use envoy_types::pb::envoy::config::core::v3::Node;
use envoy_types::pb::envoy::extensions::access_loggers::grpc::v3::{
    CommonGrpcAccessLogConfig, HttpGrpcAccessLogConfig, TcpGrpcAccessLogConfig,
};
use envoy_types::pb::envoy::service::accesslog::v3::stream_access_logs_message::Identifier;
use envoy_types::pb::google::protobuf::{Any, Duration as DurationProto};
use prost::Message as _;

use crate::callout::grpc_service::{Framed, GRPC_SERVICE, GrpcService};
use crate::format::FormatContext;
use crate::stream::stream_info::Capture;
use crate::telemetry::export::exporter::{Collector, Outcome, Sending};
use crate::telemetry::log_service::common_entry::CommonEntry;
use crate::telemetry::log_service::http_entry::HttpEntry;
use crate::telemetry::log_service::services::{
    Built, Entry, LogService, ServiceContext, limits, room,
};
use crate::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use crate::xds::coverage::{Table, harmless, honoured, required};
use crate::xds::rejected::Refusal;

pub(crate) static HTTP_GRPC: Table = Table {
    name: "envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
    fields: &[
        honoured(1, "common_config").of(&COMMON_CONFIG),
        honoured(2, "additional_request_headers_to_log").list(),
        honoured(3, "additional_response_headers_to_log").list(),
        honoured(4, "additional_response_trailers_to_log").list(),
    ],
    refused: "",
    required: &[required("common_config", &[1])],
};

pub(crate) static TCP_GRPC: Table = Table {
    name: "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
    fields: &[honoured(1, "common_config").of(&COMMON_CONFIG)],
    refused: "",
    required: &[required("common_config", &[1])],
};

pub(crate) static COMMON_CONFIG: Table = Table {
    name: "envoy.extensions.access_loggers.grpc.v3.CommonGrpcAccessLogConfig",
    fields: &[
        honoured(1, "log_name"),
        honoured(2, "grpc_service").of(&GRPC_SERVICE),
        honoured(3, "buffer_flush_interval")
            .of(&DURATION)
            .only("longer than 0s"),
        honoured(4, "buffer_size_bytes").of(&UINT32_VALUE),
        honoured(5, "filter_state_objects_to_log").list(),
        harmless(6, "transport_api_version", "there is no other than V3"),
    ],
    refused: "7 grpc_stream_retry_policy, 8 custom_tags",
    required: &[required("grpc_service", &[2])],
};

const STREAM: &str = "/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs";
/// How long a service may take where nothing is said.
const TIME: i64 = 10;

/// Writes an entry for each stream.
#[derive(Debug)]
pub(crate) struct AccessLogService {
    entry: EntryOf,
    service: Arc<LogService>,
}

#[derive(Debug)]
enum EntryOf {
    Http(Box<HttpEntry>),
    Tcp(Box<CommonEntry>),
}

/// Which list of a message entries stand in.
#[derive(Clone, Copy, Debug)]
enum List {
    Http,
    Tcp,
}

#[derive(Debug)]
struct Als {
    grpc: GrpcService,
    identifier: Identifier,
    list: List,
}

impl AccessLogService {
    pub(crate) fn of_http(
        any: &Any,
        proto: &HttpGrpcAccessLogConfig,
        context: &ServiceContext<'_>,
    ) -> Result<AccessLogService, Refusal> {
        let common = common(proto.common_config.as_ref())?;
        Ok(AccessLogService {
            entry: EntryOf::Http(Box::new(HttpEntry::from_proto(proto, common)?)),
            service: service(any, common, List::Http, context)?,
        })
    }

    pub(crate) fn of_tcp(
        any: &Any,
        proto: &TcpGrpcAccessLogConfig,
        context: &ServiceContext<'_>,
    ) -> Result<AccessLogService, Refusal> {
        let common = common(proto.common_config.as_ref())?;
        Ok(AccessLogService {
            entry: EntryOf::Tcp(Box::new(CommonEntry::from_proto(common)?)),
            service: service(any, common, List::Tcp, context)?,
        })
    }

    pub(crate) fn capture(&self) -> Capture {
        match &self.entry {
            EntryOf::Http(entry) => entry.capture(),
            EntryOf::Tcp(entry) => entry.capture(),
        }
    }

    pub(crate) fn record(&self, context: &FormatContext<'_>) {
        let entry = match &self.entry {
            EntryOf::Http(entry) => entry.entry(context).encode_to_vec(),
            EntryOf::Tcp(entry) => entry.tcp_entry(context).encode_to_vec(),
        };
        self.service.queue.put(Entry(entry.into()));
    }
}

fn common(
    common: Option<&CommonGrpcAccessLogConfig>,
) -> Result<&CommonGrpcAccessLogConfig, Refusal> {
    common.ok_or_else(|| Refusal::missing("common_config"))
}

fn service(
    any: &Any,
    common: &CommonGrpcAccessLogConfig,
    list: List,
    context: &ServiceContext<'_>,
) -> Result<Arc<LogService>, Refusal> {
    let node = context.node;
    let within = |e: Refusal| e.within("common_config");
    // Both kinds may say the same.
    context.services.get(&any.encode_to_vec(), || {
        let grpc = grpc(common, context).map_err(within)?;
        Ok(Built {
            name: grpc.cluster.as_str().into(),
            limits: limits(common).map_err(within)?,
            collector: Box::new(Als {
                grpc,
                list,
                identifier: Identifier {
                    node: Some(Node {
                        id: node.id.clone(),
                        cluster: node.cluster.clone(),
                        ..Node::default()
                    }),
                    log_name: common.log_name.clone(),
                },
            }),
        })
    })
}

/// The way to a service of logs.
pub(super) fn grpc(
    common: &CommonGrpcAccessLogConfig,
    context: &ServiceContext<'_>,
) -> Result<GrpcService, Refusal> {
    let missing = || Refusal::missing("grpc_service");
    let mut grpc = common.grpc_service.clone().ok_or_else(missing)?;
    grpc.timeout.get_or_insert(DurationProto {
        seconds: TIME,
        nanos: 0,
    });
    GrpcService::from_proto(&grpc, context.cluster).map_err(|e| e.within("grpc_service"))
}

impl Collector<Entry> for Als {
    fn send<'a>(&'a self, entries: &'a [Entry]) -> Sending<'a> {
        Box::pin(self.put(entries))
    }
}

impl Als {
    /// Sends a `StreamAccessLogsMessage`; its entries are encoded already.
    async fn put(&self, entries: &[Entry]) -> Result<Outcome, String> {
        let list = match self.list {
            List::Http => 2,
            List::Tcp => 3,
        };
        let message = Framed::of(room(entries), |message| {
            message.always(1, self.identifier.encode_to_vec());
            message.message(list, |list| {
                for Entry(entry) in entries {
                    list.always(1, entry);
                }
            });
        });
        let answer = self.grpc.tell(STREAM, message).await;
        let outcome = answer.map(|_| Outcome { rejected: 0 });
        outcome.map_err(|error| error.to_string())
    }
}
