//! Listeners by their role: `connect_terminate`, `main_internal`, `connect_originate`, and the two of
//! multi-network traffic, which are accepted and carry nothing yet.
//!
//! `main_internal` holds every service of the waypoint. Its chains are kept as bytes: only those that
//! changed are decoded and compiled.

pub mod chain;
pub mod filter_chain_matcher;
pub(crate) mod hbone_tls;
pub mod inspection;
pub(crate) mod ip_matcher;
pub(crate) mod matcher_tables;
pub mod originate;
pub mod snapshot;
pub mod tcp_proxy;

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::{FilterChain as FilterChainProto, Listener};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as HttpConnectionManagerProto;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use waypoint_filters::host::Terminal;
use waypoint_filters::network;
use waypoint_filters::record::access_log::{ACCESS_LOG, AccessLog, LogContext};
use waypoint_filters::stream::recorder::Recorder;
use waypoint_filters::xds::coverage::{self, Table, decode_any, harmless, honoured, required};
use waypoint_filters::xds::omitted::Omissions;
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::transport_socket;
use crate::model::discovered::EXTENSION_SOURCE;
use crate::model::http::connection_manager::{
    ChainContext, HTTP_CONNECTION_MANAGER, HttpConnectionManager,
};
use crate::model::listener::chain::FilterChain;
use crate::model::listener::hbone_tls::DOWNSTREAM_TRANSPORT_SOCKET;
use crate::model::listener::inspection::LISTENER_FILTER;
use crate::model::listener::matcher_tables::MATCHER;
use crate::model::listener::originate::ORIGINATE_CHAIN;
use crate::model::listener::snapshot::ConnectTerminate;
use crate::model::listener::tcp_proxy::typed;
use crate::model::listener::tcp_proxy::{TCP_PROXY, TcpChain};

/// The HBONE server.
pub const CONNECT_TERMINATE: &str = "connect_terminate";
/// What runs inside tunnels.
pub const MAIN_INTERNAL: &str = "main_internal";
const CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
/// The field of `Listener` that holds its filter chains.
const FILTER_CHAINS: u32 = 3;
/// istiod's, and Envoy's for CONNECT.
const MAX_CONCURRENT_STREAMS: u32 = 100;

pub static LISTENER: Table = Table {
    name: "envoy.config.listener.v3.Listener",
    fields: &[
        honoured(1, "name"),
        harmless(2, "address", "the HBONE port is a setting of the process"),
        honoured(3, "filter_chains").named(7).of(&FILTER_CHAIN),
        harmless(
            4,
            "use_original_dst",
            "the destination is always the tunnel's",
        ),
        honoured(9, "listener_filters")
            .named(1)
            .of(&LISTENER_FILTER),
        harmless(16, "traffic_direction", "nothing depends on it"),
        harmless(
            20,
            "connection_balance_config",
            "streams are balanced over threads one by one",
        ),
        honoured(22, "access_log").named(1).of(&ACCESS_LOG),
        harmless(
            27,
            "internal_listener",
            "what runs inside tunnels is told by the name",
        ),
        honoured(32, "filter_chain_matcher").of(&MATCHER),
        harmless(
            33,
            "additional_addresses",
            "the HBONE port is a setting of the process",
        )
        .list(),
    ],
    refused: "5 per_connection_buffer_limit_bytes, 6 metadata, 7 deprecated_v1, 8 drain_type, \
              10 transparent, 11 freebind, 12 tcp_fast_open_queue_length, 13 socket_options, \
              15 listener_filters_timeout, 17 continue_on_listener_filters_timeout, \
              18 udp_listener_config, 19 api_listener, 21 reuse_port, 24 tcp_backlog_size, \
              25 default_filter_chain, 26 bind_to_port, 28 stat_prefix, 29 enable_reuse_port, \
              30 enable_mptcp, 31 ignore_global_conn_limit, \
              34 max_connections_to_accept_per_socket_event, 35 bypass_overload_manager, \
              36 fcds_config, 37 tcp_keepalive, 38 per_connection_buffer_high_watermark_timeout, \
              39 stats_matcher",
    required: &[],
};

pub static FILTER_CHAIN: Table = Table {
    name: "envoy.config.listener.v3.FilterChain",
    fields: &[
        honoured(3, "filters").named(1).of(&FILTER),
        honoured(6, "transport_socket")
            .only("of connect_terminate")
            .of(&DOWNSTREAM_TRANSPORT_SOCKET),
        honoured(7, "name"),
    ],
    refused: "1 filter_chain_match, 4 use_proxy_proto, 5 metadata, \
              9 transport_socket_connect_timeout",
    required: &[required("filters", &[3])],
};

static FILTER: Table = Table {
    name: "envoy.config.listener.v3.Filter",
    fields: &[
        honoured(1, "name"),
        honoured(4, "typed_config")
            .any(&[&[&HTTP_CONNECTION_MANAGER, &TCP_PROXY], network::TABLES]),
        honoured(5, "config_discovery").of(&EXTENSION_SOURCE),
    ],
    refused: "",
    required: &[required("config_type", &[4, 5])],
};

/// A listener with its filter chains undecoded.
pub(crate) struct RawListener {
    pub(crate) listener: Listener,
    pub(crate) chains: Vec<RawChain>,
}

