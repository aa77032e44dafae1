//! The registry of HTTP filters: from type URL to layer. One line here and one file beside it per filter.
//!
//! What isn't listed is refused by name while the listener is compiled.

mod rbac;

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::host::Host;
use crate::recorder::Recorder;
use crate::rejected::Refusal;
use crate::route::PerRouteConfig;
use crate::service::HttpLayer;

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
}

/// Builds the filter that `config` describes.
///
/// # Errors
/// A filter that isn't built into this binary, or whose configuration is invalid.
pub fn build(config: &Any, _context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    Err(Refusal::new(
        "typed_config",
        format!("unknown HTTP filter type {}", config.type_url),
    ))
}

/// Builds one `typed_per_filter_config` entry; `filter` is the configuration of the filter it is for.
///
/// # Errors
/// As [`build`].
pub fn build_per_route(filter: &Any, config: &Any) -> Result<PerRouteConfig, Refusal> {
    let _ = filter;
    Err(Refusal::new(
        "typed_per_filter_config",
        format!("unknown per-route type {}", config.type_url),
    ))
}
