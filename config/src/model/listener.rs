//! Listeners by their role: `connect_terminate`, `main_internal`, `connect_originate`, and the two of
//! multi-network traffic, which are accepted and carry nothing yet.
//!
//! `main_internal` holds every service of the waypoint. Its chains are kept as bytes: only those that
//! changed are decoded and compiled.

use std::sync::Arc;

use bytes::Bytes;
use envoy_types::pb::envoy::config::listener::v3::{
    FilterChain as FilterChainProto, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
    listener_filter, listener_filter_chain_match_predicate::Rule,
};
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::HttpConnectionManager as HttpConnectionManagerProto;
use envoy_types::pb::envoy::extensions::transport_sockets::tls::v3::DownstreamTlsContext;
use prost::Message;
use prost::encoding::{DecodeContext, WireType, decode_key, skip_field};
use waypoint_filters::access_log::AccessLog;
use waypoint_filters::host::{Host, Terminal};
use waypoint_filters::omitted::Omissions;
use waypoint_filters::recorder::Recorder;
use waypoint_filters::rejected::Refusal;
use waypoint_filters::whole;

use crate::honoured::nothing_left;
use crate::model::chain::FilterChain;
use crate::model::connection_manager::{ChainContext, HttpConnectionManager};
use crate::model::snapshot::ConnectTerminate;
use crate::model::tcp_proxy::{TcpChain, network_filter, typed};
use crate::model::transport_socket;

const CONNECTION_MANAGER: &str = "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const TLS: &str =
    "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
const LISTENER_FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.listener.";
/// The field of `Listener` that holds its filter chains.
const FILTER_CHAINS: u32 = 3;
/// istiod's, and Envoy's for CONNECT.
const MAX_CONCURRENT_STREAMS: u32 = 100;

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
        let listener = whole::decode::<Listener>(&rest)?;
        Ok(RawListener { listener, chains })
    }

    /// Refuses fields of the listener that aren't honoured.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        nothing_left(&Listener {
            name: String::new(),
            // The HBONE port is a setting of the process.
            address: None,
            additional_addresses: Vec::new(),
            filter_chain_matcher: None,
            use_original_dst: None,
            listener_filters: Vec::new(),
            traffic_direction: 0,
            // Streams are balanced over threads one by one.
            connection_balance_config: None,
            access_log: Vec::new(),
            listener_specifier: None,
            ..self.listener.clone()
        })
    }
}

/// The access logs of the listener itself: connections for which there is no chain.
pub(crate) fn recorders(
    listener: &Listener,
    host: &dyn Host,
    omissions: &Omissions,
) -> Box<[Arc<dyn Recorder>]> {
    let logs = listener.access_log.iter();
    let logs = logs.filter_map(|log| AccessLog::optional(log, host, omissions));
    logs.map(|log| Arc::new(log) as Arc<dyn Recorder>).collect()
}

