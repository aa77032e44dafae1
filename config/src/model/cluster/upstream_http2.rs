//! HTTP/2 with a cluster's endpoints: how many streams a connection carries, and how it is found out that nobody is there.
//!
//! PINGs go out at each interval, whether there are streams or not. Envoy adds up to 15 % to an interval; here nothing is added.

use std::num::NonZeroU32;
use std::time::Duration;

use envoy_types::pb::envoy::config::core::v3::Http2ProtocolOptions;
use waypoint_filters::xds::coverage::well_known::UINT32_VALUE;
use waypoint_filters::xds::coverage::{Table, harmless, honoured};
use waypoint_filters::xds::rejected::Refusal;

use crate::model::http2_keepalive::{KEEPALIVE, keepalive};

/// What a cluster says of its HTTP/2 connections.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UpstreamHttp2 {
    /// Streams of one connection at most; what is more waits, or goes on another.
    pub max_streams: Option<NonZeroU32>,
    /// How often a PING is sent, and how long its answer may take.
    pub keepalive: Option<(Duration, Duration)>,
}

pub(crate) static HTTP2_OPTIONS: Table = Table {
    name: "envoy.config.core.v3.Http2ProtocolOptions",
    fields: &[
        honoured(2, "max_concurrent_streams")
            .of(&UINT32_VALUE)
            .only("from 1 to 2147483647"),
        harmless(
            5,
            "allow_connect",
            "of the clusters behind which tunnels begin",
        ),
        honoured(15, "connection_keepalive").of(&KEEPALIVE),
    ],
    refused: "1 hpack_table_size, 3 initial_stream_window_size, \
              4 initial_connection_window_size, 6 allow_metadata, 7 max_outbound_frames, \
              8 max_outbound_control_frames, 9 max_consecutive_inbound_frames_with_empty_payload, \
              10 max_inbound_priority_frames_per_stream, \
              11 max_inbound_window_update_frames_per_data_frame_sent, \
              12 stream_error_on_invalid_http_messaging, 13 custom_settings_parameters, \
              14 override_stream_error_on_invalid_http_message, \
              16 use_oghttp2_codec, 17 max_metadata_size, 18 enable_huffman_encoding, \
              19 max_header_field_size_kb, 20 disallow_obs_text, 21 stream_reset_burst, \
              22 stream_reset_rate",
    required: &[],
};

impl UpstreamHttp2 {
    pub(crate) fn from_proto(proto: &Http2ProtocolOptions) -> Result<UpstreamHttp2, Refusal> {
        let max_streams = match &proto.max_concurrent_streams {
            None => None,
            Some(given) => {
                let valid = NonZeroU32::new(given.value).filter(|n| n.get() <= i32::MAX as u32);
                let refused =
                    || Refusal::new("max_concurrent_streams", "is not from 1 to 2147483647");
                Some(valid.ok_or_else(refused)?)
            }
        };
        Ok(UpstreamHttp2 {
            max_streams,
            keepalive: keepalive(proto)?,
        })
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use envoy_types::pb::envoy::config::core::v3::KeepaliveSettings;
    use envoy_types::pb::google::protobuf::{Duration as DurationProto, UInt32Value};

    use super::*;

    #[test]
    fn streams_and_pings() {
        let seconds = |seconds| Some(DurationProto { seconds, nanos: 0 });
        let proto = |streams: u32, interval| Http2ProtocolOptions {
            max_concurrent_streams: Some(UInt32Value { value: streams }),
            connection_keepalive: Some(KeepaliveSettings {
                interval,
                timeout: seconds(2),
                ..KeepaliveSettings::default()
            }),
            ..Http2ProtocolOptions::default()
        };
        let read = |proto: &Http2ProtocolOptions| UpstreamHttp2::from_proto(proto);
        let both = read(&proto(7, seconds(10))).unwrap();
        assert_eq!(both.max_streams.unwrap().get(), 7);
        let times = (Duration::from_secs(10), Duration::from_secs(2));
        assert_eq!(both.keepalive, Some(times));
        assert_eq!(read(&proto(7, None)).unwrap().keepalive, None);
        for wrong in [0, 1 << 31] {
            let refusal = read(&proto(wrong, None)).unwrap_err();
            assert_eq!(refusal.field.to_string(), "max_concurrent_streams");
        }
        let nothing = read(&Http2ProtocolOptions::default()).unwrap();
        assert_eq!(nothing, UpstreamHttp2::default());
    }
}
