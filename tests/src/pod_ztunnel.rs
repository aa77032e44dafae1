//! A scripted ztunnel before a pod: takes tunnels on port 15008 and hands them to the pod, or misbehaves.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use parking_lot::Mutex;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use waypoint_hbone::certificates::certificate::WorkloadCertificate;
use waypoint_hbone::certificates::dev_ca::MintedCertificate;

use crate::attack::frames::{DATA, END_HEADERS, HEADERS, PREFACE, SETTINGS, frame, window_update};
use crate::hbone_stream::HboneStream;

/// How it treats tunnels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Behaviour {
    #[default]
    Deliver,
    /// Answers the CONNECT with this status.
    Answer(StatusCode),
    /// Accepts, reads, and never says anything.
    Stall,
    /// Accepts, and resets the stream after the first bytes.
    Reset,
    /// Sends frames that do no work, as many as are taken, before it looks at a CONNECT.
    Flood,
    /// As [`Behaviour::Flood`], on the next connection alone.
    FloodOnce,
    /// Accepts a tunnel, and sends such frames when the first bytes have come through it.
    FloodLater,
}

/// A tunnel that it was asked for.
#[derive(Clone, Debug)]
pub struct Connect {
    pub authority: String,
    pub headers: HeaderMap,
    /// Who asked: the SPIFFE ID of the peer's certificate.
    pub peer: String,
}

/// The ztunnel before one pod.
#[derive(Clone)]
pub struct PodZtunnel {
    connects: Arc<Mutex<Vec<Connect>>>,
    behaviour: Arc<Mutex<Behaviour>>,
    connections: Arc<Mutex<usize>>,
    frames: Arc<AtomicUsize>,
}

impl PodZtunnel {
    /// Starts it on port 15008 of the pod's address.
    pub async fn start(address: IpAddr, certificate: &MintedCertificate) -> PodZtunnel {
        let ztunnel = PodZtunnel {
            connects: Arc::default(),
            behaviour: Arc::default(),
            connections: Arc::default(),
            frames: Arc::default(),
        };
        let tls = acceptor(certificate);
        let listener = TcpListener::bind((address, 15008)).await.unwrap();
        let owned = ztunnel.clone();
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tokio::spawn(owned.clone().serve(tcp, tls.clone()));
            }
        });
        ztunnel
    }

    /// The tunnels so far.
    #[must_use]
    pub fn connects(&self) -> Vec<Connect> {
        self.connects.lock().clone()
    }

    /// The HBONE connections so far.
    #[must_use]
    pub fn connections(&self) -> usize {
        *self.connections.lock()
    }

    /// DATA frames that came in tunnels so far.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.frames.load(Ordering::Relaxed)
    }

    pub fn behave(&self, behaviour: Behaviour) {
        *self.behaviour.lock() = behaviour;
    }

    async fn serve(self, tcp: TcpStream, tls: TlsAcceptor) {
        let Ok(tls) = tls.accept(tcp).await else {
            return;
        };
        let peer = tls.get_ref().1.peer_certificates().and_then(<[_]>::first);
        let peer = peer.map(|leaf| spiffe_id(leaf)).unwrap_or_default();
        let behaviour = *self.behaviour.lock();
        match behaviour {
            Behaviour::FloodOnce => self.behave(Behaviour::Deliver),
            Behaviour::Flood | Behaviour::FloodLater => {}
            _ => return self.serve_http2(peer, tls).await,
        }
        *self.connections.lock() += 1;
        // The other side has ended: there is nobody to tell.
        let _ = flood(tls, behaviour == Behaviour::FloodLater).await;
    }

    async fn serve_http2(self, peer: String, tls: TlsStream<TcpStream>) {
        let Ok(mut connection) = h2::server::handshake(tls).await else {
            return;
        };
        *self.connections.lock() += 1;
        while let Some(Ok((request, respond))) = connection.accept().await {
            tokio::spawn(self.clone().tunnel(peer.clone(), request, respond));
        }
    }

    async fn tunnel(
        self,
        peer: String,
        request: Request<h2::RecvStream>,
        mut respond: h2::server::SendResponse<Bytes>,
    ) {
        let authority = request
            .uri()
            .authority()
            .map(ToString::to_string)
            .unwrap_or_default();
        let headers = request.headers().clone();
        self.connects.lock().push(Connect {
            authority: authority.clone(),
            headers,
            peer,
        });
        let behaviour = *self.behaviour.lock();
        if let Behaviour::Answer(status) = behaviour {
            let mut response = Response::new(());
            *response.status_mut() = status;
            let _ = respond.send_response(response, true);
            return;
        }
        let upstream = match behaviour {
            Behaviour::Deliver => match TcpStream::connect(authority).await {
                Ok(tcp) => Some(tcp),
                Err(_) => {
                    let mut response = Response::new(());
                    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
                    let _ = respond.send_response(response, true);
                    return;
                }
            },
            _ => None,
        };
        let Ok(send) = respond.send_response(Response::new(()), false) else {
            return;
        };
        let mut stream = HboneStream::new(send, request.into_body());
        stream = stream.counting(self.frames.clone());
        if let Some(mut tcp) = upstream {
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut tcp).await;
        } else {
            let mut first = [0; 1];
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut first).await;
            if behaviour == Behaviour::Stall {
                std::future::pending::<()>().await;
            }
            stream.reset(Reason::INTERNAL_ERROR);
        }
    }
}

/// WINDOW_UPDATEs of a byte without end; `later`: in answer to the first DATA of a tunnel.
async fn flood(mut tls: TlsStream<TcpStream>, later: bool) -> io::Result<()> {
    tls.write_all(&frame(SETTINGS, 0, 0, &[])).await?;
    if later {
        tls.read_exact(&mut [0; PREFACE.len()]).await?;
        let mut head = [0; 9];
        while head[3] != DATA || head[..3] == [0; 3] {
            tls.read_exact(&mut head).await?;
            let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
            tls.read_exact(&mut vec![0; length as usize]).await?;
            if head[3] == HEADERS {
                let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
                // `:status: 200` of the static table.
                let answer = frame(HEADERS, END_HEADERS, stream, &[0x88]);
                tls.write_all(&answer).await?;
            }
        }
    }
    let updates = window_update(0).repeat(100);
    loop {
        tls.write_all(&updates).await?;
    }
}

fn acceptor(certificate: &MintedCertificate) -> TlsAcceptor {
    // The product's own parser is asked only whether the certificate is in order.
    let workload: WorkloadCertificate = certificate.workload().unwrap();
    assert!(workload.identity().as_str().starts_with("spiffe://"));
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    for root in CertificateDer::pem_slice_iter(certificate.root_pem().as_bytes()) {
        roots.add(root.unwrap()).unwrap();
    }
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .unwrap();
    let chain = CertificateDer::pem_slice_iter(certificate.chain_pem().as_bytes())
        .collect::<Result<_, _>>()
        .unwrap();
    let key = PrivateKeyDer::from_pem_slice(certificate.key_pem().as_bytes()).unwrap();
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

/// The URI in a certificate: an IA5String, its length before it.
fn spiffe_id(der: &[u8]) -> String {
    let at = der.windows(9).position(|window| window == b"spiffe://");
    at.map_or_else(String::new, |at| {
        let length = usize::from(der[at - 1]);
        String::from_utf8_lossy(&der[at..at + length]).into_owned()
    })
}

/// Where a pod's ztunnel listens.
#[must_use]
pub fn port_of(address: IpAddr) -> SocketAddr {
    SocketAddr::new(address, 15008)
}