/// Compiles one chain of `main_internal`.
pub(crate) fn chain(body: &Bytes, context: &ChainContext<'_>) -> Result<FilterChain, Refusal> {
    let proto = whole::decode::<FilterChainProto>(body)?;
    nothing_left(&FilterChainProto {
        name: String::new(),
        filters: Vec::new(),
        ..proto.clone()
    })?;
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
            // Network filters before a connection manager: those of pod chains only carry addresses.
            for (position, filter) in proto.filters.iter().take(count - 1).enumerate() {
                if !filter.name.starts_with("connect_authority") {
                    let refusal = Refusal::unsupported("a network filter before HTTP");
                    return Err(refusal.within(format!("filters[{:?}]", filter.name)));
                }
                network_filter(filter, position, context)?;
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
    let manager = whole::decode::<HttpConnectionManagerProto>(&any.value)
        .map_err(|e| e.within("http_connection_manager"))?;
    HttpConnectionManager::from_proto(&manager, context, terminal)
        .map_err(|e| e.within("http_connection_manager"))
}

/// Compiles `connect_terminate`.
pub(crate) fn connect_terminate(
    raw: &RawListener,
    context: &ChainContext<'_>,
) -> Result<ConnectTerminate, Refusal> {
    let [only] = raw.chains.as_slice() else {
        return Err(Refusal::new("filter_chains", "one chain is expected"));
    };
    let proto =
        whole::decode::<FilterChainProto>(&only.body).map_err(|e| e.within("filter_chains[0]"))?;
    let field = |e: Refusal| e.within("filter_chains[0]");
    nothing_left(&FilterChainProto {
        name: String::new(),
        filters: Vec::new(),
        transport_socket: None,
        ..proto.clone()
    })
    .map_err(field)?;
    if proto.filters.len() != 1 {
        return Err(field(Refusal::unsupported(
            "filters beside the connection manager",
        )));
    }
    let socket = proto
        .transport_socket
        .as_ref()
        .ok_or_else(|| field(Refusal::missing("transport_socket")))?;
    let any = transport_socket::typed(socket).map_err(field)?;
    if any.type_url != TLS {
        return Err(field(Refusal::unsupported(format!(
            "transport_socket {}",
            any.type_url
        ))));
    }
    let tls = whole::decode::<DownstreamTlsContext>(&any.value)
        .map_err(|e| field(e.within("transport_socket")))?;
    if !tls
        .require_client_certificate
        .as_ref()
        .is_some_and(|r| r.value)
    {
        return Err(field(Refusal::new(
            "transport_socket.require_client_certificate",
            "HBONE without a client certificate is not served",
        )));
    }
    let manager = manager(&proto, 0, context, Terminal::Connect).map_err(field)?;
    Ok(ConnectTerminate {
        max_concurrent_streams: manager
            .codec
            .http2_max_concurrent_streams
            .unwrap_or(MAX_CONCURRENT_STREAMS),
        keepalive: manager.codec.http2_keepalive,
        trust_domains: transport_socket::trust_domains(tls.common_tls_context.as_ref()),
        manager: Arc::new(manager),
    })
}

/// On which ports the first bytes are looked at.
#[derive(Clone, Debug)]
pub struct Inspection(Vec<(u16, u16)>, bool);

impl Inspection {
    /// From the listener filters of `main_internal`: `http_inspector` looks, `filter_disabled` says where not.
    pub(crate) fn from_proto(filters: &[ListenerFilter]) -> Result<Inspection, Refusal> {
        let mut inspection = Inspection(Vec::new(), false);
        for filter in filters {
            let field = |e: Refusal| e.within(format!("listener_filters[{:?}]", filter.name));
            let Some(listener_filter::ConfigType::TypedConfig(any)) = &filter.config_type else {
                return Err(field(Refusal::missing("typed_config")));
            };
            match any.type_url.strip_prefix(LISTENER_FILTERS) {
                Some("original_dst.v3.OriginalDst") => {}
                // Server names are read by nothing that is built: policies that ask for one are refused.
                Some("tls_inspector.v3.TlsInspector") => {}
                Some("http_inspector.v3.HttpInspector") => {
                    inspection.1 = true;
                    if let Some(predicate) = &filter.filter_disabled {
                        disabled_ports(predicate, &mut inspection.0)
                            .map_err(|e| field(e.within("filter_disabled")))?;
                    }
                }
                _ => return Err(field(Refusal::unsupported(any.type_url.as_str()))),
            }
        }
        Ok(inspection)
    }

    /// Whether streams to this port are looked at.
    pub fn looks_at(&self, port: u16) -> bool {
        self.1
            && !self
                .0
                .iter()
                .any(|(start, end)| (*start..*end).contains(&port))
    }
}

fn disabled_ports(
    predicate: &ListenerFilterChainMatchPredicate,
    ports: &mut Vec<(u16, u16)>,
) -> Result<(), Refusal> {
    match &predicate.rule {
        Some(Rule::DestinationPortRange(range)) => {
            let port = |value: i32| {
                u16::try_from(value)
                    .map_err(|_| Refusal::new("destination_port_range", "is no port"))
            };
            ports.push((port(range.start)?, port(range.end.min(65535))?));
            Ok(())
        }
        Some(Rule::OrMatch(set)) => set
            .rules
            .iter()
            .try_for_each(|rule| disabled_ports(rule, ports)),
        Some(_) => Err(Refusal::unsupported("rule")),
        None => Err(Refusal::missing("rule")),
    }
}
