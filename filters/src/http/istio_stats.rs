//! `istio.stats` on HTTP chains: a recorder, nothing on the way of requests.

use std::sync::Arc;

use crate::host::Host;
use crate::http::HttpFilter;
use crate::istio_stats::recorder;
use crate::proto::StatsPluginConfig;
use crate::rejected::Refusal;

pub(super) fn build(
    config: StatsPluginConfig,
    host: &Arc<dyn Host>,
) -> Result<HttpFilter, Refusal> {
    Ok(HttpFilter {
        layer: None,
        recorder: Some(recorder(config, host)?),
    })
}
