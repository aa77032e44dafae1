//! The thread of the plain ports, and their accept loops.
//!
//! Apart from the data path, so that traffic doesn't hold up a probe, and apart from the control thread, so that a large
//! change of configuration doesn't either. Anybody in the mesh may connect to some of these ports: a connection
//! has a place only until others need it more, and few seconds for a request's head.

use std::convert::Infallible;
use std::net::IpAddr;
use std::pin::pin;
use std::thread;
use std::time::Duration;

use http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use waypoint_filters::metrics::Counter;

use crate::admin::{Admin, Port};
use crate::process::places::{Bounds, Place, Places};
use crate::process::vitals::{Beating, Vitals};

/// For a request's head, and between two requests.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// What the kernel may hold of a page for a peer that doesn't read: by itself it would take megabytes, of each.
const SEND_BUFFER: usize = 128 * 1024;
/// After a failure to accept.
const PAUSE: Duration = Duration::from_millis(20);

/// What the thread works with.
pub(crate) struct PlainPorts {
    pub(crate) admin: Admin,
    pub(crate) listeners: Vec<(std::net::TcpListener, Port)>,
    /// Connections at a time, on each port.
    pub(crate) bounds: Bounds,
    pub(crate) vitals: Vitals,
}

impl PlainPorts {
    /// Starts the thread, which serves until told to stop.
    pub(crate) fn start(
        self,
        stopped: oneshot::Receiver<()>,
    ) -> std::io::Result<thread::JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .thread_name("pages")
            .build()?;
        let thread = thread::Builder::new().name("ports".into());
        thread.spawn(move || {
            runtime.block_on(async {
                self.serve();
                let _ = stopped.await;
            });
            // What is being made for somebody ends by itself.
            runtime.shutdown_background();
        })
    }

    fn serve(self) {
        tokio::spawn(self.vitals.clone().beat(Beating::Ports));
        let let_go = self.admin.metrics.counters(
            "waypoint_plain_connections_let_go_total",
            "Connections to the plain ports that had to make room for others.",
            &["port"],
        );
        for (listener, port) in self.listeners {
            let (admin, vitals, bounds) = (self.admin.clone(), self.vitals.clone(), self.bounds);
            let let_go = let_go.with(&[port.label().into()]);
            tokio::spawn(async move {
                let serving = serve(admin, listener, port, bounds, let_go);
                vitals.guard("a plain port", serving).await;
            });
        }
    }
}

async fn serve(
    admin: Admin,
    listener: std::net::TcpListener,
    port: Port,
    bounds: Bounds,
    let_go: Counter,
) {
    let listener = match TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(?port, %error, "port can't be served"),
    };
    let places = Places::new(bounds);
    loop {
        let (tcp, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(?port, %error, "could not accept a connection");
                places.halve();
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Without it the page is sent all the same.
        let _ = socket2::SockRef::from(&tcp).set_send_buffer_size(SEND_BUFFER);
        let (place, told_to_go) = places.enter(from.ip());
        let (admin, let_go) = (admin.clone(), let_go.clone());
        tokio::spawn(async move {
            tokio::select! {
                biased;
                _ = told_to_go => let_go.add(1),
                () = connection(admin, tcp, from.ip(), port, &place) => {}
            }
        });
        // Each has its chance to be heard before as many others have come as send it away.
        tokio::task::yield_now().await;
        while places.is_behind() {
            tokio::task::yield_now().await;
        }
    }
}

async fn connection(admin: Admin, tcp: TcpStream, from: IpAddr, port: Port, place: &Place) {
    let local = from.to_canonical().is_loopback();
    let service = service_fn(async |request: Request<Incoming>| {
        place.refresh();
        Ok::<_, Infallible>(admin.answer(port, local, request).await)
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(tcp), service);
    let _ = pin!(serving).await;
}
