//! `envoy.filters.http.grpc_stats`: counts the messages of gRPC requests, and keeps their status.
//!
//! Pays nothing for requests that aren't gRPC.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use http::HeaderMap;
use http_body::{Frame, SizeHint};

use crate::http::HttpFilter;
use crate::http::filter::{Config, Registration};
use crate::service::body::{Body, BodyError};
use crate::service::local_reply::is_grpc;
use crate::service::{HttpCall, HttpRequest, HttpService, ResponseFuture};
use crate::stream::direction::Direction;
use crate::stream::stream_info::{GrpcInfo, StreamInfo};
use crate::xds::coverage::harmless;
use crate::xds::coverage::{OWN_COUNTERS, Table};

pub(super) const FILTER: Registration = Registration {
    config: Config::Message {
        table: &CONFIG,
        build: |_, _| Ok(build()),
    },
    per_route: None,
};

static CONFIG: Table = Table {
    name: "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    fields: &[
        harmless(
            1,
            "emit_filter_state",
            "what it counts is in the record of the stream",
        ),
        harmless(2, "individual_method_stats_allowlist", OWN_COUNTERS),
        harmless(3, "stats_for_all_methods", OWN_COUNTERS),
        harmless(4, "enable_upstream_stats", OWN_COUNTERS),
        harmless(5, "replace_dots_in_grpc_service_name", OWN_COUNTERS),
    ],
    refused: "",
    required: &[],
};

fn build() -> HttpFilter {
    HttpFilter::layer(tower::layer::layer_fn(|inner| {
        HttpService::new(GrpcStats(inner))
    }))
}

struct GrpcStats(HttpService);

impl HttpCall for GrpcStats {
    fn call(&self, mut request: HttpRequest) -> ResponseFuture {
        if !is_grpc(request.http.headers()) {
            return self.0.call(request);
        }
        let stream = request.stream.clone();
        let mut path = request.http.uri().path().rsplitn(2, '/');
        let method = path.next().unwrap_or_default();
        let service = path.next().unwrap_or_default().trim_start_matches('/');
        stream.state().grpc = Some(Box::new(GrpcInfo {
            service: service.into(),
            method: method.into(),
            ..GrpcInfo::default()
        }));
        let body = std::mem::take(request.http.body_mut());
        *request.http.body_mut() = counted(body, &stream, Direction::Request);
        let response = self.0.call(request);
        ResponseFuture::boxed(async move {
            let Ok(response) = response.await;
            note_status(&stream, response.headers());
            response.map(|body| counted(body, &stream, Direction::Response))
        })
    }
}

fn note_status(stream: &StreamInfo, headers: &HeaderMap) {
    let status = headers
        .get("grpc-status")
        .and_then(|v| v.to_str().ok()?.parse().ok());
    if let (Some(status), Some(grpc)) = (status, stream.state().grpc.as_mut()) {
        grpc.status = Some(status);
    }
}

fn counted(body: Body, stream: &Arc<StreamInfo>, direction: Direction) -> Body {
    if body.is_empty() {
        return body;
    }
    Body::boxed(CountedBody {
        body,
        stream: stream.clone(),
        direction,
        messages: Messages::default(),
    })
}

struct CountedBody {
    body: Body,
    stream: Arc<StreamInfo>,
    direction: Direction,
    messages: Messages,
}

impl http_body::Body for CountedBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            if let Some(data) = frame.data_ref() {
                let begun = this.messages.feed(data.clone());
                if let Some(grpc) = this.stream.state().grpc.as_mut() {
                    match this.direction {
                        Direction::Request => grpc.request_messages += begun,
                        Direction::Response => grpc.response_messages += begun,
                    }
                }
            } else if let (Direction::Response, Some(trailers)) =
                (this.direction, frame.trailers_ref())
            {
                note_status(&this.stream, trailers);
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Finds the five-byte prefixes of messages in a stream of chunks.
#[derive(Default)]
struct Messages {
    prefix: [u8; 5],
    have: usize,
    /// Bytes of the current message that are still to come.
    left: u64,
}

impl Messages {
    /// How many messages begin in `chunk`.
    fn feed(&mut self, mut chunk: Bytes) -> u64 {
        let mut begun = 0;
        while chunk.has_remaining() {
            if self.left > 0 {
                let skip = self.left.min(chunk.len() as u64);
                chunk.advance(skip as usize);
                self.left -= skip;
                continue;
            }
            self.prefix[self.have] = chunk.get_u8();
            self.have += 1;
            if self.have == self.prefix.len() {
                let [_, a, b, c, d] = self.prefix;
                self.left = u64::from(u32::from_be_bytes([a, b, c, d]));
                self.have = 0;
                begun += 1;
            }
        }
        begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_counted_however_they_are_cut() {
        let wire = [
            &[0, 0, 0, 0, 2, 9, 9][..],
            &[0, 0, 0, 0, 0],
            &[0, 0, 0, 0, 1, 7],
        ]
        .concat();
        for size in 1..wire.len() {
            let mut messages = Messages::default();
            let count: u64 = wire
                .chunks(size)
                .map(|c| messages.feed(Bytes::copy_from_slice(c)))
                .sum();
            assert_eq!(count, 3, "chunks of {size}");
        }
    }
}
