//! What a filter tells its registry, and what building it takes and gives. Network filters have rows of the same shape.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::callout::{Callout, CalloutCluster};
use crate::host::Host;
use crate::security::rbac::tally::TalliedRules;
use crate::service::{HttpLayer, HttpService};
use crate::stream::recorder::Recorder;
use crate::stream::route::PerRouteConfig;
use crate::xds::coverage::Table;
use crate::xds::omitted::Omissions;
use crate::xds::rejected::Refusal;
use crate::xds::typed_struct;

/// A filter's row in the registry, where filters are built as `F`.
pub(crate) struct Registration<F: 'static = HttpFilter> {
    pub(crate) config: Config<F>,
    /// What a route may say of it (`typed_per_filter_config`).
    pub(crate) per_route: Option<PerRoute>,
}

/// Builds a filter from the message that it is configured by.
type Build<F> = fn(&Any, &FilterContext<'_>) -> Result<F, Refusal>;

/// How a filter is configured.
pub(crate) enum Config<F: 'static = HttpFilter> {
    /// By a message, whose table it is.
    Message {
        table: &'static Table,
        build: Build<F>,
    },
    /// By JSON in a `TypedStruct`; it refuses keys that it doesn't know.
    Json {
        type_url: &'static str,
        build: fn(&serde_json::Value, &FilterContext<'_>) -> Result<F, Refusal>,
    },
}

/// What a route says of a filter: a message, whose table it is.
pub(crate) struct PerRoute {
    pub(crate) table: &'static Table,
    pub(crate) build: fn(&Any) -> Result<PerRouteConfig, Refusal>,
}

/// Where configurations of filters stand.
#[derive(Clone, Copy)]
pub(crate) enum Place {
    Chain,
    Route,
}

/// Writes the tables of the messages that configure these filters, as far as there is room, and says how many they are.
pub(crate) const fn tables<F>(
    filters: &[Registration<F>],
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

/// Builds the filter of these that `config` describes.
pub(crate) fn build<F>(
    filters: &[Registration<F>],
    config: &Any,
    context: &FilterContext<'_>,
) -> Result<F, Refusal> {
    if let Some((inner, value)) = typed_struct::unwrap(config)? {
        let build = filters.iter().find_map(|filter| match filter.config {
            Config::Json { type_url, build } if type_url == inner => Some(build),
            _ => None,
        });
        return build.ok_or_else(|| unknown(&inner))?(&value, context);
    }
    match configured_by(filters, config) {
        Some((_, build)) => build(config, context),
        None => Err(unknown(&config.type_url)),
    }
}

/// Builds what a route says of one of these filters; `filter` is that filter's own configuration.
pub(super) fn build_per_route<F>(
    filters: &[Registration<F>],
    filter: &Any,
    config: &Any,
) -> Result<PerRouteConfig, Refusal> {
    let per_route = configured_by(filters, filter).and_then(|(row, _)| row.per_route.as_ref());
    match per_route.filter(|per_route| per_route.table.has_type_url(&config.type_url)) {
        Some(per_route) => (per_route.build)(config),
        None => Err(unknown(&config.type_url)),
    }
}

/// The filter whose configuration is a message of this type.
fn configured_by<'r, F>(
    filters: &'r [Registration<F>],
    config: &Any,
) -> Option<(&'r Registration<F>, Build<F>)> {
    filters.iter().find_map(|row| match row.config {
        Config::Message { table, build } if table.has_type_url(&config.type_url) => {
            Some((row, build))
        }
        _ => None,
    })
}

fn unknown(type_url: &str) -> Refusal {
    Refusal::new(
        "typed_config",
        format!("filter type {type_url} is not built in"),
    )
}

/// A filter that was built from its configuration.
pub struct HttpFilter {
    /// Folds the filter over the service behind it; `None` where the filter only records.
    pub layer: Option<HttpLayer>,
    /// Writes ended streams down.
    pub recorder: Option<Arc<dyn Recorder>>,
    /// Its rules of access, with their numbers.
    pub tallied: Vec<TalliedRules>,
}

impl HttpFilter {
    pub fn layer(
        layer: impl tower::Layer<HttpService, Service = HttpService> + Send + Sync + 'static,
    ) -> HttpFilter {
        HttpFilter {
            layer: Some(Box::new(layer)),
            ..HttpFilter::inert()
        }
    }

    pub fn recorder(recorder: impl Recorder) -> HttpFilter {
        HttpFilter {
            recorder: Some(Arc::new(recorder)),
            ..HttpFilter::inert()
        }
    }

    /// A filter that is accepted and has nothing to do.
    pub fn inert() -> HttpFilter {
        HttpFilter {
            layer: None,
            recorder: None,
            tallied: Vec::new(),
        }
    }
}

/// Where a filter stands while it is built.
pub struct FilterContext<'a> {
    /// The filter's name in the chain.
    pub name: &'a str,
    /// Its position, the index of its per-route configuration.
    pub position: usize,
    /// What the connection manager's counters are called after; of network filters and extensions nothing is.
    pub stat_prefix: &'a str,
    pub host: &'a Arc<dyn Host>,
    /// The place of the cluster with this name, whether there is one or not.
    pub clusters: &'a dyn Fn(&str) -> Arc<dyn CalloutCluster>,
    /// Takes what of the filter is left out.
    pub omissions: &'a Omissions,
}

impl FilterContext<'_> {
    /// The way to the cluster with this name. Clusters and chains come in any order, so it may not be there yet: callouts
    /// fail until it is, with an error that names it.
    pub fn cluster(&self, name: &str) -> Callout {
        Callout::new((self.clusters)(name), self.host.callouts())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::callout::{Answer, CalloutFuture, CalloutLimits, Callouts, Content};
    use crate::host::detached::DetachedHost;

    struct Slot(Arc<str>);

    impl CalloutCluster for Slot {
        fn name(&self) -> &Arc<str> {
            &self.0
        }
    }

    /// Answers with what it is sent, and keeps where that was to go.
    #[derive(Default)]
    struct Echo {
        called: Arc<Mutex<Vec<Arc<str>>>>,
    }

    impl Callouts for Echo {
        fn call(
            &self,
            cluster: Arc<dyn CalloutCluster>,
            request: http::Request<Content>,
            _limits: CalloutLimits,
        ) -> CalloutFuture {
            self.called.lock().push(cluster.name().clone());
            let response = http::Response::new(request.into_body());
            Box::pin(std::future::ready(Ok(response)))
        }
    }

    #[tokio::test]
    async fn a_filter_asks_its_context_for_the_way_to_a_cluster_and_keeps_it() {
        let echo = Echo::default();
        let called = echo.called.clone();
        let host = DetachedHost::default().with_callouts(Arc::new(echo));
        let host: Arc<dyn Host> = Arc::new(host);
        let context = FilterContext {
            name: "authz",
            position: 0,
            stat_prefix: "",
            host: &host,
            clusters: &|name| Arc::new(Slot(name.into())),
            omissions: &Omissions::default(),
        };
        let callout = context.cluster("outbound|9000||authz");
        let limits = CalloutLimits {
            time: Duration::from_secs(1),
            answer: Answer::Kept { most: 1024 },
        };
        let content = Content {
            data: "may they?".into(),
            trailers: None,
        };
        let answer = callout.call(http::Request::new(content.clone()), limits);
        assert_eq!(answer.await.unwrap().into_body(), content);
        assert_eq!(**called.lock(), ["outbound|9000||authz".into()]);
        assert!(format!("{callout:?}").contains("outbound|9000||authz"));
    }
}
