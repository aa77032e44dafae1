//! What an HTTP filter tells the registry, and what building it takes and gives.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::host::Host;
use crate::record::recorder::Recorder;
use crate::service::{HttpLayer, HttpService};
use crate::stream::route::PerRouteConfig;
use crate::xds::coverage::Table;
use crate::xds::omitted::Omissions;
use crate::xds::rejected::Refusal;

/// A filter's row in the registry.
pub(super) struct Registration {
    pub(super) config: Config,
    /// What a route may say of it (`typed_per_filter_config`).
    pub(super) per_route: Option<PerRoute>,
}

/// Builds a filter from the message that it is configured by.
pub(super) type Build = fn(&Any, &FilterContext<'_>) -> Result<HttpFilter, Refusal>;

/// How a filter is configured.
pub(super) enum Config {
    /// By a message, whose table it is.
    Message { table: &'static Table, build: Build },
    /// By JSON in a `TypedStruct`; it refuses keys that it doesn't know.
    Json {
        type_url: &'static str,
        build: fn(&serde_json::Value, &FilterContext<'_>) -> Result<HttpFilter, Refusal>,
    },
}

/// What a route says of a filter: a message, whose table it is.
pub(super) struct PerRoute {
    pub(super) table: &'static Table,
    pub(super) build: fn(&Any) -> Result<PerRouteConfig, Refusal>,
}

/// Where configurations of filters stand.
#[derive(Clone, Copy)]
pub(super) enum Place {
    Chain,
    Route,
}

/// Writes the tables of the messages that configure these filters, as far as there is room, and says how many they are.
pub(super) const fn tables(
    filters: &[Registration],
    place: Place,
    room: &mut [&'static Table],
) -> usize {
    let (mut row, mut count) = (0, 0);
    while row < filters.len() {
        let Registration { config, per_route } = &filters[row];
        let table = match (place, config, per_route) {
            (Place::Chain, Config::Message { table, .. }, _) => Some(*table),
            (Place::Route, _, Some(per_route)) => Some(per_route.table),
            _ => None,
        };
        if let Some(table) = table {
            if count < room.len() {
                room[count] = table;
            }
            count += 1;
        }
        row += 1;
    }
    count
}

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
