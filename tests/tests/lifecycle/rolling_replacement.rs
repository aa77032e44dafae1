//! One waypoint replaces another, as a rolling update does: nobody loses a request, and none is sent twice.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use http::StatusCode;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use parking_lot::Mutex;
use waypoint_hbone::certificates::dev_ca::MintedCertificate;
use waypoint_tests::hbone_stream::HboneStream;
use waypoint_tests::telemetry::http_get;
use waypoint_tests::wait::{until, within};
use waypoint_tests::ztunnel::{Http1, Http2, get};
use waypoint_tests::{Mesh, Ztunnel};

use super::drain::{open_for, start};

/// A client's ztunnel in a rolling replacement: its connections go to the old waypoint until it has heard, late, that the old
/// one isn't ready. It sends nothing twice that could have been carried out.
struct Rolling {
    target: Mutex<SocketAddr>,
    certificate: MintedCertificate,
    to: SocketAddr,
    stop: AtomicBool,
    answered: AtomicUsize,
    moved: AtomicUsize,
}

impl Rolling {
    async fn connect(&self) -> Ztunnel {
        let target = *self.target.lock();
        Ztunnel::connect(target, &self.certificate).await.unwrap()
    }

    fn goes_on(&self) -> bool {
        !self.stop.load(Ordering::Relaxed)
    }

    /// A tunnel, on another connection if this one was told goodbye.
    async fn tunnel(&self, ztunnel: &mut Option<Ztunnel>) -> HboneStream {
        loop {
            let current = match ztunnel.take() {
                Some(current) => current,
                None => self.connect().await,
            };
            match current.connect_to(&self.to.to_string(), &[]).await {
                Ok((status, stream)) => {
                    assert_eq!(status, StatusCode::OK);
                    *ztunnel = Some(current);
                    return stream;
                }
                Err(error) => {
                    assert!(error.is_go_away(), "{error}");
                    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR), "{error}");
                    self.moved.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Whether the client may go on with the connection.
    async fn answered(&self, response: http::Response<Incoming>) -> bool {
        assert_eq!(response.status(), StatusCode::OK);
        let close = response.headers().contains_key("connection");
        let body = within("the body", response.into_body().collect()).await;
        assert_eq!(body.unwrap().to_bytes(), "web\n");
        self.answered.fetch_add(1, Ordering::Relaxed);
        !close
    }

    async fn keep_alive(self: Arc<Rolling>) {
        let mut ztunnel = None;
        while self.goes_on() {
            let mut connection = Http1::over(self.tunnel(&mut ztunnel).await).await;
            while self.goes_on() {
                let response = connection.start(get("/")).await.unwrap();
                if !self.answered(response).await {
                    break;
                }
            }
        }
    }

    async fn http2(self: Arc<Rolling>) {
        let mut ztunnel = None;
        while self.goes_on() {
            let connection = Http2::over(self.tunnel(&mut ztunnel).await).await;
            while self.goes_on() {
                match connection.start(get("/")).await {
                    Ok(response) => {
                        self.answered(response).await;
                    }
                    Err(error) if never_carried_out(&error) => break,
                    Err(error) => panic!("{error:?}"),
                }
            }
        }
    }

    async fn tunnel_per_request(self: Arc<Rolling>) {
        let mut ztunnel = None;
        while self.goes_on() {
            let mut connection = Http1::over(self.tunnel(&mut ztunnel).await).await;
            let response = connection.start(get("/")).await.unwrap();
            self.answered(response).await;
        }
    }
}

/// The connection had said goodbye: what GOAWAY doesn't cover may be sent again elsewhere.
fn never_carried_out(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<h2::Error>());
    error.is_closed()
        || error.is_canceled()
        || cause.is_some_and(|e| e.is_go_away() && e.reason() == Some(h2::Reason::NO_ERROR))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_replacement_loses_no_request() {
    let mesh = Mesh::new();
    let (to, app) = mesh.http_service(1, "web").await;
    let old = start(&mesh, open_for(Duration::from_secs(5))).await;
    let new = start(&mesh, open_for(Duration::from_secs(5))).await;
    let rolling = Arc::new(Rolling {
        target: Mutex::new(old.address()),
        certificate: mesh.certificate("default", "curl"),
        to,
        stop: AtomicBool::new(false),
        answered: AtomicUsize::new(0),
        moved: AtomicUsize::new(0),
    });
    // The mesh learns of readiness late.
    let (readiness, next, told) = (old.running.readiness_addr, new.address(), rolling.clone());
    let watching = tokio::spawn(async move {
        while http_get(readiness, "/healthz/ready").await.0 == 200 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        tokio::time::sleep(Duration::from_millis(800)).await;
        *told.target.lock() = next;
    });
    let mut loads = tokio::task::JoinSet::new();
    for _ in 0..4 {
        loads.spawn(rolling.clone().keep_alive());
        loads.spawn(rolling.clone().http2());
        loads.spawn(rolling.clone().tunnel_per_request());
    }
    let answered = || rolling.answered.load(Ordering::Relaxed);
    until("some load", async || (answered() > 200).then_some(())).await;
    let before = answered();
    let clean = within("the shutdown", old.running.shutdown()).await;
    let during = answered() - before;
    assert!(clean, "nothing of the old one was cut off");
    assert!(watching.is_finished(), "the mesh has heard in time");
    tokio::time::sleep(Duration::from_millis(300)).await;
    rolling.stop.store(true, Ordering::Relaxed);
    while let Some(ended) = loads.join_next().await {
        ended.unwrap();
    }
    assert!(during > 100, "{during} requests while it drained");
    assert!(rolling.moved.load(Ordering::Relaxed) > 0);
    let labels = [("response_code", "200")];
    assert!(new.metric("istio_requests_total", &labels).await > 0.0);
    assert_eq!(app.seen().len(), answered(), "none was sent twice");
}
