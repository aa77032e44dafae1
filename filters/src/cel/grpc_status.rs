//! The gRPC status of any answer, as Envoy finds one: of the trailers, of the head, or what its HTTP status stands for.

use http::{HeaderName, HeaderValue};

use crate::stream::format_context::FormatContext;
use crate::stream::stream_info::Capture;

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// What has to be kept for it.
pub(crate) fn capture(capture: &mut Capture) {
    for list in [
        &mut capture.response_headers,
        &mut capture.response_trailers,
    ] {
        if !list.contains(&GRPC_STATUS) {
            list.push(GRPC_STATUS);
        }
    }
}

/// `None`: nothing was answered. -1: a status that isn't one.
pub(crate) fn grpc_status(context: &FormatContext<'_>) -> Option<i64> {
    let told = |value: &HeaderValue| {
        let number = value
            .to_str()
            .ok()
            .and_then(|text| text.parse::<u32>().ok());
        number.map_or(-1, i64::from)
    };
    let trailer = context.response_trailer(&GRPC_STATUS);
    let header = || context.response_header(&GRPC_STATUS);
    match trailer.or_else(header).filter(|value| !value.is_empty()) {
        Some(value) => Some(told(value)),
        None => context.state.response.code.map(of_http),
    }
}

fn of_http(code: u16) -> i64 {
    match code {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}
