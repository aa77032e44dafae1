//! `istio.stats` on TCP chains: a recorder, told of a stream's progress while it is open.

use crate::http::FilterContext;
use crate::http::filter::{Config, Registration};
use crate::network::filter::BuiltNetworkFilter;
use crate::record::istio_stats::{STATS_CONFIG, recorder, reporting_interval};
use crate::xds::coverage::decode_any;
use crate::xds::proto::StatsPluginConfig;
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: Config::Message {
        table: &STATS_CONFIG,
        build: |config, context| build(decode_any(config)?, context),
    },
    per_route: None,
};

fn build(
    config: StatsPluginConfig,
    context: &FilterContext<'_>,
) -> Result<BuiltNetworkFilter, Refusal> {
    Ok(BuiltNetworkFilter {
        reporting_interval: reporting_interval(&config),
        recorder: Some(recorder(config, context.host, context.omissions)?),
        ..BuiltNetworkFilter::default()
    })
}
