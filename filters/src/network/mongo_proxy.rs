//! `envoy.filters.network.mongo_proxy`: istiod puts it before the bytes of ports that are called `mongo`.
//!
//! It counts commands. That isn't built and is left out; what else it can be told (delays, an access log of
//! its own) is refused.

use crate::http::FilterContext;
use crate::http::filter::{Config, Registration};
use crate::network::filter::BuiltNetworkFilter;
use crate::xds::coverage::harmless;
use crate::xds::coverage::{OWN_COUNTERS, Table};
use crate::xds::omitted::OmittedKind;
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |_, context| Ok(build(context)),
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.network.mongo_proxy.v3.MongoProxy",
    fields: &[
        harmless(1, "stat_prefix", OWN_COUNTERS),
        harmless(5, "commands", OWN_COUNTERS).list(),
    ],
    refused: "2 access_log, 3 delay, 4 emit_dynamic_metadata, 6 max_bson_depth",
    required: &[],
};

fn build(context: &FilterContext<'_>) -> BuiltNetworkFilter {
    let reason = "commands are not counted";
    context.omissions.add(
        OmittedKind::Statistics,
        Refusal::new(format!("filters[{:?}]", context.name), reason),
    );
    BuiltNetworkFilter::default()
}
