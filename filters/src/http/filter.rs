//! What an HTTP filter tells the registry, and what building it takes and gives.

use std::sync::Arc;

use envoy_types::pb::google::protobuf::Any;

use crate::callout::{Callout, CalloutCluster};
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
    use std::net::IpAddr;
    use std::time::Duration;

    use parking_lot::Mutex;

    use super::*;
    use crate::callout::{Answer, CalloutFuture, CalloutLimits, Callouts, Content};
    use crate::host::{LogSink, Terminal};
    use crate::metrics::MetricRegistry;
    use crate::stream::peer::Peer;

    struct Slot(Arc<str>);

    impl CalloutCluster for Slot {
        fn name(&self) -> &Arc<str> {
            &self.0
        }
    }

    /// Answers with what it is sent, and keeps where that was to go.
    #[derive(Default)]
    struct Echo {
        registry: Arc<MetricRegistry>,
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

    impl Host for Echo {
        fn workload(&self, _: IpAddr) -> Option<Arc<Peer>> {
            None
        }

        fn log_sink(&self, _: &str) -> Arc<dyn LogSink> {
            unreachable!("nothing is logged here")
        }

        fn metrics(&self) -> &Arc<MetricRegistry> {
            &self.registry
        }

        fn callouts(&self) -> Arc<dyn Callouts> {
            Arc::new(Echo {
                registry: self.registry.clone(),
                called: self.called.clone(),
            })
        }

        fn terminal(&self, _: Terminal) -> HttpService {
            unreachable!("no chain is built here")
        }
    }

    #[tokio::test]
    async fn a_filter_asks_its_context_for_the_way_to_a_cluster_and_keeps_it() {
        let echo = Echo::default();
        let called = echo.called.clone();
        let host: Arc<dyn Host> = Arc::new(echo);
        let context = FilterContext {
            name: "authz",
            position: 0,
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
