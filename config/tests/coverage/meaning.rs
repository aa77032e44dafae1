//! Mutations of what is honoured: another value must compile to something else, or be refused. Otherwise the
//! conversion doesn't read what its table says it reads.
//!
//! Compared is what models print of themselves. A chain's HTTP filters and access logs are folded into
//! services and sinks, which print nothing: policies and logs are compiled by themselves; the other HTTP
//! filters' settings (`set_filter_state`, `istio.stats`, `peer_metadata`, and what routes say of `cors` and `fault`) aren't reached
//! from here.

use std::collections::BTreeSet;
use std::sync::Arc;

use envoy_types::pb::envoy::config::accesslog::v3::AccessLog as AccessLogProto;
use envoy_types::pb::envoy::config::rbac::v3::Rbac;
use prost::Message as _;
use prost_reflect::{EnumDescriptor, FieldDescriptor, Kind};
use waypoint_filters::callout::CalloutCluster;
use waypoint_filters::record::access_log::{ACCESS_LOG, AccessLog, LogContext};
use waypoint_filters::security::rbac::engine::{Engine, RBAC};
use waypoint_filters::xds::coverage::{Shape, Status, check};

use crate::pieces::{Piece, pieces};
use crate::process;
use crate::refusal::pool_message;
use crate::sites::{Site, honoured_part, sites};
use crate::wire;

/// Fields whose other values leave no trace in a model, and why.
const WITHOUT_TRACE: &[&str] = &[
    // Without thresholds there is no limit, as istiod's say.
    "envoy.config.cluster.v3.CircuitBreakers.thresholds",
    "envoy.config.cluster.v3.Cluster.circuit_breakers",
    // What istiod says is what they are by default.
    "envoy.config.cluster.v3.Cluster.MaglevLbConfig.table_size",
    "envoy.config.cluster.v3.Cluster.RingHashLbConfig.minimum_ring_size",
    "envoy.config.cluster.v3.Cluster.SlowStartConfig.min_weight_percent",
    "envoy.config.cluster.v3.OutlierDetection.consecutive_5xx",
    "envoy.config.cluster.v3.OutlierDetection.enforcing_consecutive_5xx",
    "envoy.config.cluster.v3.OutlierDetection.enforcing_consecutive_local_origin_failure",
    // Without it the assignment has the cluster's name, as istiod's have.
    "envoy.config.cluster.v3.Cluster.eds_cluster_config",
    // What recorded clusters with names have anyway.
    "envoy.config.cluster.v3.Cluster.dns_lookup_family V4_ONLY",
    // Nothing that it may say changes anything.
    "envoy.config.cluster.v3.Cluster.typed_dns_resolver_config",
    // Looked at when the extension comes.
    "envoy.config.core.v3.ExtensionConfigSource.type_urls",
    // These two mean the same.
    "envoy.config.endpoint.v3.LbEndpoint.health_status HEALTHY",
    "envoy.config.endpoint.v3.LbEndpoint.health_status UNKNOWN",
    // 1, which it also is if it isn't set.
    "envoy.config.endpoint.v3.LbEndpoint.load_balancing_weight",
    // Names the filter in refusals, and for what routes say of it.
    "envoy.config.listener.v3.Filter.name",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpFilter.name",
    // A label of its counters, which are no part of a model.
    // Says that something may be, which is refused otherwise.
    "envoy.extensions.clusters.dynamic_forward_proxy.v3.ClusterConfig.allow_insecure_cluster_options",
    "envoy.extensions.filters.network.ext_authz.v3.ExtAuthz.stat_prefix",
    // CONNECT is routed by the waypoint; other upgrades are refused here.
    "envoy.config.route.v3.RouteAction.UpgradeConfig.connect_config",
    "envoy.config.route.v3.RouteAction.upgrade_configs",
    // Recorded secrets are all the agent's, whose names say where they are.
    "envoy.extensions.transport_sockets.tls.v3.SdsSecretConfig.sds_config",
    // A bound that no recorded body reaches.
    "envoy.config.route.v3.RouteConfiguration.max_direct_response_body_size_bytes",
    // Only bodies of local replies have one; lines of logs don't.
    "envoy.config.core.v3.SubstitutionFormatString.content_type",
    // Where the sink writes.
    "envoy.extensions.access_loggers.file.v3.FileAccessLog.path",
    // These two mean the same.
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.path_with_escaped_slashes_action IMPLEMENTATION_SPECIFIC_DEFAULT",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.path_with_escaped_slashes_action KEEP_UNCHANGED",
    // A connection inside a tunnel has no certificate: these mean the same.
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.forward_client_cert_details APPEND_FORWARD",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.forward_client_cert_details FORWARD_ONLY",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.forward_client_cert_details SANITIZE",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.forward_client_cert_details SANITIZE_SET",
    // What istiod says is what they are by default.
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing.client_sampling",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.Tracing.overall_sampling",
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.use_remote_address",
    // Only where addresses of connections count, which istiod doesn't say.
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.preserve_external_request_id",
    "envoy.extensions.request_id.uuid.v3.UuidRequestIdConfig.use_request_id_for_trace_sampling",
    // No such variable is set here.
    "envoy.type.tracing.v3.CustomTag.Environment.name",
    // Only one value is not refused.
    "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager.request_id_extension",
    "envoy.extensions.transport_sockets.tls.v3.CommonTlsContext.tls_params",
    "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_maximum_protocol_version TLS_AUTO",
    "envoy.extensions.transport_sockets.tls.v3.TlsParameters.tls_minimum_protocol_version TLS_AUTO",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig.http2_protocol_options",
    "envoy.extensions.upstreams.http.v3.HttpProtocolOptions.UseDownstreamHttpConfig.http_protocol_options",
];

