//! TCP filter chains: network filters, then `tcp_proxy` to one cluster or several by weight.

use std::sync::Arc;
use std::time::Duration;

use envoy_types::pb::envoy::config::listener::v3::{Filter, filter};
use envoy_types::pb::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy as TcpProxyProto, tcp_proxy,
};
use envoy_types::pb::google::protobuf::Any;
use waypoint_filters::http::FilterContext;
use waypoint_filters::network::{BuiltNetworkFilter, NameUse, NetworkFilter};
use waypoint_filters::record::access_log::{ACCESS_LOG, AccessLog, LogContext};
use waypoint_filters::security::rbac::tally::TalliedRules;
use waypoint_filters::stream::recorder::Recorder;
use waypoint_filters::stream::stream_info::Capture;
use waypoint_filters::xds::coverage::well_known::{DURATION, UINT32_VALUE};
use waypoint_filters::xds::coverage::{
    OWN_COUNTERS, Table, decode_any, harmless, honoured, required,
};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::cluster::slot::ClusterSlot;
use crate::model::duration;
use crate::model::http::connection_manager::ChainContext;
use crate::model::weighted::Weighted;

const TYPE_URL: &str = "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
/// Envoy's default.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3600);
/// istio.stats' default.
const REPORTING_INTERVAL: Duration = Duration::from_secs(5);

/// A chain that carries bytes.
#[derive(Debug)]
pub struct TcpChain {
    pub filters: Box<[Box<dyn NetworkFilter>]>,
    /// What filters do with the server name that the client asks for.
    pub server_name: NameUse,
    pub recorders: Box<[Arc<dyn Recorder>]>,
    /// Rules of access, with their numbers, in the order in which they are asked.
    pub tallied: Box<[TalliedRules]>,
    /// What recorders want to know besides.
    pub capture: Capture,
    pub proxy: TcpProxy,
    /// How often open streams report their bytes (`tcp_reporting_duration`).
    pub reporting_interval: Duration,
}

/// A compiled `envoy.filters.network.tcp_proxy`.
#[derive(Debug)]
pub struct TcpProxy {
    /// One for a plain cluster.
    pub clusters: Weighted<Arc<ClusterSlot>>,
    /// `None`: no limit. Envoy's default is one hour.
    pub idle_timeout: Option<Duration>,
    pub max_connect_attempts: u32,
    /// Whether clusters that balance by hashes do so by the client's address.
    pub hash_source_ip: bool,
}

pub(crate) static TCP_PROXY: Table = Table {
    name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    fields: &[
        harmless(1, "stat_prefix", OWN_COUNTERS),
        honoured(2, "cluster"),
        honoured(5, "access_log").named(1).of(&ACCESS_LOG),
        honoured(7, "max_connect_attempts").of(&UINT32_VALUE),
        honoured(8, "idle_timeout").of(&DURATION),
        honoured(10, "weighted_clusters").of(&WEIGHTED_CLUSTERS),
        honoured(11, "hash_policy").list().of(&HASH_POLICY),
    ],
    refused: "3 downstream_idle_timeout, 4 upstream_idle_timeout, 9 metadata_match, \
              12 tunneling_config, 13 max_downstream_connection_duration, 14 on_demand, \
              15 access_log_flush_interval, 16 flush_access_log_on_connected, \
              17 access_log_options, 18 backoff_options, 19 proxy_protocol_tlvs, \
              20 max_downstream_connection_duration_jitter_percentage, 21 upstream_connect_mode, \
              22 max_early_data_bytes, 23 proxy_protocol_tlv_merge_policy, 24 check_drain_close",
    required: &[required("cluster_specifier", &[2, 10])],
};

static HASH_POLICY: Table = Table {
    name: "envoy.type.v3.HashPolicy",
    fields: &[honoured(1, "source_ip").of(&SOURCE_IP)],
    refused: "2 filter_state",
    required: &[required("policy_specifier", &[1])],
};

static SOURCE_IP: Table = Table {
    name: "envoy.type.v3.HashPolicy.SourceIp",
    fields: &[],
    refused: "",
    required: &[],
};

static WEIGHTED_CLUSTERS: Table = Table {
    name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster",
    fields: &[honoured(1, "clusters").list().of(&CLUSTER_WEIGHT)],
    refused: "",
    required: &[required("clusters", &[1])],
};