pub(crate) struct RawChain {
    pub(crate) name: String,
    pub(crate) body: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ChainName {
    #[prost(string, tag = "7")]
    name: String,
}

impl RawListener {
    pub(crate) fn decode(body: &Bytes) -> Result<RawListener, Refusal> {
        let invalid = |error: prost::DecodeError| Refusal::new("", error.to_string());
        let mut rest = Vec::new();
        let mut chains = Vec::new();
        let mut cursor = body.clone();
        while !cursor.is_empty() {
            let start = body.len() - cursor.len();
            let (field, wire_type) = decode_key(&mut cursor).map_err(invalid)?;
            if field == FILTER_CHAINS && wire_type == WireType::LengthDelimited {
                let mut chain = Bytes::new();
                prost::encoding::bytes::merge(
                    wire_type,
                    &mut chain,
                    &mut cursor,
                    DecodeContext::default(),
                )
                .map_err(invalid)?;
                let name = ChainName::decode(chain.clone()).map_err(invalid)?.name;
                chains.push(RawChain { name, body: chain });
            } else {
                skip_field(wire_type, field, &mut cursor, DecodeContext::default())
                    .map_err(invalid)?;
                rest.extend_from_slice(&body[start..body.len() - cursor.len()]);
            }
        }
        let listener = coverage::decode(&rest, &LISTENER)?;
        Ok(RawListener { listener, chains })
    }

    /// Refuses a listener that only holds Envoy's way to open tunnels, where it isn't as istiod makes it.
    pub(crate) fn check_originate(&self) -> Result<(), Refusal> {
        self.chains.iter().enumerate().try_for_each(|(i, chain)| {
            coverage::check(&chain.body, &ORIGINATE_CHAIN)
                .map_err(|e| e.within(format!("filter_chains[{i}]")))
        })
    }
}

/// The access logs of the listener itself: connections for which there is no chain.
pub(crate) fn recorders(
    listener: &Listener,
    context: &LogContext<'_>,
    omissions: &Omissions,
) -> Box<[Arc<dyn Recorder>]> {
    let logs = listener.access_log.iter();
    let logs = logs.filter_map(|log| AccessLog::optional(log, context, omissions));
    logs.map(|log| Arc::new(log) as Arc<dyn Recorder>).collect()
}

/// Compiles one chain of `main_internal`.
pub(crate) fn chain(body: &Bytes, context: &ChainContext<'_>) -> Result<FilterChain, Refusal> {
    let proto: FilterChainProto = coverage::decode(body, &FILTER_CHAIN)?;
    if proto.transport_socket.is_some() {
        return Err(Refusal::unsupported("transport_socket"));
    }
    let is_manager = |i: usize| {
        let any = proto
            .filters
            .get(i)
            .and_then(|filter| typed(filter, context).ok());
        any.is_some_and(|any| any.type_url == CONNECTION_MANAGER)
    };
    match proto.filters.len() {
        0 => Err(Refusal::missing("filters")),
        count if is_manager(count - 1) => {
            // That of pod chains shares the destination, which the router takes from the connection itself.
            for filter in proto.filters.iter().take(count - 1) {
                if !network::only_shares_destination(typed(filter, context)?) {
                    let refusal = Refusal::unsupported("a network filter before HTTP");
                    return Err(refusal.within(format!("filters[{:?}]", filter.name)));
                }
            }
            let manager = manager(&proto, count - 1, context, Terminal::Router)?;
            Ok(FilterChain::Http(Arc::new(manager)))
        }
        _ => Ok(FilterChain::Tcp(Arc::new(TcpChain::from_proto(
            &proto.filters,
            context,
        )?))),
    }
}

fn manager(
    proto: &FilterChainProto,
    index: usize,
    context: &ChainContext<'_>,
    terminal: Terminal,
) -> Result<HttpConnectionManager, Refusal> {
    let filter = proto
        .filters
        .get(index)
        .ok_or_else(|| Refusal::missing("filters"))?;
    let any = typed(filter, context)?;
    if any.type_url != CONNECTION_MANAGER {
        return Err(Refusal::unsupported(format!("filters[{:?}]", filter.name)));
    }
    let manager: HttpConnectionManagerProto = decode_any(any)?;
    HttpConnectionManager::from_proto(&manager, context, terminal)
        .map_err(|e| e.within(format!("filters[{:?}].typed_config", filter.name)))
}

/// Compiles `connect_terminate`.
pub(crate) fn connect_terminate(
    raw: &RawListener,
    context: &ChainContext<'_>,
) -> Result<ConnectTerminate, Refusal> {
    let [only] = raw.chains.as_slice() else {
        return Err(Refusal::new("filter_chains", "one chain is expected"));
    };
    let field = |e: Refusal| e.within("filter_chains[0]");
    let proto: FilterChainProto = coverage::decode(&only.body, &FILTER_CHAIN).map_err(field)?;
    if proto.filters.len() != 1 {
        return Err(field(Refusal::unsupported(
            "filters beside the connection manager",
        )));
    }
    let socket = proto
        .transport_socket
        .as_ref()
        .ok_or_else(|| field(Refusal::missing("transport_socket")))?;
    let tls: DownstreamTlsContext =
        decode_any(transport_socket::typed(socket).map_err(field)?).map_err(field)?;
    let trust_domains = hbone_tls::trust_domains(&tls)
        .map_err(|e| field(e.within("transport_socket.typed_config")))?;
    let manager = manager(&proto, 0, context, Terminal::Connect).map_err(field)?;
    Ok(ConnectTerminate {
        max_concurrent_streams: manager
            .codec
            .http2_max_concurrent_streams
            .unwrap_or(MAX_CONCURRENT_STREAMS),
        keepalive: manager.codec.http2_keepalive,
        trust_domains,
        manager: Arc::new(manager),
    })
}