/// What a message compiles to; `None`: it is refused.
type Compile<'a> = dyn Fn(&[u8]) -> Option<Vec<String>> + 'a;

/// Which changes made a difference somewhere, and which were tried: fields, and values of enums.
#[derive(Default)]
struct Changes {
    tried: BTreeSet<String>,
    noticed: BTreeSet<String>,
    done: BTreeSet<(String, usize)>,
}

#[test]
fn another_value_means_something_else_or_is_refused() {
    let mut changes = Changes::default();
    for piece in accepted() {
        let compile = |bytes: &[u8]| {
            let applied = piece.apply(bytes);
            applied.rejected.is_empty().then(|| applied.model(&piece))
        };
        for site in sites(piece.table, &piece.bytes) {
            if site.is_first_of(&RBAC) {
                policies(&site, &mut changes);
            }
            if site.is_first_of(&ACCESS_LOG) {
                logs(&site, &mut changes);
            }
            let mut filters = waypoint_filters::http::TABLES.iter();
            let mut of_routes = waypoint_filters::http::PER_ROUTE_TABLES.iter();
            let is_folded = filters.any(|t| site.is_within(t))
                || of_routes.any(|t| site.is_within(t))
                || site.is_within(&ACCESS_LOG);
            if !is_folded && !piece.role().ends_with("connect_originate") {
                changes.try_all(&piece.bytes, &site, piece.role(), &compile);
            }
        }
    }
    assert!(changes.noticed.len() > 150, "{}", changes.noticed.len());
    let silent = changes
        .tried
        .difference(&changes.noticed)
        .map(String::as_str);
    assert_eq!(
        silent.collect::<BTreeSet<_>>(),
        WITHOUT_TRACE.iter().copied().collect()
    );
}

fn accepted() -> impl Iterator<Item = Piece> {
    pieces().into_iter().filter_map(|mut piece| {
        piece.bytes = honoured_part(piece.table, &piece.bytes)?;
        let is_accepted = piece.apply(&piece.bytes).rejected.is_empty();
        is_accepted.then_some(piece)
    })
}

fn policies(site: &Site, changes: &mut Changes) {
    let compile = |bytes: &[u8]| {
        check(bytes, &RBAC).ok()?;
        let engine = Engine::from_proto(&Rbac::decode(bytes).unwrap()).ok()?;
        Some(lines(&format!("{engine:#?}")))
    };
    for inner in sites(&RBAC, &site.bytes) {
        changes.try_all(&site.bytes, &inner, "policies", &compile);
    }
}