static CLUSTER_WEIGHT: Table = Table {
    name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy.WeightedCluster.ClusterWeight",
    fields: &[honoured(1, "name"), honoured(2, "weight")],
    refused: "3 metadata_match",
    required: &[required("name", &[1])],
};

impl TcpChain {
    pub(crate) fn from_proto(
        filters: &[Filter],
        context: &ChainContext<'_>,
    ) -> Result<TcpChain, Refusal> {
        let Some((last, before)) = filters.split_last() else {
            return Err(Refusal::missing("filters"));
        };
        let mut built = Vec::new();
        let mut recorders = Vec::new();
        let mut tallied = Vec::new();
        let mut reporting_interval = REPORTING_INTERVAL;
        let mut server_name = NameUse::default();
        for (position, network) in before.iter().enumerate() {
            let filter = network_filter(network, position, context)?;
            server_name = server_name.max(filter.server_name);
            built.extend(filter.filter);
            recorders.extend(filter.recorder);
            tallied.extend(filter.tallied);
            reporting_interval = filter.reporting_interval.unwrap_or(reporting_interval);
        }
        let field = |e: Refusal| e.within(format!("filters[{:?}]", last.name));
        let config = typed(last, context).map_err(field)?;
        if config.type_url != TYPE_URL {
            return Err(field(Refusal::unsupported(format!(
                "typed_config {}",
                config.type_url
            ))));
        }
        let proto: TcpProxyProto = decode_any(config).map_err(field)?;
        let logs = LogContext {
            host: &**context.host,
            clusters: &|name| (context.slot)(name),
        };
        for log in &proto.access_log {
            if let Some(log) = AccessLog::optional(log, &logs, context.omissions) {
                recorders.push(Arc::new(log));
            }
        }
        recorders.extend(context.host.witness());
        let mut capture = Capture::default();
        for recorder in &recorders {
            capture.merge(&recorder.capture());
        }
        Ok(TcpChain {
            filters: built.into(),
            capture,
            server_name,
            recorders: recorders.into(),
            tallied: tallied.into(),
            proxy: TcpProxy::from_proto(&proto, context).map_err(field)?,
            reporting_interval,
        })
    }
}

/// Builds the network filter at `position` of a chain.
fn network_filter(
    filter: &Filter,
    position: usize,
    context: &ChainContext<'_>,
) -> Result<BuiltNetworkFilter, Refusal> {
    let filter_context = FilterContext {
        name: &filter.name,
        position,
        stat_prefix: "",
        host: context.host,
        clusters: &|name| (context.slot)(name),
        omissions: context.omissions,
    };
    typed(filter, context)
        .and_then(|config| waypoint_filters::network::build(config, &filter_context))
        .map_err(|e| e.within(format!("filters[{:?}]", filter.name)))
}

/// A network filter's configuration, its own or the one that comes by its name.
pub(crate) fn typed<'a>(
    filter: &'a Filter,
    context: &ChainContext<'a>,
) -> Result<&'a Any, Refusal> {
    match &filter.config_type {
        Some(filter::ConfigType::TypedConfig(any)) => Ok(any),
        Some(filter::ConfigType::ConfigDiscovery(source)) => {
            context.lookup.extension(&filter.name, source)
        }
        None => Err(Refusal::missing("typed_config")),
    }
}

impl TcpProxy {
    fn from_proto(proto: &TcpProxyProto, context: &ChainContext<'_>) -> Result<TcpProxy, Refusal> {
        let clusters = match &proto.cluster_specifier {
            None => return Err(Refusal::missing("cluster_specifier")),
            Some(tcp_proxy::ClusterSpecifier::Cluster(name)) => {
                vec![(1, (context.slot)(name))]
            }
            Some(tcp_proxy::ClusterSpecifier::WeightedClusters(weighted)) => weighted
                .clusters
                .iter()
                .map(|cluster| (cluster.weight, (context.slot)(&cluster.name)))
                .collect(),
        };
        Ok(TcpProxy {
            clusters: Weighted::new(clusters)
                .ok_or_else(|| Refusal::new("weighted_clusters", "no cluster has a weight"))?,
            idle_timeout: match duration::optional(&proto.idle_timeout, "idle_timeout")? {
                None => Some(IDLE_TIMEOUT),
                limit => limit.filter(|limit| !limit.is_zero()),
            },
            max_connect_attempts: proto.max_connect_attempts.as_ref().map_or(1, |n| n.value),
            // The only policy that isn't refused.
            hash_source_ip: !proto.hash_policy.is_empty(),
        })
    }
}
