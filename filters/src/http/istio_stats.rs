//! `istio.stats` on HTTP chains: a recorder, nothing on the way of requests.

use crate::http::{FilterContext, HttpFilter};
use crate::record::istio_stats::recorder;
use crate::xds::proto::StatsPluginConfig;
use crate::xds::rejected::Refusal;

pub(super) fn build(
    config: StatsPluginConfig,
    context: &FilterContext<'_>,
) -> Result<HttpFilter, Refusal> {
    Ok(HttpFilter {
        layer: None,
        recorder: Some(recorder(config, context.host, context.omissions)?),
    })
}