/// A cluster's place, whatever is there.
struct Slot(Arc<str>);

impl CalloutCluster for Slot {
    fn name(&self) -> &Arc<str> {
        &self.0
    }
}

fn logs(site: &Site, changes: &mut Changes) {
    let host = process::host();
    let compile = |bytes: &[u8]| {
        check(bytes, &ACCESS_LOG).ok()?;
        let proto = AccessLogProto::decode(bytes).unwrap();
        let context = LogContext {
            host: &*host,
            clusters: &|name| Arc::new(Slot(name.into())),
        };
        let log = AccessLog::from_proto(&proto, &context).ok()?;
        Some(lines(&format!("{log:#?}")))
    };
    if compile(&site.bytes).is_none() {
        return;
    }
    for inner in sites(&ACCESS_LOG, &site.bytes) {
        changes.try_all(&site.bytes, &inner, "logs", &compile);
    }
}

fn lines(text: &str) -> Vec<String> {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    lines.sort();
    lines
}

impl Changes {
    fn try_all(&mut self, outermost: &[u8], site: &Site, role: &str, compile: &Compile<'_>) {
        // A few messages of each type: what one says may hide what is changed in it.
        let id = std::ptr::from_ref(site.table) as usize;
        let new = (0..3).any(|nth| self.done.insert((format!("{role} {nth}"), id)));
        let Some(before) = new.then(|| compile(outermost)).flatten() else {
            return;
        };
        for (what, changed) in changes(site) {
            let bytes = wire::edit(outermost, &site.path, &|_| changed.clone());
            let what = format!("{}.{what}", site.table.name);
            if compile(&bytes).as_ref() != Some(&before) {
                self.noticed.insert(what.clone());
            }
            self.tried.insert(what);
        }
    }
}

/// For each honoured field what is changed (with enums, to which value), and the message after it.
fn changes(site: &Site) -> Vec<(String, Vec<u8>)> {
    let message = pool_message(site.table);
    let mut all = Vec::new();
    let values = wire::fields(&site.bytes);
    for field in site.table.fields {
        if field.status != Status::Honoured {
            continue;
        }
        let descriptor = message.get_field(field.number).unwrap();
        let present = values.iter().rfind(|raw| raw.number == field.number);
        let rest = wire::without(&site.bytes, &[field.number]);
        let kind = descriptor.kind();
        let is_whole = field.shape != Shape::One || kind.as_message().is_some();
        if is_whole && present.is_some() {
            all.push((field.name.to_owned(), rest));
        } else if !is_whole {
            for (what, value) in others(&descriptor, &kind, present) {
                let what = format!("{}{what}", field.name);
                all.push((what, [rest.clone(), value].concat()));
            }
        }
    }
    all
}

/// Other values than the present one, as fields.
fn others(
    field: &FieldDescriptor,
    kind: &Kind,
    present: Option<&wire::RawField<'_>>,
) -> Vec<(String, Vec<u8>)> {
    let number = field.number();
    let now = present.map_or(0, |raw| raw.varint);
    let one = |field: Vec<u8>| vec![(String::new(), field)];
    match kind {
        Kind::Bool => one(wire::varint(number, u64::from(now == 0))),
        Kind::Enum(values) => other_values(values, now)
            .map(|(name, value)| (format!(" {name}"), wire::varint(number, value)))
            .collect(),
        Kind::String | Kind::Bytes => {
            let text = present.and_then(|raw| raw.content).unwrap_or_default();
            one(wire::with_length(number, &[text, b"x"].concat()))
        }
        Kind::Double => {
            let mut out = Vec::new();
            prost::encoding::double::encode(number, &17.5, &mut out);
            one(out)
        }
        _ => one(wire::varint(number, now + 1)),
    }
}

fn other_values(values: &EnumDescriptor, now: u64) -> impl Iterator<Item = (String, u64)> {
    let all = values.values();
    let all: Vec<_> = all
        .map(|value| (value.name().to_owned(), value.number() as u64))
        .collect();
    all.into_iter().filter(move |(_, value)| *value != now)
}
