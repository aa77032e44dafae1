//! `GrpcHealthCheck`: an endpoint is asked by `grpc.health.v1.Health/Check`, whose two messages are here.

use bytes::{BufMut, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::health_check::GrpcHealthCheck;
use prost::Message;
use waypoint_filters::service::header_changes::{HEADER_VALUE_OPTION, HeaderChanges};
use waypoint_filters::xds::coverage::{Table, honoured};
use waypoint_filters::xds::rejected::Refusal;

/// What is asked.
#[derive(Debug)]
pub struct GrpcCheck {
    /// Where the endpoint says no other.
    pub authority: Option<Box<str>>,
    /// The request's body.
    pub request: Bytes,
    pub metadata: HeaderChanges,
}

pub(crate) static GRPC_HEALTH_CHECK: Table = Table {
    name: "envoy.config.core.v3.HealthCheck.GrpcHealthCheck",
    fields: &[
        honoured(1, "service_name"),
        honoured(2, "authority"),
        honoured(3, "initial_metadata")
            .list()
            .of(&HEADER_VALUE_OPTION),
    ],
    refused: "",
    required: &[],
};

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckRequest {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct HealthCheckResponse {
    #[prost(int32, tag = "1")]
    status: i32,
}

const SERVING: i32 = 1;
/// Before a message: whether it is compressed, and how long it is.
const PREFIX: usize = 5;

impl GrpcCheck {
    pub(crate) fn from_proto(proto: &GrpcHealthCheck) -> Result<GrpcCheck, Refusal> {
        let message = HealthCheckRequest {
            service: proto.service_name.clone(),
        };
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len());
        let mut request = BytesMut::with_capacity(PREFIX + message.len());
        request.put_u8(0);
        request.put_u32(length.map_err(|_| Refusal::new("service_name", "is too long"))?);
        request.put_slice(&message);
        Ok(GrpcCheck {
            authority: Some(proto.authority.as_str())
                .filter(|authority| !authority.is_empty())
                .map(Into::into),
            request: request.freeze(),
            metadata: HeaderChanges::from_proto(&proto.initial_metadata, &[])
                .map_err(|e| e.within("initial_metadata"))?,
        })
    }
}

/// Whether an answer's body says that the service is serving.
pub fn is_serving(body: &[u8]) -> bool {
    let [0, a, b, c, d, message @ ..] = body else {
        return false;
    };
    let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
    let said = (message.len() == length).then(|| HealthCheckResponse::decode(message));
    said.and_then(Result::ok)
        .is_some_and(|response| response.status == SERVING)
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn a_request_names_the_service() {
        let check = GrpcCheck::from_proto(&GrpcHealthCheck {
            service_name: "web".to_owned(),
            ..GrpcHealthCheck::default()
        });
        assert_eq!(*check.unwrap().request, *b"\0\0\0\0\x05\x0a\x03web");
        let all = GrpcCheck::from_proto(&GrpcHealthCheck::default()).unwrap();
        assert_eq!(*all.request, [0; 5]);
    }

    #[test]
    fn only_serving_is_serving() {
        for (body, serving) in [
            (&b"\0\0\0\0\x02\x08\x01"[..], true),
            (b"\0\0\0\0\x02\x08\x02", false),
            (b"\0\0\0\0\0", false),
            (b"\x01\0\0\0\x02\x08\x01", false),
            (b"\0\0\0\0\x02\x08\x01\0", false),
            (b"", false),
        ] {
            assert_eq!(is_serving(body), serving, "{body:?}");
        }
    }
}
