//! `connection_keepalive`: PINGs that find out whether an HTTP/2 peer is still there, of clients and of endpoints.
//!
//! Without an interval none are sent, as with Envoy.

use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use waypoint_filters::xds::coverage::well_known::DURATION;
use waypoint_filters::xds::coverage::{Table, honoured, required};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::duration;

pub(crate) static KEEPALIVE: Table = Table {
    name: "envoy.config.core.v3.KeepaliveSettings",
    fields: &[
        honoured(1, "interval").of(&DURATION),
        honoured(2, "timeout").of(&DURATION),
    ],
    refused: "3 interval_jitter, 4 connection_idle_interval",
    required: &[required("timeout", &[2])],
};

/// How often a PING is sent, and how long its answer may take.
pub(crate) fn keepalive(
    http2: &Http2ProtocolOptions,
) -> Result<Option<(Duration, Duration)>, Refusal> {
    let Some(settings) = &http2.connection_keepalive else {
        return Ok(None);
    };
    let interval = duration::limit(&settings.interval, "connection_keepalive.interval")?;
    let timeout = duration::limit(&settings.timeout, "connection_keepalive.timeout")?;
    Ok(interval.zip(timeout))
}
