//! What building an HTTP filter takes and gives.

use std::sync::Arc;

use crate::host::Host;
use crate::record::recorder::Recorder;
use crate::service::{HttpLayer, HttpService};
use crate::xds::omitted::Omissions;

/// A filter that was built from its configuration.
pub struct HttpFilter {
    /// Folds the filter over the service behind it; `None` where the filter only records.
    pub layer: Option<HttpLayer>,
    /// Writes ended streams down.
    pub recorder: Option<Arc<dyn Recorder>>,
}

impl HttpFilter {
    pub fn layer(
        layer: impl tower::Layer<HttpService, Service = HttpService> + Send + Sync + 'static,
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
