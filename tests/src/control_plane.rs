//! A scripted istiod and CA: delta ADS and the certificate service over TLS, behind a token check.
//!
//! Left alone it does what a good istiod does; a story can make either service do what no istiod does
//! ([`Discovery`], [`ScriptedCa`]). gRPC is spoken by hand, so that it can be spoken wrongly.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use envoy_types::pb::envoy::config::core::v3::Node;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Request, Response};
use parking_lot::Mutex;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::AbortHandle;
use tokio_rustls::TlsAcceptor;
use waypoint_config::sources::xds::channel::{ControlPlane as Address, KeepAlive};
use waypoint_hbone::identity::Identity;
use waypoint_proxy::run::{CertificateSource, ConfigSource};

use crate::discovery::Discovery;
use crate::mesh::Mesh;
use crate::scripted_ca::{ScriptedCa, Signer};

/// What its certificate is for.
pub const SERVER_NAME: &str = "istiod.istio-system.svc";
/// gRPC's UNAUTHENTICATED.
const UNAUTHENTICATED: u32 = 16;

/// The control plane. Clones share it.
#[derive(Clone)]
pub struct ControlPlane {
    pub discovery: Discovery,
    pub ca: ScriptedCa,
    /// The waypoint's identity, for whom the token speaks.
    pub identity: Identity,
    address: String,
    files: Files,
    door: Arc<Mutex<Door>>,
}

/// What the waypoint's pod has mounted.
#[derive(Clone)]
struct Files {
    token: PathBuf,
    root: PathBuf,
}

/// Who is let in.
struct Door {
    tls: TlsAcceptor,
    token: String,
    away: bool,
    connections: usize,
    tokens: Vec<String>,
    open: Vec<AbortHandle>,
}

impl ControlPlane {
    /// Starts it with the mesh's CA and no resources; [`Discovery::set`] gives it some.
    pub async fn start(mesh: &Mesh) -> ControlPlane {
        let signer = Signer::open(&mesh.folder().join("ca"));
        let files = Files {
            token: mesh.folder().join("istio-token"),
            root: mesh.folder().join("istiod-root.pem"),
        };
        std::fs::write(&files.token, "token-1\n").unwrap();
        std::fs::write(&files.root, signer.root_pem()).unwrap();
        let listener = TcpListener::bind((mesh.pod_ip(250), 0)).await.unwrap();
        let identity = Identity::istio("cluster.local", "default", "waypoint").unwrap();
        let plane = ControlPlane {
            discovery: Discovery::default(),
            address: listener.local_addr().unwrap().to_string(),
            files,
            door: Arc::new(Mutex::new(Door {
                tls: signer.server(SERVER_NAME),
                token: "token-1".into(),
                away: false,
                connections: 0,
                tokens: Vec::new(),
                open: Vec::new(),
            })),
            ca: ScriptedCa::new(signer, identity.clone()),
            identity,
        };
        tokio::spawn(plane.clone().accept(listener));
        plane
    }

    /// A good istiod with the mesh's manifests.
    pub async fn of(mesh: &Mesh) -> ControlPlane {
        let plane = ControlPlane::start(mesh).await;
        plane.discovery.set(mesh.resources());
        plane
    }

    /// How the waypoint finds it.
    #[must_use]
    pub fn address(&self) -> Address {
        Address {
            address: self.address.clone(),
            server_name: Some(SERVER_NAME.into()),
            root: Some(self.files.root.clone()),
            token: self.files.token.clone(),
            cluster_id: "Kubernetes".into(),
            headers: Vec::new(),
            keepalive: KeepAlive::default(),
        }
    }

    /// This istiod as the waypoint's source of configuration.
    #[must_use]
    pub fn source(&self) -> ConfigSource {
        ConfigSource::Istiod {
            plane: self.address(),
            node: Box::new(Node {
                id: "waypoint~10.1.250.1~waypoint-0.default~default.svc.cluster.local".into(),
                cluster: "waypoint.default".into(),
                ..Node::default()
            }),
        }
    }

    /// This istiod as the waypoint's CA.
    #[must_use]
    pub fn certificates(&self) -> CertificateSource {
        CertificateSource::Ca {
            plane: self.address(),
            identity: self.identity.clone(),
            ttl: std::time::Duration::from_secs(24 * 3600),
        }
    }

    /// The token that is let in from now on.
    pub fn expect_token(&self, token: &str) {
        self.door.lock().token = token.into();
    }

    /// Writes the waypoint's token, as kubelet does.
    pub fn write_token(&self, token: &str) {
        std::fs::write(&self.files.token, token).unwrap();
    }

    /// Writes the root that the waypoint checks the control plane by.
    pub fn write_root(&self, pem: &str) {
        std::fs::write(&self.files.root, pem).unwrap();
    }

    /// Shows another certificate from now on.
    pub fn show(&self, signer: &Signer, name: &str) {
        self.door.lock().tls = signer.server(name);
    }

    /// Lets nobody in any more, and ends what is open; or comes back.
    pub fn away(&self, away: bool) {
        self.door.lock().away = away;
        if away {
            self.cut();
        }
    }

