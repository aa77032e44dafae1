//! Health checks as a control plane says them, and a service that answers those of gRPC.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use bytes::Bytes;
use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use envoy_types::pb::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload,
};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body_util::{BodyExt, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::net::TcpListener;

#[must_use]
pub fn millis(millis: u32) -> Option<Duration> {
    Some(Duration {
        seconds: i64::from(millis / 1000),
        nanos: (millis % 1000 * 1_000_000) as i32,
    })
}

/// Every so many milliseconds, also of clusters that nobody uses; two in a row change a standing.
#[must_use]
pub fn every(interval: u32, asks: HealthChecker) -> HealthCheck {
    let number = |value| Some(UInt32Value { value });
    HealthCheck {
        timeout: millis(5_000),
        interval: millis(interval),
        no_traffic_interval: millis(interval),
        healthy_threshold: number(2),
        unhealthy_threshold: number(2),
        health_checker: Some(asks),
        ..HealthCheck::default()
    }
}

#[must_use]
pub fn http(path: &str) -> HealthChecker {
    HealthChecker::HttpHealthCheck(HttpHealthCheck {
        path: path.to_owned(),
        ..HttpHealthCheck::default()
    })
}

/// Says the first, and waits for the second; empty: a connection is enough.
#[must_use]
pub fn tcp(send: &[u8], receive: &[u8]) -> HealthChecker {
    let payload = |payload| Payload {
        payload: Some(payload),
    };
    // Envoy doesn't send what is said as bytes.
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let sent = (!send.is_empty()).then(|| payload(payload::Payload::Text(hex(send))));
    let wanted = payload::Payload::Binary(receive.to_vec());
    let wanted = (!receive.is_empty()).then(|| payload(wanted));
    HealthChecker::TcpHealthCheck(TcpHealthCheck {
        send: sent,
        receive: wanted.into_iter().collect(),
        ..TcpHealthCheck::default()
    })
}

#[must_use]
pub fn grpc(service: &str) -> HealthChecker {
    HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
        service_name: service.to_owned(),
        ..GrpcHealthCheck::default()
    })
}

/// Answers `grpc.health.v1.Health/Check`, whatever the service.
#[derive(Clone)]
pub struct GrpcHealth {
    status: Arc<AtomicU8>,
    asked: Arc<Mutex<Vec<(String, Bytes)>>>,
}

impl GrpcHealth {
    /// Serving, at `address`.
    pub async fn start(address: SocketAddr) -> GrpcHealth {
        let health = GrpcHealth {
            status: Arc::new(AtomicU8::new(1)),
            asked: Arc::default(),
        };
        let listener = TcpListener::bind(address).await.unwrap();
        let serving = health.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                let health = serving.clone();
                let service = service_fn(move |request| health.clone().answer(request));
                let builder = http2::Builder::new(TokioExecutor::new());
                tokio::spawn(builder.serve_connection(TokioIo::new(tcp), service));
            }
        });
        health
    }

    /// Its status from now on, by number.
    pub fn becomes(&self, status: u8) {
        self.status.store(status, Ordering::Relaxed);
    }

    /// The targets and bodies that it was asked with.
    #[must_use]
    pub fn asked(&self) -> Vec<(String, Bytes)> {
        self.asked.lock().clone()
    }

    async fn answer(
        self,
        request: Request<Incoming>,
    ) -> Result<Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>, Infallible> {
        let target = request.uri().to_string();
        let body = request.into_body().collect().await;
        let body = body.map(http_body_util::Collected::to_bytes);
        self.asked.lock().push((target, body.unwrap_or_default()));
        let status = self.status.load(Ordering::Relaxed);
        let message = Bytes::from(vec![0, 0, 0, 0, 2, 8, status]);
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        let frames = [Ok(Frame::data(message)), Ok(Frame::trailers(trailers))];
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let response = Response::builder().header("content-type", "application/grpc");
        Ok(response.body(BodyExt::boxed(body)).unwrap())
    }
}
