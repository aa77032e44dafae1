//! How long a silent connection to an endpoint is taken to be there.

use std::time::Duration;

use envoy_types::pb::envoy::config::cluster::v3::Cluster as ClusterProto;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, honoured};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TcpKeepalive {
    pub probes: Option<u32>,
    pub time: Option<Duration>,
    pub interval: Option<Duration>,
}

pub(crate) static CONNECTION_OPTIONS: Table = Table {
    name: "envoy.config.cluster.v3.UpstreamConnectionOptions",
    fields: &[honoured(1, "tcp_keepalive").of(&TCP_KEEPALIVE)],
    refused: "2 set_local_interface_name_on_upstream_connections, 3 happy_eyeballs_config",
    required: &[],
};

static TCP_KEEPALIVE: Table = Table {
    name: "envoy.config.core.v3.TcpKeepalive",
    fields: &[
        honoured(1, "keepalive_probes").of(&UINT32_VALUE),
        honoured(2, "keepalive_time").of(&UINT32_VALUE),
        honoured(3, "keepalive_interval").of(&UINT32_VALUE),
    ],
    refused: "",
    required: &[],
};

impl TcpKeepalive {
    pub(crate) fn from_proto(proto: &ClusterProto) -> Option<TcpKeepalive> {
        let options = proto.upstream_connection_options.as_ref()?;
        let keepalive = options.tcp_keepalive.as_ref()?;
        let seconds = |value: u32| Duration::from_secs(u64::from(value));
        Some(TcpKeepalive {
            probes: keepalive.keepalive_probes.as_ref().map(|v| v.value),
            time: keepalive.keepalive_time.as_ref().map(|v| seconds(v.value)),
            interval: keepalive
                .keepalive_interval
                .as_ref()
                .map(|v| seconds(v.value)),
        })
    }
}