    /// Ends all connections without a word.
    pub fn cut(&self) {
        for connection in self.door.lock().open.drain(..) {
            connection.abort();
        }
    }

    /// TLS connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        self.door.lock().connections
    }

    /// The tokens that were shown so far, call by call.
    #[must_use]
    pub fn tokens(&self) -> Vec<String> {
        self.door.lock().tokens.clone()
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((tcp, _)) = listener.accept().await {
            if !self.door.lock().away {
                let task = tokio::spawn(self.clone().connection(tcp));
                self.door.lock().open.push(task.abort_handle());
            }
        }
    }

    async fn connection(self, tcp: TcpStream) {
        let tls = self.door.lock().tls.clone();
        let Ok(tls) = tls.accept(tcp).await else {
            return;
        };
        self.door.lock().connections += 1;
        let mut builder = h2::server::Builder::new();
        builder.initial_window_size(4 << 20);
        let Ok(mut connection) = builder.handshake(tls).await else {
            return;
        };
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().serve(request, Call::new(respond)));
        }
    }

    async fn serve(self, request: Request<RecvStream>, call: Call) {
        let token = request.headers().get("authorization");
        let token = token.map_or("", |value| value.to_str().unwrap_or(""));
        let token = token.strip_prefix("Bearer ").unwrap_or("").to_owned();
        let good = {
            let mut door = self.door.lock();
            door.tokens.push(token.clone());
            door.token == token
        };
        if !good {
            call.end(UNAUTHENTICATED, "no such token");
            return;
        }
        let (head, body) = request.into_parts();
        match head.uri.path().rsplit('/').next() {
            Some("DeltaAggregatedResources") => {
                self.discovery.serve(Messages::new(body), call).await;
            }
            Some("CreateCertificate") => self.ca.serve(Messages::new(body), call).await,
            _ => call.end(12, "no such method"),
        }
    }
}

/// The answering half of a gRPC call. As with istiod, its head leaves with the first message.
#[derive(Clone)]
pub(crate) struct Call(Arc<Mutex<Answer>>);

enum Answer {
    Waiting(SendResponse<Bytes>),
    Open(SendStream<Bytes>),
    Ended,
}

impl Call {
    fn new(respond: SendResponse<Bytes>) -> Call {
        Call(Arc::new(Mutex::new(Answer::Waiting(respond))))
    }

    /// Sends a message; what is no message is sent all the same.
    pub(crate) fn message(&self, message: &[u8]) {
        let mut frame = BytesMut::with_capacity(message.len() + 5);
        frame.extend_from_slice(&[0]);
        frame.extend_from_slice(&u32::try_from(message.len()).unwrap().to_be_bytes());
        frame.extend_from_slice(message);
        self.bytes(frame.freeze());
    }

    /// Sends bytes that need not be gRPC.
    pub(crate) fn bytes(&self, bytes: Bytes) {
        let mut answer = self.0.lock();
        if let Answer::Waiting(respond) = &mut *answer {
            let head = Response::builder().header("content-type", "application/grpc");
            *answer = match respond.send_response(head.body(()).unwrap(), false) {
                Ok(send) => Answer::Open(send),
                Err(_) => Answer::Ended,
            };
        }
        if let Answer::Open(send) = &mut *answer {
            let _ = send.send_data(bytes, false);
        }
    }

    /// Ends the call with a status; 0 is well.
    pub(crate) fn end(&self, status: u32, message: &str) {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", status.into());
        trailers.insert("grpc-message", message.parse().unwrap());
        match std::mem::replace(&mut *self.0.lock(), Answer::Ended) {
            Answer::Waiting(mut respond) => {
                let mut head = Response::builder().header("content-type", "application/grpc");
                head.headers_mut().unwrap().extend(trailers);
                let _ = respond.send_response(head.body(()).unwrap(), true);
            }
            Answer::Open(mut send) => {
                let _ = send.send_trailers(trailers);
            }
            Answer::Ended => {}
        }
    }

    /// RST_STREAM.
    pub(crate) fn reset(&self) {
        match std::mem::replace(&mut *self.0.lock(), Answer::Ended) {
            Answer::Waiting(mut respond) => respond.send_reset(Reason::INTERNAL_ERROR),
            Answer::Open(mut send) => send.send_reset(Reason::INTERNAL_ERROR),
            Answer::Ended => {}
        }
    }
}

/// The messages that a client sends in a call.
pub(crate) struct Messages {
    body: RecvStream,
    bytes: BytesMut,
}

impl Messages {
    fn new(body: RecvStream) -> Messages {
        Messages {
            body,
            bytes: BytesMut::new(),
        }
    }

    /// The next one; `None`: the client has ended the call, or is gone.
    pub(crate) async fn next(&mut self) -> Option<Bytes> {
        loop {
            if self.bytes.len() >= 5 {
                let length = u32::from_be_bytes(self.bytes[1..5].try_into().unwrap()) as usize;
                if self.bytes.len() >= 5 + length {
                    self.bytes.advance(5);
                    return Some(self.bytes.split_to(length).freeze());
                }
            }
            let data = self.body.data().await?.ok()?;
            let _ = self.body.flow_control().release_capacity(data.len());
            self.bytes.extend_from_slice(&data);
        }
    }
}
