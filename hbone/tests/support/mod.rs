//! A mesh in one process: a CA, a server that does with tunnels as it's told, and its clients.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::certificates::dev_ca::DevCa;
use waypoint_hbone::client::{self, ClientConnection, ClientOptions};
use waypoint_hbone::identity::Identity;
use waypoint_hbone::server::{self, AcceptError, ConnectionEnd, ServerOptions, TunnelRequest};
use waypoint_hbone::tls::{Tls, TrustDomains};
use waypoint_hbone::tunnel::stream::TunnelStream;

pub fn identity(name: &str) -> Identity {
    Identity::istio("cluster.local", "default", name).unwrap()
}

pub fn certificate(ca: &DevCa, identity: &Identity) -> WorkloadCertificate {
    ca.mint(identity, Duration::from_secs(3600))
        .unwrap()
        .workload()
        .unwrap()
}

pub fn tls(ca: &DevCa, name: &str) -> Tls {
    Tls::new(
        Some(certificate(ca, &identity(name))),
        TrustDomains::default(),
    )
}

/// A server that hands its tunnels to the story, and a client's connection to it.
pub async fn connected(
    options: ServerOptions,
) -> (
    Server,
    mpsc::UnboundedReceiver<TunnelStream>,
    ClientConnection,
) {
    let ca = DevCa::ephemeral().unwrap();
    let (server, streams) = Server::manual(tls(&ca, "server"), options).await;
    let options = ClientOptions::default();
    let connection = client::connect(&tls(&ca, "client"), server.address, &options)
        .await
        .unwrap();
    (server, streams, connection)
}

pub async fn open(connection: &ClientConnection) -> TunnelStream {
    connection
        .open("10.0.0.1:80", HeaderMap::new())
        .await
        .unwrap()
}

/// What became of the connections that a server took.
pub enum Event {
    Refused(AcceptError),
    Ended(ConnectionEnd),
}

pub struct Server {
    pub address: SocketAddr,
    pub connections: Arc<AtomicUsize>,
    pub events: mpsc::UnboundedReceiver<Event>,
    drain: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Server {
    /// Every request goes to `on_request`.
    pub async fn start<F>(tls: Tls, options: ServerOptions, on_request: F) -> Server
    where
        F: Fn(TunnelRequest) + Send + Sync + Clone + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (drain, drained) = watch::channel(false);
        let (sender, events) = mpsc::unbounded_channel();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let task = tokio::spawn(async move {
            loop {
                let (tcp, _) = listener.accept().await.unwrap();
                let (tls, options, on_request) = (tls.clone(), options.clone(), on_request.clone());
                let (sender, mut drained, count) = (sender.clone(), drained.clone(), count.clone());
                tokio::spawn(async move {
                    let event = match server::accept(tcp, &tls, &options).await {
                        Ok(connection) => {
                            count.fetch_add(1, Ordering::SeqCst);
                            let drain = async move {
                                drained.wait_for(|drain| *drain).await.unwrap();
                            };
                            Event::Ended(connection.serve(drain, on_request).await)
                        }
                        Err(error) => Event::Refused(error),
                    };
                    let _ = sender.send(event);
                });
            }
        });
        Server {
            address,
            connections,
            events,
            drain,
            task,
        }
    }

    /// Every CONNECT is answered 200, and what comes goes back; anything else gets 405.
    pub async fn echo(tls: Tls, options: ServerOptions) -> Server {
        Server::start(tls, options, |request| {
            tokio::spawn(async move {
                if !request.is_connect() {
                    return request.reject(StatusCode::METHOD_NOT_ALLOWED, HeaderMap::new());
                }
                if let Ok(stream) = request.accept(HeaderMap::new()) {
                    echo(stream).await;
                }
            });
        })
        .await
    }

    /// Every CONNECT is accepted, and the stream handed out.
    pub async fn manual(
        tls: Tls,
        options: ServerOptions,
    ) -> (Server, mpsc::UnboundedReceiver<TunnelStream>) {
        let (sender, streams) = mpsc::unbounded_channel();
        let server = Server::start(tls, options, move |request| {
            let _ = sender.send(request.accept(HeaderMap::new()).unwrap());
        })
        .await;
        (server, streams)
    }

    pub fn drain(&self) {
        self.drain.send(true).unwrap();
    }

    pub fn accepted(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    pub async fn refused(&mut self) -> AcceptError {
        match within(self.events.recv()).await.unwrap() {
            Event::Refused(error) => error,
            Event::Ended(end) => panic!("accepted, then {end:?}"),
        }
    }

    pub async fn ended(&mut self) -> ConnectionEnd {
        match within(self.events.recv()).await.unwrap() {
            Event::Ended(end) => end,
            Event::Refused(error) => panic!("{error}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A cable to a server that can be cut without either end being told. Connections made after a cut go through.
pub struct Cable {
    pub address: SocketAddr,
    cuts: Arc<watch::Sender<u64>>,
}

impl Cable {
    pub async fn to(server: SocketAddr) -> Cable {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let cuts = Arc::new(watch::Sender::new(0));
        let cable = Cable {
            address,
            cuts: cuts.clone(),
        };
        tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let mut cut = cuts.subscribe();
                tokio::spawn(async move {
                    let mut far = TcpStream::connect(server).await.unwrap();
                    tokio::select! {
                        _ = tokio::io::copy_bidirectional(&mut near, &mut far) => {}
                        _ = cut.changed() => std::future::pending().await,
                    }
                });
            }
        });
        cable
    }

    pub fn cut(&self) {
        self.cuts.send_modify(|cuts| *cuts += 1);
    }
}

pub async fn echo(mut stream: TunnelStream) {
    while let Some(Ok(bytes)) = stream.data().await {
        let n = bytes.len();
        if stream.send_all(bytes).await.is_err() {
            return;
        }
        stream.release(n);
    }
    let _ = stream.finish();
}

/// Nothing in these tests takes long; a hang shall fail and not hang.
pub async fn within<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future)
        .await
        .expect("in time")
}

pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    for _ in 0..500 {
        if condition() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("not in time: {what}");
}
