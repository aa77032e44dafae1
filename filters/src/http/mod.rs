//! The registry of HTTP filters: from type URL to layer. One line here and one file beside it per filter.
//!
//! What isn't listed is refused by name while the listener is compiled: it may decide or change traffic. That
//! holds for Wasm of any phase, too, whatever its failure policy says. Only what counts and nothing else may be
//! left out (`omitted.rs`).

mod fault;
mod grpc_stats;
mod istio_stats;
mod peer_metadata;
mod rbac;
mod set_filter_state;

use std::sync::Arc;

use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::google::protobuf::Any;
use prost::Message;

use crate::host::Host;
use crate::omitted::Omissions;
use crate::proto::STATS_PLUGIN_CONFIG;
use crate::recorder::Recorder;
use crate::rejected::Refusal;
use crate::route::PerRouteConfig;
use crate::service::HttpLayer;
use crate::typed_struct;

/// The type that ends a chain; `config` puts the router's service there.
pub const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";
const CORS: &str = "type.googleapis.com/envoy.extensions.filters.http.cors.v3.Cors";

/// A filter that was built from its configuration.
pub struct HttpFilter {
    /// Folds the filter over the service behind it; `None` where the filter only records.
    pub layer: Option<HttpLayer>,
    /// Writes ended streams down.
    pub recorder: Option<Arc<dyn Recorder>>,
}

impl HttpFilter {
    pub fn layer(
        layer: impl tower::Layer<crate::service::HttpService, Service = crate::service::HttpService>
        + Send
        + Sync
        + 'static,
    ) -> HttpFilter {
        HttpFilter {
            layer: Some(Box::new(layer)),
            recorder: None,
        }
    }

    pub fn recorder(recorder: impl Recorder) -> HttpFilter {
        HttpFilter {
            layer: None,
            recorder: Some(Arc::new(recorder)),
        }
    }

    /// A filter that is accepted and has nothing to do.
    pub fn inert() -> HttpFilter {
        HttpFilter {
            layer: None,
            recorder: None,
        }
    }
}

/// Where a filter stands while it is built.
pub struct FilterContext<'a> {
    /// The filter's name in the chain.
    pub name: &'a str,
    /// Its position, the index of its per-route configuration.
    pub position: usize,
    pub host: &'a Arc<dyn Host>,
    /// Takes what of the filter is left out.
    pub omissions: &'a Omissions,
}

/// Builds the filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(config: &Any, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    if let Some((type_url, value)) = typed_struct::unwrap(config)? {
        return match type_url.as_str() {
            peer_metadata::TYPE_URL => peer_metadata::build(&value, context),
            _ => Err(unknown(&type_url)),
        };
    }
    match config.type_url.as_str() {
        rbac::TYPE_URL => rbac::build(decode(config)?, context),
        set_filter_state::TYPE_URL => set_filter_state::build(&decode(config)?),
        grpc_stats::TYPE_URL => Ok(grpc_stats::build(&decode(config)?)),
        fault::TYPE_URL => fault::build(&decode(config)?),
        // The filter's own message has no fields; policies come with routes.
        CORS => Ok(HttpFilter::inert()),
        STATS_PLUGIN_CONFIG => istio_stats::build(decode(config)?, context),
        ROUTER => router(&decode(config)?),
        other => Err(unknown(other)),
    }
}

/// Builds one `typed_per_filter_config` entry; `filter` is the configuration of the filter it is for.
///
/// # Errors
/// As [`build`].
pub fn build_per_route(filter: &Any, config: &Any) -> Result<PerRouteConfig, Refusal> {
    match (filter.type_url.as_str(), config.type_url.as_str()) {
        (rbac::TYPE_URL, rbac::PER_ROUTE) => Ok(Arc::new(rbac::build_per_route(decode(config)?)?)),
        (fault::TYPE_URL, fault::TYPE_URL) => {
            fault::empty(&decode(config)?)?;
            Ok(Arc::new(()))
        }
        (_, other) => Err(unknown(other)),
    }
}

fn router(proto: &Router) -> Result<HttpFilter, Refusal> {
    if !proto.upstream_log.is_empty() {
        return Err(Refusal::unsupported("upstream_log"));
    }
    if !proto.upstream_http_filters.is_empty() {
        return Err(Refusal::unsupported("upstream_http_filters"));
    }
    if !proto.strict_check_headers.is_empty() {
        return Err(Refusal::unsupported("strict_check_headers"));
    }
    if proto.suppress_envoy_headers {
        return Err(Refusal::unsupported("suppress_envoy_headers"));
    }
    Ok(HttpFilter::inert())
}

fn unknown(type_url: &str) -> Refusal {
    Refusal::new(
        "typed_config",
        format!("filter type {type_url} is not built in"),
    )
}

pub(crate) fn decode<M: Message + Default>(any: &Any) -> Result<M, Refusal> {
    crate::whole::decode(&any.value).map_err(|e| e.within("typed_config"))
}
