//! `istio.stats` on HTTP chains: a recorder, nothing on the way of requests.

use crate::http::filter::{Config, Registration};
use crate::http::{FilterContext, HttpFilter};
use crate::record::istio_stats::{STATS_CONFIG, recorder};
use crate::xds::coverage::decode_any;
use crate::xds::proto::StatsPluginConfig;
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &STATS_CONFIG,
        build: |config, context| build(decode_any(config)?, context),
    },
    per_route: None,
};

fn build(config: StatsPluginConfig, context: &FilterContext<'_>) -> Result<HttpFilter, Refusal> {
    Ok(HttpFilter {
        recorder: Some(recorder(config, context.host, context.omissions)?),
        ..HttpFilter::inert()
    })
}
