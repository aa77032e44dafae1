//! `envoy.filters.network.set_filter_state`: objects in filter state from each new connection.
//!
//! On a waypoint's workload chains it re-shares the connection's own destination with the upstream; the
//! router takes it from the connection here, so evaluating it once is all there is to do.

use std::time::Instant;

use envoy_types::pb::envoy::extensions::filters::network::set_filter_state::v3::Config;

use crate::filter_state_value::FilterStateValue;
use crate::format::FormatContext;
use crate::network::{BuiltNetworkFilter, NetworkFilter, Verdict};
use crate::rejected::Refusal;
use crate::stream_info::StreamInfo;

pub(super) const TYPE_URL: &str =
    "type.googleapis.com/envoy.extensions.filters.network.set_filter_state.v3.Config";

struct SetFilterState(Box<[FilterStateValue]>);

pub(super) fn build(proto: &Config) -> Result<BuiltNetworkFilter, Refusal> {
    if !proto.on_downstream_tls_handshake.is_empty() {
        return Err(Refusal::unsupported("on_downstream_tls_handshake"));
    }
    if !proto.on_downstream_data.is_empty() {
        return Err(Refusal::unsupported("on_downstream_data"));
    }
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
        recorder: None,
    })
}

impl NetworkFilter for SetFilterState {
    fn on_connection(&self, stream: &StreamInfo) -> Verdict {
        let mut state = stream.state();
        for value in &self.0 {
            let object = value.evaluate(&FormatContext {
                stream,
                state: &state,
                request: None,
                response: None,
                end: Instant::now(),
            });
            if let Some(object) = object {
                value.set(object, &mut state.filter_state);
            }
        }
        Verdict::Continue
    }
}
