//! `envoy.filters.network.set_filter_state`: objects in filter state from each new connection.
//!
//! On a waypoint's workload chains it re-shares the connection's own destination with the upstream; the
//! router takes it from the connection here, so evaluating it once is all there is to do.

use std::sync::Arc;
use std::time::Instant;

use envoy_types::pb::envoy::extensions::filters::common::set_filter_state::v3::{
    FilterStateValue as FilterStateValueProto, filter_state_value::Key,
};
use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config;
use envoy_types::pb::google::protobuf::Any;

use crate::format::FormatContext;
use crate::format::filter_state_value::{FILTER_STATE_VALUE, FilterStateValue};
use crate::http::filter::{self as registry, Registration};
use crate::network::filter::{BuiltNetworkFilter, Decision, NetworkFilter, Verdict};
use crate::stream::filter_state::ORIGINAL_DST_LOCAL;
use crate::stream::stream_info::StreamInfo;
use crate::xds::coverage::Table;
use crate::xds::coverage::decode_any;
use crate::xds::coverage::honoured;
use crate::xds::rejected::Refusal;

pub(super) const FILTER: Registration<BuiltNetworkFilter> = Registration {
    config: registry::Config::Message {
        table: &CONFIG,
        build: |config, _| build(&decode_any(config)?),
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.network.set_filter_state.v3.Config",
    fields: &[honoured(1, "on_new_connection")
        .list()
        .of(&FILTER_STATE_VALUE)],
    refused: "2 on_downstream_tls_handshake, 3 on_downstream_data",
    required: &[],
};

#[derive(Debug)]
struct SetFilterState(Box<[FilterStateValue]>);

fn build(proto: &Config) -> Result<BuiltNetworkFilter, Refusal> {
    let values = proto
        .on_new_connection
        .iter()
        .enumerate()
        .map(|(i, value)| {
            FilterStateValue::from_proto(value)
                .map_err(|e| e.within(format!("on_new_connection[{i}]")))
        })
        .collect::<Result<_, _>>()?;
    Ok(BuiltNetworkFilter {
        filter: Some(Box::new(SetFilterState(values))),
        ..BuiltNetworkFilter::default()
    })
}

/// Whether `config` does nothing but share the connection's own destination with the upstream.
pub fn only_shares_destination(config: &Any) -> bool {
    let is_destination = |value: &FilterStateValueProto| matches!(&value.key, Some(Key::ObjectKey(key)) if key == ORIGINAL_DST_LOCAL);
    CONFIG.has_type_url(&config.type_url)
        && decode_any::<Config>(config)
            .is_ok_and(|config| config.on_new_connection.iter().all(is_destination))
}

impl NetworkFilter for SetFilterState {
    fn on_connection(&self, stream: &Arc<StreamInfo>) -> Decision {
        let mut state = stream.state();
        for value in &self.0 {
            let object = value.evaluate(&FormatContext::recorded(stream, &state, Instant::now()));
            if let Some(object) = object {
                value.set(object, &mut state.filter_state);
            }
        }
        Verdict::Continue.into()
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    const TYPE_URL: &str =
        "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config";

    fn sets(key: &str, type_url: &str) -> Any {
        let value = FilterStateValueProto {
            key: Some(Key::ObjectKey(key.to_owned())),
            ..FilterStateValueProto::default()
        };
        let config = Config {
            on_new_connection: vec![value],
            ..Config::default()
        };
        Any {
            type_url: type_url.to_owned(),
            value: config.encode_to_vec(),
        }
    }

    #[test]
    fn what_does_more_than_share_the_destination_is_told_apart() {
        assert!(only_shares_destination(&sets(ORIGINAL_DST_LOCAL, TYPE_URL)));
        assert!(!only_shares_destination(&sets("io.istio.source", TYPE_URL)));
        let another = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC";
        assert!(!only_shares_destination(&sets(ORIGINAL_DST_LOCAL, another)));
    }
}
