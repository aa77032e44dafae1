//! `connect_originate` and its two siblings of multi-network traffic: how Envoy opens tunnels.
//!
//! The waypoint opens its own, so nothing of these listeners is compiled. They are held against tables all
//! the same: what isn't istiod's way to open a tunnel (a filter that somebody added) is refused by name.

use waypoint_filters::xds::coverage::{Table, harmless, honoured, required};

const OWN_TUNNELS: &str = "the waypoint opens tunnels by itself";
const OWN_RECORDS: &str = "a tunnel that fails is in the record of the stream that asked for it";

pub static ORIGINATE_CHAIN: Table = Table {
    name: "envoy.config.listener.v3.FilterChain",
    fields: &[
        honoured(3, "filters").named(1).of(&FILTER),
        harmless(7, "name", OWN_TUNNELS),
    ],
    refused: "1 filter_chain_match, 4 use_proxy_proto, 5 metadata, 6 transport_socket, \
              9 transport_socket_connect_timeout",
    required: &[],
};

static FILTER: Table = Table {
    name: "envoy.config.listener.v3.Filter",
    fields: &[
        harmless(1, "name", OWN_TUNNELS),
        honoured(4, "typed_config").any(&[&[&TCP_PROXY, &SET_FILTER_STATE]]),
    ],
    refused: "5 config_discovery",
    required: &[required("typed_config", &[4])],
};

static TCP_PROXY: Table = Table {
    name: "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
    fields: &[
        harmless(1, "stat_prefix", OWN_TUNNELS),
        harmless(2, "cluster", OWN_TUNNELS),
        harmless(5, "access_log", OWN_RECORDS).list(),
        harmless(12, "tunneling_config", OWN_TUNNELS),
    ],
    refused: "3 downstream_idle_timeout, 4 upstream_idle_timeout, 7 max_connect_attempts, \
              8 idle_timeout, 9 metadata_match, 10 weighted_clusters, 11 hash_policy, \
              13 max_downstream_connection_duration, 14 on_demand, 15 access_log_flush_interval, \
              16 flush_access_log_on_connected, 17 access_log_options, 18 backoff_options, \
              19 proxy_protocol_tlvs, 20 max_downstream_connection_duration_jitter_percentage, \
              21 upstream_connect_mode, 22 max_early_data_bytes, \
              23 proxy_protocol_tlv_merge_policy, 24 check_drain_close",
    required: &[],
};

static SET_FILTER_STATE: Table = Table {
    name: "envoy.extensions.filters.network.set_filter_state.v3.Config",
    fields: &[harmless(1, "on_new_connection", OWN_TUNNELS).list()],
    refused: "2 on_downstream_tls_handshake, 3 on_downstream_data",
    required: &[],
};
