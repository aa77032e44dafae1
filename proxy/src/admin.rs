//! The ports for people and probes: readiness (15021), metrics (15020) and admin (15000, loopback).
//!
//! They run on the control thread, apart from the data path, and take few connections at a time.
//! `/stats` has the few lines by which Istio's own readiness probe and tests tell Envoy's state.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use parking_lot::Mutex;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore};
use waypoint_filters::metrics::MetricRegistry;
use waypoint_hbone::tls::Tls;

use crate::readiness::Readiness;

/// Connections at a time on one port.
const MAX_CONNECTIONS: usize = 128;
/// For a request's head, so that nobody holds a connection by silence.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// What the ports answer from.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) readiness: Readiness,
    pub(crate) metrics: Arc<MetricRegistry>,
    pub(crate) tls: Tls,
    /// What of the configuration isn't honoured.
    pub(crate) problems: Arc<Mutex<Vec<String>>>,
    pub(crate) started: Instant,
    /// Told by `/quitquitquit`.
    pub(crate) quit: Arc<Notify>,
}

/// Which port asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Port {
    Admin,
    Readiness,
    Stats,
}

impl Admin {
    /// Serves a port until the task is dropped.
    pub(crate) async fn serve(self, listener: TcpListener, port: Port) {
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(place) = places.clone().acquire_owned().await else {
                return;
            };
            let (tcp, from) = match listener.accept().await {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(?port, %error, "could not accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let admin = self.clone();
            tokio::spawn(async move {
                let _place = place;
                let service = service_fn(|request: Request<Incoming>| {
                    let local = from.ip().to_canonical().is_loopback();
                    let response = match (request.method(), request.uri().path()) {
                        (&Method::POST, "/quitquitquit") if port != Port::Readiness => {
                            admin.quit(local)
                        }
                        (method, path) => admin.answer(port, method, path),
                    };
                    std::future::ready(Ok::<_, Infallible>(response))
                });
                let _ = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .serve_connection(TokioIo::new(tcp), service)
                    .await;
            });
        }
    }

    fn answer(&self, port: Port, method: &Method, path: &str) -> Response<Full<Bytes>> {
        if *method != Method::GET && *method != Method::HEAD {
            return text(StatusCode::METHOD_NOT_ALLOWED, "only GET\n");
        }
        match (port, path) {
            (Port::Readiness | Port::Stats, "/healthz/ready") | (Port::Admin, "/ready") => {
                self.ready()
            }
            (Port::Admin, "/stats") => self.envoy_stats(),
            (Port::Stats | Port::Admin, "/stats/prometheus") => self.stats(),
            (Port::Admin, "/server_info") => self.server_info(),
            (Port::Admin, "/problems") => {
                let problems = self.problems.lock();
                let lines: String = problems.iter().flat_map(|p| [p.as_str(), "\n"]).collect();
                text(StatusCode::OK, lines)
            }
            (Port::Admin, "/" | "/help") => text(
                StatusCode::OK,
                "/ready              whether this waypoint may get traffic\n\
                 /server_info        version, state, certificate\n\
                 /stats/prometheus   metrics\n\
                 /stats              the lines by which Envoy's state is told\n\
                 /problems           what of the configuration is not honoured\n\
                 POST /quitquitquit  end, as SIGTERM\n",
            ),
            _ => text(StatusCode::NOT_FOUND, "not found\n"),
        }
    }

    /// Ends the process in good order; only for those who are in the pod.
    fn quit(&self, local: bool) -> Response<Full<Bytes>> {
        if !local {
            return text(StatusCode::FORBIDDEN, "only from loopback\n");
        }
        self.quit.notify_one();
        text(StatusCode::OK, "OK\n")
    }

    fn envoy_stats(&self) -> Response<Full<Bytes>> {
        let live = self.readiness.check().is_ok();
        let (updates, state) = if live { (1, 0) } else { (0, 2) };
        text(
            StatusCode::OK,
            format!(
                "cluster_manager.cds.update_success: {updates}\n\
                 listener_manager.lds.update_success: {updates}\n\
                 listener_manager.workers_started: {updates}\n\
                 server.state: {state}\n"
            ),
        )
    }

    fn ready(&self) -> Response<Full<Bytes>> {
        match self.readiness.check() {
            Ok(()) => text(StatusCode::OK, "LIVE\n"),
            Err(reason) => text(StatusCode::SERVICE_UNAVAILABLE, format!("{reason}\n")),
        }
    }

    fn stats(&self) -> Response<Full<Bytes>> {
        let mut response = text(StatusCode::OK, self.metrics.encode());
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8"),
        );
        response
    }

    fn server_info(&self) -> Response<Full<Bytes>> {
        let state = match self.readiness.check() {
            Ok(()) => "LIVE",
            Err(_) if self.readiness.is_draining() => "DRAINING",
            Err(_) => "INITIALIZING",
        };
        let certificate = self.tls.certificate().map(|certificate| {
            let until = certificate.not_after();
            json!({
                "identity": certificate.identity().as_str(),
                "valid_until": httpdate::fmt_http_date(until),
            })
        });
        let info = json!({
            "version": env!("CARGO_PKG_VERSION"),
            "state": state,
            "uptime_seconds": self.started.elapsed().as_secs(),
            "certificate": certificate,
        });
        let mut response = text(StatusCode::OK, format!("{info:#}\n"));
        response.headers_mut().insert(
            header::CONTENT_TYPE,
            HeaderValue::from_static("application/json"),
        );
        response
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
