//! `istio.stats` on HTTP chains: a recorder, nothing on the way of requests.

use crate::http::{FilterContext, HttpFilter};
use crate::istio_stats::recorder;
use crate::proto::StatsPluginConfig;
use crate::rejected::Refusal;

pub(super) fn build(
    config: StatsPluginConfig,
    context: &FilterContext<'_>,
) -> Result<HttpFilter, Refusal> {
    Ok(HttpFilter {
        layer: None,
        recorder: Some(recorder(config, context.host, context.omissions)?),
    })
}
